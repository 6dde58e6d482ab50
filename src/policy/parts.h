/*
 * What the files of this room share; nobody else includes it.
 *
 *   policy.c    loading, references, replacing a spent VM      table.c     the returned table: keys, hooks, options
 *   sources.c   the texts, and require out of memory           version.c   SHA-256 over them
 *   hooks.c     the advisor: one protected call per hook       verdicts.c  what hooks return
 *   inputs.c    request and candidates as tables               attempts.c  attempts and events as tables
 *   host.c      the global `bullpen`                           host_shared.c   its `shared`
 *   shared.c    the store behind bullpen.shared                check.c     every hook on sample data
 */
#pragma once

#include <lauxlib.h>
#include <lua.h>

#include "policy/policy.h"
#include "vm/vm.h"

enum { VERSION_DIGITS = 12, ERROR_BYTES = 512, SOURCES_MAX = 64, SOURCE_BYTES = 1 << 20, TEXT_BYTES = 4096,
       JSON_BYTES = 1 << 20 };

/* ---- host.c: what the functions of `bullpen` work on; one per VM, and it outlives the VM ---- */

struct host {
  struct policy_host reach;
  const char *name;         /* of the policy, for logs */
  bool dry;                 /* bench, unbench and shared do nothing */
  const struct failover *f; /* of the hook call under way; NULL: none */
  seconds now;              /* of that call; 0: read the clock */
  uint64_t random;          /* state of the generator for calls outside requests */
  seconds second;           /* when the log's current second began */
  unsigned lines;           /* that bullpen.log wrote since */
};

/* Pushes the table `bullpen`. May raise. `host` must outlive the state. */
void host_push(lua_State *L, struct host *host);
seconds host_now(const struct host *host);
/* The key of that name: of the request's own pool, or of the registry. NULL: none. A candidate without a key of its own
 * has its upstream's. */
struct bench_key *host_bench_key(const struct host *host, struct span name);
/* Pushes the table bullpen.shared. May raise. */
void host_push_shared(lua_State *L, struct host *host);
/* Pushes the decoded value of a JSON text, or nil when it is none, or more than can be decoded here. May raise. */
void host_decode(lua_State *L, struct span text);

/* ---- policy.c ---- */

struct sources {
  struct policy_source *list; /* SOURCES_MAX of them */
  size_t count;
  const char *folder;         /* of the main file; NULL: a ready-made policy */
  bool from_memory;           /* require looks here instead of on the disk */
  bool closed;                /* loading is over: what is required later is not part of the version */
  bool full;                  /* over SOURCES_MAX, or out of memory */
};

struct policy {
  unsigned references;
  struct arena arena; /* spec and sources */
  struct policy_spec spec;
  struct host host;
  struct sources sources;
  struct vm *vm;             /* NULL: spent, and not replaced yet */
  unsigned generation;       /* how many VMs there were: references of an earlier one are void */
  seconds load_time;         /* what the first load took */
  seconds replaced;          /* when the VM was made last */
  int hooks[HOOK_COUNT];     /* registry references of this VM; LUA_NOREF: no such hook */
  bool classify_ok;
  struct advisor_ops ops;
  char version[VERSION_DIGITS + 1];
  seconds logged;            /* when a fault was logged last */
  unsigned suppressed;       /* faults since, not logged */
  char *fault;               /* ERROR_BYTES: a check is under way and wants to see the first fault; else NULL */
};

/* The VM, made anew if the last one was spent and a second has passed; NULL: not now. */
struct vm *policy_vm(struct policy *policy);

/* ---- sources.c ---- */

/* Reads the main file (or the ready-made one) as the first source. */
bool sources_read_main(struct policy *policy, char *error, size_t error_size);
/* Copies one text. False when there are too many or memory is out. */
bool sources_add(struct policy *policy, const char *name, struct span text);
/* vm_options.loaded: `context` is the policy. */
void sources_loaded(void *context, const char *path, struct span text);
/* Puts a `require` before the VM's own that finds modules in the sources. May raise. */
void sources_set_require(lua_State *L, struct policy *policy);
/* "policy.lua:12", the first line of the main file that sets that key; "policy.lua" when none does. */
void sources_place(const struct policy *policy, const char *key, char *place, size_t size);

