-- weighted: at random by `weight`, without replacement.
--
-- At most `candidates` of them are tried, `tries` times each. Moves on for `statuses`, the network, and an error or nothing
-- at all inside a good answer; anything else goes to the client at once. Before the (n+1)th attempt of a request it waits
-- min(base * 2^n, cap) seconds and up to `jitter` of that on top. When nobody could answer, the client gets 502. Weight 0
-- comes when nobody else is left. Benches nobody.
--
--   candidates = 3                        how many different ones
--   tries = 2                             of each
--   statuses = {429, 500, 502, 503, 504}  what moves on
--   base = 0.1, cap = 5, jitter = 0.1     the waits, in seconds, and the part on top
local backoff = require "bullpen.backoff"
local check = require "bullpen.options"
local classify = require "bullpen.classify"
local select = require "bullpen.select"

local policy = {
  options = { candidates = 3, tries = 2, statuses = { 429, 500, 502, 503, 504 }, base = 0.1, cap = 5, jitter = 0.1 },
}
local strategy, verdict, wait

function policy.init(options)
  local o = check("weighted", options, policy.options, 2)
  strategy = select.bounded(select.weighted(), o.candidates)
  verdict = classify.first_of(
    classify.rules {
      { on = o.statuses, tries = o.tries },
      { on = { "stream_error" }, kind = "request_specific", verdict = "accept" },
      { on = { "transport", "stream_error" }, tries = o.tries },
    },
    classify.accept())
  wait = backoff.exponential { base = 2 * o.base, cap = o.cap, jitter = o.jitter, by = "number" }
end

function policy.select(request, pool, attempts)
  return strategy(request, pool, attempts)
end

function policy.classify(request, attempt)
  return verdict(request, attempt)
end

function policy.backoff(request, attempt)
  return wait(request, attempt)
end

function policy.exhausted()
  return { status = 502 }
end

return policy
