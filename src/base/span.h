/*
 * A view of bytes that somebody else owns. Never freed through a span; valid only as long as its owner says.
 * Spans are not NUL-terminated.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <strings.h>

struct span {
  const char *p;
  size_t n;
};

#define SPAN(literal) ((struct span){ (literal), sizeof(literal) - 1 })
#define SPAN_NONE ((struct span){ NULL, 0 })

static inline struct span span_of(const char *text) {
  return (struct span){ text, text ? strlen(text) : 0 };
}

static inline bool span_eq(struct span a, struct span b) {
  return a.n == b.n && (a.n == 0 || memcmp(a.p, b.p, a.n) == 0);
}

static inline bool span_is(struct span a, const char *text) {
  return span_eq(a, span_of(text));
}

/* Equal but for ASCII case, as header names are. */
static inline bool span_is_nocase(struct span a, const char *text) {
  return a.n == strlen(text) && strncasecmp(a.p, text, a.n) == 0;
}

static inline bool span_starts(struct span a, const char *prefix) {
  size_t n = strlen(prefix);
  return a.n >= n && memcmp(a.p, prefix, n) == 0;
}

static inline struct span span_skip(struct span a, size_t n) {
  return n >= a.n ? (struct span){ a.p + a.n, 0 } : (struct span){ a.p + n, a.n - n };
}

/* Without the blanks (space, tab, CR, LF) at both ends. */
static inline struct span span_trim(struct span a) {
  while (a.n && strchr(" \t\r\n", a.p[0]) && a.p[0]) a = span_skip(a, 1);
  while (a.n && strchr(" \t\r\n", a.p[a.n - 1]) && a.p[a.n - 1]) a.n--;
  return a;
}
