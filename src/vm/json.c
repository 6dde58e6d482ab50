/*
 * lua-cjson behind a border: { encode, decode, null }. cjson allocates with malloc and leaks or exits when memory runs out in its middle, and
 * nothing can stop it, so what it may be given is bounded first: decode by an estimate of the heap the result takes, encode by a walk
 * over the value (a table that holds another many times unfolds in JSON). Its encode buffer is kept between calls, and dropped after a large one.
 */
#include "vm/inside.h"

#include <lua-cjson.h> /* knows lua_State only from lua.h before it */

enum {
  MAX_TEXT = 2 << 20,        /* bytes to decode: about 28 ms at worst */
  MAX_DEPTH = 128,
  MAX_VALUES = 100000,       /* to encode */
  MAX_STRINGS = 2 << 20,     /* bytes of strings to encode */
  KEPT_BUFFER = 256 << 10,
  TABLE_COST = 96,           /* bytes of heap at most: an empty table */
  MEMBER_COST = 128,         /* ... and a member of one while the table grows */
};

/* ---- decode ---- */

/* At least what the decoded text takes, and never less than 8 times its length. Separators inside strings only make it larger. */
static size_t heap_needed(struct span text) {
  size_t need = 2 * text.n + 4096;
  for (size_t i = 0; i < text.n; i++) {
    char c = text.p[i];
    if (c == '[' || c == '{') need += TABLE_COST + MEMBER_COST;
    else if (c == ',') need += MEMBER_COST;
  }
  return need < 8 * text.n ? 8 * text.n : need;
}

static int decode(lua_State *L) {
  const struct vm *vm = vm_of(L);
  struct span text;
  text.p = luaL_checklstring(L, 1, &text.n);
  if (text.n > MAX_TEXT) return luaL_error(L, "JSON text too long (%d bytes at most)", MAX_TEXT);
  vm_work(L, 16 * text.n);
  if (vm->heap.limit && heap_needed(text) > vm->heap.limit - vm->heap.used) return luaL_error(L, "JSON text too large for the memory left");
  lua_settop(L, 1);
  lua_pushvalue(L, lua_upvalueindex(1));
  lua_insert(L, 1);
  lua_call(L, 1, 1);
  vm_work(L, 1);
  return 1;
}

/* ---- encode ---- */

struct size {
  size_t values, bytes;
};

static void measure(lua_State *L, int index, int depth, struct size *size) {
  vm_work(L, 50);
  if (++size->values > MAX_VALUES) luaL_error(L, "too many values for JSON (%d at most)", MAX_VALUES);
  if (lua_type(L, index) == LUA_TSTRING) size->bytes += lua_rawlen(L, index);
  if (size->bytes > MAX_STRINGS) luaL_error(L, "too much text for JSON (%d bytes at most)", MAX_STRINGS);
  if (!lua_istable(L, index)) return;
  if (depth == MAX_DEPTH) luaL_error(L, "nested too deeply for JSON (%d at most), or a cycle", MAX_DEPTH);
  luaL_checkstack(L, 4, "JSON");
  for (lua_pushnil(L); lua_next(L, index); lua_pop(L, 1)) {
    int key = lua_gettop(L) - 1;
    if (lua_type(L, key) == LUA_TSTRING) size->bytes += lua_rawlen(L, key);
    measure(L, key + 1, depth + 1, size);
  }
}

/* Upvalues: cjson's encode and its encode_keep_buffer. */
static int encode(lua_State *L) {
  struct size size = { 0, 0 };
  luaL_checkany(L, 1);
  lua_settop(L, 1);
  measure(L, 1, 0, &size);
  lua_pushvalue(L, lua_upvalueindex(1));
  lua_insert(L, 1);
  lua_call(L, 1, 1);
  if (lua_rawlen(L, 1) > KEPT_BUFFER) {
    for (int keep = 0; keep <= 1; keep++) { /* off gives the buffer back, on makes a small one */
      lua_pushvalue(L, lua_upvalueindex(2));
      lua_pushboolean(L, keep);
      lua_call(L, 1, 0);
    }
  }
  vm_work(L, lua_rawlen(L, 1) * 8);
  return 1;
}

/* ---- the table ---- */

static void set_option(lua_State *L, int cjson, const char *name, int value) {
  lua_getfield(L, cjson, name);
  lua_pushinteger(L, value);
  lua_call(L, 1, 0);
}

void vm_push_json(lua_State *L) {
  luaL_checkstack(L, 10, "JSON");
  lua_pushcfunction(L, luaopen_cjson);
  lua_call(L, 0, 1);
  int cjson = lua_gettop(L);
  set_option(L, cjson, "encode_max_depth", MAX_DEPTH + 2);
  set_option(L, cjson, "decode_max_depth", MAX_DEPTH);
  lua_getfield(L, cjson, "encode_sparse_array"); /* sparse lists become objects instead of errors */
  lua_pushboolean(L, true);
  lua_call(L, 1, 0);
  lua_createtable(L, 0, 3);
  lua_getfield(L, cjson, "decode");
  lua_pushcclosure(L, decode, 1);
  lua_setfield(L, -2, "decode");
  lua_getfield(L, cjson, "encode");
  lua_getfield(L, cjson, "encode_keep_buffer");
  lua_pushcclosure(L, encode, 2);
  lua_setfield(L, -2, "encode");
  lua_pushlightuserdata(L, NULL);
  lua_setfield(L, -2, "null");
  lua_remove(L, cjson);
}
