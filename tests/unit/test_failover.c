/*
 * core/failover: what no policy can break (contract sections 4.1, 5 and the timeouts of section 3). Transcripts are explained in
 * failover_rig.h; what the built-in policy decides is in test_builtin.c, what several requests do to each other in test_crowd.c.
 */
#include "failover_rig.h"

/* ---- 5.1, 5.2: when it ends ---- */

static void after_commit_no_second(void **state) {
  (void)state;
  pool("a b");
  begin(r);
  head(r, 200);
  event(r, EVENT_COMMIT);
  ends(r, OUTCOME_RESET);
  assert_orders(r, "start a, commit a, break a");
  assert_events(r, "committed a, failed a reset none, finished reset 200");
}

static void after_commit_idle(void **state) {
  (void)state;
  pool("a b");
  begin(r);
  head(r, 200);
  event(r, EVENT_COMMIT);
  pass(r, 119);
  failover_progress(r->f, w.now);
  pass(r, 119);
  assert_orders(r, "start a, commit a");
  pass(r, 1);
  assert_orders(r, "cancel a, break a");
  assert_int_equal(attempt_of(r, 1)->outcome, OUTCOME_IDLE_TIMEOUT);
}

static void after_commit_only_bench_counts(void **state) {
  (void)state;
  pool("a b");
  says(r, VERDICT_RETRY)->bench = 60;
  begin(r);
  head(r, 200);
  event(r, EVENT_COMMIT);
  ends(r, OUTCOME_TRUNCATED);
  assert_orders(r, "start a, commit a, break a");
  assert_near(benched_for("a"), 60);
}

static void terminal_settles(void **state) {
  (void)state;
  pool("a b");
  begin(r);
  head(r, 200);
  event(r, EVENT_COMMIT);
  event(r, EVENT_END);
  leaves(r);
  r->gone = false;
  ends(r, OUTCOME_RESET);
  assert_orders(r, "start a, commit a, end a");
  assert_events(r, "committed a, finished ok 200");
}

static void terminal_lingers_a_second(void **state) {
  (void)state;
  pool("a");
  begin(r);
  head(r, 200);
  event(r, EVENT_COMMIT);
  event(r, EVENT_END);
  pass(r, 0.9);
  assert_orders(r, "start a, commit a");
  pass(r, 0.1);
  assert_orders(r, "cancel a, end a");
}

static void no_attempt_at_deadline(void **state) {
  (void)state;
  pool("a b");
  r->request.deadline = w.now;
  begin(r);
  assert_orders(r, "fail 504");
}

static void no_attempt_after_late_failure(void **state) {
  (void)state;
  pool("a b");
  begin(r);
  w.now += 901; /* the loop was late: the transfer's end is read before the timer */
  ends(r, OUTCOME_RESET);
  assert_int_equal(r->starts, 1);
  assert_int_equal(r->last.error.status, 504);
}

static void no_retry_after_late_failure(void **state) {
  (void)state;
  pool("a b");
  waits(r, 0);
  says(r, VERDICT_RETRY);
  begin(r);
  w.now += 900;
  ends(r, OUTCOME_RESET);
  assert_int_equal(r->starts, 1);
}

static void deadline_in_every_phase(void **state) {
  (void)state;
  for (int phase = 0; phase < 3; phase++) {
    world_close(NULL), world_open(NULL);
    pool("a b");
    r->request.deadline = w.now + 1.5;
    begin(r);
    if (phase == 1) head(r, 200);
    if (phase == 2) head(r, 500);
    pass(r, 100);
    assert_orders(r, "start a, cancel a, fail 504");
    assert_events(r, "finished deadline 504");
    assert_false(state_of("a").benched);
    assert_int_equal(state_of("a").fails, 0);
    assert_int_equal(inflight("up-a"), 0);
  }
}

static void deadline_not_after_commit(void **state) {
  (void)state;
  pool("a b");
  r->request.deadline = w.now + 10;
  begin(r);
  head(r, 200);
  event(r, EVENT_COMMIT);
  pass(r, 60);
  assert_orders(r, "start a, commit a");
}

static void client_gone_in_every_phase(void **state) {
  (void)state;
  for (int phase = 0; phase < 5; phase++) {
    world_close(NULL), world_open(NULL);
    pool("a b");
    says(r, phase == 4 ? VERDICT_ACCEPT : VERDICT_RETRY);
    waits(r, 5);
    begin(r);
    if (phase == 1) head(r, 200);
    if (phase == 2) head(r, 500);
    if (phase == 3) ends(r, OUTCOME_RESET);
    if (phase == 4) head(r, 400), error_body(r, "{}", false, false);
    leaves(r);
    assert_true(failover_settled(r->f));
    assert_null(r->open);
    pass(r, 1000); /* the driver fails on any further start */
    assert_int_equal(r->starts, 1);
    assert_int_equal(r->finished, 1);
    assert_int_equal(inflight("up-a"), 0);
    assert_false(state_of("a").benched);
  }
}

