/*
 * Where in the source a key of the returned table stands. Lua tables carry no lines, so the text is read once
 * more, as tokens.
 */
#pragma once

#include "base/arena.h"
#include "base/span.h"

struct lines;
struct line_node;

/* The path of a value: a chain of places on the caller's stack, from the value up to the root (whose `up` is NULL). */
struct place {
  const struct place *up;
  struct span key; /* p NULL: a list element */
  size_t index;    /* of a list element, from 1 */
  const struct line_node *node; /* where it was found in the source, or NULL */
};

/* Reads a chunk that has compiled. The result lives in `arena` and points into `source`. NULL when out of memory. */
const struct lines *lines_read(struct arena *arena, struct span source);

struct place lines_root(const struct lines *lines);
struct place lines_member(const struct place *up, struct span key);
struct place lines_element(const struct place *up, size_t index);

/* The line of that key; for what the returned constructor does not spell out, the first `key =` anywhere, else the
 * nearest enclosing table that it does, else the line of the `return`, else 1. */
unsigned lines_find(const struct lines *lines, const struct place *place);
