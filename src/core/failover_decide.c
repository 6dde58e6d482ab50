/*
 * The engine, second half: who is next, what a failure means, what the client is told when nobody is left.
 *
 * The order after a failure is classify, bench, select, backoff, start; `observe` hears of each after it was done. Advice is checked here and
 * nowhere else: a pick outside the pool, or under a manual bench while another untried candidate is not, is answered by the built-in; a wait that
 * would reach the deadline is not begun; no attempt is made past limits.attempts.
 */
#include <math.h>

#include "core/failover.h"
#include "core/failover_state.h"

#define RETRY_AFTER_LEAST 1.0  /* seconds in an exhausted answer's retry-after */
#define RETRY_AFTER_MOST 60.0
enum { UNBENCHED_TOLD = 16 }; /* of one pardon: the order queue is bounded */

/* ---- the pool as it is now ---- */

static void refresh_member(struct member *m, seconds now) {
  const struct candidate *c = m->candidate;
  struct bench_state up;
  bench_read(c->key, now, &m->state);
  bench_read(c->upstream_key, now, &up);
  m->drained = bench_drained(c->upstream_key) || bench_drained(c->key);
  m->full = c->max_inflight && bench_inflight(c->upstream_key) >= c->max_inflight;
  if (up.benched && (!m->state.benched || up.until > m->state.until)) {
    m->state.until = up.until;
    m->state.since = up.since;
  }
  m->state.benched = m->state.benched || up.benched || m->full;
  m->state.manual = m->state.manual || up.manual;
  m->state.trial = m->state.trial || up.trial;
}

static void refresh(struct failover *f, seconds now) {
  for (size_t i = 0; i < f->setup.pool_count; i++) refresh_member(&f->pool[i], now);
}

/* Everybody but `member` has been tried or cannot be: the attempt has nothing to lose, and its deadline is the request's. */
static bool nobody_else(const struct failover *f, unsigned member) {
  for (size_t i = 0; i < f->setup.pool_count; i++) {
    const struct member *m = &f->pool[i];
    if (i != member && !m->tried && !m->drained && !m->state.benched) return false;
  }
  return true;
}

/* ---- answers ---- */

static const char *refusal_words(enum refusal refusal) {
  switch (refusal) {
    case REFUSAL_DEADLINE: return "The request was not answered within its deadline.";
    case REFUSAL_OVERLOADED: return "No upstream can take the request right now.";
    default: return "No upstream could complete the request.";
  }
}

/* Trying again cannot help: each candidate's credential is dead, or an operator holds it. */
static bool hopeless(const struct failover *f) {
  for (size_t i = 0; i < f->setup.pool_count; i++) {
    const struct member *m = &f->pool[i];
    if (!m->auth_dead && !m->drained && !m->state.manual) return false;
  }
  return true;
}

/* What the limits of a 429 (or 529) said themselves: the soonest of them. SECONDS_NEVER: nothing. */
static seconds limits_said(const struct failover *f, int status) {
  seconds soonest = SECONDS_NEVER;
  for (size_t i = 0; i < f->attempt_count && (status == 429 || status == 529); i++)
    if (f->attempts[i]->retry_after > 0) soonest = fmin(soonest, f->attempts[i]->retry_after);
  return soonest;
}

/* Whole seconds until somebody is back, plus up to a quarter at random so that clients do not come back all at once; a passing limit keeps its
 * own word. */
static unsigned retry_after(const struct failover *f, int status, seconds now) {
  seconds soonest = limits_said(f, status);
  if (soonest < SECONDS_NEVER) return (unsigned)ceil(fmin(fmax(soonest, RETRY_AFTER_LEAST), RETRY_AFTER_MOST));
  for (size_t i = 0; i < f->setup.pool_count; i++) {
    const struct member *m = &f->pool[i];
    if (m->drained) continue;
    soonest = fmin(soonest, m->state.benched && !m->full ? m->state.until - now : 0);
  }
  if (soonest <= 0) return (unsigned)RETRY_AFTER_LEAST;
  soonest *= 1 + failover_random(f) / 4;
  return (unsigned)ceil(fmin(fmax(soonest, RETRY_AFTER_LEAST), RETRY_AFTER_MOST));
}

