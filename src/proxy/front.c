/*
 * libmicrohttpd in external-polling mode: one daemon a worker, without a socket of its own; connections are given to it.
 *
 *   accepted --> HEAD --(request line: exchange_new)--(fields: exchange_head)--> BODY --(exchange_complete)--> WAIT --> REPLY --> HEAD ...
 *
 * A waiting request's connection is suspended, and resumed by front_wake. The library does not notice that the client of a suspended connection
 * leaves: every connection's descriptor is also watched in our own epoll for its peer's end (half-closed counts), and the library's timeouts are not
 * used: each connection has one timer of ours, whose meaning goes by its phase.
 *
 * The library's callbacks run only inside front_turn; connections are freed there (by the library's "closed" notice) and buried, because an event of
 * the same turn may still name them.
 */
#include "proxy/front.h"

#include <arpa/inet.h>
#include <errno.h>
#include <microhttpd.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/un.h>
#include <unistd.h>

#include "proxy/exchange.h"
#include "proxy/guard.h"
#include "proxy/parting.h"
#include "proxy/worker.h"

enum {
  FIELDS_MAX = 512,            /* header fields of a request */
  WHOLE_BYTES = 16 * 1024,     /* answers up to this are given to the library whole */
  READER_BLOCK = 16 * 1024,    /* of answers with a known length that are read in pieces */
};
#define BARREN_PAUSE 0.05 /* seconds between runs that the library asks for and makes nothing of */
enum { BARREN_RUNS = 8 };
#define LAST_WORDS_SECONDS 2.0 /* for a client to read an answer that was forced on it */

enum phase { PHASE_HEAD, PHASE_BODY, PHASE_WAIT, PHASE_REPLY };

struct conn {
  struct loop_source source; /* watches the peer's end */
  struct front *front;
  struct MHD_Connection *mhd;
  struct exchange *exchange;
  enum phase phase;
  bool suspended, gone, given_up;
  struct timer timer;
  struct header *fields; /* of the request's head; freed with the request */
  size_t target_length;  /* as the request line had it */
  struct conn *next, **prev;
  char peer[64];
};

struct front {
  struct worker *worker;
  struct MHD_Daemon *daemon;
  struct loop_source source; /* the library's epoll */
  bool work, draining;
  bool ending;         /* nothing is to be suspended any more */
  bool progress;       /* the last run of the library called us back */
  unsigned barren;     /* runs in a row that did not, though it asked for them */
  struct timer retry;  /* when to give it another run then */
  struct conn *accepting; /* for the library's notice, while a connection is handed over */
  struct conn *conns;
  unsigned count;
  struct partings partings; /* those turned away */
};

static seconds now_of(const struct conn *c) {
  return loop_now(c->front->worker->loop);
}

static const struct config *config_of(const struct conn *c) {
  return c->front->worker->config;
}

static void arm(struct conn *c, seconds after) {
  loop_arm(c->front->worker->loop, &c->timer, now_of(c) + after);
}

/* The library forgets a connection that ended badly, or that ends without an event, until another one is idle for longer; those with a timeout of
 * their own are looked at on every run. */
static void hurry(struct conn *c) {
  MHD_set_connection_option(c->mhd, MHD_CONNECTION_OPTION_TIMEOUT, 3600u);
  c->front->work = true;
}

static void hang_up(struct conn *c) {
  shutdown(c->source.fd, SHUT_RDWR);
  hurry(c);
}

/* ---- replies ---- */

static ssize_t read_reply(void *context, uint64_t position, char *to, size_t max) {
  struct conn *c = context;
  (void)position;
  c->front->progress = true;
  ssize_t n = exchange_read(c->exchange, to, max);
  if (n > 0) return n;
  if (n == -1) return MHD_CONTENT_READER_END_OF_STREAM;
  if (n == -2 || c->front->ending) return MHD_CONTENT_READER_END_WITH_ERROR;
  c->suspended = true; /* first: a reader that returns 0 without this is called again for ever */
  MHD_suspend_connection(c->mhd);
  return 0;
}

