-- bullpen.budget and bullpen.breaker: when enough is enough.
local breaker = require "bullpen.breaker"
local budget = require "bullpen.budget"
local classify = require "bullpen.classify"
local expect = require "expect"
local fake = require "fake"
local select = require "bullpen.select"
local sim = require "sim"

local tests = {}

local function always_next() return "next" end

-- ---- budgets ----

function tests.test_token_bucket_stops_at_half_and_fills_up_with_successes()
  local policy = {}
  policy.classify, policy.observe = budget.tokens(always_next, { tokens = 10, ratio = 0.5 })
  local function verdict()
    return (policy.classify(sim.request(), { try = 1, outcome = "status", status = 503 }))
  end
  local counted = {}
  for i = 1, 6 do counted[i] = verdict() end
  expect.list(counted, { "next", "next", "next", "next", "accept", "accept" }) -- 9 8 7 6 | 5 4
  for _ = 1, 4 do policy.observe { type = "finished", outcome = "ok" } end -- 4 + 2
  expect.equal(verdict(), "accept") -- 5 left
  for _ = 1, 3 do policy.observe { type = "finished", outcome = "ok" } end
  expect.equal(verdict(), "next") -- 5.5 left
  expect.equal(verdict(), "accept") -- 4.5
  for _ = 1, 100 do policy.observe { type = "finished", outcome = "ok" } end
  expect.equal(bullpen.shared.get("budget/tokens/default"), 10, "never over its size")
  for _ = 1, 100 do verdict() end
  expect.equal(bullpen.shared.get("budget/tokens/default"), 0, "never under nothing")
end

function tests.test_token_bucket_is_of_the_whole_process_and_keeps_benches()
  local inner = function() return "next", { bench = 60 } end
  local one = budget.tokens(inner, { tokens = 2 })
  local two = budget.tokens(inner, { tokens = 2 })
  expect.equal((one(sim.request(), {})), "accept")
  local verdict, details = two(sim.request(), {})
  expect.equal(verdict .. details.bench, "accept60")
end

function tests.test_percentage_of_the_window_and_a_least()
  local part, count = budget.percentage(always_next, { percent = 20, window = 10, least = 0.2 })
  local function allowed()
    local n = 0
    while (part(sim.request(), {})) == "next" do n = n + 1 end
    return n
  end
  expect.equal(allowed(), 2, "the least: 0.2 a second for 10 s")
  fake.time = fake.time + 20
  for i = 1, 100 do
    count { type = "finished" }
    if i % 20 == 0 then fake.time = fake.time + 1 end
  end
  expect.equal(allowed(), 22, "20 % of 100 and the least")
  fake.time = fake.time + 15
  expect.equal(allowed(), 2, "what is out of the window counts no more")
end

-- ---- breakers ----

-- litellm#34836
function tests.test_section_3_straight_500s_bench()
  local policy = { classify = breaker.consecutive(classify.rules { { on = { "5xx" } } }, { failures = 5, bench = 30 }) }
  local pool = sim.pool { "a" }
  for i = 1, 4 do
    sim.run(policy, pool, { 500 })
    expect.equal(bullpen.benched("a/m"), false, "after " .. i)
  end
  sim.run(policy, pool, { 500 })
  expect.equal(bullpen.benched("a/m"), true)
  fake.benches = {}
  sim.run(policy, pool, { 200 })
  sim.run(policy, pool, { 500 })
  expect.equal(bullpen.benched("a/m"), false, "a success ends the row")
end

function tests.test_a_retry_of_who_is_benched_becomes_next()
  local part = breaker.consecutive(function() return "retry", { delay = 3 } end, { failures = 1, bench = 30 })
  local verdict, details = part(sim.request(), { candidate = sim.pool({ "a" })[1], try = 1 })
  expect.equal(verdict .. details.bench .. tostring(details.delay), "next30nil")
end

function tests.test_ratio_needs_its_volume()
  local part, observe = breaker.ratio(always_next, { ratio = 0.5, volume = 10, window = 30, bench = 40 })
  local a = { candidate = sim.pool({ "a" })[1], try = 1 }
  for i = 1, 9 do
    local _, details = part(sim.request(), a)
    expect.equal(details, nil, "after " .. i)
  end
  local _, details = part(sim.request(), a)
  expect.equal(details.bench .. details.reason, "4010 of 10 failed")
  for _ = 1, 30 do observe { type = "committed", candidate = "a/m" } end
  _, details = part(sim.request(), a)
  expect.equal(details, nil, "11 of 41")
  fake.time = fake.time + 100
  _, details = part(sim.request(), a)
  expect.equal(details, nil, "a window later it begins anew")
end

-- litellm#40130: a second failure must extend, not shorten.
function tests.test_section_3_benches_grow_and_are_forgotten()
  local grow, a = breaker.growing { base = 30, cap = 200, forget = 1000 }, { candidate = sim.pool({ "a" })[1] }
  local list = {}
  for i = 1, 5 do
    a.started = fake.time
    list[i] = grow(nil, a)
    a.started = fake.time - 5
    expect.equal(grow(nil, a), list[i], "an attempt begun before the bench does not count again")
    fake.time = fake.time + 100
  end
  expect.list(list, { 30, 60, 120, 200, 200 })
  fake.time, a.started = fake.time + 1001, fake.time + 1001
  expect.equal(grow(nil, a), 30)
end

function tests.test_A4_the_third_strike_within_3_hours()
  local out, a = breaker.strikes { count = 3, within = 10800 }, { candidate = sim.pool({ "a" })[1] }
  local function strike(after, started)
    fake.time = fake.time + after
    a.started = started or fake.time
    return out(a)
  end
  expect.equal(strike(0), false)
  expect.equal(strike(0.1, fake.time - 1), false, "begun before the first strike: the same one")
  expect.equal(strike(10000), false)
  expect.equal(strike(10000), false, "the first is 20,000 s ago")
  expect.equal(strike(700), true, "the last three are within 10,700 s")
end

function tests.test_slow_start_gives_back_step_by_step_and_never_nobody()
  local pick, observe = breaker.slow_start(select.weighted(), { window = 100, floor = 0.1 })
  local pool = sim.pool { "a", "b" }
  observe { type = "unbenched", candidate = "a/m" }
  local function share()
    local n = 0
    for _ = 1, 4000 do
      if pick(sim.request(), pool, {}).upstream == "a" then n = n + 1 end
    end
    return n / 4000
  end
  expect.near(share(), 0.05, 0.02) -- a tenth of its half
  fake.time = fake.time + 50
  expect.near(share(), 0.25, 0.03)
  fake.time = fake.time + 51
  expect.near(share(), 0.5, 0.03)
  observe { type = "unbenched", candidate = "b/m" }
  expect.equal(pick(sim.request(), sim.pool { "b" }, {}).upstream, "b", "alone it is taken")
end

function tests.test_misuse_raises_where_the_caller_stands()
  for _, case in ipairs {
    { "a function is expected", budget.tokens }, { "1 or more", budget.tokens, always_next, { tokens = 0.5 } },
    { "1 to 60", budget.percentage, always_next, { window = 100 } }, { "unknown option 'volum'", breaker.ratio, always_next, { volum = 1 } },
    { "a function is expected", breaker.consecutive }, { "forget", breaker.growing, { forget = 0 } },
    { "a strategy is expected", breaker.slow_start }, { "1 or more within", breaker.strikes, { count = 0 } },
  } do
    local why = expect.raises(case[1], function() local x = case[2](case[3], case[4]) return x end)
    expect.equal(why:match("^[^:]+"), "tests/lua/budget_breaker_test.lua", case[1])
  end
end

return tests
