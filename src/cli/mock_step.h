/* One step of a mock's script: what answer, or what fault, a request gets. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "base/arena.h"
#include "base/clock.h"
#include "base/value.h"
#include "core/request.h"

enum mock_fault {
  MOCK_FAULT_NONE,
  MOCK_FAULT_REFUSE,            /* reset as soon as the head is in,
      the body unread: the nearest to a refused connection */
  MOCK_FAULT_SILENT,            /* no byte, for as long as the peer stays */
  MOCK_FAULT_RESET,             /* reset after the whole request, before any byte */
  MOCK_FAULT_RESET_AFTER,       /* these three act after `after` bytes of body, framing not counted */
  MOCK_FAULT_TRUNCATE_AFTER,
  MOCK_FAULT_STALL_AFTER,
  MOCK_FAULT_ERROR_EVENT,       /* 200, the error as the first event */
  MOCK_FAULT_ERROR_AFTER_START, /* 200, the error after the preamble */
  MOCK_FAULT_EMPTY,
  MOCK_FAULT_HTML,
  MOCK_FAULT_WRONG_TYPE,
};

enum mock_framing { MOCK_FRAMING_DEFAULT, MOCK_FRAMING_CHUNKED, MOCK_FRAMING_LENGTH, MOCK_FRAMING_CLOSE };

/* The words of an error answer or event; SPAN_NONE: as the route and status have it. */
struct mock_error {
  struct span type, code, message;
};

/* One answer as the script describes it. Everything it points to lives in the request's arena. */
struct mock_step {
  enum mock_fault fault;
  size_t after;
  int status;                   /* 0: 200, or what the fault is known by */
  struct headers headers;       /* beside, or instead of,
      those the mock makes up; a value with p == NULL leaves that one out */
  struct span body;             /* p == NULL: a canned answer */
  struct span text;             /* of the canned answer */
  struct mock_error error;
  seconds delay;
  struct {
    seconds first, interval;    /* before the first chunk, and between chunks */
    size_t count;               /* chunks wanted; 0: as the text falls */
    const struct span *list;    /* their texts, `count` of them; NULL: cut from the text */
  } stream;
  struct {
    enum mock_framing framing;
    size_t split;               /* write the body in pieces of this many bytes; 0: no */
    bool close;
    struct span raw;            /* these bytes instead of everything; p == NULL: no */
    bool keep;                  /* after raw */
  } wire;
};

/* Reads a step out of what a script gave. `value` must live in `arena`, as the step then does. False and `error`,
 * which names the key. */
bool mock_step_read(const struct value *value, struct arena *arena, struct mock_step *step, char *error,
                    size_t error_size);
