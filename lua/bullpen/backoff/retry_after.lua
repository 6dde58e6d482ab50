--- At least as long as the upstream asked for, up to `most` seconds (10): more than that is nobody's to wait for.
---
---     policy.backoff = backoff.retry_after(backoff.full_jitter(), 30)
---@param inner bullpen.Backoff
---@param most number?
---@return bullpen.Backoff
return function(inner, most)
  if type(inner) ~= "function" then error("backoff.retry_after: a function is expected, not a " .. type(inner), 2) end
  most = most or 10
  return function(request, attempt)
    return math.max(inner(request, attempt) or 0, math.min(attempt.retry_after or 0, most))
  end
end
