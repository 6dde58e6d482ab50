/*
 * core/sse: framing. What is told is written down as text, one line a block, so that two ways of feeding the same bytes
 * can be compared: whole, cut in two and in three at every place, and byte by byte. Every feed lies in memory of
 * exactly its size.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "core/sse.h"

#define TEST(promise, function) { promise, function, NULL, NULL, NULL }

static void note_event(struct buf *notes, const struct sse_event *event) {
  if (event->comment) buf_puts(notes, "comment");
  else buf_printf(notes, "%.*s|%.*s", (int)event->name.n, event->name.p, (int)event->data.n, event->data.p);
  if (event->overflow) buf_puts(notes, "!");
}

/* Feeds bytes[from..to). Where a block ended is noted as if an LF after its CR, coming later, had been there. */
static void feed(struct sse *sse, struct span text, size_t from, size_t to, struct buf *notes) {
  size_t n = to - from, at = 0;
  char *exact = malloc(n ? n : 1);
  memcpy(exact, text.p + from, n);
  struct sse_event event;
  while (sse_next(sse, exact, n, &at, &event)) {
    size_t end = from + at;
    assert_true(at <= n && at > 0);
    assert_false(sse_pending(sse));
    if (end == to && end < text.n && text.p[end - 1] == '\r' && text.p[end] == '\n') end++;
    note_event(notes, &event);
    buf_printf(notes, "@%zu\n", end);
  }
  assert_int_equal(at, n);
  free(exact);
}

/* Feeds the text cut at `one` and `two`; with step, byte by byte or the like. */
static void note_text(struct span text, size_t limit, size_t one, size_t two, size_t step, struct buf *notes) {
  struct sse sse;
  struct sse_event event;
  sse_init(&sse, limit);
  buf_clear(notes);
  if (step) {
    for (size_t at = 0; at < text.n; at += step) feed(&sse, text, at, at + step < text.n ? at + step : text.n, notes);
  } else {
    feed(&sse, text, 0, one, notes);
    feed(&sse, text, one, two, notes);
    feed(&sse, text, two, text.n, notes);
  }
  if (sse_end(&sse, &event)) {
    buf_puts(notes, "end:");
    note_event(notes, &event);
    buf_puts(notes, "\n");
  }
  assert_false(sse_pending(&sse));
  sse_free(&sse);
}

static void compare(struct buf *notes, const char *expected) {
  buf_add(notes, "", 1);
  assert_string_equal(notes->p, expected);
}

static void check_limit(struct span text, size_t limit, const char *expected) {
  struct buf notes = { 0 };
  note_text(text, limit, text.n, text.n, 0, &notes);
  compare(&notes, expected);
  for (size_t step = 1; step < 4; step++) {
    note_text(text, limit, 0, 0, step, &notes);
    compare(&notes, expected);
  }
  for (size_t one = 0; one <= text.n; one++)
    for (size_t two = one; two <= text.n; two++) {
      note_text(text, limit, one, two, 0, &notes);
      compare(&notes, expected);
    }
  buf_free(&notes);
}

static void check(const char *text, const char *expected) {
  check_limit(span_of(text), 0, expected);
}

static void line_ends(void **state) {
  (void)state;
  check("event: a\ndata: 1\n\ndata: 2\n\n", "a|1@18\n|2@27\n");
  check("event: a\rdata: 1\r\rdata: 2\r\r", "a|1@18\n|2@27\n");
  check("event: a\r\ndata: 1\r\n\r\ndata: 2\r\n\r\n", "a|1@21\n|2@32\n");
  check("data: 1\r\n\ndata: 2\n\rdata: 3\r\r\ndata: 4\n\r\n", "|1@10\n|2@19\n|3@29\n|4@39\n");
}

static void an_lf_after_the_cr_that_ended_a_block_is_no_event(void **state) {
  (void)state;
  struct sse sse;
  struct sse_event event;
  sse_init(&sse, 0);
  size_t at = 0;
  assert_true(sse_next(&sse, "data: x\r\n\r", 10, &at, &event));
  assert_int_equal(at, 10);
  at = 0;
  assert_false(sse_next(&sse, "", 0, &at, &event));
  assert_false(sse_next(&sse, "\n", 1, &at, &event));
  assert_int_equal(at, 1);
  assert_false(sse_pending(&sse));
  at = 0;
  assert_true(sse_next(&sse, "\n", 1, &at, &event));
  assert_true(event.comment);
  sse_free(&sse);
}

static void comments_and_blank_lines(void **state) {
  (void)state;
  check(": hello\n\n", "comment@9\n");
  check(":\n\n:\n\n", "comment@3\ncomment@6\n");
  check("\n\ndata: 1\n\n\n", "comment@1\ncomment@2\n|1@11\ncomment@12\n");
  check(": c\ndata: 1\n: d\n\n", "|1@17\n");
  check("\r\n\r\n\r\n", "comment@2\ncomment@4\ncomment@6\n");
}

static void fields(void **state) {
  (void)state;
  check("data:1\n\n", "|1@8\n");
  check("data:  1\n\n", "| 1@10\n");
  check("data\n\n", "|@6\n");
  check("data:\n\n", "|@7\n");
  check("data: a\ndata: b\ndata:\ndata: c\n\n", "|a\nb\n\nc@31\n");
  check("data\ndata\n\n", "|\n@11\n");
  check("data: 1\nevent: late\n\n", "late|1@21\n");
  check("event: a\nevent: b\n\n", "b|@19\n");
  check("event: a\n\n", "a|@10\n");
  check("id: 5\nretry: 10\n\n", "|@17\n");
  check("datax: 1\ndat: 2\nfoo\n Data: 3\ndata : 4\n\n", "|@39\n");
  check("data: a:b: c\n\n", "|a:b: c@14\n");
}

