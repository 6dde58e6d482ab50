/*
 * From a step to an answer: whose body it is (the step's own, an error, a canned good one), which type it has, and
 * where it is cut into pieces. The shapes are those of the providers' own answers, ids and model apart; text and usage
 * are always the same (14 in, 6 out).
 */
#include "cli/mock_answers.h"

#include <stdlib.h>

#include "base/json.h"

#define DEFAULT_TEXT "Hello from upstream."
#define JSON_TYPE "application/json"
#define STREAM_TYPE "text/event-stream; charset=utf-8"
#define HTML_TYPE "text/html; charset=utf-8"

void mock_answer_mark(struct mock_answer *answer, seconds wait) {
  struct mock_piece piece = { .end = answer->body.n, .wait = wait };
  buf_add(&answer->pieces, &piece, sizeof piece);
}

void mock_answer_free(struct mock_answer *answer) {
  buf_free(&answer->body);
  buf_free(&answer->pieces);
}

/* ---- errors ---- */

struct known_error {
  int status;
  const char *type, *code, *message;
};

static const struct known_error openai_errors[] = {
  { 400, "invalid_request_error", "invalid_value", "Invalid value for 'temperature'." },
  { 401, "invalid_request_error", "invalid_api_key", "Incorrect API key provided: sk-mock****." },
  { 403, "request_forbidden", "unsupported_country_region_territory", "Country, region, or territory not supported." },
  { 404, "invalid_request_error", "model_not_found", "The model does not exist or you do not have access to it." },
  { 409, "conflict_error", NULL, "The resource is locked by another request." },
  { 413, "invalid_request_error", "request_too_large", "Request too large." },
  { 422, "invalid_request_error", NULL, "Unprocessable." },
  { 429, "requests", "rate_limit_exceeded", "Rate limit reached on requests per min (RPM): Limit 3, Used 3, Requested 1." },
  { 503, "service_unavailable_error", "server_is_overloaded", "The engine is currently overloaded, please try again later." },
  { 0, "server_error", NULL, "The server had an error while processing your request." },
};

static const struct known_error anthropic_errors[] = {
  { 400, "invalid_request_error", NULL, "messages: at least one message is required" },
  { 401, "authentication_error", NULL, "invalid x-api-key" },
  { 402, "billing_error", NULL, "There is an issue with your billing information." },
  { 403, "permission_error", NULL, "Your API key does not have permission to use the specified resource." },
  { 404, "not_found_error", NULL, "model: not found" },
  { 409, "conflict_error", NULL, "The resource was modified concurrently." },
  { 413, "request_too_large", NULL, "Request exceeds the maximum size" },
  { 429, "rate_limit_error", NULL, "This request would exceed your rate limit." },
  { 503, "overloaded_error", NULL, "Overloaded" },
  { 504, "timeout_error", NULL, "Request timed out" },
  { 529, "overloaded_error", NULL, "Overloaded" },
  { 0, "api_error", NULL, "Internal server error" },
};

/* What the step leaves open is filled in for route and status. A status that has no line, or an error inside a 200,
 * is the server's fault. */
static struct mock_error error_of(enum route route, int status, const struct mock_error *wanted) {
  static const struct known_error event = { 0, "server_error", "server_is_overloaded", "The server is overloaded." };
  const struct known_error *known = route == ROUTE_MESSAGES ? anthropic_errors : openai_errors;
  if (status < 400) status = 529;
  while (known->status && known->status != status) known++;
  if (status == 529 && route != ROUTE_MESSAGES) known = &event;
  struct mock_error error = *wanted;
  if (!error.code.p && !error.type.p) error.code = span_of(known->code);
  if (!error.type.p) error.type = span_of(known->type);
  if (!error.message.p) error.message = span_of(known->message);
  return error;
}

