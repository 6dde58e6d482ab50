/*
 * Lua patterns with a clock: string.find, match, gmatch and gsub, with the semantics of the stock ones, whose backtracking cannot be
 * stopped (four `a*` on 200 bytes took 20 s). Every step of the matcher is counted, and each thousand are accounted for with vm_work.
 *
 * The matcher backtracks by recursion, at most MAX_DEPTH deep. A pattern is a chain of items: a single (a byte, `.`, a class `%a`, a set `[...]`)
 * with an optional repetition, a capture's edge, `%b`, `%f`, `%1`, or a final `$`. A group of plain singles is walked without recursion.
 */
#include <ctype.h>

#include "vm/inside.h"

enum { MAX_CAPTURES = 32, MAX_DEPTH = 200, STEPS = 1024 };

enum capture_state { CAPTURE_OPEN, CAPTURE_CLOSED, CAPTURE_POSITION };

struct matcher {
  lua_State *L;
  const char *text, *text_end;
  const char *pattern_end;
  unsigned steps;
  int depth;
  int captures;
  struct capture {
    const char *start;
    size_t length;
    enum capture_state state;
  } capture[MAX_CAPTURES];
};

static const char *match_items(struct matcher *m, const char *s, const char *p);

static void step(struct matcher *m) {
  if (++m->steps % STEPS == 0) vm_work(m->L, STEPS * 4);
}

/* ---- single characters ---- */

/* The end of the single item at p. */
static const char *single_end(struct matcher *m, const char *p) {
  char first = *p++;
  if (first == '%') {
    if (p == m->pattern_end) luaL_error(m->L, "malformed pattern (ends with '%%')");
    return p + 1;
  }
  if (first != '[') return p;
  if (p < m->pattern_end && *p == '^') p++;
  bool can_end = false; /* a `]` in front belongs to the set */
  for (;;) {
    if (p >= m->pattern_end) luaL_error(m->L, "malformed pattern (missing ']')");
    if (*p == ']' && can_end) return p + 1;
    can_end = true;
    p += *p == '%' && p + 1 < m->pattern_end ? 2 : 1;
  }
}

static bool in_class(int c, int class) {
  bool in;
  switch (tolower(class)) {
  case 'a': in = isalpha(c); break;
  case 'c': in = iscntrl(c); break;
  case 'd': in = isdigit(c); break;
  case 'g': in = isgraph(c); break;
  case 'l': in = islower(c); break;
  case 'p': in = ispunct(c); break;
  case 's': in = isspace(c); break;
  case 'u': in = isupper(c); break;
  case 'w': in = isalnum(c); break;
  case 'x': in = isxdigit(c); break;
  default: return class == c;
  }
  return isupper(class) ? !in : in;
}

/* p is at `[`, end after its `]`. */
static bool in_set(struct matcher *m, int c, const char *p, const char *end) {
  const unsigned char *at = (const unsigned char *)p + 1, *last = (const unsigned char *)end - 1;
  bool listed = true;
  if (*at == '^') {
    listed = false;
    at++;
  }
  while (at < last) {
    step(m);
    if (*at == '%') {
      if (in_class(c, at[1])) return listed;
      at += 2;
    } else if (at[1] == '-' && at + 2 < last) {
      if (at[0] <= c && c <= at[2]) return listed;
      at += 3;
    } else {
      if (*at == c) return listed;
      at++;
    }
  }
  return !listed;
}

static bool single_matches(struct matcher *m, const char *s, const char *p, const char *end) {
  step(m);
  if (s >= m->text_end) return false;
  int c = (unsigned char)*s;
  switch (*p) {
  case '.': return true;
  case '%': return in_class(c, (unsigned char)p[1]);
  case '[': return in_set(m, c, p, end);
  default: return (unsigned char)*p == c;
  }
}

/* ---- repetitions ---- */

static const char *match_longest(struct matcher *m, const char *s, const char *p, const char *end) {
  const char *far = s;
  while (single_matches(m, far, p, end)) far++;
  for (; far >= s; far--) {
    const char *got = match_items(m, far, end + 1);
    if (got) return got;
  }
  return NULL;
}

static const char *match_shortest(struct matcher *m, const char *s, const char *p, const char *end) {
  for (;; s++) {
    const char *got = match_items(m, s, end + 1);
    if (got) return got;
    if (!single_matches(m, s, p, end)) return NULL;
  }
}

/* ---- captures, balance, frontier ---- */

static const char *open_capture(struct matcher *m, const char *s, const char *p, enum capture_state state) {
  if (m->captures >= MAX_CAPTURES) luaL_error(m->L, "too many captures");
  m->capture[m->captures++] = (struct capture){ s, 0, state };
  const char *got = match_items(m, s, p);
  if (!got) m->captures--;
  return got;
}

static const char *close_capture(struct matcher *m, const char *s, const char *p) {
  int i = m->captures - 1;
  while (i >= 0 && m->capture[i].state != CAPTURE_OPEN) i--;
  if (i < 0) luaL_error(m->L, "invalid pattern capture");
  m->capture[i].length = (size_t)(s - m->capture[i].start);
  m->capture[i].state = CAPTURE_CLOSED;
  const char *got = match_items(m, s, p);
  if (!got) m->capture[i].state = CAPTURE_OPEN;
  return got;
}

