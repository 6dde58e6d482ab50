/*
 * What the events of each route mean for failover, as contract section 6 has it. Until the first event that carries
 * anything a client could have used, another upstream may still answer; so the question to each event is: is there
 * content in it?
 *
 *   hold     nothing yet: comments, pings, envelopes, empty deltas
 *   commit   content, or what is not understood and so may be content
 *   end      the stream says that it is over
 *   fail     the stream says that it went wrong
 *
 * The chat route has no event types: a chunk is judged by its members. The responses and messages routes name their
 * events, and the name decides; data is read only for the facts, and for the few names that come with or without
 * content.
 *
 * An ordinary delta costs one scan of its data and allocates nothing. What goes out in facts is copied into the arena:
 * the event's bytes are gone with the next one.
 */
#include "core/commit.h"

#include "core/body.h"

enum { KEPT_TEXT_MAX = 256, PLAIN_TEXT_MAX = 2048 };

/* ---- facts that all routes share ---- */

static struct span keep_text(struct body_value value, struct arena *arena) {
  struct span text = body_text(value, arena);
  if (!text.n || text.p != value.raw.p + 1) return text.n ? text : SPAN_NONE;
  const char *copy = arena_copy(arena, text);
  return copy ? (struct span){ copy, text.n } : SPAN_NONE;
}

/* Ids and reasons: names, not prose. */
static struct span keep_name(struct body_value value, struct arena *arena) {
  return value.raw.n <= KEPT_TEXT_MAX ? keep_text(value, arena) : SPAN_NONE;
}

/* null, false, "", {} and [] say nothing. */
static bool is_something(struct body_value value) {
  switch (value.kind) {
  case BODY_ABSENT:
  case BODY_NULL: return false;
  case BODY_BOOL: return body_is_true(value);
  case BODY_NUMBER: return true;
  case BODY_STRING: return value.raw.n > 2;
  case BODY_OBJECT:
  case BODY_ARRAY: return value.raw.n > 2 && span_trim((struct span){ value.raw.p + 1, value.raw.n - 2 }).n > 0;
  }
  return false;
}

static uint64_t read_count(struct body_value value) {
  double number = body_number(value, 0);
  return number > 0 && number < 1e15 ? (uint64_t)number : 0;
}

static struct body_value member_of(struct body_value object, const char *name) {
  struct body_value value;
  body_members(object, &name, &value, 1);
  return value;
}

static void read_usage(struct body_value object, struct usage *usage) {
  enum { PROMPT, COMPLETION, PROMPT_MORE, INPUT, OUTPUT, INPUT_MORE, CACHE_READ, COUNT };
  static const char *const names[COUNT] = { "prompt_tokens",        "completion_tokens",      "prompt_tokens_details",
                                            "input_tokens",         "output_tokens",          "input_tokens_details",
                                            "cache_read_input_tokens" };
  struct body_value v[COUNT];
  if (object.kind != BODY_OBJECT) return;
  body_members(object, names, v, COUNT);
  usage->known = true;
  usage->input = read_count(v[v[PROMPT].times ? PROMPT : INPUT]);
  usage->output = read_count(v[v[COMPLETION].times ? COMPLETION : OUTPUT]);
  struct body_value more = v[v[PROMPT_MORE].times ? PROMPT_MORE : INPUT_MORE];
  usage->cached = read_count(more.kind == BODY_OBJECT ? member_of(more, "cached_tokens") : v[CACHE_READ]);
}

/* ---- errors ---- */

static bool is_error(struct body_value value) {
  return value.kind == BODY_OBJECT || (value.kind == BODY_STRING && value.raw.n > 2);
}

