local lowest = require "bullpen.select.lowest"

--- The one with the fewest attempts under way, of all workers and requests; the first listed of equal ones.
---
---     policy.select = select.least_inflight()
---@return bullpen.Strategy
return function()
  return lowest("inflight")
end
