/* Names come from outcome.def. */
#include "core/outcome.h"

static const char *const names[] = {
#define OUTCOME(id, name, meaning) [OUTCOME_##id] = name,
#include "core/outcome.def"
#undef OUTCOME
};

const char *outcome_name(enum outcome outcome) {
  return names[outcome];
}

bool outcome_parse(struct span name, enum outcome *outcome) {
  for (size_t i = 0; i < OUTCOME_COUNT; i++) {
    if (!span_is(name, names[i])) continue;
    *outcome = (enum outcome)i;
    return true;
  }
  return false;
}

bool outcome_is_timeout(enum outcome outcome) {
  return outcome == OUTCOME_CONNECT_TIMEOUT || outcome == OUTCOME_HEADERS_TIMEOUT ||
         outcome == OUTCOME_FIRST_EVENT_TIMEOUT || outcome == OUTCOME_IDLE_TIMEOUT;
}
