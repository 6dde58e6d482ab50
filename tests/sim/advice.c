/*
 * The advisors of the simulator. One is the built-in with somebody looking over its shoulder: each of its answers is compared with what the contract
 * says (rules.c). The other answers at random, often what it may not: members outside the pool, benched or drained ones, benches of keys that do
 * not exist, waits without end. What either says is noted, so that the next start is known before it is ordered.
 */
#include <math.h>
#include <stddef.h>

#include "sim.h"

static struct run *run_of(struct advisor *advisor) {
  return (struct run *)(void *)((char *)advisor - offsetof(struct run, advisor));
}

/* ---- select ---- */

static void check_views(struct run *run, const struct failover *f) {
  size_t count;
  const struct member *pool = failover_pool(f, &count);
  if (run->finished || run->gone || run->commits) sim_broken(run, "5.2", "select is asked after the end");
  if (failover_attempts_left(f) != run->limit - run->starts) sim_broken(run, "5.2", "%u attempts are said to be left", failover_attempts_left(f));
  if (failover_attempts_left(f) == 0) sim_broken(run, "5.2", "select is asked with no attempts left");
  if (count != run->count) sim_broken(run, "4", "the pool changed");
  for (size_t i = 0; i < count; i++) {
    const struct member *m = &pool[i];
    struct seen s = rules_see(m->candidate);
    if (m->tried != run->tried[i] || m->left != run->left[i])
      sim_broken(run, "5.6", "%s is said to be tried %u, left %d", m->candidate->name, m->tried, m->left);
    if (m->state.benched != (s.benched || s.full) || m->state.manual != s.manual || m->drained != s.drained || m->full != s.full)
      sim_broken(run, "5.1", "%s is shown as benched %d manual %d drained %d full %d", m->candidate->name, m->state.benched, m->state.manual,
                 m->drained, m->full);
  }
}

static void random_pick(const struct run *run, struct pick *pick) {
  unsigned dice = sim_below(100);
  if (dice < 30) return;
  pick->kind = dice < 35 ? PICK_GIVE_UP : PICK_MEMBER;
  pick->member = sim_below((unsigned)run->count + (dice < 45 ? 3 : 0));
  pick->label = "label";
  if (dice > 90) pick->timeouts.headers = sim_below(30);
  if (dice > 95) pick->timeouts.first_event = pick->timeouts.idle = 1;
}

static void maybe_reject(struct run *run) {
  if (!sim_chance(0.005)) return;
  run->advisor.reject = true;
  if (!run->commits) run->rejected = true;
}

static void watch_select(struct advisor *advisor, const struct failover *f, seconds now, struct pick *pick) {
  struct run *run = run_of(advisor);
  check_views(run, f);
  if (run->next.retry) run->selects++; /* that it could not begin counts as the first */
  if (++run->selects > 2) sim_broken(run, "4.1", "select is asked for the third time");
  unsigned wanted = rules_pick(run);
  seconds waited = !run->builtin ? SECONDS_NEVER : run->next.retry ? run->next.delay_most : 0; /* a retry that could not begin has waited */
  if (run->builtin) {
    builtin_advisor.select(advisor, f, now, pick);
    unsigned picked = pick->kind == PICK_MEMBER ? pick->member : (unsigned)run->count;
    if (picked != wanted) sim_broken(run, "5.6", "the built-in picks %u, not %u", picked, wanted);
  } else {
    random_pick(run, pick);
    bool stands = pick->kind == PICK_GIVE_UP || (pick->kind == PICK_MEMBER && rules_may_pick(run, pick->member));
    if (stands) wanted = pick->kind == PICK_MEMBER ? pick->member : (unsigned)run->count;
    maybe_reject(run);
  }
  run->next = (struct expected){ .picked = wanted < run->count, .member = wanted, .step = sim.step, .delay_most = waited };
  if (wanted >= run->count) return;
  struct seen s = rules_see(run->pool[wanted]);
  run->next.benched = s.benched && !s.full;
}

/* ---- classify ---- */

static void random_verdict(struct run *run, struct judgement *j) {
  static const seconds benches[] = { 0, 0, 0, -5, 1, 30, 300, SECONDS_NEVER, NAN };
  static const seconds delays[] = { -1, -1, -1, 0, 0.5, 5, 1000, SECONDS_NEVER, NAN };
  static const enum verdict verdicts[] = { VERDICT_NONE, VERDICT_ACCEPT, VERDICT_RETRY, VERDICT_RETRY, VERDICT_NEXT, VERDICT_NEXT, VERDICT_NEXT, VERDICT_STOP };
  static const char *const kinds[] = { NULL, "transient", "auth_dead", "my own" };
  j->verdict = verdicts[sim_below(8)];
  if (j->verdict == VERDICT_NONE) return;
  j->bench = benches[sim_below(9)];
  j->delay = delays[sim_below(9)];
  j->kind = kinds[sim_below(4)];
  unsigned dice = sim_below(10);
  if (dice == 0) j->key = "nobody/knows-it";
  if (dice == 1) j->key = bench_name(sim.keys[sim_below((unsigned)sim.key_count)].key);
  if (dice == 2) j->reason = "because";
  if (dice == 3 && j->verdict == VERDICT_STOP) j->status = 400 + (int)sim_below(100);
  maybe_reject(run);
}

