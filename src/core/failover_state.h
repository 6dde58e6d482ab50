/* The engine's own state, shared by its two files: failover.c (facts in, phases, orders out) and failover_decide.c (who is next, what a
 * failure means, what the client is told). Nobody else includes this. */
#pragma once

#include "core/failover.h"

enum phase {
  PHASE_CHOOSE,     /* nobody is running, a decision is due */
  PHASE_WAIT,       /* backing off until wait_until; then `next_member` begins */
  PHASE_HEAD,       /* started, no head yet */
  PHASE_ERROR_BODY, /* a non-2xx head came; its body is read before it is judged */
  PHASE_HOLD,       /* a good head came; held back */
  PHASE_STREAM,     /* committed */
  PHASE_DELIVER,    /* an upstream's own non-2xx answer is given to the client */
  PHASE_SETTLED,    /* nothing can change any more */
};

enum { ORDERS_MAX = 32 };

struct deadlines {
  seconds wait_until;  /* PHASE_WAIT */
  seconds headers;     /* PHASE_HEAD */
  seconds error_body;  /* PHASE_ERROR_BODY */
  seconds first_event; /* PHASE_HOLD */
  seconds hold;        /* PHASE_HOLD, from the first held event */
  seconds linger;      /* after the terminal event */
};

struct failover {
  struct failover_setup setup;
  struct member *pool;
  struct attempt **attempts;
  size_t attempt_count;
  struct attempt *running; /* its transfer is under way; NULL: none */
  enum phase phase;
  struct deadlines at;
  seconds last_read; /* the idle clock's start; SECONDS_NEVER while reading stands still */
  unsigned next_member;
  struct pick pick; /* what select said about next_member */
  seconds delay;    /* what the last verdict said about the wait before the next attempt; -1: ask backoff */
  unsigned lost;    /* picks in a row that could not begin */
  bool anyway;      /* next_member was benched when it was picked, and is to be tried all the same */
  bool manual;      /* by hand, then */
  bool terminal;    /* the terminal event came: the outcome is settled, the transfer may linger */
  struct {
    struct order *list; /* ORDERS_MAX of them, a ring */
    unsigned first, count;
  } orders;
};

/* ---- failover.c ---- */

struct order *failover_put(struct failover *f, enum order_kind kind, struct attempt *attempt);
/* Queues an event; the caller fills in what it has. */
struct event *failover_tell(struct failover *f, enum event_type type, struct attempt *attempt, seconds now);
/* The running attempt's transfer is to end (unless it has ended by itself): frees its slot, after settling. */
void failover_stop_running(struct failover *f, bool cancel, seconds now);
/* The one place where a request ends: tells `finished` with what the client got. `served`: the attempt whose answer that was; NULL: bullpen's own,
 * and the record is about the last attempt. */
void failover_settle(struct failover *f, const struct attempt *served, enum outcome outcome, int status, seconds now);
/* The request's time is up: ends what runs, answers 504. */
void failover_deadline(struct failover *f, bool over, seconds now);
void failover_commit(struct failover *f, seconds now);

/* ---- failover_decide.c ---- */

/* Chooses who is first and begins, or gives up. */
void failover_choose_first(struct failover *f, seconds now);
/* The wait is over. */
void failover_begin_next(struct failover *f, seconds now);
/* The running attempt failed before the commit, or was refused with a status: asks classify and acts. `over`: its transfer has ended. */
void failover_judge(struct failover *f, bool over, seconds now);
/* It failed after the commit: only the bench of the verdict counts. */
void failover_judge_late(struct failover *f, seconds now);
/* Answers the client with bullpen's own error, and settles. NULL words: the refusal's own. */
void failover_fail(struct failover *f, enum refusal refusal, const struct error_text *words, enum outcome outcome, seconds now);
/* on_error = "reject": 503. `over`: the running transfer has ended by itself. */
void failover_reject(struct failover *f, bool over, seconds now);
/* Settles the attempt's ticket, and tells what that lifted or benched. */
void failover_settle_bench(struct failover *f, struct attempt *a, enum bench_result result, seconds now);
