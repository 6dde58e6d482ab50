/*
 * Our own check of request framing, before anything else looks at a request: what two parsers could read differently is refused, and its
 * connection closed. The library below accepts most of it (request smuggling), and hides some; see guard_layout.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "core/request.h"

enum guard_verdict {
  GUARD_GOOD,
  GUARD_BAD,           /* 400 and close */
  GUARD_UNKNOWN_CODING /* 501 and close */
};

struct guard_request {
  struct span version; /* "HTTP/1.1" */
  struct span target;  /* the request target as sent */
  struct headers headers;
};

/* `why` gets one phrase for the log. */
enum guard_verdict guard_check(const struct guard_request *request, const char **why);

/*
 * The fields lie in the library's read buffer, and the gaps between them tell what its interface hides (a NUL in a value, a folded header, a
 * bare LF): between name and value one NUL and blanks, between a value and the next name exactly two NULs (CR and LF, overwritten), and four from
 * the last value to `end`, just after the head's empty line. True when all gaps are as a plain CRLF request leaves them. `version` lies before the
 * first name by the same two NULs.
 */
bool guard_layout(struct span version, struct headers headers, const char *end);
