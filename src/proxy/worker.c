/*
 * The worker threads and their listeners.
 *
 * A worker's turn: wait, hand out events, then let the three rooms with something to do (transfers, exchanges, the HTTP library) work in rounds
 * until none of them has anything left, so that a fact that came in this turn leaves in this turn.
 *
 * Every worker has its own socket on each TCP address (SO_REUSEPORT: the kernel spreads connections); a unix socket is one that all workers wait
 * for, woken one at a time. When descriptors run out, accepting pauses for a moment instead of spinning.
 */
#include "proxy/worker.h"

#include <errno.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"
#include "base/socket.h"
#include "proxy/exchange.h"
#include "proxy/front.h"
#include "proxy/ids.h"
#include "proxy/proxy.h"

enum { ROUNDS_A_TURN = 64, ACCEPTS_A_TURN = 64, IDLE_UPSTREAM_CONNECTIONS = 256, BURST = 128 /* connections */ };
#define ACCEPT_PAUSE 0.05 /* seconds without accepting when descriptors or memory run out */

struct listener {
  struct loop_source source;
  struct timer resume;
  struct worker *worker;
  bool is_unix, listening;
  char name[SOCKET_ADDRESS];
};

/* ---- randomness: xorshift64*, seeded from the system ---- */

uint64_t worker_random(struct worker *w) {
  w->random ^= w->random >> 12;
  w->random ^= w->random << 25;
  w->random ^= w->random >> 27;
  return w->random * 2685821657736338717u;
}

double worker_random_unit(void *worker) {
  return (double)(worker_random(worker) >> 11) * 0x1.0p-53;
}

struct policy *worker_policy(const struct worker *w, const char *name) {
  for (size_t i = 0; name && i < w->config->policy_count; i++)
    if (strcmp(w->config->policies[i].name, name) == 0) return w->policies[i];
  return w->policy;
}

/* ---- accepting ---- */

static void pause_accepting(struct listener *l) {
  static _Atomic double told;
  seconds now = loop_now(l->worker->loop);
  if (now - atomic_load(&told) >= 1) {
    atomic_store(&told, now);
    log_error("cannot accept connections", LOG_TEXT("address", l->name), LOG_TEXT("cause", strerror(errno)));
  }
  loop_remove(l->worker->loop, &l->source);
  l->listening = false;
  loop_arm(l->worker->loop, &l->resume, now + ACCEPT_PAUSE);
}

static void accept_some(struct loop_source *source, uint32_t events) {
  struct listener *l = (struct listener *)source;
  (void)events;
  for (int i = 0; i < ACCEPTS_A_TURN; i++) {
    struct sockaddr_storage address;
    socklen_t length = sizeof address;
    int fd = accept4(source->fd, (struct sockaddr *)&address, &length, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd >= 0) {
      front_accept(l->worker->front, fd, (struct sockaddr *)&address, length);
      continue;
    }
    if (errno == ECONNABORTED || errno == EINTR) continue;
    if (errno != EAGAIN) pause_accepting(l);
    return;
  }
}

static void listen_again(struct listener *l) {
  uint32_t exclusive = l->is_unix ? EPOLLEXCLUSIVE : 0;
  l->listening = loop_add(l->worker->loop, &l->source, EPOLLIN | exclusive);
}

static void resume_accepting(struct timer *timer, seconds now) {
  (void)now;
  struct listener *l = (struct listener *)((char *)timer - offsetof(struct listener, resume));
  if (!atomic_load(&l->worker->proxy->draining)) listen_again(l);
}

static void close_listeners(struct worker *w) {
  for (size_t i = 0; w->listeners && i < w->config->listen_count; i++) {
    struct listener *l = &w->listeners[i];
    loop_arm(w->loop, &l->resume, SECONDS_NEVER);
    if (l->listening) loop_remove(w->loop, &l->source);
    l->listening = false;
    if (l->source.fd >= 0) close(l->source.fd);
    l->source.fd = -1;
  }
}

