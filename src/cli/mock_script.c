/*
 * The script is a table `{ listen =, steps = {...} }` or a function; a function is a list of one step that is
 * computed, and any step of a list may be a function too. So there is one way: the element number min(number, count)
 * of `steps`, called if it is a function.
 *
 * There is one VM and one lock: scripts are tests' own code, and their counters should not race. A request's step is
 * taken in one protected call that builds the request's table, runs the script and reads what came back into the
 * request's arena; nothing allocated by malloc is held across it. Small Lua glue (below) turns a body table into JSON
 * and decodes the request's JSON.
 *
 * Steps that are tables are checked when the script is loaded, what a function returns when it is taken.
 */
#include "cli/mock_script.h"

#include <lauxlib.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/dialect.h"
#include "vm/vm.h"

#define LOAD_BUDGET 5.0  /* seconds */
#define STEP_BUDGET 10.0 /* seconds */
enum { DECODE_BYTES = 2 << 20 }; /* above that a request has no `json` */

struct mock_script {
  pthread_mutex_t lock; /* of the VM */
  struct vm *vm;
  const char *path;     /* the caller's name for it, copied into the arena */
  struct arena arena;
  int steps, glue;      /* registry references */
  size_t count;         /* of steps */
  bool *refuses;        /* by step */
  char *listen;
};

/* Takes a step (called if it is a function), gives a shallow copy whose body is a string. */
static const char glue_source[] =
  "local json = ...\n"
  "return function(step, request)\n"
  "  local ok, decoded = pcall(json.decode, request.json_text or '')\n"
  "  request.json_text, request.json = nil, ok and decoded or nil\n"
  "  if type(step) == 'function' then step = step(request) end\n"
  "  if type(step) ~= 'table' then error('a step must be a table, not ' .. type(step), 0) end\n"
  "  local copy = {}\n"
  "  for key, value in pairs(step) do copy[key] = value end\n"
  "  if type(copy.body) == 'table' then copy.body = json.encode(copy.body) end\n"
  "  return copy\n"
  "end\n";

/* ---- loading ---- */

/* The first line of the source that has that word, or 1: where to send the reader for a bad top-level key. */
static int line_of(struct span source, const char *word) {
  const char *at = word && *word ? memmem(source.p, source.n, word, strlen(word)) : NULL;
  int line = 1;
  for (const char *p = source.p; at && p < at; p++) line += *p == '\n';
  return line;
}

/* Makes the global `bullpen` with its `json`, and the glue which is given that. */
static int open_glue(lua_State *L, void *context) {
  struct mock_script *script = context;
  vm_push_json(L);
  lua_newtable(L);
  lua_pushvalue(L, -2);
  lua_setfield(L, -2, "json");
  lua_setglobal(L, "bullpen");
  if (luaL_loadbufferx(L, glue_source, sizeof glue_source - 1, "=mock", "t") != LUA_OK) return lua_error(L);
  lua_pushvalue(L, -2);
  lua_call(L, 1, 1);
  script->glue = luaL_ref(L, LUA_REGISTRYINDEX);
  lua_settop(L, 0);
  return 0;
}

struct loading {
  struct mock_script *script;
  const char *bad_key; /* where the message points; in the script's arena */
};

static int fail_at(lua_State *L, struct loading *loading, const char *key, const char *what) {
  loading->bad_key = arena_copy(&loading->script->arena, span_of(key));
  return luaL_error(L, "%s: %s", key, what);
}

/* Checks the keys of the script's table, at index 1 of the stack. */
static void read_top_level(lua_State *L, struct loading *loading) {
  struct mock_script *script = loading->script;
  for (lua_pushnil(L); lua_next(L, 1); lua_pop(L, 1)) {
    const char *key = lua_type(L, -2) == LUA_TSTRING ? lua_tostring(L, -2) : "[1]";
    if (!strcmp(key, "listen")) {
      if (lua_type(L, -1) != LUA_TSTRING) fail_at(L, loading, key, "must be a string");
      script->listen = arena_copy(&script->arena, span_of(lua_tostring(L, -1)));
    } else if (strcmp(key, "steps") != 0) {
      fail_at(L, loading, key, "unknown key (there are listen and steps)");
    }
  }
  if (lua_getfield(L, 1, "steps") != LUA_TTABLE) fail_at(L, loading, "steps", "must be a list of steps");
}

