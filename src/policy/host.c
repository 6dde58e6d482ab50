/*
 * The global table `bullpen`: what a policy may ask of the process. Everything is bounded and nothing blocks.
 *
 * Wrong arguments raise at the caller (a policy's mistake); what can happen at run time comes back as a value. In load
 * checks (`dry`) arguments are checked all the same, and nothing is changed. Each function's upvalue is the `struct
 * host`, which outlives the VM.
 */
#include <math.h>

#include "base/log.h"
#include "core/body.h"
#include "policy/parts.h"

enum { LINES_PER_SECOND = 100, LOG_FIELDS = 16, LOG_TEXT_BYTES = 4096, NAME_BYTES = 64, HASH_BYTES = 1 << 20 };

static const char decode_key = 0; /* registry: the guarded decode of bullpen.json */

static struct host *host_of(lua_State *L) {
  return lua_touserdata(L, lua_upvalueindex(1));
}

seconds host_now(const struct host *host) {
  return host->now > 0 ? host->now : clock_now();
}

static int host_get_now(lua_State *L) {
  lua_pushnumber(L, host_now(host_of(L)));
  return 1;
}

/* ---- numbers ---- */

/* The finishing steps of a well-known 64-bit mixer: every input bit reaches every output bit. */
static uint64_t mix(uint64_t x) {
  x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
  x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
  return x ^ x >> 31;
}

/* [0,1) with 53 bits. */
static double fraction(uint64_t x) {
  return (double)(x >> 11) * 0x1p-53;
}

static int host_random(lua_State *L) {
  struct host *host = host_of(L);
  if (host->f) lua_pushnumber(L, failover_random(host->f));
  else lua_pushnumber(L, fraction(mix(host->random += UINT64_C(0x9e3779b97f4a7c15))));
  return 1;
}

/* FNV-1a, mixed: the same on every machine and in every version. */
static int host_hash(lua_State *L) {
  size_t n;
  const char *text = luaL_checklstring(L, 1, &n);
  uint64_t h = UINT64_C(14695981039346656037);
  if (n > HASH_BYTES) return luaL_argerror(L, 1, "longer than 1 MiB");
  for (size_t i = 0; i < n; i++) h = (h ^ (unsigned char)text[i]) * UINT64_C(1099511628211);
  vm_work(L, n);
  lua_pushnumber(L, fraction(mix(h)));
  return 1;
}

/* ---- benches ---- */

struct bench_key *host_bench_key(const struct host *host, struct span name) {
  size_t count = 0;
  const struct member *pool = host->f ? failover_pool(host->f, &count) : NULL;
  for (size_t i = 0; i < count; i++) {
    if (span_is(name, pool[i].candidate->name)) return pool[i].candidate->key;
    if (span_is(name, pool[i].candidate->upstream_name)) return pool[i].candidate->upstream_key;
  }
  return host->reach.bench ? bench_find(host->reach.bench, name) : NULL;
}

static struct bench_key *check_key(lua_State *L, const struct host *host) {
  struct span name;
  name.p = luaL_checklstring(L, 1, &name.n);
  struct bench_key *key = host_bench_key(host, name);
  if (!key) luaL_error(L, "'%s' is neither a candidate nor an upstream", name.p);
  return key;
}

/* bench(key, seconds [, reason]): true when it is benched longer than before. */
static int host_bench(lua_State *L) {
  struct host *host = host_of(L);
  struct bench_key *key = check_key(L, host);
  seconds duration = luaL_checknumber(L, 2);
  const char *reason = luaL_optstring(L, 3, "by the policy");
  if (!(duration > 0)) return luaL_argerror(L, 2, "more than 0 seconds are expected");
  bool longer = !host->dry && bench_set(key, duration, reason, host->f ? failover_serial(host->f) : 0, host_now(host));
  if (longer && host->reach.benched) host->reach.benched(host->reach.context, bench_name(key), duration, reason);
  lua_pushboolean(L, longer);
  return 1;
}

/* unbench(key): lifts the automatic bench; true when there was one. */
static int host_unbench(lua_State *L) {
  struct host *host = host_of(L);
  struct bench_key *key = check_key(L, host);
  bool was = !host->dry && bench_lift(key, false, host_now(host));
  if (was && host->reach.benched) host->reach.benched(host->reach.context, bench_name(key), 0, "lifted by the policy");
  lua_pushboolean(L, was);
  return 1;
}

/* benched(key): false, or true and until when. */
static int host_benched(lua_State *L) {
  const struct host *host = host_of(L);
  struct bench_state state;
  bench_read(check_key(L, host), host_now(host), &state);
  lua_pushboolean(L, state.benched);
  if (!state.benched) return 1;
  lua_pushnumber(L, state.until);
  return 2;
}

