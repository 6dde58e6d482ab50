/*
 * string.find, match, gmatch and gsub over the matcher of pattern.c. What they return, and in which order errors are found, is what the stock
 * functions do; a unit test compares the two on random patterns. Loops of their own account for their work as well: replacing is a
 * call or a copy for each match, and no instruction runs between two C functions.
 */
#include <ctype.h>

#include "vm/pattern.h"

/* ---- results ---- */

static void push_capture(struct matcher *m, int i, const char *start, const char *end) {
  if (i >= m->captures) {
    if (i != 0) luaL_error(m->L, "invalid capture index %%%d", i + 1);
    lua_pushlstring(m->L, start, (size_t)(end - start));
    return;
  }
  const struct capture *c = &m->capture[i];
  switch (c->state) {
  case CAPTURE_OPEN: luaL_error(m->L, "unfinished capture"); break;
  case CAPTURE_POSITION: lua_pushinteger(m->L, c->start - m->text + 1); break;
  case CAPTURE_CLOSED: lua_pushlstring(m->L, c->start, c->length); break;
  }
}

/* All captures, or the whole match when the pattern has none and `whole` is wanted. */
static int push_captures(struct matcher *m, const char *start, const char *end, bool whole) {
  int count = m->captures == 0 && whole ? 1 : m->captures;
  luaL_checkstack(m->L, count, "too many captures");
  for (int i = 0; i < count; i++) push_capture(m, i, start, end);
  return count;
}

static struct matcher matcher_of(lua_State *L, struct span text, struct span pattern) {
  return (struct matcher){ .L = L, .text = text.p, .text_end = text.p + text.n, .pattern_end = pattern.p + pattern.n };
}

static struct span span_argument(lua_State *L, int index) {
  struct span s;
  s.p = luaL_checklstring(L, index, &s.n);
  return s;
}

/* The offset of an `init` argument, at most n + 1. */
static size_t start_argument(lua_State *L, int index, size_t n) {
  lua_Integer at = luaL_optinteger(L, index, 1);
  if (at > 0) return (lua_Unsigned)at - 1 > n ? n + 1 : (size_t)at - 1;
  if (at == 0 || at < -(lua_Integer)n) return 0;
  return n - (size_t)-at;
}

/* ---- find and match ---- */

static bool has_specials(struct span pattern) {
  for (size_t i = 0; i < pattern.n; i++) {
    if (pattern.p[i] && strchr("^$*+?.([%-", pattern.p[i])) return true;
  }
  return false;
}

static int find_plain(lua_State *L, struct span text, struct span needle, size_t start) {
  vm_work(L, text.n - start + needle.n);
  const char *at = needle.n ? memmem(text.p + start, text.n - start, needle.p, needle.n) : text.p + start;
  if (!at) {
    lua_pushnil(L);
    return 1;
  }
  lua_pushinteger(L, at - text.p + 1);
  lua_pushinteger(L, at - text.p + (lua_Integer)needle.n);
  return 2;
}

static int find_or_match(lua_State *L, bool find) {
  struct span text = span_argument(L, 1), pattern = span_argument(L, 2);
  size_t start = start_argument(L, 3, text.n);
  if (start > text.n) {
    lua_pushnil(L);
    return 1;
  }
  if (find && (lua_toboolean(L, 4) || !has_specials(pattern))) return find_plain(L, text, pattern, start);
  struct matcher m = matcher_of(L, text, pattern);
  bool anchored = pattern.n && pattern.p[0] == '^';
  for (const char *s = text.p + start; s <= m.text_end; s++) {
    const char *end = pattern_match(&m, s, pattern.p + anchored);
    if (end && find) {
      lua_pushinteger(L, s - text.p + 1);
      lua_pushinteger(L, end - text.p);
      return push_captures(&m, s, end, false) + 2;
    }
    if (end) return push_captures(&m, s, end, true);
    if (anchored) break;
  }
  lua_pushnil(L);
  return 1;
}

static int string_find(lua_State *L) {
  return find_or_match(L, true);
}

static int string_match(lua_State *L) {
  return find_or_match(L, false);
}

/* ---- gmatch ---- */

