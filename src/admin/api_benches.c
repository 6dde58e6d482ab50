/*
 * /api/benches: who is sidelined, and an operator's own benches.
 *
 * A PUT sets the key's manual bench, replacing an earlier one; a DELETE lifts both kinds. What the body may say is
 * checked in full before anything changes. Each change is one `audit` line with the state before and after, and is
 * told to the rest of the process through options->benched, so that observers learn of it.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "admin/endpoint.h"
#include "base/json.h"
#include "base/log.h"
#include "core/body.h"

#define LONGEST 1e9 /* seconds a bench may have; longer is a mistake: null says "until lifted" */

/* ---- showing ---- */

/* `until` is null when it is until lifted, 0 when the key is not benched. */
static void put_bench(struct buf *out, struct bench_key *key, seconds now) {
  struct bench_state s;
  char reason[BENCH_REASON_BYTES];
  bench_read(key, now, &s);
  bench_reason(key, now, reason);
  buf_puts(out, "{");
  json_put_key(out, "key");
  json_put_string(out, span_of(bench_name(key)));
  json_put_key(out, "until");
  json_put_number(out, s.until);
  json_put_key(out, "reason");
  json_put_string(out, span_of(reason));
  json_put_key(out, "manual");
  buf_puts(out, s.manual ? "true" : "false");
  json_put_key(out, "since");
  json_put_number(out, s.since);
  json_put_key(out, "fails");
  buf_printf(out, "%u}", s.fails);
}

struct listing {
  struct buf *out;
  seconds now;
};

static void list_key(void *context, struct bench_key *key) {
  struct listing *listing = context;
  struct bench_state s;
  bench_read(key, listing->now, &s);
  if (!s.benched) return;
  json_put_comma(listing->out);
  put_bench(listing->out, key, listing->now);
}

void benches_get(struct admin_request *request, struct admin_answer *answer) {
  struct listing listing = { &answer->body, clock_now() };
  buf_puts(&answer->body, "{\"benches\":[");
  bench_each(request->options->bench, list_key, &listing);
  buf_puts(&answer->body, "]}\n");
}

/* ---- the body of a PUT ---- */

struct wanted {
  seconds duration; /* SECONDS_NEVER: until lifted */
  const char *reason;
};

/* Members of the outer object of a well-formed text: its colons outside strings and inner values. */
static unsigned count_members(struct span text) {
  unsigned members = 0, depth = 0;
  bool quoted = false;
  for (size_t i = 0; i < text.n; i++) {
    char c = text.p[i];
    if (quoted && c == '\\')
      i++;
    else if (c == '"')
      quoted = !quoted;
    else if (!quoted && (c == '{' || c == '['))
      depth++;
    else if (!quoted && (c == '}' || c == ']'))
      depth--;
    else if (!quoted && c == ':' && depth == 1)
      members++;
  }
  return members;
}

/* "250ms", "90s", "10m", "2h", "1d"; negative when it is none of them. */
static seconds parse_duration(const char *text) {
  static const struct {
    const char *unit;
    double seconds;
  } units[] = { { "ms", 0.001 }, { "s", 1 }, { "m", 60 }, { "h", 3600 }, { "d", 86400 } };
  size_t digits = strspn(text, "0123456789.");
  char *end = NULL;
  double number = digits ? strtod(text, &end) : -1;
  if (!end || end != text + digits) return -1;
  for (size_t i = 0; i < sizeof units / sizeof units[0]; i++)
    if (strcmp(end, units[i].unit) == 0) return number * units[i].seconds;
  return -1;
}

static bool read_duration(struct body_value value, struct arena *arena, seconds *duration) {
  struct span text;
  switch (value.kind) {
    case BODY_NULL: *duration = SECONDS_NEVER; return true;
    case BODY_NUMBER: *duration = body_number(value, -1); break;
    case BODY_STRING:
      text = body_text(value, arena);
      const char *copy = text.p && !memchr(text.p, 0, text.n) ? arena_copy(arena, text) : NULL;
      *duration = copy ? parse_duration(copy) : -1;
      break;
    case BODY_ABSENT:
    case BODY_BOOL:
    case BODY_OBJECT:
    case BODY_ARRAY: return false;
  }
  return *duration > 0 && *duration <= LONGEST;
}

