/*
 * core/failover under odd advice (contract section 4.1): whatever an advisor says, the engine keeps its rules; what is no advice is answered by
 * the built-in. Transcripts are explained in failover_rig.h.
 */
#include "failover_rig.h"

/* ---- select ---- */

static void pick_outside_pool(void **state) {
  (void)state;
  pool("a b");
  picks(r, 7);
  begin(r);
  assert_orders(r, "start a");
}

static void pick_of_drained(void **state) {
  (void)state;
  pool("a b");
  bench_set_drained(key_of("up-b"), true);
  picks(r, 1);
  begin(r);
  assert_orders(r, "start a");
}

static void pick_of_manual(void **state) {
  (void)state;
  pool("a b c");
  bench_by_hand("b", 100);
  picks(r, 1);
  says(r, VERDICT_NEXT);
  picks(r, 1);
  says(r, VERDICT_NEXT);
  picks(r, 1);
  begin(r);
  ends(r, OUTCOME_RESET);
  ends(r, OUTCOME_RESET);
  assert_orders(r, "start a, start c, start b"); /* b only when the others have been tried */
}

static void pick_of_benched(void **state) {
  (void)state;
  pool("a b");
  bench_for("b", 100);
  picks(r, 1);
  begin(r);
  assert_orders(r, "start b"); /* an automatic bench is the policy's own business */
}

static void insists_on_full(void **state) {
  (void)state;
  pool("a b");
  w.list[0].max_inflight = 1;
  begin(&runs[1]);
  for (int i = 0; i < 20; i++) picks(r, 0);
  begin(r);
  assert_orders(r, "start b"); /* b is idle: not a reason for an error */
}

static void gives_up_at_once(void **state) {
  (void)state;
  pool("a b");
  gives_up(r, NULL);
  begin(r);
  assert_orders(r, "fail 502 +1");
  assert_events(r, "finished none 502");
}

static void gives_up_with_reason(void **state) {
  (void)state;
  pool("a b");
  gives_up(r, "team-a has used up its budget at acme");
  begin(r);
  assert_int_equal(r->last.error.status, 502);
  if (memmem(r->last.error.message.p, r->last.error.message.n, "acme", 4)) fail_msg("the client reads a reason that is for explain");
}

static void benched_meanwhile_asked_again(void **state) {
  (void)state;
  pool("a b c");
  picks(r, 0);
  picks(r, 1);
  waits(r, 5);
  says(r, VERDICT_NEXT);
  begin(r);
  ends(r, OUTCOME_RESET);
  bench_for("b", 60);
  picks(r, 2);
  pass(r, 5);
  assert_orders(r, "start a, start c");
  assert_int_equal(r->script.asked_select, 3);
  assert_int_equal(r->script.asked_backoff, 1);
}

static void next_then_same(void **state) {
  (void)state;
  pool("a b");
  says(r, VERDICT_NEXT)->delay = 0;
  picks(r, 0);
  picks(r, 0);
  begin(r);
  ends(r, OUTCOME_RESET);
  assert_orders(r, "start a, start a");
  assert_int_equal(attempt_of(r, 2)->try, 2);
}

/* ---- classify ---- */

static void retry_does_not_ask_select(void **state) {
  (void)state;
  pool("a b");
  says(r, VERDICT_RETRY)->delay = 1;
  says(r, VERDICT_RETRY)->delay = 1;
  says(r, VERDICT_NEXT);
  begin(r);
  for (int i = 0; i < 3; i++) ends(r, OUTCOME_RESET), pass(r, 1);
  assert_orders(r, "start a, start a, start a, start b");
  assert_int_equal(r->script.asked_select, 2);
  assert_int_equal(r->script.asked_classify, 3);
  assert_int_equal(r->script.asked_backoff, 1); /* before b: a delay replaces the others */
}

