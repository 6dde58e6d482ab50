/*
 * core/bench: the registry by itself (contract 5.1), on an invented clock, and with four threads at once.
 */
#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "core/bench.h"

#define T0 1000000.0
#define TEST(promise, function) { promise, function, registry_open, registry_close, NULL }

static bool lifted(struct bench_settled settled) {
  return settled.lifted_candidate || settled.lifted_upstream;
}

static struct bench *registry;
static struct bench_key *key, *up, *other;

static int registry_open(void **state) {
  (void)state;
  registry = bench_new(16);
  key = bench_get(registry, SPAN("up/m"));
  up = bench_get(registry, SPAN("up"));
  other = bench_get(registry, SPAN("up/n"));
  return key && up && other ? 0 : -1;
}

static int registry_close(void **state) {
  (void)state;
  bench_free(registry);
  return 0;
}

static struct bench_state at(seconds now) {
  struct bench_state s;
  bench_read(key, now, &s);
  return s;
}

static void check_until(seconds now, seconds until, int line) {
  struct bench_state s = at(now);
  if (s.benched != (until > 0)) fail_msg("line %d: benched is %d", line, s.benched);
  if (s.until != until && !(isinf(s.until) && isinf(until))) fail_msg("line %d: until is T0%+g, not T0%+g", line, s.until - T0, until - T0);
}
#define assert_until(now, until) check_until(now, until, __LINE__)
#define NOT_BENCHED 0.0

static struct bench_ticket begun(seconds now) {
  struct bench_ticket t;
  assert_int_equal(bench_begin(key, up, 0, false, now, &t), BENCH_BEGUN);
  return t;
}

static void finish(struct bench_ticket *t, enum bench_result result, seconds now) {
  bench_settle(t, result, 9, now);
  bench_release(t, now);
}

static void returning(void) {
  bench_set(key, 10, "r", 1, T0 - 10);
}

/* ---- until when ---- */

static void later_never_shortens(void **state) {
  (void)state;
  assert_true(bench_set(key, 100, "long", 1, T0));
  assert_false(bench_set(key, 50, "short", 2, T0 + 10));
  assert_until(T0 + 10, T0 + 100);
  assert_true(bench_set(key, 95, "longer", 3, T0 + 10));
  assert_until(T0 + 10, T0 + 105);
  assert_until(T0 + 105, NOT_BENCHED);
  assert_true(at(T0 + 105).returning);
}

static void odd_lengths(void **state) {
  static const double odd[] = { 0, -1, NAN, -INFINITY };
  (void)state;
  for (size_t i = 0; i < 4; i++) assert_false(bench_set(key, odd[i], "r", 1, T0));
  assert_until(T0, NOT_BENCHED);
  bench_set_manual(key, NAN, "r", T0);
  bench_set_manual(key, -3, "r", T0);
  assert_until(T0, NOT_BENCHED);
  assert_true(bench_set(key, SECONDS_NEVER, "for ever", 1, T0));
  assert_false(bench_set(key, SECONDS_NEVER, "again", 1, T0 + 1));
  assert_until(T0 + 1e12, SECONDS_NEVER);
  assert_true(bench_lift(key, false, T0));
  assert_until(T0, NOT_BENCHED);
}

static void kinds_are_apart(void **state) {
  char reason[BENCH_REASON_BYTES];
  (void)state;
  bench_set_manual(key, 100, "by hand", T0);
  bench_set(key, 200, "by itself", 1, T0 + 1);
  assert_until(T0 + 1, T0 + 201);
  assert_true(at(T0 + 1).manual);
  assert_true(at(T0 + 1).since == T0 + 1);
  bench_reason(key, T0 + 1, reason);
  assert_string_equal(reason, "by itself");
  assert_true(bench_lift(key, false, T0 + 2));
  assert_until(T0 + 2, T0 + 100);
  bench_reason(key, T0 + 2, reason);
  assert_string_equal(reason, "by hand");
  assert_until(T0 + 100, NOT_BENCHED);
  bench_reason(key, T0 + 100, reason);
  assert_string_equal(reason, "");
}

static void put_replaces(void **state) {
  (void)state;
  bench_set_manual(key, 600, "long", T0);
  bench_set_manual(key, 60, "short", T0 + 1);
  assert_until(T0 + 1, T0 + 61);
  bench_set_manual(key, SECONDS_NEVER, "ever", T0 + 2);
  assert_until(T0 + 2, SECONDS_NEVER);
}

