-- first_event: in the order listed, one try each, without waiting, until somebody's first event is good.
--
-- Moves on for `statuses`, the network, and an error as the first event, or none at all, of a good answer. A 500 is not among
-- them on purpose: it is often the request's own fault, and goes to the client at once, as everything else does. When nobody
-- could answer, the client gets the last status and body that an upstream sent. Benches nobody.
--
--   statuses = {429, 502, 503, 504, 520, 522, 524, 529}   what moves on
local check = require "bullpen.options"
local classify = require "bullpen.classify"
local select = require "bullpen.select"

local policy = { options = { statuses = { 429, 502, 503, 504, 520, 522, 524, 529 } } }
local verdict

policy.select = select.in_order()

function policy.init(options)
  local o = check("first_event", options, policy.options, 2)
  verdict = classify.first_of(
    classify.rules {
      { on = o.statuses },
      { on = { "stream_error" }, kind = "request_specific", verdict = "accept" },
      { on = { "transport", "stream_error" } },
    },
    classify.accept())
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
