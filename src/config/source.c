/*
 * Runs the configuration's Lua file in a limited VM (1 s, 64 MiB) and reads the returned table into an arena. The
 * only file of the room that touches Lua.
 *
 * The sandbox adds env(NAME [, default]) and file(PATH) to what every VM offers. Reading a global that nobody
 * defined is an error: in a plain VM a misspelt name would be nil, and a nil in a table is silently no key at all.
 *
 * Secrets: a syntax error quotes the token it met, which may be a key written in the file, so quoted literals are
 * cut from the text.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <lauxlib.h>

#include "config/build.h"
#include "vm/vm.h"

enum { SECRET_BYTES = 65536, SECRET_FILES = 4096 };
static const seconds time_limit = 1;
static const size_t memory_limit = 64 << 20;

struct running {
  const char *folder;
  struct arena *arena;
  const char **files; /* room for SECRET_FILES, made at the first one */
  size_t file_count;
  struct source_result *result;
  struct report *report;
};

/* ---- what the file may call ---- */

static int lua_env(lua_State *L) {
  const char *name = luaL_checkstring(L, 1);
  const char *value = getenv(name);
  if (value) {
    lua_pushstring(L, value);
    return 1;
  }
  if (lua_gettop(L) < 2) return luaL_error(L, "the environment variable '%s' is not set", name);
  lua_settop(L, 2);
  return 1;
}

/* Fills `bytes`; how many came, or -1 with errno set (EFBIG: too long). */
static ssize_t read_secret(const char *path, char bytes[SECRET_BYTES]) {
  size_t n = 0;
  ssize_t got = 1;
  int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return -1;
  while (got > 0 && n < SECRET_BYTES) {
    got = read(fd, bytes + n, SECRET_BYTES - n);
    if (got > 0) n += (size_t)got;
  }
  int cause = got < 0 ? errno : n == SECRET_BYTES ? EFBIG : 0;
  close(fd);
  errno = cause;
  return cause ? -1 : (ssize_t)n;
}

static bool remember_file(struct running *run, const char *path) {
  if (!run->files) run->files = ARENA_ARRAY(run->arena, const char *, SECRET_FILES);
  if (!run->files || run->file_count == SECRET_FILES) return false;
  const char *copy = arena_copy(run->arena, span_of(path));
  if (!copy) return false;
  run->files[run->file_count++] = copy;
  return true;
}

static int lua_file(lua_State *L) {
  struct running *run = lua_touserdata(L, lua_upvalueindex(1));
  const char *name = luaL_checkstring(L, 1);
  const char *path = name[0] == '/' ? name : lua_pushfstring(L, "%s/%s", run->folder, name);
  char bytes[SECRET_BYTES];
  ssize_t n = read_secret(path, bytes);
  if (n < 0)
    return luaL_error(L, "file '%s' cannot be read: %s", name, errno == EFBIG ? "over 64 KiB" : strerror(errno));
  if (!remember_file(run, path)) return luaL_error(L, "file '%s': out of memory, or too many files", name);
  struct span text = span_trim((struct span){ bytes, (size_t)n });
  lua_pushlstring(L, text.p, text.n);
  return 1;
}

static int lua_undefined(lua_State *L) {
  const char *name = lua_type(L, 2) == LUA_TSTRING ? lua_tostring(L, 2) : "?";
  return luaL_error(L, "undefined global '%s'", name);
}

static int open_globals(lua_State *L, void *context) {
  lua_pushcfunction(L, lua_env);
  lua_setglobal(L, "env");
  lua_pushlightuserdata(L, context);
  lua_pushcclosure(L, lua_file, 1);
  lua_setglobal(L, "file");
  lua_pushglobaltable(L);
  if (!lua_getmetatable(L, -1)) lua_newtable(L);
  lua_pushcfunction(L, lua_undefined);
  lua_setfield(L, -2, "__index");
  lua_setmetatable(L, -2);
  return 0;
}

/* ---- errors ---- */

/* Lua shortens a long path to its end behind three dots; the reader is to see what he typed. */
static void restore_path(const char *path, char *error, size_t size) {
  const char *colon = strchr(error, ':');
  if (strncmp(error, "...", 3) != 0 || !colon) return;
  size_t n = (size_t)(colon - error) - 3, length = strlen(path);
  if (n > length || memcmp(path + length - n, error + 3, n) != 0) return;
  char whole[1024];
  snprintf(whole, sizeof whole, "%s%s", path, colon);
  snprintf(error, size, "%s", whole);
}

