/*
 * The life of an exchange: made when a request line came, told of what the front reads, asked for what it sends, freed when the library says that
 * the request is over. What happens in between is in intake.c (up to the engine), attempt.c (transfers) and answer.c (replies).
 *
 * Ownership: an exchange belongs to its connection's request; the front frees it when the library says that the request is over, however
 * that came. Everything it made lives in its arena, but for buffers that grow.
 */
#include "proxy/exchange.h"

#include <stdlib.h>

#include "proxy/exchange_state.h"
#include "proxy/front.h"

#define DISCARD_BYTES ((size_t)64 * 1024 * 1024) /* of a refused request's body */

/* ---- what the front says ---- */

static void timer_due(struct timer *timer, seconds now) {
  struct exchange *ex = (struct exchange *)((char *)timer - offsetof(struct exchange, timer));
  (void)now;
  if (ex->step == STEP_BODY) exchange_refuse(ex, REFUSAL_BODY_TIMEOUT, "The request body did not come in time.", 0);
  if (ex->step == STEP_DISCARD)
    front_give_up(ex->conn, exchange_last_words(ex));
  else
    exchange_post(ex);
}

static void make_id(struct exchange *ex) {
  ex->request.id = arena_printf(&ex->arena, "bp_%016llx", (unsigned long long)worker_random(ex->worker));
}

static void split_target(struct incoming *in) {
  struct span target = span_of(in->target);
  for (size_t i = 0; *target.p != '/' && i + 3 < target.n && i < 8; i++) { /* an absolute target: the guard compares its host */
    if (memcmp(target.p + i, "://", 3) != 0) continue;
    const char *slash = memchr(target.p + i + 3, '/', target.n - i - 3);
    target = slash ? span_skip(target, (size_t)(slash - target.p)) : SPAN("/");
    break;
  }
  const char *mark = memchr(target.p, '?', target.n);
  in->path = (struct span){ target.p, mark ? (size_t)(mark - target.p) : target.n };
  in->query = mark ? span_skip(target, in->path.n + 1) : SPAN_NONE;
}

struct exchange *exchange_new(struct worker *worker, struct conn *conn, const char *target) {
  struct exchange *ex = calloc(1, sizeof *ex);
  if (!ex) return NULL;
  ex->worker = worker;
  ex->conn = conn;
  ex->config = config_ref(worker->config);
  ex->timer.due = timer_due;
  ex->last_taken = SECONDS_NEVER;
  ex->begun = loop_now(worker->loop);
  relay_init(&ex->relay, ex->config->limits.buffer);
  ex->in.target = arena_copy(&ex->arena, span_of(target));
  make_id(ex);
  atomic_fetch_add(&worker->proxy->inflight, 1);
  if (ex->in.target && ex->request.id) return ex;
  exchange_free(&ex);
  return NULL;
}

enum exchange_wish exchange_head(struct exchange *ex, const struct exchange_head *head) {
  struct incoming *in = &ex->in;
  in->method = head->method;
  in->version = head->version;
  in->headers = head->headers;
  in->sound = head->sound;
  in->chunked = headers_get(head->headers, "transfer-encoding").n > 0;
  in->expects = headers_get(head->headers, "expect").n > 0;
  struct span length = headers_get(head->headers, "content-length");
  for (size_t i = 0; i < length.n && i < 18 && length.p[i] >= '0' && length.p[i] <= '9'; i++)
    in->length = in->length * 10 + (size_t)(length.p[i] - '0');
  split_target(in);
  struct request *r = &ex->request;
  r->method = in->method;
  r->path = in->path;
  r->headers = in->headers;
  r->received = ex->begun;
  exchange_run(ex);
  return ex->step == STEP_ANSWER && (in->chunked || in->length || ex->reply.close) ? EXCHANGE_ANSWER : EXCHANGE_READ;
}

bool exchange_body(struct exchange *ex, const char *bytes, size_t n) {
  struct incoming *in = &ex->in;
  if (ex->step == STEP_DISCARD) {
    in->discarded += n;
    return in->discarded <= DISCARD_BYTES;
  }
  if (ex->step != STEP_BODY) return true;
  size_t more = in->body.n + n > in->reserved ? in->body.n + n - in->reserved : 0;
  if (in->body.n + n > ex->config->limits.body) {
    exchange_refuse(ex, REFUSAL_BODY_TOO_LARGE, "The request body is too large.", 0);
    return true;
  }
  if (more && exchange_over_bodies(ex, more)) {
    exchange_refuse(ex, REFUSAL_OVERLOADED, "Too many request bodies are held.", 1);
    return true;
  }
  if (in->body.n == 0 && in->length) buf_reserve(&in->body, in->length < 65536 ? in->length : 65536);
  buf_add(&in->body, bytes, n);
  if (!buf_ok(&in->body)) exchange_refuse(ex, REFUSAL_OVERLOADED, "Out of memory.", 1);
  return true;
}

void exchange_complete(struct exchange *ex) {
  if (ex->step == STEP_DISCARD) ex->step = STEP_ANSWER;
  if (ex->step == STEP_BODY) {
    loop_arm(ex->worker->loop, &ex->timer, SECONDS_NEVER);
    ex->step = STEP_READ;
    ex->request.received = loop_now(ex->worker->loop);
    if (front_gone(ex->conn)) { /* it did not wait for what it asked */
      exchange_client_gone(ex);
      return;
    }
  }
  exchange_run(ex);
}

