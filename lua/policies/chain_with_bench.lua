-- chain_with_bench: in the order listed, without the benched. The default; without options it is the same in C.
--
-- Each candidate gets `tries` tries with full jitter in [0, min(base * 2^(try-1), cap)] between them, and no wait when the
-- candidate changes. A dead credential is benched at once, a model that does not exist there too; the request's own faults go
-- to the client and bench nobody. Everything else is transient: a timeout is not tried again there; a `retry_after` is obeyed
-- elsewhere if there is somebody, else waited for up to 10 s; the last try benches for `bench` seconds.
--
--   tries = 3, bench = 300, base = 0.2, cap = 10
local backoff = require "bullpen.backoff"
local check = require "bullpen.options"
local classify = require "bullpen.classify"
local select = require "bullpen.select"

local LONGEST_WAIT = 10 -- seconds that a retry_after is waited for when nobody else is left
local policy = { options = { tries = 3, bench = 300, base = 0.2, cap = 10 } }
local timed_out = classify.match { "timeout" }
local o, verdict, jitter

-- Done with: left by `next`. (A try that lost its place to somebody else's is none.)
local in_order = select.in_order(function(request, candidate)
  return request.vars.left and request.vars.left[candidate.name]
end)

-- Is there another candidate that is neither tried nor benched?
local function somebody_fresh(request, attempt)
  for _, c in ipairs(request.vars.pool or {}) do
    local full = c.bench_reason == "full"
    if c.name ~= attempt.candidate.name and c.tried == 0 and not full and not bullpen.benched(c.name)
      and not bullpen.benched(c.upstream) then return true end
  end
end

local function transient(request, attempt)
  local wait = attempt.retry_after or 0
  local last = attempt.try >= o.tries or request.attempts_left == 0
  if timed_out(attempt) then return "next", { bench = o.bench } end
  if wait > 0 and somebody_fresh(request, attempt) then return "next", { bench = wait } end
  if last then return "next", { bench = math.max(o.bench, wait) } end
  if wait > LONGEST_WAIT then return "next", { bench = wait } end
  return "retry", wait > 0 and { delay = wait } or nil
end

local function auth_dead(_, attempt, scope)
  if attempt.candidate.forwards then return "accept", { kind = "request_specific" } end -- the client's own credential
  return "next", { bench = o.bench, key = scope == "upstream" and attempt.candidate.upstream or nil }
end

local function model_missing()
  return "next", { bench = o.bench }
end

function policy.init(options)
  o = check("chain_with_bench", options, policy.options, 2)
  verdict = classify.kinds { transient = transient, auth_dead = auth_dead, model_missing = model_missing }
  jitter = backoff.full_jitter { base = o.base, cap = o.cap }
end

function policy.select(request, pool, attempts)
  request.vars.pool = pool
  return in_order(request, pool, attempts)
end

function policy.classify(request, attempt)
  local said, details = verdict(request, attempt)
  if said ~= "next" then return said, details end
  request.vars.left = request.vars.left or {}
  request.vars.left[attempt.candidate.name] = true
  details.delay = 0
  return said, details
end

function policy.backoff(request, attempt)
  return jitter(request, attempt)
end

return policy