static void delete_lifts_both(void **state) {
  (void)state;
  bench_set_manual(key, 600, "m", T0);
  bench_set(key, 600, "a", 1, T0);
  assert_true(bench_lift(key, true, T0));
  assert_until(T0, NOT_BENCHED);
  assert_false(bench_lift(key, true, T0));
}

static void policy_lifts_automatic_only(void **state) {
  (void)state;
  bench_set_manual(key, 600, "m", T0);
  assert_false(bench_lift(key, false, T0));
  assert_until(T0, T0 + 600);
}

static void lift_of_a_trial(void **state) {
  (void)state;
  returning();
  struct bench_ticket t = begun(T0);
  assert_true(at(T0).benched); /* as the list shows it */
  assert_true(bench_lift(key, true, T0));
  assert_until(T0, NOT_BENCHED);
  finish(&t, BENCH_BAD, T0); /* the operator's word stands */
  assert_until(T0, NOT_BENCHED);
}

static void reasons_are_cut(void **state) {
  char text[200], reason[BENCH_REASON_BYTES];
  (void)state;
  memset(text, 'x', sizeof text);
  memcpy(text + BENCH_REASON_BYTES - 2, "\xe2\x82\xac", 3); /* the limit falls inside the character */
  text[sizeof text - 1] = 0;
  bench_set(key, 10, text, 1, T0);
  bench_reason(key, T0, reason);
  assert_int_equal(strlen(reason), BENCH_REASON_BYTES - 2);
  bench_set_manual(key, 10, NULL, T0);
  bench_reason(key, T0, reason);
  assert_string_equal(reason, "");
}

/* ---- trials ---- */

static void one_trial(void **state) {
  struct bench_ticket second;
  (void)state;
  returning();
  assert_false(at(T0).benched);
  struct bench_ticket t = begun(T0);
  assert_true(t.trial_candidate && at(T0).benched && at(T0).trial);
  assert_int_equal(bench_begin(key, up, 0, false, T0, &second), BENCH_BENCHED);
  assert_int_equal(bench_inflight(up), 1);
  bench_release(&second, T0); /* holds nothing */
  assert_int_equal(bench_inflight(up), 1);
  assert_true(lifted(bench_settle(&t, BENCH_GOOD, 1, T0)));
  assert_until(T0, NOT_BENCHED);
  assert_false(at(T0).returning);
  bench_release(&t, T0);
  assert_int_equal(bench_inflight(up) + bench_inflight(key), 0);
}

static void failed_trial_doubles_nothing(void **state) {
  (void)state;
  returning();
  for (int i = 0; i < 3; i++) {
    struct bench_ticket t = begun(T0 + 100 * i);
    finish(&t, BENCH_BAD, T0 + 100 * i + 5);
    assert_until(T0 + 100 * i + 5, T0 + 100 * i + 15);
  }
}

static void undecided_and_again_give_back(void **state) {
  (void)state;
  returning();
  for (int i = 0; i < 3; i++) {
    struct bench_ticket t = begun(T0);
    if (i < 2) bench_settle(&t, i ? BENCH_AGAIN : BENCH_UNDECIDED, 1, T0);
    bench_release(&t, T0); /* unsettled: undecided */
    assert_false(at(T0).benched || at(T0).trial);
    assert_true(at(T0).returning);
  }
}

static void anyway_claims_no_bench_that_holds(void **state) {
  struct bench_ticket t;
  (void)state;
  bench_set(key, 100, "r", 1, T0);
  assert_int_equal(bench_begin(key, up, 0, false, T0, &t), BENCH_BENCHED);
  assert_int_equal(bench_begin(key, up, 0, true, T0, &t), BENCH_BEGUN);
  assert_false(t.trial_candidate);
  finish(&t, BENCH_BAD, T0 + 1);
  assert_until(T0 + 1, T0 + 100); /* no trial: not benched again */
  assert_int_equal(bench_begin(key, up, 0, true, T0 + 2, &t), BENCH_BEGUN);
  assert_true(lifted(bench_settle(&t, BENCH_GOOD, 1, T0 + 3))); /* begun after it was set */
  assert_until(T0 + 3, NOT_BENCHED);
  bench_release(&t, T0 + 3);
}

