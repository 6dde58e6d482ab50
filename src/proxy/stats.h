/* What a worker counts: written by its own thread, read by the admin's, so every number is an atomic of its own. */
#pragma once

#include <stdatomic.h>
#include <stddef.h>

#include "base/buf.h"
#include "base/clock.h"
#include "core/outcome.h"
#include "core/request.h"

enum { STATS_BUCKETS = 14, STATS_STATUSES = 600 };

struct stats {
  atomic_ulong requests[ROUTE_COUNT][STATS_STATUSES]; /* by the status the client got; 0: none, it left */
  atomic_ulong outcomes[OUTCOME_COUNT];
  atomic_ulong failovers;
  atomic_ulong duration[ROUTE_COUNT][STATS_BUCKETS + 1]; /* the last: over every bound */
  atomic_ulong duration_microseconds[ROUTE_COUNT];
  atomic_ulong bytes;
};

void stats_request(struct stats *stats, enum route route, int status, enum outcome outcome, seconds elapsed, size_t bytes);
void stats_failover(struct stats *stats);

/* The sums over `count` stats, `stride` bytes apart, as Prometheus text. */
void stats_describe(struct buf *out, const struct stats *first, size_t count, size_t stride);
