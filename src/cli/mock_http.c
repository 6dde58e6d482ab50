/*
 * Reading HTTP/1.1 requests from a blocking socket, and the few things done to a connection beside writing.
 *
 * Unlike a proxy's front door this reader is lenient: it takes what any client sends (bare LF too) and keeps the
 * header bytes as they came, because the record of them is what tests look at. Its only refusals are what it cannot
 * frame and what is over a limit.
 *
 * conn->in holds what was read and not used yet; a head is copied out of it into request->head, and every span of the
 * request points there. All waiting is poll() on the socket with POLLRDHUP, so that a peer that leaves, and
 * mock_stop() shutting the socket down, end any wait at once.
 */
#include "cli/mock_http.h"

#include <errno.h>
#include <linux/sockios.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "cli/mock.h"
#include "core/body.h"
#include "core/dialect.h"

enum { READ_BYTES = 16 << 10, FINISH_MILLISECONDS = 2000, DRAIN_MILLISECONDS = 5000, HEADERS = 512 };
#define READ_PAUSE 0.02 /* seconds */

/* ---- the socket ---- */

/* Reads more into conn->in. False: the peer has gone, or memory is out. */
static bool read_more(struct mock_conn *conn) {
  char *room = buf_reserve(&conn->in, READ_BYTES);
  if (!room) return false;
  ssize_t got;
  do got = recv(conn->fd, room, READ_BYTES, 0);
  while (got < 0 && errno == EINTR);
  if (got <= 0) return false;
  conn->in.n += (size_t)got;
  return true;
}

bool mock_conn_write(struct mock_conn *conn, struct span bytes) {
  while (bytes.n) {
    ssize_t put = send(conn->fd, bytes.p, bytes.n, MSG_NOSIGNAL);
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) return false;
    bytes = span_skip(bytes, (size_t)put);
  }
  return true;
}

bool mock_conn_wait(struct mock_conn *conn, seconds duration) {
  seconds until = clock_now() + duration;
  for (;;) {
    seconds left = until - clock_now();
    int milliseconds = left > 60 ? 60000 : left > 0 ? (int)(left * 1000) + 1 : 0;
    struct pollfd watch = { .fd = conn->fd, .events = POLLRDHUP };
    int ready = poll(&watch, 1, milliseconds);
    if (ready < 0 && errno != EINTR) return false;
    if (ready > 0) return false;
    if (clock_now() >= until) return true;
  }
}

void mock_conn_drain(struct mock_conn *conn) {
  for (int waited = 0; waited < DRAIN_MILLISECONDS; waited++) {
    int unsent = 0;
    if (ioctl(conn->fd, SIOCOUTQ, &unsent) < 0 || unsent == 0) break;
    struct pollfd watch = { .fd = conn->fd, .events = POLLRDHUP };
    if (poll(&watch, 1, 1) > 0) return;
  }
  /* A client that learns of the bytes and of the reset by one poll may take the reset for a clean end: libuv does. */
  (void)mock_conn_wait(conn, READ_PAUSE);
}

void mock_conn_finish(struct mock_conn *conn) {
  if (shutdown(conn->fd, SHUT_WR) < 0) return;
  seconds until = clock_now() + FINISH_MILLISECONDS / 1000.0;
  struct pollfd watch = { .fd = conn->fd, .events = POLLIN };
  char thrown[4096];
  for (seconds now = clock_now(); now < until; now = clock_now()) {
    if (poll(&watch, 1, (int)((until - now) * 1000) + 1) <= 0) return;
    if (recv(conn->fd, thrown, sizeof thrown, 0) <= 0) return;
  }
}

void mock_conn_reset(struct mock_conn *conn) {
  struct linger none = { .l_onoff = 1, .l_linger = 0 };
  (void)setsockopt(conn->fd, SOL_SOCKET, SO_LINGER, &none, sizeof none);
}

/* ---- the head ---- */