static struct MHD_Response *make_response(struct conn *c, const struct reply *r) {
  if (r->whole.p && r->whole.n <= WHOLE_BYTES)
    return MHD_create_response_from_buffer(r->whole.n, (void *)(uintptr_t)r->whole.p, MHD_RESPMEM_PERSISTENT);
  uint64_t length = r->length == REPLY_LENGTH_UNKNOWN ? MHD_SIZE_UNKNOWN : r->length;
  return MHD_create_response_from_callback(length, READER_BLOCK, read_reply, c, NULL);
}

/* The library wants NUL-terminated text. */
static bool add_header(struct MHD_Response *response, const struct header *h) {
  char small[512];
  size_t need = h->name.n + h->value.n + 2;
  char *text = need <= sizeof small ? small : malloc(need);
  if (!text) return false;
  char *value = text + h->name.n + 1;
  memcpy(text, h->name.p, h->name.n);
  text[h->name.n] = 0;
  memcpy(value, h->value.p, h->value.n);
  value[h->value.n] = 0;
  MHD_add_response_header(response, text, value); /* one that it refuses is left out */
  if (text != small) free(text);
  return true;
}

static enum MHD_Result queue_reply(struct conn *c, const struct reply *r) {
  struct MHD_Response *response = make_response(c, r);
  bool good = response != NULL;
  for (size_t i = 0; i < r->count && good; i++) good = add_header(response, &r->headers[i]);
  if (good && (r->close || c->front->draining)) good = MHD_add_response_header(response, "Connection", "close") == MHD_YES;
  enum MHD_Result result = good ? MHD_queue_response(c->mhd, (unsigned)r->status, response) : MHD_NO;
  if (response) MHD_destroy_response(response);
  c->phase = PHASE_REPLY;
  arm(c, config_of(c)->timeouts.client_send);
  return result;
}

static enum MHD_Result refuse_head(struct conn *c, unsigned status) {
  struct MHD_Response *response = MHD_create_response_from_buffer(0, (void *)(uintptr_t) "", MHD_RESPMEM_PERSISTENT);
  if (!response) return MHD_NO;
  MHD_add_response_header(response, "Connection", "close");
  enum MHD_Result result = MHD_queue_response(c->mhd, status, response);
  MHD_destroy_response(response);
  return result;
}

/* ---- requests ---- */

struct gathering {
  struct header *fields;
  size_t count;
  bool too_many;
};

static enum MHD_Result gather(void *context, enum MHD_ValueKind kind, const char *name, size_t name_size, const char *value, size_t value_size) {
  struct gathering *g = context;
  (void)kind;
  if (g->count == FIELDS_MAX) {
    g->too_many = true;
    return MHD_NO;
  }
  g->fields[g->count++] = (struct header){ { name, name_size }, { value ? value : "", value_size } };
  return MHD_YES;
}

/* Bytes of the request line and the fields, to the empty line's end; the method is the first of them. */
static size_t head_size(struct MHD_Connection *mhd) {
  const union MHD_ConnectionInfo *info = MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_REQUEST_HEADER_SIZE);
  return info ? info->header_size : 0;
}

/* Blanks only: what else stands at a value's end is the guard's to see. */
static struct span without_blanks(struct span value) {
  while (value.n && (value.p[value.n - 1] == ' ' || value.p[value.n - 1] == '\t')) value.n--;
  return value;
}

/* The request line's parts lie one blank apart: a NUL in the target, or more blanks, would show here. */
static bool line_is_plain(const struct conn *c, const char *target, const char *version) {
  return version == target + c->target_length + 1;
}

