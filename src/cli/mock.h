/*
 * The scripted upstream: an HTTP/1.1 server on raw sockets whose answers, and faults, a Lua script decides (contract
 * section 11). `bullpen mock` runs one; `bullpen demo` runs several in its own process.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "base/span.h"

struct mock;

/* What one mock keeps to, in connections and bytes. */
enum {
  MOCK_CONNECTIONS = 4096,          /* open at once; more are reset */
  MOCK_HEAD_BYTES = 64 << 10,       /* a request's head; a larger one is answered 431 */
  MOCK_BODY_BYTES = 64 << 20,       /* of one request's body that is kept; the rest is read, counted and dropped */
  MOCK_RECORDED_BYTES = 64 << 20,   /* of bodies in the record, all together */
  MOCK_RECORDS = 20000,             /* requests in the record; then the oldest go */
  MOCK_CHUNKS = 100000,             /* `stream.chunks` at most */
};

/* Loads the script `source` (named `path` in messages; `require` looks beside it), binds the listening socket and starts
 * serving in threads of its own, which take no signals. `listen` ("127.0.0.1:0", "[::1]:0") wins over the script's own;
 * NULL: the script's, else 127.0.0.1:0. NULL and `error` = "file:line: what" otherwise. */
struct mock *mock_start(const char *path, struct span source, const char *listen, char *error, size_t error_size);

/* "127.0.0.1:43211": where it listens. Lives as long as the mock. */
const char *mock_address(const struct mock *mock);

/* Ends every connection at once, waits for the threads, frees. Clears the pointer; NULL inside is fine. */
void mock_stop(struct mock **mock);
