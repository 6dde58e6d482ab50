/*
 * When to come back, read from an answer's headers: retry-after-ms, x-ms-retry-after-ms, retry-after (seconds, float or
 * HTTP-date), and the resets of exhausted limits: x-ratelimit-reset-* (durations `1s`, `6m0s`, `12ms`, or bare seconds),
 * anthropic-ratelimit-*-reset (RFC 3339), anthropic-ratelimit-unified-reset (Unix seconds). A limit's reset counts only when
 * its `remaining` is 0 or absent (negative: unknown, does not count). A value that is no time is ignored.
 */
#pragma once

#include "base/clock.h"
#include "core/request.h"

/* Seconds from `now` (Unix time), never negative; -1 when the headers say nothing. An explicit retry-after (of any kind) beats the resets;
 * of several exhausted limits the longest counts. At most one year. */
seconds hint_retry_after(struct headers headers, seconds now);

/* The parsers, for tests. -1 when it is no such thing. */
seconds hint_parse_duration(struct span text);       /* "6m0s", "12ms", "1h2m3s", "20" */
seconds hint_parse_date(struct span text);           /* HTTP-date, all three forms -> Unix time */
seconds hint_parse_rfc3339(struct span text);        /* -> Unix time */

/* Is it a header of the failed provider that must not reach the client: rate limits and retry hints. */
bool hint_is_limit_header(struct span name);
