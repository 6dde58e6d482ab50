/*
 * Between the engine and one transfer at a time: orders out, facts in.
 *
 * The transfer is looked at when it was posted, when the client made room, and when a timer is due; each look takes the head, as many bytes as
 * the relay has room for, and the end, in that order. After each fact the engine's orders are carried out before anything else is looked at: an
 * order may have ended the transfer, so nothing of it is kept across.
 */
#include <stdio.h>

#include "base/json.h"
#include "proxy/exchange_state.h"
#include "proxy/front.h"
#include "proxy/headers.h"

enum { TRANSFER_BUFFER = 32 * 1024, ERROR_BODY_BYTES = 64 * 1024, BLANK_BYTES = 4096 /* at an answer's beginning that are waited for */ };

static seconds now_of(const struct exchange *ex) {
  return loop_now(ex->worker->loop);
}

/* ---- starting ---- */

/* The body in three pieces, the model's value replaced in place. */
static bool split_body(struct exchange *ex, const struct candidate *c, struct span pieces[BODY_PIECES]) {
  struct span body = ex->request.body, raw = ex->in.model.raw;
  bool as_it_is = !raw.p || !*c->model || span_is(ex->request.model, c->model);
  if (as_it_is) {
    pieces[0] = body;
    return true;
  }
  struct buf quoted = { 0 };
  json_put_string(&quoted, span_of(c->model));
  const char *copy = buf_ok(&quoted) ? arena_copy(&ex->arena, buf_span(&quoted)) : NULL;
  size_t before = (size_t)(raw.p - body.p);
  pieces[0] = (struct span){ body.p, before };
  pieces[1] = (struct span){ copy, quoted.n };
  pieces[2] = span_skip(body, before + raw.n);
  buf_free(&quoted);
  return copy != NULL;
}

static void posted(struct transfer *transfer, void *owner) {
  struct exchange *ex = owner;
  (void)transfer;
  attempt_look(ex);
  attempt_orders(ex);
}

static void reset_run(struct exchange *ex, struct attempt *a) {
  struct running *run = &ex->run;
  run->attempt = a;
  run->received = 0;
  run->head_taken = run->type_known = run->delivering = run->failed = run->paused = false;
  buf_clear(&run->error_body);
  relay_reset(&ex->relay);
}

static void start(struct exchange *ex, struct attempt *a) {
  const struct candidate *c = a->candidate;
  const struct upstream *u = c->upstream;
  bool plain_route = ex->request.route != ROUTE_NONE && !c->passthrough;
  struct transfer_order order = {
    .upstream = u,
    .method = ex->in.method,
    .url = headers_url(&ex->arena, u, ex->in.path, ex->in.query),
    .has_body = ex->in.body.n > 0 || ex->in.length || ex->in.chunked || strcmp(ex->in.method, "POST") == 0,
    .connect_timeout = a->timeouts.connect,
    .buffer = TRANSFER_BUFFER,
    .posted = posted,
    .owner = ex,
  };
  reset_run(ex, a);
  bool good = order.url && split_body(ex, c, order.body) &&
              headers_to_upstream(&ex->arena, u, ex->in.headers, plain_route, &order.headers);
  ex->run.transfer = good ? upstream_start(ex->worker->upstreams, &order) : NULL;
  if (!ex->run.transfer) failover_ended(ex->failover, OUTCOME_CONNECT, "the transfer could not be started here", NULL, now_of(ex));
}

/* ---- orders ---- */

static void end_transfer(struct exchange *ex) {
  const struct transfer_facts *facts = ex->run.transfer ? upstream_facts(ex->run.transfer) : NULL;
  if (facts && ex->run.attempt) ex->run.attempt->resent = facts->resent;
  upstream_end(&ex->run.transfer);
}