static void note_verdict(struct run *run, const struct attempt *a, const struct judgement *j) {
  run->dead[a->member] = j->kind && span_is(span_of(j->kind), "auth_dead");
  if (a->committed || run->advisor.reject) return;
  run->selects = 0;
  run->waited_out = j->verdict == VERDICT_RETRY;
  if (j->verdict == VERDICT_NEXT) {
    run->left[a->member] = true;
    run->next = (struct expected){ 0 };
  }
  if (j->verdict != VERDICT_RETRY) return;
  run->next = (struct expected){ .picked = true, .member = a->member, .benched = run->next.benched || j->bench > 0, .retry = true, .step = sim.step };
  run->next.delay_most = !run->builtin ? SECONDS_NEVER : j->delay >= 0 ? j->delay : fmin(0.2 * ldexp(1, (int)a->try - 1), 10);
}

static void watch_classify(struct advisor *advisor, const struct failover *f, const struct attempt *a, seconds now, struct judgement *j) {
  struct run *run = run_of(advisor);
  if (a->outcome == OUTCOME_CLIENT_GONE || a->outcome == OUTCOME_DEADLINE || a->outcome == OUTCOME_NONE)
    sim_broken(run, "4.1", "classify is asked about %s", outcome_name(a->outcome));
  if (a->number == 0 || a->number > run->starts) sim_broken(run, "4.1", "classify is asked about attempt %u", a->number);
  if (++run->classified[a->number - 1] > 1) sim_broken(run, "4.1", "classify is asked twice about attempt %u", a->number);
  if (!run->builtin) random_verdict(run, j);
  struct judgement said = *j;
  if (j->verdict == VERDICT_NONE) {
    said = (struct judgement)JUDGEMENT_DEFAULT;
    builtin_advisor.classify(advisor, f, a, now, &said);
    rules_verdict(run, a, &said);
  }
  if (run->builtin) *j = said;
  note_verdict(run, a, &said);
}

/* ---- the rest ---- */

static seconds watch_backoff(struct advisor *advisor, const struct failover *f, const struct attempt *failed, unsigned member, seconds now) {
  struct run *run = run_of(advisor);
  static const seconds delays[] = { -1, 0, 0.1, 3, 30, 1000, SECONDS_NEVER };
  if (member != run->next.member) sim_broken(run, "4.1", "backoff is asked about member %u, not %u", member, run->next.member);
  if (run->builtin) return builtin_advisor.backoff(advisor, f, failed, member, now);
  maybe_reject(run);
  return delays[sim_below(7)];
}

static enum event_class watch_gate(struct advisor *advisor, const struct failover *f, const struct attempt *a, const struct sse_event *event,
                                   size_t bytes, enum event_class builtin) {
  struct run *run = run_of(advisor);
  (void)f, (void)event, (void)bytes;
  if (a->committed || run->commits) sim_broken(run, "5.1", "gate is asked after the commit");
  unsigned dice = sim_below(20);
  maybe_reject(run);
  if (dice == 0) return EVENT_FAIL;
  if (dice < 4 && builtin != EVENT_FAIL) return EVENT_HOLD;
  return builtin;
}

/* As the contract has it: on every candidate of two or more the same status or outcome; 5xx, stream_error and empty are one way. */
static bool all_the_same(const struct run *run) {
  int ways[CANDIDATES_MAX] = { 0 };
  for (size_t i = 0; i < run->starts; i++) {
    const struct attempt *a = run->attempts[i];
    bool broken = a->outcome == OUTCOME_STREAM_ERROR || a->outcome == OUTCOME_EMPTY || (a->outcome == OUTCOME_STATUS && a->status >= 500);
    ways[a->member] = broken ? 500 : a->outcome == OUTCOME_STATUS ? a->status : -(int)a->outcome;
  }
  for (size_t i = 0; i < run->count; i++)
    if (!ways[i] || ways[i] != ways[0]) return false;
  return run->count >= 2;
}

static void watch_exhausted(struct advisor *advisor, const struct failover *f, seconds now, struct answer *answer) {
  struct run *run = run_of(advisor);
  unsigned dice = sim_below(10);
  if (run->builtin || dice < 5) {
    builtin_advisor.exhausted(advisor, f, now, answer);
    if (answer->pardon != all_the_same(run)) sim_broken(run, "5.2", "pardon is %d", answer->pardon);
  } else if (dice < 7) {
    answer->kind = ANSWER_LAST;
  } else {
    *answer = (struct answer){ .kind = ANSWER_CUSTOM, .status = dice < 9 ? 418 : 0, .message = "mine" };
  }
  if (!run->builtin) maybe_reject(run);
  sim.deed.wants_pardon = answer->pardon && !run->advisor.reject;
}

void advice_choose(struct run *run) {
  run->builtin = run->as_is || sim_chance(0.6);
  run->ops = (struct advisor_ops){ .select = watch_select, .classify = watch_classify, .backoff = watch_backoff, .exhausted = watch_exhausted };
  if (!run->builtin && sim_chance(0.5)) run->ops.gate = watch_gate;
  if (!run->builtin) run->ops.classify_ok = sim_chance(0.3);
  run->advisor = (struct advisor){ .ops = &run->ops };
}
