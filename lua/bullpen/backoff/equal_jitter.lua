local growth = require "bullpen.backoff.growth"

--- At random in [d/2, d), with d = base, 2 base, 4 base ... up to cap: spread out, but never at once.
---
---     policy.backoff = backoff.equal_jitter { base = 0.2, cap = 10 }
---@param options { base: number?, cap: number?, by: "try"|"number"? }?
---@return bullpen.Backoff
return function(options)
  local grown = growth("backoff.equal_jitter", options)
  return function(_, attempt) return grown(attempt) * (0.5 + bullpen.random() / 2) end
end
