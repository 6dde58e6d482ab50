/* Sums are made when they are asked for; a request only ever adds to its own worker's numbers. */
#include "proxy/stats.h"

#include "core/dialect.h"

static const double bounds[STATS_BUCKETS] = { 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300 };

void stats_request(struct stats *s, enum route route, int status, enum outcome outcome, seconds elapsed, size_t bytes) {
  size_t code = status > 0 && status < STATS_STATUSES ? (size_t)status : 0, bucket = 0;
  while (bucket < STATS_BUCKETS && elapsed > bounds[bucket]) bucket++;
  atomic_fetch_add_explicit(&s->requests[route][code], 1, memory_order_relaxed);
  atomic_fetch_add_explicit(&s->outcomes[outcome], 1, memory_order_relaxed);
  atomic_fetch_add_explicit(&s->duration[route][bucket], 1, memory_order_relaxed);
  atomic_fetch_add_explicit(&s->duration_microseconds[route], elapsed > 0 ? (unsigned long)(elapsed * 1e6) : 0, memory_order_relaxed);
  atomic_fetch_add_explicit(&s->bytes, bytes, memory_order_relaxed);
}

void stats_failover(struct stats *s) {
  atomic_fetch_add_explicit(&s->failovers, 1, memory_order_relaxed);
}

struct sum {
  const struct stats *first;
  size_t count, stride;
};

/* The sum of one number, named by its offset, over all workers. */
static unsigned long sum_at(const struct sum *sum, const atomic_ulong *of_first) {
  size_t offset = (size_t)((const char *)of_first - (const char *)sum->first);
  unsigned long total = 0;
  for (size_t i = 0; i < sum->count; i++)
    total += atomic_load((const atomic_ulong *)((const char *)sum->first + i * sum->stride + offset));
  return total;
}

static void describe_requests(struct buf *out, const struct sum *sum) {
  buf_puts(out, "# HELP bullpen_requests_total Client requests that have ended, by route and by the status the client got (0: it left first).\n"
                "# TYPE bullpen_requests_total counter\n");
  for (size_t r = 0; r < ROUTE_COUNT; r++)
    for (size_t code = 0; code < STATS_STATUSES; code++) {
      unsigned long n = sum_at(sum, &sum->first->requests[r][code]);
      if (n) buf_printf(out, "bullpen_requests_total{route=\"%s\",status=\"%zu\"} %lu\n", route_name((enum route)r), code, n);
    }
  buf_puts(out, "# HELP bullpen_request_outcomes_total Client requests that have ended, by outcome.\n"
                "# TYPE bullpen_request_outcomes_total counter\n");
  for (size_t o = 0; o < OUTCOME_COUNT; o++)
    buf_printf(out, "bullpen_request_outcomes_total{outcome=\"%s\"} %lu\n", outcome_name((enum outcome)o), sum_at(sum, &sum->first->outcomes[o]));
}

static void describe_duration(struct buf *out, const struct sum *sum, size_t route) {
  const char *name = route_name((enum route)route);
  unsigned long seen = 0;
  for (size_t b = 0; b < STATS_BUCKETS; b++) {
    seen += sum_at(sum, &sum->first->duration[route][b]);
    buf_printf(out, "bullpen_request_duration_seconds_bucket{route=\"%s\",le=\"%g\"} %lu\n", name, bounds[b], seen);
  }
  seen += sum_at(sum, &sum->first->duration[route][STATS_BUCKETS]);
  buf_printf(out, "bullpen_request_duration_seconds_bucket{route=\"%s\",le=\"+Inf\"} %lu\n", name, seen);
  buf_printf(out, "bullpen_request_duration_seconds_sum{route=\"%s\"} %.6f\n", name,
             (double)sum_at(sum, &sum->first->duration_microseconds[route]) * 1e-6);
  buf_printf(out, "bullpen_request_duration_seconds_count{route=\"%s\"} %lu\n", name, seen);
}

void stats_describe(struct buf *out, const struct stats *first, size_t count, size_t stride) {
  struct sum sum = { first, count, stride };
  describe_requests(out, &sum);
  buf_puts(out, "# HELP bullpen_request_duration_seconds From the complete request to the end of the answer.\n"
                "# TYPE bullpen_request_duration_seconds histogram\n");
  for (size_t r = 0; r < ROUTE_COUNT; r++) describe_duration(out, &sum, r);
  buf_printf(out, "# HELP bullpen_failovers_total Attempts begun on another candidate after a failure.\n# TYPE bullpen_failovers_total counter\n"
                  "bullpen_failovers_total %lu\n", sum_at(&sum, &first->failovers));
  buf_printf(out, "# HELP bullpen_response_bytes_total Body bytes released to clients.\n# TYPE bullpen_response_bytes_total counter\n"
                  "bullpen_response_bytes_total %lu\n", sum_at(&sum, &first->bytes));
}
