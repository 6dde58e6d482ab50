/*
 * A hash table in 16 stripes, each with its own lock, share of the byte limit, and list from the newest used to the
 * oldest.
 *
 *   key --hash--> stripe --> bucket --> entry <--> entry <--> ... (newest to oldest used)
 *
 * An entry is one allocation: header, key, string. What does not fit pushes out the oldest used; what has expired
 * counts as absent and goes when somebody asks for it, or when it is the oldest. An entry may take at most a quarter of
 * its stripe, so that one key cannot sweep out all others. Locks are held for a few hundred nanoseconds and never
 * across a call into Lua.
 */
#include "policy/shared.h"

#include <pthread.h>
#include <stdlib.h>

enum { STRIPES = 16, LEAST_BUCKETS = 64, BYTES_PER_BUCKET = 256, ENTRY_OVERHEAD = 16, LARGEST_PART = 4 };

struct entry {
  struct entry *next;         /* in its bucket */
  struct entry *newer, *older;
  uint64_t hash;
  seconds expires;
  size_t size;                /* what it counts for */
  size_t key_length;
  struct shared_value value;  /* a string lies in `bytes`, behind the key */
  char bytes[];
};

struct stripe {
  _Alignas(64) pthread_mutex_t lock;
  struct entry **buckets;
  struct entry *newest, *oldest;
  size_t used;
};

struct policy_shared {
  struct stripe stripes[STRIPES];
  size_t stripe_limit;
  size_t bucket_count; /* of each stripe; a power of two */
};

struct policy_shared *policy_shared_new(size_t limit) {
  struct policy_shared *s = aligned_alloc(_Alignof(struct stripe), sizeof *s);
  if (!s) return NULL;
  memset(s, 0, sizeof *s);
  s->stripe_limit = limit / STRIPES;
  s->bucket_count = LEAST_BUCKETS;
  while (s->bucket_count < s->stripe_limit / BYTES_PER_BUCKET) s->bucket_count *= 2;
  for (size_t i = 0; i < STRIPES; i++) pthread_mutex_init(&s->stripes[i].lock, NULL);
  bool good = true;
  for (size_t i = 0; i < STRIPES; i++) {
    s->stripes[i].buckets = calloc(s->bucket_count, sizeof(struct entry *));
    good = good && s->stripes[i].buckets;
  }
  if (good) return s;
  policy_shared_free(s);
  return NULL;
}

void policy_shared_free(struct policy_shared *s) {
  if (!s) return;
  for (size_t i = 0; i < STRIPES; i++) {
    for (struct entry *e = s->stripes[i].newest; e;) {
      struct entry *older = e->older;
      free(e);
      e = older;
    }
    free(s->stripes[i].buckets);
    pthread_mutex_destroy(&s->stripes[i].lock);
  }
  free(s);
}

/* ---- one stripe; its lock is held ---- */

static uint64_t hash_of(struct span key) {
  uint64_t h = 14695981039346656037u;
  for (size_t i = 0; i < key.n; i++) h = (h ^ (unsigned char)key.p[i]) * 1099511628211u;
  return h ^ h >> 29;
}

static struct stripe *stripe_of(struct policy_shared *s, uint64_t hash) {
  return &s->stripes[hash % STRIPES];
}

static struct entry **bucket_of(const struct policy_shared *s, const struct stripe *stripe, uint64_t hash) {
  return &stripe->buckets[hash / STRIPES & (s->bucket_count - 1)];
}

static void list_remove(struct stripe *stripe, struct entry *e) {
  *(e->newer ? &e->newer->older : &stripe->newest) = e->older;
  *(e->older ? &e->older->newer : &stripe->oldest) = e->newer;
}

static void list_add(struct stripe *stripe, struct entry *e) {
  e->newer = NULL;
  e->older = stripe->newest;
  *(stripe->newest ? &stripe->newest->newer : &stripe->oldest) = e;
  stripe->newest = e;
}

static void entry_drop(struct policy_shared *s, struct stripe *stripe, struct entry *e) {
  struct entry **at = bucket_of(s, stripe, e->hash);
  while (*at != e) at = &(*at)->next;
  *at = e->next;
  list_remove(stripe, e);
  stripe->used -= e->size;
  free(e);
}

/* The live entry of that key, which becomes the newest used. */
static struct entry *entry_find(struct policy_shared *s, struct stripe *stripe, struct span key, uint64_t hash,
                                seconds now) {
  struct entry *e = *bucket_of(s, stripe, hash);
  while (e && (e->hash != hash || !span_eq(key, (struct span){ e->bytes, e->key_length }))) e = e->next;
  if (!e) return NULL;
  if (e->expires <= now) {
    entry_drop(s, stripe, e);
    return NULL;
  }
  list_remove(stripe, e);
  list_add(stripe, e);
  return e;
}

