/* One connection of the mock: reading requests off it, and putting bytes, waits and ends on it. Blocking, one
 * thread each. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/buf.h"
#include "base/clock.h"
#include "core/request.h"

struct mock_conn {
  int fd;          /* owned by mock.c, which closes it */
  unsigned number; /* 1.. for the mock's life */
  struct buf in;   /* read and not yet used */
};

/* One request, all of it in its arena and its two buffers. Zeroed before use; mock_request_free() gives it back. */
struct mock_request {
  struct arena arena;
  struct buf head, body;     /* as received; the body after its framing was undone */
  struct span method, target, path, query;
  struct headers headers;
  size_t body_size;          /* bytes that came; more than body.n when some were dropped */
  bool old;                  /* HTTP/1.0 */
  bool keep;                 /* the client is willing to go on afterwards */
  bool body_cut;             /* the body was longer than MOCK_BODY_BYTES: only its size is known */
  const char *id;            /* "PORT_NUMBER": in the ids of its answer, so that two mocks never make the same */
  unsigned number;           /* 1.. since the start or the last reset of the record */
  /* What a look into the body tells (mock_request_understand). */
  enum route route;
  bool count_tokens;         /* messages/count_tokens */
  bool stream;
  struct span model;         /* decoded; "mock-model" when it names none */
};

enum mock_read {
  MOCK_READ_GOOD,
  MOCK_READ_CLOSED, /* the peer has gone */
  MOCK_READ_BAD,    /* no HTTP, or over a limit: answer 400 and close */
};

/* Waits for the next request's head. CLOSED at a clean end between requests too. */
enum mock_read mock_read_head(struct mock_conn *conn, struct mock_request *request);
/* Reads its body, Content-Length or chunked; answers `Expect: 100-continue` first. What came of a broken one is in
 * request->body. */
enum mock_read mock_read_body(struct mock_conn *conn, struct mock_request *request);
/* Fills in route, stream and model from path and body. */
void mock_request_understand(struct mock_request *request);
void mock_request_free(struct mock_request *request);

/* Writes all of it. False: the peer has gone. */
bool mock_conn_write(struct mock_conn *conn, struct span bytes);
/* Lets that much time pass; SECONDS_NEVER: until the peer leaves. False as soon as the peer has closed, or
 * half-closed, its side. */
bool mock_conn_wait(struct mock_conn *conn, seconds duration);
/* Waits (5 s at most) until the peer's system has taken everything written, and 20 ms more for the peer to read it, so
 * that a reset does not overtake it. */
void mock_conn_drain(struct mock_conn *conn);
/* FIN, then reads what still comes (2 s at most): a close on unread bytes would be a reset. */
void mock_conn_finish(struct mock_conn *conn);
/* The coming close() sends a reset. */
void mock_conn_reset(struct mock_conn *conn);
