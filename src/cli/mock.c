/*
 * The mock itself: its listening socket, a thread that accepts, and a thread for each connection (MOCK_CONNECTIONS at
 * most, small stacks).
 *
 *   accept ---> read head -> number -> [refuse] -> read body -> record -> take step -> answer ---> next request, or end
 *                   \-> /_mock/... -> answered from the record
 *
 * Every open connection is in one list, under one lock. mock_stop() shuts all sockets down, which ends every read,
 * write and wait of the threads, and waits until the list is empty; only a script that is still running can hold that
 * up, for as long as its time limit. A thread closes its own socket while it leaves the list, under the lock, so that
 * no number is shut down that is somebody else's by then. All threads are started with every signal blocked: signals
 * are the main thread's business.
 */
#include "cli/mock.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/queue.h>
#include <sys/socket.h>
#include <unistd.h>

#include "cli/mock_record.h"
#include "cli/mock_script.h"
#include "cli/mock_write.h"

enum { STACK_BYTES = 512 << 10 };

struct open_conn {
  LIST_ENTRY(open_conn) link;
  struct mock *mock;
  struct mock_conn conn;
};

struct mock {
  struct mock_script *script;
  struct mock_record *record;
  int fd;                /* listening */
  unsigned port;
  char address[80];
  pthread_t acceptor;
  pthread_mutex_t lock;  /* of what follows */
  pthread_cond_t empty;
  LIST_HEAD(, open_conn) open;
  unsigned open_count;
  unsigned conn_number;  /* last one given */
  bool stopping;
};

/* ---- one request ---- */

static enum mock_end answer_text(struct mock_conn *conn, struct mock_request *request, int status,
                                 const char *message) {
  struct mock_step step = { .status = status, .error.message = span_of(message) };
  struct mock_answer answer = { 0 };
  mock_answer_make(request, &step, &answer);
  enum mock_end end = mock_write_answer(conn, request, &step, &answer);
  mock_answer_free(&answer);
  return end;
}

static enum mock_end answer_admin(struct mock *mock, struct mock_conn *conn, struct mock_request *request) {
  struct buf body = { 0 };
  if (mock_read_body(conn, request) != MOCK_READ_GOOD) return MOCK_END_GONE;
  int status = mock_record_answer(mock->record, request, &body);
  enum mock_end end = mock_write_json(conn, request, status, &body);
  buf_free(&body);
  return end;
}

static enum mock_end answer_step(struct mock *mock, struct mock_conn *conn, struct mock_request *request) {
  char error[1024];
  struct mock_step step;
  struct mock_answer answer = { 0 };
  mock_request_understand(request);
  if (!mock_script_take(mock->script, request, &step, error, sizeof error)) {
    fprintf(stderr, "mock: request %u: %s\n", request->number, error);
    return answer_text(conn, request, 500, error);
  }
  mock_answer_make(request, &step, &answer);
  enum mock_end end = mock_write_answer(conn, request, &step, &answer);
  mock_answer_free(&answer);
  return end;
}

static enum mock_end answer_recorded(struct mock *mock, struct mock_conn *conn, struct mock_request *request) {
  struct mock_ticket ticket = mock_record_begin(mock->record);
  request->number = ticket.number;
  request->id = arena_printf(&request->arena, "%u_%u", mock->port, ticket.number);
  if (!request->id) return MOCK_END_RESET;
  bool refuse = mock_script_refuses(mock->script, ticket.number);
  enum mock_read read = refuse ? MOCK_READ_GOOD : mock_read_body(conn, request);
  mock_record_add(mock->record, ticket, request, conn->number);
  enum mock_end end = MOCK_END_GONE;
  if (refuse) end = MOCK_END_RESET;
  else if (read == MOCK_READ_GOOD) end = answer_step(mock, conn, request);
  else if (read == MOCK_READ_BAD) end = answer_text(conn, request, 400, "the mock cannot read this body");
  if (end == MOCK_END_GONE) mock_record_closed(mock->record, ticket);
  return read == MOCK_READ_BAD && end == MOCK_END_KEEP ? MOCK_END_FINISH : end;
}