static void put_error(struct buf *out, const struct mock_words *words) {
  const struct mock_error *error = &words->error;
  buf_puts(out, words->route == ROUTE_MESSAGES ? "{\"type\":\"error\",\"error\":{\"type\":" : "{\"error\":{\"type\":");
  json_put_string(out, error->type);
  buf_puts(out, ",\"message\":");
  json_put_string(out, error->message);
  if (words->route == ROUTE_MESSAGES) {
    if (error->code.p) {
      buf_puts(out, ",\"details\":{\"error_code\":");
      json_put_string(out, error->code);
      buf_puts(out, "}");
    }
    buf_printf(out, "},\"request_id\":\"req_mock_%s\"}", words->id);
    return;
  }
  buf_puts(out, ",\"param\":null,\"code\":");
  if (error->code.p) json_put_string(out, error->code);
  else buf_puts(out, "null");
  buf_puts(out, "}}");
}

/* ---- good answers, not streamed ---- */

#define CHAT_USAGE                                                                                                    \
  "\"usage\":{\"prompt_tokens\":14,\"completion_tokens\":6,\"total_tokens\":20,\"prompt_tokens_details\":"            \
  "{\"cached_tokens\":0,\"audio_tokens\":0},\"completion_tokens_details\":{\"reasoning_tokens\":0,\"audio_tokens\":0," \
  "\"accepted_prediction_tokens\":0,\"rejected_prediction_tokens\":0}}"

static void put_chat(struct buf *out, const struct mock_words *words) {
  buf_printf(out,
             "{\"id\":\"chatcmpl-mock_%s\",\"object\":\"chat.completion\",\"created\":%ld,\"model\":%s,\"choices\":[{\"index\":0,"
             "\"message\":{\"role\":\"assistant\",\"content\":%s,\"refusal\":null,\"annotations\":[]},\"logprobs\":null,"
             "\"finish_reason\":\"stop\"}]," CHAT_USAGE ",\"service_tier\":\"default\",\"system_fingerprint\":\"fp_mock\"}",
             words->id, words->created, words->model, words->text);
}

static void put_completions(struct buf *out, const struct mock_words *words) {
  buf_printf(out,
             "{\"id\":\"cmpl-mock_%s\",\"object\":\"text_completion\",\"created\":%ld,\"model\":%s,\"choices\":[{\"text\":%s,"
             "\"index\":0,\"logprobs\":null,\"finish_reason\":\"stop\"}],"
             "\"usage\":{\"prompt_tokens\":14,\"completion_tokens\":6,\"total_tokens\":20}}",
             words->id, words->created, words->model, words->text);
}

static void put_embeddings(struct buf *out, const struct mock_words *words) {
  buf_printf(out,
             "{\"object\":\"list\",\"data\":[{\"object\":\"embedding\",\"index\":0,\"embedding\":[0.1,-0.2,0.3,-0.4]}],\"model\":%s,"
             "\"usage\":{\"prompt_tokens\":14,\"total_tokens\":14}}",
             words->model);
}

void mock_words_put_response(struct buf *out, const struct mock_words *words, const char *status) {
  bool whole = !strcmp(status, "completed");
  buf_printf(out,
             "{\"id\":\"resp_mock_%s\",\"object\":\"response\",\"created_at\":%ld,\"status\":\"%s\",\"background\":false,"
             "\"error\":null,\"incomplete_details\":null,\"instructions\":null,\"max_output_tokens\":null,\"model\":%s,\"output\":[",
             words->id, words->created, status, words->model);
  if (whole)
    buf_printf(out,
               "{\"id\":\"msg_mock_%s\",\"type\":\"message\",\"status\":\"completed\",\"role\":\"assistant\",\"content\":"
               "[{\"type\":\"output_text\",\"annotations\":[],\"logprobs\":[],\"text\":%s}]}",
               words->id, words->text);
  buf_puts(out, "],\"parallel_tool_calls\":true,\"previous_response_id\":null,\"reasoning\":{\"effort\":null,\"summary\":null},"
                "\"service_tier\":\"default\",\"store\":true,\"temperature\":1,\"text\":{\"format\":{\"type\":\"text\"}},"
                "\"tool_choice\":\"auto\",\"tools\":[],\"top_p\":1,\"truncation\":\"disabled\",\"usage\":");
  buf_puts(out, whole ? "{\"input_tokens\":14,\"input_tokens_details\":{\"cached_tokens\":0},\"output_tokens\":6,"
                        "\"output_tokens_details\":{\"reasoning_tokens\":0},\"total_tokens\":20}"
                      : "null");
  buf_puts(out, ",\"user\":null,\"metadata\":{}}");
}

