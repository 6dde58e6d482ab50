/*
 * policy: hooks as advice, what they may return, what happens when they misbehave, loading, and what they reach of the
 * process. The store behind bullpen.shared is tested here too.
 */
#include "policy_rig.h"

#include <math.h>
#include <pthread.h>
#include <unistd.h>

#include "base/buf.h"

#define TEST(promise, function) { promise, function, NULL, NULL, NULL }
#define COUNT(list) (sizeof(list) / sizeof *(list))

/* `return { NAME = function(request, a, b) BODY end }` */
static char *one_hook(enum policy_hook hook, const char *body) {
  static char text[4096];
  snprintf(text, sizeof text, "return { %s = function(request, a, b)\n%s\nend }", policy_hook_names[hook], body);
  return text;
}

/* ---- one question put to a hook, and what the built-in says to it ---- */

struct answers {
  struct pick pick;
  struct judgement judgement;
  seconds delay;
  enum event_class class;
  struct answer answer;
};

static const struct sse_event some_event = { .name = SPAN("delta"), .data = SPAN("{\"x\":1}") };

static struct answers ask(struct rig *r, enum policy_hook hook, const struct advisor_ops *ops) {
  struct answers a = { .pick = PICK_DEFAULT, .judgement = JUDGEMENT_DEFAULT, .delay = -1, .class = EVENT_HOLD };
  struct event told = { .type = TOLD_FINISHED, .time = r->now, .request = &r->request, .delay = -1,
                        .benched_for = -1, .elapsed = -1, .first_event = -1 };
  const struct attempt *last = r->running;
  switch (hook) {
    case HOOK_SELECT: ops->select(r->advisor, r->f, r->now, &a.pick); break;
    case HOOK_CLASSIFY: ops->classify(r->advisor, r->f, last, r->now, &a.judgement); break;
    case HOOK_BACKOFF: a.delay = ops->backoff(r->advisor, r->f, last, last->member, r->now); break;
    case HOOK_GATE: a.class = ops->gate ? ops->gate(r->advisor, r->f, last, &some_event, 7, EVENT_HOLD)
        : EVENT_HOLD; break;
    case HOOK_EXHAUSTED: ops->exhausted(r->advisor, r->f, r->now, &a.answer); break;
    case HOOK_OBSERVE: if (ops->observe) ops->observe(r->advisor, &told); break;
    case HOOK_INIT:
    case HOOK_TICK: break;
  }
  return a;
}

static const char *or_none(const char *text) {
  return text ? text : "-";
}

static void assert_same(const struct answers *a, const struct answers *b) {
  assert_int_equal(a->pick.kind, b->pick.kind);
  assert_int_equal(a->pick.member, b->pick.member);
  assert_int_equal(a->judgement.verdict, b->judgement.verdict);
  assert_true(a->judgement.bench == b->judgement.bench && a->judgement.delay == b->judgement.delay);
  assert_string_equal(or_none(a->judgement.kind), or_none(b->judgement.kind));
  assert_true(a->delay == b->delay);
  assert_int_equal(a->class, b->class);
  assert_int_equal(a->answer.kind, b->answer.kind);
}

/* The running attempt failed, but nobody was told yet: hooks can be asked about it. */
static void fail_quietly(struct rig *r) {
  r->running->outcome = OUTCOME_STATUS;
  r->running->status = 503;
}

static struct rig *rig_asked(enum policy_hook hook, const char *body, seconds time) {
  struct rig *r = rig_new();
  r->spec.time = time;
  rig_load(r, one_hook(hook, body));
  rig_begin(r);
  if (!r->running) fail_msg("the request has no attempt: %s", body);
  fail_quietly(r);
  memset(&r->counts, 0, sizeof r->counts);
  return r;
}

/* ---- faults ---- */

static const struct { enum policy_fault fault; const char *body; } misdeeds[] = {
  { FAULT_TIME, "while true do end" },
  { FAULT_TIME, "while true do pcall(function() while true do end end) end" },
  { FAULT_TIME, "local c = coroutine.wrap(function() while true do end end) while true do pcall(c) end" },
  { FAULT_TIME, "string.find(('a'):rep(200), ('a*'):rep(12) .. 'b') while true do end" },
  { FAULT_MEMORY, "local t = {} for i = 1, 1e9 do t[i] = ('x'):rep(1000) .. i end" },
  { FAULT_MEMORY, "local t = {} pcall(function() for i = 1, 1e9 do t[i] = ('x'):rep(100000) .. i end end)" },
  { FAULT_RAISED, "error('boom')" },
  { FAULT_RAISED, "error({})" },
  { FAULT_RAISED, "error()" },
  { FAULT_RAISED, "return nothing_of_that_name" },
  { FAULT_BAD_RETURN, "return function() end" },
  { FAULT_BAD_RETURN, "return true" },
  { FAULT_BAD_RETURN, "return { nonsense = 1 }" },
};

static void try_misdeed(enum policy_hook hook, size_t i) {
  if (hook == HOOK_OBSERVE && misdeeds[i].fault == FAULT_BAD_RETURN) return;
  struct rig *r = rig_asked(hook, misdeeds[i].body, misdeeds[i].fault == FAULT_TIME ? 0.02 : 5);
  seconds began = clock_now();
  struct answers mine = ask(r, hook, r->advisor->ops), builtin = ask(r, hook, &builtin_advisor);
  if (misdeeds[i].fault == FAULT_TIME && clock_now() - began > 0.5)
    fail_msg("%s took %g s", misdeeds[i].body, clock_now() - began);
  assert_same(&mine, &builtin);
  if (atomic_load(&r->counts.faults[hook][misdeeds[i].fault]) != 1)
    fail_msg("%s: %s is not counted as %s", policy_hook_names[hook], misdeeds[i].body,
             policy_fault_names[misdeeds[i].fault]);
  assert_int_equal(rig_faults(r), 1);
  assert_int_equal(atomic_load(&r->counts.calls[hook]), 1);
  assert_false(r->advisor->reject);
  rig_free(r);
}

