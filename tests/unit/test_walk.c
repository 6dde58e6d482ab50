/*
 * core/failover at random: 24,000 requests with a seed, up to four at a time on one registry and one clock, over random pools, outcomes, verdicts,
 * waits, operators' acts and departures. After every step the rig and check_step hold the engine to contract section 5; a walk that finds something
 * prints the seed of its round. Set BULLPEN_WALK_SEED to walk elsewhere.
 */
#include "failover_rig.h"

enum { ROUNDS = 6000, STEPS_MAX = 4000 };

static uint64_t seed;
static uint64_t round_seed;
static bool complete;
static unsigned met[ORDER_TELL + 1]; /* orders of each kind, in all */

static unsigned roll(unsigned sides) {
  seed = seed * 6364136223846793005u + 1442695040888963407u;
  return (unsigned)(seed >> 33) % sides;
}

static double roll_time(void) {
  static const double times[] = { 0, 1e-9, 0.05, 0.3, 1, 5, 20, 119, 301, 2000 };
  return times[roll(10)];
}

/* ---- odd advice ---- */

static void odd_select(struct advisor *advisor, const struct failover *f, seconds now, struct pick *pick) {
  (void)advisor, (void)f, (void)now;
  if (roll(3) == 0) return;
  pick->kind = roll(12) ? PICK_MEMBER : PICK_GIVE_UP;
  pick->member = roll(8);
  if (roll(4) == 0) pick->timeouts.headers = roll_time();
  if (roll(4) == 0) pick->timeouts.hold = roll_time();
}

static void odd_classify(struct advisor *advisor, const struct failover *f, const struct attempt *a, seconds now, struct judgement *j) {
  static const double benches[] = { 0, 0, 0, 1, 60, -1, 1e9, INFINITY, NAN };
  (void)f, (void)now;
  if (roll(4) == 0) return;
  j->verdict = (enum verdict)roll(VERDICT_STOP + 1);
  j->bench = benches[roll(9)];
  if (roll(3) == 0) j->delay = roll_time();
  if (roll(4) == 0) j->key = a->candidate->upstream_name;
  if (roll(40) == 0) advisor->reject = true;
}

static seconds odd_backoff(struct advisor *advisor, const struct failover *f, const struct attempt *failed, unsigned member, seconds now) {
  (void)advisor, (void)f, (void)failed, (void)member, (void)now;
  return roll(2) ? -1 : roll_time();
}

static enum event_class odd_gate(struct advisor *advisor, const struct failover *f, const struct attempt *a, const struct sse_event *e,
                                 size_t bytes, enum event_class builtin) {
  (void)advisor, (void)f, (void)a, (void)e, (void)bytes;
  return roll(3) ? builtin : roll(2) ? EVENT_HOLD : EVENT_FAIL;
}

static void odd_exhausted(struct advisor *advisor, const struct failover *f, seconds now, struct answer *answer) {
  builtin_advisor.exhausted(advisor, f, now, answer);
  answer->kind = roll(3);
}

static void odd_advice(struct run *run) {
  run->script.ops = (struct advisor_ops){ .select = odd_select, .classify = odd_classify, .backoff = odd_backoff, .exhausted = odd_exhausted,
                                          .gate = roll(2) ? odd_gate : NULL, .classify_ok = roll(2) };
}

/* ---- what must hold after each step ---- */

/* The transfers that the drivers know of are what the registry counts. */
static void check_slots(void) {
  unsigned open = 0, counted = 0;
  for (size_t i = 0; i < RUNS_MAX; i++) open += runs[i].f && failover_running(runs[i].f) != NULL;
  for (size_t i = 0; i < w.count; i++) counted += bench_inflight(w.list[i].key);
  if (open != counted) fail_msg("%u transfers, %u in flight", open, counted);
}

