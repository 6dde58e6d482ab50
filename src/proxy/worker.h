/*
 * The data plane's threads. Each worker owns a loop, a front, an upstream pool and one Lua VM per policy, and shares nothing on a request's way
 * but what struct proxy names: atomics, the bench registry, and the frozen configuration.
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "config/config.h"
#include "core/bench.h"
#include "policy/policy.h"
#include "proxy/loop.h"
#include "proxy/stats.h"
#include "proxy/upstream.h"

struct exchange;
struct front;
struct ids;

/* What all workers share. */
struct proxy {
  const struct config *config;
  struct bench *bench;
  struct policy_shared *shared;
  struct policy_counts *policy_counts;
  struct ids *ids;
  struct worker *workers;
  unsigned worker_count;
  _Atomic uint64_t serial; /* of requests */
  atomic_size_t bodies;    /* bytes of request bodies held (limits.bodies) */
  atomic_uint connections; /* open (limits.connections) */
  atomic_uint inflight;    /* requests */
  atomic_bool draining, stopping;
};

struct listener;

struct worker {
  struct proxy *proxy;
  unsigned number;
  pthread_t thread;
  bool running;
  struct loop *loop;
  struct front *front;
  struct upstreams *upstreams;
  const struct config *config;
  struct policy *policy;    /* the default one */
  struct policy **policies; /* as config->policies */
  struct listener *listeners;
  struct stats stats;
  struct exchange *posted; /* exchanges with something to do */
  unsigned peak;           /* connections open at once, since memory was last given back */
  uint64_t random;         /* state of the generator */
};

/* The next random number of this worker. */
uint64_t worker_random(struct worker *worker);
double worker_random_unit(void *worker); /* [0,1) */

/* The policy of that name (NULL: the default). */
struct policy *worker_policy(const struct worker *worker, const char *name);
