local check = require "bullpen.options"

--- How long to bench: `base` the first time, `factor` times as long each further time, up to `cap`. Forgotten after `forget`
--- seconds without. A failure of an attempt that began before the last bench belongs to it and does not count.
---
---     policy.classify = classify.rules { { on = { "5xx" }, bench = breaker.growing { base = 30, cap = 600 } } }
---@param options { base: number?, factor: number?, cap: number?, forget: number? }?
---@return fun(request: bullpen.Request, attempt: bullpen.Attempt): number seconds
return function(options)
  local o = check("breaker.growing", options, { base = 30, factor = 2, cap = 600, forget = 3600 })
  if o.forget == 0 then error("breaker.growing: forget: more than 0 seconds are expected", 2) end
  return function(_, attempt)
    local key = "breaker/growing/" .. attempt.candidate.name
    local count, since = 0, -math.huge
    local kept = bullpen.shared.get(key)
    if type(kept) == "string" then
      local c, s = kept:match("^(%d+) (%S+)$")
      count, since = tonumber(c) or 0, tonumber(s) or since
    end
    if count == 0 or attempt.started >= since then
      count = count + 1
      bullpen.shared.set(key, ("%d %.17g"):format(count, bullpen.now()), o.forget)
    end
    return math.min(o.base * o.factor ^ math.min(count - 1, 60), o.cap)
  end
end
