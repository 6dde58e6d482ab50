/*
 * The APIs as their clients see them: which path is which route, and how an error is said there.
 *
 * There are two shapes of an error body, and everything bullpen says itself goes through put_error:
 *
 *   messages      {"type":"error","error":{"type":T,"message":M},"request_id":R}
 *   all others    {"error":{"message":M,"type":T,"param":null,"code":C}}
 *
 * The order of members, `param` included, is a promise to clients that compare texts. What each refusal is called
 * stands in one table. Words that nobody gave go by the status, as the providers themselves use them.
 *
 * Nothing here trusts a body: it is read by core/body and dialect_read_error, and written by base/json, so what goes
 * out is always well-formed.
 */
#include "core/dialect.h"

#include "base/json.h"
#include "core/body.h"

enum { ORIGINAL_TEXT_MAX = 64 * 1024 };
#define SEQUENCE_MOST 9007199254740991.0 /* the largest a client reads back exactly */

/* ---- routes ---- */

static const char *const route_names[ROUTE_COUNT] = {
  [ROUTE_NONE] = "other",           [ROUTE_CHAT] = "chat",           [ROUTE_COMPLETIONS] = "completions",
  [ROUTE_EMBEDDINGS] = "embeddings", [ROUTE_RESPONSES] = "responses", [ROUTE_MESSAGES] = "messages",
};

static const char *const api_names[] = { [API_OPENAI] = "openai", [API_ANTHROPIC] = "anthropic" };

const char *route_name(enum route route) {
  return route_names[route];
}

bool route_parse(struct span name, enum route *route) {
  for (int i = 0; i < ROUTE_COUNT; i++) {
    if (!span_is(name, route_names[i])) continue;
    *route = (enum route)i;
    return true;
  }
  return false;
}

enum route route_of_path(struct span path) {
  static const struct {
    const char *path;
    enum route route;
  } paths[] = {
    { "/v1/chat/completions", ROUTE_CHAT },  { "/v1/completions", ROUTE_COMPLETIONS },
    { "/v1/embeddings", ROUTE_EMBEDDINGS },  { "/v1/responses", ROUTE_RESPONSES },
    { "/v1/messages", ROUTE_MESSAGES },      { "/v1/messages/count_tokens", ROUTE_MESSAGES },
  };
  for (size_t i = 0; i < sizeof paths / sizeof *paths; i++)
    if (span_is(path, paths[i].path)) return paths[i].route;
  return ROUTE_NONE;
}

enum api route_api(enum route route) {
  return route == ROUTE_MESSAGES ? API_ANTHROPIC : API_OPENAI;
}

const char *api_name(enum api api) {
  return api_names[api];
}

bool api_parse(struct span name, enum api *api) {
  if (span_is(name, api_names[API_OPENAI])) *api = API_OPENAI;
  else if (span_is(name, api_names[API_ANTHROPIC])) *api = API_ANTHROPIC;
  else return false;
  return true;
}

unsigned api_default_routes(enum api api) {
  unsigned routes = 0;
  for (int i = ROUTE_NONE + 1; i < ROUTE_COUNT; i++)
    if (route_api((enum route)i) == api) routes |= 1u << i;
  return routes;
}

/* ---- refusals ---- */

#define INVALID "invalid_request_error"

