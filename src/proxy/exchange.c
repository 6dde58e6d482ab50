/*
 * The steps of a request (exchange_state.h names them). Each step returns whether the next one may run at once; waiting steps return WAIT and
 * are run again by what they wait for.
 *
 *   CHECK -> ROUTE -> BODY ... complete -> READ -> RESOLVE -> FAILOVER ... -> ANSWER
 *      \________\________\_________________\________\____ refused: DISCARD ... -> ANSWER
 *
 * Ownership: an exchange belongs to its connection's request; the front frees it when the library says that the request is over, however
 * that came. Everything it made lives in its arena, but for buffers that grow.
 */
#include "proxy/exchange.h"

#include <stdio.h>
#include <stdlib.h>

#include "core/origin.h"
#include "proxy/exchange_state.h"
#include "proxy/front.h"
#include "proxy/guard.h"
#include "proxy/headers.h"
#include "proxy/ids.h"

#define DISCARD_BYTES ((size_t)64 * 1024 * 1024) /* of a refused request's body */
#define DISCARD_SECONDS 5.0

enum go { GO, WAIT };

/* ---- refusals ---- */

static enum go refuse_with(struct exchange *ex, enum refusal refusal, const char *message, unsigned retry_after) {
  struct error_text error = { .status = refusal_status(refusal), .message = span_of(message), .request_id = ex->request.id };
  dialect_refusal(refusal, exchange_messages_shape(ex), &error);
  bool framing = refusal == REFUSAL_BAD_FRAMING || refusal == REFUSAL_BAD_CODING;
  bool draining = refusal == REFUSAL_OVERLOADED && atomic_load(&ex->worker->proxy->draining);
  answer_error(ex, &error, retry_after, false, framing || draining || refusal == REFUSAL_BODY_TIMEOUT);
  tell_refused(ex, OUTCOME_NONE, error.status);
  atomic_fetch_sub(&ex->worker->proxy->bodies, ex->in.reserved);
  ex->in.reserved = 0;
  buf_free(&ex->in.body);
  bool more_to_come = ex->step <= STEP_BODY && (ex->in.chunked || ex->in.length > 0);
  bool at_once = framing || ex->in.expects || !more_to_come;
  ex->step = at_once ? STEP_ANSWER : STEP_DISCARD;
  if (!at_once) loop_arm(ex->worker->loop, &ex->timer, loop_now(ex->worker->loop) + DISCARD_SECONDS);
  return GO;
}

static enum go refuse(struct exchange *ex, enum refusal refusal, const char *message) {
  return refuse_with(ex, refusal, message, 0);
}

/* ---- CHECK ---- */

/* Without client keys anybody who reaches the port may ask: web pages must not (contract section 8, last paragraph). */
static bool foreign_page(const struct exchange *ex) {
  struct span host = headers_get(ex->in.headers, "host"), origin = headers_get(ex->in.headers, "origin");
  if (ex->config->client_count) return false;
  if (host.n && !origin_host_is_local(host)) return true;
  return origin.p && !origin_is_own(origin, host);
}

static enum go step_check(struct exchange *ex) {
  const char *why = "the fields of the request are not separated by CRLF alone";
  struct guard_request request = { span_of(ex->in.version), span_of(ex->in.target), ex->in.headers };
  enum guard_verdict verdict = guard_check(&request, &why);
  if (verdict == GUARD_GOOD && !ex->in.sound) verdict = GUARD_BAD, why = "a NUL, a folded header or a bare LF in the head";
  if (verdict == GUARD_UNKNOWN_CODING) return refuse(ex, REFUSAL_BAD_CODING, "Unknown transfer coding.");
  if (verdict == GUARD_BAD) return refuse(ex, REFUSAL_BAD_FRAMING, arena_printf(&ex->arena, "Bad request framing: %s.", why));
  if (foreign_page(ex)) return refuse(ex, REFUSAL_FORBIDDEN_ORIGIN, "Requests from other origins are not accepted.");
  ex->step = STEP_ROUTE;
  return GO;
}

/* ---- ROUTE ---- */

static bool is_get(const struct exchange *ex) {
  return strcmp(ex->in.method, "GET") == 0 || strcmp(ex->in.method, "HEAD") == 0;
}

