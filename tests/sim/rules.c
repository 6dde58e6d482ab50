/*
 * What must hold (contract 5, 5.1, 5.2), said a second time and more simply than the engine says it.
 *
 * A step is watched in three parts. While its orders are taken, each is checked against what the request has done so far (one transfer at a time,
 * nothing after the end, who may start). Then a second registry, `struct key`, is brought up to date by what was ordered and told, in the engine's
 * order: success, count, bench, trial settled, pardon, claim. Then every key of the real registry must look exactly like its double, so that a bench
 * that nobody told of, a trial that is never given back, or a slot that leaks is seen in the step that did it.
 */
#include <math.h>
#include <string.h>

#include "sim.h"

#define BENCH 300.0
#define PARDON_EVERY 30.0

/* ---- who may be picked ---- */

struct seen rules_see(const struct candidate *c) {
  struct bench_state own, up;
  bench_read(c->key, sim.now, &own);
  bench_read(c->upstream_key, sim.now, &up);
  struct seen s = { .benched = own.benched || up.benched, .manual = own.manual || up.manual };
  s.until = fmax(own.until, up.until);
  s.drained = bench_drained(c->key) || bench_drained(c->upstream_key);
  s.full = c->max_inflight && bench_inflight(c->upstream_key) >= c->max_inflight;
  return s;
}

/* As listed minus benched; when all are benched, the soonest back, held by hand last. */
unsigned rules_pick(const struct run *run) {
  size_t best = run->count;
  struct seen of_best = { 0 };
  for (size_t i = 0; i < run->count; i++) {
    struct seen s = rules_see(run->pool[i]);
    if (run->left[i] || s.drained || s.full) continue;
    if (!s.benched) return (unsigned)i;
    bool sooner = s.manual == of_best.manual ? s.until < of_best.until : of_best.manual;
    if (best < run->count && !sooner) continue;
    best = i;
    of_best = s;
  }
  return (unsigned)best;
}

bool rules_may_pick(const struct run *run, unsigned member) {
  if (member >= run->count) return false;
  struct seen s = rules_see(run->pool[member]);
  if (s.drained) return false;
  if (!s.manual) return true;
  for (size_t i = 0; i < run->count; i++) {
    struct seen other = rules_see(run->pool[i]);
    if (!run->tried[i] && !other.drained && !other.manual) return false;
  }
  return true;
}

/* ---- what the built-in must say ---- */

static bool somebody_else(const struct run *run, unsigned member) {
  for (size_t i = 0; i < run->count; i++) {
    struct seen s = rules_see(run->pool[i]);
    if (i != member && !run->tried[i] && !s.benched && !s.drained && !s.full) return true;
  }
  return false;
}

static enum error_kind kind_of(const struct attempt *a) {
  if (span_is(a->error.code, "insufficient_quota")) return ERROR_AUTH_UPSTREAM;
  if (span_is(a->error.code, "context_length_exceeded")) return ERROR_REQUEST_SPECIFIC;
  if (span_is(a->error.code, "model_not_found")) return ERROR_MODEL_MISSING;
  int status = a->outcome == OUTCOME_STATUS ? a->status : dialect_error_status(&a->error);
  switch (status) {
    case 401:
    case 402: return ERROR_AUTH_UPSTREAM;
    case 403: return ERROR_AUTH_CANDIDATE;
    case 400:
    case 404:
    case 413:
    case 422: return ERROR_REQUEST_SPECIFIC;
    case 408:
    case 409:
    case 425:
    case 429:
    case 500:
    case 502:
    case 503:
    case 504:
    case 529: return ERROR_TRANSIENT;
    default: return status >= 520 && status <= 524 ? ERROR_TRANSIENT : ERROR_OTHER;
  }
}

static void wanted(const struct run *run, const struct attempt *a, const struct judgement *j, bool good, const char *what) {
  if (good) return;
  sim_broken(run, "5.2", "%s (%d, %s, try %u, retry-after %g) on %s: %s; verdict %s, bench %g", outcome_name(a->outcome), a->status,
             a->error.code.n ? "a code" : "no code", a->try, a->retry_after, a->candidate->name, what, verdict_name(j->verdict), j->bench);
}

