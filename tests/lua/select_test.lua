-- bullpen.select and bullpen.filters: who is next, by arithmetic and order.
local expect = require "expect"
local fake = require "fake"
local filters = require "bullpen.filters"
local select = require "bullpen.select"
local sim = require "sim"

local tests = {}

local function order_of(strategy, pool, request)
  local picked, attempts = {}, {}
  request = sim.request(request)
  for _, c in ipairs(pool) do c.tried = 0 end
  while true do
    local c = strategy(request, pool, attempts)
    if not c then return picked end
    c = c.use or c
    c.tried = 1
    attempts[#attempts + 1] = { number = #attempts + 1, try = 1, candidate = c }
    picked[#picked + 1] = c.upstream
  end
end

local function first_of(strategy, pool, request)
  local c = strategy(sim.request(request), pool, {})
  return c and (c.use or c).upstream
end

function tests.test_in_order_is_as_listed_and_ends()
  expect.list(order_of(select.in_order(), sim.pool { "a", "b", "c" }), { "a", "b", "c" })
end

function tests.test_C1_the_second_is_next_while_the_first_is_benched()
  local pool = sim.pool { { name = "a", benched = true, bench_until = 9 }, "b" }
  expect.equal(first_of(select.in_order(), pool), "b")
end

-- Every strategy keeps to it, whatever its preference is.
function tests.test_C5_all_benched_soonest_back_first_manual_last_full_never()
  local function benched(name, till, manual, reason)
    return { name = name, benched = true, bench_until = till, manual = manual or false, bench_reason = reason or "x" }
  end
  for name, make in pairs { in_order = select.in_order, weighted = select.weighted, fastest = select.fastest,
                            lru = select.least_recently_used, inflight = select.least_inflight,
                            priority = select.by_priority } do
    local pool = sim.pool { benched("a", 500), benched("m", 10, true), benched("f", 1, false, "full"), benched("b", 300),
                            benched("l", math.huge) }
    expect.list(order_of(make(), pool), { "b", "a", "l", "m" }, name)
  end
end

function tests.test_P2_lower_priority_first_then_as_listed()
  local pool = sim.pool { { name = "a", priority = 2 }, { name = "b", priority = 1 }, { name = "c", priority = 1 },
                          { name = "d", priority = -3 } }
  expect.list(order_of(select.by_priority(), pool), { "d", "b", "c", "a" })
  expect.list(order_of(select.by_priority(nil, { order = "descending" }), pool), { "a", "b", "c", "d" })
end

function tests.test_priority_groups_are_ordered_within_by_another_strategy()
  local pool = sim.pool { { name = "a", priority = 1, inflight = 0 }, { name = "b", inflight = 5 }, { name = "c", inflight = 2 } }
  expect.list(order_of(select.by_priority(select.least_inflight()), pool), { "c", "b", "a" })
end

-- 10,000 draws: the first place within 2 % of the weights.
local function shares(weights)
  local list = {}
  for i, weight in ipairs(weights) do list[i] = { name = "u" .. i, weight = weight } end
  local pool, strategy, request = sim.pool(list), select.weighted(), sim.request()
  local count = {}
  for _ = 1, 10000 do
    local c = strategy(request, pool, {})
    count[c.upstream] = (count[c.upstream] or 0) + 1
  end
  local total = 0
  for _, w in ipairs(weights) do total = total + w end
  for i, w in ipairs(weights) do
    expect.near((count["u" .. i] or 0) / 10000, w / total, 0.02, #weights .. " candidates, number " .. i)
  end
end

function tests.test_W1_weights_hold_for_2_candidates() shares { 3, 1 } end
function tests.test_W1_weights_hold_for_3_candidates() shares { 5, 3, 2 } end
function tests.test_W1_weights_hold_for_7_candidates() shares { 7, 6, 5, 4, 3, 2, 1 } end
function tests.test_W1_weights_hold_for_fractions_and_zero() shares { 0.5, 0, 0.25, 0.25 } end

function tests.test_W1_without_replacement_and_zero_is_never_first_unless_all_are()
  local pool = sim.pool { { name = "z", weight = 0 }, { name = "a", weight = 3 }, { name = "b", weight = 0.001 } }
  for _ = 1, 500 do
    local picked = order_of(select.weighted(), pool)
    expect.equal(#picked, 3)
    expect.equal(picked[3], "z")
  end
  local zeros, seen = sim.pool { { name = "a", weight = 0 }, { name = "b", weight = 0 } }, {}
  for _ = 1, 200 do seen[first_of(select.weighted(), zeros)] = true end
  expect.equal(seen.a and seen.b, true, "both come when all are zero")
end

-- The second place, given the first: without replacement means the other weights are kept among themselves.
function tests.test_W1_the_second_draw_is_weighted_too()
  local count, n = 0, 0
  for _ = 1, 10000 do
    local picked = order_of(select.weighted(), sim.pool { { name = "a", weight = 2 }, { name = "b", weight = 3 }, { name = "c", weight = 1 } })
    if picked[1] == "a" then
      n = n + 1
      if picked[2] == "b" then count = count + 1 end
    end
  end
  expect.near(count / n, 0.75, 0.03)
end

function tests.test_A10_never_used_then_oldest_use_then_as_listed()
  local pool = sim.pool { { name = "a", last_used = 50 }, { name = "b", last_used = 10 }, "c", { name = "d", last_used = 10 } }
  expect.list(order_of(select.least_recently_used(), pool), { "c", "b", "d", "a" })
end

function tests.test_least_inflight_and_lowest()
  local pool = sim.pool { { name = "a", inflight = 2, price = { input = 5 } }, { name = "b", inflight = 1, price = {} },
                          { name = "c", inflight = 1, price = { input = 1 } } }
  expect.list(order_of(select.least_inflight(), pool), { "b", "c", "a" })
  local cheapest = select.lowest(function(c) return c.price.input or math.huge end)
  expect.list(order_of(cheapest, pool), { "c", "a", "b" })
end

function tests.test_fastest_prefers_the_faster_and_measures_the_unknown()
  local pool, count = sim.pool { { name = "slow", latency = 2 }, { name = "mid", latency = 1 }, { name = "fast", latency = 0.1 } }, {}
  for _ = 1, 3000 do
    local name = first_of(select.fastest(), pool)
    count[name] = (count[name] or 0) + 1
  end
  expect.equal(count.slow, nil, "the slowest of three never wins a pair")
  expect.near(count.fast / 3000, 2 / 3, 0.03)
  expect.equal(first_of(select.fastest(), sim.pool { { name = "slow", latency = 2 }, "new" }), "new")
end

function tests.test_P4_A7_a_bound_counts_candidates_that_were_really_tried()
  local pool, attempts = sim.pool { "a", "b", "c" }, {}
  local strategy = select.bounded(select.in_order(), 2)
  pool[1].tried = 3
  for i = 1, 3 do attempts[i] = { number = i, try = i, candidate = pool[1] } end
  expect.equal(strategy(sim.request(), pool, attempts).upstream, "b", "three tries are one candidate")
  attempts[4] = { number = 4, try = 1, candidate = pool[2] }
  pool[2].tried = 1
  expect.equal(strategy(sim.request(), pool, attempts), false)
end

-- ---- sticky ----

local function sticky_policy(options, inner)
  local policy = { classify = function() return "next", { bench = 60 } end }
  policy.select, policy.observe = select.sticky(inner or select.in_order(), options)
  return policy
end

function tests.test_A8_a_session_stays_and_is_let_go_when_its_upstream_is_benched()
  local policy, pool = sticky_policy { by = { "x-session-id" }, ttl = 100 }, sim.pool { "a", "b", "c" }
  local session = { headers = { ["x-session-id"] = "s" } }
  expect.equal(sim.run(policy, pool, { 429, 200 }, session).trail, "a=429 b=200")
  fake.benches = {}
  expect.equal(sim.run(policy, pool, { 200 }, session).trail, "b=200", "it went to b, and stays there")
  expect.equal(sim.run(policy, pool, { 200 }).trail, "a=200", "others are not bound")
  bullpen.bench("b", 60)
  expect.equal(sim.run(policy, pool, { 200 }, session).trail, "a=200", "affinity never blocks failover (new-api#4541)")
  fake.benches = {}
  expect.equal(sim.run(policy, pool, { 200 }, session).trail, "a=200", "and it is bound anew")
end

function tests.test_A8_a_binding_ends_with_its_time_and_is_renewed_by_use()
  local policy, pool = sticky_policy { by = { "x-session-id" }, ttl = 100 }, sim.pool { "a", "b" }
  local session = { headers = { ["x-session-id"] = "s" } }
  bullpen.bench("a", 10)
  sim.run(policy, pool, { 200 }, session)
  fake.time = fake.time + 90
  expect.equal(sim.run(policy, pool, { 200 }, session).trail, "b=200")
  fake.time = fake.time + 90
  expect.equal(sim.run(policy, pool, { 200 }, session).trail, "b=200", "used 90 s ago")
  fake.time = fake.time + 101
  expect.equal(sim.run(policy, pool, { 200 }, session).trail, "a=200")
end

function tests.test_A8_previous_response_id_goes_where_the_answer_was_made()
  local policy, pool = sticky_policy { by = { "previous_response_id" } }, sim.pool { "a", "b" }
  bullpen.bench("a", 10)
  sim.run(policy, pool, { { status = 200, response_id = "resp_1" } })
  fake.benches = {}
  expect.equal(sim.run(policy, pool, { 200 }, { body = { previous_response_id = "resp_1" } }).trail, "b=200")
  expect.equal(sim.run(policy, pool, { 200 }, { body = { previous_response_id = "resp_2" } }).trail, "a=200")
end

function tests.test_sticky_keys_are_of_one_client_and_of_any_length()
  local policy, pool = sticky_policy { by = { "user" } }, sim.pool { "a", "b" }
  local long = ("x"):rep(5000)
  bullpen.bench("a", 10)
  sim.run(policy, pool, { 200 }, { body = { user = long }, client = { name = "one", tags = {} } })
  fake.benches = {}
  expect.equal(sim.run(policy, pool, { 200 }, { body = { user = long }, client = { name = "one", tags = {} } }).trail, "b=200")
  expect.equal(sim.run(policy, pool, { 200 }, { body = { user = long }, client = { name = "two", tags = {} } }).trail, "a=200")
end

function tests.test_sticky_by_a_function_and_a_failed_request_binds_nobody()
  local policy = sticky_policy { by = { function(request) return request.headers["x-team"] end } }
  local pool, team = sim.pool { "a", "b" }, { headers = { ["x-team"] = "t" } }
  expect.equal(sim.run(policy, pool, { 500 }, team).trail, "a=500 b=500")
  fake.benches = {}
  expect.equal(sim.run(policy, pool, { 200 }, team).trail, "a=200")
end

-- ---- filters ----

function tests.test_filters_compose_and_say_whom_they_left_out()
  local pool = sim.pool { { name = "a", tags = { region = "us" } }, { name = "b", tags = { region = "eu", tier = "batch" } },
                          { name = "c", tags = { region = "eu" } } }
  local strategy = filters.only(select.in_order(), filters.tag("region", "eu"), filters.tag("tier"))
  local picked = strategy(sim.request(), pool, {})
  expect.equal(picked.use.upstream, "b")
  expect.equal(picked.skip["a/m"], "region is not eu")
  expect.equal(picked.skip["c/m"], "no tag tier")
  local nobody, why = filters.only(select.in_order(), filters.tag("region", "mars"))(sim.request(), pool, {})
  expect.equal(nobody, false)
  expect.equal(why, "no candidate fits the request")
end

function tests.test_prefer_falls_back_to_the_others()
  local pool = sim.pool { "a", { name = "b", tags = { region = "eu" } } }
  expect.list(order_of(filters.prefer(select.in_order(), filters.tag("region", "eu")), pool), { "b", "a" })
end

function tests.test_not_benched_gives_up_where_a_strategy_would_try()
  local pool = sim.pool { { name = "a", benched = true, bench_until = 9, bench_reason = "x" } }
  expect.equal(first_of(select.in_order(), pool), "a")
  expect.equal((filters.only(select.in_order(), filters.not_benched())(sim.request(), pool, {})), false)
end

function tests.test_a_client_is_pinned_to_its_upstreams()
  local strategy = filters.only(select.in_order(), filters.client { one = { "b" }, ["*"] = { "a", "c/m" } })
  local pool = sim.pool { "a", "b", "c" }
  expect.list(order_of(strategy, pool, { client = { name = "one", tags = {} } }), { "b" })
  expect.list(order_of(strategy, pool, { client = { name = "two", tags = {} } }), { "a", "c" })
  expect.list(order_of(strategy, pool), { "a", "c" })
end

-- litellm#31557: a fallback with a smaller window.
function tests.test_section_3_a_request_never_goes_to_a_smaller_context_window()
  local strategy = filters.only(select.in_order(), filters.context())
  local pool = sim.pool { { name = "small", tags = { context = 8000 } }, { name = "big", tags = { context = 128000 } }, "unknown" }
  expect.list(order_of(strategy, pool, { body_size = 4000 }), { "small", "big", "unknown" })
  expect.list(order_of(strategy, pool, { body_size = 40000 }), { "big", "unknown" })
  expect.list(order_of(strategy, pool, { body_size = 4000, body = { max_tokens = 7500 } }), { "big", "unknown" })
end

-- ---- misuse ----

function tests.test_misuse_raises_where_the_caller_stands()
  for _, case in ipairs {
    { "options is expected", select.by_priority, nil, 5 }, { "unknown option 'oder'", select.by_priority, nil, { oder = 1 } },
    { "'ascending' or 'descending'", select.by_priority, nil, { order = "up" } },
    { "a strategy is expected", select.bounded, 1 }, { "1 or more", select.bounded, select.in_order(), 0 },
    { "a function or a field is expected", select.lowest }, { "a function is expected", select.choose, {} },
    { "a strategy is expected", select.sticky }, { "ttl", select.sticky, select.in_order(), { ttl = 0 } },
    { "by[1]", select.sticky, select.in_order(), { by = { 5 } } }, { "a filter is expected", filters.only, select.in_order(), 1 },
    { "a name is expected", filters.tag }, { "a list is expected", filters.client, { a = "b" } },
    { "a number is expected, not a string", filters.context, { bytes_per_token = "4" } },
    { "0 or more", filters.context, { bytes_per_token = -1 } },
  } do
    local f, a, b = case[2], case[3], case[4]
    local why = expect.raises(case[1], function() local x = f(a, b) return x end)
    expect.equal(why:match("^[^:]+"), "tests/lua/select_test.lua", case[1])
  end
end

return tests