static bool is_models_path(struct span path) {
  return span_is(path, "/v1/models") || span_starts(path, "/v1/models/");
}

static bool over_bodies(struct exchange *ex, size_t more) {
  size_t held = atomic_fetch_add(&ex->worker->proxy->bodies, more) + more;
  ex->in.reserved += more;
  return held > ex->config->limits.bodies;
}

/* What may ask, in general; 401 before anything about the path is told. */
static bool knows_client(struct exchange *ex) {
  if (ex->config->client_count == 0) return true;
  struct span key = headers_client_key(ex->in.headers);
  ex->client = key.n ? config_client(ex->config, key) : NULL;
  if (!ex->client) return false;
  ex->request.client = ex->client->name;
  ex->request.client_tags = ex->client->tags;
  return true;
}

static enum go step_route(struct exchange *ex) {
  struct request *r = &ex->request;
  struct span coding = headers_get(ex->in.headers, "content-encoding");
  r->route = route_of_path(ex->in.path);
  if (!knows_client(ex)) return refuse(ex, REFUSAL_BAD_KEY, "The API key is missing or not known here.");
  if (atomic_load(&ex->worker->proxy->draining)) return refuse_with(ex, REFUSAL_OVERLOADED, "Shutting down.", 1);
  if (span_is_nocase(headers_get(ex->in.headers, "upgrade"), "websocket"))
    return refuse(ex, REFUSAL_UPGRADE, "WebSocket is not supported here; use HTTP.");
  if (!span_starts(ex->in.path, "/v1/")) return refuse(ex, REFUSAL_UNKNOWN_PATH, "No such path.");
  if (is_models_path(ex->in.path) && !is_get(ex)) return refuse(ex, REFUSAL_METHOD, "Use GET here.");
  if (r->route != ROUTE_NONE && strcmp(ex->in.method, "POST") != 0) return refuse(ex, REFUSAL_METHOD, "Use POST here.");
  if (r->route == ROUTE_NONE && !is_models_path(ex->in.path) && strcmp(ex->in.method, "HEAD") == 0)
    return refuse(ex, REFUSAL_METHOD, "HEAD is not supported here.");
  if (r->route == ROUTE_NONE && !is_models_path(ex->in.path) && ex->client && ex->client->models)
    return refuse(ex, REFUSAL_MODEL_DENIED, "This key may only use its models.");
  if (r->route != ROUTE_NONE && coding.n && !span_is_nocase(coding, "identity"))
    return refuse(ex, REFUSAL_CONTENT_ENCODING, "A request body with a Content-Encoding is not accepted.");
  if (ex->in.length > ex->config->limits.body) return refuse(ex, REFUSAL_BODY_TOO_LARGE, "The request body is too large.");
  if (over_bodies(ex, ex->in.length)) return refuse_with(ex, REFUSAL_OVERLOADED, "Too many request bodies are held.", 1);
  ex->step = STEP_BODY;
  loop_arm(ex->worker->loop, &ex->timer, loop_now(ex->worker->loop) + ex->config->timeouts.client_body);
  return GO;
}

static enum go step_wait(struct exchange *ex) {
  (void)ex;
  return WAIT;
}

/* ---- READ ---- */

/* What names a conversation: the first of these headers and body members that is there. */
static const char *session_of(struct exchange *ex, const struct body_value *members, size_t count) {
  static const char *const names[] = { "x-session-id", "x-claude-code-session-id", "session_id" };
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    struct span value = headers_get(ex->in.headers, names[i]);
    if (value.n) return arena_copy(&ex->arena, value);
  }
  for (size_t i = 0; i < count; i++) {
    struct span value = body_text(members[i], &ex->arena);
    if (value.n) return arena_copy(&ex->arena, value);
  }
  return NULL;
}