static enum MHD_Result take_head(struct conn *c, const char *target, const char *method, const char *version) {
  struct header fields[FIELDS_MAX];
  struct gathering g = { .fields = fields };
  size_t size = head_size(c->mhd);
  MHD_get_connection_values_n(c->mhd, MHD_HEADER_KIND, gather, &g);
  if (g.too_many || size > config_of(c)->limits.header) return refuse_head(c, 431);
  c->fields = malloc((g.count ? g.count : 1) * sizeof *c->fields);
  if (!c->fields) return MHD_NO;
  memcpy(c->fields, fields, g.count * sizeof *fields);
  struct exchange_head head = { .method = method, .version = version, .headers = { c->fields, g.count } };
  head.sound = line_is_plain(c, target, version) && guard_layout(span_of(version), head.headers, method + size);
  for (size_t i = 0; i < g.count; i++) c->fields[i].value = without_blanks(c->fields[i].value);
  c->phase = PHASE_BODY;
  loop_arm(c->front->worker->loop, &c->timer, SECONDS_NEVER); /* the exchange keeps the body's time */
  if (exchange_head(c->exchange, &head) == EXCHANGE_READ) return MHD_YES;
  const struct reply *r = exchange_reply(c->exchange);
  return r ? queue_reply(c, r) : MHD_NO;
}

static enum MHD_Result answer_or_wait(struct conn *c) {
  const struct reply *r = exchange_reply(c->exchange);
  if (r) return queue_reply(c, r);
  if (c->front->ending || exchange_settled(c->exchange)) return MHD_NO; /* the client has left */
  c->suspended = true;
  MHD_suspend_connection(c->mhd);
  return MHD_YES;
}

static enum MHD_Result on_request(void *context, struct MHD_Connection *mhd, const char *url, const char *method, const char *version,
                                  const char *upload, size_t *upload_size, void **request) {
  const union MHD_ConnectionInfo *info = MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
  struct conn *c = info ? info->socket_context : NULL;
  (void)context, (void)request;
  if (!c || !c->exchange) return MHD_NO;
  c->front->progress = true;
  if (c->phase == PHASE_HEAD) return take_head(c, url, method, version);
  if (*upload_size) {
    bool goes_on = exchange_body(c->exchange, upload, *upload_size);
    *upload_size = 0;
    if (!goes_on && !c->given_up) front_give_up(c, exchange_last_words(c->exchange));
    return MHD_YES;
  }
  if (c->given_up) return MHD_NO;
  if (c->phase == PHASE_BODY) {
    c->phase = PHASE_WAIT;
    exchange_complete(c->exchange);
  }
  return answer_or_wait(c);
}

/* The request line came. */
static void *on_target(void *context, const char *target, struct MHD_Connection *mhd) {
  const union MHD_ConnectionInfo *info = MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
  struct conn *c = info ? info->socket_context : NULL;
  struct front *front = context;
  front->progress = true;
  if (!c) return NULL;
  c->phase = PHASE_HEAD;
  c->target_length = strlen(target);
  c->exchange = exchange_new(front->worker, c, target);
  arm(c, config_of(c)->timeouts.client_header);
  return c->exchange;
}

static void on_completed(void *context, struct MHD_Connection *mhd, void **request, enum MHD_RequestTerminationCode code) {
  const union MHD_ConnectionInfo *info = MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
  struct conn *c = info ? info->socket_context : NULL;
  struct front *front = context;
  front->progress = true;
  *request = NULL;
  if (!c) return;
  exchange_free(&c->exchange);
  free(c->fields);
  c->fields = NULL;
  c->phase = PHASE_HEAD;
  arm(c, config_of(c)->timeouts.keepalive);
  if (front->draining) shutdown(c->source.fd, SHUT_RDWR);
  /* A vanished client may be reported as served. */
  if (front->draining || c->gone || code != MHD_REQUEST_TERMINATED_COMPLETED_OK) hurry(c);
}

/* ---- connections ---- */

static void conn_link(struct front *front, struct conn *c) {
  c->next = front->conns;
  c->prev = &front->conns;
  if (c->next) c->next->prev = &c->next;
  front->conns = c;
  front->count++;
  atomic_fetch_add(&front->worker->proxy->connections, 1);
}

