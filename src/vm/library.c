/*
 * Library functions that loop in C, bounded: they account for their work, so that the clock is looked at inside the loop, and never take more
 * than they were given. Functions whose cost is that of their text are the stock ones behind a charge (`charged`); the rest is written here.
 *
 * Coroutines: the VM is told which one runs, and its hook is brought to the VM's pace, on every switch. The pending variables of a
 * coroutine that failed are never closed: one that was killed by the hook has its hooks off, and its handlers could run for ever.
 */
#include <limits.h>

#include "base/clock.h"
#include "vm/inside.h"

enum {
  MAX_TEXT = 8 << 20,       /* bytes one stock function may be given */
  MAX_ARGUMENTS = 1000,     /* of string.format: 10 us each at worst */
  MAX_UNPACK = 100000,      /* values */
  MAX_FORMAT = 256,         /* bytes of an os.date format */
  MAX_QUOTED = 64 << 10,    /* bytes of text for the format %q: 100 ns each at worst */
  MAX_PACK = 1 << 20,       /* all sizes in a string.pack format */
  MAX_PACK_FORMAT = 64 << 10,
  MAX_CLOSE_DEPTH = 20,
};

static int stock(lua_State *L) {
  return lua_tocfunction(L, lua_upvalueindex(1))(L);
}

/* The stock function, after its texts are accounted for. */
static int charged(lua_State *L) {
  size_t bytes = 0;
  for (int i = lua_gettop(L); i >= 1; i--) {
    if (lua_type(L, i) == LUA_TSTRING) bytes += lua_rawlen(L, i);
  }
  if (bytes > MAX_TEXT) return luaL_error(L, "text too long (%d bytes at most)", MAX_TEXT);
  vm_work(L, 2 * bytes + 64);
  return stock(L);
}

/* Replaces a field of the table on top by a function that has the old one as its upvalue. */
static void wrap_field(lua_State *L, const char *name, lua_CFunction f) {
  lua_getfield(L, -1, name);
  lua_pushcclosure(L, f, 1);
  lua_setfield(L, -2, name);
}

static void drop_field(lua_State *L, const char *name) {
  lua_pushnil(L);
  lua_setfield(L, -2, name);
}

/* ---- string ---- */

static int string_rep(lua_State *L) {
  size_t n, gap;
  const char *text = luaL_checklstring(L, 1, &n);
  lua_Integer times = luaL_checkinteger(L, 2);
  const char *between = luaL_optlstring(L, 3, "", &gap);
  if (times <= 0 || n + gap == 0) {
    lua_pushliteral(L, "");
    return 1;
  }
  if ((size_t)times > (size_t)INT_MAX / (n + gap)) return luaL_error(L, "resulting string too large");
  size_t total = (size_t)times * (n + gap) - gap;
  vm_work(L, total);
  luaL_Buffer b;
  char *p = luaL_buffinitsize(L, &b, total);
  memcpy(p, text, n);
  size_t done = n; /* doubles: what is there is a prefix of the periodic whole */
  if (times > 1) {
    memcpy(p + n, between, gap);
    done += gap;
  }
  for (size_t period = n + gap; done < total;) {
    size_t whole = done / period * period;
    size_t part = whole < total - done ? whole : total - done;
    memcpy(p + done, p, part);
    done += part;
  }
  luaL_pushresultsize(&b, total);
  return 1;
}

static int string_format(lua_State *L) {
  int arguments = lua_gettop(L);
  size_t quoted = 0;
  if (arguments > MAX_ARGUMENTS) return luaL_error(L, "too many arguments to format");
  if (strstr(luaL_checkstring(L, 1), "%q")) {
    for (int i = 2; i <= arguments; i++) quoted += lua_type(L, i) == LUA_TSTRING ? lua_rawlen(L, i) : 0;
  }
  if (quoted > MAX_QUOTED) return luaL_error(L, "text too long for '%%q' (%d bytes at most)", MAX_QUOTED);
  vm_work(L, 100 * ((size_t)arguments + quoted));
  return charged(L);
}

