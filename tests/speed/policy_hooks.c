/*
 * What a hook call of each ready-made policy costs, inputs and verdict included: nanoseconds, and bytes that Lua allocates, with 2, 10 and 100
 * candidates. `first` is the first select and classify of a request, when its tables are made; `later` are those of the same request after. The
 * engine, the registry and the policy room are the real ones; an attempt has failed with 503.
 *
 * Bytes are counted with the collector stopped, times with it running.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "policy/parts.h"

#define NO_POLICY "(empty hooks)" /* what inputs and verdicts cost by themselves */
static const char empty_hooks[] = "return { select = function(_, pool) return pool[1] end, classify = function() return 'next' end,\n"
                                  "backoff = function() return 0 end }";

enum { POOL_MOST = 100, ROUNDS = 2000, REPEAT = 7 };

struct bed {
  struct arena arena, turn;
  struct bench *bench;
  struct policy_shared *shared;
  struct policy_counts counts;
  struct policy *policy;
  struct candidate list[POOL_MOST];
  const struct candidate *pool[POOL_MOST];
  struct request request;
  struct advisor *advisor;
  struct failover *f;
  struct attempt *running;
};

struct cost {
  double select, classify, backoff; /* nanoseconds */
  double bytes;                     /* of select and classify */
};

static double nanoseconds(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static double half(void *context) {
  (void)context;
  return 0.5;
}

static void die(const char *why) {
  fprintf(stderr, "policy_hooks: %s\n", why);
  exit(1);
}

static void make_pool(struct bed *b, unsigned count) {
  for (unsigned i = 0; i < count; i++) {
    struct candidate *c = &b->list[i];
    c->upstream_name = arena_printf(&b->arena, "upstream%u", i);
    c->name = arena_printf(&b->arena, "upstream%u/model", i);
    *c = (struct candidate){ .name = c->name, .upstream_name = c->upstream_name, .model = "model", .weight = 1,
                             .timeouts = { 5, 300, 300, 120, 20 }, .key = bench_get(b->bench, span_of(c->name)),
                             .upstream_key = bench_get(b->bench, span_of(c->upstream_name)) };
    b->pool[i] = c;
  }
}

static void begin(struct bed *b, unsigned count) {
  static uint64_t serial;
  struct order o;
  b->request = (struct request){ .id = "r", .route = ROUTE_CHAT, .method = "POST", .path = SPAN("/v1/chat/completions"),
                                 .model = SPAN("model"), .session = "s", .body = SPAN("{\"model\":\"model\"}"), .deadline = 1e9 };
  b->advisor = policy_advise(b->policy, &b->request, &b->turn);
  static struct advisor builtin = { .ops = &builtin_advisor };
  struct failover_setup setup = { .arena = &b->turn, .request = &b->request, .serial = ++serial, .advisor = &builtin, .pool = b->pool,
                                  .pool_count = count, .max_attempts = 16, .bench = b->bench, .random = half };
  b->f = failover_begin(&setup, 1000);
  if (!b->advisor || !b->f) die("out of memory");
  while (failover_next(b->f, &o) != ORDER_NONE)
    if (o.kind == ORDER_START) b->running = o.attempt;
  b->running->outcome = OUTCOME_STATUS;
  b->running->status = 503;
}

static void end(struct bed *b) {
  failover_client_gone(b->f, 1000);
  policy_leave(&b->advisor);
  arena_free(&b->turn);
}

static void ask_select(struct bed *b) {
  struct pick pick = PICK_DEFAULT;
  b->advisor->ops->select(b->advisor, b->f, 1000, &pick);
}

static void ask_classify(struct bed *b) {
  struct judgement j = JUDGEMENT_DEFAULT;
  b->advisor->ops->classify(b->advisor, b->f, b->running, 1000, &j);
}

static void ask_backoff(struct bed *b) {
  (void)b->advisor->ops->backoff(b->advisor, b->f, b->running, b->running->member, 1000);
}

static double time_of(struct bed *b, void (*ask)(struct bed *b)) {
  double began = nanoseconds();
  for (int i = 0; i < ROUNDS; i++) ask(b);
  return (nanoseconds() - began) / ROUNDS;
}

static void count_bytes(struct bed *b, struct cost *c) {
  lua_State *L = vm_lua(b->policy->vm);
  lua_gc(L, LUA_GCCOLLECT);
  lua_gc(L, LUA_GCSTOP);
  size_t before = vm_memory(b->policy->vm);
  ask_select(b);
  ask_classify(b);
  c->bytes = (double)(vm_memory(b->policy->vm) - before);
  lua_gc(L, LUA_GCRESTART);
}

static void measure_later(struct bed *b, unsigned count, struct cost *c) {
  begin(b, count);
  ask_select(b);
  ask_classify(b);
  *c = (struct cost){ time_of(b, ask_select), time_of(b, ask_classify), time_of(b, ask_backoff), 0 };
  count_bytes(b, c);
  end(b);
}

static void measure_first(struct bed *b, unsigned count, struct cost *c) {
  *c = (struct cost){ 0 };
  for (int i = 0; i < ROUNDS / 10; i++) {
    begin(b, count);
    double at = nanoseconds();
    ask_select(b);
    c->select += (nanoseconds() - at) / (ROUNDS / 10);
    at = nanoseconds();
    ask_classify(b);
    c->classify += (nanoseconds() - at) / (ROUNDS / 10);
    end(b);
  }
  begin(b, count);
  count_bytes(b, c);
  end(b);
}

static int by_sum(const void *a, const void *b) {
  const struct cost *x = a, *y = b;
  double left = x->select + x->classify, right = y->select + y->classify;
  return (left > right) - (left < right);
}

static void print(const char *name, unsigned count, const char *when, struct cost *costs) {
  qsort(costs, REPEAT, sizeof *costs, by_sum);
  const struct cost *c = &costs[REPEAT / 2];
  printf("%-18s %4u  %-6s %9.0f %9.0f %9.0f %11.0f %9.0f\n", name, count, when, c->select, c->classify, c->backoff, c->select + c->classify,
         c->bytes);
}

static void measure(const char *name, unsigned count) {
  struct bed *b = calloc(1, sizeof *b);
  char error[512];
  if (!b) die("out of memory");
  b->bench = bench_new(2 * POOL_MOST);
  b->shared = policy_shared_new(1 << 20);
  struct policy_host host = { .bench = b->bench, .shared = b->shared, .counts = &b->counts };
  struct policy_spec spec = { .name = name, .ready = name, .time = 1, .memory = 64 << 20 };
  make_pool(b, count);
  struct policy_source nothing = { "nothing.lua", span_of(empty_hooks) };
  bool empty = strcmp(name, NO_POLICY) == 0;
  b->policy = empty ? policy_load_sources(&spec, &nothing, 1, &host, false, error, sizeof error)
                    : policy_load(&spec, &host, false, error, sizeof error);
  if (!b->policy) die(error);
  struct cost first[REPEAT], later[REPEAT];
  for (int i = 0; i < REPEAT; i++) {
    measure_first(b, count, &first[i]);
    measure_later(b, count, &later[i]);
  }
  print(name, count, "first", first);
  print(name, count, "later", later);
  policy_release(&b->policy);
  policy_shared_free(b->shared);
  bench_free(b->bench);
  arena_free(&b->arena);
  free(b);
}

int main(void) {
  static const char *const names[] = { NO_POLICY, "priority", "weighted", "first_event", "account_pool", "chain_with_bench" };
  static const unsigned counts[] = { 2, 10, 100 };
  printf("%-18s %4s  %-6s %9s %9s %9s %11s %9s\n", "policy", "pool", "call", "select", "classify", "backoff", "sel+cls ns", "bytes");
  for (size_t i = 0; i < sizeof names / sizeof *names; i++)
    for (size_t k = 0; k < sizeof counts / sizeof *counts; k++) measure(names[i], counts[k]);
  return 0;
}
