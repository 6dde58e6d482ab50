/* The closed list of outcomes (outcome.def) as an enum, and its names. */
#pragma once

#include "base/span.h"

enum outcome {
#define OUTCOME(id, name, meaning) OUTCOME_##id,
#include "core/outcome.def"
#undef OUTCOME
};

enum {
#define OUTCOME(id, name, meaning) +1
  OUTCOME_COUNT = 0
#include "core/outcome.def"
#undef OUTCOME
};

const char *outcome_name(enum outcome outcome);

/* False when no outcome has that name. */
bool outcome_parse(struct span name, enum outcome *outcome);

/* One of the timeouts: connect, headers, first event, idle. */
bool outcome_is_timeout(enum outcome outcome);