static void byte_order_mark(void **state) {
  (void)state;
  check("\xef\xbb\xbf" "data: 1\n\n", "|1@12\n");
  check("\xef\xbb\xbf\n", "comment@4\n");
  check("\xef\xbb\xbf: c\n\ndata: 1\n\n", "comment@8\n|1@17\n");
  check("data: 1\n\n\xef\xbb\xbf" "data: 2\n\n", "|1@9\n|@21\n");
}

static void a_clean_end_without_the_final_empty_line(void **state) {
  (void)state;
  check("data: 1\n\ndata: [DONE]\n", "|1@9\nend:|[DONE]\n");
  check("data: 1\n\ndata: [DONE]", "|1@9\nend:|[DONE]\n");
  check("event: a\r\ndata: 2\r", "end:a|2\n");
  check("data: 1\n\n: bye\n", "|1@9\n");
  check("data: 1\n\n: bye", "|1@9\n");
  check("", "");
}

static void what_is_over_the_limit_is_dropped(void **state) {
  (void)state;
  check_limit(SPAN("data: 0123456789abcdefghij\n\ndata: 1\n\n"), 20, "|0123456789abcd!@28\n|1@37\n");
  check_limit(SPAN("data: 0123456789\ndata: 0123456789\ndata: x\n\n"), 16, "|0123456789\n01234!@43\n");
  check_limit(SPAN("event: a-name-that-is-long\ndata: 1\n\n: 0123456789012345678901234567890123\n\n"), 16,
              "a-name-th|1!@36\ncomment@74\n");
  check_limit(SPAN("data: 12345\n\n"), 5, "|12345@13\n");
  check_limit(SPAN("data: 123456\n\n"), 5, "|12345!@14\n");
  check_limit(SPAN("data: 12345\nid: 0123456789012345678901234567890\ndata:\nfoo\n\n"), 5, "|12345!@59\n");
}

static void memory_is_bounded(void **state) {
  (void)state;
  struct sse sse;
  struct sse_event event;
  char chunk[4096];
  memset(chunk, 'x', sizeof(chunk));
  for (int comment = 0; comment < 2; comment++) {
    sse_init(&sse, comment ? 0 : 10000);
    size_t at = 0;
    assert_false(sse_next(&sse, comment ? ": " : "data: ", comment ? 2 : 6, &at, &event));
    for (int i = 0; i < 2000; i++) {
      at = 0;
      assert_false(sse_next(&sse, chunk, sizeof(chunk), &at, &event));
      assert_true(sse_pending(&sse));
    }
    assert_in_range(sse.line.cap + sse.data.cap + sse.name.cap, 1, 40000);
    at = 0;
    assert_true(sse_next(&sse, "\n\n", 2, &at, &event));
    assert_int_equal(event.overflow, !comment);
    assert_int_equal(event.comment, comment);
    assert_int_equal(event.data.n, comment ? 0 : 10000 - 6);
    sse_free(&sse);
  }
}

static uint32_t seed = 77;

static uint32_t draw(uint32_t below) {
  seed = seed * 1664525u + 1013904223u;
  return (uint32_t)((uint64_t)seed * below >> 32);
}

static void any_bytes_cut_anywhere_tell_the_same(void **state) {
  (void)state;
  static const char *const words[] = { "data",  "event", ":", " ",  "\n", "\r", "\r\n", "\n\n", "\r\r",
                                       "id",    "x",     "y", "\n", "\r", "data: ", "event: ", "\xef\xbb\xbf", ": c" };
  struct buf text = { 0 }, whole = { 0 }, cut = { 0 };
  for (int round = 0; round < 3000; round++) {
    buf_clear(&text);
    for (uint32_t i = draw(24) + 1; i > 0; i--) {
      if (draw(20) == 0) buf_add(&text, (char[]){ (char)draw(256) }, 1);
      else buf_puts(&text, words[draw(sizeof(words) / sizeof(*words))]);
    }
    size_t limit = draw(3) == 0 ? draw(24) + 1 : 0;
    note_text(buf_span(&text), limit, text.n, text.n, 0, &whole);
    for (int i = 0; i < 12; i++) {
      size_t one = draw((uint32_t)text.n + 1), two = one + draw((uint32_t)(text.n - one) + 1);
      note_text(buf_span(&text), limit, one, two, i % 4, &cut);
      assert_int_equal(cut.n, whole.n);
      if (whole.n) assert_memory_equal(cut.p, whole.p, whole.n);
    }
  }
  buf_free(&text);
  buf_free(&whole);
  buf_free(&cut);
}

int main(void) {
  const struct CMUnitTest tests[] = {
    TEST("a line ends with LF, CR or CRLF, cut anywhere", line_ends),
    TEST("an LF after the CR that ended a block is no event", an_lf_after_the_cr_that_ended_a_block_is_no_event),
    TEST("comments and blank lines are told as such", comments_and_blank_lines),
    TEST("fields: no space, many lines, any order, unknown ones", fields),
    TEST("a byte-order mark is skipped at the very start only", byte_order_mark),
    TEST("a clean end may come without the final empty line", a_clean_end_without_the_final_empty_line),
    TEST("what is over the limit is dropped and told", what_is_over_the_limit_is_dropped),
    TEST("memory is bounded by the limit", memory_is_bounded),
    TEST("any bytes, cut anywhere, tell the same", any_bytes_cut_anywhere_tell_the_same),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
