/*
 * The texts a policy is made of, kept in its arena.
 *
 * They are read once, at load: from the disk (the main file here, what it requires by the VM, which reports each file),
 * or handed in by whoever kept them. From then on `require` finds them in memory: a VM that is replaced, and a version
 * that is brought back, are the version whose digest they carry, whatever lies on the disk by then. Modules of the
 * embedded library are not among them: they belong to the binary.
 */
#include <ctype.h>
#include <errno.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>

#include "policy/parts.h"

enum { PATH_BYTES = 4096, MODULE_BYTES = 256 };

bool sources_add(struct policy *policy, const char *name, struct span text) {
  struct sources *s = &policy->sources;
  for (size_t i = 0; i < s->count; i++)
    if (strcmp(s->list[i].name, name) == 0) return true;
  if (!s->list) s->list = ARENA_ARRAY(&policy->arena, struct policy_source, SOURCES_MAX);
  char *own_name = arena_copy(&policy->arena, span_of(name)), *own_text = arena_copy(&policy->arena, text);
  s->full = s->full || !s->list || s->count == SOURCES_MAX || !own_name || !own_text;
  if (s->full) return false;
  s->list[s->count++] = (struct policy_source){ own_name, { own_text, text.n } };
  return true;
}

void sources_loaded(void *context, const char *path, struct span text) {
  struct policy *policy = context;
  const char *folder = policy->sources.folder;
  if (policy->sources.closed) return;
  size_t n = folder ? strlen(folder) : 0;
  if (n && strncmp(path, folder, n) == 0 && path[n] == '/') path += n + 1;
  (void)sources_add(policy, path, text); /* a failure is remembered in `full`, and seen after the load */
}

/* The whole file, at most SOURCE_BYTES, into a buffer of that size; -1 and errno otherwise. */
static ssize_t read_file(const char *path, char *to) {
  FILE *file = fopen(path, "re");
  if (!file) return -1;
  size_t n = fread(to, 1, SOURCE_BYTES, file);
  bool good = !ferror(file) && getc(file) == EOF;
  if (!good && !ferror(file)) errno = EFBIG;
  fclose(file);
  return good ? (ssize_t)n : -1;
}

static bool read_main_file(struct policy *policy, char *error, size_t error_size) {
  const char *path = policy->spec.file;
  char folder[PATH_BYTES], real[PATH_BYTES], name[PATH_BYTES];
  snprintf(folder, sizeof folder, "%s", path);
  snprintf(name, sizeof name, "%s", path);
  policy->sources.folder = arena_copy(&policy->arena, span_of(realpath(dirname(folder), real) ? real : "."));
  char *text = malloc(SOURCE_BYTES);
  ssize_t n = text ? read_file(path, text) : -1;
  bool good = n >= 0 && policy->sources.folder && sources_add(policy, basename(name), (struct span){ text, (size_t)n });
  if (n < 0) snprintf(error, error_size, "%s: %s", path, strerror(errno));
  else if (!good) snprintf(error, error_size, "%s: out of memory", path);
  free(text);
  return good;
}

bool sources_read_main(struct policy *policy, char *error, size_t error_size) {
  char name[PATH_BYTES];
  if (policy->spec.file) return read_main_file(policy, error, error_size);
  snprintf(name, sizeof name, "policies/%s.lua", policy->spec.ready);
  struct span text = embedded_find(name);
  bool good = text.p && sources_add(policy, name, text);
  if (!text.p) snprintf(error, error_size, "%s: there is no ready-made policy of that name", policy->spec.ready);
  else if (!good) snprintf(error, error_size, "%s: out of memory", name);
  return good;
}

/* ---- require out of memory ---- */

/* "a.b" is the source "a/b.lua". */
static const struct policy_source *find_module(const struct sources *s, const char *module) {
  char name[MODULE_BYTES];
  if (snprintf(name, sizeof name, "%s.lua", module) >= (int)sizeof name) return NULL;
  for (char *dot = name; dot < name + strlen(module); dot++)
    if (*dot == '.') *dot = '/';
  for (size_t i = 0; i < s->count; i++)
    if (strcmp(s->list[i].name, name) == 0) return &s->list[i];
  return NULL;
}

/* require(name); upvalues: the policy, the VM's own require, what was loaded already. */
static int require_source(lua_State *L) {
  const struct policy *policy = lua_touserdata(L, lua_upvalueindex(1));
  const char *module = luaL_checkstring(L, 1);
  const struct policy_source *source = find_module(&policy->sources, module);
  char error[ERROR_BYTES], chunk[MODULE_BYTES + 2];
  lua_settop(L, 1);
  if (!source) {
    lua_pushvalue(L, lua_upvalueindex(2));
    lua_insert(L, 1);
    lua_call(L, 1, 1);
    return 1;
  }
  bool again = lua_getfield(L, lua_upvalueindex(3), module) == LUA_TLIGHTUSERDATA;
  if (again) return luaL_error(L, "require: '%s' requires itself", module);
  if (!lua_isnil(L, -1)) return 1;
  lua_pushlightuserdata(L, (void *)policy);
  lua_setfield(L, lua_upvalueindex(3), module);
  snprintf(chunk, sizeof chunk, "@%s", source->name);
  if (!vm_load(vm_of(L), source->text, chunk, error, sizeof error)) return luaL_error(L, "%s", error);
  lua_pushvalue(L, 1);
  lua_call(L, 1, 1);
  if (lua_isnil(L, -1)) lua_pushboolean(L, true);
  lua_pushvalue(L, -1);
  lua_setfield(L, lua_upvalueindex(3), module);
  return 1;
}

void sources_set_require(lua_State *L, struct policy *policy) {
  lua_pushlightuserdata(L, policy);
  lua_getglobal(L, "require");
  lua_newtable(L);
  lua_pushcclosure(L, require_source, 3);
  lua_setglobal(L, "require");
}

/* ---- where a key is set ---- */

static bool is_word(char c) {
  return isalnum((unsigned char)c) || c == '_';
}

/* `key =`, `.key(`, `:key(` and `["key"] =` count; a mention does not. */
static bool sets_key(const char *at, const char *from, const char *end, size_t n) {
  const char *p = at + n;
  if ((at > from && is_word(at[-1])) || (p < end && is_word(*p))) return false;
  while (p < end && strchr(" \t\"']", *p)) p++;
  if (p < end && *p == '(') return at > from && (at[-1] == '.' || at[-1] == ':');
  return p < end && *p == '=' && (p + 1 == end || p[1] != '=');
}

void sources_place(const struct policy *policy, const char *key, char *place, size_t size) {
  const struct policy_source *main = policy->sources.list;
  const char *from = main->text.p, *end = from + main->text.n, *line = from;
  size_t n = strlen(key), number = 1;
  for (const char *p = from; n && (size_t)(end - p) >= n; p++) {
    if (memcmp(p, key, n) == 0 && sets_key(p, from, end, n)) {
      for (; line < p; line++) number += *line == '\n';
      snprintf(place, size, "%s:%zu", main->name, number);
      return;
    }
  }
  snprintf(place, size, "%s", main->name);
}
