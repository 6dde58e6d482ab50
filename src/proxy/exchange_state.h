/* The exchange's own state, shared by its files: exchange.c (its life), intake.c (the steps up to the engine), attempt.c (transfers and orders),
 * answer.c (what is sent), tell.c (events: log, counters, observers). Nobody else includes this. */
#pragma once

#include "base/arena.h"
#include "base/buf.h"
#include "config/config.h"
#include "core/body.h"
#include "core/failover.h"
#include "policy/policy.h"
#include "proxy/exchange.h"
#include "proxy/relay.h"
#include "proxy/upstream.h"
#include "proxy/worker.h"

enum step {
  STEP_CHECK,    /* framing, origin */
  STEP_ROUTE,    /* path and method, client key, what the head alone refuses */
  STEP_BODY,     /* waiting for the body */
  STEP_READ,     /* what the body says: model, stream */
  STEP_RESOLVE,  /* the pool */
  STEP_FAILOVER, /* the engine has it */
  STEP_DISCARD,  /* refused: the body is read and thrown away before the answer goes */
  STEP_ANSWER,   /* the reply is set */
  STEP_COUNT,
};

/* The client's request as it came. */
struct incoming {
  const char *target, *method, *version;
  struct span path, query;
  struct headers headers;
  struct buf body;
  size_t length;    /* by Content-Length; 0 */
  size_t reserved;  /* of limits.bodies */
  size_t discarded; /* bytes thrown away */
  bool chunked, expects, sound;
  struct body_value model; /* of the body: where it lies */
  struct span previous;    /* its previous_response_id */
};

/* The running attempt's transfer and what was read of it. */
struct running {
  struct attempt *attempt;
  struct transfer *transfer;
  struct buf error_body;
  struct arena scratch; /* for facts of single events */
  bool head_taken;      /* the engine knows the head */
  bool type_known;      /* the relay's kind is settled */
  bool delivering;      /* an upstream's own error goes to the client */
  bool failed;          /* an event made the engine end the attempt */
  size_t received;      /* body bytes, at the last look */
  bool paused;          /* the engine was told that reading stands still */
};

struct exchange {
  struct worker *worker;
  struct conn *conn;
  struct arena arena;
  enum step step;
  const struct config *config;
  const struct client *client; /* whose key came, or NULL */
  struct incoming in;
  struct request request;
  struct resolution resolution;
  struct advisor *advisor;
  struct failover *failover;
  struct running run;
  struct relay relay;
  struct reply reply;
  struct timer timer;
  seconds begun, last_taken; /* the head came; the client last took bytes */
  struct exchange *next_posted;
  bool posted, finished; /* on the worker's list; `finished` was told */
};

/* To be looked at in this turn. */
void exchange_post(struct exchange *ex);
bool exchange_messages_shape(const struct exchange *ex);
/* The policy's voice for this request, made when first needed; NULL when memory is out. */
struct advisor *exchange_advisor(struct exchange *ex);

/* ---- intake.c ---- */

/* Runs steps until one waits. */
void exchange_run(struct exchange *ex);
/* Sets the refusal's answer and tells the one `finished`. `retry_after`: seconds; 0: none. */
void exchange_refuse(struct exchange *ex, enum refusal refusal, const char *message, unsigned retry_after);
/* Reserves `more` bytes of limits.bodies (given back with the exchange); true when that is too much. */
bool exchange_over_bodies(struct exchange *ex, size_t more);

/* ---- attempt.c ---- */

/* Carries out the engine's orders until there are none, and arms the timer. */
void attempt_orders(struct exchange *ex);
/* Takes what the transfer has, as far as the relay has room. */
void attempt_look(struct exchange *ex);

/* ---- answer.c ---- */

/* bullpen's own error. Sets the reply. */
void answer_error(struct exchange *ex, const struct error_text *error, unsigned retry_after, bool no_retry, bool close);
/* A JSON body of our own with status 200. */
void answer_json(struct exchange *ex, struct buf *body);
/* The committed attempt's head; the body comes through the relay. */
void answer_commit(struct exchange *ex, struct attempt *attempt);
/* An upstream's own non-2xx answer, from the kept body when `kept`, else what was read and the rest. */
void answer_upstream_error(struct exchange *ex, struct attempt *attempt, bool kept);
/* Ends the committed answer uncleanly, with the route's frame unless `quiet`. */
void answer_break(struct exchange *ex, bool quiet);
const char *answer_trail(struct exchange *ex);

/* ---- tell.c ---- */

void tell_event(struct exchange *ex, const struct event *event);
/* The one `finished` of a request that never reached the engine. */
void tell_refused(struct exchange *ex, enum outcome outcome, int status);

/* ---- models.c ---- */

void models_list(struct exchange *ex);
