/*
 * What hooks return, read into plain C. Every shape of contract 4.1 and nothing else: an unknown key, a wrong type, a
 * NaN or a name outside the pool is refused with one sentence in call->bad, and the built-in answers.
 *
 * Tables are read raw: a metatable of the policy's has no say. Texts are copied into the request's arena (cut at
 * TEXT_BYTES), because what Lua owns may be gone before the engine looks at it. nil is everywhere "no opinion".
 */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>

#include "policy/parts.h"

/* What a key of a returned table may hold, and where it goes. */
enum want { WANT_TEXT, WANT_SECONDS, WANT_FINITE, WANT_STATUS, WANT_TABLE, WANT_NAME };

struct slot {
  const char *key;
  enum want want;
  void *to; /* const char ** | seconds * | int * | int *: the stack index, for tables and names */
};

#define SLOTS(list) (list), sizeof(list) / sizeof *(list)

__attribute__((format(printf, 2, 3))) static bool refuse(struct call *c, const char *format, ...) {
  va_list args;
  if (c->bad[0]) return false;
  va_start(args, format);
  vsnprintf(c->bad, sizeof c->bad, format, args);
  va_end(args);
  return false;
}

/* In the arena, without half a UTF-8 character at the cut. */
static bool take_text(lua_State *L, int index, struct call *c, const char **to) {
  size_t n;
  const char *text = lua_tolstring(L, index, &n);
  if (n > TEXT_BYTES)
    for (n = TEXT_BYTES; n && (text[n] & 0xc0) == 0x80;) n--;
  *to = arena_copy(c->advice->arena, (struct span){ text, n });
  return *to || refuse(c, "out of memory");
}

static bool take_slot(lua_State *L, int index, struct call *c, const struct slot *slot) {
  int type = lua_type(L, index);
  bool number = type == LUA_TNUMBER, text = type == LUA_TSTRING, table = type == LUA_TTABLE;
  double n = number ? lua_tonumber(L, index) : 0;
  switch (slot->want) {
    case WANT_TEXT:
      if (!text) return refuse(c, "%s: a string is expected, not a %s", slot->key, luaL_typename(L, index));
      return take_text(L, index, c, slot->to);
    case WANT_SECONDS:
    case WANT_FINITE:
      if (!number || !(n >= 0) || (slot->want == WANT_FINITE && isinf(n)))
        return refuse(c, "%s: seconds of 0 or more are expected", slot->key);
      *(seconds *)slot->to = n;
      return true;
    case WANT_STATUS:
      if (!number || !(n >= 400 && n <= 599) || n != floor(n))
        return refuse(c, "%s: a whole number in 400..599 is expected", slot->key);
      *(int *)slot->to = (int)n;
      return true;
    case WANT_TABLE:
      if (!table) return refuse(c, "%s: a table is expected, not a %s", slot->key, luaL_typename(L, index));
      return true;
    case WANT_NAME:
      if (!text && !table) return refuse(c, "%s: a candidate or its name is expected", slot->key);
      return true;
  }
  return true;
}

static const struct slot *slot_of(lua_State *L, int index, const struct slot *slots, size_t count) {
  const char *key = lua_type(L, index) == LUA_TSTRING ? lua_tostring(L, index) : NULL;
  for (size_t i = 0; key && i < count; i++)
    if (strcmp(key, slots[i].key) == 0) return &slots[i];
  return NULL;
}

/* Reads the table at `index`; false once something is refused. */
static bool take_slots(lua_State *L, int index, struct call *c, const struct slot *slots, size_t count) {
  index = lua_absindex(L, index);
  for (lua_pushnil(L); lua_next(L, index); lua_pop(L, 1)) {
    const struct slot *slot = slot_of(L, -2, slots, count);
    if (!slot && lua_type(L, -2) == LUA_TSTRING) return refuse(c, "unknown key '%.60s'", lua_tostring(L, -2));
    if (!slot) return refuse(c, "unknown key of type %s", luaL_typename(L, -2));
    if (!take_slot(L, -1, c, slot)) return false;
  }
  return true;
}

/* Pushes a member of the table, without metamethods. */
static int get_raw(lua_State *L, int table, const char *key) {
  table = lua_absindex(L, table);
  lua_pushstring(L, key);
  return lua_rawget(L, table);
}

/* ---- select ---- */