const struct reply *exchange_reply(struct exchange *ex) {
  struct reply *r = &ex->reply;
  if (!r->status || ex->step == STEP_DISCARD) return NULL;
  if (!r->whole.p && ex->relay.end == RELAY_ENDED) { /* it is all here, and nothing of it has gone */
    r->whole = relay_ready(&ex->relay);
    if (!r->whole.p) r->whole = SPAN("");
    r->length = r->whole.n;
  }
  return r;
}

ssize_t exchange_read(struct exchange *ex, char *to, size_t max) {
  struct span ready = relay_ready(&ex->relay);
  size_t n = ready.n < max ? ready.n : max;
  if (n == 0) return ex->relay.end == RELAY_ENDED ? -1 : ex->relay.end == RELAY_BROKEN ? -2 : 0;
  memcpy(to, ready.p, n);
  relay_take(&ex->relay, n);
  ex->last_taken = loop_now(ex->worker->loop);
  if (ex->run.transfer && upstream_in(ex->run.transfer)->n) exchange_post(ex); /* there is room again */
  return (ssize_t)n;
}

bool exchange_settled(const struct exchange *ex) {
  return ex->finished || (ex->failover && failover_settled(ex->failover));
}

seconds exchange_unsent_since(const struct exchange *ex) {
  bool waiting = ex->reply.status && (relay_ready(&ex->relay).n || ex->relay.end != RELAY_OPEN);
  return waiting ? ex->last_taken : SECONDS_NEVER;
}

void exchange_client_gone(struct exchange *ex) {
  if (ex->failover) {
    failover_client_gone(ex->failover, loop_now(ex->worker->loop));
    attempt_orders(ex);
  } else {
    tell_refused(ex, OUTCOME_CLIENT_GONE, 0);
  }
}

struct span exchange_last_words(struct exchange *ex) {
  struct buf text = { 0 };
  const struct reply *r = &ex->reply;
  buf_printf(&text, "HTTP/1.1 %d Refused\r\nConnection: close\r\nContent-Length: %zu\r\n", r->status, r->whole.n);
  for (size_t i = 0; i < r->count; i++)
    buf_printf(&text, "%.*s: %.*s\r\n", (int)r->headers[i].name.n, r->headers[i].name.p, (int)r->headers[i].value.n, r->headers[i].value.p);
  buf_puts(&text, "\r\n");
  buf_add_span(&text, r->whole);
  const char *copy = buf_ok(&text) ? arena_copy(&ex->arena, buf_span(&text)) : NULL;
  buf_free(&text);
  return span_of(copy);
}

void exchange_free(struct exchange **exchange) {
  struct exchange *ex = *exchange;
  if (!ex) return;
  *exchange = NULL;
  bool was_request = ex->step > STEP_CHECK; /* else it went no further than its head */
  if (was_request && !exchange_settled(ex)) exchange_client_gone(ex);
  struct worker *w = ex->worker;
  upstream_end(&ex->run.transfer);
  if (!ex->finished && ex->failover) { /* settled, but the upstream had not ended: what was known stands */
    failover_ended(ex->failover, OUTCOME_OK, NULL, NULL, loop_now(w->loop));
    attempt_orders(ex);
  }
  for (struct exchange **at = &w->posted; *at; at = &(*at)->next_posted)
    if (*at == ex) {
      *at = ex->next_posted;
      break;
    }
  loop_arm(w->loop, &ex->timer, SECONDS_NEVER);
  if (ex->advisor) policy_leave(&ex->advisor);
  atomic_fetch_sub(&w->proxy->bodies, ex->in.reserved);
  atomic_fetch_sub(&w->proxy->inflight, 1);
  relay_free(&ex->relay);
  buf_free(&ex->run.error_body);
  arena_free(&ex->run.scratch);
  buf_free(&ex->in.body);
  arena_free(&ex->arena);
  config_release(&ex->config);
  free(ex);
}

/* ---- the turn ---- */

void exchange_post(struct exchange *ex) {
  if (ex->posted) return;
  ex->posted = true;
  ex->next_posted = ex->worker->posted;
  ex->worker->posted = ex;
}

bool exchange_turn(struct worker *w) {
  bool any = false;
  struct exchange *ex;
  while ((ex = w->posted)) {
    w->posted = ex->next_posted;
    ex->posted = false;
    any = true;
    if (ex->failover) {
      attempt_look(ex);
      failover_timer_due(ex->failover, buf_span(&ex->run.error_body), loop_now(w->loop));
      attempt_orders(ex);
    } else {
      front_wake(ex->conn);
    }
  }
  return any;
}

/* ---- shared ---- */

bool exchange_messages_shape(const struct exchange *ex) {
  if (ex->request.route == ROUTE_MESSAGES) return true;
  return ex->request.route == ROUTE_NONE && headers_get(ex->in.headers, "anthropic-version").n > 0;
}

struct advisor *exchange_advisor(struct exchange *ex) {
  if (!ex->advisor) ex->advisor = policy_advise(worker_policy(ex->worker, ex->resolution.policy), &ex->request, &ex->arena);
  return ex->advisor;
}
