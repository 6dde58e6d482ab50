--- Leaves the benched out altogether: with all of them benched the request is given up at once, where a strategy alone
--- would try the one that is back soonest.
---
---     policy.select = filters.only(select.in_order(), filters.not_benched())
---@return bullpen.Filter
return function()
  return function(candidate)
    if candidate.benched then return false, candidate.bench_reason or "benched" end
    return true
  end
end
