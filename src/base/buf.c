/*
 * Growth doubles, so that n appended bytes cost O(n). The memory is plain malloc: buffers outlive arenas.
 */
#include "base/buf.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

char *buf_reserve(struct buf *b, size_t n) {
  if (b->oom) return NULL;
  if (n <= b->cap - b->n && b->p) return b->p + b->n;
  if (n > SIZE_MAX / 2 - b->n) {
    b->oom = true;
    return NULL;
  }
  size_t cap = b->cap ? b->cap : 256;
  while (cap < b->n + n) cap *= 2;
  char *p = realloc(b->p, cap);
  if (!p) {
    b->oom = true;
    return NULL;
  }
  b->p = p;
  b->cap = cap;
  return p + b->n;
}

void buf_add(struct buf *b, const void *bytes, size_t n) {
  if (n == 0) return;
  char *to = buf_reserve(b, n);
  if (!to) return;
  memcpy(to, bytes, n);
  b->n += n;
}

void buf_add_span(struct buf *b, struct span s) {
  buf_add(b, s.p, s.n);
}

void buf_puts(struct buf *b, const char *text) {
  buf_add(b, text, strlen(text));
}

void buf_printf(struct buf *b, const char *format, ...) {
  va_list args;
  va_start(args, format);
  int n = vsnprintf(NULL, 0, format, args);
  va_end(args);
  if (n < 0) return;
  char *to = buf_reserve(b, (size_t)n + 1);
  if (!to) return;
  va_start(args, format);
  vsnprintf(to, (size_t)n + 1, format, args);
  va_end(args);
  b->n += (size_t)n;
}

void buf_drop(struct buf *b, size_t n) {
  if (n < b->n && n) memmove(b->p, b->p + n, b->n - n);
  b->n = n < b->n ? b->n - n : 0;
}

void buf_clear(struct buf *b) {
  b->n = 0;
  b->oom = false;
}

void buf_free(struct buf *b) {
  free(b->p);
  *b = (struct buf){ 0 };
}
