-- bullpen.observe: what is done with events.
local expect = require "expect"
local fake = require "fake"
local observe = require "bullpen.observe"

local tests = {}

function tests.test_only_by_fields_lists_and_functions()
  local seen = {}
  local function sink(event) seen[#seen + 1] = event.type end
  local by_type = observe.only({ type = { "benched", "unbenched" } }, sink)
  local by_both = observe.only({ type = "finished", status = 502 }, sink)
  local by_call = observe.only(function(event) return event.elapsed and event.elapsed > 5 end, sink)
  for _, event in ipairs { { type = "benched" }, { type = "committed" }, { type = "finished", status = 200 },
                           { type = "finished", status = 502 }, { type = "x", elapsed = 9 } } do
    observe.all(by_type, by_both, by_call)(event)
  end
  expect.list(seen, { "benched", "finished", "x" })
end

function tests.test_log_has_the_fields_of_the_event()
  observe.log("warn") { type = "benched", candidate = "a/m", benched_for = math.huge, reason = "r", vars = {} }
  local line = fake.logged[1]
  expect.list({ line[1], line[2], line[3].candidate, line[3].benched_for, line[3].vars }, { "warn", "benched", "a/m", "until lifted" })
end

function tests.test_metric_counts_by_its_labels()
  observe.metric("m", { "type", "status" }) { type = "finished", status = 502 }
  expect.list({ fake.measured[1][1], fake.measured[1][2], fake.measured[1][3].type, fake.measured[1][3].status }, { "m", 1, "finished", "502" })
end

local function posted(n)
  return bullpen.json.decode(fake.posted[n][2])
end

function tests.test_webhook_posts_full_batches_at_once_and_others_in_time()
  local sink, tick = observe.webhook("https://x/y", { batch = 3, every = 5, headers = { authorization = "t" } })
  for i = 1, 4 do sink { type = "benched", attempt = i, vars = { secret = 1 } } end
  expect.equal(#fake.posted, 1)
  expect.equal(fake.posted[1][1], "https://x/y")
  expect.equal(fake.posted[1][3].headers.authorization, "t")
  expect.equal(#posted(1).events, 3)
  expect.equal(posted(1).events[1].vars, nil)
  fake.time = fake.time + 4
  tick(fake.time)
  expect.equal(#fake.posted, 1)
  fake.time = fake.time + 2
  tick(fake.time)
  expect.equal(#posted(2).events, 1)
  fake.time = fake.time + 100
  tick(fake.time)
  expect.equal(#fake.posted, 2, "nothing waits, nothing is posted")
end

function tests.test_webhook_is_bounded_and_says_what_it_dropped()
  local good = false
  bullpen.post = function(...) fake.posted[#fake.posted + 1] = { ... } return good end
  local sink, tick = observe.webhook("https://x/y", { batch = 2, every = 5, queue = 10 })
  for i = 1, 50 do sink { type = "benched", attempt = i, benched_for = math.huge } end
  good, fake.posted[1] = true, nil
  fake.posted = {}
  bullpen.post = function(...) fake.posted[#fake.posted + 1] = { ... } return true end
  tick(fake.time)
  expect.equal(#posted(1).events, 10)
  expect.equal(posted(1).dropped, 40)
end

function tests.test_misuse_raises_where_the_caller_stands()
  for _, case in ipairs {
    { "a level is expected", observe.log, "loud" }, { "URL", observe.webhook, "ftp://x" }, { "queue", observe.webhook, "http://x", { queue = 1 } },
    { "a sink is expected", observe.only, {} }, { "a function is expected", observe.all, 5 }, { "a list of labels", observe.metric, "m", 5 },
  } do
    local why = expect.raises(case[1], function() local x = case[2](case[3], case[4]) return x end)
    expect.equal(why:match("^[^:]+"), "tests/lua/observe_test.lua", case[1])
  end
end

return tests
