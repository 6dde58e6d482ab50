local check = require "bullpen.options"

--- Tells whether this failure is the `count`th within `within` seconds at that upstream. Failures of attempts that began
--- before the last strike belong to it: many requests that fail at once are one strike.
---
---     local out = breaker.strikes { count = 3, within = 3 * 3600 }
---     if out(attempt) then return "next", { bench = math.huge, key = attempt.candidate.upstream } end
---@param options { count: integer?, within: number?, name: string? }?
---@return fun(attempt: bullpen.Attempt): boolean
return function(options)
  local o = check("breaker.strikes", options, { count = 3, within = 10800, name = "default" })
  if o.count < 1 or o.within == 0 then error("breaker.strikes: 1 or more within more than 0 seconds are expected", 2) end
  return function(attempt)
    local key, now = "breaker/strikes/" .. o.name .. "/" .. attempt.candidate.upstream, bullpen.now()
    local times, kept = {}, bullpen.shared.get(key)
    for time in (type(kept) == "string" and kept or ""):gmatch("%S+") do
      time = tonumber(time)
      if time and time > now - o.within then times[#times + 1] = time end
    end
    local last = times[#times]
    if not last or attempt.started >= last then times[#times + 1] = now end
    local out = #times >= o.count
    for i = 1, #times do times[i] = ("%.17g"):format(times[i]) end
    bullpen.shared.set(key, table.concat(times, " ", math.max(1, #times - o.count + 1)), o.within)
    return out
  end
end