static void transient(const struct run *run, const struct attempt *a, const struct judgement *j) {
  bool next = j->verdict == VERDICT_NEXT && !j->key, last = a->try >= 3 || run->starts >= run->limit;
  if (outcome_is_timeout(a->outcome))
    wanted(run, a, j, next && j->bench == BENCH, "a timeout is not tried again");
  else if (a->retry_after > 0 && somebody_else(run, a->member))
    wanted(run, a, j, next && j->bench == a->retry_after, "benched for its retry-after");
  else if (last)
    wanted(run, a, j, next && j->bench >= BENCH, "the last try benches");
  else if (a->retry_after > 10)
    wanted(run, a, j, next && j->bench == a->retry_after, "too long to wait for");
  else
    wanted(run, a, j, j->verdict == VERDICT_RETRY && !(j->bench > 0) && (a->retry_after > 0 ? j->delay == a->retry_after : j->delay < 0), "tried again");
}

void rules_verdict(const struct run *run, const struct attempt *a, const struct judgement *j) {
  bool said = a->outcome == OUTCOME_STATUS || a->outcome == OUTCOME_STREAM_ERROR;
  enum error_kind kind = said ? kind_of(a) : ERROR_TRANSIENT;
  if (a->outcome == OUTCOME_OK) {
    wanted(run, a, j, j->verdict == VERDICT_ACCEPT, "good is good");
    return;
  }
  if (a->candidate->forwards && (kind == ERROR_AUTH_UPSTREAM || kind == ERROR_AUTH_CANDIDATE)) kind = ERROR_REQUEST_SPECIFIC;
  if (a->candidate->passthrough && a->outcome == OUTCOME_STATUS && a->status != 429 && a->status != 529) return; /* committed at its head */
  switch (kind) {
    case ERROR_AUTH_UPSTREAM:
      wanted(run, a, j, j->verdict == VERDICT_NEXT && j->bench == BENCH && j->key && strcmp(j->key, a->candidate->upstream_name) == 0, "the whole upstream");
      break;
    case ERROR_AUTH_CANDIDATE:
    case ERROR_MODEL_MISSING: wanted(run, a, j, j->verdict == VERDICT_NEXT && j->bench == BENCH && !j->key, "the candidate"); break;
    case ERROR_REQUEST_SPECIFIC:
    case ERROR_OTHER: wanted(run, a, j, j->verdict == VERDICT_ACCEPT && !(j->bench > 0), "never benched"); break;
    case ERROR_TRANSIENT: transient(run, a, j); break;
  }
}

/* ---- the double of the registry ---- */

static void put_until(struct key *k, seconds duration) {
  k->until = sim.now + duration;
  k->length = duration;
  k->set_step = sim.step;
  k->holder = NULL;
  sim.benches++;
}

/* Never shorter. Whoever wants it while another's holds has made it two's. */
static bool put_set(struct key *k, seconds duration, uint64_t by) {
  bool held = k->until > sim.now, longer = !held || sim.now + duration > k->until;
  k->by = held && k->by != by ? 0 : by;
  if (longer) put_until(k, duration);
  return longer;
}

static void put_lift(struct key *k) {
  k->until = 0;
  k->fails = 0;
  k->holder = NULL;
}

bool rules_set(struct key *k, seconds duration, bool manual) {
  if (!manual) return put_set(k, duration, 0);
  k->manual_until = sim.now + duration;
  return true;
}

void rules_lift(struct key *k, bool manual_too) {
  put_lift(k);
  if (manual_too) k->manual_until = 0;
}

static bool begun_after(const struct run *run, const struct attempt *a, const struct key *k) {
  return k->until == 0 || k->set_step <= run->started_step[a->number - 1];
}

static void put_good(const struct run *run, const struct attempt *a, struct key *k, unsigned *lifted) {
  if (!begun_after(run, a, k)) return;
  if (k->until != 0) *lifted += 1;
  put_lift(k);
}

