/* GET /v1/models and /v1/models/{id}: answered from the configuration, as far as the client's grant goes, in the shape the client speaks. */
#include <stdlib.h>

#include "base/json.h"
#include "proxy/exchange_state.h"

static bool granted(const struct client *client, const char *name) {
  if (!client || !client->models) return true;
  for (size_t i = 0; i < client->model_count; i++)
    if (strcmp(client->models[i], name) == 0) return true;
  return false;
}

static void put_model(struct buf *out, const char *name, bool anthropic) {
  json_put_comma(out);
  buf_puts(out, anthropic ? "{\"type\":\"model\",\"id\":" : "{\"id\":");
  json_put_string(out, span_of(name));
  if (!anthropic) {
    buf_puts(out, ",\"object\":\"model\",\"created\":0,\"owned_by\":\"bullpen\"}");
    return;
  }
  buf_puts(out, ",\"display_name\":");
  json_put_string(out, span_of(name));
  buf_puts(out, ",\"created_at\":\"1970-01-01T00:00:00Z\"}");
}

static void put_id_or_null(struct buf *out, const char *key, const char *name) {
  json_put_key(out, key);
  name ? json_put_string(out, span_of(name)) : buf_puts(out, "null");
}

static void put_list(struct exchange *ex, struct buf *out, bool anthropic) {
  const char *first = NULL, *last = NULL;
  buf_puts(out, anthropic ? "{\"data\":[" : "{\"object\":\"list\",\"data\":[");
  for (size_t i = 0; i < ex->config->model_count; i++) {
    const char *name = ex->config->models[i].name;
    if (!granted(ex->client, name)) continue;
    put_model(out, name, anthropic);
    if (!first) first = name;
    last = name;
  }
  buf_puts(out, "]");
  if (anthropic) {
    buf_puts(out, ",\"has_more\":false");
    put_id_or_null(out, "first_id", first);
    put_id_or_null(out, "last_id", last);
  }
  buf_puts(out, "}");
}

/* A path's %XX undone, in the arena. */
static const char *decoded(struct arena *arena, struct span text) {
  char *out = arena_copy(arena, text), *to = out;
  unsigned value;
  for (size_t i = 0; out && i < text.n; i++) {
    char hex[3] = { 0 };
    if (text.p[i] == '%' && i + 2 < text.n) memcpy(hex, &text.p[i + 1], 2);
    bool escaped = strspn(hex, "0123456789abcdefABCDEF") == 2 && (value = (unsigned)strtoul(hex, NULL, 16)) != 0;
    *to++ = escaped ? (char)value : text.p[i];
    if (escaped) i += 2;
  }
  if (out) *to = 0;
  return out;
}

void models_list(struct exchange *ex) {
  bool anthropic = headers_get(ex->in.headers, "anthropic-version").n > 0;
  struct buf body = { 0 };
  ex->step = STEP_ANSWER;
  if (span_is(ex->in.path, "/v1/models") || span_is(ex->in.path, "/v1/models/")) {
    put_list(ex, &body, anthropic);
    answer_json(ex, &body);
    tell_refused(ex, OUTCOME_NONE, 200);
    return;
  }
  const char *name = decoded(&ex->arena, span_skip(ex->in.path, strlen("/v1/models/")));
  for (size_t i = 0; name && i < ex->config->model_count; i++) {
    if (strcmp(ex->config->models[i].name, name) != 0 || !granted(ex->client, name)) continue;
    put_model(&body, name, anthropic);
    answer_json(ex, &body);
    tell_refused(ex, OUTCOME_NONE, 200);
    return;
  }
  struct error_text error = { .status = refusal_status(REFUSAL_UNKNOWN_MODEL), .request_id = ex->request.id };
  error.message = span_of(arena_printf(&ex->arena, "Model '%s' not found", name ? name : ""));
  dialect_refusal(REFUSAL_UNKNOWN_MODEL, anthropic, &error);
  answer_error(ex, &error, 0, false, false);
  tell_refused(ex, OUTCOME_NONE, error.status);
}
