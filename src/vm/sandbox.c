/*
 * Which globals exist, and how they become read-only.
 *
 * The libraries are opened as Lua has them, what reaches outside is dropped, what can run long in C is replaced (library.c, search.c) and the rest
 * is handed out. The table of globals is strict from the start: reading a name that was never assigned is an error.
 *
 * Freezing keeps each table's identity: its fields move to a hidden table behind __index, and the emptied table refuses every write. A reading
 * costs one look-up more, and no alias made before the freeze escapes it. Frozen are the table of globals and the libraries, that is, every
 * table that was reachable by name from the globals before the first chunk was compiled; a script's own tables stay its own.
 *
 * No finalizers: a metatable with __gc is refused, because finalizers run outside of any budget and with hooks off.
 */
#include <lualib.h>

#include "base/log.h"
#include "vm/inside.h"

enum { LIBRARY_DEPTH = 4 };

static const char noted_key = 0;  /* registry: frozen-to-be table -> its name */
static const char backing_key = 0; /* metatable of a frozen table: the hidden table */

/* ---- functions of the base library ---- */

/* Pushes the hidden table of a frozen one; false and nothing when it is not frozen. */
static bool push_backing(lua_State *L, int index) {
  if (!lua_istable(L, index) || !lua_getmetatable(L, index)) return false;
  if (lua_rawgetp(L, -1, &backing_key) == LUA_TTABLE) {
    lua_remove(L, -2);
    return true;
  }
  lua_pop(L, 2);
  return false;
}

static int stock(lua_State *L) {
  return lua_tocfunction(L, lua_upvalueindex(1))(L);
}

static int set_metatable(lua_State *L) {
  if (lua_istable(L, 2)) {
    lua_pushliteral(L, "__gc");
    lua_rawget(L, 2);
    if (!lua_isnil(L, -1)) return luaL_error(L, "finalizers (__gc) are not available");
    lua_pop(L, 1);
  }
  return stock(L);
}

static int raw_set(lua_State *L) {
  if (push_backing(L, 1)) return luaL_error(L, "globals and libraries are read-only");
  return stock(L);
}

static int raw_get(lua_State *L) {
  luaL_checkany(L, 2);
  if (push_backing(L, 1)) lua_replace(L, 1);
  return stock(L);
}

static int collect_garbage(lua_State *L) {
  const char *what = luaL_optstring(L, 1, "collect");
  if (strcmp(what, "count") != 0) return luaL_error(L, "collectgarbage('%s') is not available, only 'count' is", what);
  return stock(L);
}

static int print_line(lua_State *L) {
  char where[160];
  int count = lua_gettop(L);
  luaL_Buffer text;
  luaL_buffinit(L, &text);
  for (int i = 1; i <= count; i++) {
    size_t n;
    const char *p = luaL_tolstring(L, i, &n);
    vm_work(L, n + 1000);
    lua_pushlstring(L, p, n < 2000 ? n : 2000);
    lua_remove(L, -2);
    luaL_addvalue(&text);
    if (i < count) luaL_addchar(&text, '\t');
    if (luaL_bufflen(&text) > 8000) break;
  }
  luaL_pushresult(&text);
  vm_locate(L, 1, where, sizeof where);
  log_info("print", LOG_TEXT("text", lua_tostring(L, -1)), LOG_TEXT("at", where));
  vm_work(L, 5000);
  return 0;
}

/* ---- globals ---- */

static int undefined_global(lua_State *L) {
  return luaL_error(L, "undefined global '%s'", lua_type(L, 2) == LUA_TSTRING ? lua_tostring(L, 2) : luaL_typename(L, 2));
}

static const luaL_Reg base_replaced[] = {
  { "setmetatable", set_metatable }, { "rawset", raw_set }, { "rawget", raw_get }, { "collectgarbage", collect_garbage }, { NULL, NULL }
};
static const char *const base_removed[] = { "dofile", "loadfile", "warn", NULL };

/* Globals of the base library in the table on top; each replaced function keeps the stock one as its upvalue. */
static void open_base(lua_State *L) {
  lua_pushcfunction(L, luaopen_base);
  lua_call(L, 0, 1);
  for (const luaL_Reg *f = base_replaced; f->name; f++) {
    lua_getfield(L, -1, f->name);
    lua_pushcclosure(L, f->func, 1);
    lua_setfield(L, -2, f->name);
  }
  for (const char *const *name = base_removed; *name; name++) {
    lua_pushnil(L);
    lua_setfield(L, -2, *name);
  }
  lua_pushcfunction(L, print_line);
  lua_setfield(L, -2, "print");
  lua_pushcfunction(L, require_load);
  lua_setfield(L, -2, "load");
  lua_pushcfunction(L, require_module);
  lua_setfield(L, -2, "require");
}

static void open_library(lua_State *L, const char *name, lua_CFunction open, void (*bound)(lua_State *L)) {
  lua_pushcfunction(L, open);
  lua_call(L, 0, 1);
  if (bound) bound(L);
  lua_setfield(L, -2, name);
}

static void bound_string(lua_State *L) {
  library_string(L);
  search_install(L);
}

/* ---- read-only tables ---- */

static int refuse_write(lua_State *L) {
  const char *name = lua_tostring(L, lua_upvalueindex(1));
  const char *key = lua_type(L, 2) == LUA_TSTRING ? lua_tostring(L, 2) : luaL_typename(L, 2);
  if (strcmp(name, "_G") == 0) return luaL_error(L, "globals are read-only after load (assigning '%s')", key);
  return luaL_error(L, "'%s' is read-only (assigning '%s')", name, key);
}