static void accept_of_nothing_is_stop(void **state) {
  static const enum outcome nothing[] = { OUTCOME_CONNECT, OUTCOME_RESET, OUTCOME_TRUNCATED, OUTCOME_EMPTY, OUTCOME_WRONG_TYPE,
                                          OUTCOME_TOO_LARGE, OUTCOME_TLS, OUTCOME_DNS };
  (void)state;
  for (size_t i = 0; i < sizeof nothing / sizeof *nothing; i++) {
    world_close(NULL), world_open(NULL);
    pool("a b");
    says(r, VERDICT_ACCEPT);
    begin(r);
    ends(r, nothing[i]);
    assert_orders(r, "start a, fail 502 +1");
  }
}

static void accept_of_timeout_is_stop(void **state) {
  (void)state;
  pool("a b");
  says(r, VERDICT_ACCEPT);
  begin(r);
  head(r, 200);
  pass(r, 120);
  assert_orders(r, "start a, cancel a, fail 504 +1");
}

static void accept_of_stream_error(void **state) {
  static const struct {
    const char *type;
    int status;
  } cases[] = { { "rate_limit_error", 429 }, { "overloaded_error", 529 }, { "authentication_error", 401 }, { "permission_error", 403 },
                { "not_found_error", 404 }, { "invalid_request_error", 400 }, { "api_error", 502 }, { "whatever", 502 } };
  (void)state;
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    world_close(NULL), world_open(NULL);
    pool("a b");
    says(r, VERDICT_ACCEPT);
    begin(r);
    head(r, 200);
    error_event(r, cases[i].type);
    assert_int_equal(r->last.kind, ORDER_FAIL);
    assert_int_equal(r->last.error.status, cases[i].status);
    assert_true(span_is(r->last.error.message, "words"));
    assert_null(r->open);
  }
}

static void stop_with_words(void **state) {
  (void)state;
  pool("a b");
  struct judgement *j = says(r, VERDICT_STOP);
  j->status = 451;
  j->message = "not here";
  j->bench = 60;
  begin(r);
  head(r, 500);
  error_body(r, "{}", false, false);
  assert_int_equal(r->last.error.status, 451);
  assert_true(span_is(r->last.error.message, "not here"));
  assert_events(r, "failed a 500 stop, benched a 60, finished status 451");
}

static void stop_without_words(void **state) {
  (void)state;
  pool("a b");
  says(r, VERDICT_STOP);
  begin(r);
  says_status(r, 429);
  assert_orders(r, "start a, fail 429 +1");
}

static void bench_of_unknown_key(void **state) {
  (void)state;
  pool("a b");
  struct judgement *j = says(r, VERDICT_NEXT);
  j->bench = 60;
  j->key = "no such key";
  begin(r);
  ends(r, OUTCOME_RESET);
  assert_near(benched_for("a"), 60);
}

static void bench_of_odd_length(void **state) {
  static const double odd[] = { NAN, 0, -5, -INFINITY };
  (void)state;
  pool("a b");
  for (size_t i = 0; i < 4; i++) {
    memset(r, 0, sizeof *r);
    says(r, VERDICT_NEXT)->bench = odd[i];
    begin(r);
    ends(r, OUTCOME_RESET);
    assert_false(state_of("a").benched);
    assert_events(r, "failed a reset next, over a>b");
    arena_free(&r->arena);
  }
}

static void bench_for_ever(void **state) {
  (void)state;
  pool("a b");
  says(r, VERDICT_NEXT)->bench = SECONDS_NEVER;
  begin(r);
  ends(r, OUTCOME_RESET);
  w.now += 1e9;
  assert_true(isinf(state_of("a").until));
}

/* ---- waits ---- */

static void delay_that_is_no_number(void **state) {
  (void)state;
  pool("a");
  r->random = 0.5;
  says(r, VERDICT_RETRY)->delay = NAN;
  begin(r);
  ends(r, OUTCOME_RESET);
  pass(r, 0.1); /* the built-in's: half of 0.2 s */
  assert_orders(r, "start a, start a");
}

