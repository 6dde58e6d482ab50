/* What the core and the policies know of a client request, and of the candidates that may serve it. Facts only: nothing here is
 * changed after it was filled in, and everything pointed to lives at least as long as the request. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/clock.h"
#include "base/span.h"
#include "base/value.h"

struct bench_key;

enum api { API_OPENAI, API_ANTHROPIC };

/* The client-facing API of a path. ROUTE_NONE is every other path under /v1/: one upstream, no failover. */
enum route { ROUTE_NONE, ROUTE_CHAT, ROUTE_COMPLETIONS, ROUTE_EMBEDDINGS, ROUTE_RESPONSES, ROUTE_MESSAGES };
enum { ROUTE_COUNT = ROUTE_MESSAGES + 1 };

struct header {
  struct span name;  /* as it came; compared without case */
  struct span value; /* without the blanks around it */
};

struct headers {
  const struct header *list;
  size_t count;
};

/* The first header of that name, or SPAN_NONE. */
struct span headers_get(struct headers headers, const char *name);

/* Seconds; SECONDS_NEVER switches one off. In an override, a negative number means "not overridden". */
struct timeouts {
  seconds connect, headers, first_event, idle, hold;
};

/* One upstream with one model, as the configuration or a chain in the request made it. */
struct candidate {
  const char *name;          /* "openai/gpt-4o" */
  const char *upstream_name; /* "openai" */
  const char *model;         /* "gpt-4o"; what the body's model becomes. Empty: the client's own is kept */
  enum api api;
  double weight;
  int priority; /* lower is tried first */
  bool passthrough;
  bool forwards; /* the client's own credential goes there: a refused one says nothing about the upstream */
  unsigned max_inflight; /* of the upstream; 0: no limit */
  struct timeouts timeouts;
  const struct value *tags, *price; /* NULL: none */
  struct bench_key *key;            /* of this candidate */
  struct bench_key *upstream_key;   /* of its upstream */
  const void *upstream;             /* the config's own upstream, for the proxy */
};

/* Why a candidate of a resolved pool takes no part in this request. */
struct left_out {
  const char *name;
  const char *why; /* "disabled", "route" ... */
};

struct request {
  const char *id;
  enum route route;
  const char *method;
  struct span path;    /* as the client sent it, without the query */
  struct span model;   /* what the client asked for, decoded; may be empty */
  bool stream;
  const char *target;  /* the upstream asked for by header or suffix, or NULL */
  const char *client;  /* name of the client whose key came, or NULL */
  const struct value *client_tags;
  const char *session; /* or NULL */
  struct headers headers;
  struct span body;
  seconds received; /* when it was complete */
  seconds deadline;
};

/* An error an upstream sent, in any known shape. Empty spans where it said nothing. */
struct upstream_error {
  struct span type, code, message;
};

struct usage {
  bool known;
  uint64_t input, output, cached;
};
