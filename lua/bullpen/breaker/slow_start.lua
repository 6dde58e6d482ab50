local check = require "bullpen.options"

--- Who is back from a bench gets its share of requests step by step: `floor` of it at first, all of it after `window`
--- seconds. Gives the two hooks that it needs. It never leaves a request without anybody.
---
---     policy.select, policy.observe = breaker.slow_start(select.weighted(), { window = 60, floor = 0.1 })
---@param strategy bullpen.Strategy
---@param options { window: number?, floor: number? }?
---@return bullpen.Strategy select
---@return bullpen.Sink observe
return function(strategy, options)
  local o = check("breaker.slow_start", options, { window = 60, floor = 0.1 })
  if type(strategy) ~= "function" then error("breaker.slow_start: a strategy is expected, not a " .. type(strategy), 2) end
  if o.window == 0 then error("breaker.slow_start: window: more than 0 seconds are expected", 2) end

  local function share(name, now)
    local since = bullpen.shared.get("breaker/back/" .. name)
    return since and math.max(o.floor, math.min(1, (now - since) / o.window)) or 1
  end

  local function pick(request, pool, attempts)
    local list, left_out, now = {}, nil, bullpen.now()
    for i = 1, #pool do
      local c = pool[i]
      local part = c.tried == 0 and not c.benched and share(c.name, now) or 1
      if part >= 1 or bullpen.random() < part then list[#list + 1] = c
      else left_out = true end
    end
    if not left_out then return strategy(request, pool, attempts) end
    for i = 1, #list do
      if list[i].tried == 0 and not list[i].benched then return strategy(request, list, attempts) end
    end
    return strategy(request, pool, attempts)
  end

  local function observe(event)
    if event.type ~= "unbenched" or not event.candidate then return end
    bullpen.shared.set("breaker/back/" .. event.candidate, bullpen.now(), o.window)
  end

  return pick, observe
end