static void client_gone_counts_against_nobody(void **state) {
  struct bench_tally tally;
  (void)state;
  pool("a b");
  begin(r);
  head(r, 200);
  event(r, EVENT_COMMIT);
  leaves(r);
  assert_orders(r, "start a, commit a, cancel a");
  assert_events(r, "committed a, finished client_gone 200");
  bench_tally(key_of("a"), &tally);
  assert_near(tally.error_rate, 0);
  assert_int_equal(state_of("a").fails, 0);
}

static void late_facts_change_nothing(void **state) {
  (void)state;
  pool("a b");
  begin(r);
  leaves(r);
  forget(r);
  head(r, 200);
  event(r, EVENT_COMMIT);
  failover_full(r->f, w.now);
  failover_error_body(r->f, SPAN("x"), true, true, w.now);
  failover_ended(r->f, OUTCOME_OK, NULL, NULL, w.now);
  failover_client_gone(r->f, w.now);
  failover_timer_due(r->f, SPAN_NONE, w.now + 1e6);
  take_orders(r);
  assert_all(r, "");
  assert_near(failover_timer(r->f), SECONDS_NEVER);
}

static void endless_retry_is_limited(void **state) {
  (void)state;
  pool("a b");
  always_says(r, VERDICT_RETRY);
  begin(r);
  for (int i = 0; i < 100 && !r->finished; i++) ends(r, OUTCOME_RESET), pass(r, 20);
  assert_int_equal(r->starts, 16);
  assert_int_equal(r->finished, 1);
}

static void loop_of_picks_is_limited(void **state) {
  (void)state;
  pool("a b");
  always_says(r, VERDICT_NEXT);
  for (unsigned i = 0; i < 75; i++) picks(r, i % 2);
  begin(r);
  for (int i = 0; i < 100 && !r->finished; i++) ends(r, OUTCOME_RESET);
  assert_int_equal(r->starts, 16);
}

/* ---- 5.4, 5.5: one attempt and the next ---- */

static void released_before_next(void **state) {
  (void)state;
  pool("a.1 a.2");
  w.list[0].max_inflight = w.list[1].max_inflight = 1; /* the second could not start beside the first */
  begin(r);
  pass(r, 300);
  assert_orders(r, "start a.1, cancel a.1, start a.2");
  assert_int_equal(inflight("up-a"), 1);
}

static void observe_after_action(void **state) {
  (void)state;
  pool("a b");
  says(r, VERDICT_NEXT)->bench = 5;
  begin(r);
  ends(r, OUTCOME_DNS);
  answers_well(r);
  assert_all(r, "start a, failed a dns next, benched a 5, start b, over a>b, commit b, committed b, end b, finished ok 200");
}

static void nothing_leaks(void **state) {
  struct event_facts facts = { .class = EVENT_HOLD, .response_id = SPAN("id"), .finish_reason = SPAN("stop"), .sequence = -1,
                               .usage = { true, 1, 2, 3 } };
  (void)state;
  pool("a b");
  says(r, VERDICT_NEXT);
  begin(r);
  head(r, 200);
  event_of(r, &facts);
  failover_paused(r->f, true, w.now);
  pass(r, 10);
  error_event(r, "overloaded_error");
  const struct attempt *a = attempt_of(r, 2);
  assert_int_equal(a->status + (int)a->response_id.n + (int)a->finish_reason.n + (int)a->error.type.n + a->usage.known, 0);
  assert_near(a->first_event_at, 0);
  head(r, 200);
  pass(r, 119);
  assert_orders(r, "start a, cancel a, start b"); /* neither held since a's first event, nor paused */
  pass(r, 1);
  assert_int_equal(a->outcome, OUTCOME_IDLE_TIMEOUT);
}

/* ---- 5.8: answers that are not 2xx ---- */

static void judged_two_seconds_after_head(void **state) {
  (void)state;
  pool("a b");
  says(r, VERDICT_NEXT);
  begin(r);
  pass(r, 3);
  head(r, 500);
  pass(r, 1.9);
  assert_orders(r, "start a");
  pass(r, 0.1);
  assert_orders(r, "cancel a, start b");
}

static void judged_at_its_end(void **state) {
  (void)state;
  pool("a b");
  says(r, VERDICT_NEXT);
  begin(r);
  says_status(r, 500);
  assert_orders(r, "start a, start b");
}

