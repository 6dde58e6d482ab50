--- Everything else goes to the client as it is. What has nothing to deliver (a timeout, a reset) ends the request.
---
---     policy.classify = classify.first_of(classify.rules { { on = { 503 } } }, classify.accept())
---@return bullpen.Classifier
return function()
  return function() return "accept" end
end