/* Upvalues: text, pattern, offset to go on from, offset of the last match's end (-1: none). */
static int next_match(lua_State *L) {
  struct span text = span_argument(L, lua_upvalueindex(1)), pattern = span_argument(L, lua_upvalueindex(2));
  lua_Integer start = lua_tointeger(L, lua_upvalueindex(3)), last = lua_tointeger(L, lua_upvalueindex(4));
  struct matcher m = matcher_of(L, text, pattern);
  for (lua_Integer at = start; at <= (lua_Integer)text.n; at++) {
    const char *end = pattern_match(&m, text.p + at, pattern.p);
    if (!end || end - text.p == last) continue;
    lua_pushinteger(L, end - text.p);
    lua_copy(L, -1, lua_upvalueindex(3));
    lua_copy(L, -1, lua_upvalueindex(4));
    return push_captures(&m, text.p + at, end, true);
  }
  lua_pushinteger(L, (lua_Integer)text.n + 1);
  lua_replace(L, lua_upvalueindex(3));
  return 0;
}

static int string_gmatch(lua_State *L) {
  struct span text = span_argument(L, 1);
  luaL_checkstring(L, 2);
  size_t start = start_argument(L, 3, text.n);
  lua_settop(L, 2);
  lua_pushinteger(L, (lua_Integer)start);
  lua_pushinteger(L, -1);
  lua_pushcclosure(L, next_match, 4);
  return 1;
}

/* ---- gsub ---- */

/* A replacement text: `%0` to `%9` and `%%`. */
static void add_template(struct matcher *m, luaL_Buffer *b, const char *start, const char *end) {
  lua_State *L = m->L;
  struct span text = span_argument(L, 3);
  vm_work(L, text.n + 16);
  for (size_t i = 0; i < text.n; i++) {
    if (text.p[i] != '%') {
      luaL_addchar(b, text.p[i]);
      continue;
    }
    char c = ++i < text.n ? text.p[i] : '\0';
    if (c == '%') {
      luaL_addchar(b, '%');
    } else if (c == '0') {
      luaL_addlstring(b, start, (size_t)(end - start));
    } else if (isdigit((unsigned char)c)) {
      if (c - '1' >= m->captures && c != '1') luaL_error(L, "invalid capture index %%%d in replacement string", c - '0');
      push_capture(m, c - '1', start, end);
      luaL_tolstring(L, -1, NULL); /* a position is a number */
      lua_remove(L, -2);
      luaL_addvalue(b);
    } else {
      luaL_error(L, "invalid use of '%%' in replacement string");
    }
  }
}

/* Adds what stands for the match; false when the original stays. */
static bool add_replacement(struct matcher *m, luaL_Buffer *b, const char *start, const char *end, int type) {
  lua_State *L = m->L;
  vm_work(L, 200);
  if (type == LUA_TFUNCTION) {
    lua_pushvalue(L, 3);
    lua_call(L, push_captures(m, start, end, true), 1);
  } else if (type == LUA_TTABLE) {
    push_capture(m, 0, start, end);
    lua_gettable(L, 3);
  } else {
    add_template(m, b, start, end);
    return true;
  }
  if (!lua_toboolean(L, -1)) {
    lua_pop(L, 1);
    luaL_addlstring(b, start, (size_t)(end - start));
    return false;
  }
  if (!lua_isstring(L, -1)) luaL_error(L, "invalid replacement value (a %s)", luaL_typename(L, -1));
  luaL_addvalue(b);
  return true;
}

static int string_gsub(lua_State *L) {
  struct span text = span_argument(L, 1), pattern = span_argument(L, 2);
  int type = lua_type(L, 3);
  luaL_argexpected(L, type == LUA_TNUMBER || type == LUA_TSTRING || type == LUA_TFUNCTION || type == LUA_TTABLE, 3, "string/function/table");
  lua_Integer most = luaL_optinteger(L, 4, (lua_Integer)text.n + 1), count = 0;
  bool anchored = pattern.n && pattern.p[0] == '^';
  bool changed = false;
  struct matcher m = matcher_of(L, text, pattern);
  const char *s = text.p, *last = NULL;
  luaL_Buffer b;
  luaL_buffinit(L, &b);
  while (count < most) {
    const char *end = pattern_match(&m, s, pattern.p + anchored);
    if (end && end != last) {
      count++;
      changed |= add_replacement(&m, &b, s, end, type);
      s = last = end;
    } else if (s < m.text_end) {
      luaL_addchar(&b, *s++);
    } else {
      break;
    }
    if (anchored) break;
  }
  if (changed) {
    luaL_addlstring(&b, s, (size_t)(m.text_end - s));
    luaL_pushresult(&b);
  } else {
    lua_pushvalue(L, 1);
  }
  lua_pushinteger(L, count);
  return 2;
}

void search_install(lua_State *L) {
  static const luaL_Reg own[] = {
    { "find", string_find }, { "match", string_match }, { "gmatch", string_gmatch }, { "gsub", string_gsub }, { NULL, NULL }
  };
  luaL_setfuncs(L, own, 0);
}
