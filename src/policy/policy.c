/*
 * One loaded version of a policy in one VM: its birth, its references, and a new VM when the old one ran out of memory.
 *
 *   load:   sources --> new VM --> `bullpen` --> run the file --> take its table --> freeze --> init --> version
 *   spent:  the same from the sources in memory, at most once a second; until then the built-in answers
 *
 * A policy belongs to one thread. Requests hold references and may outlive the VM they began with: what they keep in it
 * carries the VM's generation and is made again when that has changed. The specification is copied, for the
 * configuration may go first.
 */
#include "policy/policy.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>

#include "base/log.h"
#include "policy/parts.h"

#define LOAD_TIME 1.0         /* seconds to run the file, and again for init */
#define REPLACE_EVERY 1.0     /* seconds between two replacements of a spent VM */
#define REPLACE_TIME_LEAST 0.05
#define HOOK_TIME 0.01        /* seconds, when the specification does not say */

/* ---- one VM ---- */

struct boot {
  struct policy *policy;
  int options; /* registry reference of what init gets */
};

static seconds policy_clock(void *context) {
  return host_now(context);
}

/* Runs the file in the fresh VM and takes its table apart. */
static int boot_body(lua_State *L, void *context) {
  struct boot *boot = context;
  struct policy *policy = boot->policy;
  const struct policy_source *main = policy->sources.list;
  char error[ERROR_BYTES], chunk[ERROR_BYTES];
  host_push(L, &policy->host);
  lua_setglobal(L, "bullpen");
  if (policy->sources.from_memory) sources_set_require(L, policy);
  snprintf(chunk, sizeof chunk, "@%s", main->name);
  if (!vm_load(policy->vm, main->text, chunk, error, sizeof error)) return luaL_error(L, "%s", error);
  lua_call(L, 0, 1);
  boot->options = table_take(L, policy);
  return 0;
}

static int init_body(lua_State *L, void *context) {
  const struct boot *boot = context;
  lua_rawgeti(L, LUA_REGISTRYINDEX, boot->policy->hooks[HOOK_INIT]);
  lua_rawgeti(L, LUA_REGISTRYINDEX, boot->options);
  luaL_unref(L, LUA_REGISTRYINDEX, boot->options);
  if (boot->policy->hooks[HOOK_INIT] != LUA_NOREF) lua_call(L, 1, 0);
  return 0;
}

static void drop_vm(struct policy *policy) {
  vm_free(policy->vm);
  policy->vm = NULL;
  policy->generation++;
}

static bool boot(struct policy *policy, seconds budget, char *error, size_t error_size) {
  struct vm_options options = {
    .memory = policy->spec.memory,
    .folder = policy->sources.from_memory ? NULL : policy->sources.folder,
    .now = policy_clock,
    .context = &policy->host,
    .loaded = sources_loaded,
    .loaded_context = policy,
  };
  struct boot b = { .policy = policy };
  snprintf(error, error_size, "%s: out of memory", policy->sources.list->name);
  policy->vm = vm_new(&options);
  bool good = policy->vm && vm_protect(policy->vm, boot_body, &b, budget, error, error_size) == VM_GOOD;
  if (good && policy->sources.full) {
    snprintf(error, error_size, "%s: more than %d files", policy->sources.list->name, SOURCES_MAX);
    good = false;
  }
  good = good && vm_freeze(policy->vm);
  good = good && vm_protect(policy->vm, init_body, &b, budget, error, error_size) == VM_GOOD;
  if (!good) drop_vm(policy);
  return good;
}

/* A spent VM is thrown away. The new one must not cost the worker more than the load did, with a margin. */
static void replace_vm(struct policy *policy, seconds now) {
  char error[ERROR_BYTES];
  drop_vm(policy);
  policy->replaced = now;
  policy->sources.from_memory = true;
  if (boot(policy, fmin(fmax(4 * policy->load_time, REPLACE_TIME_LEAST), LOAD_TIME), error, sizeof error)) {
    log_warn("policy ran out of memory: its state was made anew", LOG_TEXT("policy", policy->spec.name),
             LOG_TEXT("version", policy->version));
    return;
  }
  log_error("policy ran out of memory and cannot be loaded again", LOG_TEXT("policy", policy->spec.name),
            LOG_TEXT("version", policy->version), LOG_TEXT("error", error));
}

struct vm *policy_vm(struct policy *policy) {
  if (policy->vm && !vm_spent(policy->vm)) return policy->vm;
  seconds now = clock_now();
  if (now - policy->replaced >= REPLACE_EVERY) replace_vm(policy, now);
  return policy->vm && !vm_spent(policy->vm) ? policy->vm : NULL;
}

