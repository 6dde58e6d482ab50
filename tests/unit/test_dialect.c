/*
 * core/dialect: what clients are told, byte for byte, and what is read out of whatever upstreams send. The golden texts
 * are contract section 7 written out; the bodies are the fixtures of every API. Mutated bodies lie in memory of exactly
 * their size.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/json.h"
#include "core/body.h"
#include "core/dialect.h"

#define TEST(promise, function) { promise, function, NULL, NULL, NULL }
#define COUNT(list) (sizeof(list) / sizeof *(list))

static void check_text(const char *what, struct span got, const char *wanted) {
  if (!span_is(got, wanted)) fail_msg("%s:\n  wanted %s\n  got    %.*s", what, wanted, (int)got.n, got.p ? got.p : "");
}

static void load(struct buf *text, const char *name) {
  char path[256];
  snprintf(path, sizeof path, "tests/fixtures/%s", name);
  FILE *file = fopen(path, "rb");
  if (!file) fail_msg("cannot open %s: run from the root of the repository", path);
  char *to = buf_reserve(text, 65536);
  text->n = to ? fread(to, 1, 65536, file) : 0;
  fclose(file);
}

/* ---- routes ---- */

static void knows_routes(void **state) {
  (void)state;
  static const struct {
    const char *path, *name;
    enum route route;
    enum api api;
  } cases[] = {
    { "/v1/chat/completions", "chat", ROUTE_CHAT, API_OPENAI },
    { "/v1/completions", "completions", ROUTE_COMPLETIONS, API_OPENAI },
    { "/v1/embeddings", "embeddings", ROUTE_EMBEDDINGS, API_OPENAI },
    { "/v1/responses", "responses", ROUTE_RESPONSES, API_OPENAI },
    { "/v1/messages", "messages", ROUTE_MESSAGES, API_ANTHROPIC },
    { "/v1/messages/count_tokens", "messages", ROUTE_MESSAGES, API_ANTHROPIC },
    { "/v1/files", "other", ROUTE_NONE, API_OPENAI },
  };
  static const char *const others[] = { "", "/", "/v1", "/v1/chat/completions/", "/v1/Messages", "/v1/responses/resp_1",
                                        "/v1/messages/batches", "/chat/completions", "/v1//responses" };
  for (size_t i = 0; i < COUNT(cases); i++) {
    enum route route;
    assert_int_equal(route_of_path(span_of(cases[i].path)), cases[i].route);
    assert_string_equal(route_name(cases[i].route), cases[i].name);
    assert_true(route_parse(span_of(cases[i].name), &route) && route == cases[i].route);
    assert_int_equal(route_api(cases[i].route), cases[i].api);
  }
  for (size_t i = 0; i < COUNT(others); i++) assert_int_equal(route_of_path(span_of(others[i])), ROUTE_NONE);
  enum route route;
  assert_false(route_parse(SPAN("Chat"), &route));
  assert_false(route_parse(SPAN_NONE, &route));
}

static void knows_apis(void **state) {
  (void)state;
  enum api api;
  assert_true(api_parse(SPAN("openai"), &api) && api == API_OPENAI);
  assert_true(api_parse(SPAN("anthropic"), &api) && api == API_ANTHROPIC);
  assert_false(api_parse(SPAN("gemini"), &api));
  assert_string_equal(api_name(API_OPENAI), "openai");
  assert_string_equal(api_name(API_ANTHROPIC), "anthropic");
  assert_int_equal(api_default_routes(API_ANTHROPIC), 1u << ROUTE_MESSAGES);
  assert_int_equal(api_default_routes(API_OPENAI),
                   1u << ROUTE_CHAT | 1u << ROUTE_COMPLETIONS | 1u << ROUTE_EMBEDDINGS | 1u << ROUTE_RESPONSES);
}

/* ---- W7: golden bodies ---- */

#define OPENAI(type, code) "{\"error\":{\"message\":\"M\",\"type\":\"" type "\",\"param\":null,\"code\":\"" code "\"}}"
#define MESSAGES(type) "{\"type\":\"error\",\"error\":{\"type\":\"" type "\",\"message\":\"M\"},\"request_id\":\"R\"}"
#define INVALID "invalid_request_error"

struct refusal_case {
  enum refusal refusal;
  int status; /* 0: the refusal's own */
  int wanted_status;
  const char *openai, *messages;
};

static void check_refusals(const struct refusal_case *cases, size_t count) {
  for (size_t i = 0; i < count; i++) {
    int status = cases[i].status ? cases[i].status : refusal_status(cases[i].refusal);
    assert_int_equal(status, cases[i].wanted_status);
    for (int shape = 0; shape < 2; shape++) {
      struct error_text error = { .status = status, .message = SPAN("M"), .request_id = "R" };
      struct buf out = { 0 };
      dialect_refusal(cases[i].refusal, shape == 1, &error);
      dialect_put_error(&out, shape == 1, &error);
      check_text("refusal", buf_span(&out), shape == 1 ? cases[i].messages : cases[i].openai);
      assert_int_equal(error.status, status);
      buf_free(&out);
    }
  }
}

static void says_exhausted(void **state) {
  (void)state;
  static const struct refusal_case cases[] = {
    { REFUSAL_EXHAUSTED, 0, 502, OPENAI("upstream_error", "all_upstreams_failed"), MESSAGES("api_error") },
    { REFUSAL_EXHAUSTED, 504, 504, OPENAI("upstream_error", "all_upstreams_failed"), MESSAGES("timeout_error") },
    { REFUSAL_EXHAUSTED, 429, 429, OPENAI("upstream_error", "all_upstreams_failed"), MESSAGES("rate_limit_error") },
    { REFUSAL_EXHAUSTED, 529, 529, OPENAI("upstream_error", "all_upstreams_failed"), MESSAGES("overloaded_error") },
    { REFUSAL_EXHAUSTED, 500, 500, OPENAI("upstream_error", "all_upstreams_failed"), MESSAGES("api_error") },
    { REFUSAL_DEADLINE, 0, 504, OPENAI("upstream_error", "deadline_exceeded"), MESSAGES("timeout_error") },
  };
  check_refusals(cases, COUNT(cases));
}