/* An object {type, code, message}, or text alone. */
static void read_error(struct body_value value, struct arena *arena, struct upstream_error *error) {
  enum { TYPE, STATUS, CODE, MESSAGE, DETAILS, COUNT };
  static const char *const names[COUNT] = { "type", "status", "code", "message", "details" };
  struct body_value v[COUNT];
  if (value.kind == BODY_STRING) error->message = keep_text(value, arena);
  if (value.kind != BODY_OBJECT) return;
  body_members(value, names, v, COUNT);
  error->type = keep_name(v[v[TYPE].kind == BODY_STRING ? TYPE : STATUS], arena);
  error->message = keep_text(v[MESSAGE], arena);
  struct body_value detail = member_of(v[DETAILS], "error_code");
  if (detail.kind == BODY_STRING) v[CODE] = detail;
  error->code = keep_name(v[CODE], arena);
  if (v[CODE].kind != BODY_NUMBER || v[CODE].raw.n > KEPT_TEXT_MAX) return;
  const char *digits = arena_copy(arena, v[CODE].raw);
  if (digits) error->code = (struct span){ digits, v[CODE].raw.n };
}

/* The error of an event that fails: its `error` member; else the event itself is flat; else it is plain text. */
static void fail_with(struct body_value nested, struct span data, struct arena *arena, struct event_facts *facts) {
  facts->class = EVENT_FAIL;
  if (is_error(nested)) {
    read_error(nested, arena, &facts->error);
  } else if (body_scan(data, NULL, NULL, 0, NULL) == BODY_GOOD) {
    read_error(body_root(data), arena, &facts->error);
    if (span_is(facts->error.type, "error")) facts->error.type = SPAN_NONE;
  } else {
    struct span text = span_trim(data);
    if (text.n > PLAIN_TEXT_MAX) text.n = PLAIN_TEXT_MAX;
    const char *copy = text.n ? arena_copy(arena, text) : NULL;
    if (copy) facts->error.message = (struct span){ copy, text.n };
  }
}

/* Gemini's shape: an array whose first element holds the error. */
static struct body_value error_in_array(struct body_value root) {
  struct body_value first;
  size_t at = 0;
  return body_element(root, &at, &first) ? member_of(first, "error") : first;
}

/* ---- chat and completions ---- */

/* Does a delta carry anything but its role. */
static bool delta_has_content(struct body_value delta, bool *role) {
  if (delta.kind != BODY_OBJECT) return is_something(delta);
  struct body_value name, value;
  bool content = false;
  for (size_t at = 0; body_member(delta, &at, &name, &value);) {
    if (body_is(name, "role")) *role = true;
    else if (is_something(value)) content = true;
  }
  return content;
}

/* A finish reason counts only when it is text: some upstreams send "" until they have one. */
static bool read_finish(struct body_value reason, struct arena *arena, struct event_facts *facts) {
  if (reason.kind != BODY_STRING || !is_something(reason)) return false;
  facts->finished = true;
  facts->finish_reason = keep_name(reason, arena);
  return true;
}

static void read_choices(struct body_value choices, struct arena *arena, struct event_facts *facts, bool *role) {
  enum { DELTA, MESSAGE, TEXT, FINISH, COUNT };
  static const char *const names[COUNT] = { "delta", "message", "text", "finish_reason" };
  struct body_value choice, v[COUNT];
  for (size_t at = 0; body_element(choices, &at, &choice);) {
    body_members(choice, names, v, COUNT);
    bool content = delta_has_content(v[DELTA], role) | delta_has_content(v[MESSAGE], role) | is_something(v[TEXT]);
    bool finish = read_finish(v[FINISH], arena, facts);
    if (content || finish) facts->class = EVENT_COMMIT;
  }
}

/* A chunk without choices: an error of an older shape, bare usage, or something unknown. */
static void read_odd_chunk(struct body_value usage, struct span data, struct arena *arena, struct event_facts *facts) {
  struct body_value root = body_root(data), error = error_in_array(root);
  if (is_error(error) || body_is(member_of(root, "object"), "error")) fail_with(error, data, arena, facts);
  else if (is_something(root) && usage.kind != BODY_OBJECT) facts->class = EVENT_COMMIT;
}