static const struct refusal_words {
  int status;
  const char *type, *code;   /* everywhere but on the messages route */
  const char *messages_type; /* NULL: by the status */
} refusals[] = {
  [REFUSAL_EXHAUSTED] = { 502, "upstream_error", "all_upstreams_failed", NULL },
  [REFUSAL_DEADLINE] = { 504, "upstream_error", "deadline_exceeded", "timeout_error" },
  [REFUSAL_UNKNOWN_MODEL] = { 404, INVALID, "model_not_found", "not_found_error" },
  [REFUSAL_UNKNOWN_PATH] = { 404, INVALID, "not_found", "not_found_error" },
  [REFUSAL_METHOD] = { 405, INVALID, "method_not_allowed", INVALID },
  [REFUSAL_MODEL_DENIED] = { 403, INVALID, "model_not_allowed", "permission_error" },
  [REFUSAL_BAD_KEY] = { 401, INVALID, "invalid_api_key", "authentication_error" },
  [REFUSAL_BODY_TOO_LARGE] = { 413, INVALID, "request_too_large", "request_too_large" },
  [REFUSAL_BAD_JSON] = { 400, INVALID, "invalid_json", INVALID },
  [REFUSAL_NO_MODEL] = { 400, INVALID, "missing_model", INVALID },
  [REFUSAL_OVERLOADED] = { 503, "server_error", "overloaded", "overloaded_error" },
  [REFUSAL_BAD_FRAMING] = { 400, INVALID, "bad_request", INVALID },
  [REFUSAL_BAD_CODING] = { 501, INVALID, "unsupported_transfer_encoding", INVALID },
  [REFUSAL_CONTENT_ENCODING] = { 415, INVALID, "unsupported_content_encoding", INVALID },
  [REFUSAL_UPGRADE] = { 426, INVALID, "upgrade_not_supported", INVALID },
  [REFUSAL_FORBIDDEN_ORIGIN] = { 403, "permission_error", "forbidden", "permission_error" },
  [REFUSAL_BODY_TIMEOUT] = { 408, INVALID, "request_timeout", INVALID },
  [REFUSAL_ID_NOT_FOUND] = { 404, INVALID, "not_found", "not_found_error" },
};

int refusal_status(enum refusal refusal) {
  return refusals[refusal].status;
}

/* An exhausted answer on the messages route has one of four types. */
static const char *exhausted_type(int status) {
  switch (status) {
    case 429: return "rate_limit_error";
    case 504: return "timeout_error";
    case 529: return "overloaded_error";
    default: return "api_error";
  }
}

void dialect_refusal(enum refusal refusal, bool messages_shape, struct error_text *error) {
  const struct refusal_words *words = &refusals[refusal];
  error->type = words->type;
  error->code = words->code;
  if (!messages_shape) return;
  error->code = NULL;
  error->type = words->messages_type ? words->messages_type : exhausted_type(error->status);
}

/* ---- bodies ---- */

static const char *messages_type_of(int status) {
  switch (status) {
    case 401: return "authentication_error";
    case 402: return "billing_error";
    case 403: return "permission_error";
    case 404: return "not_found_error";
    case 409: return "conflict_error";
    case 413: return "request_too_large";
    case 429: return "rate_limit_error";
    case 503:
    case 529: return "overloaded_error";
    case 504: return "timeout_error";
    default: return status >= 400 && status < 500 ? INVALID : "api_error";
  }
}

static const char *openai_type_of(int status) {
  switch (status) {
    case 401: return "authentication_error";
    case 403: return "permission_error";
    case 404: return "not_found_error";
    case 429: return "rate_limit_error";
    default: return status >= 400 && status < 500 ? INVALID : "server_error";
  }
}

/* NULL where the status says it all. */
static const char *openai_code_of(int status) {
  switch (status) {
    case 401: return "invalid_api_key";
    case 404: return "not_found";
    case 413: return "request_too_large";
    case 429: return "rate_limit_exceeded";
    default: return NULL;
  }
}

static void put_text(struct buf *out, const char *name, struct span text) {
  json_put_key(out, name);
  json_put_string(out, text);
}

static void put_messages_error(struct buf *out, struct span type, struct span message, const char *request_id) {
  buf_puts(out, "{\"type\":\"error\",\"error\":{");
  put_text(out, "type", type);
  put_text(out, "message", message);
  buf_puts(out, "}");
  if (request_id) put_text(out, "request_id", span_of(request_id));
  buf_puts(out, "}");
}

/* The object alone, as it stands in `error`. */
static void put_openai_error(struct buf *out, struct span type, struct span code, struct span message) {
  buf_puts(out, "{");
  put_text(out, "message", message);
  put_text(out, "type", type);
  buf_puts(out, ",\"param\":null,\"code\":");
  if (code.n) json_put_string(out, code);
  else buf_puts(out, "null");
  buf_puts(out, "}");
}

