-- What all strategies have in common: who may be picked at all.

---@param candidate bullpen.Candidate
local function was_tried(_, candidate)
  return candidate.tried > 0
end

local function narrowed(request, pool, used)
  local fresh = {}
  for i = 1, #pool do
    local c = pool[i]
    if not c.benched and not used(request, c) then fresh[#fresh + 1] = c end
  end
  return fresh
end

-- The candidates that are neither used nor benched, as listed. The pool itself when that is everybody, as it is for most
-- requests: nothing is allocated or called then.
local function fresh_of(request, pool, used)
  for i = 1, #pool do
    local c = pool[i]
    if c.benched or c.tried > 0 then return narrowed(request, pool, used) end
  end
  return pool
end

-- Of those that are benched: soonest back, an operator's last. A full one is never picked: its slot would not be given.
local function soonest_back(request, pool, used)
  local best
  for i = 1, #pool do
    local c = pool[i]
    if c.bench_reason ~= "full" and not used(request, c) then
      local sooner = best and c.manual == best.manual and c.bench_until < best.bench_until
      if not best or (best.manual and not c.manual) or sooner then best = c end
    end
  end
  return best
end

--- Makes a strategy of a preference: `prefer` gets the candidates that may be picked (at least one, as listed, not to be
--- changed) and returns one of them. `used` tells whom of those it has tried this request is done with; without it, all.
---
---     policy.select = choose(function(request, ready) return ready[#ready] end)   -- the last one listed
---@param prefer fun(request: bullpen.Request, ready: bullpen.Candidate[], attempts: bullpen.Attempt[]): any, any
---@param used (fun(request: bullpen.Request, candidate: bullpen.Candidate): any)?
---@return bullpen.Strategy
return function(prefer, used)
  if type(prefer) ~= "function" then error("choose: a function is expected, not a " .. type(prefer), 2) end
  used = used or was_tried
  return function(request, pool, attempts)
    local fresh = fresh_of(request, pool, used)
    if fresh[1] then return prefer(request, fresh, attempts) end
    return soonest_back(request, pool, used) or false
  end
end
