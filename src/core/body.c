/*
 * One pass over JSON text, without a tree and without recursion.
 *
 * A reader walks forward in two steps that alternate: a value is expected (step_value), or one has just ended
 * (step_after). How deep it is and whether each level is an object is one bit a level, so that depth costs neither the
 * C stack nor memory. Members of the outermost object are compared with the wanted names as they pass; all that is
 * kept of one is where its value lies.
 *
 * Nearly all bytes of a large body are inside strings: skip_plain takes eight of them at a time.
 *
 * What is taken out of a good scan is read again by the same reader, bounds and all: a value that did not come from a
 * good scan gives nothing, and never harm.
 */
#include "core/body.h"

#include <ctype.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>

enum { NUMBER_MAX = 400, LEVEL_BITS = 64 };

#define ONES UINT64_C(0x0101010101010101)
#define HIGHS UINT64_C(0x8080808080808080)

struct reader {
  const char *at, *end;
  unsigned depth;
  uint64_t objects[BODY_DEPTH / LEVEL_BITS]; /* a bit for each open level: it is an object, not an array */
  const char *const *names;
  struct body_value *values;
  size_t count;
  struct body_value *wanted; /* the outermost member being read, when it was asked for */
  const char *value_at;      /* where its value began */
};

enum step { STEP_VALUE, STEP_AFTER, STEP_DONE, STEP_BAD };

static struct reader reader_of(struct span text, size_t from) {
  struct reader r;
  r.at = text.p + from;
  r.end = text.p + text.n;
  r.depth = 0;
  r.names = NULL;
  r.values = r.wanted = NULL;
  r.count = 0;
  r.value_at = NULL;
  return r;
}

static enum body_kind kind_of(char first) {
  switch (first) {
  case '{': return BODY_OBJECT;
  case '[': return BODY_ARRAY;
  case '"': return BODY_STRING;
  case 't':
  case 'f': return BODY_BOOL;
  case 'n': return BODY_NULL;
  default: return BODY_NUMBER;
  }
}

static struct body_value value_between(const char *from, const char *to) {
  return (struct body_value){ kind_of(*from), { from, (size_t)(to - from) }, 1 };
}

static void skip_blanks(struct reader *r) {
  while (r->at < r->end && (*r->at == ' ' || *r->at == '\n' || *r->at == '\r' || *r->at == '\t')) r->at++;
}

static bool next_is(const struct reader *r, char c) {
  return r->at < r->end && *r->at == c;
}

/* ---- scalars ---- */

/* To the first quote, backslash or control character. Taking 0x20 from a byte below it borrows into the high bit. */
static const char *skip_plain(const char *p, const char *end) {
  for (; end - p >= 8; p += 8) {
    uint64_t word;
    memcpy(&word, p, 8);
    uint64_t quote = word ^ ONES * '"', slash = word ^ ONES * '\\';
    uint64_t stops = ((quote - ONES) & ~quote) | ((slash - ONES) & ~slash) | ((word - ONES * 0x20) & ~word);
    if (stops & HIGHS) break;
  }
  while (p < end && *p != '"' && *p != '\\' && (unsigned char)*p >= 0x20) p++;
  return p;
}

/* Just after a backslash. */
static bool read_escape(struct reader *r) {
  if (r->at == r->end) return false;
  char c = *r->at;
  if (c != 'u') {
    if (!c || !strchr("\"\\/bfnrt", c)) return false;
    r->at++;
    return true;
  }
  r->at++;
  for (int i = 0; i < 4; i++, r->at++)
    if (r->at == r->end || !isxdigit((unsigned char)*r->at)) return false;
  return true;
}

static bool read_string(struct reader *r) {
  r->at++;
  for (;;) {
    r->at = skip_plain(r->at, r->end);
    if (r->at == r->end || (unsigned char)*r->at < 0x20) return false;
    if (*r->at++ == '"') return true;
    if (!read_escape(r)) return false;
  }
}

static bool read_digits(struct reader *r) {
  const char *from = r->at;
  while (r->at < r->end && *r->at >= '0' && *r->at <= '9') r->at++;
  return r->at > from;
}

static bool read_number(struct reader *r) {
  if (next_is(r, '-')) r->at++;
  if (next_is(r, '0')) r->at++;
  else if (!read_digits(r)) return false;
  if (next_is(r, '.')) {
    r->at++;
    if (!read_digits(r)) return false;
  }
  if (next_is(r, 'e') || next_is(r, 'E')) {
    r->at++;
    if (next_is(r, '+') || next_is(r, '-')) r->at++;
    if (!read_digits(r)) return false;
  }
  return true;
}

static bool read_literal(struct reader *r, const char *word) {
  for (; *word; word++, r->at++)
    if (!next_is(r, *word)) return false;
  return true;
}

