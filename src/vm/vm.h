/*
 * A Lua state that cannot run away: bounded memory (its allocator), bounded time (an instruction hook that a pcall or a coroutine cannot
 * swallow), bounded C functions (patterns, rep, concat), no io, os (but time, date, clock), debug, bytecode or dofile; globals and libraries can be
 * frozen. Used by the policies, the configuration and the mock; the rest of the program never sees lua.h.
 *
 * One VM belongs to one thread. No C allocation of the caller may be alive across a call that can raise: gather first, then make one
 * protected call through vm_call.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include <lua.h>

#include "base/arena.h"
#include "base/clock.h"
#include "base/span.h"
#include "base/value.h"

struct vm;

struct vm_options {
  size_t memory;             /* bytes the state may hold; 0: no limit */
  const char *folder;        /* `require` finds NAME.lua here, and in the embedded library; NULL: library only */
  seconds (*now)(void *);    /* what os.time, os.date and os.clock read; NULL: clock_now */
  void *context;             /* of now */
  /* Called for each file that require reads from the folder (for versions); `path` is relative to the folder ("lib/x.lua"). May be NULL.
   * Runs outside of Lua's protection of memory: it must not raise. */
  void (*loaded)(void *context, const char *path, struct span source);
  void *loaded_context;
};

/* NULL when out of memory (also when `memory` is too little for an empty state, about 40 KiB). The options are copied, the folder too. */
struct vm *vm_new(const struct vm_options *options);
void vm_free(struct vm *vm);
/* The state, or inside a call the coroutine that runs: where vm_call and vm_load find their stack. */
lua_State *vm_lua(struct vm *vm);
struct vm *vm_of(lua_State *L);

enum vm_result { VM_GOOD, VM_TIME, VM_MEMORY, VM_RAISED };

/*
 * Calls the function and its `arguments` on the stack within `budget` seconds, as lua_pcall does. On failure the stack is as if the call had
 * never been pushed, `error` (NUL-terminated, cut to size) says `file:line: what`, and no result is left. Nested calls keep the outer budget.
 * After VM_MEMORY the state is not to be used again (vm_spent).
 */
enum vm_result vm_call(struct vm *vm, int arguments, int results, seconds budget, char *error, size_t error_size);

/* Runs C code that may raise under the same limits: `body` is called with `context` in a protected call, on an empty stack. It returns how many of
 * the values on top stay on the caller's stack, as a lua_CFunction does. */
enum vm_result vm_protect(struct vm *vm, int (*body)(lua_State *L, void *context), void *context, seconds budget, char *error,
                          size_t error_size);

/* Compiles a text chunk (never bytecode) named `chunk` ("@policy.lua") and leaves the function on the stack; else false and the error. Takes 1 s at
 * most. What is global when the first chunk is compiled counts as a library: set the host's tables before. */
bool vm_load(struct vm *vm, struct span source, const char *chunk, char *error, size_t error_size);

/* Makes the globals and every library table read-only in place, the string metatable too. An undefined global is an error that names it from
 * the start; until the freeze a script may define globals. Tables that scripts made stay theirs. False when out of memory. */
bool vm_freeze(struct vm *vm);

/* C functions that loop account for their work with it, about one unit a nanosecond; it raises when the call's time is over. */
void vm_work(lua_State *L, size_t units);

/* The state ran into its memory limit once: throw it away. */
bool vm_spent(const struct vm *vm);
size_t vm_memory(const struct vm *vm);

/* Pushes a value tree; may raise (call it inside vm_protect). */
void vm_push_value(lua_State *L, const struct value *value);
/* Pushes a table { encode, decode, null } over lua-cjson, with bounded input; may raise. */
void vm_push_json(lua_State *L);
/* Reads what is at `index` into the arena: nil, booleans, numbers, strings, tables of them (depth at most 16, 200,000 values; cycles, functions
 * and userdata are an error). False and a message otherwise. Does not raise. */
bool vm_read_value(lua_State *L, int index, struct arena *arena, struct value *value, const char **error);

/* The Lua files in the binary: "bullpen/select.lua", "policies/weighted.lua". SPAN_NONE when there is none. */
struct span embedded_find(const char *name);
/* Their names one by one; NULL after the last. */
const char *embedded_name(size_t index);
