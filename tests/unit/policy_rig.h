/*
 * What the tests of the policy room stand on: one request with three candidates under the real engine, a registry, a
 * store, counters, and a policy loaded from text. Time is the test's own; random numbers are all a half.
 */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "policy/parts.h"
#include "policy/shared.h"

enum { RIG_POOL = 3 };

struct rig {
  struct arena arena;
  struct bench *bench;
  struct policy_shared *shared;
  struct policy_counts counts;
  struct policy_host host;
  struct policy_spec spec;
  struct request request;
  struct candidate candidates[RIG_POOL];
  const struct candidate *pool[RIG_POOL];
  struct policy *policy;
  struct advisor *advisor;
  struct failover *f;
  struct attempt *running; /* as the last order said */
  seconds now;
  char error[ERROR_BYTES];
};

static const struct value_pair rig_tag_list[] = { { { .kind = VALUE_STRING, .string = { "tier", 4 } },
                                                    { .kind = VALUE_STRING, .string = { "batch", 5 } } } };
static const struct value rig_tags = { .kind = VALUE_TABLE, .table = { rig_tag_list, 1 } };
static const struct header rig_headers[] = {
  { { "User-Agent", 10 }, { "test/1", 6 } }, { { "Authorization", 13 }, { "Bearer secret", 13 } },
  { { "X-Api-Key", 9 }, { "secret", 6 } },
  { { "Cookie", 6 }, { "a=b", 3 } },         { { "Accept", 6 }, { "a", 1 } },
  { { "accept", 6 }, { "b", 1 } },
};
static const char rig_body[] =
  "{\"model\":\"smart\",\"user\":\"u\\u0041\",\"n\":2,\"t\":0.5,\"stream\":true,\"messages\":[{\"content\":\"hi\"}]}";

static double rig_half(void *context) {
  (void)context;
  return 0.5;
}

static inline struct rig *rig_new(void) {
  static const char *const names[RIG_POOL][3] = {
    { "openai/gpt-4o", "openai", "gpt-4o" }, { "azure/gpt-4o-eu", "azure", "gpt-4o-eu" }, { "spare/", "spare", "" },
  };
  struct rig *r = calloc(1, sizeof *r);
  assert_non_null(r);
  r->bench = bench_new(16);
  r->shared = policy_shared_new(1 << 20);
  r->host = (struct policy_host){ .bench = r->bench, .shared = r->shared, .counts = &r->counts };
  r->spec = (struct policy_spec){ .name = "test", .time = 5, .memory = 4 << 20 };
  r->now = 1000;
  for (size_t i = 0; i < RIG_POOL; i++) {
    r->candidates[i] = (struct candidate){
      .name = names[i][0], .upstream_name = names[i][1], .model = names[i][2], .weight = 1.5, .priority = (int)i,
      .tags = i ? NULL : &rig_tags,
      .timeouts = { 5, 300, 300, 120, 20 }, .max_inflight = 2,
      .key = bench_get(r->bench, span_of(names[i][0])), .upstream_key = bench_get(r->bench, span_of(names[i][1])),
    };
    r->pool[i] = &r->candidates[i];
  }
  r->request = (struct request){
    .id = "r-1", .route = ROUTE_CHAT, .method = "POST", .path = SPAN("/v1/chat/completions"), .model = SPAN("smart"),
    .stream = true,
    .client = "team-a", .client_tags = &rig_tags, .session = "s-1", .headers = { rig_headers, 6 },
    .body = { rig_body, sizeof rig_body - 1 },
    .received = 1000, .deadline = 1900,
  };
  return r;
}

/* Loads the text as policy.lua; it must be good. */
static inline void rig_load(struct rig *r, const char *text) {
  struct policy_source source = { "policy.lua", span_of(text) };
  r->policy = policy_load_sources(&r->spec, &source, 1, &r->host, false, r->error, sizeof r->error);
  if (!r->policy) fail_msg("%s", r->error);
}

/* Takes orders until there are none; events go to the observers. */
static inline void rig_take(struct rig *r) {
  struct order o;
  while (failover_next(r->f, &o) != ORDER_NONE) {
    if (o.kind == ORDER_START) r->running = o.attempt;
    if (o.kind == ORDER_TELL) policy_tell(r->advisor, &o.event);
  }
}

/* The request begins with the policy as its advisor. */
static inline void rig_begin(struct rig *r) {
  r->advisor = policy_advise(r->policy, &r->request, &r->arena);
  assert_non_null(r->advisor);
  struct failover_setup setup = {
    .arena = &r->arena, .request = &r->request, .serial = 7, .advisor = r->advisor, .pool = r->pool,
    .pool_count = RIG_POOL,
    .max_attempts = 8, .bench = r->bench, .random = rig_half,
  };
  r->f = failover_begin(&setup, r->now);
  assert_non_null(r->f);
  rig_take(r);
}

/* The running attempt is answered with that status. */
static inline void rig_status(struct rig *r, int status, const char *body) {
  static const struct header headers[] = { { { "Retry-After", 11 }, { "7", 1 } },
                                           { { "Set-Cookie", 10 }, { "x", 1 } } };
  failover_head(r->f, status, (struct headers){ headers, 2 }, r->now);
  failover_error_body(r->f, span_of(body), true, true, r->now);
  rig_take(r);
}

static inline struct rig *rig_with(const char *text) {
  struct rig *r = rig_new();
  rig_load(r, text);
  rig_begin(r);
  return r;
}

static inline unsigned long rig_faults(const struct rig *r) {
  unsigned long all = 0;
  for (size_t h = 0; h < HOOK_COUNT; h++)
    for (size_t f = 0; f < FAULT_COUNT; f++) all += atomic_load(&r->counts.faults[h][f]);
  return all;
}

static inline void rig_free(struct rig *r) {
  policy_leave(&r->advisor);
  policy_release(&r->policy);
  arena_free(&r->arena);
  policy_shared_free(r->shared);
  bench_free(r->bench);
  free(r);
}
