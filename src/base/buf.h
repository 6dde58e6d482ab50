/*
 * A growable run of bytes. Writers need not check each call: running out of memory sets `oom`, drops that and every
 * later write, and is asked for once with buf_ok(). A zeroed struct is an empty buffer.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "base/span.h"

struct buf {
  char *p;
  size_t n;   /* bytes held */
  size_t cap; /* bytes allocated */
  bool oom;
};

void buf_add(struct buf *b, const void *bytes, size_t n);
void buf_add_span(struct buf *b, struct span s);
void buf_puts(struct buf *b, const char *text);
void buf_printf(struct buf *b, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Room for n more bytes at b->p + b->n; the caller adds what it wrote to b->n. NULL when out of memory. */
char *buf_reserve(struct buf *b, size_t n);

/* Drops the first n bytes (n <= b->n). */
void buf_drop(struct buf *b, size_t n);

/* Empties it and keeps the memory. */
void buf_clear(struct buf *b);

/* Gives the memory back; the buffer is empty and usable again. */
void buf_free(struct buf *b);

static inline bool buf_ok(const struct buf *b) {
  return !b->oom;
}

static inline struct span buf_span(const struct buf *b) {
  return (struct span){ b->p, b->n };
}
