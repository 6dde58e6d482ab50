/*
 * core/failover and core/bench together: several requests on one registry (contract 5.1, max_inflight in section 3). Requests are runs[0..3]; each
 * has its own transcript (failover_rig.h).
 */
#include "failover_rig.h"

static struct run *const one = &runs[0], *const two = &runs[1], *const three = &runs[2];

/* A bench of a that ended just now: who starts next makes the trial. */
static void returning(const char *name) {
  bench_for(name, 60);
  w.now += 60;
}

/* ---- the trial ---- */

static void one_trial(void **state) {
  (void)state;
  pool("a b");
  returning("a");
  begin(one), begin(two), begin(three);
  assert_orders(one, "start a");
  assert_orders(two, "start b");
  assert_orders(three, "start b");
  answers_well(one);
  assert_events(one, "unbenched a, committed a, finished ok 200");
  begin(&runs[3]);
  assert_orders(&runs[3], "start a");
}

static void one_trial_of_an_upstream(void **state) {
  (void)state;
  pool("a.1 a.2 b");
  returning("up-a");
  begin(one), begin(two);
  assert_orders(one, "start a.1");
  assert_orders(two, "start b"); /* a.2 is of the upstream on trial */
}

static void success_lifts_at_commit(void **state) {
  (void)state;
  pool("a b");
  returning("a");
  begin(one);
  head(one, 200);
  event(one, EVENT_COMMIT);
  begin(two);
  assert_orders(two, "start a"); /* not only at the end of the stream */
}

static void accepted_answer_lifts(void **state) {
  (void)state;
  pool("a b");
  returning("a");
  begin(one);
  says_status(one, 400);
  assert_false(state_of("a").benched || state_of("a").returning);
}

static void accepted_500_does_not_lift(void **state) {
  (void)state;
  pool("a b");
  returning("a");
  says(one, VERDICT_ACCEPT);
  begin(one);
  says_status(one, 500);
  assert_near(benched_for("a"), 60);
}

static void failed_trial(void **state) {
  (void)state;
  pool("a b");
  returning("a");
  says(one, VERDICT_NEXT);
  begin(one);
  ends(one, OUTCOME_RESET);
  assert_near(benched_for("a"), 60); /* as long as last time */
  assert_int_equal(state_of("a").fails, 1);
  assert_orders(one, "start a, start b");
}

static void failed_trial_is_told(void **state) {
  (void)state;
  pool("a b");
  returning("a");
  says(one, VERDICT_NEXT);
  begin(one);
  ends(one, OUTCOME_RESET);
  assert_events(one, "failed a reset next, benched a 60, over a>b");
}

static void failed_trial_benched_anew(void **state) {
  (void)state;
  pool("a b");
  returning("a");
  begin(one);
  ends(one, OUTCOME_HEADERS_TIMEOUT);
  assert_near(benched_for("a"), 300); /* by the verdict, not by last time */
}

static void trial_tried_again(void **state) {
  (void)state;
  pool("a b");
  returning("a");
  one->random = 0.5;
  begin(one);
  says_status(one, 500);
  assert_false(state_of("a").benched); /* retry: the bench is not set again */
  pass(one, 0.2);
  begin(two);
  assert_orders(one, "start a, start a");
  assert_orders(two, "start b"); /* the second try has the claim again */
  answers_well(one);
  assert_false(state_of("a").returning);
}

static void trial_lost_between_tries(void **state) {
  (void)state;
  pool("a b");
  returning("a");
  one->random = 0.5;
  begin(one);
  says_status(one, 500);
  begin(two);
  pass(one, 0.2);
  assert_orders(two, "start a");
  assert_orders(one, "start a, start b"); /* asked again, no attempt counted */
  assert_int_equal(one->starts, 2);
}

static void undecided_trial_is_given_back(void **state) {
  (void)state;
  for (int how = 0; how < 3; how++) {
    world_close(NULL), world_open(NULL);
    pool("a b");
    returning("a");
    if (how == 2) says(one, VERDICT_STOP);
    begin(one);
    begin(two);
    assert_orders(two, "start b");
    if (how == 0) leaves(one);
    if (how == 1) w.now = one->request.deadline, failover_timer_due(one->f, SPAN_NONE, w.now), take_orders(one);
    if (how == 2) ends(one, OUTCOME_RESET);
    assert_false(state_of("a").benched);
    assert_true(state_of("a").returning);
    begin(three);
    assert_orders(three, "start a");
  }
}

