/*
 * The rooms with Lua in them when memory runs out: a policy is loaded, its hooks answer one request that fails over, ends in the last answer,
 * and is told of every event. Whatever fails, the request ends with one `finished` (the built-in answers for a hook that cannot), and
 * all memory is given back. The VM's own allocator fails by the same means: its realloc comes here.
 */
#include "fault_rig.h"

#include "base/log.h"
#include "policy/policy.h"
#include "policy/shared.h"
#include "vm/vm.h"

static const char text[] =
  "local policy = { options = { tries = 3 } }\n"
  "function policy.init(options) policy.tries = options.tries end\n"
  "function policy.select(request, pool, attempts)\n"
  "  request.vars.asked = (request.vars.asked or 0) + 1\n"
  "  bullpen.shared.incr('asked', 1)\n"
  "  bullpen.shared.set('last/' .. request.id, request.path, 60)\n"
  "  for _, c in ipairs(pool) do if not c.benched and c.tried == 0 then return { use = c.name, label = 'mine', reason = c.model .. ' it is' } end end\n"
  "end\n"
  "function policy.classify(request, attempt)\n"
  "  local model = request.json and request.json.model or request.field('model')\n"
  "  if attempt.outcome ~= 'ok' then return 'next', { bench = 5, reason = tostring(attempt.status) .. model, kind = 'mine' } end\n"
  "end\n"
  "function policy.backoff(request, attempt) return 0 end\n"
  "function policy.gate(request, attempt, event) return event.verdict end\n"
  "function policy.exhausted(request, attempts) return { status = 503, message = 'all ' .. #attempts .. ' failed' } end\n"
  "function policy.observe(event) policy.seen = event.type .. (event.candidate or '') end\n"
  "function policy.tick(now) bullpen.log('info', 'tick', { now = now }) end\n"
  "return policy\n";

enum { POOL = 3 };

struct world {
  struct arena arena;
  struct bench *bench;
  struct policy_shared *shared;
  struct policy_counts *counts;
  struct policy_host host;
  struct candidate candidates[POOL];
  const struct candidate *pool[POOL];
  struct request request;
};

static struct world w;

static double half(void *context) {
  (void)context;
  return 0.5;
}

/* What the process has before a policy is loaded: made once, and never part of a run. */
static void world_open(void) {
  static const char *const names[POOL][2] = { { "a/m", "a" }, { "b/m", "b" }, { "c/m", "c" } };
  static const char body[] = "{\"model\":\"sm\\u0061rt\",\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]}";
  w.bench = bench_new(16);
  w.counts = calloc(1, sizeof *w.counts);
  for (size_t i = 0; i < POOL; i++) {
    w.candidates[i] = (struct candidate){ .name = names[i][0], .upstream_name = names[i][1], .model = "m", .weight = 1,
                                          .timeouts = { 5, 300, 300, 120, 20 }, .key = bench_get(w.bench, span_of(names[i][0])),
                                          .upstream_key = bench_get(w.bench, span_of(names[i][1])) };
    w.pool[i] = &w.candidates[i];
  }
  w.request = (struct request){ .id = "r-1", .route = ROUTE_CHAT, .method = "POST", .path = SPAN("/v1/chat/completions"), .model = SPAN("smart"),
                                .body = { body, sizeof body - 1 }, .received = 1000, .deadline = 1900 };
}

static void world_close(void) {
  bench_free(w.bench);
  free(w.counts);
}

struct told {
  unsigned finished;
  const struct attempt *open;
};

static void take(struct failover *f, struct advisor *advisor, struct told *told) {
  struct order o;
  while (failover_next(f, &o) != ORDER_NONE) {
    if (o.kind == ORDER_START) told->open = o.attempt;
    if (o.kind == ORDER_CANCEL) told->open = NULL;
    if (o.kind != ORDER_TELL) continue;
    if (o.event.type == TOLD_FINISHED) told->finished++;
    policy_tell(advisor, &o.event);
  }
}

