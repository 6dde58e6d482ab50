/*
 * The steps of a request up to the engine, and the refusals on the way (contract sections 3 and 7).
 *
 *   CHECK -> ROUTE -> BODY ... complete -> READ -> RESOLVE -> FAILOVER ... -> ANSWER
 *      \________\________\_________________\________\____ refused: DISCARD ... -> ANSWER
 *
 * Each step returns whether the next one may run at once; a waiting step is left by what it waits for (the front, the engine, a timer). A refused
 * client may still be sending: unless it asked first (Expect), its body is read and thrown away before it is answered, or it would not read the
 * answer.
 */
#include <stdio.h>

#include "core/origin.h"
#include "proxy/exchange_state.h"
#include "proxy/front.h"
#include "proxy/guard.h"
#include "proxy/headers.h"
#include "proxy/ids.h"

#define DISCARD_SECONDS 5.0

enum { MODEL_BYTES = 1024 }; /* a chain of a few candidates, written out */
enum go { GO, WAIT };

/* ---- refusals ---- */

void exchange_refuse(struct exchange *ex, enum refusal refusal, const char *message, unsigned retry_after) {
  struct error_text error = { .status = refusal_status(refusal), .message = span_of(message), .request_id = ex->request.id };
  dialect_refusal(refusal, exchange_messages_shape(ex), &error);
  bool framing = refusal == REFUSAL_BAD_FRAMING || refusal == REFUSAL_BAD_CODING;
  bool draining = refusal == REFUSAL_OVERLOADED && atomic_load(&ex->worker->proxy->draining);
  answer_error(ex, &error, retry_after, false, framing || draining || refusal == REFUSAL_BODY_TIMEOUT);
  if (framing) { /* what fails the framing check is no request: no record, no event */
    ex->finished = true;
    log_info("bad framing", LOG_TEXT("from", front_peer(ex->conn)), LOG_TEXT("why", message));
  }
  tell_refused(ex, OUTCOME_NONE, error.status);
  atomic_fetch_sub(&ex->worker->proxy->bodies, ex->in.reserved);
  ex->in.reserved = 0;
  buf_free(&ex->in.body);
  bool more_to_come = ex->step <= STEP_BODY && (ex->in.chunked || ex->in.length > 0);
  bool asked_first = ex->in.expects && ex->step < STEP_BODY; /* and was not told to go on yet */
  bool at_once = framing || asked_first || !more_to_come;
  ex->step = at_once ? STEP_ANSWER : STEP_DISCARD;
  if (!at_once) loop_arm(ex->worker->loop, &ex->timer, loop_now(ex->worker->loop) + DISCARD_SECONDS);
}

static enum go refuse(struct exchange *ex, enum refusal refusal, const char *message) {
  exchange_refuse(ex, refusal, message, 0);
  return GO;
}

static enum go refuse_for_now(struct exchange *ex, const char *message) {
  exchange_refuse(ex, REFUSAL_OVERLOADED, message, 1);
  return GO;
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

bool exchange_over_bodies(struct exchange *ex, size_t more) {
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
  if (atomic_load(&ex->worker->proxy->draining)) return refuse_for_now(ex, "Shutting down.");
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
  if (exchange_over_bodies(ex, ex->in.length)) return refuse_for_now(ex, "Too many request bodies are held.");
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
  if (values[MODEL].raw.n > MODEL_BYTES) return refuse(ex, REFUSAL_NO_MODEL, "The name of the 'model' is too long.");
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
  if (!ex->failover) return refuse_for_now(ex, "Out of memory.");
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
  if (!u->enabled) return refuse_for_now(ex, "The upstream of this path is disabled.");
  if (!c || !pool) return refuse_for_now(ex, "Out of memory.");
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
    case RESOLVED_NO_MEMORY: return refuse_for_now(ex, "Out of memory.");
    case RESOLVED_UNKNOWN:
      if (found->all_disabled) return refuse_for_now(ex, "Every upstream of that model is disabled.");
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

void exchange_run(struct exchange *ex) {
  while (steps[ex->step](ex) == GO) continue;
}