/* ---- the specification ---- */

static bool text_copy(struct arena *arena, const char *from, const char **to) {
  *to = from ? arena_copy(arena, span_of(from)) : NULL;
  return !from || *to;
}

static bool value_copy(struct arena *arena, const struct value *from, struct value *to) {
  *to = *from;
  if (from->kind == VALUE_STRING) to->string.p = arena_copy(arena, from->string);
  if (from->kind == VALUE_STRING) return to->string.p != NULL;
  if (from->kind != VALUE_TABLE) return true;
  struct value_pair *pairs = ARENA_ARRAY(arena, struct value_pair, from->table.count);
  to->table.pairs = pairs;
  for (size_t i = 0; pairs && i < from->table.count; i++) {
    const struct value_pair *pair = &from->table.pairs[i];
    if (!value_copy(arena, &pair->key, &pairs[i].key) || !value_copy(arena, &pair->value, &pairs[i].value))
      return false;
  }
  return pairs != NULL;
}

static bool copy_spec(struct policy *policy, const struct policy_spec *spec) {
  struct arena *arena = &policy->arena;
  policy->spec = *spec;
  if (!(policy->spec.time > 0)) policy->spec.time = HOOK_TIME;
  bool good = text_copy(arena, spec->name ? spec->name : "default", &policy->spec.name) &&
              text_copy(arena, spec->file, &policy->spec.file) && text_copy(arena, spec->ready, &policy->spec.ready);
  if (!good || !spec->options) return good;
  struct value *options = ARENA_NEW(arena, struct value);
  policy->spec.options = options;
  return options && value_copy(arena, spec->options, options);
}

static struct policy *policy_new(const struct policy_spec *spec, const struct policy_host *host, bool dry) {
  struct policy *policy = calloc(1, sizeof *policy);
  if (!policy) return NULL;
  policy->references = 1;
  policy->generation = 1;
  policy->replaced = policy->logged = -INFINITY;
  policy->ops = builtin_advisor;
  for (size_t h = 0; h < HOOK_COUNT; h++) policy->hooks[h] = LUA_NOREF;
  snprintf(policy->version, sizeof policy->version, "builtin");
  if (!copy_spec(policy, spec)) {
    policy_release(&policy);
    return NULL;
  }
  policy->host = (struct host){ .reach = *host, .name = policy->spec.name, .dry = dry };
  if (getrandom(&policy->host.random, sizeof policy->host.random, GRND_NONBLOCK) < 0)
    policy->host.random = (uintptr_t)policy;
  return policy;
}

/* ---- loading ---- */

/* The sources (or the first of them) are there. */
static bool load(struct policy *policy, char *error, size_t error_size) {
  seconds began = clock_now();
  if (!boot(policy, LOAD_TIME, error, error_size)) return false;
  policy->load_time = clock_now() - began;
  policy->sources.closed = true;
  hooks_set_table(policy);
  if (version_make(policy)) return true;
  snprintf(error, error_size, "%s: its version cannot be computed", policy->sources.list->name);
  return false;
}

struct policy *policy_load(const struct policy_spec *spec, const struct policy_host *host, bool dry, char *error,
                           size_t error_size) {
  snprintf(error, error_size, "out of memory");
  struct policy *policy = policy_new(spec, host, dry);
  if (!policy || (!spec->file && !spec->ready)) return policy;
  if (!sources_read_main(policy, error, error_size) || !load(policy, error, error_size)) policy_release(&policy);
  return policy;
}

struct policy *policy_load_sources(const struct policy_spec *spec, const struct policy_source *sources, size_t count,
                                   const struct policy_host *host, bool dry, char *error, size_t error_size) {
  snprintf(error, error_size, "out of memory");
  struct policy *policy = policy_new(spec, host, dry);
  if (!policy || count == 0) return policy;
  bool good = true;
  for (size_t i = 0; i < count; i++) good = good && sources_add(policy, sources[i].name, sources[i].text);
  policy->sources.from_memory = true;
  if (!good || !load(policy, error, error_size)) policy_release(&policy);
  return policy;
}

const struct policy_source *policy_sources(const struct policy *policy, size_t *count) {
  *count = policy->sources.count;
  return policy->sources.list;
}

const char *policy_version(const struct policy *policy) {
  return policy->version;
}

struct policy *policy_ref(struct policy *policy) {
  policy->references++;
  return policy;
}

void policy_release(struct policy **policy) {
  struct policy *p = *policy;
  *policy = NULL;
  if (!p || --p->references) return;
  vm_free(p->vm);
  arena_free(&p->arena);
  free(p);
}
