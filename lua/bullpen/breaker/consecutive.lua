local check = require "bullpen.options"
local trip = require "bullpen.breaker.trip"

--- Benches a candidate after `failures` in a row, of all requests and workers (the registry counts them). `bench`: seconds,
--- or a function as `breaker.growing` gives.
---
---     policy.classify = breaker.consecutive(policy.classify, { failures = 5, bench = 30 })
---@param inner bullpen.Classifier
---@param options { failures: integer?, bench: number|function? }?
---@return bullpen.Classifier
return function(inner, options)
  local o = check("breaker.consecutive", options, { failures = 5, bench = false })
  local bench = o.bench or 30
  if type(inner) ~= "function" then error("breaker.consecutive: a function is expected, not a " .. type(inner), 2) end
  return function(request, attempt)
    local verdict, details = inner(request, attempt)
    if not verdict or verdict == "accept" then return verdict, details end
    local fails = attempt.candidate.fails + 1 -- this one is not counted yet
    if fails < o.failures then return verdict, details end
    return trip(verdict, details, request, attempt, bench, ("%d failures in a row"):format(fails))
  end
end
