/* Look-ups on request facts. Lists are short: linear. */
#include "core/request.h"

struct span headers_get(struct headers headers, const char *name) {
  for (size_t i = 0; i < headers.count; i++)
    if (span_is_nocase(headers.list[i].name, name)) return headers.list[i].value;
  return SPAN_NONE;
}
