local choose = require "bullpen.select.choose"

--- The faster of two that are drawn at random, by the moving average of their time to the first event. One that was never
--- measured counts as fast, so that it is. Two choices and not all: the fastest would otherwise get everything at once.
---
---     policy.select = select.fastest()
---@return bullpen.Strategy
return function()
  return choose(function(_, ready)
    local n = #ready
    if n == 1 then return ready[1] end
    local i = math.floor(bullpen.random() * n) + 1
    local j = math.floor(bullpen.random() * (n - 1)) + 1
    if j >= i then j = j + 1 end
    return ready[j].latency < ready[i].latency and ready[j] or ready[i]
  end)
end
