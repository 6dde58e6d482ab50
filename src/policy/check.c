/*
 * Every hook on sample data, before a policy is let near a request.
 *
 * Sample requests are put through the real engine with this policy as its advisor and a registry of their own;
 * upstreams fail in every way a hook may meet, then answer. What the engine happens not to ask is asked directly at the
 * end of each request. The first fault is the result. While the check lasts the policy is dry (benches and shared are
 * not touched), nothing is counted or logged, and a hook that names a candidate the sample pool does not have is not
 * held to it.
 */
#include <stdio.h>

#include "policy/parts.h"

enum { ROUNDS = 3, POOL = 3, ATTEMPTS = 12, STEPS_MOST = 200 };

/* ---- sample data ---- */

static const struct header request_headers[] = {
  { { "Content-Type", 12 }, { "application/json", 16 } }, { { "User-Agent", 10 }, { "check/1", 7 } },
};
static const struct header answer_headers[] = {
  { { "content-type", 12 }, { "application/json", 16 } }, { { "retry-after", 11 }, { "7", 1 } },
};

/* How an attempt ends, in turn. A head of 0: no head comes, the outcome is all there is. */
static const struct mishap {
  int status;
  enum outcome outcome;
  const char *body;
} mishaps[] = {
  { 429, OUTCOME_STATUS,
    "{\"error\":{\"message\":\"Rate limit reached\",\"type\":\"rate_limit_error\",\"code\":\"rate_limit_exceeded\"}}" },
  { 500, OUTCOME_STATUS, "<html>oops</html>" },
  { 0, OUTCOME_CONNECT, NULL },
  { 401, OUTCOME_STATUS,
    "{\"error\":{\"message\":\"Incorrect API key\",\"type\":\"invalid_request_error\",\"code\":\"invalid_api_key\"}}" },
  { 0, OUTCOME_HEADERS_TIMEOUT, NULL },
  { 200, OUTCOME_STREAM_ERROR, NULL },
  { 404, OUTCOME_STATUS, "" },
  { 200, OUTCOME_EMPTY, NULL },
  { 400, OUTCOME_STATUS, "{\"type\":\"error\",\"error\":{\"type\":\"invalid_request_error\",\"message\":\"bad\"}}" },
  { 0, OUTCOME_RESET, NULL },
};
enum { MISHAPS = sizeof mishaps / sizeof *mishaps };

struct sample {
  struct arena arena;
  struct bench *bench;
  struct request request;
  struct candidate candidates[POOL];
  const struct candidate *pool[POOL];
  struct failover *f;
  struct advisor *advisor;
  struct attempt *running;
  seconds now;
  uint64_t random;
  unsigned failures; /* how many attempts fail before one succeeds */
  unsigned mishap;   /* the next one */
};

static double sample_random(void *context) {
  uint64_t *state = context;
  *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
  return (double)(*state >> 11) * 0x1p-53;
}

static bool make_pool(struct sample *s, enum api api) {
  static const char *const names[POOL][3] = {
    { "openai/gpt-4o", "openai", "gpt-4o" }, { "azure/gpt-4o-eu", "azure", "gpt-4o-eu" },
    { "sample/gpt-4o-mini", "sample", "gpt-4o-mini" },
  };
  s->bench = bench_new(2 * POOL);
  for (size_t i = 0; s->bench && i < POOL; i++) {
    s->candidates[i] = (struct candidate){
      .name = names[i][0], .upstream_name = names[i][1], .model = names[i][2], .api = api, .weight = 1,
      .priority = (int)i,
      .timeouts = { 5, 300, 120, 120, 20 },
      .key = bench_get(s->bench, span_of(names[i][0])), .upstream_key = bench_get(s->bench, span_of(names[i][1])),
    };
    s->pool[i] = &s->candidates[i];
    if (!s->candidates[i].key || !s->candidates[i].upstream_key) return false;
  }
  return s->bench != NULL;
}

static void make_request(struct sample *s, enum route route, bool stream) {
  static const char body[] = "{\"model\":\"gpt-4o\",\"user\":\"someone\",\"max_tokens\":64,"
                             "\"messages\":[{\"role\":\"user\",\"content\":\"Hello\"}]}";
  s->now = clock_now();
  s->request = (struct request){
    .id = "check", .route = route, .method = "POST",
    .path = route == ROUTE_MESSAGES ? SPAN("/v1/messages") : SPAN("/v1/chat/completions"),
    .model = SPAN("gpt-4o"), .stream = stream, .client = stream ? NULL : "sample",
    .session = stream ? "sample-session" : NULL, .headers = { request_headers, 2 },
    .body = { body, sizeof body - 1 }, .received = s->now, .deadline = s->now + 900,
  };
}

/* ---- one request through the engine ---- */

static void feed_event(struct sample *s, enum event_class class, struct span data) {
  struct event_facts facts = { .class = class, .sequence = -1 };
  struct sse_event event = { .data = data };
  if (class == EVENT_FAIL)
    facts.error = (struct upstream_error){ .type = SPAN("overloaded_error"), .message = SPAN("Overloaded") };
  failover_event(s->f, &facts, &event, data.n, s->now);
}