/* A code is made up only where there is no type either: the two must not contradict each other. */
static void put_error(struct buf *out, bool messages_shape, int status, struct span type, struct span code,
                      struct span message, const char *request_id) {
  if (messages_shape) {
    put_messages_error(out, type.n ? type : span_of(messages_type_of(status)), message, request_id);
    return;
  }
  if (!type.n && !code.n) code = span_of(openai_code_of(status));
  buf_puts(out, "{\"error\":");
  put_openai_error(out, type.n ? type : span_of(openai_type_of(status)), code, message);
  buf_puts(out, "}");
}

void dialect_put_error(struct buf *out, bool messages_shape, const struct error_text *error) {
  put_error(out, messages_shape, error->status, span_of(error->type), span_of(error->code), error->message,
            error->request_id);
}

/* ---- frames ---- */

/* Both flat and nested: some clients look for one, some for the other. */
static void put_responses_frame(struct buf *out, struct span message, double sequence) {
  double next = sequence >= 0 && sequence < SEQUENCE_MOST ? sequence + 1 : sequence >= 0 ? SEQUENCE_MOST : 0;
  buf_puts(out, "event: error\ndata: {\"type\":\"error\",\"code\":\"upstream_failed\"");
  put_text(out, "message", message);
  buf_printf(out, ",\"param\":null,\"sequence_number\":%.0f,\"error\":", next);
  buf_puts(out, "{\"type\":\"server_error\",\"code\":\"upstream_failed\"");
  put_text(out, "message", message);
  buf_puts(out, ",\"param\":null}}\n\n");
}

void dialect_put_frame(struct buf *out, enum route route, struct span message, const char *request_id,
                       double sequence) {
  switch (route) {
    case ROUTE_RESPONSES: put_responses_frame(out, message, sequence); return;
    case ROUTE_MESSAGES:
      buf_puts(out, "event: error\ndata: ");
      put_messages_error(out, SPAN("api_error"), message, request_id);
      break;
    case ROUTE_NONE:
    case ROUTE_CHAT:
    case ROUTE_COMPLETIONS:
    case ROUTE_EMBEDDINGS:
      buf_puts(out, "data: {\"error\":");
      put_openai_error(out, SPAN("server_error"), SPAN("upstream_failed"), message);
      buf_puts(out, "}");
      break;
  }
  buf_puts(out, "\n\n");
}

/* ---- an upstream's own error ---- */

bool dialect_has_shape(bool messages_shape, struct span body) {
  static const char *const names[] = { "error", "type" };
  static const char *const inner[] = { "message" };
  struct body_value v[2], message;
  if (body_scan(body, names, v, 2, NULL) != BODY_GOOD || v[0].kind != BODY_OBJECT) return false;
  if (messages_shape && !body_is(v[1], "error")) return false;
  body_members(v[0], inner, &message, 1);
  return message.kind == BODY_STRING;
}

/* What is no JSON, or JSON that says nothing we can read, is handed on as the text it is. */
static struct span rewritten_message(struct span body, const struct upstream_error *error) {
  struct span text = body.p ? span_trim(body) : SPAN("");
  if (text.n > ORIGINAL_TEXT_MAX) text.n = ORIGINAL_TEXT_MAX;
  bool json = text.n && strchr("{[\"", text.p[0]) && text.p[0] && body_scan(body, NULL, NULL, 0, NULL) == BODY_GOOD;
  if (json && error->message.n) return error->message;
  return text.n ? text : SPAN("The upstream sent an error without a text.");
}

void dialect_rewrite_error(struct buf *out, bool messages_shape, int status, struct span body, const char *request_id) {
  struct arena arena = { 0 };
  struct upstream_error error;
  dialect_read_error(body, &arena, &error);
  struct span type = messages_shape ? SPAN_NONE : error.type;
  put_error(out, messages_shape, status, type, error.code, rewritten_message(body, &error), request_id);
  arena_free(&arena);
}
