-- The ready-made policies: the acceptance rows that are about arithmetic and order, by their ids. A script is the answers in
-- the order of the calls; the trail says who was called and what it said.
local expect = require "expect"
local fake = require "fake"
local sim = require "sim"

local tests = {}

local function run(name, options, names, answers, request)
  return sim.run(sim.load(name, options), sim.pool(names), answers, request)
end

local function trail(name, options, names, answers, request)
  return run(name, options, names, answers, request).trail
end

local REQUEST_FAULTS = { 400, 401, 403, 404, 413, 422 }

-- ---- priority ----

function tests.test_P2_priority_lower_first_then_listed_order()
  local names = { { name = "a", priority = 2 }, { name = "b", priority = 1 }, { name = "c", priority = 1 } }
  expect.equal(trail("priority", { retries = 0 }, names, { 503 }), "b=503 c=503 a=503")
  expect.equal(trail("priority", { retries = 0, order = "descending" }, names, { 503 }), "a=503 b=503 c=503")
end

function tests.test_P3_priority_retries_once_without_delay()
  local r = run("priority", nil, { "a" }, { 503 })
  expect.equal(r.trail .. " " .. r.status, "a=503 a=503 503")
  expect.list(r.waits, { 0 })
  expect.equal(trail("priority", { retries = 0 }, { "a" }, { 503 }), "a=503")
  expect.equal(trail("priority", { retries = 3 }, { "a" }, { 503, 503, 503, 200 }), "a=503 a=503 a=503 a=200")
end

-- The original never tries the last of them.
function tests.test_P4_priority_tries_at_most_n_others_and_really_all_of_them()
  expect.equal(trail("priority", { retries = 0 }, { "a", "b", "c" }, { 503, 503, 200 }), "a=503 b=503 c=200")
  expect.equal(trail("priority", { retries = 0 }, { "a", "b", "c", "d" }, { 503 }), "a=503 b=503 c=503")
  expect.equal(trail("priority", { retries = 1, fallbacks = 1 }, { "a", "b", "c" }, { 503 }), "a=503 a=503 b=503 b=503")
  expect.equal(trail("priority", { retries = 0, fallbacks = 0 }, { "a", "b" }, { 503 }), "a=503")
end

function tests.test_P5_priority_passes_the_requests_own_faults_at_once()
  for _, status in ipairs(REQUEST_FAULTS) do
    local r = run("priority", nil, { "a", "b" }, { status })
    expect.equal(r.calls .. " " .. r.status, "1 " .. status)
  end
end

function tests.test_P6_priority_exhausted_is_the_last_answer()
  expect.equal(run("priority", { retries = 0 }, { "a", "b" }, { 500, 503 }).status, 503)
  expect.equal(run("priority", { retries = 0 }, { "a", "b" }, { 500, "reset" }).status, 500)
  expect.equal(run("priority", nil, { "a" }, { "connect" }).exhausted, "last")
end

function tests.test_priority_moves_on_for_408_429_5xx_timeouts_and_the_network()
  for _, answer in ipairs { 408, 429, 500, 501, 529, 599, "headers_timeout", "dns", "reset", "empty", "stream_error", "truncated" } do
    expect.equal(run("priority", { retries = 0 }, { "a", "b" }, { answer, 200 }).calls, 2, tostring(answer))
  end
end

-- ---- weighted ----

