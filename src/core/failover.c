/*
 * The engine, first half: facts in, phases, orders out (the picture is in failover.h).
 *
 * A fact changes the phase of the running attempt, or hands a failure to failover_decide.c. Orders are queued and taken by the driver one by
 * one; the queue is bounded because one fact ends in at most one answer and one start. Timers are not orders: the earliest of what the phase
 * waits for is asked for with failover_timer(), so that a fact never has to re-arm anything.
 *
 * Invariants: `running` is set from ORDER_START until the transfer is over or ORDER_CANCEL was queued; `finished` is told exactly once, by
 * failover_settle; after it every fact is ignored.
 */
#include "core/failover.h"

#include <math.h>
#include <stdlib.h>

#include "core/failover_state.h"
#include "core/hint.h"

#define ERROR_BODY_SECONDS 2.0 /* a non-2xx is judged this long after its head at the latest (rule 5.8) */
#define LINGER_SECONDS 1.0     /* what the upstream gets to end after the terminal event */

static const char *const verdict_names[] = {
  [VERDICT_NONE] = "none", [VERDICT_ACCEPT] = "accept", [VERDICT_RETRY] = "retry", [VERDICT_NEXT] = "next", [VERDICT_STOP] = "stop",
};

const char *verdict_name(enum verdict verdict) {
  return verdict_names[verdict];
}

bool verdict_parse(struct span name, enum verdict *verdict) {
  for (int v = VERDICT_ACCEPT; v <= VERDICT_STOP; v++) {
    if (!span_is(name, verdict_names[v])) continue;
    *verdict = (enum verdict)v;
    return true;
  }
  return false;
}

const char *event_type_name(enum event_type type) {
  static const char *const names[] = {
    [TOLD_ATTEMPT_FAILED] = "attempt_failed", [TOLD_FAILED_OVER] = "failed_over",     [TOLD_BENCHED] = "benched",
    [TOLD_UNBENCHED] = "unbenched",           [TOLD_COMMITTED] = "committed",         [TOLD_FINISHED] = "finished",
    [TOLD_POLICY_LOADED] = "policy_loaded",   [TOLD_POLICY_FAILED] = "policy_failed",
  };
  return names[type];
}

/* ---- orders ---- */

struct order *failover_put(struct failover *f, enum order_kind kind, struct attempt *attempt) {
  if (f->orders.count == ORDERS_MAX) abort(); /* one fact cannot cause that many: a defect, not a load */
  struct order *o = &f->orders.list[(f->orders.first + f->orders.count++) % ORDERS_MAX];
  *o = (struct order){ .kind = kind, .attempt = attempt };
  return o;
}

enum order_kind failover_next(struct failover *f, struct order *order) {
  if (f->orders.count == 0) {
    *order = (struct order){ .kind = ORDER_NONE };
    return ORDER_NONE;
  }
  *order = f->orders.list[f->orders.first];
  f->orders.first = (f->orders.first + 1) % ORDERS_MAX;
  f->orders.count--;
  return order->kind;
}

struct event *failover_tell(struct failover *f, enum event_type type, struct attempt *a, seconds now) {
  struct event *e = &failover_put(f, ORDER_TELL, a)->event;
  *e = (struct event){ .type = type, .time = now, .request = f->setup.request, .attempt = a, .delay = -1, .benched_for = -1,
                       .elapsed = -1, .first_event = -1, .label = f->pick.label };
  if (!a) return e;
  e->candidate = a->candidate->name;
  e->outcome = a->outcome;
  e->status = a->status;
  e->verdict = a->verdict;
  e->elapsed = now - a->started;
  if (a->first_event_at > 0) e->first_event = a->first_event_at - a->started;
  return e;
}

/* ---- the life of an attempt ---- */

void failover_stop_running(struct failover *f, bool cancel, seconds now) {
  struct attempt *a = f->running;
  if (!a) return;
  if (cancel) failover_put(f, ORDER_CANCEL, a);
  f->running = NULL;
  if (a->ended_at == 0) a->ended_at = now;
  seconds first = a->first_event_at > 0 ? a->first_event_at - a->started : -1;
  bench_count(a->candidate->key, a->outcome, first);
  bench_release(&a->ticket, now);
}

void failover_settle(struct failover *f, const struct attempt *served, enum outcome outcome, int status, seconds now) {
  if (f->phase == PHASE_SETTLED) return;
  struct attempt *last = f->attempt_count ? f->attempts[f->attempt_count - 1] : NULL;
  if (served) last = f->attempts[served->number - 1];
  failover_stop_running(f, false, now);
  f->phase = PHASE_SETTLED;
  struct event *e = failover_tell(f, TOLD_FINISHED, last, now);
  e->outcome = outcome;
  e->status = status;
  e->reason = f->pick.reason;
  e->elapsed = now - f->setup.request->received;
  if (last && last->first_event_at > 0) e->first_event = last->first_event_at - f->setup.request->received;
}