/* string.pack and unpack: the format and the sizes in it are also loops. */
static int packing(lua_State *L) {
  const char *format = luaL_checkstring(L, 1);
  size_t sum = lua_rawlen(L, 1) * (MAX_PACK / MAX_PACK_FORMAT);
  while (*format && sum <= MAX_PACK) {
    size_t number = 0;
    for (; *format >= '0' && *format <= '9' && number <= MAX_PACK; format++) number = number * 10 + (size_t)(*format - '0');
    sum += number;
    if (*format) format++;
  }
  if (sum > MAX_PACK) return luaL_error(L, "format too large");
  return charged(L);
}

void library_string(lua_State *L) {
  static const char *const texts[] = { "byte", "lower", "reverse", "upper", NULL };
  static const char *const packs[] = { "pack", "packsize", "unpack", NULL };
  for (const char *const *name = texts; *name; name++) wrap_field(L, *name, charged);
  for (const char *const *name = packs; *name; name++) wrap_field(L, *name, packing);
  wrap_field(L, "format", string_format);
  lua_pushcfunction(L, string_rep);
  lua_setfield(L, -2, "rep");
  drop_field(L, "dump");
}

void library_utf8(lua_State *L) {
  static const char *const texts[] = { "codepoint", "len", "offset", NULL };
  for (const char *const *name = texts; *name; name++) wrap_field(L, *name, charged);
}

/* ---- table ---- */

static lua_Integer table_length(lua_State *L) {
  luaL_checktype(L, 1, LUA_TTABLE);
  return luaL_len(L, 1);
}

static int table_insert(lua_State *L) {
  lua_Integer end = (lua_Integer)((lua_Unsigned)table_length(L) + 1);
  lua_Integer at = end;
  int count = lua_gettop(L);
  if (count != 2 && count != 3) return luaL_error(L, "wrong number of arguments to 'insert'");
  if (count == 3) {
    at = luaL_checkinteger(L, 2);
    luaL_argcheck(L, (lua_Unsigned)at - 1u < (lua_Unsigned)end, 2, "position out of bounds");
  }
  for (lua_Integer i = end; i > at; i--) {
    vm_work(L, 16);
    lua_geti(L, 1, i - 1);
    lua_seti(L, 1, i);
  }
  lua_seti(L, 1, at);
  return 0;
}

static int table_remove(lua_State *L) {
  lua_Integer size = table_length(L);
  lua_Integer at = luaL_optinteger(L, 2, size);
  if (at != size) luaL_argcheck(L, (lua_Unsigned)at - 1u <= (lua_Unsigned)size, 2, "position out of bounds");
  lua_geti(L, 1, at);
  for (; at < size; at++) {
    vm_work(L, 16);
    lua_geti(L, 1, at + 1);
    lua_seti(L, 1, at);
  }
  lua_pushnil(L);
  lua_seti(L, 1, at);
  return 1;
}

static int table_move(lua_State *L) {
  lua_Integer first = luaL_checkinteger(L, 2), last = luaL_checkinteger(L, 3), to = luaL_checkinteger(L, 4);
  int target = lua_isnoneornil(L, 5) ? 1 : 5;
  luaL_checktype(L, 1, LUA_TTABLE);
  luaL_checktype(L, target, LUA_TTABLE);
  if (last >= first) {
    luaL_argcheck(L, first > 0 || last < LUA_MAXINTEGER + first, 3, "too many elements to move");
    luaL_argcheck(L, to <= LUA_MAXINTEGER - (last - first), 4, "destination wrap around");
    bool upwards = to > last || to <= first || (target != 1 && !lua_rawequal(L, 1, target));
    for (lua_Integer k = 0, n = last - first; k <= n; k++) {
      lua_Integer i = upwards ? k : n - k;
      vm_work(L, 16);
      lua_geti(L, 1, first + i);
      lua_seti(L, target, to + i);
    }
  }
  lua_pushvalue(L, target);
  return 1;
}