static void read_chat(const struct sse_event *event, struct arena *arena, struct event_facts *facts) {
  enum { CHOICES, ERROR, ID, USAGE, COUNT };
  static const char *const names[COUNT] = { "choices", "error", "id", "usage" };
  struct body_value v[COUNT];
  bool role = false, good = body_scan(event->data, names, v, COUNT, NULL) == BODY_GOOD;
  if (span_is(event->name, "error") || (good && is_error(v[ERROR]))) {
    fail_with(v[ERROR], event->data, arena, facts);
    return;
  }
  if (span_is(event->name, "ping")) return;
  if (!good) {
    if (span_trim(event->data).n) facts->class = EVENT_COMMIT;
    return;
  }
  if (v[CHOICES].kind == BODY_ABSENT) read_odd_chunk(v[USAGE], event->data, arena, facts);
  else read_choices(v[CHOICES], arena, facts, &role);
  read_usage(v[USAGE], &facts->usage);
  if (facts->class == EVENT_HOLD || facts->finished || role) facts->response_id = keep_name(v[ID], arena);
}

/* ---- routes with named events ---- */

/* Names the events of a route that are not plain content. */
struct event_kind {
  const char *name;
  enum event_class class;
  bool terminal;
};

static const struct event_kind *find_kind(const struct event_kind *kinds, struct span name) {
  if (!name.n) return NULL;
  for (; kinds->name; kinds++)
    if (span_is(name, kinds->name)) return kinds;
  return NULL;
}

/* Of data that was cut, the members before the cut are good enough: a long `completed` must be known for what it is. */
static void scan_what_there_is(struct span data, const char *const *names, struct body_value *values, size_t count) {
  enum body_result result = body_scan(data, names, values, count, NULL);
  (void)result;
}

static const struct event_kind responses_kinds[] = {
  { "response.created", EVENT_HOLD, false },
  { "response.in_progress", EVENT_HOLD, false },
  { "response.queued", EVENT_HOLD, false },
  { "response.output_item.added", EVENT_HOLD, false },
  { "response.content_part.added", EVENT_HOLD, false },
  { "response.reasoning_summary_part.added", EVENT_HOLD, false },
  { "keepalive", EVENT_HOLD, false },
  { "ping", EVENT_HOLD, false },
  { "response.completed", EVENT_END, true },
  { "response.incomplete", EVENT_END, true },
  { "response.failed", EVENT_FAIL, true },
  { "error", EVENT_FAIL, true },
  { NULL, EVENT_HOLD, false },
};

static void read_response(struct body_value response, struct arena *arena, struct event_facts *facts) {
  enum { ID, USAGE, STATUS, COUNT };
  static const char *const names[COUNT] = { "id", "usage", "status" };
  struct body_value v[COUNT];
  if (response.kind != BODY_OBJECT) return;
  body_members(response, names, v, COUNT);
  facts->response_id = keep_name(v[ID], arena);
  read_usage(v[USAGE], &facts->usage);
  if (facts->finished && is_something(v[STATUS])) facts->finish_reason = keep_name(v[STATUS], arena);
}

/* The type in the data decides, but for an event that is called `error`: there `type` may be the error's own. */
static void read_responses(const struct sse_event *event, struct arena *arena, struct event_facts *facts) {
  enum { TYPE, SEQUENCE, RESPONSE, ERROR, COUNT };
  static const char *const names[COUNT] = { "type", "sequence_number", "response", "error" };
  struct body_value v[COUNT];
  scan_what_there_is(event->data, names, v, COUNT);
  struct span type = v[TYPE].kind == BODY_STRING ? body_text(v[TYPE], arena) : event->name;
  if (span_is(event->name, "error") || (!type.n && is_error(v[ERROR]))) type = SPAN("error");
  const struct event_kind *kind = find_kind(responses_kinds, type);
  facts->sequence = body_number(v[SEQUENCE], -1);
  if (!kind) {
    if (span_trim(event->data).n) facts->class = EVENT_COMMIT;
    return;
  }
  facts->class = kind->class;
  facts->terminal = kind->terminal;
  facts->finished = kind->class == EVENT_END;
  if (facts->finished) facts->finish_reason = span_skip(span_of(kind->name), strlen("response."));
  read_response(v[RESPONSE], arena, facts);
  if (kind->class != EVENT_FAIL) return;
  struct body_value nested = member_of(v[RESPONSE], "error");
  fail_with(v[RESPONSE].kind == BODY_OBJECT ? nested : v[ERROR], event->data, arena, facts);
}

