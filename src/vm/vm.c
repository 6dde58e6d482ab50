/*
 * The state, its time, and the protected calls.
 *
 * Time. A count hook reads the monotonic clock every few hundred instructions. Past the deadline it raises, and from then on it fires at every
 * instruction, so that a script which catches the error loses the next instruction too; coroutines are brought to the same pace when they are
 * resumed. The error is Lua's own memory error: it is the only kind that runs no message handler (handlers called from a hook would run
 * without hooks). C functions that loop account for their work with vm_work, which reads the same clock.
 *
 * The hook also ends calls nested absurdly deep, whose unwinding would take long. Memory is heap.c's.
 *
 * Invariant: outside of vm_call, vm_protect and vm_load no deadline is set and no kill is pending.
 */
#include "vm/vm.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "vm/inside.h"

static const int depth_limit = 20000;          /* Lua calls inside each other */
static const unsigned depth_looks = 64;        /* runs of the hook between two looks at the depth, which walk the calls */
static const size_t piece = 256;               /* bytes handed to the compiler at once */
static const seconds load_budget = 1;          /* of a vm_load outside any call */

static int64_t monotonic(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

struct vm *vm_of(lua_State *L) {
  return *(struct vm **)lua_getextraspace(L);
}

lua_State *vm_lua(struct vm *vm) {
  return vm->running;
}

bool vm_spent(const struct vm *vm) {
  return vm->heap.spent;
}

size_t vm_memory(const struct vm *vm) {
  return vm->heap.used;
}

bool vm_doomed(const struct vm *vm) {
  return vm->budget.kill != KILL_NONE || vm->heap.refused || vm->heap.spent;
}

/* ---- time ---- */

bool vm_is_late(const struct vm *vm) {
  return vm->budget.deadline != INT64_MAX && monotonic() >= vm->budget.deadline;
}

void vm_locate(lua_State *L, int level, char *out, size_t size) {
  lua_Debug ar;
  out[0] = '\0';
  for (int last = level + 200; level < last && lua_getstack(L, level, &ar); level++) {
    lua_getinfo(L, "Sl", &ar);
    if (ar.currentline <= 0) continue;
    snprintf(out, size, "%s:%d", ar.short_src, ar.currentline);
    return;
  }
}

/* Ends the running call: called again for each error that the script caught. */
static _Noreturn void kill_call(struct vm *vm, lua_State *L, enum vm_kill kill) {
  if (vm->budget.kill == KILL_NONE) {
    vm->budget.kill = vm->heap.refused || vm->heap.spent ? KILL_MEMORY : kill;
    vm_locate(L, 0, vm->where, sizeof vm->where);
  }
  vm->budget.interval = 1;
  vm_rearm(vm, L);
  lua_pushliteral(L, "not enough memory"); /* lua_error makes this very text a memory error */
  lua_error(L);
  __builtin_unreachable();
}

/* Very deep calls have a stack of 256 KiB or more, so others need not be looked at. */
static bool is_deep(struct vm *vm, lua_State *L) {
  lua_Debug ar;
  return ++vm->budget.looks % depth_looks == 0 && lua_getstack(L, depth_limit, &ar);
}

static void on_count(lua_State *L, lua_Debug *ar) {
  struct vm *vm = vm_of(L);
  (void)ar;
  if (vm_doomed(vm) || vm_is_late(vm)) kill_call(vm, L, KILL_TIME);
  if (vm->budget.interval < VM_INTERVAL && is_deep(vm, L)) kill_call(vm, L, KILL_DEPTH);
  vm->budget.work = 0;
  vm_rearm(vm, L);
}

void vm_rearm(struct vm *vm, lua_State *L) {
  if (lua_gethookcount(L) == vm->budget.interval && lua_gethook(L) == on_count) return;
  lua_sethook(L, on_count, LUA_MASKCOUNT, vm->budget.interval);
}

void vm_work(lua_State *L, size_t units) {
  struct vm *vm = vm_of(L);
  vm->budget.work += units;
  if (vm->budget.work < VM_WORK_SLICE && !vm_doomed(vm)) return;
  vm->budget.work = 0;
  if (vm_doomed(vm) || vm_is_late(vm)) kill_call(vm, L, KILL_TIME);
}

/* ---- birth and death ---- */

static int build(lua_State *L) {
  sandbox_open(L);
  return 0;
}

struct vm *vm_new(const struct vm_options *options) {
  struct vm *vm = calloc(1, sizeof *vm);
  if (!vm) return NULL;
  vm->options = *options;
  vm->heap.limit = options->memory;
  vm->budget.deadline = INT64_MAX;
  vm->budget.interval = VM_INTERVAL;
  vm->folder = options->folder ? realpath(options->folder, NULL) : NULL;
  vm->main = lua_newstate(vm_reallocate, vm);
  if (!vm->main) goto out;
  *(struct vm **)lua_getextraspace(vm->main) = vm;
  vm->running = vm->main;
  lua_gc(vm->main, LUA_GCINC, 150, 200, 0); /* a cycle ends well before the heap has doubled */
  lua_pushcfunction(vm->main, build);
  if (lua_pcall(vm->main, 0, 0, 0) != LUA_OK || vm_doomed(vm)) goto out;
  vm_rearm(vm, vm->main);
  return vm;
out:
  vm_free(vm);
  return NULL;
}

void vm_free(struct vm *vm) {
  if (!vm) return;
  if (vm->main) lua_close(vm->main);
  buf_free(&vm->source);
  free(vm->folder);
  free(vm);
}

/* ---- protected calls ---- */

/* `text` begins with "file:12: ". */
static bool has_position(const char *text) {
  const char *line = strchr(text, ':');
  if (!line || line == text || memchr(text, '\n', (size_t)(line - text))) return false;
  size_t digits = strspn(line + 1, "0123456789");
  return digits && line[1 + digits] == ':';
}

/* The message handler: makes a text of any error object while the place is still known, inside the budget. */
static int explain(lua_State *L) {
  char where[160];
  vm_locate(L, 1, where, sizeof where);
  lua_settop(L, 1);
  bool printable = lua_isstring(L, 1) || luaL_getmetafield(L, 1, "__tostring") != LUA_TNIL;
  if (!printable && lua_istable(L, 1)) {
    lua_pushliteral(L, "message");
    printable = lua_rawget(L, 1) == LUA_TSTRING;
    if (printable) lua_replace(L, 1);
  }
  if (lua_isnoneornil(L, 1)) {
    lua_pushliteral(L, "error without a message (nil)");
  } else if (printable) {
    luaL_tolstring(L, 1, NULL);
  } else {
    lua_pushfstring(L, "error object is a %s", luaL_typename(L, 1));
  }
  if (!has_position(lua_tostring(L, -1)) && where[0]) lua_pushfstring(L, "%s: %s", where, lua_tostring(L, -1));
  return 1;
}

struct frame {
  lua_State *running;
  bool outermost;
};

static struct frame enter(struct vm *vm, lua_State *L, seconds budget) {
  struct frame frame = { .running = vm->running, .outermost = vm->budget.calls++ == 0 };
  vm->running = L;
  if (!frame.outermost) return frame;
  bool bounded = budget < 1e9; /* also: not a number, and infinite, are no bound */
  vm->budget.span = budget;
  vm->budget.deadline = bounded ? monotonic() + (int64_t)(budget > 0 ? budget * 1e9 : 0) : INT64_MAX;
  vm->budget.work = 0;
  vm->where[0] = '\0';
  vm->budget.interval = vm_interval(vm);
  vm_rearm(vm, L);
  return frame;
}

static enum vm_result leave(struct vm *vm, struct frame frame, int status) {
  struct vm_budget *budget = &vm->budget;
  if (vm->heap.refused) vm->heap.spent = true;
  enum vm_result result = status == LUA_OK ? VM_GOOD : VM_RAISED;
  if (vm->heap.spent) result = VM_MEMORY;
  else if (budget->kill == KILL_TIME) result = VM_TIME;
  else if (budget->kill == KILL_DEPTH) result = VM_RAISED;
  vm->ended_by = budget->kill;
  vm->running = frame.running;
  budget->calls--;
  if (frame.outermost) {
    budget->deadline = INT64_MAX;
    budget->kill = KILL_NONE;
    budget->interval = vm_interval(vm);
  }
  return result;
}

static void write_error(struct vm *vm, lua_State *L, enum vm_result result, char *error, size_t size) {
  const char *at = vm->where[0] ? vm->where : "";
  const char *sep = vm->where[0] ? ": " : "";
  if (!size) return;
  if (result == VM_TIME) {
    snprintf(error, size, "%s%stime budget of %g ms exceeded", at, sep, vm->budget.span * 1000);
  } else if (result == VM_MEMORY) {
    snprintf(error, size, "%s%smemory limit of %zu bytes exceeded", at, sep, vm->heap.limit);
  } else if (vm->ended_by == KILL_DEPTH) {
    snprintf(error, size, "%s%scalls nested deeper than %d", at, sep, depth_limit);
  } else {
    const char *text = lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : NULL;
    snprintf(error, size, "%s", text ? text : "error in error handling");
  }
}

static enum vm_result give_up(struct vm *vm, lua_State *L, int top, char *error, size_t size) {
  vm->heap.spent = true;
  write_error(vm, L, VM_MEMORY, error, size);
  lua_settop(L, top);
  return VM_MEMORY;
}

enum vm_result vm_call(struct vm *vm, int arguments, int results, seconds budget, char *error, size_t error_size) {
  lua_State *L = vm->running;
  int base = lua_gettop(L) - arguments;
  if (vm->heap.spent || !lua_checkstack(L, 4)) return give_up(vm, L, base - 1, error, error_size);
  lua_pushcfunction(L, explain);
  lua_insert(L, base);
  struct frame frame = enter(vm, L, budget);
  int status = lua_pcall(L, arguments, results, base);
  enum vm_result result = leave(vm, frame, status);
  if (result == VM_GOOD) {
    lua_remove(L, base);
    return VM_GOOD;
  }
  write_error(vm, L, result, error, error_size);
  lua_settop(L, base - 1);
  return result;
}

struct task {
  int (*body)(lua_State *L, void *context);
  void *context;
};

static int run_task(lua_State *L) {
  struct task *task = lua_touserdata(L, 1);
  lua_settop(L, 0);
  return task->body(L, task->context);
}

enum vm_result vm_protect(struct vm *vm, int (*body)(lua_State *L, void *context), void *context, seconds budget, char *error,
                          size_t error_size) {
  lua_State *L = vm->running;
  struct task task = { body, context };
  if (vm->heap.spent || !lua_checkstack(L, 4)) return give_up(vm, L, lua_gettop(L), error, error_size);
  lua_pushcfunction(L, run_task);
  lua_pushlightuserdata(L, &task);
  return vm_call(vm, 1, LUA_MULTRET, budget, error, error_size);
}

/* ---- compiling ---- */

static const char *next_piece(lua_State *L, void *context, size_t *size) {
  struct span *left = context;
  vm_work(L, piece * 64);
  const char *p = left->p;
  *size = left->n < piece ? left->n : piece;
  *left = span_skip(*left, *size);
  return *size ? p : NULL;
}

int vm_compile(lua_State *L, struct span source, const char *chunk) {
  if (span_starts(source, "\xef\xbb\xbf")) source = span_skip(source, 3);
  return lua_load(L, next_piece, &source, chunk, "t");
}

static int note_libraries(lua_State *L, void *context) {
  (void)context;
  sandbox_note(L);
  return 0;
}

bool vm_load(struct vm *vm, struct span source, const char *chunk, char *error, size_t error_size) {
  lua_State *L = vm->running;
  int top = lua_gettop(L);
  if (!vm->noted && vm_protect(vm, note_libraries, NULL, SECONDS_NEVER, error, error_size) != VM_GOOD) return false;
  vm->noted = true;
  if (vm->heap.spent || !lua_checkstack(L, 4)) return give_up(vm, L, top, error, error_size) == VM_GOOD;
  struct frame frame = enter(vm, L, load_budget);
  int status = vm_compile(L, source, chunk);
  enum vm_result result = leave(vm, frame, status);
  if (result == VM_GOOD) return true;
  const char *name = chunk[0] == '@' || chunk[0] == '=' ? chunk + 1 : chunk;
  const char *text = lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : "";
  if (vm->where[0] == '\0') snprintf(vm->where, sizeof vm->where, "%s", name);
  if (result == VM_RAISED && !has_position(text) && error_size) snprintf(error, error_size, "%s: %s", name, text);
  else write_error(vm, L, result, error, error_size);
  lua_settop(L, top);
  return false;
}

static int freeze(lua_State *L, void *context) {
  (void)context;
  sandbox_note(L);
  sandbox_freeze(L);
  return 0;
}

bool vm_freeze(struct vm *vm) {
  char error[8];
  return vm_protect(vm, freeze, NULL, SECONDS_NEVER, error, sizeof error) == VM_GOOD;
}
