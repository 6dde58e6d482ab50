/*
 * The pure rooms when memory runs out: every allocation of every scenario fails once, alone and with all after it. The engine must still end each
 * request with one `finished`, leave no slot taken and no trial claimed, and give back all its memory.
 */
#include "fault_rig.h"

#include "base/arena.h"
#include "base/buf.h"
#include "base/json.h"
#include "core/body.h"
#include "core/commit.h"
#include "core/dialect.h"
#include "core/failover.h"
#include "core/sse.h"

/* ---- base ---- */

static void arenas(void) {
  struct arena a = { 0 };
  static char text[6000];
  memset(text, 'x', sizeof text);
  for (size_t n = 1; n < sizeof text; n = n * 3 + 1) {
    char *p = arena_alloc(&a, n), *copy = arena_copy(&a, (struct span){ text, n });
    if (p) memset(p, 1, n);
    if (copy) need(memcmp(copy, text, n) == 0 && copy[n] == 0, "a copy differs");
    char *printed = arena_printf(&a, "%s %zu", "n is", n);
    if (printed) need(strncmp(printed, "n is ", 5) == 0, "a text differs");
  }
  arena_free(&a);
  need(arena_alloc(&a, 8) || fault.failed, "an emptied arena gives nothing");
  arena_free(&a);
}

static void buffers(void) {
  struct buf b = { 0 };
  for (int i = 0; i < 300; i++) {
    size_t before = b.n;
    bool good = buf_ok(&b);
    buf_puts(&b, "some words, ");
    buf_printf(&b, "%d", i);
    need(good || b.n == before, "written after it ran out");
  }
  need(buf_ok(&b) == !fault.failed, "oom is not what happened");
  buf_clear(&b);
  json_put_string(&b, SPAN("\"quoted\" \x01 and more"));
  buf_free(&b);
}

/* ---- what is read ---- */

static void bodies(void) {
  static const char *const names[] = { "model", "user" };
  static const char text[] = "{\"m\\u006fdel\":\"gpt\\u002d4o\",\"user\":\"a\\nb\",\"deep\":[[[1,2,{}]]]}";
  struct arena a = { 0 };
  struct body_value values[2];
  need(body_scan(span_of(text), names, values, 2, NULL) == BODY_GOOD, "a good body is refused");
  struct span model = body_text(values[0], &a), user = body_text(values[1], &a);
  need(!model.p || span_is(model, "gpt-4o"), "model");
  need(!user.p || span_is(user, "a\nb"), "user");
  arena_free(&a);
}

static void errors(void) {
  static const char *const bodies_[] = {
    "{\"error\":{\"message\":\"no \\u0061 quota\",\"type\":\"insufficient_quota\",\"code\":429}}",
    "{\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"busy\",\"details\":{\"error_code\":\"x\"}}}",
    "[{\"error\":{\"code\":429,\"message\":\"slow\",\"status\":\"RESOURCE_EXHAUSTED\"}}]",
    "{\"message\":\"aws\"}", "{\"error\":\"just words\"}", "<html><title>502</title><body>Bad <b>Gateway</b></body></html>", "plain",
    "\"{\\\"error\\\":{\\\"message\\\":\\\"twice\\\"}}\"",
  };
  for (size_t i = 0; i < sizeof bodies_ / sizeof *bodies_; i++) {
    struct arena a = { 0 };
    struct buf out = { 0 };
    struct upstream_error error = { 0 };
    dialect_read_error(span_of(bodies_[i]), &a, &error);
    dialect_error_kind(429, &error);
    dialect_error_status(&error);
    dialect_rewrite_error(&out, i % 2, 429, span_of(bodies_[i]), "id");
    need(buf_ok(&out) ? out.n > 0 : fault.failed > 0, "an error body is lost");
    buf_clear(&out);
    dialect_put_frame(&out, ROUTE_RESPONSES, SPAN("broken"), "id", 7);
    buf_free(&out);
    arena_free(&a);
  }
}

