/*
 * libcurl's multi interface on our own epoll.
 *
 *   socket callback ----> epoll registration of that socket
 *   timer callback -----> one timer of the loop
 *   head/body/done -----> recorded in the transfer, which is put on the posted list
 *
 * Easy handles are costly to make and are kept; each transfer has one for its life. The request body is given by a read callback without a
 * seek callback, so that libcurl can never send a request twice by itself: a kept connection that dies before the first byte of the answer ends
 * with "rewind failed", and is sent once more from here, on a fresh connection, and recorded (contract rule 5.9).
 *
 * An answer's head counts at most HEAD_BYTES. Informational heads (1xx) are skipped. A head cut short by the end of the connection is reported
 * by libcurl as success: it is `truncated` here.
 */
#include "proxy/upstream.h"

#include <curl/curl.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

enum { HEAD_BYTES = 64 * 1024, IDLE_HANDLES = 64, IDLE_CONNECTION_SECONDS = 55, TIMER_SLACK = 3 /* ms */ };

struct link { /* one of libcurl's sockets */
  struct loop_source source;
  struct upstreams *pool;
};

struct upstreams {
  struct loop *loop;
  CURLM *multi;
  struct timer timer;
  bool timeout_due; /* libcurl wants to be called at once */
  struct transfer *posted, **posted_end;
  CURL *idle[IDLE_HANDLES];
  size_t idle_count;
};

struct transfer {
  struct upstreams *pool;
  struct transfer_order order;
  CURL *easy;
  struct curl_slist *headers;
  struct arena arena;
  struct buf head; /* raw header lines of the current head */
  struct buf in;
  struct transfer_facts facts;
  struct transfer *next_posted;
  bool is_posted, in_multi, oversize, switched, head_done;
  size_t piece, piece_at; /* of the body, how far it was sent */
  char error[CURL_ERROR_SIZE];
};

bool upstream_library(const char **why) {
  const curl_version_info_data *v = curl_version_info(CURLVERSION_NOW);
  *why = NULL;
  if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK) *why = "libcurl cannot be initialised";
  else if (v->version_num == 0x081400) *why = "libcurl 8.20.0 spins with its threaded resolver: use another version";
  else if (!(v->features & CURL_VERSION_SSL)) *why = "libcurl was built without TLS";
  return !*why;
}

/* ---- posting ---- */

static void post(struct transfer *t) {
  if (t->is_posted) return;
  t->is_posted = true;
  t->next_posted = NULL;
  *t->pool->posted_end = t;
  t->pool->posted_end = &t->next_posted;
}

static void unpost(struct transfer *t) {
  if (!t->is_posted) return;
  struct upstreams *pool = t->pool;
  struct transfer **at = &pool->posted;
  while (*at != t) at = &(*at)->next_posted;
  *at = t->next_posted;
  if (pool->posted_end == &t->next_posted) pool->posted_end = at;
  t->is_posted = false;
}

/* ---- libcurl's callbacks: record and post ---- */

static size_t count_lines(struct span text) {
  size_t lines = 0;
  for (const char *lf; (lf = memchr(text.p, '\n', text.n)); lines++) text = span_skip(text, (size_t)(lf - text.p) + 1);
  return lines;
}

static void parse_head(struct transfer *t) {
  size_t room = count_lines(buf_span(&t->head));
  struct header *list = ARENA_ARRAY(&t->arena, struct header, room);
  char *text = arena_copy(&t->arena, buf_span(&t->head));
  struct span rest = { text, text ? t->head.n : 0 };
  size_t count = 0;
  while (list && rest.n && count < room) {
    const char *lf = memchr(rest.p, '\n', rest.n);
    struct span line = { rest.p, lf ? (size_t)(lf - rest.p) : rest.n };
    rest = span_skip(rest, line.n + 1);
    const char *colon = memchr(line.p, ':', line.n);
    if (!colon) continue;
    list[count].name = span_trim((struct span){ line.p, (size_t)(colon - line.p) });
    list[count].value = span_trim(span_skip(line, (size_t)(colon - line.p) + 1));
    if (list[count].name.n) count++;
  }
  t->facts.headers = (struct headers){ list, count };
}