static bool read_scalar(struct reader *r) {
  switch (*r->at) {
  case '"': return read_string(r);
  case 't': return read_literal(r, "true");
  case 'f': return read_literal(r, "false");
  case 'n': return read_literal(r, "null");
  default: return read_number(r);
  }
}

/* ---- the walk ---- */

static bool in_object(const struct reader *r) {
  unsigned level = r->depth - 1;
  return r->objects[level / LEVEL_BITS] >> level % LEVEL_BITS & 1;
}

static enum step close_level(struct reader *r) {
  r->at++;
  r->depth--;
  return STEP_AFTER;
}

/* A member's name and its colon. */
static enum step read_key(struct reader *r) {
  skip_blanks(r);
  if (!next_is(r, '"')) return STEP_BAD;
  const char *from = r->at;
  if (!read_string(r)) return STEP_BAD;
  if (r->depth == 1 && r->count) {
    struct body_value key = value_between(from, r->at);
    for (size_t i = 0; i < r->count && !r->wanted; i++)
      if (body_is(key, r->names[i])) r->wanted = &r->values[i];
  }
  skip_blanks(r);
  if (!next_is(r, ':')) return STEP_BAD;
  r->at++;
  return STEP_VALUE;
}

static enum step open_level(struct reader *r) {
  bool object = *r->at == '{';
  if (r->depth == BODY_DEPTH) return STEP_BAD;
  uint64_t *word = &r->objects[r->depth / LEVEL_BITS], bit = UINT64_C(1) << r->depth % LEVEL_BITS;
  if (r->depth % LEVEL_BITS == 0) *word = 0;
  *word = object ? *word | bit : *word & ~bit;
  r->depth++;
  r->at++;
  skip_blanks(r);
  if (next_is(r, object ? '}' : ']')) return close_level(r);
  return object ? read_key(r) : STEP_VALUE;
}

static enum step step_value(struct reader *r) {
  skip_blanks(r);
  if (r->at == r->end) return STEP_BAD;
  if (r->depth == 1) r->value_at = r->at;
  if (*r->at == '{' || *r->at == '[') return open_level(r);
  return read_scalar(r) ? STEP_AFTER : STEP_BAD;
}

static enum step step_after(struct reader *r) {
  if (r->depth == 1 && r->wanted) {
    unsigned times = r->wanted->times + 1;
    *r->wanted = value_between(r->value_at, r->at);
    r->wanted->times = times;
    r->wanted = NULL;
  }
  if (r->depth == 0) return STEP_DONE;
  skip_blanks(r);
  bool object = in_object(r);
  if (next_is(r, ',')) {
    r->at++;
    return object ? read_key(r) : STEP_VALUE;
  }
  return next_is(r, object ? '}' : ']') ? close_level(r) : STEP_BAD;
}

/* One value, from its first byte or the blanks before it to just after its last. */
static bool walk(struct reader *r) {
  enum step step = STEP_VALUE;
  while (step == STEP_VALUE || step == STEP_AFTER) step = step == STEP_VALUE ? step_value(r) : step_after(r);
  return step == STEP_DONE;
}

static bool walk_members(struct reader *r, const char *const *names, struct body_value *values, size_t count) {
  for (size_t i = 0; i < count; i++) values[i] = (struct body_value){ .kind = BODY_ABSENT };
  r->names = names;
  r->values = values;
  r->count = count;
  return walk(r);
}

enum body_result body_scan(struct span text, const char *const *names, struct body_value *values, size_t count,
                           size_t *error_at) {
  if (!text.p) text = SPAN("");
  struct reader r = reader_of(text, 0);
  bool good = walk_members(&r, names, values, count);
  if (good) skip_blanks(&r);
  if (good && r.at == r.end) return BODY_GOOD;
  if (error_at) *error_at = (size_t)(r.at - text.p);
  return BODY_MALFORMED;
}

struct body_value body_root(struct span text) {
  text = span_trim(text);
  return text.n ? value_between(text.p, text.p + text.n) : (struct body_value){ .kind = BODY_ABSENT };
}

void body_members(struct body_value value, const char *const *names, struct body_value *values, size_t count) {
  bool object = value.kind == BODY_OBJECT;
  struct reader r = reader_of(object ? value.raw : SPAN("{}"), 0);
  if (walk_members(&r, names, values, count)) return;
  for (size_t i = 0; i < count; i++) values[i] = (struct body_value){ .kind = BODY_ABSENT };
}

/* The value at the reader and the comma after it; *at moves behind both. */
static bool take_value(struct reader *r, struct span whole, size_t *at, struct body_value *value) {
  skip_blanks(r);
  const char *from = r->at;
  if (!walk(r)) return false;
  *value = value_between(from, r->at);
  skip_blanks(r);
  if (next_is(r, ',')) r->at++;
  *at = (size_t)(r->at - whole.p);
  return true;
}

