/*
 * The bench registry: which keys (a candidate, or a whole upstream) are sidelined, until when, why; and, beside it, what has been seen of
 * each key (in flight, latency, failures). Process-wide, shared by all workers, chains and policies; keys live as long as the registry, so a
 * pointer to one is kept in the configuration and no name is looked up on a request's way.
 *
 * Reads are lock-free. Writers of benches take the registry's one lock. Trials are claimed by compare-and-set.
 *
 *              set                    time is up                 claim
 *   on duty ----------> benched ----------------------> returning --------> on trial
 *      ^                   ^                                ^                 |  |  |
 *      |                   |          undecided             +-----------------+  |  |
 *      |                   +------------- failed: as long as last time ----------+  |
 *      +------------------------------------- success ------------------------------+
 *
 * A key holds a manual and an automatic bench apart and is benched until the later of the two. Only attempts begun after a bench was set
 * lift it or raise its count. All times are seconds of the caller's clock; SECONDS_NEVER as `until`: until lifted.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/clock.h"
#include "core/outcome.h"

struct bench;     /* the registry */
struct bench_key; /* one key */

enum { BENCH_REASON_BYTES = 128 };

/* At most `limit` keys; NULL when out of memory. */
struct bench *bench_new(size_t limit);
void bench_free(struct bench *bench);

/* The key of that name, made if needed. NULL when the registry is full or memory is out. */
struct bench_key *bench_get(struct bench *bench, struct span name);
/* Only if it exists. */
struct bench_key *bench_find(struct bench *bench, struct span name);
const char *bench_name(const struct bench_key *key);
/* Calls `each` for every key, in the order they were made. */
void bench_each(struct bench *bench, void (*each)(void *context, struct bench_key *key), void *context);

struct bench_state {
  bool benched;      /* by this key's own benches, or because its trial is being made by somebody else */
  bool manual;       /* a manual bench holds it */
  bool returning;    /* an automatic bench has ended and no trial has decided yet */
  bool trial;        /* a trial is under way */
  seconds until;     /* when it is back; SECONDS_NEVER: until lifted; 0 when not benched */
  seconds since;
  unsigned fails;    /* consecutive failures */
};

/* The state at `now`, without a lock. */
void bench_read(const struct bench_key *key, seconds now, struct bench_state *state);
/* The reason of the bench that holds it, copied; empty when it is not benched. Takes the lock. */
void bench_reason(struct bench_key *key, seconds now, char reason[BENCH_REASON_BYTES]);

/* Sets an automatic bench for `duration` seconds (infinite: until lifted), never shortening one that holds. `request` is the serial of the
 * request that does it. True when the key is benched longer than before. */
bool bench_set(struct bench_key *key, seconds duration, const char *reason, uint64_t request, seconds now);
/* Sets the manual bench, replacing an earlier one, shorter too. */
void bench_set_manual(struct bench_key *key, seconds duration, const char *reason, seconds now);
/* Lifts the automatic bench (a policy), or both kinds (an operator). True when the key was benched. */
bool bench_lift(struct bench_key *key, bool manual_too, seconds now);
/* Lifts those automatic benches of the keys that `request` alone set, once per 30 s a key; all or none. How many were lifted; those come first in
 * `keys` then. */
size_t bench_pardon(struct bench_key **keys, size_t count, uint64_t request, seconds now);

/* What one attempt holds in the registry, from begin to release. */
struct bench_ticket {
  struct bench_key *candidate, *upstream; /* NULL when not begun */
  uint64_t seen;               /* how many benches had been set, process-wide, when it began: tells which came after */
  uint64_t serial;             /* of the attempt: who may settle a claim */
  bool trial_candidate, trial_upstream;
  bool settled;
};

enum bench_begin {
  BENCH_BEGUN,
  BENCH_BENCHED, /* benched meanwhile, or its trial is somebody else's */
  BENCH_FULL,    /* max_inflight attempts are in flight at its upstream */
};

/* Begins an attempt: takes the in-flight slot and claims the trials that are due, all or nothing. `anyway`: also when benched (contract
 * rule 5.6); a bench that holds is then no trial. */
enum bench_begin bench_begin(struct bench_key *candidate, struct bench_key *upstream, unsigned max_inflight, bool anyway,
                             seconds now, struct bench_ticket *ticket);

enum bench_result {
  BENCH_GOOD,      /* the commit, or an accepted answer under 500: benches (automatic) and counts begun before this attempt are cleared */
  BENCH_BAD,       /* failed: a trial whose keys were not benched anew is benched as long as last time */
  BENCH_UNDECIDED, /* client gone, deadline, stop: a claimed trial is given back */
  BENCH_AGAIN,     /* failed, and the same request tries the candidate again (`retry`): a claim is given back for its next try */
};

/* The attempt failed: the candidate's count of consecutive failures goes up. Call it before benching for it. */
void bench_count_failure(const struct bench_ticket *ticket);
/* What settling changed: benches that a success lifted, and for how long a failed trial's keys were benched again (0: not). */
struct bench_settled {
  bool lifted_candidate, lifted_upstream;
  seconds candidate, upstream;
};

/* Says what became of it; once a ticket (later calls do nothing). */
struct bench_settled bench_settle(struct bench_ticket *ticket, enum bench_result result, uint64_t request, seconds now);
/* Gives the in-flight slot back, when the transfer is over; settles as UNDECIDED what was not settled. */
void bench_release(struct bench_ticket *ticket, seconds now);

/* What has been seen of a key, by all workers. */
struct bench_tally {
  unsigned inflight;
  double latency;    /* moving average of seconds to the first event; 0: none yet */
  double error_rate; /* moving, 0..1 */
  seconds last_used; /* 0: never */
  uint64_t attempts[OUTCOME_COUNT];
};
void bench_count(struct bench_key *key, enum outcome outcome, seconds first_event); /* first_event < 0: none */
void bench_tally(const struct bench_key *key, struct bench_tally *tally);
unsigned bench_inflight(const struct bench_key *key);

/* Taken out of service by an operator (`drain`), whatever rule 5.6 says; kept for the life of the registry. */
void bench_set_drained(struct bench_key *key, bool drained);
bool bench_drained(const struct bench_key *key);