/* Adds an entry for a key that is absent, and pushes out what is too much. */
static enum shared_result entry_add(struct policy_shared *s, struct stripe *stripe, struct span key, uint64_t hash,
                                    const struct shared_value *value, seconds expires) {
  size_t text = value->kind == SHARED_STRING ? value->string.n : 0;
  size_t size = sizeof(struct entry) + key.n + text + ENTRY_OVERHEAD;
  if (size > s->stripe_limit / LARGEST_PART) return SHARED_TOO_LARGE;
  struct entry *e = malloc(sizeof *e + key.n + text);
  if (!e) return SHARED_NO_MEMORY;
  *e = (struct entry){ .hash = hash, .expires = expires, .size = size, .key_length = key.n, .value = *value };
  memcpy(e->bytes, key.p, key.n);
  if (text) memcpy(e->bytes + key.n, value->string.p, text);
  if (value->kind == SHARED_STRING) e->value.string.p = e->bytes + key.n;
  while (stripe->oldest && stripe->used + size > s->stripe_limit) entry_drop(s, stripe, stripe->oldest);
  struct entry **bucket = bucket_of(s, stripe, hash);
  e->next = *bucket;
  *bucket = e;
  list_add(stripe, e);
  stripe->used += size;
  return SHARED_DONE;
}

/* ---- calls ---- */

enum shared_result shared_get(struct policy_shared *s, struct span key, seconds now, char *room, size_t size,
                              struct shared_value *value) {
  uint64_t hash = hash_of(key);
  struct stripe *stripe = stripe_of(s, hash);
  pthread_mutex_lock(&stripe->lock);
  const struct entry *e = entry_find(s, stripe, key, hash, now);
  if (e) {
    *value = e->value;
    if (value->kind == SHARED_STRING && value->string.n <= size) {
      memcpy(room, value->string.p, value->string.n);
      value->string.p = room;
    }
  }
  pthread_mutex_unlock(&stripe->lock);
  return e ? SHARED_DONE : SHARED_ABSENT;
}

enum shared_result shared_set(struct policy_shared *s, struct span key, const struct shared_value *value,
                              seconds ttl, bool only_absent, seconds now) {
  uint64_t hash = hash_of(key);
  struct stripe *stripe = stripe_of(s, hash);
  enum shared_result result = SHARED_PRESENT;
  pthread_mutex_lock(&stripe->lock);
  struct entry *e = entry_find(s, stripe, key, hash, now);
  if (!e || !only_absent) {
    result = entry_add(s, stripe, key, hash, value, now + ttl);
    /* The old one goes last: what cannot be stored changes nothing. It was the second newest, and the push may have
     * taken it. */
    if (e && result == SHARED_DONE && stripe->newest->older == e) entry_drop(s, stripe, e);
  }
  pthread_mutex_unlock(&stripe->lock);
  return result;
}

static double as_double(const struct shared_value *v) {
  return v->kind == SHARED_INTEGER ? (double)v->integer : v->number;
}

/* Integers stay integers unless they overflow. */
static struct shared_value sum_of(const struct shared_value *a, const struct shared_value *b) {
  struct shared_value sum = { .kind = SHARED_INTEGER };
  bool whole = a->kind == SHARED_INTEGER && b->kind == SHARED_INTEGER;
  if (whole && !__builtin_add_overflow(a->integer, b->integer, &sum.integer)) return sum;
  return (struct shared_value){ .kind = SHARED_NUMBER, .number = as_double(a) + as_double(b) };
}

enum shared_result shared_add(struct policy_shared *s, struct span key, const struct shared_sum *sum, seconds now,
                              struct shared_value *value) {
  uint64_t hash = hash_of(key);
  struct stripe *stripe = stripe_of(s, hash);
  enum shared_result result = SHARED_DONE;
  pthread_mutex_lock(&stripe->lock);
  struct entry *e = entry_find(s, stripe, key, hash, now);
  if (e && e->value.kind == SHARED_STRING) {
    result = SHARED_NOT_NUMBER;
  } else {
    *value = sum_of(e ? &e->value : &sum->init, &sum->by);
    if (as_double(value) > sum->max) result = SHARED_MAX;
    else if (e) e->value = *value;
    else result = entry_add(s, stripe, key, hash, value, now + sum->ttl);
  }
  pthread_mutex_unlock(&stripe->lock);
  return result;
}

enum shared_result shared_delete(struct policy_shared *s, struct span key, seconds now) {
  uint64_t hash = hash_of(key);
  struct stripe *stripe = stripe_of(s, hash);
  pthread_mutex_lock(&stripe->lock);
  struct entry *e = entry_find(s, stripe, key, hash, now);
  if (e) entry_drop(s, stripe, e);
  pthread_mutex_unlock(&stripe->lock);
  return e ? SHARED_DONE : SHARED_ABSENT;
}

size_t shared_used(struct policy_shared *s) {
  size_t used = 0;
  for (size_t i = 0; i < STRIPES; i++) {
    pthread_mutex_lock(&s->stripes[i].lock);
    used += s->stripes[i].used;
    pthread_mutex_unlock(&s->stripes[i].lock);
  }
  return used;
}
