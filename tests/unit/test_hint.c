/*
 * core/hint: every way of saying when to come back. Parsers first, then whole sets of headers at an invented now, then
 * bytes nobody meant, each value in memory of exactly its size.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "core/hint.h"

#define TEST(promise, function) { promise, function, NULL, NULL, NULL }
#define NOW 1790000000.0 /* 2026-09-21T14:13:20Z */
#define YEAR (365 * 86400.0)
#define COUNT(list) (sizeof(list) / sizeof *(list))

struct parse_case {
  const char *text;
  double wanted;
};

static void check_parser(seconds (*parse)(struct span), const struct parse_case *cases, size_t count) {
  for (size_t i = 0; i < count; i++) {
    double got = parse(span_of(cases[i].text));
    if (fabs(got - cases[i].wanted) > 1e-6) fail_msg("%s: %f wanted, got %f", cases[i].text, cases[i].wanted, got);
  }
}

static void reads_durations(void **state) {
  (void)state;
  static const struct parse_case cases[] = {
    { "1s", 1 },         { "6m0s", 360 },       { "12ms", 0.012 },     { "1h2m3s", 3723 },    { "20", 20 },
    { "0", 0 },          { "0s", 0 },           { "1.5", 1.5 },        { "8.64s", 8.64 },     { "2m59.56s", 179.56 },
    { "1d2h", 93600 },   { " 20s ", 20 },       { "500us", 0.0005 },   { "500\xc2\xb5s", 0.0005 }, { "7ns", 7e-9 },
    { "000000000000000020", 20 }, { "0.100000000000000000000000000000000000000000001s", 0.1 },
  };
  check_parser(hint_parse_duration, cases, COUNT(cases));
}

static void refuses_what_is_no_duration(void **state) {
  (void)state;
  static const struct parse_case cases[] = {
    { "", -1 },    { " ", -1 },      { "-1", -1 },   { "-1s", -1 },  { "+1", -1 },    { "nan", -1 },  { "inf", -1 },
    { "1e3", -1 }, { "0x10", -1 },   { "s", -1 },    { "1x", -1 },   { "1h20", -1 },  { "1s2", -1 },  { "1 s", -1 },
    { "1..5", -1 }, { "1.", -1 },    { ".5", -1 },   { "5,", -1 },   { "1s,2s", -1 }, { "1m-1s", -1 }, { "infs", -1 },
    { "9999999999999999999", -1 },   { "99999999999999999999999999999999h", -1 },
  };
  check_parser(hint_parse_duration, cases, COUNT(cases));
  assert_true(hint_parse_duration(SPAN_NONE) == -1);
  assert_true(hint_parse_duration(SPAN("1\0s")) == -1);
}

static void reads_dates_in_all_three_forms(void **state) {
  (void)state;
  static const struct parse_case cases[] = {
    { "Sun, 06 Nov 1994 08:49:37 GMT", 784111777 },    { "Sunday, 06-Nov-94 08:49:37 GMT", 784111777 },
    { "Sun Nov  6 08:49:37 1994", 784111777 },         { "Mon, 21 Sep 2026 14:13:20 GMT", NOW },
    { "Monday, 21-Sep-26 14:13:20 GMT", NOW },         { "Mon Sep 21 14:13:20 2026", NOW },
    { "Thu, 01 Jan 1970 00:00:00 GMT", 0 },            { "Thursday, 01-Jan-70 00:00:00 GMT", 0 },
    { "Tue, 29 Feb 2000 00:00:00 GMT", 951782400 },    { "Thu, 29 Feb 2024 23:59:60 GMT", 1709251200 },
    { "Fri, 31 Dec 9999 23:59:59 GMT", 253402300799 }, { "mon, 21 sep 2026 14:13:20 gmt", NOW },
  };
  check_parser(hint_parse_date, cases, COUNT(cases));
}

static void refuses_what_is_no_date(void **state) {
  (void)state;
  static const struct parse_case cases[] = {
    { "", -1 },
    { "20", -1 },
    { "Sun, 06 Nov 1994 08:49:37", -1 },
    { "Sun, 06 Nov 1994 08:49:37 CET", -1 },
    { "Sun, 06 Nov 1994 08:49:37 GMTx", -1 },
    { "Sun, 6 Nov 1994 08:49:37 GMT", -1 },
    { "Xxx, 06 Nov 1994 08:49:37 GMT", -1 },
    { "Sun, 06 Xxx 1994 08:49:37 GMT", -1 },
    { "Sun, 00 Nov 1994 08:49:37 GMT", -1 },
    { "Thu, 31 Nov 1994 08:49:37 GMT", -1 },
    { "Wed, 29 Feb 2023 08:49:37 GMT", -1 },
    { "Thu, 29 Feb 1900 08:49:37 GMT", -1 },
    { "Sun, 06 Nov 1994 24:00:00 GMT", -1 },
    { "Sun, 06 Nov 1994 08:60:37 GMT", -1 },
    { "Sun, 06 Nov 1994 08:49:61 GMT", -1 },
    { "Wed, 31 Dec 1969 23:59:59 GMT", -1 },
    { "Sun Nov 6 08:49:37 1994", -1 },
    { "Sunday, 06 Nov 1994 08:49:37 GMT", -1 },
    { "Sun, 06-Nov-94 08:49:37 GMT", -1 },
  };
  check_parser(hint_parse_date, cases, COUNT(cases));
}