static const struct event_kind messages_kinds[] = {
  { "content_block_delta", EVENT_COMMIT, false },
  { "content_block_start", EVENT_HOLD, false },
  { "content_block_stop", EVENT_HOLD, false },
  { "message_start", EVENT_HOLD, false },
  { "message_delta", EVENT_HOLD, false },
  { "ping", EVENT_HOLD, false },
  { "message_stop", EVENT_END, true },
  { "error", EVENT_FAIL, true },
  { NULL, EVENT_HOLD, false },
};

/* A block or delta of text or thinking that has none yet. Every other type is content by itself. */
static bool is_empty_text(struct body_value part) {
  enum { TYPE, TEXT, THINKING, COUNT };
  static const char *const names[COUNT] = { "type", "text", "thinking" };
  struct body_value v[COUNT];
  body_members(part, names, v, COUNT);
  if (body_is(v[TYPE], "text") || body_is(v[TYPE], "text_delta")) return !is_something(v[TEXT]);
  if (body_is(v[TYPE], "thinking") || body_is(v[TYPE], "thinking_delta")) return !is_something(v[THINKING]);
  return false;
}

static void read_message(struct body_value message, struct arena *arena, struct event_facts *facts) {
  enum { ID, USAGE, COUNT };
  static const char *const names[COUNT] = { "id", "usage" };
  struct body_value v[COUNT];
  body_members(message, names, v, COUNT);
  facts->response_id = keep_name(v[ID], arena);
  read_usage(v[USAGE], &facts->usage);
}

/* The name decides; an event without one, or with one that is unknown, goes by the type in its data. */
static void read_messages(const struct sse_event *event, struct arena *arena, struct event_facts *facts) {
  enum { TYPE, MESSAGE, BLOCK, DELTA, USAGE, ERROR, COUNT };
  static const char *const names[COUNT] = { "type", "message", "content_block", "delta", "usage", "error" };
  struct body_value v[COUNT];
  scan_what_there_is(event->data, names, v, COUNT);
  const struct event_kind *kind = find_kind(messages_kinds, event->name);
  if (!kind) kind = find_kind(messages_kinds, body_text(v[TYPE], arena));
  if (!kind && v[TYPE].kind == BODY_ABSENT && is_error(v[ERROR])) kind = find_kind(messages_kinds, SPAN("error"));
  if (!kind) {
    if (span_trim(event->data).n) facts->class = EVENT_COMMIT;
    return;
  }
  facts->class = kind->class;
  facts->terminal = kind->terminal;
  if (kind->class == EVENT_COMMIT && is_empty_text(v[DELTA])) facts->class = EVENT_HOLD;
  if (kind->class == EVENT_HOLD && v[BLOCK].times && !is_empty_text(v[BLOCK])) facts->class = EVENT_COMMIT;
  if (v[MESSAGE].times) read_message(v[MESSAGE], arena, facts);
  if (span_is(span_of(kind->name), "message_delta")) {
    read_usage(v[USAGE], &facts->usage);
    if (read_finish(member_of(v[DELTA], "stop_reason"), arena, facts)) facts->class = EVENT_COMMIT;
  }
  if (kind->class == EVENT_FAIL) fail_with(v[ERROR], event->data, arena, facts);
}

