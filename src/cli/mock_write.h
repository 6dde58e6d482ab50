/* Putting an answer, or a fault, on a connection. */
#pragma once

#include "cli/mock_answers.h"

/* What is to become of the connection. */
enum mock_end {
  MOCK_END_KEEP,   /* the next request */
  MOCK_END_FINISH, /* a clean end */
  MOCK_END_RESET,
  MOCK_END_GONE,   /* the peer closed before we were done */
};

/* Carries out the step: waits, head, body with its framing, pace and fault. Returns when the last byte is with the
 * kernel, or, where the fault is silence, when the peer leaves. */
enum mock_end mock_write_answer(struct mock_conn *conn, const struct mock_request *request,
                                const struct mock_step *step, const struct mock_answer *answer);

/* An answer of the mock's own, as JSON. */
enum mock_end mock_write_json(struct mock_conn *conn, const struct mock_request *request, int status,
                              const struct buf *body);
