/*
 * `require` and `load`. A module's name is letters, digits, `_`, `-` and dots between them; dots are folders. The library in the binary is asked
 * first, then the VM's folder. A file of the folder is opened first and then asked where it really is: a link that leads out is refused.
 * Each module runs once; what it returned (or true) is kept for the VM's life. A module that requires itself is an error.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vm/inside.h"

enum { MAX_FILE = 1 << 20, MAX_NAME = 200, MAX_LOADED_TEXT = 64 << 10 };


/* ---- load ---- */

/* A function that gives the text in pieces: gathers them in place of the function. */
static void gather_pieces(lua_State *L) {
  luaL_Buffer b;
  luaL_buffinit(L, &b);
  for (;;) {
    vm_work(L, 100);
    lua_pushvalue(L, 1);
    lua_call(L, 0, 1);
    if (lua_isnil(L, -1) || (lua_isstring(L, -1) && lua_rawlen(L, -1) == 0)) break;
    if (lua_type(L, -1) != LUA_TSTRING) luaL_error(L, "reader function must return a string");
    luaL_addvalue(&b);
    if (luaL_bufflen(&b) > MAX_LOADED_TEXT) luaL_error(L, "text too long (%d bytes at most)", MAX_LOADED_TEXT);
  }
  lua_pop(L, 1);
  luaL_pushresult(&b);
  lua_replace(L, 1);
}

/* load(text or function [, name [, mode [, environment]]]): text only, at most 64 KiB. */
int require_load(lua_State *L) {
  size_t n;
  bool environment = !lua_isnone(L, 4);
  const char *mode = luaL_optstring(L, 3, "t");
  lua_settop(L, 4);
  if (lua_type(L, 1) == LUA_TFUNCTION) gather_pieces(L);
  const char *text = luaL_checklstring(L, 1, &n);
  const char *name = luaL_optstring(L, 2, "=(load)");
  int status = LUA_ERRSYNTAX;
  if (!strchr(mode, 't')) lua_pushliteral(L, "only text can be loaded");
  else if (n > MAX_LOADED_TEXT) lua_pushfstring(L, "text too long (%d bytes at most)", MAX_LOADED_TEXT);
  else status = vm_compile(L, (struct span){ text, n }, name);
  vm_work(L, 0); /* a kill inside the compiler comes back as a status */
  if (status != LUA_OK) {
    lua_pushnil(L);
    lua_insert(L, -2);
    return 2;
  }
  if (environment) {
    lua_pushvalue(L, 4);
    if (!lua_setupvalue(L, -2, 1)) lua_pop(L, 1);
  }
  return 1;
}

/* ---- files ---- */

enum found { FOUND, FOUND_NOT, FOUND_OUTSIDE, FOUND_LARGE, FOUND_UNREADABLE };

static bool is_inside(int fd, const char *folder) {
  char link[64], path[PATH_MAX];
  size_t n = strlen(folder);
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t got = readlink(link, path, sizeof path);
  if (got <= (ssize_t)n || got == (ssize_t)sizeof path) return false;
  return memcmp(path, folder, n) == 0 && (path[n] == '/' || folder[n - 1] == '/');
}

static enum found read_whole(int fd, struct buf *out) {
  buf_clear(out);
  while (out->n <= MAX_FILE) {
    char *p = buf_reserve(out, 16384);
    if (!p) return FOUND_UNREADABLE;
    ssize_t got = read(fd, p, 16384);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return FOUND_UNREADABLE;
    if (got == 0) return FOUND;
    out->n += (size_t)got;
  }
  return FOUND_LARGE;
}