static void trial_pool_of_one(void **state) {
  (void)state;
  pool("a");
  returning("a");
  begin(one), begin(two);
  assert_orders(two, "start a"); /* 5.6: nobody else, tried anyway */
  ends(two, OUTCOME_HEADERS_TIMEOUT);
  answers_well(one); /* began before two's bench */
  assert_near(benched_for("a"), 300);
}

/* A path that is no route has a candidate that is its upstream: both have one key. */
static void trial_of_a_path(void **state) {
  (void)state;
  pool("a b");
  w.count = 1;
  w.list[0].key = w.list[0].upstream_key;
  one->as_is = true;
  returning("up-a");
  begin(one);
  assert_orders(one, "start a");
  head(one, 200);
  ends(one, OUTCOME_OK);
  assert_orders(one, "commit a, end a");
  assert_false(state_of("up-a").returning);
  assert_int_equal(inflight("up-a"), 0);
}

/* ---- only attempts begun after the bench have a say ---- */

static void older_success_lifts_nothing(void **state) {
  (void)state;
  pool("a b");
  begin(one), begin(two);
  ends(two, OUTCOME_HEADERS_TIMEOUT);
  answers_well(one);
  assert_near(benched_for("a"), 300);
  assert_events(one, "committed a, finished ok 200");
}

static void older_failure_raises_nothing(void **state) {
  (void)state;
  pool("a b");
  begin(one), begin(two);
  ends(two, OUTCOME_HEADERS_TIMEOUT);
  assert_int_equal(state_of("a").fails, 1);
  ends(one, OUTCOME_RESET);
  assert_int_equal(state_of("a").fails, 1);
}

static void older_success_decides_no_trial(void **state) {
  (void)state;
  pool("a b");
  begin(one), begin(two);
  ends(two, OUTCOME_HEADERS_TIMEOUT);
  w.now += 300;
  begin(three);
  assert_orders(three, "start a");
  answers_well(one);
  assert_true(state_of("a").trial);
  ends(three, OUTCOME_HEADERS_TIMEOUT);
  assert_near(benched_for("a"), 300);
}

/* ---- benched meanwhile ---- */

static void benched_during_the_wait(void **state) {
  (void)state;
  pool("a b");
  one->random = 0.9;
  begin(one), begin(two);
  ends(one, OUTCOME_RESET);
  ends(two, OUTCOME_HEADERS_TIMEOUT);
  pass(one, 1);
  assert_orders(one, "start a, start b");
  assert_int_equal(one->starts, 2);
}

static void held_by_hand_during_the_wait(void **state) {
  (void)state;
  pool("a b");
  one->random = 0.9;
  begin(one);
  ends(one, OUTCOME_RESET);
  bench_by_hand("a", SECONDS_NEVER);
  pass(one, 1);
  assert_orders(one, "start a, start b");
}

static void held_by_hand_although_retry_benched(void **state) {
  (void)state;
  pool("a b");
  struct judgement *j = says(one, VERDICT_RETRY);
  j->bench = j->delay = 5;
  begin(one);
  ends(one, OUTCOME_RESET);
  bench_by_hand("a", SECONDS_NEVER);
  pass(one, 5);
  assert_orders(one, "start a, start b"); /* manual last: b is free and untried */
}

static void drained_during_the_wait(void **state) {
  (void)state;
  pool("a b");
  one->random = 0.9;
  begin(one);
  ends(one, OUTCOME_RESET);
  bench_set_drained(key_of("up-a"), true);
  pass(one, 1);
  assert_orders(one, "start a, start b");
}

/* ---- manual benches ---- */

static void manual_survives(void **state) {
  (void)state;
  pool("a");
  bench_by_hand("a", 1000);
  begin(one);
  answers_well(one);
  assert_near(benched_for("a"), 1000);
  begin_again(one);
  ends(one, OUTCOME_HEADERS_TIMEOUT);
  assert_near(benched_for("a"), 1000);
  assert_true(state_of("a").manual);
  begin_again(one);
  answers_well(one);
  assert_near(benched_for("a"), 1000);
}

/* ---- max_inflight ---- */

static void full_is_benched(void **state) {
  (void)state;
  pool("a b");
  w.list[0].max_inflight = 1;
  begin(one), begin(two);
  assert_orders(two, "start b");
  answers_well(one);
  begin(three);
  assert_orders(three, "start a");
}

static void full_upstream_is_shared(void **state) {
  (void)state;
  pool("a.1 a.2 b");
  w.list[0].max_inflight = w.list[1].max_inflight = 2;
  begin(one), begin(two), begin(three);
  assert_orders(two, "start a.1");
  assert_orders(three, "start b");
}