static void check_step(struct run *run) {
  seconds due = failover_timer(run->f);
  if (isnan(due)) fail_msg("a timer that is no number");
  if (failover_running(run->f) != run->open) fail_msg("5.4: the engine runs %s, the driver %s", name_of(failover_running(run->f)), name_of(run->open));
  if (run->finished && !isinf(due)) fail_msg("5.7: a timer after the end");
  if (!run->finished && isinf(due) && !run->open) fail_msg("nothing runs and nothing is waited for");
  if (!run->finished && !failover_committed(run->f) && run->last.kind == ORDER_NONE && due > run->request.deadline)
    fail_msg("5.2: the deadline is not watched");
  if (run->finished > 1) fail_msg("5.7: %u `finished`", run->finished);
  forget(run);
  check_slots();
}

/* Fires what is due; a timer that stays in the past for ever is a livelock. */
static void fire(struct run *run) {
  for (int i = 0; !run->finished && failover_timer(run->f) <= w.now; i++) {
    if (i > 64) fail_msg("livelock: a timer %g s in the past", w.now - failover_timer(run->f));
    failover_timer_due(run->f, SPAN("{}"), w.now);
    take_orders(run);
    check_step(run);
  }
}

/* ---- steps ---- */

static enum outcome some_outcome(void) {
  static const enum outcome list[] = { OUTCOME_OK, OUTCOME_OK, OUTCOME_CONNECT, OUTCOME_CONNECT_TIMEOUT, OUTCOME_DNS, OUTCOME_TLS,
                                       OUTCOME_RESET, OUTCOME_TRUNCATED, OUTCOME_EMPTY, OUTCOME_WRONG_TYPE, OUTCOME_TOO_LARGE };
  return list[roll(11)];
}

static void some_head(struct run *run) {
  static const int statuses[] = { 200, 200, 200, 200, 400, 401, 403, 404, 429, 500, 503, 529 };
  static const char *const waits_for[] = { "0", "1", "9", "30", "junk", "1e9" };
  int status = statuses[roll(12)];
  if (roll(3)) head(run, status);
  else head_with(run, status, "retry-after", waits_for[roll(6)]);
}

static void some_body(struct run *run) {
  bool over = roll(2), due = run->open && run->open->status >= 300 && !run->open->committed && run->open->outcome == OUTCOME_NONE;
  if (!due) return;
  error_body(run, "{}", roll(2), over);
}

static void some_end(struct run *run) {
  if (!run->open) return;
  enum outcome outcome = run->open->status ? some_outcome() : OUTCOME_RESET;
  ends(run, outcome);
}

static void operator_acts(void) {
  const struct candidate *c = &w.list[roll((unsigned)w.count)];
  switch (roll(5)) {
    case 0: bench_set_manual(c->key, roll(2) ? 30 : 0, "by hand", w.now); break;
    case 1: bench_lift(c->upstream_key, true, w.now); break;
    case 2: bench_set_drained(c->upstream_key, roll(2)); break;
    case 3: bench_set(c->key, 1 + roll(100), "by somebody", 0, w.now); break;
    case 4: bench_lift(c->key, false, w.now); break;
  }
}

/* Time goes by in small steps, and now and then in one long enough for any timer. */
static void time_goes_by(void) {
  static const double steps[] = { 0, 1e-9, 0.001, 0.05, 0.2, 0.5, 1, 2, 5, 21 };
  w.now += roll(60) ? steps[roll(10)] : 301;
}

/* The next thing that the running transfer may well do. */
static void transfer_goes_on(struct run *run) {
  const struct attempt *a = run->open;
  bool refused = a->status >= 300 && !a->committed;
  if (a->status == 0 && roll(4)) some_head(run);
  else if (refused && a->outcome == OUTCOME_NONE) some_body(run);
  else if (refused || a->status == 0 || roll(4) == 0) some_end(run);
  else if (roll(6) == 0) error_event(run, "overloaded_error");
  else event(run, (enum event_class)roll(3));
}