static int next_pair(lua_State *L) {
  lua_settop(L, 2);
  lua_pushvalue(L, lua_upvalueindex(1));
  lua_replace(L, 1);
  return lua_next(L, 1) ? 2 : 0;
}

static int frozen_pairs(lua_State *L) {
  luaL_checkany(L, 1);
  lua_pushvalue(L, lua_upvalueindex(1));
  lua_pushcclosure(L, next_pair, 1);
  lua_pushvalue(L, 1);
  lua_pushnil(L);
  return 3;
}

/* Gives the emptied table at `table` its read-only metatable over the hidden table at `backing`. */
static void guard_table(lua_State *L, int table, int backing, const char *name) {
  lua_createtable(L, 0, 6);
  lua_pushvalue(L, backing);
  lua_setfield(L, -2, "__index");
  lua_pushstring(L, name);
  lua_pushcclosure(L, refuse_write, 1);
  lua_setfield(L, -2, "__newindex");
  lua_pushboolean(L, 0);
  lua_setfield(L, -2, "__metatable");
  lua_pushvalue(L, backing);
  lua_pushcclosure(L, frozen_pairs, 1);
  lua_setfield(L, -2, "__pairs");
  lua_pushvalue(L, backing);
  lua_rawsetp(L, -2, &backing_key);
  lua_setmetatable(L, table);
}

/* Freezes the table on top of the stack in place, and pops it. */
static void freeze_table(lua_State *L, const char *name) {
  int table = lua_gettop(L);
  if (push_backing(L, table)) {
    lua_settop(L, table - 1);
    return;
  }
  lua_newtable(L);
  int backing = lua_gettop(L);
  for (lua_pushnil(L); lua_next(L, table);) {
    lua_pushvalue(L, -2);
    lua_insert(L, -2);
    lua_rawset(L, backing);
  }
  for (lua_pushnil(L); lua_next(L, table); lua_pop(L, 1)) {
    lua_pushvalue(L, -2);
    lua_pushnil(L);
    lua_rawset(L, table);
  }
  if (lua_getmetatable(L, table)) lua_setmetatable(L, backing); /* the strictness of globals moves along */
  guard_table(L, table, backing, name);
  lua_settop(L, table - 1);
}

/* The script sees this instead of the metatable of strings. */
static void hide_string_metatable(lua_State *L) {
  lua_pushliteral(L, "");
  lua_getmetatable(L, -1);
  lua_newtable(L);
  lua_getfield(L, -2, "__index");
  lua_setfield(L, -2, "__index");
  lua_pushvalue(L, -1);
  freeze_table(L, "the metatable of strings");
  lua_setfield(L, -2, "__metatable");
  lua_pop(L, 2);
}

void sandbox_open(lua_State *L) {
  open_base(L); /* leaves the table of globals */
  open_library(L, "string", luaopen_string, bound_string);
  open_library(L, "table", luaopen_table, library_table);
  open_library(L, "math", luaopen_math, NULL);
  open_library(L, "utf8", luaopen_utf8, library_utf8);
  open_library(L, "coroutine", luaopen_coroutine, library_coroutine);
  open_library(L, "os", luaopen_os, library_os);
  lua_createtable(L, 0, 2);
  lua_pushcfunction(L, undefined_global);
  lua_setfield(L, -2, "__index");
  lua_pushboolean(L, 0);
  lua_setfield(L, -2, "__metatable");
  lua_setmetatable(L, -2);
  lua_pop(L, 1);
  hide_string_metatable(L);
}

/* ---- which tables are libraries ---- */

/* Notes the tables among the fields of the table on top; `noted` is the stack index of what is known. */
static void note_fields(lua_State *L, int noted, const char *path, int depth) {
  int table = lua_gettop(L);
  luaL_checkstack(L, 8, "libraries");
  for (lua_pushnil(L); lua_next(L, table); lua_settop(L, table + 1)) {
    if (lua_type(L, -2) != LUA_TSTRING || !lua_istable(L, -1)) continue;
    lua_pushvalue(L, -1);
    if (lua_rawget(L, noted) != LUA_TNIL) continue;
    lua_pop(L, 1);
    const char *name = *path ? lua_pushfstring(L, "%s.%s", path, lua_tostring(L, -2)) : lua_pushstring(L, lua_tostring(L, -2));
    lua_pushvalue(L, -2);
    lua_pushvalue(L, -2);
    lua_rawset(L, noted);
    lua_pushvalue(L, -2);
    if (depth < LIBRARY_DEPTH) note_fields(L, noted, name, depth + 1);
  }
}

void sandbox_note(lua_State *L) {
  if (vm_of(L)->noted) return;
  lua_newtable(L);
  int noted = lua_gettop(L);
  lua_pushglobaltable(L);
  lua_pushvalue(L, -1);
  lua_pushliteral(L, "_G");
  lua_rawset(L, noted);
  note_fields(L, noted, "", 1);
  lua_pop(L, 1);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &noted_key);
  vm_of(L)->noted = true;
}

void sandbox_freeze(lua_State *L) {
  lua_rawgetp(L, LUA_REGISTRYINDEX, &noted_key);
  for (lua_pushnil(L); lua_next(L, -2); lua_pop(L, 1)) {
    lua_pushvalue(L, -2);
    freeze_table(L, lua_tostring(L, -2));
  }
  lua_pop(L, 1);
}