static enum go step_read(struct exchange *ex) {
  enum { MODEL, STREAM, SESSION, CACHE_KEY, PREVIOUS, USER, MEMBERS };
  static const char *const names[MEMBERS] = { "model", "stream", "session_id", "prompt_cache_key", "previous_response_id", "user" };
  struct body_value values[MEMBERS];
  struct request *r = &ex->request;
  struct span text = buf_span(&ex->in.body);
  r->body = text;
  ex->step = STEP_RESOLVE;
  if (r->route == ROUTE_NONE) return GO;
  size_t at = 0;
  struct span trimmed = span_trim(text);
  if (body_scan(text, names, values, MEMBERS, &at) != BODY_GOOD)
    return refuse(ex, REFUSAL_BAD_JSON, arena_printf(&ex->arena, "The request body is not valid JSON (at byte %zu).", at));
  if (!trimmed.n || trimmed.p[0] != '{') return refuse(ex, REFUSAL_BAD_JSON, "The request body must be a JSON object.");
  if (values[MODEL].times > 1) return refuse(ex, REFUSAL_BAD_JSON, "The request body has two 'model' members.");
  r->model = body_text(values[MODEL], &ex->arena);
  if (!r->model.n) return refuse(ex, REFUSAL_NO_MODEL, "The request body must name a 'model'.");
  r->stream = body_is_true(values[STREAM]);
  r->session = session_of(ex, &values[SESSION], MEMBERS - SESSION);
  ex->in.model = values[MODEL];
  ex->in.previous = body_text(values[PREVIOUS], &ex->arena);
  return GO;
}

/* ---- RESOLVE ---- */

/* For paths that are no routes: one upstream, its answer as it is, nobody benched. */
static void stop_classify(struct advisor *advisor, const struct failover *f, const struct attempt *attempt, seconds now, struct judgement *j) {
  (void)advisor, (void)f, (void)attempt, (void)now;
  j->verdict = VERDICT_STOP;
}

struct plain_advisor {
  struct advisor advisor;
  struct advisor_ops ops; /* the built-in's, but for classify */
};

static struct advisor *plain_advisor(struct exchange *ex) {
  struct plain_advisor *plain = ARENA_NEW(&ex->arena, struct plain_advisor);
  if (!plain) return NULL;
  plain->ops = builtin_advisor;
  plain->ops.classify = stop_classify;
  plain->advisor.ops = &plain->ops;
  return &plain->advisor;
}

static enum go begin_engine(struct exchange *ex, struct advisor *advisor, bool as_is) {
  struct worker *w = ex->worker;
  seconds now = loop_now(w->loop);
  ex->request.deadline = now + ex->config->timeouts.request;
  ex->step = STEP_FAILOVER;
  struct failover_setup setup = {
    .arena = &ex->arena,
    .request = &ex->request,
    .serial = atomic_fetch_add(&w->proxy->serial, 1) + 1,
    .advisor = advisor,
    .pool = ex->resolution.pool,
    .pool_count = ex->resolution.count,
    .max_attempts = as_is ? 1 : ex->config->limits.attempts,
    .as_is = as_is,
    .bench = w->proxy->bench,
    .random = worker_random_unit,
    .random_context = w,
  };
  ex->failover = advisor ? failover_begin(&setup, now) : NULL;
  if (!ex->failover) return refuse_with(ex, REFUSAL_OVERLOADED, "Out of memory.", 1);
  attempt_orders(ex);
  return WAIT;
}

/* The upstream that made an id, when this client may know it. */
static enum ids_found maker_of(struct exchange *ex, struct span id, const struct upstream **maker) {
  char name[IDS_UPSTREAM_BYTES];
  *maker = NULL;
  if (!id.n) return IDS_UNKNOWN;
  enum ids_found found = ids_find(ex->worker->proxy->ids, id, ex->request.client, loop_now(ex->worker->loop), name);
  if (found == IDS_OURS) *maker = config_upstream(ex->config, span_of(name));
  return found;
}

