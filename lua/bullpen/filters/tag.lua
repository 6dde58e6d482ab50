--- Candidates whose tag has that value; with nil for the value, those that have the tag at all.
---
---     policy.select = filters.only(select.in_order(), filters.tag("region", "eu"))
---@param name string
---@param value any
---@return bullpen.Filter
return function(name, value)
  if type(name) ~= "string" then error("filters.tag: a name is expected, not a " .. type(name), 2) end
  local why = value == nil and ("no tag " .. name) or ("%s is not %s"):format(name, tostring(value))
  return function(candidate)
    local has = candidate.tags[name]
    if value == nil then
      if has == nil or has == false then return false, why end
    elseif has ~= value then
      return false, why
    end
    return true
  end
end