/* A trial failed: again as long as last time, unless its verdict benched the key, or the same candidate is tried again. */
static unsigned put_failed(struct run *run, const struct attempt *a, struct key *k) {
  bool broken = a->committed && a->status >= 500; /* an answer that is relayed as it is */
  bool answered = a->outcome == OUTCOME_STATUS || (a->outcome == OUTCOME_STREAM_ERROR && dialect_error_status(&a->error) >= 500);
  bool again = broken || a->verdict == VERDICT_NEXT || (a->verdict == VERDICT_ACCEPT && answered);
  if (k->holder != a || !again) return 0;
  k->by = run->serial;
  put_until(k, k->length);
  return 1;
}

static void put_pardon(struct run *run) {
  unsigned lifted = 0;
  bool too_soon = false;
  for (int round = 0; round < 2 && sim.deed.wants_pardon; round++)
    for (size_t i = 0; i < 2 * run->count; i++) {
      struct key *k = sim_key(i % 2 ? run->pool[i / 2]->upstream_key : run->pool[i / 2]->key);
      if (!(k->until > sim.now) || k->by != run->serial) continue;
      if (sim.now - k->pardoned < PARDON_EVERY) too_soon = true;
      if (round == 0 || too_soon) continue;
      put_lift(k);
      k->pardoned = sim.now;
      lifted++;
    }
  if (lifted != sim.deed.told_pardoned) sim_broken(run, "5.2", "%u keys are to be pardoned, %u were", lifted, sim.deed.told_pardoned);
  if (lifted) sim.pardons++;
}

static bool benched_now(const struct key *k) {
  return k->manual_until > sim.now || k->until > sim.now || (k->until != 0 && k->holder);
}

static void put_start(struct run *run, const struct attempt *a, struct key *k) {
  bool asked_again = run->selects >= 2; /* the built-in has answered, unseen */
  if (benched_now(k) && !run->next.benched && !asked_again) sim_broken(run, "5.1", "%s begins although %s is benched", a->candidate->name, bench_name(k->key));
  if (k->until == 0 || k->until > sim.now || k->manual_until > sim.now || k->holder) return;
  k->holder = a;
  sim.trials++;
}

/* What the verdict about an attempt did: the bench it set, the count, and what became of its trials. */
static void put_verdict(struct run *run, const struct attempt *a) {
  struct deed *d = &sim.deed;
  struct key *own = sim_key(a->candidate->key), *up = sim_key(a->candidate->upstream_key);
  bool accepted = a->verdict == VERDICT_ACCEPT && (a->outcome == OUTCOME_OK || (a->outcome == OUTCOME_STATUS && a->status < 500));
  unsigned told = 0, again = 0;
  if (!accepted && begun_after(run, a, own)) own->fails++;
  if (a->bench > 0) told = put_set(sim_key(bench_find(sim.bench, span_of(a->bench_key))), a->bench, run->serial);
  if (told != d->told_benched) sim_broken(run, "4", "%u benches, %u told", told, d->told_benched);
  if (!a->committed && !accepted) again = put_failed(run, a, own) + put_failed(run, a, up);
  if (again != d->told_again) sim_broken(run, "5.1", "%u failed trials, %u told", again, d->told_again);
}

static void put_deed(struct run *run) {
  struct deed *d = &sim.deed;
  const struct attempt *a = d->failed;
  bool asked_for_good = !a && d->good && d->good->verdict == VERDICT_ACCEPT && d->good->outcome == OUTCOME_OK;
  bool rejected = a && run->rejected && a->verdict == VERDICT_NONE;
  unsigned lifted = 0;
  if (asked_for_good) a = d->good;
  if (a && !rejected) put_verdict(run, a);
  if (d->bad) put_failed(run, d->bad, sim_key(d->bad->candidate->key));
  if (d->bad) put_failed(run, d->bad, sim_key(d->bad->candidate->upstream_key));
  if (d->good) put_good(run, d->good, sim_key(d->good->candidate->key), &lifted);
  if (d->good) put_good(run, d->good, sim_key(d->good->candidate->upstream_key), &lifted);
  if (lifted != d->told_lifted) sim_broken(run, "4", "%u benches were lifted, %u told", lifted, d->told_lifted);
  for (size_t i = 0; i < sim.key_count && d->closed; i++)
    if (sim.keys[i].holder == d->closed) sim.keys[i].holder = NULL;
  put_pardon(run);
  if (!d->started) return;
  put_start(run, d->started, sim_key(d->started->candidate->key));
  put_start(run, d->started, sim_key(d->started->candidate->upstream_key));
  if (run->selects >= 2) run->next.benched = true; /* perhaps: a retry may go on in spite of that */
  run->selects = 0;
}