static void reads_rfc3339(void **state) {
  (void)state;
  static const struct parse_case cases[] = {
    { "2026-09-21T14:13:20Z", NOW },           { "2026-09-21t14:13:20z", NOW },
    { "2026-09-21 14:13:20Z", NOW },           { "2026-09-21T14:13:20.25Z", NOW + 0.25 },
    { "2026-09-21T16:13:20+02:00", NOW },      { "2026-09-21T08:43:20-05:30", NOW },
    { "2026-09-21T14:13:20.123456789123456789+00:00", NOW + 0.123456789 },
    { "2025-08-21T12:40:59Z", 1755780059 },    { "2000-02-29T00:00:00Z", 951782400 },
    { "", -1 },                                { "2026-09-21", -1 },
    { "2026-09-21T14:13:20", -1 },             { "2026-09-21T14:13:20.Z", -1 },
    { "2026-09-21T14:13Z", -1 },               { "2026-13-21T14:13:20Z", -1 },
    { "2026-00-21T14:13:20Z", -1 },            { "2026-02-30T14:13:20Z", -1 },
    { "2026-09-21T14:13:20+0200", -1 },        { "2026-09-21T14:13:20+24:00", -1 },
    { "2026-09-21T14:13:20Z ago", -1 },        { "26-09-21T14:13:20Z", -1 },
    { "1969-12-31T23:59:59Z", -1 },            { "1970-01-01T00:00:00+01:00", -1 },
    { "-026-09-21T14:13:20Z", -1 },            { "2026-9-21T14:13:20Z", -1 },
  };
  check_parser(hint_parse_rfc3339, cases, COUNT(cases));
}

/* ---- whole sets of headers, "name: value" a line ---- */

static double hint_of(const char *lines) {
  struct header list[32];
  size_t count = 0;
  for (const char *at = lines; *at && count < COUNT(list);) {
    size_t n = strcspn(at, "\n"), colon = strcspn(at, ":");
    list[count].name = (struct span){ at, colon };
    list[count++].value = span_trim((struct span){ at + colon + 1, n - colon - 1 });
    at += n + (at[n] == '\n');
  }
  return hint_retry_after((struct headers){ list, count }, NOW);
}

struct header_case {
  const char *lines;
  double wanted;
};

static void check_headers(const struct header_case *cases, size_t count) {
  for (size_t i = 0; i < count; i++) {
    double got = hint_of(cases[i].lines);
    if (fabs(got - cases[i].wanted) > 1e-6) fail_msg("%s: %f wanted, got %f", cases[i].lines, cases[i].wanted, got);
  }
}

static void reads_explicit_hints(void **state) {
  (void)state;
  static const struct header_case cases[] = {
    { "", -1 },
    { "content-type: text/html", -1 },
    { "retry-after: 20", 20 },
    { "Retry-After: 1.5", 1.5 },
    { "retry-after: 0", 0 },
    { "retry-after: Mon, 21 Sep 2026 14:13:37 GMT", 17 },
    { "retry-after: Mon Sep 21 14:13:37 2026", 17 },
    { "retry-after: Sun, 06 Nov 1994 08:49:37 GMT", 0 },
    { "retry-after-ms: 12.5", 0.0125 },
    { "x-ms-retry-after-ms: 6000", 6 },
    { "retry-after: 6\nretry-after-ms: 5500", 5.5 },
    { "retry-after: 6\nx-ms-retry-after-ms: 5500", 5.5 },
    { "x-ms-retry-after-ms: 1\nretry-after-ms: 5500", 5.5 },
    { "retry-after: 6\nretry-after-ms: -1", 6 },
    { "retry-after: 6\nretry-after-ms: soon\nx-ms-retry-after-ms: nan", 6 },
    { "retry-after: later\nretry-after: 9", 9 },
    { "retry-after: 99999999", YEAR },
    { "retry-after: Fri, 31 Dec 9999 23:59:59 GMT", YEAR },
    { "retry-after: 99999999999999999999", -1 },
    { "retry-after: 1e400", -1 },
    { "retry-after: inf", -1 },
    { "retry-after: NaN", -1 },
    { "retry-after: -1", -1 },
    { "retry-after: 5 seconds", -1 },
    { "retry-after: 2026-09-21T14:13:37Z", -1 },
    { "retry-after:", -1 },
    { "retry-after: 20\nx-ratelimit-remaining-tokens: 0\nx-ratelimit-reset-tokens: 6m0s", 20 },
    { "retry-after: 0\nx-ratelimit-remaining-tokens: 0\nx-ratelimit-reset-tokens: 6m0s", 0 },
    { "retry-after: -1\nx-ratelimit-remaining-tokens: 0\nx-ratelimit-reset-tokens: 6m0s", 360 },
  };
  check_headers(cases, COUNT(cases));
}

