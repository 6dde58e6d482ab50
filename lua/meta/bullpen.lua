---@meta
-- What an editor needs to complete and check a policy: every hook, every input, every function of `bullpen`. The library is
-- annotated in its own files. A test (tests/unit/test_stubs.c) holds this file to what the program really hands out.

---@alias bullpen.Outcome
---| "ok" a whole good answer
---| "status" an answer whose status is not 2xx
---| "connect" | "connect_timeout" | "dns" | "tls" | "reset" | "headers_timeout" | "first_event_timeout" | "idle_timeout"
---| "truncated" | "empty" | "stream_error" | "wrong_type" | "too_large" | "client_gone" | "deadline"

---@alias bullpen.Route "chat"|"completions"|"embeddings"|"responses"|"messages"|"other"
---@alias bullpen.Verdict "accept"|"retry"|"next"|"stop"
---@alias bullpen.Kind "transient"|"auth_dead"|"model_missing"|"request_specific"|"other"

---@class bullpen.Client
---@field name string as in `clients`
---@field tags table

---@class bullpen.Request
---@field id string
---@field route bullpen.Route
---@field method string
---@field path string as the client sent it
---@field model string what the client asked for
---@field stream boolean
---@field target string? the upstream asked for by header or suffix
---@field client bullpen.Client? nil when no clients are configured
---@field session string? the first of x-session-id, x-claude-code-session-id, session_id, prompt_cache_key, ...
---@field headers table<string, string> lower-case names; no credentials, no cookies
---@field body_size integer bytes
---@field received number seconds, Unix time
---@field deadline number
---@field attempts integer how many were begun
---@field attempts_left integer? of limits.attempts
---@field vars table yours for the life of the request; events have it too
---@field json table? the decoded body, when it is touched; nil above 1 MiB
---@field field fun(name: string): string|number|boolean|nil one top-level scalar of the body, at any size

---@class bullpen.Candidate
---@field name string "openai/gpt-4o"
---@field upstream string "openai"
---@field model string
---@field api "openai"|"anthropic"
---@field weight number
---@field priority integer lower is tried first
---@field tags table
---@field price table
---@field passthrough boolean
---@field forwards boolean? the client's own credential goes there
---@field benched boolean by its own bench, its upstream's, or because it is full
---@field bench_until number? math.huge: until lifted
---@field bench_reason string? "full": its upstream has max_inflight attempts under way
---@field manual boolean an operator holds it
---@field fails integer consecutive failures, of all requests
---@field inflight integer
---@field latency number moving average of seconds to the first event; 0: none yet
---@field error_rate number moving, 0..1
---@field last_used number 0: never
---@field tried integer attempts of this request

---@class bullpen.Error
---@field type string?
---@field code string?
---@field message string?

---@class bullpen.Usage
---@field input integer
---@field output integer
---@field cached integer

---@class bullpen.Attempt
---@field number integer of this request, from 1
---@field try integer on this candidate, from 1
---@field candidate bullpen.Candidate
---@field outcome bullpen.Outcome? nil while it runs
---@field status integer? nil: no head came
---@field headers table<string, string>
---@field body string? of an answer that is no 2xx, at most 64 KiB
---@field error bullpen.Error? read from any known shape
---@field retry_after number? seconds, from every header that says so
---@field started number
---@field elapsed number
---@field first_event number? seconds from its start
---@field committed boolean
---@field usage bullpen.Usage?
---@field finish_reason string?
---@field response_id string?

---@alias bullpen.EventType
---| "attempt_failed" | "failed_over" | "benched" | "unbenched" | "committed" | "finished"
---| "policy_loaded" | "policy_failed"

---@class bullpen.Event
---@field type bullpen.EventType
---@field time number
---@field request_id string?
---@field client string? its name
---@field model string?
---@field candidate string? a name, or the benched key
---@field next string? failed_over: who is next
---@field outcome bullpen.Outcome?
---@field status integer?
---@field attempt integer? its number
---@field verdict bullpen.Verdict?
---@field reason string?
---@field delay number?
---@field benched_for number? seconds; math.huge: until lifted
---@field error string? what the upstream said
---@field elapsed number?
---@field first_event number?
---@field usage bullpen.Usage?
---@field finish_reason string?
---@field response_id string?
---@field label string? of the pick
---@field vars table? the request's
---@field policy string its version

---@class bullpen.GateEvent
---@field name string? of the event
---@field data string at most 64 KiB
---@field bytes integer
---@field verdict "hold"|"commit"|"fail" what the built-in says

---@class bullpen.Details beside a verdict
---@field bench number? seconds; math.huge: until lifted
---@field key string? a candidate or an upstream; nil: the candidate
---@field reason string?
---@field delay number? seconds before the next attempt, instead of backoff
---@field kind bullpen.Kind|string|nil
---@field status integer? of `stop`: 400..599
---@field message string? of `stop`

