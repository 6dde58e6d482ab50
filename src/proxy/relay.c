/*
 * One buffer. Before the commit nothing is released; after it, `released` follows the end of the last whole event (or of everything, for what is
 * no stream). A tail longer than the limit is released unfinished: memory is bounded before order is.
 */
#include "proxy/relay.h"

enum { COMPACT_BYTES = 16 * 1024 };

void relay_init(struct relay *r, size_t limit) {
  *r = (struct relay){ .limit = limit, .sequence = -1 };
  sse_init(&r->sse, limit);
}

void relay_reset(struct relay *r) {
  struct buf kept = r->out;
  buf_clear(&kept);
  sse_free(&r->sse);
  relay_init(r, r->limit);
  r->out = kept;
}

void relay_free(struct relay *r) {
  sse_free(&r->sse);
  buf_free(&r->out);
}

size_t relay_room(const struct relay *r) {
  size_t waiting = r->out.n - r->at;
  return waiting < r->limit ? r->limit - waiting : 0;
}

static void release(struct relay *r, size_t upto) {
  if (upto <= r->released) return;
  r->total += upto - r->released;
  r->released = upto;
}

/* The tail is over the limit: it goes unfinished. */
static void release_overlong_tail(struct relay *r) {
  if (!r->committed || r->out.n - r->released < r->limit) return;
  release(r, r->out.n);
  r->cut = true;
}

size_t relay_feed(struct relay *r, const char *bytes, size_t n, bool (*each)(void *context, const struct sse_event *event, size_t bytes),
                  void *context) {
  size_t base = r->out.n, at = 0, begun = 0;
  buf_add(&r->out, bytes, n);
  if (!buf_ok(&r->out)) return 0;
  if (r->kind != RELAY_STREAM) {
    if (r->committed) release(r, r->out.n);
    return n;
  }
  struct sse_event event;
  while (sse_next(&r->sse, bytes, n, &at, &event)) {
    bool goes_on = each(context, &event, at - begun);
    begun = at;
    if (!goes_on) return at;
    r->whole = base + at;
    r->cut = false;
    if (r->committed) release(r, r->whole);
  }
  if (!sse_pending(&r->sse)) r->whole = r->out.n; /* the second half of a CRLF belongs to the event before it */
  if (r->committed) release(r, r->whole);
  release_overlong_tail(r);
  return n;
}

void relay_finish(struct relay *r, bool (*each)(void *context, const struct sse_event *event, size_t bytes), void *context) {
  struct sse_event event;
  if (r->kind != RELAY_STREAM || !sse_end(&r->sse, &event) || !each(context, &event, 0)) return;
  r->whole = r->out.n;
  if (r->committed) release(r, r->whole);
}

void relay_commit(struct relay *r) {
  r->committed = true;
  if (r->kind != RELAY_STREAM)
    release(r, r->out.n);
  else
    release(r, r->whole);
  if (r->kind == RELAY_STREAM) release_overlong_tail(r);
}

void relay_close(struct relay *r) {
  if (r->kind == RELAY_STREAM) r->out.n = r->whole > r->released ? r->whole : r->released; /* never half an event */
  release(r, r->out.n);
  r->end = RELAY_ENDED;
}

void relay_break(struct relay *r, struct span frame) {
  r->out.n = r->released;
  if (frame.n && r->cut) buf_puts(&r->out, "\n\n"); /* an overlong tail went unfinished: end its line */
  buf_add_span(&r->out, frame);
  release(r, r->out.n);
  r->end = RELAY_BROKEN;
}

struct span relay_ready(const struct relay *r) {
  return (struct span){ r->out.p + r->at, r->released - r->at };
}

void relay_take(struct relay *r, size_t n) {
  r->at += n;
  if (r->at < r->out.n && r->at < COMPACT_BYTES) return;
  buf_drop(&r->out, r->at);
  r->released -= r->at;
  r->whole = r->whole > r->at ? r->whole - r->at : 0;
  r->at = 0;
}
