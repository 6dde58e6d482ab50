local growth = require "bullpen.backoff.growth"

--- At random between base and three times the wait before (of this request), up to cap.
---
---     policy.backoff = backoff.decorrelated { base = 0.2, cap = 10 }
---@param options { base: number?, cap: number? }?
---@return bullpen.Backoff
return function(options)
  local _, o = growth("backoff.decorrelated", options)
  return function(request)
    local before = request.vars.waited or o.base
    local wait = math.min(o.base + bullpen.random() * math.max(before * 3 - o.base, 0), o.cap)
    request.vars.waited = wait
    return wait
  end
end
