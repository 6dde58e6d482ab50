/*
 * Times out of headers that others wrote, and in many ways: seconds, milliseconds, Go durations, three forms of
 * HTTP-date, RFC 3339, Unix time.
 *
 * A cursor walks over the value; whatever does not fit makes it `bad`, and a bad value is no time: it is as if the
 * header had not come. No locale, no libc date functions, no allocation. Numbers are plain decimals of at most 18
 * digits before the point; signs, exponents, hex, `nan` and `inf` are no numbers, so every sum below is finite.
 *
 * Two headers belong to one limit when what is left of their names without `reset` and `remaining` is the same, so
 * limits that are not known today are read too.
 */
#include "core/hint.h"

#include <math.h>

enum { DIGITS_MAX = 18, FRACTION_MAX = 15, LIMITS_MAX = 64 };
#define NO_TIME ((seconds)-1)
#define DAY 86400.0
#define YEAR (365 * DAY)
#define UNIX_TIME_LEAST 1e9     /* a bare number from here on (31 years) is a moment, not a duration */
#define UNIX_TIME_MS_LEAST 1e12 /* and from here on one in milliseconds */

/* ---- the cursor ---- */

struct cursor {
  const char *at, *end;
  bool bad;
};

static struct cursor cursor_of(struct span text) {
  text = text.p ? span_trim(text) : SPAN("");
  return (struct cursor){ text.p, text.p + text.n, text.n == 0 };
}

static bool at_end(const struct cursor *c) {
  return c->at == c->end;
}

static bool at_digit(const struct cursor *c) {
  return !at_end(c) && *c->at >= '0' && *c->at <= '9';
}

/* Without case. */
static bool take_if(struct cursor *c, const char *text) {
  size_t n = strlen(text);
  if (c->bad || (size_t)(c->end - c->at) < n || strncasecmp(c->at, text, n) != 0) return false;
  c->at += n;
  return true;
}

static void take(struct cursor *c, const char *text) {
  if (!take_if(c, text)) c->bad = true;
}

/* Exactly `count` digits. */
static int take_digits(struct cursor *c, int count) {
  int number = 0;
  for (; count > 0 && at_digit(c); count--) number = number * 10 + (*c->at++ - '0');
  if (count) c->bad = true;
  return number;
}

/* A name's place in a list, by the whole name or by its first three letters. */
static int take_name(struct cursor *c, const char *const *names, int count, bool whole) {
  for (int i = 0; i < count; i++) {
    char three[4] = { names[i][0], names[i][1], names[i][2] };
    if (take_if(c, whole ? names[i] : three)) return i;
  }
  c->bad = true;
  return 0;
}

/* Digits after a point; those beyond what a double holds change nothing. */
static double take_fraction(struct cursor *c) {
  double number = 0, scale = 1;
  if (!at_digit(c)) c->bad = true;
  for (int digits = 0; at_digit(c); c->at++, digits++) {
    if (digits >= FRACTION_MAX) continue;
    number = number * 10 + (*c->at - '0');
    scale *= 10;
  }
  return number / scale;
}

static double take_number(struct cursor *c) {
  double number = 0;
  int digits = 0;
  for (; at_digit(c); c->at++, digits++) number = number * 10 + (*c->at - '0');
  if (digits == 0 || digits > DIGITS_MAX) c->bad = true;
  if (take_if(c, ".")) number += take_fraction(c);
  return number;
}

/* A whole value that is one number, or -1. */
static double parse_number(struct span text) {
  struct cursor c = cursor_of(text);
  double number = take_number(&c);
  return c.bad || !at_end(&c) ? -1 : number;
}

/* ---- durations ---- */

/* The longer units first: `m` begins `ms`. 0 when none is there. */
static seconds take_unit(struct cursor *c) {
  static const struct {
    const char *name;
    seconds length;
  } units[] = { { "ms", 1e-3 }, { "us", 1e-6 }, { "\xc2\xb5s", 1e-6 }, { "\xce\xbcs", 1e-6 }, { "ns", 1e-9 },
                { "d", DAY },   { "h", 3600 },  { "m", 60 },           { "s", 1 } };
  for (size_t i = 0; i < sizeof units / sizeof *units; i++)
    if (take_if(c, units[i].name)) return units[i].length;
  return 0;
}

seconds hint_parse_duration(struct span text) {
  struct cursor c = cursor_of(text);
  seconds sum = 0, part = take_number(&c);
  if (at_end(&c)) return c.bad ? NO_TIME : part;
  for (;; part = take_number(&c)) {
    seconds unit = take_unit(&c);
    if (c.bad || unit <= 0) return NO_TIME;
    sum += part * unit;
    if (at_end(&c)) return sum;
  }
}

/* ---- dates ---- */

struct date {
  int year, month, day, hour, minute, second; /* month 1 to 12 */
};

