/*
 * core/builtin: the policy chain_with_bench, clause by clause (contract 5.2), rule 5.6 as it keeps it, and what an exhausted request is told
 * (section 7). Transcripts are explained in failover_rig.h.
 */
#include "failover_rig.h"

static void reset(const char *names) {
  world_close(NULL), world_open(NULL);
  pool(names);
}

/* Answers every attempt with that status until the request ends. */
static void always_status(struct run *run, int status) {
  for (int i = 0; i < 100 && !run->finished; i++) {
    if (run->open) says_status(run, status);
    if (!run->finished && !run->open) pass(run, 11);
  }
}

/* ---- tries and waits ---- */

static void three_tries_each(void **state) {
  (void)state;
  pool("a b");
  begin(r);
  always_status(r, 503);
  assert_orders(r, "start a, start a, start a, start b, start b, start b, fail 502 +1");
}

static void full_jitter(void **state) {
  static const double randoms[] = { 0, 0.5, 0.999 };
  (void)state;
  for (size_t i = 0; i < 3; i++) {
    reset("a b");
    r->random = randoms[i];
    begin(r);
    ends(r, OUTCOME_RESET);
    assert_near(attempt_of(r, 1)->waited, 0.2 * randoms[i]);
    pass(r, 0.2);
    ends(r, OUTCOME_RESET);
    assert_near(attempt_of(r, 2)->waited, 0.4 * randoms[i]);
    pass(r, 0.4);
    ends(r, OUTCOME_RESET);
    assert_near(attempt_of(r, 3)->waited, 0);
    assert_orders(r, "start a, start a, start a, start b");
  }
}

static void backoff_never_overflows(void **state) {
  struct attempt failed = { 0 };
  static const unsigned tries[] = { 1, 6, 7, 37, 38, 64, 100, 2000, 0x7fffffff };
  static const double most[] = { 0.2, 6.4, 10, 10, 10, 10, 10, 10, 10 };
  (void)state;
  pool("a");
  begin(r);
  for (size_t i = 0; i < sizeof tries / sizeof *tries; i++) {
    failed.try = tries[i];
    r->random = 1;
    assert_near(builtin_advisor.backoff(NULL, r->f, &failed, 0, w.now), most[i]);
    r->random = 0;
    assert_near(builtin_advisor.backoff(NULL, r->f, &failed, 0, w.now), 0);
  }
}

static void timeouts_move_on(void **state) {
  static const enum outcome timeouts[] = { OUTCOME_CONNECT_TIMEOUT, OUTCOME_HEADERS_TIMEOUT, OUTCOME_FIRST_EVENT_TIMEOUT, OUTCOME_IDLE_TIMEOUT };
  (void)state;
  for (size_t i = 0; i < 4; i++) {
    reset("a b");
    begin(r);
    ends(r, timeouts[i]);
    assert_orders(r, "start a, start b");
    assert_near(benched_for("a"), 300);
  }
}

static void transports_are_tried_again(void **state) {
  static const enum outcome transports[] = { OUTCOME_CONNECT, OUTCOME_DNS, OUTCOME_TLS, OUTCOME_RESET, OUTCOME_TRUNCATED,
                                             OUTCOME_EMPTY, OUTCOME_WRONG_TYPE, OUTCOME_TOO_LARGE };
  (void)state;
  for (size_t i = 0; i < sizeof transports / sizeof *transports; i++) {
    reset("a b");
    begin(r);
    for (int try = 0; try < 3; try++) ends(r, transports[i]), pass(r, 1);
    assert_orders(r, "start a, start a, start a, start b");
    assert_near(benched_for("a"), 299); /* a second after the last try */
  }
}

static void stream_error_is_transient(void **state) {
  (void)state;
  pool("a b");
  begin(r);
  for (int try = 0; try < 3; try++) {
    head(r, 200);
    error_event(r, "overloaded_error");
    pass(r, 1);
  }
  assert_orders(r, "start a, cancel a, start a, cancel a, start a, cancel a, start b");
}

static void limit_makes_the_last_try(void **state) {
  (void)state;
  pool("a b");
  r->limit = 2;
  begin(r);
  says_status(r, 500);
  pass(r, 1);
  says_status(r, 500);
  assert_orders(r, "start a, start a, fail 502 +1");
  assert_near(benched_for("a"), 300);
}

/* ---- retry-after ---- */

