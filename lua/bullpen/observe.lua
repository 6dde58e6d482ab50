-- What to do with events, one file each. A sink is a function (event), as `policy.observe` is.
--
--     local observe = require "bullpen.observe"
--     policy.observe = observe.all(observe.metric(), observe.only({ type = "benched" }, observe.log("warn")))
return {
  all = require "bullpen.observe.all",
  only = require "bullpen.observe.only",
  log = require "bullpen.observe.log",
  metric = require "bullpen.observe.metric",
  webhook = require "bullpen.observe.webhook",
}
