/*
 * The admin listener: microhttpd on a thread of its own, turned into plain requests (endpoint.h) and back.
 *
 *           head: endpoint_check says go             body complete
 *   NEW ------------------------------> READING ------------------> ANSWERED
 *    |                                     | body over its limit       ^ ^
 *    | refused                             v       request complete    | |
 *    +-------------------------------> REFUSED ------------------------+ |
 *    | refused, its body not begun (Expect) or too long to wait for      |
 *    +-------------------------------------------------------------------+
 *
 * A refused body is read and thrown away before the answer, because a close with unread bytes resets the connection
 * and the client may never read why; one of more than DISCARD bytes is not waited for.
 *
 * What strangers can cost: CROWD connections, each with MEMORY bytes of head; a body is kept only after the token was
 * right, and BODIES bytes of them altogether. Whoever has been silent longest makes room for a newcomer, so that slow
 * or idle clients, however many, never keep a health check out. Nothing here is shared with the data plane but the
 * registry's and the policies' atomics.
 *
 * Everything but admin_start and admin_stop runs on the one thread; an exchange lives from the request line to
 * microhttpd's "completed".
 */
#include "admin/admin.h"

#include <microhttpd.h>
#include <netdb.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "admin/endpoint.h"
#include "base/log.h"
#include "base/socket.h"

enum {
  CROWD = 192,            /* connections before the longest silent one is closed */
  CONNECTIONS = 256,      /* microhttpd's own limit: never met, closing takes one turn of its loop */
  MEMORY = 32 << 10,      /* bytes for a request's head and an answer's */
  TIMEOUT = 30,           /* seconds without progress */
  BODIES = 16 << 20,      /* bytes of bodies being read, of all connections; as many again may be allocated */
  DISCARD = 8 << 20,      /* bytes of a refused body that are read and thrown away */
};

/* One connection, in the order of when it was last heard of. Owned by microhttpd's socket context. */
struct guest {
  struct guest *older, *newer;
  int fd;
};

struct admin {
  struct admin_options options;
  seconds started;
  struct MHD_Daemon *daemon;
  struct guest crowd; /* its newer is the longest silent */
  size_t guests;
  size_t bodies; /* bytes held in bodies */
};

enum exchange_state { NEW, READING, REFUSED, ANSWERED };

struct exchange {
  struct admin *admin;
  enum exchange_state state;
  struct admin_request request;
  struct admin_answer answer;
  struct buf body;
  size_t discarded;
};

/* ---- connections ---- */

static void guest_leave(struct guest *g) {
  g->older->newer = g->newer;
  g->newer->older = g->older;
  g->older = g->newer = g;
}

static void guest_enter(struct admin *a, struct guest *g) {
  g->older = a->crowd.older;
  g->newer = &a->crowd;
  g->older->newer = g;
  a->crowd.older = g;
}

/* Closes the longest silent one, which leaves the list at once; microhttpd sees the end of its input and tidies up. */
static void make_room(struct admin *a) {
  struct guest *g = a->crowd.newer;
  if (a->guests <= CROWD || g == &a->crowd) return;
  guest_leave(g);
  shutdown(g->fd, SHUT_RDWR);
}

static void on_connection(void *context, struct MHD_Connection *connection, void **slot,
                          enum MHD_ConnectionNotificationCode what) {
  struct admin *a = context;
  struct guest *g = *slot;
  if (what == MHD_CONNECTION_NOTIFY_STARTED) {
    a->guests++;
    g = *slot = calloc(1, sizeof *g);
    if (!g) return; /* its request finds no guest and is not served */
    g->fd = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD)->connect_fd;
    guest_enter(a, g);
    make_room(a);
    return;
  }
  a->guests--;
  if (!g) return;
  guest_leave(g);
  free(g);
  *slot = NULL;
}

/* ---- the beginning and the end of an exchange ---- */

static void put_peer(struct MHD_Connection *connection, char peer[ADMIN_PEER]) {
  const union MHD_ConnectionInfo *info = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
  const struct sockaddr *from = info ? info->client_addr : NULL;
  socklen_t size = from && from->sa_family == AF_INET6 ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in);
  char host[48], port[8];
  if (!from || (from->sa_family != AF_INET && from->sa_family != AF_INET6) ||
      getnameinfo(from, size, host, sizeof host, port, sizeof port, NI_NUMERICHOST | NI_NUMERICSERV) != 0) {
    snprintf(peer, ADMIN_PEER, "unix");
    return;
  }
  snprintf(peer, ADMIN_PEER, from->sa_family == AF_INET6 ? "[%s]:%s" : "%s:%s", host, port);
}

