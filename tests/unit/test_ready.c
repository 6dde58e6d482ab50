/*
 * The ready-made policies under the real engine: the acceptance rows that a policy can keep or break, by their ids, and the built-in in C beside its
 * Lua twin through the same generated cases. What is arithmetic alone is in tests/lua.
 */
#include "ready_rig.h"

#define TEST(promise, function) { promise, function, NULL, NULL, NULL }
#define COUNT(list) (sizeof(list) / sizeof *(list))

/* ---- rows of one request ---- */

static const struct row {
  const char *id, *policy, *options, *pool, *script, *trail, *waits;
} rows[] = {
  { "P1", "priority", NULL, "a b", "429 429 stream", "a=429 a=429 b=stream -> 200", "" },
  { "P2", "priority", "o.retries = 0", "a:2 b:1 c:1", "503 503 ok", "b=503 c=503 a=ok -> 200", "" },
  { "P2 the other sign", "priority", "o.retries = 0 o.order = 'descending'", "a:1 b:2", "503 ok", "b=503 a=ok -> 200", "" },
  { "P3", "priority", NULL, "a", "503 503", "a=503 a=503 -> last 503", "" },
  { "P4", "priority", "o.retries = 0", "a b c", "503 503 ok", "a=503 b=503 c=ok -> 200", "" },
  { "P4 bound", "priority", "o.retries = 0", "a b c d", "503", "a=503 b=503 c=503 -> last 503", "" },
  { "P5 400", "priority", NULL, "a b", "400", "a=400 -> deliver 400", "" },
  { "P5 401", "priority", NULL, "a b", "401", "a=401 -> deliver 401", "" },
  { "P5 403", "priority", NULL, "a b", "403", "a=403 -> deliver 403", "" },
  { "P6 last", "priority", "o.retries = 0", "a b", "500 503", "a=500 b=503 -> last 503", "" },
  { "P6 refused", "priority", "o.retries = 0", "a b", "connect", "a=connect b=connect -> fail 502", "" },
  { "P6 slow", "priority", "o.retries = 0", "a b", "headers_timeout", "a=headers_timeout b=headers_timeout -> fail 504", "" },
  { "W3 W4", "weighted", "o.jitter = 0", "a b c d", "503", "c=503 c=503 b=503 b=503 d=503 d=503 -> fail 502", "0.2 0.4 0.8 1.6 3.2" },
  { "W4 jitter", "weighted", NULL, "a", "503 ok", "a=503 a=ok -> 200", "0.21" },
  { "W3 all 429", "weighted", "o.tries = 1", "a", "429", "a=429 -> fail 502", "" },
  { "W5", "weighted", NULL, "a b", "401", "b=401 -> deliver 401", "" },
  { "W6 connect_timeout", "weighted", "o.tries = 1", "a*0 b", "connect_timeout ok", "b=connect_timeout a=ok -> 200", "0.21" },
  { "W6 reset", "weighted", "o.tries = 1", "a*0 b", "reset ok", "b=reset a=ok -> 200", "0.21" },
  { "W6 dns", "weighted", "o.tries = 1", "a*0 b", "dns ok", "b=dns a=ok -> 200", "0.21" },
  { "W8", "weighted", "o.tries = 1", "a*0 b", "empty stream", "b=empty a=stream -> 200", "0.21" },
  { "W8 last", "weighted", "o.tries = 1", "a", "empty", "a=empty -> fail 502", "" },
  { "W9", "weighted", NULL, "a b", "late", "b=late -> 200 broken", "" },
  { "F1", "first_event", NULL, "a b", "!overloaded_error stream", "a=!overloaded_error b=stream -> 200", "" },
  { "F1 any error", "first_event", NULL, "a b", "!server_error stream", "a=!server_error b=stream -> 200", "" },
  { "F1 the request's own", "first_event", NULL, "a b", "!invalid_request_error", "a=!invalid_request_error -> fail 400", "" },
  { "F2", "first_event", NULL, "a b", "429", "a=429 b=429 -> last 429", "" },
  { "F3", "first_event", NULL, "a b", "late", "a=late -> 200 broken", "" },
  { "500 on purpose", "first_event", NULL, "a b", "500", "a=500 -> deliver 500", "" },
  { "A1", "account_pool", NULL, "a% b%", "429 ok", "a=429 b=ok -> 200", "" },
  { "A1 529", "account_pool", NULL, "a% b%", "529 ok", "a=529 b=ok -> 200", "" },
  { "A1 network", "account_pool", NULL, "a% b%", "connect ok", "a=connect b=ok -> 200", "" },
  { "A2", "account_pool", NULL, "a% b%", "500=odd", "a=500 -> 500", "" },
  { "A6", "account_pool", NULL, "a b", "429={\"error\":{\"code\":\"context_length_exceeded\",\"message\":\"x\"}}", "a=429 -> deliver 429", "" },
  { "A6 words", "account_pool", NULL, "a b", "500={\"error\":{\"message\":\"Prompt~is~too~long\"}}", "a=500 -> deliver 500", "" },
  { "A5", "account_pool", "o.rules = { { status = 400, keyword = 'Suspended', minutes = 10 } }", "a b", "400=account~SUSPENDED ok",
    "a=400 b=ok -> 200", "" },
  { "A7", "account_pool", "o.switches = 1", "a b c", "503", "a=503 b=503 -> fail 502", "" },
  { "A10", "account_pool", NULL, "a:1 b c", "503", "b=503 c=503 a=503 -> fail 502", "" },
  { "C2", "chain_with_bench", NULL, "a b", "503 503 ok", "a=503 a=503 a=ok -> 200", "0.1 0.2" },
  { "C3 transient", "chain_with_bench", NULL, "a b", "503 503 503 ok", "a=503 a=503 a=503 b=ok -> 200", "0.1 0.2" },
  { "C3 auth", "chain_with_bench", NULL, "a b", "401 ok", "a=401 b=ok -> 200", "" },
  { "C3 request", "chain_with_bench", NULL, "a b", "400", "a=400 -> deliver 400", "" },
  { "C3 timeout", "chain_with_bench", NULL, "a b", "headers_timeout ok", "a=headers_timeout b=ok -> 200", "" },
};

