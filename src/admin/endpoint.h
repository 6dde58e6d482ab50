/*
 * Inside the admin room: one request as plain data, its answer, and the table that joins them. Nothing here knows
 * microhttpd: admin.c fills in a request, asks endpoint_check when the head is there and endpoint_answer when the
 * body is, and sends what they wrote.
 */
#pragma once

#include <stdint.h>

#include "admin/admin.h"
#include "base/arena.h"

enum {
  ADMIN_BODY = 1 << 20, /* bytes a request body may have */
  ADMIN_KEY = 512,      /* bytes of KEY in a path */
  ADMIN_PEER = 64,
};

struct endpoint;

struct admin_request {
  const struct admin_options *options;
  seconds started; /* of the process */
  const struct endpoint *endpoint;
  struct span method, path, query; /* as sent: nothing is decoded */
  struct span rest;                /* what the star of the endpoint's pattern matched, decoded */
  struct span host, origin, authorization, content_type; /* SPAN_NONE: not sent */
  unsigned hosts;                  /* Host fields sent */
  bool has_body;
  uint64_t declared; /* Content-Length */
  struct span body;  /* when endpoint_answer is called */
  char peer[ADMIN_PEER]; /* who asks: an address, or "unix" */
  struct arena arena;    /* lives as long as the request */
};

struct admin_answer {
  unsigned status;
  const char *type;               /* Content-Type */
  const char *header, *value;     /* one more header, or NULL */
  struct buf body;
};

/* On the head. True: read the body and call endpoint_answer. False: `answer` is a refusal; the body does not matter. */
bool endpoint_check(struct admin_request *request, struct admin_answer *answer) __attribute__((warn_unused_result));
/* Runs the handler that endpoint_check found. */
void endpoint_answer(struct admin_request *request, struct admin_answer *answer);

/* Makes `answer` an error: {"error":{"message":..}}. What was written to its body before is dropped. */
void endpoint_refuse(struct admin_answer *answer, unsigned status, const char *format, ...)
  __attribute__((format(printf, 3, 4)));

/* Handlers (api_benches.c, metrics.c). They find status 200 and application/json in the answer. */
void benches_get(struct admin_request *request, struct admin_answer *answer);
void benches_put(struct admin_request *request, struct admin_answer *answer);
void benches_delete(struct admin_request *request, struct admin_answer *answer);
void metrics_get(struct admin_request *request, struct admin_answer *answer);

/* When this process started, in seconds since the epoch; 0 when the system does not say. */
seconds metrics_process_start(void);