static void carry_out(struct exchange *ex, const struct order *o) {
  switch (o->kind) {
    case ORDER_NONE: break;
    case ORDER_START: start(ex, o->attempt); break;
    case ORDER_CANCEL:
      if (ex->run.attempt == o->attempt) end_transfer(ex);
      break;
    case ORDER_COMMIT:
      answer_commit(ex, o->attempt);
      relay_commit(&ex->relay);
      if (!ex->reply.status) failover_client_gone(ex->failover, now_of(ex)); /* no memory for a head: the connection is closed */
      break;
    case ORDER_DELIVER: answer_upstream_error(ex, o->attempt, false); break;
    case ORDER_LAST: answer_upstream_error(ex, o->attempt, true); break;
    case ORDER_FAIL:
      answer_error(ex, &o->error, o->retry_after, o->no_retry, false);
      break;
    case ORDER_BREAK: answer_break(ex, o->quiet); break;
    case ORDER_END: relay_close(&ex->relay); break;
    case ORDER_TELL: tell_event(ex, &o->event); break;
  }
}

/* Nothing is read while a slow client takes nothing: the engine's idle clock must not blame the upstream. */
static void watch_back_pressure(struct exchange *ex) {
  bool waiting = upstream_facts(ex->run.transfer)->stalled || upstream_in(ex->run.transfer)->n > 0;
  bool paused = waiting && relay_room(&ex->relay) == 0;
  if (paused == ex->run.paused) return;
  ex->run.paused = paused;
  failover_paused(ex->failover, paused, now_of(ex));
}

void attempt_orders(struct exchange *ex) {
  struct order order;
  bool any = false;
  while (failover_next(ex->failover, &order) != ORDER_NONE) {
    carry_out(ex, &order);
    any = true;
  }
  if (any && ex->reply.status) ex->step = STEP_ANSWER;
  if (ex->finished && ex->reply.status && ex->relay.end == RELAY_OPEN) relay_break(&ex->relay, SPAN_NONE); /* the client has left */
  loop_arm(ex->worker->loop, &ex->timer, failover_timer(ex->failover));
  bool news = relay_ready(&ex->relay).n || ex->relay.end != RELAY_OPEN || any;
  if ((ex->reply.status && news) || ex->finished) front_wake(ex->conn);
}

/* ---- facts ---- */

/* A clean end after a finish reason is a good end on these routes, [DONE] or not. */
static bool may_end_after_reason(enum route route) {
  return route == ROUTE_CHAT || route == ROUTE_COMPLETIONS;
}

/* The last event of a stream that ended without the empty line after it: is it whole, and does it say how the stream ended? Else the end cut it
 * off, and it is neither believed nor sent. */
static bool lacks_only_its_end(enum route route, const struct sse_event *event, const struct event_facts *facts) {
  if (facts->done_only) return true;
  bool good_reason = facts->finished && may_end_after_reason(route);
  if (facts->class != EVENT_END && facts->class != EVENT_FAIL && !good_reason) return false;
  return body_scan(event->data, NULL, NULL, 0, NULL) == BODY_GOOD;
}

static bool take_event(void *context, const struct sse_event *event, size_t bytes) {
  struct exchange *ex = context;
  struct event_facts facts = { .sequence = -1 };
  commit_read_event(ex->request.route, event, &ex->run.scratch, &facts);
  if (bytes == 0 && !lacks_only_its_end(ex->request.route, event, &facts)) return false;
  if (facts.sequence >= 0) ex->relay.sequence = facts.sequence;
  if (facts.finished) ex->relay.finished = true;
  if (facts.class == EVENT_FAIL && facts.error.message.n) {
    char *message = arena_copy(&ex->run.scratch, facts.error.message);
    if (message) headers_blot_key(ex->run.attempt->candidate->upstream, message, facts.error.message.n);
    facts.error.message = (struct span){ message, message ? facts.error.message.n : 0 };
  }
  bool nothing = event->comment || facts.done_only;
  bool bare_end = facts.done_only && !ex->relay.seen_event; /* [DONE] alone is no answer: the end will be `empty` */
  if (!nothing) ex->relay.seen_event = true;
  if (bare_end) facts.class = EVENT_HOLD;
  failover_event(ex->failover, &facts, event, bytes, now_of(ex));
  ex->run.failed = failover_running(ex->failover) != ex->run.attempt;
  arena_free(&ex->run.scratch);
  /* The engine may have committed by this event: the relay must know before it looks at the next one. */
  if (failover_committed(ex->failover) && !ex->relay.committed) ex->relay.committed = true;
  return !ex->run.failed;
}

