local choose = require "bullpen.select.choose"
local check = require "bullpen.options"

--- The group of the lowest `priority` first (of the highest with `order = "descending"`), and within it as `within` says
--- (in order when nil).
---
---     policy.select = select.by_priority(select.weighted())
---@param within bullpen.Strategy?
---@param options { order: "ascending"|"descending"? }?
---@return bullpen.Strategy
return function(within, options)
  local o = check("select.by_priority", options, { order = "ascending" })
  if o.order ~= "ascending" and o.order ~= "descending" then
    error("select.by_priority: order is 'ascending' or 'descending'", 2)
  end
  local sign = o.order == "ascending" and 1 or -1
  return choose(function(request, ready, attempts)
    local best, level, mixed = ready[1], ready[1].priority, false
    for i = 2, #ready do
      local p = ready[i].priority
      if p ~= level then
        mixed = true
        if sign * p < sign * level then best, level = ready[i], p end
      end
    end
    if not within then return best end
    if not mixed then return within(request, ready, attempts) end
    local group = {}
    for i = 1, #ready do
      if ready[i].priority == level then group[#group + 1] = ready[i] end
    end
    return within(request, group, attempts)
  end)
end