void failover_commit(struct failover *f, seconds now) {
  struct attempt *a = f->running;
  a->committed = true;
  if (a->first_event_at == 0) a->first_event_at = now;
  f->phase = PHASE_STREAM;
  failover_settle_bench(f, a, a->status < 500 ? BENCH_GOOD : BENCH_BAD, now);
  failover_put(f, ORDER_COMMIT, a);
  failover_tell(f, TOLD_COMMITTED, a, now);
}

/* Ends the running attempt as failed with `outcome` and asks what now. `over`: the transfer has ended by itself. */
static void attempt_fails(struct failover *f, enum outcome outcome, const char *cause, bool over, seconds now) {
  struct attempt *a = f->running;
  a->outcome = outcome;
  a->cause = cause;
  a->ended_at = now;
  failover_judge(f, over, now);
}

/* ---- facts ---- */

struct failover *failover_begin(const struct failover_setup *setup, seconds now) {
  struct failover *f = ARENA_NEW(setup->arena, struct failover);
  if (!f) return NULL;
  f->setup = *setup;
  f->pool = ARENA_ARRAY(setup->arena, struct member, setup->pool_count);
  f->attempts = ARENA_ARRAY(setup->arena, struct attempt *, setup->max_attempts);
  f->orders.list = arena_take(setup->arena, ORDERS_MAX * sizeof *f->orders.list);
  if (!f->pool || !f->attempts || !f->orders.list) return NULL;
  for (size_t i = 0; i < setup->pool_count; i++) f->pool[i].candidate = setup->pool[i];
  failover_choose_first(f, now);
  return f;
}

void failover_head(struct failover *f, int status, struct headers headers, seconds now) {
  struct attempt *a = f->running;
  if (!a || f->phase != PHASE_HEAD) return;
  a->status = status;
  a->headers = headers;
  a->head_at = now;
  f->last_read = now;
  bool good = status >= 200 && status < 300;
  if (!good) a->retry_after = hint_retry_after(headers, now);
  if (f->setup.as_is || (a->candidate->passthrough && status != 429 && status != 529)) {
    failover_commit(f, now);
  } else if (good) {
    f->phase = PHASE_HOLD;
    f->at.first_event = now + a->timeouts.first_event;
    f->at.hold = SECONDS_NEVER;
  } else {
    f->phase = PHASE_ERROR_BODY;
    f->at.error_body = now + ERROR_BODY_SECONDS;
  }
}

/* Keeps what an event told about the answer as a whole. Its spans die with the event: what is kept is copied, once. */
static void remember(struct failover *f, struct attempt *a, const struct event_facts *facts) {
  struct arena *arena = f->setup.arena;
  if (facts->usage.known) { /* what an event does not name is 0: messages tells input at the start, output at the end */
    a->usage.known = true;
    if (facts->usage.input) a->usage.input = facts->usage.input;
    if (facts->usage.output) a->usage.output = facts->usage.output;
    if (facts->usage.cached) a->usage.cached = facts->usage.cached;
  }
  if (facts->finish_reason.n && !a->finish_reason.n) a->finish_reason = span_of(arena_copy(arena, facts->finish_reason));
  if (facts->response_id.n && !a->response_id.n) a->response_id = span_of(arena_copy(arena, facts->response_id));
}

static void remember_error(struct failover *f, struct attempt *a, const struct upstream_error *error) {
  struct arena *arena = f->setup.arena;
  a->error.type = span_of(arena_copy(arena, error->type));
  a->error.code = span_of(arena_copy(arena, error->code));
  a->error.message = span_of(arena_copy(arena, error->message));
}

static void settle_terminal(struct failover *f, enum outcome outcome, seconds now) {
  struct attempt *a = f->running;
  if (a->outcome == OUTCOME_NONE) a->outcome = outcome;
  f->terminal = true;
  f->at.linger = now + LINGER_SECONDS;
}

static void event_after_commit(struct failover *f, const struct event_facts *facts, seconds now) {
  struct attempt *a = f->running;
  if (facts->class == EVENT_FAIL && a->outcome == OUTCOME_NONE) {
    a->outcome = OUTCOME_STREAM_ERROR;
    remember_error(f, a, &facts->error);
  }
  if (facts->class == EVENT_END || facts->terminal) settle_terminal(f, OUTCOME_OK, now);
}