static void conn_drop(struct conn *c) {
  struct front *front = c->front;
  *c->prev = c->next;
  if (c->next) c->next->prev = c->prev;
  front->count--;
  atomic_fetch_sub(&front->worker->proxy->connections, 1);
  loop_arm(front->worker->loop, &c->timer, SECONDS_NEVER);
  loop_remove(front->worker->loop, &c->source);
  loop_bury(front->worker->loop, c);
}

static void on_connection(void *context, struct MHD_Connection *mhd, void **socket_context, enum MHD_ConnectionNotificationCode code) {
  struct front *front = context;
  if (code == MHD_CONNECTION_NOTIFY_STARTED) {
    struct conn *c = front->accepting;
    front->accepting = NULL;
    c->mhd = mhd;
    *socket_context = c;
    conn_link(front, c);
  } else if (*socket_context) {
    conn_drop(*socket_context);
    *socket_context = NULL;
  }
}

static void peer_ended(struct loop_source *source, uint32_t events) {
  struct conn *c = (struct conn *)source;
  (void)events;
  c->gone = true;
  bool serving = c->exchange && (c->phase == PHASE_WAIT || c->phase == PHASE_REPLY);
  if (serving && exchange_settled(c->exchange)) return;
  if (serving) exchange_client_gone(c->exchange);
  hang_up(c); /* the library may have missed the end, or be waiting for room to write */
}

/* The client takes nothing of its answer: since `client_send` it has as good as left. */
static void check_sending(struct conn *c, seconds now) {
  seconds limit = config_of(c)->timeouts.client_send, since = exchange_unsent_since(c->exchange);
  if (since + limit > now) {
    loop_arm(c->front->worker->loop, &c->timer, (since < SECONDS_NEVER ? since : now) + limit);
    return;
  }
  if (!exchange_settled(c->exchange)) exchange_client_gone(c->exchange);
  hang_up(c);
}

static void timer_due(struct timer *timer, seconds now) {
  struct conn *c = (struct conn *)((char *)timer - offsetof(struct conn, timer));
  if (c->phase == PHASE_REPLY && c->exchange && !c->given_up)
    check_sending(c, now);
  else
    hang_up(c);
}

static void describe_peer(struct conn *c, const struct sockaddr *address) {
  char host[INET6_ADDRSTRLEN] = "";
  if (address->sa_family == AF_INET) {
    const struct sockaddr_in *v4 = (const struct sockaddr_in *)address;
    inet_ntop(AF_INET, &v4->sin_addr, host, sizeof host);
    snprintf(c->peer, sizeof c->peer, "%s:%u", host, ntohs(v4->sin_port));
  } else if (address->sa_family == AF_INET6) {
    const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)address;
    inet_ntop(AF_INET6, &v6->sin6_addr, host, sizeof host);
    snprintf(c->peer, sizeof c->peer, "[%s]:%u", host, ntohs(v6->sin6_port));
  } else {
    snprintf(c->peer, sizeof c->peer, "unix");
  }
}

/* Over limits.connections: the shortest answer that every client understands. */
static void turn_away(struct front *front, int fd) {
  static const char body[] = "{\"error\":{\"message\":\"Too many connections are open.\",\"type\":\"server_error\",\"param\":null,\"code\":\"overloaded\"}}";
  char canned[512];
  int n = snprintf(canned, sizeof canned,
                   "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 1\r\nConnection: close\r\n"
                   "Content-Length: %zu\r\n\r\n%s", sizeof body - 1, body);
  if (send(fd, canned, (size_t)n, MSG_DONTWAIT | MSG_NOSIGNAL) == n)
    parting_begin(&front->partings, fd);
  else
    close(fd);
}

