-- bullpen.classify: what a failure means.
local classify = require "bullpen.classify"
local expect = require "expect"
local fake = require "fake"
local sim = require "sim"

local tests = {}

local function attempt(fields)
  local a = { number = 1, try = 1, candidate = sim.pool({ "a" })[1], outcome = "status", started = fake.time }
  if type(fields) == "number" then fields = { status = fields } end
  if type(fields) == "string" then fields = { outcome = fields } end
  for key, value in pairs(fields) do a[key] = value end
  return a
end

local function said(part, fields) return part(sim.request(), attempt(fields)) end

function tests.test_match_takes_statuses_ranges_outcomes_and_groups()
  local m = classify.match { 429, "5xx", "410-412", "reset", "timeout" }
  for _, good in ipairs { 429, 500, 529, 599, 410, 412, "reset", "idle_timeout", "connect_timeout" } do
    expect.equal(m(attempt(good)), true, tostring(good))
  end
  for _, bad in ipairs { 400, 428, 413, 600, "dns", "stream_error", "empty" } do
    expect.equal(m(attempt(bad)), bad == "stream_error", tostring(bad)) -- an unknown error event stands for a 502
  end
  expect.equal(classify.match { "transport" } (attempt "wrong_type"), true)
  expect.equal(classify.match { 429 } (attempt { outcome = "stream_error", error = { type = "rate_limit_error" } }), true)
end

function tests.test_rules_go_from_the_top_and_count_tries()
  local part = classify.rules {
    { on = { 403 }, keywords = { "Suspended" }, verdict = "next", bench = 1800, scope = "upstream" },
    { codes = { "Weird_Code" }, verdict = "stop" },
    { on = { "4xx", "5xx" }, tries = 3, bench = 60, reason = "bad" },
  }
  local verdict, d = said(part, { status = 403, body = "account SUSPENDED, sorry" })
  expect.equal(verdict .. d.bench .. d.key, "next1800a")
  expect.equal(said(part, { status = 403, body = "no" }), "retry")
  expect.equal(said(part, { status = 500, try = 2 }), "retry")
  verdict, d = said(part, { status = 500, try = 3 })
  expect.equal(verdict .. d.bench .. d.reason .. tostring(d.key), "next60badnil")
  expect.equal(said(part, { status = 302, error = { code = "weird_code" } }), "stop")
  expect.equal(said(part, { outcome = "reset" }), nil)
  expect.equal(said(part, { outcome = "ok", status = 200 }), nil)
end

function tests.test_A5_a_keyword_counts_in_any_case_and_in_the_body_as_it_was_kept()
  local part = classify.rules { { keywords = { "Out Of CREDIT" }, verdict = "next", bench = 60 } }
  expect.equal(said(part, { status = 400, body = ("x"):rep(60000) .. "out of credit" }), "next")
  expect.equal(said(part, { status = 400, body = "credit" }), nil)
  expect.equal(said(part, { status = 400 }), nil)
  expect.equal(said(part, { outcome = "stream_error", error = { message = "OUT of credit" } }), "next")
end

-- Whatever the status is.
function tests.test_A6_what_every_candidate_would_say_is_accepted_and_benches_nobody()
  local part = classify.first_of(classify.deterministic(), classify.rules { { on = { "4xx", "5xx" }, bench = 60 } })
  for _, status in ipairs { 400, 413, 429, 500, 529 } do
    local verdict, d = said(part, { status = status, error = { code = "context_length_exceeded" } })
    expect.equal(verdict, "accept", tostring(status))
    expect.equal(d.bench, nil)
    expect.equal(said(part, { status = status, error = { message = "Prompt is too long: 300000 tokens" } }), "accept")
  end
  expect.equal(said(part, { status = 400, error = { message = "something else" } }), "next", "a bare 400 says nothing of that")
end

function tests.test_kinds_codes_before_statuses()
  for _, case in ipairs {
    { "transient", 503 }, { "transient", 408 }, { "transient", 529 }, { "auth_dead", 401 }, { "auth_dead", 402 },
    { "auth_dead", 403 }, { "request_specific", 400 }, { "request_specific", 404 }, { "request_specific", 422 },
    { "other", 418 }, { "other", 501 }, { "other", 302 }, { "transient", "reset" }, { "transient", "stream_error" },
    { "auth_dead", { status = 429, error = { code = "insufficient_quota" } } },
    { "transient", { status = 429, error = { code = "rate_limit_exceeded" } } },
    { "auth_dead", { status = 400, error = { message = "Your credit balance is too low to access the API" } } },
    { "request_specific", { status = 500, error = { type = "ResponsibleAIPolicyViolation" } } },
    { "model_missing", { status = 404, error = { code = "model_not_found" } } },
    { "model_missing", { status = 404, error = { message = "The model `x` does not exist" } } },
    { "request_specific", { status = 404, error = { message = "No such file '/models/model'" } } },
    { "request_specific", { status = 404, error = { code = "file_not_found", message = "the model file" } } },
    { "transient", { outcome = "stream_error", error = { type = "overloaded_error" } } },
    { "request_specific", { outcome = "stream_error", error = { type = "invalid_request_error" } } },
  } do
    expect.equal((classify.kind(attempt(case[2]))), case[1], tostring(case[2]))
  end
  local _, scope = classify.kind(attempt(403))
  expect.equal(scope, "candidate")
  _, scope = classify.kind(attempt(401))
  expect.equal(scope, "upstream")
