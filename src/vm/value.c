/*
 * Value trees to Lua tables and back. Reading uses raw access and pushes within a checked stack, so it cannot raise; what hostile tables could
 * do to the C side is bounded by depth (16 tables) and by the number of values of the whole tree, because a table that holds one other many
 * times, sixteen deep, would otherwise unfold without end. Everything read lives in the caller's arena.
 */
#include <stdint.h>

#include "vm/inside.h"

enum { MAX_DEPTH = 16, MAX_VALUES = 200000 };

void vm_push_value(lua_State *L, const struct value *value) {
  luaL_checkstack(L, 4, "value");
  switch (value ? value->kind : VALUE_NIL) {
  case VALUE_NIL: lua_pushnil(L); break;
  case VALUE_BOOL: lua_pushboolean(L, value->boolean); break;
  case VALUE_NUMBER: lua_pushnumber(L, value->number); break;
  case VALUE_INTEGER: lua_pushinteger(L, value->integer); break;
  case VALUE_STRING: lua_pushlstring(L, value->string.p ? value->string.p : "", value->string.n); break;
  case VALUE_TABLE:
    lua_newtable(L);
    for (size_t i = 0; i < value->table.count; i++) {
      vm_push_value(L, &value->table.pairs[i].key);
      vm_push_value(L, &value->table.pairs[i].value);
      if (lua_isnil(L, -2)) lua_pop(L, 2);
      else lua_rawset(L, -3);
    }
    break;
  }
}

struct reader {
  lua_State *L;
  struct arena *arena;
  const char *error;
  const void *parents[MAX_DEPTH];
  unsigned depth;
  size_t values;
};

static bool fail(struct reader *r, const char *error) {
  r->error = error;
  return false;
}

static bool read_value(struct reader *r, int index, struct value *value);

static bool read_string(struct reader *r, int index, struct value *value) {
  size_t n;
  const char *p = lua_tolstring(r->L, index, &n);
  char *copy = arena_copy(r->arena, (struct span){ p, n });
  if (!copy) return fail(r, "out of memory");
  *value = (struct value){ .kind = VALUE_STRING, .string = { copy, n } };
  return true;
}

/* Counts the pairs, and the elements 1..n that make up the list at the front. */
static size_t count_pairs(lua_State *L, int index, size_t *list) {
  size_t count = 0;
  for (lua_pushnil(L); lua_next(L, index); lua_pop(L, 1)) count++;
  for (*list = 0; *list < count; (*list)++) {
    bool ends = lua_rawgeti(L, index, (lua_Integer)*list + 1) == LUA_TNIL;
    lua_pop(L, 1);
    if (ends) break;
  }
  return count;
}

static bool is_listed(lua_State *L, int index, size_t list) {
  return lua_isinteger(L, index) && (uint64_t)lua_tointeger(L, index) - 1 < list;
}

static bool read_pairs(struct reader *r, int index, struct value_pair *pairs, size_t list) {
  lua_State *L = r->L;
  size_t n = 0;
  for (; n < list; n++) {
    pairs[n].key = (struct value){ .kind = VALUE_INTEGER, .integer = (long long)n + 1 };
    lua_rawgeti(L, index, (lua_Integer)n + 1);
    if (!read_value(r, lua_gettop(L), &pairs[n].value)) return false;
    lua_pop(L, 1);
  }
  for (lua_pushnil(L); lua_next(L, index); lua_pop(L, 1)) {
    int key = lua_gettop(L) - 1;
    if (is_listed(L, key, list)) continue;
    if (lua_type(L, key) != LUA_TSTRING && !lua_isinteger(L, key)) return fail(r, "a key that is neither text nor an integer");
    if (!read_value(r, key, &pairs[n].key) || !read_value(r, key + 1, &pairs[n].value)) return false;
    n++;
  }
  return true;
}

static bool read_table(struct reader *r, int index, struct value *value) {
  const void *self = lua_topointer(r->L, index);
  for (unsigned i = 0; i < r->depth; i++) {
    if (r->parents[i] == self) return fail(r, "a table that contains itself");
  }
  if (r->depth == MAX_DEPTH) return fail(r, "tables nested deeper than 16");
  size_t list;
  size_t count = count_pairs(r->L, index, &list);
  if (count > MAX_VALUES || r->values + count > MAX_VALUES) return fail(r, "more than 200000 values");
  struct value_pair *pairs = count ? ARENA_ARRAY(r->arena, struct value_pair, count) : NULL;
  if (count && !pairs) return fail(r, "out of memory");
  r->parents[r->depth++] = self;
  bool good = read_pairs(r, index, pairs, list);
  r->depth--;
  *value = (struct value){ .kind = VALUE_TABLE, .table = { pairs, count } };
  return good;
}

static bool read_value(struct reader *r, int index, struct value *value) {
  lua_State *L = r->L;
  r->values++;
  if (!lua_checkstack(L, 6)) return fail(r, "out of memory");
  switch (lua_type(L, index)) {
  case LUA_TNONE:
  case LUA_TNIL: *value = (struct value){ .kind = VALUE_NIL }; return true;
  case LUA_TBOOLEAN: *value = (struct value){ .kind = VALUE_BOOL, .boolean = lua_toboolean(L, index) }; return true;
  case LUA_TNUMBER:
    if (lua_isinteger(L, index)) *value = (struct value){ .kind = VALUE_INTEGER, .integer = lua_tointeger(L, index) };
    else *value = (struct value){ .kind = VALUE_NUMBER, .number = lua_tonumber(L, index) };
    return true;
  case LUA_TSTRING: return read_string(r, index, value);
  case LUA_TTABLE: return read_table(r, index, value);
  case LUA_TFUNCTION: return fail(r, "a function");
  default: return fail(r, "a value that is not plain data");
  }
}

bool vm_read_value(lua_State *L, int index, struct arena *arena, struct value *value, const char **error) {
  struct reader r = { .L = L, .arena = arena };
  int top = lua_gettop(L);
  bool good = read_value(&r, lua_absindex(L, index), value);
  lua_settop(L, top);
  if (!good) *value = (struct value){ .kind = VALUE_NIL };
  if (error) *error = r.error;
  return good;
}
