/*
 * Framing of server-sent events, incrementally: feed bytes as they come, split anywhere; get whole events.
 *
 * A line ends with LF, CR or CRLF (a CR at the end of a feed may turn out to be half of a CRLF). An event ends with an
 * empty line. A byte-order mark at the very start is skipped. The parser copies what it needs of an unfinished event;
 * it never changes the bytes, and says only where an event ended, so that a relay can release them untouched.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "base/buf.h"
#include "base/span.h"

struct sse {
  struct buf name;  /* of the event being read */
  struct buf data;  /* its data lines joined with LF */
  struct buf line;  /* the unfinished line, when a feed ended inside one */
  size_t limit;     /* bytes of name and data together, and of the line beside them; 0: no limit. What is over it is
                     * dropped and `overflow` is set. Comments of any length are read without being kept */
  bool has_data;    /* a data line was seen in this event */
  bool has_fields;  /* any field was seen: the block is no mere comment */
  bool after_cr;    /* the last byte read was a CR that ended a line */
  bool started;     /* the first line was read: no byte-order mark may come any more */
  bool waiting;     /* bytes of an unfinished block were read */
  bool cut;         /* the unfinished line lost bytes */
  bool overflow;    /* of the event being read */
};

struct sse_event {
  struct span name; /* empty when there was no `event:` line */
  struct span data; /* valid until the next call */
  bool comment;     /* a block of comments or blank lines only */
  bool overflow;    /* data is cut at the limit */
};

void sse_init(struct sse *sse, size_t limit);
void sse_free(struct sse *sse);

/*
 * Reads on in bytes[*at..n). True: one block ended and *event describes it; *at is just after it (after the whole CRLF
 * of its empty line when both bytes are there). False: all was read, *at == n, the rest is kept for the next feed. An
 * LF that is the second half of a CRLF whose CR ended the previous block belongs to that block: it is skipped at the
 * start of the next feed and is never an event of its own.
 */
bool sse_next(struct sse *sse, const char *bytes, size_t n, size_t *at, struct sse_event *event);

/* Bytes of an unfinished block are waiting. */
bool sse_pending(const struct sse *sse);

/*
 * Ends the stream: an unfinished block that has fields is given as a last event (a clean end may come without the
 * final empty line, and its last line without a line end). The block may as well have been cut short: of what it says,
 * only an end or an error is to be believed, never content.
 */
bool sse_end(struct sse *sse, struct sse_event *event);