static void says_each_refusal(void **state) {
  (void)state;
  static const struct refusal_case cases[] = {
    { REFUSAL_UNKNOWN_MODEL, 0, 404, OPENAI(INVALID, "model_not_found"), MESSAGES("not_found_error") },
    { REFUSAL_UNKNOWN_PATH, 0, 404, OPENAI(INVALID, "not_found"), MESSAGES("not_found_error") },
    { REFUSAL_METHOD, 0, 405, OPENAI(INVALID, "method_not_allowed"), MESSAGES(INVALID) },
    { REFUSAL_MODEL_DENIED, 0, 403, OPENAI(INVALID, "model_not_allowed"), MESSAGES("permission_error") },
    { REFUSAL_BAD_KEY, 0, 401, OPENAI(INVALID, "invalid_api_key"), MESSAGES("authentication_error") },
    { REFUSAL_BODY_TOO_LARGE, 0, 413, OPENAI(INVALID, "request_too_large"), MESSAGES("request_too_large") },
    { REFUSAL_BAD_JSON, 0, 400, OPENAI(INVALID, "invalid_json"), MESSAGES(INVALID) },
    { REFUSAL_NO_MODEL, 0, 400, OPENAI(INVALID, "missing_model"), MESSAGES(INVALID) },
    { REFUSAL_OVERLOADED, 0, 503, OPENAI("server_error", "overloaded"), MESSAGES("overloaded_error") },
    { REFUSAL_BAD_FRAMING, 0, 400, OPENAI(INVALID, "bad_request"), MESSAGES(INVALID) },
    { REFUSAL_BAD_CODING, 0, 501, OPENAI(INVALID, "unsupported_transfer_encoding"), MESSAGES(INVALID) },
    { REFUSAL_CONTENT_ENCODING, 0, 415, OPENAI(INVALID, "unsupported_content_encoding"), MESSAGES(INVALID) },
    { REFUSAL_UPGRADE, 0, 426, OPENAI(INVALID, "upgrade_not_supported"), MESSAGES(INVALID) },
    { REFUSAL_FORBIDDEN_ORIGIN, 0, 403, OPENAI("permission_error", "forbidden"), MESSAGES("permission_error") },
    { REFUSAL_BODY_TIMEOUT, 0, 408, OPENAI(INVALID, "request_timeout"), MESSAGES(INVALID) },
    { REFUSAL_ID_NOT_FOUND, 0, 404, OPENAI(INVALID, "not_found"), MESSAGES("not_found_error") },
  };
  check_refusals(cases, COUNT(cases));
}

static void check_error(bool messages, struct error_text error, const char *wanted) {
  struct buf out = { 0 };
  dialect_put_error(&out, messages, &error);
  check_text("error", buf_span(&out), wanted);
  buf_free(&out);
}

static void fills_in_what_nobody_said(void **state) {
  (void)state;
  struct error_text e = { .status = 429, .message = SPAN("say \"hi\"\n"), .request_id = "R" };
  check_error(false, e, "{\"error\":{\"message\":\"say \\\"hi\\\"\\n\",\"type\":\"rate_limit_error\",\"param\":null,\"code\":\"rate_limit_exceeded\"}}");
  check_error(true, e, "{\"type\":\"error\",\"error\":{\"type\":\"rate_limit_error\",\"message\":\"say \\\"hi\\\"\\n\"},\"request_id\":\"R\"}");
  e = (struct error_text){ .status = 503, .type = "busy", .message = SPAN("M") };
  check_error(false, e, "{\"error\":{\"message\":\"M\",\"type\":\"busy\",\"param\":null,\"code\":null}}");
  check_error(true, e, "{\"type\":\"error\",\"error\":{\"type\":\"busy\",\"message\":\"M\"}}");
  e = (struct error_text){ .status = 418, .code = "tea", .message = SPAN_NONE, .request_id = "R" };
  check_error(false, e, "{\"error\":{\"message\":\"\",\"type\":\"invalid_request_error\",\"param\":null,\"code\":\"tea\"}}");
  check_error(true, e, "{\"type\":\"error\",\"error\":{\"type\":\"invalid_request_error\",\"message\":\"\"},\"request_id\":\"R\"}");
}

/* ---- W9: golden frames ---- */

static void check_frame(enum route route, double sequence, const char *wanted) {
  struct buf out = { 0 };
  dialect_put_frame(&out, route, SPAN("M"), "R", sequence);
  check_text(route_name(route), buf_span(&out), wanted);
  buf_free(&out);
}

#define CHAT_FRAME "data: {\"error\":{\"message\":\"M\",\"type\":\"server_error\",\"param\":null,\"code\":\"upstream_failed\"}}\n\n"
#define RESPONSES_FRAME(n)                                                                                              \
  "event: error\ndata: {\"type\":\"error\",\"code\":\"upstream_failed\",\"message\":\"M\",\"param\":null,\"sequence_number\":" n \
  ",\"error\":{\"type\":\"server_error\",\"code\":\"upstream_failed\",\"message\":\"M\",\"param\":null}}\n\n"

static void ends_a_broken_stream(void **state) {
  (void)state;
  check_frame(ROUTE_CHAT, 7, CHAT_FRAME);
  check_frame(ROUTE_COMPLETIONS, -1, CHAT_FRAME);
  check_frame(ROUTE_EMBEDDINGS, -1, CHAT_FRAME);
  check_frame(ROUTE_NONE, -1, CHAT_FRAME);
  check_frame(ROUTE_RESPONSES, 4, RESPONSES_FRAME("5"));
  check_frame(ROUTE_RESPONSES, -1, RESPONSES_FRAME("0"));
  check_frame(ROUTE_RESPONSES, 0, RESPONSES_FRAME("1"));
  check_frame(ROUTE_RESPONSES, 999999, RESPONSES_FRAME("1000000"));
  check_frame(ROUTE_RESPONSES, 1e300, RESPONSES_FRAME("9007199254740991"));
  check_frame(ROUTE_RESPONSES, NAN, RESPONSES_FRAME("0"));
  check_frame(ROUTE_MESSAGES, -1, "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"api_error\",\"message\":\"M\"},\"request_id\":\"R\"}\n\n");
}

