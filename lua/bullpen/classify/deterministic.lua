local kind_of = require "bullpen.classify.kind"

--- An error that says that any candidate would give it: the context is too long, the content was refused. It goes to the
--- client as it is and benches nobody, whatever its status. A bare 400 says nothing of that kind.
---
---     policy.classify = classify.first_of(classify.deterministic(), classify.rules { { on = { "4xx", "5xx" } } })
---@return bullpen.Classifier
return function()
  return function(_, attempt)
    local kind, _, told = kind_of(attempt)
    if told and kind == "request_specific" then return "accept", { kind = kind } end
  end
end
