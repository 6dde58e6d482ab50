/*
 * The admin interface: its own thread and listener, never on a request's way. Contract section 9.
 */
#pragma once

#include <stdbool.h>

#include "base/buf.h"
#include "config/config.h"
#include "core/bench.h"
#include "policy/policy.h"

struct admin;

/* What it shows and acts on. Pointers live until admin_stop; callbacks are called on the admin thread and must be safe there. */
struct admin_options {
  const struct listen_address *listen;
  const char *token; /* NULL: open */
  const char *version;
  struct bench *bench;
  struct policy_counts *policy_counts;
  void *context;
  bool (*draining)(void *context);
  /* Writes the data plane's metrics in Prometheus text. */
  void (*metrics)(void *context, struct buf *out);
  /* Writes members of /api/status after its own (version, uptime): `"workers":2,"inflight":0,...`. */
  void (*status)(void *context, struct buf *out);
  /* An operator benched a key (duration infinite: until lifted) or, with duration 0, lifted its benches: told to observers and the log. */
  void (*benched)(void *context, const char *key, double duration, const char *reason);
};

/* Starts the thread; logs `listening` with the real address (role=admin). NULL and `error` otherwise. */
struct admin *admin_start(const struct admin_options *options, char *error, size_t error_size);
void admin_stop(struct admin **admin);
