/*
 * What is written about policies, held to what the program does: the editor's stubs (lua/meta/bullpen.lua) against every table and function that a
 * policy really gets, both ways; and every example of lua/README.md through the check that `bullpen check` makes.
 *
 * A policy looks at what it is given and keeps the names it saw; its `tick` compares them with the stubs, whose text it finds in `shared`.
 */
#include "ready_rig.h"

#define TEST(promise, function) { promise, function, NULL, NULL, NULL }

/* The file's text; the caller frees it. Tests run from the top of the tree. */
static char *read_text(const char *path) {
  FILE *file = fopen(path, "r");
  if (!file) fail_msg("%s: cannot be opened", path);
  char *text = calloc(1, 1 << 18);
  assert_non_null(text);
  size_t n = fread(text, 1, (1 << 18) - 1, file);
  fclose(file);
  assert_true(n > 0);
  return text;
}

static void put_text(struct ready *r, const char *key, const char *text) {
  struct shared_value v = { .kind = SHARED_STRING, .string = span_of(text) };
  assert_int_equal(shared_set(r->shared, span_of(key), &v, SECONDS_NEVER, false, r->now), SHARED_DONE);
}

static void put_file(struct ready *r, const char *key, const char *path) {
  char *text = read_text(path);
  put_text(r, key, text);
  free(text);
}

/* ---- the stubs ---- */

static const char looker[] =
  "local seen, policy = {}, {}\n"
  "local planned = { ['bullpen.post'] = true, ['bullpen.metric'] = true }\n"
  "local lazy = { Request = { 'headers', 'json', 'field' }, Attempt = { 'headers', 'body' } }\n"
  "local function look(class, t)\n"
  "  if type(t) ~= 'table' then return end\n"
  "  for key in pairs(t) do if type(key) == 'string' then seen[class .. '.' .. key] = true end end\n"
  "  for _, key in ipairs(lazy[class] or {}) do if t[key] ~= nil then seen[class .. '.' .. key] = true end end\n"
  "end\n"
  "local function look_attempt(a) look('Attempt', a) look('Error', a.error) look('Usage', a.usage) look('Candidate', a.candidate) end\n"
  "function policy.select(request, pool, attempts)\n"
  "  look('Request', request) look('Client', request.client)\n"
  "  for _, c in ipairs(pool) do look('Candidate', c) end\n"
  "  for _, a in ipairs(attempts) do look_attempt(a) end\n"
  "  for _, c in ipairs(pool) do if c.tried == 0 and not c.benched then return { use = c, label = 'l', reason = 'r' } end end\n"
  "end\n"
  "function policy.classify(_, a) look_attempt(a) return 'next', { bench = 5, delay = 1, reason = 'r' } end\n"
  "function policy.gate(_, a, event) look_attempt(a) look('GateEvent', event) end\n"
  "function policy.observe(event) look('Event', event) look('Usage', event.usage) end\n"
  "function policy.exhausted(_, attempts) for _, a in ipairs(attempts) do look_attempt(a) end end\n"
  "function policy.tick()\n"
  "  local wrong, meta, class = {}, bullpen.shared.get('meta'), nil\n"
  "  local function say(...) wrong[#wrong + 1] = table.concat({ ... }) end\n"
  "  local stub = {}\n"
  "  for line in meta:gmatch('[^\\n]+') do\n"
  "    class = line:match('^%-%-%-@class bullpen%.(%w+)') or class\n"
  "    local field = line:match('^%-%-%-@field ([%w_]+)')\n"
  "    if field then stub[class .. '.' .. field] = true end\n"
  "    local f = line:match('^function (bullpen[%w_.]*)%(') or line:match('^(bullpen%.json%.null)')\n"
  "    if f then stub[f] = true end\n"
  "  end\n"
  "  for key, value in pairs(bullpen) do if type(value) == 'function' then seen['bullpen.' .. key] = true end end\n"
  "  for key in pairs(bullpen.shared) do seen['bullpen.shared.' .. key] = true end\n"
  "  for key in pairs(bullpen.json) do seen['bullpen.json.' .. key] = true end\n"
  "  for name in bullpen.shared.get('hooks'):gmatch('%S+') do seen['Policy.' .. name] = true end\n"
  "  for name in bullpen.shared.get('verdicts'):gmatch('{ \"([%w_]+)\", +WANT_') do\n"
  "    local any\n"
  "    for _, c in ipairs { 'Details', 'Pick', 'Timeouts', 'Answer' } do\n"
  "      if stub[c .. '.' .. name] then seen[c .. '.' .. name], any = true, true end\n"
  "    end\n"
  "    if not any then say('no stub for what a hook may return: ', name) end\n"
  "  end\n"
  "  for _, file in ipairs { 'inputs', 'attempts' } do\n"
  "    for name in bullpen.shared.get(file):gmatch('strcmp%(key, \"([%w_]+)\"%)') do\n"
  "      if not meta:find('@field ' .. name .. '[ ?]') then say('no stub for ', name) end\n"
  "    end\n"
  "  end\n"
  "  for name in bullpen.shared.get('outcomes'):gmatch('OUTCOME%([%u_]+, +\"([%w_]+)\"') do\n"
  "    if name ~= 'none' and not meta:find('\"' .. name .. '\"', 1, true) then say('no stub for the outcome ', name) end\n"
  "  end\n"
  "  for name in bullpen.shared.get('events'):gmatch('%S+') do\n"
  "    if not meta:find('\"' .. name .. '\"', 1, true) then say('no stub for the event ', name) end\n"
  "  end\n"
  "  for name in pairs(seen) do if not stub[name] then say('no stub for ', name) end end\n"
  "  for name in pairs(stub) do\n"
  "    if not seen[name] and not planned[name] and not name:find('^Rule') then say('a stub for what there is not: ', name) end\n"
  "  end\n"
  "  table.sort(wrong)\n"
  "  bullpen.shared.set('wrong', table.concat(wrong, '\\n'))\n"
  "end\n"
  "return policy\n";

