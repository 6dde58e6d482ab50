--- The classifier with the budget in front of what asks for another attempt: `allowed(attempt)` takes from it.
---
---     policy.classify = guard(policy.classify, function() return bullpen.random() < 0.5 end)
---@param inner bullpen.Classifier
---@param allowed fun(attempt: bullpen.Attempt): boolean
---@return bullpen.Classifier
return function(inner, allowed)
  return function(request, attempt)
    local verdict, details = inner(request, attempt)
    if verdict ~= "retry" and verdict ~= "next" or allowed(attempt) then return verdict, details end
    details = details or {}
    details.delay = nil
    details.reason = details.reason or "retry budget spent"
    return "accept", details
  end
end
