/*
 * A rig for the engine: a registry and a pool on an invented clock, requests on them, and a driver that carries out every order by writing it
 * down. A test feeds facts and compares what was ordered and told with one readable line.
 *
 *   orders   start a, cancel a, commit a, deliver a, last a, fail 502 +1 hopeless, break a, break a quiet, end a
 *   events   failed a reset next, over a>b, benched a 300, unbenched a, committed a, finished reset 502
 *
 * `+1` is a retry-after. Candidate `a.1` is of upstream `up-a`. A scripted advisor answers from queues; when one is empty it has no opinion.
 * The driver itself fails a test that starts after the end, beside another transfer, past the deadline or over the limit of attempts.
 */
#pragma once

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/failover.h"

#define T0 1000000.0
#define TEST(promise, function) { promise, function, world_open, world_close, NULL }

enum { MEMBERS_MAX = 32, RUNS_MAX = 4, QUEUE_MAX = 128, TEXT_MAX = 8192 };

struct world {
  struct bench *bench;
  struct arena arena;
  struct candidate list[MEMBERS_MAX];
  const struct candidate *pool[MEMBERS_MAX];
  size_t count;
  seconds now;
};

/* An advisor that answers from queues. `forever`: the last judgement repeats. */
struct script {
  struct advisor advisor;
  struct advisor_ops ops;
  struct pick picks[QUEUE_MAX];
  struct judgement judgements[QUEUE_MAX];
  seconds delays[QUEUE_MAX];
  enum event_class gates[QUEUE_MAX];
  struct answer answer;
  unsigned picks_in, picks_out, judgements_in, judgements_out, delays_in, delays_out, gates_in, gates_out;
  unsigned asked_select, asked_classify, asked_backoff;
  bool forever;
  unsigned reject_select, reject_classify; /* the call (from 1) that fails under on_error = "reject" */
  bool reject_gate;
};

struct run {
  struct failover *f;
  struct arena arena;
  struct request request;
  struct script script;
  unsigned limit; /* of attempts */
  double random;
  const struct attempt *open; /* its transfer is under way */
  unsigned starts, finished;
  bool gone, as_is;
  struct order last; /* the newest FAIL, DELIVER or LAST */
  unsigned seen[ORDER_TELL + 1]; /* orders of each kind */
  char orders[TEXT_MAX], events[TEXT_MAX], all[TEXT_MAX];
};

static struct world w;
static struct run runs[RUNS_MAX];
static struct run *const r = &runs[0]; /* most tests have one request */

static inline int world_open(void **state) {
  (void)state;
  memset(&w, 0, sizeof w);
  memset(runs, 0, sizeof runs);
  w.now = T0;
  w.bench = bench_new(256);
  return w.bench ? 0 : -1;
}

static inline int world_close(void **state) {
  (void)state;
  for (size_t i = 0; i < RUNS_MAX; i++) arena_free(&runs[i].arena);
  arena_free(&w.arena);
  bench_free(w.bench);
  return 0;
}

/* ---- the pool ---- */

static inline void add_candidate(struct span name) {
  struct candidate *c = &w.list[w.count];
  size_t n = 0;
  while (n < name.n && name.p[n] != '.') n++;
  c->name = arena_copy(&w.arena, name);
  c->upstream_name = arena_printf(&w.arena, "up-%.*s", (int)n, name.p);
  c->model = "m";
  c->weight = 1;
  c->timeouts = (struct timeouts){ 5, 300, 300, 120, 20 };
  c->key = bench_get(w.bench, span_of(c->name));
  c->upstream_key = bench_get(w.bench, span_of(c->upstream_name));
  w.pool[w.count++] = c;
}

/* A pool of these names, parted by blanks: `pool("a b.1 b.2")`. */
static inline void pool(const char *names) {
  while (*names) {
    size_t n = strcspn(names, " ");
    add_candidate((struct span){ names, n });
    names += n + strspn(names + n, " ");
  }
}

static inline struct bench_key *key_of(const char *name) {
  struct bench_key *k = bench_find(w.bench, span_of(name));
  if (!k) fail_msg("no key %s", name);
  return k;
}

static inline struct bench_state state_of(const char *name) {
  struct bench_state s;
  bench_read(key_of(name), w.now, &s);
  return s;
}

/* Benched for that many more seconds; 0: not at all. */
static inline double benched_for(const char *name) {
  struct bench_state s = state_of(name);
  return s.benched ? s.until - w.now : 0;
}

static inline void bench_for(const char *name, seconds duration) {
  bench_set(key_of(name), duration, "test", 0, w.now);
}

