-- The global `bullpen` for tests: a clock that is set by hand, seeded random numbers, a store and benches in plain tables;
-- what would leave the process (log, post, metric) is kept in lists.
local fake = {}

local json_good, json = pcall(require, "cjson")

local function entry(key)
  assert(type(key) == "string" and #key <= 512, "a key has at most 512 bytes")
  local e = fake.store[key]
  if e and e.till <= fake.time then
    fake.store[key] = nil
    return nil
  end
  return e
end

local shared = {}

function shared.get(key)
  local e = entry(key)
  return e and e.value
end

function shared.set(key, value, ttl)
  assert(type(value) == "string" or type(value) == "number", "a string or a number is expected")
  assert(ttl == nil or ttl > 0, "a ttl of more than 0 seconds is expected")
  entry(key)
  fake.store[key] = { value = value, till = fake.time + (ttl or math.huge) }
  return true
end

function shared.add(key, value, ttl)
  if entry(key) then return false end
  return shared.set(key, value, ttl)
end

function shared.incr(key, by, options)
  local o, e = options or {}, entry(key)
  local value = (e and e.value or o.init or 0) + (by or 1)
  if o.max and value > o.max then return nil, "max" end
  if e then e.value = value else shared.set(key, value, o.ttl) end
  return value
end

function shared.delete(key)
  local there = entry(key) ~= nil
  fake.store[key] = nil
  return there
end

-- One bench, as the registry has it: an automatic one never shortens an earlier one.
local function bench(key, seconds, reason)
  assert(type(key) == "string" and seconds > 0, "a key and more than 0 seconds are expected")
  local till = fake.time + seconds
  if till <= (fake.benches[key] and fake.benches[key].till or 0) then return false end
  fake.benches[key] = { till = till, reason = reason or "by the policy" }
  return true
end

local function benched(key)
  local b = fake.benches[key]
  if not b or b.till <= fake.time then return false end
  return true, b.till
end

local function unbench(key)
  local was = benched(key)
  fake.benches[key] = nil
  return was
end

-- FNV-1a over the bytes, as a part of one.
local function hash(text)
  local h = 2166136261
  for i = 1, #text do h = (h ~ text:byte(i)) * 16777619 & 0xffffffff end
  return h / 4294967296
end

local function keep(list)
  return function(...)
    list[#list + 1] = { ... }
    return true
  end
end

--- A fresh world: nothing is stored or benched, it is 2026-01-07 12:00 UTC (a Wednesday), and random numbers begin anew.
function fake.reset(seed)
  fake.time, fake.store, fake.benches = 1767787200, {}, {}
  fake.logged, fake.posted, fake.measured, fake.used = {}, {}, {}, {}
  math.randomseed(seed or 42)
  rawset(_G, "bullpen", {
    now = function() return fake.time end, random = function() return math.random() end, hash = hash,
    bench = bench, unbench = unbench, benched = benched, shared = shared, json = json_good and json or nil,
    log = keep(fake.logged), post = keep(fake.posted), metric = keep(fake.measured),
  })
end

return fake