/* At the request line, with the target as it was sent. NULL (out of memory) makes `take` close the connection. */
static void *on_target(void *context, const char *target, struct MHD_Connection *connection) {
  struct admin *a = context;
  struct guest *g = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT)->socket_context;
  struct exchange *x = g ? calloc(1, sizeof *x) : NULL;
  if (!x) return NULL;
  if (g->newer != g) { /* still on the list: it goes to its end */
    guest_leave(g);
    guest_enter(a, g);
  }
  x->admin = a;
  x->request.options = &a->options;
  x->request.started = a->started;
  const char *path = arena_copy(&x->request.arena, span_of(target));
  if (!path) {
    free(x);
    return NULL;
  }
  x->request.path = (struct span){ path, strcspn(path, "?") };
  x->request.query = span_skip(span_of(path), x->request.path.n + 1);
  return x;
}

static void drop_body(struct exchange *x) {
  x->admin->bodies -= x->body.n;
  buf_free(&x->body);
}

static void on_completed(void *context, struct MHD_Connection *connection, void **slot,
                         enum MHD_RequestTerminationCode why) {
  struct exchange *x = *slot;
  (void)context;
  (void)connection;
  (void)why;
  *slot = NULL;
  if (!x) return;
  drop_body(x);
  buf_free(&x->answer.body);
  arena_free(&x->request.arena);
  free(x);
}

/* ---- the head ---- */

static struct span header(struct MHD_Connection *connection, const char *name) {
  const char *value = MHD_lookup_connection_value(connection, MHD_HEADER_KIND, name);
  return value ? span_of(value) : SPAN_NONE;
}

static enum MHD_Result count_host(void *context, enum MHD_ValueKind kind, const char *name, const char *value) {
  unsigned *hosts = context;
  (void)kind;
  (void)value;
  *hosts += strcasecmp(name, "Host") == 0;
  return MHD_YES;
}

static void read_head(struct exchange *x, struct MHD_Connection *connection, const char *method) {
  struct admin_request *r = &x->request;
  struct span length = header(connection, "Content-Length");
  r->method = span_of(method);
  r->host = header(connection, "Host");
  r->origin = header(connection, "Origin");
  r->authorization = header(connection, "Authorization");
  r->content_type = header(connection, "Content-Type");
  r->declared = length.p ? strtoull(length.p, NULL, 10) : 0;
  r->has_body = r->declared > 0 || header(connection, "Transfer-Encoding").p;
  MHD_get_connection_values(connection, MHD_HEADER_KIND, count_host, &r->hosts);
  put_peer(connection, r->peer);
}

/* ---- answering ---- */

/* The body goes to microhttpd, which frees it. MHD_NO closes the connection. */
static enum MHD_Result send_answer(struct exchange *x, struct MHD_Connection *connection) {
  struct admin_answer *answer = &x->answer;
  x->state = ANSWERED;
  drop_body(x);
  if (!buf_ok(&answer->body) || !answer->body.p) return MHD_NO;
  struct MHD_Response *response =
    MHD_create_response_from_buffer(answer->body.n, answer->body.p, MHD_RESPMEM_MUST_FREE);
  if (!response) return MHD_NO;
  answer->body = (struct buf){ 0 };
  enum MHD_Result done = MHD_add_response_header(response, "Content-Type", answer->type);
  if (done) done = MHD_add_response_header(response, "Cache-Control", "no-store");
  if (done) done = MHD_add_response_header(response, "X-Content-Type-Options", "nosniff");
  if (done && answer->header) done = MHD_add_response_header(response, answer->header, answer->value);
  if (done) done = MHD_queue_response(connection, answer->status, response);
  MHD_destroy_response(response);
  return done;
}

static enum MHD_Result begin(struct exchange *x, struct MHD_Connection *connection, const char *method) {
  read_head(x, connection, method);
  if (endpoint_check(&x->request, &x->answer)) {
    x->state = READING;
    return MHD_YES;
  }
  x->state = REFUSED;
  bool waits = header(connection, "Expect").p != NULL; /* for our word, before it sends its body */
  if (x->request.has_body && (waits || x->request.declared > DISCARD)) return send_answer(x, connection);
  return MHD_YES;
}

static void refuse_body(struct exchange *x, unsigned status, const char *why) {
  drop_body(x);
  x->state = REFUSED;
  endpoint_refuse(&x->answer, status, "%s", why);
}

