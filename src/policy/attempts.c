/*
 * What hooks see of attempts and events.
 *
 * One table per attempt for as long as the request lives: its identity holds, and what has ended is written once. The
 * table of the attempt under way is brought up to date at every call. Headers and body are pushed when they are first
 * touched (see inputs.c). Numbers that are not known are nil, not zero: no head yet, no retry hint, no first event.
 */
#include "core/outcome.h"
#include "policy/parts.h"

enum { ATTEMPT_FIELDS = 16, TOLD_FIELDS = 24, DATA_BYTES = 64 * 1024 };

static struct span cut(struct span text, size_t most) {
  return (struct span){ text.p, text.n < most ? text.n : most };
}

/* __index of an attempt: (table, key); upvalues: the handle, the attempt. It lives as long as the handle says. */
static int attempt_index(lua_State *L) {
  const struct handle *handle = lua_touserdata(L, lua_upvalueindex(1));
  const struct attempt *a = lua_touserdata(L, lua_upvalueindex(2));
  if (!handle->advice || lua_type(L, 2) != LUA_TSTRING) return 0;
  const char *key = lua_tostring(L, 2);
  if (strcmp(key, "headers") == 0) {
    input_push_headers(L, a->headers);
    if (!a->status) return 1; /* no head came yet: look again later */
  } else if (strcmp(key, "body") == 0 && a->body.n) {
    struct span body = cut(a->body, DATA_BYTES);
    lua_pushlstring(L, body.p, body.n);
  } else {
    return 0;
  }
  lua_pushvalue(L, 2);
  lua_pushvalue(L, -2);
  lua_rawset(L, 1);
  return 1;
}

static void set_seconds(lua_State *L, const char *key, seconds value) {
  if (value < 0) input_set_text(L, key, NULL);
  else input_set_number(L, key, value);
}

static void set_usage(lua_State *L, const struct usage *usage) {
  if (!usage->known) {
    input_set_text(L, "usage", NULL);
    return;
  }
  lua_createtable(L, 0, 3);
  input_set_integer(L, "input", (long long)usage->input);
  input_set_integer(L, "output", (long long)usage->output);
  input_set_integer(L, "cached", (long long)usage->cached);
  lua_setfield(L, -2, "usage");
}

static void set_error(lua_State *L, const struct upstream_error *error) {
  if (!error->type.n && !error->code.n && !error->message.n) {
    input_set_text(L, "error", NULL);
    return;
  }
  lua_createtable(L, 0, 3);
  input_set_span(L, "type", error->type);
  input_set_span(L, "code", error->code);
  input_set_span(L, "message", error->message);
  lua_setfield(L, -2, "error");
}

static void set_status(lua_State *L, int status) {
  if (status) input_set_integer(L, "status", status);
  else input_set_text(L, "status", NULL);
}

static void set_outcome(lua_State *L, enum outcome outcome) {
  input_set_text(L, "outcome", outcome == OUTCOME_NONE ? NULL : outcome_name(outcome));
}

static void refresh_attempt(lua_State *L, const struct attempt *a, seconds now) {
  set_outcome(L, a->outcome);
  set_status(L, a->status);
  set_error(L, &a->error);
  set_seconds(L, "retry_after", a->retry_after);
  set_seconds(L, "elapsed", (a->ended_at > 0 ? a->ended_at : now) - a->started);
  set_seconds(L, "first_event", a->first_event_at > 0 ? a->first_event_at - a->started : -1);
  input_set_bool(L, "committed", a->committed);
  set_usage(L, &a->usage);
  input_set_span(L, "finish_reason", a->finish_reason);
  input_set_span(L, "response_id", a->response_id);
}

static void build_attempt(lua_State *L, struct advice *advice, const struct failover *f, const struct attempt *a,
                          seconds now) {
  lua_createtable(L, 0, ATTEMPT_FIELDS);
  input_set_integer(L, "number", a->number);
  input_set_integer(L, "try", a->try);
  input_set_number(L, "started", a->started);
  input_push_candidate(L, advice, f, a->member, now, false);
  lua_setfield(L, -2, "candidate");
  input_push_slot(L, advice, BOX_HANDLE);
  lua_pushlightuserdata(L, (void *)a);
  lua_pushcclosure(L, attempt_index, 2);
  input_set_index(L);
}

