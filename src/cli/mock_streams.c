/*
 * The canned streams: for each route a start (what comes before any content), one event for each piece of text, and an
 * end with usage and the terminal event; and the route's error event. Every event is one piece of the answer, so that
 * the writer may pace or cut them.
 */
#include "cli/mock_answers.h"

#include "base/json.h"

struct writing {
  struct mock_answer *answer;
  struct buf *out; /* the answer's body */
  const struct mock_words *words;
  unsigned sequence; /* of the responses route */
};

struct shape {
  void (*start)(struct writing *w);
  void (*delta)(struct writing *w, struct span text, seconds wait);
  void (*end)(struct writing *w);
  void (*error)(struct writing *w, seconds wait);
};

/* ---- chat and completions ---- */

static void chat_open(struct writing *w) {
  buf_printf(w->out,
             "data: {\"id\":\"chatcmpl-mock_%s\",\"object\":\"chat.completion.chunk\",\"created\":%ld,\"model\":%s,"
             "\"service_tier\":\"default\",\"system_fingerprint\":\"fp_mock\",\"choices\":",
             w->words->id, w->words->created, w->words->model);
}

static void chat_start(struct writing *w) {
  chat_open(w);
  buf_puts(w->out, "[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\",\"refusal\":null},\"logprobs\":null,"
                   "\"finish_reason\":null}],\"usage\":null}\n\n");
  mock_answer_mark(w->answer, 0);
}

static void chat_delta(struct writing *w, struct span text, seconds wait) {
  chat_open(w);
  buf_puts(w->out, "[{\"index\":0,\"delta\":{\"content\":");
  json_put_string(w->out, text);
  buf_puts(w->out, "},\"logprobs\":null,\"finish_reason\":null}],\"usage\":null}\n\n");
  mock_answer_mark(w->answer, wait);
}

static void put_done(struct writing *w) {
  buf_puts(w->out, "data: [DONE]\n\n");
  mock_answer_mark(w->answer, 0);
}

static void chat_end(struct writing *w) {
  chat_open(w);
  buf_puts(w->out, "[{\"index\":0,\"delta\":{},\"logprobs\":null,\"finish_reason\":\"stop\"}],\"usage\":null}\n\n");
  mock_answer_mark(w->answer, 0);
  chat_open(w);
  buf_puts(w->out, "[],\"usage\":{\"prompt_tokens\":14,\"completion_tokens\":6,\"total_tokens\":20,"
                   "\"prompt_tokens_details\":{\"cached_tokens\":0,\"audio_tokens\":0},"
                   "\"completion_tokens_details\":{\"reasoning_tokens\":0,\"audio_tokens\":0,"
                   "\"accepted_prediction_tokens\":0,\"rejected_prediction_tokens\":0}}}\n\n");
  mock_answer_mark(w->answer, 0);
  put_done(w);
}

static void completions_open(struct writing *w) {
  buf_printf(w->out, "data: {\"id\":\"cmpl-mock_%s\",\"object\":\"text_completion\",\"created\":%ld,\"model\":%s,\"choices\":",
             w->words->id, w->words->created, w->words->model);
}

static void completions_start(struct writing *w) {
  (void)w; /* the first text is the first event */
}

static void completions_delta(struct writing *w, struct span text, seconds wait) {
  completions_open(w);
  buf_puts(w->out, "[{\"text\":");
  json_put_string(w->out, text);
  buf_puts(w->out, ",\"index\":0,\"logprobs\":null,\"finish_reason\":null}]}\n\n");
  mock_answer_mark(w->answer, wait);
}

static void completions_end(struct writing *w) {
  completions_open(w);
  buf_puts(w->out, "[{\"text\":\"\",\"index\":0,\"logprobs\":null,\"finish_reason\":\"stop\"}]}\n\n");
  mock_answer_mark(w->answer, 0);
  completions_open(w);
  buf_puts(w->out, "[],\"usage\":{\"prompt_tokens\":14,\"completion_tokens\":6,\"total_tokens\":20}}\n\n");
  mock_answer_mark(w->answer, 0);
  put_done(w);
}

