/*
 * core/body: what is JSON and what is not, where members lie, and that no bytes whatever do harm. The random test
 * compares the scanner with a second, recursive reading of the grammar. Every text is scanned in memory of exactly its
 * size, so that reading beyond it shows under the address sanitizer.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "core/body.h"

#define TEST(promise, function) { promise, function, NULL, NULL, NULL }

static struct arena arena;

static bool is_json(struct span text) {
  char *exact = malloc(text.n ? text.n : 1);
  if (text.n) memcpy(exact, text.p, text.n);
  size_t stopped = 0;
  bool good = body_scan((struct span){ exact, text.n }, NULL, NULL, 0, &stopped) == BODY_GOOD;
  assert_true(good || stopped <= text.n);
  free(exact);
  return good;
}

static void accepts_every_well_formed_value(void **state) {
  (void)state;
  static const char *const texts[] = {
    "{}", "[]", " \t\r\n{} \n", "null", "true", "false", "0", "-0", "1", "-12.5e+3", "0.1", "1E9", "1e-7", "\"\"",
    "\"x\"", "{\"a\":1}", "{ \"a\" : [ 1 , 2 , { } ] , \"b\" : { \"c\" : null } }", "[[],[[]],{}]",
    "[1,\"2\",true,false,null]", "\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u00e9\\uD83D\\uDE00\"", "\"\\ud800\"",
    "\"\x7f\xc3\xa9\xf0\x9f\x98\x80\"", "\"\xff\xfe\"", "\"0123456789012345678901234567890123456789\"",
    "{\"\":1,\"\":2}",
  };
  for (size_t i = 0; i < sizeof(texts) / sizeof(*texts); i++)
    if (!is_json(span_of(texts[i]))) fail_msg("refused: %s", texts[i]);
}

static void refuses_everything_else(void **state) {
  (void)state;
  static const char *const texts[] = {
    "", " ", "{", "}", "[", "]", "{]", "[}", "[1,]", "{\"a\":1,}", "[,1]", "{,}", "[1 2]", "{\"a\" 1}", "{\"a\":}",
    "{a:1}", "{1:2}", "{\"a\":1 \"b\":2}", "{}{}", "{} x", "1 2", "01", "-", "+1", ".5", "1.", "1.e3", "1e", "1e+",
    "--1", "0x10", "NaN", "Infinity", "tru", "truex", "nul", "True", "\"", "\"a", "\"\\", "\"\\x\"", "\"\\u12\"",
    "\"\\u12g4\"", "\"\\U0041\"", "\"a\nb\"", "\"a\tb\"", "'a'", "[1,2", "{\"a\":[1}", "// c\n{}", "{\"a\":1}/**/",
    "\xef\xbb\xbf{}", "\"01234567\x01\"", "\f1", "[\"a\":1]", "{\"a\",1}", "\"\\\"",
  };
  for (size_t i = 0; i < sizeof(texts) / sizeof(*texts); i++)
    if (is_json(span_of(texts[i]))) fail_msg("accepted: %s", texts[i]);
  assert_false(is_json(SPAN("{}\0")));
  assert_false(is_json(SPAN("\"a\0b\"")));
  assert_false(is_json(SPAN_NONE));
}

static void says_where_it_stopped_making_sense(void **state) {
  (void)state;
  size_t at = 0;
  assert_int_equal(body_scan(SPAN("{\"a\":1,}"), NULL, NULL, 0, &at), BODY_MALFORMED);
  assert_int_equal(at, 7);
  assert_int_equal(body_scan(SPAN("{} x"), NULL, NULL, 0, &at), BODY_MALFORMED);
  assert_int_equal(at, 3);
}

static void depth_is_bounded(void **state) {
  (void)state;
  for (int deep = BODY_DEPTH - 1; deep <= BODY_DEPTH + 1; deep++) {
    struct buf text = { 0 };
    for (int i = 0; i < deep; i++) buf_puts(&text, i % 3 ? "[" : "{\"a\":");
    buf_puts(&text, "1");
    for (int i = deep; i-- > 0;) buf_puts(&text, i % 3 ? "]" : "}");
    assert_int_equal(is_json(buf_span(&text)), deep <= BODY_DEPTH);
    buf_free(&text);
  }
  struct buf bomb = { 0 };
  for (int i = 0; i < 1000000; i++) buf_puts(&bomb, "[");
  assert_false(is_json(buf_span(&bomb)));
  buf_free(&bomb);
}

enum { MODEL, STREAM, USER, MESSAGES, COUNT };
static const char *const names[COUNT] = { "model", "stream", "user", "messages" };

