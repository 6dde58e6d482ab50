/*
 * Which request gets which answer. One table names every endpoint; adding one is a line in it and a handler. Who may
 * ask is decided here, on the head, before a byte of body is kept, in this order:
 *
 *   1. no token configured: one Host, a loopback name or an address, and an Origin only if it is that Host. A web page
 *      whose name was made to resolve to us (DNS rebinding) shows that name in Host; one that posts across origins
 *      shows itself in Origin.
 *   2. under /api/ the token, also for paths that do not exist: who has none learns nothing.
 *   3. the path (404), the method (405), the type of what is written (415), its length (413).
 *
 * The token is compared in a time that depends on what was sent alone, and appears in no answer and no log.
 */
#include "admin/endpoint.h"

#include <stdarg.h>
#include <stdio.h>

#include "base/json.h"
#include "core/origin.h"

enum access { OPEN, TOKEN };

struct endpoint {
  const char *method;  /* HEAD is answered where GET is */
  const char *pattern; /* ends with a star: takes the rest of the path, which is not empty */
  void (*answer)(struct admin_request *request, struct admin_answer *answer);
  enum access access;
};

static void health_get(struct admin_request *request, struct admin_answer *answer);
static void ready_get(struct admin_request *request, struct admin_answer *answer);
static void status_get(struct admin_request *request, struct admin_answer *answer);

static const struct endpoint endpoints[] = {
  { "GET", "/healthz", health_get, OPEN },
  { "GET", "/readyz", ready_get, OPEN },
  { "GET", "/metrics", metrics_get, OPEN },
  { "GET", "/api/status", status_get, TOKEN },
  { "GET", "/api/benches", benches_get, TOKEN },
  { "PUT", "/api/benches/*", benches_put, TOKEN },
  { "DELETE", "/api/benches/*", benches_delete, TOKEN },
};
enum { ENDPOINTS = sizeof endpoints / sizeof endpoints[0] };

void endpoint_refuse(struct admin_answer *answer, unsigned status, const char *format, ...) {
  char message[256];
  va_list args;
  va_start(args, format);
  vsnprintf(message, sizeof message, format, args);
  va_end(args);
  answer->status = status;
  answer->type = "application/json";
  buf_clear(&answer->body);
  buf_puts(&answer->body, "{\"error\":{\"message\":");
  json_put_string(&answer->body, span_of(message));
  buf_puts(&answer->body, "}}\n");
}

/* ---- the small endpoints ---- */

static void put_text(struct admin_answer *answer, unsigned status, const char *text) {
  answer->status = status;
  answer->type = "text/plain; charset=utf-8";
  buf_puts(&answer->body, text);
}

static void health_get(struct admin_request *request, struct admin_answer *answer) {
  (void)request;
  put_text(answer, 200, "ok\n");
}

static void ready_get(struct admin_request *request, struct admin_answer *answer) {
  const struct admin_options *o = request->options;
  bool draining = o->draining && o->draining(o->context);
  put_text(answer, draining ? 503 : 200, draining ? "draining\n" : "ready\n");
}

static void status_get(struct admin_request *request, struct admin_answer *answer) {
  const struct admin_options *o = request->options;
  struct buf *out = &answer->body;
  buf_puts(out, "{");
  json_put_key(out, "version");
  json_put_string(out, span_of(o->version ? o->version : ""));
  json_put_key(out, "uptime");
  buf_printf(out, "%.3f", clock_now() - request->started);
  if (o->status) {
    size_t before = out->n;
    buf_puts(out, ",");
    o->status(o->context, out);
    if (out->n == before + 1) out->n = before; /* it had nothing to say */
  }
  buf_puts(out, "}\n");
}

/* ---- no web page drives a local proxy ---- */

static bool check_origin(const struct admin_request *r, struct admin_answer *answer) {
  if (r->options->token) return true;
  if (r->hosts != 1) {
    endpoint_refuse(answer, 400, "exactly one Host header is needed");
    return false;
  }
  if (!origin_host_is_local(r->host)) {
    endpoint_refuse(answer, 403, "without an admin token, Host must be a loopback name or an address");
    return false;
  }
  if (r->origin.p && !origin_is_own(r->origin, r->host)) {
    endpoint_refuse(answer, 403, "without an admin token, requests from other origins are refused");
    return false;
  }
  return true;
}

/* ---- the token ---- */

/* Looks at every byte of `given` and at nothing beyond it that would tell how much was right. `token` is not empty. */
static bool is_token(struct span given, const char *token) {
  size_t n = strlen(token);
  size_t differs = given.n ^ n;
  for (size_t i = 0; i < given.n; i++) differs |= (size_t)((unsigned char)given.p[i] ^ (unsigned char)token[i % n]);
  return differs == 0;
}

static bool check_token(const struct admin_request *r, struct admin_answer *answer) {
  if (!r->options->token) return true;
  struct span scheme = r->authorization, given = SPAN_NONE;
  const char *blank = scheme.p ? memchr(scheme.p, ' ', scheme.n) : NULL;
  if (blank) {
    scheme.n = (size_t)(blank - scheme.p);
    given = span_trim(span_skip(r->authorization, scheme.n));
  }
  if (span_is_nocase(scheme, "Bearer") && is_token(given, r->options->token)) return true;
  endpoint_refuse(answer, 401, r->authorization.p ? "the admin token is wrong" : "the admin token is missing");
  answer->header = "WWW-Authenticate";
  answer->value = "Bearer";
  return false;
}

