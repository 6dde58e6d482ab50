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

enum { READ_MAX = 64 * 1024, TEXT_MAX = 2048, NAME_MAX = 256, NESTING_MAX = 4, LOOK_MAX = 2048 };

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

/* The members of an error object, or of a flat body that is one. A type that says only "error" says nothing. */
static void read_members(const struct body_value *v, int nesting, struct arena *arena, struct upstream_error *error) {
  static const char *const detail_code[] = { "error_code" }, *const inner_code[] = { "code" };
  struct body_value detail, inner;
  body_members(v[DETAILS], detail_code, &detail, 1);
  body_members(v[INNER], inner_code, &inner, 1);
  set_if(&error->type, keep_name(v[STATUS].kind == BODY_STRING ? v[STATUS] : v[TYPE], arena));
  if (v[TYPE].kind == BODY_STRING && !body_is(v[TYPE], "error")) set_if(&error->type, keep_name(v[TYPE], arena));
  if (span_is(error->type, "error")) error->type = SPAN_NONE;
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
  } entities[] = { { "&amp;", '&' }, { "&lt;", '<' }, { "&gt;", '>' }, { "&quot;", '"' }, { "&#39;", '\'' }, { "&nbsp;", ' ' } };
  char c = text->p[0];
  size_t n = 1;
  for (size_t i = 0; html && c == '&' && i < sizeof entities / sizeof *entities; i++) {
    if (!span_starts(*text, entities[i].entity)) continue;
    *text = span_skip(*text, strlen(entities[i].entity));
    return entities[i].c;
  }
  *text = span_skip(*text, n);
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