/* A request that meets everything: failures with all they can say, a bench, and a stream with usage. */
static void meet_everything(struct ready *r) {
  static const struct value_pair pair[] = { { { .kind = VALUE_STRING, .string = { "t", 1 } }, { .kind = VALUE_STRING, .string = { "v", 1 } } } };
  static const struct value tags = { .kind = VALUE_TABLE, .table = { pair, 1 } };
  static const struct sse_event event = { .name = SPAN("delta"), .data = SPAN("{}") };
  struct event_facts facts = { .class = EVENT_COMMIT, .finish_reason = SPAN("stop"), .response_id = SPAN("resp_1"), .usage = { true, 1, 2, 3 },
                               .sequence = -1 };
  ready_request(r, "retry-after: 7", NULL);
  r->request.client = "team";
  r->request.client_tags = &tags;
  r->request.session = "s";
  r->request.target = "a";
  ready_begin(r);
  failover_head(r->f, 429, (struct headers){ r->headers, 1 }, r->now);
  r->now += 1;
  failover_error_body(r->f, SPAN("{\"error\":{\"type\":\"t\",\"code\":\"c\",\"message\":\"m\"}}"), true, true, r->now);
  ready_take(r);
  ready_wait(r);
  ready_take(r);
  failover_head(r->f, 200, (struct headers){ 0 }, r->now);
  failover_event(r->f, &facts, &event, 2, r->now);
  ready_take(r);
  struct event told = {
    .type = TOLD_BENCHED, .time = r->now, .request = &r->request, .attempt = r->running, .candidate = "a", .next = "b", .outcome = OUTCOME_RESET,
    .status = 500, .verdict = VERDICT_NEXT, .reason = "r", .label = "l", .error = "e", .delay = 1, .benched_for = 1, .elapsed = 1, .first_event = 1,
  };
  policy_tell(r->advisor, &told);
  struct answer answer = { 0 };
  r->advisor->ops->exhausted(r->advisor, r->f, r->now, &answer);
  failover_ended(r->f, OUTCOME_OK, NULL, NULL, r->now);
  ready_take(r);
}

static void put_names(struct ready *r) {
  char hooks[256] = "options classify_ok", events[256] = "";
  for (size_t h = 0; h < HOOK_COUNT; h++) WRITE(hooks, " %s", policy_hook_names[h]);
  for (int t = TOLD_ATTEMPT_FAILED; t <= TOLD_POLICY_FAILED; t++) WRITE(events, "%s ", event_type_name((enum event_type)t));
  put_text(r, "hooks", hooks);
  put_text(r, "events", events);
  put_file(r, "meta", "lua/meta/bullpen.lua");
  put_file(r, "verdicts", "src/policy/verdicts.c");
  put_file(r, "inputs", "src/policy/inputs.c");
  put_file(r, "attempts", "src/policy/attempts.c");
  put_file(r, "outcomes", "src/core/outcome.def");
}

static void the_stubs_are_what_a_policy_gets(void **state) {
  (void)state;
  static char room[1 << 16];
  struct policy_source source = { "looker.lua", span_of(looker) };
  struct shared_value v;
  struct ready *r = ready_new();
  policy_shared_free(r->shared);
  r->host.shared = r->shared = policy_shared_new(16 << 20);
  ready_pool(r, "a b c");
  bench_set(r->list[2].key, 60, "why", 0, r->now);
  put_names(r);
  r->policy = policy_load_sources(&r->spec, &source, 1, &r->host, false, room, sizeof room);
  if (!r->policy) fail_msg("%s", room);
  meet_everything(r);
  policy_tick(r->policy, r->now);
  memset(room, 0, sizeof room);
  assert_int_equal(shared_get(r->shared, SPAN("wrong"), r->now, room, sizeof room - 1, &v), SHARED_DONE);
  if (v.string.n) fail_msg("%.*s", (int)v.string.n, room);
  ready_free(r);
}

/* ---- the guide ---- */

static void every_example_of_the_guide_passes_the_check(void **state) {
  (void)state;
  static const char begin[] = "```lua\n";
  char *guide = read_text("lua/README.md"), error[512];
  int examples = 0;
  for (char *at = guide; (at = strstr(at, begin)); examples++) {
    char *text = at + strlen(begin), *end = strstr(text, "```");
    assert_non_null(end);
    struct policy_source source = { "example.lua", { text, (size_t)(end - text) } };
    struct ready *r = ready_new();
    ready_pool(r, "openai azure");
    r->policy = policy_load_sources(&r->spec, &source, 1, &r->host, true, error, sizeof error);
    if (!r->policy || !policy_check(r->policy, error, sizeof error)) fail_msg("%s in\n%.*s", error, (int)source.text.n, text);
    ready_free(r);
    at = end + 3;
  }
  assert_true(examples >= 8);
  free(guide);
}

int main(void) {
  const struct CMUnitTest tests[] = {
    TEST("the editor's stubs are what a policy gets, both ways", the_stubs_are_what_a_policy_gets),
    TEST("every example of the guide passes the check", every_example_of_the_guide_passes_the_check),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
