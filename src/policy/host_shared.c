/*
 * bullpen.shared in Lua: get, set, add, incr, delete over the process-wide store. Wrong arguments raise; what the store
 * cannot do comes back as `nil, reason`. In load checks it is an empty store that takes everything and keeps nothing.
 */
#include <math.h>

#include "policy/parts.h"
#include "policy/shared.h"

enum { KEY_BYTES = 512, ROOM_BYTES = 1024 };

static const struct host *host_of(lua_State *L) {
  return lua_touserdata(L, lua_upvalueindex(1));
}

/* NULL: nothing is kept. */
static struct policy_shared *store_of(lua_State *L) {
  const struct host *host = host_of(L);
  return host->dry ? NULL : host->reach.shared;
}

static struct span check_key(lua_State *L) {
  struct span key;
  key.p = luaL_checklstring(L, 1, &key.n);
  luaL_argcheck(L, key.n <= KEY_BYTES, 1, "a key has at most 512 bytes");
  return key;
}

static seconds check_ttl(lua_State *L, int index) {
  if (lua_isnoneornil(L, index)) return SECONDS_NEVER;
  seconds ttl = luaL_checknumber(L, index);
  luaL_argcheck(L, ttl > 0, index, "a ttl of more than 0 seconds is expected");
  return ttl;
}

static struct shared_value check_value(lua_State *L, int index) {
  struct shared_value v = { .kind = SHARED_STRING };
  if (lua_isinteger(L, index)) {
    v.kind = SHARED_INTEGER;
    v.integer = lua_tointeger(L, index);
  } else if (lua_type(L, index) == LUA_TNUMBER) {
    v.kind = SHARED_NUMBER;
    v.number = lua_tonumber(L, index);
    luaL_argcheck(L, !isnan(v.number), index, "not a number");
  } else {
    luaL_checktype(L, index, LUA_TSTRING);
    v.string.p = lua_tolstring(L, index, &v.string.n);
  }
  return v;
}

static void push_shared_value(lua_State *L, const struct shared_value *v) {
  switch (v->kind) {
    case SHARED_INTEGER: lua_pushinteger(L, v->integer); return;
    case SHARED_NUMBER: lua_pushnumber(L, v->number); return;
    case SHARED_STRING: lua_pushlstring(L, v->string.p, v->string.n); return;
  }
}

static int refused(lua_State *L, enum shared_result result) {
  lua_pushnil(L);
  switch (result) {
    case SHARED_MAX: lua_pushliteral(L, "max"); break;
    case SHARED_NOT_NUMBER: lua_pushliteral(L, "not a number"); break;
    case SHARED_TOO_LARGE: lua_pushliteral(L, "too large"); break;
    case SHARED_DONE:
    case SHARED_ABSENT:
    case SHARED_PRESENT:
    case SHARED_NO_MEMORY: lua_pushliteral(L, "no memory"); break;
  }
  return 2;
}

/* get(key) -> value or nil. The room for a long string belongs to Lua; it may have grown again when we come back with
 * it. */
static int shared_lua_get(lua_State *L) {
  struct policy_shared *store = store_of(L);
  struct span key = check_key(L);
  char small[ROOM_BYTES], *room = small;
  size_t size = sizeof small;
  struct shared_value v;
  while (store && shared_get(store, key, host_now(host_of(L)), room, size, &v) == SHARED_DONE) {
    if (v.kind != SHARED_STRING || v.string.n <= size) {
      push_shared_value(L, &v);
      return 1;
    }
    size = v.string.n;
    room = lua_newuserdatauv(L, size, 0);
  }
  return 0;
}

static int store_value(lua_State *L, bool only_absent) {
  struct policy_shared *store = store_of(L);
  struct span key = check_key(L);
  struct shared_value v = check_value(L, 2);
  seconds ttl = check_ttl(L, 3);
  enum shared_result result = store ? shared_set(store, key, &v, ttl, only_absent, host_now(host_of(L))) : SHARED_DONE;
  if (result != SHARED_DONE && result != SHARED_PRESENT) return refused(L, result);
  lua_pushboolean(L, result == SHARED_DONE);
  return 1;
}

/* set(key, value [, ttl]) -> true */
static int shared_lua_set(lua_State *L) {
  return store_value(L, false);
}

/* add(key, value [, ttl]) -> true, or false when it is there */
static int shared_lua_add(lua_State *L) {
  return store_value(L, true);
}

static void read_sum_options(lua_State *L, struct shared_sum *sum) {
  luaL_checktype(L, 3, LUA_TTABLE);
  for (lua_pushnil(L); lua_next(L, 3); lua_pop(L, 1)) {
    const char *name = lua_type(L, -2) == LUA_TSTRING ? lua_tostring(L, -2) : "?";
    if (lua_type(L, -1) != LUA_TNUMBER) luaL_error(L, "shared.incr: %s: a number is expected", name);
    int value = lua_gettop(L);
    if (strcmp(name, "init") == 0) sum->init = check_value(L, value);
    else if (strcmp(name, "ttl") == 0) sum->ttl = check_ttl(L, value);
    else if (strcmp(name, "max") == 0) sum->max = lua_tonumber(L, value);
    else luaL_error(L, "shared.incr: unknown option '%s'", name);
  }
}

/* incr(key [, by [, { init =, ttl =, max = }]]) -> the new value; or nil, "max" */
static int shared_lua_incr(lua_State *L) {
  struct policy_shared *store = store_of(L);
  struct span key = check_key(L);
  struct shared_value v;
  struct shared_sum sum = { .by = { .integer = 1 }, .ttl = SECONDS_NEVER, .max = INFINITY };
  lua_settop(L, 3);
  if (!lua_isnil(L, 2)) {
    double by = luaL_checknumber(L, 2);
    luaL_argcheck(L, isfinite(by) && lua_type(L, 2) == LUA_TNUMBER, 2, "a finite number is expected");
    sum.by = check_value(L, 2);
  }
  if (!lua_isnil(L, 3)) read_sum_options(L, &sum);
  enum shared_result result = store ? shared_add(store, key, &sum, host_now(host_of(L)), &v) : SHARED_DONE;
  if (result != SHARED_DONE) return refused(L, result);
  push_shared_value(L, store ? &v : &sum.by);
  return 1;
}

/* delete(key) -> whether it was there */
static int shared_lua_delete(lua_State *L) {
  struct policy_shared *store = store_of(L);
  struct span key = check_key(L);
  lua_pushboolean(L, store && shared_delete(store, key, host_now(host_of(L))) == SHARED_DONE);
  return 1;
}

void host_push_shared(lua_State *L, struct host *host) {
  static const luaL_Reg functions[] = {
    { "get", shared_lua_get },   { "set", shared_lua_set },       { "add", shared_lua_add },
    { "incr", shared_lua_incr }, { "delete", shared_lua_delete }, { NULL, NULL },
  };
  luaL_newlibtable(L, functions);
  lua_pushlightuserdata(L, host);
  luaL_setfuncs(L, functions, 1);
}
