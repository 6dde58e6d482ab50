local check = require "bullpen.options"
local trip = require "bullpen.breaker.trip"

--- Benches a candidate when `ratio` or more of its attempts in the last `window` seconds failed, and there were at least
--- `volume` of them. Gives the two hooks that it needs.
---
---     policy.classify, policy.observe = breaker.ratio(policy.classify, { ratio = 0.5, volume = 20, window = 30, bench = 30 })
---@param inner bullpen.Classifier
---@param options { ratio: number?, volume: integer?, window: number?, bench: number|function? }?
---@return bullpen.Classifier classify
---@return bullpen.Sink observe
return function(inner, options)
  local o = check("breaker.ratio", options, { ratio = 0.5, volume = 20, window = 30, bench = false })
  local bench = o.bench or 30
  if type(inner) ~= "function" then error("breaker.ratio: a function is expected, not a " .. type(inner), 2) end
  if o.window == 0 then error("breaker.ratio: window: more than 0 seconds are expected", 2) end
  local keep = { ttl = 2 * o.window }

  -- Two half-windows: the running one and the one before it. Never less than half of the window is looked at.
  local function add(kind, name)
    local half = math.floor(bullpen.now() / (o.window / 2))
    local prefix = "breaker/" .. kind .. "/" .. name .. "/"
    local count = bullpen.shared.incr(prefix .. half, 1, keep) or 0
    return count + (bullpen.shared.get(prefix .. half - 1) or 0)
  end
  local function read(kind, name)
    local half = math.floor(bullpen.now() / (o.window / 2))
    local prefix = "breaker/" .. kind .. "/" .. name .. "/"
    return (bullpen.shared.get(prefix .. half) or 0) + (bullpen.shared.get(prefix .. half - 1) or 0)
  end

  local function classify(request, attempt)
    local verdict, details = inner(request, attempt)
    if not verdict or verdict == "accept" then return verdict, details end
    local name = attempt.candidate.name
    local failed, good = add("failed", name), read("good", name)
    if failed + good < o.volume or failed / (failed + good) < o.ratio then return verdict, details end
    return trip(verdict, details, request, attempt, bench, ("%d of %d failed"):format(failed, failed + good))
  end

  local function observe(event)
    if event.type == "committed" and event.candidate then add("good", event.candidate) end
  end

  return classify, observe
end