static void every_fault_is_answered_by_the_builtin(void **state) {
  (void)state;
  const enum policy_hook hooks[] = { HOOK_SELECT, HOOK_CLASSIFY, HOOK_BACKOFF, HOOK_GATE, HOOK_EXHAUSTED,
                                     HOOK_OBSERVE };
  for (size_t h = 0; h < COUNT(hooks); h++)
    for (size_t i = 0; i < COUNT(misdeeds); i++) try_misdeed(hooks[h], i);
}

static void reject_asks_for_the_end(void **state) {
  (void)state;
  struct rig *r = rig_new();
  r->spec.reject = true;
  rig_load(r, "return { classify = function() error('boom') end, observe = function() error('boom') end }");
  rig_begin(r);
  struct event told = { .type = TOLD_COMMITTED, .time = 1 };
  policy_tell(r->advisor, &told);
  assert_false(r->advisor->reject);
  fail_quietly(r);
  ask(r, HOOK_CLASSIFY, r->advisor->ops);
  assert_true(r->advisor->reject);
  rig_free(r);
}

static void a_whole_request_survives_a_policy_that_always_raises(void **state) {
  (void)state;
  struct rig *r = rig_with("local function f() error('no') end\n"
                           "return { select = f, classify = f, backoff = f, observe = f, gate = f, exhausted = f, "
                           "tick = f }");
  assert_int_equal(r->running->member, 0);
  rig_status(r, 401, "{}");
  assert_int_equal(r->running->member, 1);
  failover_head(r->f, 200, (struct headers){ 0 }, r->now);
  failover_event(r->f, &(struct event_facts){ .class = EVENT_COMMIT }, &some_event, 7, r->now);
  assert_true(failover_committed(r->f));
  policy_tick(r->policy, r->now);
  assert_int_equal(atomic_load(&r->counts.faults[HOOK_TICK][FAULT_RAISED]), 1);
  rig_free(r);
}

/* ---- a spent VM ---- */

static const char bomb[] =
  "return { select = function(request, pool)\n"
  "  request.vars.count = (request.vars.count or 0) + 1\n"
  "  if bullpen.shared.delete('bomb') then local t = {} for i = 1, 1e9 do t[i] = ('x'):rep(1000) .. i end end\n"
  "  return { use = pool[2], label = 'n' .. request.vars.count }\n"
  "end }";

static void set_bomb(struct rig *r) {
  struct shared_value v = { .kind = SHARED_INTEGER, .integer = 1 };
  assert_int_equal(shared_set(r->shared, SPAN("bomb"), &v, SECONDS_NEVER, false, 0), SHARED_DONE);
}

static void a_spent_vm_is_replaced_once_a_second(void **state) {
  (void)state;
  struct rig *r = rig_with(bomb);
  struct answers a = ask(r, HOOK_SELECT, r->advisor->ops);
  assert_string_equal(a.pick.label, "n2");
  set_bomb(r);
  a = ask(r, HOOK_SELECT, r->advisor->ops);
  assert_int_equal(a.pick.member, 0); /* the built-in */
  a = ask(r, HOOK_SELECT, r->advisor->ops); /* a new VM, the same request, new vars */
  assert_int_equal(a.pick.member, 1);
  assert_string_equal(a.pick.label, "n1");
  set_bomb(r);
  ask(r, HOOK_SELECT, r->advisor->ops);
  a = ask(r, HOOK_SELECT, r->advisor->ops); /* too soon for another VM */
  assert_int_equal(a.pick.member, 0);
  assert_int_equal(atomic_load(&r->counts.faults[HOOK_SELECT][FAULT_MEMORY]), 3);
  r->policy->replaced = -INFINITY;
  a = ask(r, HOOK_SELECT, r->advisor->ops);
  assert_int_equal(a.pick.member, 1);
  rig_free(r);
}

static void a_request_may_end_after_its_vm(void **state) {
  (void)state;
  struct rig *r = rig_with(bomb);
  struct advisor *other = policy_advise(r->policy, &r->request, &r->arena);
  struct pick pick = PICK_DEFAULT;
  other->ops->select(other, r->f, r->now, &pick);
  assert_string_equal(pick.label, "n1");
  set_bomb(r);
  ask(r, HOOK_SELECT, r->advisor->ops);
  ask(r, HOOK_SELECT, r->advisor->ops);
  policy_leave(&other); /* its tables are gone with the old VM */
  assert_null(other);
  assert_int_equal(ask(r, HOOK_SELECT, r->advisor->ops).pick.member, 1);
  rig_free(r);
}

/* Hooks that keep what they are given, until the memory is out in the middle of building inputs, reading returns or
 * loading. */
static void memory_may_run_out_anywhere(void **state) {
  (void)state;
  static const char hoarder[] = "local all = {}\nreturn { select = function(r, pool) all[#all + 1] = { r.json, "
                                "r.headers, r, pool } return { use = pool[2], label = r.field('user') } end }";
  struct policy_source source = { "policy.lua", span_of(hoarder) };
  size_t refused = 0, spent = 0;
  for (size_t limit = 15000; limit < 135000; limit += 1511) {
    struct rig *r = rig_new();
    r->spec.memory = limit;
    r->policy = policy_load_sources(&r->spec, &source, 1, &r->host, false, r->error, sizeof r->error);
    if (r->policy) rig_begin(r);
    else refused++;
    for (size_t i = 0; r->policy && i < 40; i++) {
      struct advisor *other = policy_advise(r->policy, &r->request, &r->arena);
      struct pick pick = PICK_DEFAULT;
      other->ops->select(other, r->f, r->now, &pick);
      assert_int_equal(pick.kind, PICK_MEMBER);
      policy_leave(&other);
      r->policy->replaced = -INFINITY;
    }
    spent += atomic_load(&r->counts.faults[HOOK_SELECT][FAULT_MEMORY]) > 0;
    rig_free(r);
  }
  assert_true(refused > 0 && spent > 20);
}

/* ---- returns ---- */

struct shape {
  const char *body;
  const char *expected; /* NULL: refused */
};