static void events(void) {
  static const char stream[] =
    ": hi\n\nevent: response.created\ndata: {\"type\":\"response.created\",\"response\":{\"id\":\"resp_1\"},\"sequence_number\":0}\n\n"
    "data: {\"id\":\"c\\u0031\",\"choices\":[{\"delta\":{\"content\":\"x\"},\"finish_reason\":\"st\\u006fp\"}],\"usage\":{\"prompt_tokens\":1}}\n\n"
    "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"b\\u0075sy\"}}\n\ndata: [DONE]\n\ndata: {\"cut\":";
  static const enum route routes[] = { ROUTE_CHAT, ROUTE_COMPLETIONS, ROUTE_RESPONSES, ROUTE_MESSAGES };
  for (size_t r = 0; r < 4; r++) {
    struct arena a = { 0 };
    struct sse sse;
    struct sse_event event;
    sse_init(&sse, 4096);
    for (size_t from = 0, n = sizeof stream - 1; from < n; from += 37) { /* in pieces, so that lines are kept between them */
      size_t at = 0, piece = n - from < 37 ? n - from : 37;
      while (sse_next(&sse, stream + from, piece, &at, &event)) {
        struct event_facts facts = { .sequence = -1 };
        commit_read_event(routes[r], &event, &a, &facts);
      }
      need(at == piece, "bytes are left");
    }
    sse_end(&sse, &event);
    sse_free(&sse);
    struct event_facts facts = { .sequence = -1 };
    (void)!commit_read_answer(routes[r], SPAN("{\"id\":\"a\\u0062\",\"usage\":{\"input_tokens\":3},\"stop_reason\":\"end\\u005fturn\"}"), &a, &facts);
    arena_free(&a);
  }
}

/* ---- the registry and the engine ---- */

static void registry(void) {
  struct bench *b = bench_new(2);
  if (!b) return;
  struct bench_key *k = bench_get(b, SPAN("up/m"));
  bench_get(b, SPAN("up"));
  bench_get(b, SPAN("up"));
  char reason[BENCH_REASON_BYTES];
  if (k) {
    bench_set(k, 60, "a reason", 1, 1000);
    bench_reason(k, 1001, reason);
    need(strcmp(reason, "a reason") == 0, "the reason is lost");
  }
  need(fault.failed || bench_get(b, SPAN("one too many")) == NULL, "over the limit");
  bench_free(b);
}

enum { POOL = 3 };

struct engine {
  struct arena arena;
  struct bench *bench;
  struct candidate candidates[POOL];
  const struct candidate *pool[POOL];
  struct request request;
  struct advisor advisor;
  struct failover *f;
  const struct attempt *open;
  unsigned finished, answers;
  seconds now;
};

static double half(void *context) {
  (void)context;
  return 0.5;
}

/* The registry is made at the process' start: it is no part of what fails. */
static void engine_open(struct engine *e) {
  static const char *const names[POOL][2] = { { "a/m", "a" }, { "b/m", "b" }, { "c/m", "c" } };
  bool was = fault.armed;
  fault.armed = false;
  *e = (struct engine){ .now = 1000, .advisor = { .ops = &builtin_advisor }, .bench = bench_new(16) };
  for (size_t i = 0; i < POOL; i++) {
    e->candidates[i] = (struct candidate){ .name = names[i][0], .upstream_name = names[i][1], .model = "m", .max_inflight = 1,
                                           .timeouts = { 5, 300, 300, 120, 20 }, .key = bench_get(e->bench, span_of(names[i][0])),
                                           .upstream_key = bench_get(e->bench, span_of(names[i][1])) };
    e->pool[i] = &e->candidates[i];
  }
  fault.armed = was;
}

static void take(struct engine *e) {
  struct order o;
  while (failover_next(e->f, &o) != ORDER_NONE) {
    need(!e->finished, "an order after `finished`");
    if (o.kind == ORDER_START) e->open = o.attempt;
    if (o.kind == ORDER_CANCEL) e->open = NULL;
    if (o.kind == ORDER_FAIL || o.kind == ORDER_COMMIT || o.kind == ORDER_DELIVER || o.kind == ORDER_LAST) e->answers++;
    if (o.kind == ORDER_FAIL) need(o.error.status >= 400 && o.error.message.n > 0, "a refusal without words");
    if (o.kind == ORDER_TELL && o.event.type == TOLD_FINISHED) e->finished++;
  }
}

static bool begin(struct engine *e, enum route route, bool stream) {
  e->request = (struct request){ .id = "r", .method = "POST", .route = route, .stream = stream, .received = e->now, .deadline = e->now + 900 };
  struct failover_setup setup = { .arena = &e->arena, .request = &e->request, .serial = 1, .advisor = &e->advisor, .pool = e->pool, .pool_count = POOL,
                                  .max_attempts = 8, .bench = e->bench, .random = half };
  e->f = failover_begin(&setup, e->now);
  if (e->f) take(e);
  else need(fault.failed > 0, "no engine, and nothing failed");
  return e->f != NULL;
}