void failover_event(struct failover *f, const struct event_facts *facts, const struct sse_event *event, size_t bytes, seconds now) {
  struct attempt *a = f->running;
  if (!a || f->terminal) return;
  remember(f, a, facts);
  if (f->phase == PHASE_STREAM) {
    event_after_commit(f, facts, now);
    return;
  }
  if (f->phase != PHASE_HOLD) return;
  enum event_class class = facts->class;
  struct advisor *advisor = f->setup.advisor;
  /* What the built-in fails stays failed: a gate may hold content and fail anything, no more. */
  if (advisor->ops->gate && !event->comment && class != EVENT_FAIL) class = advisor->ops->gate(advisor, f, a, event, bytes, class);
  if (advisor->reject) {
    failover_reject(f, false, now);
    return;
  }
  switch (class) {
    case EVENT_HOLD:
      if (f->at.hold == SECONDS_NEVER) f->at.hold = now + a->timeouts.hold;
      break;
    case EVENT_COMMIT:
    case EVENT_END:
      failover_commit(f, now);
      event_after_commit(f, facts, now);
      break;
    case EVENT_FAIL:
      remember_error(f, a, &facts->error);
      attempt_fails(f, OUTCOME_STREAM_ERROR, NULL, false, now);
      break;
  }
}

void failover_full(struct failover *f, seconds now) {
  if (f->running && f->phase == PHASE_HOLD) failover_commit(f, now);
}

void failover_progress(struct failover *f, seconds now) {
  if (f->last_read != SECONDS_NEVER) f->last_read = now;
}

void failover_paused(struct failover *f, bool paused, seconds now) {
  f->last_read = paused ? SECONDS_NEVER : now;
}

void failover_error_body(struct failover *f, struct span body, bool whole, bool over, seconds now) {
  struct attempt *a = f->running;
  if (!a || f->phase != PHASE_ERROR_BODY) return;
  char *copy = arena_copy(f->setup.arena, body);
  a->body = (struct span){ copy, copy ? body.n : 0 };
  a->body_whole = whole && copy;
  dialect_read_error(a->body, f->setup.arena, &a->error);
  attempt_fails(f, OUTCOME_STATUS, NULL, over, now);
}

/* A good, whole, held answer: committed and ended in one, unless a policy asked to judge those too and says no. */
static void whole_answer(struct failover *f, seconds now) {
  struct attempt *a = f->running;
  a->outcome = OUTCOME_OK;
  a->first_event_at = now;
  if (f->setup.advisor->ops->classify_ok) {
    failover_judge(f, true, now);
    return;
  }
  failover_commit(f, now);
  failover_put(f, ORDER_END, a);
  failover_settle(f, a, OUTCOME_OK, a->status, now);
}

/* The transfer of a committed answer is over: `outcome` is how, unless an event has settled it before. */
static void committed_ends(struct failover *f, enum outcome outcome, const char *cause, seconds now) {
  struct attempt *a = f->running;
  bool clean = outcome == OUTCOME_OK || f->terminal;
  bool told = a->outcome == OUTCOME_STREAM_ERROR; /* the upstream's own error event was relayed */
  if (a->outcome == OUTCOME_NONE) a->outcome = outcome;
  if (a->outcome == OUTCOME_OK && a->status >= 300) a->outcome = OUTCOME_STATUS; /* a passthrough answer */
  a->ended_at = now;
  if (!clean) a->cause = cause;
  if (a->outcome != OUTCOME_OK && a->outcome != OUTCOME_STATUS) failover_judge_late(f, now);
  failover_put(f, clean ? ORDER_END : ORDER_BREAK, a)->quiet = told;
  failover_settle(f, a, a->outcome, a->status, now);
}

void failover_ended(struct failover *f, enum outcome outcome, const char *cause, const struct event_facts *facts, seconds now) {
  struct attempt *a = f->running;
  if (!a) return;
  if (facts) remember(f, a, facts);
  if (facts && outcome == OUTCOME_STREAM_ERROR) remember_error(f, a, &facts->error);
  switch (f->phase) {
    case PHASE_HEAD: attempt_fails(f, outcome, cause, true, now); break;
    case PHASE_ERROR_BODY: failover_error_body(f, SPAN_NONE, false, true, now); break;
    case PHASE_HOLD:
      if (outcome == OUTCOME_OK)
        whole_answer(f, now);
      else
        attempt_fails(f, outcome, cause, true, now);
      break;
    case PHASE_STREAM: committed_ends(f, outcome, cause, now); break;
    case PHASE_DELIVER:
      failover_put(f, outcome == OUTCOME_OK ? ORDER_END : ORDER_BREAK, a)->quiet = true;
      failover_settle(f, a, a->outcome, a->status, now);
      break;
    case PHASE_CHOOSE:
    case PHASE_WAIT:
    case PHASE_SETTLED: break;
  }
}

