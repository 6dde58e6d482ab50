-- Budgets: how many further attempts the whole process may make, so that a failing provider is not met with a storm. Each
-- gives the two hooks that it needs; state is in `bullpen.shared`, one for all workers and versions, by `name`.
--
--     local budget = require "bullpen.budget"
--     policy.classify, policy.observe = budget.tokens(policy.classify, { tokens = 100, ratio = 0.1 })
--
-- When the budget is spent, `retry` and `next` become `accept`: the upstream's own error, or the end if there is none. The
-- bench of the verdict stays.
return {
  tokens = require "bullpen.budget.tokens",
  percentage = require "bullpen.budget.percentage",
}