static void answers_status(struct engine *e, int status, const char *body) {
  if (e->finished) return;
  failover_head(e->f, status, (struct headers){ 0 }, e->now);
  e->open = NULL;
  failover_error_body(e->f, span_of(body), true, true, e->now);
  take(e);
  while (!e->finished && !e->open) { /* it waits */
    e->now = failover_timer(e->f);
    need(e->now < SECONDS_NEVER, "waits for nothing");
    failover_timer_due(e->f, SPAN_NONE, e->now);
    take(e);
  }
}

static void engine_close(struct engine *e) {
  if (e->f && !e->finished) {
    failover_client_gone(e->f, e->now);
    take(e);
  }
  need(!e->f || e->finished == 1, "not finished once");
  for (size_t i = 0; i < POOL; i++) {
    struct bench_state s;
    bench_read(e->candidates[i].key, e->now, &s);
    need(bench_inflight(e->candidates[i].upstream_key) == 0 && bench_inflight(e->candidates[i].key) == 0, "a slot is still taken");
    need(!s.trial, "a trial is still claimed");
  }
  arena_free(&e->arena);
  bool was = fault.armed;
  fault.armed = false;
  bench_free(e->bench);
  fault.armed = was;
}

static void failing_over(void) {
  struct engine e;
  engine_open(&e);
  bench_set(e.candidates[0].key, 5, "before", 9, e.now - 10); /* its trial is due */
  if (begin(&e, ROUTE_CHAT, true)) {
    answers_status(&e, 401, "{\"error\":{\"message\":\"no such k\\u0065y\",\"type\":\"authentication_error\"}}");
    answers_status(&e, 500, "<html><b>oops</b></html>");
    if (!e.finished) {
      struct event_facts content = { .class = EVENT_COMMIT, .sequence = -1, .response_id = SPAN("resp_1"), .finish_reason = SPAN("stop") };
      struct event_facts end = { .class = EVENT_END, .terminal = true, .sequence = -1, .usage = { true, 1, 2, 3 } };
      struct sse_event event = { .data = SPAN("{}") };
      failover_head(e.f, 200, (struct headers){ 0 }, e.now);
      failover_event(e.f, &content, &event, 2, e.now);
      take(&e);
      failover_event(e.f, &end, &event, 2, e.now);
      take(&e);
      e.open = NULL;
      failover_ended(e.f, OUTCOME_OK, NULL, NULL, e.now);
      take(&e);
      need(e.finished == 1 && e.answers == 1, "a stream without an end");
    }
  }
  engine_close(&e);
}

static void using_up(void) {
  struct engine e;
  engine_open(&e);
  if (begin(&e, ROUTE_MESSAGES, false)) {
    for (int i = 0; i < 16 && !e.finished; i++) answers_status(&e, i % 2 ? 529 : 500, "{\"type\":\"error\",\"error\":{\"type\":\"api_error\",\"message\":\"x\"}}");
    need(e.finished == 1 && e.answers == 1, "no answer");
  }
  engine_close(&e);
}

static void breaking(void) {
  struct engine e;
  engine_open(&e);
  if (begin(&e, ROUTE_RESPONSES, true) && !e.finished) {
    struct event_facts failed = { .class = EVENT_FAIL, .terminal = true, .sequence = -1,
                                  .error = { .type = SPAN("invalid_request_error"), .code = SPAN("bad"), .message = SPAN("words") } };
    struct sse_event event = { .data = SPAN("{}") };
    failover_head(e.f, 200, (struct headers){ 0 }, e.now);
    failover_event(e.f, &failed, &event, 2, e.now);
    take(&e);
    /* without its type it is tried again */
    need(fault.failed || (e.finished == 1 && e.answers == 1), "an error event is no answer");
  }
  engine_close(&e);
}

int main(void) {
  fault_run("arena", arenas, 1000);
  fault_run("buf", buffers, 1000);
  fault_run("body", bodies, 1000);
  fault_run("dialect", errors, 1000);
  fault_run("sse and commit", events, 1000);
  fault_run("bench", registry, 1000);
  fault_run("failover: over to a stream", failing_over, 1000);
  fault_run("failover: used up", using_up, 1000);
  fault_run("failover: an error event", breaking, 1000);
  return 0;
}
