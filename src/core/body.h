/*
 * Reading a client's JSON without building a tree, and replacing its model byte-exactly.
 *
 * A scan walks the whole text once, checks that it is one well-formed JSON value (RFC 8259; blanks around it; depth at
 * most BODY_DEPTH) and remembers where the wanted top-level members' values lie. It never allocates and never changes
 * the text.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "base/arena.h"
#include "base/buf.h"
#include "base/span.h"

enum { BODY_DEPTH = 512 };

enum body_kind { BODY_ABSENT, BODY_NULL, BODY_BOOL, BODY_NUMBER, BODY_STRING, BODY_OBJECT, BODY_ARRAY };

struct body_value {
  enum body_kind kind;
  struct span raw;  /* the value's bytes in the text, quotes included */
  unsigned times;   /* how often that member occurs at the top level; `raw` is the last one */
};

enum body_result {
  BODY_GOOD,
  BODY_MALFORMED,  /* not one well-formed JSON value: garbage, cut short, bytes after it, too deep, bad UTF-8 escapes */
};

/*
 * Scans `text`; for each of the `count` names fills values[i]. Member names are compared after undoing escapes, so
 * "\u006dodel" is "model". A text that is no object is GOOD with every member absent. `error_at`, when not NULL, gets
 * the offset where a malformed text stopped making sense; the members that were whole before that place are there all
 * the same.
 */
enum body_result body_scan(struct span text, const char *const *names, struct body_value *values, size_t count,
                           size_t *error_at) __attribute__((warn_unused_result));

/* The whole of a text whose scan was good, as a value. */
struct body_value body_root(struct span text);

/* The same for a nested object: `value` must be BODY_OBJECT out of a scan that was GOOD. */
void body_members(struct body_value value, const char *const *names, struct body_value *values, size_t count);

/* The elements of an array out of a good scan, one a call: start with *at = 0; false after the last. */
bool body_element(struct body_value array, size_t *at, struct body_value *element);

/* The members of an object out of a good scan, in order, as body_element. `name` is a BODY_STRING. */
bool body_member(struct body_value object, size_t *at, struct body_value *name, struct body_value *value);

/* Is it a string that says this, after undoing escapes. Allocates nothing. */
bool body_is(struct body_value value, const char *text);

/*
 * A string's text with its escapes undone (lone surrogates become U+FFFD), in the arena; a string without escapes is
 * returned in place. SPAN_NONE when it is no string or memory is out.
 */
struct span body_text(struct body_value value, struct arena *arena);

/* True for BODY_BOOL true. */
bool body_is_true(struct body_value value);

/* A number's value; `otherwise` when it is no number, not finite as a double, or written with over 400 characters. */
double body_number(struct body_value value, double otherwise);
