local growth = require "bullpen.backoff.growth"

--- base, 2 base, 4 base ... up to cap, and up to `jitter` of it on top (0.1: 0 to 10 %).
---
---     policy.backoff = backoff.exponential { base = 0.2, cap = 5, jitter = 0.1, by = "number" }
---@param options { base: number?, cap: number?, by: "try"|"number"?, jitter: number? }?
---@return bullpen.Backoff
return function(options)
  local grown, o = growth("backoff.exponential", options, { jitter = 0 })
  return function(_, attempt)
    local wait = grown(attempt)
    return o.jitter > 0 and wait * (1 + o.jitter * bullpen.random()) or wait
  end
end