/* ---- entrances ---- */

void commit_read_event(enum route route, const struct sse_event *event, struct arena *arena,
                       struct event_facts *facts) {
  *facts = (struct event_facts){ .class = EVENT_HOLD, .sequence = -1 };
  bool chat = route == ROUTE_CHAT || route == ROUTE_COMPLETIONS;
  if (event->comment) return;
  if (route != ROUTE_NONE && route != ROUTE_EMBEDDINGS && span_starts(span_trim(event->data), "[DONE]")) {
    facts->done_only = true;
    facts->terminal = chat;
    if (chat) facts->class = EVENT_END;
    return;
  }
  switch (route) {
  case ROUTE_NONE:
  case ROUTE_EMBEDDINGS:
    if (event->data.n) facts->class = EVENT_COMMIT;
    break;
  case ROUTE_CHAT:
  case ROUTE_COMPLETIONS: read_chat(event, arena, facts); break;
  case ROUTE_RESPONSES: read_responses(event, arena, facts); break;
  case ROUTE_MESSAGES: read_messages(event, arena, facts); break;
  }
}

bool commit_read_answer(enum route route, struct span body, struct arena *arena, struct event_facts *facts) {
  enum { ID, USAGE, CHOICES, STOP_REASON, STATUS, ERROR, COUNT };
  static const char *const names[COUNT] = { "id", "usage", "choices", "stop_reason", "status", "error" };
  struct body_value v[COUNT], choice;
  size_t at = 0;
  *facts = (struct event_facts){ .class = EVENT_COMMIT, .sequence = -1 };
  if (body_scan(body, names, v, COUNT, NULL) == BODY_MALFORMED) return false;
  facts->response_id = keep_name(v[ID], arena);
  read_usage(v[USAGE], &facts->usage);
  struct body_value reason = { .kind = BODY_ABSENT };
  if (route == ROUTE_RESPONSES) reason = v[STATUS];
  else if (route == ROUTE_MESSAGES) reason = v[STOP_REASON];
  else if (body_element(v[CHOICES], &at, &choice)) reason = member_of(choice, "finish_reason");
  bool given = read_finish(reason, arena, facts);
  if (route == ROUTE_RESPONSES)
    facts->finished = given && (body_is(reason, "completed") || body_is(reason, "incomplete"));
  if (v[ERROR].kind == BODY_ABSENT) v[ERROR] = error_in_array(body_root(body));
  if (route != ROUTE_NONE && is_error(v[ERROR])) fail_with(v[ERROR], body, arena, facts);
  return true;
}

enum answer_type commit_answer_type(struct span content_type, struct span first_bytes) {
  const char *semicolon = content_type.n ? memchr(content_type.p, ';', content_type.n) : NULL;
  if (semicolon) content_type.n = (size_t)(semicolon - content_type.p);
  content_type = span_trim(content_type);
  if (span_is_nocase(content_type, "text/event-stream")) return ANSWER_STREAM;
  if (span_is_nocase(content_type, "application/json")) return ANSWER_JSON;
  if (span_is_nocase(content_type, "text/html")) return ANSWER_HTML;
  if (content_type.n > 5 && span_is_nocase(span_skip(content_type, content_type.n - 5), "+json")) return ANSWER_JSON;
  if (first_bytes.n && memcmp("\xef\xbb\xbf", first_bytes.p, first_bytes.n < 3 ? first_bytes.n : 3) == 0)
    first_bytes = span_skip(first_bytes, 3);
  first_bytes = span_trim(first_bytes);
  if (!first_bytes.n) return ANSWER_UNKNOWN;
  if (strchr("{[\"", first_bytes.p[0]) && first_bytes.p[0]) return ANSWER_JSON;
  return first_bytes.p[0] == '<' ? ANSWER_HTML : ANSWER_STREAM;
}
