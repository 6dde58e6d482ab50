local check = require "bullpen.options"

local FIELDS = { "type", "time", "request_id", "client", "model", "candidate", "next", "outcome", "status", "attempt",
                 "verdict", "reason", "delay", "benched_for", "error", "elapsed", "first_event", "label", "policy" }

local function flat(event)
  local fields = {}
  for i = 1, #FIELDS do
    local value = event[FIELDS[i]]
    if value == math.huge then value = "until lifted" end -- JSON has no infinity
    fields[FIELDS[i]] = value
  end
  return fields
end

--- Posts events in batches as `{"events":[..],"dropped":N}`: when `batch` of them are there, or the first has waited `every`
--- seconds (looked at with each event and in `tick`). At most `queue` events wait; what is more is dropped and counted.
--- Gives the sink and what `tick` is to call.
---
---     policy.observe, policy.tick = observe.webhook("https://hooks.example.com/bullpen", { batch = 20, every = 5 })
---@param url string
---@param options { batch: integer?, every: number?, queue: integer?, headers: table<string, string>? }?
---@return bullpen.Sink observe
---@return fun(now: number) tick
return function(url, options)
  local o = check("observe.webhook", options, { batch = 20, every = 5, queue = 1000, headers = {} })
  if type(url) ~= "string" or not url:find("^https?://") then error("observe.webhook: an http(s) URL is expected", 2) end
  if o.batch < 1 or o.queue < o.batch then error("observe.webhook: queue >= batch >= 1 is expected", 2) end
  local headers = { ["content-type"] = "application/json" }
  for name, value in pairs(o.headers) do headers[name] = value end
  local waiting, since, dropped = {}, nil, 0

  -- What cannot be posted now stays, as far as there is room.
  local function flush()
    local sent = bullpen.post and bullpen.post(url, bullpen.json.encode { events = waiting, dropped = dropped },
                                               { headers = headers })
    if sent == nil or sent == true then waiting, dropped = {}, 0 end
    since = nil
  end

  local function tick(now)
    if waiting[1] and (#waiting >= o.batch or now - (since or now) >= o.every) then flush() end
    since = waiting[1] and (since or now) or nil
  end

  local function observe(event)
    if #waiting >= o.queue then dropped = dropped + 1
    else waiting[#waiting + 1] = flat(event) end
    tick(bullpen.now())
  end

  return observe, tick
end
