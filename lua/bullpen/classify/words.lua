-- The words that providers put into the code or the type of an error, worst for the upstream first: which status each
-- stands for, and the kind of those that decide whatever the status is. Compared without case.
local list, rank = {}, {}

local function add(status, kind, scope, names)
  for name in names:gmatch("%S+") do
    list[#list + 1] = { status = status, kind = kind, scope = scope }
    rank[name:lower()] = #list
  end
end

add(429, "auth_dead", "upstream", [[insufficient_quota credit_balance_exhausted organization_spend_limit_exceeded
  project_spend_limit_exceeded organization_usage_limit_exceeded contract_spend_limit_reached enforced_spend_limit_reached
  ramp_limit_exceeded billing_hard_limit_reached billing_not_active]])
add(502, "auth_dead", "upstream", "billing_error")
add(401, "auth_dead", "upstream", "invalid_api_key")
add(400, "request_specific", nil, [[context_length_exceeded string_above_max_length content_filter content_policy_violation
  image_content_policy_violation ResponsibleAIPolicyViolation bio_policy invalid_prompt]])
add(404, "model_missing", nil, "model_not_found DeploymentNotFound")
add(429, nil, nil, "rate_limit_error rate_limit_exceeded slow_down RESOURCE_EXHAUSTED")
add(529, nil, nil, "overloaded_error server_is_overloaded overloaded")
add(401, nil, nil, "authentication_error UNAUTHENTICATED account_deactivated")
add(403, nil, nil, "permission_error PERMISSION_DENIED request_forbidden")
add(400, nil, nil, "previous_response_not_found")
add(404, nil, nil, "not_found_error NOT_FOUND")
add(400, nil, nil, "invalid_request_error request_too_large INVALID_ARGUMENT")

local NUMBERS = { ["400"] = 400, ["401"] = 401, ["403"] = 403, ["404"] = 404, ["429"] = 429, ["529"] = 529 }
local words = {}

--- What the code or the type of an error says; nil when neither is known.
---
---     local word = words.find(attempt.error)   -- { status = 429, kind = "auth_dead", scope = "upstream" }
---@param error bullpen.Error
---@return { status: integer, kind: string?, scope: string? }?
function words.find(error)
  local code = error.code and rank[error.code:lower()]
  local type = error.type and rank[error.type:lower()]
  if code and type then return list[math.min(code, type)] end
  return list[code or type]
end

--- The status that an error event stands for: by its type or code, else 502.
---
---     local status = words.status(attempt.error)   -- overloaded_error: 529
---@param error bullpen.Error?
---@return integer
function words.status(error)
  if not error then return 502 end
  local word = words.find(error)
  if word then return word.status end
  local code = (error.code or ""):lower()
  if NUMBERS[code] then return NUMBERS[code] end
  return (code:find("^invalid_") or code:find("image", 1, true)) and 400 or 502
end

return words