/* ---- fixtures: read and classified ---- */

struct fixture_case {
  const char *name;
  int status;
  const char *type, *code, *message; /* the message's beginning */
  enum error_kind kind;
  char shapes; /* 'o', 'a': which shape it has; 'b' both, '-' none */
};

static const struct fixture_case fixtures[] = {
  { "openai-chat/error-400.json", 400, INVALID, "invalid_value", "Invalid value for", ERROR_REQUEST_SPECIFIC, 'o' },
  { "openai-chat/error-400-context-length.json", 400, INVALID, "context_length_exceeded", "The input exceeds", ERROR_REQUEST_SPECIFIC, 'o' },
  { "openai-chat/error-400-context-length.json", 500, INVALID, "context_length_exceeded", "The input exceeds", ERROR_REQUEST_SPECIFIC, 'o' },
  { "openai-chat/error-401.json", 401, INVALID, "invalid_api_key", "Incorrect API key", ERROR_AUTH_UPSTREAM, 'o' },
  { "openai-chat/error-403.json", 403, "request_forbidden", "unsupported_country_region_territory", "Country", ERROR_AUTH_CANDIDATE, 'o' },
  { "openai-chat/error-404.json", 404, INVALID, "model_not_found", "The model `gpt-nope`", ERROR_MODEL_MISSING, 'o' },
  { "openai-chat/error-409.json", 409, "conflict_error", "", "The resource", ERROR_TRANSIENT, 'o' },
  { "openai-chat/error-413.json", 413, INVALID, "request_too_large", "Request too large.", ERROR_REQUEST_SPECIFIC, 'o' },
  { "openai-chat/error-422.json", 422, INVALID, "", "Unprocessable.", ERROR_REQUEST_SPECIFIC, 'o' },
  { "openai-chat/error-429.json", 429, "requests", "rate_limit_exceeded", "Rate limit reached", ERROR_TRANSIENT, 'o' },
  { "openai-chat/error-429-quota.json", 429, "insufficient_quota", "credit_balance_exhausted", "You exceeded", ERROR_AUTH_UPSTREAM, 'o' },
  { "openai-chat/error-500.json", 500, "server_error", "", "The server had an error", ERROR_TRANSIENT, 'o' },
  { "openai-chat/error-502.html", 502, "", "", "502 Bad Gateway cloudflare", ERROR_TRANSIENT, '-' },
  { "openai-chat/error-503.json", 503, "service_unavailable_error", "server_is_overloaded", "The engine", ERROR_TRANSIENT, 'o' },
  { "openai-responses/error-400.json", 400, INVALID, "invalid_value", "Invalid value for", ERROR_REQUEST_SPECIFIC, 'o' },
  { "openai-responses/error-400-context-length.json", 400, INVALID, "context_length_exceeded", "The input", ERROR_REQUEST_SPECIFIC, 'o' },
  { "openai-responses/error-400-previous-response.json", 400, INVALID, "previous_response_not_found", "Previous response", ERROR_REQUEST_SPECIFIC, 'o' },
  { "openai-responses/error-401.json", 401, INVALID, "invalid_api_key", "Incorrect", ERROR_AUTH_UPSTREAM, 'o' },
  { "openai-responses/error-403.json", 403, "request_forbidden", "unsupported_country_region_territory", "Country", ERROR_AUTH_CANDIDATE, 'o' },
  { "openai-responses/error-404.json", 404, INVALID, "model_not_found", "The model", ERROR_MODEL_MISSING, 'o' },
  { "openai-responses/error-409.json", 409, "conflict_error", "", "The resource", ERROR_TRANSIENT, 'o' },
  { "openai-responses/error-413.json", 413, INVALID, "request_too_large", "Request", ERROR_REQUEST_SPECIFIC, 'o' },
  { "openai-responses/error-422.json", 422, INVALID, "", "Unprocessable.", ERROR_REQUEST_SPECIFIC, 'o' },
  { "openai-responses/error-429.json", 429, "requests", "rate_limit_exceeded", "Rate", ERROR_TRANSIENT, 'o' },
  { "openai-responses/error-429-quota.json", 429, "insufficient_quota", "credit_balance_exhausted", "You", ERROR_AUTH_UPSTREAM, 'o' },
  { "openai-responses/error-500.json", 500, "server_error", "", "The server", ERROR_TRANSIENT, 'o' },
  { "openai-responses/error-502.html", 502, "", "", "502 Bad Gateway cloudflare", ERROR_TRANSIENT, '-' },
  { "openai-responses/error-503.json", 503, "service_unavailable_error", "server_is_overloaded", "The engine", ERROR_TRANSIENT, 'o' },
  { "anthropic-messages/error-400.json", 400, INVALID, "", "messages: at least", ERROR_REQUEST_SPECIFIC, 'b' },
  { "anthropic-messages/error-401.json", 401, "authentication_error", "", "invalid x-api-key", ERROR_AUTH_UPSTREAM, 'b' },
  { "anthropic-messages/error-402.json", 402, "billing_error", "", "There is an issue", ERROR_AUTH_UPSTREAM, 'b' },
  { "anthropic-messages/error-403.json", 403, "permission_error", "", "Your API key", ERROR_AUTH_CANDIDATE, 'b' },
  { "anthropic-messages/error-404.json", 404, "not_found_error", "", "model: claude-nope", ERROR_MODEL_MISSING, 'b' },
  { "anthropic-messages/error-409.json", 409, "conflict_error", "", "The resource", ERROR_TRANSIENT, 'b' },
  { "anthropic-messages/error-413.json", 413, "request_too_large", "", "Request exceeds", ERROR_REQUEST_SPECIFIC, 'b' },
  { "anthropic-messages/error-429.json", 429, "rate_limit_error", "", "This request would", ERROR_TRANSIENT, 'b' },
  { "anthropic-messages/error-429-spend-limit.json", 429, "rate_limit_error", "contract_spend_limit_reached", "The org", ERROR_AUTH_UPSTREAM, 'b' },
  { "anthropic-messages/error-500.json", 500, "api_error", "", "Internal server error", ERROR_TRANSIENT, 'b' },
  { "anthropic-messages/error-504.json", 504, "timeout_error", "", "Request timed out", ERROR_TRANSIENT, 'b' },
  { "anthropic-messages/error-529.json", 529, "overloaded_error", "", "Overloaded", ERROR_TRANSIENT, 'b' },
  { "azure-openai/error-400-content-filter.json", 400, "", "content_filter", "The response was filtered", ERROR_REQUEST_SPECIFIC, 'o' },
  { "azure-openai/error-401.json", 401, "", "401", "Access denied", ERROR_AUTH_UPSTREAM, 'o' },
  { "azure-openai/error-404.json", 404, "", "DeploymentNotFound", "The API deployment", ERROR_MODEL_MISSING, 'o' },
  { "azure-openai/error-429.json", 429, "", "429", "Requests to the", ERROR_TRANSIENT, 'o' },
  { "azure-openai/error-500.json", 500, "", "InternalServerError", "The server", ERROR_TRANSIENT, 'o' },
  { "azure-openai/error-503.json", 503, "", "ServiceUnavailable", "The service", ERROR_TRANSIENT, 'o' },
  { "bedrock/error-400.json", 400, "", "", "Malformed input request", ERROR_REQUEST_SPECIFIC, '-' },
  { "bedrock/error-403.json", 403, "", "", "You don't have access", ERROR_AUTH_CANDIDATE, '-' },
  { "bedrock/error-404.json", 404, "", "", "Could not resolve", ERROR_MODEL_MISSING, '-' },
  { "bedrock/error-408.json", 408, "", "", "Model processing", ERROR_TRANSIENT, '-' },
  { "bedrock/error-424.json", 424, "", "", "The model encountered", ERROR_OTHER, '-' },
  { "bedrock/error-429.json", 429, "", "", "Too many requests", ERROR_TRANSIENT, '-' },
  { "bedrock/error-429-not-ready.json", 429, "", "", "Model is not ready", ERROR_TRANSIENT, '-' },
  { "bedrock/error-500.json", 500, "", "", "Internal server error", ERROR_TRANSIENT, '-' },
  { "bedrock/error-503.json", 503, "", "", "Bedrock is unable", ERROR_TRANSIENT, '-' },
  { "gemini-openai/error-400.json", 400, "INVALID_ARGUMENT", "400", "API key not valid", ERROR_AUTH_UPSTREAM, '-' },
  { "gemini-openai/error-400-object.json", 400, "INVALID_ARGUMENT", "400", "API key not valid", ERROR_AUTH_UPSTREAM, 'o' },
  { "gemini-openai/error-403.json", 403, "PERMISSION_DENIED", "403", "The caller", ERROR_AUTH_CANDIDATE, '-' },
  { "gemini-openai/error-403-object.json", 403, "PERMISSION_DENIED", "403", "The caller", ERROR_AUTH_CANDIDATE, 'o' },
  { "gemini-openai/error-404.json", 404, "NOT_FOUND", "404", "models/nope is", ERROR_MODEL_MISSING, '-' },
  { "gemini-openai/error-404-object.json", 404, "NOT_FOUND", "404", "models/nope is", ERROR_MODEL_MISSING, 'o' },
  { "gemini-openai/error-429.json", 429, "RESOURCE_EXHAUSTED", "429", "Resource has been", ERROR_TRANSIENT, '-' },
  { "gemini-openai/error-429-object.json", 429, "RESOURCE_EXHAUSTED", "429", "Resource has been", ERROR_TRANSIENT, 'o' },
  { "gemini-openai/error-500.json", 500, "INTERNAL", "500", "", ERROR_TRANSIENT, '-' },
  { "gemini-openai/error-500-object.json", 500, "INTERNAL", "500", "", ERROR_TRANSIENT, 'o' },
  { "gemini-openai/error-503.json", 503, "UNAVAILABLE", "503", "", ERROR_TRANSIENT, '-' },
  { "gemini-openai/error-503-object.json", 503, "UNAVAILABLE", "503", "", ERROR_TRANSIENT, 'o' },
  { "vertex/error-401.json", 401, "UNAUTHENTICATED", "401", "Request had invalid", ERROR_AUTH_UPSTREAM, '-' },
  { "vertex/error-403.json", 403, "PERMISSION_DENIED", "403", "Permission", ERROR_AUTH_CANDIDATE, '-' },
  { "vertex/error-429.json", 429, "RESOURCE_EXHAUSTED", "429", "Resource exhausted", ERROR_TRANSIENT, '-' },
  { "vertex/error-503.json", 503, "UNAVAILABLE", "503", "The service", ERROR_TRANSIENT, '-' },
};