static void retry_after_with_somebody_fresh(void **state) {
  (void)state;
  pool("a b");
  begin(r);
  says_status_wait(r, 429, "7");
  assert_orders(r, "start a, start b");
  assert_near(benched_for("a"), 7);
}

static void retry_after_with_nobody(void **state) {
  (void)state;
  pool("a b");
  bench_for("b", 5000);
  begin(r);
  says_status_wait(r, 503, "10");
  pass(r, 9.9);
  assert_orders(r, "start a");
  pass(r, 0.1);
  assert_orders(r, "start a");
  assert_false(state_of("a").benched);
}

static void retry_after_too_long(void **state) {
  (void)state;
  pool("a");
  begin(r);
  says_status_wait(r, 429, "11");
  assert_orders(r, "start a, fail 429 +11");
  assert_near(benched_for("a"), 11);
}

static void retry_after_past_the_deadline(void **state) {
  (void)state;
  pool("a");
  r->request.deadline = w.now + 5;
  begin(r);
  says_status_wait(r, 429, "5");
  assert_orders(r, "start a, fail 429 +5");
}

static void retry_after_nothing(void **state) {
  (void)state;
  pool("a b");
  begin(r);
  says_status_wait(r, 429, "0");
  pass(r, 0.2);
  assert_orders(r, "start a, start a");
}

/* ---- what the answer says ---- */

static void kinds_of_status(void **state) {
  static const int transient[] = { 408, 409, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529 };
  static const int accepted[] = { 400, 404, 413, 422, 301, 304, 405, 418, 451, 501, 505, 525, 599 };
  (void)state;
  for (size_t i = 0; i < sizeof transient / sizeof *transient; i++) {
    reset("a b");
    begin(r);
    for (int try = 0; try < 3; try++) says_status(r, transient[i]), pass(r, 1);
    assert_orders(r, "start a, start a, start a, start b");
    assert_true(state_of("a").benched);
  }
  for (size_t i = 0; i < sizeof accepted / sizeof *accepted; i++) {
    reset("a b");
    begin(r);
    says_status(r, accepted[i]);
    assert_orders(r, "start a, deliver a, end a");
    assert_false(state_of("a").benched);
    assert_int_equal(state_of("a").fails, accepted[i] >= 500);
  }
}

static void dead_credentials(void **state) {
  static const struct {
    int status;
    const char *body, *key;
  } cases[] = {
    { 401, "{}", "up-a" },
    { 402, "{}", "up-a" },
    { 403, "{}", "a.1" },
    { 429, "{\"error\":{\"message\":\"You exceeded your current quota\",\"type\":\"insufficient_quota\",\"code\":\"insufficient_quota\"}}", "up-a" },
    { 404, "{\"error\":{\"message\":\"The model `m` does not exist\",\"type\":\"invalid_request_error\",\"code\":\"model_not_found\"}}", "a.1" },
  };
  (void)state;
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    reset("a.1 a.2 b");
    begin(r);
    says_error(r, cases[i].status, cases[i].body);
    assert_near(benched_for(cases[i].key), 300);
    bool whole = strcmp(cases[i].key, "up-a") == 0;
    assert_orders(r, whole ? "start a.1, start b" : "start a.1, start a.2");
    assert_int_equal(benched_for("up-a") > 0, whole);
  }
}

static void context_length_never_moves(void **state) {
  static const char body[] = "{\"error\":{\"message\":\"This model's maximum context length is 8192 tokens.\",\"type\":\"invalid_request_error\","
                             "\"code\":\"context_length_exceeded\"}}";
  static const int statuses[] = { 400, 413, 429, 500, 503 };
  (void)state;
  for (size_t i = 0; i < 5; i++) {
    reset("a b");
    begin(r);
    says_error(r, statuses[i], body);
    assert_orders(r, "start a, deliver a, end a");
    assert_false(state_of("a").benched);
  }
}

/* ---- order, rule 5.6 ---- */

static void second_while_first_is_benched(void **state) {
  (void)state;
  pool("a b");
  bench_for("a", 60);
  begin(r);
  answers_well(r);
  assert_orders(r, "start b, commit b, end b");
  w.now += 60;
  begin_again(r);
  assert_orders(r, "start a");
}

static void all_benched(void **state) {
  (void)state;
  pool("a b c d e");
  bench_for("a", 50);
  bench_by_hand("b", 10);
  bench_for("c", 20);
  bench_for("up-d", 30);
  bench_for("d", 5);
  bench_by_hand("e", 5);
  begin(r);
  for (int i = 0; i < 5; i++) ends(r, OUTCOME_HEADERS_TIMEOUT);
  assert_orders(r, "start c, start d, start a, start e, start b, fail 504 +5");
}

