-- bullpen.backoff: how long to wait.
local backoff = require "bullpen.backoff"
local expect = require "expect"
local sim = require "sim"

local tests = {}
local LATE = { number = 1000, try = 1000 }

local function waits(wait, count, request)
  local list = {}
  for i = 1, count do list[i] = wait(request or sim.request(), { number = i, try = i }) end
  return list
end

function tests.test_constant() expect.list(waits(backoff.constant(0.5), 3), { 0.5, 0.5, 0.5 }) end

function tests.test_exponential_grows_to_its_cap()
  expect.list(waits(backoff.exponential { base = 0.2, cap = 1 }, 5), { 0.2, 0.4, 0.8, 1, 1 })
end

function tests.test_W4_the_jitter_is_on_top_and_at_most_its_part()
  local wait, lowest, highest = backoff.exponential { base = 0.2, cap = 5, jitter = 0.1 }, math.huge, 0
  for _ = 1, 2000 do
    local w = wait(sim.request(), { try = 3 })
    lowest, highest = math.min(lowest, w), math.max(highest, w)
  end
  expect.near(lowest, 0.8, 0.001)
  expect.near(highest, 0.88, 0.001)
end

function tests.test_C2_full_jitter_is_in_0_to_d_and_spread()
  local wait, sum = backoff.full_jitter { base = 0.2, cap = 10 }, 0
  for _ = 1, 4000 do
    local w = wait(sim.request(), { try = 4 })
    expect.equal(w >= 0 and w < 1.6, true)
    sum = sum + w
  end
  expect.near(sum / 4000, 0.8, 0.03)
end

function tests.test_equal_jitter_is_in_the_upper_half()
  local wait = backoff.equal_jitter { base = 0.2, cap = 10 }
  for _ = 1, 1000 do
    local w = wait(sim.request(), { try = 4 })
    expect.equal(w >= 0.8 and w < 1.6, true)
  end
end

function tests.test_decorrelated_stays_between_base_and_cap_and_begins_anew()
  local wait, request = backoff.decorrelated { base = 0.2, cap = 3 }, sim.request()
  local before = 0.2
  for _ = 1, 500 do
    local w = wait(request, { try = 1 })
    expect.equal(w >= 0.2 and w <= math.min(3, 3 * before) + 1e-9, true)
    before = w
  end
  expect.equal(wait(sim.request(), { try = 1 }) <= 0.6, true, "another request begins at the base")
end

function tests.test_section_3_a_retry_after_is_the_floor_up_to_a_bound()
  local wait = backoff.retry_after(backoff.constant(1), 30)
  expect.equal(wait(sim.request(), { try = 1, retry_after = 12 }), 12)
  expect.equal(wait(sim.request(), { try = 1, retry_after = 0.5 }), 1)
  expect.equal(wait(sim.request(), { try = 1, retry_after = 3600 }), 30)
  expect.equal(wait(sim.request(), { try = 1 }), 1)
end

-- The original overflows at attempt 37.
function tests.test_C2_nothing_overflows_at_attempt_1000()
  for name, wait in pairs {
    exponential = backoff.exponential { jitter = 0.5 }, full = backoff.full_jitter(), equal = backoff.equal_jitter(),
    decorrelated = backoff.decorrelated(), number = backoff.exponential { by = "number" },
    zero = backoff.full_jitter { base = 0, cap = 0 }, huge = backoff.full_jitter { base = 1e300, cap = 10 },
    floor = backoff.retry_after(backoff.full_jitter()),
  } do
    for _, at in ipairs { LATE, { number = 37, try = 37 }, { number = 100, try = 100 }, { number = 1 << 40, try = 1 << 40 } } do
      local w = wait(sim.request(), at)
      expect.equal(w >= 0 and w <= 15, true, name .. ": " .. tostring(w))
    end
  end
end

function tests.test_by_tells_what_is_counted()
  local wait = backoff.exponential { base = 1, cap = 100, by = "number" }
  expect.equal(wait(sim.request(), { number = 4, try = 1 }), 8)
end

function tests.test_misuse_raises_where_the_caller_stands()
  for _, case in ipairs {
    { "unknown option 'bas'", backoff.full_jitter, { bas = 1 } }, { "by is 'try' or 'number'", backoff.exponential, { by = "x" } },
    { "seconds of 0 or more", backoff.constant, -1 }, { "seconds of 0 or more", backoff.constant, math.huge },
    { "0 or more", backoff.equal_jitter, { cap = 0 / 0 } }, { "a function is expected", backoff.retry_after },
    { "a table of options", backoff.decorrelated, 3 },
  } do
    local why = expect.raises(case[1], function() local x = case[2](case[3]) return x end)
    expect.equal(why:match("^[^:]+"), "tests/lua/backoff_test.lua", case[1])
  end
end

return tests