void failover_fail(struct failover *f, enum refusal refusal, const struct error_text *words, enum outcome outcome, seconds now) {
  bool messages = f->setup.request->route == ROUTE_MESSAGES;
  struct error_text error = { .status = refusal_status(refusal) };
  if (words) error = *words;
  if (!error.type && !error.code) dialect_refusal(refusal, messages, &error);
  if (!error.message.n) error.message = span_of(refusal_words(refusal));
  error.request_id = f->setup.request->id;
  struct order *o = failover_put(f, ORDER_FAIL, NULL);
  o->refusal = refusal;
  o->error = error;
  refresh(f, now);
  bool may_pass = error.status == 429 || error.status >= 500; /* words of a policy's `stop`, or an accepted error, may be final */
  if ((refusal == REFUSAL_EXHAUSTED || refusal == REFUSAL_OVERLOADED) && may_pass) {
    o->retry_after = retry_after(f, error.status, now);
    o->no_retry = hopeless(f);
  }
  failover_settle(f, NULL, outcome, error.status, now);
}

void failover_reject(struct failover *f, bool over, seconds now) {
  struct attempt *last = f->attempt_count ? f->attempts[f->attempt_count - 1] : NULL;
  failover_stop_running(f, !over, now);
  struct error_text words = { .status = 503, .message = span_of("The routing policy failed.") };
  failover_fail(f, REFUSAL_OVERLOADED, &words, last ? last->outcome : OUTCOME_NONE, now);
}

/* An attempt's last word, as a status; 0 when it is none of those that an exhausted answer repeats. */
static int last_word(const struct attempt *a) {
  if (outcome_is_timeout(a->outcome)) return 504;
  if (a->outcome == OUTCOME_STREAM_ERROR) return dialect_error_status(&a->error);
  return a->outcome == OUTCOME_STATUS ? a->status : 0;
}

/* 504, 429 or 529 when every attempt said that (529 beside 429: 429), else 502. */
static int exhausted_status(const struct failover *f) {
  int status = 0;
  for (size_t i = 0; i < f->attempt_count; i++) {
    int word = last_word(f->attempts[i]);
    if (word != 504 && word != 429 && word != 529) return 502;
    bool limits = (word == 429 || word == 529) && (status == 429 || status == 529);
    if (status && status != word && !limits) return 502;
    status = limits && status != word ? 429 : word;
  }
  return status ? status : 502;
}

static struct attempt *last_status_attempt(const struct failover *f) {
  for (size_t i = f->attempt_count; i-- > 0;)
    if (f->attempts[i]->outcome == OUTCOME_STATUS) return f->attempts[i];
  return NULL;
}

/* The request is the suspect, not its candidates: lifts what it alone benched. */
static void pardon(struct failover *f, seconds now) {
  size_t count = f->setup.pool_count;
  struct bench_key **keys = ARENA_ARRAY(f->setup.arena, struct bench_key *, 2 * count);
  if (!keys) return;
  for (size_t i = 0; i < count; i++) {
    keys[2 * i] = f->pool[i].candidate->key;
    keys[2 * i + 1] = f->pool[i].candidate->upstream_key;
  }
  size_t lifted = bench_pardon(keys, 2 * count, f->setup.serial, now);
  for (size_t i = 0; i < lifted && i < UNBENCHED_TOLD; i++) {
    struct event *e = failover_tell(f, TOLD_UNBENCHED, NULL, now);
    e->candidate = bench_name(keys[i]);
    e->reason = "every candidate failed this request the same way";
  }
}

static void exhaust(struct failover *f, seconds now) {
  struct attempt *last = f->attempt_count ? f->attempts[f->attempt_count - 1] : NULL;
  struct advisor *advisor = f->setup.advisor;
  struct answer answer = { 0 };
  refresh(f, now);
  builtin_advisor.exhausted(advisor, f, now, &answer); /* what the advisor has no opinion on stands */
  if (advisor->ops->exhausted != builtin_advisor.exhausted) advisor->ops->exhausted(advisor, f, now, &answer);
  if (advisor->reject) {
    failover_reject(f, true, now);
    return;
  }
  if (answer.pardon) pardon(f, now);
  enum outcome outcome = last ? last->outcome : OUTCOME_NONE;
  struct attempt *kept = answer.kind == ANSWER_LAST ? last_status_attempt(f) : NULL;
  if (kept) {
    failover_put(f, ORDER_LAST, kept);
    failover_settle(f, kept, kept->outcome, kept->status, now);
    return;
  }
  struct error_text words = { .status = exhausted_status(f) };
  if (answer.kind == ANSWER_CUSTOM) {
    if (answer.status) words.status = answer.status;
    words.type = answer.type;
    words.code = answer.code;
    words.message = span_of(answer.message);
  }
  failover_fail(f, REFUSAL_EXHAUSTED, &words, outcome, now);
}

