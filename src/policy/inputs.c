/*
 * What hooks see of a request and its candidates, as plain tables.
 *
 * All tables of one request hang on one "box" in the registry, made at its first hook call and given back by
 * policy_leave. A request that began before its VM was replaced gets a new box (and new, empty `vars`) at its next
 * call. What is dear and seldom read (headers, the decoded body, an attempt's body) is pushed when it is first touched,
 * by a hidden __index that reaches the request through a handle: a policy may keep a table longer than the request
 * lives, and then finds those fields nil.
 *
 * Candidates are tables of the request, not of the VM: a reload frees candidates, and a policy may write into what it
 * is given. The list handed to `select` is new every time, because policies sort and shorten it.
 */
#include <ctype.h>
#include <math.h>

#include "core/body.h"
#include "core/dialect.h"
#include "policy/parts.h"

enum { HEADER_NAME_BYTES = 256, FIELD_COUNT = 24 };

/* ---- fields ---- */

void input_set_text(lua_State *L, const char *key, const char *text) {
  if (!text) lua_pushnil(L);
  else lua_pushstring(L, text);
  lua_setfield(L, -2, key);
}

void input_set_span(lua_State *L, const char *key, struct span text) {
  if (!text.n) lua_pushnil(L);
  else lua_pushlstring(L, text.p, text.n);
  lua_setfield(L, -2, key);
}

void input_set_number(lua_State *L, const char *key, double number) {
  lua_pushnumber(L, number);
  lua_setfield(L, -2, key);
}

void input_set_integer(lua_State *L, const char *key, long long number) {
  lua_pushinteger(L, number);
  lua_setfield(L, -2, key);
}

void input_set_bool(lua_State *L, const char *key, bool value) {
  lua_pushboolean(L, value);
  lua_setfield(L, -2, key);
}

/* A table always, so that `candidate.tags.tier` needs no guard. */
static void set_value(lua_State *L, const char *key, const struct value *value) {
  if (value) vm_push_value(L, value);
  else lua_newtable(L);
  lua_setfield(L, -2, key);
}

void input_set_index(lua_State *L) {
  lua_createtable(L, 0, 2);
  lua_insert(L, -2);
  lua_setfield(L, -2, "__index");
  input_set_bool(L, "__metatable", false);
  lua_setmetatable(L, -2);
}

/* ---- headers ---- */

static bool is_secret(const char *name) {
  static const char *const secrets[] = {
    "authorization", "proxy-authorization", "x-api-key", "api-key", "x-goog-api-key",
    "cookie", "cookie2", "set-cookie", "set-cookie2",
  };
  for (size_t i = 0; i < sizeof secrets / sizeof *secrets; i++)
    if (strcmp(name, secrets[i]) == 0) return true;
  return false;
}

static bool lower_name(struct span name, char lower[HEADER_NAME_BYTES]) {
  if (name.n >= HEADER_NAME_BYTES) return false;
  for (size_t i = 0; i < name.n; i++) lower[i] = (char)tolower((unsigned char)name.p[i]);
  lower[name.n] = 0;
  return !is_secret(lower);
}

void input_push_headers(lua_State *L, struct headers headers) {
  char name[HEADER_NAME_BYTES];
  lua_createtable(L, 0, (int)headers.count);
  for (size_t i = 0; i < headers.count; i++) {
    struct span value = headers.list[i].value;
    if (!lower_name(headers.list[i].name, name)) continue;
    if (lua_getfield(L, -1, name) == LUA_TSTRING) { /* sent twice: one list, as HTTP says */
      lua_pushliteral(L, ", ");
      lua_pushlstring(L, value.p ? value.p : "", value.n);
      lua_concat(L, 3);
    } else {
      lua_pop(L, 1);
      lua_pushlstring(L, value.p ? value.p : "", value.n);
    }
    lua_setfield(L, -2, name);
  }
}

/* ---- the request ---- */

static struct advice *live_advice(lua_State *L) {
  const struct handle *handle = lua_touserdata(L, lua_upvalueindex(1));
  return handle->advice;
}

