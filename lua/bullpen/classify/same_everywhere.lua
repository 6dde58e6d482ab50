-- An error that all candidates give counts against none: one poisoned request, or a limit on our address, must not bench the
-- whole pool. The engine does that by itself when every candidate of the pool was tried; this part does it for policies that
-- stop earlier.
local check = require "bullpen.options"

local function way_of(attempt)
  local outcome, status = attempt.outcome, attempt.status
  if outcome == "stream_error" or outcome == "empty" or (outcome == "status" and status >= 500) then return "5xx" end
  return outcome == "status" and status or outcome
end

-- The last way of each candidate; nil when they differ.
local function common_way(attempts)
  local last, count, way = {}, 0, nil
  for _, attempt in ipairs(attempts) do
    local name = attempt.candidate.name
    if not last[name] then count = count + 1 end
    last[name] = way_of(attempt)
  end
  for _, w in pairs(last) do
    if way and w ~= way then return nil, count end
    way = w
  end
  return way, count
end

--- Gives the two hooks that it needs: `classify` around `inner`, and `exhausted`, which lifts what this request benched when
--- `candidates` of them or more (2) failed it the same way; at most once in `every` seconds a key (30). A bench that was
--- there before, or that somebody has made longer since, stays.
---
---     policy.classify, policy.exhausted = classify.same_everywhere(classify.rules { { on = { 429 }, bench = 60 } })
---@param inner bullpen.Classifier
---@param options { candidates: integer?, every: number? }?
---@return bullpen.Classifier classify
---@return fun(request: bullpen.Request, attempts: bullpen.Attempt[]) exhausted
return function(inner, options)
  local o = check("classify.same_everywhere", options, { candidates = 2, every = 30 })
  if type(inner) ~= "function" then error("classify.same_everywhere: a function is expected, not a " .. type(inner), 2) end

  local function classify(request, attempt)
    local verdict, details = inner(request, attempt)
    local bench = verdict and details and details.bench
    if bench and bench > 0 then
      local key, vars = details.key or attempt.candidate.name, request.vars
      if not bullpen.benched(key) then
        vars.benched_here = vars.benched_here or {}
        vars.benched_here[key] = bullpen.now() + bench
      end
    end
    return verdict, details
  end

  local function exhausted(request, attempts)
    local way, count = common_way(attempts)
    if not way or count < o.candidates then return nil end
    for key, till in pairs(request.vars.benched_here or {}) do
      local benched, now_till = bullpen.benched(key)
      if benched and now_till <= till + 0.001 and bullpen.shared.add("same_everywhere/" .. key, 1, o.every) then
        bullpen.unbench(key)
      end
    end
  end

  return classify, exhausted
end
