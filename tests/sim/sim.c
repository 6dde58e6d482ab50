/*
 * A simulator of the engine: random pools, upstreams that fail in every way, clients that leave, operators that interfere, on one registry and
 * a virtual clock. Nothing here sleeps or does I/O, so a million requests take less than a minute.
 *
 *   sim [--seed S] [--requests N] [--trace]
 *
 * Requests are simulated in worlds of a few hundred; world i begins with the seed S + i and knows nothing of the ones before it. So a failure in
 * the tenth world is replayed by that world's own seed, which is what is printed. `--trace` tells every fact and order.
 *
 * A step is one fact (or one interference) and all the orders it causes. Whoever is due first is next; the clock may be late, as an event loop is,
 * so that a fact is handled after the timer that was due before it. rules.c looks at the registry before and after each step.
 */
#include "sim.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BEGIN 1000000.0
#define WORLD_REQUESTS_MAX 400
#define STEPS_OF_A_REQUEST 2000 /* more than that, and it never ends */

struct sim sim;

/* ---- chance ---- */

uint64_t sim_random(void) {
  uint64_t z = sim.random += 0x9e3779b97f4a7c15u;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  return z ^ z >> 31;
}

unsigned sim_below(unsigned n) {
  return (unsigned)((sim_random() >> 32) * n >> 32);
}

double sim_unit(void) {
  return (double)(sim_random() >> 11) * 0x1p-53;
}

bool sim_chance(double p) {
  return sim_unit() < p;
}

static double unit_of_run(void *context) {
  (void)context;
  return sim_unit();
}

/* Some time around `mean`, often none at all, on the world's grain. */
static seconds some_time(seconds mean) {
  seconds t = sim_chance(0.15) ? 0 : -mean * log(1 - sim_unit());
  return sim.grain > 0 ? sim.grain * floor(t / sim.grain) : t;
}

/* ---- telling ---- */

void sim_trace(const struct run *run, const char *format, ...) {
  if (!sim.trace) return;
  printf("%10.3f  #%-4" PRIu64 " ", sim.now - BEGIN, run ? run->number : 0);
  va_list args;
  va_start(args, format);
  vprintf(format, args);
  va_end(args);
  putchar('\n');
}

void sim_broken(const struct run *run, const char *rule, const char *format, ...) {
  fflush(stdout);
  fprintf(stderr, "sim: rule %s is broken: ", rule);
  va_list args;
  va_start(args, format);
  vfprintf(stderr, format, args);
  va_end(args);
  fprintf(stderr, "\n  at %.3f s, step %" PRIu64 " (%s)", sim.now - BEGIN, sim.step, sim.fact);
  if (run) fprintf(stderr, ", request %" PRIu64 " (%s policy, %zu candidates)", run->number, run->builtin ? "built-in" : "random", run->count);
  fprintf(stderr, "\n  replay: sim --seed %" PRIu64 " --requests %" PRIu64 " --trace\n", sim.seed, sim.begun);
  exit(1);
}

struct key *sim_key(const struct bench_key *key) {
  for (size_t i = 0; i < sim.key_count; i++)
    if (sim.keys[i].key == key) return &sim.keys[i];
  return NULL;
}

/* ---- a world ---- */

/* A failure of the simulator itself. */
static void *need(void *p) {
  if (p) return p;
  fprintf(stderr, "sim: out of memory\n");
  exit(2);
}

static struct key *make_key(const char *name) {
  struct key *k = &sim.keys[sim.key_count++];
  *k = (struct key){ .key = need(bench_get(sim.bench, span_of(name))), .pardoned = -INFINITY };
  return k;
}

static void make_candidate(size_t i) {
  static const seconds headers[] = { 5, 60, 300, SECONDS_NEVER };
  unsigned up = sim_below((unsigned)sim.upstream_count);
  struct candidate *c = &sim.candidates[i];
  *c = (struct candidate){
    .name = need(arena_printf(&sim.arena, "up%u/m%zu", up, i)),
    .upstream_name = need(arena_printf(&sim.arena, "up%u", up)),
    .model = "m",
    .weight = 1,
    .passthrough = sim_chance(0.08),
    .forwards = sim_chance(0.05),
    .max_inflight = sim.keys[up].max_inflight,
    .timeouts = { 5, headers[sim_below(4)], headers[sim_below(4)], 1 + sim_below(120), sim_below(30) },
    .upstream_key = sim.keys[up].key,
  };
  c->key = make_key(c->name)->key;
  sim.health[i] = sim_below(100);
}

