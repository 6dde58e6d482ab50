/*
 * The timers are a binary heap in an array, each timer knowing its slot, so that moving one is O(log n) and needs no search. A turn is: wait,
 * read the clock once, hand out events, run timers, free what was buried.
 */
#include "proxy/loop.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum { EVENTS_A_TURN = 128 };

struct loop {
  int epoll;
  seconds now;
  struct loop_source wakeup;
  struct timer **heap; /* from 1 */
  size_t armed, heap_size;
  void **buried;
  size_t buried_count, buried_size;
};

static void woken(struct loop_source *source, uint32_t events) {
  (void)events;
  uint64_t count;
  if (read(source->fd, &count, sizeof count) < 0 && errno != EAGAIN) source->dead = true;
}

struct loop *loop_new(void) {
  struct loop *loop = calloc(1, sizeof *loop);
  if (!loop) return NULL;
  loop->epoll = epoll_create1(EPOLL_CLOEXEC);
  loop->wakeup = (struct loop_source){ .fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC), .ready = woken };
  loop->now = clock_now();
  if (loop->epoll >= 0 && loop->wakeup.fd >= 0 && loop_add(loop, &loop->wakeup, EPOLLIN)) return loop;
  loop_free(loop);
  return NULL;
}

static void free_buried(struct loop *loop) {
  for (size_t i = 0; i < loop->buried_count; i++) free(loop->buried[i]);
  loop->buried_count = 0;
}

void loop_free(struct loop *loop) {
  if (!loop) return;
  free_buried(loop);
  if (loop->epoll >= 0) close(loop->epoll);
  if (loop->wakeup.fd >= 0) close(loop->wakeup.fd);
  free(loop->heap);
  free(loop->buried);
  free(loop);
}

seconds loop_now(const struct loop *loop) {
  return loop->now;
}

/* ---- sources ---- */

static bool control(struct loop *loop, int what, struct loop_source *source, uint32_t events) {
  struct epoll_event e = { .events = events, .data.ptr = source };
  return epoll_ctl(loop->epoll, what, source->fd, &e) == 0;
}

bool loop_add(struct loop *loop, struct loop_source *source, uint32_t events) {
  source->dead = false;
  return control(loop, EPOLL_CTL_ADD, source, events);
}

bool loop_change(struct loop *loop, struct loop_source *source, uint32_t events) {
  return control(loop, EPOLL_CTL_MOD, source, events);
}

void loop_remove(struct loop *loop, struct loop_source *source) {
  source->dead = true;
  control(loop, EPOLL_CTL_DEL, source, 0); /* fails when the descriptor is closed already: gone is gone */
}

void loop_bury(struct loop *loop, void *memory) {
  if (loop->buried_count == loop->buried_size) {
    size_t size = loop->buried_size ? 2 * loop->buried_size : 64;
    void **grown = realloc(loop->buried, size * sizeof *grown);
    if (!grown) return; /* leaking a few bytes is better than freeing them under somebody's feet */
    loop->buried = grown;
    loop->buried_size = size;
  }
  loop->buried[loop->buried_count++] = memory;
}

void loop_wake(struct loop *loop) {
  uint64_t one = 1;
  if (write(loop->wakeup.fd, &one, sizeof one) < 0) return; /* full: it is awake anyway */
}

/* ---- timers ---- */

static void place(struct loop *loop, struct timer *t, size_t slot) {
  loop->heap[slot] = t;
  t->slot = slot;
}

static void sift_up(struct loop *loop, struct timer *t) {
  size_t slot = t->slot;
  for (; slot > 1 && loop->heap[slot / 2]->at > t->at; slot /= 2) place(loop, loop->heap[slot / 2], slot);
  place(loop, t, slot);
}

static void sift_down(struct loop *loop, struct timer *t) {
  size_t slot = t->slot;
  for (size_t child; (child = 2 * slot) <= loop->armed; slot = child) {
    if (child < loop->armed && loop->heap[child + 1]->at < loop->heap[child]->at) child++;
    if (loop->heap[child]->at >= t->at) break;
    place(loop, loop->heap[child], slot);
  }
  place(loop, t, slot);
}

static void disarm(struct loop *loop, struct timer *t) {
  struct timer *last = loop->heap[loop->armed--];
  size_t slot = t->slot;
  t->slot = 0;
  if (last == t) return;
  place(loop, last, slot);
  sift_up(loop, last);
  sift_down(loop, last);
}

static bool room_for_one(struct loop *loop) {
  if (loop->armed + 1 < loop->heap_size) return true;
  size_t size = loop->heap_size ? 2 * loop->heap_size : 256;
  struct timer **grown = realloc(loop->heap, size * sizeof *grown);
  if (!grown) return false;
  loop->heap = grown;
  loop->heap_size = size;
  return true;
}

void loop_arm(struct loop *loop, struct timer *t, seconds at) {
  if (!(at < SECONDS_NEVER)) {
    if (t->slot) disarm(loop, t);
    return;
  }
  t->at = at;
  if (!t->slot) {
    if (!room_for_one(loop)) return;
    place(loop, t, ++loop->armed);
  }
  sift_up(loop, t);
  sift_down(loop, t);
}

static void run_timers(struct loop *loop) {
  while (loop->armed && loop->heap[1]->at <= loop->now) {
    struct timer *t = loop->heap[1];
    disarm(loop, t);
    t->due(t, loop->now);
  }
}

/* ---- the turn ---- */

static int wait_milliseconds(const struct loop *loop, seconds at_most) {
  seconds left = at_most;
  if (left > 0 && loop->armed) left = fmin(left, loop->heap[1]->at - clock_now());
  if (left <= 0) return 0;
  return (int)fmin(ceil(left * 1000), 60000);
}

void loop_turn(struct loop *loop, seconds at_most) {
  struct epoll_event events[EVENTS_A_TURN];
  int n = epoll_wait(loop->epoll, events, EVENTS_A_TURN, wait_milliseconds(loop, at_most));
  loop->now = clock_now();
  for (int i = 0; i < n; i++) {
    struct loop_source *source = events[i].data.ptr;
    if (!source->dead) source->ready(source, events[i].events);
  }
  run_timers(loop);
  free_buried(loop);
}