static size_t on_header(char *bytes, size_t size, size_t n, void *context) {
  struct transfer *t = context;
  n *= size;
  if (t->head_done) return n; /* trailers */
  if (n > 5 && memcmp(bytes, "HTTP/", 5) == 0) buf_clear(&t->head);
  t->oversize = t->head.n + n > HEAD_BYTES;
  if (t->oversize) return 0;
  buf_add(&t->head, bytes, n);
  bool blank = n <= 2 && (bytes[0] == '\r' || bytes[0] == '\n');
  long status = 0;
  curl_easy_getinfo(t->easy, CURLINFO_RESPONSE_CODE, &status);
  t->switched = status == 101; /* nobody asked for that: there is no answer to wait for */
  if (t->switched) return 0;
  if (!blank || status < 200) return n;
  parse_head(t);
  t->head_done = true;
  t->facts.status = (int)status;
  post(t);
  return buf_ok(&t->head) ? n : 0;
}

static size_t on_body(char *bytes, size_t size, size_t n, void *context) {
  struct transfer *t = context;
  n *= size;
  post(t);
  if (t->in.n && t->in.n + n > t->order.buffer) {
    t->facts.stalled = true;
    return CURL_WRITEFUNC_PAUSE;
  }
  buf_add(&t->in, bytes, n);
  t->facts.received += n;
  return buf_ok(&t->in) ? n : 0;
}

static size_t on_read(char *bytes, size_t size, size_t n, void *context) {
  struct transfer *t = context;
  size_t room = n * size, done = 0;
  while (room > done && t->piece < BODY_PIECES) {
    struct span left = span_skip(t->order.body[t->piece], t->piece_at);
    size_t take = left.n < room - done ? left.n : room - done;
    if (take) memcpy(bytes + done, left.p, take);
    done += take;
    t->piece_at += take;
    if (take == left.n) t->piece++, t->piece_at = 0;
  }
  t->facts.sent += done;
  return done;
}

static int on_connected(void *context, char *ip, char *local, int port, int local_port) {
  (void)ip, (void)local, (void)port, (void)local_port;
  struct transfer *t = context;
  curl_off_t microseconds = 0;
  curl_easy_getinfo(t->easy, CURLINFO_PRETRANSFER_TIME_T, &microseconds);
  t->facts.connected = (seconds)microseconds * 1e-6;
  return CURL_PREREQFUNC_OK;
}

static void link_ready(struct loop_source *source, uint32_t events) {
  struct link *link = (struct link *)source;
  int what = (events & EPOLLIN ? CURL_CSELECT_IN : 0) | (events & EPOLLOUT ? CURL_CSELECT_OUT : 0) |
             (events & (EPOLLERR | EPOLLHUP) ? CURL_CSELECT_ERR : 0);
  int running;
  curl_multi_socket_action(link->pool->multi, source->fd, what, &running);
}

static int on_socket(CURL *easy, curl_socket_t fd, int what, void *context, void *socket_context) {
  (void)easy;
  struct upstreams *pool = context;
  struct link *link = socket_context;
  uint32_t events = (what & CURL_POLL_IN ? EPOLLIN : 0) | (what & CURL_POLL_OUT ? EPOLLOUT : 0);
  if (what == CURL_POLL_REMOVE) {
    if (!link) return 0;
    loop_remove(pool->loop, &link->source);
    loop_bury(pool->loop, link);
    curl_multi_assign(pool->multi, fd, NULL);
    return 0;
  }
  if (link) return loop_change(pool->loop, &link->source, events) ? 0 : -1;
  link = calloc(1, sizeof *link);
  if (!link) return -1;
  link->source = (struct loop_source){ .fd = fd, .ready = link_ready };
  link->pool = pool;
  curl_multi_assign(pool->multi, fd, link);
  return loop_add(pool->loop, &link->source, events) ? 0 : -1;
}

static int on_timer(CURLM *multi, long milliseconds, void *context) {
  (void)multi;
  struct upstreams *pool = context;
  pool->timeout_due = milliseconds == 0;
  /* Never early: libcurl rounds down, finds a fraction of a millisecond left of a connect timeout, and does not ask again. */
  loop_arm(pool->loop, &pool->timer, milliseconds > 0 ? clock_now() + (seconds)(milliseconds + TIMER_SLACK) * 1e-3 : SECONDS_NEVER);
  return 0;
}