/* Cut to what the registry keeps, never within a character, so that log and observers say the same; a NUL ends it. */
static bool read_reason(struct body_value value, struct arena *arena, const char **reason) {
  *reason = "by an operator";
  if (value.kind == BODY_ABSENT || value.kind == BODY_NULL) return true;
  struct span text = body_text(value, arena);
  if (value.kind != BODY_STRING || !text.p) return false;
  if (text.n >= BENCH_REASON_BYTES) {
    text.n = BENCH_REASON_BYTES - 1;
    while (text.n && (text.p[text.n] & 0xc0) == 0x80) text.n--;
  }
  *reason = arena_copy(arena, text);
  return *reason != NULL;
}

/* False: `answer` says what is wrong with it. */
static bool read_wanted(struct admin_request *r, struct wanted *wanted, struct admin_answer *answer) {
  static const char *const names[] = { "for", "reason" };
  struct body_value values[2];
  if (body_scan(r->body, names, values, 2, NULL) != BODY_GOOD || r->body.n == 0)
    endpoint_refuse(answer, 400, "the body is not JSON");
  else if (span_trim(r->body).p[0] != '{')
    endpoint_refuse(answer, 400, "the body must be a JSON object");
  else if (values[0].times > 1 || values[1].times > 1)
    endpoint_refuse(answer, 400, "a member is given twice");
  else if (count_members(r->body) != values[0].times + values[1].times)
    endpoint_refuse(answer, 400, "unknown member: only \"for\" and \"reason\" may be given");
  else if (!read_duration(values[0], &r->arena, &wanted->duration))
    endpoint_refuse(answer, 400, "\"for\" must be seconds over 0, to %.0f, text like \"10m\", or null: until lifted",
                    LONGEST);
  else if (!read_reason(values[1], &r->arena, &wanted->reason))
    endpoint_refuse(answer, 400, "\"reason\" must be a string");
  else
    return true;
  return false;
}

/* ---- changing ---- */

static struct bench_key *find_key(struct admin_request *r, struct admin_answer *answer) {
  struct bench_key *key = r->rest.n <= ADMIN_KEY ? bench_find(r->options->bench, r->rest) : NULL;
  if (!key) endpoint_refuse(answer, 404, "no candidate or upstream has that name");
  return key;
}

static void describe_state(const struct bench_key *key, seconds now, char *text, size_t size) {
  struct bench_state s;
  bench_read(key, now, &s);
  char until[32] = "lifted";
  if (isfinite(s.until)) {
    time_t whole = (time_t)s.until;
    struct tm tm;
    if (!gmtime_r(&whole, &tm) || !strftime(until, sizeof until, "%Y-%m-%dT%H:%M:%SZ", &tm)) strcpy(until, "?");
  }
  if (s.benched)
    snprintf(text, size, "%s until %s", s.manual ? "manual" : "automatic", until);
  else
    snprintf(text, size, "%s", s.returning ? "returning" : "on duty");
}

static void log_change(const struct admin_request *r, const char *action, const struct bench_key *key,
                       const char *before, const char *reason) {
  char after[64];
  describe_state(key, clock_now(), after, sizeof after);
  log_info("audit", LOG_TEXT("action", action), LOG_TEXT("key", bench_name(key)), LOG_TEXT("before", before),
           LOG_TEXT("after", after), LOG_TEXT("reason", reason), LOG_TEXT("from", r->peer));
}

void benches_put(struct admin_request *r, struct admin_answer *answer) {
  struct wanted wanted = { 0 };
  struct bench_key *key = find_key(r, answer);
  if (!key || !read_wanted(r, &wanted, answer)) return;
  const struct admin_options *o = r->options;
  char before[64];
  seconds now = clock_now();
  describe_state(key, now, before, sizeof before);
  bench_set_manual(key, wanted.duration, wanted.reason, now);
  log_change(r, "bench", key, before, wanted.reason);
  if (o->benched) o->benched(o->context, bench_name(key), wanted.duration, wanted.reason);
  put_bench(&answer->body, key, now);
  buf_puts(&answer->body, "\n");
}

void benches_delete(struct admin_request *r, struct admin_answer *answer) {
  struct bench_key *key = find_key(r, answer);
  if (!key) return;
  const struct admin_options *o = r->options;
  char before[64];
  seconds now = clock_now();
  describe_state(key, now, before, sizeof before);
  bool was = bench_lift(key, true, now);
  log_change(r, "lift", key, before, NULL);
  if (was && o->benched) o->benched(o->context, bench_name(key), 0, "");
  buf_printf(&answer->body, "{\"was_benched\":%s}\n", was ? "true" : "false");
}