static void finds_top_level_members_only(void **state) {
  (void)state;
  struct span text = SPAN(" {\"messages\":[{\"model\":\"no\"},{\"x\":{\"stream\":1}}],"
                          " \"model\" : \"gpt\" ,\"stream\":true}\n");
  struct body_value v[COUNT];
  assert_int_equal(body_scan(text, names, v, COUNT, NULL), BODY_GOOD);
  assert_int_equal(v[MODEL].kind, BODY_STRING);
  assert_true(span_is(v[MODEL].raw, "\"gpt\""));
  assert_int_equal(v[MODEL].times, 1);
  assert_true(body_is_true(v[STREAM]));
  assert_int_equal(v[USER].kind, BODY_ABSENT);
  assert_int_equal(v[USER].times, 0);
  assert_int_equal(v[MESSAGES].kind, BODY_ARRAY);
  assert_true(span_is(v[MESSAGES].raw, "[{\"model\":\"no\"},{\"x\":{\"stream\":1}}]"));
}

static void counts_a_member_twice_also_when_spelled_with_escapes(void **state) {
  (void)state;
  struct body_value v[COUNT];
  struct span text = SPAN("{\"model\":\"a\",\"\\u006dodel\":\"b\",\"mod\\u0065\\u006C\":3,"
                          "\"modell\":1,\"mode\":2,\"\\u006dode\":1}");
  assert_int_equal(body_scan(text, names, v, COUNT, NULL), BODY_GOOD);
  assert_int_equal(v[MODEL].times, 3);
  assert_true(span_is(v[MODEL].raw, "3"));
  assert_int_equal(v[MODEL].kind, BODY_NUMBER);
}

static void a_text_that_is_no_object_has_no_members(void **state) {
  (void)state;
  struct body_value v[COUNT];
  static const char *const texts[] = { "[{\"model\":\"x\"}]", "\"model\"", "[\"model\",1]", "1" };
  for (size_t i = 0; i < 4; i++) {
    assert_int_equal(body_scan(span_of(texts[i]), names, v, COUNT, NULL), BODY_GOOD);
    assert_int_equal(v[MODEL].kind, BODY_ABSENT);
  }
}

static void members_before_a_fault_are_told(void **state) {
  (void)state;
  struct body_value v[COUNT];
  assert_int_equal(body_scan(SPAN("{\"model\":\"x\",\"stream\":tr"), names, v, COUNT, NULL), BODY_MALFORMED);
  assert_true(body_is(v[MODEL], "x"));
  assert_int_equal(v[STREAM].kind, BODY_ABSENT);
}

static void replacing_raw_keeps_every_other_byte(void **state) {
  (void)state;
  struct span text = SPAN("{\"temperature\":1.000,  \"model\"\t:\"a\\/b\",\"n\":12345678901234567890}");
  struct body_value v[COUNT];
  assert_int_equal(body_scan(text, names, v, COUNT, NULL), BODY_GOOD);
  size_t before = (size_t)(v[MODEL].raw.p - text.p);
  assert_memory_equal(text.p + before, "\"a\\/b\"", 6);
  assert_int_equal(v[MODEL].raw.n, 6);
}

static void walks_elements_and_members_in_order(void **state) {
  (void)state;
  struct body_value root = body_root(SPAN(" [ 1 , \"a\" ,{\"x\":[2,3]} , [ ] ,null] ")), element, name, value;
  enum body_kind kinds[] = { BODY_NUMBER, BODY_STRING, BODY_OBJECT, BODY_ARRAY, BODY_NULL };
  size_t at = 0, seen = 0;
  while (body_element(root, &at, &element)) {
    assert_in_range(seen, 0, 4);
    assert_int_equal(element.kind, kinds[seen++]);
  }
  assert_int_equal(seen, 5);
  at = 0;
  assert_false(body_element(body_root(SPAN("[ ]")), &at, &element));
  assert_false(body_element(body_root(SPAN("{}")), &at, &element));

  root = body_root(SPAN("{ \"a\" : 1 ,\"b\\\"\":{\"c\":2} , \"\":[]}"));
  at = 0;
  assert_true(body_member(root, &at, &name, &value) && body_is(name, "a") && span_is(value.raw, "1"));
  assert_true(body_member(root, &at, &name, &value) && body_is(name, "b\"") && span_is(value.raw, "{\"c\":2}"));
  assert_true(body_member(root, &at, &name, &value) && body_is(name, "") && value.kind == BODY_ARRAY);
  assert_false(body_member(root, &at, &name, &value));
  at = 0;
  assert_false(body_member(body_root(SPAN("{ }")), &at, &name, &value));

  static const char *const inner[] = { "c" };
  body_members(body_root(SPAN("{\"b\":{\"c\":1},\"c\":2}")), inner, &value, 1);
  assert_true(span_is(value.raw, "2"));
  body_members(body_root(SPAN("[1]")), inner, &value, 1);
  assert_int_equal(value.kind, BODY_ABSENT);
}

