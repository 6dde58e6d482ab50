/*
 * The advisor: the engine's questions put to Lua hooks.
 *
 *   engine --> hook_select ... --> run: one vm_protect around   push inputs --> lua_call --> read the return
 *                                   |                                                             |
 *                                   +-- good: the answer is copied out <--------------------------+
 *                                   +-- time, memory, raised, bad return: counted, logged, the built-in answers
 *
 * Everything Lua can do happens inside the one protected call, under one time budget; nothing it said is copied out
 * unless the call was good. C memory is only ever taken from the request's arena there, so a raise leaks nothing. A
 * fault never fails a request, unless the policy says on_error = "reject": then advisor->reject is set (not for
 * `observe`, whose answer nobody waits for).
 */
#include <stdio.h>
#include <time.h>

#include "base/log.h"
#include "policy/parts.h"

enum { CHECK_PATIENCE = 5 }; /* a check on a busy machine gets this many times the budget */

const char *const policy_hook_names[HOOK_COUNT] = { "init", "select", "classify", "backoff", "observe", "gate",
                                                    "exhausted", "tick" };
const char *const policy_fault_names[FAULT_COUNT] = { "time", "memory", "raised", "bad_return" };
const double policy_hook_bounds[HOOK_BUCKETS] = { 1e-6, 2e-6, 5e-6, 1e-5, 2e-5, 5e-5, 1e-4, 5e-4, 1e-3, 5e-3, 1e-2,
                                                  1e-1 };

/* ---- counting ---- */

static uint64_t nanoseconds_now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void count_call(const struct policy *policy, enum policy_hook hook, uint64_t taken) {
  struct policy_counts *counts = policy->host.reach.counts;
  if (!counts || policy->host.dry) return;
  size_t bucket = 0;
  while (bucket < HOOK_BUCKETS && (double)taken * 1e-9 > policy_hook_bounds[bucket]) bucket++;
  atomic_fetch_add_explicit(&counts->calls[hook], 1, memory_order_relaxed);
  atomic_fetch_add_explicit(&counts->nanoseconds[hook], taken, memory_order_relaxed);
  atomic_fetch_add_explicit(&counts->buckets[hook][bucket], 1, memory_order_relaxed);
}

/* One line a second for each policy on each worker; how many were kept back is said in the next. */
static void log_fault(struct policy *policy, enum policy_hook hook, enum policy_fault fault, const char *error) {
  seconds now = clock_now();
  if (now - policy->logged < 1) {
    policy->suppressed++;
    return;
  }
  log_warn("policy hook failed", LOG_TEXT("policy", policy->spec.name), LOG_TEXT("version", policy->version),
           LOG_TEXT("hook", policy_hook_names[hook]), LOG_TEXT("reason", policy_fault_names[fault]),
           LOG_TEXT("error", error), LOG_INT("suppressed", policy->suppressed));
  policy->logged = now;
  policy->suppressed = 0;
}

static void hook_failed(struct call *c, enum policy_fault fault, const char *error) {
  struct policy *policy = c->policy;
  if (c->advice && policy->spec.reject && c->hook != HOOK_OBSERVE) c->advice->advisor.reject = true;
  if (policy->fault) {
    if (!*policy->fault)
      snprintf(policy->fault, ERROR_BYTES, "%s (%s: %s)", error, policy_hook_names[c->hook], policy_fault_names[fault]);
    return;
  }
  if (policy->host.dry) return;
  if (policy->host.reach.counts)
    atomic_fetch_add_explicit(&policy->host.reach.counts->faults[c->hook][fault], 1, memory_order_relaxed);
  log_fault(policy, c->hook, fault, error);
}

/* ---- the one way into Lua ---- */

/* "policy.lua:12", where the hook on the stack begins: a wrong return has no line of its own. */
static void place_of_hook(lua_State *L, char *place, size_t size) {
  lua_Debug d;
  lua_getinfo(L, ">S", &d);
  snprintf(place, size, "%s:%d", d.short_src, d.linedefined);
}

static enum policy_fault fault_of(enum vm_result result) {
  switch (result) {
    case VM_TIME: return FAULT_TIME;
    case VM_MEMORY: return FAULT_MEMORY;
    case VM_RAISED: return FAULT_RAISED;
    case VM_GOOD: break;
  }
  return FAULT_BAD_RETURN;
}

