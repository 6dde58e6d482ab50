/*
 * The registry is a fixed hash table of keys that are made once and never moved. What requests read on their way (until, trial, in flight)
 * is atomic; what explains it (reasons, who set it, for how long) is behind the one lock, which is taken only when a bench changes or an
 * operator looks.
 *
 * "Begun after the bench was set" is not a comparison of times, which may be equal within one turn of an event loop: every set takes the next
 * number of a process-wide sequence, every attempt notes the last number it could have seen.
 *
 * Invariants: trial is non-zero only while the attempt of that serial is undecided. An automatic `until` that is not zero and has passed means
 * "returning": one attempt may claim the trial. Setting or lifting a bench takes any trial away from its holder, who then settles nothing.
 */
#include "core/bench.h"

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define PARDON_EVERY 30.0 /* seconds between two pardons of one key */
#define AVERAGE_WEIGHT 0.2 /* of the newest sample in a moving average */

struct bench_key {
  struct bench *bench;
  struct bench_key *next; /* in its hash bucket */
  char *name;
  _Atomic double manual_until, auto_until; /* 0: none */
  _Atomic double manual_since, auto_since;
  _Atomic uint64_t auto_set; /* the sequence number of the newest automatic bench */
  _Atomic uint64_t trial;    /* serial of the attempt that holds it */
  atomic_uint fails, inflight;
  atomic_bool drained;
  _Atomic double latency, error_rate, last_used;
  _Atomic uint64_t attempts[OUTCOME_COUNT];
  /* behind the lock */
  double auto_length;
  uint64_t auto_by; /* the request that alone set it; 0: several */
  double pardoned;
  char auto_reason[BENCH_REASON_BYTES], manual_reason[BENCH_REASON_BYTES];
};

struct bench {
  pthread_mutex_t lock;
  _Atomic uint64_t sequence; /* benches set */
  _Atomic uint64_t serials;  /* attempts begun */
  size_t limit, count, buckets;
  struct bench_key **table;
  struct bench_key **order;
};

/* ---- keys ---- */

struct bench *bench_new(size_t limit) {
  struct bench *b = calloc(1, sizeof *b);
  if (!b) return NULL;
  pthread_mutex_init(&b->lock, NULL);
  b->limit = limit;
  b->buckets = limit < 1024 ? 1024 : limit;
  b->table = calloc(b->buckets, sizeof *b->table);
  b->order = calloc(limit ? limit : 1, sizeof *b->order);
  if (!b->table || !b->order) {
    bench_free(b);
    return NULL;
  }
  return b;
}

void bench_free(struct bench *b) {
  if (!b) return;
  for (size_t i = 0; b->order && i < b->count; i++) {
    free(b->order[i]->name);
    free(b->order[i]);
  }
  free(b->table);
  free(b->order);
  pthread_mutex_destroy(&b->lock);
  free(b);
}

static size_t bucket_of(const struct bench *b, struct span name) {
  uint64_t h = 14695981039346656037u;
  for (size_t i = 0; i < name.n; i++) h = (h ^ (unsigned char)name.p[i]) * 1099511628211u;
  return (size_t)(h % b->buckets);
}

static struct bench_key *find_locked(const struct bench *b, struct span name) {
  struct bench_key *k = b->table[bucket_of(b, name)];
  while (k && !span_is(name, k->name)) k = k->next;
  return k;
}

static struct bench_key *make_locked(struct bench *b, struct span name) {
  if (b->count >= b->limit) return NULL;
  struct bench_key *k = calloc(1, sizeof *k);
  if (!k) return NULL;
  k->name = strndup(name.p, name.n);
  if (!k->name) {
    free(k);
    return NULL;
  }
  k->bench = b;
  k->pardoned = -INFINITY;
  struct bench_key **bucket = &b->table[bucket_of(b, name)];
  k->next = *bucket;
  *bucket = k;
  b->order[b->count++] = k;
  return k;
}

struct bench_key *bench_find(struct bench *b, struct span name) {
  pthread_mutex_lock(&b->lock);
  struct bench_key *k = find_locked(b, name);
  pthread_mutex_unlock(&b->lock);
  return k;
}

