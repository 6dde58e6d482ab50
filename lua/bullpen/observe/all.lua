--- Tells every sink, in order.
---
---     policy.observe = observe.all(observe.log(), observe.metric())
---@param ... bullpen.Sink
---@return bullpen.Sink
return function(...)
  local sinks = { ... }
  for i = 1, select("#", ...) do
    if type(sinks[i]) ~= "function" then error("observe.all: a function is expected, not a " .. type(sinks[i]), 2) end
  end
  return function(event)
    for i = 1, #sinks do sinks[i](event) end
  end
end
