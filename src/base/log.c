/*
 * The target is one descriptor read atomically; a reopened file gets the same number through dup2, so a writer in the
 * middle of a line is never left with a closed or reused one.
 */
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/json.h"

static atomic_int target = STDERR_FILENO;
static atomic_bool as_json;
static atomic_int lowest_level = LOG_INFO;
static atomic_ulong lost;
static char *path;

static const char *const level_names[] = { "debug", "info", "warn", "error" };

bool log_open(const char *file, bool json, enum log_level lowest) {
  int fd = STDERR_FILENO;
  bool is_file = file && *file && strcmp(file, "-") != 0;
  if (is_file) {
    fd = open(file, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0640);
    if (fd < 0) return false;
  }
  free(path);
  path = is_file ? strdup(file) : NULL;
  int old = atomic_load(&target);
  if (is_file && old != STDERR_FILENO) {
    dup3(fd, old, O_CLOEXEC);
    close(fd);
    fd = old;
  }
  atomic_store(&target, fd);
  atomic_store(&as_json, json);
  atomic_store(&lowest_level, (int)lowest);
  return true;
}

bool log_reopen(void) {
  if (!path) return true;
  int fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0640);
  if (fd < 0) return false;
  dup3(fd, atomic_load(&target), O_CLOEXEC);
  close(fd);
  return true;
}

bool log_wanted(enum log_level level) {
  return (int)level >= atomic_load_explicit(&lowest_level, memory_order_relaxed);
}

unsigned long log_lost(void) {
  return atomic_load(&lost);
}

static void put_time(struct buf *line) {
  seconds now = clock_now();
  time_t whole = (time_t)now;
  struct tm tm;
  gmtime_r(&whole, &tm);
  char text[32];
  strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &tm);
  buf_printf(line, "%s.%03dZ", text, (int)((now - floor(now)) * 1000));
}

/* Text format: bare when it is one plain word, else quoted as JSON, so that a value can never forge a field or a line. */
static void put_word(struct buf *line, struct span text) {
  bool plain = text.n > 0;
  for (size_t i = 0; i < text.n && plain; i++)
    plain = text.p[i] > ' ' && text.p[i] < 0x7f && text.p[i] != '"' && text.p[i] != '=' && text.p[i] != '\\';
  if (plain)
    buf_add_span(line, text);
  else
    json_put_string(line, text);
}

static void put_field(struct buf *line, const struct log_field *f, bool json) {
  if (f->kind == LOG_FIELD_NONE || (f->kind == LOG_FIELD_TEXT && !f->text.p)) return;
  if (json)
    json_put_key(line, f->name);
  else
    buf_printf(line, " %s=", f->name);
  switch (f->kind) {
    case LOG_FIELD_NONE: break;
    case LOG_FIELD_TEXT: json ? json_put_string(line, f->text) : put_word(line, f->text); break;
    case LOG_FIELD_INTEGER: buf_printf(line, "%lld", f->integer); break;
    case LOG_FIELD_NUMBER: json_put_number(line, isfinite(f->number) ? round(f->number * 1e6) / 1e6 : f->number); break;
    case LOG_FIELD_BOOL: buf_puts(line, f->boolean ? "true" : "false"); break;
  }
}

void log_fields(enum log_level level, const char *message, const struct log_field *fields, size_t count) {
  bool json = atomic_load_explicit(&as_json, memory_order_relaxed);
  struct buf line = { 0 };
  if (json) {
    buf_puts(&line, "{\"time\":\"");
    put_time(&line);
    buf_printf(&line, "\",\"level\":\"%s\",\"message\":", level_names[level]);
    json_put_string(&line, span_of(message));
  } else {
    put_time(&line);
    buf_printf(&line, " %s %s", level_names[level], message);
  }
  for (size_t i = 0; i < count; i++) put_field(&line, &fields[i], json);
  buf_puts(&line, json ? "}\n" : "\n");
  if (!buf_ok(&line) || write(atomic_load(&target), line.p, line.n) != (ssize_t)line.n) atomic_fetch_add(&lost, 1);
  buf_free(&line);
}