static void counts_only_limits_that_are_used_up(void **state) {
  (void)state;
  static const struct header_case cases[] = {
    { "x-ratelimit-reset-requests: 20s", 20 },
    { "x-ratelimit-reset-requests: 20", 20 },
    { "x-ratelimit-reset-requests: 12ms\nx-ratelimit-remaining-requests: 0", 0.012 },
    { "x-ratelimit-reset-requests: 20s\nx-ratelimit-remaining-requests: 1", -1 },
    { "x-ratelimit-reset-requests: 20s\nx-ratelimit-remaining-requests: -1", -1 },
    { "x-ratelimit-reset-requests: 20s\nx-ratelimit-remaining-requests: ?", -1 },
    { "x-ratelimit-reset-requests: -1\nx-ratelimit-remaining-requests: 0", -1 },
    { "x-ratelimit-reset-requests: 20s\nx-ratelimit-remaining-requests: 0\nx-ratelimit-reset-tokens: 6m0s\n"
      "x-ratelimit-remaining-tokens: 29970", 20 },
    { "x-ratelimit-reset-requests: 20s\nx-ratelimit-remaining-requests: 0\nx-ratelimit-reset-tokens: 6m0s\n"
      "x-ratelimit-remaining-tokens: 0", 360 },
    { "x-ratelimit-reset-requests: 6m0s\nx-ratelimit-remaining-tokens: 5", 360 },
    { "X-RateLimit-Reset-Tokens_Usage_Based: 1m\nx-ratelimit-remaining-tokens_usage_based: 0\n"
      "x-ratelimit-reset-tokens: 2m\nx-ratelimit-remaining-tokens: 7", 60 },
    { "x-ratelimit-reset-tokens_usage_based: 1m\nx-ratelimit-remaining-tokens_usage_based: 3\n"
      "x-ratelimit-remaining-tokens: 0", -1 },
    { "x-ratelimit-reset: 30\nx-ratelimit-remaining: 0", 30 },
    { "x-ratelimit-reset-tokens: 99999h", YEAR },
    { "x-ratelimit-limit-tokens: 5\nx-ratelimit-remaining-tokens: 0", -1 },
  };
  check_headers(cases, COUNT(cases));
}

static void reads_moments_where_durations_belong(void **state) {
  (void)state;
  static const struct header_case cases[] = {
    { "x-ratelimit-reset: 1790000030", 30 },
    { "x-ratelimit-reset: 1790000030500", 30.5 },
    { "x-ratelimit-reset: 1690000000", 0 },
    { "x-ratelimit-reset-tokens: 2026-09-21T14:13:37Z", 17 },
  };
  check_headers(cases, COUNT(cases));
}

static void reads_the_anthropic_limits(void **state) {
  (void)state;
  static const struct header_case cases[] = {
    { "anthropic-ratelimit-requests-remaining: 0\nanthropic-ratelimit-requests-reset: 2026-09-21T14:13:37Z", 17 },
    { "anthropic-ratelimit-requests-remaining: 1\nanthropic-ratelimit-requests-reset: 2026-09-21T14:13:37Z", -1 },
    { "anthropic-ratelimit-input-tokens-remaining: 0\nanthropic-ratelimit-input-tokens-reset: 2026-09-21T14:14:20Z\n"
      "anthropic-ratelimit-tokens-remaining: 0\nanthropic-ratelimit-tokens-reset: 2026-09-21T14:13:50Z\n"
      "anthropic-ratelimit-output-tokens-remaining: 9\nanthropic-ratelimit-output-tokens-reset: 2026-09-22T14:13:50Z", 60 },
    { "anthropic-ratelimit-tokens-reset: 2026-09-21T13:00:00Z", 0 },
    { "anthropic-ratelimit-tokens-reset: soon", -1 },
    { "anthropic-ratelimit-unified-reset: 1790000090", 90 },
    { "anthropic-ratelimit-unified-status: rejected\nanthropic-ratelimit-unified-reset: 1790000090", 90 },
    { "anthropic-ratelimit-unified-5h-status: allowed\nanthropic-ratelimit-unified-5h-reset: 1790009000\n"
      "anthropic-ratelimit-unified-7d-status: rejected\nanthropic-ratelimit-unified-7d-reset: 1790000090", 90 },
    { "anthropic-ratelimit-reset: 1790000090", -1 },
  };
  check_headers(cases, COUNT(cases));
}