static void accepted_is_relayed(void **state) {
  (void)state;
  pool("a b");
  begin(r);
  head(r, 400);
  error_body(r, "{\"err", false, false);
  assert_orders(r, "start a, deliver a");
  pass(r, 100);
  failover_progress(r->f, w.now);
  pass(r, 100);
  ends(r, OUTCOME_OK);
  assert_orders(r, "end a");
  assert_events(r, "failed a 400 accept, finished status 400");
}

static void accepted_then_silent(void **state) {
  (void)state;
  pool("a b");
  begin(r);
  head(r, 400);
  error_body(r, "{\"err", false, false);
  pass(r, 120);
  assert_orders(r, "start a, deliver a, cancel a, break a quiet");
}

static void redirect_is_status(void **state) {
  (void)state;
  pool("a b");
  begin(r);
  says_status(r, 307);
  assert_orders(r, "start a, deliver a, end a");
  assert_events(r, "failed a 307 accept, finished status 307");
}

/* ---- section 3: timeouts ---- */

static void headers_timeout_moves_on(void **state) {
  (void)state;
  pool("a b");
  begin(r);
  pass(r, 299);
  assert_orders(r, "start a");
  pass(r, 1);
  assert_orders(r, "cancel a, start b");
}

static void pings_do_not_stop_first_event(void **state) {
  (void)state;
  pool("a b");
  w.list[0].timeouts = (struct timeouts){ 5, 300, 60, 30, SECONDS_NEVER };
  begin(r);
  pass(r, 10);
  head(r, 200);
  for (int i = 0; i < 5; i++) {
    pass(r, 10);
    event(r, EVENT_HOLD);
    failover_progress(r->f, w.now);
  }
  assert_orders(r, "start a");
  pass(r, 10);
  assert_orders(r, "cancel a, start b");
  assert_int_equal(attempt_of(r, 1)->outcome, OUTCOME_FIRST_EVENT_TIMEOUT);
}

static void idle_before_commit(void **state) {
  (void)state;
  pool("a b");
  begin(r);
  head(r, 200);
  pass(r, 119);
  failover_progress(r->f, w.now);
  pass(r, 119);
  assert_orders(r, "start a");
  pass(r, 1);
  assert_int_equal(attempt_of(r, 1)->outcome, OUTCOME_IDLE_TIMEOUT);
}

static void idle_stops_while_paused(void **state) {
  (void)state;
  pool("a");
  begin(r);
  head(r, 200);
  event(r, EVENT_COMMIT);
  failover_paused(r->f, true, w.now);
  failover_progress(r->f, w.now);
  pass(r, 10000);
  assert_orders(r, "start a, commit a");
  failover_paused(r->f, false, w.now);
  pass(r, 119);
  assert_orders(r, "");
  pass(r, 1);
  assert_orders(r, "cancel a, break a");
}

static void hold_commits(void **state) {
  (void)state;
  pool("a b");
  begin(r);
  head(r, 200);
  pass(r, 50);
  event(r, EVENT_HOLD);
  pass(r, 10);
  event(r, EVENT_HOLD);
  pass(r, 9.9);
  assert_orders(r, "start a");
  pass(r, 0.1);
  assert_orders(r, "commit a");
  error_event(r, "overloaded_error");
  ends(r, OUTCOME_OK);
  assert_int_equal(r->starts, 1);
}

static void full_hold_commits(void **state) {
  (void)state;
  pool("a b");
  begin(r);
  head(r, 200);
  event(r, EVENT_HOLD);
  failover_full(r->f, w.now);
  take_orders(r);
  assert_orders(r, "start a, commit a");
}

static void last_has_nothing_to_lose(void **state) {
  (void)state;
  pool("a b c");
  bench_for("c", 5000);
  always_says(r, VERDICT_NEXT);
  begin(r);
  assert_near(attempt_of(r, 1)->timeouts.headers, 300);
  pass(r, 300);
  assert_near(attempt_of(r, 2)->timeouts.headers, SECONDS_NEVER);
  pass(r, 500);
  head(r, 200);
  assert_near(attempt_of(r, 2)->timeouts.first_event, SECONDS_NEVER);
  event(r, EVENT_COMMIT);
  assert_orders(r, "start a, cancel a, start b, commit b");
}

static void last_try_has_nothing_to_lose(void **state) {
  (void)state;
  pool("a b");
  r->limit = 2;
  always_says(r, VERDICT_RETRY);
  waits(r, 0);
  begin(r);
  assert_near(attempt_of(r, 1)->timeouts.headers, 300);
  ends(r, OUTCOME_RESET);
  assert_near(attempt_of(r, 2)->timeouts.headers, SECONDS_NEVER);
  assert_near(attempt_of(r, 2)->timeouts.connect, 5);
  assert_near(attempt_of(r, 2)->timeouts.idle, 120);
}