void front_accept(struct front *front, int fd, const struct sockaddr *address, socklen_t length) {
  struct proxy *proxy = front->worker->proxy;
  struct conn *c = NULL;
  if (atomic_load(&proxy->connections) < front->worker->config->limits.connections) c = calloc(1, sizeof *c);
  if (!c) {
    turn_away(front, fd);
    return;
  }
  c->front = front;
  c->source = (struct loop_source){ .fd = fd, .ready = peer_ended };
  c->timer.due = timer_due;
  describe_peer(c, address);
  front->accepting = c;
  front->work = true;
  bool taken = MHD_add_connection(front->daemon, fd, address, length) == MHD_YES; /* closes the socket if not */
  if (!taken || front->accepting) {
    if (front->accepting) free(c);
    front->accepting = NULL;
    return;
  }
  if (!loop_add(front->worker->loop, &c->source, EPOLLRDHUP | EPOLLET)) shutdown(fd, SHUT_RDWR);
  arm(c, c->front->worker->config->timeouts.client_header);
}

void front_wake(struct conn *c) {
  if (!c->suspended) return;
  c->suspended = false;
  c->front->work = true;
  MHD_resume_connection(c->mhd);
}

void front_give_up(struct conn *c, struct span words) {
  if (c->given_up) return;
  c->given_up = true;
  if (words.n && send(c->source.fd, words.p, words.n, MSG_DONTWAIT | MSG_NOSIGNAL) > 0)
    shutdown(c->source.fd, SHUT_WR); /* it may still read this, while what it sends is thrown away */
  else
    shutdown(c->source.fd, SHUT_RDWR);
  arm(c, LAST_WORDS_SECONDS);
}

const char *front_peer(const struct conn *c) {
  return c->peer;
}

bool front_gone(const struct conn *c) {
  return c->gone;
}

unsigned front_connections(const struct front *front) {
  return front->count;
}

/* ---- the daemon ---- */

static void library_ready(struct loop_source *source, uint32_t events) {
  struct front *front = (struct front *)((char *)source - offsetof(struct front, source));
  (void)events;
  front->work = true;
}

static size_t leave_escaped(void *context, struct MHD_Connection *mhd, char *text) {
  (void)context, (void)mhd;
  return strlen(text);
}

static void library_log(void *context, const char *format, va_list args) {
  char line[256];
  (void)context;
  vsnprintf(line, sizeof line, format, args);
  log_debug("http library", LOG_SPAN("says", span_trim(span_of(line))));
}

static void run_again(struct timer *timer, seconds now) {
  struct front *front = (struct front *)((char *)timer - offsetof(struct front, retry));
  (void)now;
  front->work = true;
}

struct front *front_new(struct worker *worker) {
  struct front *front = calloc(1, sizeof *front);
  if (!front) return NULL;
  front->worker = worker;
  front->partings.loop = worker->loop;
  front->retry.due = run_again;
  /* Half of a connection's memory is for the request's head, what is left of it for the answer's. */
  size_t memory = 2 * worker->config->limits.header;
  front->daemon = MHD_start_daemon(
    MHD_USE_EPOLL | MHD_USE_NO_LISTEN_SOCKET | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG, 0, NULL, NULL, on_request, front,
    MHD_OPTION_EXTERNAL_LOGGER, library_log, NULL, MHD_OPTION_NOTIFY_COMPLETED, on_completed, front, MHD_OPTION_NOTIFY_CONNECTION, on_connection,
    front, MHD_OPTION_URI_LOG_CALLBACK, on_target, front, MHD_OPTION_UNESCAPE_CALLBACK, leave_escaped, NULL, MHD_OPTION_CONNECTION_MEMORY_LIMIT,
    memory, MHD_OPTION_CONNECTION_LIMIT, worker->config->limits.connections + 1, MHD_OPTION_END);
  const union MHD_DaemonInfo *info = front->daemon ? MHD_get_daemon_info(front->daemon, MHD_DAEMON_INFO_EPOLL_FD) : NULL;
  if (info) {
    front->source = (struct loop_source){ .fd = info->epoll_fd, .ready = library_ready };
    if (loop_add(worker->loop, &front->source, EPOLLIN)) return front;
  }
  if (front->daemon) MHD_stop_daemon(front->daemon);
  free(front);
  return NULL;
}