static inline void bench_by_hand(const char *name, seconds duration) {
  bench_set_manual(key_of(name), duration, "test", w.now);
}

/* ---- the scripted advisor ---- */

static inline struct script *script_of(struct advisor *advisor) {
  return (struct script *)(void *)advisor;
}

static inline void script_select(struct advisor *advisor, const struct failover *f, seconds now, struct pick *pick) {
  struct script *s = script_of(advisor);
  (void)f, (void)now;
  if (++s->asked_select == s->reject_select) advisor->reject = true;
  if (s->picks_out < s->picks_in) *pick = s->picks[s->picks_out++];
}

static inline void script_classify(struct advisor *advisor, const struct failover *f, const struct attempt *a, seconds now,
                                   struct judgement *j) {
  struct script *s = script_of(advisor);
  (void)f, (void)a, (void)now;
  if (++s->asked_classify == s->reject_classify) advisor->reject = true;
  if (s->judgements_out < s->judgements_in)
    *j = s->judgements[s->judgements_out++];
  else if (s->forever && s->judgements_in)
    *j = s->judgements[s->judgements_in - 1];
}

static inline seconds script_backoff(struct advisor *advisor, const struct failover *f, const struct attempt *failed, unsigned member,
                                     seconds now) {
  struct script *s = script_of(advisor);
  (void)f, (void)failed, (void)member, (void)now;
  s->asked_backoff++;
  return s->delays_out < s->delays_in ? s->delays[s->delays_out++] : -1;
}

static inline enum event_class script_gate(struct advisor *advisor, const struct failover *f, const struct attempt *a,
                                           const struct sse_event *event, size_t bytes, enum event_class builtin) {
  struct script *s = script_of(advisor);
  (void)f, (void)a, (void)event, (void)bytes;
  if (s->reject_gate) advisor->reject = true;
  return s->gates_out < s->gates_in ? s->gates[s->gates_out++] : builtin;
}

static inline void script_exhausted(struct advisor *advisor, const struct failover *f, seconds now, struct answer *answer) {
  (void)f, (void)now;
  if (script_of(advisor)->answer.kind != ANSWER_DEFAULT) *answer = script_of(advisor)->answer;
}

/* From here on the run's advice comes from its queues. `exhausted` stays the built-in's until `answers_exhausted`. */
static inline struct script *script(struct run *run) {
  struct script *s = &run->script;
  if (s->ops.select) return s;
  s->ops = (struct advisor_ops){ .select = script_select, .classify = script_classify, .backoff = script_backoff,
                                 .exhausted = builtin_advisor.exhausted };
  return s;
}

static inline void picks(struct run *run, unsigned member) {
  struct script *s = script(run);
  s->picks[s->picks_in++] = (struct pick){ .kind = PICK_MEMBER, .member = member, .timeouts = { -1, -1, -1, -1, -1 } };
}

static inline void gives_up(struct run *run, const char *reason) {
  struct script *s = script(run);
  s->picks[s->picks_in++] = (struct pick){ .kind = PICK_GIVE_UP, .reason = reason, .timeouts = { -1, -1, -1, -1, -1 } };
}

/* Pushes a judgement; what it does not say is as in JUDGEMENT_DEFAULT. Change the result to say more. */
static inline struct judgement *says(struct run *run, enum verdict verdict) {
  struct script *s = script(run);
  struct judgement *j = &s->judgements[s->judgements_in++];
  *j = (struct judgement)JUDGEMENT_DEFAULT;
  j->verdict = verdict;
  return j;
}

static inline void always_says(struct run *run, enum verdict verdict) {
  says(run, verdict);
  run->script.forever = true;
}

static inline void waits(struct run *run, seconds delay) {
  struct script *s = script(run);
  s->delays[s->delays_in++] = delay;
}

static inline void gates(struct run *run, enum event_class class) {
  struct script *s = script(run);
  s->ops.gate = script_gate;
  s->gates[s->gates_in++] = class;
}

static inline void answers_exhausted(struct run *run, struct answer answer) {
  script(run)->ops.exhausted = script_exhausted;
  run->script.answer = answer;
}

/* ---- the driver ---- */

static inline void write_down(char *to, const char *text) {
  size_t n = strlen(to);
  snprintf(to + n, TEXT_MAX - n, "%s%s", n ? ", " : "", text);
}

static inline const char *name_of(const struct attempt *a) {
  return a ? a->candidate->name : "-";
}

