-- The parts of `classify`, one file each: what a failure means. A part is a function (request, attempt) -> verdict, details;
-- nil is "no opinion", and `first_of` then asks the next one. Where all are silent the built-in policy decides.
--
--     local classify = require "bullpen.classify"
--     policy.classify = classify.first_of(
--       classify.deterministic(),
--       classify.rules { { on = { 429, 529, "5xx", "transport" }, bench = classify.until_reset(5) } },
--       classify.accept())
return {
  first_of = require "bullpen.classify.first_of",
  rules = require "bullpen.classify.rules",
  match = require "bullpen.classify.match",
  status = require "bullpen.classify.status",
  kind = require "bullpen.classify.kind",
  kinds = require "bullpen.classify.kinds",
  deterministic = require "bullpen.classify.deterministic",
  quota = require "bullpen.classify.quota",
  passthrough = require "bullpen.classify.passthrough",
  same_everywhere = require "bullpen.classify.same_everywhere",
  until_reset = require "bullpen.classify.until_reset",
  accept = require "bullpen.classify.accept",
}
