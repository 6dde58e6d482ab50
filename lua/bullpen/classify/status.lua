local words = require "bullpen.classify.words"

--- The status of an answer, or the one that an error event in a good answer stands for; nil when there is neither.
---
---     local status = classify.status(attempt)   -- an overloaded_error in a 200: 529
---@param attempt bullpen.Attempt
---@return integer?
return function(attempt)
  if attempt.outcome == "status" then return attempt.status end
  return attempt.outcome == "stream_error" and words.status(attempt.error) or nil
end
