local function holds(wanted, value)
  if type(wanted) ~= "table" then return value == wanted end
  for i = 1, #wanted do
    if wanted[i] == value then return true end
  end
  return false
end

--- Events that pass alone: `filter` is a table of fields (a value, or a list of which one must be there) or a function.
---
---     policy.observe = observe.only({ type = { "benched", "unbenched" } }, observe.log("warn"))
---@param filter table<string, any>|fun(event: bullpen.Event): boolean
---@param sink bullpen.Sink
---@return bullpen.Sink
return function(filter, sink)
  if type(sink) ~= "function" then error("observe.only: a sink is expected, not a " .. type(sink), 2) end
  if type(filter) == "function" then
    return function(event)
      if filter(event) then sink(event) end
    end
  end
  if type(filter) ~= "table" then error("observe.only: a table or a function is expected, not a " .. type(filter), 2) end
  return function(event)
    for field, wanted in pairs(filter) do
      if not holds(wanted, event[field]) then return end
    end
    sink(event)
  end
end
