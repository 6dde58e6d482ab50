local kind_of = require "bullpen.classify.kind"

local KINDS = { transient = true, auth_dead = true, model_missing = true, request_specific = true, other = true }

--- One function for each kind of failure: (request, attempt, scope) -> verdict, details. `kind` is filled in. A kind without
--- one is accepted. `scope` of `auth_dead` is "upstream" or "candidate": who is dead.
---
---     policy.classify = classify.kinds { transient = function(request, attempt) return "next", { bench = 60 } end }
---@param map table<bullpen.Kind, fun(request: bullpen.Request, attempt: bullpen.Attempt, scope: string?): string?, table?>
---@return bullpen.Classifier
return function(map)
  if type(map) ~= "table" then error("classify.kinds: a table is expected, not a " .. type(map), 2) end
  for kind, handler in pairs(map) do
    if not KINDS[kind] then error(("classify.kinds: unknown kind '%s'"):format(tostring(kind)), 2) end
    if type(handler) ~= "function" then error(("classify.kinds: %s: a function is expected"):format(kind), 2) end
  end
  return function(request, attempt)
    if attempt.outcome == "ok" then return "accept" end
    local kind, scope = kind_of(attempt)
    local handler = map[kind]
    if not handler then return "accept", { kind = kind } end
    local verdict, details = handler(request, attempt, scope)
    if not verdict then return nil end
    details = details or {}
    details.kind = details.kind or kind
    return verdict, details
  end
end