/* ---- log ---- */

/* At most so many lines a second for each policy on each worker; the rest is dropped. */
static bool may_log(struct host *host) {
  seconds now = clock_now();
  if (now - host->second >= 1) {
    host->second = now;
    host->lines = 0;
  }
  return host->lines++ < LINES_PER_SECOND;
}

/* One field of the table, whose key and value are on top of the stack; values that are no scalars are left out. */
static bool take_field(lua_State *L, struct log_field *field, size_t *room) {
  size_t n;
  if (lua_type(L, -2) != LUA_TSTRING || lua_rawlen(L, -2) > NAME_BYTES) return false;
  *field = (struct log_field){ .name = lua_tostring(L, -2) };
  switch (lua_type(L, -1)) {
    case LUA_TSTRING:
      field->text.p = lua_tolstring(L, -1, &n);
      field->text.n = n < *room ? n : *room;
      *room -= field->text.n;
      field->kind = LOG_FIELD_TEXT;
      return true;
    case LUA_TBOOLEAN:
      field->boolean = lua_toboolean(L, -1);
      field->kind = LOG_FIELD_BOOL;
      return true;
    case LUA_TNUMBER:
      field->kind = lua_isinteger(L, -1) ? LOG_FIELD_INTEGER : LOG_FIELD_NUMBER;
      if (lua_isinteger(L, -1)) field->integer = lua_tointeger(L, -1);
      else field->number = lua_tonumber(L, -1);
      return true;
    default: return false;
  }
}

/* A field of a policy must not pass for one of the line's own. */
static bool is_plain(const char *text) {
  static const char *const own[] = { "time", "level", "message", "policy", "text" };
  for (size_t i = 0; i < sizeof own / sizeof *own; i++)
    if (strcmp(text, own[i]) == 0) return false;
  for (; *text; text++)
    if ((unsigned char)*text < 0x20 || *text == 0x7f) return false;
  return true;
}

/* log(level, message [, fields]): the names lie in the table, which stays on the stack. */
static int host_log(lua_State *L) {
  static const char *const levels[] = { "debug", "info", "warn", "error", NULL };
  struct host *host = host_of(L);
  enum log_level level = (enum log_level)luaL_checkoption(L, 1, NULL, levels);
  size_t n, count = 1, room = LOG_TEXT_BYTES;
  const char *message = luaL_checklstring(L, 2, &n);
  struct log_field fields[LOG_FIELDS + 2] = { LOG_TEXT("policy", host->name) };
  if (!lua_isnoneornil(L, 3)) luaL_checktype(L, 3, LUA_TTABLE);
  if (!log_wanted(level) || host->dry || !may_log(host)) return 0;
  fields[count++] = (struct log_field)LOG_SPAN("text", ((struct span){ message, n < room ? n : room }));
  room -= fields[1].text.n;
  if (lua_istable(L, 3))
    for (lua_pushnil(L); lua_next(L, 3) && count < LOG_FIELDS + 2; lua_pop(L, 1))
      if (take_field(L, &fields[count], &room) && is_plain(fields[count].name)) count++;
  log_fields(level, "policy", fields, count);
  vm_work(L, 5000);
  return 0;
}

/* ---- json ---- */

void host_decode(lua_State *L, struct span text) {
  if (body_scan(text, NULL, NULL, 0, NULL) != BODY_GOOD) {
    lua_pushnil(L);
    return;
  }
  lua_rawgetp(L, LUA_REGISTRYINDEX, &decode_key);
  lua_pushlstring(L, text.p, text.n);
  int status = lua_pcall(L, 1, 1, 0);
  vm_work(L, text.n);
  if (status == LUA_OK) return;
  if (status != LUA_ERRRUN) lua_error(L); /* the VM ends the call: not ours to catch */
  lua_pop(L, 1);
  lua_pushnil(L); /* well-formed, but too deep, too large for the memory left, or with a lone surrogate */
}

/* ---- the table ---- */

void host_push(lua_State *L, struct host *host) {
  static const luaL_Reg functions[] = {
    { "now", host_get_now }, { "random", host_random },   { "hash", host_hash },       { "log", host_log },
    { "bench", host_bench }, { "unbench", host_unbench }, { "benched", host_benched }, { NULL, NULL },
  };
  luaL_newlibtable(L, functions);
  lua_pushlightuserdata(L, host);
  luaL_setfuncs(L, functions, 1);
  vm_push_json(L);
  lua_getfield(L, -1, "decode");
  lua_rawsetp(L, LUA_REGISTRYINDEX, &decode_key);
  lua_setfield(L, -2, "json");
  host_push_shared(L, host);
  lua_setfield(L, -2, "shared");
}