static enum go resolve_path(struct exchange *ex) {
  struct span target = headers_get(ex->in.headers, "x-bullpen-upstream");
  const struct upstream *maker, *u = config_path_upstream(ex->config, ex->in.path, target);
  if (maker_of(ex, ids_in_path(ex->in.path), &maker) == IDS_FOREIGN) return refuse(ex, REFUSAL_ID_NOT_FOUND, "No such object.");
  if (!u) u = maker;
  struct candidate *c = ARENA_NEW(&ex->arena, struct candidate);
  const struct candidate **pool = ARENA_NEW(&ex->arena, const struct candidate *);
  if (!u) return refuse(ex, REFUSAL_UNKNOWN_PATH, "No upstream serves this path.");
  if (!u->enabled) return refuse_with(ex, REFUSAL_OVERLOADED, "The upstream of this path is disabled.", 1);
  if (!c || !pool) return refuse_with(ex, REFUSAL_OVERLOADED, "Out of memory.", 1);
  *c = (struct candidate){ .name = u->name, .upstream_name = u->name, .model = "", .api = u->api, .weight = u->weight,
                           .max_inflight = u->max_inflight, .timeouts = u->timeouts, .key = u->bench_key,
                           .upstream_key = u->bench_key, .upstream = u };
  *pool = c;
  ex->resolution = (struct resolution){ .pool = pool, .count = 1 };
  return begin_engine(ex, plain_advisor(ex), true);
}

static enum go step_resolve(struct exchange *ex) {
  struct request *r = &ex->request;
  struct resolution *found = &ex->resolution;
  if (is_models_path(ex->in.path)) {
    models_list(ex);
    return GO;
  }
  if (r->route == ROUTE_NONE) return resolve_path(ex);
  const struct upstream *maker;
  if (maker_of(ex, ex->in.previous, &maker) == IDS_FOREIGN) return refuse(ex, REFUSAL_ID_NOT_FOUND, "No such response.");
  struct span target = headers_get(ex->in.headers, "x-bullpen-upstream");
  switch (config_resolve(ex->config, ex->worker->proxy->bench, &ex->arena, r->route, r->model, target, maker, ex->client, found)) {
    case RESOLVED: break;
    case RESOLVED_DENIED: return refuse(ex, REFUSAL_MODEL_DENIED, "This key may not use that model.");
    case RESOLVED_NO_MEMORY: return refuse_with(ex, REFUSAL_OVERLOADED, "Out of memory.", 1);
    case RESOLVED_UNKNOWN:
      if (found->all_disabled) return refuse_with(ex, REFUSAL_OVERLOADED, "Every upstream of that model is disabled.", 1);
      return refuse(ex, REFUSAL_UNKNOWN_MODEL, arena_printf(&ex->arena, "Model '%.*s' not found", (int)r->model.n, r->model.p));
  }
  if (found->warning) log_warn("target not taken", LOG_TEXT("id", r->id), LOG_TEXT("warning", found->warning));
  r->target = found->target;
  return begin_engine(ex, exchange_advisor(ex), false);
}

/* ---- the driver ---- */

static enum go step_answer(struct exchange *ex) {
  loop_arm(ex->worker->loop, &ex->timer, SECONDS_NEVER);
  front_wake(ex->conn);
  return WAIT;
}

static enum go (*const steps[STEP_COUNT])(struct exchange *) = {
  [STEP_CHECK] = step_check,     [STEP_ROUTE] = step_route,   [STEP_BODY] = step_wait,    [STEP_READ] = step_read,
  [STEP_RESOLVE] = step_resolve, [STEP_FAILOVER] = step_wait, [STEP_DISCARD] = step_wait, [STEP_ANSWER] = step_answer,
};

static void run(struct exchange *ex) {
  while (steps[ex->step](ex) == GO) continue;
}

/* ---- what the front says ---- */

static void timer_due(struct timer *timer, seconds now) {
  struct exchange *ex = (struct exchange *)((char *)timer - offsetof(struct exchange, timer));
  (void)now;
  if (ex->step == STEP_BODY) refuse(ex, REFUSAL_BODY_TIMEOUT, "The request body did not come in time.");
  if (ex->step == STEP_DISCARD)
    front_give_up(ex->conn, exchange_last_words(ex));
  else
    exchange_post(ex);
}

static void make_id(struct exchange *ex) {
  ex->request.id = arena_printf(&ex->arena, "bp_%016llx", (unsigned long long)worker_random(ex->worker));
}