/* ---- table.c ---- */

/* Takes the table that the policy file returned (on top of the stack) apart: hooks, flags, options. A registry
 * reference of what init is to be given. Raises what is wrong with it. */
int table_take(lua_State *L, struct policy *policy);

/* ---- version.c ---- */

/* Fills policy->version. False when the digest cannot be made. */
bool version_make(struct policy *policy);

/* ---- hooks.c ---- */

/* Fills policy->ops by the hooks it has. */
void hooks_set_table(struct policy *policy);

/* One request's advisor. Lives in the request's arena. */
struct advice {
  struct advisor advisor; /* first: the engine sees only this */
  struct policy *policy;
  const struct request *request;
  struct arena *arena;
  struct handle *handle; /* in the VM of `generation` */
  unsigned generation;
  int box;               /* registry reference of this request's tables; LUA_NOREF: not built yet */
  unsigned final;        /* attempts up to this number were pushed after they had ended */
};

/* How Lua reaches the request: tables of inputs may outlive it, then `advice` is NULL. */
struct handle {
  struct advice *advice;
};

/* One hook call: what goes in, and what came out. Nothing of it is believed unless the call was good and `bad` is
 * empty. */
struct call {
  struct policy *policy;
  enum policy_hook hook;
  struct advice *advice;    /* NULL: not about a request */
  const struct failover *f; /* NULL: the engine is not asking */
  seconds now;              /* 0: the clock's */
  const struct attempt *attempt;
  const struct event *told;             /* observe */
  const struct sse_event *event;        /* gate */
  size_t bytes;
  enum event_class builtin;
  struct pick pick;
  struct judgement judgement;
  struct answer answer;
  seconds delay;
  enum event_class class;
  char bad[200]; /* why the return is refused */
};

/* ---- inputs.c; everything here may raise, and pushes one value ---- */

enum box_slot { BOX_REQUEST = 1, BOX_CANDIDATES, BOX_ATTEMPTS, BOX_HANDLE, BOX_FIELDS };

void input_push_request(lua_State *L, struct advice *advice, const struct failover *f);
/* The candidate's table, with its states as they are now (`refresh`) or as they were when they were last looked at. */
void input_push_candidate(lua_State *L, struct advice *advice, const struct failover *f, unsigned member,
                          seconds now, bool refresh);
/* A new list of those that take part, with their states as they are now. */
void input_push_pool(lua_State *L, struct advice *advice, const struct failover *f, seconds now);
/* Pushes a slot of this request's box. */
void input_push_slot(lua_State *L, struct advice *advice, enum box_slot slot);
/* The request's tables, made if this VM has none yet. Pushes nothing. */
void input_open_box(lua_State *L, struct advice *advice);
/* A table of headers in lower case, without credentials and cookies. */
void input_push_headers(lua_State *L, struct headers headers);
/* Lets the closure on the stack answer for the fields that the table below it lacks; pops it. Hidden from Lua. */
void input_set_index(lua_State *L);
void input_set_text(lua_State *L, const char *key, const char *text); /* NULL: nil */
void input_set_span(lua_State *L, const char *key, struct span text); /* empty: nil */
void input_set_number(lua_State *L, const char *key, double number);
void input_set_integer(lua_State *L, const char *key, long long number);
void input_set_bool(lua_State *L, const char *key, bool value);

/* ---- attempts.c; as inputs.c ---- */

void input_push_attempt(lua_State *L, struct advice *advice, const struct failover *f, const struct attempt *attempt,
                        seconds now);
void input_push_attempts(lua_State *L, struct advice *advice, const struct failover *f, seconds now);
void input_push_told(lua_State *L, struct advice *advice, const struct event *event);
void input_push_gate_event(lua_State *L, const struct call *call);

/* ---- verdicts.c: read the results on top of the stack into the call, or set call->bad. May raise ---- */

void verdict_read_pick(lua_State *L, struct call *call);
void verdict_read_judgement(lua_State *L, struct call *call);
void verdict_read_delay(lua_State *L, struct call *call);
void verdict_read_class(lua_State *L, struct call *call);
void verdict_read_answer(lua_State *L, struct call *call);