/* Nobody can even be asked: all full or out of service is 503; otherwise the pool is used up. */
static void nobody_left(struct failover *f, seconds now) {
  bool all_out = true;
  for (size_t i = 0; i < f->setup.pool_count; i++) all_out = all_out && (f->pool[i].full || f->pool[i].drained);
  if (f->attempt_count == 0 && all_out)
    failover_fail(f, REFUSAL_OVERLOADED, NULL, OUTCOME_NONE, now);
  else
    exhaust(f, now);
}

/* ---- who is next ---- */

/* Picks that no policy may make: outside the pool, out of service, or held by hand while another untried one is not. */
static bool pick_allowed(const struct failover *f, const struct pick *pick) {
  if (pick->kind != PICK_MEMBER) return true;
  if (pick->member >= f->setup.pool_count || f->pool[pick->member].drained) return false;
  if (!f->pool[pick->member].state.manual) return true;
  for (size_t i = 0; i < f->setup.pool_count; i++) {
    const struct member *m = &f->pool[i];
    if (!m->tried && !m->drained && !m->state.manual) return false;
  }
  return true;
}

static void ask_select(struct failover *f, seconds now) {
  struct advisor *advisor = f->setup.advisor;
  f->pick = (struct pick)PICK_DEFAULT;
  if (f->lost < 2) advisor->ops->select(advisor, f, now, &f->pick); /* a pick that cannot begin is asked for again once */
  if (f->pick.kind != PICK_NO_OPINION && pick_allowed(f, &f->pick)) return;
  f->pick = (struct pick)PICK_DEFAULT;
  builtin_advisor.select(advisor, f, now, &f->pick);
}

/* Begins `next_member` now, or after a wait; `failed` NULL: there is nothing to wait for. */
static void begin_after_backoff(struct failover *f, struct attempt *failed, seconds now) {
  struct advisor *advisor = f->setup.advisor;
  seconds delay = 0;
  if (failed) {
    delay = f->delay >= 0 ? f->delay : advisor->ops->backoff(advisor, f, failed, f->next_member, now);
    if (!(delay >= 0)) delay = builtin_advisor.backoff(advisor, f, failed, f->next_member, now);
    if (advisor->reject) {
      failover_reject(f, true, now);
      return;
    }
    if (delay > 0 && now + delay >= f->setup.request->deadline) {
      exhaust(f, now);
      return;
    }
    failed->waited = delay;
  }
  f->at.wait_until = now + delay;
  f->phase = PHASE_WAIT;
  if (delay <= 0) failover_begin_next(f, now);
}

static void choose(struct failover *f, struct attempt *failed, seconds now) {
  f->phase = PHASE_CHOOSE;
  refresh(f, now);
  if (now >= f->setup.request->deadline) {
    failover_deadline(f, true, now);
    return;
  }
  if (failover_attempts_left(f) == 0 || f->lost > f->setup.pool_count + 2) {
    nobody_left(f, now);
    return;
  }
  ask_select(f, now);
  if (f->setup.advisor->reject) {
    failover_reject(f, true, now);
  } else if (f->pick.kind == PICK_GIVE_UP) {
    nobody_left(f, now);
  } else {
    f->next_member = f->pick.member;
    f->anyway = f->pool[f->next_member].state.benched && !f->pool[f->next_member].full;
    f->manual = f->pool[f->next_member].state.manual;
    begin_after_backoff(f, failed, now);
  }
}

void failover_choose_first(struct failover *f, seconds now) {
  choose(f, NULL, now);
}

static seconds overridden(seconds by, seconds otherwise) {
  return by >= 0 ? by : otherwise;
}

static void set_timeouts(struct failover *f, struct attempt *a) {
  const struct timeouts *base = &a->candidate->timeouts, *over = &f->pick.timeouts;
  a->timeouts = (struct timeouts){
    .connect = overridden(over->connect, base->connect),
    .headers = overridden(over->headers, base->headers),
    .first_event = overridden(over->first_event, base->first_event),
    .idle = overridden(over->idle, base->idle),
    .hold = overridden(over->hold, base->hold),
  };
  if (failover_attempts_left(f) == 0 || nobody_else(f, a->member)) a->timeouts.headers = a->timeouts.first_event = SECONDS_NEVER;
}