/* Days since 1970-01-01 in the Gregorian calendar; years begin in March here, so that the leap day is a year's last. */
static long days_from_civil(int year, int month, int day) {
  int y = month <= 2 ? year - 1 : year;
  int since_march = (month + 9) % 12;
  long day_of_year = (153L * since_march + 2) / 5 + day - 1;
  return 365L * y + y / 4 - y / 100 + y / 400 + day_of_year - 719468;
}

static int month_length(int year, int month) {
  static const int lengths[] = { 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31 };
  bool leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
  return lengths[month - 1] + (month == 2 && leap);
}

/* Unix time; -1 when there is no such day or time (a leap second is one), or it was before 1970. */
static seconds date_to_unix(const struct date *d) {
  if (d->year < 1970 || d->month < 1 || d->month > 12) return NO_TIME;
  if (d->day < 1 || d->day > month_length(d->year, d->month)) return NO_TIME;
  if (d->hour > 23 || d->minute > 59 || d->second > 60) return NO_TIME;
  return (double)days_from_civil(d->year, d->month, d->day) * DAY + d->hour * 3600.0 + d->minute * 60.0 + d->second;
}

static void take_time(struct cursor *c, struct date *d) {
  d->hour = take_digits(c, 2);
  take(c, ":");
  d->minute = take_digits(c, 2);
  take(c, ":");
  d->second = take_digits(c, 2);
}

static int take_month(struct cursor *c) {
  static const char *const names[] = { "Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                       "Jul", "Aug", "Sep", "Oct", "Nov", "Dec" };
  return take_name(c, names, 12, false) + 1;
}

static const char *const week_days[] = { "Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday" };

/* "Sun, 06 Nov 1994 08:49:37 GMT", after the day's name. */
static void take_imf_date(struct cursor *c, struct date *d) {
  take(c, ", ");
  d->day = take_digits(c, 2);
  take(c, " ");
  d->month = take_month(c);
  take(c, " ");
  d->year = take_digits(c, 4);
  take(c, " ");
  take_time(c, d);
  take(c, " GMT");
}

/* "Sunday, 06-Nov-94 08:49:37 GMT", after the day's name. Two digits below 70 are years of this century. */
static void take_rfc850_date(struct cursor *c, struct date *d) {
  take(c, ", ");
  d->day = take_digits(c, 2);
  take(c, "-");
  d->month = take_month(c);
  take(c, "-");
  d->year = take_digits(c, 2);
  d->year += d->year < 70 ? 2000 : 1900;
  take(c, " ");
  take_time(c, d);
  take(c, " GMT");
}

/* "Sun Nov  6 08:49:37 1994", after the day's name. */
static void take_asctime_date(struct cursor *c, struct date *d) {
  take(c, " ");
  d->month = take_month(c);
  take(c, " ");
  d->day = take_if(c, " ") ? take_digits(c, 1) : take_digits(c, 2);
  take(c, " ");
  take_time(c, d);
  take(c, " ");
  d->year = take_digits(c, 4);
}

seconds hint_parse_date(struct span text) {
  struct date d = { 0 };
  struct cursor whole = cursor_of(text), c = whole;
  take_name(&c, week_days, 7, true);
  if (!c.bad) {
    take_rfc850_date(&c, &d);
  } else {
    c = whole;
    take_name(&c, week_days, 7, false);
    if (!at_end(&c) && *c.at == ',') take_imf_date(&c, &d);
    else take_asctime_date(&c, &d);
  }
  return c.bad || !at_end(&c) ? NO_TIME : date_to_unix(&d);
}

/* "Z", "+01:00"; seconds east of Greenwich. */
static seconds take_offset(struct cursor *c) {
  if (take_if(c, "Z")) return 0;
  bool west = take_if(c, "-");
  if (!west) take(c, "+");
  int hours = take_digits(c, 2);
  take(c, ":");
  int minutes = take_digits(c, 2);
  if (hours > 23 || minutes > 59) c->bad = true;
  return (west ? -1 : 1) * (hours * 3600.0 + minutes * 60.0);
}

seconds hint_parse_rfc3339(struct span text) {
  struct date d;
  struct cursor c = cursor_of(text);
  d.year = take_digits(&c, 4);
  take(&c, "-");
  d.month = take_digits(&c, 2);
  take(&c, "-");
  d.day = take_digits(&c, 2);
  if (!take_if(&c, "T")) take(&c, " ");
  take_time(&c, &d);
  seconds fraction = take_if(&c, ".") ? take_fraction(&c) : 0;
  seconds offset = take_offset(&c);
  if (c.bad || !at_end(&c)) return NO_TIME;
  seconds whole = date_to_unix(&d);
  return whole < 0 || whole < offset ? NO_TIME : whole + fraction - offset;
}

/* ---- the headers ---- */

static seconds from_now(seconds moment, seconds now) {
  return moment < 0 ? NO_TIME : fmax(moment - now, 0);
}

static seconds read_milliseconds(struct span value, seconds now) {
  (void)now;
  double number = parse_number(value);
  return number < 0 ? NO_TIME : number / 1000;
}

static seconds read_seconds_or_date(struct span value, seconds now) {
  double number = parse_number(value);
  return number >= 0 ? number : from_now(hint_parse_date(value), now);
}

/* Some write a moment where a duration belongs: a year-long bench would follow. */
static seconds read_reset(struct span value, seconds now) {
  double number = parse_number(value);
  if (number >= UNIX_TIME_MS_LEAST) return from_now(number / 1000, now);
  if (number >= UNIX_TIME_LEAST) return from_now(number, now);
  seconds duration = hint_parse_duration(value);
  return duration >= 0 ? duration : from_now(hint_parse_rfc3339(value), now);
}

/* The first header of that name whose value is a time. */
static seconds read_explicit(struct headers headers, seconds now) {
  static const struct {
    const char *name;
    seconds (*parse)(struct span value, seconds now);
  } kinds[] = { { "retry-after-ms", read_milliseconds },
                { "x-ms-retry-after-ms", read_milliseconds },
                { "retry-after", read_seconds_or_date } };
  for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
    for (size_t i = 0; i < headers.count; i++) {
      if (!span_is_nocase(headers.list[i].name, kinds[k].name)) continue;
      seconds wait = kinds[k].parse(headers.list[i].value, now);
      if (wait >= 0) return wait;
    }
  }
  return NO_TIME;
}

