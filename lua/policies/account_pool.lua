-- account_pool: many accounts of one provider, each an upstream, used evenly, each resting when it is told to.
--
-- A session stays with the account that served it last, while that one is fit. Everybody else gets the account of the lowest
-- `priority` and, of those, the one whose last use is the longest ago. An account is left for `statuses`, the network and an
-- error event, one try each, at most `switches` times a request. It rests for `cooldown` seconds by the status (429: until
-- its limit is reset, when it says so); its third 401 or 403 within 3 hours keeps it out until it is lifted. A context that
-- is too long goes to the client whatever its status and never rests anybody. Passthrough accounts are left for 429 and 529.
--
--   switches = 10                                     how many other accounts for one request
--   statuses = {401, 403, 429, 529, "5xx"}            what moves on
--   cooldown = {[401]=600, [403]=600, [429]=5, [529]=600}   seconds; what is not given keeps its default, 0: none
--   rules = {}                                        e.g. { { status = 400, keyword = "suspended", minutes = 30 } }
--   sticky = 3600                                     seconds; 0: not at all
--   sticky_by = {"previous_response_id", "x-session-id"}   fields and headers, the first that the request has
local breaker = require "bullpen.breaker"
local check = require "bullpen.options"
local classify = require "bullpen.classify"
local select = require "bullpen.select"

local COOLDOWN = { [401] = 600, [403] = 600, [429] = 5, [529] = 600 }
local policy = {
  options = { switches = 10, statuses = { 401, 403, 429, 529, "5xx" }, cooldown = COOLDOWN, rules = {}, sticky = 3600,
              sticky_by = { "previous_response_id", "x-session-id" } },
}
local strategy, remember, verdict
local refused_often = breaker.strikes { count = 3, within = 3 * 3600, name = "account_pool" }

-- How long the account rests, in seconds.
local function rest(cooldown)
  return function(_, attempt)
    local status, said = classify.status(attempt), attempt.retry_after
    if (status == 401 or status == 403) and refused_often(attempt) then return math.huge end
    local seconds = cooldown[status] or COOLDOWN[status] or 0
    return status == 429 and seconds > 0 and said and said > 0 and said or seconds
  end
end

local function rows_of(rules)
  local rows = {}
  for i, rule in ipairs(rules) do
    local what = ("account_pool: rules[%d]"):format(i)
    check(what, rule, { status = 0, keyword = "", minutes = 0 }, 3)
    if not rule.minutes or not (rule.status or rule.keyword) then
      error(what .. ": minutes, and a status or a keyword or both, are expected", 0)
    end
    rows[i] = { on = rule.status and { rule.status }, keywords = rule.keyword and { rule.keyword }, verdict = "next",
                bench = rule.minutes * 60, scope = "upstream", reason = rule.keyword }
  end
  return rows
end

function policy.init(options)
  local o = check("account_pool", options, policy.options, 2)
  strategy = select.bounded(select.by_priority(select.least_recently_used()), 1 + o.switches)
  if o.sticky > 0 then strategy, remember = select.sticky(strategy, { by = o.sticky_by, ttl = o.sticky }) end
  verdict = classify.first_of(
    classify.deterministic(),
    classify.rules(rows_of(o.rules)),
    classify.rules {
      { on = o.statuses, bench = rest(o.cooldown), scope = "upstream" },
      { on = { "stream_error" }, kind = "request_specific", verdict = "accept" },
      { on = { "transport", "stream_error" } },
    },
    classify.accept())
end

function policy.select(request, pool, attempts)
  return strategy(request, pool, attempts)
end

function policy.classify(request, attempt)
  return verdict(request, attempt)
end

function policy.backoff()
  return 0
end

function policy.observe(event)
  if remember then remember(event) end
end

return policy