static void all_or_nothing(void **state) {
  struct bench_ticket t;
  (void)state;
  returning();
  bench_set(up, 100, "r", 1, T0);
  assert_int_equal(bench_begin(key, up, 0, false, T0, &t), BENCH_BENCHED);
  assert_false(at(T0).trial);
  bench_lift(up, true, T0);
  struct bench_ticket slot;
  assert_int_equal(bench_begin(other, up, 1, false, T0, &slot), BENCH_BEGUN);
  assert_int_equal(bench_begin(key, up, 1, false, T0, &t), BENCH_FULL);
  assert_false(at(T0).trial);
  bench_release(&slot, T0);
  assert_int_equal(bench_inflight(up) + bench_inflight(key) + bench_inflight(other), 0);
}

static void manual_keeps_the_trial_out(void **state) {
  struct bench_ticket t;
  (void)state;
  returning();
  bench_set_manual(key, 100, "m", T0);
  assert_int_equal(bench_begin(key, up, 0, false, T0, &t), BENCH_BENCHED);
  assert_int_equal(bench_begin(key, up, 0, true, T0, &t), BENCH_BEGUN);
  finish(&t, BENCH_GOOD, T0);
  assert_until(T0, T0 + 100);
}

static void newer_bench_takes_the_trial(void **state) {
  (void)state;
  returning();
  struct bench_ticket t = begun(T0);
  bench_set(key, 100, "newer", 2, T0 + 1);
  assert_false(lifted(bench_settle(&t, BENCH_GOOD, 1, T0 + 2)));
  assert_until(T0 + 2, T0 + 101);
  bench_release(&t, T0 + 2);
  assert_until(T0 + 2, T0 + 101);
}

static void ticket_settles_once(void **state) {
  (void)state;
  struct bench_ticket t = begun(T0);
  bench_settle(&t, BENCH_BAD, 1, T0);
  bench_set(key, 100, "r", 1, T0);
  assert_false(lifted(bench_settle(&t, BENCH_GOOD, 1, T0)));
  bench_release(&t, T0);
  bench_release(&t, T0);
  assert_int_equal(bench_inflight(up) + bench_inflight(key), 0);
  assert_until(T0, T0 + 100);
}

/* ---- who has a say ---- */

static void same_instant_is_still_before(void **state) {
  (void)state;
  struct bench_ticket t = begun(T0);
  bench_set(key, 100, "r", 1, T0);
  bench_count_failure(&t);
  assert_int_equal(at(T0).fails, 0);
  assert_false(lifted(bench_settle(&t, BENCH_GOOD, 1, T0)));
  assert_until(T0, T0 + 100);
  bench_release(&t, T0);
}

static void counts(void **state) {
  (void)state;
  for (unsigned i = 1; i <= 25; i++) {
    struct bench_ticket t = begun(T0);
    bench_count_failure(&t);
    finish(&t, BENCH_BAD, T0);
    assert_int_equal(at(T0).fails, i);
  }
  struct bench_ticket t = begun(T0);
  assert_false(lifted(bench_settle(&t, BENCH_GOOD, 1, T0))); /* the count is cleared, but no bench was lifted */
  bench_release(&t, T0);
  assert_int_equal(at(T0).fails, 0);
}

static void averages(void **state) {
  struct bench_tally t;
  (void)state;
  bench_count(key, OUTCOME_OK, 2);
  bench_count(key, OUTCOME_CLIENT_GONE, 50);
  bench_count(key, OUTCOME_DEADLINE, 50);
  bench_tally(key, &t);
  assert_true(t.latency == 2 && t.error_rate == 0);
  assert_int_equal(t.attempts[OUTCOME_CLIENT_GONE], 1);
  for (int i = 0; i < 200; i++) bench_count(key, OUTCOME_RESET, -1);
  bench_tally(key, &t);
  assert_true(t.latency == 2 && t.error_rate > 0.99 && t.error_rate <= 1);
}

/* ---- pardon ---- */

static void pardon_of_one(void **state) {
  (void)state;
  struct bench_key *keys[] = { key, other, up, up, NULL };
  bench_set(key, 100, "r", 7, T0);
  bench_set(other, 100, "r", 8, T0);
  bench_set_manual(up, 100, "r", T0);
  assert_int_equal(bench_pardon(keys, 5, 7, T0), 1);
  assert_until(T0, NOT_BENCHED);
  struct bench_state s;
  bench_read(other, T0, &s);
  assert_true(s.benched);
  bench_read(up, T0, &s);
  assert_true(s.benched);
}