/* `%1`: the text of a capture again. */
static const char *match_again(struct matcher *m, const char *s, int digit) {
  int i = digit - '1';
  if (i < 0 || i >= m->captures || m->capture[i].state == CAPTURE_OPEN) luaL_error(m->L, "invalid capture index %%%d", i + 1);
  size_t n = m->capture[i].state == CAPTURE_CLOSED ? m->capture[i].length : 0;
  if (m->capture[i].state == CAPTURE_POSITION) return NULL;
  if ((size_t)(m->text_end - s) < n) return NULL;
  vm_work(m->L, n / 8);
  return memcmp(m->capture[i].start, s, n) == 0 ? s + n : NULL;
}

/* `%bxy`; p is after `%b`. */
static const char *match_balance(struct matcher *m, const char *s, const char *p) {
  if (m->pattern_end - p < 2) luaL_error(m->L, "malformed pattern (missing arguments to '%%b')");
  if (s >= m->text_end || *s != p[0]) return NULL;
  size_t open = 1;
  while (++s < m->text_end) {
    step(m);
    if (*s == p[1]) {
      if (--open == 0) return s + 1;
    } else if (*s == p[0]) {
      open++;
    }
  }
  return NULL;
}

/* `%f[set]`; p is at the set. The text counts as having a NUL on both sides. */
static bool at_frontier(struct matcher *m, const char *s, const char *p, const char *end) {
  int before = s == m->text ? 0 : (unsigned char)s[-1];
  int after = s == m->text_end ? 0 : (unsigned char)*s;
  return !in_set(m, before, p, end) && in_set(m, after, p, end);
}

/* ---- the chain of items ---- */

/* The items that end the walk or are no singles. True when it was one: *got is the result, or *p and *s moved on with *got NULL and `on` set. */
enum special { SPECIAL_NONE, SPECIAL_DONE, SPECIAL_ON };

static enum special match_special(struct matcher *m, const char **s, const char **p, const char **got) {
  const char *at = *p;
  if (*at == '(') {
    bool position = at + 1 < m->pattern_end && at[1] == ')';
    *got = open_capture(m, *s, at + (position ? 2 : 1), position ? CAPTURE_POSITION : CAPTURE_OPEN);
    return SPECIAL_DONE;
  }
  if (*at == ')') {
    *got = close_capture(m, *s, at + 1);
    return SPECIAL_DONE;
  }
  if (*at == '$' && at + 1 == m->pattern_end) {
    *got = *s == m->text_end ? *s : NULL;
    return SPECIAL_DONE;
  }
  if (*at != '%' || at + 1 >= m->pattern_end) return SPECIAL_NONE;
  if (at[1] == 'f') {
    at += 2;
    if (at >= m->pattern_end || *at != '[') luaL_error(m->L, "missing '[' after '%%f' in pattern");
    const char *end = single_end(m, at);
    *p = end;
    *got = NULL;
    return at_frontier(m, *s, at, end) ? SPECIAL_ON : SPECIAL_DONE;
  }
  if (at[1] == 'b') {
    *s = match_balance(m, *s, at + 2);
    *p = at + 4;
  } else if (isdigit((unsigned char)at[1])) {
    *s = match_again(m, *s, at[1]);
    *p = at + 2;
  } else {
    return SPECIAL_NONE;
  }
  *got = NULL;
  return *s ? SPECIAL_ON : SPECIAL_DONE;
}

static const char *walk_items(struct matcher *m, const char *s, const char *p) {
  while (p < m->pattern_end) {
    const char *got;
    enum special special = match_special(m, &s, &p, &got);
    if (special == SPECIAL_DONE) return got;
    if (special == SPECIAL_ON) continue;
    const char *end = single_end(m, p);
    char repeat = end < m->pattern_end ? *end : '\0';
    if (repeat == '*') return match_longest(m, s, p, end);
    if (repeat == '-') return match_shortest(m, s, p, end);
    bool one = single_matches(m, s, p, end);
    if (repeat == '+') return one ? match_longest(m, s + 1, p, end) : NULL;
    if (repeat == '?') {
      if (one && (got = match_items(m, s + 1, end + 1))) return got;
      p = end + 1;
      continue;
    }
    if (!one) return NULL;
    s++;
    p = end;
  }
  return s;
}

static const char *match_items(struct matcher *m, const char *s, const char *p) {
  if (m->depth == MAX_DEPTH) luaL_error(m->L, "pattern too complex");
  m->depth++;
  step(m);
  const char *got = walk_items(m, s, p);
  m->depth--;
  return got;
}

/* One try at s. The end of the match, or NULL. */
static const char *match_at(struct matcher *m, const char *s, const char *p) {
  m->captures = 0;
  m->depth = 0;
  return match_items(m, s, p);
}

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
    const char *end = match_at(&m, s, pattern.p + anchored);
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
    const char *end = match_at(&m, text.p + at, pattern.p);
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
    const char *end = match_at(&m, s, pattern.p + anchored);
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

void pattern_install(lua_State *L) {
  static const luaL_Reg own[] = {
    { "find", string_find }, { "match", string_match }, { "gmatch", string_gmatch }, { "gsub", string_gsub }, { NULL, NULL }
  };
  luaL_setfuncs(L, own, 0);
}
