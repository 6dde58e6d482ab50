/*
 * The built-in policy, chain_with_bench (contract 5.2): the default, and the answer for every hook that is missing or fails.
 *
 * Order as listed minus benched. Three tries per candidate with full jitter between them, none when the candidate changes. What kind of failure
 * it was decides (dialect_error_kind reads error codes before statuses):
 *
 *   auth_dead          next at once, benched: 401, 402, quota (the whole upstream), 403 (the candidate)
 *   model missing      next, benched
 *   request_specific   accept, never benched
 *   transient          timeout: next, benched; a retry_after with somebody else to go to: next, benched for it, else waited for;
 *                      last try: next, benched; otherwise the same candidate again
 *
 * When one request fails the same way on every candidate of its pool, the request is the suspect: the benches it alone set are lifted.
 */
#include <math.h>

#include "core/failover.h"

#define TRIES 3
#define BENCH_SECONDS 300.0
#define BACKOFF_BASE 0.2      /* seconds: the longest wait before the second try */
#define BACKOFF_CAP 10.0      /* seconds */
#define RETRY_AFTER_WAIT 10.0 /* seconds that a retry_after is waited for when nobody else is left */

/* Who is up next: the first that this request has not left and that nobody sidelined; when all of those are sidelined, the one that
 * is back soonest, manual benches last. A full upstream is never picked: its slot would not be given. */
static void builtin_select(struct advisor *advisor, const struct failover *f, seconds now, struct pick *pick) {
  (void)advisor, (void)now;
  size_t count;
  const struct member *pool = failover_pool(f, &count);
  size_t best = count;
  for (size_t i = 0; i < count; i++) {
    const struct member *m = &pool[i];
    if (m->left || m->drained || m->full) continue;
    if (!m->state.benched) {
      best = i;
      break;
    }
    const struct bench_state *b = best < count ? &pool[best].state : NULL;
    if (!b || (b->manual && !m->state.manual) || (b->manual == m->state.manual && m->state.until < b->until)) best = i;
  }
  pick->kind = best < count ? PICK_MEMBER : PICK_GIVE_UP;
  pick->member = (unsigned)best;
}

/* Is there another candidate that is neither tried nor benched? */
static bool somebody_fresh(const struct failover *f, const struct attempt *attempt) {
  size_t count;
  const struct member *pool = failover_pool(f, &count);
  for (size_t i = 0; i < count; i++)
    if (i != attempt->member && !pool[i].tried && !pool[i].left && !pool[i].drained && !pool[i].state.benched) return true;
  return false;
}

static void next_benched(struct judgement *j, seconds duration, const char *key) {
  j->verdict = VERDICT_NEXT;
  j->bench = duration;
  j->key = key;
}

static void judge_transient(const struct failover *f, const struct attempt *a, struct judgement *j) {
  j->kind = "transient";
  bool last_try = a->try >= TRIES || failover_attempts_left(f) == 0;
  if (outcome_is_timeout(a->outcome)) {
    next_benched(j, BENCH_SECONDS, NULL);
  } else if (a->retry_after > 0 && somebody_fresh(f, a)) {
    next_benched(j, a->retry_after, NULL);
  } else if (last_try) {
    next_benched(j, fmax(BENCH_SECONDS, a->retry_after), NULL);
  } else if (a->retry_after > RETRY_AFTER_WAIT) {
    next_benched(j, a->retry_after, NULL);
  } else {
    j->verdict = VERDICT_RETRY;
    if (a->retry_after > 0) j->delay = a->retry_after;
  }
}

static void builtin_classify(struct advisor *advisor, const struct failover *f, const struct attempt *a, seconds now,
                             struct judgement *j) {
  (void)advisor, (void)now;
  enum error_kind kind = ERROR_TRANSIENT;
  if (a->outcome == OUTCOME_OK) {
    j->verdict = VERDICT_ACCEPT;
    return;
  }
  if (a->outcome == OUTCOME_STATUS || a->outcome == OUTCOME_STREAM_ERROR)
    kind = dialect_error_kind(a->outcome == OUTCOME_STATUS ? a->status : 0, &a->error);
  bool their_own = a->candidate->forwards && (kind == ERROR_AUTH_UPSTREAM || kind == ERROR_AUTH_CANDIDATE);
  if (their_own) kind = ERROR_REQUEST_SPECIFIC;
  j->kind = error_kind_name(kind);
  switch (kind) {
    case ERROR_AUTH_UPSTREAM: next_benched(j, BENCH_SECONDS, a->candidate->upstream_name); break;
    case ERROR_AUTH_CANDIDATE:
    case ERROR_MODEL_MISSING: next_benched(j, BENCH_SECONDS, NULL); break;
    case ERROR_REQUEST_SPECIFIC:
    case ERROR_OTHER: j->verdict = VERDICT_ACCEPT; break;
    case ERROR_TRANSIENT: judge_transient(f, a, j); break;
  }
}

/* Full jitter in [0, min(base * 2^(try-1), cap)]; ldexp saturates where a shift would overflow. */
static seconds builtin_backoff(struct advisor *advisor, const struct failover *f, const struct attempt *failed, unsigned member,
                               seconds now) {
  (void)advisor, (void)now;
  if (failed->member != member) return 0;
  return failover_random(f) * fmin(ldexp(BACKOFF_BASE, (int)failed->try - 1), BACKOFF_CAP);
}

/* The way a candidate failed last, so that "the same way" can be told: 5xx, stream_error and empty count as one. */
static int way_of(const struct member *m) {
  if (m->last_outcome == OUTCOME_STREAM_ERROR || m->last_outcome == OUTCOME_EMPTY) return 500;
  if (m->last_outcome == OUTCOME_STATUS) return m->last_status >= 500 ? 500 : m->last_status;
  return -(int)m->last_outcome;
}

static void builtin_exhausted(struct advisor *advisor, const struct failover *f, seconds now, struct answer *answer) {
  (void)advisor, (void)now;
  size_t count;
  const struct member *pool = failover_pool(f, &count);
  answer->pardon = count >= 2;
  for (size_t i = 0; i < count; i++)
    if (!pool[i].tried || way_of(&pool[i]) != way_of(&pool[0])) answer->pardon = false;
}

const struct advisor_ops builtin_advisor = {
  .select = builtin_select,
  .classify = builtin_classify,
  .backoff = builtin_backoff,
  .exhausted = builtin_exhausted,
};
