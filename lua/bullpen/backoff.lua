-- How long to wait before the next attempt, one file each. Each call gives a function for `policy.backoff`.
--
--     local backoff = require "bullpen.backoff"
--     policy.backoff = backoff.retry_after(backoff.full_jitter { base = 0.2, cap = 10 })
--
-- `by`: what is counted, the `"try"` on this candidate or the `"number"` of the attempt in all. No wait ever overflows.
return {
  constant = require "bullpen.backoff.constant",
  exponential = require "bullpen.backoff.exponential",
  full_jitter = require "bullpen.backoff.full_jitter",
  equal_jitter = require "bullpen.backoff.equal_jitter",
  decorrelated = require "bullpen.backoff.decorrelated",
  retry_after = require "bullpen.backoff.retry_after",
}
