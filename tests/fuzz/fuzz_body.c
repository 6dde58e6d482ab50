/* core/body: any bytes are scanned without a fault; a replaced member lies inside the text. */
#include <stdint.h>
#include <stdlib.h>

#include "core/body.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static const char *const names[] = { "model", "stream", "previous_response_id" };
  struct span text = { (const char *)data, size };
  struct body_value values[3];
  struct arena arena = { 0 };
  size_t at;
  enum body_result result = body_scan(text, names, values, 3, &at);
  for (int i = 0; i < 3 && result == BODY_GOOD; i++) {
    if (values[i].kind == BODY_ABSENT) continue;
    if (values[i].raw.p < text.p || values[i].raw.p + values[i].raw.n > text.p + text.n) abort();
    body_text(values[i], &arena);
    body_number(values[i], 0);
  }
  arena_free(&arena);
  return 0;
}
