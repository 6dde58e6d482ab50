-- The answer of the strategy with what the filters left out beside it, for `explain`.
local function with_reasons(skip, picked, more)
  if not skip or not picked then return picked, more end
  if type(picked) ~= "table" or picked.use == nil then return { use = picked, skip = skip } end
  picked.skip = picked.skip or {}
  for name, why in pairs(skip) do picked.skip[name] = why end
  return picked
end

--- Candidates that pass every filter alone. When nobody passes it gives up: the request is answered as exhausted.
---
---     policy.select = filters.only(select.in_order(), filters.tag("tier", "batch"))
---@param strategy bullpen.Strategy
---@param ... bullpen.Filter
---@return bullpen.Strategy
return function(strategy, ...)
  local filters = { ... }
  if type(strategy) ~= "function" then error("filters.only: a strategy is expected, not a " .. type(strategy), 2) end
  for i = 1, #filters do
    if type(filters[i]) ~= "function" then error("filters.only: a filter is expected, not a " .. type(filters[i]), 2) end
  end
  return function(request, pool, attempts)
    local passed, skip = {}, nil
    for i = 1, #pool do
      local good, why = true, nil
      for k = 1, #filters do
        good, why = filters[k](pool[i], request)
        if not good then break end
      end
      if good then
        passed[#passed + 1] = pool[i]
      else
        skip = skip or {}
        skip[pool[i].name] = why or "filtered"
      end
    end
    if not passed[1] then return false, "no candidate fits the request" end
    return with_reasons(skip, strategy(request, passed, attempts))
  end
end