static void return_refused(struct call *c, struct vm *vm) {
  char place[LUA_IDSIZE + 16], error[ERROR_BYTES];
  lua_rawgeti(vm_lua(vm), LUA_REGISTRYINDEX, c->policy->hooks[c->hook]);
  place_of_hook(vm_lua(vm), place, sizeof place);
  snprintf(error, sizeof error, "%s: %s returned what it may not: %s", place, policy_hook_names[c->hook], c->bad);
  hook_failed(c, FAULT_BAD_RETURN, error);
}

/* Runs `body` with the hook's limits. True: the call was good and its answer may be believed. */
static bool run(struct call *c, int (*body)(lua_State *L, void *context)) {
  struct policy *policy = c->policy;
  struct host *host = &policy->host;
  char error[ERROR_BYTES] = "";
  struct vm *vm = policy_vm(policy);
  if (!vm) {
    hook_failed(c, FAULT_MEMORY, "its VM ran out of memory and is not replaced yet");
    return false;
  }
  host->f = c->f;
  host->now = c->now;
  uint64_t began = nanoseconds_now();
  enum vm_result result = vm_protect(vm, body, c, policy->spec.time * (policy->fault ? CHECK_PATIENCE : 1), error,
                                     sizeof error);
  count_call(policy, c->hook, nanoseconds_now() - began);
  host->f = NULL;
  host->now = 0;
  if (result != VM_GOOD) hook_failed(c, fault_of(result), error);
  else if (c->bad[0]) return_refused(c, vm);
  return result == VM_GOOD && !c->bad[0];
}

static struct call call_of(struct advisor *advisor, enum policy_hook hook, const struct failover *f, seconds now) {
  struct advice *advice = (struct advice *)advisor;
  return (struct call){ .policy = advice->policy, .hook = hook, .advice = advice, .f = f, .now = now, .delay = -1 };
}

static void push_hook(lua_State *L, const struct call *c) {
  luaL_checkstack(L, 40, NULL);
  if (c->advice) input_open_box(L, c->advice);
  lua_rawgeti(L, LUA_REGISTRYINDEX, c->policy->hooks[c->hook]);
}

/* ---- the hooks ---- */

static int select_body(lua_State *L, void *context) {
  struct call *c = context;
  push_hook(L, c);
  input_push_request(L, c->advice, c->f);
  input_push_pool(L, c->advice, c->f, c->now);
  input_push_attempts(L, c->advice, c->f, c->now);
  lua_call(L, 3, 2);
  verdict_read_pick(L, c);
  return 0;
}

static void hook_select(struct advisor *advisor, const struct failover *f, seconds now, struct pick *pick) {
  struct call c = call_of(advisor, HOOK_SELECT, f, now);
  c.pick = *pick;
  if (run(&c, select_body)) *pick = c.pick;
  else builtin_advisor.select(advisor, f, now, pick);
}

static int classify_body(lua_State *L, void *context) {
  struct call *c = context;
  push_hook(L, c);
  input_push_request(L, c->advice, c->f);
  input_push_attempt(L, c->advice, c->f, c->attempt, c->now);
  input_push_candidate(L, c->advice, c->f, c->attempt->member, c->now, true);
  lua_pop(L, 1);
  lua_call(L, 2, 2);
  verdict_read_judgement(L, c);
  return 0;
}

static void hook_classify(struct advisor *advisor, const struct failover *f, const struct attempt *attempt, seconds now,
                          struct judgement *judgement) {
  struct call c = call_of(advisor, HOOK_CLASSIFY, f, now);
  c.attempt = attempt;
  c.judgement = *judgement;
  if (run(&c, classify_body)) *judgement = c.judgement;
  else builtin_advisor.classify(advisor, f, attempt, now, judgement);
}

static int backoff_body(lua_State *L, void *context) {
  struct call *c = context;
  push_hook(L, c);
  input_push_request(L, c->advice, c->f);
  input_push_attempt(L, c->advice, c->f, c->attempt, c->now);
  lua_call(L, 2, 1);
  verdict_read_delay(L, c);
  return 0;
}

static seconds hook_backoff(struct advisor *advisor, const struct failover *f, const struct attempt *failed,
                            unsigned member, seconds now) {
  struct call c = call_of(advisor, HOOK_BACKOFF, f, now);
  c.attempt = failed;
  if (run(&c, backoff_body)) return c.delay;
  return builtin_advisor.backoff(advisor, f, failed, member, now);
}

static int gate_body(lua_State *L, void *context) {
  struct call *c = context;
  push_hook(L, c);
  input_push_request(L, c->advice, c->f);
  input_push_attempt(L, c->advice, c->f, c->attempt, host_now(&c->policy->host));
  input_push_gate_event(L, c);
  lua_call(L, 3, 1);
  verdict_read_class(L, c);
  return 0;
}