/* `"message":..,"type":..,"param":null,"code":..` */
static void put_error_members(struct writing *w) {
  const struct mock_error *error = &w->words->error;
  buf_puts(w->out, "\"message\":");
  json_put_string(w->out, error->message);
  buf_puts(w->out, ",\"type\":");
  json_put_string(w->out, error->type);
  buf_puts(w->out, ",\"param\":null,\"code\":");
  if (error->code.p) json_put_string(w->out, error->code);
  else buf_puts(w->out, "null");
}

static void chat_error(struct writing *w, seconds wait) {
  buf_puts(w->out, "data: {\"error\":{");
  put_error_members(w);
  buf_puts(w->out, "}}\n\n");
  mock_answer_mark(w->answer, wait);
  put_done(w);
}

/* ---- responses ---- */

static void responses_open(struct writing *w, const char *type) {
  buf_printf(w->out, "event: %s\ndata: {\"type\":\"%s\",\"sequence_number\":%u", type, type, w->sequence++);
}

static void responses_close(struct writing *w, seconds wait) {
  buf_puts(w->out, "}\n\n");
  mock_answer_mark(w->answer, wait);
}

static void responses_whole(struct writing *w, const char *type, const char *status) {
  responses_open(w, type);
  buf_puts(w->out, ",\"response\":");
  mock_words_put_response(w->out, w->words, status);
  responses_close(w, 0);
}

static void responses_start(struct writing *w) {
  responses_whole(w, "response.created", "in_progress");
  responses_whole(w, "response.in_progress", "in_progress");
}

/* The structure around the text: it holds no content yet, and comes only when no error takes its place. */
static void responses_item(struct writing *w) {
  responses_open(w, "response.output_item.added");
  buf_printf(w->out, ",\"output_index\":0,\"item\":{\"id\":\"msg_mock_%s\",\"type\":\"message\",\"status\":\"in_progress\","
                     "\"role\":\"assistant\",\"content\":[]}", w->words->id);
  responses_close(w, 0);
  responses_open(w, "response.content_part.added");
  buf_printf(w->out, ",\"item_id\":\"msg_mock_%s\",\"output_index\":0,\"content_index\":0,"
                     "\"part\":{\"type\":\"output_text\",\"annotations\":[],\"logprobs\":[],\"text\":\"\"}", w->words->id);
  responses_close(w, 0);
}

static void responses_delta(struct writing *w, struct span text, seconds wait) {
  responses_open(w, "response.output_text.delta");
  buf_printf(w->out, ",\"item_id\":\"msg_mock_%s\",\"output_index\":0,\"content_index\":0,\"delta\":", w->words->id);
  json_put_string(w->out, text);
  buf_puts(w->out, ",\"logprobs\":[]");
  responses_close(w, wait);
}

static void responses_end(struct writing *w) {
  const char *id = w->words->id, *text = w->words->text;
  responses_open(w, "response.output_text.done");
  buf_printf(w->out, ",\"item_id\":\"msg_mock_%s\",\"output_index\":0,\"content_index\":0,\"text\":%s,\"logprobs\":[]", id, text);
  responses_close(w, 0);
  responses_open(w, "response.content_part.done");
  buf_printf(w->out, ",\"item_id\":\"msg_mock_%s\",\"output_index\":0,\"content_index\":0,"
                     "\"part\":{\"type\":\"output_text\",\"annotations\":[],\"logprobs\":[],\"text\":%s}", id, text);
  responses_close(w, 0);
  responses_open(w, "response.output_item.done");
  buf_printf(w->out, ",\"output_index\":0,\"item\":{\"id\":\"msg_mock_%s\",\"type\":\"message\",\"status\":\"completed\","
                     "\"role\":\"assistant\",\"content\":[{\"type\":\"output_text\",\"annotations\":[],\"logprobs\":[],\"text\":%s}]}",
             id, text);
  responses_close(w, 0);
  responses_whole(w, "response.completed", "completed");
}

static void responses_error(struct writing *w, seconds wait) {
  const struct mock_error *error = &w->words->error;
  responses_open(w, "error");
  buf_puts(w->out, ",\"code\":");
  json_put_string(w->out, error->code.p ? error->code : error->type);
  buf_puts(w->out, ",\"message\":");
  json_put_string(w->out, error->message);
  buf_puts(w->out, ",\"param\":null");
  responses_close(w, wait);
}

/* ---- messages ---- */

