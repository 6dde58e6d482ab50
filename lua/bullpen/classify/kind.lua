-- Whose fault a failure is: codes first, then what the message says, then the status. The same answers as the built-in's
-- (a test drives both through the same cases). An error event in a good answer counts as the status it stands for.
local words = require "bullpen.classify.words"

local LOOK = 2048 -- bytes of a message that are looked at
local DEAD = { "your credit balance is too low", "credit balance is too low", "api key not valid",
               "you have reached your specified api usage limits" }
local TOO_LONG = { "prompt is too long", "input is too long", "maximum context length", "exceeds the context window",
                   "exceed context limit" }
local OF_STATUS = { [400] = "request_specific", [401] = "auth_dead", [402] = "auth_dead", [403] = "auth_dead",
                    [404] = "request_specific", [413] = "request_specific", [422] = "request_specific" }
for _, status in ipairs { 408, 409, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529 } do
  OF_STATUS[status] = "transient"
end

-- Is a model spoken of: the word, not a part of another, of a path or of a quotation.
local function names_model(message)
  local quote
  for i = 1, #message do
    local c = message:sub(i, i)
    if quote then
      if c == quote then quote = nil end
    elseif i == 1 or message:sub(i - 1, i - 1) == " " then
      if c == "'" or c == '"' or c == "`" then quote = c end
      local after = message:match("^models?()", i)
      if after and not message:find("^[%a_%-%d]", after) then return true end
    end
  end
end

-- Not a code that says that something else was not found.
local function may_mean_model(code)
  return code == "" or code:find("^%d") or code:find("model", 1, true) or code == "not_found"
end

local function of_message(status, error)
  local message = (error.message or ""):sub(1, LOOK):lower()
  if status >= 400 and status <= 499 then
    for i = 1, #DEAD do
      if message:sub(1, #DEAD[i]) == DEAD[i] then return "auth_dead", "upstream" end
    end
  end
  for i = 1, #TOO_LONG do
    if message:find(TOO_LONG[i], 1, true) then return "request_specific" end
  end
  if status == 404 and may_mean_model((error.code or ""):lower()) and names_model(message) then return "model_missing" end
end

--- `"transient"`, `"auth_dead"` (and who is dead: `"upstream"` or `"candidate"`), `"model_missing"`, `"request_specific"`
--- or `"other"`. A failure without an answer (a timeout, a reset) is transient.
---
---     local kind = classify.kind(attempt)
---@param attempt bullpen.Attempt
---@return bullpen.Kind kind
---@return "upstream"|"candidate"|nil scope
---@return boolean? told true: by what the error says, whatever the status is
return function(attempt)
  local outcome = attempt.outcome
  if outcome ~= "status" and outcome ~= "stream_error" then return "transient" end
  local error, status = attempt.error, outcome == "status" and attempt.status or 0
  if error then
    local word = words.find(error)
    if word and word.kind then return word.kind, word.scope, true end
    if status < 300 then status = words.status(error) end
    local kind, scope = of_message(status, error)
    if kind then return kind, scope, true end
  elseif status < 300 then
    status = 502
  end
  local kind = OF_STATUS[status] or "other"
  if kind == "auth_dead" then return kind, status == 403 and "candidate" or "upstream" end
  return kind
end
