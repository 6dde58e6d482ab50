-- Affinity: what belongs together goes to the upstream that served it last, while that one is fit.
--
-- A key is bound when an answer is committed, never by an attempt that failed, and in `bullpen.shared`: all workers know it.
-- Affinity never stands in the way of failover: a bound upstream that is benched, or was tried by this request, is let go,
-- and whoever serves instead is bound.
local check = require "bullpen.options"

local FIELDS = { previous_response_id = true, prompt_cache_key = true, user = true }
local LONGEST = 200 -- bytes of a key that is kept as it is

-- One text for what the request belongs to, of this client alone; nil when it belongs to nothing.
local function key_of(request, by)
  for i = 1, #by do
    local what = by[i]
    local text
    if type(what) == "function" then text = what(request)
    elseif FIELDS[what] then text = request.field(what)
    elseif what == "session" then text = request.session
    else text = request.headers[what] end
    if text ~= nil and text ~= "" then return type(what) == "string" and what or "function", tostring(text) end
  end
end

local function name_of(request, kind, text)
  if #text > LONGEST then text = ("%.17g"):format(bullpen.hash(text)) end
  local client = request.client and request.client.name or ""
  if #client > LONGEST then client = ("%.17g"):format(bullpen.hash(client)) end
  return "sticky/" .. client .. "/" .. kind .. "/" .. text
end

-- The candidates of that upstream which may be picked.
local function fit(pool, upstream)
  local list = {}
  for i = 1, #pool do
    local c = pool[i]
    if c.upstream == upstream and c.tried == 0 and not c.benched then list[#list + 1] = c end
  end
  return list
end

local function is_in(pool, upstream)
  for i = 1, #pool do
    if pool[i].upstream == upstream then return true end
  end
end

--- Gives the two hooks that it needs: `select` with `strategy` inside it for what is not bound, and `observe`.
---
---     policy.select, policy.observe = select.sticky(select.weighted(), { by = { "x-session-id" }, ttl = 3600 })
---
--- `by`: what binds, the first that the request has. A header's name, `"previous_response_id"` (each answer's id is bound
--- then), `"prompt_cache_key"`, `"user"`, `"session"` (contract's `request.session`), or a function of the request.
---@param strategy bullpen.Strategy
---@param options { by: (string|fun(request: bullpen.Request): string?)[]?, ttl: number? }?
---@return bullpen.Strategy select
---@return bullpen.Sink observe
return function(strategy, options)
  local o = check("select.sticky", options, { by = { "session" }, ttl = 3600 })
  if type(strategy) ~= "function" then error("select.sticky: a strategy is expected, not a " .. type(strategy), 2) end
  if o.ttl == 0 then error("select.sticky: ttl: more than 0 seconds are expected", 2) end
  local ids = false
  for i, what in ipairs(o.by) do
    if type(what) ~= "string" and type(what) ~= "function" then
      error(("select.sticky: by[%d]: a name or a function is expected"):format(i), 2)
    end
    ids = ids or what == "previous_response_id"
  end

  local function pick(request, pool, attempts)
    local vars = request.vars
    if vars.sticky == nil then
      local kind, text = key_of(request, o.by)
      vars.sticky = kind and name_of(request, kind, text) or false
      -- an id names one answer: what comes next has another, which is bound when it is there
      vars.sticky_ids = ids and name_of(request, "previous_response_id", "")
    end
    local bound = vars.sticky and bullpen.shared.get(vars.sticky)
    if bound and is_in(pool, bound) then
      local own = fit(pool, bound)
      if own[1] then return strategy(request, own, attempts) end
      bullpen.shared.delete(vars.sticky)
    end
    return strategy(request, pool, attempts)
  end

  local function bind(event)
    if event.type ~= "committed" and event.type ~= "finished" or not event.vars or not event.candidate then return end
    if event.type == "finished" and event.outcome ~= "ok" then return end
    local upstream = event.candidate:match("^([^/]*)")
    local key, prefix = event.vars.sticky, event.vars.sticky_ids
    if key then bullpen.shared.set(key, upstream, o.ttl) end
    if prefix and event.response_id and #event.response_id <= LONGEST then
      bullpen.shared.set(prefix .. event.response_id, upstream, o.ttl)
    end
  end

  return pick, bind
end
