/* The offset between the two system clocks is read once, before main, so that no thread races for it. */
#include "base/clock.h"

#include <time.h>

static seconds offset;

static seconds read_clock(clockid_t id) {
  struct timespec t;
  clock_gettime(id, &t);
  return (seconds)t.tv_sec + (seconds)t.tv_nsec * 1e-9;
}

__attribute__((constructor)) static void clock_start(void) {
  offset = read_clock(CLOCK_REALTIME) - read_clock(CLOCK_MONOTONIC);
}

seconds clock_now(void) {
  return offset + read_clock(CLOCK_MONOTONIC);
}