static void split_target(struct incoming *in) {
  struct span target = span_of(in->target);
  for (size_t i = 0; i + 3 < target.n && i < 8; i++) { /* an absolute target: the guard compares its host */
    if (memcmp(target.p + i, "://", 3) != 0) continue;
    const char *slash = memchr(target.p + i + 3, '/', target.n - i - 3);
    target = slash ? span_skip(target, (size_t)(slash - target.p)) : SPAN("/");
    break;
  }
  const char *mark = memchr(target.p, '?', target.n);
  in->path = (struct span){ target.p, mark ? (size_t)(mark - target.p) : target.n };
  in->query = mark ? span_skip(target, in->path.n + 1) : SPAN_NONE;
}

struct exchange *exchange_new(struct worker *worker, struct conn *conn, const char *target) {
  struct exchange *ex = calloc(1, sizeof *ex);
  if (!ex) return NULL;
  ex->worker = worker;
  ex->conn = conn;
  ex->config = config_ref(worker->config);
  ex->timer.due = timer_due;
  ex->last_taken = SECONDS_NEVER;
  ex->begun = loop_now(worker->loop);
  relay_init(&ex->relay, ex->config->limits.buffer);
  ex->in.target = arena_copy(&ex->arena, span_of(target));
  make_id(ex);
  atomic_fetch_add(&worker->proxy->inflight, 1);
  if (ex->in.target && ex->request.id) return ex;
  exchange_free(&ex);
  return NULL;
}

enum exchange_wish exchange_head(struct exchange *ex, const struct exchange_head *head) {
  struct incoming *in = &ex->in;
  in->method = head->method;
  in->version = head->version;
  in->headers = head->headers;
  in->sound = head->sound;
  in->chunked = headers_get(head->headers, "transfer-encoding").n > 0;
  in->expects = headers_get(head->headers, "expect").n > 0;
  struct span length = headers_get(head->headers, "content-length");
  for (size_t i = 0; i < length.n && i < 18 && length.p[i] >= '0' && length.p[i] <= '9'; i++)
    in->length = in->length * 10 + (size_t)(length.p[i] - '0');
  split_target(in);
  struct request *r = &ex->request;
  r->method = in->method;
  r->path = in->path;
  r->headers = in->headers;
  r->received = ex->begun;
  run(ex);
  return ex->step == STEP_ANSWER && (in->chunked || in->length || ex->reply.close) ? EXCHANGE_ANSWER : EXCHANGE_READ;
}

bool exchange_body(struct exchange *ex, const char *bytes, size_t n) {
  struct incoming *in = &ex->in;
  if (ex->step == STEP_DISCARD) {
    in->discarded += n;
    return in->discarded <= DISCARD_BYTES;
  }
  if (ex->step != STEP_BODY) return true;
  size_t more = in->body.n + n > in->reserved ? in->body.n + n - in->reserved : 0;
  if (in->body.n + n > ex->config->limits.body) {
    refuse(ex, REFUSAL_BODY_TOO_LARGE, "The request body is too large.");
    return true;
  }
  if (more && over_bodies(ex, more)) {
    refuse_with(ex, REFUSAL_OVERLOADED, "Too many request bodies are held.", 1);
    return true;
  }
  if (in->body.n == 0 && in->length) buf_reserve(&in->body, in->length < 65536 ? in->length : 65536);
  buf_add(&in->body, bytes, n);
  if (!buf_ok(&in->body)) refuse_with(ex, REFUSAL_OVERLOADED, "Out of memory.", 1);
  return true;
}

void exchange_complete(struct exchange *ex) {
  if (ex->step == STEP_DISCARD) ex->step = STEP_ANSWER;
  if (ex->step == STEP_BODY) {
    loop_arm(ex->worker->loop, &ex->timer, SECONDS_NEVER);
    ex->step = STEP_READ;
    ex->request.received = loop_now(ex->worker->loop);
    if (front_gone(ex->conn)) { /* it did not wait for what it asked */
      exchange_client_gone(ex);
      return;
    }
  }
  run(ex);
}

const struct reply *exchange_reply(struct exchange *ex) {
  struct reply *r = &ex->reply;
  if (!r->status || ex->step == STEP_DISCARD) return NULL;
  if (!r->whole.p && ex->relay.end == RELAY_ENDED) { /* it is all here, and nothing of it has gone */
    r->whole = relay_ready(&ex->relay);
    if (!r->whole.p) r->whole = SPAN("");
    r->length = r->whole.n;
  }
  return r;
}