static void make_world(uint64_t seed) {
  static const double grains[] = { 0, 0, 0.25, 5 };
  sim.seed = sim.random = seed;
  sim.begun = sim.step = 0;
  sim.now = BEGIN;
  sim.grain = grains[sim_below(4)];
  sim.limit_begun = 1 + sim_below(WORLD_REQUESTS_MAX);
  sim.run_count = 1 + sim_below(sim_chance(0.5) ? 8 : RUNS_MAX);
  sim.bench = need(bench_new(KEYS_MAX));
  sim.key_count = 0;
  sim.upstream_count = 1 + sim_below(UPSTREAMS_MAX);
  sim.candidate_count = 1 + sim_below(CANDIDATES_MAX);
  for (size_t i = 0; i < sim.upstream_count; i++) {
    struct key *k = make_key(need(arena_printf(&sim.arena, "up%zu", i)));
    k->max_inflight = sim_chance(0.3) ? 1 + sim_below(5) : 0;
  }
  for (size_t i = 0; i < sim.candidate_count; i++) make_candidate(i);
}

static void end_world(void) {
  rules_at_end();
  bench_free(sim.bench);
  arena_free(&sim.arena);
}

/* ---- requests ---- */

static void take_orders(struct run *run) {
  struct order order;
  for (unsigned n = 0; failover_next(run->f, &order) != ORDER_NONE; n++) {
    if (n > 32) sim_broken(run, "orders", "more than 32 orders by one fact");
    rules_order(run, &order);
  }
}

static void choose_pool(struct run *run) {
  run->count = run->as_is ? 1 : 1 + sim_below((unsigned)sim.candidate_count);
  unsigned from = sim_below((unsigned)sim.candidate_count);
  for (size_t i = 0; i < run->count; i++) run->pool[i] = &sim.candidates[(from + i) % sim.candidate_count];
}

static void begin_run(struct run *run) {
  static const seconds deadlines[] = { 900, 900, 900, 20, 1, SECONDS_NEVER };
  static const enum route routes[] = { ROUTE_CHAT, ROUTE_RESPONSES, ROUTE_MESSAGES };
  *run = (struct run){ .live = true, .number = ++sim.begun, .serial = ++sim.serials, .leave_at = SECONDS_NEVER, .fact_at = SECONDS_NEVER };
  run->as_is = sim_chance(0.03);
  run->poisoned = sim_chance(0.05);
  run->limit = sim_chance(0.3) ? 1 + sim_below(4) : ATTEMPTS_MAX;
  if (sim_chance(0.15)) run->leave_at = sim.now + some_time(20);
  choose_pool(run);
  advice_choose(run);
  run->request = (struct request){ .id = "r", .method = "POST", .route = run->as_is ? ROUTE_NONE : routes[sim_below(3)],
                                   .stream = !run->as_is && sim_chance(0.6), .received = sim.now };
  run->request.deadline = sim.now + deadlines[sim_below(6)];
  struct failover_setup setup = {
    .arena = &run->arena, .request = &run->request, .serial = run->serial, .advisor = &run->advisor, .pool = run->pool,
    .pool_count = run->count, .max_attempts = run->limit, .as_is = run->as_is, .bench = sim.bench, .random = unit_of_run,
  };
  sim.fact = "begin";
  sim_trace(run, "begins: %zu candidates, %u attempts at most, %s", run->count, run->limit, run->builtin ? "built-in" : "random policy");
  run->f = need(failover_begin(&setup, sim.now));
  take_orders(run);
}

/* ---- what upstreams do ---- */

static bool fails(const struct run *run) {
  unsigned health = sim.health[run->open->candidate - sim.candidates];
  return run->poisoned || sim_below(100) < (health > 80 ? 100 : health / 2);
}

static void ends(struct run *run, enum outcome outcome) {
  sim.fact = outcome_name(outcome);
  sim_trace(run, "transfer of %s ends: %s", run->open->candidate->name, sim.fact);
  rules_close(run);
  struct event_facts facts = { .class = EVENT_COMMIT, .sequence = -1, .response_id = SPAN("resp_1") };
  failover_ended(run->f, outcome, "cause", outcome == OUTCOME_OK && sim_chance(0.5) ? &facts : NULL, sim.now);
}