/* What no driver should do, or does at a bad moment: it may change nothing, but must break nothing either. */
static void odd_step(struct run *run) {
  switch (roll(8)) {
    case 0: if (run->open) some_head(run); break;
    case 1: event(run, (enum event_class)roll(3)); break;
    case 2: if (run->open) some_end(run); break;
    case 3: failover_paused(run->f, roll(2), w.now); break;
    case 4: failover_progress(run->f, w.now); break;
    case 5: failover_full(run->f, w.now), take_orders(run); break;
    case 6: if (roll(4) == 0) operator_acts(); break;
    case 7: if (roll(8) == 0 && !(run->open && failover_settled(run->f))) leaves(run); break;
  }
}

static void step(struct run *run) {
  if (run->finished) return;
  unsigned what = roll(10);
  if (what < 3) time_goes_by();
  else if (what < 4) odd_step(run);
  else if (run->open) transfer_goes_on(run);
  else if (roll(4) == 0) w.now = fmax(w.now, failover_timer(run->f)); /* nothing but its wait */
  check_step(run);
}

static void some_pool(void) {
  static const char *const pools[] = { "a", "a b", "a.1 a.2", "a b c", "a.1 b a.2 c", "a b c d e f g" };
  pool(pools[roll(6)]);
  for (size_t i = 0; i < w.count; i++) {
    struct candidate *c = &w.list[i];
    if (roll(4) == 0) c->passthrough = true;
    c->timeouts = (struct timeouts){ 5, 1 + roll(300), 1 + roll(300), 1 + roll(120), roll(2) ? 20 : SECONDS_NEVER };
  }
  unsigned most = roll(4);
  for (size_t i = 0; i < w.count; i++) w.list[i].max_inflight = most;
}

/* Up to four requests at a time until each has ended. A paused or silent one that nothing ends any more is left by its client. */
static void round_of_requests(void) {
  static const double deadlines[] = { 0.1, 5, 60, 900, 3600 };
  some_pool();
  for (int i = 0; i < RUNS_MAX; i++) {
    struct run *run = &runs[i];
    run->limit = 1 + roll(16);
    run->random = roll(100) / 100.0;
    run->request.deadline = w.now + deadlines[roll(5)];
    if (roll(2)) odd_advice(run);
    begin(run);
    check_step(run);
  }
  unsigned left = RUNS_MAX;
  for (int i = 0; left; i++) {
    if (i > STEPS_MAX) fail_msg("a request that never ends");
    struct run *run = &runs[roll(RUNS_MAX)];
    step(run);
    left = 0;
    for (int k = 0; k < RUNS_MAX; k++) {
      if (roll(4)) fire(&runs[k]); /* the loop may be late */
      left += !runs[k].finished;
    }
  }
  for (size_t i = 0; i < w.count; i++) assert_int_equal(bench_inflight(w.list[i].key) + bench_inflight(w.list[i].upstream_key), 0);
  for (int i = 0; i < RUNS_MAX; i++) assert_int_equal(runs[i].finished, 1);
  for (int i = 0; i < RUNS_MAX; i++)
    for (int k = 0; k <= ORDER_TELL; k++) met[k] += runs[i].seen[k];
}

static void walk(void **state) {
  const char *wanted = getenv("BULLPEN_WALK_SEED");
  seed = wanted ? strtoull(wanted, NULL, 0) : 20240607;
  for (int i = 0; i < ROUNDS; i++) {
    round_seed = seed;
    world_close(state), world_open(state);
    round_of_requests();
  }
  complete = true;
  for (int k = ORDER_START; k <= ORDER_TELL; k++)
    if (met[k] < 500) fail_msg("the walk met order %d only %u times", k, met[k]);
}

static int walk_close(void **state) {
  if (!complete) print_error("BULLPEN_WALK_SEED=%llu walks there at once\n", (unsigned long long)round_seed);
  return world_close(state);
}

static const struct CMUnitTest tests[] = {
  { "5 24,000 random requests keep every rule", walk, world_open, walk_close, NULL },
};

int main(void) {
  return cmocka_run_group_tests(tests, NULL, NULL);
}