static void all_benched_is_served(void **state) {
  (void)state;
  pool("a b");
  bench_for("a", 50);
  bench_for("b", 20);
  begin(r);
  answers_well(r);
  assert_orders(r, "start b, commit b, end b");
  assert_events(r, "unbenched b, committed b, finished ok 200");
}

static void untried_benched_follow(void **state) {
  (void)state;
  pool("a b");
  bench_for("b", 5000);
  begin(r);
  always_status(r, 500);
  assert_orders(r, "start a, start a, start a, start b, start b, start b, fail 502 +1");
}

static void left_is_not_brought_back(void **state) {
  (void)state;
  pool("a b");
  begin(r);
  ends(r, OUTCOME_HEADERS_TIMEOUT);
  bench_lift(key_of("a"), false, w.now);
  ends(r, OUTCOME_IDLE_TIMEOUT);
  assert_orders(r, "start a, start b, fail 504 +1");
}

static void drained_is_never_tried(void **state) {
  (void)state;
  pool("a b");
  bench_set_drained(key_of("up-a"), true);
  begin(r);
  ends(r, OUTCOME_HEADERS_TIMEOUT);
  assert_orders(r, "start b, fail 504 +60");
}

/* ---- the request is the suspect ---- */

static void poisoned_request(void **state) {
  (void)state;
  pool("a b.1 b.2");
  begin(r);
  always_status(r, 500);
  assert_int_equal(r->starts, 9);
  assert_false(state_of("a").benched || state_of("b.1").benched || state_of("b.2").benched);
  w.now = T0 + 100; /* more than 30 s after */
  begin_again(r);
  always_status(r, 502);
  assert_false(state_of("a").benched);
  begin_again(r);
  always_status(r, 502); /* within the 30 s */
  assert_true(state_of("a").benched && state_of("b.1").benched && state_of("b.2").benched);
}

static void pardon_names_the_lifted(void **state) {
  (void)state;
  pool("a b");
  begin(r);
  ends(r, OUTCOME_HEADERS_TIMEOUT);
  ends(r, OUTCOME_HEADERS_TIMEOUT);
  assert_false(state_of("a").benched);
  assert_events(r, "failed a headers_timeout next, benched a 300, over a>b, failed b headers_timeout next, benched b 300, unbenched a, "
                   "unbenched b, finished headers_timeout 504");
}

static void same_way(void **state) {
  static const int statuses[] = { 500, 503, 529 };
  (void)state;
  pool("a b c d");
  begin(r);
  for (int i = 0; i < 3; i++) says_status_wait(r, statuses[i], "100");
  for (int try = 0; try < 3; try++) {
    head(r, 200);
    error_event(r, "api_error");
    pass(r, 1);
  }
  assert_int_equal(r->finished, 1);
  assert_false(state_of("a").benched || state_of("b").benched || state_of("c").benched || state_of("d").benched);
}

static void different_ways(void **state) {
  (void)state;
  pool("a b");
  begin(r);
  ends(r, OUTCOME_HEADERS_TIMEOUT);
  ends(r, OUTCOME_IDLE_TIMEOUT);
  assert_true(state_of("a").benched && state_of("b").benched);
  reset("a b");
  begin(r);
  says_status(r, 401);
  says_status(r, 403);
  assert_true(state_of("up-a").benched && state_of("b").benched);
  reset("a");
  begin(r);
  ends(r, OUTCOME_HEADERS_TIMEOUT);
  assert_true(state_of("a").benched); /* a pool of one */
}

static void pardon_only_what_it_alone_set(void **state) {
  (void)state;
  pool("a b");
  begin(r), begin(&runs[1]);
  ends(r, OUTCOME_HEADERS_TIMEOUT);
  ends(&runs[1], OUTCOME_HEADERS_TIMEOUT); /* a second witness against a, in the same instant */
  ends(r, OUTCOME_HEADERS_TIMEOUT);
  assert_true(state_of("a").benched);
  assert_false(state_of("b").benched);
}

static void address_wide_429(void **state) {
  (void)state;
  pool("a b c");
  begin(r);
  for (int i = 0; i < 3; i++) says_status_wait(r, 429, "30");
  assert_false(state_of("a").benched || state_of("b").benched || state_of("c").benched);
  assert_orders(r, "start a, start b, start c, fail 429 +30"); /* its own retry-after */
}