static void timer_due(struct timer *timer, seconds now) {
  (void)now;
  struct upstreams *pool = (struct upstreams *)((char *)timer - offsetof(struct upstreams, timer));
  pool->timeout_due = true;
}

/* ---- how a transfer ended ---- */

static enum outcome outcome_of(const struct transfer *t, CURLcode code) {
  switch (code) {
    case CURLE_OK: return t->facts.status ? OUTCOME_OK : OUTCOME_TRUNCATED; /* a head cut short ends as success */
    case CURLE_COULDNT_RESOLVE_HOST:
    case CURLE_COULDNT_RESOLVE_PROXY: return OUTCOME_DNS;
    case CURLE_COULDNT_CONNECT: return OUTCOME_CONNECT;
    case CURLE_OPERATION_TIMEDOUT: return OUTCOME_CONNECT_TIMEOUT; /* the only time limit libcurl keeps for us */
    case CURLE_SSL_CONNECT_ERROR:
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CERTPROBLEM:
    case CURLE_SSL_CIPHER:
    case CURLE_SSL_CACERT_BADFILE:
    case CURLE_SSL_ISSUER_ERROR:
    case CURLE_SSL_INVALIDCERTSTATUS: return OUTCOME_TLS;
    case CURLE_PARTIAL_FILE: return OUTCOME_TRUNCATED;
    case CURLE_GOT_NOTHING: return t->head.n ? OUTCOME_TRUNCATED : OUTCOME_RESET;
    case CURLE_WRITE_ERROR: return t->oversize ? OUTCOME_TOO_LARGE : OUTCOME_RESET;
    case CURLE_OUT_OF_MEMORY: return t->facts.status ? OUTCOME_RESET : OUTCOME_TOO_LARGE; /* a header line over its own limit */
    default: return OUTCOME_RESET;
  }
}

static void describe(struct transfer *t, CURLcode code) {
  if (t->facts.outcome == OUTCOME_OK) return;
  const char *text = t->error[0] ? t->error : code == CURLE_OK ? "the connection ended within the response head" : curl_easy_strerror(code);
  if (t->facts.outcome == OUTCOME_TOO_LARGE) text = "the response head is over 64 KiB";
  if (t->switched) text = "the upstream switched protocols";
  snprintf(t->facts.cause, sizeof t->facts.cause, "%s", text);
}

static bool add_to_multi(struct transfer *t) {
  t->in_multi = curl_multi_add_handle(t->pool->multi, t->easy) == CURLM_OK;
  return t->in_multi;
}

/* A kept connection died before the first byte of the answer: once more, on a fresh one. */
static bool resend(struct transfer *t, CURLcode code) {
  long fresh = 0;
  curl_easy_getinfo(t->easy, CURLINFO_NUM_CONNECTS, &fresh);
  t->facts.reused = fresh == 0;
  bool broke = code == CURLE_SEND_FAIL_REWIND || code == CURLE_SEND_ERROR || code == CURLE_RECV_ERROR || code == CURLE_GOT_NOTHING ||
               code == CURLE_UNSUPPORTED_PROTOCOL || code == CURLE_WEIRD_SERVER_REPLY; /* bytes nobody asked for lay in it */
  if (!broke || t->facts.resent || t->head.n || t->facts.status || (fresh && code != CURLE_SEND_FAIL_REWIND)) return false;
  t->facts.resent = true;
  t->piece = t->piece_at = t->facts.sent = 0;
  t->error[0] = 0;
  curl_multi_remove_handle(t->pool->multi, t->easy);
  curl_easy_setopt(t->easy, CURLOPT_FRESH_CONNECT, 1L);
  return add_to_multi(t);
}

static void transfer_done(struct transfer *t, CURLcode code) {
  if (resend(t, code)) return;
  curl_multi_remove_handle(t->pool->multi, t->easy);
  t->in_multi = false;
  t->facts.over = true;
  t->facts.outcome = outcome_of(t, code);
  describe(t, code);
  post(t);
}

