/*
 * What one stream event means, per route (contract section 6): does it hold, commit, end or fail the stream. Pure functions of the
 * event; the engine decides what follows.
 */
#pragma once

#include "base/arena.h"
#include "core/request.h"
#include "core/sse.h"

enum event_class {
  EVENT_HOLD,   /* preamble: comments, ping, role, created ... */
  EVENT_COMMIT, /* content, a finish reason, completed/incomplete */
  EVENT_END,    /* terminal: [DONE], message_stop, response.completed/incomplete. Commits too, unless nothing came before it */
  EVENT_FAIL,   /* an error event, response.failed */
};

/* What an event told besides its class; only what it has is set. Spans point into the event or the arena. */
struct event_facts {
  enum event_class class;
  bool finished;          /* a finish or stop reason was given: a clean end after it is a good end (chat, completions) */
  bool done_only;         /* it is `[DONE]` alone: no content by itself */
  bool terminal;          /* nothing of meaning follows, whatever the class (messages/responses `error`, response.failed too) */
  struct span finish_reason;
  struct span response_id;
  struct usage usage;
  double sequence;        /* responses: sequence_number; -1 when absent */
  struct upstream_error error; /* of EVENT_FAIL */
};

/* The class and facts of one event of that route. Malformed JSON in an event of a stream is EVENT_COMMIT (it is content we do not understand) on
 * the chat and completions routes when nothing better is known, and EVENT_HOLD for an unknown event name without data. */
void commit_read_event(enum route route, const struct sse_event *event, struct arena *arena, struct event_facts *facts);

/* The same facts from a whole non-stream answer of that route: id, usage, finish reason. False when it is not one well-formed JSON value. */
bool commit_read_answer(enum route route, struct span body, struct arena *arena, struct event_facts *facts);

enum answer_type { ANSWER_UNKNOWN, ANSWER_STREAM, ANSWER_JSON, ANSWER_HTML };

/* By the content-type: text/event-stream, application/json (and +json), text/html. Anything else, or none, goes by the first non-blank byte
 * of the body: `{`, `[` or `"` is JSON, `<` is HTML, else a stream. UNKNOWN: no such byte has come yet. */
enum answer_type commit_answer_type(struct span content_type, struct span first_bytes);
