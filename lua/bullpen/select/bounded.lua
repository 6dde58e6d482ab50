--- At most `most` different candidates for one request; then it gives up. Those before the bound are really tried: an
--- attempt counts, not a look.
---
---     policy.select = select.bounded(select.weighted(), 3)
---@param strategy bullpen.Strategy
---@param most integer
---@return bullpen.Strategy
return function(strategy, most)
  if type(strategy) ~= "function" then error("select.bounded: a strategy is expected, not a " .. type(strategy), 2) end
  if not (type(most) == "number" and most >= 1) then error("select.bounded: a number of 1 or more is expected", 2) end
  return function(request, pool, attempts)
    local candidates = 0
    for i = 1, #attempts do
      if attempts[i].try == 1 then candidates = candidates + 1 end
    end
    if candidates >= most then return false end
    return strategy(request, pool, attempts)
  end
end
