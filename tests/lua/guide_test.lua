-- Every example of lua/README.md does what the text above it says.
local expect = require "expect"
local fake = require "fake"
local sim = require "sim"

local examples = {}
do
  local file = assert(io.open("lua/README.md"))
  local text, title = file:read("a"), nil
  file:close()
  local code
  for line in (text .. "\n"):gmatch("(.-)\n") do
    if code and line == "```" then
      examples[title], code = table.concat(code, "\n"), nil
    elseif code then
      code[#code + 1] = line
    elseif line == "```lua" then
      code = {}
    else
      title = line:match("^### (.*)") or title
    end
  end
end

local tried = {}
local function example(title, options)
  tried[title] = true
  return sim.load(title, options, assert(examples[title], "no example: " .. title))
end

local tests = {}

function tests.test_cheapest_first()
  local pool = sim.pool { { name = "a", price = { input = 5 } }, "b", { name = "c", price = { input = 1 } } }
  expect.equal(sim.run(example "Cheapest first", pool, { 503, 503, 200 }).trail, "c=503 a=503 b=200")
end

function tests.test_business_hours()
  local policy = example "Business hours"
  local date, pool = os.date, sim.pool { "a", { name = "b", tags = { hours = "office" } } }
  expect.equal(date("!%H %w", math.floor(fake.time)), "12 3")
  expect.equal(sim.run(policy, pool, { 200 }).trail, "b=200")
  fake.time = fake.time + 7 * 3600
  expect.equal(sim.run(policy, pool, { 503, 200 }).trail, "a=503 b=200")
  fake.time = fake.time - 7 * 3600 + 3 * 86400
  expect.equal(sim.run(policy, pool, { 200 }).trail, "a=200", "Saturday noon")
end

function tests.test_one_tenant_pinned_to_one_account()
  local policy, pool = example "One tenant pinned to one account", sim.pool { "openai-a", "openai-b", "openai-c" }
  local team = { client = { name = "team-a", tags = {} } }
  expect.equal(sim.run(policy, pool, { 503 }, team).trail, "openai-a=503")
  for _ = 1, 50 do expect.equal(sim.run(policy, pool, { 200 }).trail ~= "openai-a=200", true) end
end

function tests.test_hedge_against_slow_starts_by_benching()
  local policy, pool = example "Hedge against slow starts by benching", sim.pool { "a" }
  sim.run(policy, pool, { { status = 200, first_event = 4 } })
  expect.equal(bullpen.benched("a/m"), false)
  sim.run(policy, pool, { { status = 200, first_event = 6 } })
  expect.equal(bullpen.benched("a/m"), true)
  expect.equal(policy.select(sim.request(), pool, {}) and true, false, "tried: it gives up")
  pool[1].tried = 0
  expect.equal(policy.select(sim.request(), pool, {}).timeouts.first_event, 8)
end

function tests.test_honour_a_providers_reset_time()
  local policy, pool = example "Honour a provider's reset time", sim.pool { "a", "b" }
  sim.run(policy, pool, { { status = 429, retry_after = 90 }, 200 })
  local _, till = bullpen.benched("a")
  expect.near(till - fake.time, 90)
  expect.equal(policy.classify(sim.request(), { outcome = "status", status = 503, try = 1, candidate = pool[1] }), nil)
end

function tests.test_refuse_to_route_around_a_content_refusal()
  local policy, pool = example "Refuse to route around a content refusal", sim.pool { "a", "b" }
  for _, answer in ipairs { { status = 400, error = { code = "content_filter" } }, { status = 500, body = "our Safety System said no" },
                            { outcome = "stream_error", error = { code = "ResponsibleAIPolicyViolation" } } } do
    expect.equal(sim.run(policy, pool, { answer }).calls, 1)
  end
  expect.equal(sim.run(policy, pool, { 503, 200 }).calls, 2)
end

function tests.test_smaller_context_windows()
  local policy = example "Smaller context windows"
  local pool = sim.pool { { name = "a", tags = { context = 1000 } }, { name = "b", tags = { context = 100000 } } }
  expect.equal(sim.run(policy, pool, { 200 }, { body_size = 30000 }).trail, "b=200")
  expect.equal(sim.run(policy, pool, { 200 }, { body_size = 1e9 }).status, 400)
  expect.equal(sim.run(policy, pool, { 503 }, { body_size = 10 }).status, 502)
end

function tests.test_webhook_on_bench()
  local policy = example "Webhook on bench"
  policy.observe { type = "benched", candidate = "a/m", benched_for = 60, reason = "status 503" }
  policy.observe { type = "committed", candidate = "b/m" }
  expect.equal(#fake.posted, 0)
  expect.equal(#fake.logged, 1)
  fake.time = fake.time + 6
  policy.tick(fake.time)
  local sent = bullpen.json.decode(fake.posted[1][2])
  expect.list({ fake.posted[1][1], #sent.events, sent.events[1].candidate }, { "https://hooks.example.com/bullpen", 1, "a/m" })
end

function tests.test_a_ready_made_policy_with_one_thing_changed()
  package.loaded["policies.account_pool"] = nil
  local policy, pool = example "A ready-made policy with one thing changed", sim.pool { "a", "b" }
  for _ = 1, 5 do
    sim.run(policy, pool, { 500, 500 })
    fake.time = fake.time + 100
  end
  sim.run(policy, pool, { 500, 500 })
  expect.equal(bullpen.benched("a/m") and bullpen.benched("b/m"), true)
end

function tests.test_zz_every_example_has_a_test()
  local count = 0
  for title in pairs(examples) do
    count = count + 1
    expect.equal(tried[title], true, title)
  end
  expect.equal(count, 9)
end

return tests