static void last_is_seen_after_the_wait(void **state) {
  (void)state;
  pool("a b");
  says(r, VERDICT_RETRY)->delay = 10;
  begin(r);
  ends(r, OUTCOME_RESET);
  pass(r, 5);
  bench_for("b", 5000); /* by somebody else, while a's second try is waited for */
  pass(r, 5);
  assert_near(attempt_of(r, 2)->timeouts.headers, SECONDS_NEVER);
}

static void another_is_back_after_the_wait(void **state) {
  (void)state;
  pool("a b");
  bench_for("b", 5);
  says(r, VERDICT_RETRY)->delay = 10;
  begin(r);
  ends(r, OUTCOME_RESET);
  pass(r, 10);
  assert_near(attempt_of(r, 2)->timeouts.headers, 300);
}

static void pick_overrides_timeouts(void **state) {
  (void)state;
  pool("a b");
  picks(r, 0);
  r->script.picks[0].timeouts = (struct timeouts){ -1, 7, 8, NAN, 9 };
  begin(r);
  const struct timeouts *t = &attempt_of(r, 1)->timeouts;
  assert_near(t->connect, 5);
  assert_near(t->headers, 7);
  assert_near(t->first_event, 8);
  assert_near(t->idle, 120);
  assert_near(t->hold, 9);
}

static const struct CMUnitTest tests[] = {
  TEST("5.1 F3 W9 after the commit: one break, no second upstream, no failed_over", after_commit_no_second),
  TEST("P8 after the commit: silent for idle ends the stream, no retry", after_commit_idle),
  TEST("4.1 after the commit only the verdict's bench counts", after_commit_only_bench_counts),
  TEST("6 after the terminal event a reset or a leaving client changes nothing", terminal_settles),
  TEST("6 after the terminal event the upstream gets 1 s", terminal_lingers_a_second),
  TEST("5.2 a request that begins at its deadline makes no attempt", no_attempt_at_deadline),
  TEST("5.2 a failure learnt after the deadline: no next candidate, 504", no_attempt_after_late_failure),
  TEST("5.2 a failure learnt at the deadline: no retry", no_retry_after_late_failure),
  TEST("5.3 C9 the deadline, in every phase: 504, benches and counts against nobody", deadline_in_every_phase),
  TEST("3 what is committed is not bounded by the deadline", deadline_not_after_commit),
  TEST("5.2 W10 the client gone, in every phase: nothing follows", client_gone_in_every_phase),
  TEST("5.3 C9 the client gone counts against nobody", client_gone_counts_against_nobody),
  TEST("5.7 facts after the end change nothing", late_facts_change_nothing),
  TEST("5.2 endless retry ends at limits.attempts", endless_retry_is_limited),
  TEST("5.2 a chain looped 75 times ends at limits.attempts", loop_of_picks_is_limited),
  TEST("5.4 transfer cancelled and slot free before the next begins", released_before_next),
  TEST("4.1 classify, bench, select, start; observe after the action", observe_after_action),
  TEST("5.5 nothing of attempt 1 in attempt 2", nothing_leaks),
  TEST("5.8 a non-2xx is judged 2 s after its head at the latest", judged_two_seconds_after_head),
  TEST("5.8 a non-2xx is judged when its body ends", judged_at_its_end),
  TEST("5.8 P5 accept relays what is held and the rest", accepted_is_relayed),
  TEST("5.8 an accepted answer that falls silent is broken off quietly", accepted_then_silent),
  TEST("5.8 redirects are status", redirect_is_status),
  TEST("W12 headers: from the attempt's start", headers_timeout_moves_on),
  TEST("3 first_event: from the head; pings do not stop it", pings_do_not_stop_first_event),
  TEST("3 idle: between reads before the commit", idle_before_commit),
  TEST("3 idle: not while paused for a slow client", idle_stops_while_paused),
  TEST("3 F6 hold: from the first held event, then the commit", hold_commits),
  TEST("6 F6 a full hold-back commits", full_hold_commits),
  TEST("3 the last candidate has nothing to lose (others tried or benched)", last_has_nothing_to_lose),
  TEST("3 the last of limits.attempts has nothing to lose", last_try_has_nothing_to_lose),
  TEST("3 nothing to lose: others benched during the wait", last_is_seen_after_the_wait),
  TEST("3 something to lose: another is back after the wait", another_is_back_after_the_wait),
  TEST("4.1 select's timeouts override; NaN is no number", pick_overrides_timeouts),
};

int main(void) {
  return cmocka_run_group_tests(tests, NULL, NULL);
}