static void straight_500s_bench(void **state) {
  (void)state;
  pool("a");
  begin(r);
  for (int i = 0; i < 25; i++) {
    if (r->finished) begin_again(r);
    says_status(r, 500);
    pass(r, 0.01);
  }
  assert_true(state_of("a").benched);
  assert_int_equal(state_of("a").fails, 25);
}

static void second_failure_extends(void **state) {
  (void)state;
  pool("a");
  begin(r);
  ends(r, OUTCOME_HEADERS_TIMEOUT);
  w.now += 200;
  begin_again(r);
  ends(r, OUTCOME_HEADERS_TIMEOUT);
  assert_near(benched_for("a"), 300);
  w.now += 100;
  begin_again(r);
  says_status_wait(r, 429, "20"); /* a shorter one does not shorten it */
  assert_near(benched_for("a"), 200);
}

static void failed_fallback_is_benched(void **state) {
  (void)state;
  pool("a b");
  bench_for("a", 1000);
  begin(r);
  ends(r, OUTCOME_HEADERS_TIMEOUT);
  assert_near(benched_for("b"), 300);
}

static void bench_is_shared(void **state) {
  (void)state;
  pool("a b");
  begin(r);
  ends(r, OUTCOME_HEADERS_TIMEOUT);
  begin(&runs[1]); /* another chain, another worker */
  assert_orders(&runs[1], "start b");
  w.now += 300;
  begin(&runs[2]);
  assert_orders(&runs[2], "start a");
}

/* ---- passthrough ---- */

static void passthrough(void **state) {
  static const int passed[] = { 200, 400, 401, 403, 404, 500, 502, 503 };
  (void)state;
  for (size_t i = 0; i < sizeof passed / sizeof *passed; i++) {
    reset("a b");
    w.list[0].passthrough = true;
    begin(r);
    head(r, passed[i]);
    assert_orders(r, "start a, commit a");
    ends(r, OUTCOME_OK);
    assert_orders(r, "end a");
    assert_false(state_of("a").benched);
  }
}

static void passthrough_moves_on(void **state) {
  (void)state;
  for (int i = 0; i < 3; i++) {
    reset("a b");
    w.list[0].passthrough = true;
    r->limit = 4;
    begin(r);
    for (int try = 0; try < 3; try++) {
      if (i == 2) ends(r, OUTCOME_CONNECT);
      else says_status(r, i ? 529 : 429);
      pass(r, 1);
    }
    assert_orders(r, "start a, start a, start a, start b");
  }
}

/* ---- section 7: what an exhausted request is told ---- */

static void exhausted_statuses(void **state) {
  static const struct {
    int words[3]; /* a status; 0: a timeout; -1: a reset */
    int status;
  } cases[] = {
    { { 0, 0, 0 }, 504 },       { { 429, 429, 429 }, 429 }, { { 529, 529, 529 }, 529 }, { { 429, 529, 429 }, 429 },
    { { 529, 429, 529 }, 429 }, { { 504, 0, 504 }, 504 },   { { 429, 0, 429 }, 502 },   { { 500, 500, 500 }, 502 },
    { { 429, 429, 500 }, 502 }, { { -1, -1, -1 }, 502 },    { { 0, -1, 0 }, 502 },
  };
  (void)state;
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    reset("a b c");
    always_says(r, VERDICT_NEXT);
    begin(r);
    for (int k = 0; k < 3; k++) {
      if (cases[i].words[k] > 0) says_status(r, cases[i].words[k]);
      else ends(r, cases[i].words[k] ? OUTCOME_RESET : OUTCOME_HEADERS_TIMEOUT);
    }
    assert_int_equal(r->last.error.status, cases[i].status);
  }
}

static void retry_after_of_exhausted(void **state) {
  static const struct {
    double benched, random;
    unsigned seconds;
  } cases[] = { { 8, 0, 8 }, { 8, 0.999, 10 }, { 0.01, 0, 1 }, { 50, 0.999, 60 }, { 5000, 0, 60 }, { 3.2, 0, 4 } };
  (void)state;
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    reset("a b");
    bench_for("a", cases[i].benched);
    bench_for("b", 6000);
    gives_up(r, NULL);
    r->random = cases[i].random;
    begin(r);
    assert_int_equal(r->last.retry_after, cases[i].seconds);
  }
}

