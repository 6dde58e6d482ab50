--- The verdict with a bench added, where it is about a failing candidate and has no longer bench of its own. `retry` becomes
--- `next`: who is benched is not tried again.
---
---     return trip(verdict, details, request, attempt, 30, "5 failures in a row")
---@param verdict string
---@param details table?
---@param request bullpen.Request
---@param attempt bullpen.Attempt
---@param bench number|fun(request: bullpen.Request, attempt: bullpen.Attempt): number
---@param reason string
---@return string verdict
---@return table details
return function(verdict, details, request, attempt, bench, reason)
  local seconds = type(bench) == "function" and bench(request, attempt) or bench
  details = details or {}
  if (details.bench or 0) < seconds and not details.key then details.bench, details.reason = seconds, reason end
  if verdict ~= "retry" then return verdict, details end
  details.delay = nil
  return "next", details
end
