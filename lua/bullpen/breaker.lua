-- Breakers: when to bench a candidate for how it has been doing, not for one failure.
--
--     local breaker = require "bullpen.breaker"
--     policy.classify = breaker.consecutive(policy.classify, { failures = 5, bench = breaker.growing { base = 30 } })
return {
  consecutive = require "bullpen.breaker.consecutive",
  ratio = require "bullpen.breaker.ratio",
  growing = require "bullpen.breaker.growing",
  strikes = require "bullpen.breaker.strikes",
  slow_start = require "bullpen.breaker.slow_start",
}
