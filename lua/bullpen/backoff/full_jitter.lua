local growth = require "bullpen.backoff.growth"

--- At random in [0, d), with d = base, 2 base, 4 base ... up to cap: spreads clients out best.
---
---     policy.backoff = backoff.full_jitter { base = 0.2, cap = 10 }
---@param options { base: number?, cap: number?, by: "try"|"number"? }?
---@return bullpen.Backoff
return function(options)
  local grown = growth("backoff.full_jitter", options)
  return function(_, attempt) return bullpen.random() * grown(attempt) end
end
