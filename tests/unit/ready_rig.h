/*
 * A rig for ready-made policies: a registry, a pool and a clock of the test's own, a policy out of the binary (or the built-in in C), requests put
 * through the real engine one after the other, and what was ordered and told written down.
 *
 * Upstreams answer by words: "ok", "stream" (a good stream), "503", "429+7" (retry-after 7), "503=TEXT" (TEXT is the body, ~ a blank), "reset" or any other
 * outcome, "!TYPE" (an error event of that type in a 200), "late" (content, then a reset), "gone" (the client leaves), "never" (until the deadline).
 */
#pragma once

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "policy/parts.h"
#include "policy/shared.h"

enum { READY_POOL = 16, LOG_BYTES = 1 << 16, STEPS_MOST = 400 };

struct ready {
  struct arena arena; /* of the pool */
  struct arena turn;  /* of the request */
  struct bench *bench;
  struct policy_shared *shared;
  struct policy_counts counts;
  struct policy_host host;
  struct policy_spec spec;
  struct candidate list[READY_POOL];
  const struct candidate *pool[READY_POOL];
  size_t count;
  struct policy *policy;
  struct request request;
  struct header headers[4];
  struct advisor *advisor;
  struct failover *f;
  struct attempt *running;
  seconds now, patience; /* patience: of a request until its deadline */
  double random;         /* what random numbers are; negative: drawn from `seed` */
  uint64_t seed, serial;
  uint64_t disturb;      /* not 0: other requests bench candidates while this one waits */
  unsigned failed_over;
  char log[LOG_BYTES];   /* everything, with times */
  char trail[4096];      /* who was called and what it said; then what the client got */
  char waits[512];
};

static inline uint64_t ready_roll(uint64_t *seed) {
  *seed = *seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
  return *seed >> 33;
}

static inline double ready_random(void *context) {
  struct ready *r = context;
  return r->random >= 0 ? r->random : (double)(ready_roll(&r->seed) & 0xffffff) / 0x1p24;
}

__attribute__((format(printf, 3, 4))) static inline void ready_write(char *to, size_t size, const char *format, ...) {
  size_t n = strlen(to);
  va_list args;
  va_start(args, format);
  vsnprintf(to + n, size - n, format, args);
  va_end(args);
}
#define WRITE(to, ...) ready_write((to), sizeof(to), __VA_ARGS__)

static inline struct ready *ready_new(void) {
  struct ready *r = calloc(1, sizeof *r);
  assert_non_null(r);
  r->bench = bench_new(64);
  r->shared = policy_shared_new(1 << 20);
  r->host = (struct policy_host){ .bench = r->bench, .shared = r->shared, .counts = &r->counts };
  r->spec = (struct policy_spec){ .name = "test", .time = 5, .memory = 16 << 20 };
  r->now = 1e6;
  r->patience = 900;
  r->random = 0.5;
  return r;
}

/* "a", "a/x", "a:2" (priority 2), "a*3" (weight 3), "a%" (passthrough); names without a model have "m". */
static inline void ready_add(struct ready *r, const char *text) {
  struct candidate *c = &r->list[r->count];
  size_t n = strcspn(text, ":*%"), up = strcspn(text, "/:*%");
  const char *weight = strchr(text, '*'), *priority = strchr(text, ':');
  c->upstream_name = arena_copy(&r->arena, (struct span){ text, up });
  c->name = up < n ? arena_copy(&r->arena, (struct span){ text, n }) : arena_printf(&r->arena, "%s/m", c->upstream_name);
  c->model = "m";
  c->weight = weight ? atof(weight + 1) : 1;
  c->priority = priority ? atoi(priority + 1) : 0;
  c->passthrough = strchr(text, '%') != NULL;
  c->timeouts = (struct timeouts){ 5, 300, 300, 120, 20 };
  c->key = bench_get(r->bench, span_of(c->name));
  c->upstream_key = bench_get(r->bench, span_of(c->upstream_name));
  r->pool[r->count++] = c;
}