struct bench_key *bench_get(struct bench *b, struct span name) {
  pthread_mutex_lock(&b->lock);
  struct bench_key *k = find_locked(b, name);
  if (!k) k = make_locked(b, name);
  pthread_mutex_unlock(&b->lock);
  return k;
}

const char *bench_name(const struct bench_key *k) {
  return k->name;
}

void bench_each(struct bench *b, void (*each)(void *context, struct bench_key *key), void *context) {
  pthread_mutex_lock(&b->lock);
  size_t count = b->count; /* keys are only ever added behind it */
  pthread_mutex_unlock(&b->lock);
  for (size_t i = 0; i < count; i++) each(context, b->order[i]);
}

/* ---- reading ---- */

void bench_read(const struct bench_key *k, seconds now, struct bench_state *s) {
  double manual = atomic_load(&k->manual_until), automatic = atomic_load(&k->auto_until);
  bool by_hand = manual > now, by_itself = automatic > now;
  *s = (struct bench_state){
    .manual = by_hand,
    .returning = automatic != 0 && !by_itself,
    .trial = atomic_load(&k->trial) != 0,
    .fails = atomic_load(&k->fails),
  };
  s->benched = by_hand || by_itself || (s->returning && s->trial);
  if (!s->benched) return;
  bool later_by_hand = by_hand && (!by_itself || manual >= automatic);
  s->until = later_by_hand ? manual : by_itself ? automatic : now;
  s->since = later_by_hand ? atomic_load(&k->manual_since) : atomic_load(&k->auto_since);
}

void bench_reason(struct bench_key *k, seconds now, char reason[BENCH_REASON_BYTES]) {
  struct bench_state s;
  reason[0] = 0;
  pthread_mutex_lock(&k->bench->lock);
  bench_read(k, now, &s);
  bool later_by_hand = s.manual && s.until == atomic_load(&k->manual_until);
  if (s.benched) strcpy(reason, later_by_hand ? k->manual_reason : s.until > now ? k->auto_reason : "its trial is under way");
  pthread_mutex_unlock(&k->bench->lock);
}

/* ---- changing ---- */

static void copy_reason(char to[BENCH_REASON_BYTES], const char *from) {
  size_t n = from ? strnlen(from, BENCH_REASON_BYTES - 1) : 0;
  while (n && from && from[n] && (from[n] & 0xc0) == 0x80) n--; /* never half a UTF-8 character */
  if (n) memcpy(to, from, n);
  to[n] = 0;
}

static void set_locked(struct bench_key *k, seconds until, seconds length, seconds now) {
  atomic_store(&k->auto_since, now);
  atomic_store(&k->auto_set, atomic_fetch_add(&k->bench->sequence, 1) + 1);
  atomic_store(&k->auto_until, until);
  atomic_store(&k->trial, 0);
  k->auto_length = length;
}

bool bench_set(struct bench_key *k, seconds duration, const char *reason, uint64_t request, seconds now) {
  if (!(duration > 0)) return false;
  pthread_mutex_lock(&k->bench->lock);
  double holds = atomic_load(&k->auto_until);
  bool longer = holds <= now || now + duration > holds;
  k->auto_by = holds > now && k->auto_by != request ? 0 : request; /* also when it adds nothing: two wanted it */
  if (longer) {
    copy_reason(k->auto_reason, reason);
    set_locked(k, now + duration, duration, now);
  }
  pthread_mutex_unlock(&k->bench->lock);
  return longer;
}

void bench_set_manual(struct bench_key *k, seconds duration, const char *reason, seconds now) {
  pthread_mutex_lock(&k->bench->lock);
  copy_reason(k->manual_reason, reason);
  atomic_store(&k->manual_since, now);
  atomic_store(&k->manual_until, now + duration);
  pthread_mutex_unlock(&k->bench->lock);
}

static void lift_locked(struct bench_key *k) {
  atomic_store(&k->auto_until, 0);
  atomic_store(&k->fails, 0);
  atomic_store(&k->trial, 0);
}