static void reads_every_fixture(void **state) {
  (void)state;
  for (size_t i = 0; i < COUNT(fixtures); i++) {
    const struct fixture_case *c = &fixtures[i];
    struct buf text = { 0 };
    struct arena arena = { 0 };
    struct upstream_error error;
    load(&text, c->name);
    dialect_read_error(buf_span(&text), &arena, &error);
    check_text(c->name, error.type, c->type);
    check_text(c->name, error.code, c->code);
    if (!error.message.n || !span_starts(error.message, c->message)) fail_msg("%s: %.*s", c->name, (int)error.message.n, error.message.p);
    if (dialect_error_kind(c->status, &error) != c->kind)
      fail_msg("%s: %s", c->name, error_kind_name(dialect_error_kind(c->status, &error)));
    if (dialect_has_shape(false, buf_span(&text)) != (c->shapes == 'o' || c->shapes == 'b')) fail_msg("%s: shape", c->name);
    if (dialect_has_shape(true, buf_span(&text)) != (c->shapes == 'b')) fail_msg("%s: messages shape", c->name);
    arena_free(&arena);
    buf_free(&text);
  }
}

/* ---- other shapes ---- */

static void check_read(struct span body, const char *type, const char *code, const char *message) {
  struct arena arena = { 0 };
  struct upstream_error error;
  dialect_read_error(body, &arena, &error);
  check_text("type", error.type, type);
  check_text("code", error.code, code);
  check_text("message", error.message, message);
  arena_free(&arena);
}

