/*
 * Memory that is freed all at once. Everything that lives exactly as long as one request (or one config) comes from its
 * arena and is never freed singly. A zeroed struct is an empty arena.
 */
#pragma once

#include <stddef.h>

#include "base/span.h"

struct arena_block;

struct arena {
  struct arena_block *blocks; /* newest first */
  char *at;                   /* next free byte of the newest block */
  size_t left;
};

/* n zeroed bytes aligned for any type, or NULL when out of memory. */
void *arena_alloc(struct arena *a, size_t n);

/* The same without the zeroes, for what is written before it is read. */
void *arena_take(struct arena *a, size_t n);

/* NUL-terminated copies; NULL when out of memory. */
char *arena_copy(struct arena *a, struct span s);
char *arena_printf(struct arena *a, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Gives back everything. The arena is empty and usable again. */
void arena_free(struct arena *a);

#define ARENA_NEW(arena, type) ((type *)arena_alloc((arena), sizeof(type)))
#define ARENA_ARRAY(arena, type, count) ((type *)arena_alloc((arena), sizeof(type) * (count)))