static void gives_head(struct run *run) {
  static const int bad[] = { 400, 401, 402, 403, 404, 408, 409, 413, 418, 422, 425, 429, 429, 500, 500, 502, 503, 504, 520, 529, 301, 304 };
  static const struct header waits[] = { { SPAN("retry-after"), SPAN("3") }, { SPAN("retry-after"), SPAN("45") }, { SPAN("retry-after"), SPAN("0") } };
  bool well = !fails(run);
  int status = well ? 200 : run->poisoned ? 500 : sim_chance(0.3) ? 200 : bad[sim_below(sizeof bad / sizeof *bad)];
  struct headers headers = { &waits[sim_below(3)], sim_chance(0.3) && !run->poisoned ? 1 : 0 };
  sim.fact = "head";
  sim_trace(run, "%s answers %d%s", run->open->candidate->name, status, headers.count ? " with a retry-after" : "");
  run->stage = status < 300 ? STAGE_HOLD : STAGE_ERROR_BODY;
  failover_head(run->f, status, headers, sim.now);
}

static void gives_error_body(struct run *run) {
  static const char *const bodies[] = {
    "{}", "{}", "{\"error\":{\"message\":\"m\",\"type\":\"insufficient_quota\",\"code\":\"insufficient_quota\"}}",
    "{\"error\":{\"message\":\"m\",\"code\":\"context_length_exceeded\",\"type\":\"invalid_request_error\"}}",
    "{\"error\":{\"message\":\"m\",\"code\":\"model_not_found\",\"type\":\"invalid_request_error\"}}", "<html>oops</html>",
  };
  struct span body = span_of(run->poisoned ? "{}" : bodies[sim_below(sizeof bodies / sizeof *bodies)]);
  bool over = sim_chance(0.8), whole = over && sim_chance(0.9);
  sim.fact = "error body";
  sim_trace(run, "%s gives its error body%s%s", run->open->candidate->name, whole ? ", whole" : "", over ? ", and ends" : "");
  if (over) rules_close(run);
  failover_error_body(run->f, body, whole, over, sim.now);
}

static void gives_event(struct run *run) {
  static const char *const types[] = { "rate_limit_error", "overloaded_error", "invalid_request_error", "api_error", "authentication_error" };
  static const struct sse_event event = { .data = { "{}", 2 } }, comment = { .comment = true };
  struct event_facts facts = { .class = EVENT_HOLD, .sequence = -1 };
  unsigned dice = sim_below(100);
  if (run->poisoned || dice < 6) {
    facts.class = EVENT_FAIL;
    facts.terminal = true;
    facts.error = (struct upstream_error){ .type = span_of(run->poisoned ? "api_error" : types[sim_below(5)]), .message = SPAN("words") };
  } else if (dice < 25 || ++run->events > 12) {
    facts.class = EVENT_END;
    facts.terminal = true;
    facts.usage = (struct usage){ true, 1, 2, 0 };
  } else if (dice < 65) {
    facts.class = EVENT_COMMIT;
    facts.response_id = SPAN("resp_1");
  }
  bool is_comment = facts.class == EVENT_HOLD && sim_chance(0.3);
  sim.fact = "event";
  sim_trace(run, "%s sends an event: %d", run->open->candidate->name, (int)facts.class);
  failover_progress(run->f, sim.now);
  if (run->stage == STAGE_STREAM && facts.terminal) run->terminal = true;
  bool held = run->stage == STAGE_HOLD;
  failover_event(run->f, &facts, is_comment ? &comment : &event, 2, sim.now);
  take_orders(run);
  if (held && run->commits && facts.terminal) run->terminal = true; /* it committed and ended in one */
}

static void holds_on(struct run *run) {
  static const enum outcome bad[] = { OUTCOME_RESET, OUTCOME_TRUNCATED, OUTCOME_EMPTY, OUTCOME_WRONG_TYPE, OUTCOME_STREAM_ERROR };
  if (sim_chance(0.06)) {
    ends(run, bad[sim_below(5)]);
  } else if (run->request.stream && !sim_chance(0.03)) {
    gives_event(run);
  } else if (sim_chance(0.1)) {
    sim.fact = "full";
    sim_trace(run, "%s fills the buffer", run->open->candidate->name);
    failover_full(run->f, sim.now);
  } else {
    ends(run, run->poisoned || (fails(run) && sim_chance(0.5)) ? OUTCOME_EMPTY : OUTCOME_OK);
  }
}