static void hide_literals(char *error) {
  for (char *near = strstr(error, " near '"); near; near = strstr(near + 1, " near '")) {
    char first = near[strlen(" near '")];
    if (first && strchr("\"'[0123456789", first) && strcmp(near, " near '['") != 0) {
      *near = '\0';
      return;
    }
  }
}

/* ---- the returned table ---- */

enum { DEPTH_MOST = 16, VISITS_MOST = 1000000 };

struct search {
  struct report *report;
  unsigned visits;
};

/* Looks for what no configuration can hold, to say where it stands. */
static void find_odd(lua_State *L, int index, const struct place *place, struct search *search, unsigned depth) {
  struct report *report = search->report;
  if (depth > DEPTH_MOST) {
    report_at(report, place, "tables are nested deeper than %d, or a table holds itself", DEPTH_MOST);
    return;
  }
  luaL_checkstack(L, 4, NULL);
  lua_pushnil(L);
  while (lua_next(L, index) && report_clean(report) && search->visits++ < VISITS_MOST) {
    int key = lua_type(L, -2), type = lua_type(L, -1), value = lua_gettop(L);
    struct span name = SPAN_NONE;
    if (key == LUA_TSTRING) name.p = lua_tolstring(L, -2, &name.n);
    bool listed = lua_isinteger(L, -2);
    struct place at = *place;
    if (name.p) at = lines_member(place, name);
    else if (listed) at = lines_element(place, (size_t)lua_tointeger(L, -2));
    if (!name.p && !listed)
      report_at(report, place, "a key is a %s", lua_typename(L, key));
    else if (type == LUA_TTABLE)
      find_odd(L, value, &at, search, depth + 1);
    else if (type != LUA_TSTRING && type != LUA_TNUMBER && type != LUA_TBOOLEAN)
      report_at(report, &at, "a %s cannot stand in a configuration", lua_typename(L, type));
    lua_settop(L, value - 1);
  }
}

static int find_odd_in(lua_State *L) {
  struct search *search = lua_touserdata(L, 2);
  struct place root = lines_root(search->report->lines);
  find_odd(L, 1, &root, search, 1);
  return 0;
}

/* What the chunk returned is on top of the stack. */
static bool read_result(struct vm *vm, struct running *run) {
  lua_State *L = vm_lua(vm);
  struct report *report = run->report;
  struct place root = lines_root(report->lines);
  const char *why = NULL;
  struct value *value = ARENA_NEW(run->arena, struct value);
  if (!value) {
    report_memory(report);
    return false;
  }
  if (!lua_istable(L, -1)) {
    const char *got = lua_isnil(L, -1) ? "nothing" : luaL_typename(L, -1);
    report_at(report, &root, "expected the file to return a table, got %s", got);
    return false;
  }
  run->result->root = value;
  if (vm_read_value(L, lua_gettop(L), run->arena, value, &why)) return true;
  struct search search = { .report = report };
  char ignored[256];
  lua_pushcfunction(L, find_odd_in);
  lua_pushvalue(L, -2);
  lua_pushlightuserdata(L, &search);
  if (vm_call(vm, 2, 0, time_limit, ignored, sizeof ignored) != VM_GOOD || report_clean(report))
    report_at(report, &root, "%s", why ? why : "the table cannot be read");
  return false;
}

static bool run_chunk(struct vm *vm, struct span source, struct running *run) {
  struct report *report = run->report;
  char chunk[1024];
  snprintf(chunk, sizeof chunk, "@%s", report->file);
  if (vm_protect(vm, open_globals, run, time_limit, report->error, report->size) != VM_GOOD) return false;
  if (!vm_load(vm, source, chunk, report->error, report->size)) return false;
  report->lines = lines_read(run->result->scratch, source);
  if (!report->lines) {
    report_memory(report);
    return false;
  }
  return vm_call(vm, 0, 1, time_limit, report->error, report->size) == VM_GOOD;
}

bool source_run(struct span source, const char *folder, struct arena *arena, struct report *report,
                struct source_result *result) {
  struct running run = { .folder = folder, .arena = arena, .result = result, .report = report };
  struct vm *vm = vm_new(&(struct vm_options){ .memory = memory_limit, .folder = folder });
  bool good = false;
  if (!vm) {
    report_memory(report);
  } else if (run_chunk(vm, source, &run)) {
    good = read_result(vm, &run);
  } else {
    restore_path(report->file, report->error, report->size);
    hide_literals(report->error);
  }
  result->secret_files = run.files;
  result->secret_file_count = run.file_count;
  vm_free(vm);
  return good;
}