static int table_concat(lua_State *L) {
  lua_Integer size = table_length(L);
  size_t gap;
  const char *between = luaL_optlstring(L, 2, "", &gap);
  lua_Integer i = luaL_optinteger(L, 3, 1), last = luaL_optinteger(L, 4, size);
  luaL_Buffer b;
  luaL_buffinit(L, &b);
  for (; i <= last; i++) {
    vm_work(L, 32 + gap);
    lua_geti(L, 1, i);
    if (!lua_isstring(L, -1)) {
      return luaL_error(L, "invalid value (at index %I) in table for 'concat'", (LUAI_UACINT)i);
    }
    vm_work(L, lua_rawlen(L, -1));
    luaL_addvalue(&b);
    if (i == last) break;
    luaL_addlstring(&b, between, gap);
  }
  luaL_pushresult(&b);
  return 1;
}

static int table_unpack(lua_State *L) {
  lua_Integer first = luaL_optinteger(L, 2, 1);
  lua_Integer last = lua_isnoneornil(L, 3) ? luaL_len(L, 1) : luaL_checkinteger(L, 3);
  if (first > last) return 0;
  lua_Unsigned count = (lua_Unsigned)last - (lua_Unsigned)first + 1;
  if (count - 1 >= MAX_UNPACK || !lua_checkstack(L, (int)count)) return luaL_error(L, "too many results to unpack");
  for (lua_Unsigned k = 0; k < count; k++) {
    vm_work(L, 16);
    lua_geti(L, 1, (lua_Integer)((lua_Unsigned)first + k));
  }
  return (int)count;
}

/* The comparison of a sort without one; upvalue: none. */
static int less_than(lua_State *L) {
  size_t bytes = lua_type(L, 1) == LUA_TSTRING ? lua_rawlen(L, 1) : 0;
  vm_work(L, 48 + bytes);
  lua_pushboolean(L, lua_compare(L, 1, 2, LUA_OPLT));
  return 1;
}

/* A comparison that is a C function: no instruction runs between two of them, so no hook either. */
static int compare_in_c(lua_State *L) {
  vm_work(L, 100);
  lua_pushvalue(L, lua_upvalueindex(1));
  lua_insert(L, 1);
  lua_call(L, lua_gettop(L) - 1, 1);
  return 1;
}

static int table_sort(lua_State *L) {
  if (lua_isnoneornil(L, 2)) {
    lua_settop(L, 1);
    lua_pushcfunction(L, less_than);
  } else {
    luaL_checktype(L, 2, LUA_TFUNCTION);
    lua_settop(L, 2);
    if (lua_iscfunction(L, 2)) lua_pushcclosure(L, compare_in_c, 1);
  }
  return stock(L);
}

void library_table(lua_State *L) {
  static const luaL_Reg own[] = { { "insert", table_insert }, { "remove", table_remove }, { "move", table_move }, { "concat", table_concat },
                                  { "unpack", table_unpack }, { NULL, NULL } };
  luaL_setfuncs(L, own, 0);
  wrap_field(L, "sort", table_sort);
}

/* ---- coroutine ---- */

/* Resumes with the `arguments` on top of L. The number of results now on L, or -1 and the error object. */
static int resume(lua_State *L, lua_State *co, int arguments) {
  struct vm *vm = vm_of(L);
  int count = 0;
  vm_work(L, 2000); /* a fresh coroutine runs up to a whole interval unseen */
  if (!lua_checkstack(co, arguments)) {
    lua_pushliteral(L, "too many arguments to resume");
    return -1;
  }
  if (lua_status(co) == LUA_OK && lua_gettop(co) == 0) {
    lua_pushliteral(L, "cannot resume dead coroutine");
    return -1;
  }
  lua_xmove(L, co, arguments);
  vm->running = co;
  vm_rearm(vm, co);
  int status = lua_resume(co, L, arguments, &count);
  vm->running = L;
  vm_rearm(vm, L);
  if (vm_doomed(vm)) vm_work(L, 0);
  if (status != LUA_OK && status != LUA_YIELD) {
    lua_xmove(co, L, 1);
    return -1;
  }
  if (!lua_checkstack(L, count + 1)) {
    lua_pop(co, count);
    lua_pushliteral(L, "too many results to resume");
    return -1;
  }
  lua_xmove(co, L, count);
  return count;
}

static lua_State *coroutine_argument(lua_State *L) {
  lua_State *co = lua_tothread(L, 1);
  luaL_argexpected(L, co, 1, "coroutine");
  return co;
}

