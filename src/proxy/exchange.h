/*
 * The life of one client request, from its request line to its last byte. The front gives it what came and asks it for what is to be sent; it drives
 * the engine, the transfer and the relay between. It never includes the HTTP libraries.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "core/request.h"

struct conn;
struct exchange;
struct worker;

/* A request line came: `target` is copied. NULL when out of memory. */
struct exchange *exchange_new(struct worker *worker, struct conn *conn, const char *target);

struct exchange_head {
  const char *method, *version;
  struct headers headers; /* valid as long as the request */
  bool sound;             /* the fields lie in memory as a plain request leaves them (guard_layout) */
};

enum exchange_wish {
  EXCHANGE_READ,   /* read the body, then call exchange_complete */
  EXCHANGE_ANSWER, /* the answer is ready at once; what follows is not to be read, the connection closes after it */
};
enum exchange_wish exchange_head(struct exchange *ex, const struct exchange_head *head);

/* Body bytes. False: give up on the connection (exchange_last_words may be written first). */
bool exchange_body(struct exchange *ex, const char *bytes, size_t n);
/* The body is complete. The answer may be ready at once. */
void exchange_complete(struct exchange *ex);

#define REPLY_LENGTH_UNKNOWN UINT64_MAX

struct reply {
  int status; /* 0: not ready */
  struct header *headers;
  size_t count;
  uint64_t length;   /* of the body; REPLY_LENGTH_UNKNOWN: until it ends */
  struct span whole; /* the body, when all of it is here (p not NULL); otherwise exchange_read gives it */
  bool close;        /* end the connection after it */
};

/* What is to be sent, once it is known; NULL before. */
const struct reply *exchange_reply(struct exchange *ex);
/* Gives up to `max` body bytes; 0: none now (exchange calls front_wake when there are), -1: clean end, -2: unclean end. */
ssize_t exchange_read(struct exchange *ex, char *to, size_t max);

/* The client has left, or stopped taking bytes for timeouts.client_send. */
void exchange_client_gone(struct exchange *ex);
/* Nothing can change the request's outcome any more. */
bool exchange_settled(const struct exchange *ex);
/* When bytes are waiting for the client: since when it took none; SECONDS_NEVER: none wait. */
seconds exchange_unsent_since(const struct exchange *ex);
/* A raw answer for a client that cannot be answered in the usual way. */
struct span exchange_last_words(struct exchange *ex);

/* The front is through with it, for whatever reason. Clears the pointer. */
void exchange_free(struct exchange **ex);

/* Runs the exchanges that were posted; true when there were any. */
bool exchange_turn(struct worker *worker);
