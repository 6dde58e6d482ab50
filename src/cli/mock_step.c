/*
 * Reading a step: one table of keys, each with the function that reads its value. Every key is checked; the first one
 * that is unknown or wrong ends the reading with a message that names it.
 */
#include "cli/mock_step.h"

#include <stdio.h>
#include <string.h>

#include "cli/mock.h"

struct reading {
  struct arena *arena;
  struct mock_step *step;
  const char *problem; /* set by the reader that finds one */
  bool fault_given;
};

/* ---- plain values ---- */

static bool fail(struct reading *r, const char *problem) {
  r->problem = problem;
  return false;
}

static bool is_number(const struct value *v) {
  return v->kind == VALUE_NUMBER || v->kind == VALUE_INTEGER;
}

static double number_of(const struct value *v) {
  return v->kind == VALUE_INTEGER ? (double)v->integer : v->number;
}

static bool read_text(struct reading *r, const struct value *v, struct span *text) {
  if (v->kind != VALUE_STRING) return fail(r, "must be a string");
  *text = v->string;
  if (!text->p) *text = SPAN("");
  return true;
}

static bool read_bool(struct reading *r, const struct value *v, bool *to) {
  if (v->kind != VALUE_BOOL) return fail(r, "must be true or false");
  *to = v->boolean;
  return true;
}

static bool read_count(struct reading *r, const struct value *v, double limit, size_t *to) {
  double n = is_number(v) ? number_of(v) : -1;
  if (!(n >= 0 && n <= limit && n == (double)(size_t)n)) return fail(r, "must be a whole number in range");
  *to = (size_t)n;
  return true;
}

static bool read_seconds(struct reading *r, const struct value *v, seconds *to) {
  double n = is_number(v) ? number_of(v) : -1;
  if (!(n >= 0)) return fail(r, "must be a number of seconds, not negative");
  *to = n;
  return true;
}

/* ---- headers ---- */

/* A header value as text: strings, numbers; `false` leaves out the one the mock would make up. */
static bool header_value(struct reading *r, const struct value *v, struct span *text) {
  if (v->kind == VALUE_STRING) return read_text(r, v, text);
  if (v->kind == VALUE_BOOL && !v->boolean) {
    *text = SPAN_NONE;
    return true;
  }
  if (!is_number(v)) return fail(r, "values must be strings, numbers, lists of them, or false");
  *text = span_of(arena_printf(r->arena, "%.14g", number_of(v)));
  return text->p || fail(r, "out of memory");
}

static size_t header_count(const struct value *v) {
  size_t count = 0;
  for (size_t i = 0; i < v->table.count; i++) {
    const struct value_pair *pair = &v->table.pairs[i];
    bool list = pair->key.kind == VALUE_STRING && pair->value.kind == VALUE_TABLE;
    count += list ? pair->value.table.count : 1;
  }
  return count;
}

/* Either name = value, name = { value, value }, or an element { name, value }, which keeps its place. */
static bool read_header(struct reading *r, const struct value_pair *pair, struct header *list, size_t *count) {
  const struct value *v = &pair->value;
  if (pair->key.kind != VALUE_STRING) {
    if (v->kind != VALUE_TABLE || v->table.count != 2) return fail(r, "an element must be { name, value }");
    struct header *header = &list[(*count)++];
    return read_text(r, &v->table.pairs[0].value, &header->name) && header_value(r, &v->table.pairs[1].value,
                                                                                 &header->value);
  }
  if (v->kind != VALUE_TABLE) {
    list[*count].name = pair->key.string;
    return header_value(r, v, &list[(*count)++].value);
  }
  for (size_t i = 0; i < v->table.count; i++) {
    list[*count].name = pair->key.string;
    if (!header_value(r, &v->table.pairs[i].value, &list[(*count)++].value)) return false;
  }
  return true;
}