static int coroutine_resume(lua_State *L) {
  lua_State *co = coroutine_argument(L);
  int count = resume(L, co, lua_gettop(L) - 1);
  lua_pushboolean(L, count >= 0);
  if (count < 0) count = 1;
  lua_insert(L, -(count + 1));
  return count + 1;
}

static int resume_wrapped(lua_State *L) {
  int count = resume(L, lua_tothread(L, lua_upvalueindex(1)), lua_gettop(L));
  if (count >= 0) return count;
  if (lua_type(L, -1) == LUA_TSTRING) {
    luaL_where(L, 1);
    lua_insert(L, -2);
    lua_concat(L, 2);
  }
  return lua_error(L);
}

static int coroutine_wrap(lua_State *L) {
  luaL_checktype(L, 1, LUA_TFUNCTION);
  lua_State *co = lua_newthread(L);
  lua_pushvalue(L, 1);
  lua_xmove(L, co, 1);
  lua_pushcclosure(L, resume_wrapped, 1);
  return 1;
}

/* Closes a suspended coroutine: its handlers run. Lua 5.4.4 does not count C calls across this, so the depth is counted here. */
static int close_suspended(lua_State *L, lua_State *co) {
  struct vm *vm = vm_of(L);
  if (vm->budget.closings >= MAX_CLOSE_DEPTH) return luaL_error(L, "coroutine.close nested too deeply");
  vm_work(L, 2000);
  vm->budget.closings++;
  vm->running = co;
  vm_rearm(vm, co);
  int status = lua_resetthread(co);
  vm->running = L;
  vm_rearm(vm, L);
  vm->budget.closings--;
  if (vm_doomed(vm)) vm_work(L, 0);
  lua_pushboolean(L, status == LUA_OK);
  if (status == LUA_OK) return 1;
  lua_xmove(co, L, 1);
  return 2;
}

static int coroutine_close(lua_State *L) {
  lua_State *co = coroutine_argument(L);
  int status = lua_status(co);
  lua_Debug ar;
  bool active = co == L || (status == LUA_OK && lua_getstack(co, 0, &ar));
  if (active) return luaL_error(L, "cannot close a coroutine that is running");
  if (status == LUA_OK || status == LUA_YIELD) return close_suspended(L, co);
  lua_pushboolean(L, false);
  lua_pushliteral(L, "the coroutine failed");
  return 2;
}

void library_coroutine(lua_State *L) {
  static const luaL_Reg own[] = { { "resume", coroutine_resume }, { "wrap", coroutine_wrap }, { "close", coroutine_close }, { NULL, NULL } };
  luaL_setfuncs(L, own, 0);
}

/* ---- os ---- */

static seconds engine_now(lua_State *L) {
  const struct vm_options *options = &vm_of(L)->options;
  return options->now ? options->now(options->context) : clock_now();
}

static int os_time(lua_State *L) {
  if (!lua_isnoneornil(L, 1)) return stock(L);
  lua_pushinteger(L, (lua_Integer)engine_now(L));
  return 1;
}

static int os_clock(lua_State *L) {
  lua_pushnumber(L, engine_now(L) - lua_tonumber(L, lua_upvalueindex(1)));
  return 1;
}

static int os_date(lua_State *L) {
  size_t n;
  luaL_optlstring(L, 1, "%c", &n);
  luaL_argcheck(L, n <= MAX_FORMAT, 1, "format too long");
  if (lua_isnoneornil(L, 2)) {
    lua_settop(L, 1);
    lua_pushinteger(L, (lua_Integer)engine_now(L));
  }
  return stock(L);
}

/* Leaves a new table with three functions in place of the stock one. */
void library_os(lua_State *L) {
  lua_createtable(L, 0, 3);
  lua_getfield(L, -2, "time");
  lua_pushcclosure(L, os_time, 1);
  lua_setfield(L, -2, "time");
  lua_getfield(L, -2, "date");
  lua_pushcclosure(L, os_date, 1);
  lua_setfield(L, -2, "date");
  lua_pushnumber(L, engine_now(L));
  lua_pushcclosure(L, os_clock, 1);
  lua_setfield(L, -2, "clock");
  lua_remove(L, -2);
}