static void reads_odd_json(void **state) {
  (void)state;
  static const struct {
    const char *body, *type, *code, *message;
  } cases[] = {
    { "{\"error\":\"model is loading\"}", "", "", "model is loading" },
    { "{\"status\":404,\"error\":\"Not Found\",\"message\":\"no such path\"}", "Not Found", "", "no such path" },
    { "{\"object\":\"error\",\"message\":\"m\",\"type\":\"BadRequestError\",\"code\":400}", "BadRequestError", "400", "m" },
    { "{\"Message\":\"m\",\"__type\":\"X\"}", "", "", "m" },
    { "{\"detail\":\"m\"}", "", "", "m" },
    { "{\"success\":false,\"errors\":[{\"code\":1015,\"message\":\"m\"}]}", "", "1015", "m" },
    { "\xef\xbb\xbf {\"error\":{\"message\":\"\\u00fc\\u0000\"}}", "", "", NULL },
    { "{\"type\":\"error\",\"code\":\"server_error\",\"message\":\"m\",\"param\":null,\"sequence_number\":2}", "", "server_error", "m" },
    { "{\"type\":\"error\",\"status\":400,\"error\":{\"code\":\"previous_response_not_found\",\"message\":\"m\"}}", "", "previous_response_not_found", "m" },
    { "{\"type\":\"response.failed\",\"response\":{\"status\":\"failed\",\"error\":{\"code\":\"server_error\",\"message\":\"m\"}}}", "", "server_error", "m" },
    { "{\"error\":{\"message\":\"m\",\"code\":null,\"innererror\":{\"code\":\"ResponsibleAIPolicyViolation\"}}}", "", "ResponsibleAIPolicyViolation", "m" },
    { "{\"error\":{\"message\":\"[{\\\"error\\\":{\\\"code\\\":429,\\\"message\\\":\\\"inner\\\",\\\"status\\\":\\\"RESOURCE_EXHAUSTED\\\"}}]\",\"code\":500}}",
      "RESOURCE_EXHAUSTED", "429", "inner" },
    { "{\"error\":\"{\\\"message\\\":\\\"inner\\\"}\"}", "", "", "inner" },
    { "\"{\\\"error\\\":{\\\"message\\\":\\\"inner\\\"}}\"", "", "", "inner" },
    { "{\"error\":{\"message\":\"{\\\"a\\\":1}\"}}", "", "", "{\"a\":1}" },
    { "{\"error\":{\"message\":\"{not json\"}}", "", "", "{not json" },
    { "{\"error\":{\"message\":7,\"code\":{},\"type\":[]}}", "", "", "" },
    { "{\"error\":{\"message\":\"m\",\"code\":\"c\"},\"more\":\"cut", "", "c", "m" },
    { "{\"error\":{\"message\":\"cut", "", "", "{\"error\":{\"message\":\"cut" },
    { "{}", "", "", "" },
    { "[]", "", "", "" },
    { "null", "", "", "" },
    { "503", "", "", "503" },
    { "\"busy\"", "", "", "busy" },
    { "", "", "", "" },
  };
  for (size_t i = 0; i < COUNT(cases); i++)
    if (cases[i].message) check_read(span_of(cases[i].body), cases[i].type, cases[i].code, cases[i].message);
  check_read(SPAN_NONE, "", "", "");
  struct arena arena = { 0 };
  struct upstream_error error;
  dialect_read_error(SPAN("\xef\xbb\xbf {\"error\":{\"message\":\"\\u00fc\\u0000\"}}"), &arena, &error);
  assert_true(span_eq(error.message, SPAN("\xc3\xbc\0")));
  arena_free(&arena);
}

static void reads_html_and_text(void **state) {
  (void)state;
  check_read(SPAN("<!DOCTYPE html>\n<html><head><style>p{a>b}</style><SCRIPT>if(a<b)x();</SCRIPT>\n<title>T &amp; t</title>"
                  "</head><body class=\"x\"><!-- <b>no</b> --><h1>a&lt;b&gt; &quot;c&#39;</h1>\n\n  d &amp;lt; &unknown; 1 < 2</body>"),
             "", "", "T & t a<b> \"c' d &lt; &unknown; 1 < 2");
  check_read(SPAN("<?xml version=\"1.0\"?><Error><Code>Busy</Code><Message>slow down</Message></Error>"), "", "", "Busy slow down");
  check_read(SPAN("<script>never closed"), "", "", "");
  check_read(SPAN("<p>cut <b"), "", "", "cut");
  check_read(SPAN("  upstream connect error\r\n\tor &amp; <b>reset</b>\n"), "", "", "upstream connect error or &amp; <b>reset</b>");
  check_read(SPAN(" \r\n "), "", "", "");
}

