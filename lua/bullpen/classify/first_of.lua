--- Asks each part in turn; the first that has an opinion decides.
---
---     policy.classify = classify.first_of(classify.deterministic(), classify.rules { { on = { "5xx" } } })
---@param ... bullpen.Classifier
---@return bullpen.Classifier
return function(...)
  local parts = { ... }
  for i = 1, #parts do
    if type(parts[i]) ~= "function" then error("classify.first_of: a function is expected, not a " .. type(parts[i]), 2) end
  end
  return function(request, attempt)
    for i = 1, #parts do
      local verdict, details = parts[i](request, attempt)
      if verdict then return verdict, details end
    end
  end
end
