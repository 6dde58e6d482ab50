--- Candidates that pass the filter first; when all of those were tried or are benched, the others.
---
---     policy.select = filters.prefer(select.weighted(), filters.tag("region", "eu"))
---@param strategy bullpen.Strategy
---@param filter bullpen.Filter
---@return bullpen.Strategy
return function(strategy, filter)
  if type(strategy) ~= "function" then error("filters.prefer: a strategy is expected, not a " .. type(strategy), 2) end
  if type(filter) ~= "function" then error("filters.prefer: a filter is expected, not a " .. type(filter), 2) end
  return function(request, pool, attempts)
    local passed = {}
    for i = 1, #pool do
      local c = pool[i]
      if c.tried == 0 and not c.benched and filter(c, request) then passed[#passed + 1] = c end
    end
    return strategy(request, passed[1] and passed or pool, attempts)
  end
end