/* Counts the steps of the list at the top of the stack and remembers which of them refuse. */
/* A step that is a table is known at load: a mistake in it is told then. */
static void check_step(lua_State *L, struct loading *loading) {
  char why[256] = "";
  const char *error = NULL;
  struct value value;
  struct mock_step step;
  struct arena *arena = &loading->script->arena;
  if (vm_read_value(L, -1, arena, &value, &error) && mock_step_read(&value, arena, &step, why, sizeof why)) return;
  if (!*why) snprintf(why, sizeof why, "%s", error ? error : "the step cannot be read");
  const char *key = strstr(why, " '"); /* the message names it in quotes */
  if (key) loading->bad_key = arena_copy(arena, (struct span){ key + 2, strcspn(key + 2, "'") });
  luaL_error(L, "%s", why);
}

static void read_steps(lua_State *L, struct loading *loading) {
  struct mock_script *script = loading->script;
  script->count = lua_rawlen(L, -1);
  if (!script->count) fail_at(L, loading, "steps", "is empty");
  script->refuses = ARENA_ARRAY(&script->arena, bool, script->count);
  if (!script->refuses) luaL_error(L, "out of memory");
  for (size_t i = 0; i < script->count; i++) {
    int type = lua_rawgeti(L, -1, (lua_Integer)i + 1);
    if (type != LUA_TTABLE && type != LUA_TFUNCTION) fail_at(L, loading, "steps", "each must be a table or a function");
    if (type == LUA_TTABLE) {
      check_step(L, loading);
      lua_getfield(L, -1, "fault");
      const char *fault = lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : "";
      script->refuses[i] = !strcmp(fault, "refuse");
      lua_pop(L, 1);
    }
    lua_pop(L, 1);
  }
}

/* What the script returned is at index 1. */
static int read_script(lua_State *L, void *context) {
  struct loading *loading = context;
  if (lua_type(L, 1) == LUA_TFUNCTION) {
    lua_newtable(L);
    lua_pushvalue(L, 1);
    lua_rawseti(L, -2, 1);
  } else if (lua_type(L, 1) == LUA_TTABLE) {
    read_top_level(L, loading);
  } else {
    return luaL_error(L, "a mock script must return a table or a function, not %s", luaL_typename(L, 1));
  }
  read_steps(L, loading);
  loading->script->steps = luaL_ref(L, LUA_REGISTRYINDEX);
  return 0;
}

/* The protected body runs on the stack the script's value is on, or on one of its own: hand the value over by the
 * registry. */
static int read_referenced(lua_State *L, void *context) {
  lua_settop(L, 0);
  lua_getfield(L, LUA_REGISTRYINDEX, "bullpen.mock.script");
  return read_script(L, context);
}

static bool load_into(struct mock_script *script, struct span source, char *error, size_t error_size) {
  char raised[512], chunk[PATH_MAX + 2];
  snprintf(chunk, sizeof chunk, "@%s", script->path);
  struct loading loading = { .script = script };
  lua_State *L = vm_lua(script->vm);
  if (vm_protect(script->vm, open_glue, script, LOAD_BUDGET, error, error_size) != VM_GOOD) return false;
  if (!vm_load(script->vm, source, chunk, error, error_size)) return false;
  if (vm_call(script->vm, 0, 1, LOAD_BUDGET, error, error_size) != VM_GOOD) return false;
  lua_setfield(L, LUA_REGISTRYINDEX, "bullpen.mock.script");
  if (vm_protect(script->vm, read_referenced, &loading, LOAD_BUDGET, raised, sizeof raised) == VM_GOOD) return true;
  snprintf(error, error_size, "%s:%d: %s", script->path, line_of(source, loading.bad_key), raised);
  return false;
}

struct mock_script *mock_script_load(const char *path, struct span source, char *error, size_t error_size) {
  struct mock_script *script = calloc(1, sizeof *script);
  snprintf(error, error_size, "out of memory");
  if (!script) return NULL;
  pthread_mutex_init(&script->lock, NULL);
  script->path = arena_copy(&script->arena, span_of(path));
  const char *slash = strrchr(path, '/');
  char *folder = slash ? arena_copy(&script->arena, (struct span){ path, (size_t)(slash - path) + 1 }) : ".";
  script->vm = script->path && folder ? vm_new(&(struct vm_options){ .folder = folder }) : NULL;
  if (script->vm && load_into(script, source, error, error_size)) return script;
  mock_script_free(script);
  return NULL;
}

