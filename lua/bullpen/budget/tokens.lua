local check = require "bullpen.options"
local guard = require "bullpen.budget.guard"

--- A bucket as in gRPC's A6: it begins full with `tokens`, each failed attempt takes one, each request that ends well gives
--- `ratio` back. While it is half empty or less nothing is tried again.
---
---     policy.classify, policy.observe = budget.tokens(policy.classify, { tokens = 10, ratio = 0.1 })
---@param inner bullpen.Classifier
---@param options { tokens: number?, ratio: number?, name: string? }?
---@return bullpen.Classifier classify
---@return bullpen.Sink observe
return function(inner, options)
  local o = check("budget.tokens", options, { tokens = 10, ratio = 0.1, name = "default" })
  if type(inner) ~= "function" then error("budget.tokens: a function is expected, not a " .. type(inner), 2) end
  if o.tokens < 1 then error("budget.tokens: tokens: 1 or more are expected", 2) end
  local key, full = "budget/tokens/" .. o.name, { init = o.tokens, max = o.tokens }

  local function allowed()
    local left = bullpen.shared.incr(key, -1, full)
    if not left then return true end -- the store cannot: no budget is better than no failover
    if left < 0 then bullpen.shared.set(key, 0) end
    return left > o.tokens / 2
  end

  local function give(event)
    if event.type ~= "finished" or event.outcome ~= "ok" then return end
    local left, why = bullpen.shared.incr(key, o.ratio, full)
    if not left and why == "max" then bullpen.shared.set(key, o.tokens) end
  end

  return guard(inner, allowed), give
end