/* ---- path and method ---- */

static bool is_method(const struct endpoint *endpoint, struct span method) {
  return span_is(method, endpoint->method) || (span_is(method, "HEAD") && strcmp(endpoint->method, "GET") == 0);
}

/* The part that a trailing star took is `rest`, still encoded. */
static bool is_path(const struct endpoint *endpoint, struct span path, struct span *rest) {
  size_t n = strlen(endpoint->pattern);
  *rest = SPAN_NONE;
  if (endpoint->pattern[n - 1] != '*') return span_is(path, endpoint->pattern);
  if (path.n < n || memcmp(path.p, endpoint->pattern, n - 1) != 0) return false;
  *rest = span_skip(path, n - 1);
  return true;
}

static void refuse_method(struct admin_request *r, struct admin_answer *answer) {
  struct buf allow = { 0 };
  struct span rest;
  for (size_t i = 0; i < ENDPOINTS; i++) {
    if (!is_path(&endpoints[i], r->path, &rest)) continue;
    buf_printf(&allow, "%s%s", allow.n ? ", " : "", endpoints[i].method);
    if (strcmp(endpoints[i].method, "GET") == 0) buf_puts(&allow, ", HEAD");
  }
  endpoint_refuse(answer, 405, "this path takes %.*s", (int)allow.n, allow.p ? allow.p : "");
  answer->value = arena_copy(&r->arena, buf_span(&allow));
  answer->header = answer->value ? "Allow" : NULL;
  buf_free(&allow);
}

static bool find_endpoint(struct admin_request *r, struct admin_answer *answer) {
  bool known = false;
  for (size_t i = 0; i < ENDPOINTS; i++) {
    struct span rest;
    if (!is_path(&endpoints[i], r->path, &rest)) continue;
    known = true;
    if (!is_method(&endpoints[i], r->method)) continue;
    r->endpoint = &endpoints[i];
    r->rest = rest;
    return true;
  }
  if (known)
    refuse_method(r, answer);
  else
    endpoint_refuse(answer, 404, "no such path");
  return false;
}

static int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if ((c | 0x20) >= 'a' && (c | 0x20) <= 'f') return (c | 0x20) - 'a' + 10;
  return -1;
}

/* Undoes %XX, into the request's arena. */
static bool decode_rest(struct admin_request *r, struct admin_answer *answer) {
  if (!r->rest.p) return true;
  char *to = arena_copy(&r->arena, r->rest);
  size_t n = 0;
  for (size_t i = 0; to && i < r->rest.n; i++, n++) {
    to[n] = r->rest.p[i];
    if (to[n] != '%') continue;
    int high = i + 2 < r->rest.n ? hex_digit(r->rest.p[i + 1]) : -1, low = high < 0 ? -1 : hex_digit(r->rest.p[i + 2]);
    if (low < 0) {
      endpoint_refuse(answer, 400, "the path is not URL-encoded: %% without two hex digits");
      return false;
    }
    to[n] = (char)(high * 16 + low);
    i += 2;
  }
  if (!to) endpoint_refuse(answer, 503, "out of memory");
  r->rest = (struct span){ to, n };
  return to != NULL;
}

/* ---- what is written ---- */

/* A POST without this type could come from a plain HTML form. A DELETE could not; without a body it needs no type. */
static bool check_type(const struct admin_request *r, struct admin_answer *answer) {
  if (strcmp(r->endpoint->method, "GET") == 0) return true;
  if (strcmp(r->endpoint->method, "DELETE") == 0 && !r->has_body) return true;
  struct span type = r->content_type;
  const char *parameters = type.p ? memchr(type.p, ';', type.n) : NULL;
  if (parameters) type.n = (size_t)(parameters - type.p);
  if (span_is_nocase(span_trim(type), "application/json")) return true;
  endpoint_refuse(answer, 415, "Content-Type must be application/json");
  return false;
}

static bool check_length(const struct admin_request *r, struct admin_answer *answer) {
  if (r->declared <= ADMIN_BODY) return true;
  endpoint_refuse(answer, 413, "the body is over its limit of %d bytes", ADMIN_BODY);
  return false;
}

bool endpoint_check(struct admin_request *r, struct admin_answer *answer) {
  answer->status = 200;
  answer->type = "application/json";
  if (!check_origin(r, answer)) return false;
  bool found = find_endpoint(r, answer);
  bool guarded = found ? r->endpoint->access == TOKEN : span_starts(r->path, "/api/");
  if (guarded && !check_token(r, answer)) return false; /* whatever find_endpoint refused: this says less */
  return found && check_type(r, answer) && check_length(r, answer) && decode_rest(r, answer);
}

void endpoint_answer(struct admin_request *r, struct admin_answer *answer) {
  r->endpoint->answer(r, answer);
}