ssize_t exchange_read(struct exchange *ex, char *to, size_t max) {
  struct span ready = relay_ready(&ex->relay);
  size_t n = ready.n < max ? ready.n : max;
  if (n == 0) return ex->relay.end == RELAY_ENDED ? -1 : ex->relay.end == RELAY_BROKEN ? -2 : 0;
  memcpy(to, ready.p, n);
  relay_take(&ex->relay, n);
  ex->last_taken = loop_now(ex->worker->loop);
  if (ex->run.transfer && upstream_in(ex->run.transfer)->n) exchange_post(ex); /* there is room again */
  return (ssize_t)n;
}

bool exchange_settled(const struct exchange *ex) {
  return ex->finished || (ex->failover && failover_settled(ex->failover));
}

seconds exchange_unsent_since(const struct exchange *ex) {
  bool waiting = ex->reply.status && (relay_ready(&ex->relay).n || ex->relay.end != RELAY_OPEN);
  return waiting ? ex->last_taken : SECONDS_NEVER;
}

void exchange_client_gone(struct exchange *ex) {
  if (ex->failover) {
    failover_client_gone(ex->failover, loop_now(ex->worker->loop));
    attempt_orders(ex);
  } else {
    tell_refused(ex, OUTCOME_CLIENT_GONE, 0);
  }
}

struct span exchange_last_words(struct exchange *ex) {
  struct span body = ex->reply.whole;
  const char *text = arena_printf(&ex->arena, "HTTP/1.1 %d Refused\r\nContent-Type: application/json\r\nContent-Length: %zu\r\nConnection: close\r\n\r\n%.*s",
                                  ex->reply.status, body.n, (int)body.n, body.p ? body.p : "");
  return span_of(text);
}

void exchange_free(struct exchange **exchange) {
  struct exchange *ex = *exchange;
  if (!ex) return;
  *exchange = NULL;
  if (!exchange_settled(ex)) exchange_client_gone(ex);
  struct worker *w = ex->worker;
  upstream_end(&ex->run.transfer);
  if (!ex->finished && ex->failover) { /* settled, but the upstream had not ended: what was known stands */
    failover_ended(ex->failover, OUTCOME_OK, NULL, NULL, loop_now(w->loop));
    attempt_orders(ex);
  }
  for (struct exchange **at = &w->posted; *at; at = &(*at)->next_posted)
    if (*at == ex) {
      *at = ex->next_posted;
      break;
    }
  loop_arm(w->loop, &ex->timer, SECONDS_NEVER);
  if (ex->advisor) policy_leave(&ex->advisor);
  atomic_fetch_sub(&w->proxy->bodies, ex->in.reserved);
  atomic_fetch_sub(&w->proxy->inflight, 1);
  relay_free(&ex->relay);
  buf_free(&ex->run.error_body);
  arena_free(&ex->run.scratch);
  buf_free(&ex->in.body);
  arena_free(&ex->arena);
  config_release(&ex->config);
  free(ex);
}

/* ---- the turn ---- */

void exchange_post(struct exchange *ex) {
  if (ex->posted) return;
  ex->posted = true;
  ex->next_posted = ex->worker->posted;
  ex->worker->posted = ex;
}

bool exchange_turn(struct worker *w) {
  bool any = false;
  struct exchange *ex;
  while ((ex = w->posted)) {
    w->posted = ex->next_posted;
    ex->posted = false;
    any = true;
    if (ex->failover) {
      struct span body = buf_span(&ex->run.error_body);
      attempt_look(ex);
      failover_timer_due(ex->failover, body, loop_now(w->loop));
      attempt_orders(ex);
    } else {
      front_wake(ex->conn);
    }
  }
  return any;
}

/* ---- shared ---- */

bool exchange_messages_shape(const struct exchange *ex) {
  if (ex->request.route == ROUTE_MESSAGES) return true;
  return ex->request.route == ROUTE_NONE && headers_get(ex->in.headers, "anthropic-version").n > 0;
}

struct advisor *exchange_advisor(struct exchange *ex) {
  if (!ex->advisor) ex->advisor = policy_advise(worker_policy(ex->worker, ex->resolution.policy), &ex->request, &ex->arena);
  return ex->advisor;
}