static bool find_by_name(struct call *c, const char *name, unsigned *member) {
  size_t count;
  const struct member *pool = failover_pool(c->f, &count);
  for (size_t i = 0; i < count; i++) {
    if (pool[i].drained || strcmp(pool[i].candidate->name, name) != 0) continue;
    *member = (unsigned)i;
    return true;
  }
  *member = 0;
  /* the sample pool of a check does not have the operator's names */
  if (c->policy->fault && strchr(name, '/')) return true;
  return refuse(c, "'%.100s' is not in the pool", name);
}

static bool find_by_table(lua_State *L, int index, struct call *c, unsigned *member) {
  size_t count;
  const struct member *pool = failover_pool(c->f, &count);
  index = lua_absindex(L, index);
  input_push_slot(L, c->advice, BOX_CANDIDATES);
  for (size_t i = 0; i < count; i++) {
    lua_rawgeti(L, -1, (lua_Integer)i + 1);
    bool same = lua_rawequal(L, -1, index);
    lua_pop(L, 1);
    if (!same || pool[i].drained) continue;
    lua_pop(L, 1);
    *member = (unsigned)i;
    return true;
  }
  lua_pop(L, 1);
  if (get_raw(L, index, "name") != LUA_TSTRING) return refuse(c, "a table that is no candidate and has no 'use'");
  return find_by_name(c, lua_tostring(L, -1), member);
}

static bool find_member(lua_State *L, int index, struct call *c, unsigned *member) {
  if (lua_istable(L, index)) return find_by_table(L, index, c, member);
  return find_by_name(c, lua_tostring(L, index), member);
}

static bool take_timeouts(lua_State *L, int table, struct call *c, struct timeouts *t) {
  const struct slot slots[] = {
    { "connect", WANT_SECONDS, &t->connect }, { "headers", WANT_SECONDS, &t->headers },
    { "first_event", WANT_SECONDS, &t->first_event },
    { "idle", WANT_SECONDS, &t->idle },       { "hold", WANT_SECONDS, &t->hold },
  };
  return take_slots(L, table, c, SLOTS(slots));
}

/* { use =, label =, reason =, skip =, timeouts = }. The engine has no place for `skip`: it is checked and left. */
static bool take_choice(lua_State *L, int table, struct call *c, struct pick *pick) {
  const struct slot slots[] = {
    { "use", WANT_NAME, NULL },   { "label", WANT_TEXT, &pick->label },   { "reason", WANT_TEXT, &pick->reason },
    { "skip", WANT_TABLE, NULL }, { "timeouts", WANT_TABLE, NULL },
  };
  table = lua_absindex(L, table);
  if (!take_slots(L, table, c, SLOTS(slots))) return false;
  if (get_raw(L, table, "timeouts") == LUA_TTABLE && !take_timeouts(L, -1, c, &pick->timeouts)) return false;
  if (get_raw(L, table, "skip") == LUA_TTABLE)
    for (lua_pushnil(L); lua_next(L, -2); lua_pop(L, 1))
      if (lua_type(L, -2) != LUA_TSTRING || lua_type(L, -1) != LUA_TSTRING)
        return refuse(c, "skip: names and reasons are expected");
  get_raw(L, table, "use");
  return find_member(L, -1, c, &pick->member);
}

/* Held by hand while another that this request has not tried is not: no policy may pick that. */
static bool overrides_operator(const struct call *c, unsigned picked) {
  size_t count;
  const struct member *pool = failover_pool(c->f, &count);
  if (!pool[picked].state.manual) return false;
  for (size_t i = 0; i < count; i++)
    if (!pool[i].tried && !pool[i].drained && !pool[i].full && !pool[i].state.manual) return true;
  return false;
}

static bool take_pick(lua_State *L, int first, struct call *c) {
  struct pick *pick = &c->pick;
  switch (lua_type(L, first)) {
    case LUA_TNIL: return true;
    case LUA_TBOOLEAN:
      if (lua_toboolean(L, first)) return refuse(c, "true is no answer");
      if (!lua_isnil(L, first + 1) && lua_type(L, first + 1) != LUA_TSTRING)
        return refuse(c, "the reason is no string");
      pick->kind = PICK_GIVE_UP;
      return lua_isnil(L, first + 1) || take_text(L, first + 1, c, &pick->reason);
    case LUA_TSTRING:
    case LUA_TTABLE: break;
    default: return refuse(c, "a %s is no answer", luaL_typename(L, first));
  }
  pick->kind = PICK_MEMBER;
  bool choice = lua_istable(L, first) && get_raw(L, first, "use") != LUA_TNIL;
  bool good = choice ? take_choice(L, first, c, pick) : find_member(L, first, c, &pick->member);
  if (!good || !overrides_operator(c, pick->member)) return good;
  return refuse(c, "a candidate under a manual bench, while another untried one is not");
}

