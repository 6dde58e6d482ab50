/*
 * Fills structs from tables by the option table. Defaults are parsed from the same text that the documentation
 * shows, by the same functions that read the operator's values, so they cannot differ from what is written there.
 */
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "config/options.h"

enum { SECTION_BYTES = 64 };

const char *option_kind(const struct value *value) {
  switch (value->kind) {
    case VALUE_NIL: return "nothing";
    case VALUE_BOOL: return "a boolean";
    case VALUE_NUMBER:
    case VALUE_INTEGER: return "a number";
    case VALUE_STRING: return "a string";
    case VALUE_TABLE: return "a table";
  }
  return "something else";
}

/* ---- numbers with units ---- */

struct unit {
  const char *name;
  double factor;
};

/* A decimal number, then one of the units or nothing. */
static bool parse_unit(struct span text, const struct unit *units, double *out) {
  char copy[48];
  text = span_trim(text);
  if (!text.n || text.n >= sizeof copy || !strchr("0123456789.", text.p[0])) return false;
  memcpy(copy, text.p, text.n);
  copy[text.n] = '\0';
  size_t digits = strspn(copy, "0123456789.");
  char *end;
  double number = strtod(copy, &end);
  if (end != copy + digits) return false;
  while (*end == ' ') end++;
  if (!*end) {
    *out = number;
    return true;
  }
  for (; units->name; units++) {
    if (strcmp(end, units->name) != 0) continue;
    *out = number * units->factor;
    return true;
  }
  return false;
}

static const struct unit times[] = {
  { "ms", 0.001 }, { "s", 1 }, { "m", 60 }, { "min", 60 }, { "h", 3600 }, { "d", 86400 }, { NULL, 0 },
};
static const struct unit sizes[] = {
  { "TiB", 1099511627776.0 }, { "GiB", 1073741824 }, { "MiB", 1048576 }, { "KiB", 1024 }, { "B", 1 },
  { "TB", 1e12 },             { "GB", 1e9 },         { "MB", 1e6 },      { "KB", 1e3 },   { "kB", 1e3 }, { NULL, 0 },
};

bool option_parse_seconds(struct span text, double *out) {
  return parse_unit(text, times, out);
}

bool option_parse_bytes(struct span text, double *out) {
  return parse_unit(text, sizes, out);
}

/* The largest unit that leaves a whole number; below one of anything, the smallest. */
static void put_unit(char *out, size_t size, double number, const struct unit *units, const char *bare) {
  const struct unit *best = NULL;
  for (const struct unit *u = units; u->name; u++) {
    double ratio = number / u->factor;
    if (fabs(ratio - nearbyint(ratio)) < 1e-9 && ratio >= 1 && (!best || u->factor > best->factor)) best = u;
  }
  if (!best && units[0].factor < 1) best = units;
  if (best && number > 0)
    snprintf(out, size, "%.15g%s", number / best->factor, best->name);
  else
    snprintf(out, size, "%.15g%s", number, bare);
}

/* Alternatives as they are listed: `a, b, c`. */
static void put_choices(const char *choices, char *out, size_t size) {
  size_t n = 0;
  for (; *choices && n + 3 < size; choices++) {
    out[n++] = *choices == '|' ? ',' : *choices;
    if (*choices == '|') out[n++] = ' ';
  }
  out[n] = '\0';
}

void option_range(const struct option *option, char *out, size_t size) {
  static const struct unit binary[] = { { "GiB", 1073741824 }, { "MiB", 1048576 }, { "KiB", 1024 }, { NULL, 0 } };
  char least[32], most[32];
  out[0] = '\0';
  switch (option->type) {
    case OPTION_CHOICE:
    case OPTION_SWITCH: put_choices(option->choices, out, size); return;
    case OPTION_SECONDS:
    case OPTION_HOLD:
      put_unit(least, sizeof least, option->least, times, "s");
      put_unit(most, sizeof most, option->most, times, "s");
      snprintf(out, size, "%s%s to %s", option->type == OPTION_HOLD ? "0, or " : "", least, most);
      return;
    case OPTION_BYTES:
      put_unit(least, sizeof least, option->least, binary, "");
      put_unit(most, sizeof most, option->most, binary, "");
      snprintf(out, size, "%s to %s", least, most);
      return;
    case OPTION_NUMBER:
    case OPTION_INTEGER:
    case OPTION_COUNT: snprintf(out, size, "%.15g to %.15g", option->least, option->most); return;
    case OPTION_GROUP:
    case OPTION_TEXT:
    case OPTION_SECRET:
    case OPTION_PATH:
    case OPTION_BOOL:
    case OPTION_TABLE:
    case OPTION_OTHER: return;
  }
}