/* The driver found it out by itself (the transfer still runs): ends the transfer, tells the engine. */
static void give_up(struct exchange *ex, enum outcome outcome, const char *cause) {
  end_transfer(ex);
  failover_ended(ex->failover, outcome, cause, NULL, now_of(ex));
}

static bool is_coded(struct headers headers) {
  struct span coding = headers_get(headers, "content-encoding");
  return coding.n && !span_is_nocase(coding, "identity");
}

/* What kind of good answer it is, as soon as that can be told. False: it is the wrong kind, or nothing can be told yet. */
static bool know_type(struct exchange *ex, const struct transfer_facts *facts, struct span bytes) {
  struct running *run = &ex->run;
  if (run->type_known) return true;
  if (ex->relay.committed || is_coded(facts->headers)) {
    if (!ex->relay.committed && !bytes.n) return false;
    ex->relay.kind = RELAY_RAW;
    run->type_known = true;
    failover_full(ex->failover, now_of(ex)); /* a coded answer commits at its first byte */
    return true;
  }
  enum answer_type type = commit_answer_type(headers_get(facts->headers, "content-type"), bytes);
  if (type == ANSWER_UNKNOWN && bytes.n >= BLANK_BYTES) type = ex->request.stream ? ANSWER_STREAM : ANSWER_JSON; /* as it was asked for */
  if (type == ANSWER_UNKNOWN) return false;
  bool wrong = ex->request.stream ? type != ANSWER_STREAM : type == ANSWER_STREAM;
  if (wrong) {
    give_up(ex, OUTCOME_WRONG_TYPE, type == ANSWER_STREAM ? "a stream where none was asked for" : "no stream where one was asked for");
    return false;
  }
  ex->relay.kind = ex->request.stream ? RELAY_STREAM : RELAY_HELD;
  run->type_known = true;
  return true;
}

/* A non-2xx's body is read up to 64 KiB, then judged. */
static void take_error_bytes(struct exchange *ex, struct buf *in) {
  struct buf *body = &ex->run.error_body;
  size_t room = ERROR_BODY_BYTES - body->n, n = in->n < room ? in->n : room;
  buf_add(body, in->p, n);
  buf_drop(in, n);
  headers_blot_key(ex->run.attempt->candidate->upstream, body->p, body->n);
  if (body->n < ERROR_BODY_BYTES) return;
  failover_error_body(ex->failover, buf_span(body), false, false, now_of(ex));
}

/* The answer of a path that is no route may name an object (a file, a batch) that later paths name again: its id is near the front. */
static void look_for_id(struct exchange *ex, struct span bytes) {
  static const char *const name = "id";
  struct body_value id;
  struct attempt *a = ex->run.attempt;
  if (ex->request.route != ROUTE_NONE || ex->relay.total || a->response_id.n || a->status > 299) return;
  if (body_scan(bytes, &name, &id, 1, NULL) == BODY_MALFORMED && id.kind != BODY_STRING) return; /* cut short is good enough */
  a->response_id = span_of(arena_copy(&ex->arena, body_text(id, &ex->arena)));
}

static void take_relay_bytes(struct exchange *ex, struct buf *in) {
  size_t room = relay_room(&ex->relay);
  size_t n = in->n < room ? in->n : room;
  if (n) {
    look_for_id(ex, buf_span(in));
    size_t taken = relay_feed(&ex->relay, in->p, n, take_event, ex);
    if (ex->run.failed || !ex->run.transfer) return;
    if (!buf_ok(&ex->relay.out)) {
      give_up(ex, OUTCOME_RESET, "out of memory here");
      return;
    }
    buf_drop(in, taken);
  }
  if (!ex->relay.committed && relay_room(&ex->relay) == 0) failover_full(ex->failover, now_of(ex));
}

static bool is_error_head(const struct exchange *ex) {
  int status = ex->run.attempt->status;
  return !ex->run.attempt->committed && (status < 200 || status > 299);
}

