/*
 * Connections that were given their last words and are to be closed: a socket that is closed with unread bytes in it resets, and the client may never
 * read what it was told. So our side is shut, what still comes is read and thrown away for a moment, and only then the socket is closed.
 */
#pragma once

#include <stddef.h>

#include "proxy/loop.h"

struct parting;

struct partings {
  struct loop *loop;
  struct parting *first;
  unsigned count;
};

/* Takes over `fd` and closes it: when its peer has, after a second, or at once when too many part already. */
void parting_begin(struct partings *partings, int fd);
/* Closes all that are left. */
void parting_end_all(struct partings *partings);