static void pardon_every_30_s(void **state) {
  (void)state;
  struct bench_key *keys[] = { key, other };
  bench_set(key, 100, "r", 7, T0);
  assert_int_equal(bench_pardon(keys, 2, 7, T0), 1);
  bench_set(key, 100, "r", 8, T0 + 29);
  bench_set(other, 100, "r", 8, T0 + 29);
  assert_int_equal(bench_pardon(keys, 2, 8, T0 + 29), 0); /* all or none */
  assert_int_equal(bench_pardon(keys, 2, 8, T0 + 30), 2);
}

static void pardon_of_several(void **state) {
  (void)state;
  bench_set(key, 100, "r", 7, T0);
  bench_set(key, 100, "r", 8, T0 + 1);
  assert_int_equal(bench_pardon(&key, 1, 8, T0 + 1), 0);
  assert_int_equal(bench_pardon(&key, 1, 7, T0 + 1), 0);
}

static void pardon_of_several_not_longer(void **state) {
  (void)state;
  bench_set(key, 100, "r", 7, T0);
  bench_set(key, 100, "r", 8, T0); /* the same until: another request wants it benched as well */
  assert_int_equal(bench_pardon(&key, 1, 7, T0), 0);
}

/* ---- keys ---- */

static void keys_are_bounded(void **state) {
  char name[16];
  (void)state;
  assert_ptr_equal(bench_get(registry, SPAN("up/m")), key);
  assert_ptr_equal(bench_find(registry, (struct span){ "up/more", 4 }), key);
  assert_null(bench_find(registry, SPAN("nobody")));
  for (int i = 0; i < 40; i++) {
    snprintf(name, sizeof name, "k%d", i);
    assert_int_equal(bench_get(registry, span_of(name)) != NULL, i < 13);
  }
  assert_non_null(bench_get(registry, SPAN("up")));
}

static void one_key_for_both(void **state) {
  struct bench_ticket t;
  (void)state;
  bench_set(up, 10, "r", 1, T0 - 10);
  assert_int_equal(bench_begin(up, up, 1, false, T0, &t), BENCH_BEGUN);
  assert_int_equal(bench_inflight(up), 1);
  finish(&t, BENCH_GOOD, T0);
  assert_int_equal(bench_inflight(up), 0);
  assert_false(bench_lift(up, true, T0));
}

/* ---- four threads ---- */

enum { THREADS = 4, ROUNDS = 20000 };
static atomic_int on_trial, in_slot, trials, trouble;

static void *worker(void *context) {
  unsigned seed = (unsigned)(uintptr_t)context;
  for (int i = 0; i < ROUNDS; i++) {
    struct bench_ticket t;
    seed = seed * 1664525u + 1013904223u;
    struct bench_key *mine = seed >> 31 ? key : other;
    if (bench_begin(mine, up, 3, false, T0, &t) != BENCH_BEGUN) continue;
    if (atomic_fetch_add(&in_slot, 1) >= 3) atomic_store(&trouble, 1);
    if (t.trial_upstream) {
      atomic_fetch_add(&trials, 1);
      if (atomic_fetch_add(&on_trial, 1) != 0) atomic_store(&trouble, 2);
      atomic_fetch_sub(&on_trial, 1);
    } else {
      atomic_store(&trouble, 3); /* the bench never ends here by success: whoever begins makes the trial */
    }
    atomic_fetch_sub(&in_slot, 1);
    if (seed & 0x100) bench_settle(&t, BENCH_AGAIN, 1, T0);
    bench_release(&t, T0);
  }
  return NULL;
}

static void four_threads_one_trial(void **state) {
  pthread_t threads[THREADS];
  (void)state;
  bench_set(up, 10, "r", 1, T0 - 10);
  for (uintptr_t i = 0; i < THREADS; i++) assert_int_equal(pthread_create(&threads[i], NULL, worker, (void *)(i + 1)), 0);
  for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
  assert_int_equal(atomic_load(&trouble), 0);
  assert_true(atomic_load(&trials) > 0);
  assert_int_equal(bench_inflight(up) + bench_inflight(key) + bench_inflight(other), 0);
  struct bench_ticket last;
  assert_int_equal(bench_begin(key, up, 3, false, T0, &last), BENCH_BEGUN); /* the claim is free */
  assert_true(last.trial_upstream);
  bench_release(&last, T0);
}