/* Worker 0 opens; the others share its port, or its unix socket. */
static bool open_listener(struct worker *w, size_t i, char *error, size_t error_size) {
  const struct listen_address *address = &w->config->listen[i];
  struct listener *l = &w->listeners[i], *first = &w->proxy->workers[0].listeners[i];
  struct socket_place place = { address->host, address->port, address->is_unix, true };
  char why[256];
  uint16_t port;
  *l = (struct listener){ .worker = w, .is_unix = address->is_unix, .resume.due = resume_accepting };
  l->source = (struct loop_source){ .fd = -1, .ready = accept_some };
  if (w->number > 0 && address->is_unix) {
    l->source.fd = dup(first->source.fd);
  } else {
    const char *colon = w->number > 0 ? strrchr(first->name, ':') : NULL;
    if (colon) place.port = (uint16_t)strtoul(colon + 1, NULL, 10);
    l->source.fd = socket_listen(&place, l->name, &port, why, sizeof why);
    if (l->source.fd < 0) {
      snprintf(error, error_size, "listen: %s: %s", address->text, why);
      return false;
    }
  }
  if (w->number == 0) log_info("listening", LOG_TEXT("role", "proxy"), LOG_TEXT("address", l->name));
  listen_again(l);
  return l->listening;
}

static bool open_listeners(struct worker *w, char *error, size_t error_size) {
  w->listeners = calloc(w->config->listen_count, sizeof *w->listeners);
  if (!w->listeners) return false;
  for (size_t i = 0; i < w->config->listen_count; i++) w->listeners[i].source.fd = -1;
  for (size_t i = 0; i < w->config->listen_count; i++)
    if (!open_listener(w, i, error, error_size)) return false;
  return true;
}

/* ---- the thread ---- */

/* True when somebody still has something to do. */
static bool round_of_work(struct worker *w) {
  bool any = upstream_turn(w->upstreams);
  any = exchange_turn(w) || any;
  return front_turn(w->front) || any;
}

/* Memory goes back to the system after a burst: when no more than a quarter of the connections are left of a peak that was worth it. */
static void give_back_after_burst(struct worker *w) {
  unsigned open = front_connections(w->front);
  if (open > w->peak) w->peak = open;
  if (w->peak < BURST || open > w->peak / 4) return;
  w->peak = open;
  malloc_trim(0);
}

static void *work(void *context) {
  struct worker *w = context;
  bool drained = false, busy = false;
  while (!atomic_load(&w->proxy->stopping)) {
    loop_turn(w->loop, busy ? 0 : 60);
    if (!drained && atomic_load(&w->proxy->draining)) {
      drained = true;
      close_listeners(w);
      front_drain(w->front);
    }
    busy = true;
    for (int i = 0; i < ROUNDS_A_TURN && busy; i++) busy = round_of_work(w);
    give_back_after_burst(w);
  }
  return NULL;
}

static bool load_policies(struct worker *w, const struct proxy_options *options, char *error, size_t error_size) {
  struct policy_host host = { .bench = options->bench, .shared = options->shared, .counts = options->policy_counts };
  const struct config *c = w->config;
  w->policies = calloc(c->policy_count ? c->policy_count : 1, sizeof *w->policies);
  w->policy = w->policies ? policy_load(&c->policy, &host, false, error, error_size) : NULL;
  bool good = w->policy != NULL;
  for (size_t i = 0; i < c->policy_count && good; i++) {
    w->policies[i] = policy_load(&c->policies[i], &host, false, error, error_size);
    good = w->policies[i] != NULL;
  }
  return good;
}

static bool worker_open(struct worker *w, const struct proxy_options *options, char *error, size_t error_size) {
  w->config = config_ref(options->config);
  snprintf(error, error_size, "out of memory or descriptors");
  if (getrandom(&w->random, sizeof w->random, 0) != sizeof w->random || !w->random) w->random = (uint64_t)(clock_now() * 1e9) + w->number;
  w->loop = loop_new();
  if (!w->loop) return false;
  w->upstreams = upstreams_new(w->loop, IDLE_UPSTREAM_CONNECTIONS);
  w->front = w->upstreams ? front_new(w) : NULL;
  return w->front && load_policies(w, options, error, error_size);
}