static bool read_headers(struct reading *r, const struct value *v) {
  if (v->kind != VALUE_TABLE) return fail(r, "must be a table");
  struct header *list = ARENA_ARRAY(r->arena, struct header, header_count(v) + 1);
  if (!list) return fail(r, "out of memory");
  r->step->headers.list = list;
  for (size_t i = 0; i < v->table.count; i++)
    if (!read_header(r, &v->table.pairs[i], list, &r->step->headers.count)) return false;
  return true;
}

/* ---- the fault ---- */

static const struct fault_name {
  const char *name;
  enum mock_fault fault;
  bool counted;
} fault_names[] = {
  { "refuse", MOCK_FAULT_REFUSE, false },
  { "silent", MOCK_FAULT_SILENT, false },
  { "reset", MOCK_FAULT_RESET, false },
  { "reset_after", MOCK_FAULT_RESET_AFTER, true },
  { "truncate_after", MOCK_FAULT_TRUNCATE_AFTER, true },
  { "stall_after", MOCK_FAULT_STALL_AFTER, true },
  { "error_event", MOCK_FAULT_ERROR_EVENT, false },
  { "error_after_start", MOCK_FAULT_ERROR_AFTER_START, false },
  { "empty", MOCK_FAULT_EMPTY, false },
  { "html", MOCK_FAULT_HTML, false },
  { "wrong_type", MOCK_FAULT_WRONG_TYPE, false },
};

static const struct fault_name *find_fault(struct span name) {
  for (size_t i = 0; i < sizeof fault_names / sizeof fault_names[0]; i++)
    if (span_is(name, fault_names[i].name)) return &fault_names[i];
  return NULL;
}

static bool set_fault(struct reading *r, const struct fault_name *known) {
  if (!known) return fail(r, "unknown fault");
  if (r->fault_given) return fail(r, "there is a fault already");
  r->fault_given = true;
  r->step->fault = known->fault;
  return true;
}

static bool read_digits(struct span text, size_t *to) {
  *to = 0;
  for (size_t i = 0; i < text.n; i++) {
    if (text.p[i] < '0' || text.p[i] > '9' || i > 12) return false;
    *to = *to * 10 + (size_t)(text.p[i] - '0');
  }
  return text.n > 0;
}

/* "reset", "reset_after" (with `after` beside it) or "reset_after=120". */
static bool read_fault(struct reading *r, const struct value *v) {
  struct span text;
  if (!read_text(r, v, &text)) return false;
  const char *equals = memchr(text.p, '=', text.n);
  struct span name = { text.p, equals ? (size_t)(equals - text.p) : text.n };
  const struct fault_name *known = find_fault(name);
  if (!set_fault(r, known)) return false;
  if (!equals) return true;
  return (known->counted && read_digits(span_skip(text, name.n + 1), &r->step->after)) || fail(r, "unknown fault");
}

/* ---- groups ---- */

static bool read_chunks(struct reading *r, const struct value *v) {
  if (v->kind != VALUE_TABLE) return read_count(r, v, MOCK_CHUNKS, &r->step->stream.count);
  struct span *list = ARENA_ARRAY(r->arena, struct span, v->table.count + 1);
  if (!list) return fail(r, "out of memory");
  for (size_t i = 0; i < v->table.count; i++)
    if (!read_text(r, &v->table.pairs[i].value, &list[i])) return false;
  r->step->stream.list = list;
  r->step->stream.count = v->table.count;
  return true;
}

static bool read_stream_key(struct reading *r, struct span key, const struct value *v) {
  if (span_is(key, "chunks")) return read_chunks(r, v);
  if (span_is(key, "interval")) return read_seconds(r, v, &r->step->stream.interval);
  if (span_is(key, "first")) return read_seconds(r, v, &r->step->stream.first);
  return fail(r, "unknown key inside (there are chunks, interval and first)");
}

static bool read_error_key(struct reading *r, struct span key, const struct value *v) {
  if (span_is(key, "type")) return read_text(r, v, &r->step->error.type);
  if (span_is(key, "code")) return read_text(r, v, &r->step->error.code);
  if (span_is(key, "message")) return read_text(r, v, &r->step->error.message);
  return fail(r, "unknown key inside (there are type, code and message)");
}