void mock_script_free(struct mock_script *script) {
  if (!script) return;
  if (script->vm) vm_free(script->vm);
  pthread_mutex_destroy(&script->lock);
  arena_free(&script->arena);
  free(script);
}

const char *mock_script_listen(const struct mock_script *script) {
  return script->listen;
}

static size_t step_index(const struct mock_script *script, unsigned number) {
  return number < script->count ? number - 1 : script->count - 1;
}

bool mock_script_refuses(const struct mock_script *script, unsigned number) {
  return script->refuses[step_index(script, number)];
}

/* ---- one request ---- */

static void set_text(lua_State *L, const char *key, struct span text) {
  lua_pushlstring(L, text.p ? text.p : "", text.n);
  lua_setfield(L, -2, key);
}

static void push_lower(lua_State *L, struct span name) {
  luaL_Buffer lower;
  luaL_buffinit(L, &lower);
  for (size_t i = 0; i < name.n; i++) {
    char c = name.p[i];
    luaL_addchar(&lower, c >= 'A' && c <= 'Z' ? (char)(c + 32) : c);
  }
  luaL_pushresult(&lower);
}

/* Lower-case names; the values of a repeated one are joined with ", ". */
static void push_headers(lua_State *L, struct headers headers) {
  lua_newtable(L);
  for (size_t i = 0; i < headers.count; i++) {
    struct span value = headers.list[i].value;
    push_lower(L, headers.list[i].name);
    lua_pushvalue(L, -1);
    if (lua_rawget(L, -3) == LUA_TSTRING) {
      lua_pushliteral(L, ", ");
      lua_pushlstring(L, value.p, value.n);
      lua_concat(L, 3);
    } else {
      lua_pop(L, 1);
      lua_pushlstring(L, value.p, value.n);
    }
    lua_rawset(L, -3);
  }
}

static void push_request(lua_State *L, const struct mock_request *request) {
  lua_newtable(L);
  set_text(L, "method", request->method);
  set_text(L, "path", request->path);
  set_text(L, "query", request->query);
  set_text(L, "body", buf_span(&request->body));
  set_text(L, "model", request->model);
  set_text(L, "route", span_of(route_name(request->route)));
  if (request->body.n <= DECODE_BYTES) set_text(L, "json_text", buf_span(&request->body));
  push_headers(L, request->headers);
  lua_setfield(L, -2, "headers");
  lua_pushboolean(L, request->stream);
  lua_setfield(L, -2, "stream");
  lua_pushinteger(L, request->number);
  lua_setfield(L, -2, "number");
}

struct taking {
  struct mock_script *script;
  struct mock_request *request;
  struct value value;  /* the step; in the request's arena */
  const char *problem; /* why it could not be read */
};

static int take_step(lua_State *L, void *context) {
  struct taking *taking = context;
  lua_rawgeti(L, LUA_REGISTRYINDEX, taking->script->glue);
  lua_rawgeti(L, LUA_REGISTRYINDEX, taking->script->steps);
  lua_rawgeti(L, -1, (lua_Integer)step_index(taking->script, taking->request->number) + 1);
  lua_remove(L, -2);
  push_request(L, taking->request);
  lua_call(L, 2, 1);
  if (!vm_read_value(L, -1, &taking->request->arena, &taking->value, &taking->problem))
    return luaL_error(L, "%s", taking->problem);
  lua_pop(L, 1);
  return 0;
}

bool mock_script_take(struct mock_script *script, struct mock_request *request, struct mock_step *step, char *error,
                      size_t error_size) {
  struct taking taking = { .script = script, .request = request };
  pthread_mutex_lock(&script->lock);
  enum vm_result result = vm_protect(script->vm, take_step, &taking, STEP_BUDGET, error, error_size);
  pthread_mutex_unlock(&script->lock);
  return result == VM_GOOD && mock_step_read(&taking.value, &request->arena, step, error, error_size);
}