end

function tests.test_quota_is_told_by_its_code_and_benches_the_upstream()
  local part = classify.first_of(classify.quota { bench = 3600 }, classify.rules { { on = { 429 }, tries = 2 } })
  local verdict, d = said(part, { status = 429, error = { code = "insufficient_quota" } })
  expect.equal(verdict .. d.bench .. d.key, "next3600a")
  expect.equal(said(part, { status = 429, error = { code = "rate_limit_exceeded" } }), "retry")
  expect.equal(said(part, 401), nil, "a dead key is not a quota")
end

function tests.test_A1_A2_passthrough_is_left_for_429_529_and_the_network_alone()
  local part = classify.passthrough(30)
  local through = sim.pool { { name = "p", passthrough = true } }
  local function of(answer)
    local number = type(answer) == "number"
    return said(part, { candidate = through[1], status = number and answer or nil, outcome = number and "status" or answer })
  end
  expect.equal(of(429), "next")
  expect.equal(of(529), "next")
  expect.equal(of("connect"), "next")
  expect.equal(of(503), "accept")
  expect.equal(of(400), "accept")
  expect.equal(said(part, 503), nil, "others are not its business")
end

-- litellm#34399, bifrost#6971
function tests.test_section_3_a_bench_is_as_long_as_the_upstream_says()
  local seconds = classify.until_reset(5)
  expect.equal(seconds(nil, attempt { status = 429, retry_after = 42.5 }), 42.5)
  expect.equal(seconds(nil, attempt { status = 429 }), 5)
  expect.equal(seconds(nil, attempt { status = 429, retry_after = 0 }), 5)
  expect.equal(classify.until_reset(5, 60)(nil, attempt { retry_after = 3600 }), 60)
end

-- gpt-load#143, #319: an address-wide limit burns the whole pool of keys.
function tests.test_section_3_the_same_error_from_all_counts_against_none()
  local inner = classify.rules { { on = { 429, 500 }, bench = 60 } }
  local policy = { select = require("bullpen.select").bounded(require("bullpen.select").in_order(), 2) }
  policy.classify, policy.exhausted = classify.same_everywhere(inner)
  local pool = sim.pool { "a", "b", "c" }
  expect.equal(sim.run(policy, pool, { 429 }).trail, "a=429 b=429")
  expect.equal(bullpen.benched("a/m") or bullpen.benched("b/m"), false)
  sim.run(policy, pool, { 429 })
  expect.equal(bullpen.benched("a/m"), true, "once in 30 s")
  fake.benches, fake.time = {}, fake.time + 100
  sim.run(policy, pool, { 429, 500 })
  expect.equal(bullpen.benched("a/m") and bullpen.benched("b/m"), true, "different ways are two failures")
  fake.benches, fake.time = {}, fake.time + 100
  bullpen.bench("a/m", 1000)
  bullpen.bench("c/m", 1000)
  bullpen.bench("b/m", 2000)
  sim.run(policy, pool, { 429 })
  expect.equal(select(2, bullpen.benched("a/m")), fake.time + 1000, "what was benched before stays")
end

function tests.test_kinds_fills_in_the_kind_and_accepts_what_it_has_no_word_for()
  local part = classify.kinds { transient = function() return "next", { bench = 1 } end }
  local verdict, d = said(part, 503)
  expect.equal(verdict .. d.kind .. d.bench, "nexttransient1")
  verdict, d = said(part, 401)
  expect.equal(verdict .. d.kind, "acceptauth_dead")
end

-- litellm#40406
function tests.test_section_3_a_refusal_is_routed_around_only_when_a_policy_says_so()
  local refusal = { status = 400, error = { code = "content_filter" } }
  expect.equal(said(classify.first_of(classify.deterministic(), classify.rules { { on = { "4xx" } } }), refusal), "accept")
  expect.equal(said(classify.rules { { codes = { "content_filter" }, verdict = "next" } }, refusal), "next")
end

function tests.test_misuse_raises_where_the_caller_stands()
  for _, case in ipairs {
    { "row 1: unknown option 'stat'", classify.rules, { { stat = { 5 } } } }, { "is no verdict", classify.rules, { { verdict = "go" } } },
    { "row 1: entry 1: '9xx'", classify.rules, { { on = { "9xx" } } } }, { "row 2: a table", classify.rules, { {}, 5 } },
    { "bench: seconds or a function", classify.rules, { { bench = "5m" } } }, { "scope", classify.rules, { { scope = "x" } } },
    { "is no status, range or outcome", classify.match, { 42 } }, { "a list is expected", classify.match },
    { "a function is expected", classify.first_of, 5 }, { "unknown kind", classify.kinds, { nope = print } },
    { "0 or more", classify.until_reset }, { "unknown option", classify.quota, { benc = 5 } },
    { "a function is expected", classify.same_everywhere },
  } do
    local why = expect.raises(case[1], function() local x = case[2](case[3]) return x end)
    expect.equal(why:match("^[^:]+"), "tests/lua/classify_test.lua", case[1])
  end
end

return tests