bool body_element(struct body_value array, size_t *at, struct body_value *element) {
  *element = (struct body_value){ .kind = BODY_ABSENT };
  if (array.kind != BODY_ARRAY || *at >= array.raw.n) return false;
  struct reader r = reader_of(array.raw, *at ? *at : 1);
  skip_blanks(&r);
  return !next_is(&r, ']') && take_value(&r, array.raw, at, element);
}

bool body_member(struct body_value object, size_t *at, struct body_value *name, struct body_value *value) {
  *name = *value = (struct body_value){ .kind = BODY_ABSENT };
  if (object.kind != BODY_OBJECT || *at >= object.raw.n) return false;
  struct reader r = reader_of(object.raw, *at ? *at : 1);
  skip_blanks(&r);
  const char *from = r.at;
  if (next_is(&r, '}') || read_key(&r) != STEP_VALUE) return false;
  struct reader key = reader_of((struct span){ from, (size_t)(r.at - from) }, 0);
  if (!read_string(&key)) return false;
  *name = value_between(from, key.at);
  return take_value(&r, object.raw, at, value);
}

/* ---- strings and numbers ---- */

static struct span inside(struct body_value string) {
  if (string.kind != BODY_STRING || string.raw.n < 2) return SPAN_NONE;
  return (struct span){ string.raw.p + 1, string.raw.n - 2 };
}

static int hex_digit(char c) {
  return isdigit((unsigned char)c) ? c - '0' : (c | 0x20) - 'a' + 10;
}

/* The four digits of a \u at p, or -1 when there is none. */
static long unicode_at(const char *p, const char *end) {
  if (end - p < 6 || p[0] != '\\' || p[1] != 'u') return -1;
  return (long)hex_digit(p[2]) << 12 | hex_digit(p[3]) << 8 | hex_digit(p[4]) << 4 | hex_digit(p[5]);
}

static size_t put_utf8(long c, char *out) {
  if (c < 0x80) {
    out[0] = (char)c;
    return 1;
  }
  size_t n = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
  for (size_t i = n; i-- > 1; c >>= 6) out[i] = (char)(0x80 | (c & 0x3f));
  out[0] = (char)((0xf00 >> n & 0xff) | c);
  return n;
}

/* One escape at *p (a backslash of a good string), undone into out (room for 4); *p moves behind it. */
static size_t undo_escape(const char **p, const char *end, char *out) {
  long c = unicode_at(*p, end);
  if (c < 0) {
    static const char from[] = "bfnrt", to[] = "\b\f\n\r\t";
    char plain = *p + 1 < end ? (*p)[1] : '\\';
    const char *known = strchr(from, plain);
    *out = known && *known ? to[known - from] : plain;
    *p = end - *p < 2 ? end : *p + 2;
    return 1;
  }
  *p += 6;
  if (c >= 0xd800 && c < 0xdc00) {
    long low = unicode_at(*p, end);
    if (low < 0xdc00 || low > 0xdfff) return put_utf8(0xfffd, out);
    *p += 6;
    return put_utf8(0x10000 + ((c - 0xd800) << 10) + (low - 0xdc00), out);
  }
  return put_utf8(c >= 0xdc00 && c < 0xe000 ? 0xfffd : c, out);
}

bool body_is(struct body_value value, const char *text) {
  struct span s = inside(value);
  if (!s.p) return false;
  if (!memchr(s.p, '\\', s.n)) return span_is(s, text);
  const char *end = s.p + s.n;
  size_t left = strlen(text);
  for (const char *p = s.p; p < end;) {
    char c[4] = { *p };
    size_t n = *p == '\\' ? undo_escape(&p, end, c) : (p++, 1);
    if (n > left || memcmp(text, c, n) != 0) return false;
    text += n;
    left -= n;
  }
  return left == 0;
}

struct span body_text(struct body_value value, struct arena *arena) {
  struct span s = inside(value);
  const char *escape = s.p ? memchr(s.p, '\\', s.n) : NULL;
  if (!escape) return s;
  char *text = arena_alloc(arena, s.n); /* what an escape stands for is never longer than the escape */
  if (!text) return SPAN_NONE;
  const char *end = s.p + s.n;
  size_t n = 0;
  for (const char *p = s.p; p < end; escape = memchr(p, '\\', (size_t)(end - p))) {
    size_t plain = (size_t)((escape ? escape : end) - p);
    memcpy(text + n, p, plain);
    n += plain;
    p += plain;
    if (escape) n += undo_escape(&p, end, text + n);
  }
  return (struct span){ text, n };
}

bool body_is_true(struct body_value value) {
  return value.kind == BODY_BOOL && value.raw.n && value.raw.p[0] == 't';
}

double body_number(struct body_value value, double otherwise) {
  if (value.kind != BODY_NUMBER || value.raw.n > NUMBER_MAX) return otherwise;
  char digits[NUMBER_MAX + 1];
  memcpy(digits, value.raw.p, value.raw.n);
  digits[value.raw.n] = '\0';
  double number = strtod(digits, NULL);
  return isfinite(number) ? number : otherwise;
}