static void streams_on(struct run *run) {
  bool events = run->request.stream && !run->open->candidate->passthrough && !run->terminal && run->stage == STAGE_STREAM;
  unsigned dice = sim_below(100);
  if (dice < 8) {
    run->paused = !run->paused;
    sim.fact = "pause";
    sim_trace(run, "%s", run->paused ? "paused" : "goes on");
    failover_paused(run->f, run->paused, sim.now);
  } else if (events && dice < 80) {
    gives_event(run);
  } else if (dice < 88 && run->events++ < 12) {
    sim.fact = "progress";
    failover_progress(run->f, sim.now);
  } else {
    ends(run, dice < 94 ? OUTCOME_OK : dice < 97 ? OUTCOME_RESET : OUTCOME_TRUNCATED);
  }
}

static void upstream_acts(struct run *run) {
  static const enum outcome bad[] = { OUTCOME_CONNECT, OUTCOME_CONNECT_TIMEOUT, OUTCOME_DNS, OUTCOME_TLS, OUTCOME_RESET, OUTCOME_TRUNCATED,
                                      OUTCOME_TOO_LARGE };
  switch (run->stage) {
    case STAGE_NONE: break;
    case STAGE_HEAD:
      if (!run->poisoned && fails(run) && sim_chance(0.5))
        ends(run, bad[sim_below(7)]);
      else
        gives_head(run);
      break;
    case STAGE_ERROR_BODY: gives_error_body(run); break;
    case STAGE_HOLD: holds_on(run); break;
    case STAGE_STREAM:
    case STAGE_DELIVER: streams_on(run); break;
  }
}

/* When the open transfer does something next; a paused one always does, because its client reads on some day. */
static void plan_fact(struct run *run) {
  run->fact_at = SECONDS_NEVER;
  if (!run->open) return;
  bool silent = sim_chance(0.04) && !run->paused && failover_timer(run->f) < SECONDS_NEVER;
  if (!silent) run->fact_at = sim.now + some_time(sim_chance(0.05) ? 200 : 1);
}

/* ---- steps ---- */

/* An operator, or a policy's own code, does something to a key. */
static void interfere(void) {
  static const seconds times[] = { 1, 10, 60, 600, SECONDS_NEVER };
  struct key *k = &sim.keys[sim_below((unsigned)sim.key_count)];
  seconds duration = times[sim_below(5)];
  sim.fact = "operator";
  rules_before_step();
  switch (sim_below(8)) {
    case 0:
      bench_set_manual(k->key, duration, "by hand", sim.now);
      rules_set(k, duration, true);
      break;
    case 1: bench_set_drained(k->key, true); break;
    case 2:
    case 3: bench_set_drained(k->key, false); break;
    case 4:
      bench_lift(k->key, false, sim.now);
      rules_lift(k, false);
      break;
    case 5:
      if (bench_set(k->key, duration, "by a policy", 0, sim.now) != rules_set(k, duration, false)) sim_broken(NULL, "5.1", "longer or not");
      break;
    default:
      bench_lift(k->key, true, sim.now);
      rules_lift(k, true);
      break;
  }
  sim_trace(NULL, "somebody interferes with %s", bench_name(k->key));
  rules_after_step(NULL);
  if (sim_chance(0.3)) sim.health[sim_below((unsigned)sim.candidate_count)] = sim_below(100);
}

static seconds wake_of(const struct run *run) {
  return fmin(run->leave_at, fmin(run->fact_at, failover_timer(run->f)));
}

static void client_leaves(struct run *run) {
  sim.fact = "client gone";
  sim_trace(run, "the client leaves");
  run->leave_at = SECONDS_NEVER;
  bool settled = failover_settled(run->f);
  if (settled != (run->terminal || run->finished)) sim_broken(run, "6", "settled is %d after terminal %d", settled, run->terminal);
  run->gone = !settled;
  failover_client_gone(run->f, sim.now);
  take_orders(run);
  if (!settled && !run->finished) sim_broken(run, "5.2", "the client left and the request goes on");
  if (settled && run->finished) sim_broken(run, "6", "the client's leaving after the terminal event changed something");
}

