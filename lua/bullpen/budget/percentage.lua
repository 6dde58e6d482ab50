local check = require "bullpen.options"
local guard = require "bullpen.budget.guard"

--- Further attempts may be `percent` of the requests of the last `window` seconds, and `least` a second in any case (as
--- Finagle's budget).
---
---     policy.classify, policy.observe = budget.percentage(policy.classify, { percent = 20, window = 10, least = 10 })
---@param inner bullpen.Classifier
---@param options { percent: number?, window: number?, least: number?, name: string? }?
---@return bullpen.Classifier classify
---@return bullpen.Sink observe
return function(inner, options)
  local o = check("budget.percentage", options, { percent = 20, window = 10, least = 10, name = "default" })
  if type(inner) ~= "function" then error("budget.percentage: a function is expected, not a " .. type(inner), 2) end
  if o.window < 1 or o.window > 60 then error("budget.percentage: window: 1 to 60 seconds are expected", 2) end
  local keep = { ttl = o.window + 1 }
  local requests, retries = "budget/requests/" .. o.name .. "/", "budget/retries/" .. o.name .. "/"

  -- Each second has a counter of its own; those of the window are added up.
  local function sum(prefix, second)
    local total = 0
    for s = second, second - math.ceil(o.window) + 1, -1 do total = total + (bullpen.shared.get(prefix .. s) or 0) end
    return total
  end

  local function allowed()
    local second = math.floor(bullpen.now())
    local most = sum(requests, second) * o.percent / 100 + o.least * o.window
    if sum(retries, second) >= most then return false end
    bullpen.shared.incr(retries .. second, 1, keep)
    return true
  end

  local function count(event)
    if event.type == "finished" then bullpen.shared.incr(requests .. math.floor(bullpen.now()), 1, keep) end
  end

  return guard(inner, allowed), count
end
