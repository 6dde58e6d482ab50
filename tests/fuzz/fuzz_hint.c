/* core/hint: any header value is a time in [0, a year], or none. */
#include <stdint.h>
#include <stdlib.h>

#include "core/hint.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static const char *const names[] = { "retry-after", "retry-after-ms", "x-ratelimit-reset-requests", "anthropic-ratelimit-tokens-reset",
                                       "anthropic-ratelimit-unified-reset", "x-ms-retry-after-ms" };
  if (size < 1) return 0;
  struct header one = { span_of(names[data[0] % 6]), { (const char *)data + 1, size - 1 } };
  seconds wait = hint_retry_after((struct headers){ &one, 1 }, 1.79e9);
  if (!(wait == -1 || (wait >= 0 && wait <= 366 * 86400.0))) abort();
  hint_parse_duration(one.value);
  hint_parse_date(one.value);
  hint_parse_rfc3339(one.value);
  return 0;
}
