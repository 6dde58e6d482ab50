/*
 * What the files of this room share among themselves; nobody else includes it.
 */
#pragma once

#include <stdint.h>

#include <lauxlib.h>

#include "base/buf.h"
#include "vm/vm.h"

enum {
  VM_BIG_CLASSES = 8,
  VM_INTERVAL = 256,     /* instructions between two looks of the hook, when no block is large */
  VM_WORK_SLICE = 32768, /* units of work between two looks at the clock */
};

/* Why the running call has to end. */
enum vm_kill { KILL_NONE, KILL_TIME, KILL_MEMORY, KILL_DEPTH };

struct vm {
  lua_State *main;
  lua_State *running;    /* the coroutine that executes now, else main; NULL while the state is built */
  struct vm_options options;
  char *folder;          /* real path of options.folder, owned; NULL: none */
  struct buf source;     /* the file being compiled; owned here so that an error cannot leak it */
  struct vm_budget {
    int64_t deadline;    /* CLOCK_MONOTONIC nanoseconds; INT64_MAX: none */
    seconds span;        /* what the message says */
    unsigned calls;      /* protected calls inside each other */
    unsigned closings;   /* coroutine.close inside each other */
    unsigned looks;      /* of the hook while a large block lives */
    size_t work;         /* done since the clock was last read, about one unit a nanosecond */
    int interval;        /* instructions between two looks of the hook */
    enum vm_kill kill;
  } budget;
  struct vm_heap {
    size_t used, limit;  /* limit 0: none */
    unsigned big[VM_BIG_CLASSES]; /* live blocks of 256 KiB and more, by power of two */
    bool refused;        /* an allocation was refused and its second try has not succeeded */
    const void *refused_block;
    size_t refused_size;
    bool spent;
  } heap;
  bool noted;            /* the libraries to freeze are known */
  enum vm_kill ended_by; /* of the call that ended last */
  char where[160];       /* position of the first kill, "" when unknown */
};

/* Makes the hook of L look as often as the VM wants now; after a switch of coroutines. */
void vm_rearm(struct vm *vm, lua_State *L);
/* The deadline is over; reads the clock. */
bool vm_is_late(const struct vm *vm);
/* Instructions between two looks of the hook that the state of the VM asks for. */
int vm_interval(const struct vm *vm);
/* The allocator; its context is the VM. */
void *vm_reallocate(void *context, void *block, size_t old_size, size_t size);
/* True when the running call was killed: whoever catches errors in C passes it on with vm_work. */
bool vm_doomed(const struct vm *vm);
/* Compiles text in small pieces, so that a slow compile can be ended. A Lua status; leaves the function or the message on the stack. */
int vm_compile(lua_State *L, struct span source, const char *chunk);
/* "file:line" of the innermost Lua function from `level` outwards; "" when there is none. */
void vm_locate(lua_State *L, int level, char *out, size_t size);

/* Builds the globals of a fresh state. May raise; called protected. */
void sandbox_open(lua_State *L);
/* Remembers which tables are libraries: those that are global before the first chunk is compiled. May raise. */
void sandbox_note(lua_State *L);
/* May raise. */
void sandbox_freeze(lua_State *L);

/* Each replaces functions of the library table on top of the stack, or leaves a new one there. May raise. */
void library_string(lua_State *L);
void library_table(lua_State *L);
void library_utf8(lua_State *L);
void library_coroutine(lua_State *L);
void library_os(lua_State *L);
void search_install(lua_State *L);
/* Lua functions `load` and `require`. */
int require_load(lua_State *L);
int require_module(lua_State *L);