---@class bullpen.Timeouts seconds
---@field connect number?
---@field headers number?
---@field first_event number?
---@field idle number?
---@field hold number?

---@class bullpen.Pick
---@field use bullpen.Candidate|string
---@field label string?
---@field reason string?
---@field skip table<string, string>? name -> why it was left out
---@field timeouts bullpen.Timeouts?

---@class bullpen.Answer
---@field status integer? 400..599
---@field type string?
---@field code string?
---@field message string?

---@class bullpen.Policy what a policy file returns; a missing hook is the built-in's
---@field select bullpen.Strategy?
---@field classify bullpen.Classifier?
---@field backoff bullpen.Backoff?
---@field observe bullpen.Sink?
---@field gate (fun(request: bullpen.Request, attempt: bullpen.Attempt, event: bullpen.GateEvent): "hold"|"commit"|"fail"|nil)?
---@field exhausted (fun(request: bullpen.Request, attempts: bullpen.Attempt[]): bullpen.Answer|"last"|nil)?
---@field init fun(options: table)? once per load, per worker
---@field tick fun(now: number)? every second, on one worker
---@field options table? name -> default
---@field classify_ok boolean? true: classify is asked about good non-stream answers too

---@alias bullpen.Choice bullpen.Candidate|bullpen.Pick|string|false|nil a name, nil: no opinion, false: give up
---@alias bullpen.Strategy fun(r: bullpen.Request, pool: bullpen.Candidate[], done: bullpen.Attempt[]): bullpen.Choice, string?
---@alias bullpen.Filter fun(candidate: bullpen.Candidate, request: bullpen.Request): boolean, string?
---@alias bullpen.Classifier fun(request: bullpen.Request, attempt: bullpen.Attempt): bullpen.Verdict?, bullpen.Details?
---@alias bullpen.Backoff fun(request: bullpen.Request, attempt: bullpen.Attempt): number?
---@alias bullpen.Sink fun(event: bullpen.Event)

---@class bullpen.Rule a row of classify.rules
---@field on (integer|string)[]?
---@field codes string[]?
---@field keywords string[]?
---@field kind bullpen.Kind?
---@field verdict bullpen.Verdict?
---@field tries integer?
---@field bench (number|fun(request: bullpen.Request, attempt: bullpen.Attempt): number)?
---@field scope "candidate"|"upstream"|nil
---@field delay number?
---@field reason string?

bullpen = {}
bullpen.shared = {}
bullpen.json = {}

---Unix time from a clock that never steps; the moment of the hook call.
---@return number
function bullpen.now() end

---In [0,1).
---@return number
function bullpen.random() end

---In [0,1), the same everywhere.
---@param text string at most 1 MiB
---@return number
function bullpen.hash(text) end

---At most 100 lines a second, 16 fields, 4 KiB.
---@param level "debug"|"info"|"warn"|"error"
---@param message string
---@param fields table<string, string|number|boolean>?
function bullpen.log(level, message, fields) end

---Sets an automatic bench; it never shortens one that holds.
---@param key string a candidate or an upstream
---@param seconds number math.huge: until lifted
---@param reason string?
---@return boolean longer than before
function bullpen.bench(key, seconds, reason) end

---Lifts an automatic bench.
---@param key string
---@return boolean was
function bullpen.unbench(key) end

---@param key string
---@return boolean benched
---@return number? till
function bullpen.benched(key) end

---Fire and forget; never blocks. False when the queue is full.
---@param url string
---@param body string
---@param options { headers: table<string, string>? }?
---@return boolean
function bullpen.post(url, body, options) end

---@param name string
---@param value number
---@param labels table<string, string>?
function bullpen.metric(name, value, labels) end

---@param key string at most 512 bytes
---@return string|number|nil
function bullpen.shared.get(key) end

---@param key string
---@param value string|number
---@param ttl number? seconds
---@return true? done
---@return string? why
function bullpen.shared.set(key, value, ttl) end

---Only if it is absent.
---@param key string
---@param value string|number
---@param ttl number? seconds
---@return boolean? added
---@return string? why
function bullpen.shared.add(key, value, ttl) end

---@param key string
---@param by number? 1
---@param options { init: number?, ttl: number?, max: number? }? init and ttl count when it is absent
---@return number? sum nil: nothing was changed
---@return "max"|string|nil why
function bullpen.shared.incr(key, by, options) end

---@param key string
---@return boolean was
function bullpen.shared.delete(key) end

---@param value any
---@return string
function bullpen.json.encode(value) end

---@param text string
---@return any
function bullpen.json.decode(text) end

---What JSON's null becomes.
---@type userdata
bullpen.json.null = nil