static void keeps_text_bounded(void **state) {
  (void)state;
  struct buf text = { 0 };
  struct arena arena = { 0 };
  struct upstream_error error;
  buf_puts(&text, "x");
  for (int i = 0; i < 100000; i++) buf_puts(&text, "\xc3\xbc");
  dialect_read_error(buf_span(&text), &arena, &error);
  assert_int_equal(error.message.n, 2047);
  buf_clear(&text);
  buf_puts(&text, "{\"error\":{\"code\":\"late\",\"message\":\"m\"},\"pad\":\"");
  for (int i = 0; i < 100000; i++) buf_puts(&text, "p");
  buf_puts(&text, "\"}");
  dialect_read_error(buf_span(&text), &arena, &error);
  check_text("what lay whole in the first 64 KiB", error.code, "late");
  assert_true(dialect_has_shape(false, buf_span(&text)));
  buf_clear(&text);
  for (int i = 0; i < 20000; i++) buf_puts(&text, "{\"error\":");
  dialect_read_error(buf_span(&text), &arena, &error);
  assert_int_equal(error.message.n, 2048);
  arena_free(&arena);
  buf_free(&text);
}

static void knows_its_shape(void **state) {
  (void)state;
  static const struct {
    const char *body;
    bool openai, messages;
  } cases[] = {
    { "{\"error\":{\"message\":\"m\"}}", true, false },
    { " {\"error\":{\"message\":\"\"},\"type\":\"error\"}\n", true, true },
    { "{\"error\":{\"message\":\"m\"},\"type\":\"failed\"}", true, false },
    { "{\"error\":{\"message\":1}}", false, false },
    { "{\"error\":{\"type\":\"t\"},\"type\":\"error\"}", false, false },
    { "{\"error\":\"m\"}", false, false },
    { "{\"message\":\"m\"}", false, false },
    { "[{\"error\":{\"message\":\"m\"}}]", false, false },
    { "{\"error\":{\"message\":\"m\"}", false, false },
    { "{\"error\":{\"message\":\"m\"}}x", false, false },
    { "<html>", false, false },
    { "", false, false },
  };
  for (size_t i = 0; i < COUNT(cases); i++) {
    assert_int_equal(dialect_has_shape(false, span_of(cases[i].body)), cases[i].openai);
    assert_int_equal(dialect_has_shape(true, span_of(cases[i].body)), cases[i].messages);
  }
}

/* ---- rewriting ---- */

static void check_rewrite(bool messages, int status, const char *body, const char *wanted) {
  struct buf out = { 0 };
  dialect_rewrite_error(&out, messages, status, span_of(body), "R");
  check_text(body, buf_span(&out), wanted);
  buf_free(&out);
}

static void rewrites_other_shapes(void **state) {
  (void)state;
  const char *html = "<html><b>502</b> cloudflare</html>\n", *aws = "{\"message\":\"Malformed\"}";
  const char *gemini = "[{\"error\":{\"code\":429,\"message\":\"full\",\"status\":\"RESOURCE_EXHAUSTED\"}}]";
  check_rewrite(false, 502, html, "{\"error\":{\"message\":\"<html><b>502</b> cloudflare</html>\",\"type\":\"server_error\",\"param\":null,\"code\":null}}");
  check_rewrite(true, 502, html, "{\"type\":\"error\",\"error\":{\"type\":\"api_error\",\"message\":\"<html><b>502</b> cloudflare</html>\"},\"request_id\":\"R\"}");
  check_rewrite(false, 400, aws, "{\"error\":{\"message\":\"Malformed\",\"type\":\"invalid_request_error\",\"param\":null,\"code\":null}}");
  check_rewrite(true, 400, aws, "{\"type\":\"error\",\"error\":{\"type\":\"invalid_request_error\",\"message\":\"Malformed\"},\"request_id\":\"R\"}");
  check_rewrite(false, 429, gemini, "{\"error\":{\"message\":\"full\",\"type\":\"RESOURCE_EXHAUSTED\",\"param\":null,\"code\":\"429\"}}");
  check_rewrite(true, 429, gemini, "{\"type\":\"error\",\"error\":{\"type\":\"rate_limit_error\",\"message\":\"full\"},\"request_id\":\"R\"}");
  check_rewrite(false, 401, "{\"odd\": [1]}", "{\"error\":{\"message\":\"{\\\"odd\\\": [1]}\",\"type\":\"authentication_error\",\"param\":null,\"code\":\"invalid_api_key\"}}");
  check_rewrite(true, 529, "busy", "{\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"busy\"},\"request_id\":\"R\"}");
  check_rewrite(false, 500, "\xff", "{\"error\":{\"message\":\"\xef\xbf\xbd\",\"type\":\"server_error\",\"param\":null,\"code\":null}}");
  check_rewrite(false, 500, "", "{\"error\":{\"message\":\"The upstream sent an error without a text.\",\"type\":\"server_error\",\"param\":null,\"code\":null}}");
}

static void types_the_messages_shape_by_status(void **state) {
  (void)state;
  static const struct {
    int status;
    const char *type;
  } cases[] = { { 400, INVALID },          { 401, "authentication_error" }, { 402, "billing_error" },      { 403, "permission_error" },
                { 404, "not_found_error" }, { 409, "conflict_error" },       { 413, "request_too_large" },  { 422, INVALID },
                { 429, "rate_limit_error" }, { 500, "api_error" },           { 502, "api_error" },          { 503, "overloaded_error" },
                { 504, "timeout_error" },   { 529, "overloaded_error" },     { 302, "api_error" } };
  for (size_t i = 0; i < COUNT(cases); i++) {
    char wanted[160];
    snprintf(wanted, sizeof wanted, "{\"type\":\"error\",\"error\":{\"type\":\"%s\",\"message\":\"t\"},\"request_id\":\"R\"}", cases[i].type);
    check_rewrite(true, cases[i].status, "t", wanted);
  }
}

/* ---- whose fault ---- */

struct kind_case {
  int status;
  const char *type, *code, *message;
  enum error_kind kind;
};

static void check_kinds(const struct kind_case *cases, size_t count) {
  for (size_t i = 0; i < count; i++) {
    const struct kind_case *c = &cases[i];
    struct upstream_error error = { span_of(c->type), span_of(c->code), span_of(c->message) };
    enum error_kind kind = dialect_error_kind(c->status, &error);
    if (kind != c->kind) fail_msg("%d %s %s %s: %s", c->status, c->type, c->code, c->message, error_kind_name(kind));
  }
}