static void compare(const struct run *run, const struct key *k) {
  struct bench_state s;
  const char *name = bench_name(k->key);
  bench_read(k->key, sim.now, &s);
  bool by_hand = k->manual_until > sim.now, by_itself = k->until > sim.now;
  seconds until = by_hand || by_itself ? fmax(by_hand ? k->manual_until : 0, by_itself ? k->until : 0) : sim.now;
  if (s.manual != by_hand) sim_broken(run, "5.1", "the manual bench of %s is %d, not %d", name, s.manual, by_hand);
  if (s.benched != benched_now(k)) sim_broken(run, "5.1", "%s is benched %d, not %d", name, s.benched, benched_now(k));
  if (s.benched && s.until != until) sim_broken(run, "5.1", "%s is benched until +%g, not +%g", name, s.until - sim.now, until - sim.now);
  if (s.returning != (k->until != 0 && !by_itself)) sim_broken(run, "5.1", "%s is returning %d", name, s.returning);
  if (s.trial != (k->holder != NULL)) sim_broken(run, "5.1", "the trial of %s is %d, not %d", name, s.trial, k->holder != NULL);
  if (s.fails != k->fails) sim_broken(run, "5.1", "%s has %u fails, not %u", name, s.fails, k->fails);
  if (bench_inflight(k->key) != k->open) sim_broken(run, "3", "%s has %u in flight, not %u", name, bench_inflight(k->key), k->open);
  if (k->max_inflight && k->open > k->max_inflight) sim_broken(run, "3", "%s has %u in flight of %u", name, k->open, k->max_inflight);
}

/* ---- orders ---- */

void rules_close(struct run *run) {
  sim_key(run->open->candidate->key)->open--;
  sim_key(run->open->candidate->upstream_key)->open--;
  sim.deed.closed = run->open;
  run->open = NULL;
  run->stage = STAGE_NONE;
}

static void must_be_fresh(const struct run *run, const struct attempt *a) {
  bool fresh = a->status == 0 && a->outcome == OUTCOME_NONE && !a->headers.count && !a->body.n && !a->error.message.n && !a->usage.known &&
               !a->response_id.n && !a->committed && a->verdict == VERDICT_NONE && !a->bench;
  if (!fresh) sim_broken(run, "5.5", "attempt %u begins with somebody else's facts", a->number);
}

/* The last candidate has nothing to lose: its deadline is the request's. Left out where candidates share an upstream that this start itself sidelines. */
static void check_lifted(const struct run *run, const struct attempt *a) {
  const struct candidate *c = a->candidate;
  struct bench_state up;
  bench_read(c->upstream_key, sim.now, &up);
  bool last = !somebody_else(run, a->member) || run->starts == run->limit;
  if (c->max_inflight || up.trial) return;
  bool lifted = a->timeouts.headers == SECONDS_NEVER && a->timeouts.first_event == SECONDS_NEVER;
  if (last && !lifted) sim_broken(run, "3", "%s is the last and its timeouts are not lifted", c->name);
  if (!last && run->builtin && a->timeouts.headers != c->timeouts.headers) sim_broken(run, "3", "%s is not the last and its timeouts are lifted", c->name);
}