static void fail_attempt(struct sample *s) {
  const struct mishap *m = &mishaps[s->mishap++ % MISHAPS];
  if (m->status) failover_head(s->f, m->status, (struct headers){ answer_headers, 2 }, s->now);
  if (m->outcome == OUTCOME_STATUS) failover_error_body(s->f, span_of(m->body), true, true, s->now);
  else if (m->outcome == OUTCOME_STREAM_ERROR)
    feed_event(s, EVENT_FAIL, SPAN("{\"error\":{\"message\":\"Overloaded\"}}"));
  else failover_ended(s->f, m->outcome, NULL, NULL, s->now);
}

static void serve_attempt(struct sample *s) {
  struct event_facts facts = { .finish_reason = SPAN("stop"), .response_id = SPAN("chatcmpl-1"),
                               .usage = { true, 9, 3, 0 }, .sequence = -1 };
  failover_head(s->f, 200, (struct headers){ answer_headers, 1 }, s->now);
  if (s->request.stream) {
    feed_event(s, EVENT_HOLD, SPAN("{\"choices\":[{\"delta\":{\"role\":\"assistant\"}}]}"));
    feed_event(s, EVENT_COMMIT, SPAN("{\"choices\":[{\"delta\":{\"content\":\"Hi\"}}]}"));
    feed_event(s, EVENT_END, SPAN("[DONE]"));
  }
  failover_ended(s->f, OUTCOME_OK, NULL, &facts, s->now);
}

/* Takes the orders that are there. */
static void take_orders(struct sample *s) {
  struct order o;
  while (failover_next(s->f, &o) != ORDER_NONE) {
    if (o.kind == ORDER_TELL) policy_tell(s->advisor, &o.event);
    if (o.kind == ORDER_START) s->running = o.attempt;
    if (o.kind == ORDER_CANCEL) s->running = NULL;
  }
}

static void drive(struct sample *s) {
  for (unsigned step = 0; step < STEPS_MOST; step++) {
    take_orders(s);
    if (failover_settled(s->f)) return;
    s->now += 0.25;
    const struct attempt *a = s->running;
    if (a) {
      s->running = NULL;
      if (a->number > s->failures) serve_attempt(s);
      else fail_attempt(s);
    } else {
      if (failover_timer(s->f) == SECONDS_NEVER) return;
      if (failover_timer(s->f) > s->now) s->now = failover_timer(s->f);
      failover_timer_due(s->f, SPAN_NONE, s->now);
    }
  }
}

/* What the engine may not have asked. */
static void ask_directly(struct sample *s) {
  const struct advisor_ops *ops = s->advisor->ops;
  struct pick pick = PICK_DEFAULT;
  struct judgement judgement = JUDGEMENT_DEFAULT;
  struct answer answer = { 0 };
  struct sse_event event = { .name = SPAN("message"), .data = SPAN("{}") };
  size_t count;
  const struct attempt *const *attempts = failover_attempts(s->f, &count);
  ops->select(s->advisor, s->f, s->now, &pick);
  ops->exhausted(s->advisor, s->f, s->now, &answer);
  if (!count) return;
  const struct attempt *last = attempts[count - 1];
  ops->classify(s->advisor, s->f, last, s->now, &judgement);
  (void)ops->backoff(s->advisor, s->f, last, last->member, s->now);
  if (ops->gate) (void)ops->gate(s->advisor, s->f, last, &event, 2, EVENT_COMMIT);
}

/* False when out of memory. */
static bool check_request(struct policy *policy, enum route route, bool stream, unsigned failures, unsigned mishap) {
  struct sample s = { .failures = failures, .mishap = mishap, .random = mishap + 1 };
  make_request(&s, route, stream);
  bool good = make_pool(&s, route_api(route));
  s.advisor = good ? policy_advise(policy, &s.request, &s.arena) : NULL;
  struct failover_setup setup = {
    .arena = &s.arena, .request = &s.request, .serial = 1, .advisor = s.advisor, .pool = s.pool, .pool_count = POOL,
    .max_attempts = ATTEMPTS, .bench = s.bench, .random = sample_random, .random_context = &s.random,
  };
  s.f = s.advisor ? failover_begin(&setup, s.now) : NULL;
  if (s.f) {
    drive(&s);
    ask_directly(&s);
  }
  good = s.f != NULL;
  policy_leave(&s.advisor);
  bench_free(s.bench);
  arena_free(&s.arena);
  return good;
}

bool policy_check(struct policy *policy, char *error, size_t error_size) {
  static const struct { enum route route; bool stream; } kinds[] = {
    { ROUTE_CHAT, true }, { ROUTE_CHAT, false }, { ROUTE_MESSAGES, true }, { ROUTE_EMBEDDINGS, false },
  };
  char fault[ERROR_BYTES] = "";
  bool dry = policy->host.dry, good = true;
  policy->host.dry = true;
  policy->fault = fault;
  for (unsigned round = 0; round < ROUNDS; round++) {
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
      good = good && check_request(policy, kinds[i].route, kinds[i].stream, round * ATTEMPTS / 2,
                                   round * 4 + (unsigned)i);
    }
    policy_tick(policy, clock_now());
  }
  policy->fault = NULL;
  policy->host.dry = dry;
  if (!good) snprintf(error, error_size, "out of memory");
  else if (*fault) snprintf(error, error_size, "%s", fault);
  return good && !*fault;
}