/* Takes waiting bytes; false when the transfer is not to be looked at any further in this look. */
static bool take_bytes(struct exchange *ex) {
  struct transfer *t = ex->run.transfer;
  struct buf *in = upstream_in(t);
  size_t received = upstream_facts(t)->received;
  if (received != ex->run.received) failover_progress(ex->failover, now_of(ex));
  ex->run.received = received;
  if (is_error_head(ex) && !ex->run.delivering) {
    take_error_bytes(ex, in);
  } else {
    if (!ex->run.delivering && !know_type(ex, upstream_facts(t), buf_span(in))) return ex->run.transfer == t;
    take_relay_bytes(ex, in);
  }
  attempt_orders(ex);
  return ex->run.transfer == t && !ex->run.failed;
}

/* ---- the end ---- */

/* Neither length nor chunks: the end of the connection is the end of the body, and tells nothing about its being whole. */
static bool is_close_delimited(struct headers headers) {
  return !headers_get(headers, "content-length").p && !headers_get(headers, "transfer-encoding").p;
}

static enum outcome held_outcome(struct exchange *ex, const struct transfer_facts *facts, struct event_facts *told) {
  struct span body = buf_span(&ex->relay.out);
  if (facts->received == 0) return OUTCOME_EMPTY;
  if (ex->relay.kind != RELAY_HELD || ex->relay.committed) return OUTCOME_OK;
  bool whole = commit_read_answer(ex->request.route, body, &ex->arena, told);
  if (whole && told->class == EVENT_FAIL) return OUTCOME_STREAM_ERROR; /* an error that calls itself 200: the SDKs take it for success */
  return whole || !is_close_delimited(facts->headers) || ex->run.attempt->candidate->passthrough ? OUTCOME_OK : OUTCOME_TRUNCATED;
}

static enum outcome stream_outcome(struct exchange *ex) {
  relay_finish(&ex->relay, take_event, ex);
  if (ex->run.failed) return OUTCOME_NONE;
  if (failover_settled(ex->failover)) return OUTCOME_OK;
  if (!ex->relay.seen_event) return OUTCOME_EMPTY;
  return ex->relay.finished && may_end_after_reason(ex->request.route) ? OUTCOME_OK : OUTCOME_TRUNCATED;
}

static const char *cause_of(struct exchange *ex, const struct transfer_facts *facts) {
  return facts->cause[0] ? arena_copy(&ex->arena, span_of(facts->cause)) : NULL;
}

static void take_end(struct exchange *ex) {
  const struct transfer_facts *facts = upstream_facts(ex->run.transfer);
  struct event_facts told = { .sequence = -1 }, *answer = NULL;
  enum outcome outcome = facts->outcome;
  const char *cause = cause_of(ex, facts);
  if (facts->status && is_error_head(ex) && !ex->run.delivering) {
    struct span body = buf_span(&ex->run.error_body);
    end_transfer(ex);
    failover_error_body(ex->failover, body, outcome == OUTCOME_OK && buf_ok(&ex->run.error_body), true, now_of(ex));
    return;
  }
  if (outcome == OUTCOME_OK && !ex->run.delivering && !ex->run.attempt->candidate->passthrough && ex->request.route != ROUTE_NONE) {
    if (!ex->run.type_known)
      outcome = OUTCOME_EMPTY; /* not one byte that is no blank */
    else if (ex->relay.kind == RELAY_STREAM)
      outcome = stream_outcome(ex);
    else
      outcome = held_outcome(ex, facts, answer = &told);
  }
  end_transfer(ex);
  if (outcome != OUTCOME_NONE) failover_ended(ex->failover, outcome, cause, answer, now_of(ex));
}

void attempt_look(struct exchange *ex) {
  struct transfer *t = ex->run.transfer;
  if (!t) return;
  const struct transfer_facts *facts = upstream_facts(t);
  if (facts->status && !ex->run.head_taken) {
    ex->run.head_taken = true;
    failover_head(ex->failover, facts->status, headers_copy(&ex->arena, facts->headers), now_of(ex)); /* the attempt outlives its transfer */
    attempt_orders(ex);
    if (ex->run.transfer != t) return;
  }
  if (ex->run.head_taken && !take_bytes(ex)) return;
  if (upstream_in(t)->n == 0 && facts->stalled) upstream_go_on(t);
  watch_back_pressure(ex);
  bool undecided = !ex->run.type_known && !ex->run.delivering && ex->run.head_taken && !is_error_head(ex);
  if (facts->over && (upstream_in(t)->n == 0 || undecided)) take_end(ex);
}
