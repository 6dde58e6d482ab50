/*
 * One type for time and one clock: seconds since the Unix epoch, read from a clock that never steps. It is the wall clock
 * of the moment the process started plus the monotonic time since; a later change of the system's clock does not move it.
 */
#pragma once

#include <math.h>

typedef double seconds;

#define SECONDS_NEVER ((seconds)INFINITY)

seconds clock_now(void);