static void reads_codes_before_statuses(void **state) {
  (void)state;
  static const char *const quota[] = { "insufficient_quota", "credit_balance_exhausted", "organization_spend_limit_exceeded",
                                       "project_spend_limit_exceeded", "organization_usage_limit_exceeded",
                                       "billing_hard_limit_reached", "contract_spend_limit_reached",
                                       "enforced_spend_limit_reached", "ramp_limit_exceeded", "billing_error" };
  static const char *const request[] = { "context_length_exceeded", "string_above_max_length", "content_filter",
                                         "content_policy_violation", "invalid_prompt" };
  static const int statuses[] = { 0, 200, 400, 403, 404, 429, 500, 503 };
  for (size_t s = 0; s < COUNT(statuses); s++) {
    for (size_t i = 0; i < COUNT(quota); i++) {
      struct kind_case cases[] = { { statuses[s], "rate_limit_error", quota[i], "", ERROR_AUTH_UPSTREAM },
                                   { statuses[s], quota[i], "context_length_exceeded", "", ERROR_AUTH_UPSTREAM } };
      check_kinds(cases, COUNT(cases));
    }
    for (size_t i = 0; i < COUNT(request); i++)
      check_kinds(&(struct kind_case){ statuses[s], "server_error", request[i], "", ERROR_REQUEST_SPECIFIC }, 1);
    struct kind_case others[] = { { statuses[s], INVALID, "model_not_found", "", ERROR_MODEL_MISSING },
                                  { statuses[s], "", "DeploymentNotFound", "", ERROR_MODEL_MISSING },
                                  { statuses[s], INVALID, "invalid_api_key", "", ERROR_AUTH_UPSTREAM },
                                  { statuses[s], INVALID, "", "prompt is too long: 210000 tokens > 200000 maximum", ERROR_REQUEST_SPECIFIC },
                                  { statuses[s], "", "", "This model's maximum context length is 8192 tokens.", ERROR_REQUEST_SPECIFIC } };
    check_kinds(others, COUNT(others));
  }
}

static void reads_messages_with_care(void **state) {
  (void)state;
  static const struct kind_case cases[] = {
    { 400, INVALID, "", "Your credit balance is too low to access the Anthropic API.", ERROR_AUTH_UPSTREAM },
    { 400, INVALID, "", "messages.0: 'your credit balance is too low' is no role", ERROR_REQUEST_SPECIFIC },
    { 400, "INVALID_ARGUMENT", "400", "API key not valid. Please pass a valid API key.", ERROR_AUTH_UPSTREAM },
    { 500, "", "", "API key not valid", ERROR_TRANSIENT },
    { 404, "not_found_error", "", "model: claude-nope", ERROR_MODEL_MISSING },
    { 404, "NotFoundError", "404", "The model `x` does not exist.", ERROR_MODEL_MISSING },
    { 404, "", "", "model \"x\" not found, try pulling it first", ERROR_MODEL_MISSING },
    { 404, INVALID, "", "No response found with id 'the model y'.", ERROR_REQUEST_SPECIFIC },
    { 404, INVALID, "", "Invalid URL (POST /v1/models/x)", ERROR_REQUEST_SPECIFIC },
    { 404, INVALID, "", "remodel and modeling and model-less", ERROR_REQUEST_SPECIFIC },
    { 404, INVALID, "previous_response_not_found", "No response for this model", ERROR_REQUEST_SPECIFIC },
    { 404, "", "", "", ERROR_REQUEST_SPECIFIC },
    { 400, INVALID, "", "model: bad value", ERROR_REQUEST_SPECIFIC },
  };
  check_kinds(cases, COUNT(cases));
}

static void then_goes_by_the_status(void **state) {
  (void)state;
  static const int transient[] = { 408, 409, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529 };
  static const int request[] = { 400, 404, 413, 422 };
  static const int other[] = { 300, 301, 304, 307, 402 + 4, 405, 410, 415, 418, 424, 426, 451, 501, 505, 507, 525, 530, 599 };
  for (size_t i = 0; i < COUNT(transient); i++) check_kinds(&(struct kind_case){ transient[i], "", "", "m", ERROR_TRANSIENT }, 1);
  for (size_t i = 0; i < COUNT(request); i++) check_kinds(&(struct kind_case){ request[i], "", "", "m", ERROR_REQUEST_SPECIFIC }, 1);
  for (size_t i = 0; i < COUNT(other); i++) check_kinds(&(struct kind_case){ other[i], "", "", "m", ERROR_OTHER }, 1);
  static const struct kind_case auth[] = { { 401, "", "", "m", ERROR_AUTH_UPSTREAM },
                                           { 402, "", "", "m", ERROR_AUTH_UPSTREAM },
                                           { 403, "", "", "m", ERROR_AUTH_CANDIDATE } };
  check_kinds(auth, COUNT(auth));
}