/* ---- one value ---- */

static bool wrong_type(struct report *r, const struct place *place, const char *expected, const struct value *value) {
  report_at(r, place, "expected %s, got %s", expected, option_kind(value));
  return false;
}

bool option_check_text(struct report *r, const struct place *place, const struct value *value) {
  if (value->kind != VALUE_STRING) return wrong_type(r, place, "a string", value);
  if (!value->string.n) {
    report_at(r, place, "is empty");
    return false;
  }
  for (size_t i = 0; i < value->string.n; i++) {
    unsigned char c = (unsigned char)value->string.p[i];
    if (c >= 0x20 && c != 0x7f) continue;
    report_at(r, place, "holds a control character or a line break");
    return false;
  }
  return true;
}

int option_choice(const char *choices, struct span word) {
  for (int i = 0;; i++) {
    size_t n = strcspn(choices, "|");
    if (span_eq(word, (struct span){ choices, n })) return i;
    if (!choices[n]) return -1;
    choices += n + 1;
  }
}

static bool read_choice(struct report *r, const struct place *place, const struct option *o, const struct value *value,
                        int *index) {
  char list[96];
  option_range(o, list, sizeof list);
  if (value->kind != VALUE_STRING) {
    report_at(r, place, "expected one of the strings %s, got %s", list, option_kind(value));
    return false;
  }
  *index = option_choice(o->choices, value->string);
  if (*index >= 0) return true;
  struct guess guess = guess_begin(value->string);
  for (const char *c = o->choices; *c; c += strcspn(c, "|"), c += *c == '|')
    guess_offer(&guess, (struct span){ c, strcspn(c, "|") });
  report_at(r, place, "expected one of %s%s", list, guess_text(&guess));
  return false;
}

/* The number that stands there, with a unit where the option has one. */
static bool read_number(struct report *r, const struct place *place, const struct option *o, const struct value *value,
                        double *out) {
  bool time = o->type == OPTION_SECONDS || o->type == OPTION_HOLD, bytes = o->type == OPTION_BYTES;
  bool whole = o->type == OPTION_COUNT || o->type == OPTION_INTEGER;
  const char *expected = time    ? "seconds (a number or \"250ms\")"
                         : bytes ? "bytes (a number or \"64MiB\")"
                         : whole ? "a whole number"
                                 : "a number";
  if (value->kind == VALUE_STRING && (time || bytes)) {
    if (time ? option_parse_seconds(value->string, out) : option_parse_bytes(value->string, out)) return true;
    report_at(r, place, "expected %s, got a string that is none", expected);
    return false;
  }
  if (value->kind == VALUE_INTEGER)
    *out = (double)value->integer;
  else if (value->kind == VALUE_NUMBER)
    *out = value->number;
  else
    return wrong_type(r, place, expected, value);
  if (!whole || !isfinite(*out) || *out == floor(*out)) return true;
  report_at(r, place, "expected a whole number, got %.15g", *out);
  return false;
}

static bool in_range(struct report *r, const struct place *place, const struct option *o, double number) {
  if (o->type == OPTION_HOLD && number == 0) return true;
  if (number >= o->least && number <= o->most) return true; /* not a number is in no range */
  char range[96], shown[32] = "not a number"; /* whose sign printf would show */
  option_range(o, range, sizeof range);
  if (!isnan(number)) snprintf(shown, sizeof shown, "%.15g", number);
  report_at(r, place, "%s is out of range (%s)", shown, range);
  return false;
}

static void store_number(const struct option *o, double number, void *field) {
  switch (o->type) {
    case OPTION_INTEGER: *(int *)field = (int)number; return;
    case OPTION_COUNT: *(unsigned *)field = (unsigned)number; return;
    case OPTION_BYTES: *(size_t *)field = (size_t)number; return;
    case OPTION_HOLD: *(seconds *)field = number == 0 ? SECONDS_NEVER : number; return;
    default: *(double *)field = number; return;
  }
}

