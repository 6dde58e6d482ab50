/*
 * A failing allocator for tests of single rooms: the linker sends malloc and its kin, and the arena's, here (--wrap), and the nth call fails, alone or with every one
 * after it. Each scenario runs once to count its allocations, then once for each n (or some of them: FAULT_EVERY=1 asks for all). After each run
 * nothing may be left allocated; what else must hold the scenario says itself with `need`.
 *
 * lua-cjson ends the process when its own buffers cannot be had, and loses one when a Lua allocation fails under it; nothing can stop either. Its
 * calls (strbuf_*) are let through, and not counted.
 */
#pragma once

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <dlfcn.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"

static struct {
  const char *scenario;
  bool armed, onwards;
  bool passing; /* for a while nothing is counted, nothing fails */
  unsigned long calls, fail_at, failed; /* since armed */
  long live;
} fault;

static inline void fault_report(const char *what) {
  fault.armed = false;
  fprintf(stderr, "FAULT %s, allocation %lu%s: %s\n", fault.scenario, fault.fail_at, fault.onwards ? " and all after it" : "", what);
  fflush(stderr);
  exit(1);
}

static inline void need(bool good, const char *what) {
  if (!good) fault_report(what);
}

static inline bool is_cjson(void *caller) {
  Dl_info info;
  return dladdr(caller, &info) && info.dli_sname && strncmp(info.dli_sname, "strbuf_", 7) == 0;
}

static inline bool fails(void *caller) {
  if (!fault.armed || fault.passing) return false;
  fault.calls++;
  bool hit = fault.fail_at && (fault.calls == fault.fail_at || (fault.onwards && fault.calls > fault.fail_at));
  if (!hit || is_cjson(caller)) return false;
  fault.failed++;
  return true;
}

enum { CJSON_BLOCKS = 256 };
static void *cjson_blocks[CJSON_BLOCKS];

/* Is it in the list of cjson's blocks; if so it becomes `now`. */
static inline bool cjson_swap(const void *is, void *now) {
  for (size_t i = 0; i < CJSON_BLOCKS; i++)
    if (cjson_blocks[i] == is) {
      cjson_blocks[i] = now;
      return true;
    }
  return false;
}

static inline void *counted(void *p, void *caller) {
  if (p && fault.armed && !(is_cjson(caller) && cjson_swap(NULL, p))) fault.live++;
  return p;
}

void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t n);
void *__real_aligned_alloc(size_t align, size_t n);
char *__real_strdup(const char *text);
char *__real_strndup(const char *text, size_t n);
void __real_free(void *p);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t n);
void *__wrap_aligned_alloc(size_t align, size_t n);
char *__wrap_strdup(const char *text);
char *__wrap_strndup(const char *text, size_t n);
void __wrap_free(void *p);

#define CALLER __builtin_return_address(0)
void *__wrap_malloc(size_t n) { return fails(CALLER) ? NULL : counted(__real_malloc(n), CALLER); }
void *__wrap_calloc(size_t n, size_t size) { return fails(CALLER) ? NULL : counted(__real_calloc(n, size), CALLER); }
void *__wrap_aligned_alloc(size_t align, size_t n) { return fails(CALLER) ? NULL : counted(__real_aligned_alloc(align, n), CALLER); }
char *__wrap_strdup(const char *text) { return fails(CALLER) ? NULL : counted(__real_strdup(text), CALLER); }
char *__wrap_strndup(const char *text, size_t n) { return fails(CALLER) ? NULL : counted(__real_strndup(text, n), CALLER); }

void *__wrap_realloc(void *p, size_t n) {
  if (fails(CALLER)) return NULL;
  if (!p) return counted(__real_realloc(p, n), CALLER);
  void *grown = __real_realloc(p, n);
  if (grown) cjson_swap(p, grown);
  return grown;
}

void __wrap_free(void *p) {
  if (p && fault.armed && !cjson_swap(p, NULL)) fault.live--;
  __real_free(p);
}

/* An arena asks for memory in large blocks; here each of its own allocations may fail. */
void *__real_arena_alloc(struct arena *a, size_t n);
char *__real_arena_copy(struct arena *a, struct span s);
void *__wrap_arena_alloc(struct arena *a, size_t n);
char *__wrap_arena_copy(struct arena *a, struct span s);
char *__wrap_arena_printf(struct arena *a, const char *format, ...) __attribute__((format(printf, 2, 3)));

void *__wrap_arena_alloc(struct arena *a, size_t n) { return fails(CALLER) ? NULL : __real_arena_alloc(a, n); }
char *__wrap_arena_copy(struct arena *a, struct span s) { return fails(CALLER) ? NULL : __real_arena_copy(a, s); }

char *__wrap_arena_printf(struct arena *a, const char *format, ...) {
  char text[1024];
  if (fails(CALLER)) return NULL;
  va_list args;
  va_start(args, format);
  vsnprintf(text, sizeof text, format, args);
  va_end(args);
  return __real_arena_copy(a, span_of(text));
}

/* The blocks are counted here; ASAN_OPTIONS=detect_leaks=1 says whose they are. */
const char *__asan_default_options(void);
const char *__asan_default_options(void) { return "detect_leaks=0"; }

static inline unsigned long run_once(void (*scenario)(void), unsigned long fail_at, bool onwards) {
  fault.fail_at = fail_at;
  fault.onwards = onwards;
  fault.calls = fault.failed = 0;
  fault.live = 0;
  memset(cjson_blocks, 0, sizeof cjson_blocks);
  fault.armed = true;
  scenario();
  fault.armed = false;
  if (fault.live) {
    char text[64];
    snprintf(text, sizeof text, "%ld blocks are left", fault.live);
    fault_report(text);
  }
  return fault.calls;
}

/* About `most` of the scenario's allocations fail, one run each, then again with all that follow. */
static inline void fault_run(const char *name, void (*scenario)(void), unsigned long most) {
  fault.scenario = name;
  unsigned long count = run_once(scenario, 0, false), every = getenv("FAULT_EVERY") ? 1 : count / most + 1, runs = 0;
  for (unsigned long n = 1; n <= count; n += every, runs += 2) {
    run_once(scenario, n, false);
    run_once(scenario, n, true);
  }
  printf("%-28s %6lu allocations, %6lu runs\n", name, count, runs);
  fflush(stdout);
}