void failover_client_gone(struct failover *f, seconds now) {
  if (f->phase == PHASE_SETTLED || f->terminal) return;
  struct attempt *a = f->running;
  if (a) {
    a->outcome = OUTCOME_CLIENT_GONE;
    failover_stop_running(f, true, now);
  }
  failover_settle(f, NULL, OUTCOME_CLIENT_GONE, a && a->committed ? a->status : 0, now);
}

/* ---- timers ---- */

static seconds idle_at(const struct failover *f) {
  return f->running && f->last_read != SECONDS_NEVER ? f->last_read + f->running->timeouts.idle : SECONDS_NEVER;
}

seconds failover_timer(const struct failover *f) {
  seconds deadline = f->setup.request->deadline;
  switch (f->phase) {
    case PHASE_CHOOSE:
    case PHASE_SETTLED: return SECONDS_NEVER;
    case PHASE_WAIT: return fmin(f->at.wait_until, deadline);
    case PHASE_HEAD: return fmin(f->at.headers, deadline);
    case PHASE_ERROR_BODY: return fmin(f->at.error_body, deadline);
    case PHASE_HOLD: return fmin(fmin(f->at.first_event, f->at.hold), fmin(idle_at(f), deadline));
    case PHASE_STREAM: return f->terminal ? f->at.linger : idle_at(f);
    case PHASE_DELIVER: return idle_at(f);
  }
  return SECONDS_NEVER;
}

void failover_deadline(struct failover *f, bool over, seconds now) {
  if (f->running) {
    if (f->running->outcome == OUTCOME_NONE) f->running->outcome = OUTCOME_DEADLINE;
    failover_stop_running(f, !over, now);
  }
  failover_fail(f, REFUSAL_DEADLINE, NULL, OUTCOME_DEADLINE, now);
}

static void hold_timer(struct failover *f, seconds now) {
  if (now >= f->at.hold)
    failover_commit(f, now);
  else if (now >= f->at.first_event)
    attempt_fails(f, OUTCOME_FIRST_EVENT_TIMEOUT, NULL, false, now);
  else
    attempt_fails(f, OUTCOME_IDLE_TIMEOUT, NULL, false, now);
}

/* A committed or delivered answer fell silent, or the terminal event's upstream does not end by itself. */
static void stream_timer(struct failover *f, seconds now) {
  struct attempt *a = f->running;
  failover_put(f, ORDER_CANCEL, a);
  failover_ended(f, f->terminal ? OUTCOME_OK : OUTCOME_IDLE_TIMEOUT, NULL, NULL, now);
}

void failover_timer_due(struct failover *f, struct span body, seconds now) {
  if (now < failover_timer(f)) return;
  bool uncommitted = f->phase == PHASE_WAIT || f->phase == PHASE_HEAD || f->phase == PHASE_ERROR_BODY || f->phase == PHASE_HOLD;
  if (uncommitted && now >= f->setup.request->deadline) {
    failover_deadline(f, false, now);
    return;
  }
  switch (f->phase) {
    case PHASE_WAIT: failover_begin_next(f, now); break;
    case PHASE_HEAD: attempt_fails(f, OUTCOME_HEADERS_TIMEOUT, NULL, false, now); break;
    case PHASE_ERROR_BODY: failover_error_body(f, body, false, false, now); break;
    case PHASE_HOLD: hold_timer(f, now); break;
    case PHASE_STREAM:
    case PHASE_DELIVER: stream_timer(f, now); break;
    case PHASE_CHOOSE:
    case PHASE_SETTLED: break;
  }
}

/* ---- views ---- */

const struct attempt *failover_running(const struct failover *f) {
  return f->running;
}

bool failover_committed(const struct failover *f) {
  return f->phase == PHASE_STREAM || (f->attempt_count && f->attempts[f->attempt_count - 1]->committed);
}

bool failover_settled(const struct failover *f) {
  return f->phase == PHASE_SETTLED || f->terminal;
}

const struct member *failover_pool(const struct failover *f, size_t *count) {
  *count = f->setup.pool_count;
  return f->pool;
}

const struct attempt *const *failover_attempts(const struct failover *f, size_t *count) {
  *count = f->attempt_count;
  return (const struct attempt *const *)f->attempts;
}

unsigned failover_attempts_left(const struct failover *f) {
  return f->setup.max_attempts - (unsigned)f->attempt_count;
}

double failover_random(const struct failover *f) {
  return f->setup.random(f->setup.random_context);
}

uint64_t failover_serial(const struct failover *f) {
  return f->setup.serial;
}