static void gives_stream_errors_a_status(void **state) {
  (void)state;
  static const struct {
    const char *type, *code;
    int status;
    enum error_kind kind;
  } cases[] = {
    { "", "", 502, ERROR_TRANSIENT },
    { "server_error", "server_error", 502, ERROR_TRANSIENT },
    { "api_error", "", 502, ERROR_TRANSIENT },
    { "timeout_error", "", 502, ERROR_TRANSIENT },
    { "rate_limit_error", "", 429, ERROR_TRANSIENT },
    { "", "rate_limit_exceeded", 429, ERROR_TRANSIENT },
    { "tokens", "429", 429, ERROR_TRANSIENT },
    { "overloaded_error", "", 529, ERROR_TRANSIENT },
    { "server_error", "server_is_overloaded", 529, ERROR_TRANSIENT },
    { "authentication_error", "", 401, ERROR_AUTH_UPSTREAM },
    { INVALID, "invalid_api_key", 401, ERROR_AUTH_UPSTREAM },
    { "permission_error", "", 403, ERROR_AUTH_CANDIDATE },
    { "not_found_error", "", 404, ERROR_REQUEST_SPECIFIC },
    { INVALID, "model_not_found", 404, ERROR_MODEL_MISSING },
    { INVALID, "", 400, ERROR_REQUEST_SPECIFIC },
    { INVALID, "previous_response_not_found", 400, ERROR_REQUEST_SPECIFIC },
    { "", "context_length_exceeded", 400, ERROR_REQUEST_SPECIFIC },
    { "", "invalid_image_url", 400, ERROR_REQUEST_SPECIFIC },
    { "", "image_too_large", 400, ERROR_REQUEST_SPECIFIC },
    { "", "vector_store_timeout", 502, ERROR_TRANSIENT },
    { "insufficient_quota", "", 429, ERROR_AUTH_UPSTREAM },
  };
  for (size_t i = 0; i < COUNT(cases); i++) {
    struct upstream_error error = { span_of(cases[i].type), span_of(cases[i].code), SPAN("m") };
    assert_int_equal(dialect_error_status(&error), cases[i].status);
    for (int status = 0; status <= 200; status += 200) check_kinds(&(struct kind_case){ status, cases[i].type, cases[i].code, "m", cases[i].kind }, 1);
  }
}

static void names_kinds(void **state) {
  (void)state;
  assert_string_equal(error_kind_name(ERROR_TRANSIENT), "transient");
  assert_string_equal(error_kind_name(ERROR_AUTH_UPSTREAM), "auth_dead");
  assert_string_equal(error_kind_name(ERROR_AUTH_CANDIDATE), "auth_dead");
  assert_string_equal(error_kind_name(ERROR_MODEL_MISSING), "model_missing");
  assert_string_equal(error_kind_name(ERROR_REQUEST_SPECIFIC), "request_specific");
  assert_string_equal(error_kind_name(ERROR_OTHER), "other");
}

/* ---- bytes nobody meant ---- */

static uint32_t seed = 20261120;

static uint32_t draw(uint32_t below) {
  seed = seed * 1664525u + 1013904223u;
  return (uint32_t)((uint64_t)seed * below >> 32);
}

static void mutate(struct buf *text) {
  static const char *const pieces[] = { "{", "}", "[", "]", "\"", "\\", "\\u00", "\\ud800", ":", ",", "<", ">", "</script", "<script>",
                                        "<!--", "&amp;", "\xff", "\xc3", "\xf0\x9f", "null", "1e9", "\"error\":", "\"message\":\"" };
  for (uint32_t changes = draw(5); changes > 0 && text->n > 0; changes--) {
    const char *piece = pieces[draw(COUNT(pieces))];
    uint32_t at = draw((uint32_t)text->n), n = (uint32_t)strlen(piece);
    if (at + n <= text->n) memcpy(text->p + at, piece, n);
    if (draw(4) == 0) text->n = at;
    if (draw(8) == 0 && text->n > 0) text->p[draw((uint32_t)text->n)] = (char)draw(256);
  }
}

static void survives_any_body(void **state) {
  (void)state;
  for (int round = 0; round < 4000; round++) {
    struct buf text = { 0 }, out = { 0 }, nested = { 0 };
    struct arena arena = { 0 };
    struct upstream_error error;
    load(&text, fixtures[draw(COUNT(fixtures))].name);
    mutate(&text);
    if (draw(3) == 0) { /* encoded once more, and broken again */
      buf_puts(&nested, "{\"error\":{\"message\":");
      json_put_string(&nested, buf_span(&text));
      buf_puts(&nested, "}}");
      mutate(&nested);
    }
    struct span from = buf_span(nested.n ? &nested : &text);
    char *exact = malloc(from.n ? from.n : 1);
    if (from.n) memcpy(exact, from.p, from.n);
    struct span body = { exact, from.n };
    bool messages = draw(2) == 0;
    dialect_read_error(body, &arena, &error);
    assert_true(error.message.n <= 64 * 1024 && error.type.n <= 256 && error.code.n <= 256);
    assert_non_null(error_kind_name(dialect_error_kind((int)draw(600), &error)));
    dialect_rewrite_error(&out, messages, (int)draw(600), body, "R");
    assert_true(dialect_has_shape(messages, buf_span(&out)));
    (void)dialect_has_shape(messages, body);
    free(exact);
    arena_free(&arena);
    buf_free(&text);
    buf_free(&nested);
    buf_free(&out);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
    TEST("paths, names and APIs of the routes", knows_routes),
    TEST("APIs and the routes they serve", knows_apis),
    TEST("W7 error bodies: exhausted and deadline", says_exhausted),
    TEST("W7 error bodies: every refusal, both shapes", says_each_refusal),
    TEST("W7 error bodies: words nobody gave go by the status", fills_in_what_nobody_said),
    TEST("W9 error frames: golden per route", ends_a_broken_stream),
    TEST("every error fixture is read, classified and its shape known", reads_every_fixture),
    TEST("error bodies: odd and doubly encoded JSON", reads_odd_json),
    TEST("error bodies: HTML and plain text", reads_html_and_text),
    TEST("error bodies: what is read stays bounded", keeps_text_bounded),
    TEST("a body in the route's shape is told from one that is not", knows_its_shape),
    TEST("W7 error bodies: other shapes are rewritten", rewrites_other_shapes),
    TEST("W7 error bodies: types of the messages shape by status", types_the_messages_shape_by_status),
    TEST("C3 A6 kinds: codes before statuses", reads_codes_before_statuses),
    TEST("C3 kinds: messages cannot be made to lie", reads_messages_with_care),
    TEST("C3 kinds: then by status", then_goes_by_the_status),
    TEST("an accepted stream error gets a real status", gives_stream_errors_a_status),
    TEST("kinds have the names policies see", names_kinds),
    TEST("any body: no crash, and what is rewritten is well-formed", survives_any_body),
  };
  return cmocka_run_group_tests_name("dialect", tests, NULL, NULL);
}