static void trying_again_cannot_help(void **state) {
  (void)state;
  pool("a b");
  begin(r);
  says_status(r, 401);
  says_status(r, 401);
  assert_true(r->last.no_retry);
  reset("a b");
  bench_by_hand("a", SECONDS_NEVER);
  bench_set_drained(key_of("up-b"), true);
  begin(r);
  ends(r, OUTCOME_HEADERS_TIMEOUT);
  assert_true(r->last.no_retry);
  reset("a b");
  begin(r);
  says_status(r, 401);
  ends(r, OUTCOME_HEADERS_TIMEOUT);
  assert_false(r->last.no_retry);
}

static void all_drained(void **state) {
  (void)state;
  pool("a b");
  bench_set_drained(key_of("up-a"), true);
  bench_set_drained(key_of("up-b"), true);
  begin(r);
  assert_int_equal(r->last.error.status, 503);
  assert_string_equal(r->last.error.code, "overloaded");
  assert_true(r->last.no_retry);
}

static const struct CMUnitTest tests[] = {
  TEST("5.2 C2 W3 three tries per candidate, 502", three_tries_each),
  TEST("5.2 C2 full jitter in [0, 0.2 * 2^(try-1)], no wait when the candidate changes", full_jitter),
  TEST("C2 backoff is bounded and never negative, at any try", backoff_never_overflows),
  TEST("5.2 a timeout: next, benched 300 s", timeouts_move_on),
  TEST("5.2 W6 W8 every other transport outcome is tried three times, then benched", transports_are_tried_again),
  TEST("5.2 F1 stream_error is transient", stream_error_is_transient),
  TEST("5.2 the try that meets limits.attempts is its candidate's last: benched", limit_makes_the_last_try),
  TEST("5.2 retry_after with another one left: benched for it and next", retry_after_with_somebody_fresh),
  TEST("5.2 retry_after with none left is waited for, up to 10 s", retry_after_with_nobody),
  TEST("5.2 retry_after over 10 s with none left is not waited for", retry_after_too_long),
  TEST("4.1 retry_after past the deadline: exhausted at once", retry_after_past_the_deadline),
  TEST("5.2 retry_after of 0 is tried again at once", retry_after_nothing),
  TEST("5.2 C3 W5 statuses: transient x3 and benched, the others accepted and never benched", kinds_of_status),
  TEST("5.2 C3 auth_dead and missing models: next at once, the right key benched", dead_credentials),
  TEST("A6 context length never moves, never benches, whatever its status", context_length_never_moves),
  TEST("C1 the second is called while the first is benched", second_while_first_is_benched),
  TEST("5.6 C5 all benched: soonest back first, manual last", all_benched),
  TEST("5.6 C5 all benched: still served", all_benched_is_served),
  TEST("5.6 untried benched ones follow the others", untried_benched_follow),
  TEST("5.6 left by next is not brought back", left_is_not_brought_back),
  TEST("9 drained: no attempt whatever rule 5.6 says", drained_is_never_tried),
  TEST("5.2 one poisoned request does not bench everybody, once per 30 s", poisoned_request),
  TEST("4 C8 5.2 pardon: one unbenched event for each key it lifts", pardon_names_the_lifted),
  TEST("5.2 pardon: any 5xx and stream_error are the same way", same_way),
  TEST("5.2 no pardon: different ways, or a pool of one", different_ways),
  TEST("5.2 pardon: not what another request set too", pardon_only_what_it_alone_set),
  TEST("5.2 7 address-wide 429: nobody stays benched, the client is told its retry-after", address_wide_429),
  TEST("litellm#34836 25 straight 500s bench", straight_500s_bench),
  TEST("litellm#40130 a second failure extends, never shortens", second_failure_extends),
  TEST("litellm#34416 a failed fallback is benched", failed_fallback_is_benched),
  TEST("C4 one bench for all chains, 300 s", bench_is_shared),
  TEST("5.2 passthrough: its answers commit at their head", passthrough),
  TEST("5.2 passthrough: 429, 529 and transport fail over", passthrough_moves_on),
  TEST("7 P6 exhausted: 504, 429, 529 when all said so, else 502", exhausted_statuses),
  TEST("7 exhausted: retry-after 1 to 60, soonest back and a quarter", retry_after_of_exhausted),
  TEST("7 exhausted: x-should-retry false where it cannot help", trying_again_cannot_help),
  TEST("3 9 all drained: 503 overloaded", all_drained),
};

int main(void) {
  return cmocka_run_group_tests(tests, NULL, NULL);
}
