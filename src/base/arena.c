/*
 * A list of blocks; an allocation that does not fit opens a new one. What is left of the old block is wasted: blocks are
 * large beside what is asked of them.
 */
#include "base/arena.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

enum { BLOCK_BYTES = 4096, ALIGN = 16 };

struct arena_block {
  struct arena_block *older;
  _Alignas(ALIGN) char bytes[];
};

void *arena_take(struct arena *a, size_t n) {
  if (n > SIZE_MAX / 2) return NULL;
  n = (n + ALIGN - 1) / ALIGN * ALIGN;
  if (n > a->left) {
    size_t room = n > BLOCK_BYTES ? n : BLOCK_BYTES;
    struct arena_block *block = malloc(sizeof(*block) + room);
    if (!block) return NULL;
    block->older = a->blocks;
    a->blocks = block;
    a->at = block->bytes;
    a->left = room;
  }
  void *p = a->at;
  a->at += n;
  a->left -= n;
  return p;
}

void *arena_alloc(struct arena *a, size_t n) {
  void *p = arena_take(a, n);
  return p ? memset(p, 0, n) : NULL;
}

char *arena_copy(struct arena *a, struct span s) {
  char *p = s.n < SIZE_MAX ? arena_take(a, s.n + 1) : NULL;
  if (!p) return NULL;
  if (s.n) memcpy(p, s.p, s.n);
  p[s.n] = 0;
  return p;
}

char *arena_printf(struct arena *a, const char *format, ...) {
  va_list args;
  va_start(args, format);
  int n = vsnprintf(NULL, 0, format, args);
  va_end(args);
  char *p = n < 0 ? NULL : arena_alloc(a, (size_t)n + 1);
  if (!p) return NULL;
  va_start(args, format);
  vsnprintf(p, (size_t)n + 1, format, args);
  va_end(args);
  return p;
}

void arena_free(struct arena *a) {
  for (struct arena_block *b = a->blocks; b;) {
    struct arena_block *older = b->older;
    free(b);
    b = older;
  }
  *a = (struct arena){ 0 };
}