static void rows_of_one_request(void **state) {
  (void)state;
  for (size_t i = 0; i < COUNT(rows); i++) {
    const struct row *row = &rows[i];
    struct ready *r = ready_with(row->policy, row->options, row->pool);
    ready_run(r, row->script);
    if (strcmp(r->trail, row->trail) != 0 || strcmp(r->waits, row->waits) != 0)
      fail_msg("%s %s: %s (%s), not %s (%s)\n%s", row->policy, row->id, r->trail, r->waits, row->trail, row->waits, r->log);
    ready_free(r);
  }
}

/* ---- rows of several requests ---- */

static void assert_trail(struct ready *r, const char *header, const char *body, const char *script, const char *trail) {
  ready_request(r, header, body);
  ready_begin(r);
  ready_drive(r, script);
  if (strcmp(r->trail, trail) != 0) fail_msg("%s, not %s\n%s", r->trail, trail, r->log);
}

static void accounts_rest_as_long_as_their_status_says(void **state) {
  (void)state;
  static const struct { const char *word; double rest; } rests[] = { { "401", 600 }, { "403", 600 }, { "429", 5 }, { "429+42", 42 },
                                                                    { "529", 600 }, { "!overloaded_error", 600 }, { "500", 0 } };
  for (size_t i = 0; i < COUNT(rests); i++) {
    struct ready *r = ready_with("account_pool", NULL, "a:0 b:1");
    char script[64];
    snprintf(script, sizeof script, "%s ok", rests[i].word);
    ready_run(r, script);
    assert_true(fabs(ready_benched(r, "a") - rests[i].rest) < 1e-6);
    assert_true(ready_benched(r, "b") == 0);
    if (rests[i].rest > 0) assert_trail(r, NULL, NULL, "ok", "b=ok -> 200");
    r->now += rests[i].rest + 0.1;
    assert_trail(r, NULL, NULL, "ok", "a=ok -> 200");
    ready_free(r);
  }
}