static void backoff_that_is_no_number(void **state) {
  (void)state;
  pool("a");
  r->random = 0.5;
  says(r, VERDICT_RETRY);
  waits(r, NAN);
  begin(r);
  ends(r, OUTCOME_RESET);
  pass(r, 0.1);
  assert_orders(r, "start a, start a");
}

static void wait_of_ages(void **state) {
  static const double ages[] = { 900, 1e300, INFINITY };
  (void)state;
  for (size_t i = 0; i < 3; i++) {
    world_close(NULL), world_open(NULL);
    pool("a b");
    says(r, VERDICT_RETRY)->delay = ages[i];
    begin(r);
    ends(r, OUTCOME_RESET);
    assert_orders(r, "start a, fail 502 +1"); /* at once */
  }
}

static void wait_before_next(void **state) {
  (void)state;
  pool("a b");
  says(r, VERDICT_NEXT);
  waits(r, 2);
  begin(r);
  ends(r, OUTCOME_RESET);
  assert_int_equal(inflight("up-a") + inflight("up-b"), 0);
  pass(r, 1.99);
  assert_orders(r, "start a");
  pass(r, 0.01);
  assert_orders(r, "start b");
}

/* P3: one retry without a wait. W3, W4: three candidates, two tries each, 0.2 0.4 0.8 1.6 3.2 between them. */
static void weighted_as_scripted(void **state) {
  static const double between[] = { 0.2, 0.4, 0.8, 1.6, 3.2 };
  (void)state;
  pool("a b c d");
  for (int i = 0; i < 6; i++) says(r, i % 2 ? VERDICT_NEXT : VERDICT_RETRY);
  for (unsigned i = 0; i < 3; i++) picks(r, i);
  gives_up(r, NULL);
  for (int i = 0; i < 5; i++) waits(r, between[i]);
  begin(r);
  for (int i = 0; i < 5; i++) says_status(r, 503), pass(r, between[i]);
  says_status(r, 503);
  assert_orders(r, "start a, start a, start b, start b, start c, start c, fail 502 +1");
  assert_near(w.now, T0 + 6.2);
}

/* ---- gate ---- */

static void gate_holds_and_fails(void **state) {
  (void)state;
  pool("a b");
  gates(r, EVENT_HOLD);
  gates(r, EVENT_FAIL);
  says(r, VERDICT_NEXT);
  begin(r);
  head(r, 200);
  event(r, EVENT_COMMIT);
  event(r, EVENT_COMMIT);
  assert_orders(r, "start a, cancel a, start b");
  assert_int_equal(attempt_of(r, 1)->outcome, OUTCOME_STREAM_ERROR);
}

static void gate_commits_preamble(void **state) {
  (void)state;
  pool("a b");
  gates(r, EVENT_COMMIT);
  begin(r);
  head(r, 200);
  event(r, EVENT_HOLD);
  assert_orders(r, "start a, commit a");
}

static void gate_commits_an_error(void **state) {
  (void)state;
  pool("a b");
  gates(r, EVENT_COMMIT);
  says(r, VERDICT_NEXT);
  begin(r);
  head(r, 200);
  error_event(r, "overloaded_error");
  assert_orders(r, "start a, cancel a, start b");
}

static void gate_holds_an_error(void **state) {
  (void)state;
  pool("a b");
  gates(r, EVENT_HOLD);
  says(r, VERDICT_NEXT);
  begin(r);
  head(r, 200);
  error_event(r, "overloaded_error");
  assert_orders(r, "start a, cancel a, start b");
}

static void gate_rejects(void **state) {
  (void)state;
  pool("a b");
  gates(r, EVENT_HOLD);
  r->script.reject_gate = true;
  begin(r);
  head(r, 200);
  event(r, EVENT_HOLD);
  event(r, EVENT_COMMIT);
  assert_int_equal(r->last.kind, ORDER_FAIL);
  assert_int_equal(r->last.error.status, 503);
}

/* ---- classify_ok ---- */

