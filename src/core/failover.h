/*
 * The engine: the life of one client request as a state machine with no I/O in it.
 *
 * Facts go in with `now` (failover_head, failover_event, ...); orders come out (failover_next). The driver takes orders until there are none,
 * then arms one timer for failover_timer(). Advice comes through one vtable; the engine keeps contract section 5 whatever the advice is.
 *
 *                      +--------------------------- next --------------------------+
 *                      v                                                           |
 *   begin --> CHOOSE --> [WAIT] --> HEAD --> HOLD --> (commit) STREAM --> ENDED     |
 *                          ^          |        |                                   |
 *                          |          +--> ERROR_BODY --+                          |
 *                          +-- retry ---------+---------+-- classify ----+---------+
 *                                                                        +--> accept / stop / exhausted --> ENDED
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "core/bench.h"
#include "core/commit.h"
#include "core/dialect.h"
#include "core/outcome.h"
#include "core/request.h"

struct failover;
struct advisor;

enum verdict { VERDICT_NONE, VERDICT_ACCEPT, VERDICT_RETRY, VERDICT_NEXT, VERDICT_STOP };
const char *verdict_name(enum verdict verdict);
bool verdict_parse(struct span name, enum verdict *verdict);

/* The facts of one attempt, kept until the request's arena goes. */
struct attempt {
  unsigned number; /* from 1 */
  unsigned try;    /* on this candidate, from 1 */
  unsigned member; /* index of the candidate in the pool */
  const struct candidate *candidate;
  enum outcome outcome;
  int status; /* 0: no head came */
  struct headers headers;
  struct span body; /* of a non-2xx: what was read of it, at most 64 KiB */
  bool body_whole;  /* body is all of it */
  struct upstream_error error;
  const char *cause;   /* one line for the log: what exactly went wrong; NULL when the outcome says it all */
  seconds retry_after; /* -1: none */
  seconds started, head_at, first_event_at, ended_at; /* 0: not yet */
  bool committed;
  bool resent; /* tried once more on a fresh connection (rule 5.9) */
  struct usage usage;
  struct span finish_reason, response_id;
  /* what was decided about it */
  enum verdict verdict;
  const char *kind; /* "transient", "auth_dead", "request_specific", or what the policy said; NULL */
  seconds bench;    /* 0: none */
  const char *bench_key;
  seconds waited;   /* before the next attempt */
  struct timeouts timeouts; /* in force; the last candidate's are lifted */
  struct bench_ticket ticket;
};

/* A pool member as this request sees it. The states are refreshed before every `select`. */
struct member {
  const struct candidate *candidate;
  unsigned tried;  /* attempts of this request */
  bool left;       /* by `next` */
  bool drained;    /* takes no part */
  bool full;       /* its upstream has max_inflight attempts in flight; seen as benched, reason `full` */
  bool auth_dead;  /* its last verdict said so */
  struct bench_state state; /* candidate's and upstream's together; `benched` includes full */
  enum outcome last_outcome;
  int last_status;
};

/* ---- advice ---- */

struct pick {
  enum { PICK_NO_OPINION, PICK_MEMBER, PICK_GIVE_UP } kind;
  unsigned member;
  const char *label, *reason;  /* for events and records; NULL, or living as long as the request */
  struct timeouts timeouts;    /* negative: not overridden */
};
#define PICK_DEFAULT { .timeouts = { -1, -1, -1, -1, -1 } }

struct judgement {
  enum verdict verdict;
  seconds bench;         /* 0: none; SECONDS_NEVER: until lifted */
  const char *key;       /* benched key's name; NULL: the candidate */
  const char *reason;    /* NULL: made from the outcome */
  seconds delay;         /* before the next attempt, instead of backoff; -1: ask backoff */
  const char *kind;
  int status;            /* of `stop`; 0: as exhausted */
  const char *message;   /* of `stop` */
};
#define JUDGEMENT_DEFAULT { .delay = -1 }

struct answer {
  enum { ANSWER_DEFAULT, ANSWER_LAST, ANSWER_CUSTOM } kind; /* the table of section 7; the last `status` answer whole; these words */
  int status;
  const char *type, *code, *message;
  bool pardon; /* the request is the suspect: lift the benches that it alone set */
};

enum event_type {
  TOLD_ATTEMPT_FAILED, TOLD_FAILED_OVER, TOLD_BENCHED, TOLD_UNBENCHED, TOLD_COMMITTED, TOLD_FINISHED,
  TOLD_POLICY_LOADED, TOLD_POLICY_FAILED,
};
const char *event_type_name(enum event_type type);

/* One event of contract section 4. Pointers live until the request's arena goes; unset: NULL, -1 for numbers. */
struct event {
  enum event_type type;
  seconds time;
  const struct request *request;
  const struct attempt *attempt; /* the one it is about, or NULL */
  const char *candidate, *next;
  enum outcome outcome; /* OUTCOME_NONE: none */
  int status;           /* 0: none. FINISHED: what the client got */
  enum verdict verdict;
  const char *reason, *label, *error;
  seconds delay, benched_for, elapsed, first_event; /* -1: none */
};

/* An advisor's answer may always be "no opinion" by leaving *out as it was given (the built-in's answer is then used by the engine). `reject`: the
 * operator asked for a 503 rather than the built-in (on_error = "reject"): the request ends. Strings live as long as the request. */
