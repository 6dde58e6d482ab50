/*
 * Lua patterns with a clock: the semantics of the stock ones, whose backtracking cannot be stopped (four `a*` on 200 bytes took 20 s). Every
 * step of the matcher is counted, and each thousand are accounted for with vm_work.
 *
 * The matcher backtracks by recursion, at most MAX_DEPTH deep. A pattern is a chain of items: a single (a byte, `.`, a class `%a`, a set `[...]`)
 * with an optional repetition, a capture's edge, `%b`, `%f`, `%1`, or a final `$`. A run of plain singles is walked without recursion.
 */
#include <ctype.h>

#include "vm/pattern.h"

enum { MAX_DEPTH = 200, STEPS = 1024 };

static const char *match_items(struct matcher *m, const char *s, const char *p);

static void step(struct matcher *m) {
  if (++m->steps % STEPS == 0) vm_work(m->L, STEPS * 4);
}

/* Several steps at once. */
static void stride(struct matcher *m, size_t n) {
  if (m->steps % STEPS + n >= STEPS) vm_work(m->L, n + STEPS * 4);
  m->steps += (unsigned)n;
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
  const char *inside = p; /* a `]` in front belongs to the set */
  for (; p < m->pattern_end; p += *p == '%' && p + 1 < m->pattern_end ? 2 : 1) {
    if (*p != ']' || p == inside) continue;
    stride(m, (size_t)(p - inside));
    return p + 1;
  }
  luaL_error(m->L, "malformed pattern (missing ']')");
  return NULL;
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
  if (m->captures >= PATTERN_CAPTURES) luaL_error(m->L, "too many captures");
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

/* An item that is no single. DONE: *got is the result of the whole walk. ON: *p and *s have moved behind it. */
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

const char *pattern_match(struct matcher *m, const char *s, const char *p) {
  m->captures = 0;
  m->depth = 0;
  return match_items(m, s, p);
}