bool bench_lift(struct bench_key *k, bool manual_too, seconds now) {
  pthread_mutex_lock(&k->bench->lock);
  struct bench_state s;
  bench_read(k, now, &s);
  bool was = s.benched && (manual_too || !s.manual || atomic_load(&k->auto_until) > now);
  lift_locked(k);
  if (manual_too) atomic_store(&k->manual_until, 0);
  pthread_mutex_unlock(&k->bench->lock);
  return was;
}

static bool pardonable(const struct bench_key *k, uint64_t request, seconds now) {
  return k && atomic_load(&k->auto_until) > now && k->auto_by == request;
}

size_t bench_pardon(struct bench_key **keys, size_t count, uint64_t request, seconds now) {
  size_t lifted = 0;
  bool too_soon = false;
  struct bench *b = NULL;
  for (size_t i = 0; i < count && !b; i++) b = keys[i] ? keys[i]->bench : NULL;
  if (!b) return 0;
  pthread_mutex_lock(&b->lock);
  for (size_t i = 0; i < count; i++)
    if (pardonable(keys[i], request, now) && now - keys[i]->pardoned < PARDON_EVERY) too_soon = true;
  for (size_t i = 0; i < count && !too_soon; i++) {
    if (!pardonable(keys[i], request, now)) continue;
    lift_locked(keys[i]);
    keys[i]->pardoned = now;
    keys[lifted++] = keys[i];
  }
  pthread_mutex_unlock(&b->lock);
  return lifted;
}

/* ---- attempts ---- */

static bool take_slot(struct bench_key *k, unsigned max) {
  unsigned n = atomic_load(&k->inflight);
  do {
    if (max && n >= max) return false;
  } while (!atomic_compare_exchange_weak(&k->inflight, &n, n + 1));
  return true;
}

static void give_back(struct bench_key *k, uint64_t serial) {
  atomic_compare_exchange_strong(&k->trial, &serial, 0);
}

/* Claims the trial of a returning key. False: it is somebody else's, or the key was benched again in between. */
static bool claim(struct bench_key *k, uint64_t serial, seconds now, bool *claimed) {
  struct bench_state s;
  bench_read(k, now, &s);
  *claimed = false;
  if (!s.returning || s.manual) return !s.benched;
  uint64_t nobody = 0;
  if (!atomic_compare_exchange_strong(&k->trial, &nobody, serial)) return false;
  bench_read(k, now, &s); /* benched, or lifted, in between? */
  *claimed = s.returning && !s.manual;
  if (!*claimed) give_back(k, serial);
  return *claimed;
}

enum bench_begin bench_begin(struct bench_key *candidate, struct bench_key *upstream, unsigned max_inflight, bool anyway,
                             seconds now, struct bench_ticket *ticket) {
  *ticket = (struct bench_ticket){ 0 };
  if (!take_slot(upstream, max_inflight)) return BENCH_FULL;
  struct bench *b = candidate->bench;
  uint64_t serial = atomic_fetch_add(&b->serials, 1) + 1;
  uint64_t seen = atomic_load(&b->sequence);
  bool first, second = false;
  bool free_to_go = claim(candidate, serial, now, &first);
  if (candidate != upstream && (free_to_go || anyway)) free_to_go = claim(upstream, serial, now, &second) && free_to_go;
  if (!free_to_go && !anyway) {
    if (first) give_back(candidate, serial);
    if (second) give_back(upstream, serial);
    atomic_fetch_sub(&upstream->inflight, 1);
    return BENCH_BENCHED;
  }
  if (candidate != upstream) atomic_fetch_add(&candidate->inflight, 1);
  atomic_store(&candidate->last_used, now);
  atomic_store(&upstream->last_used, now);
  *ticket = (struct bench_ticket){ candidate, upstream, seen, serial, first, second, false };
  return BENCH_BEGUN;
}

/* Only attempts begun after a bench was set have a say about it. */
static bool begun_after(const struct bench_key *k, const struct bench_ticket *t) {
  return atomic_load(&k->auto_until) == 0 || t->seen >= atomic_load(&k->auto_set);
}