static enum event_class hook_gate(struct advisor *advisor, const struct failover *f, const struct attempt *attempt,
                                  const struct sse_event *event, size_t bytes, enum event_class builtin) {
  struct call c = call_of(advisor, HOOK_GATE, f, 0);
  c.attempt = attempt;
  c.event = event;
  c.bytes = bytes;
  c.builtin = c.class = builtin;
  return run(&c, gate_body) ? c.class : builtin;
}

static int exhausted_body(lua_State *L, void *context) {
  struct call *c = context;
  push_hook(L, c);
  input_push_request(L, c->advice, c->f);
  input_push_attempts(L, c->advice, c->f, c->now);
  lua_call(L, 2, 1);
  verdict_read_answer(L, c);
  return 0;
}

/* The built-in is asked in any case: whether the request is the suspect does not depend on the words of the answer. */
static void hook_exhausted(struct advisor *advisor, const struct failover *f, seconds now, struct answer *answer) {
  struct call c = call_of(advisor, HOOK_EXHAUSTED, f, now);
  builtin_advisor.exhausted(advisor, f, now, answer);
  c.answer = *answer;
  if (run(&c, exhausted_body)) *answer = c.answer;
}

static int observe_body(lua_State *L, void *context) {
  struct call *c = context;
  push_hook(L, c);
  input_push_told(L, c->advice, c->told);
  lua_call(L, 1, 0);
  return 0;
}

static void hook_observe(struct advisor *advisor, const struct event *event) {
  struct call c = call_of(advisor, HOOK_OBSERVE, NULL, event->time);
  c.told = event;
  (void)run(&c, observe_body); /* nobody waits for an answer */
}

static int tick_body(lua_State *L, void *context) {
  struct call *c = context;
  push_hook(L, c);
  lua_pushnumber(L, c->now);
  lua_call(L, 1, 0);
  return 0;
}

void policy_tick(struct policy *policy, seconds now) {
  struct call c = { .policy = policy, .hook = HOOK_TICK, .now = now };
  if (policy->hooks[HOOK_TICK] != LUA_NOREF) (void)run(&c, tick_body);
}

/* ---- the advisor of one request ---- */

/* A hook that a policy lacks is the built-in's own function: no Lua is entered for it. */
void hooks_set_table(struct policy *policy) {
  const int *hooks = policy->hooks;
  policy->ops = builtin_advisor;
  if (hooks[HOOK_SELECT] != LUA_NOREF) policy->ops.select = hook_select;
  if (hooks[HOOK_CLASSIFY] != LUA_NOREF) policy->ops.classify = hook_classify;
  if (hooks[HOOK_BACKOFF] != LUA_NOREF) policy->ops.backoff = hook_backoff;
  if (hooks[HOOK_EXHAUSTED] != LUA_NOREF) policy->ops.exhausted = hook_exhausted;
  if (hooks[HOOK_GATE] != LUA_NOREF) policy->ops.gate = hook_gate;
  if (hooks[HOOK_OBSERVE] != LUA_NOREF) policy->ops.observe = hook_observe;
  policy->ops.classify_ok = policy->classify_ok && hooks[HOOK_CLASSIFY] != LUA_NOREF;
}

struct advisor *policy_advise(struct policy *policy, const struct request *request, struct arena *arena) {
  struct advice *advice = ARENA_NEW(arena, struct advice);
  if (!advice) return NULL;
  *advice = (struct advice){ .policy = policy_ref(policy), .request = request, .arena = arena, .box = LUA_NOREF };
  advice->advisor.ops = &policy->ops;
  return &advice->advisor;
}

void policy_tell(struct advisor *advisor, const struct event *event) {
  if (advisor->ops->observe) advisor->ops->observe(advisor, event);
}

void policy_leave(struct advisor **advisor) {
  struct advice *advice = (struct advice *)*advisor;
  if (!advice) return;
  *advisor = NULL;
  struct policy *policy = advice->policy;
  if (advice->box != LUA_NOREF && policy->vm && advice->generation == policy->generation) {
    advice->handle->advice = NULL; /* what the policy kept of this request knows that it is over */
    if (!vm_spent(policy->vm)) luaL_unref(vm_lua(policy->vm), LUA_REGISTRYINDEX, advice->box);
  }
  policy_release(&advice->policy);
}