/* The first line of *text without its line end; *text goes on after it. */
static struct span next_line(struct span *text) {
  const char *end = memchr(text->p, '\n', text->n);
  struct span line = { text->p, end ? (size_t)(end - text->p) : text->n };
  *text = span_skip(*text, line.n + 1);
  if (line.n && line.p[line.n - 1] == '\r') line.n--;
  return line;
}

static struct span cut_at(struct span *text, char mark) {
  const char *at = memchr(text->p, mark, text->n);
  struct span part = { text->p, at ? (size_t)(at - text->p) : text->n };
  *text = span_skip(*text, part.n + 1);
  return part;
}

static bool parse_request_line(struct mock_request *request, struct span line) {
  request->method = cut_at(&line, ' ');
  request->target = cut_at(&line, ' ');
  request->query = request->target;
  request->path = cut_at(&request->query, '?');
  request->old = span_is(line, "HTTP/1.0");
  return request->method.n && request->target.n && span_starts(line, "HTTP/1.");
}

static bool parse_head(struct mock_request *request) {
  struct span text = buf_span(&request->head);
  if (!parse_request_line(request, next_line(&text))) return false;
  struct header *list = ARENA_ARRAY(&request->arena, struct header, HEADERS);
  if (!list) return false;
  request->headers.list = list;
  while (text.n) {
    struct span line = next_line(&text);
    if (!line.n) continue;
    if (request->headers.count == HEADERS || !memchr(line.p, ':', line.n)) return false;
    struct header *header = &list[request->headers.count++];
    header->name = cut_at(&line, ':');
    header->value = span_trim(line);
  }
  struct span connection = headers_get(request->headers, "connection");
  request->keep = request->old ? span_is_nocase(connection, "keep-alive") : !span_is_nocase(connection, "close");
  return true;
}

/* Bytes up to and with the empty line that ends a head; 0: not there yet. */
static size_t head_length(struct span bytes) {
  for (size_t i = 0; i + 1 < bytes.n; i++) {
    if (bytes.p[i] != '\n') continue;
    if (bytes.p[i + 1] == '\n') return i + 2;
    if (i + 2 < bytes.n && bytes.p[i + 1] == '\r' && bytes.p[i + 2] == '\n') return i + 3;
  }
  return 0;
}

enum mock_read mock_read_head(struct mock_conn *conn, struct mock_request *request) {
  size_t length = 0;
  for (;;) {
    while (conn->in.n && (conn->in.p[0] == '\r' || conn->in.p[0] == '\n')) buf_drop(&conn->in, 1);
    length = head_length(buf_span(&conn->in));
    if (length || conn->in.n > MOCK_HEAD_BYTES) break;
    if (!read_more(conn)) return MOCK_READ_CLOSED;
  }
  if (!length || length > MOCK_HEAD_BYTES) return MOCK_READ_BAD;
  buf_add(&request->head, conn->in.p, length);
  buf_drop(&conn->in, length);
  if (!buf_ok(&request->head)) return MOCK_READ_CLOSED;
  return parse_head(request) ? MOCK_READ_GOOD : MOCK_READ_BAD;
}

/* ---- the body ---- */

/* Moves `length` bytes of body from the connection to the request; what is over the limit is only counted. */
static enum mock_read take_body(struct mock_conn *conn, struct mock_request *request, uint64_t length) {
  while (length) {
    if (!conn->in.n && !read_more(conn)) return MOCK_READ_CLOSED;
    size_t n = conn->in.n < length ? conn->in.n : (size_t)length;
    if (request->body_size + n <= MOCK_BODY_BYTES && !request->body_cut)
      buf_add(&request->body, conn->in.p, n);
    else
      request->body_cut = true;
    request->body_size += n;
    length -= n;
    buf_drop(&conn->in, n);
  }
  return buf_ok(&request->body) ? MOCK_READ_GOOD : MOCK_READ_CLOSED;
}

