/*
 * What is sent: bullpen's own errors, a committed answer's head, an upstream's own error in the route's shape, and the frame that ends a broken
 * stream. Every answer carries the x-bullpen headers. Bodies live in the exchange's arena or in its relay.
 */
#include <stdio.h>
#include <stdlib.h>

#include "core/hint.h"
#include "proxy/exchange_state.h"
#include "proxy/headers.h"

#define RETRY_AFTER_MOST 60 /* seconds that are passed on from an upstream */

#define NO_MEMORY "{\"error\":{\"message\":\"Out of memory.\",\"type\":\"server_error\",\"param\":null,\"code\":\"overloaded\"}}"

enum { OWN_HEADERS = 12 };

static void put_header(struct reply *r, const char *name, const char *value) {
  if (value && *value) r->headers[r->count++] = (struct header){ span_of(name), span_of(value) };
}

/* The status of an answer, else the outcome's name. */
static void put_attempt(struct buf *out, const struct attempt *a) {
  bool answered = a->outcome == OUTCOME_NONE || a->outcome == OUTCOME_OK || a->outcome == OUTCOME_STATUS;
  if (out->n) buf_puts(out, ", ");
  if (answered && a->status)
    buf_printf(out, "%s=%d", a->candidate->name, a->status);
  else
    buf_printf(out, "%s=%s", a->candidate->name, outcome_name(a->outcome));
}

const char *answer_trail(struct exchange *ex) {
  struct buf text = { 0 };
  size_t count = 0;
  const struct attempt *const *attempts = ex->failover ? failover_attempts(ex->failover, &count) : NULL;
  for (size_t i = 0; i < count; i++) put_attempt(&text, attempts[i]);
  const char *copy = buf_ok(&text) ? arena_copy(&ex->arena, buf_span(&text)) : NULL;
  buf_free(&text);
  return copy;
}

/* `served`: the candidate whose answer it is, or NULL. */
static void put_own_headers(struct exchange *ex, const char *served) {
  struct reply *r = &ex->reply;
  size_t attempts = 0;
  if (ex->failover) failover_attempts(ex->failover, &attempts);
  struct policy *policy = worker_policy(ex->worker, ex->resolution.policy);
  put_header(r, "x-bullpen-request-id", ex->request.id);
  put_header(r, "x-bullpen-candidate", served);
  put_header(r, "x-bullpen-attempts", arena_printf(&ex->arena, "%zu", attempts));
  put_header(r, "x-bullpen-policy", policy_version(policy));
  put_header(r, "x-bullpen-trail", answer_trail(ex));
}

static bool begin_reply(struct exchange *ex, int status) {
  struct reply *r = &ex->reply;
  if (!r->headers) r->headers = ARENA_ARRAY(&ex->arena, struct header, OWN_HEADERS);
  if (!r->headers) return false;
  r->status = status;
  ex->last_taken = loop_now(ex->worker->loop);
  return true;
}

/* The reply's body is `body`, whole; the relay ends with it. */
static void whole_body(struct exchange *ex, struct buf *body) {
  struct reply *r = &ex->reply;
  const char *copy = buf_ok(body) ? arena_copy(&ex->arena, buf_span(body)) : NULL;
  r->whole = copy ? (struct span){ copy, body->n } : SPAN(NO_MEMORY);
  if (!copy && r->status < 400) r->status = 503; /* never an empty success */
  r->length = r->whole.n;
  ex->relay.total = r->whole.n;
  ex->relay.end = RELAY_ENDED;
  buf_free(body);
}

void answer_error(struct exchange *ex, const struct error_text *error, unsigned retry_after, bool no_retry, bool close) {
  struct buf body = { 0 };
  if (!begin_reply(ex, error->status)) return;
  dialect_put_error(&body, exchange_messages_shape(ex), error);
  put_header(&ex->reply, "content-type", "application/json");
  put_own_headers(ex, NULL);
  if (retry_after) put_header(&ex->reply, "retry-after", arena_printf(&ex->arena, "%u", retry_after));
  if (no_retry) put_header(&ex->reply, "x-should-retry", "false");
  if (error->status == 405) put_header(&ex->reply, "allow", ex->request.route == ROUTE_NONE ? "GET, HEAD" : "POST");
  if (error->status == 401) put_header(&ex->reply, "www-authenticate", "Bearer");
  ex->reply.close = close;
  whole_body(ex, &body);
}

void answer_json(struct exchange *ex, struct buf *body) {
  if (!begin_reply(ex, 200)) return;
  put_header(&ex->reply, "content-type", "application/json");
  put_own_headers(ex, NULL);
  whole_body(ex, body);
}

