local FIELDS = { "request_id", "client", "model", "candidate", "next", "outcome", "status", "attempt", "verdict", "reason",
                 "delay", "benched_for", "error", "elapsed", "first_event", "label" }
local LEVELS = { debug = true, info = true, warn = true, error = true }

--- One log line an event, with its fields.
---
---     policy.observe = observe.only({ type = "failed_over" }, observe.log("warn"))
---@param level "debug"|"info"|"warn"|"error"|nil "info"
---@return bullpen.Sink
return function(level)
  level = level or "info"
  if not LEVELS[level] then error("observe.log: a level is expected: debug, info, warn, error", 2) end
  return function(event)
    local fields = {}
    for i = 1, #FIELDS do
      local value = event[FIELDS[i]]
      if value == math.huge then value = "until lifted" end
      fields[FIELDS[i]] = value
    end
    bullpen.log(level, event.type, fields)
  end
end