/* Makes the attempt that holds `ticket` and orders its start. */
static void start(struct failover *f, const struct bench_ticket *ticket, seconds now) {
  struct attempt *before = f->attempt_count ? f->attempts[f->attempt_count - 1] : NULL;
  struct member *m = &f->pool[f->next_member];
  struct attempt *a = ARENA_NEW(f->setup.arena, struct attempt);
  if (!a) {
    struct bench_ticket unused = *ticket;
    bench_release(&unused, now);
    failover_fail(f, REFUSAL_OVERLOADED, NULL, OUTCOME_NONE, now);
    return;
  }
  f->attempts[f->attempt_count++] = a;
  a->number = (unsigned)f->attempt_count;
  a->try = ++m->tried;
  a->member = f->next_member;
  a->candidate = m->candidate;
  a->started = now;
  a->retry_after = -1;
  a->ticket = *ticket;
  set_timeouts(f, a);
  f->lost = 0;
  f->running = a;
  f->phase = PHASE_HEAD;
  f->at.headers = now + a->timeouts.headers;
  f->last_read = now;
  failover_put(f, ORDER_START, a);
  if (!before || before->member == a->member) return;
  struct event *e = failover_tell(f, TOLD_FAILED_OVER, before, now);
  e->next = a->candidate->name;
  e->reason = f->pick.reason;
}

void failover_begin_next(struct failover *f, seconds now) {
  const struct candidate *c = f->pool[f->next_member].candidate;
  struct bench_ticket ticket;
  refresh(f, now);
  if (f->pool[f->next_member].drained || (f->pool[f->next_member].state.manual && !f->manual) ||
      bench_begin(c->key, c->upstream_key, c->max_inflight, f->anyway, now, &ticket) != BENCH_BEGUN) {
    f->lost++;
    choose(f, NULL, now); /* the wait is behind us; only the choice is made again */
    return;
  }
  start(f, &ticket, now);
}

/* ---- what a failure means ---- */

static void tell_unbenched(struct failover *f, struct attempt *a, const struct bench_key *key, seconds now) {
  struct event *e = failover_tell(f, TOLD_UNBENCHED, a, now);
  e->candidate = bench_name(key);
  e->reason = "it works again";
}

static void tell_benched_again(struct failover *f, struct attempt *a, const struct bench_key *key, seconds length, seconds now) {
  struct event *e = failover_tell(f, TOLD_BENCHED, a, now);
  e->candidate = bench_name(key);
  e->benched_for = length;
  e->reason = "its trial failed";
}

void failover_settle_bench(struct failover *f, struct attempt *a, enum bench_result result, seconds now) {
  const struct candidate *c = a->candidate;
  struct bench_settled settled = bench_settle(&a->ticket, result, f->setup.serial, now);
  if (settled.lifted_candidate) tell_unbenched(f, a, c->key, now);
  if (settled.lifted_upstream) tell_unbenched(f, a, c->upstream_key, now);
  if (settled.candidate > 0) tell_benched_again(f, a, c->key, settled.candidate, now);
  if (settled.upstream > 0) tell_benched_again(f, a, c->upstream_key, settled.upstream, now);
}

static void ask_classify(struct failover *f, struct attempt *a, struct judgement *j, seconds now) {
  struct advisor *advisor = f->setup.advisor;
  refresh(f, now);
  *j = (struct judgement)JUDGEMENT_DEFAULT;
  advisor->ops->classify(advisor, f, a, now, j);
  if (j->verdict == VERDICT_NONE) builtin_advisor.classify(advisor, f, a, now, j);
  a->verdict = j->verdict;
  a->kind = j->kind;
  struct member *m = &f->pool[a->member];
  m->last_outcome = a->outcome;
  m->last_status = a->status;
  m->auth_dead = j->kind && span_is(span_of(j->kind), "auth_dead");
}

/* Benches what the verdict says, and tells. */
static void apply_bench(struct failover *f, struct attempt *a, const struct judgement *j, seconds now) {
  if (!(j->bench > 0)) return;
  struct bench_key *key = j->key ? bench_find(f->setup.bench, span_of(j->key)) : a->candidate->key;
  if (!key) key = a->candidate->key;
  const char *reason = j->reason;
  if (!reason && a->outcome == OUTCOME_STATUS) reason = arena_printf(f->setup.arena, "status %d", a->status);
  if (!reason) reason = outcome_name(a->outcome);
  a->bench = j->bench;
  a->bench_key = bench_name(key);
  if (!bench_set(key, j->bench, reason, f->setup.serial, now)) return;
  struct event *e = failover_tell(f, TOLD_BENCHED, a, now);
  e->candidate = a->bench_key;
  e->benched_for = j->bench;
  e->reason = reason;
}

static void tell_failed(struct failover *f, struct attempt *a, const struct judgement *j, seconds now) {
  struct event *e = failover_tell(f, TOLD_ATTEMPT_FAILED, a, now);
  e->delay = j->delay;
  e->benched_for = j->bench > 0 ? j->bench : -1;
  e->reason = j->reason;
  if (a->error.message.n) e->error = arena_copy(f->setup.arena, a->error.message);
}