/* An upstream's head, less what is not the client's business, and our headers. */
static bool upstream_head(struct exchange *ex, const struct attempt *a) {
  struct reply *r = &ex->reply;
  if (!headers_to_client(&ex->arena, a->headers, OWN_HEADERS, &r->headers, &r->count) || !begin_reply(ex, a->status)) return false;
  put_own_headers(ex, a->candidate->name);
  return true;
}

static uint64_t length_of(struct headers headers) {
  struct span text = headers_get(headers, "content-length");
  uint64_t n = 0;
  if (!text.n || text.n > 18 || headers_get(headers, "transfer-encoding").p) return REPLY_LENGTH_UNKNOWN;
  for (size_t i = 0; i < text.n; i++) {
    if (text.p[i] < '0' || text.p[i] > '9') return REPLY_LENGTH_UNKNOWN;
    n = n * 10 + (uint64_t)(text.p[i] - '0');
  }
  return n;
}

static void replace_header(struct reply *r, const char *name, const char *value) {
  size_t kept = 0;
  for (size_t i = 0; i < r->count; i++)
    if (!span_is_nocase(r->headers[i].name, name)) r->headers[kept++] = r->headers[i];
  r->count = kept;
  put_header(r, name, value);
}

/* Official clients sleep as long as they are told to: a passed retry-after over a minute is sent as a minute. */
static void clamp_retry_after(struct exchange *ex) {
  struct headers list = { ex->reply.headers, ex->reply.count };
  struct span value = headers_get(list, "retry-after");
  char *end = NULL;
  char *copy = value.n ? arena_copy(&ex->arena, value) : NULL;
  double wait = copy ? strtod(copy, &end) : 0;
  if (copy && *end) wait = hint_parse_date(value) - loop_now(ex->worker->loop); /* a date */
  if (wait > RETRY_AFTER_MOST) replace_header(&ex->reply, "retry-after", "60");
}

void answer_commit(struct exchange *ex, struct attempt *a) {
  if (!upstream_head(ex, a)) return;
  if (a->status >= 300 && !a->candidate->passthrough) clamp_retry_after(ex);
  ex->reply.length = ex->request.stream && ex->relay.kind == RELAY_STREAM ? REPLY_LENGTH_UNKNOWN : length_of(a->headers);
}

static bool begins_as_object(struct span body) {
  body = span_trim(body);
  return body.n && body.p[0] == '{';
}

/* Must it be put into the route's shape? Not what is in it already, what we cannot read, or what was promised as it is. */
static bool must_rewrite(const struct exchange *ex, const struct attempt *a) {
  if (a->candidate->passthrough || ex->request.route == ROUTE_NONE || headers_get(a->headers, "content-encoding").n) return false;
  if (!a->body_whole) return !begins_as_object(a->body);
  return !dialect_has_shape(exchange_messages_shape(ex), a->body);
}

static void rewritten(struct exchange *ex, const struct attempt *a) {
  struct buf body = { 0 };
  dialect_rewrite_error(&body, exchange_messages_shape(ex), a->status, a->body, ex->request.id);
  replace_header(&ex->reply, "content-type", "application/json");
  whole_body(ex, &body);
  if (!ex->run.transfer || ex->run.attempt != a) return;
  upstream_end(&ex->run.transfer); /* what it still has to say is not needed */
  failover_ended(ex->failover, OUTCOME_OK, NULL, NULL, loop_now(ex->worker->loop));
}

void answer_upstream_error(struct exchange *ex, struct attempt *a, bool kept) {
  if (!upstream_head(ex, a)) return;
  clamp_retry_after(ex);
  ex->run.delivering = true;
  if (must_rewrite(ex, a) || (kept && !a->body_whole)) {
    rewritten(ex, a);
    return;
  }
  relay_reset(&ex->relay);
  ex->relay.kind = RELAY_RAW;
  ex->relay.committed = true;
  relay_feed(&ex->relay, a->body.p, a->body.n, NULL, NULL);
  ex->reply.length = a->body_whole ? a->body.n : length_of(a->headers);
  if (kept) relay_close(&ex->relay);
}

void answer_break(struct exchange *ex, bool quiet) {
  struct buf frame = { 0 };
  bool stream = ex->relay.kind == RELAY_STREAM && !quiet;
  if (stream)
    dialect_put_frame(&frame, ex->request.route, span_of("The upstream failed in the middle of its answer."), ex->request.id, ex->relay.sequence);
  relay_break(&ex->relay, buf_span(&frame));
  buf_free(&frame);
}
