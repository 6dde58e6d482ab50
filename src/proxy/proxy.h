/*
 * The data plane as a whole: opens the listeners, runs the workers, drains and stops them. What happens inside is the other files' business.
 */
#pragma once

#include <stdbool.h>

#include "base/buf.h"
#include "config/config.h"
#include "core/bench.h"
#include "policy/policy.h"

struct proxy;

struct proxy_options {
  const struct config *config; /* a reference is taken */
  struct bench *bench;
  struct policy_counts *policy_counts;
  struct policy_shared *shared;
};

/* Opens every listener (logging `listening` with its real address, role=proxy), loads the policies for every worker and starts the threads. NULL
 * and `error` otherwise; nothing is left open then. */
struct proxy *proxy_start(const struct proxy_options *options, char *error, size_t error_size);
/* Stops accepting; requests in flight go on, new ones are refused with 503. */
void proxy_drain(struct proxy *proxy);
/* Requests in flight. */
unsigned proxy_inflight(const struct proxy *proxy);
bool proxy_draining(const struct proxy *proxy);
/* Ends everything now. Clears the pointer. */
void proxy_stop(struct proxy **proxy);

/* The policy version that new requests begin with. */
const char *proxy_policy_version(const struct proxy *proxy);
unsigned proxy_workers(const struct proxy *proxy);
/* The data plane's metrics as Prometheus text. */
void proxy_describe(const struct proxy *proxy, struct buf *out);
