/*
 * Policies: user Lua as an advisor of the engine. One `struct policy` is one loaded version in one VM on one thread; it
 * outlives the requests that began with it (reference-counted). Whatever a hook does wrong, the built-in answers for
 * that call; it is counted, and logged once a second.
 */
#pragma once

#include <stdatomic.h>

#include "config/config.h"
#include "core/failover.h"

struct policy;
struct policy_shared;

enum policy_hook { HOOK_INIT, HOOK_SELECT, HOOK_CLASSIFY, HOOK_BACKOFF, HOOK_OBSERVE, HOOK_GATE, HOOK_EXHAUSTED,
                   HOOK_TICK };
enum { HOOK_COUNT = HOOK_TICK + 1 };
enum policy_fault { FAULT_TIME, FAULT_MEMORY, FAULT_RAISED, FAULT_BAD_RETURN };
enum { FAULT_COUNT = FAULT_BAD_RETURN + 1 };
extern const char *const policy_hook_names[HOOK_COUNT];
extern const char *const policy_fault_names[FAULT_COUNT];

/* Counters of one policy name, shared by its versions on all workers; for metrics. */
enum { HOOK_BUCKETS = 12 };
extern const double policy_hook_bounds[HOOK_BUCKETS]; /* seconds, upper bounds */
struct policy_counts {
  atomic_ulong faults[HOOK_COUNT][FAULT_COUNT];
  atomic_ulong calls[HOOK_COUNT];
  atomic_ulong buckets[HOOK_COUNT][HOOK_BUCKETS + 1]; /* the last: over every bound */
  atomic_ulong nanoseconds[HOOK_COUNT];
};

/* What policies reach of the rest of the process. */
struct policy_host {
  struct bench *bench;
  struct policy_shared *shared;
  struct policy_counts *counts;
  /* A bench was set or lifted by hand of a policy outside any request, or inside one: told to the log. May be NULL. */
  void (*benched)(void *context, const char *key, seconds duration, const char *reason);
  void *context;
};

/* The store behind bullpen.shared: `limit` bytes, striped locks, least recently used out. */
struct policy_shared *policy_shared_new(size_t limit);
void policy_shared_free(struct policy_shared *shared);

/* Loads the spec in a fresh VM, with one reference. NULL and `error` = "file:line: what". A spec with neither file nor
 * ready is the built-in: a policy without hooks, version "builtin". `dry`: load checks; post, bench, unbench, metric
 * and shared do nothing. */
struct policy *policy_load(const struct policy_spec *spec, const struct policy_host *host, bool dry, char *error,
                           size_t error_size);

/* The texts a policy was loaded from: its own file first, then those it required from its folder. `name` is relative to
 * that folder. They live as long as the policy. */
struct policy_source {
  const char *name;
  struct span text;
};
const struct policy_source *policy_sources(const struct policy *policy, size_t *count);
/* As policy_load, from texts in memory instead of the disk (kept versions; text that is only to be checked). They are
 * copied. */
struct policy *policy_load_sources(const struct policy_spec *spec, const struct policy_source *sources, size_t count,
                                   const struct policy_host *host, bool dry, char *error, size_t error_size);

struct policy *policy_ref(struct policy *policy);
void policy_release(struct policy **policy);

/* 12 hex digits of SHA-256 over the names and contents of every file it loaded and its options; or "builtin". */
const char *policy_version(const struct policy *policy);

/* Calls every hook on sample data, several times over; false and `error` on the first that fails. For `bullpen check`
 * and loading. */
bool policy_check(struct policy *policy, char *error, size_t error_size);

/* The advisor of one request. It holds a reference; everything it hands out lives in `arena`. NULL when out of memory.
 * The policy without hooks gives an advisor that costs nothing. `f` is given to each call by the engine. */
struct advisor *policy_advise(struct policy *policy, const struct request *request, struct arena *arena);
/* Tells observers of an event (after the action). */
void policy_tell(struct advisor *advisor, const struct event *event);
/* The request is over. Clears the pointer. Call it while the request and its arena are still there. */
void policy_leave(struct advisor **advisor);
/* Calls `tick`, if there is one: once a second, on one worker. */
void policy_tick(struct policy *policy, seconds now);