/* The upstream's own answer goes to the client: what was read of it and the rest. */
static void deliver(struct failover *f, struct attempt *a, bool over, seconds now) {
  failover_settle_bench(f, a, a->status < 500 ? BENCH_GOOD : BENCH_BAD, now);
  failover_put(f, ORDER_DELIVER, a);
  f->phase = PHASE_DELIVER;
  f->last_read = now;
  if (!over) return;
  failover_put(f, ORDER_END, a);
  failover_settle(f, a, OUTCOME_STATUS, a->status, now);
}

/* An accepted error event is answered as the error it is, with a real status. */
static void answer_stream_error(struct failover *f, struct attempt *a, seconds now) {
  struct error_text words = { .status = dialect_error_status(&a->error), .message = a->error.message };
  words.type = a->error.type.n ? arena_copy(f->setup.arena, a->error.type) : NULL;
  words.code = a->error.code.n ? arena_copy(f->setup.arena, a->error.code) : NULL;
  failover_settle_bench(f, a, words.status < 500 ? BENCH_GOOD : BENCH_BAD, now);
  failover_stop_running(f, false, now);
  failover_fail(f, REFUSAL_EXHAUSTED, &words, OUTCOME_STREAM_ERROR, now);
}

static void stop(struct failover *f, struct attempt *a, const struct judgement *j, seconds now) {
  failover_settle_bench(f, a, BENCH_UNDECIDED, now);
  failover_stop_running(f, false, now);
  if (!j->status && !j->message) {
    exhaust(f, now);
    return;
  }
  struct error_text words = { .status = j->status ? j->status : exhausted_status(f), .message = span_of(j->message) };
  failover_fail(f, REFUSAL_EXHAUSTED, &words, a->outcome, now);
}

/* The same candidate again. A bench that this verdict set, or that it was tried in spite of, does not keep it from that. */
static void retry(struct failover *f, struct attempt *a, const struct judgement *j, seconds now) {
  failover_settle_bench(f, a, BENCH_AGAIN, now);
  failover_stop_running(f, false, now);
  f->next_member = a->member;
  f->anyway = f->anyway || j->bench > 0;
  if (now >= f->setup.request->deadline)
    failover_deadline(f, true, now);
  else if (failover_attempts_left(f) == 0)
    exhaust(f, now);
  else
    begin_after_backoff(f, a, now);
}

static void move_on(struct failover *f, struct attempt *a, seconds now) {
  failover_settle_bench(f, a, BENCH_BAD, now);
  failover_stop_running(f, false, now);
  f->pool[a->member].left = true;
  choose(f, a, now);
}

void failover_judge(struct failover *f, bool over, seconds now) {
  struct attempt *a = f->running;
  struct judgement j;
  ask_classify(f, a, &j, now);
  f->delay = j.delay;
  bool accepted = j.verdict == VERDICT_ACCEPT;
  bool keeps_running = accepted && a->outcome == OUTCOME_STATUS;
  if (f->setup.advisor->reject) {
    a->verdict = VERDICT_NONE;
    tell_failed(f, a, &j, now);
    failover_reject(f, over, now);
    return;
  }
  if (accepted && a->outcome == OUTCOME_OK) {
    apply_bench(f, a, &j, now);
    failover_commit(f, now);
    failover_put(f, ORDER_END, a);
    failover_settle(f, a, OUTCOME_OK, a->status, now);
    return;
  }
  if (!over && !keeps_running) failover_put(f, ORDER_CANCEL, a);
  if (!keeps_running || a->status >= 500) bench_count_failure(&a->ticket);
  tell_failed(f, a, &j, now);
  apply_bench(f, a, &j, now);
  switch (j.verdict) {
    case VERDICT_ACCEPT:
      if (a->outcome == OUTCOME_STATUS)
        deliver(f, a, over, now);
      else if (a->outcome == OUTCOME_STREAM_ERROR)
        answer_stream_error(f, a, now);
      else
        stop(f, a, &j, now);
      break;
    case VERDICT_RETRY: retry(f, a, &j, now); break;
    case VERDICT_NEXT: move_on(f, a, now); break;
    case VERDICT_NONE:
    case VERDICT_STOP: stop(f, a, &j, now); break;
  }
}

void failover_judge_late(struct failover *f, seconds now) {
  struct attempt *a = f->running;
  struct judgement j;
  ask_classify(f, a, &j, now);
  a->verdict = VERDICT_NONE;
  bench_count_failure(&a->ticket);
  tell_failed(f, a, &j, now);
  apply_bench(f, a, &j, now);
  f->setup.advisor->reject = false; /* too late for that */
}