static inline void ready_pool(struct ready *r, const char *names) {
  char one[64];
  while (*names) {
    size_t n = strcspn(names, " ");
    snprintf(one, sizeof one, "%.*s", (int)n, names);
    ready_add(r, one);
    names += n + strspn(names + n, " ");
  }
}

/* The ready-made policy as it is; NULL: the built-in in C. */
static inline void ready_load(struct ready *r, const char *name) {
  char error[512];
  r->spec.ready = name;
  r->policy = policy_load(&r->spec, &r->host, false, error, sizeof error);
  if (!r->policy) fail_msg("%s", error);
}

/* With options, as Lua text: "o.retries = 0". */
static inline void ready_load_with(struct ready *r, const char *name, const char *options) {
  char error[512], text[1024];
  snprintf(text, sizeof text, "local p = require 'policies.%s'\nlocal init = p.init\np.init = function(o) %s init(o) end\nreturn p", name, options);
  struct policy_source source = { "policy.lua", span_of(text) };
  r->policy = policy_load_sources(&r->spec, &source, 1, &r->host, false, error, sizeof error);
  if (!r->policy) fail_msg("%s", error);
}

static inline struct ready *ready_with(const char *name, const char *options, const char *pool) {
  struct ready *r = ready_new();
  ready_pool(r, pool);
  if (options) ready_load_with(r, name, options);
  else ready_load(r, name);
  return r;
}

static inline void ready_free(struct ready *r) {
  for (size_t h = 0; h < HOOK_COUNT; h++)
    for (size_t i = 0; i < FAULT_COUNT; i++)
      if (atomic_load(&r->counts.faults[h][i])) fail_msg("%s: %s", policy_hook_names[h], policy_fault_names[i]);
  policy_leave(&r->advisor);
  policy_release(&r->policy);
  arena_free(&r->turn);
  arena_free(&r->arena);
  policy_shared_free(r->shared);
  bench_free(r->bench);
  free(r);
}

/* Benched for that many more seconds; 0: not at all. */
static inline double ready_benched(struct ready *r, const char *key) {
  struct bench_key *k = bench_find(r->bench, span_of(key));
  struct bench_state s;
  assert_non_null(k);
  bench_read(k, r->now, &s);
  return s.benched ? s.until - r->now : 0;
}

/* ---- what is written down ---- */

static inline void ready_told(struct ready *r, const struct event *e) {
  const char *verdict = e->verdict == VERDICT_NONE ? "-" : verdict_name(e->verdict);
  if (e->type == TOLD_FAILED_OVER) r->failed_over++;
  WRITE(r->log, "%.6f %s %s %s %d %s kind=%s for=%.6g next=%s why=%s\n", r->now, event_type_name(e->type), e->candidate ? e->candidate : "-",
        outcome_name(e->outcome), e->status, verdict, e->attempt && e->attempt->kind ? e->attempt->kind : "-", e->benched_for,
        e->next ? e->next : "-", e->type == TOLD_BENCHED && e->reason ? e->reason : "-");
  policy_tell(r->advisor, e);
}

static inline void ready_ordered(struct ready *r, const struct order *o) {
  static const char *const names[] = { [ORDER_START] = "start", [ORDER_CANCEL] = "cancel", [ORDER_COMMIT] = "commit", [ORDER_DELIVER] = "deliver",
                                       [ORDER_LAST] = "last", [ORDER_FAIL] = "fail", [ORDER_BREAK] = "break", [ORDER_END] = "end" };
  const char *who = o->attempt ? o->attempt->candidate->name : "-";
  WRITE(r->log, "%.6f order %s %s %d +%u%s\n", r->now, names[o->kind], who, o->kind == ORDER_FAIL ? o->error.status : 0, o->retry_after,
        o->no_retry ? " hopeless" : "");
  switch (o->kind) {
    case ORDER_START: r->running = o->attempt; break;
    case ORDER_CANCEL: if (r->running == o->attempt) r->running = NULL; break;
    case ORDER_DELIVER: WRITE(r->trail, " -> deliver %d", o->attempt->status); break;
    case ORDER_LAST: WRITE(r->trail, " -> last %d", o->attempt->status); break;
    case ORDER_FAIL: WRITE(r->trail, " -> fail %d", o->error.status); break;
    case ORDER_COMMIT: WRITE(r->trail, " -> %d", o->attempt->status); break;
    case ORDER_BREAK: WRITE(r->trail, " broken"); break;
    case ORDER_NONE: case ORDER_END: case ORDER_TELL: break;
  }
}