static char *describe(enum policy_hook hook, const struct answers *a) {
  static char text[400];
  const struct pick *p = &a->pick;
  const struct judgement *j = &a->judgement;
  const struct timeouts *t = &p->timeouts;
  text[0] = 0;
  if (hook == HOOK_SELECT && p->kind == PICK_NO_OPINION) return strcpy(text, "no opinion");
  if (hook == HOOK_SELECT && p->kind == PICK_GIVE_UP) snprintf(text, sizeof text, "give up %s", or_none(p->reason));
  if (hook == HOOK_SELECT && p->kind == PICK_MEMBER)
    snprintf(text, sizeof text, "%u %s %s %g %g %g %g %g", p->member, or_none(p->label), or_none(p->reason),
             t->connect, t->headers, t->first_event, t->idle, t->hold);
  if (hook == HOOK_CLASSIFY)
    snprintf(text, sizeof text, "%s %g %s %s %g %s %d %s", verdict_name(j->verdict), j->bench, or_none(j->key),
             or_none(j->reason), j->delay, or_none(j->kind), j->status,
             or_none(j->message));
  if (hook == HOOK_BACKOFF) snprintf(text, sizeof text, "%g", a->delay);
  if (hook == HOOK_GATE) snprintf(text, sizeof text, "%d", (int)a->class);
  if (hook == HOOK_EXHAUSTED)
    snprintf(text, sizeof text, "%d %d %s %s %s", (int)a->answer.kind, a->answer.status, or_none(a->answer.type),
             or_none(a->answer.code), or_none(a->answer.message));
  return text;
}

static void try_shapes(enum policy_hook hook, const struct shape *shapes, size_t count) {
  for (size_t i = 0; i < count; i++) {
    struct rig *r = rig_new();
    rig_load(r, one_hook(hook, shapes[i].body));
    struct policy *under_test = r->policy;
    struct policy_spec none = { .name = "none" };
    r->policy = policy_load(&none, &r->host, false, r->error, sizeof r->error);
    rig_begin(r); /* by the built-in: the first pick is not what is tested */
    policy_leave(&r->advisor);
    policy_release(&r->policy);
    r->policy = under_test;
    r->advisor = policy_advise(r->policy, &r->request, &r->arena);
    fail_quietly(r);
    struct answers a = ask(r, hook, r->advisor->ops);
    unsigned long refused = atomic_load(&r->counts.faults[hook][FAULT_BAD_RETURN]);
    if (refused != (shapes[i].expected ? 0 : 1) || rig_faults(r) != refused)
      fail_msg("%s: %lu faults, %lu refused", shapes[i].body, rig_faults(r), refused);
    if (shapes[i].expected && strcmp(describe(hook, &a), shapes[i].expected))
      fail_msg("%s: %s", shapes[i].body, describe(hook, &a));
    rig_free(r);
  }
}

static void what_select_may_return(void **state) {
  (void)state;
  static const struct shape shapes[] = {
    { "", "no opinion" },
    { "return nil", "no opinion" },
    { "return a[2]", "1 - - -1 -1 -1 -1 -1" },
    { "return 'azure/gpt-4o-eu'", "1 - - -1 -1 -1 -1 -1" },
    { "return { name = 'spare/' }", "2 - - -1 -1 -1 -1 -1" },
    { "table.remove(a, 1) return a[1]", "1 - - -1 -1 -1 -1 -1" },
    { "return { use = 'spare/', label = 'l', reason = 'r', skip = { ['openai/gpt-4o'] = 'slow' }, timeouts = { "
      "connect = 1, hold = 0, idle = math.huge } }",
      "2 l r 1 -1 -1 inf 0" },
    { "return { use = a[2] }", "1 - - -1 -1 -1 -1 -1" },
    { "return false", "give up -" },
    { "return false, 'enough'", "give up enough" },
    { "return false, {}", NULL },
    { "return true", NULL },
    { "return 1", NULL },
    { "return {}", NULL },
    { "return 'openai/other'", NULL },
    { "return { name = 'openai/other' }", NULL },
    { "return { use = 'openai/other' }", NULL },
    { "return { use = 1 }", NULL },
    { "return { use = 'spare/', lable = 'x' }", NULL },
    { "return { use = 'spare/', label = 1 }", NULL },
    { "return { use = 'spare/', skip = 'x' }", NULL },
    { "return { use = 'spare/', skip = { 1 } }", NULL },
    { "return { use = 'spare/', timeouts = { conect = 1 } }", NULL },
    { "return { use = 'spare/', timeouts = { connect = -1 } }", NULL },
    { "return { use = 'spare/', timeouts = { connect = 0/0 } }", NULL },
    { "return setmetatable({}, { __index = function() error('no') end })", NULL },
  };
  try_shapes(HOOK_SELECT, shapes, COUNT(shapes));
}

static void what_classify_may_return(void **state) {
  (void)state;
  static const struct shape shapes[] = {
    { "", "none 0 - - -1 - 0 -" },
    { "return 'accept'", "accept 0 - - -1 - 0 -" },
    { "return 'retry', { delay = 2 }", "retry 0 - - 2 - 0 -" },
    { "return 'next', { bench = math.huge, key = 'openai', reason = 'dead', kind = 'auth_dead' }",
      "next inf openai dead -1 auth_dead 0 -" },
    { "return 'next', { bench = 60, key = a.candidate.name }", "next 60 openai/gpt-4o - -1 - 0 -" },
    { "return 'stop', { status = 418, message = 'm' }", "stop 0 - - -1 - 418 m" },
    { "return 'next', {}", "next 0 - - -1 - 0 -" },
    { "return 'none'", NULL },
    { "return 'Next'", NULL },
    { "return nil, { bench = 1 }", NULL },
    { "return 'next', 1", NULL },
    { "return 'next', { benched = 1 }", NULL },
    { "return 'next', { bench = -1 }", NULL },
    { "return 'next', { bench = 0/0 }", NULL },
    { "return 'next', { bench = '1' }", NULL },
    { "return 'next', { bench = 1, key = 'nobody' }", NULL },
    { "return 'next', { delay = math.huge }", NULL },
    { "return 'stop', { status = 200 }", NULL },
    { "return 'stop', { status = 400.5 }", NULL },
    { "return 'stop', { message = {} }", NULL },
    { "return 'stop', { 1 }", NULL },
  };
  try_shapes(HOOK_CLASSIFY, shapes, COUNT(shapes));
}