static void push_field_value(lua_State *L, struct body_value value, struct arena *arena) {
  double number = 0;
  struct span text;
  switch (value.kind) {
    case BODY_BOOL: lua_pushboolean(L, body_is_true(value)); return;
    case BODY_NUMBER:
      number = body_number(value, 0);
      if (number == floor(number) && fabs(number) < 9007199254740992.0) lua_pushinteger(L, (lua_Integer)number);
      else lua_pushnumber(L, number);
      return;
    case BODY_STRING:
      text = body_text(value, arena);
      if (!text.p) lua_pushnil(L);
      else lua_pushlstring(L, text.p, text.n);
      return;
    case BODY_ABSENT:
    case BODY_NULL:
    case BODY_OBJECT:
    case BODY_ARRAY: lua_pushnil(L); return;
  }
}

/* request.field(name). Each name is looked for once a request: the scan reads the whole body, and an escaped string
 * lands in the arena. */
static int field_read(lua_State *L) {
  const char *name = luaL_checkstring(L, 1);
  struct advice *advice = live_advice(L);
  if (!advice) return 0;
  input_push_slot(L, advice, BOX_FIELDS);
  lua_pushvalue(L, 1);
  if (lua_rawget(L, -2) == LUA_TNIL) {
    struct body_value value;
    lua_pop(L, 1);
    if (body_scan(advice->request->body, &name, &value, 1, NULL) != BODY_GOOD) value.kind = BODY_ABSENT;
    vm_work(L, advice->request->body.n / 2);
    push_field_value(L, value, advice->arena);
    lua_pushvalue(L, 1);
    if (lua_isnil(L, -2)) lua_pushlightuserdata(L, NULL); /* looked for, and not there */
    else lua_pushvalue(L, -2);
    lua_rawset(L, -4);
  }
  if (lua_islightuserdata(L, -1)) lua_pushnil(L);
  return 1;
}

/* __index of a request: (table, key). What it finds stays in the table. */
static int request_index(lua_State *L) {
  struct advice *advice = live_advice(L);
  if (!advice || lua_type(L, 2) != LUA_TSTRING) return 0;
  const char *key = lua_tostring(L, 2);
  if (strcmp(key, "headers") == 0) {
    input_push_headers(L, advice->request->headers);
  } else if (strcmp(key, "json") == 0) {
    if (advice->request->body.n > JSON_BYTES) return 0;
    host_decode(L, advice->request->body);
  } else if (strcmp(key, "field") == 0) {
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_pushcclosure(L, field_read, 1);
  } else {
    return 0;
  }
  lua_pushvalue(L, 2);
  lua_pushvalue(L, -2);
  lua_rawset(L, 1);
  return 1;
}

static void set_client(lua_State *L, const struct request *request) {
  if (!request->client) return;
  lua_createtable(L, 0, 2);
  input_set_text(L, "name", request->client);
  set_value(L, "tags", request->client_tags);
  lua_setfield(L, -2, "client");
}

/* The handle is on top of the stack, and stays. */
static void build_request(lua_State *L, const struct request *r) {
  lua_createtable(L, 0, FIELD_COUNT);
  input_set_text(L, "id", r->id);
  input_set_text(L, "route", route_name(r->route));
  input_set_text(L, "method", r->method);
  input_set_span(L, "path", r->path);
  input_set_span(L, "model", r->model);
  input_set_bool(L, "stream", r->stream);
  input_set_text(L, "target", r->target);
  set_client(L, r);
  input_set_text(L, "session", r->session);
  input_set_integer(L, "body_size", (long long)r->body.n);
  input_set_number(L, "received", r->received);
  input_set_number(L, "deadline", r->deadline);
  lua_newtable(L);
  lua_setfield(L, -2, "vars");
  lua_pushvalue(L, -2);
  lua_pushcclosure(L, request_index, 1);
  input_set_index(L);
}

/* Nothing is noted in `advice` before the last step that can raise. */
void input_open_box(lua_State *L, struct advice *advice) {
  unsigned generation = advice->policy->generation;
  if (advice->box != LUA_NOREF && advice->generation == generation) return;
  lua_createtable(L, BOX_FIELDS, 0);
  struct handle *handle = lua_newuserdatauv(L, sizeof *handle, 0);
  handle->advice = NULL;
  build_request(L, advice->request);
  lua_rawseti(L, -3, BOX_REQUEST);
  lua_rawseti(L, -2, BOX_HANDLE);
  for (int slot = BOX_REQUEST; slot <= BOX_FIELDS; slot++) {
    if (slot == BOX_REQUEST || slot == BOX_HANDLE) continue;
    lua_newtable(L);
    lua_rawseti(L, -2, slot);
  }
  int box = luaL_ref(L, LUA_REGISTRYINDEX);
  handle->advice = advice;
  advice->handle = handle;
  advice->generation = generation;
  advice->box = box;
  advice->final = 0;
}