static void step_run(struct run *run) {
  bool leaves = run->leave_at <= sim.now, acts = run->fact_at <= sim.now, timer = failover_timer(run->f) <= sim.now;
  unsigned dice = sim_below(3);
  rules_before_step();
  if (leaves && (dice == 0 || (!acts && !timer))) {
    client_leaves(run);
  } else if (acts && (dice == 1 || !timer)) {
    upstream_acts(run);
    take_orders(run);
    plan_fact(run);
  } else if (timer) {
    sim.fact = "timer";
    sim_trace(run, "timer");
    failover_timer_due(run->f, SPAN("{}"), sim.now);
    take_orders(run);
    plan_fact(run);
  }
  rules_after_step(run);
  if (!run->finished) return;
  arena_free(&run->arena);
  run->live = false;
}

static struct run *next_due(seconds *at) {
  struct run *due = NULL;
  *at = SECONDS_NEVER;
  for (size_t i = 0; i < sim.run_count; i++) {
    struct run *run = &sim.runs[i];
    if (!run->live) continue;
    seconds wake = wake_of(run);
    if (wake == SECONDS_NEVER) sim_broken(run, "hang", "nothing will ever wake this request");
    if (wake >= *at) continue;
    *at = wake;
    due = run;
  }
  return due;
}

static struct run *free_slot(void) {
  for (size_t i = 0; i < sim.run_count; i++)
    if (!sim.runs[i].live) return &sim.runs[i];
  return NULL;
}

static void arrive(struct run *run) {
  rules_before_step();
  begin_run(run);
  plan_fact(run);
  rules_after_step(run);
  if (!run->finished) return;
  arena_free(&run->arena);
  run->live = false;
}

/* At most `most` requests of the world that begins with that seed; how many it was. */
static uint64_t run_world(uint64_t seed, uint64_t most) {
  make_world(seed);
  seconds mean = sim_chance(0.5) ? 0.5 : 20, arrival = sim.now, interference = sim.now + 50, at;
  bool meddled = sim_chance(0.7);
  if (most > sim.limit_begun) most = sim.limit_begun;
  for (uint64_t steps = 0;; steps++) {
    if (steps > most * STEPS_OF_A_REQUEST) sim_broken(NULL, "hang", "requests do not end");
    struct run *due = next_due(&at), *slot = sim.begun < most ? free_slot() : NULL;
    if (!due && !slot) break;
    sim.step++;
    sim.steps++;
    seconds first = fmin(slot ? arrival : SECONDS_NEVER, at);
    if (meddled && interference < first) {
      sim.now = fmax(sim.now, interference);
      interference = sim.now + some_time(40) + 1;
      interfere();
      continue;
    }
    sim.now = fmax(sim.now, first);
    if (sim_chance(0.03)) sim.now += some_time(3); /* a late turn */
    if (slot && arrival <= at) {
      arrival = sim.now + some_time(mean);
      arrive(slot);
    } else {
      step_run(due);
    }
  }
  uint64_t begun = sim.begun;
  end_world();
  return begun;
}

static uint64_t number(const char *text) {
  char *end;
  uint64_t n = text ? strtoull(text, &end, 10) : 0;
  if (text && *text && !*end) return n;
  fprintf(stderr, "usage: sim [--seed S] [--requests N] [--trace]\n");
  exit(2);
}

int main(int argc, char **argv) {
  uint64_t seed = 1, requests = 50000, done = 0, worlds = 0;
  for (int i = 1; i < argc; i++) {
    if (strcmp(argv[i], "--trace") == 0)
      sim.trace = true;
    else if (strcmp(argv[i], "--seed") == 0)
      seed = number(argv[++i]);
    else if (strcmp(argv[i], "--requests") == 0)
      requests = number(argv[++i]);
    else
      number(NULL), number("");
  }
  while (done < requests) done += run_world(seed + worlds++, requests - done);
  printf("%" PRIu64 " requests in %" PRIu64 " worlds, %" PRIu64 " steps, %" PRIu64 " trials, %" PRIu64 " benches, %" PRIu64 " pardons: every rule held\n",
         done, worlds, sim.steps, sim.trials, sim.benches, sim.pardons);
  return 0;
}
