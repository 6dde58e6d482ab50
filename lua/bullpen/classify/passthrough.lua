local match = require "bullpen.classify.match"

local moves = match { 429, 529, "transport" }

--- What a passthrough upstream may be left for: 429, 529, and when it could not be reached. The rest is its own answer.
--- Candidates that are none are left to the other parts.
---
---     policy.classify = classify.first_of(classify.passthrough(), classify.rules { { on = { "5xx" } } })
---@param bench (number|fun(request: bullpen.Request, attempt: bullpen.Attempt): number)? seconds
---@return bullpen.Classifier
return function(bench)
  return function(request, attempt)
    if not attempt.candidate.passthrough then return nil end
    if not moves(attempt) then return "accept" end
    return "next", { bench = type(bench) == "function" and bench(request, attempt) or bench }
  end
end