static bool starts_nocase(struct span a, const char *prefix) {
  size_t n = strlen(prefix);
  return a.n >= n && strncasecmp(a.p, prefix, n) == 0;
}

/* What a name is without `prefix` and `suffix`; false when it does not have them around something or nothing. */
static bool middle_of(struct span name, const char *prefix, const char *suffix, struct span *middle) {
  size_t before = strlen(prefix), after = strlen(suffix);
  if (!starts_nocase(name, prefix) || name.n < before + after) return false;
  *middle = (struct span){ name.p + before, name.n - before - after };
  return strncasecmp(middle->p + middle->n, suffix, after) == 0;
}

static const struct limit_names {
  const char *prefix, *suffix; /* of the reset, around the limit's own name */
  const char *left_prefix, *left_suffix;
  const char *status_suffix;   /* of Anthropic's `...-status: allowed`; NULL: there is none */
} families[] = {
  { "x-ratelimit-reset", "", "x-ratelimit-remaining", "", NULL },
  { "anthropic-ratelimit-", "-reset", "anthropic-ratelimit-", "-remaining", "-status" },
};

/* Used up: its `remaining` is 0 or was not sent. A negative one or garbage says that nobody knows. */
static bool is_used_up(struct headers headers, const struct limit_names *names, struct span limit) {
  for (size_t i = 0; i < headers.count; i++) {
    struct header h = headers.list[i];
    struct span middle;
    bool same = middle_of(h.name, names->left_prefix, names->left_suffix, &middle) && middle.n == limit.n &&
                strncasecmp(middle.p, limit.p, limit.n) == 0;
    if (same) return parse_number(h.value) == 0;
    if (!names->status_suffix || !middle_of(h.name, names->prefix, names->status_suffix, &middle)) continue;
    same = middle.n == limit.n && strncasecmp(middle.p, limit.p, limit.n) == 0;
    if (same && starts_nocase(h.value, "allowed")) return false;
  }
  return true;
}

/* The longest wait for a limit that is used up. Nobody has LIMITS_MAX limits: looking up each of them stays cheap. */
static seconds read_resets(struct headers headers, seconds now) {
  seconds longest = NO_TIME;
  unsigned limits = 0;
  for (size_t i = 0; i < headers.count && limits < LIMITS_MAX; i++) {
    struct header h = headers.list[i];
    for (size_t f = 0; f < sizeof families / sizeof *families; f++) {
      struct span limit;
      if (!middle_of(h.name, families[f].prefix, families[f].suffix, &limit)) continue;
      seconds wait = read_reset(h.value, now);
      limits++;
      if (wait > longest && is_used_up(headers, &families[f], limit)) longest = wait;
    }
  }
  return longest;
}

seconds hint_retry_after(struct headers headers, seconds now) {
  seconds wait = read_explicit(headers, now);
  if (wait < 0) wait = read_resets(headers, now);
  return fmin(wait, YEAR);
}

bool hint_is_limit_header(struct span name) {
  static const char *const prefixes[] = { "x-ratelimit-", "x-rate-limit-", "ratelimit-", "anthropic-ratelimit-" };
  static const char *const whole[] = { "retry-after", "retry-after-ms", "x-ms-retry-after-ms", "x-should-retry",
                                       "ratelimit" };
  for (size_t i = 0; i < sizeof prefixes / sizeof *prefixes; i++)
    if (starts_nocase(name, prefixes[i])) return true;
  for (size_t i = 0; i < sizeof whole / sizeof *whole; i++)
    if (span_is_nocase(name, whole[i])) return true;
  return false;
}
