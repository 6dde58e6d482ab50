/*
 * Starting, pausing and ending ONE upstream transfer. The only room, beside the loop, that knows libcurl.
 *
 * A transfer's facts are not called back in the middle of libcurl's work: its callbacks only record, and put the transfer on the posted list;
 * upstream_turn hands each posted transfer to its owner afterwards, when transfers may be started and ended freely.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "base/arena.h"
#include "base/buf.h"
#include "config/config.h"
#include "core/outcome.h"
#include "core/request.h"
#include "proxy/loop.h"

struct upstreams; /* one a worker: the multi handle, its connections, idle easy handles */
struct transfer;

/* `idle_connections`: kept alive at most. NULL when out of memory. */
struct upstreams *upstreams_new(struct loop *loop, unsigned idle_connections);
/* Every transfer must have been ended before. */
void upstreams_free(struct upstreams *pool);

/* The library is fit for use; false and a reason otherwise. Call once, before any thread. */
bool upstream_library(const char **why);

enum { BODY_PIECES = 3 };

struct transfer_order {
  const struct upstream *upstream;
  const char *method;
  const char *url;
  struct pairs headers;             /* complete, but Host and Content-Length */
  struct span body[BODY_PIECES];    /* sent one after the other; must live until the transfer ends */
  bool has_body;
  seconds connect_timeout;          /* SECONDS_NEVER: the library's own */
  size_t buffer;                    /* bytes that may wait in `in` before reading stands still */
  void (*posted)(struct transfer *transfer, void *owner); /* something new: look at the facts below */
  void *owner;
};

/* What has been recorded; the owner reads these, and takes bytes out of `in`. */
struct transfer_facts {
  int status;             /* 0: no complete head yet */
  struct headers headers; /* in the transfer's arena */
  bool stalled;           /* reading stands still because `in` is full: upstream_go_on when there is room */
  bool over;              /* the transfer has ended; outcome and cause are set */
  bool resent;            /* it was sent once more on a fresh connection (rule 5.9) */
  bool reused;            /* it ran on a kept connection */
  enum outcome outcome;   /* OK, or the transport's */
  char cause[256];        /* one line; empty: none */
  seconds connected;      /* after the start; -1: not connected */
  size_t sent, received;  /* body bytes */
};

/* NULL when it cannot be begun (memory, descriptors). The order's strings are copied where libcurl needs them later. */
struct transfer *upstream_start(struct upstreams *pool, const struct transfer_order *order);
const struct transfer_facts *upstream_facts(const struct transfer *transfer);
/* Body bytes that came and were not taken yet. The owner drops from the front. */
struct buf *upstream_in(struct transfer *transfer);
/* There is room again. */
void upstream_go_on(struct transfer *transfer);
/* Ends it, in whatever state; its connection is closed unless the transfer was over. Clears the pointer. */
void upstream_end(struct transfer **transfer);

/* Hands out what was posted. True when there was anything. */
bool upstream_turn(struct upstreams *pool);