/* A connection whose read buffer is full of what is no request yet makes the library ask for run after run, in none of which anything happens: a few
 * are granted, then one now and then. What comes over the network wakes it all the same. */
static void grant_another_run(struct front *front) {
  front->barren = front->progress ? 0 : front->barren + 1;
  if (front->barren < BARREN_RUNS)
    front->work = true;
  else
    loop_arm(front->worker->loop, &front->retry, loop_now(front->worker->loop) + BARREN_PAUSE);
}

bool front_turn(struct front *front) {
  if (!front->work) return false;
  unsigned long long wait = 1;
  front->work = front->progress = false;
  MHD_run(front->daemon);
  if (MHD_get_timeout(front->daemon, &wait) == MHD_YES && wait == 0) grant_another_run(front);
  return true;
}

void front_drain(struct front *front) {
  front->draining = true;
  for (struct conn *c = front->conns; c; c = c->next)
    if (!c->exchange) shutdown(c->source.fd, SHUT_RDWR);
}

void front_free(struct front *front) {
  if (!front) return;
  front->ending = true;
  for (struct conn *c = front->conns; c; c = c->next) {
    if (c->exchange && !exchange_settled(c->exchange)) exchange_client_gone(c->exchange);
    front_wake(c); /* the library must not be stopped with suspended connections */
    shutdown(c->source.fd, SHUT_RDWR);
  }
  parting_end_all(&front->partings);
  loop_arm(front->worker->loop, &front->retry, SECONDS_NEVER);
  MHD_run(front->daemon);
  loop_remove(front->worker->loop, &front->source);
  MHD_stop_daemon(front->daemon);
  free(front);
}

/* ---- the self-test of the memory layout ---- */

struct self_test {
  bool seen, sound;
};

static enum MHD_Result test_request(void *context, struct MHD_Connection *mhd, const char *url, const char *method, const char *version,
                                    const char *upload, size_t *upload_size, void **request) {
  struct header fields[8];
  struct gathering g = { .fields = fields };
  struct self_test *test = context;
  (void)url, (void)upload, (void)upload_size, (void)request;
  MHD_get_connection_values_n(mhd, MHD_HEADER_KIND, gather, &g);
  test->seen = true;
  test->sound = g.count == 3 && guard_layout(span_of(version), (struct headers){ fields, g.count }, method + head_size(mhd));
  return MHD_NO;
}

static bool lays_out(const char *text, struct self_test *test) {
  int pair[2];
  struct sockaddr_un nobody = { .sun_family = AF_UNIX };
  *test = (struct self_test){ 0 };
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0) return false;
  struct MHD_Daemon *daemon = MHD_start_daemon(MHD_USE_EPOLL | MHD_USE_NO_LISTEN_SOCKET, 0, NULL, NULL, test_request, test, MHD_OPTION_END);
  bool good = daemon && write(pair[0], text, strlen(text)) > 0 &&
              MHD_add_connection(daemon, pair[1], (struct sockaddr *)&nobody, sizeof(sa_family_t)) == MHD_YES;
  for (int i = 0; i < 10 && good && !test->seen; i++) MHD_run(daemon);
  if (daemon) MHD_stop_daemon(daemon);
  close(pair[0]);
  return good;
}

bool front_self_test(const char **why) {
  struct self_test plain, folded, bare;
  *why = "libmicrohttpd lays out request fields in a way this program does not know: use another version";
  return lays_out("GET / HTTP/1.1\r\nHost: a\r\nB:\r\nC: d\r\n\r\n", &plain) && plain.sound &&
         lays_out("GET / HTTP/1.1\r\nHost: a\r\nB: c\r\n d\r\nC: d\r\n\r\n", &folded) && !folded.sound &&
         lays_out("GET / HTTP/1.1\r\nHost: a\nB: b\r\nC: d\r\n\r\n", &bare) && !bare.sound;
}
