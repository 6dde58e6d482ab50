/* What a mock was sent, and the requests under /_mock/ that ask for it. Used by all connections' threads; one lock
 * inside. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "cli/mock_http.h"

struct mock_record;

struct mock_record *mock_record_new(void);
/* Nobody may be waiting in it any more (mock_record_stop). */
void mock_record_free(struct mock_record *record);
/* Ends every wait, now and later. */
void mock_record_stop(struct mock_record *record);

/* A place in the record: numbers start anew when it is cleared, serials never do. */
struct mock_ticket {
  uint64_t serial;
  unsigned number;
};

/* Called when a request's head is in: the next number, which decides its step. */
struct mock_ticket mock_record_begin(struct mock_record *record);
/* Enters it, when its body is in or has broken off; dropped when the record was cleared since `begin`. */
void mock_record_add(struct mock_record *record, struct mock_ticket ticket, const struct mock_request *request,
                     unsigned connection);
/* The peer closed before the answer was finished. */
void mock_record_closed(struct mock_record *record, struct mock_ticket ticket);

/*
 * Answers a request under /_mock/: the status, and a JSON body into `out`. Blocks in `wait`.
 *   GET    /_mock/requests                    the list
 *   DELETE /_mock/requests                    clears it; numbers and steps begin again
 *   GET    /_mock/wait?count=N&timeout=S      the list,
     once N requests are in it; &closed=N: once N of them have client_closed.
 *                                             408 and the list when S seconds (5) pass first
 */
int mock_record_answer(struct mock_record *record, const struct mock_request *request, struct buf *out);
