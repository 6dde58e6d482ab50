--- Counts events: one metric, with the labels that are named (fields of the event).
---
---     policy.observe = observe.metric("policy_events", { "type", "candidate" })
---@param name string? "policy_events"
---@param labels string[]? { "type", "candidate", "outcome" }
---@return bullpen.Sink
return function(name, labels)
  name, labels = name or "policy_events", labels or { "type", "candidate", "outcome" }
  if type(name) ~= "string" then error("observe.metric: a name is expected, not a " .. type(name), 2) end
  if type(labels) ~= "table" then error("observe.metric: a list of labels is expected, not a " .. type(labels), 2) end
  return function(event)
    local set = {}
    for i = 1, #labels do
      local value = event[labels[i]]
      if value ~= nil then set[labels[i]] = tostring(value) end
    end
    if bullpen.metric then bullpen.metric(name, 1, set) end
  end
end