/* A piece of body. MHD_NO closes the connection. */
static enum MHD_Result collect(struct exchange *x, const char *bytes, size_t n) {
  struct admin *a = x->admin;
  if (x->state == READING && x->body.n + n > ADMIN_BODY)
    refuse_body(x, 413, "the body is over its limit");
  else if (x->state == READING && a->bodies + n > BODIES)
    refuse_body(x, 503, "too many bodies at once");
  if (x->state != READING) {
    x->discarded += n;
    return x->discarded > DISCARD ? MHD_NO : MHD_YES;
  }
  buf_add(&x->body, bytes, n);
  if (!buf_ok(&x->body)) return MHD_NO;
  a->bodies += n;
  return MHD_YES;
}

/* microhttpd's handler: once with the head, once for each piece of body, once at its end. */
static enum MHD_Result take(void *context, struct MHD_Connection *connection, const char *url, const char *method,
                            const char *version, const char *bytes, size_t *n, void **slot) {
  struct exchange *x = *slot;
  (void)context;
  (void)url;
  (void)version;
  if (!x || x->state == ANSWERED) return MHD_NO;
  if (x->state == NEW) return begin(x, connection, method);
  if (*n) {
    size_t got = *n;
    *n = 0;
    return collect(x, bytes, got);
  }
  x->request.body = buf_span(&x->body);
  if (x->state == READING) endpoint_answer(&x->request, &x->answer);
  return send_answer(x, connection);
}

/* ---- starting and stopping ---- */

/* Paths stay as they were sent: endpoint.c decodes, and so sees a %00 or a %2F for what it is. */
static size_t keep_escapes(void *context, struct MHD_Connection *connection, char *text) {
  (void)context;
  (void)connection;
  return strlen(text);
}

/* The thread must take none of the signals that the main thread waits for. */
static struct MHD_Daemon *start_daemon(struct admin *a, int fd) {
  sigset_t all, before;
  sigfillset(&all);
  if (pthread_sigmask(SIG_SETMASK, &all, &before) != 0) return NULL;
  struct MHD_Daemon *daemon = MHD_start_daemon(
    MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_EPOLL | MHD_USE_ITC, 0, NULL, NULL, take, a,
    MHD_OPTION_LISTEN_SOCKET, (MHD_socket)fd,
    MHD_OPTION_CONNECTION_LIMIT, (unsigned)CONNECTIONS,
    MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)TIMEOUT,
    MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)MEMORY,
    MHD_OPTION_STRICT_FOR_CLIENT, 1,
    MHD_OPTION_UNESCAPE_CALLBACK, keep_escapes, NULL,
    MHD_OPTION_URI_LOG_CALLBACK, on_target, a,
    MHD_OPTION_NOTIFY_CONNECTION, on_connection, a,
    MHD_OPTION_NOTIFY_COMPLETED, on_completed, NULL,
    MHD_OPTION_END);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  return daemon;
}

static struct admin *fail(struct admin *a, char *error, size_t error_size, const char *why) {
  if (why) snprintf(error, error_size, "%s", why);
  free(a);
  return NULL;
}

static struct socket_place place_of(const struct listen_address *address) {
  return (struct socket_place){ .host = address->host, .port = address->port, .is_unix = address->is_unix };
}

struct admin *admin_start(const struct admin_options *options, char *error, size_t error_size) {
  char real[SOCKET_ADDRESS], why[256];
  struct socket_place place = place_of(options->listen);
  uint16_t port;
  struct admin *a = calloc(1, sizeof *a);
  if (!a) return fail(a, error, error_size, "out of memory");
  if (options->token && !*options->token) return fail(a, error, error_size, "admin.token: is empty");
  a->options = *options;
  a->started = metrics_process_start();
  a->crowd.older = a->crowd.newer = &a->crowd;
  int fd = socket_listen(&place, real, &port, why, sizeof why);
  if (fd < 0) {
    snprintf(error, error_size, "admin.listen: %s: %s", options->listen->text, why);
    return fail(a, error, error_size, NULL);
  }
  a->daemon = start_daemon(a, fd);
  if (!a->daemon) {
    close(fd);
    socket_unlink(&place);
    return fail(a, error, error_size, "admin.listen: the listener's thread does not start");
  }
  log_info("listening", LOG_TEXT("role", "admin"), LOG_TEXT("address", real));
  return a;
}

void admin_stop(struct admin **admin) {
  struct admin *a = *admin;
  if (!a) return;
  MHD_stop_daemon(a->daemon); /* closes the socket, ends every exchange, joins the thread */
  struct socket_place place = place_of(a->options.listen);
  socket_unlink(&place);
  free(a);
  *admin = NULL;
}