/* One request that fails everywhere. */
static void one_request(struct policy *policy, seconds now) {
  struct arena arena = { 0 };
  struct told told = { 0 };
  struct advisor *advisor = policy_advise(policy, &w.request, &arena);
  struct failover_setup setup = { .arena = &arena, .request = &w.request, .serial = 1, .advisor = advisor, .pool = w.pool, .pool_count = POOL,
                                  .max_attempts = 8, .bench = w.bench, .random = half };
  struct failover *f = advisor ? failover_begin(&setup, now) : NULL;
  need(f || fault.failed > 0, "no advisor, and nothing failed");
  if (f) take(f, advisor, &told);
  for (int steps = 0; f && !told.finished; steps++) {
    need(steps < 40, "the request does not end");
    if (told.open) {
      failover_head(f, steps % 2 ? 500 : 429, (struct headers){ 0 }, now);
      told.open = NULL;
      failover_error_body(f, SPAN("{\"error\":{\"message\":\"no\",\"code\":\"x\"}}"), true, true, now);
    } else {
      now = failover_timer(f);
      need(now < SECONDS_NEVER, "waits for nothing");
      failover_timer_due(f, SPAN_NONE, now);
    }
    take(f, advisor, &told);
  }
  need(!f || told.finished == 1, "not finished once");
  if (advisor) policy_leave(&advisor);
  arena_free(&arena);
  for (size_t i = 0; i < POOL; i++) {
    need(bench_inflight(w.candidates[i].upstream_key) == 0, "a slot is still taken");
    bench_lift(w.candidates[i].key, true, now);
    bench_lift(w.candidates[i].upstream_key, true, now);
  }
}

static struct policy *load(const char *source, bool dry) {
  char error[512] = "";
  struct policy_spec spec = { .name = "test", .time = 5, .memory = 4 << 20 };
  struct policy_source file = { "policy.lua", span_of(source) };
  w.host = (struct policy_host){ .bench = w.bench, .shared = w.shared, .counts = w.counts };
  struct policy *policy = policy_load_sources(&spec, &file, 1, &w.host, dry, error, sizeof error);
  if (!policy) {
    if (!fault.failed) fprintf(stderr, "%s\n", error);
    need(fault.failed > 0, "not loaded, and nothing failed");
    need(error[0] != 0, "not loaded, and no word about it");
  }
  return policy;
}

static void with_policy(bool loading_fails) {
  w.shared = policy_shared_new(1 << 20);
  if (!w.shared) return;
  fault.passing = !loading_fails;
  struct policy *policy = load(text, false);
  fault.passing = false;
  if (policy) {
    one_request(policy, 1000);
    policy_tick(policy, 2000);
    one_request(policy, 3000); /* the next one, with whatever the first has left behind */
    policy_release(&policy);
  }
  policy_shared_free(w.shared);
}

static void loading(void) {
  with_policy(true);
}

static void hooks(void) {
  with_policy(false);
}

static void checking(void) {
  char error[512] = "";
  w.shared = policy_shared_new(1 << 20);
  if (!w.shared) return;
  struct policy *policy = load(text, true);
  if (policy) need(policy_check(policy, error, sizeof error) || fault.failed, error);
  policy_release(&policy);
  policy_shared_free(w.shared);
}

/* The bare VM: values in and out, JSON, a script that catches what it can. */
static void machine(void) {
  static const char script[] =
    "local t = {} for i = 1, 200 do t[i] = { name = 'n' .. i, list = { i, i + 1 } } end\n"
    "pcall(function() local s = {} for i = 1, 500 do s[#s + 1] = ('x'):rep(i) end return table.concat(s) end)\n"
    "return t";
  char error[256];
  struct arena arena = { 0 };
  struct vm_options options = { .memory = 2 << 20 };
  struct vm *vm = vm_new(&options);
  need(vm || fault.failed > 0, "no vm, and nothing failed");
  if (!vm) return;
  if (vm_load(vm, span_of(script), "@script.lua", error, sizeof error) && vm_call(vm, 0, 1, 5, error, sizeof error) == VM_GOOD) {
    struct value value;
    const char *why = NULL;
    bool read = vm_read_value(vm_lua(vm), -1, &arena, &value, &why);
    need(read || fault.failed > 0, "the value cannot be read");
    need(read || why, "not read, and no word about it");
  } else {
    need(fault.failed > 0, error);
  }
  vm_freeze(vm);
  vm_free(vm);
  arena_free(&arena);
}

int main(void) {
  if (!log_open("/dev/null", false, LOG_ERROR)) return 2;
  world_open();
  fault_run("vm", machine, 150);
  fault_run("policy: load and serve", loading, 150);
  fault_run("policy: hooks", hooks, 300);
  fault_run("policy: check", checking, 150);
  world_close();
  return 0;
}
