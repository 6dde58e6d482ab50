/* core/dialect: any error body is read, classified and rewritten; what is written has the route's shape. */
#include <stdint.h>
#include <stdlib.h>

#include "core/dialect.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (size < 1) return 0;
  static const int statuses[] = { 0, 400, 401, 404, 429, 500, 529 };
  int status = statuses[data[0] % 7];
  struct span body = { (const char *)data + 1, size - 1 };
  struct upstream_error error = { 0 };
  struct arena arena = { 0 };
  dialect_read_error(body, &arena, &error);
  dialect_error_kind(status, &error);
  dialect_error_status(&error);
  for (int messages = 0; messages < 2; messages++) {
    struct buf out = { 0 };
    dialect_rewrite_error(&out, messages, status, body, "r");
    if (buf_ok(&out) && !dialect_has_shape(messages, buf_span(&out))) abort();
    buf_free(&out);
  }
  arena_free(&arena);
  return 0;
}
