--- A bench as long as the upstream itself says (`retry-after`, or when its limit is reset); `otherwise` seconds when it says
--- nothing, and at most `most`.
---
---     policy.classify = classify.rules { { on = { 429 }, bench = classify.until_reset(5) } }
---@param otherwise number seconds
---@param most number? seconds
---@return fun(request: bullpen.Request, attempt: bullpen.Attempt): number
return function(otherwise, most)
  if not (type(otherwise) == "number" and otherwise >= 0) then
    error("classify.until_reset: a number of 0 or more is expected", 2)
  end
  return function(_, attempt)
    local said = attempt.retry_after
    if not said or said <= 0 then return otherwise end
    return most and math.min(said, most) or said
  end
end
