-- priority: one candidate after the other, the lowest `priority` first.
--
-- Each candidate gets 1 + `retries` tries, without waiting; then at most `fallbacks` others are tried, in the order of
-- priority and, where it is equal, as listed. Moves on for `statuses`, timeouts, the network, and an error or nothing at all
-- inside a good answer. Anything else (400, 401, 403 ...) goes to the client at once. When nobody could answer, the client
-- gets the last status and body that an upstream sent; where there was none, 504 after timeouts and 502 otherwise. Benches
-- nobody.
--
--   retries = 1                    further tries of each candidate
--   fallbacks = 2                  how many others
--   statuses = {408, 429, "5xx"}   what moves on
--   order = "ascending"            "descending": the highest `priority` first
local check = require "bullpen.options"
local classify = require "bullpen.classify"
local select = require "bullpen.select"

local policy = { options = { retries = 1, fallbacks = 2, statuses = { 408, 429, "5xx" }, order = "ascending" } }
local strategy, verdict

function policy.init(options)
  local o = check("priority", options, policy.options, 2)
  local tries = 1 + o.retries
  strategy = select.bounded(select.by_priority(nil, { order = o.order }), 1 + o.fallbacks)
  verdict = classify.first_of(
    classify.rules {
      { on = o.statuses, tries = tries },
      { on = { "stream_error" }, kind = "request_specific", verdict = "accept" },
      { on = { "transport", "stream_error" }, tries = tries },
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

function policy.exhausted()
  return "last"
end

return policy