static enum mock_end serve_request(struct mock *mock, struct mock_conn *conn) {
  struct mock_request request = { 0 };
  enum mock_end end = MOCK_END_GONE;
  switch (mock_read_head(conn, &request)) {
    case MOCK_READ_CLOSED: break;
    case MOCK_READ_BAD:
      (void)answer_text(conn, &request, request.head.n ? 400 : 431, "the mock cannot read this request");
      end = MOCK_END_FINISH;
      break;
    case MOCK_READ_GOOD:
      if (span_starts(request.path, "/_mock/")) end = answer_admin(mock, conn, &request);
      else end = answer_recorded(mock, conn, &request);
  }
  mock_request_free(&request);
  return end;
}

/* ---- connections ---- */

static void leave(struct open_conn *open) {
  struct mock *mock = open->mock;
  int fd = open->conn.fd;
  buf_free(&open->conn.in);
  pthread_mutex_lock(&mock->lock);
  LIST_REMOVE(open, link);
  close(fd);
  mock->open_count--;
  pthread_cond_broadcast(&mock->empty);
  pthread_mutex_unlock(&mock->lock);
  free(open);
}

static void *run_connection(void *argument) {
  struct open_conn *open = argument;
  enum mock_end end;
  do end = serve_request(open->mock, &open->conn);
  while (end == MOCK_END_KEEP);
  if (end == MOCK_END_FINISH) mock_conn_finish(&open->conn);
  if (end == MOCK_END_RESET) mock_conn_reset(&open->conn);
  leave(open);
  return NULL;
}

/* False: over the limit, or stopping. */
static bool enter(struct mock *mock, struct open_conn *open) {
  pthread_mutex_lock(&mock->lock);
  bool good = !mock->stopping && mock->open_count < MOCK_CONNECTIONS;
  if (good) {
    LIST_INSERT_HEAD(&mock->open, open, link);
    mock->open_count++;
    open->conn.number = ++mock->conn_number;
  }
  pthread_mutex_unlock(&mock->lock);
  return good;
}