static void names_the_headers_that_stay_behind(void **state) {
  (void)state;
  static const char *const limits[] = { "retry-after", "Retry-After-Ms", "x-ms-retry-after-ms", "x-ratelimit-limit-tokens",
                                        "X-RateLimit-Reset-Tokens_usage_based", "anthropic-ratelimit-unified-status",
                                        "ratelimit-policy", "RateLimit", "x-should-retry" };
  static const char *const others[] = { "", "content-type", "x-request-id", "retry-afterwards", "x-ratelimi", "request-id" };
  for (size_t i = 0; i < COUNT(limits); i++) assert_true(hint_is_limit_header(span_of(limits[i])));
  for (size_t i = 0; i < COUNT(others); i++) assert_false(hint_is_limit_header(span_of(others[i])));
  assert_false(hint_is_limit_header(SPAN_NONE));
}

/* ---- bytes nobody meant ---- */

static uint32_t next_random(uint32_t *seed) {
  *seed = *seed * 1664525u + 1013904223u;
  return *seed >> 8;
}

/* One of the samples with a few bytes changed, cut or doubled, in memory of exactly its size. */
static char *mutate(struct span sample, uint32_t *seed, size_t *n) {
  static const char spice[] = "0123456789.:,-+ TZGMTsmhnifae\0\xff\xc2\xb5";
  char *text = malloc(sample.n + 1);
  *n = sample.n;
  memcpy(text, sample.p, sample.n);
  for (unsigned changes = next_random(seed) % 4; changes > 0 && *n > 0; changes--)
    text[next_random(seed) % *n] = spice[next_random(seed) % (sizeof spice - 1)];
  if (next_random(seed) % 3 == 0) *n = next_random(seed) % (*n + 1);
  char *exact = malloc(*n ? *n : 1);
  memcpy(exact, text, *n);
  free(text);
  return exact;
}

static void survives_any_bytes(void **state) {
  (void)state;
  static const char *const samples[] = { "Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT",
                                         "Sun Nov  6 08:49:37 1994", "2026-09-21T16:13:20.5+02:00", "1h2m3.5s", "20",
                                         "1790000000", "500\xc2\xb5s", "" };
  static const char *const names[] = { "retry-after", "retry-after-ms", "x-ratelimit-reset-t", "x-ratelimit-remaining-t",
                                       "anthropic-ratelimit-t-reset", "anthropic-ratelimit-t-remaining" };
  uint32_t seed = 20261120;
  for (int round = 0; round < 40000; round++) {
    size_t n, name_n;
    char *text = mutate(span_of(samples[next_random(&seed) % COUNT(samples)]), &seed, &n);
    char *name = mutate(span_of(names[next_random(&seed) % COUNT(names)]), &seed, &name_n);
    struct span value = { text, n };
    double durations[] = { hint_parse_duration(value), hint_parse_date(value), hint_parse_rfc3339(value) };
    for (size_t i = 0; i < COUNT(durations); i++) assert_true(isfinite(durations[i]) && (durations[i] >= 0 || durations[i] == -1));
    struct header list[] = { { { name, name_n }, value }, { span_of(names[next_random(&seed) % COUNT(names)]), value } };
    double wait = hint_retry_after((struct headers){ list, 2 }, NOW);
    assert_true(wait == -1 || (wait >= 0 && wait <= YEAR));
    (void)hint_is_limit_header(list[0].name);
    free(text);
    free(name);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
    TEST("durations: Go-ish, bare seconds, fractions", reads_durations),
    TEST("durations: signs, exponents, nan, overflow and garbage are none", refuses_what_is_no_duration),
    TEST("HTTP-date: all three forms", reads_dates_in_all_three_forms),
    TEST("HTTP-date: days and times that do not exist are none", refuses_what_is_no_date),
    TEST("RFC 3339: fractions and offsets", reads_rfc3339),
    TEST("explicit hints: milliseconds first, invalid ones as if absent, at most a year", reads_explicit_hints),
    TEST("resets: only of limits that are used up, the longest, matched by suffix", counts_only_limits_that_are_used_up),
    TEST("resets: a moment instead of a duration", reads_moments_where_durations_belong),
    TEST("resets: Anthropic's, and its unified ones", reads_the_anthropic_limits),
    TEST("limit headers of a failed provider are known", names_the_headers_that_stay_behind),
    TEST("any bytes: no crash, no time out of range", survives_any_bytes),
  };
  return cmocka_run_group_tests_name("hint", tests, NULL, NULL);
}