static inline void ready_take(struct ready *r) {
  struct order o;
  while (failover_next(r->f, &o) != ORDER_NONE) {
    if (o.kind == ORDER_TELL) ready_told(r, &o.event);
    else ready_ordered(r, &o);
  }
}

/* ---- answers ---- */

static inline void ready_event(struct ready *r, enum event_class class, const char *type) {
  static const struct sse_event event = { .name = SPAN("x"), .data = SPAN("{}") };
  struct event_facts facts = { .class = class, .sequence = -1, .response_id = class == EVENT_FAIL ? SPAN_NONE : SPAN("resp_1") };
  if (type && *type) facts.error = (struct upstream_error){ .type = span_of(type), .message = SPAN("it failed") };
  failover_event(r->f, &facts, &event, 2, r->now);
}

static inline void ready_status(struct ready *r, const char *word) {
  struct header *h = ARENA_NEW(&r->turn, struct header);
  const char *wait = strchr(word, '+'), *body = strchr(word, '=');
  *h = (struct header){ SPAN("retry-after"), span_of(wait ? wait + 1 : "") };
  failover_head(r->f, atoi(word), (struct headers){ h, wait ? 1 : 0 }, r->now);
  if (failover_committed(r->f)) failover_ended(r->f, OUTCOME_OK, NULL, NULL, r->now);
  else failover_error_body(r->f, span_of(body ? body + 1 : "{}"), true, true, r->now);
}

static inline void ready_good(struct ready *r, bool stream) {
  struct event_facts facts = { .sequence = -1, .response_id = SPAN("resp_1") };
  failover_head(r->f, 200, (struct headers){ 0 }, r->now);
  if (stream) {
    ready_event(r, EVENT_HOLD, NULL);
    ready_event(r, EVENT_COMMIT, NULL);
    ready_event(r, EVENT_END, NULL);
  }
  failover_ended(r->f, OUTCOME_OK, NULL, &facts, r->now);
}

/* An outcome: those that can only come after a head have one. */
static inline void ready_outcome(struct ready *r, const char *word) {
  enum outcome outcome;
  if (!outcome_parse(span_of(word), &outcome)) fail_msg("no such word: %s", word);
  bool late = outcome == OUTCOME_EMPTY || outcome == OUTCOME_TRUNCATED || outcome == OUTCOME_WRONG_TYPE || outcome == OUTCOME_IDLE_TIMEOUT ||
              outcome == OUTCOME_FIRST_EVENT_TIMEOUT;
  if (late) failover_head(r->f, 200, (struct headers){ 0 }, r->now);
  if (!failover_committed(r->f) || late) failover_ended(r->f, outcome, NULL, NULL, r->now);
}

static inline void ready_answer(struct ready *r, const char *word) {
  WRITE(r->trail, "%s%s=%.*s", *r->trail ? " " : "", r->running->candidate->upstream_name, (int)strcspn(word, "=+"), word);
  if (strcmp(word, "never") == 0) return;
  r->running = NULL;
  if (*word >= '0' && *word <= '9') ready_status(r, word);
  else if (strcmp(word, "ok") == 0) ready_good(r, false);
  else if (strcmp(word, "stream") == 0) ready_good(r, true);
  else if (strcmp(word, "gone") == 0) failover_client_gone(r->f, r->now);
  else if (*word == '!') {
    failover_head(r->f, 200, (struct headers){ 0 }, r->now);
    ready_event(r, EVENT_FAIL, word + 1);
  } else if (strcmp(word, "late") == 0) {
    failover_head(r->f, 200, (struct headers){ 0 }, r->now);
    ready_event(r, EVENT_COMMIT, NULL);
    failover_ended(r->f, OUTCOME_RESET, NULL, NULL, r->now);
  } else ready_outcome(r, word);
}

