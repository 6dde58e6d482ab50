--- Which upstreams (or candidates) each client may use; a client that is not named may use all. The key `"*"` is for those.
---
---     policy.select = filters.only(select.in_order(), filters.client { ["team-a"] = { "openai-2" } })
---@param map table<string, string[]>
---@return bullpen.Filter
return function(map)
  if type(map) ~= "table" then error("filters.client: a table of clients is expected, not a " .. type(map), 2) end
  local allowed = {}
  for client, names in pairs(map) do
    if type(names) ~= "table" then error(("filters.client: %s: a list is expected"):format(tostring(client)), 2) end
    allowed[client] = {}
    for _, name in ipairs(names) do allowed[client][name] = true end
  end
  return function(candidate, request)
    local own = allowed[request.client and request.client.name or "*"] or allowed["*"]
    if not own or own[candidate.upstream] or own[candidate.name] then return true end
    return false, "not for this client"
  end
end
