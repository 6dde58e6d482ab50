local check = require "bullpen.options"
local kind_of = require "bullpen.classify.kind"

--- A 429 that waiting does not cure: an exhausted quota, credit or spend limit, told by its error code. Trying again there is
--- useless, so the whole upstream is benched. Put it before rules that go by the status.
---
---     policy.classify = classify.first_of(classify.quota { bench = 3600 }, classify.rules { { on = { 429 }, tries = 3 } })
---@param options { bench: number? }?
---@return bullpen.Classifier
return function(options)
  local o = check("classify.quota", options, { bench = 3600 })
  return function(_, attempt)
    local status = attempt.status
    if attempt.outcome == "status" and (status == 401 or status == 402 or status == 403) then return nil end
    local kind, scope = kind_of(attempt)
    if kind ~= "auth_dead" or scope ~= "upstream" then return nil end
    return "next", { bench = o.bench, key = attempt.candidate.upstream, kind = kind, reason = "quota exhausted" }
  end
end
