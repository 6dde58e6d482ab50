local lowest = require "bullpen.select.lowest"

--- Never used first, then the one whose last use is the longest ago; the first listed of equal ones.
---
---     policy.select = select.by_priority(select.least_recently_used())
---@return bullpen.Strategy
return function()
  return lowest("last_used")
end
