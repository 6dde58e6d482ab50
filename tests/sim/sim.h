/*
 * The simulator's own state, shared by its files: sim.c (the clock, the requests, the upstreams' behaviour), advice.c (the advisors: a random
 * one, and the built-in with somebody looking over its shoulder), rules.c (what must hold after each step).
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/failover.h"

enum { RUNS_MAX = 48, UPSTREAMS_MAX = 5, CANDIDATES_MAX = 10, KEYS_MAX = UPSTREAMS_MAX + CANDIDATES_MAX, ATTEMPTS_MAX = 16 };

/* Where the transfer of the open attempt stands, as its driver sees it. */
enum stage { STAGE_NONE, STAGE_HEAD, STAGE_ERROR_BODY, STAGE_HOLD, STAGE_STREAM, STAGE_DELIVER };

/* What select and the verdicts said about the next start. */
struct expected {
  bool picked;      /* somebody may start */
  unsigned member;
  bool benched;     /* it was seen benched when it was picked, or its own verdict benched it: that does not stop it */
  bool retry;       /* by a retry: select was not asked */
  seconds delay_most; /* the longest wait allowed before it; SECONDS_NEVER: any */
  uint64_t step;    /* when it was picked */
};

struct run {
  bool live;
  uint64_t number, serial; /* the request's */
  struct failover *f;
  struct arena arena;
  struct request request;
  struct advisor advisor;
  struct advisor_ops ops;
  const struct candidate *pool[CANDIDATES_MAX];
  size_t count;
  unsigned limit;
  bool builtin, as_is, poisoned;
  /* the transfer */
  const struct attempt *open;
  enum stage stage;
  seconds fact_at, leave_at;
  unsigned events;
  bool paused;
  /* what was ordered */
  unsigned starts, finished, commits, delivers, answers, ends;
  unsigned selects; /* in a row, with no start after them */
  bool gone, terminal, rejected, waited_out;
  struct expected next;
  bool left[CANDIDATES_MAX], dead[CANDIDATES_MAX];
  unsigned tried[CANDIDATES_MAX];
  const struct attempt *attempts[ATTEMPTS_MAX];
  uint64_t started_step[ATTEMPTS_MAX], classified[ATTEMPTS_MAX];
  struct order said; /* the FAIL, LAST or DELIVER */
};

/* A second, slow-witted registry: what the contract says about one key. */
struct key {
  struct bench_key *key;
  unsigned max_inflight, open; /* transfers under way there */
  seconds manual_until, until; /* 0: none */
  unsigned fails;
  uint64_t set_step;           /* when its automatic bench was last set */
  seconds length;              /* for how long that was */
  uint64_t by;                 /* the request that alone set it; 0: several, or nobody */
  seconds pardoned;
  const struct attempt *holder; /* of its trial */
};

/* What one step did, as it was ordered and told. */
struct deed {
  const struct attempt *good, *bad, *failed, *started, *closed; /* closed: its transfer is over */
  unsigned told_benched, told_again, told_lifted, told_pardoned; /* events; `again`: its trial failed */
  bool wants_pardon;
};

struct sim {
  uint64_t seed, random;
  uint64_t begun, serials, step, steps, trials, pardons, benches;
  unsigned limit_begun; /* of this world */
  seconds now;
  double grain; /* times are whole multiples of it; 0: any */
  struct bench *bench;
  struct arena arena;
  struct candidate candidates[CANDIDATES_MAX];
  unsigned health[CANDIDATES_MAX];
  struct key keys[KEYS_MAX];
  size_t candidate_count, upstream_count, key_count;
  struct run runs[RUNS_MAX];
  size_t run_count; /* at most so many at once */
  const char *fact; /* what the step was about */
  bool trace;
  struct deed deed;
};

extern struct sim sim;

/* ---- sim.c ---- */

uint64_t sim_random(void);
unsigned sim_below(unsigned n);  /* [0,n) */
double sim_unit(void);           /* [0,1) */
bool sim_chance(double p);
/* Prints the rule, the words, and how to see it again; ends the program. */
void sim_broken(const struct run *run, const char *rule, const char *format, ...) __attribute__((format(printf, 3, 4), noreturn));
void sim_trace(const struct run *run, const char *format, ...) __attribute__((format(printf, 2, 3)));
struct key *sim_key(const struct bench_key *key);

/* ---- advice.c ---- */

/* Gives the run an advisor: the built-in, watched, or a random one. */
void advice_choose(struct run *run);

/* ---- rules.c ---- */

/* A member's state as a policy must see it, read out of the registry apart from the engine's own reading. */
struct seen {
  bool benched, manual, full, drained;
  seconds until;
};
struct seen rules_see(const struct candidate *c);
/* Who the built-in must pick; the pool's size: nobody. */
unsigned rules_pick(const struct run *run);
/* May a policy pick that member? */
bool rules_may_pick(const struct run *run, unsigned member);
/* What the built-in must say about a failed attempt. */
void rules_verdict(const struct run *run, const struct attempt *a, const struct judgement *j);

/* The open transfer is over. */
void rules_close(struct run *run);
/* An operator, or a policy's own code. True: benched longer than before. */
bool rules_set(struct key *k, seconds duration, bool manual);
void rules_lift(struct key *k, bool manual_too);

void rules_before_step(void);
void rules_order(struct run *run, const struct order *order);
/* `acting` NULL: an operator's step. */
void rules_after_step(struct run *acting);
/* Nobody is live: nothing may be held. */
void rules_at_end(void);
