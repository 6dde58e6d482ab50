local choose = require "bullpen.select.choose"

local function first(_, ready)
  return ready[1]
end

--- As listed in `models`. `used`: as in `choose`.
---
---     policy.select = select.in_order()
---@param used (fun(request: bullpen.Request, candidate: bullpen.Candidate): any)?
---@return bullpen.Strategy
return function(used)
  local otherwise = choose(first, used)
  return function(request, pool, attempts)
    for i = 1, #pool do
      local c = pool[i]
      if not c.benched and (c.tried == 0 or (used and not used(request, c))) then return c end
    end
    return otherwise(request, pool, attempts)
  end
end
