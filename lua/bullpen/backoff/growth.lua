local check = require "bullpen.options"

local MOST_DOUBLINGS = 60

--- base, 2 base, 4 base ... up to cap: what the strategies have in common. Raises at their caller.
---
---     local grown, o = growth("backoff.full_jitter", options, { jitter = 0 })
---     grown(attempt)   -- seconds
---@param what string
---@param options table?
---@param more table? further options, with their defaults
---@return fun(attempt: bullpen.Attempt): number
---@return table options
return function(what, options, more)
  local defaults = { base = 0.2, cap = 10, by = "try" }
  for name, default in pairs(more or {}) do defaults[name] = default end
  local o = check(what, options, defaults, 4)
  if o.by ~= "try" and o.by ~= "number" then error(what .. ": by is 'try' or 'number'", 3) end
  return function(attempt)
    return math.min(o.base * 2.0 ^ math.min(attempt[o.by] - 1, MOST_DOUBLINGS), o.cap)
  end, o
end