static void what_the_others_may_return(void **state) {
  (void)state;
  static const struct shape delays[] = {
    { "", "-1" }, { "return 0", "0" }, { "return 1.5", "1.5" }, { "return -1", NULL }, { "return 0/0", NULL },
    { "return math.huge", NULL }, { "return '1'", NULL },
  };
  static const struct shape classes[] = {
    { "", "0" }, { "return 'hold'", "0" }, { "return 'commit'", "1" }, { "return 'fail'", "3" },
    { "return 'end'", NULL }, { "return 1", NULL },
  };
  static const struct shape answers[] = {
    { "", "0 0 - - -" },
    { "return 'last'", "1 0 - - -" },
    { "return { status = 503, type = 't', code = 'c', message = 'm' }", "2 503 t c m" },
    { "return 'first'", NULL },
    { "return { status = 99 }", NULL },
    { "return { headers = {} }", NULL },
  };
  try_shapes(HOOK_BACKOFF, delays, COUNT(delays));
  try_shapes(HOOK_GATE, classes, COUNT(classes));
  try_shapes(HOOK_EXHAUSTED, answers, COUNT(answers));
}

static void an_error_event_cannot_be_committed(void **state) {
  (void)state;
  struct rig *r = rig_asked(HOOK_GATE, "return 'commit'", 5);
  const struct advisor_ops *ops = r->advisor->ops;
  assert_int_equal(ops->gate(r->advisor, r->f, r->running, &some_event, 7, EVENT_END), EVENT_END);
  assert_int_equal(rig_faults(r), 0);
  assert_int_equal(ops->gate(r->advisor, r->f, r->running, &some_event, 7, EVENT_FAIL), EVENT_FAIL);
  assert_int_equal(atomic_load(&r->counts.faults[HOOK_GATE][FAULT_BAD_RETURN]), 1);
  rig_free(r);
}

static void an_operators_bench_is_not_overridden(void **state) {
  (void)state;
  struct rig *r = rig_new();
  bench_set_manual(r->candidates[1].key, SECONDS_NEVER, "mine", r->now);
  rig_load(r, one_hook(HOOK_SELECT, "assert(a[2].manual and a[2].benched and a[2].bench_until == math.huge and "
                                    "a[2].bench_reason == 'mine') return a[2]"));
  rig_begin(r);
  assert_int_equal(r->running->member, 0);
  assert_int_equal(atomic_load(&r->counts.faults[HOOK_SELECT][FAULT_BAD_RETURN]), 1);
  rig_free(r);
}

/* ---- inputs ---- */

static void missing_hooks_are_the_builtin_itself(void **state) {
  (void)state;
  struct rig *r = rig_with("return { classify_ok = true, backoff = function() end }");
  const struct advisor_ops *ops = r->advisor->ops;
  assert_true(ops->select == builtin_advisor.select && ops->classify == builtin_advisor.classify &&
              ops->exhausted == builtin_advisor.exhausted);
  assert_true(ops->backoff != builtin_advisor.backoff);
  assert_null(ops->gate);
  assert_null(ops->observe);
  assert_false(ops->classify_ok); /* there is no classify to ask */
  rig_free(r);
}

