-- Options of a library function: defaults filled in, unknown names and wrong types refused where the caller stands.

--- Gives a new table: `defaults` with `given` over them. A default of a table or `false` is checked for its type alone
--- (`false`: any type). Numbers must be 0 or more. What is wrong raises at `level` (3: the caller's caller).
---
---     local o = options("backoff.constant", { seconds = 2 }, { seconds = 1 })   -- { seconds = 2 }
---@param what string of whom it is spoken
---@param given table?
---@param defaults table
---@param level integer?
---@return table
return function(what, given, defaults, level)
  level = level or 3
  if given ~= nil and type(given) ~= "table" then
    error(("%s: a table of options is expected, not a %s"):format(what, type(given)), level)
  end
  local merged = {}
  for name, default in pairs(defaults) do merged[name] = default end
  for name, value in pairs(given or {}) do
    local default = defaults[name]
    if default == nil then error(("%s: unknown option '%s'"):format(what, tostring(name)), level) end
    if default ~= false and type(value) ~= type(default) then
      error(("%s: %s: a %s is expected, not a %s"):format(what, name, type(default), type(value)), level)
    end
    if type(value) == "number" and (value < 0 or value ~= value) then
      error(("%s: %s: a number of 0 or more is expected"):format(what, name), level)
    end
    merged[name] = value
  end
  return merged
end