static void good_answer_refused(void **state) {
  (void)state;
  pool("a b");
  says(r, VERDICT_NEXT)->bench = 60;
  says(r, VERDICT_ACCEPT);
  r->script.ops.classify_ok = true;
  begin(r);
  answers_well(r);
  answers_well(r);
  assert_orders(r, "start a, start b, commit b, end b");
  assert_events(r, "failed a ok next, benched a 60, over a>b, committed b, finished ok 200");
}

static void good_answer_benched(void **state) {
  (void)state;
  pool("a b");
  says(r, VERDICT_ACCEPT)->bench = 60; /* good, but so slow that others shall be asked for a while */
  r->script.ops.classify_ok = true;
  begin(r);
  answers_well(r);
  assert_orders(r, "start a, commit a, end a");
  assert_near(benched_for("a"), 60);
}

/* ---- exhausted ---- */

static void exhausted_last(void **state) {
  (void)state;
  pool("a b");
  always_says(r, VERDICT_NEXT);
  answers_exhausted(r, (struct answer){ .kind = ANSWER_LAST });
  begin(r);
  says_status(r, 500);
  says_status(r, 503);
  assert_orders(r, "start a, start b, last b");
  assert_int_equal(r->finished, 1);
}

static void exhausted_last_is_the_record(void **state) {
  (void)state;
  pool("a b");
  always_says(r, VERDICT_NEXT);
  answers_exhausted(r, (struct answer){ .kind = ANSWER_LAST });
  begin(r);
  says_status(r, 500);
  ends(r, OUTCOME_CONNECT);
  assert_orders(r, "start a, start b, last a");
  assert_events(r, "failed a 500 next, over a>b, failed b connect next, finished status 500");
}

static void exhausted_last_of_none(void **state) {
  (void)state;
  pool("a");
  always_says(r, VERDICT_NEXT);
  answers_exhausted(r, (struct answer){ .kind = ANSWER_LAST });
  begin(r);
  ends(r, OUTCOME_CONNECT);
  assert_orders(r, "start a, fail 502 +1");
}

static void exhausted_custom(void **state) {
  (void)state;
  pool("a");
  always_says(r, VERDICT_NEXT);
  answers_exhausted(r, (struct answer){ .kind = ANSWER_CUSTOM, .status = 503, .type = "t", .code = "c", .message = "m" });
  begin(r);
  ends(r, OUTCOME_CONNECT);
  assert_int_equal(r->last.error.status, 503);
  assert_string_equal(r->last.error.type, "t");
  assert_string_equal(r->last.error.code, "c");
  assert_true(span_is(r->last.error.message, "m"));
}

static void exhausted_no_opinion(void **state) {
  (void)state;
  pool("a b");
  for (int i = 0; i < 2; i++) says(r, VERDICT_NEXT)->bench = 60;
  answers_exhausted(r, (struct answer){ 0 });
  begin(r);
  says_status(r, 500);
  says_status(r, 500);
  assert_false(state_of("a").benched); /* the built-in: the request is the suspect */
}

/* ---- on_error = "reject" ---- */

static void reject_in_classify(void **state) {
  (void)state;
  pool("a b");
  script(r)->reject_classify = 1;
  begin(r);
  pass(r, 300);
  assert_orders(r, "start a, cancel a, fail 503 +1");
  assert_events(r, "failed a headers_timeout none, finished headers_timeout 503");
}

static void reject_after_the_end(void **state) {
  (void)state;
  pool("a b");
  script(r)->reject_classify = 1;
  begin(r);
  ends(r, OUTCOME_RESET); /* the driver fails on a cancel of what is over */
  assert_orders(r, "start a, fail 503 +1");
}

static void reject_in_select(void **state) {
  (void)state;
  pool("a b");
  says(r, VERDICT_NEXT);
  script(r)->reject_select = 2;
  begin(r);
  ends(r, OUTCOME_RESET);
  assert_orders(r, "start a, fail 503 +1");
  assert_events(r, "failed a reset next, finished reset 503"); /* the record's outcome is the last attempt's */
}

