local choose = require "bullpen.select.choose"

-- By a field, for the strategies that go by one.
local function by_field(field)
  return function(_, ready)
    local best, least = ready[1], ready[1][field]
    for i = 2, #ready do
      local m = ready[i][field]
      if m < least then best, least = ready[i], m end
    end
    return best
  end
end

--- The candidate for which `measure` gives the lowest number, or that has the lowest number in the field of that name; the
--- first listed of equal ones.
---
---     policy.select = select.lowest(function(candidate) return candidate.price.input or math.huge end)   -- cheapest
---     policy.select = select.lowest("error_rate")
---@param measure string|fun(candidate: bullpen.Candidate, request: bullpen.Request): number
---@return bullpen.Strategy
return function(measure)
  if type(measure) == "string" then return choose(by_field(measure)) end
  if type(measure) ~= "function" then error("select.lowest: a function or a field is expected, not a " .. type(measure), 2) end
  return choose(function(request, ready)
    local best, least = ready[1], nil
    for i = 1, #ready do
      local m = measure(ready[i], request)
      if not least or m < least then best, least = ready[i], m end
    end
    return best
  end)
end
