/*
 * The table that a policy file returns: which hooks it has is asked here, once, and never again.
 *
 * Every key is known or refused by name, with the nearest known one beside it. Hooks are kept as registry references.
 * Options given in the configuration must be named by the policy's own `options`; `init` gets these with the given ones
 * over them.
 */
#include <stdio.h>

#include "policy/parts.h"

enum { NEAR = 2, NAME_BYTES = 40 };

static const char *const known_keys[] = { "init", "select", "classify", "backoff", "observe", "gate", "exhausted",
                                          "tick", "options", "classify_ok" };
enum { KNOWN_KEYS = sizeof known_keys / sizeof *known_keys };

/* ---- did you mean ---- */

/* How many letters must be changed, added or dropped to make one of the other. Longer names are never near. */
static unsigned distance(const char *a, const char *b) {
  size_t n = strlen(a), m = strlen(b);
  unsigned row[NAME_BYTES + 1];
  if (n > NAME_BYTES || m > NAME_BYTES) return NAME_BYTES;
  for (size_t j = 0; j <= m; j++) row[j] = (unsigned)j;
  for (size_t i = 1; i <= n; i++) {
    unsigned diagonal = row[0];
    row[0] = (unsigned)i;
    for (size_t j = 1; j <= m; j++) {
      unsigned best = diagonal + (a[i - 1] != b[j - 1]);
      if (row[j] + 1 < best) best = row[j] + 1;
      if (row[j - 1] + 1 < best) best = row[j - 1] + 1;
      diagonal = row[j];
      row[j] = best;
    }
  }
  return row[m];
}

struct guess {
  const char *word;
  char best[NAME_BYTES + 1];
  unsigned distance;
};

static void guess_try(struct guess *g, const char *name) {
  unsigned d = distance(g->word, name);
  if (d > NEAR || d >= g->distance) return;
  g->distance = d;
  snprintf(g->best, sizeof g->best, "%s", name);
}

static const char *guess_text(const struct guess *g, char *text, size_t size) {
  if (g->best[0]) snprintf(text, size, " (did you mean '%s'?)", g->best);
  else *text = 0;
  return text;
}

/* ---- keys ---- */

static _Noreturn void key_error(lua_State *L, const struct policy *policy, const char *key, const char *what,
                                const char *hint) {
  char place[ERROR_BYTES];
  sources_place(policy, key, place, sizeof place);
  luaL_error(L, "%s: %s: %s%s", place, key, what, hint);
  __builtin_unreachable();
}

static void check_key(lua_State *L, const struct policy *policy) {
  if (lua_type(L, -2) != LUA_TSTRING)
    luaL_error(L, "%s: a key of type %s in the policy", policy->sources.list->name, luaL_typename(L, -2));
  const char *key = lua_tostring(L, -2);
  struct guess guess = { .word = key, .distance = NEAR + 1 };
  char hint[NAME_BYTES + 32];
  for (size_t i = 0; i < KNOWN_KEYS; i++) {
    if (strcmp(key, known_keys[i]) == 0) return;
    guess_try(&guess, known_keys[i]);
  }
  key_error(L, policy, key, "unknown key", guess_text(&guess, hint, sizeof hint));
}

static void take_hooks(lua_State *L, struct policy *policy, int table) {
  for (size_t h = 0; h < HOOK_COUNT; h++) {
    const char *name = policy_hook_names[h];
    policy->hooks[h] = LUA_NOREF;
    lua_pushstring(L, name);
    int type = lua_rawget(L, table);
    if (type != LUA_TNIL && type != LUA_TFUNCTION)
      key_error(L, policy, name, "a function is expected, not a ", lua_typename(L, type));
    if (type == LUA_TFUNCTION) policy->hooks[h] = luaL_ref(L, LUA_REGISTRYINDEX);
    else lua_pop(L, 1);
  }
}

/* ---- options ---- */

static void check_option(lua_State *L, const struct policy *policy, int options, const struct value *key) {
  char name[NAME_BYTES + 1] = "", what[ERROR_BYTES], hint[NAME_BYTES + 32];
  if (key->kind == VALUE_STRING && key->string.n <= NAME_BYTES) memcpy(name, key->string.p, key->string.n);
  struct guess guess = { .word = name, .distance = NEAR + 1 };
  for (lua_pushnil(L); lua_next(L, options); lua_pop(L, 1)) {
    if (lua_type(L, -2) != LUA_TSTRING) continue;
    if (strcmp(lua_tostring(L, -2), name) == 0) {
      lua_pop(L, 2);
      return;
    }
    guess_try(&guess, lua_tostring(L, -2));
  }
  const char *file = policy->sources.list->name;
  snprintf(what, sizeof what, "%s: options.%s: the policy has no such option", file, *name ? name : "?");
  luaL_error(L, "%s%s", what, guess_text(&guess, hint, sizeof hint));
}

/* Pushes a new table: the policy's defaults with the given options over them. */
static void push_options(lua_State *L, const struct policy *policy, int table) {
  const struct value *given = policy->spec.options;
  lua_newtable(L);
  int merged = lua_gettop(L);
  lua_pushliteral(L, "options");
  if (lua_rawget(L, table) == LUA_TNIL) {
    lua_pop(L, 1);
    lua_newtable(L);
  }
  int options = lua_gettop(L);
  for (lua_pushnil(L); lua_next(L, options);) {
    lua_pushvalue(L, -2);
    lua_insert(L, -2);
    lua_rawset(L, merged);
  }
  for (size_t i = 0; given && given->kind == VALUE_TABLE && i < given->table.count; i++) {
    const struct value_pair *pair = &given->table.pairs[i];
    check_option(L, policy, options, &pair->key);
    lua_pushlstring(L, pair->key.string.p, pair->key.string.n);
    vm_push_value(L, &pair->value);
    lua_rawset(L, merged);
  }
  lua_settop(L, merged);
}

/* ---- the whole ---- */

int table_take(lua_State *L, struct policy *policy) {
  int table = lua_gettop(L);
  const char *file = policy->sources.list->name;
  if (!lua_istable(L, table))
    return luaL_error(L, "%s: a policy returns a table of hooks, not a %s", file, luaL_typename(L, table));
  for (lua_pushnil(L); lua_next(L, table); lua_pop(L, 1)) check_key(L, policy);
  take_hooks(L, policy, table);
  lua_pushliteral(L, "classify_ok");
  int type = lua_rawget(L, table);
  if (type != LUA_TNIL && type != LUA_TBOOLEAN)
    key_error(L, policy, "classify_ok", "true or false is expected, not a ", lua_typename(L, type));
  policy->classify_ok = lua_toboolean(L, -1);
  lua_pushliteral(L, "options");
  type = lua_rawget(L, table);
  if (type != LUA_TNIL && type != LUA_TTABLE)
    key_error(L, policy, "options", "a table is expected, not a ", lua_typename(L, type));
  push_options(L, policy, table);
  return luaL_ref(L, LUA_REGISTRYINDEX);
}