static void text_undoes_every_escape(void **state) {
  (void)state;
  static const struct {
    const char *raw, *text;
  } cases[] = {
    { "\"plain\"", "plain" },
    { "\"\"", "" },
    { "\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"", "\"\\/\b\f\n\r\t" },
    { "\"\\u0041\\u00e9\\u20AC\"", "A\xc3\xa9\xe2\x82\xac" },
    { "\"x\\uD83D\\uDE00y\"", "x\xf0\x9f\x98\x80y" },
    { "\"\\uDBFF\\uDFFF\"", "\xf4\x8f\xbf\xbf" },
    { "\"\\ud83d\"", "\xef\xbf\xbd" },
    { "\"\\ud83dx\"", "\xef\xbf\xbdx" },
    { "\"\\ude00\\ud83d\"", "\xef\xbf\xbd\xef\xbf\xbd" },
    { "\"\\ud83d\\ud83d\\ude00\"", "\xef\xbf\xbd\xf0\x9f\x98\x80" },
    { "\"\\ud83d\\n\"", "\xef\xbf\xbd\n" },
  };
  for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
    struct body_value value = body_root(span_of(cases[i].raw));
    struct span text = body_text(value, &arena);
    assert_non_null(text.p);
    if (!span_is(text, cases[i].text)) fail_msg("%s", cases[i].raw);
    assert_true(body_is(value, cases[i].text));
    assert_false(body_is(value, "other"));
  }
  struct span nul = body_text(body_root(SPAN("\"a\\u0000b\"")), &arena);
  assert_int_equal(nul.n, 3);
  assert_memory_equal(nul.p, "a\0b", 3);
  assert_false(body_is(body_root(SPAN("\"a\\u0000b\"")), "a"));
  assert_null(body_text(body_root(SPAN("12")), &arena).p);
  arena_free(&arena);
}

static void text_without_escapes_is_not_copied(void **state) {
  (void)state;
  struct span text = SPAN("\"gpt-4o\"");
  assert_ptr_equal(body_text(body_root(text), &arena).p, text.p + 1);
  assert_null(arena.blocks);
}

static void numbers_are_read_or_refused(void **state) {
  (void)state;
  assert_true(body_number(body_root(SPAN("-12.5e1")), 7) == -125);
  assert_true(body_number(body_root(SPAN("0")), 7) == 0);
  assert_true(body_number(body_root(SPAN("1e999")), 7) == 7);
  assert_true(body_number(body_root(SPAN("\"1\"")), 7) == 7);
  assert_true(body_number((struct body_value){ .kind = BODY_ABSENT }, 7) == 7);
  struct buf digits = { 0 };
  for (int i = 0; i < 5000; i++) buf_puts(&digits, "1");
  assert_true(body_number(body_root(buf_span(&digits)), 7) == 7);
  buf_free(&digits);
}

/* ---- a second reading of the grammar ---- */

static bool grammar_value(const char **p, const char *end, int depth);

static void grammar_blanks(const char **p, const char *end) {
  while (*p < end && **p && strchr(" \t\r\n", **p)) ++*p;
}

static bool grammar_take(const char **p, const char *end, const char *any) {
  return *p < end && **p && strchr(any, **p) && (++*p, true);
}

static bool grammar_digits(const char **p, const char *end) {
  if (!grammar_take(p, end, "0123456789")) return false;
  while (grammar_take(p, end, "0123456789")) continue;
  return true;
}

static bool grammar_number(const char **p, const char *end) {
  grammar_take(p, end, "-");
  if (!grammar_take(p, end, "0") && !grammar_digits(p, end)) return false;
  if (grammar_take(p, end, ".") && !grammar_digits(p, end)) return false;
  if (!grammar_take(p, end, "eE")) return true;
  grammar_take(p, end, "+-");
  return grammar_digits(p, end);
}

static bool grammar_string(const char **p, const char *end) {
  if (!grammar_take(p, end, "\"")) return false;
  while (*p < end && **p != '"') {
    if ((unsigned char)**p < 0x20) return false;
    if (*(*p)++ != '\\') continue;
    if (grammar_take(p, end, "u")) {
      for (int i = 0; i < 4; i++)
        if (!grammar_take(p, end, "0123456789abcdefABCDEF")) return false;
    } else if (!grammar_take(p, end, "\"\\/bfnrt")) {
      return false;
    }
  }
  return grammar_take(p, end, "\"");
}

static bool grammar_list(const char **p, const char *end, int depth, bool object) {
  const char *close = object ? "}" : "]";
  grammar_blanks(p, end);
  if (grammar_take(p, end, close)) return true;
  do {
    grammar_blanks(p, end);
    if (object && !grammar_string(p, end)) return false;
    grammar_blanks(p, end);
    if (object && !grammar_take(p, end, ":")) return false;
    if (!grammar_value(p, end, depth)) return false;
    grammar_blanks(p, end);
  } while (grammar_take(p, end, ","));
  return grammar_take(p, end, close);
}