static const char inputs[] =
  "local seen = {}\n"
  "local function same(a, b) if a ~= b then error(tostring(a) .. ' is not ' .. tostring(b), 2) end end\n"
  "local policy = { classify_ok = true }\n"
  "function policy.select(r, pool, attempts)\n"
  "  same(r.id, 'r-1') same(r.route, 'chat') same(r.method, 'POST') same(r.path, '/v1/chat/completions') "
  "same(r.model, 'smart')\n"
  "  same(r.stream, true) same(r.target, nil) same(r.client.name, 'team-a') same(r.client.tags.tier, 'batch') "
  "same(r.session, 's-1')\n"
  "  same(r.headers['user-agent'], 'test/1') same(r.headers.authorization, nil) same(r.headers['x-api-key'], nil) "
  "same(r.headers.cookie, nil)\n"
  "  same(r.headers.accept, 'a, b') same(r.headers, r.headers) same(r.body_size, 92) same(r.received, 1000) "
  "same(r.deadline, 1900)\n"
  "  same(r.json.messages[1].content, 'hi') same(r.json, r.json) same(r.field('user'), 'uA') same(r.field('user'), "
  "'uA')\n"
  "  same(math.type(r.field('n')), 'integer') same(r.field('t'), 0.5) same(r.field('stream'), true) "
  "same(r.field('messages'), nil)\n"
  "  same(r.field('nobody'), nil) same(r.field('nobody'), nil) same(getmetatable(r), false) same(r.nothing, nil)\n"
  "  same(r.attempts, #attempts) r.vars.selects = (r.vars.selects or 0) + 1 same(r.vars.selects, r.attempts + 1)\n"
  "  same(bullpen.now(), 1000) same(bullpen.random(), 0.5)\n"
  "  local c = pool[1] same(#pool, 3) same(c.name, 'openai/gpt-4o') same(c.upstream, 'openai') same(c.model, "
  "'gpt-4o') same(c.api, 'openai')\n"
  "  same(c.weight, 1.5) same(c.priority, 0) same(c.tags.tier, 'batch') same(next(c.price), nil) same(c.passthrough, "
  "false) same(c.manual, false)\n"
  "  same(c.tried, r.attempts) same(pool[3].model, 'smart') same(c.inflight, 0) same(c.latency, 0)\n"
  "  if r.attempts == 0 then same(c.benched, false) same(c.bench_until, nil) same(c.last_used, 0) seen.c = c return c "
  "end\n"
  "  same(c, seen.c) same(c.benched, true) same(c.bench_until, 1060) same(c.bench_reason, 'tired') same(c.fails, 1) "
  "same(c.last_used, 1000)\n"
  "  same(attempts[1], seen.a) same(attempts[1].candidate, c)\n"
  "  return pool[2]\n"
  "end\n"
  "function policy.classify(r, a)\n"
  "  if a.outcome == 'ok' then same(a.status, 200) same(a.usage.output, 3) same(a.finish_reason, 'stop') "
  "same(a.response_id, 'id-1') return 'accept' end\n"
  "  same(r.vars.selects, 1) same(a.number, 1) same(a.try, 1) same(a.candidate, seen.c) same(a.outcome, 'status') "
  "same(a.status, 429)\n"
  "  same(a.headers['retry-after'], '7') same(a.headers['set-cookie'], nil) same(a.body:sub(1, 8), '{\"error\"') "
  "same(a.error.type, 'x') same(a.error.code, nil)\n"
  "  same(a.retry_after, 7) same(a.started, 1000) same(a.elapsed, 0) same(a.first_event, nil) same(a.committed, "
  "false) same(a.usage, nil)\n"
  "  seen.a = a r.vars.said = 'hello' seen.request = r\n"
  "  return 'next', { bench = 60, reason = 'tired' }\n"
  "end\n"
  "function policy.backoff(r, a) same(a, seen.a) return 0 end\n"
  "function policy.observe(e)\n"
  "  seen[e.type] = (seen[e.type] or 0) + 1\n"
  "  same(e.time, 1000) same(e.request_id, 'r-1') same(e.client, 'team-a') same(e.model, 'smart') same(#e.policy, 12) "
  "same(e.vars.said, 'hello')\n"
  "  if e.type == 'attempt_failed' then same(e.candidate, 'openai/gpt-4o') same(e.outcome, 'status') same(e.status, "
  "429) same(e.verdict, 'next') same(e.attempt, 1) end\n"
  "  if e.type == 'benched' then same(e.benched_for, 60) same(e.reason, 'tired') end\n"
  "  if e.type == 'failed_over' then same(e.next, 'azure/gpt-4o-eu') end\n"
  "  if e.type == 'finished' then\n"
  "    same(e.outcome, 'ok') same(seen.attempt_failed, 1) same(seen.benched, 1) same(seen.failed_over, 1) "
  "same(seen.committed, 1) same(e.usage.input, 9)\n"
  "    bullpen.shared.set('done', 1)\n"
  "  end\n"
  "end\n"
  "function policy.tick(now) same(now, 5) same(seen.request.id, 'r-1') same(seen.request.json ~= nil, true) "
  "same(seen.request.field, seen.request.field)\n"
  "  same(pcall(seen.request.field, 'x'), true) same(rawget(seen.a, 'body') ~= nil, true) "
  "bullpen.shared.set('ticked', 1) end\n"
  "return policy";

static bool is_set(struct rig *r, const char *key) {
  struct shared_value v;
  return shared_get(r->shared, span_of(key), 0, NULL, 0, &v) == SHARED_DONE;
}

static void inputs_are_as_promised(void **state) {
  (void)state;
  struct rig *r = rig_with(inputs);
  rig_status(r, 429, "{\"error\":{\"type\":\"x\",\"message\":\"slow down\"}}");
  assert_int_equal(r->running->member, 1);
  struct event_facts facts = { .finish_reason = SPAN("stop"), .response_id = SPAN("id-1"),
                               .usage = { true, 9, 3, 1 }, .sequence = -1 };
  failover_head(r->f, 200, (struct headers){ 0 }, r->now);
  failover_ended(r->f, OUTCOME_OK, NULL, &facts, r->now);
  rig_take(r);
  assert_int_equal(rig_faults(r), 0);
  assert_true(is_set(r, "done"));
  policy_leave(&r->advisor);
  arena_free(&r->arena); /* what the policy kept of the request must not reach for it */
  policy_tick(r->policy, 5);
  assert_int_equal(rig_faults(r), 0);
  assert_true(is_set(r, "ticked"));
  rig_free(r);
}

static void kept_tables_of_a_request_that_is_over_are_harmless(void **state) {
  (void)state;
  struct rig *r = rig_with("local r, a\nreturn { select = function(x) r = x end, classify = function(_, x) a = x "
                           "return 'accept' end,\n"
                           "tick = function() assert(r.json == nil and r.headers == nil and r.field == nil and a.body "
                           "== nil and a.headers == nil) bullpen.shared.set('done', 1) end }");
  rig_status(r, 400, "{}");
  policy_leave(&r->advisor);
  arena_free(&r->arena);
  policy_tick(r->policy, 5);
  assert_true(is_set(r, "done"));
  assert_int_equal(rig_faults(r), 0);
  rig_free(r);
}

static void the_drained_are_not_in_the_pool_and_the_full_are_benched(void **state) {
  (void)state;
  struct rig *r = rig_new();
  struct bench_ticket tickets[2];
  bench_set_drained(r->candidates[0].upstream_key, true);
  for (size_t i = 0; i < 2; i++)
    assert_int_equal(bench_begin(r->candidates[1].key, r->candidates[1].upstream_key, 2, false, r->now, &tickets[i]),
                     BENCH_BEGUN);
  rig_load(r, one_hook(HOOK_SELECT, "assert(#a == 2 and a[1].benched and a[1].bench_reason == 'full' and "
                                    "a[1].inflight == 2) return a[2]"));
  rig_begin(r);
  assert_int_equal(rig_faults(r), 0);
  assert_int_equal(r->running->member, 2);
  for (size_t i = 0; i < 2; i++) bench_release(&tickets[i], r->now);
  rig_free(r);
}

static void a_large_body_has_fields_but_no_json(void **state) {
  (void)state;
  struct rig *r = rig_new();
  struct buf body = { 0 };
  buf_puts(&body, "{\"text\":\"");
  for (size_t i = 0; i < 2 << 20; i++) buf_puts(&body, "x");
  buf_puts(&body, "\",\"user\":\"me\"}");
  r->request.body = buf_span(&body);
  rig_load(r, one_hook(HOOK_SELECT, "assert(request.json == nil and request.field('user') == 'me')"));
  rig_begin(r);
  assert_int_equal(rig_faults(r), 0);
  rig_free(r);
  buf_free(&body);
}

