/*
 * Reading an error in any shape that is known, and saying whose fault it is.
 *
 * A body may be anything: the providers' own objects, an array around one, an object around text that is such an object
 * again, a page of a load balancer, or garbage. At most the first READ_MAX bytes are looked at and nothing goes deeper
 * than NESTING_MAX. A body cut short still gives the members that were whole. Whatever is told lives in the arena.
 *
 * Whose fault it is goes by words before statuses: the table `words` is searched from the top, so what is worst for the
 * upstream comes first. A message is prose and may quote the client's own text; so where a message alone would bench an
 * upstream it must begin with the provider's sentence, and where it would bench a candidate it must not be in quotes.
 */
#include "core/dialect.h"

#include "core/body.h"

enum { READ_MAX = 64 * 1024, TEXT_MAX = 2048, NAME_MAX = 256, NESTING_MAX = 8, LOOK_MAX = 2048 };

/* ---- JSON ---- */

static struct span keep(struct span text, size_t most, struct arena *arena) {
  if (text.n == 0 || text.n > most) return SPAN_NONE;
  const char *copy = arena_copy(arena, text);
  return copy ? (struct span){ copy, text.n } : SPAN_NONE;
}

/* A code or type: a short text or number. */
static struct span keep_name(struct body_value value, struct arena *arena) {
  if (value.kind == BODY_NUMBER) return keep(value.raw, NAME_MAX, arena);
  return keep(body_text(value, arena), NAME_MAX, arena);
}

static void set_if(struct span *to, struct span text) {
  if (text.n) *to = text;
}

static void read_value(struct body_value value, int nesting, struct arena *arena, struct upstream_error *error);

/* Text may itself be JSON with an error in it, which then says more; else it is the message. */
static void read_text(struct body_value value, int nesting, struct arena *arena, struct upstream_error *error) {
  struct span text = body_text(value, arena), json = text.n ? span_trim(text) : text;
  bool maybe = json.n > 1 && (json.p[0] == '{' || json.p[0] == '[') && nesting < NESTING_MAX;
  if (maybe && body_scan(json, NULL, NULL, 0, NULL) == BODY_GOOD) {
    struct upstream_error inner = { 0 };
    read_value(body_root(json), nesting + 1, arena, &inner);
    if (inner.message.n) {
      error->message = inner.message;
      set_if(&error->type, inner.type);
      set_if(&error->code, inner.code);
      return;
    }
  }
  set_if(&error->message, keep(text, READ_MAX, arena));
}

enum { TYPE, STATUS, CODE, DETAILS, INNER, MESSAGE, AWS_MESSAGE, DETAIL, ERROR, ERRORS, RESPONSE, MEMBERS };

static const char *const member_names[MEMBERS] = { "type",    "status", "code",  "details", "innererror", "message",
                                                   "Message", "detail", "error", "errors",  "response" };

/* The members of an error object, or of a flat body that is one. An envelope's type says nothing about the error. */
static void read_members(const struct body_value *v, int nesting, struct arena *arena, struct upstream_error *error) {
  static const char *const detail_code[] = { "error_code" }, *const inner_code[] = { "code" };
  struct body_value detail, inner;
  body_members(v[DETAILS], detail_code, &detail, 1);
  body_members(v[INNER], inner_code, &inner, 1);
  bool envelope = v[ERROR].kind == BODY_OBJECT || v[RESPONSE].kind == BODY_OBJECT;
  bool typed = v[TYPE].kind == BODY_STRING && !body_is(v[TYPE], "error");
  if (!envelope) set_if(&error->type, keep(body_text(v[typed ? TYPE : STATUS], arena), NAME_MAX, arena));
  set_if(&error->code, keep_name(inner, arena));
  set_if(&error->code, keep_name(v[CODE], arena));
  set_if(&error->code, keep_name(detail, arena));
  int message = v[MESSAGE].kind == BODY_STRING ? MESSAGE : v[AWS_MESSAGE].kind == BODY_STRING ? AWS_MESSAGE : DETAIL;
  if (v[message].kind == BODY_STRING) read_text(v[message], nesting, arena, error);
}

/* What a body has in it, outermost first; what is further in says it better. */
static void read_object(const struct body_value *v, int nesting, struct arena *arena, struct upstream_error *error) {
  read_members(v, nesting, arena, error);
  static const int inside[] = { RESPONSE, ERRORS, ERROR };
  for (size_t i = 0; i < sizeof inside / sizeof *inside; i++) {
    struct body_value value = v[inside[i]];
    bool text_beside = value.kind == BODY_STRING && error->message.n;
    if (value.kind == BODY_ABSENT || value.kind == BODY_NULL) continue;
    if (text_beside && !error->type.n) error->type = keep_name(value, arena); /* {"error":"Not Found","message":...} */
    else if (!text_beside) read_value(value, nesting + 1, arena, error);
  }
}

