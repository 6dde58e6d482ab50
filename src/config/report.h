/*
 * Errors of a configuration: `file:line: key: what (did you mean 'x'?)`. Checks go on after an error; of several
 * the one that stands first in the source is kept, so the answer does not depend on the order in which Lua hands
 * out a table's keys.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "config/lines.h"

struct report {
  const char *file;          /* as given on the command line */
  const struct lines *lines;
  char *error;               /* NUL-terminated, cut to size */
  size_t size;
  unsigned line;             /* of the error kept; 0: none yet */
  unsigned count;
  bool no_memory;
};

static inline bool report_clean(const struct report *r) {
  return r->count == 0 && !r->no_memory;
}

/* Values never belong into the text, only names: what was written may be a secret. */
void report_at(struct report *r, const struct place *place, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
void report_memory(struct report *r);

/* The nearest of some names to a misspelt one. */
struct guess {
  struct span word, best;
  size_t distance;
  char text[128];
};
struct guess guess_begin(struct span word);
void guess_offer(struct guess *guess, struct span name);
/* " (did you mean 'x'?)", or nothing when no name is near. Lives in `guess`. */
const char *guess_text(struct guess *guess);