static void check_start(struct run *run, const struct attempt *a) {
  if (run->open) sim_broken(run, "5.4", "%s starts beside %s", a->candidate->name, run->open->candidate->name);
  if (run->finished || run->commits || run->delivers || run->answers) sim_broken(run, "5.1", "%s starts after the answer", a->candidate->name);
  if (run->gone) sim_broken(run, "5.2", "%s starts after the client has gone", a->candidate->name);
  if (sim.now >= run->request.deadline) sim_broken(run, "5.2", "%s starts %g s after the deadline", a->candidate->name, sim.now - run->request.deadline);
  if (run->rejected) sim_broken(run, "4.3", "%s starts although the policy failed under reject", a->candidate->name);
  if (++run->starts > run->limit) sim_broken(run, "5.2", "attempt %u of %u", run->starts, run->limit);
  if (a->number != run->starts) sim_broken(run, "5.2", "attempt %u is numbered %u", run->starts, a->number);
  if (run->selects < 2 && (!run->next.picked || a->member != run->next.member))
    sim_broken(run, "4.1", "member %u starts, %u was picked", a->member, run->next.member);
  if (bench_drained(a->candidate->key) || bench_drained(a->candidate->upstream_key)) sim_broken(run, "9", "%s is drained and starts", a->candidate->name);
  const struct attempt *before = run->starts > 1 ? run->attempts[run->starts - 2] : NULL;
  if (before && sim.now < before->ended_at + before->waited) sim_broken(run, "4.1", "%s starts before its wait is over", a->candidate->name);
  if (before && before->waited > run->next.delay_most) sim_broken(run, "5.2", "waited %g s, %g at most", before->waited, run->next.delay_most);
  must_be_fresh(run, a);
}

static void put_order_start(struct run *run, const struct attempt *a) {
  check_start(run, a);
  check_lifted(run, a);
  run->attempts[run->starts - 1] = a;
  run->started_step[run->starts - 1] = sim.step;
  run->tried[a->member]++;
  if (a->try != run->tried[a->member]) sim_broken(run, "4", "try %u is numbered %u", run->tried[a->member], a->try);
  run->open = a;
  run->stage = STAGE_HEAD;
  run->events = 0;
  run->paused = run->waited_out = false;
  sim_key(a->candidate->key)->open++;
  sim_key(a->candidate->upstream_key)->open++;
  sim.deed.started = a;
}

/* ---- answers ---- */

/* 504, 429 or 529 when every attempt's last word was that (529 beside 429: 429), else 502. */
static int exhausted_status(const struct run *run) {
  bool all_slow = run->starts > 0, all_busy = run->starts > 0, all_529 = true;
  for (size_t i = 0; i < run->starts; i++) {
    const struct attempt *a = run->attempts[i];
    int word = outcome_is_timeout(a->outcome) ? 504 : a->outcome == OUTCOME_STATUS ? a->status : 0;
    if (a->outcome == OUTCOME_STREAM_ERROR) word = dialect_error_status(&a->error);
    all_slow = all_slow && word == 504;
    all_busy = all_busy && (word == 429 || word == 529);
    all_529 = all_529 && word == 529;
  }
  return all_slow ? 504 : all_busy ? (all_529 ? 529 : 429) : 502;
}

static void check_exhausted(const struct run *run, const struct order *o) {
  const struct attempt *last = run->starts ? run->attempts[run->starts - 1] : NULL;
  bool hopeless = true, accepted = last && (last->verdict == VERDICT_ACCEPT || last->verdict == VERDICT_STOP);
  bool may_pass = o->error.status == 429 || o->error.status >= 500;
  if (may_pass && (o->retry_after < 1 || o->retry_after > 60)) sim_broken(run, "7", "retry-after is %u", o->retry_after);
  if (!run->builtin) return;
  bool error_event = accepted && last->outcome == OUTCOME_STREAM_ERROR;
  int status = error_event ? dialect_error_status(&last->error) : exhausted_status(run);
  if (o->error.status != status) sim_broken(run, "7", "exhausted is %d, not %d", o->error.status, status);
  for (size_t i = 0; i < run->count; i++) {
    struct seen s = rules_see(run->pool[i]);
    hopeless = hopeless && (run->dead[i] || s.drained || s.manual);
    bool may_wait = run->starts == run->limit || run->waited_out || accepted;
    if (!may_wait && !run->left[i] && !s.drained && !s.full) sim_broken(run, "5.6", "exhausted, and %s was never tried", run->pool[i]->name);
  }
  if (may_pass && o->no_retry != hopeless) sim_broken(run, "7", "x-should-retry: false is %d", o->no_retry);
}

