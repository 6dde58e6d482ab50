/*
 * The store behind bullpen.shared: what policies on all workers know together. Keys are byte strings; values are
 * strings, integers and numbers. All calls are atomic and may come from any thread; `now` is the caller's clock.
 */
#pragma once

#include "base/clock.h"
#include "policy/policy.h"

enum shared_result {
  SHARED_DONE,
  SHARED_ABSENT,
  SHARED_PRESENT,    /* `only_absent`, and it is there */
  SHARED_MAX,        /* the sum would be over `max`: nothing was changed */
  SHARED_NOT_NUMBER, /* what is there is a string */
  SHARED_TOO_LARGE,  /* over a quarter of a stripe (1/64 of the limit) */
  SHARED_NO_MEMORY,
};

struct shared_value {
  enum { SHARED_INTEGER, SHARED_NUMBER, SHARED_STRING } kind;
  long long integer;
  double number;
  struct span string;
};

/* The value, used just now. A string is copied to `room`; when it is longer than `size`, string.n says how long and
 * nothing is copied. */
enum shared_result shared_get(struct policy_shared *shared, struct span key, seconds now, char *room, size_t size,
                              struct shared_value *value);
/* `ttl` seconds, SECONDS_NEVER: until it is pushed out. `only_absent`: an existing one stays. */
enum shared_result shared_set(struct policy_shared *shared, struct span key, const struct shared_value *value,
                              seconds ttl, bool only_absent, seconds now);

struct shared_sum {
  struct shared_value by, init; /* numbers; `init` when it is absent, then `ttl` counts too */
  seconds ttl;
  double max;                   /* INFINITY: none */
};
/* Adds; the new value is in *value. */
enum shared_result shared_add(struct policy_shared *shared, struct span key, const struct shared_sum *sum, seconds now,
                              struct shared_value *value);
enum shared_result shared_delete(struct policy_shared *shared, struct span key, seconds now);
/* Bytes in use, for tests and metrics. */
size_t shared_used(struct policy_shared *shared);