static void read_value(struct body_value value, int nesting, struct arena *arena, struct upstream_error *error) {
  struct body_value v[MEMBERS], first;
  size_t at = 0;
  if (nesting > NESTING_MAX) return;
  if (value.kind == BODY_STRING) read_text(value, nesting, arena, error);
  if (value.kind == BODY_ARRAY && body_element(value, &at, &first)) read_value(first, nesting + 1, arena, error);
  if (value.kind != BODY_OBJECT) return;
  body_members(value, member_names, v, MEMBERS);
  read_object(v, nesting, arena, error);
}

/* ---- HTML and plain text ---- */

static bool begins_nocase(struct span text, const char *prefix) {
  size_t n = strlen(prefix);
  return text.n >= n && strncasecmp(text.p, prefix, n) == 0;
}

static bool is_letter(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

static bool is_tag(struct span text) {
  return text.n > 1 && text.p[0] == '<' && (is_letter(text.p[1]) || strchr("/!?", text.p[1])) && text.p[1];
}

/* Behind the next `mark`; the end when there is none, so that every byte is passed once. */
static struct span skip_past(struct span text, const char *mark) {
  const char *at = memmem(text.p, text.n, mark, strlen(mark));
  return at ? span_skip(text, (size_t)(at - text.p) + strlen(mark)) : span_skip(text, text.n);
}

/* At the `<` of a tag: behind the tag, or behind all of a comment, script or style. */
static struct span skip_tag(struct span text) {
  static const char *const dropped[][2] = { { "<script", "</script" }, { "<style", "</style" } };
  if (begins_nocase(text, "<!--")) return skip_past(span_skip(text, 4), "-->");
  for (size_t i = 0; i < 2; i++) {
    size_t n = strlen(dropped[i][0]);
    if (!begins_nocase(text, dropped[i][0]) || (text.n > n && is_letter(text.p[n]))) continue;
    while (text.n && !begins_nocase(text, dropped[i][1])) text = span_skip(text, 1);
  }
  return skip_past(text, ">");
}

/* One character of the text at its front, entities undone; *text moves behind it. */
static char take_character(struct span *text, bool html) {
  static const struct {
    const char *entity;
    char c;
  } entities[] = { { "&amp;", '&' },  { "&lt;", '<' },   { "&gt;", '>' },
                   { "&quot;", '"' }, { "&#39;", '\'' }, { "&nbsp;", ' ' } };
  char c = text->p[0];
  for (size_t i = 0; html && c == '&' && i < sizeof entities / sizeof *entities; i++) {
    if (!span_starts(*text, entities[i].entity)) continue;
    *text = span_skip(*text, strlen(entities[i].entity));
    return entities[i].c;
  }
  *text = span_skip(*text, 1);
  return (unsigned char)c < 0x20 || c == 0x7f ? ' ' : c;
}

/* Not in the middle of a UTF-8 character. */
static size_t cut_length(const char *text, size_t n) {
  size_t at = n;
  for (int back = 0; back < 4 && at > 0; back++) {
    unsigned char c = (unsigned char)text[--at];
    if (c < 0x80) return n;
    if (c < 0xc0) continue;
    size_t length = c >= 0xf0 ? 4 : c >= 0xe0 ? 3 : 2;
    return at + length > n ? at : n;
  }
  return n;
}

static struct span plain_text(struct span text, struct arena *arena) {
  text = span_trim(text);
  bool html = is_tag(text);
  char *out = text.n ? arena_alloc(arena, TEXT_MAX) : NULL;
  size_t n = 0;
  if (!out) return SPAN_NONE;
  while (text.n && n < TEXT_MAX) {
    char c = ' ';
    if (html && is_tag(text)) text = skip_tag(text);
    else c = take_character(&text, html);
    if (c != ' ' || (n && out[n - 1] != ' ')) out[n++] = c;
  }
  if (text.n) n = cut_length(out, n);
  if (n && out[n - 1] == ' ') n--;
  return n ? (struct span){ out, n } : SPAN_NONE;
}

void dialect_read_error(struct span body, struct arena *arena, struct upstream_error *error) {
  struct body_value v[MEMBERS];
  *error = (struct upstream_error){ 0 };
  if (!body.p) return;
  if (body.n > READ_MAX) body.n = READ_MAX;
  if (span_starts(body, "\xef\xbb\xbf")) body = span_skip(body, 3);
  bool good = body_scan(body, member_names, v, MEMBERS, NULL) == BODY_GOOD;
  struct body_value root = good ? body_root(body) : (struct body_value){ .kind = BODY_ABSENT };
  bool structured = root.kind == BODY_OBJECT || root.kind == BODY_ARRAY || root.kind == BODY_STRING;
  if (structured) read_value(root, 0, arena, error);
  else read_object(v, 0, arena, error); /* the members of an object that is cut short; none otherwise */
  if (!structured && !error->message.n && root.kind != BODY_NULL) error->message = plain_text(body, arena);
}

/* ---- whose fault it is ---- */

static const struct word {
  const char *word;     /* a code or a type */
  int status;           /* of a stream error that says it */
  bool tells;           /* it decides, whatever the status; else the status does */
  enum error_kind kind; /* when it tells */
} words[] = {
  { "insufficient_quota", 429, true, ERROR_AUTH_UPSTREAM },
  { "credit_balance_exhausted", 429, true, ERROR_AUTH_UPSTREAM },
  { "organization_spend_limit_exceeded", 429, true, ERROR_AUTH_UPSTREAM },
  { "project_spend_limit_exceeded", 429, true, ERROR_AUTH_UPSTREAM },
  { "organization_usage_limit_exceeded", 429, true, ERROR_AUTH_UPSTREAM },
  { "contract_spend_limit_reached", 429, true, ERROR_AUTH_UPSTREAM },
  { "enforced_spend_limit_reached", 429, true, ERROR_AUTH_UPSTREAM },
  { "ramp_limit_exceeded", 429, true, ERROR_AUTH_UPSTREAM },
  { "billing_hard_limit_reached", 429, true, ERROR_AUTH_UPSTREAM },
  { "billing_not_active", 429, true, ERROR_AUTH_UPSTREAM },
  { "billing_error", 502, true, ERROR_AUTH_UPSTREAM },
  { "invalid_api_key", 401, true, ERROR_AUTH_UPSTREAM },
  { "context_length_exceeded", 400, true, ERROR_REQUEST_SPECIFIC },
  { "string_above_max_length", 400, true, ERROR_REQUEST_SPECIFIC },
  { "content_filter", 400, true, ERROR_REQUEST_SPECIFIC },
  { "content_policy_violation", 400, true, ERROR_REQUEST_SPECIFIC },
  { "image_content_policy_violation", 400, true, ERROR_REQUEST_SPECIFIC },
  { "ResponsibleAIPolicyViolation", 400, true, ERROR_REQUEST_SPECIFIC },
  { "bio_policy", 400, true, ERROR_REQUEST_SPECIFIC },
  { "invalid_prompt", 400, true, ERROR_REQUEST_SPECIFIC },
  { "model_not_found", 404, true, ERROR_MODEL_MISSING },
  { "DeploymentNotFound", 404, true, ERROR_MODEL_MISSING },
  { "rate_limit_error", 429, false, ERROR_OTHER },
  { "rate_limit_exceeded", 429, false, ERROR_OTHER },
  { "slow_down", 429, false, ERROR_OTHER },
  { "RESOURCE_EXHAUSTED", 429, false, ERROR_OTHER },
  { "overloaded_error", 529, false, ERROR_OTHER },
  { "server_is_overloaded", 529, false, ERROR_OTHER },
  { "overloaded", 529, false, ERROR_OTHER },
  { "authentication_error", 401, false, ERROR_OTHER },
  { "UNAUTHENTICATED", 401, false, ERROR_OTHER },
  { "account_deactivated", 401, false, ERROR_OTHER },
  { "permission_error", 403, false, ERROR_OTHER },
  { "PERMISSION_DENIED", 403, false, ERROR_OTHER },
  { "request_forbidden", 403, false, ERROR_OTHER },
  { "previous_response_not_found", 400, false, ERROR_OTHER },
  { "not_found_error", 404, false, ERROR_OTHER },
  { "NOT_FOUND", 404, false, ERROR_OTHER },
  { "invalid_request_error", 400, false, ERROR_OTHER },
  { "request_too_large", 400, false, ERROR_OTHER },
  { "INVALID_ARGUMENT", 400, false, ERROR_OTHER },
};

static const struct word *find_word(const struct upstream_error *error) {
  for (size_t i = 0; i < sizeof words / sizeof *words; i++)
    if (span_is_nocase(error->code, words[i].word) || span_is_nocase(error->type, words[i].word)) return &words[i];
  return NULL;
}

static bool contains_nocase(struct span text, const char *part) {
  for (; text.n >= strlen(part); text = span_skip(text, 1))
    if (begins_nocase(text, part)) return true;
  return false;
}

int dialect_error_status(const struct upstream_error *error) {
  static const int statuses[] = { 400, 401, 403, 404, 429, 529 };
  const struct word *word = find_word(error);
  if (word) return word->status;
  for (size_t i = 0; i < sizeof statuses / sizeof *statuses; i++) {
    int status = statuses[i];
    char digits[4] = { (char)('0' + status / 100), (char)('0' + status / 10 % 10), (char)('0' + status % 10) };
    if (span_is(error->code, digits)) return status;
  }
  bool request = begins_nocase(error->code, "invalid_") || contains_nocase(error->code, "image");
  return request ? 400 : 502;
}

/* Is a model spoken of: the word, not a part of another, of a path or of a quotation. */
static bool names_model(struct span message) {
  char quote = 0, before = ' ';
  for (struct span at = message; at.n; before = at.p[0], at = span_skip(at, 1)) {
    char c = at.p[0];
    if (quote) {
      if (c == quote) quote = 0;
      continue;
    }
    if (before != ' ') continue;
    if (c == '\'' || c == '"' || c == '`') quote = c;
    if (!begins_nocase(at, "model")) continue;
    struct span rest = span_skip(at, begins_nocase(at, "models") ? 6 : 5);
    if (!rest.n || !(is_letter(rest.p[0]) || strchr("_-0123456789", rest.p[0]))) return true;
  }
  return false;
}

/* Not a code that says that something else was not found. */
static bool may_mean_model(struct span code) {
  if (code.n == 0 || (code.p[0] >= '0' && code.p[0] <= '9')) return true;
  return contains_nocase(code, "model") || span_is_nocase(code, "not_found");
}

/* What the message says when the words do not. */
static bool kind_of_message(int status, const struct upstream_error *error, enum error_kind *kind) {
  static const char *const dead[] = { "your credit balance is too low", "credit balance is too low",
                                      "api key not valid", "you have reached your specified api usage limits" };
  static const char *const too_long[] = { "prompt is too long", "input is too long", "maximum context length",
                                          "exceeds the context window", "exceed context limit" };
  struct span message = error->message;
  if (message.n > LOOK_MAX) message.n = LOOK_MAX;
  for (size_t i = 0; i < sizeof dead / sizeof *dead; i++) {
    if (status < 400 || status > 499 || !begins_nocase(message, dead[i])) continue;
    *kind = ERROR_AUTH_UPSTREAM;
    return true;
  }
  for (size_t i = 0; i < sizeof too_long / sizeof *too_long; i++) {
    if (!contains_nocase(message, too_long[i])) continue;
    *kind = ERROR_REQUEST_SPECIFIC;
    return true;
  }
  *kind = ERROR_MODEL_MISSING;
  return status == 404 && may_mean_model(error->code) && names_model(message);
}

static enum error_kind kind_of_status(int status) {
  switch (status) {
    case 401: case 402: return ERROR_AUTH_UPSTREAM;
    case 403: return ERROR_AUTH_CANDIDATE;
    case 400: case 404: case 413: case 422: return ERROR_REQUEST_SPECIFIC;
    case 408: case 409: case 425: case 429: case 500: case 502: case 503: case 504:
    case 520: case 521: case 522: case 523: case 524: case 529: return ERROR_TRANSIENT;
    default: return ERROR_OTHER;
  }
}

/* An error inside a good answer has no status but the one its words stand for. */
enum error_kind dialect_error_kind(int status, const struct upstream_error *error) {
  const struct word *word = find_word(error);
  enum error_kind kind;
  if (word && word->tells) return word->kind;
  if (status < 300) status = dialect_error_status(error);
  return kind_of_message(status, error, &kind) ? kind : kind_of_status(status);
}

const char *error_kind_name(enum error_kind kind) {
  switch (kind) {
    case ERROR_TRANSIENT: return "transient";
    case ERROR_AUTH_UPSTREAM:
    case ERROR_AUTH_CANDIDATE: return "auth_dead";
    case ERROR_MODEL_MISSING: return "model_missing";
    case ERROR_REQUEST_SPECIFIC: return "request_specific";
    case ERROR_OTHER: break;
  }
  return "other";
}