void input_push_attempt(lua_State *L, struct advice *advice, const struct failover *f, const struct attempt *a,
                        seconds now) {
  input_push_slot(L, advice, BOX_ATTEMPTS);
  bool fresh = lua_rawgeti(L, -1, a->number) == LUA_TNIL;
  if (fresh) {
    lua_pop(L, 1);
    build_attempt(L, advice, f, a, now);
    lua_pushvalue(L, -1);
    lua_rawseti(L, -3, a->number);
  }
  lua_remove(L, -2);
  if (!fresh && a->number <= advice->final) return;
  refresh_attempt(L, a, now);
  if (a->ended_at > 0 && a->number == advice->final + 1) advice->final++;
}

void input_push_attempts(lua_State *L, struct advice *advice, const struct failover *f, seconds now) {
  size_t count;
  const struct attempt *const *attempts = failover_attempts(f, &count);
  lua_createtable(L, (int)count, 0);
  for (size_t i = 0; i < count; i++) {
    input_push_attempt(L, advice, f, attempts[i], now);
    lua_rawseti(L, -2, (lua_Integer)i + 1);
  }
}

/* ---- events ---- */

static void set_told_attempt(lua_State *L, const struct attempt *a) {
  if (!a) return;
  input_set_integer(L, "attempt", a->number);
  set_usage(L, &a->usage);
  input_set_span(L, "finish_reason", a->finish_reason);
  input_set_span(L, "response_id", a->response_id);
}

static void set_told_request(lua_State *L, struct advice *advice, const struct request *request) {
  if (!request) return;
  input_set_text(L, "request_id", request->id);
  input_set_text(L, "client", request->client);
  input_set_span(L, "model", request->model);
  input_push_slot(L, advice, BOX_REQUEST);
  lua_pushliteral(L, "vars");
  lua_rawget(L, -2);
  lua_setfield(L, -3, "vars");
  lua_pop(L, 1);
}

void input_push_told(lua_State *L, struct advice *advice, const struct event *e) {
  lua_createtable(L, 0, TOLD_FIELDS);
  input_set_text(L, "type", event_type_name(e->type));
  input_set_number(L, "time", e->time);
  set_told_request(L, advice, e->request);
  set_told_attempt(L, e->attempt);
  input_set_text(L, "candidate", e->candidate);
  input_set_text(L, "next", e->next);
  set_outcome(L, e->outcome);
  set_status(L, e->status);
  input_set_text(L, "verdict", e->verdict == VERDICT_NONE ? NULL : verdict_name(e->verdict));
  input_set_text(L, "reason", e->reason);
  input_set_text(L, "label", e->label);
  input_set_text(L, "error", e->error);
  set_seconds(L, "delay", e->delay);
  set_seconds(L, "benched_for", e->benched_for);
  set_seconds(L, "elapsed", e->elapsed);
  set_seconds(L, "first_event", e->first_event);
  input_set_text(L, "policy", advice->policy->version);
}

/* The end of a stream commits what came before it: policies know three answers. */
static const char *class_name(enum event_class class) {
  switch (class) {
    case EVENT_HOLD: return "hold";
    case EVENT_COMMIT:
    case EVENT_END: return "commit";
    case EVENT_FAIL: return "fail";
  }
  return NULL;
}

void input_push_gate_event(lua_State *L, const struct call *c) {
  struct span data = cut(c->event->data, DATA_BYTES);
  lua_createtable(L, 0, 4);
  input_set_span(L, "name", c->event->name);
  lua_pushlstring(L, data.p ? data.p : "", data.n);
  lua_setfield(L, -2, "data");
  input_set_integer(L, "bytes", (long long)c->bytes);
  input_set_text(L, "verdict", class_name(c->builtin));
}
