-- One request at a time through a policy, in the order of contract 4.1: classify, bench, select, backoff, start. It is a
-- drawing of the engine, for arithmetic and order; tests/unit/test_ready.c puts the same policies under the real one.
local fake = require "fake"

local sim = {}

local FIELDS = { model = "m", api = "openai", weight = 1, priority = 0, passthrough = false, manual = false, fails = 0,
                 inflight = 0, latency = 0, error_rate = 0, last_used = 0, tried = 0, benched = false }

--- A pool out of names (`"a/x"`, or `"a"` for `"a/m"`) and tables with `name` and what differs.
function sim.pool(list)
  local pool = {}
  for i, given in ipairs(list) do
    local c = type(given) == "table" and given or { name = given }
    if not c.name:find("/", 1, true) then c.name = c.name .. "/m" end
    for key, value in pairs(FIELDS) do
      if c[key] == nil then c[key] = value end
    end
    c.upstream = c.name:match("^[^/]*")
    c.tags, c.price = c.tags or {}, c.price or {}
    pool[i] = c
  end
  return pool
end

function sim.request(given)
  local body = given and given.body or {}
  local r = { id = "r-1", route = "chat", method = "POST", path = "/v1/chat/completions", model = "m", stream = false,
              headers = {}, body_size = 100, received = fake.time, deadline = fake.time + 900, attempts = 0, vars = {},
              json = body, field = function(name) return body[name] end }
  for key, value in pairs(given or {}) do r[key] = value end
  return r
end

--- The hooks of a policy's text or ready-made name, with options over its own; unknown ones raise, as in the engine.
function sim.load(name, options, text)
  local chunk = assert(text and load(text, "@" .. name, "t") or loadfile("lua/policies/" .. name .. ".lua"))
  local policy = chunk()
  local merged = {}
  for key, value in pairs(policy.options or {}) do merged[key] = value end
  for key, value in pairs(options or {}) do
    if merged[key] == nil then error(name .. ": options." .. key .. ": the policy has no such option") end
    merged[key] = value
  end
  if policy.init then policy.init(merged) end
  return policy
end

-- Candidates as this moment has them. Uses and failures are kept from request to request, by name.
local function refresh(pool)
  for _, c in ipairs(pool) do
    local b, up = fake.benches[c.name], fake.benches[c.upstream]
    if up and (not b or up.till > b.till) then b = up end
    c.benched = b ~= nil and b.till > fake.time
    c.manual = c.benched and b.manual or false
    c.bench_until = c.benched and b.till or nil
    c.bench_reason = c.benched and b.reason or nil
    local used = fake.used[c.name]
    if used then c.last_used, c.fails = used.at, used.fails end
  end
end

local function tell(run, kind, attempt, more)
  local e = { type = kind, time = fake.time, request_id = run.request.id, model = run.request.model,
              client = run.request.client and run.request.client.name, vars = run.request.vars }
  if attempt then
    e.candidate, e.outcome, e.status, e.attempt = attempt.candidate.name, attempt.outcome, attempt.status, attempt.number
    e.response_id, e.first_event, e.elapsed = attempt.response_id, attempt.first_event, attempt.elapsed
  end
  for key, value in pairs(more or {}) do e[key] = value end
  run.events[#run.events + 1] = e
  if run.policy.observe then run.policy.observe(e) end
end

local function finish(run, status, attempt)
  run.status = status
  tell(run, "finished", attempt, { outcome = status == 200 and "ok" or (attempt and attempt.outcome), status = status })
  run.trail = table.concat(run.trail, " ")
  return run
end

local function exhausted(run)
  local answer = run.policy.exhausted and run.policy.exhausted(run.request, run.attempts)
  local last = run.attempts[#run.attempts]
  run.exhausted = answer or true
  if answer == "last" then
    for i = #run.attempts, 1, -1 do
      if run.attempts[i].outcome == "status" then return finish(run, run.attempts[i].status, last) end
    end
  end
  return finish(run, type(answer) == "table" and answer.status or 502, last)
end

local function pick(run)
  refresh(run.pool)
  local chosen = true
  if run.policy.select then
    local list = table.move(run.pool, 1, #run.pool, 1, {})
    chosen = run.policy.select(run.request, list, run.attempts)
    if chosen == false then return nil end
    if type(chosen) == "table" and chosen.use then run.label, run.skip, chosen = chosen.label, chosen.skip, chosen.use end
  end
  for _, c in ipairs(run.pool) do
    local named = chosen == c or chosen == c.name or chosen == true or chosen == nil
    if named and (type(chosen) ~= "boolean" and chosen ~= nil or (c.tried == 0 and not c.benched)) then return c end
  end
  assert(chosen == true or chosen == nil, "a pick outside the pool")
end

local function start(run, candidate)
  candidate.tried = candidate.tried + 1
  local used = fake.used[candidate.name] or { fails = 0 }
  used.at, fake.used[candidate.name] = fake.time, used
  run.calls = run.calls + 1
  local attempt = { number = #run.attempts + 1, try = candidate.tried, candidate = candidate, started = fake.time,
                    elapsed = 0, committed = false }
  run.attempts[attempt.number] = attempt
  run.request.attempts = attempt.number
  local answer = run.answer(attempt)
  if type(answer) == "number" then answer = { status = answer } end
  if type(answer) == "string" then answer = { outcome = answer } end
  for key, value in pairs(answer) do attempt[key] = value end
  attempt.outcome = attempt.outcome or (attempt.status == 200 and "ok" or "status")
  run.trail[#run.trail + 1] = candidate.upstream .. "=" .. (attempt.status or attempt.outcome)
  used.fails = attempt.outcome == "ok" and 0 or used.fails
  return attempt, used
end

--- Runs a request. `answers`: a list in the order of the calls (a status, an outcome's name, or a table of the attempt's
--- fields; the last repeats), or a function of the attempt. Gives { status, trail, calls, waits, events, attempts }.
function sim.run(policy, pool, answers, request)
  local list = answers
  if type(list) == "table" then
    answers = function(attempt) return list[math.min(attempt.number, #list)] end
  end
  local run = { policy = policy, pool = pool, answer = answers, request = sim.request(request), attempts = {}, events = {},
                waits = {}, trail = {}, calls = 0 }
  for _, c in ipairs(pool) do c.tried = 0 end
  local candidate = pick(run)
  while candidate do
    local attempt, used = start(run, candidate)
    if attempt.outcome == "ok" then
      tell(run, "committed", attempt)
      return finish(run, 200, attempt)
    end
    local verdict, details = "next", nil
    if policy.classify then verdict, details = policy.classify(run.request, attempt) end
    verdict, details = verdict or "next", details or {}
    used.fails = used.fails + 1
    tell(run, "attempt_failed", attempt, { verdict = verdict })
    if (details.bench or 0) > 0 and bullpen.bench(details.key or candidate.name, details.bench, details.reason) then
      tell(run, "benched", attempt, { candidate = details.key or candidate.name, benched_for = details.bench })
    end
    if verdict == "accept" or verdict == "stop" then return finish(run, attempt.status or details.status or 502, attempt) end
    if #run.attempts >= (run.request.limit or 16) then break end
    if verdict == "next" then candidate = pick(run) end
    if not candidate then break end
    local wait = details.delay or (policy.backoff and policy.backoff(run.request, attempt)) or 0
    assert(wait >= 0 and wait < math.huge, "a wait that is none")
    run.waits[#run.waits + 1] = wait
    fake.time = fake.time + wait
    if candidate ~= attempt.candidate then tell(run, "failed_over", attempt, { next = candidate.name }) end
  end
  return exhausted(run)
end

return sim