function tests.test_W1_weighted_first_calls_are_by_weight_with_2_candidates_too()
  for _, weights in ipairs { { 3, 1 }, { 3, 2, 1 }, { 7, 6, 5, 4, 3, 2, 1 } } do
    local policy, names, total, count = sim.load "weighted", {}, 0, {}
    for i, w in ipairs(weights) do names[i], total = { name = "u" .. i, weight = w }, total + w end
    local pool = sim.pool(names)
    for _ = 1, 10000 do
      local first = sim.run(policy, pool, { 200 }).trail:match("^[^=]+")
      count[first] = (count[first] or 0) + 1
    end
    for i, w in ipairs(weights) do expect.near(count["u" .. i] / 10000, w / total, 0.02, #weights .. ":" .. i) end
  end
end

function tests.test_W3_weighted_at_most_3_candidates_of_2_tries()
  local r = run("weighted", nil, { "a", "b", "c", "d" }, { 503 })
  expect.equal(r.calls .. " " .. r.status, "6 502")
  local seen, count = {}, 0
  for _, a in ipairs(r.attempts) do
    if not seen[a.candidate.name] then seen[a.candidate.name], count = true, count + 1 end
  end
  expect.equal(count, 3)
  expect.equal(run("weighted", { candidates = 2, tries = 3 }, { "a", "b", "c" }, { 503 }).calls, 6)
end

function tests.test_W4_weighted_waits_double_up_to_5_and_none_after_the_last()
  local plain = run("weighted", { jitter = 0 }, { "a", "b", "c" }, { 503 })
  expect.list(plain.waits, { 0.2, 0.4, 0.8, 1.6, 3.2 })
  local capped = run("weighted", { jitter = 0, tries = 3 }, { "a", "b", "c" }, { 503 })
  expect.list(capped.waits, { 0.2, 0.4, 0.8, 1.6, 3.2, 5, 5, 5 })
  for _ = 1, 200 do
    for i, wait in ipairs(run("weighted", nil, { "a", "b", "c" }, { 503 }).waits) do
      local least = 0.1 * 2 ^ i
      expect.equal(wait >= least and wait <= least * 1.1, true)
    end
  end
end

function tests.test_W5_weighted_moves_on_for_its_list_alone()
  for _, status in ipairs { 429, 500, 502, 503, 504 } do
    expect.equal(run("weighted", nil, { "a", "b" }, { status, 200 }).calls, 2, tostring(status))
  end
  for _, status in ipairs { 400, 401, 403, 404, 408, 409, 501, 529 } do
    local r = run("weighted", nil, { "a", "b" }, { status, 200 })
    expect.equal(r.calls .. " " .. r.status, "1 " .. status)
  end
end

function tests.test_W6_W8_weighted_moves_on_for_the_network_and_for_nothing_at_all()
  for _, outcome in ipairs { "connect_timeout", "reset", "connect", "dns", "tls", "empty", "truncated", "headers_timeout" } do
    expect.equal(run("weighted", nil, { "a", "b" }, { outcome, 200 }).status, 200, outcome)
  end
end

-- ---- first_event ----

function tests.test_F1_first_event_fails_over_for_an_error_inside_a_200()
  for _, type in ipairs { "overloaded_error", "rate_limit_error", "api_error" } do
    local event = { outcome = "stream_error", status = 200, error = { type = type } }
    expect.equal(run("first_event", nil, { "a", "b" }, { event, 200 }).trail, "a=200 b=200", type)
  end
end

function tests.test_F2_first_event_exhausted_is_the_last_error()
  local r = run("first_event", nil, { "a", "b" }, { 429 })
  expect.equal(r.trail .. " " .. r.status, "a=429 b=429 429")
end

function tests.test_F4_first_event_tells_of_every_failure()
  local r = run("first_event", nil, { "a", "b", "c" }, { 429, "reset", 200 })
  local told = {}
  for _, e in ipairs(r.events) do
    if e.type == "attempt_failed" then told[#told + 1] = e.candidate .. " " .. e.outcome end
  end
  expect.list(told, { "a/m status", "b/m reset" })
end

function tests.test_first_event_leaves_500_to_the_client_on_purpose()
  expect.equal(run("first_event", nil, { "a", "b" }, { 500, 200 }).status, 500)
  for _, status in ipairs { 429, 502, 503, 504, 520, 522, 524, 529 } do
    local r = run("first_event", nil, { "a", "b" }, { status, 200 })
    expect.equal(r.calls, 2, tostring(status))
    expect.list(r.waits, { 0 })
  end
end

-- ---- account_pool ----

local CONTEXT = { code = "context_length_exceeded", message = "too long" }

-- Who takes the next request, with everything else as it is.
local function next_up(policy, pool)
  return (sim.run(policy, pool, { 200 }).trail:match("^[^=]+"))
end

function tests.test_A4_account_pool_rests_by_the_status()
  for status, seconds in pairs { [401] = 600, [403] = 600, [429] = 5, [529] = 600 } do
    fake.reset()
    local policy, pool = sim.load "account_pool", sim.pool { { name = "a", priority = 0 }, { name = "b", priority = 1 } }
    expect.equal(sim.run(policy, pool, { status, 200 }).trail, "a=" .. status .. " b=200")
    expect.equal(next_up(policy, pool), "b", "skipped")
    fake.time = fake.time + seconds - 1
    expect.equal(next_up(policy, pool), "b", status .. ": still skipped")
    fake.time = fake.time + 1.1
    expect.equal(next_up(policy, pool), "a", status .. ": then back")
  end
end

function tests.test_A4_account_pool_429_rests_until_its_reset()
  local policy, pool = sim.load "account_pool", sim.pool { { name = "a", priority = 0 }, { name = "b", priority = 1 } }
  sim.run(policy, pool, { { status = 429, retry_after = 77 }, 200 })
  fake.time = fake.time + 76
  expect.equal(next_up(policy, pool), "b")
  fake.time = fake.time + 2
  expect.equal(next_up(policy, pool), "a")
end

function tests.test_A4_the_third_401_within_3_hours_is_until_lifted()
  local policy, pool = sim.load "account_pool", sim.pool { { name = "a", priority = 0 }, { name = "b", priority = 1 } }
  for i = 1, 3 do
    expect.equal(sim.run(policy, pool, { i == 2 and 403 or 401, 200 }).trail:sub(1, 1), "a")
    fake.time = fake.time + 3000
  end
  local _, till = bullpen.benched("a")
  expect.equal(till, math.huge)
  fake.time = fake.time + 1e9
  expect.equal(next_up(policy, pool), "b")
end

function tests.test_account_pool_a_bench_is_of_the_whole_account()
  local policy = sim.load "account_pool"
  expect.equal(sim.run(policy, sim.pool { "a/x", "a/y", "b/x" }, { 529, 200 }).trail, "a=529 b=200")
end

function tests.test_A5_account_pool_rules_status_and_keyword_in_any_case()
  local rules = { { status = 400, keyword = "Organization Disabled", minutes = 30 }, { keyword = "over cap", minutes = 1 } }
  local policy, pool = sim.load("account_pool", { rules = rules }), sim.pool { { name = "a", priority = 0 }, { name = "b", priority = 1 } }
  expect.equal(sim.run(policy, pool, { { status = 400, body = "your ORGANIZATION disabled" }, 200 }).trail, "a=400 b=200")
  fake.time = fake.time + 1799
  expect.equal(next_up(policy, pool), "b")
  fake.time = fake.time + 2
  expect.equal(next_up(policy, pool), "a")
  expect.equal(sim.run(policy, pool, { { status = 403, body = "organization disabled" }, 200 }).trail, "a=403 b=200", "403 is its status list")
  expect.equal(bullpen.benched("a"), true)
  fake.reset()
  expect.equal(sim.run(policy, pool, { { status = 400, body = "another" }, 200 }).trail, "a=400")
  expect.equal(sim.run(policy, pool, { { status = 418, body = "OVER CAP" }, 200 }).trail, "a=418 b=200", "any status")
end

function tests.test_A6_a_context_that_is_too_long_never_moves_and_never_rests()
  for _, status in ipairs { 400, 413, 429, 500, 529 } do
    local r = run("account_pool", nil, { "a", "b" }, { { status = status, error = CONTEXT } })
    expect.equal(r.calls .. " " .. r.status, "1 " .. status)
    expect.equal(bullpen.benched("a"), false)
  end
end

function tests.test_A7_account_pool_at_most_max_and_1_accounts()
  expect.equal(trail("account_pool", { switches = 1 }, { "a", "b", "c" }, { 503 }), "a=503 b=503")
  local many = {}
  for i = 1, 14 do many[i] = "u" .. i end
  expect.equal(run("account_pool", nil, many, { 503 }).calls, 11)
end

function tests.test_A8_account_pool_sticks_and_lets_go()
  local policy, pool = sim.load "account_pool", sim.pool { "a", "b", "c" }
  local session = { headers = { ["x-session-id"] = "s" } }
  expect.equal(sim.run(policy, pool, { 200 }, session).trail, "a=200")
  expect.equal(sim.run(policy, pool, { 200 }, session).trail, "a=200", "though b was never used")
  expect.equal(sim.run(policy, pool, { 429, 200 }, session).trail, "a=429 b=200")
  fake.time = fake.time + 10
  expect.equal(sim.run(policy, pool, { 200 }, session).trail, "b=200")
  fake.time = fake.time + 3601
  expect.equal(sim.run(policy, pool, { 200 }, session).trail, "c=200", "an hour later it is like any other")
  expect.equal(trail("account_pool", { sticky = 0 }, { "a" }, { 200 }, session), "a=200")
end

function tests.test_A8_account_pool_sticks_by_previous_response_id()
  local policy, pool = sim.load "account_pool", sim.pool { "a", "b" }
  sim.run(policy, pool, { { status = 429, retry_after = 1 }, { status = 200, response_id = "resp_9" } })
  fake.time = fake.time + 60
  expect.equal(sim.run(policy, pool, { 200 }, { body = { previous_response_id = "resp_9" } }).trail, "b=200")
end

function tests.test_A10_account_pool_priority_then_least_recently_used()
  local policy = sim.load "account_pool"
  local pool = sim.pool { { name = "p1", priority = 1 }, "a", "b", "c" }
  local seen = {}
  for i = 1, 5 do
    seen[i] = next_up(policy, pool)
    fake.time = fake.time + 1
  end
  expect.list(seen, { "a", "b", "c", "a", "b" })
end

function tests.test_A9_a_recovered_request_counts_as_good_and_keeps_its_attempts()
  local r = run("account_pool", nil, { "a", "b" }, { 529, 200 })
  local last = r.events[#r.events]
  expect.list({ last.type, last.outcome, last.status, #r.attempts }, { "finished", "ok", 200, 2 })
end

-- ---- chain_with_bench ----

function tests.test_C1_chain_order_as_listed_benched_skipped()
  bullpen.bench("a/m", 60)
  expect.equal(trail("chain_with_bench", nil, { "a", "b", "c" }, { 200 }), "b=200")
end

function tests.test_C2_chain_3_tries_with_full_jitter_and_no_wait_when_it_changes()
  for _ = 1, 300 do
    fake.benches = {}
    local r = run("chain_with_bench", nil, { "a", "b" }, { 503 })
    expect.equal(r.calls, 6)
    for i, most in ipairs { 0.2, 0.4, 0, 0.2, 0.4 } do expect.equal(r.waits[i] >= 0 and r.waits[i] <= most, true) end
  end
  local policy = sim.load("chain_with_bench", { tries = 200 })
  local r = sim.run(policy, sim.pool { "a" }, { 503 }, { limit = 150 })
  expect.equal(r.calls, 150)
  for _, wait in ipairs(r.waits) do expect.equal(wait >= 0 and wait <= 10, true) end
end

function tests.test_C3_chain_classes()
  expect.equal(trail("chain_with_bench", nil, { "a" }, { 503 }), "a=503 a=503 a=503")
  fake.reset()
  expect.equal(trail("chain_with_bench", nil, { "a", "b" }, { 401, 200 }), "a=401 b=200")
  expect.equal(bullpen.benched("a"), true, "the whole upstream")
  fake.reset()
  expect.equal(trail("chain_with_bench", nil, { "a", "b" }, { 403, 200 }), "a=403 b=200")
  expect.equal(bullpen.benched("a/m") and not bullpen.benched("a"), true, "the candidate")
  fake.reset()
  expect.equal(trail("chain_with_bench", nil, { "a", "b" }, { 400, 200 }), "a=400")
  expect.equal(bullpen.benched("a/m"), false)
end

function tests.test_C4_chain_benches_300_s_and_again_after_it()
  local policy, pool = sim.load "chain_with_bench", sim.pool { "a", "b" }
  sim.run(policy, pool, { 503, 503, 503, 200 })
  local _, till = bullpen.benched("a/m")
  expect.near(till - fake.time, 300, 1e-6)
  local short = sim.load("chain_with_bench", { bench = 20, tries = 1 })
  fake.benches = {}
  sim.run(short, pool, { 503, 200 })
  _, till = bullpen.benched("a/m")
  expect.near(till - fake.time, 20, 1e-6)
end

function tests.test_C5_chain_all_benched_is_still_called_soonest_back_first()
  bullpen.bench("a/m", 500)
  bullpen.bench("b/m", 100)
  expect.equal(trail("chain_with_bench", nil, { "a", "b" }, { 200 }), "b=200")
end

function tests.test_C6_chain_an_operators_bench_is_last()
  bullpen.bench("a/m", 5)
  fake.benches["a/m"].manual = true
  bullpen.bench("b/m", 500)
  expect.equal(trail("chain_with_bench", nil, { "a", "b" }, { 200 }), "b=200")
end

-- litellm#34399, bifrost#6971
function tests.test_section_3_chain_obeys_retry_after_elsewhere_or_waits_for_it()
  local r = run("chain_with_bench", nil, { "a", "b" }, { { status = 429, retry_after = 42 }, 200 })
  expect.equal(r.trail, "a=429 b=200")
  local _, till = bullpen.benched("a/m")
  expect.near(till - fake.time, 42, 1e-6)
  fake.reset()
  r = run("chain_with_bench", nil, { "a" }, { { status = 429, retry_after = 7 }, 200 })
  expect.list(r.waits, { 7 })
  fake.reset()
  r = run("chain_with_bench", nil, { "a" }, { { status = 429, retry_after = 11 }, 200 })
  expect.equal(r.trail .. " " .. r.status, "a=429 502", "longer than 10 s is nobody's to wait for")
end

-- litellm#34416
function tests.test_section_3_a_failed_fallback_is_benched_too()
  local policy, pool = sim.load "chain_with_bench", sim.pool { "a", "b", "c" }
  sim.run(policy, pool, { 503, 503, 503, 500, 500, 500, 200 })
  expect.equal(bullpen.benched("a/m") and bullpen.benched("b/m") and not bullpen.benched("c/m"), true)
end

-- ---- all of them ----

local ALL = { "priority", "weighted", "first_event", "account_pool", "chain_with_bench" }

-- mnfst#1119: the chain looped 75 times.
function tests.test_section_3_attempts_never_multiply_and_nobody_is_tried_again_after_it_was_left()
  for _, name in ipairs(ALL) do
    for _, answer in ipairs { 503, 429, "reset", "empty", "stream_error", 401, "headers_timeout" } do
      fake.reset()
      local r = run(name, nil, { "a", "b", "c", "d", "e" }, { answer })
      local left, now = {}, nil
      for _, a in ipairs(r.attempts) do
        if now and now ~= a.candidate.name then left[now] = true end
        now = a.candidate.name
        expect.equal(left[now], nil, name .. " " .. answer .. ": comes back to " .. now)
        expect.equal(a.try <= 3, true)
      end
      expect.equal(r.calls <= 15, true)
    end
  end
end

-- bifrost#4788: what attempt 1 left behind.
function tests.test_section_3_one_request_leaves_nothing_in_the_next()
  for _, name in ipairs(ALL) do
    fake.reset()
    local policy = sim.load(name)
    for _ = 1, 50 do
      fake.benches, fake.store, fake.used = {}, {}, {}
      local r = sim.run(policy, sim.pool { "a" }, { 503, 503, 503, 503 })
      expect.equal(r.calls, name == "first_event" and 1 or name == "account_pool" and 1 or name == "chain_with_bench" and 3 or 2, name)
    end
  end
end

function tests.test_one_candidate_that_is_good_is_one_call_without_waiting()
  for _, name in ipairs(ALL) do
    local r = run(name, nil, { "a", "b" }, { 200 })
    expect.equal(r.calls .. " " .. #r.waits, "1 0", name)
  end
end

function tests.test_nothing_overflows_at_attempt_1000()
  for _, name in ipairs(ALL) do
    local policy, request = sim.load(name), sim.request()
    local a = { number = 1000, try = 1000, candidate = sim.pool({ "a" })[1], outcome = "status", status = 503, started = 0 }
    local wait = policy.backoff(request, a)
    expect.equal(wait >= 0 and wait <= 10, true, name)
    expect.equal(policy.classify(request, a), "next", name)
  end
end

function tests.test_unknown_and_wrong_options_are_load_errors_that_name_the_policy()
  for _, name in ipairs(ALL) do expect.raises("options.trys", sim.load, name, { trys = 1 }) end
  expect.raises("priority: retries: a number is expected, not a string", sim.load, "priority", { retries = "1" })
  expect.raises("priority: order", sim.load, "priority", { order = 5 })
  expect.raises("'ascending' or 'descending'", sim.load, "priority", { order = "up" })
  expect.raises("entry 1: 'x' is no status", sim.load, "weighted", { statuses = { "x" } })
  expect.raises("weighted: base: a number of 0 or more", sim.load, "weighted", { base = -1 })
  expect.raises("rules[1]: unknown option 'word'", sim.load, "account_pool", { rules = { { word = "x", minutes = 1 } } })
  expect.raises("rules[1]: minutes, and a status", sim.load, "account_pool", { rules = { { minutes = 1 } } })
end

function tests.test_options_and_defaults_are_as_documented()
  local function flat(value)
    if type(value) ~= "table" then return tostring(value) end
    local keys, parts = {}, {}
    for key in pairs(value) do keys[#keys + 1] = key end
    table.sort(keys, function(x, y) return tostring(x) < tostring(y) end)
    for i, key in ipairs(keys) do parts[i] = (math.type(key) == "integer" and key < 100 and "" or key .. "=") .. flat(value[key]) end
    return "{" .. table.concat(parts, " ") .. "}"
  end
  for name, options in pairs {
    priority = "{fallbacks=2 order=ascending retries=1 statuses={408 429 5xx}}",
    weighted = "{base=0.1 candidates=3 cap=5 jitter=0.1 statuses={429 500 502 503 504} tries=2}",
    first_event = "{statuses={429 502 503 504 520 522 524 529}}",
    account_pool = "{cooldown={401=600 403=600 429=5 529=600} rules={} statuses={401 403 429 529 5xx} sticky=3600 "
      .. "sticky_by={previous_response_id x-session-id} switches=10}",
    chain_with_bench = "{base=0.2 bench=300 cap=10 tries=3}",
  } do
    expect.equal(flat(sim.load(name).options), options, name)
  end
end

return tests