static void check_fail(const struct run *run, const struct order *o) {
  switch (o->refusal) {
    case REFUSAL_DEADLINE:
      if (sim.now < run->request.deadline || o->error.status != 504)
        sim_broken(run, "5.2", "%d for a deadline in %g s", o->error.status, run->request.deadline - sim.now);
      break;
    case REFUSAL_EXHAUSTED: check_exhausted(run, o); break;
    case REFUSAL_OVERLOADED:
      if (o->error.status != 503 || o->retry_after < 1) sim_broken(run, "7", "overloaded is %d, retry-after %u", o->error.status, o->retry_after);
      if (run->starts && !run->rejected) sim_broken(run, "7", "overloaded after %u attempts", run->starts);
      break;
    default: sim_broken(run, "7", "the engine refuses with case %d", (int)o->refusal);
  }
  if (run->rejected && o->error.status != 503) sim_broken(run, "4.3", "%d under reject", o->error.status);
}

static void put_answer(struct run *run, const struct order *o) {
  const struct attempt *a = o->attempt;
  if (run->commits || run->delivers || run->answers) sim_broken(run, "5.1", "a second answer");
  if (run->gone) sim_broken(run, "5.2", "an answer for nobody");
  run->said = *o;
  if (o->kind == ORDER_COMMIT || o->kind == ORDER_DELIVER) {
    run->stage = o->kind == ORDER_COMMIT ? STAGE_STREAM : STAGE_DELIVER;
    *(o->kind == ORDER_COMMIT ? &run->commits : &run->delivers) += 1;
    if (run->open && run->open != a) sim_broken(run, "5.1", "the answer of one that does not run");
    if (a->status < 500) sim.deed.good = a;
    if (a->status >= 500 && o->kind == ORDER_COMMIT) sim.deed.bad = a;
    return;
  }
  run->answers++;
  if (run->open) sim_broken(run, "5.4", "answered while %s runs", run->open->candidate->name);
  if (o->kind == ORDER_LAST && a->outcome != OUTCOME_STATUS) sim_broken(run, "4.1", "last is %s", outcome_name(a->outcome));
  if (o->kind == ORDER_FAIL) check_fail(run, o);
  a = run->starts ? run->attempts[run->starts - 1] : NULL;
  bool accepted = o->kind == ORDER_FAIL && a && a->outcome == OUTCOME_STREAM_ERROR && a->verdict == VERDICT_ACCEPT && !run->rejected;
  if (accepted && o->error.status < 500) sim.deed.good = a;
}

static void check_finished(struct run *run, const struct event *e) {
  if (++run->finished > 1) sim_broken(run, "5.7", "finished twice");
  if (run->open) sim_broken(run, "5.4", "finished while %s runs", run->open->candidate->name);
  unsigned answers = run->commits + run->delivers + run->answers;
  if (run->gone && e->outcome != OUTCOME_CLIENT_GONE) sim_broken(run, "5.3", "the client left and it is %s", outcome_name(e->outcome));
  if (run->gone) return;
  if (answers != 1) sim_broken(run, "5.7", "finished with %u answers", answers);
  if (run->ends != run->commits + run->delivers) sim_broken(run, "5.1", "%u ends", run->ends);
  if (run->said.kind == ORDER_LAST && e->outcome != OUTCOME_STATUS)
    sim_broken(run, "9", "the kept answer was given and the record says %s", outcome_name(e->outcome));
  if (run->said.kind == ORDER_FAIL && e->status != run->said.error.status)
    sim_broken(run, "5.7", "the record says %d, the client got %d", e->status, run->said.error.status);
}