static void worker_close(struct worker *w) {
  if (!w->config) return;
  close_listeners(w);
  front_free(w->front);
  upstreams_free(w->upstreams);
  for (size_t i = 0; w->policies && i < w->config->policy_count; i++)
    if (w->policies[i]) policy_release(&w->policies[i]);
  if (w->policy) policy_release(&w->policy);
  loop_free(w->loop);
  free(w->policies);
  free(w->listeners);
  config_release(&w->config);
}

/* ---- the proxy ---- */

static bool start_threads(struct proxy *p, char *error, size_t error_size) {
  malloc_trim(0); /* where another allocator stands in, the C library's own is first set up here, by one thread alone */
  for (unsigned i = 0; i < p->worker_count; i++) {
    struct worker *w = &p->workers[i];
    w->running = pthread_create(&w->thread, NULL, work, w) == 0;
    if (!w->running) {
      snprintf(error, error_size, "a worker thread cannot be started");
      return false;
    }
  }
  return true;
}

struct proxy *proxy_start(const struct proxy_options *options, char *error, size_t error_size) {
  struct proxy *p = calloc(1, sizeof *p);
  const char *why;
  if (!upstream_library(&why) || !front_self_test(&why)) {
    snprintf(error, error_size, "%s", why);
    free(p);
    return NULL;
  }
  if (p) p->workers = calloc(options->config->workers, sizeof *p->workers);
  if (p) p->ids = ids_new(options->config->limits.ids);
  if (!p || !p->workers || !p->ids) {
    snprintf(error, error_size, "out of memory");
    if (p) free(p->workers);
    free(p);
    return NULL;
  }
  p->config = config_ref(options->config);
  p->bench = options->bench;
  p->policy_counts = options->policy_counts;
  p->shared = options->shared;
  p->worker_count = options->config->workers;
  bool good = true;
  for (unsigned i = 0; i < p->worker_count && good; i++) {
    p->workers[i].proxy = p;
    p->workers[i].number = i;
    good = worker_open(&p->workers[i], options, error, error_size);
  }
  for (unsigned i = 0; i < p->worker_count && good; i++) good = open_listeners(&p->workers[i], error, error_size);
  if (!good || !start_threads(p, error, error_size)) proxy_stop(&p);
  return p;
}

static void wake_all(struct proxy *p) {
  for (unsigned i = 0; i < p->worker_count; i++)
    if (p->workers[i].running) loop_wake(p->workers[i].loop);
}

void proxy_drain(struct proxy *p) {
  atomic_store(&p->draining, true);
  wake_all(p);
}

void proxy_stop(struct proxy **proxy) {
  struct proxy *p = *proxy;
  if (!p) return;
  *proxy = NULL;
  atomic_store(&p->draining, true);
  atomic_store(&p->stopping, true);
  wake_all(p);
  for (unsigned i = 0; i < p->worker_count; i++)
    if (p->workers[i].running) pthread_join(p->workers[i].thread, NULL);
  for (size_t i = 0; i < p->config->listen_count; i++) {
    struct socket_place place = { p->config->listen[i].host, p->config->listen[i].port, p->config->listen[i].is_unix, false };
    socket_unlink(&place);
  }
  for (unsigned i = 0; i < p->worker_count; i++) worker_close(&p->workers[i]);
  free(p->workers);
  ids_free(p->ids);
  config_release(&p->config);
  free(p);
}

unsigned proxy_inflight(const struct proxy *p) {
  return atomic_load(&p->inflight);
}

bool proxy_draining(const struct proxy *p) {
  return atomic_load(&p->draining);
}

const char *proxy_policy_version(const struct proxy *p) {
  return policy_version(p->workers[0].policy);
}

unsigned proxy_workers(const struct proxy *p) {
  return p->worker_count;
}

void proxy_describe(const struct proxy *p, struct buf *out) {
  stats_describe(out, &p->workers[0].stats, p->worker_count, sizeof *p->workers);
  buf_printf(out, "# HELP bullpen_inflight_requests Client requests being served.\n# TYPE bullpen_inflight_requests gauge\nbullpen_inflight_requests %u\n",
             atomic_load(&p->inflight));
  buf_printf(out, "# HELP bullpen_connections Client connections open.\n# TYPE bullpen_connections gauge\nbullpen_connections %u\n",
             atomic_load(&p->connections));
}