static bool grammar_value(const char **p, const char *end, int depth) {
  grammar_blanks(p, end);
  if (grammar_take(p, end, "{")) return depth < BODY_DEPTH && grammar_list(p, end, depth + 1, true);
  if (grammar_take(p, end, "[")) return depth < BODY_DEPTH && grammar_list(p, end, depth + 1, false);
  if (*p < end && **p == '"') return grammar_string(p, end);
  static const char *const words[] = { "true", "false", "null" };
  for (int i = 0; i < 3; i++) {
    size_t n = strlen(words[i]);
    if ((size_t)(end - *p) >= n && memcmp(*p, words[i], n) == 0) return *p += n, true;
  }
  return grammar_number(p, end);
}

static bool grammar_accepts(struct span text) {
  const char *p = text.p, *end = text.p + text.n;
  if (!grammar_value(&p, end, 0)) return false;
  grammar_blanks(&p, end);
  return p == end;
}

static uint32_t seed = 20240607;

static uint32_t draw(uint32_t below) {
  seed = seed * 1664525u + 1013904223u;
  return (uint32_t)((uint64_t)seed * below >> 32);
}

/* Everything that can be asked about a text: for what the sanitizers see, not for the answers. */
static void ask_everything(struct span text) {
  struct body_value v[COUNT], element, name;
  enum body_result result = body_scan(text, names, v, COUNT, NULL);
  struct body_value root = result == BODY_GOOD ? body_root(text) : v[MESSAGES];
  for (size_t at = 0; body_element(root, &at, &element);) (void)body_number(element, 0);
  for (size_t at = 0; body_member(root, &at, &name, &element);) assert_non_null(body_text(name, &arena).p);
  for (size_t i = 0; i < COUNT; i++)
    if (v[i].kind == BODY_STRING) assert_non_null(body_text(v[i], &arena).p);
}

static void no_bytes_do_harm_and_the_grammar_agrees(void **state) {
  (void)state;
  static const char *const seeds[] = {
    "{\"model\":\"gpt\\u00e9\\ud83d\\ude00\",\"stream\":true,\"messages\":["
    "{\"role\":\"user\",\"content\":\"a \\\"b\\\" c\"}]}",
    "[1,-2.5e+10,0.1,[],{},null,false,true,\"\\\\\",{\"a\":[{\"b\":0}]}]", "{\"\\u006dodel\" : 0 , \"user\":\"x\"}",
  };
  static const char alphabet[] = "{}[]\":,\\u0123eE+-. \n\ttrufalsn\x01\x1f\x7f\x80\xff/bd";
  unsigned good = 0;
  for (int round = 0; round < 60000; round++) {
    const char *from = seeds[draw(3)];
    size_t n = strlen(from);
    char *text = malloc(n);
    memcpy(text, from, n);
    for (uint32_t i = draw(4); i > 0; i--) text[draw((uint32_t)n)] = alphabet[draw(sizeof(alphabet) - 1)];
    if (draw(4) == 0) n = draw((uint32_t)n + 1);
    char *exact = malloc(n ? n : 1);
    memcpy(exact, text, n);
    struct span span = { exact, n };
    bool expected = grammar_accepts(span);
    if ((body_scan(span, NULL, NULL, 0, NULL) == BODY_GOOD) != expected) fail_msg("differs: %.*s", (int)n, exact);
    good += expected;
    ask_everything(span);
    free(exact);
    free(text);
    if (round % 1000 == 0) arena_free(&arena);
  }
  arena_free(&arena);
  assert_in_range(good, 6000, 54000);
}

int main(void) {
  const struct CMUnitTest tests[] = {
    TEST("accepts every well-formed value", accepts_every_well_formed_value),
    TEST("refuses everything else", refuses_everything_else),
    TEST("says where a text stopped making sense", says_where_it_stopped_making_sense),
    TEST("depth is bounded, and costs no stack", depth_is_bounded),
    TEST("finds top-level members only", finds_top_level_members_only),
    TEST("counts a member twice, escaped spellings included", counts_a_member_twice_also_when_spelled_with_escapes),
    TEST("a text that is no object has no members", a_text_that_is_no_object_has_no_members),
    TEST("members before a fault are told", members_before_a_fault_are_told),
    TEST("A3 a member's raw bytes are exactly its own", replacing_raw_keeps_every_other_byte),
    TEST("walks elements and members in order", walks_elements_and_members_in_order),
    TEST("text undoes every escape, surrogate pairs included", text_undoes_every_escape),
    TEST("text without escapes is not copied", text_without_escapes_is_not_copied),
    TEST("numbers are read or refused", numbers_are_read_or_refused),
    TEST("no bytes do harm, and the grammar agrees", no_bytes_do_harm_and_the_grammar_agrees),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
