/*
 * A block is lines up to an empty one. A line that lies whole in one feed is read where it is; only one that a feed
 * cut is copied to `line`. What a line says goes to `name` and `data` at once, so that a block needs nothing from
 * earlier feeds.
 *
 * Where a feed is cut must not show in what is told: a line is shortened to the same length whether it was copied or
 * not, and the CR at a feed's end ends its line at once, since nothing may ever follow it. The LF that may follow is
 * remembered and skipped.
 *
 * Memory: name and data stay within the limit together, the line within the limit (or LINE_MIN, so that its field is
 * always known).
 */
#include "core/sse.h"

#include <stdint.h>

enum { LINE_MIN = 16 }; /* byte-order mark, field name and colon */

void sse_init(struct sse *sse, size_t limit) {
  *sse = (struct sse){ .limit = limit };
}

void sse_free(struct sse *sse) {
  buf_free(&sse->name);
  buf_free(&sse->data);
  buf_free(&sse->line);
  *sse = (struct sse){ .limit = sse->limit };
}

bool sse_pending(const struct sse *sse) {
  return sse->waiting;
}

/* Bytes that name and data may still take. */
static size_t room_of(const struct sse *sse) {
  size_t held = sse->name.n + sse->data.n;
  if (!sse->limit) return SIZE_MAX;
  return held < sse->limit ? sse->limit - held : 0;
}

static size_t line_room(const struct sse *sse) {
  size_t room = room_of(sse);
  return room > LINE_MIN ? room : LINE_MIN;
}

/* Adds as much as there is room for. False when some of it was dropped. */
static bool add_within(struct buf *to, struct span bytes, size_t room) {
  bool fits = bytes.n <= room;
  buf_add(to, bytes.p, fits ? bytes.n : room);
  return fits && buf_ok(to);
}

static void take_field(struct sse *sse, struct span field, struct span value, bool cut) {
  bool whole = !cut;
  if (span_is(field, "data")) {
    if (sse->has_data) whole &= add_within(&sse->data, SPAN("\n"), room_of(sse));
    sse->has_data = true;
    whole &= add_within(&sse->data, value, room_of(sse));
  } else if (span_is(field, "event")) {
    buf_clear(&sse->name);
    whole &= add_within(&sse->name, value, room_of(sse));
  } else {
    return;
  }
  if (!whole) sse->overflow = true;
}

/* Reads one line without its end. True when it is the empty one that ends a block. */
static bool take_line(struct sse *sse, struct span line, bool cut) {
  size_t room = line_room(sse);
  if (line.n > room) {
    line.n = room;
    cut = true;
  }
  if (!sse->started && span_starts(line, "\xef\xbb\xbf")) line = span_skip(line, 3);
  sse->started = true;
  if (line.n == 0 && !cut) return true;
  if (line.n && line.p[0] == ':') return false;
  sse->has_fields = true;
  const char *colon = line.n ? memchr(line.p, ':', line.n) : NULL;
  struct span field = { line.p, colon ? (size_t)(colon - line.p) : line.n };
  struct span value = span_skip(line, field.n + 1);
  if (value.n && value.p[0] == ' ') value = span_skip(value, 1);
  take_field(sse, field, value, cut);
  return false;
}

/* Keeps a line's bytes until the rest comes. A comment's are not needed. */
static void keep_line(struct sse *sse, struct span part) {
  size_t room = line_room(sse);
  if (sse->line.n >= LINE_MIN && sse->line.p[0] == ':') room = LINE_MIN;
  room = sse->line.n < room ? room - sse->line.n : 0;
  if (!add_within(&sse->line, part, room)) sse->cut = true;
}

/* The line that ends with `part`, whether or not it began in an earlier feed. */
static bool finish_line(struct sse *sse, struct span part) {
  if (sse->line.n == 0 && !sse->cut) return take_line(sse, part, false);
  keep_line(sse, part);
  bool empty = take_line(sse, buf_span(&sse->line), sse->cut);
  buf_clear(&sse->line);
  sse->cut = false;
  return empty;
}

/* What the last block left is dropped when the next one begins: its spans were good until now. */
static void begin_block(struct sse *sse) {
  if (sse->waiting) return;
  buf_clear(&sse->name);
  buf_clear(&sse->data);
  sse->has_data = sse->has_fields = sse->overflow = false;
}

static void end_block(struct sse *sse, struct sse_event *event) {
  sse->waiting = false;
  event->name = buf_span(&sse->name);
  event->data = buf_span(&sse->data);
  event->comment = !sse->has_fields;
  event->overflow = sse->overflow;
}

/* The first line end in from[0..n), or n. */
static size_t find_line_end(const char *from, size_t n) {
  size_t i = 0;
  while (i < n && from[i] != '\n' && from[i] != '\r') i++;
  return i;
}

bool sse_next(struct sse *sse, const char *bytes, size_t n, size_t *at, struct sse_event *event) {
  begin_block(sse);
  while (*at < n) {
    if (sse->after_cr) {
      sse->after_cr = false;
      if (bytes[*at] == '\n') {
        ++*at;
        continue;
      }
    }
    sse->waiting = true;
    struct span part = { bytes + *at, find_line_end(bytes + *at, n - *at) };
    *at += part.n;
    if (*at == n) {
      keep_line(sse, part);
      return false;
    }
    bool cr = bytes[(*at)++] == '\r';
    if (cr && *at < n && bytes[*at] == '\n') ++*at;
    else sse->after_cr = cr && *at == n;
    if (finish_line(sse, part)) {
      end_block(sse, event);
      return true;
    }
  }
  return false;
}

bool sse_end(struct sse *sse, struct sse_event *event) {
  begin_block(sse);
  if (sse->line.n || sse->cut) finish_line(sse, SPAN_NONE);
  end_block(sse, event);
  return sse->has_fields;
}
