-- The strategies of `select`, one file each: who is next. Each call below gives a function for `policy.select`.
--
--     local select = require "bullpen.select"
--     policy.select = select.by_priority(select.least_recently_used())
--
-- All of them pick among the candidates that this request has not tried and nobody benched. When there is none, those that
-- are benched are tried all the same: soonest back first, those held by an operator last, never one that is full. When
-- everybody was tried they give up.
return {
  choose = require "bullpen.select.choose",
  in_order = require "bullpen.select.in_order",
  lowest = require "bullpen.select.lowest",
  by_priority = require "bullpen.select.by_priority",
  weighted = require "bullpen.select.weighted",
  least_inflight = require "bullpen.select.least_inflight",
  fastest = require "bullpen.select.fastest",
  least_recently_used = require "bullpen.select.least_recently_used",
  sticky = require "bullpen.select.sticky",
  bounded = require "bullpen.select.bounded",
}
