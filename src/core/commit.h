/*
 * What one stream event means, per route (contract section 6): does it hold, commit, end or fail the stream. Pure
 * functions of the event; the engine decides what follows.
 */
#pragma once

#include "base/arena.h"
#include "core/request.h"
#include "core/sse.h"

enum event_class {
  EVENT_HOLD,   /* preamble: comments, ping, role, created ... */
  EVENT_COMMIT, /* content, a finish reason, completed/incomplete */
  EVENT_END,    /* [DONE], message_stop, response.completed/incomplete. Commits too, unless it is [DONE] alone */
  EVENT_FAIL,   /* an error event, response.failed */
};

/*
 * What an event told besides its class; only what it has is set. Spans live in the arena or are constant; ids and
 * reasons over 256 bytes are left out. An ordinary delta puts nothing into the arena; after commit a caller that keeps
 * memory flat hands in an arena it empties now and then. On the chat route the id is told by the chunks that hold,
 * carry a role or finish, not by every delta. A count that an event does not name is 0: the messages route tells input
 * at the start and output at the end, so keep the last count that is not 0.
 */
struct event_facts {
  enum event_class class;
  bool finished;  /* a finish or stop reason was given: a clean end after it is a good end (chat, completions) */
  bool done_only; /* it is `[DONE]` alone: no content by itself */
  bool terminal;  /* nothing of meaning follows, whatever the class (also after `error`, response.failed) */
  struct span finish_reason;
  struct span response_id;
  struct usage usage;
  double sequence; /* responses: sequence_number; -1 when absent */
  struct upstream_error error; /* of EVENT_FAIL; no type when the flat shape says only "error" */
};

/*
 * The class and facts of one event of that route. Data that is no JSON is EVENT_COMMIT (content we do not understand)
 * on the chat and completions routes when nothing better is known; an unknown event name is too, or EVENT_HOLD without
 * data. On the responses and messages routes a known name counts even when the data is cut. `[DONE]` holds there, with
 * done_only: it is no end of theirs.
 */
void commit_read_event(enum route route, const struct sse_event *event, struct arena *arena, struct event_facts *facts);

/*
 * The same facts from a whole non-stream answer of that route: id, usage, finish reason (responses: the status). The
 * class is EVENT_FAIL with `error` when a model route's answer has an error in it, else EVENT_COMMIT. False when it is
 * not one well-formed JSON value.
 */
bool commit_read_answer(enum route route, struct span body, struct arena *arena, struct event_facts *facts);

enum answer_type { ANSWER_UNKNOWN, ANSWER_STREAM, ANSWER_JSON, ANSWER_HTML };

/*
 * By the content-type: text/event-stream, application/json (and +json), text/html. Anything else, or none, goes by the
 * first non-blank byte of the body: `{`, `[` or `"` is JSON, `<` is HTML, else a stream. A byte-order mark is skipped.
 * UNKNOWN: no such byte has come yet.
 */
enum answer_type commit_answer_type(struct span content_type, struct span first_bytes);