static void reap(struct upstreams *pool) {
  CURLMsg *message;
  int left;
  while ((message = curl_multi_info_read(pool->multi, &left))) {
    struct transfer *t = NULL;
    if (message->msg != CURLMSG_DONE) continue;
    CURLcode code = message->data.result; /* the message dies with the handle's removal */
    curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, (char **)&t);
    transfer_done(t, code);
  }
}

bool upstream_turn(struct upstreams *pool) {
  bool any = false;
  if (pool->timeout_due) {
    int running;
    pool->timeout_due = false;
    curl_multi_socket_action(pool->multi, CURL_SOCKET_TIMEOUT, 0, &running);
    any = true;
  }
  reap(pool);
  struct transfer *t;
  while ((t = pool->posted)) {
    unpost(t);
    t->order.posted(t, t->order.owner);
    any = true;
  }
  return any || pool->timeout_due;
}

/* ---- life ---- */

struct upstreams *upstreams_new(struct loop *loop, unsigned idle_connections) {
  struct upstreams *pool = calloc(1, sizeof *pool);
  if (!pool) return NULL;
  pool->loop = loop;
  pool->posted_end = &pool->posted;
  pool->timer.due = timer_due;
  pool->multi = curl_multi_init();
  if (!pool->multi) {
    free(pool);
    return NULL;
  }
  curl_multi_setopt(pool->multi, CURLMOPT_SOCKETFUNCTION, on_socket);
  curl_multi_setopt(pool->multi, CURLMOPT_SOCKETDATA, pool);
  curl_multi_setopt(pool->multi, CURLMOPT_TIMERFUNCTION, on_timer);
  curl_multi_setopt(pool->multi, CURLMOPT_TIMERDATA, pool);
  curl_multi_setopt(pool->multi, CURLMOPT_MAXCONNECTS, (long)idle_connections);
  return pool;
}

void upstreams_free(struct upstreams *pool) {
  if (!pool) return;
  while (pool->idle_count) curl_easy_cleanup(pool->idle[--pool->idle_count]);
  curl_multi_cleanup(pool->multi);
  loop_arm(pool->loop, &pool->timer, SECONDS_NEVER);
  free(pool);
}

static CURL *easy_take(struct upstreams *pool) {
  return pool->idle_count ? pool->idle[--pool->idle_count] : curl_easy_init();
}

static void easy_give(struct upstreams *pool, CURL *easy) {
  if (pool->idle_count == IDLE_HANDLES) {
    curl_easy_cleanup(easy);
    return;
  }
  curl_easy_reset(easy); /* keeps connections, sessions and the DNS cache; forgets every pointer of ours */
  pool->idle[pool->idle_count++] = easy;
}

static void append_pair(struct buf *line, struct pair pair) {
  buf_clear(line);
  buf_add_span(line, pair.name);
  buf_puts(line, pair.value.n ? ": " : ";"); /* libcurl's way of sending an empty value */
  buf_add_span(line, pair.value);
  buf_add(line, "", 1);
}

static bool append_line(struct transfer *t, const char *line) {
  struct curl_slist *longer = curl_slist_append(t->headers, line);
  if (longer) t->headers = longer;
  return longer != NULL;
}

/* The order's headers, and none of those that libcurl would add by itself. */
static bool set_headers(struct transfer *t) {
  struct buf line = { 0 };
  bool good = append_line(t, "Expect:"), accept = false, type = false;
  for (size_t i = 0; i < t->order.headers.count && good; i++) {
    struct pair pair = t->order.headers.list[i];
    accept = accept || span_is_nocase(pair.name, "accept");
    type = type || span_is_nocase(pair.name, "content-type");
    append_pair(&line, pair);
    good = buf_ok(&line) && append_line(t, line.p);
  }
  buf_free(&line);
  return good && (accept || append_line(t, "Accept:")) && (type || append_line(t, "Content-Type:"));
}

/* Options that libcurl copies can fail: a transfer that lost one must not run. */
static bool set_text(CURL *easy, CURLoption option, const char *text) {
  return curl_easy_setopt(easy, option, text) == CURLE_OK;
}