void input_push_slot(lua_State *L, struct advice *advice, enum box_slot slot) {
  lua_rawgeti(L, LUA_REGISTRYINDEX, advice->box);
  lua_rawgeti(L, -1, slot);
  lua_remove(L, -2);
}

void input_push_request(lua_State *L, struct advice *advice, const struct failover *f) {
  size_t attempts;
  (void)failover_attempts(f, &attempts);
  input_push_slot(L, advice, BOX_REQUEST);
  lua_pushinteger(L, (lua_Integer)attempts);
  lua_setfield(L, -2, "attempts");
  input_set_integer(L, "attempts_left", failover_attempts_left(f));
}

/* ---- candidates ---- */

static void build_candidate(lua_State *L, const struct candidate *c, const struct request *r) {
  lua_createtable(L, 0, FIELD_COUNT);
  input_set_text(L, "name", c->name);
  input_set_text(L, "upstream", c->upstream_name);
  if (c->model && *c->model) input_set_text(L, "model", c->model);
  else input_set_span(L, "model", r->model);
  input_set_text(L, "api", api_name(c->api));
  input_set_number(L, "weight", c->weight);
  input_set_integer(L, "priority", c->priority);
  input_set_bool(L, "passthrough", c->passthrough);
  input_set_bool(L, "forwards", c->forwards);
  set_value(L, "tags", c->tags);
  set_value(L, "price", c->price);
}

/* Why it is out. The registry's lock is taken for those that are benched alone. */
static void set_bench(lua_State *L, const struct member *m, seconds now) {
  char reason[BENCH_REASON_BYTES] = "";
  const struct bench_state *s = &m->state;
  input_set_bool(L, "benched", s->benched);
  input_set_bool(L, "manual", s->manual);
  if (!s->benched) {
    input_set_text(L, "bench_until", NULL);
    input_set_text(L, "bench_reason", NULL);
    return;
  }
  input_set_number(L, "bench_until", s->until > now ? s->until : now); /* full, or its trial is under way: any moment */
  if (!m->full) bench_reason(m->candidate->key, now, reason);
  if (!m->full && !*reason) bench_reason(m->candidate->upstream_key, now, reason);
  input_set_text(L, "bench_reason", m->full ? "full" : reason);
}

static void refresh_candidate(lua_State *L, const struct member *m, seconds now) {
  struct bench_tally tally;
  bench_tally(m->candidate->key, &tally);
  set_bench(L, m, now);
  input_set_integer(L, "fails", m->state.fails);
  input_set_integer(L, "inflight", tally.inflight);
  input_set_number(L, "latency", tally.latency);
  input_set_number(L, "error_rate", tally.error_rate);
  input_set_number(L, "last_used", tally.last_used);
  input_set_integer(L, "tried", m->tried);
}

void input_push_candidate(lua_State *L, struct advice *advice, const struct failover *f, unsigned member,
                          seconds now, bool refresh) {
  size_t count;
  const struct member *pool = failover_pool(f, &count);
  input_push_slot(L, advice, BOX_CANDIDATES);
  if (lua_rawgeti(L, -1, member + 1) == LUA_TNIL) {
    lua_pop(L, 1);
    build_candidate(L, pool[member].candidate, advice->request);
    lua_pushvalue(L, -1);
    lua_rawseti(L, -3, member + 1);
    refresh = true;
  }
  lua_remove(L, -2);
  if (refresh) refresh_candidate(L, &pool[member], now);
}

void input_push_pool(lua_State *L, struct advice *advice, const struct failover *f, seconds now) {
  size_t count, taken = 0;
  const struct member *pool = failover_pool(f, &count);
  lua_createtable(L, (int)count, 0);
  for (size_t i = 0; i < count; i++) {
    if (pool[i].drained) continue;
    input_push_candidate(L, advice, f, (unsigned)i, now, true);
    lua_rawseti(L, -2, (lua_Integer)++taken);
  }
}