static inline void text_of_event(const struct event *e, char *t, size_t n) {
  const char *who = e->candidate ? e->candidate : "?", *what = outcome_name(e->outcome);
  switch (e->type) {
    case TOLD_ATTEMPT_FAILED:
      if (e->outcome == OUTCOME_STATUS)
        snprintf(t, n, "failed %s %d %s", who, e->status, verdict_name(e->verdict));
      else
        snprintf(t, n, "failed %s %s %s", who, what, verdict_name(e->verdict));
      break;
    case TOLD_FAILED_OVER: snprintf(t, n, "over %s>%s", who, e->next ? e->next : "?"); break;
    case TOLD_BENCHED: snprintf(t, n, "benched %s %g", who, e->benched_for); break;
    case TOLD_FINISHED: snprintf(t, n, "finished %s %d", what, e->status); break;
    case TOLD_UNBENCHED:
    case TOLD_COMMITTED:
    case TOLD_POLICY_LOADED:
    case TOLD_POLICY_FAILED: snprintf(t, n, "%s %s", event_type_name(e->type), who); break;
  }
}

static inline void text_of_order(const struct order *o, char *t, size_t n) {
  static const char *const words[] = { [ORDER_START] = "start", [ORDER_CANCEL] = "cancel", [ORDER_COMMIT] = "commit", [ORDER_DELIVER] = "deliver",
                                       [ORDER_LAST] = "last", [ORDER_BREAK] = "break", [ORDER_END] = "end" };
  char retry[32] = "";
  if (o->retry_after) snprintf(retry, sizeof retry, " +%u", o->retry_after);
  if (o->kind == ORDER_FAIL)
    snprintf(t, n, "fail %d%s%s", o->error.status, retry, o->no_retry ? " hopeless" : "");
  else
    snprintf(t, n, "%s %s%s", words[o->kind], name_of(o->attempt), o->kind == ORDER_BREAK && o->quiet ? " quiet" : "");
}

static inline void check_start(struct run *run, const struct attempt *a) {
  if (run->open) fail_msg("5.4: %s starts beside %s", name_of(a), name_of(run->open));
  if (run->finished || run->gone) fail_msg("5.2: %s starts after the end", name_of(a));
  if (w.now >= run->request.deadline) fail_msg("5.2: %s starts %g s after the deadline", name_of(a), w.now - run->request.deadline);
  if (++run->starts > run->limit) fail_msg("5.2: %u attempts", run->starts);
  run->open = a;
}

static inline void carry_out(struct run *run, const struct order *o) {
  char text[256];
  if (run->finished) fail_msg("5.7: an order after `finished`");
  run->seen[o->kind]++;
  if (o->kind == ORDER_TELL) {
    text_of_event(&o->event, text, sizeof text);
    write_down(run->events, text);
    write_down(run->all, text);
    if (o->event.type == TOLD_FINISHED) run->finished++;
    return;
  }
  text_of_order(o, text, sizeof text);
  write_down(run->orders, text);
  write_down(run->all, text);
  if (o->kind == ORDER_START) check_start(run, o->attempt);
  if (o->kind == ORDER_CANCEL && run->open != o->attempt) fail_msg("cancel of %s, whose transfer is over", name_of(o->attempt));
  if (o->kind == ORDER_CANCEL) run->open = NULL;
  if (o->kind == ORDER_FAIL || o->kind == ORDER_DELIVER || o->kind == ORDER_LAST) run->last = *o;
}

static inline void take_orders(struct run *run) {
  struct order o;
  while (failover_next(run->f, &o) != ORDER_NONE) carry_out(run, &o);
}

static inline double run_random(void *context) {
  return ((struct run *)context)->random;
}

/* The request's facts may be set before; the deadline is 900 s ahead and the limit 16 attempts unless they were. */
static inline void begin(struct run *run) {
  static uint64_t serial;
  static struct advisor builtin = { .ops = &builtin_advisor };
  if (!run->request.id) run->request.id = "req";
  if (run->request.route == ROUTE_NONE) run->request.route = ROUTE_CHAT;
  run->request.received = w.now;
  if (run->request.deadline == 0) run->request.deadline = w.now + 900;
  if (!run->limit) run->limit = 16;
  run->script.advisor.ops = &run->script.ops;
  struct failover_setup setup = {
    .arena = &run->arena, .request = &run->request, .serial = ++serial, .pool = w.pool, .pool_count = w.count, .max_attempts = run->limit,
    .advisor = run->script.ops.select ? &run->script.advisor : &builtin, .bench = w.bench, .random = run_random, .random_context = run,
    .as_is = run->as_is,
  };
  run->f = failover_begin(&setup, w.now);
  assert_non_null(run->f);
  take_orders(run);
}

