/*
 * What lies between an upstream's bytes and the client: held back until the commit, then released in whole events, unchanged.
 *
 *    out:  | taken | released, may go | held back, or the unfinished tail |
 *          0      at               released                              n
 *
 * The relay knows bytes and events; what they mean for the request is the engine's. It reads no clock and makes no decision.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "base/buf.h"
#include "core/commit.h"
#include "core/sse.h"

enum relay_kind {
  RELAY_HELD,   /* one whole answer: nothing is looked at */
  RELAY_STREAM, /* server-sent events */
  RELAY_RAW,    /* bytes as they come: passthrough, coded, error bodies */
};

enum relay_end { RELAY_OPEN, RELAY_ENDED, RELAY_BROKEN };

struct relay {
  enum relay_kind kind;
  enum relay_end end;
  struct buf out;
  size_t at, released;
  size_t whole;     /* the end of the last whole event */
  size_t limit;     /* limits.buffer */
  bool committed;
  bool cut;         /* an overlong tail was released unfinished, and no whole event since */
  bool seen_event;  /* one that is more than a comment or [DONE] */
  bool finished;    /* a finish reason came */
  double sequence;  /* the last one seen; -1 */
  size_t total;     /* bytes that were released, ever */
  struct sse sse;
};

void relay_init(struct relay *relay, size_t limit);
/* Forgets everything of an attempt that failed, so that nothing of it reaches the next one's. */
void relay_reset(struct relay *relay);
void relay_free(struct relay *relay);

/* How many bytes it takes before it is full: held back to the limit, or waiting for a slow client. */
size_t relay_room(const struct relay *relay);

/* Takes bytes in. `each` is called for every event of a stream that the bytes complete, in order,; it
 * returns false to stop (the attempt failed): the rest is not looked at. Returns how many bytes were taken in. */
size_t relay_feed(struct relay *relay, const char *bytes, size_t n, bool (*each)(void *context, const struct sse_event *event, size_t bytes),
                  void *context);
/* The upstream ended cleanly: a last event without its empty line is given to `each`, and counts as whole. */
void relay_finish(struct relay *relay, bool (*each)(void *context, const struct sse_event *event, size_t bytes), void *context);

/* From now on what is whole may go. A full hold-back or tail goes as it is. */
void relay_commit(struct relay *relay);
/* The end, clean: everything may go, but never half an event. */
void relay_close(struct relay *relay);
/* The end, unclean: the unfinished tail is dropped, `frame` goes instead. */
void relay_break(struct relay *relay, struct span frame);

/* Bytes that may go now. */
struct span relay_ready(const struct relay *relay);
void relay_take(struct relay *relay, size_t n);