/* ---- loading ---- */

static void bad_policies_say_where_and_what(void **state) {
  (void)state;
  static const struct shape bad[] = {
    { "return 1", "policy.lua: a policy returns a table of hooks, not a number" },
    { "return {", "policy.lua:1: " },
    { "\nerror('boom')", "policy.lua:2: boom" },
    { "local p = {}\nfunction p.selct() end\nreturn p", "policy.lua:2: selct: unknown key (did you mean 'select'?)" },
    { "return {\n  -- select is wrong\n  select = 1 }", "policy.lua:3: select: a function is expected, not a number" },
    { "return { classify_ok = 1 }", "policy.lua:1: classify_ok: true or false is expected, not a number" },
    { "return { options = true }", "policy.lua:1: options: a table is expected" },
    { "return { function() end }", "a key of type number" },
    { "while true do pcall(string.rep, 'x', 1) end", "time budget" },
    { "local t = {} for i = 1, 1e9 do t[i] = i end", "memory" },
    { "return { init = function()\nerror('no') end }", "policy.lua:2: no" },
    { "return { init = function() x = 1 end }", "globals are read-only" },
    { "return { init = function() bullpen.now = 1 end }", "read-only" },
    { "return { init = function() bullpen.shared.get = 1 end }", "read-only" },
    { "require 'nowhere'", "nowhere" },
  };
  for (size_t i = 0; i < COUNT(bad); i++) {
    struct rig *r = rig_new();
    struct policy_source source = { "policy.lua", span_of(bad[i].body) };
    r->policy = policy_load_sources(&r->spec, &source, 1, &r->host, false, r->error, sizeof r->error);
    assert_null(r->policy);
    if (!strstr(r->error, bad[i].expected)) fail_msg("%s: %s", bad[i].body, r->error);
    rig_free(r);
  }
}

static struct value option(struct value_pair *pair, const char *name, long long number) {
  *pair = (struct value_pair){ { .kind = VALUE_STRING, .string = span_of(name) },
                               { .kind = VALUE_INTEGER, .integer = number } };
  return (struct value){ .kind = VALUE_TABLE, .table = { pair, 1 } };
}

static const char with_options[] = "return { options = { tries = 3, cap = 10 }, init = function(o)\n"
                                   "  assert(o.tries == 5 and o.cap == 10) end }";

static void options_reach_init_and_unknown_ones_are_refused(void **state) {
  (void)state;
  struct value_pair pair;
  struct value options = option(&pair, "tries", 5);
  struct rig *r = rig_new();
  r->spec.options = &options;
  rig_load(r, with_options);
  rig_free(r);
  r = rig_new();
  options = option(&pair, "trys", 5);
  r->spec.options = &options;
  struct policy_source source = { "policy.lua", span_of(with_options) };
  assert_null(policy_load_sources(&r->spec, &source, 1, &r->host, false, r->error, sizeof r->error));
  assert_string_equal(r->error, "policy.lua: options.trys: the policy has no such option (did you mean 'tries'?)");
  rig_free(r);
}

static void version_of(struct policy_source *sources, size_t count, const struct value *options,
                       char version[VERSION_DIGITS + 1]) {
  struct rig *r = rig_new();
  r->spec.options = options;
  r->policy = policy_load_sources(&r->spec, sources, count, &r->host, true, r->error, sizeof r->error);
  if (!r->policy) fail_msg("%s", r->error);
  strcpy(version, policy_version(r->policy));
  rig_free(r);
}

static void the_version_goes_by_content_names_and_options(void **state) {
  (void)state;
  char first[13], other[13];
  struct value_pair pair;
  struct value options = option(&pair, "tries", 5), others = options;
  struct policy_source sources[] = { { "policy.lua", SPAN("return { options = { tries = 1 } }") },
                                     { "lib/a.lua", SPAN("return 1") } };
  version_of(sources, 2, &options, first);
  assert_int_equal(strspn(first, "0123456789abcdef"), VERSION_DIGITS);
  version_of(sources, 2, &options, other);
  assert_string_equal(first, other);
  others = option(&pair, "tries", 6);
  version_of(sources, 2, &others, other);
  assert_string_not_equal(first, other);
  others = option(&pair, "tries", 5);
  sources[1].text = SPAN("return 2");
  version_of(sources, 2, &others, other);
  assert_string_not_equal(first, other);
  sources[1] = (struct policy_source){ "lib/b.lua", SPAN("return 1") };
  version_of(sources, 2, &others, other);
  assert_string_not_equal(first, other);
}

static void write_file(const char *folder, const char *name, const char *text) {
  char path[256];
  snprintf(path, sizeof path, "%s/%s", folder, name);
  FILE *file = fopen(path, "w");
  assert_non_null(file);
  fputs(text, file);
  fclose(file);
}

static void a_policy_from_disk_can_be_loaded_again_from_memory(void **state) {
  (void)state;
  char folder[] = P_tmpdir "/test_policy_XXXXXX", path[64];
  size_t count;
  assert_non_null(mkdtemp(folder));
  write_file(folder, "p.lua", "local names = require 'names' return { select = function() return names.best end }");
  write_file(folder, "names.lua", "return { best = 'azure/gpt-4o-eu' }");
  snprintf(path, sizeof path, "%s/p.lua", folder);
  struct rig *r = rig_new();
  r->spec.file = path;
  r->policy = policy_load(&r->spec, &r->host, false, r->error, sizeof r->error);
  if (!r->policy) fail_msg("%s", r->error);
  const struct policy_source *sources = policy_sources(r->policy, &count);
  assert_int_equal(count, 2);
  assert_string_equal(sources[1].name, "names.lua");
  write_file(folder, "names.lua", "error('changed on the disk')");
  struct policy *again = policy_load_sources(&r->spec, sources, count, &r->host, false, r->error, sizeof r->error);
  if (!again) fail_msg("%s", r->error);
  assert_string_equal(policy_version(again), policy_version(r->policy));
  policy_release(&r->policy);
  r->policy = again;
  rig_begin(r);
  assert_int_equal(r->running->member, 1);
  rig_free(r);
  for (size_t i = 0; i < 2; i++) {
    snprintf(path, sizeof path, "%s/%s", folder, i ? "p.lua" : "names.lua");
    unlink(path);
  }
  rmdir(folder);
}