static bool settle_good(struct bench_key *k, const struct bench_ticket *t) {
  if (atomic_load(&k->auto_until) == 0 && atomic_load(&k->fails) == 0) return false; /* the usual case takes no lock */
  pthread_mutex_lock(&k->bench->lock);
  bool lifts = begun_after(k, t), benched = atomic_load(&k->auto_until) != 0;
  if (lifts) lift_locked(k);
  pthread_mutex_unlock(&k->bench->lock);
  return lifts && benched;
}

/* The claim was not taken away by a newer bench: bench it again as long as last time. */
static seconds settle_failed_trial(struct bench_key *k, const struct bench_ticket *t, uint64_t request, seconds now) {
  seconds length = 0;
  pthread_mutex_lock(&k->bench->lock);
  if (atomic_load(&k->trial) == t->serial) {
    k->auto_by = request;
    length = k->auto_length;
    set_locked(k, now + length, length, now);
  }
  pthread_mutex_unlock(&k->bench->lock);
  return length;
}

void bench_count_failure(const struct bench_ticket *t) {
  if (t->candidate && begun_after(t->candidate, t)) atomic_fetch_add(&t->candidate->fails, 1);
}

struct bench_settled bench_settle(struct bench_ticket *t, enum bench_result result, uint64_t request, seconds now) {
  struct bench_settled settled = { 0 };
  if (!t->candidate || t->settled) return settled;
  t->settled = true;
  switch (result) {
    case BENCH_GOOD:
      settled.lifted_candidate = settle_good(t->candidate, t);
      settled.lifted_upstream = t->upstream != t->candidate && settle_good(t->upstream, t);
      break;
    case BENCH_BAD:
      if (t->trial_candidate) settled.candidate = settle_failed_trial(t->candidate, t, request, now);
      if (t->trial_upstream) settled.upstream = settle_failed_trial(t->upstream, t, request, now);
      break;
    case BENCH_UNDECIDED:
    case BENCH_AGAIN:
      if (t->trial_candidate) give_back(t->candidate, t->serial);
      if (t->trial_upstream) give_back(t->upstream, t->serial);
      break;
  }
  return settled;
}

void bench_release(struct bench_ticket *t, seconds now) {
  if (!t->candidate) return;
  bench_settle(t, BENCH_UNDECIDED, 0, now);
  atomic_fetch_sub(&t->upstream->inflight, 1);
  if (t->candidate != t->upstream) atomic_fetch_sub(&t->candidate->inflight, 1);
  t->candidate = t->upstream = NULL;
}

/* ---- what was seen ---- */

/* A sample lost to a race between two workers does not matter to a moving average. */
static void average(_Atomic double *at, double sample) {
  double old = atomic_load(at);
  atomic_store(at, old == 0 ? sample : old + AVERAGE_WEIGHT * (sample - old));
}

void bench_count(struct bench_key *k, enum outcome outcome, seconds first_event) {
  atomic_fetch_add(&k->attempts[outcome], 1);
  if (outcome == OUTCOME_CLIENT_GONE || outcome == OUTCOME_DEADLINE) return;
  if (first_event >= 0) average(&k->latency, first_event);
  double rate = atomic_load(&k->error_rate);
  atomic_store(&k->error_rate, rate + AVERAGE_WEIGHT * ((outcome == OUTCOME_OK ? 0 : 1) - rate));
}

void bench_tally(const struct bench_key *k, struct bench_tally *tally) {
  *tally = (struct bench_tally){
    .inflight = atomic_load(&k->inflight),
    .latency = atomic_load(&k->latency),
    .error_rate = atomic_load(&k->error_rate),
    .last_used = atomic_load(&k->last_used),
  };
  for (size_t i = 0; i < OUTCOME_COUNT; i++) tally->attempts[i] = atomic_load(&k->attempts[i]);
}

unsigned bench_inflight(const struct bench_key *k) {
  return atomic_load(&k->inflight);
}

void bench_set_drained(struct bench_key *k, bool drained) {
  atomic_store(&k->drained, drained);
}

bool bench_drained(const struct bench_key *k) {
  return atomic_load(&k->drained);
}