static bool read_group(struct reading *r, const struct value *v,
                       bool (*read_key)(struct reading *, struct span, const struct value *)) {
  if (v->kind != VALUE_TABLE) return fail(r, "must be a table");
  for (size_t i = 0; i < v->table.count; i++) {
    const struct value_pair *pair = &v->table.pairs[i];
    if (!read_key(r, pair->key.kind == VALUE_STRING ? pair->key.string : SPAN("[1]"), &pair->value)) return false;
  }
  return true;
}

static bool read_stream(struct reading *r, const struct value *v) {
  return read_group(r, v, read_stream_key);
}

static bool read_error(struct reading *r, const struct value *v) {
  return read_group(r, v, read_error_key);
}

static bool read_status(struct reading *r, const struct value *v) {
  size_t status;
  if (!read_count(r, v, 999, &status) || status < 100) return fail(r, "must be a status from 100 to 999");
  r->step->status = (int)status;
  return true;
}

static bool read_framing(struct reading *r, const struct value *v) {
  static const char *const names[] = { "", "chunked", "length", "close" };
  for (int i = 1; i < 4; i++)
    if (v->kind == VALUE_STRING && span_is(v->string, names[i])) return r->step->wire.framing = (enum mock_framing)i,
        true;
  return fail(r, "must be \"chunked\", \"length\" or \"close\"");
}

/* ---- the step ---- */

static bool read_body(struct reading *r, const struct value *v) { return read_text(r, v, &r->step->body); }
static bool read_answer_text(struct reading *r, const struct value *v) { return read_text(r, v, &r->step->text); }
static bool read_delay(struct reading *r, const struct value *v) { return read_seconds(r, v, &r->step->delay); }
static bool read_after(struct reading *r, const struct value *v) { return read_count(r, v, 1e12, &r->step->after); }
static bool read_split(struct reading *r, const struct value *v) { return read_count(r, v, 1e12,
                                                                                     &r->step->wire.split); }
static bool read_close(struct reading *r, const struct value *v) { return read_bool(r, v, &r->step->wire.close); }
static bool read_raw(struct reading *r, const struct value *v) { return read_text(r, v, &r->step->wire.raw); }
static bool read_keep(struct reading *r, const struct value *v) { return read_bool(r, v, &r->step->wire.keep); }

static const struct step_key {
  const char *name;
  bool (*read)(struct reading *r, const struct value *v);
} step_keys[] = {
  { "status", read_status },   { "headers", read_headers }, { "body", read_body },       { "text", read_answer_text },
  { "error", read_error },     { "delay", read_delay },     { "stream", read_stream },   { "fault", read_fault },
  { "after", read_after },     { "framing", read_framing }, { "split", read_split },     { "close", read_close },
  { "raw", read_raw },         { "keep", read_keep },
};

static bool read_key(struct reading *r, struct span key, const struct value *v) {
  for (size_t i = 0; i < sizeof step_keys / sizeof step_keys[0]; i++)
    if (span_is(key, step_keys[i].name)) return step_keys[i].read(r, v);
  const struct fault_name *known = find_fault(key); /* reset_after = 120 */
  if (!known || !known->counted) return fail(r, "unknown key");
  return set_fault(r, known) && read_after(r, v);
}

bool mock_step_read(const struct value *value, struct arena *arena, struct mock_step *step, char *error,
                    size_t error_size) {
  *step = (struct mock_step){ 0 };
  struct reading r = { .arena = arena, .step = step };
  for (size_t i = 0; value->kind == VALUE_TABLE && i < value->table.count; i++) {
    const struct value_pair *pair = &value->table.pairs[i];
    struct span key = pair->key.kind == VALUE_STRING ? pair->key.string : SPAN("[1]");
    if (read_key(&r, key, &pair->value)) continue;
    snprintf(error, error_size, "a step's '%.*s': %s", (int)(key.n < 64 ? key.n : 64), key.p, r.problem);
    return false;
  }
  return true;
}