static void messages_start(struct writing *w) {
  buf_printf(w->out,
             "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"msg_mock_%s\",\"type\":\"message\","
             "\"role\":\"assistant\",\"model\":%s,\"content\":[],\"stop_reason\":null,\"stop_sequence\":null,"
             "\"usage\":{\"input_tokens\":14,\"cache_creation_input_tokens\":0,\"cache_read_input_tokens\":0,"
             "\"output_tokens\":1,\"service_tier\":\"standard\"}}}\n\n",
             w->words->id, w->words->model);
  mock_answer_mark(w->answer, 0);
  buf_puts(w->out, "event: ping\ndata: {\"type\":\"ping\"}\n\n");
  mock_answer_mark(w->answer, 0);
}

static void messages_item(struct writing *w) {
  buf_puts(w->out, "event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":0,"
                   "\"content_block\":{\"type\":\"text\",\"text\":\"\"}}\n\n");
  mock_answer_mark(w->answer, 0);
}

static void messages_delta(struct writing *w, struct span text, seconds wait) {
  buf_puts(w->out, "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,"
                   "\"delta\":{\"type\":\"text_delta\",\"text\":");
  json_put_string(w->out, text);
  buf_puts(w->out, "}}\n\n");
  mock_answer_mark(w->answer, wait);
}

static void messages_end(struct writing *w) {
  buf_puts(w->out, "event: content_block_stop\ndata: {\"type\":\"content_block_stop\",\"index\":0}\n\n");
  mock_answer_mark(w->answer, 0);
  buf_puts(w->out, "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\","
                   "\"stop_sequence\":null},\"usage\":{\"output_tokens\":6}}\n\n");
  mock_answer_mark(w->answer, 0);
  buf_puts(w->out, "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n");
  mock_answer_mark(w->answer, 0);
}

static void messages_error(struct writing *w, seconds wait) {
  buf_puts(w->out, "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":");
  json_put_string(w->out, w->words->error.type);
  buf_puts(w->out, ",\"message\":");
  json_put_string(w->out, w->words->error.message);
  buf_puts(w->out, "}}\n\n");
  mock_answer_mark(w->answer, wait);
}

/* ---- all of it ---- */

static const struct shape chat = { chat_start, chat_delta, chat_end, chat_error };
static const struct shape completions = { completions_start, completions_delta, completions_end, chat_error };
static const struct shape responses = { responses_start, responses_delta, responses_end, responses_error };
static const struct shape messages = { messages_start, messages_delta, messages_end, messages_error };

static const struct shape *shape_of(enum route route) {
  switch (route) {
    case ROUTE_COMPLETIONS: return &completions;
    case ROUTE_RESPONSES: return &responses;
    case ROUTE_MESSAGES: return &messages;
    case ROUTE_CHAT:
    case ROUTE_EMBEDDINGS: /* has no streams: only `wrong_type` asks for one */
    case ROUTE_NONE: return &chat;
  }
  return &chat;
}

bool mock_chunk_is_event(struct span chunk) {
  static const char *const ends[] = { "\n\n", "\r\n\r\n", "\r\r" };
  for (int i = 0; i < 3; i++) {
    size_t n = strlen(ends[i]);
    if (chunk.n >= n && memcmp(chunk.p + chunk.n - n, ends[i], n) == 0) return true;
  }
  return false;
}

static void put_chunk(struct writing *w, const struct shape *shape, struct span chunk, seconds wait) {
  if (!mock_chunk_is_event(chunk)) {
    shape->delta(w, chunk, wait);
    return;
  }
  buf_add_span(w->out, chunk);
  mock_answer_mark(w->answer, wait);
}

void mock_stream_put(struct mock_answer *answer, const struct mock_words *words, const struct mock_step *step) {
  struct writing w = { .answer = answer, .out = &answer->body, .words = words };
  const struct shape *shape = shape_of(words->route);
  if (step->fault != MOCK_FAULT_ERROR_EVENT) shape->start(&w);
  if (step->fault == MOCK_FAULT_ERROR_EVENT || step->fault == MOCK_FAULT_ERROR_AFTER_START) {
    shape->error(&w, step->stream.first);
    return;
  }
  if (shape == &responses) responses_item(&w);
  if (shape == &messages) messages_item(&w);
  for (size_t i = 0; i < words->count; i++)
    put_chunk(&w, shape, words->chunks[i], i ? step->stream.interval : step->stream.first);
  shape->end(&w);
}
