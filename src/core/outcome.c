/* Names come from outcome.def; the two classes are spelled out so that a new outcome must be put in one. */
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

bool outcome_is_transport(enum outcome outcome) {
  switch (outcome) {
    case OUTCOME_NONE:
    case OUTCOME_OK:
    case OUTCOME_STATUS:
    case OUTCOME_STREAM_ERROR:
    case OUTCOME_CLIENT_GONE:
    case OUTCOME_DEADLINE: return false;
    case OUTCOME_CONNECT:
    case OUTCOME_CONNECT_TIMEOUT:
    case OUTCOME_DNS:
    case OUTCOME_TLS:
    case OUTCOME_RESET:
    case OUTCOME_HEADERS_TIMEOUT:
    case OUTCOME_FIRST_EVENT_TIMEOUT:
    case OUTCOME_IDLE_TIMEOUT:
    case OUTCOME_TRUNCATED:
    case OUTCOME_EMPTY:
    case OUTCOME_WRONG_TYPE:
    case OUTCOME_TOO_LARGE: return true;
  }
  return true;
}
