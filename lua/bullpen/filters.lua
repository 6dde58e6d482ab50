-- Filters: which candidates a strategy gets to see. A filter is a function (candidate, request) -> true, or false and why.
--
--     local filters, select = require "bullpen.filters", require "bullpen.select"
--     policy.select = filters.only(select.weighted(), filters.tag("region", "eu"), filters.context())
return {
  only = require "bullpen.filters.only",
  prefer = require "bullpen.filters.prefer",
  not_benched = require "bullpen.filters.not_benched",
  tag = require "bullpen.filters.tag",
  client = require "bullpen.filters.client",
  context = require "bullpen.filters.context",
}