static void put_message(struct buf *out, const struct mock_words *words) {
  buf_printf(out,
             "{\"id\":\"msg_mock_%s\",\"type\":\"message\",\"role\":\"assistant\",\"model\":%s,\"content\":[{\"type\":\"text\","
             "\"text\":%s}],\"stop_reason\":\"end_turn\",\"stop_sequence\":null,\"usage\":{\"input_tokens\":14,"
             "\"cache_creation_input_tokens\":0,\"cache_read_input_tokens\":0,\"output_tokens\":6,\"service_tier\":\"standard\"}}",
             words->id, words->model, words->text);
}

static void put_good(struct buf *out, const struct mock_request *request, const struct mock_words *words) {
  switch (request->route) {
    case ROUTE_CHAT: put_chat(out, words); return;
    case ROUTE_COMPLETIONS: put_completions(out, words); return;
    case ROUTE_EMBEDDINGS: put_embeddings(out, words); return;
    case ROUTE_RESPONSES: mock_words_put_response(out, words, "completed"); return;
    case ROUTE_MESSAGES:
      if (request->count_tokens) buf_puts(out, "{\"input_tokens\":14}");
      else put_message(out, words);
      return;
    case ROUTE_NONE: break;
  }
  buf_printf(out, "{\"id\":\"mock_%s\",\"object\":\"list\",\"data\":[]}", words->id);
}

/* ---- the words ---- */

/* The next word of *rest with the blanks before it; a sentence's last mark is one of its own. */
static struct span next_word(struct span *rest) {
  size_t n = 0;
  while (n < rest->n && rest->p[n] == ' ') n++;
  while (n < rest->n && rest->p[n] != ' ') n++;
  if (n == rest->n && n > 1 && strchr(".!?", rest->p[n - 1])) n--;
  struct span word = { rest->p, n };
  *rest = span_skip(*rest, n);
  return word;
}

/* Words as chunks: as many as there are, or `wanted` of them, the last one taking the rest, or beginning again when
 * they run out. */
static void cut_text(struct mock_request *request, struct span text, size_t wanted, struct mock_words *words) {
  size_t room = wanted ? wanted : text.n + 1;
  struct span *chunks = ARENA_ARRAY(&request->arena, struct span, room);
  struct span rest = text;
  words->chunks = chunks;
  for (bool again = false; chunks && text.n && words->count < room && (wanted || rest.n); words->count++) {
    if (!rest.n) {
      rest = text;
      again = true;
    }
    chunks[words->count] = next_word(&rest);
    if (!again && words->count + 1 == wanted) chunks[words->count].n += rest.n;
  }
}

/* `text` as a quoted JSON string in the request's arena. */
static const char *quoted(struct mock_request *request, struct span text) {
  struct buf out = { 0 };
  json_put_string(&out, text);
  const char *copy = buf_ok(&out) ? arena_copy(&request->arena, buf_span(&out)) : NULL;
  buf_free(&out);
  return copy ? copy : "\"\"";
}

/* What the chunks say when put together. */
static const char *quoted_chunks(struct mock_request *request, const struct mock_words *words) {
  struct buf all = { 0 };
  for (size_t i = 0; i < words->count; i++)
    if (!mock_chunk_is_event(words->chunks[i])) buf_add_span(&all, words->chunks[i]);
  const char *text = quoted(request, buf_span(&all));
  buf_free(&all);
  return text;
}

