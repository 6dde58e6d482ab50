/*
 * A small immutable tree of Lua-like values, for what the configuration hands on without looking inside: tags, prices,
 * policy options. All of it lives in the arena it was built in.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "base/span.h"

enum value_kind { VALUE_NIL, VALUE_BOOL, VALUE_NUMBER, VALUE_INTEGER, VALUE_STRING, VALUE_TABLE };

struct value_pair;

struct value {
  enum value_kind kind;
  union {
    bool boolean;
    double number;
    long long integer;
    struct span string;
    struct {
      const struct value_pair *pairs; /* list elements first, in order */
      size_t count;
    } table;
  };
};

struct value_pair {
  struct value key; /* VALUE_STRING or VALUE_INTEGER */
  struct value value;
};

/* The member of a table with that string key, or NULL (also when t is NULL or no table). */
const struct value *value_member(const struct value *t, const char *key);
