local check = require "bullpen.options"

--- Candidates whose context window holds the request. Its size is estimated: bytes of the body over `bytes_per_token`, and
--- the answer that was asked for (`max_tokens` and its like). A candidate without the tag is taken to hold everything.
---
---     -- models = { smart = { { use = "openai/gpt-4o", tags = { context = 128000 } }, ... } }
---     policy.select = filters.only(select.in_order(), filters.context())
---@param options { tag: string?, bytes_per_token: number? }?
---@return bullpen.Filter
return function(options)
  local o = check("filters.context", options, { tag = "context", bytes_per_token = 4 })
  if o.bytes_per_token == 0 then error("filters.context: bytes_per_token: more than 0 is expected", 2) end
  local function needed(request)
    local field = request.field
    local answer = field("max_tokens") or field("max_completion_tokens") or field("max_output_tokens")
    return request.body_size / o.bytes_per_token + (type(answer) == "number" and answer or 0)
  end
  return function(candidate, request)
    local holds = candidate.tags[o.tag]
    if type(holds) ~= "number" then return true end
    local vars = request.vars
    vars.context_needed = vars.context_needed or needed(request)
    if vars.context_needed <= holds then return true end
    return false, "context window too small"
  end
end
