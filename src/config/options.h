/*
 * The one option table: every key a configuration may hold, with its type, range, default, unit and help. The
 * default of a setting stands here and nowhere else; checking, filling and documentation all read this table.
 *
 * A section is the part of a key before its last dot: "" is the root, "upstreams.NAME" any upstream,
 * "models.NAME[]" any chain entry. Each section that is filled has one C struct, and an option says at which
 * offset of it the value goes.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "base/arena.h"
#include "base/value.h"
#include "config/report.h"

enum option_type {
  OPTION_GROUP,   /* a table whose members are options of the same struct */
  OPTION_TEXT,    /* const char *, neither empty nor with control characters */
  OPTION_SECRET,  /* the same; never shown */
  OPTION_PATH,    /* the same; made absolute by the caller */
  OPTION_BOOL,
  OPTION_NUMBER,  /* double */
  OPTION_INTEGER, /* int */
  OPTION_COUNT,   /* unsigned */
  OPTION_BYTES,   /* size_t */
  OPTION_SECONDS,
  OPTION_HOLD,    /* seconds; 0 is SECONDS_NEVER */
  OPTION_CHOICE,  /* int-sized enum: the index in `choices` */
  OPTION_SWITCH,  /* bool: whether it is the second of two `choices` */
  OPTION_TABLE,   /* const struct value *, handed on without a look inside */
  OPTION_OTHER,   /* read by the code of its section */
};

struct option {
  const char *key;
  enum option_type type;
  size_t offset;
  double least, most;
  const char *choices;  /* "bearer|x-api-key"; for OPTION_OTHER and OPTION_GROUP: what is expected, in words */
  /* The default as one would write it; "(...)" says it in words and leaves the field as the caller set it; NULL:
   * required, or none. */
  const char *fallback;
  const char *unit;
  const char *help;
};

/* The options of a section one by one, groups before their members; NULL after the last. */
const struct option *option_next(const char *section, const struct option *before, struct span *name);
/* The option of that name in the section, or NULL. */
const struct option *option_find(const char *section, struct span name);

/*
 * Sets the fields of `base` (the section's struct) from the table, groups included, and those that it does not say
 * to their defaults. Unknown keys, wrong types and bad ranges are reported; the field then keeps its default.
 * `table` NULL: all defaults. Texts are copied to `arena`.
 */
void options_fill(struct report *report, struct arena *arena, const struct place *place, const char *section,
                  const struct value *table, void *base);

/* "a table", "a string" ... */
const char *option_kind(const struct value *value);
/* A printable, non-empty text without control characters? Reports what is wrong with it otherwise. */
bool option_check_text(struct report *report, const struct place *place, const struct value *value);
/* The index of the word in "a|b|c", or -1. */
int option_choice(const char *choices, struct span word);
/* Times ("250ms", "1.5s", "2m", "1h", "1d") and sizes ("64MiB", "64MB", "100"); false when it is none. */
bool option_parse_seconds(struct span text, double *out);
bool option_parse_bytes(struct span text, double *out);
/* The range in words, for errors and documentation. */
void option_range(const struct option *option, char *out, size_t size);
