--- The same wait every time.
---
---     policy.backoff = backoff.constant(0.5)
---@param seconds number
---@return bullpen.Backoff
return function(seconds)
  if not (type(seconds) == "number" and seconds >= 0 and seconds < math.huge) then
    error("backoff.constant: seconds of 0 or more are expected", 2)
  end
  return function() return seconds end
end