static void all_full(void **state) {
  (void)state;
  pool("a b");
  w.list[0].max_inflight = w.list[1].max_inflight = 1;
  begin(one), begin(two), begin(three);
  assert_orders(three, "fail 503 +1");
  assert_string_equal(three->last.error.code, "overloaded");
  assert_events(three, "finished none 503");
  leaves(one), leaves(two);
  begin_again(three);
  assert_orders(three, "start a");
}

static void full_during_the_wait(void **state) {
  (void)state;
  pool("a b");
  w.list[0].max_inflight = 1;
  one->random = 0.9;
  begin(one);
  ends(one, OUTCOME_RESET);
  begin(two); /* takes the slot that nobody holds in a wait */
  pass(one, 1);
  assert_orders(two, "start a");
  assert_orders(one, "start a, start b");
  assert_int_equal(inflight("up-a"), 1);
}

static void full_is_not_lifted_for_5_6(void **state) {
  (void)state;
  pool("a b");
  w.list[0].max_inflight = 1;
  begin(one), begin(two);
  ends(two, OUTCOME_HEADERS_TIMEOUT);
  assert_orders(two, "start b, fail 504 +1"); /* a is full: rule 5.6 cannot give it a slot */
}

static void slot_until_the_end(void **state) {
  (void)state;
  pool("a");
  begin(one);
  head(one, 200);
  event(one, EVENT_COMMIT);
  event(one, EVENT_END);
  assert_int_equal(inflight("a") + inflight("up-a"), 2);
  ends(one, OUTCOME_OK);
  assert_int_equal(inflight("a") + inflight("up-a"), 0);
  begin_again(one);
  head(one, 400);
  error_body(one, "{", false, false);
  assert_int_equal(inflight("up-a"), 1);
  leaves(one);
  assert_int_equal(inflight("a") + inflight("up-a"), 0);
}

static const struct CMUnitTest tests[] = {
  TEST("5.1 one trial, the others see benched, its success lifts", one_trial),
  TEST("5.1 one trial of a whole upstream", one_trial_of_an_upstream),
  TEST("5.1 success is the commit", success_lifts_at_commit),
  TEST("5.1 success is an accepted answer under 500", accepted_answer_lifts),
  TEST("5.1 an accepted 500 is a failed trial", accepted_500_does_not_lift),
  TEST("5.1 a failed trial is benched again as long as last time", failed_trial),
  TEST("4 C8 a failed trial's bench is told", failed_trial_is_told),
  TEST("5.1 a failed trial's own verdict says how long", failed_trial_benched_anew),
  TEST("5.1 a trial tried again (retry) claims again", trial_tried_again),
  TEST("5.1 a trial lost between two tries: select is asked, no attempt counted", trial_lost_between_tries),
  TEST("5.1 an undecided trial is given back (client gone, deadline, stop)", undecided_trial_is_given_back),
  TEST("5.6 a trial in a pool of one keeps nobody out", trial_pool_of_one),
  TEST("5.1 7 a path that is no route: its upstream's bench is over, served again", trial_of_a_path),
  TEST("5.1 late success of an older attempt lifts nothing", older_success_lifts_nothing),
  TEST("5.1 late failure of an older attempt raises no count", older_failure_raises_nothing),
  TEST("5.1 late success of an older attempt does not decide the trial", older_success_decides_no_trial),
  TEST("4.1 benched during the wait: select is asked again", benched_during_the_wait),
  TEST("4.1 held by hand during the wait: select is asked again", held_by_hand_during_the_wait),
  TEST("5.6 held by hand during the wait, although the retry's verdict benched", held_by_hand_although_retry_benched),
  TEST("9 drained during the wait: no new attempt", drained_during_the_wait),
  TEST("C6 a manual bench survives success, failure, a shorter cooldown", manual_survives),
  TEST("3 max_inflight: full is benched for that call", full_is_benched),
  TEST("3 max_inflight is of the upstream", full_upstream_is_shared),
  TEST("3 max_inflight: all full is 503 overloaded, retry-after 1", all_full),
  TEST("3 max_inflight: full after the wait: select is asked again", full_during_the_wait),
  TEST("3 max_inflight: rule 5.6 gives no slot", full_is_not_lifted_for_5_6),
  TEST("3 max_inflight: the slot is held until the transfer's end", slot_until_the_end),
};

int main(void) {
  return cmocka_run_group_tests(tests, NULL, NULL);
}