static void find_words(struct mock_request *request, const struct mock_step *step, int status,
                       struct mock_words *words) {
  struct span text = step->text.p ? step->text : SPAN(DEFAULT_TEXT);
  *words = (struct mock_words){ .route = request->route, .id = request->id, .created = (long)clock_now() };
  words->error = error_of(request->route, status, &step->error);
  words->model = quoted(request, request->model);
  if (step->stream.list) {
    words->chunks = step->stream.list;
    words->count = step->stream.count;
  } else {
    cut_text(request, text, step->stream.count, words);
  }
  words->text = step->stream.list || step->stream.count ? quoted_chunks(request, words) : quoted(request, text);
}

/* ---- the answer ---- */

static const char *type_by_bytes(struct span body) {
  static const char *const fields[] = { "data:", "event:", "id:", "retry:", ":" };
  struct span text = span_trim(span_starts(body, "\xef\xbb\xbf") ? span_skip(body, 3) : body);
  for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++)
    if (span_starts(text, fields[i])) return STREAM_TYPE;
  if (span_starts(text, "{") || span_starts(text, "[")) return JSON_TYPE;
  return span_starts(text, "<") ? HTML_TYPE : text.n ? "text/plain; charset=utf-8" : NULL;
}

/* The step's own body: events are pieces, when it has any, else it is one piece. */
static void put_own_body(struct mock_answer *answer, const struct mock_step *step) {
  answer->type = type_by_bytes(step->body);
  answer->stream = answer->type && !strcmp(answer->type, STREAM_TYPE);
  struct span rest = step->body, event = { rest.p, 0 };
  seconds wait = step->stream.first;
  while (rest.n) {
    event.n++;
    rest = span_skip(rest, 1);
    bool ends = answer->stream && mock_chunk_is_event(event) && rest.n && !strchr("\r\n", rest.p[0]);
    if (rest.n && !ends) continue;
    buf_add_span(&answer->body, event);
    mock_answer_mark(answer, wait);
    wait = step->stream.interval;
    event = (struct span){ rest.p, 0 };
  }
}

static void put_canned(struct mock_answer *answer, struct mock_request *request, const struct mock_step *step) {
  struct mock_words words;
  bool streams = request->route != ROUTE_NONE && request->route != ROUTE_EMBEDDINGS && !request->count_tokens;
  bool failed = step->fault == MOCK_FAULT_ERROR_EVENT || step->fault == MOCK_FAULT_ERROR_AFTER_START;
  find_words(request, step, answer->status, &words);
  answer->stream = request->stream && streams;
  if (step->fault == MOCK_FAULT_WRONG_TYPE) answer->stream = !answer->stream;
  if (answer->status >= 400 && !failed && step->fault != MOCK_FAULT_WRONG_TYPE) answer->stream = false, failed = true;
  answer->type = answer->stream ? STREAM_TYPE : JSON_TYPE;
  if (answer->stream) {
    mock_stream_put(answer, &words, step);
    return;
  }
  if (failed) put_error(&answer->body, &words);
  else put_good(&answer->body, request, &words);
  mock_answer_mark(answer, step->stream.first);
}

void mock_answer_make(struct mock_request *request, const struct mock_step *step, struct mock_answer *answer) {
  bool html = step->fault == MOCK_FAULT_HTML, empty = step->fault == MOCK_FAULT_EMPTY;
  answer->status = step->status ? step->status : html ? 502 : 200;
  if (step->body.p) {
    put_own_body(answer, step);
  } else if (empty) {
    answer->stream = request->stream;
    answer->type = request->stream ? STREAM_TYPE : JSON_TYPE;
  } else if (html) {
    answer->type = HTML_TYPE;
    buf_puts(&answer->body, "<html><head><title>Bad Gateway</title></head><body><h1>Bad Gateway</h1></body></html>\n");
    mock_answer_mark(answer, step->stream.first);
  } else {
    put_canned(answer, request, step);
  }
}