/* The same slot for the next request: what it recorded is forgotten. */
static inline void begin_again(struct run *run) {
  arena_free(&run->arena);
  memset(run, 0, sizeof *run);
  begin(run);
}

/* ---- facts ---- */

static inline void head_with(struct run *run, int status, const char *name, const char *value) {
  struct header *h = ARENA_NEW(&run->arena, struct header);
  *h = (struct header){ span_of(name), span_of(value) };
  failover_head(run->f, status, (struct headers){ h, name ? 1 : 0 }, w.now);
  take_orders(run);
}

static inline void head(struct run *run, int status) {
  head_with(run, status, NULL, NULL);
}

static inline void error_body(struct run *run, const char *body, bool whole, bool over) {
  if (over) run->open = NULL;
  failover_error_body(run->f, span_of(body), whole, over, w.now);
  take_orders(run);
}

/* A whole answer that is no 2xx; its transfer is over. */
static inline void says_status(struct run *run, int status) {
  head(run, status);
  error_body(run, "{}", true, true);
}

static inline void says_status_wait(struct run *run, int status, const char *retry_after) {
  head_with(run, status, "retry-after", retry_after);
  error_body(run, "{}", true, true);
}

static inline void says_error(struct run *run, int status, const char *body) {
  head(run, status);
  error_body(run, body, true, true);
}

static inline void ends(struct run *run, enum outcome outcome) {
  run->open = NULL;
  failover_ended(run->f, outcome, "cause", NULL, w.now);
  take_orders(run);
}

static inline void answers_well(struct run *run) {
  head(run, 200);
  ends(run, OUTCOME_OK);
}

static inline void event_of(struct run *run, const struct event_facts *facts) {
  struct sse_event e = { .data = SPAN("{}") };
  failover_event(run->f, facts, &e, 2, w.now);
  take_orders(run);
}

static inline void event(struct run *run, enum event_class class) {
  event_of(run, &(struct event_facts){ .class = class, .terminal = class == EVENT_END, .sequence = -1 });
}

/* An error event in a 200, of that type. */
static inline void error_event(struct run *run, const char *type) {
  event_of(run, &(struct event_facts){ .class = EVENT_FAIL, .terminal = true, .sequence = -1,
                                       .error = { .type = span_of(type), .message = SPAN("words") } });
}

static inline void leaves(struct run *run) {
  failover_client_gone(run->f, w.now);
  run->gone = true;
  take_orders(run);
}

/* Time goes by for this request: its timers fire when they are due. */
static inline void pass(struct run *run, seconds time) {
  seconds until = w.now + time;
  for (unsigned i = 0; failover_timer(run->f) <= until; i++) {
    if (i > 200) fail_msg("a timer that is due for ever");
    w.now = fmax(w.now, failover_timer(run->f));
    failover_timer_due(run->f, SPAN("{}"), w.now);
    take_orders(run);
  }
  w.now = until;
}

/* ---- what came of it ---- */

static inline void check_text(char *is, const char *wanted, const char *file, int line) {
  char copy[TEXT_MAX];
  snprintf(copy, sizeof copy, "%s", is);
  is[0] = 0;
  if (strcmp(copy, wanted) != 0) fail_msg("%s:%d:\n    is     \"%s\"\n    wanted \"%s\"", file, line, copy, wanted);
}

/* Each compares what came since the last such look, and forgets it. */
#define assert_orders(run, wanted) check_text((run)->orders, wanted, __FILE__, __LINE__)
#define assert_events(run, wanted) check_text((run)->events, wanted, __FILE__, __LINE__)
#define assert_all(run, wanted) check_text((run)->all, wanted, __FILE__, __LINE__)
#define assert_near(is, wanted)                                                                  \
  do {                                                                                           \
    double is_ = (is), wanted_ = (wanted);                                                       \
    if (!(fabs(is_ - wanted_) < 1e-6) && !(isinf(is_) && isinf(wanted_)))                        \
      fail_msg("%s:%d: %s is %g, not %g", __FILE__, __LINE__, #is, is_, wanted_);                \
  } while (0)

static inline void forget(struct run *run) {
  run->orders[0] = run->events[0] = run->all[0] = 0;
}

static inline const struct attempt *attempt_of(struct run *run, size_t number) {
  size_t count;
  const struct attempt *const *list = failover_attempts(run->f, &count);
  assert_in_range(number, 1, count);
  return list[number - 1];
}

static inline unsigned inflight(const char *name) {
  return bench_inflight(key_of(name));
}