/* One line of chunk framing into `line`, without its end. */
static enum mock_read take_line(struct mock_conn *conn, char *line, size_t size) {
  for (;;) {
    char *end = conn->in.n ? memchr(conn->in.p, '\n', conn->in.n) : NULL;
    if (!end && conn->in.n >= size) return MOCK_READ_BAD;
    if (!end && !read_more(conn)) return MOCK_READ_CLOSED;
    if (!end) continue;
    size_t n = (size_t)(end - conn->in.p);
    if (n >= size) return MOCK_READ_BAD;
    memcpy(line, conn->in.p, n);
    line[n && line[n - 1] == '\r' ? n - 1 : n] = '\0';
    buf_drop(&conn->in, n + 1);
    return MOCK_READ_GOOD;
  }
}

static enum mock_read take_chunks(struct mock_conn *conn, struct mock_request *request) {
  char line[1024];
  for (;;) {
    enum mock_read read = take_line(conn, line, sizeof line);
    if (read != MOCK_READ_GOOD) return read;
    char *end;
    errno = 0;
    unsigned long long length = strtoull(line, &end, 16);
    if (end == line || line[0] == '-' || errno || (*end && *end != ';' && *end != ' ')) return MOCK_READ_BAD;
    if (length == 0) break;
    read = take_body(conn, request, length);
    if (read == MOCK_READ_GOOD) read = take_line(conn, line, sizeof line);
    if (read != MOCK_READ_GOOD) return read;
    if (*line) return MOCK_READ_BAD;
  }
  for (;;) { /* trailers */
    enum mock_read read = take_line(conn, line, sizeof line);
    if (read != MOCK_READ_GOOD || !*line) return read;
  }
}

static bool parse_length(struct span text, uint64_t *length) {
  *length = 0;
  for (size_t i = 0; i < text.n; i++) {
    if (text.p[i] < '0' || text.p[i] > '9' || *length > UINT64_MAX / 20) return false;
    *length = *length * 10 + (uint64_t)(text.p[i] - '0');
  }
  return text.n > 0;
}

enum mock_read mock_read_body(struct mock_conn *conn, struct mock_request *request) {
  struct span length_text = headers_get(request->headers, "content-length");
  bool chunked = span_is_nocase(headers_get(request->headers, "transfer-encoding"), "chunked");
  uint64_t length = 0;
  if (!chunked && length_text.p && !parse_length(length_text, &length)) return MOCK_READ_BAD;
  if (span_is_nocase(headers_get(request->headers, "expect"), "100-continue") && !conn->in.n &&
      !mock_conn_write(conn, SPAN("HTTP/1.1 100 Continue\r\n\r\n")))
    return MOCK_READ_CLOSED;
  return chunked ? take_chunks(conn, request) : take_body(conn, request, length);
}

/* ---- what it asks for ---- */

static bool ends_with(struct span text, const char *tail) {
  size_t n = strlen(tail);
  return text.n >= n && memcmp(text.p + text.n - n, tail, n) == 0;
}

/* By the path's end, so that any base URL will do. */
static enum route route_of(struct span path) {
  if (ends_with(path, "/chat/completions")) return ROUTE_CHAT;
  if (ends_with(path, "/completions")) return ROUTE_COMPLETIONS;
  if (ends_with(path, "/embeddings")) return ROUTE_EMBEDDINGS;
  if (ends_with(path, "/responses")) return ROUTE_RESPONSES;
  if (ends_with(path, "/messages") || ends_with(path, "/messages/count_tokens")) return ROUTE_MESSAGES;
  return ROUTE_NONE;
}

void mock_request_understand(struct mock_request *request) {
  static const char *const names[] = { "model", "stream" };
  struct body_value values[2] = { 0 };
  request->route = span_is(request->method, "POST") ? route_of(request->path) : ROUTE_NONE;
  request->count_tokens = ends_with(request->path, "/count_tokens");
  request->model = SPAN("mock-model");
  if (body_scan(buf_span(&request->body), names, values, 2, NULL) != BODY_GOOD) return;
  request->stream = body_is_true(values[1]);
  struct span model = body_text(values[0], &request->arena);
  if (model.p) request->model = model;
}

void mock_request_free(struct mock_request *request) {
  buf_free(&request->head);
  buf_free(&request->body);
  arena_free(&request->arena);
  *request = (struct mock_request){ 0 };
}