static bool set_tls(CURL *easy, const struct upstream *u) {
  curl_easy_setopt(easy, CURLOPT_SSL_VERIFYPEER, u->tls_verify ? 1L : 0L);
  curl_easy_setopt(easy, CURLOPT_SSL_VERIFYHOST, u->tls_verify ? 2L : 0L);
  return !u->tls_ca || set_text(easy, CURLOPT_CAINFO, u->tls_ca);
}

static bool set_protocol(CURL *easy, const struct upstream *u) {
  bool tls = strncmp(u->base_url, "https:", 6) == 0;
  long version = CURL_HTTP_VERSION_1_1;
  if (u->http2) version = tls ? CURL_HTTP_VERSION_2TLS : CURL_HTTP_VERSION_2_PRIOR_KNOWLEDGE;
  curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, version);
  curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
  return !tls || set_tls(easy, u);
}

static bool set_method(struct transfer *t) {
  CURL *easy = t->easy;
  size_t length = 0;
  for (size_t i = 0; i < BODY_PIECES; i++) length += t->order.body[i].n;
  if (t->order.has_body) {
    curl_easy_setopt(easy, CURLOPT_POST, 1L);
    curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)length);
    curl_easy_setopt(easy, CURLOPT_READFUNCTION, on_read);
    curl_easy_setopt(easy, CURLOPT_READDATA, t);
  }
  if (strcmp(t->order.method, "HEAD") == 0)
    curl_easy_setopt(easy, CURLOPT_NOBODY, 1L);
  else if (strcmp(t->order.method, t->order.has_body ? "POST" : "GET") != 0)
    return set_text(easy, CURLOPT_CUSTOMREQUEST, t->order.method);
  return true;
}

static bool set_options(struct transfer *t) {
  CURL *easy = t->easy;
  seconds connect = t->order.connect_timeout;
  curl_easy_setopt(easy, CURLOPT_PRIVATE, t);
  curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, t->error);
  curl_easy_setopt(easy, CURLOPT_HTTPHEADER, t->headers);
  curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, on_header);
  curl_easy_setopt(easy, CURLOPT_HEADERDATA, t);
  curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_body);
  curl_easy_setopt(easy, CURLOPT_WRITEDATA, t);
  curl_easy_setopt(easy, CURLOPT_PREREQFUNCTION, on_connected);
  curl_easy_setopt(easy, CURLOPT_PREREQDATA, t);
  curl_easy_setopt(easy, CURLOPT_HTTP_TRANSFER_DECODING, 1L);
  curl_easy_setopt(easy, CURLOPT_PATH_AS_IS, 1L);
  curl_easy_setopt(easy, CURLOPT_MAXAGE_CONN, (long)IDLE_CONNECTION_SECONDS);
  curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, connect < SECONDS_NEVER ? (long)(connect * 1000) + 1 : 0L);
  return set_text(easy, CURLOPT_URL, t->order.url) && set_text(easy, CURLOPT_PROXY, "") && set_method(t) &&
         set_protocol(easy, t->order.upstream);
}

struct transfer *upstream_start(struct upstreams *pool, const struct transfer_order *order) {
  struct transfer *t = calloc(1, sizeof *t);
  if (!t) return NULL;
  t->pool = pool;
  t->order = *order;
  t->facts.connected = -1;
  t->easy = easy_take(pool);
  if (!t->easy || !set_headers(t) || !set_options(t)) {
    upstream_end(&t);
    return NULL;
  }
  if (!add_to_multi(t)) upstream_end(&t);
  return t;
}

const struct transfer_facts *upstream_facts(const struct transfer *t) {
  return &t->facts;
}

struct buf *upstream_in(struct transfer *t) {
  return &t->in;
}

void upstream_go_on(struct transfer *t) {
  if (!t->facts.stalled || t->facts.over) return;
  t->facts.stalled = false;
  curl_easy_pause(t->easy, CURLPAUSE_CONT);
}

void upstream_end(struct transfer **transfer) {
  struct transfer *t = *transfer;
  if (!t) return;
  *transfer = NULL;
  unpost(t);
  if (t->in_multi) curl_multi_remove_handle(t->pool->multi, t->easy);
  if (t->easy) easy_give(t->pool, t->easy);
  curl_slist_free_all(t->headers);
  buf_free(&t->head);
  buf_free(&t->in);
  arena_free(&t->arena);
  free(t);
}