/* Reads folder/name into `out`. No Lua here, so nothing can raise past the descriptor. */
static enum found read_file(const char *folder, const char *name, struct buf *out) {
  char path[PATH_MAX];
  int n = snprintf(path, sizeof path, "%s/%s", folder, name);
  if (n < 0 || n >= (int)sizeof path) return FOUND_NOT;
  int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
  if (fd < 0) return errno == ENOENT || errno == ENOTDIR ? FOUND_NOT : FOUND_UNREADABLE;
  struct stat st;
  enum found found = FOUND_UNREADABLE;
  if (!is_inside(fd, folder)) found = FOUND_OUTSIDE;
  else if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode)) found = st.st_size > MAX_FILE ? FOUND_LARGE : read_whole(fd, out);
  close(fd);
  return found;
}

/* ---- require ---- */

/* The file of a module name, or false when it is no name. */
static bool file_name(const char *module, char *out, size_t size) {
  size_t n = strlen(module);
  char last = '.';
  if (n == 0 || n > MAX_NAME || n + 5 > size) return false;
  for (size_t i = 0; i < n; i++) {
    char c = module[i];
    bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '-';
    if (!letter && (c != '.' || last == '.')) return false;
    out[i] = c == '.' ? '/' : c;
    last = c;
  }
  if (last == '.') return false;
  memcpy(out + n, ".lua", 5);
  return true;
}

/* Leaves the compiled module on the stack, or raises. */
static void compile_module(lua_State *L, const char *module, const char *file) {
  struct vm *vm = vm_of(L);
  struct span source = embedded_find(file);
  if (!source.p) {
    enum found found = vm->folder ? read_file(vm->folder, file, &vm->source) : FOUND_NOT;
    switch (found) {
    case FOUND: break;
    case FOUND_NOT: luaL_error(L, "module '%s' not found", module); break;
    case FOUND_OUTSIDE: luaL_error(L, "module '%s': a link leads out of the folder", module); break;
    case FOUND_LARGE: luaL_error(L, "module '%s': larger than 1 MiB", module); break;
    case FOUND_UNREADABLE: luaL_error(L, "module '%s': cannot be read", module); break;
    }
    source = (struct span){ vm->source.p ? vm->source.p : "", vm->source.n };
    if (vm->options.loaded) vm->options.loaded(vm->options.loaded_context, file, source);
  }
  const char *chunk = lua_pushfstring(L, "@%s", file);
  int status = vm_compile(L, source, chunk);
  buf_free(&vm->source);
  vm_work(L, 0);
  if (status != LUA_OK) lua_error(L);
  lua_remove(L, -2);
}

/* Runs in a protected call, so that a failure can be forgotten and tried again. Arguments: module, file. */
static int run_module(lua_State *L) {
  const char *module = lua_tostring(L, 1);
  compile_module(L, module, lua_tostring(L, 2));
  lua_pushvalue(L, 1);
  lua_call(L, 1, 1);
  return 1;
}

int require_module(lua_State *L) {
  char file[MAX_NAME + 8];
  const char *module = luaL_checkstring(L, 1);
  if (strlen(module) != lua_rawlen(L, 1) || !file_name(module, file, sizeof file)) return luaL_error(L, "module name '%s' is not allowed", module);
  lua_settop(L, 1);
  luaL_getsubtable(L, LUA_REGISTRYINDEX, "vm.modules");
  if (lua_getfield(L, 2, module) != LUA_TNIL) {
    if (lua_type(L, 3) == LUA_TBOOLEAN && !lua_toboolean(L, 3)) return luaL_error(L, "module '%s' requires itself", module);
    return 1;
  }
  lua_pushboolean(L, false);
  lua_setfield(L, 2, module);
  lua_pushcfunction(L, run_module);
  lua_pushvalue(L, 1);
  lua_pushstring(L, file);
  int status = lua_pcall(L, 2, 1, 0);
  if (status == LUA_OK && !lua_toboolean(L, -1)) {
    lua_pop(L, 1);
    lua_pushboolean(L, true);
  }
  if (status == LUA_OK) lua_pushvalue(L, -1);
  else lua_pushnil(L);
  lua_setfield(L, 2, module);
  vm_work(L, 0);
  return status == LUA_OK ? 1 : lua_error(L);
}
