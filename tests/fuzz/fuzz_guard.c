/* proxy/guard: any fields are judged; what passes has one clear framing. */
#include <stdint.h>
#include <stdlib.h>

#include "proxy/guard.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct span next_part(struct span *rest, char end) {
  const char *at = memchr(rest->p, end, rest->n);
  struct span part = { rest->p, at ? (size_t)(at - rest->p) : rest->n };
  *rest = span_skip(*rest, part.n + 1);
  return part;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  struct header fields[64];
  struct guard_request request = { .headers = { fields, 0 } };
  struct span rest = { (const char *)data, size };
  const char *why;
  request.version = next_part(&rest, '\n');
  request.target = next_part(&rest, '\n');
  unsigned lengths = 0, codings = 0;
  while (rest.n && request.headers.count < 64) {
    struct span line = next_part(&rest, '\n');
    fields[request.headers.count].name = next_part(&line, ':');
    fields[request.headers.count].value = line;
    lengths += span_is_nocase(fields[request.headers.count].name, "content-length");
    codings += span_is_nocase(fields[request.headers.count++].name, "transfer-encoding");
  }
  if (guard_check(&request, &why) == GUARD_GOOD && lengths + codings > 1) abort();
  return 0;
}
