/*
 * One structured line per fact, as text (`time level message key=value ...`) or JSON. A line is written with one write(2),
 * so lines of several threads never mix; a full disk or a closed pipe loses the line, counts it, and stops nothing.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "base/span.h"

enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR };

struct log_field {
  const char *name;
  enum { LOG_FIELD_TEXT, LOG_FIELD_INTEGER, LOG_FIELD_NUMBER, LOG_FIELD_BOOL, LOG_FIELD_NONE } kind;
  union {
    struct span text;
    long long integer;
    double number;
    bool boolean;
  };
};

/* A text field whose pointer is NULL is left out of the line. */
#define LOG_TEXT(k, v) { .name = (k), .kind = LOG_FIELD_TEXT, .text = span_of(v) }
#define LOG_SPAN(k, v) { .name = (k), .kind = LOG_FIELD_TEXT, .text = (v) }
#define LOG_INT(k, v) { .name = (k), .kind = LOG_FIELD_INTEGER, .integer = (long long)(v) }
#define LOG_NUM(k, v) { .name = (k), .kind = LOG_FIELD_NUMBER, .number = (v) }
#define LOG_BOOL(k, v) { .name = (k), .kind = LOG_FIELD_BOOL, .boolean = (v) }

/* Where lines go from now on. `file` "-" is standard error. False with errno set when it cannot be opened; the old target stays. */
bool log_open(const char *file, bool json, enum log_level lowest);

/* Opens the same file anew, after a rotation. */
bool log_reopen(void);

bool log_wanted(enum log_level level);
void log_fields(enum log_level level, const char *message, const struct log_field *fields, size_t count);

/* Lines lost since start because they could not be written. */
unsigned long log_lost(void);

#define LOG_WRITE(level, message, ...)                                                              \
  do {                                                                                              \
    if (log_wanted(level)) {                                                                        \
      const struct log_field log_fields_[] = { __VA_ARGS__ };                                       \
      log_fields((level), (message), log_fields_, sizeof log_fields_ / sizeof log_fields_[0]);      \
    }                                                                                               \
  } while (0)

#define log_debug(message, ...) LOG_WRITE(LOG_DEBUG, message, __VA_ARGS__)
#define log_info(message, ...) LOG_WRITE(LOG_INFO, message, __VA_ARGS__)
#define log_warn(message, ...) LOG_WRITE(LOG_WARN, message, __VA_ARGS__)
#define log_error(message, ...) LOG_WRITE(LOG_ERROR, message, __VA_ARGS__)
