-- A table of rules, read from the top: the first row whose conditions all hold decides.
local check = require "bullpen.options"
local kind_of = require "bullpen.classify.kind"
local match = require "bullpen.classify.match"

local ROW = { on = {}, codes = {}, keywords = {}, kind = "", verdict = "", tries = 1, bench = false, scope = "candidate",
              delay = 0, reason = "" }
local VERDICTS = { accept = true, retry = true, next = true, stop = true }

local function has_code(attempt, codes)
  local e = attempt.error
  if not e then return false end
  return (e.code and codes[e.code:lower()]) or (e.type and codes[e.type:lower()]) or false
end

-- Any case, in the first 64 KiB of the body; an error event has its message.
local function has_keyword(attempt, keywords)
  local text = attempt.body or (attempt.error and attempt.error.message)
  if not text then return false end
  text = text:lower()
  for i = 1, #keywords do
    if text:find(keywords[i], 1, true) then return true end
  end
  return false
end

local function lower_all(list)
  local lower = {}
  for i, text in ipairs(list) do
    lower[i] = tostring(text):lower()
    lower[lower[i]] = true
  end
  return lower
end

local function always() return true end

local function compile(row, number)
  local what = ("classify.rules: row %d"):format(number)
  local r = check(what, row, ROW, 4)
  if row.verdict and not VERDICTS[row.verdict] then error(("%s: '%s' is no verdict"):format(what, row.verdict), 3) end
  if r.scope ~= "candidate" and r.scope ~= "upstream" then error(what .. ": scope is 'candidate' or 'upstream'", 3) end
  if r.bench and type(r.bench) ~= "number" and type(r.bench) ~= "function" then
    error(what .. ": bench: seconds or a function is expected", 3)
  end
  local good, on = pcall(match, r.on)
  if not good then error(what .. ": " .. on:gsub("^.-classify%.match: ", ""), 3) end
  return {
    on = row.on and on or always, plain = not (row.codes or row.keywords or row.kind),
    codes = row.codes and lower_all(r.codes), keywords = row.keywords and lower_all(r.keywords),
    kind = row.kind, verdict = row.verdict, tries = r.tries, bench = r.bench, upstream = r.scope == "upstream",
    delay = row.delay, reason = row.reason,
  }
end

local function holds(row, attempt)
  if row.codes and not has_code(attempt, row.codes) then return false end
  if row.keywords and not has_keyword(attempt, row.keywords) then return false end
  return not row.kind or kind_of(attempt) == row.kind
end

local function decide(row, request, attempt)
  local verdict = row.verdict or (attempt.try < row.tries and "retry" or "next")
  if verdict == "retry" then return verdict, row.delay and { delay = row.delay, kind = row.kind } end
  local bench = row.bench
  if type(bench) == "function" then bench = bench(request, attempt) end
  if not bench or bench <= 0 then return verdict, (row.reason or row.kind) and { reason = row.reason, kind = row.kind } end
  return verdict, { bench = bench, key = row.upstream and attempt.candidate.upstream or nil, reason = row.reason,
                    kind = row.kind }
end

--- Conditions of a row: `on` (see `classify.match`), `codes` (of the error, or its type), `keywords` (any case, in the body),
--- `kind` (see `classify.kind`). What it says: `verdict`; without one the candidate is tried `tries` times in all, then left.
--- With `accept`, `next` and `stop`: `bench` (seconds, or a function of request and attempt), of the `scope` `"candidate"`
--- or `"upstream"`, and `reason`. `delay`: seconds before the next try there.
---
---     policy.classify = classify.rules {
---       { keywords = { "suspended" }, verdict = "next", bench = 1800, scope = "upstream" },
---       { on = { 429, "5xx", "transport" }, tries = 2, bench = 60 },
---     }
---@param rows bullpen.Rule[]
---@return bullpen.Classifier
return function(rows)
  if type(rows) ~= "table" then error("classify.rules: a list of rows is expected, not a " .. type(rows), 2) end
  local compiled = {}
  for i, row in ipairs(rows) do
    if type(row) ~= "table" then error(("classify.rules: row %d: a table is expected"):format(i), 2) end
    compiled[i] = compile(row, i)
  end
  return function(request, attempt)
    if attempt.outcome == "ok" then return nil end
    for i = 1, #compiled do
      local row = compiled[i]
      if row.on(attempt) and (row.plain or holds(row, attempt)) then return decide(row, request, attempt) end
    end
  end
end