static void the_third_401_within_3_hours_is_until_lifted(void **state) {
  (void)state;
  struct ready *r = ready_with("account_pool", NULL, "a:0 b:1");
  for (int i = 0; i < 3; i++) {
    assert_trail(r, NULL, NULL, "401 ok", "a=401 b=ok -> 200");
    r->now += 3000;
  }
  assert_true(isinf(ready_benched(r, "a")));
  r->now += 1e7;
  assert_trail(r, NULL, NULL, "ok", "b=ok -> 200");
  ready_free(r);
}

static void a_session_stays_and_is_let_go(void **state) {
  (void)state;
  static const char *const session = "x-session-id: s", *const other = "x-session-id: t";
  struct ready *r = ready_with("account_pool", NULL, "a b c");
  assert_trail(r, session, NULL, "ok", "a=ok -> 200");
  r->now += 1;
  assert_trail(r, session, NULL, "ok", "a=ok -> 200");
  r->now += 1;
  assert_trail(r, session, NULL, "429 ok", "a=429 b=ok -> 200");
  r->now += 60;
  assert_trail(r, session, NULL, "stream", "b=stream -> 200");
  assert_trail(r, other, NULL, "ok", "c=ok -> 200");
  r->now += 1;
  assert_trail(r, NULL, "{\"model\":\"m\",\"previous_response_id\":\"resp_1\"}", "ok", "c=ok -> 200");
  ready_free(r);
}

static void accounts_are_used_in_turn(void **state) {
  (void)state;
  static const char *const turns[] = { "a", "b", "c", "a", "b" };
  struct ready *r = ready_with("account_pool", NULL, "p:1 a b c");
  for (size_t i = 0; i < COUNT(turns); i++) {
    char trail[32];
    snprintf(trail, sizeof trail, "%s=ok -> 200", turns[i]);
    assert_trail(r, NULL, NULL, "ok", trail);
    r->now += 1;
  }
  ready_free(r);
}

static const char *const all[] = { "priority", "weighted", "first_event", "account_pool", "chain_with_bench" };

static void who_leaves_and_who_is_late_benches_nobody(void **state) {
  (void)state;
  for (size_t p = 0; p < COUNT(all); p++) {
    for (int late = 0; late < 2; late++) {
      struct ready *r = ready_with(all[p], NULL, "a b");
      r->patience = 30;
      ready_run(r, late ? "never" : "gone");
      assert_true(ready_benched(r, "a") + ready_benched(r, "b") + ready_benched(r, "a/m") + ready_benched(r, "b/m") == 0);
      assert_int_equal(r->failed_over, 0);
      ready_free(r);
    }
  }
}

static void an_operators_bench_is_last_and_survives(void **state) {
  (void)state;
  for (size_t p = 0; p < COUNT(all); p++) {
    struct ready *r = ready_with(all[p], NULL, "a b");
    bench_set_manual(bench_find(r->bench, SPAN("a")), 600, "test", r->now);
    assert_trail(r, NULL, NULL, "ok", "b=ok -> 200");
    bench_set_manual(bench_find(r->bench, SPAN("b")), 500, "test", r->now);
    ready_run(r, "ok");
    assert_true(strstr(r->trail, "=ok -> 200") != NULL); /* C5: both are held, and it is still called */
    assert_true(ready_benched(r, "a") == 600 && ready_benched(r, "b") == 500);
    ready_free(r);
  }
}

static void all_benched_is_soonest_back_first(void **state) {
  (void)state;
  for (size_t p = 0; p < COUNT(all); p++) {
    struct ready *r = ready_with(all[p], NULL, "a b c");
    bench_set(bench_find(r->bench, SPAN("a")), 500, "test", 0, r->now);
    bench_set(bench_find(r->bench, SPAN("b")), 100, "test", 0, r->now);
    bench_set(bench_find(r->bench, SPAN("c")), 300, "test", 0, r->now);
    assert_trail(r, NULL, NULL, "ok", "b=ok -> 200");
    ready_free(r);
  }
}