static void reject_after_commit(void **state) {
  (void)state;
  pool("a b");
  script(r)->reject_classify = 1;
  begin(r);
  head(r, 200);
  event(r, EVENT_COMMIT);
  ends(r, OUTCOME_RESET);
  assert_orders(r, "start a, commit a, break a");
}

static const struct CMUnitTest tests[] = {
  TEST("4.1 select: outside the pool is answered by the built-in", pick_outside_pool),
  TEST("4.1 9 select: drained is answered by the built-in", pick_of_drained),
  TEST("4.1 select: under a manual bench only when no other untried one is left", pick_of_manual),
  TEST("4.1 select: an automatic bench does not bind the policy", pick_of_benched),
  TEST("3 select: insisting on a full candidate does not fail the request", insists_on_full),
  TEST("4.1 select: false is exhausted at once", gives_up_at_once),
  TEST("7 C10 select: the reason of false is for explain, the client gets a general message", gives_up_with_reason),
  TEST("4.1 select: a pick benched meanwhile is asked for again, without another wait", benched_meanwhile_asked_again),
  TEST("4.1 select: the same candidate after next is its second try", next_then_same),
  TEST("4.1 retry does not ask select; delay replaces backoff", retry_does_not_ask_select),
  TEST("4.1 accept of a transport outcome is stop", accept_of_nothing_is_stop),
  TEST("4.1 accept of a timeout is stop", accept_of_timeout_is_stop),
  TEST("4.1 accept of stream_error is a real status by its type", accept_of_stream_error),
  TEST("4.1 stop with status, message and bench", stop_with_words),
  TEST("4.1 stop without words is as exhausted", stop_without_words),
  TEST("4.1 bench of an unknown key benches the candidate", bench_of_unknown_key),
  TEST("4.1 bench for NaN, 0 or less benches nobody", bench_of_odd_length),
  TEST("5.1 bench for math.huge holds until lifted", bench_for_ever),
  TEST("4.1 delay NaN is no opinion", delay_that_is_no_number),
  TEST("4.1 backoff NaN is no opinion", backoff_that_is_no_number),
  TEST("4.1 a wait that would reach the deadline: exhausted at once", wait_of_ages),
  TEST("4.1 backoff before another candidate is waited for, holding no slot", wait_before_next),
  TEST("W3 W4 P3 three candidates, two tries each, scripted waits, none after the last", weighted_as_scripted),
  TEST("4 gate may hold and fail what would commit", gate_holds_and_fails),
  TEST("4 gate may commit what would be held", gate_commits_preamble),
  TEST("4 gate may not commit an error event", gate_commits_an_error),
  TEST("4 gate may not hold an error event", gate_holds_an_error),
  TEST("4.3 gate under on_error = reject: 503 before the commit", gate_rejects),
  TEST("4 classify_ok: a good answer refused moves on", good_answer_refused),
  TEST("4 classify_ok: a good answer accepted with a bench is benched", good_answer_benched),
  TEST("P6 F2 exhausted last: the last status answer", exhausted_last),
  TEST("9 P10 exhausted last: the record's outcome is that of the attempt the client got", exhausted_last_is_the_record),
  TEST("4.1 exhausted last without a status answer is the table", exhausted_last_of_none),
  TEST("4 exhausted: own words", exhausted_custom),
  TEST("5.2 exhausted: no opinion is the built-in's, pardon too", exhausted_no_opinion),
  TEST("4.3 F4 reject in classify: 503, the failure is told all the same", reject_in_classify),
  TEST("4.3 reject in classify after the transfer's end cancels nothing", reject_after_the_end),
  TEST("9 reject in select: the record's outcome is the last attempt's", reject_in_select),
  TEST("5.1 reject after the commit changes nothing", reject_after_commit),
};

int main(void) {
  return cmocka_run_group_tests(tests, NULL, NULL);
}