static void no_policy_is_the_builtin(void **state) {
  (void)state;
  struct rig *r = rig_new();
  r->policy = policy_load(&r->spec, &r->host, false, r->error, sizeof r->error);
  assert_string_equal(policy_version(r->policy), "builtin");
  rig_begin(r);
  assert_true(memcmp(r->advisor->ops, &builtin_advisor, sizeof builtin_advisor) == 0);
  assert_true(policy_check(r->policy, r->error, sizeof r->error));
  assert_null(policy_load(&(struct policy_spec){ .name = "x", .ready = "no such policy" }, &r->host, false, r->error,
                          sizeof r->error));
  assert_null(policy_load(&(struct policy_spec){ .name = "x", .file = "/nowhere/p.lua" }, &r->host, false, r->error,
                          sizeof r->error));
  assert_non_null(strstr(r->error, "/nowhere/p.lua: No such file"));
  rig_free(r);
}

static void check_asks_every_hook(void **state) {
  (void)state;
  static const enum policy_hook hooks[] = { HOOK_SELECT, HOOK_CLASSIFY, HOOK_BACKOFF, HOOK_OBSERVE, HOOK_GATE,
                                            HOOK_EXHAUSTED, HOOK_TICK };
  for (size_t i = 0; i < COUNT(hooks); i++) {
    struct rig *r = rig_new();
    rig_load(r, one_hook(hooks[i], "error('seen')"));
    assert_false(policy_check(r->policy, r->error, sizeof r->error));
    if (!strstr(r->error, "policy.lua:2: seen")) fail_msg("%s: %s", policy_hook_names[hooks[i]], r->error);
    assert_int_equal(rig_faults(r), 0);
    rig_free(r);
  }
}

static void check_touches_nothing(void **state) {
  (void)state;
  struct rig *r = rig_new();
  rig_load(r, "return { select = function() bullpen.shared.set('touched', 1) bullpen.bench('openai', 60) return "
              "'not/here' end,\n"
              "classify = function(r, a) bullpen.bench(a.candidate.name, 60) return 'next', { bench = 60, key = "
              "'azure' } end }");
  if (!policy_check(r->policy, r->error, sizeof r->error)) fail_msg("%s", r->error);
  struct bench_state s;
  bench_read(r->candidates[0].upstream_key, clock_now(), &s);
  assert_false(s.benched);
  assert_false(is_set(r, "touched"));
  rig_free(r);
}

/* ---- bullpen ---- */

static void host_functions_do_what_they_say(void **state) {
  (void)state;
  struct rig *r = rig_with(
    "local function raises(f, ...) assert(not pcall(f, ...)) end\n"
    "return { select = function()\n"
    "  local b, s = bullpen, bullpen.shared\n"
    "  assert(b.bench('azure', 30, 'why') and b.benched('azure') and select(2, b.benched('azure')) == 1030)\n"
    "  assert(not b.bench('azure', 10) and b.unbench('azure') and not b.unbench('azure') and not b.benched('azure'))\n"
    "  raises(b.bench, 'nobody', 1) raises(b.benched, 'nobody') raises(b.bench, 'azure', -1) raises(b.bench, 'azure', "
    "0/0)\n"
    "  assert(b.hash('') ~= b.hash('a') and b.hash('a') == b.hash('a') and b.hash('a') >= 0 and b.hash('a') < 1)\n"
    "  assert(b.json.decode('[1]')[1] == 1 and b.json.encode({ a = 1 }) == '{\"a\":1}')\n"
    "  b.log('debug', 'hello', { a = 1, b = 'x', c = true, d = {} }) raises(b.log, 'loud', 'x')\n"
    "  assert(s.get('k') == nil and s.set('k', 'v') and s.get('k') == 'v' and s.add('k', 'w') == false and s.add('l', "
    "2.5) and s.get('l') == 2.5)\n"
    "  assert(s.incr('n') == 1 and s.incr('n', 4) == 5 and math.type(s.get('n')) == 'integer' and s.incr('n', -1, { "
    "max = 9 }) == 4)\n"
    "  local v, why = s.incr('n', 6, { max = 9 }) assert(v == nil and why == 'max' and s.get('n') == 4)\n"
    "  v, why = s.incr('k') assert(v == nil and why == 'not a number')\n"
    "  v, why = s.set('big', ('x'):rep(1 << 17)) assert(v == nil and why == 'too large')\n"
    "  assert(s.set('long', ('y'):rep(5000)) and #s.get('long') == 5000)\n"
    "  assert(s.incr('i', 1, { init = 10, ttl = 5 }) == 11 and s.delete('i') and not s.delete('i'))\n"
    "  raises(s.set, 'k', {}) raises(s.set, 'k', 1, 0) raises(s.incr, 'n', 1, { min = 1 }) raises(s.get, "
    "('k'):rep(600))\n"
    "  s.set('done', 1)\n"
    "end }");
  assert_int_equal(rig_faults(r), 0);
  assert_true(is_set(r, "done"));
  rig_free(r);
}

/* ---- the store ---- */

static struct shared_value number(long long n) {
  return (struct shared_value){ .kind = SHARED_INTEGER, .integer = n };
}

