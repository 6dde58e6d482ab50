/* What a step answers: status, content type and body, canned in the route's shape unless the step has its own.
 * Pure: no socket here. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "base/buf.h"
#include "base/clock.h"
#include "cli/mock_http.h"
#include "cli/mock_step.h"

/* One thing to write at once, after a wait. */
struct mock_piece {
  size_t end; /* of it in the body; it begins where the one before ends */
  seconds wait;
};

struct mock_answer {
  int status;
  const char *type;  /* content-type; NULL: none */
  bool stream;       /* events: chunked unless the step says otherwise */
  struct buf body;
  struct buf pieces; /* of struct mock_piece, in order */
};

/* Fills in a zeroed answer. Out of memory shows in its buffers. */
void mock_answer_make(struct mock_request *request, const struct mock_step *step, struct mock_answer *answer);
void mock_answer_free(struct mock_answer *answer);
/* What is in body since the last mark is one piece. */
void mock_answer_mark(struct mock_answer *answer, seconds wait);

/* ---- between mock_answers.c and mock_streams.c ---- */

/* What the canned shapes say. */
struct mock_words {
  enum route route;
  const char *id;
  const char *model;         /* as JSON, quoted */
  const char *text;          /* all of it, as JSON, quoted */
  const struct span *chunks; /* of a stream: its texts, or whole events as they are */
  size_t count;
  long created;
  struct mock_error error;   /* complete: the route's type, code and message */
};

/* The response object of the responses route; `status` "completed" has the output and the usage. */
void mock_words_put_response(struct buf *out, const struct mock_words *words, const char *status);

/* The events of a whole stream, or of one that breaks off with an error (ERROR_EVENT, ERROR_AFTER_START). */
void mock_stream_put(struct mock_answer *answer, const struct mock_words *words, const struct mock_step *step);

/* A chunk of the script that is a whole event (or comment) by itself: it ends with an empty line. */
bool mock_chunk_is_event(struct span chunk);
