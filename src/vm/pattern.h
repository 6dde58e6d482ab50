/*
 * The matcher of Lua patterns, shared by the functions that use it (search.c). Inside this room only.
 */
#pragma once

#include "vm/inside.h"

enum { PATTERN_CAPTURES = 32 };

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
  } capture[PATTERN_CAPTURES];
};

/* One try to match at s the pattern from p. The end of the match, or NULL; the captures are in m. Raises on malformed patterns, and when time is over. */
const char *pattern_match(struct matcher *m, const char *s, const char *p);