/* Weighted draws with numbers that are spread evenly: 10,000 requests through the engine. */
static void first_calls_are_by_weight(void **state) {
  (void)state;
  static const struct { const char *pool; double share; } draws[] = { { "a*3 b*1", 0.75 }, { "a*5 b*3 c*2", 0.5 },
                                                                     { "a*7 b*6 c*5 d*4 e*3 f*2 g*1", 0.25 } };
  for (size_t i = 0; i < COUNT(draws); i++) {
    struct ready *r = ready_with("weighted", NULL, draws[i].pool);
    int hits = 0;
    r->random = -1;
    for (int k = 0; k < 10000; k++) {
      *r->log = 0;
      ready_run(r, "ok");
      hits += r->trail[0] == 'a';
    }
    if (fabs(hits / 1e4 - draws[i].share) > 0.02) fail_msg("%s: %d of 10,000", draws[i].pool, hits);
    ready_free(r);
  }
}

/* ---- the built-in and its twin ---- */

static const char *const words[] = {
  "ok", "stream", "late", "gone", "503", "500", "502", "504", "529", "520", "429", "429+3", "429+12", "429+4000", "503+2", "408", "409", "425",
  "401", "402", "403", "400", "404", "413", "422", "418", "501", "302", "connect", "connect_timeout", "dns", "tls", "reset", "headers_timeout",
  "idle_timeout", "first_event_timeout", "truncated", "empty", "wrong_type", "too_large", "!", "!overloaded_error", "!rate_limit_error",
  "!invalid_request_error", "!authentication_error", "!permission_error", "!not_found_error", "!insufficient_quota", "!invalid_thing",
  "429={\"error\":{\"code\":\"insufficient_quota\",\"message\":\"x\"}}", "429={\"error\":{\"code\":\"rate_limit_exceeded\"}}",
  "400={\"error\":{\"message\":\"Your~credit~balance~is~too~low~today\"}}", "400={\"error\":{\"message\":\"API~key~not~valid.~Please\"}}",
  "500={\"error\":{\"message\":\"your~credit~balance~is~too~low\"}}", "500={\"error\":{\"code\":\"ResponsibleAIPolicyViolation\",\"message\":\"x\"}}",
  "503={\"error\":{\"message\":\"the~maximum~context~length~is~8192\"}}", "404={\"error\":{\"code\":\"model_not_found\",\"message\":\"x\"}}",
  "404={\"error\":{\"message\":\"The~model~`x`~does~not~exist\"}}", "404={\"error\":{\"message\":\"no~'model~a'~here\"}}",
  "404={\"error\":{\"code\":\"deployment_gone\",\"message\":\"model~x\"}}", "404={\"error\":{\"code\":404,\"message\":\"models/x~is~not~a~model\"}}",
  "404={\"error\":{\"type\":\"not_found_error\",\"message\":\"model:~x\"}}", "404={\"error\":{\"message\":\"remodel~the~models\"}}",
  "401={\"error\":{\"type\":\"insufficient_quota\",\"code\":\"content_filter\",\"message\":\"x\"}}", "503=<html><h1>Bad</h1></html>",
};

struct odd_case {
  uint64_t seed;
  char pool[64];
  char script[3][2048];
  double pause[3];
  uint64_t benches; /* seed of what is benched before */
};

static void make_case(struct odd_case *c, uint64_t seed) {
  static const char *const pools[] = { "a", "a b", "a b c", "a/x a/y b", "a/x b/x a/y b/y", "a b c d e", "a/x a/y" };
  static const double pauses[] = { 0, 0.5, 50, 299, 301, 1000, 5000 };
  c->seed = seed;
  snprintf(c->pool, sizeof c->pool, "%s", pools[ready_roll(&seed) % COUNT(pools)]);
  for (int i = 0; i < 3; i++) {
    c->script[i][0] = 0;
    uint64_t fixed = ready_roll(&seed) % 4 ? UINT64_MAX : ready_roll(&seed); /* a quarter of them: always the same answer */
    for (int k = 0; k < 16; k++) {
      uint64_t pick = fixed != UINT64_MAX ? fixed : ready_roll(&seed);
      WRITE(c->script[i], "%s%s", k ? " " : "", words[pick % COUNT(words)]);
    }
    c->pause[i] = pauses[ready_roll(&seed) % COUNT(pauses)];
  }
  c->benches = ready_roll(&seed);
}

