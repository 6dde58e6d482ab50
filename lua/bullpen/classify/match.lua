local status_of = require "bullpen.classify.status"

local TIMEOUTS = { "connect_timeout", "headers_timeout", "first_event_timeout", "idle_timeout" }
local TRANSPORT = { "connect", "connect_timeout", "dns", "tls", "reset", "headers_timeout", "first_event_timeout",
                    "idle_timeout", "truncated", "empty", "wrong_type", "too_large" }
local OUTCOMES = { stream_error = true }
for _, name in ipairs(TRANSPORT) do OUTCOMES[name] = true end

-- One entry into the sets; false when it is nothing that can be meant.
local function add(entry, statuses, outcomes)
  if math.type(entry) == "integer" and entry >= 100 and entry <= 599 then
    statuses[entry] = true
    return true
  end
  if type(entry) ~= "string" then return false end
  local hundred = entry:match("^([1-5])xx$")
  local from, to = entry:match("^(%d%d%d)%-(%d%d%d)$")
  if hundred then from, to = hundred .. "00", hundred .. "99" end
  if from then
    for status = math.tointeger(tonumber(from)), math.tointeger(tonumber(to)) do statuses[status] = true end
    return true
  end
  local group = entry == "transport" and TRANSPORT or entry == "timeout" and TIMEOUTS or { entry }
  for _, name in ipairs(group) do
    if not OUTCOMES[name] then return false end
    outcomes[name] = true
  end
  return true
end

--- A test for attempts out of a list: statuses (`429`), ranges (`"5xx"`, `"500-504"`), outcomes (`"reset"`), and the groups
--- `"transport"` (no usable answer came) and `"timeout"`. A status matches an error event that stands for it too.
---
---     local failed = classify.match { 429, "5xx", "transport" }
---     if failed(attempt) then ... end
---@param list (integer|string)[]
---@return fun(attempt: bullpen.Attempt): boolean
return function(list)
  if type(list) ~= "table" then error("classify.match: a list is expected, not a " .. type(list), 2) end
  local statuses, outcomes = {}, {}
  for i, entry in ipairs(list) do
    if not add(entry, statuses, outcomes) then
      error(("classify.match: entry %d: '%s' is no status, range or outcome"):format(i, tostring(entry)), 2)
    end
  end
  return function(attempt)
    local outcome = attempt.outcome
    if outcome == "status" then return statuses[attempt.status] or false end
    if outcomes[outcome] then return true end
    return outcome == "stream_error" and statuses[status_of(attempt)] or false
  end
end