static void store(struct report *r, struct arena *arena, const struct place *place, const struct option *o,
                  const struct value *value, void *field) {
  int index;
  double number;
  switch (o->type) {
    case OPTION_GROUP:
    case OPTION_OTHER: return;
    case OPTION_TEXT:
    case OPTION_SECRET:
    case OPTION_PATH:
      if (!option_check_text(r, place, value)) return;
      *(const char **)field = arena_copy(arena, value->string);
      if (!*(const char **)field) report_memory(r);
      return;
    case OPTION_BOOL:
      if (value->kind == VALUE_BOOL)
        *(bool *)field = value->boolean;
      else
        wrong_type(r, place, "true or false", value);
      return;
    case OPTION_CHOICE:
      if (read_choice(r, place, o, value, &index)) *(int *)field = index;
      return;
    case OPTION_SWITCH:
      if (read_choice(r, place, o, value, &index)) *(bool *)field = index == 1;
      return;
    case OPTION_TABLE:
      if (value->kind == VALUE_TABLE)
        *(const struct value **)field = value;
      else
        wrong_type(r, place, "a table", value);
      return;
    case OPTION_NUMBER:
    case OPTION_INTEGER:
    case OPTION_COUNT:
    case OPTION_BYTES:
    case OPTION_SECONDS:
    case OPTION_HOLD:
      if (read_number(r, place, o, value, &number) && in_range(r, place, o, number)) store_number(o, number, field);
  }
}

/* ---- a section ---- */

/* A default is written in the table as an operator would; make of it the value that Lua would have made. */
static struct value fallback_value(const struct option *o) {
  if (o->type == OPTION_BOOL) return (struct value){ .kind = VALUE_BOOL, .boolean = strcmp(o->fallback, "true") == 0 };
  if (o->type == OPTION_NUMBER || o->type == OPTION_COUNT || o->type == OPTION_INTEGER)
    return (struct value){ .kind = VALUE_NUMBER, .number = strtod(o->fallback, NULL) };
  return (struct value){ .kind = VALUE_STRING, .string = span_of(o->fallback) };
}

static void group_name(char out[SECTION_BYTES], const char *section, struct span name) {
  snprintf(out, SECTION_BYTES, "%s%s%.*s", section, *section ? "." : "", (int)name.n, name.p);
}

static void fill_defaults(struct report *r, struct arena *arena, const struct place *place, const char *section,
                          void *base) {
  struct span name;
  for (const struct option *o = option_next(section, NULL, &name); o; o = option_next(section, o, &name)) {
    if (o->type == OPTION_GROUP) {
      char inner[SECTION_BYTES];
      group_name(inner, section, name);
      fill_defaults(r, arena, place, inner, base);
    } else if (o->fallback && o->fallback[0] != '(' && o->type != OPTION_OTHER) {
      struct value value = fallback_value(o);
      store(r, arena, place, o, &value, (char *)base + o->offset);
    }
  }
}

static void report_unknown(struct report *r, const struct place *place, const char *section) {
  struct guess guess = guess_begin(place->key);
  struct span name;
  for (const struct option *o = option_next(section, NULL, &name); o; o = option_next(section, o, &name))
    guess_offer(&guess, name);
  report_at(r, place, "unknown key%s", guess_text(&guess));
}

static void fill_given(struct report *r, struct arena *arena, const struct place *place, const char *section,
                       const struct value *table, void *base) {
  for (size_t i = 0; i < table->table.count; i++) {
    const struct value_pair *pair = &table->table.pairs[i];
    if (pair->key.kind != VALUE_STRING) {
      report_at(r, place, "expected named keys, got a list");
      return;
    }
    struct place at = lines_member(place, pair->key.string);
    const struct option *o = option_find(section, pair->key.string);
    if (!o) {
      report_unknown(r, &at, section);
    } else if (o->type != OPTION_GROUP) {
      store(r, arena, &at, o, &pair->value, (char *)base + o->offset);
    } else if (pair->value.kind != VALUE_TABLE) {
      wrong_type(r, &at, "a table", &pair->value);
    } else {
      char inner[SECTION_BYTES];
      group_name(inner, section, pair->key.string);
      fill_given(r, arena, &at, inner, &pair->value, base);
    }
  }
}

void options_fill(struct report *r, struct arena *arena, const struct place *place, const char *section,
                  const struct value *table, void *base) {
  fill_defaults(r, arena, place, section, base);
  if (!table) return;
  if (table->kind == VALUE_TABLE)
    fill_given(r, arena, place, section, table, base);
  else
    wrong_type(r, place, "a table", table);
}