/* ---- one request ---- */

/* A new request, not begun yet. `header`: "name: value", or NULL. */
static inline void ready_request(struct ready *r, const char *header, const char *body) {
  policy_leave(&r->advisor);
  arena_free(&r->turn);
  *r->trail = *r->waits = 0;
  r->failed_over = 0;
  r->running = NULL;
  const char *colon = header ? strchr(header, ':') : NULL;
  if (colon) r->headers[0] = (struct header){ { header, (size_t)(colon - header) }, span_of(colon + 2) };
  r->request = (struct request){
    .id = "r", .route = ROUTE_CHAT, .method = "POST", .path = SPAN("/v1/chat/completions"), .model = SPAN("m"), .stream = true,
    .headers = { r->headers, colon ? 1 : 0 }, .body = span_of(body ? body : "{\"model\":\"m\"}"), .received = r->now,
    .deadline = r->now + r->patience,
  };
}

static inline void ready_begin(struct ready *r) {
  r->advisor = policy_advise(r->policy, &r->request, &r->turn);
  assert_non_null(r->advisor);
  struct failover_setup setup = {
    .arena = &r->turn, .request = &r->request, .serial = ++r->serial, .advisor = r->advisor, .pool = r->pool, .pool_count = r->count,
    .max_attempts = 16, .bench = r->bench, .random = ready_random, .random_context = r,
  };
  r->f = failover_begin(&setup, r->now);
  assert_non_null(r->f);
  ready_take(r);
}

/* The next word of the script; the last repeats. */
static inline const char *ready_word(const char **script, char word[256]) {
  size_t n = strcspn(*script, " ");
  snprintf(word, 256, "%.*s", (int)n, *script);
  if ((*script)[n]) *script += n + 1;
  for (char *p = word; *p; p++)
    if (*p == '~') *p = ' ';
  return word;
}

/* What other requests do meanwhile. */
static inline void ready_disturb(struct ready *r) {
  if (!r->disturb || ready_roll(&r->disturb) % 3) return;
  struct candidate *c = &r->list[ready_roll(&r->disturb) % r->count];
  bench_set(ready_roll(&r->disturb) % 4 ? c->key : c->upstream_key, 50, "by another", 0, r->now);
}

/* Lets the time pass to what is due. A wait between attempts is noted. */
static inline void ready_wait(struct ready *r) {
  seconds due = failover_timer(r->f);
  if (due == SECONDS_NEVER) fail_msg("nothing is due:\n%s", r->log);
  if (due > r->now) {
    if (!r->running) ready_disturb(r);
    if (!r->running) WRITE(r->waits, "%s%.6g", *r->waits ? " " : "", due - r->now);
    r->now = due;
  }
  failover_timer_due(r->f, SPAN_NONE, r->now);
}

/* Runs a request to its end. `answer` gives each attempt's word. */
static inline void ready_drive(struct ready *r, const char *script) {
  char room[256];
  bool never = false;
  for (unsigned step = 0; step < STEPS_MOST && !failover_settled(r->f); step++) {
    if (r->running && !never) {
      const char *word = ready_word(&script, room);
      never = strcmp(word, "never") == 0;
      ready_answer(r, word);
    } else {
      ready_wait(r);
    }
    ready_take(r);
  }
  if (!failover_settled(r->f)) fail_msg("it does not end:\n%s", r->log);
}

static inline void ready_run(struct ready *r, const char *script) {
  ready_request(r, NULL, NULL);
  ready_begin(r);
  ready_drive(r, script);
}