/* Some are benched, some by hand, one has its trial made by somebody else, one upstream is full, one is drained. */
static void prepare(struct ready *r, uint64_t seed) {
  static const double lengths[] = { 1, 10, 400, 1e9 };
  struct bench_ticket ticket;
  for (size_t i = 0; i < r->count; i++) {
    struct candidate *c = &r->list[i];
    struct bench_key *key = ready_roll(&seed) % 2 ? c->key : c->upstream_key;
    double length = lengths[ready_roll(&seed) % 4];
    switch (ready_roll(&seed) % 12) {
      case 0: case 1: case 2: bench_set(key, length, "before", 0, r->now); break;
      case 3: bench_set_manual(key, length, "by hand", r->now); break;
      case 4: c->max_inflight = 1; bench_begin(c->key, c->upstream_key, 1, true, r->now, &ticket); break;
      case 5: bench_set_drained(c->upstream_key, true); break;
      case 6:
        bench_set(c->key, 1, "before", 0, r->now);
        r->now += 2;
        bench_begin(c->key, c->upstream_key, 0, false, r->now, &ticket);
        return; /* one alone: to Lua all that may be back at any moment are alike */
      default: break;
    }
  }
}

static struct ready *run_case(const struct odd_case *c, const char *policy) {
  struct ready *r = ready_with(policy, NULL, c->pool);
  r->random = -1;
  r->seed = c->seed;
  r->disturb = c->benches % 2 ? c->benches : 0;
  prepare(r, c->benches);
  for (int i = 0; i < 3; i++) {
    r->patience = i == 1 ? 25 : 900;
    ready_run(r, c->script[i]);
    r->now += c->pause[i];
  }
  return r;
}

static void the_builtin_and_its_twin_decide_alike(void **state) {
  (void)state;
  uint64_t seed = getenv("BULLPEN_TWIN_SEED") ? strtoull(getenv("BULLPEN_TWIN_SEED"), NULL, 10) : 1;
  for (int i = 0; i < 3000; i++, seed++) {
    struct odd_case c;
    make_case(&c, seed * 7919);
    struct ready *in_c = run_case(&c, NULL), *in_lua = run_case(&c, "chain_with_bench");
    if (strcmp(in_c->log, in_lua->log) != 0) {
      size_t at = 0;
      while (in_c->log[at] == in_lua->log[at]) at++;
      size_t from = at > 600 ? at - 600 : 0;
      fail_msg("seed %llu, pool %s\n--- C:\n%.1200s\n--- Lua:\n%.1200s", (unsigned long long)seed, c.pool, in_c->log + from, in_lua->log + from);
    }
    ready_free(in_c);
    ready_free(in_lua);
  }
}

/* ---- loading ---- */

static void ready_made_policies_load_and_pass_the_check(void **state) {
  (void)state;
  for (size_t p = 0; p < COUNT(all); p++) {
    char error[512];
    struct ready *r = ready_with(all[p], NULL, "a");
    if (!policy_check(r->policy, error, sizeof error)) fail_msg("%s", error);
    ready_free(r);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
    TEST("P W F A C: rows of one request", rows_of_one_request),
    TEST("A4: accounts rest as long as their status says", accounts_rest_as_long_as_their_status_says),
    TEST("A4: the third 401 within 3 hours is until lifted", the_third_401_within_3_hours_is_until_lifted),
    TEST("A8: a session stays, and is let go when its account is benched", a_session_stays_and_is_let_go),
    TEST("A10: accounts are used in turn", accounts_are_used_in_turn),
    TEST("C9: who leaves and who is late benches nobody", who_leaves_and_who_is_late_benches_nobody),
    TEST("C6: an operator's bench is last and survives", an_operators_bench_is_last_and_survives),
    TEST("C5: all benched is soonest back first", all_benched_is_soonest_back_first),
    TEST("W1: first calls are by weight, within 2 % of 10,000", first_calls_are_by_weight),
    TEST("chain_with_bench in C and in Lua decide alike", the_builtin_and_its_twin_decide_alike),
    TEST("ready-made policies load and pass the check", ready_made_policies_load_and_pass_the_check),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