static void the_store_keeps_within_its_limit(void **state) {
  (void)state;
  enum { LIMIT = 64 << 10 };
  struct policy_shared *s = policy_shared_new(LIMIT);
  struct shared_value v = { .kind = SHARED_STRING, .string = SPAN("some text of a usual length") };
  char key[16], room[64];
  for (int i = 0; i < 5000; i++) {
    snprintf(key, sizeof key, "k%d", i);
    assert_int_equal(shared_set(s, span_of(key), &v, SECONDS_NEVER, false, 0), SHARED_DONE);
    assert_int_equal(shared_get(s, SPAN("k0"), 0, room, sizeof room, &v), SHARED_DONE); /* what is used stays */
    v.string = SPAN("some text of a usual length");
    assert_true(shared_used(s) <= LIMIT);
  }
  assert_int_equal(shared_get(s, SPAN("k1"), 0, room, sizeof room, &v), SHARED_ABSENT);
  policy_shared_free(s);
}

static void what_the_store_holds_expires(void **state) {
  (void)state;
  struct policy_shared *s = policy_shared_new(64 << 10);
  struct shared_value v = number(1);
  assert_int_equal(shared_set(s, SPAN("a"), &v, 10, false, 100), SHARED_DONE);
  assert_int_equal(shared_set(s, SPAN("a"), &v, 10, true, 109), SHARED_PRESENT);
  assert_int_equal(shared_get(s, SPAN("a"), 109.9, NULL, 0, &v), SHARED_DONE);
  assert_int_equal(shared_get(s, SPAN("a"), 110, NULL, 0, &v), SHARED_ABSENT);
  assert_int_equal(shared_used(s), 0);
  struct shared_sum sum = { .by = number(2), .init = number(5), .ttl = 10, .max = 8 };
  assert_int_equal(shared_add(s, SPAN("n"), &sum, 0, &v), SHARED_DONE);
  assert_int_equal(v.integer, 7);
  assert_int_equal(shared_add(s, SPAN("n"), &sum, 9, &v), SHARED_MAX);
  assert_int_equal(shared_add(s, SPAN("n"), &sum, 10, &v), SHARED_DONE); /* anew */
  assert_int_equal(v.integer, 7);
  assert_int_equal(shared_delete(s, SPAN("n"), 25), SHARED_ABSENT);
  policy_shared_free(s);
}

enum { THREADS = 4, TURNS = 20000 };

static void *hammer(void *context) {
  struct policy_shared *s = context;
  struct shared_sum sum = { .by = number(1), .ttl = SECONDS_NEVER, .max = THREADS * TURNS / 2 };
  struct shared_value v, text = { .kind = SHARED_STRING, .string = SPAN("value") };
  char key[16], room[8];
  size_t granted = 0;
  for (int i = 0; i < TURNS; i++) {
    granted += shared_add(s, SPAN("counter"), &sum, 0, &v) == SHARED_DONE;
    snprintf(key, sizeof key, "k%d", i % 100);
    if (i % 3 == 0) (void)shared_delete(s, span_of(key), 0);
    else if (i % 3 == 1) (void)shared_set(s, span_of(key), &text, SECONDS_NEVER, i % 2, 0);
    else if (shared_get(s, span_of(key), 0, room, sizeof room, &v) == SHARED_DONE)
      assert_true(span_is(v.string, "value"));
  }
  return (void *)granted;
}

static void the_store_is_atomic(void **state) {
  (void)state;
  struct policy_shared *s = policy_shared_new(1 << 20);
  pthread_t threads[THREADS];
  size_t granted = 0;
  for (size_t i = 0; i < THREADS; i++) assert_int_equal(pthread_create(&threads[i], NULL, hammer, s), 0);
  for (size_t i = 0; i < THREADS; i++) {
    void *result;
    pthread_join(threads[i], &result);
    granted += (size_t)result;
  }
  assert_int_equal(granted, THREADS * TURNS / 2);
  policy_shared_free(s);
}

int main(void) {
  const struct CMUnitTest tests[] = {
    TEST("every fault of every hook is counted, and the built-in answers", every_fault_is_answered_by_the_builtin),
    TEST("on_error = reject asks for the end, but not for observe", reject_asks_for_the_end),
    TEST("a whole request survives a policy that always raises", a_whole_request_survives_a_policy_that_always_raises),
    TEST("a spent VM is replaced, at most once a second", a_spent_vm_is_replaced_once_a_second),
    TEST("a request may end after the VM it began with", a_request_may_end_after_its_vm),
    TEST("memory may run out anywhere", memory_may_run_out_anywhere),
    TEST("what select may return, and nothing else", what_select_may_return),
    TEST("what classify may return, and nothing else", what_classify_may_return),
    TEST("what backoff, gate and exhausted may return", what_the_others_may_return),
    TEST("what the built-in fails cannot be committed", an_error_event_cannot_be_committed),
    TEST("a manual bench is not overridden", an_operators_bench_is_not_overridden),
    TEST("a missing hook is the built-in's own function", missing_hooks_are_the_builtin_itself),
    TEST("inputs are as the contract says, and vars live as long as the request", inputs_are_as_promised),
    TEST("tables kept of a request that is over are harmless", kept_tables_of_a_request_that_is_over_are_harmless),
    TEST("the drained are not in the pool; the full are benched",
         the_drained_are_not_in_the_pool_and_the_full_are_benched),
    TEST("a large body has fields but no json", a_large_body_has_fields_but_no_json),
    TEST("a bad policy is refused with file, line and key", bad_policies_say_where_and_what),
    TEST("options reach init over the defaults; unknown ones are refused",
         options_reach_init_and_unknown_ones_are_refused),
    TEST("the version goes by contents, names and options", the_version_goes_by_content_names_and_options),
    TEST("a policy from disk can be loaded again from memory", a_policy_from_disk_can_be_loaded_again_from_memory),
    TEST("no file is the built-in; a missing one is an error", no_policy_is_the_builtin),
    TEST("the check asks every hook", check_asks_every_hook),
    TEST("the check touches nothing", check_touches_nothing),
    TEST("the functions of bullpen do what they say", host_functions_do_what_they_say),
    TEST("the store keeps within its limit, least recently used out", the_store_keeps_within_its_limit),
    TEST("what the store holds expires", what_the_store_holds_expires),
    TEST("the store is atomic under four threads", the_store_is_atomic),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
