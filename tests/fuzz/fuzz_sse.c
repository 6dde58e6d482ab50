/* core/sse and commit: a stream cut in two anywhere gives the same events as in one piece. */
#include <stdint.h>
#include <stdlib.h>

#include "core/commit.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint64_t digest_events(const char *bytes, size_t n, size_t cut, enum route route) {
  struct sse sse;
  struct sse_event event;
  struct arena arena = { 0 };
  uint64_t digest = 14695981039346656037u;
  sse_init(&sse, 4096);
  for (int half = 0; half < 2; half++) {
    const char *part = half ? bytes + cut : bytes;
    size_t at = 0, length = half ? n - cut : cut;
    while (sse_next(&sse, part, length, &at, &event)) {
      struct event_facts facts = { .sequence = -1 };
      commit_read_event(route, &event, &arena, &facts);
      digest = (digest ^ (uint64_t)facts.class) * 1099511628211u;
      for (size_t i = 0; i < event.data.n; i++) digest = (digest ^ (unsigned char)event.data.p[i]) * 1099511628211u;
      digest = (digest ^ event.comment) * 1099511628211u;
    }
  }
  sse_free(&sse);
  arena_free(&arena);
  return digest;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (size < 2) return 0;
  const char *bytes = (const char *)data + 2;
  size_t n = size - 2, cut = n ? data[0] * n / 256 : 0;
  enum route route = (enum route)(data[1] % ROUTE_COUNT);
  if (digest_events(bytes, n, cut, route) != digest_events(bytes, n, n, route)) abort();
  return 0;
}