/* Sets, lifts, failures and successes at random; what must hold is the count of slots and that no claim is left behind. */
static void *chaos(void *context) {
  unsigned seed = (unsigned)(uintptr_t)context * 7919;
  for (int i = 0; i < ROUNDS; i++) {
    struct bench_ticket t;
    struct bench_state s;
    seed = seed * 1664525u + 1013904223u;
    seconds now = T0 + i * 1e-3;
    struct bench_key *mine = seed >> 31 ? key : other;
    if ((seed >> 8) % 16 == 0) bench_set(mine, 1e-3, "r", seed, now);
    if ((seed >> 12) % 64 == 0) bench_lift(up, true, now);
    if ((seed >> 16) % 64 == 0) bench_set_manual(up, 1e-3, "m", now);
    bench_read(mine, now, &s);
    if (bench_begin(mine, up, 3, seed & 1, now, &t) != BENCH_BEGUN) continue;
    bench_count_failure(&t);
    if (bench_inflight(up) > 3) atomic_store(&trouble, 4);
    bench_settle(&t, (enum bench_result)((seed >> 20) % 4), seed, now);
    bench_release(&t, now);
  }
  return NULL;
}

static void four_threads_of_chaos(void **state) {
  pthread_t threads[THREADS];
  struct bench_state s;
  (void)state;
  for (uintptr_t i = 0; i < THREADS; i++) assert_int_equal(pthread_create(&threads[i], NULL, chaos, (void *)(i + 1)), 0);
  for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
  assert_int_equal(atomic_load(&trouble), 0);
  assert_int_equal(bench_inflight(up) + bench_inflight(key) + bench_inflight(other), 0);
  bench_read(key, T0 + 1e6, &s);
  assert_false(s.benched || s.trial);
  bench_read(up, T0 + 1e6, &s);
  assert_false(s.benched || s.trial);
}

static const struct CMUnitTest tests[] = {
  TEST("5.1 a later automatic bench never shortens", later_never_shortens),
  TEST("5.1 odd lengths: 0, less, NaN are none; math.huge until lifted", odd_lengths),
  TEST("5.1 manual and automatic apart, benched until the later", kinds_are_apart),
  TEST("5.1 PUT replaces a manual bench, shorter too", put_replaces),
  TEST("5.1 C7 DELETE lifts both kinds: true, then false", delete_lifts_both),
  TEST("5.1 a policy lifts automatic benches only", policy_lifts_automatic_only),
  TEST("5.1 C7 DELETE of a key on trial: it was benched", lift_of_a_trial),
  TEST("5.1 reasons are cut between characters", reasons_are_cut),
  TEST("5.1 one trial, claimed when it starts", one_trial),
  TEST("5.1 a failed trial: as long as last time, each time", failed_trial_doubles_nothing),
  TEST("5.1 undecided, retried, unsettled: the claim is given back", undecided_and_again_give_back),
  TEST("5.6 tried anyway: a bench that holds is no trial, success lifts it", anyway_claims_no_bench_that_holds),
  TEST("5.1 slot and trials: all or nothing", all_or_nothing),
  TEST("5.1 C6 a manual bench keeps trials out and survives success", manual_keeps_the_trial_out),
  TEST("5.1 a newer bench takes the trial away", newer_bench_takes_the_trial),
  TEST("5.1 a ticket settles once and frees its slot once", ticket_settles_once),
  TEST("5.1 begun in the same instant, but before the bench", same_instant_is_still_before),
  TEST("5.1 consecutive failures are counted and cleared", counts),
  TEST("5.3 client gone and deadline do not touch the averages", averages),
  TEST("5.2 pardon: what the request alone set, no manual bench", pardon_of_one),
  TEST("5.2 pardon: once per 30 s, all or none", pardon_every_30_s),
  TEST("5.2 pardon: not what two requests set", pardon_of_several),
  TEST("5.2 pardon: not what two requests set for the same time", pardon_of_several_not_longer),
  TEST("5.1 keys are one per name and bounded", keys_are_bounded),
  TEST("5.1 one key as candidate and upstream", one_key_for_both),
  TEST("5.1 four threads: exactly one trial at a time, in flight back to 0", four_threads_one_trial),
  TEST("5.1 four threads at random: in flight back to 0, no claim left behind", four_threads_of_chaos),
};

int main(void) {
  return cmocka_run_group_tests(tests, NULL, NULL);
}