struct advisor_ops {
  void (*select)(struct advisor *advisor, const struct failover *f, seconds now, struct pick *pick);
  void (*classify)(struct advisor *advisor, const struct failover *f, const struct attempt *attempt, seconds now,
                   struct judgement *judgement);
  /* `failed` is the attempt before, `member` the one that will be tried. Seconds, 0 or more; -1: no opinion. */
  seconds (*backoff)(struct advisor *advisor, const struct failover *f, const struct attempt *failed, unsigned member, seconds now);
  /* NULL: the built-in answer stands. HOLD, COMMIT or FAIL. */
  enum event_class (*gate)(struct advisor *advisor, const struct failover *f, const struct attempt *attempt,
                           const struct sse_event *event, size_t bytes, enum event_class builtin);
  void (*exhausted)(struct advisor *advisor, const struct failover *f, seconds now, struct answer *answer);
  void (*observe)(struct advisor *advisor, const struct event *event); /* NULL: nobody listens */
  bool classify_ok; /* classify is asked about good non-stream answers too */
};

struct advisor {
  const struct advisor_ops *ops;
  bool reject; /* set by an advisor whose hook failed under on_error = "reject" */
};

/* The policy chain_with_bench: the default, and what answers for any hook that has none or fails. Its functions ignore `advisor`. */
extern const struct advisor_ops builtin_advisor;

/* ---- the machine ---- */

struct failover_setup {
  struct arena *arena;             /* everything the engine keeps lives here */
  const struct request *request;   /* its deadline is set */
  uint64_t serial;                 /* of the request, unique in this process */
  struct advisor *advisor;
  const struct candidate *const *pool;
  size_t pool_count;
  unsigned max_attempts;
  bool as_is;                      /* every head commits, whatever its status: a path that is no route */
  struct bench *bench;             /* to find the keys that verdicts name */
  double (*random)(void *context); /* [0,1) */
  void *random_context;
};

/* NULL when out of memory. */
struct failover *failover_begin(const struct failover_setup *setup, seconds now);

enum order_kind {
  ORDER_NONE,    /* nothing more to do until the next fact */
  ORDER_START,   /* start attempt `attempt`; its timeouts.connect is the driver's to keep */
  ORDER_CANCEL,  /* end the transfer of `attempt` now and forget its body */
  ORDER_COMMIT,  /* release the head and what is held of `attempt`; from now on relay */
  ORDER_DELIVER, /* give the client `attempt`'s own non-2xx answer: what was read and the rest */
  ORDER_LAST,    /* give the client the kept answer of `attempt`, whose transfer is over */
  ORDER_FAIL,    /* answer with `error`, retry_after, no_retry */
  ORDER_BREAK,   /* after commit: drop the unfinished tail, send the error frame (unless `quiet`), end uncleanly */
  ORDER_END,     /* after commit: the answer is whole; end cleanly */
  ORDER_TELL,    /* `event`: log it, count it, hand it to observers (the engine has not called observe itself) */
};

struct order {
  enum order_kind kind;
  struct attempt *attempt;
  struct error_text error; /* FAIL */
  enum refusal refusal;    /* FAIL: the case; error is complete for the route */
  unsigned retry_after;    /* FAIL: whole seconds; 0: none */
  bool no_retry;           /* FAIL: x-should-retry: false */
  bool quiet;              /* BREAK: an error event was relayed already, or the answer is no stream */
  struct event event;      /* TELL */
};

/* The next order, or ORDER_NONE. Orders are to be carried out in sequence; facts may be fed in between. */
enum order_kind failover_next(struct failover *f, struct order *order);

/* Facts. Each is about the running attempt; one about an attempt that was cancelled is not to be fed. */
void failover_head(struct failover *f, int status, struct headers headers, seconds now);
/* One event of a stream before the commit (and terminal or failed ones after it). True: it commits, or the stream was committed already. */
void failover_event(struct failover *f, const struct event_facts *facts, const struct sse_event *event, size_t bytes, seconds now);
/* The hold-back is full (stream), or a good answer grew beyond limits.buffer, or it must not be held (passthrough, coded): commit. */
void failover_full(struct failover *f, seconds now);
/* Bytes were read from the upstream: the idle clock starts anew. */
void failover_progress(struct failover *f, seconds now);
/* Reading stands still for a slow client (or goes on): the idle clock stops. */
void failover_paused(struct failover *f, bool paused, seconds now);
/* A non-2xx's body is as complete as it will get: its end, or 64 KiB. `whole`: it is all there; `over`: the transfer has ended (the driver
 * calls this instead of failover_ended then). The body is copied. */
void failover_error_body(struct failover *f, struct span body, bool whole, bool over, seconds now);
/* The transfer is over. `cause` lives as long as the request, or NULL. `facts`: what a whole non-stream answer told, or NULL. */
void failover_ended(struct failover *f, enum outcome outcome, const char *cause, const struct event_facts *facts, seconds now);
/* A timer is due (call at or after failover_timer(); early or needless calls do nothing). The body read so far, for a non-2xx. */
void failover_timer_due(struct failover *f, struct span body, seconds now);
void failover_client_gone(struct failover *f, seconds now);

/* When to call failover_timer_due; SECONDS_NEVER: no need. */
seconds failover_timer(const struct failover *f);

/* The attempt whose transfer the engine wants to go on; NULL: none. */
const struct attempt *failover_running(const struct failover *f);
bool failover_committed(const struct failover *f);
bool failover_settled(const struct failover *f); /* nothing can change any more */

/* Views for advisors and records. */
const struct member *failover_pool(const struct failover *f, size_t *count);
const struct attempt *const *failover_attempts(const struct failover *f, size_t *count);
unsigned failover_attempts_left(const struct failover *f); /* of limits.attempts */
double failover_random(const struct failover *f);          /* [0,1) */
/* This request's serial, for a policy that benches by itself. */
uint64_t failover_serial(const struct failover *f);