void verdict_read_pick(lua_State *L, struct call *c) {
  (void)take_pick(L, lua_gettop(L) - 1, c);
}

/* ---- classify ---- */

static bool take_judgement(lua_State *L, int first, struct call *c) {
  struct judgement *j = &c->judgement;
  const struct slot slots[] = {
    { "bench", WANT_SECONDS, &j->bench }, { "key", WANT_TEXT, &j->key },   { "reason", WANT_TEXT, &j->reason },
    { "delay", WANT_FINITE, &j->delay },  { "kind", WANT_TEXT, &j->kind }, { "status", WANT_STATUS, &j->status },
    { "message", WANT_TEXT, &j->message },
  };
  size_t n = 0;
  const char *name = lua_type(L, first) == LUA_TSTRING ? lua_tolstring(L, first, &n) : NULL;
  if (lua_isnil(L, first) && lua_isnil(L, first + 1)) return true;
  if (!name) return refuse(c, "a %s is no verdict", luaL_typename(L, first));
  if (!verdict_parse((struct span){ name, n }, &j->verdict)) return refuse(c, "'%.60s' is no verdict", name);
  if (lua_isnil(L, first + 1)) return true;
  if (!lua_istable(L, first + 1))
    return refuse(c, "the second value is a %s, not a table", luaL_typename(L, first + 1));
  if (!take_slots(L, first + 1, c, SLOTS(slots))) return false;
  if (!j->key) return true;
  struct bench_key *key = host_bench_key(&c->policy->host, span_of(j->key));
  if (!key) return refuse(c, "key: '%.80s' is neither a candidate nor an upstream", j->key);
  j->key = bench_name(key);
  return true;
}

void verdict_read_judgement(lua_State *L, struct call *c) {
  (void)take_judgement(L, lua_gettop(L) - 1, c);
}

/* ---- backoff, gate, exhausted ---- */

void verdict_read_delay(lua_State *L, struct call *c) {
  if (lua_isnil(L, -1)) return;
  (void)take_slot(L, -1, c, &(struct slot){ "the wait", WANT_FINITE, &c->delay });
}

static enum event_class class_of(const char *name, enum event_class builtin, bool *known) {
  *known = true;
  if (strcmp(name, "hold") == 0) return EVENT_HOLD;
  if (strcmp(name, "commit") == 0) return builtin == EVENT_END ? EVENT_END : EVENT_COMMIT;
  if (strcmp(name, "fail") == 0) return EVENT_FAIL;
  *known = false;
  return builtin;
}

void verdict_read_class(lua_State *L, struct call *c) {
  bool known = false;
  if (lua_isnil(L, -1)) return;
  enum event_class class = c->builtin;
  if (lua_type(L, -1) == LUA_TSTRING) class = class_of(lua_tostring(L, -1), c->builtin, &known);
  if (!known) (void)refuse(c, "'hold', 'commit' or 'fail' is expected");
  else if (c->builtin == EVENT_FAIL && class != EVENT_FAIL) (void)refuse(c, "an error event can only fail");
  else c->class = class;
}

void verdict_read_answer(lua_State *L, struct call *c) {
  struct answer *a = &c->answer;
  const struct slot slots[] = {
    { "status", WANT_STATUS, &a->status }, { "type", WANT_TEXT, &a->type },
    { "code", WANT_TEXT, &a->code },       { "message", WANT_TEXT, &a->message },
  };
  if (lua_isnil(L, -1)) return;
  if (lua_type(L, -1) == LUA_TSTRING && strcmp(lua_tostring(L, -1), "last") == 0) {
    a->kind = ANSWER_LAST;
  } else if (lua_istable(L, -1)) {
    a->kind = ANSWER_CUSTOM;
    (void)take_slots(L, -1, c, SLOTS(slots));
  } else {
    (void)refuse(c, "\"last\" or a table is expected");
  }
}
