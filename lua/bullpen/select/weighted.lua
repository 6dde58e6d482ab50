local choose = require "bullpen.select.choose"

-- Those without weight take part only when nobody has any, and then alike.
local function draw(_, ready)
  local total, last = 0, nil
  for i = 1, #ready do
    local w = ready[i].weight
    if w > 0 then total = total + w end
  end
  if total == 0 then return ready[math.floor(bullpen.random() * #ready) + 1] end
  local at = bullpen.random() * total
  for i = 1, #ready do
    local w = ready[i].weight
    if w > 0 then
      if at < w then return ready[i] end
      at, last = at - w, ready[i]
    end
  end
  return last -- what was lost in rounding
end

--- At random by `weight`, without replacement: who was tried takes no further part. Weight 0 comes when nobody else is left.
---
---     policy.select = select.weighted()
---@return bullpen.Strategy
return function()
  return choose(draw)
end