static void start_connection(struct mock *mock, int fd) {
  int on = 1;
  struct open_conn *open = calloc(1, sizeof *open);
  struct mock_conn refused = { .fd = fd };
  (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  if (open) {
    open->mock = mock;
    open->conn.fd = fd;
  }
  if (!open || !enter(mock, open)) {
    mock_conn_reset(&refused);
    close(fd);
    free(open);
    return;
  }
  pthread_attr_t attributes;
  pthread_t thread;
  pthread_attr_init(&attributes);
  pthread_attr_setstacksize(&attributes, STACK_BYTES);
  pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
  if (pthread_create(&thread, &attributes, run_connection, open) != 0) {
    mock_conn_reset(&open->conn);
    leave(open);
  }
  pthread_attr_destroy(&attributes);
}

/* Ends when mock_stop shuts the listening socket down. */
static void *run_acceptor(void *argument) {
  struct mock *mock = argument;
  for (;;) {
    int fd = accept4(mock->fd, NULL, NULL, SOCK_CLOEXEC);
    if (fd >= 0) start_connection(mock, fd);
    else if (errno == EINVAL || errno == EBADF) return NULL;
    else if (errno == EMFILE || errno == ENFILE || errno == ENOMEM) (void)poll(NULL, 0, 10); /* until some end */
  }
}

/* ---- start and stop ---- */

/* Splits "host:port" (brackets around IPv6) and resolves it. NULL: no address. */
static struct addrinfo *resolve(const char *listen) {
  char host[256];
  const char *colon = strrchr(listen, ':');
  size_t n = colon ? (size_t)(colon - listen) : 0;
  if (!colon || n >= sizeof host) return NULL;
  bool brackets = n > 1 && listen[0] == '[' && listen[n - 1] == ']';
  snprintf(host, sizeof host, "%.*s", (int)(brackets ? n - 2 : n), listen + brackets);
  struct addrinfo hints = { .ai_flags = AI_PASSIVE | AI_NUMERICSERV, .ai_socktype = SOCK_STREAM }, *found;
  return getaddrinfo(*host ? host : NULL, colon + 1, &hints, &found) == 0 ? found : NULL;
}

static bool learn_address(struct mock *mock) {
  struct sockaddr_storage name;
  socklen_t size = sizeof name;
  char host[64], port[16];
  if (getsockname(mock->fd, (struct sockaddr *)&name, &size) < 0) return false;
  if (getnameinfo((struct sockaddr *)&name, size, host, sizeof host, port, sizeof port,
                  NI_NUMERICHOST | NI_NUMERICSERV) != 0)
    return false;
  mock->port = (unsigned)strtoul(port, NULL, 10);
  snprintf(mock->address, sizeof mock->address, name.ss_family == AF_INET6 ? "[%s]:%s" : "%s:%s", host, port);
  return true;
}

static bool open_listener(struct mock *mock, const char *listen_on, char *error, size_t error_size) {
  int on = 1;
  struct addrinfo *found = resolve(listen_on);
  if (!found) {
    snprintf(error, error_size, "listen: '%s' is no address (127.0.0.1:0, [::1]:8080)", listen_on);
    return false;
  }
  mock->fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  bool good = mock->fd >= 0 && setsockopt(mock->fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) == 0 &&
              bind(mock->fd, found->ai_addr, found->ai_addrlen) == 0 && listen(mock->fd, SOMAXCONN) == 0 &&
              learn_address(mock);
  if (!good) snprintf(error, error_size, "listen: %s: %s", listen_on, strerror(errno));
  freeaddrinfo(found);
  return good;
}

static void free_mock(struct mock *mock) {
  if (mock->fd >= 0) close(mock->fd);
  mock_script_free(mock->script);
  mock_record_free(mock->record);
  pthread_cond_destroy(&mock->empty);
  pthread_mutex_destroy(&mock->lock);
  free(mock);
}

static bool start_acceptor(struct mock *mock) {
  sigset_t all, old;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &old);
  int failed = pthread_create(&mock->acceptor, NULL, run_acceptor, mock);
  pthread_sigmask(SIG_SETMASK, &old, NULL);
  return !failed;
}

struct mock *mock_start(const char *path, struct span source, const char *listen_on, char *error, size_t error_size) {
  snprintf(error, error_size, "out of memory");
  struct mock *mock = calloc(1, sizeof *mock);
  if (!mock) return NULL;
  mock->fd = -1;
  LIST_INIT(&mock->open);
  pthread_mutex_init(&mock->lock, NULL);
  pthread_cond_init(&mock->empty, NULL);
  mock->record = mock_record_new();
  mock->script = mock->record ? mock_script_load(path, source, error, error_size) : NULL;
  if (mock->script) {
    const char *own = mock_script_listen(mock->script);
    if (open_listener(mock, listen_on ? listen_on : own ? own : "127.0.0.1:0", error, error_size)) {
      if (start_acceptor(mock)) return mock;
      snprintf(error, error_size, "no thread: %s", strerror(errno));
    }
  }
  free_mock(mock);
  return NULL;
}

const char *mock_address(const struct mock *mock) {
  return mock->address;
}

void mock_stop(struct mock **pointer) {
  struct mock *mock = *pointer;
  *pointer = NULL;
  if (!mock) return;
  mock_record_stop(mock->record);
  (void)shutdown(mock->fd, SHUT_RDWR);
  pthread_join(mock->acceptor, NULL);
  struct open_conn *open;
  pthread_mutex_lock(&mock->lock);
  mock->stopping = true;
  LIST_FOREACH(open, &mock->open, link) (void)shutdown(open->conn.fd, SHUT_RDWR);
  while (mock->open_count) pthread_cond_wait(&mock->empty, &mock->lock);
  pthread_mutex_unlock(&mock->lock);
  free_mock(mock);
}
