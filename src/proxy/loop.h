/*
 * One worker's event loop: one epoll, one heap of timers, one clock reading a turn. Everything here belongs to one thread, but
 * loop_wake, which any thread may call.
 *
 * Sources are edge- or level-triggered as their events say. A source that is removed in the middle of a turn gets no further event of that
 * turn: removed sources are forgotten at the bottom of the turn (their memory must live that long: see loop_bury).
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/clock.h"

struct loop;

struct loop_source {
  int fd;
  bool dead; /* set by loop_remove */
  void (*ready)(struct loop_source *source, uint32_t events); /* EPOLL* */
};

struct timer {
  seconds at;
  size_t slot; /* in the heap, from 1; 0: not armed */
  void (*due)(struct timer *timer, seconds now);
};

struct loop *loop_new(void);
void loop_free(struct loop *loop);

/* The time this turn began. */
seconds loop_now(const struct loop *loop);

/* False with errno set when the kernel refuses. */
bool loop_add(struct loop *loop, struct loop_source *source, uint32_t events);
bool loop_change(struct loop *loop, struct loop_source *source, uint32_t events);
void loop_remove(struct loop *loop, struct loop_source *source);
/* Frees `memory` (malloc'ed) at the bottom of this turn, when no event of the turn can name it any more. */
void loop_bury(struct loop *loop, void *memory);

/* Arms, or moves, a timer; SECONDS_NEVER disarms. */
void loop_arm(struct loop *loop, struct timer *timer, seconds at);

/* Waits until something is ready, a timer is due or `at_most` seconds have passed, and handles it all. */
void loop_turn(struct loop *loop, seconds at_most);

/* Ends the wait from another thread. */
void loop_wake(struct loop *loop);