static void put_event(struct run *run, const struct order *o) {
  struct deed *d = &sim.deed;
  const struct event *e = &o->event;
  switch (e->type) {
    case TOLD_ATTEMPT_FAILED:
      if (d->failed) sim_broken(run, "5.7", "two failures in one step");
      d->failed = o->attempt;
      break;
    case TOLD_BENCHED:
      if (e->reason && strcmp(e->reason, "its trial failed") == 0) d->told_again++;
      else d->told_benched++;
      break;
    case TOLD_UNBENCHED:
      if (o->attempt) d->told_lifted++;
      else d->told_pardoned++;
      break;
    case TOLD_FINISHED: check_finished(run, e); break;
    case TOLD_FAILED_OVER:
    case TOLD_COMMITTED:
    case TOLD_POLICY_LOADED:
    case TOLD_POLICY_FAILED: break;
  }
}

void rules_order(struct run *run, const struct order *o) {
  static const char *const names[] = { "none", "start", "cancel", "commit", "deliver", "last", "fail", "break", "end", "tell" };
  const char *who = o->kind == ORDER_TELL ? event_type_name(o->event.type) : o->attempt ? o->attempt->candidate->name : "";
  const char *what = o->kind == ORDER_TELL ? outcome_name(o->event.outcome) : "";
  sim_trace(run, "  %s %s %s %d", names[o->kind], who, what, o->kind == ORDER_FAIL ? o->error.status : o->event.status);
  if (run->finished) sim_broken(run, "5.7", "an order after `finished`");
  switch (o->kind) {
    case ORDER_NONE: break;
    case ORDER_START: put_order_start(run, o->attempt); break;
    case ORDER_CANCEL:
      if (run->open != o->attempt) sim_broken(run, "5.4", "%s is cancelled and does not run", o->attempt->candidate->name);
      rules_close(run);
      break;
    case ORDER_COMMIT:
    case ORDER_DELIVER:
    case ORDER_LAST:
    case ORDER_FAIL: put_answer(run, o); break;
    case ORDER_BREAK:
    case ORDER_END:
      if (!run->commits && !run->delivers) sim_broken(run, "5.1", "the end of an answer that never began");
      run->ends++;
      break;
    case ORDER_TELL: put_event(run, o); break;
  }
}

/* ---- steps ---- */

void rules_before_step(void) {
  sim.deed = (struct deed){ 0 };
}

/* Whatever happens, some timer ends it in time. */
static void check_timer(const struct run *run) {
  seconds at = failover_timer(run->f), deadline = run->request.deadline;
  const struct attempt *a = run->open;
  if (!a) {
    if (at >= deadline && deadline < SECONDS_NEVER) sim_broken(run, "4.1", "a wait reaches the deadline");
    return;
  }
  bool uncommitted = !run->commits && !run->delivers;
  if (uncommitted && at > deadline) sim_broken(run, "3", "the timer is %g s behind the deadline", at - deadline);
  if (run->stage == STAGE_ERROR_BODY && at > a->head_at + 2) sim_broken(run, "5.8", "an error body is waited for beyond 2 s");
  if (run->stage == STAGE_HEAD && at > a->started + a->timeouts.headers) sim_broken(run, "3", "the headers timeout is late");
  if (run->stage == STAGE_HOLD && at > a->head_at + a->timeouts.first_event) sim_broken(run, "3", "the first_event timeout is late");
  bool reads = (run->stage == STAGE_STREAM || run->stage == STAGE_DELIVER || run->stage == STAGE_HOLD) && !run->paused && !run->terminal;
  if (reads && at > sim.now + a->timeouts.idle) sim_broken(run, "3", "the idle timeout is late");
  if (run->terminal && at > sim.now + 1) sim_broken(run, "6", "the upstream gets more than 1 s to end");
}

void rules_after_step(struct run *acting) {
  if (acting) {
    put_deed(acting);
    if (!acting->finished) check_timer(acting);
    if (acting->finished && failover_running(acting->f)) sim_broken(acting, "5.4", "finished, and an attempt is said to run");
  }
  for (size_t i = 0; i < sim.key_count; i++) compare(acting, &sim.keys[i]);
}

void rules_at_end(void) {
  for (size_t i = 0; i < sim.key_count; i++)
    if (sim.keys[i].open || sim.keys[i].holder) sim_broken(NULL, "5.1", "%s is held and nobody is left", bench_name(sim.keys[i].key));
}
