/*
 * core/commit: what each event means. Streams are told as one letter an event: H hold, C commit, E end, F fail; a small
 * letter is what sse_end gave at the end. Fixture streams are read from tests/fixtures.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/buf.h"
#include "core/body.h"
#include "core/commit.h"

#define TEST(promise, function) { promise, function, NULL, forget_all, NULL }

static struct arena arena;

static int forget_all(void **state) {
  (void)state;
  arena_free(&arena);
  return 0;
}

static void read_fixture(const char *name, struct buf *text) {
  char path[256];
  snprintf(path, sizeof(path), "tests/fixtures/%s", name);
  FILE *file = fopen(path, "rb");
  if (!file) fail_msg("cannot open %s: run from the root of the repository", path);
  char *to = buf_reserve(text, 65536);
  text->n = to ? fread(to, 1, 65536, file) : 0;
  fclose(file);
}

static struct event_facts read_event(enum route route, const char *name, const char *data) {
  struct sse_event event = { span_of(name), span_of(data), false, false };
  struct event_facts facts;
  commit_read_event(route, &event, &arena, &facts);
  return facts;
}

static char letter_of(enum route route, const char *name, const char *data) {
  return "HCEF"[read_event(route, name, data).class];
}

static void check_text(struct span is, const char *wanted, int line) {
  if (!span_is(is, wanted)) fail_msg("line %d: \"%.*s\" is not \"%s\"", line, (int)is.n, is.p ? is.p : "", wanted);
}

#define assert_text(is, wanted) check_text(is, wanted, __LINE__)

/* ---- fixture streams ---- */

struct summary {
  char letters[64];
  size_t events;
  bool finished, done_only, terminal; /* ever */
  struct event_facts facts; /* what was told last of each */
};

static void sum_event(struct summary *sum, enum route route, const struct sse_event *event, bool at_end) {
  struct event_facts facts;
  commit_read_event(route, event, &arena, &facts);
  assert_true(sum->events + 1 < sizeof(sum->letters));
  sum->letters[sum->events++] = (at_end ? "hcef" : "HCEF")[facts.class];
  sum->finished |= facts.finished;
  sum->done_only |= facts.done_only;
  sum->terminal |= facts.terminal;
  if (facts.finish_reason.n) sum->facts.finish_reason = facts.finish_reason;
  if (facts.response_id.n) sum->facts.response_id = facts.response_id;
  if (facts.class == EVENT_FAIL) sum->facts.error = facts.error;
  if (facts.sequence >= 0) sum->facts.sequence = facts.sequence;
  if (facts.usage.input) sum->facts.usage.input = facts.usage.input;
  if (facts.usage.output) sum->facts.usage.output = facts.usage.output;
  sum->facts.usage.known |= facts.usage.known;
}

static struct summary sum_fixture(enum route route, const char *name) {
  struct summary sum = { .facts.sequence = -1 };
  struct buf text = { 0 };
  struct sse sse;
  struct sse_event event;
  read_fixture(name, &text);
  sse_init(&sse, 0);
  for (size_t at = 0; sse_next(&sse, text.p, text.n, &at, &event);) sum_event(&sum, route, &event, false);
  if (sse_end(&sse, &event)) sum_event(&sum, route, &event, true);
  sse_free(&sse);
  buf_free(&text);
  return sum;
}

static void check_letters(const struct summary *sum, const char *name, const char *letters) {
  if (strcmp(sum->letters, letters) != 0) fail_msg("%s: %s, not %s", name, sum->letters, letters);
}

static void chat_fixtures(void **state) {
  (void)state;
  static const struct {
    const char *name, *letters, *finish;
    bool usage;
  } cases[] = {
    { "openai-chat/success-stream.sse", "HCCCCCE", "stop", false },
    { "openai-chat/success-stream-include-usage.sse", "HCCCCCHE", "stop", true },
    { "openai-chat/success-stream-tool-calls.sse", "CCCCCCE", "tool_calls", false },
    { "openai-chat/no-done-but-finished.sse", "HCC", "stop", false },
    { "openai-chat/midstream-error.sse", "HCFE", "", false },
    { "openai-chat/error-before-first-token.sse", "FE", "", false },
    { "openai-chat/truncated.sse", "HCc", "", false },
    { "azure-openai/success-stream.sse", "HHCCCCCE", "stop", false },
    { "gemini-openai/success-stream.sse", "CCE", "stop", false },
  };
  for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
    struct summary sum = sum_fixture(ROUTE_CHAT, cases[i].name);
    check_letters(&sum, cases[i].name, cases[i].letters);
    assert_text(sum.facts.finish_reason, cases[i].finish);
    assert_int_equal(sum.finished, cases[i].finish[0] != '\0');
    assert_int_equal(sum.done_only, strchr(cases[i].letters, 'E') != NULL);
    assert_int_equal(sum.facts.usage.known, cases[i].usage);
    if (cases[i].usage) assert_true(sum.facts.usage.input == 14 && sum.facts.usage.output == 6);
  }
  struct summary sum = sum_fixture(ROUTE_CHAT, "openai-chat/error-before-first-token.sse");
  assert_text(sum.facts.error.type, "server_error");
  assert_text(sum.facts.error.code, "server_is_overloaded");
  assert_text(sum.facts.error.message, "The server is overloaded.");
  assert_text(sum_fixture(ROUTE_CHAT, "openai-chat/success-stream.sse").facts.response_id, "chatcmpl-fix001");
  assert_text(sum_fixture(ROUTE_CHAT, "azure-openai/success-stream.sse").facts.response_id, "chatcmpl-fix001");
  assert_text(sum_fixture(ROUTE_CHAT, "gemini-openai/success-stream.sse").facts.response_id, "fixGemini001");
}

static void responses_fixtures(void **state) {
  (void)state;
  static const struct {
    const char *name, *letters, *finish;
    double sequence;
  } cases[] = {
    { "openai-responses/success-stream.sse", "HHHHCCCCCCCE", "completed", 11 },
    { "openai-responses/success-stream-tool-call.sse", "HHHCCCCE", "completed", 7 },
    { "openai-responses/incomplete-stream.sse", "HHE", "incomplete", 2 },
    { "openai-responses/failed-stream.sse", "HHF", "", 2 },
    { "openai-responses/error-event-flat.sse", "HHF", "", 2 },
    { "openai-responses/error-event-nested.sse", "HHF", "", 2 },
    { "openai-responses/truncated.sse", "HHH", "", 2 },
  };
  for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
    struct summary sum = sum_fixture(ROUTE_RESPONSES, cases[i].name);
    check_letters(&sum, cases[i].name, cases[i].letters);
    assert_text(sum.facts.finish_reason, cases[i].finish);
    assert_text(sum.facts.response_id, "resp_fix001");
    assert_true(sum.facts.sequence == cases[i].sequence);
    char last = sum.letters[sum.events - 1];
    assert_int_equal(sum.terminal, last == 'E' || last == 'F');
    assert_int_equal(sum.finished, last == 'E');
    if (last == 'F') assert_text(sum.facts.error.code, "server_error");
    if (last == 'F') assert_true(sum.facts.error.message.n > 10);
  }
  struct summary sum = sum_fixture(ROUTE_RESPONSES, "openai-responses/success-stream.sse");
  assert_true(sum.facts.usage.known && sum.facts.usage.input == 14 && sum.facts.usage.output == 6);
}

static void messages_fixtures(void **state) {
  (void)state;
  static const struct {
    const char *name, *letters, *finish;
  } cases[] = {
    { "anthropic-messages/success-stream.sse", "HHHCCCCHCE", "end_turn" },
    { "anthropic-messages/success-stream-thinking.sse", "HHCCHHCCCCHCE", "end_turn" },
    { "anthropic-messages/success-stream-tool-use.sse", "HHCCHCCCCHCE", "tool_use" },
    { "anthropic-messages/midstream-error.sse", "HHCF", "" },
    { "anthropic-messages/error-after-message-start.sse", "HHF", "" },
    { "anthropic-messages/error-before-first-token.sse", "F", "" },
    { "anthropic-messages/truncated.sse", "HHC", "" },
  };
  for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
    struct summary sum = sum_fixture(ROUTE_MESSAGES, cases[i].name);
    check_letters(&sum, cases[i].name, cases[i].letters);
    assert_text(sum.facts.finish_reason, cases[i].finish);
    char last = sum.letters[sum.events - 1];
    assert_int_equal(sum.terminal, last == 'E' || last == 'F');
    if (last == 'F') assert_text(sum.facts.error.type, "overloaded_error");
    if (last == 'F') assert_text(sum.facts.error.message, "Overloaded");
    if (last == 'E') assert_true(sum.facts.usage.input == 14 && sum.facts.usage.output == 6);
    if (cases[i].letters[0] == 'H') assert_text(sum.facts.response_id, "msg_01Fixture");
  }
}

/* ---- single events ---- */

struct single {
  const char *name, *data;
  char letter;
};

static void check_singles(enum route route, const struct single *singles, size_t count) {
  for (size_t i = 0; i < count; i++) {
    char letter = letter_of(route, singles[i].name, singles[i].data);
    if (letter != singles[i].letter)
      fail_msg("%s %s is %c, not %c", singles[i].name, singles[i].data, letter, singles[i].letter);
  }
}

#define CHECK_SINGLES(route, singles) check_singles(route, singles, sizeof(singles) / sizeof(*(singles)))
#define DELTA(members) "{\"choices\":[{\"index\":0,\"delta\":{" members "},\"finish_reason\":null}]}"

static void chat_preamble_holds(void **state) {
  (void)state;
  static const struct single singles[] = {
    { "", DELTA("\"role\":\"assistant\",\"content\":\"\",\"refusal\":null"), 'H' },
    { "", DELTA("\"role\":\"assistant\",\"content\":null"), 'H' },
    { "", DELTA("\"r\\u006fle\":\"assistant\""), 'H' },
    { "", DELTA(""), 'H' },
    { "", DELTA("\"content\":\"\",\"tool_calls\":[ ],\"function_call\":null,\"audio\":{ },\"done\":false"), 'H' },
    { "", "{\"choices\":[],\"prompt_filter_results\":[{}]}", 'H' },
    { "", "{\"choices\":null}", 'H' },
    { "", "{\"choices\":[{\"delta\":{},\"finish_reason\":\"\"}]}", 'H' },
    { "", "{\"usage\":{\"prompt_tokens\":1}}", 'H' },
    { "", "{\"choices\":[{\"text\":\"\",\"finish_reason\":null}]}", 'H' },
    { "", "", 'H' },
    { "", " ", 'H' },
    { "", "{}", 'H' },
    { "ping", "{\"type\":\"ping\"}", 'H' },
  };
  CHECK_SINGLES(ROUTE_CHAT, singles);
  CHECK_SINGLES(ROUTE_COMPLETIONS, singles);
}

static void chat_content_commits(void **state) {
  (void)state;
  static const struct single singles[] = {
    { "", DELTA("\"content\":\"x\""), 'C' },
    { "", DELTA("\"role\":\"assistant\",\"content\":\" \""), 'C' },
    { "", DELTA("\"content\":[{\"type\":\"text\",\"text\":\"x\"}]"), 'C' },
    { "", DELTA("\"tool_calls\":[{\"index\":0}]"), 'C' },
    { "", DELTA("\"function_call\":{\"name\":\"f\"}"), 'C' },
    { "", DELTA("\"refusal\":\"no\""), 'C' },
    { "", DELTA("\"reasoning\":\"hm\""), 'C' },
    { "", DELTA("\"reasoning_content\":\"hm\""), 'C' },
    { "", DELTA("\"reasoning_details\":[{}]"), 'C' },
    { "", DELTA("\"audio\":{\"id\":\"a\"}"), 'C' },
    { "", DELTA("\"something_new\":1"), 'C' },
    { "", "{\"choices\":[{\"delta\":{}},{\"delta\":{\"content\":\"x\"}}]}", 'C' },
    { "", "{\"choices\":[{\"message\":{\"role\":\"assistant\",\"content\":\"x\"}}]}", 'C' },
    { "", "{\"choices\":[{\"delta\":{},\"finish_reason\":\"length\"}]}", 'C' },
    { "", "{\"choices\":[{\"text\":\"x\"}]}", 'C' },
    { "", "{\"object\":\"something.else\"}", 'C' },
    { "", "{\"choices\":[{\"delta\":{\"content\":\"\"", 'C' },
    { "", "not json", 'C' },
    { "", "[1]", 'C' },
  };
  CHECK_SINGLES(ROUTE_CHAT, singles);
  CHECK_SINGLES(ROUTE_COMPLETIONS, singles);
}

static void chat_ends(void **state) {
  (void)state;
  struct event_facts facts = read_event(ROUTE_CHAT, "", "[DONE]");
  assert_true(facts.class == EVENT_END && facts.done_only && facts.terminal && !facts.finished);
  facts = read_event(ROUTE_COMPLETIONS, "", " [DONE] ");
  assert_true(facts.class == EVENT_END && facts.done_only);
  facts = read_event(ROUTE_CHAT, "", "{\"choices\":[{\"delta\":{},\"finish_reason\":\"content_filter\"}]}");
  assert_true(facts.class == EVENT_COMMIT && facts.finished && !facts.terminal && !facts.done_only);
  assert_text(facts.finish_reason, "content_filter");
}

static void errors_in_a_chat_stream_fail(void **state) {
  (void)state;
  static const struct single singles[] = {
    { "", "{\"error\":{\"message\":\"m\"}}", 'F' },
    { "", "{\"error\":\"overloaded\"}", 'F' },
    { "", "{\"error\":null,\"choices\":[]}", 'H' },
    { "", "{\"error\":\"\",\"choices\":[]}", 'H' },
    { "", "{\"choices\":[{\"delta\":{\"content\":\"x\"}}],\"error\":{\"message\":\"m\"}}", 'F' },
    { "error", "{\"message\":\"m\"}", 'F' },
    { "error", "boom", 'F' },
    { "error", "", 'F' },
    { "", "[{\"error\":{\"code\":429,\"message\":\"m\",\"status\":\"RESOURCE_EXHAUSTED\"}}]", 'F' },
    { "", "{\"object\":\"error\",\"message\":\"m\",\"type\":\"BadRequestError\",\"code\":400}", 'F' },
  };
  CHECK_SINGLES(ROUTE_CHAT, singles);
  struct event_facts facts = read_event(ROUTE_CHAT, singles[8].name, singles[8].data);
  assert_text(facts.error.type, "RESOURCE_EXHAUSTED");
  assert_text(facts.error.code, "429");
  assert_text(facts.error.message, "m");
  assert_false(facts.terminal);
  facts = read_event(ROUTE_CHAT, "", "{\"error\":\"over\\nloaded\"}");
  assert_text(facts.error.message, "over\nloaded");
  assert_null(facts.error.code.p);
  assert_text(read_event(ROUTE_CHAT, "error", " boom ").error.message, "boom");
  assert_text(read_event(ROUTE_CHAT, singles[9].name, singles[9].data).error.type, "BadRequestError");
}

static void chat_usage_is_read(void **state) {
  (void)state;
  struct event_facts facts =
    read_event(ROUTE_CHAT, "", "{\"choices\":[],\"usage\":{\"prompt_tokens\":14,\"completion_tokens\":6,"
                               "\"prompt_tokens_details\":{\"cached_tokens\":5}}}");
  assert_true(facts.usage.known && facts.usage.input == 14 && facts.usage.output == 6 && facts.usage.cached == 5);
  facts = read_event(ROUTE_CHAT, "", "{\"choices\":[],\"usage\":{\"prompt_tokens\":-1,\"completion_tokens\":1e300}}");
  assert_true(facts.usage.known && facts.usage.input == 0 && facts.usage.output == 0);
  assert_false(read_event(ROUTE_CHAT, "", "{\"choices\":[],\"usage\":null}").usage.known);
}

static void an_ordinary_delta_allocates_nothing(void **state) {
  (void)state;
  read_event(ROUTE_CHAT, "",
             "{\"id\":\"chatcmpl-1\",\"choices\":[{\"delta\":{\"content\":\"x\\n\"},\"finish_reason\":null}]}");
  read_event(ROUTE_RESPONSES, "response.output_text.delta",
             "{\"type\":\"response.output_text.delta\",\"sequence_number\":4,\"delta\":\"x\\n\"}");
  read_event(ROUTE_MESSAGES, "content_block_delta",
             "{\"type\":\"content_block_delta\",\"delta\":{\"type\":\"text_delta\",\"text\":\"x\\n\"}}");
  assert_null(arena.blocks);
}

static void responses_events(void **state) {
  (void)state;
  static const struct single singles[] = {
    { "", "{\"type\":\"response.created\"}", 'H' },
    { "", "{\"type\":\"response.queued\"}", 'H' },
    { "", "{\"type\":\"response.in_progress\"}", 'H' },
    { "", "{\"type\":\"response.output_item.added\",\"item\":{\"type\":\"function_call\"}}", 'H' },
    { "", "{\"type\":\"response.content_part.added\"}", 'H' },
    { "", "{\"type\":\"response.reasoning_summary_part.added\"}", 'H' },
    { "", "{\"type\":\"keepalive\",\"sequence_number\":3}", 'H' },
    { "keepalive", "{}", 'H' },
    { "response.created", "{\"cut", 'H' },
    { "response.something.new", "", 'H' },
    { "", "", 'H' },
    { "response.something.new", "{}", 'C' },
    { "response.created", "{\"type\":\"response.output_text.delta\"}", 'C' },
    { "response.output_text.delta", "{\"type\":\"resp", 'C' },
    { "", "{\"type\":\"response.reasoning_summary_text.delta\"}", 'C' },
    { "", "{\"type\":\"response.refusal.delta\"}", 'C' },
    { "", "not json", 'C' },
    { "", "{\"type\":\"response.completed\",\"response\":{\"output\":[\"cut", 'E' },
    { "response.incomplete", "", 'E' },
    { "", "{\"type\":\"response.failed\"}", 'F' },
    { "", "{\"type\":\"error\",\"message\":\"m\"}", 'F' },
    { "error", "{\"type\":\"invalid_request_error\",\"message\":\"m\"}", 'F' },
    { "", "{\"error\":{\"message\":\"m\"}}", 'F' },
    { "error", "", 'F' },
    { "", "[DONE]", 'H' },
  };
  CHECK_SINGLES(ROUTE_RESPONSES, singles);
  assert_true(read_event(ROUTE_RESPONSES, "", "[DONE]").done_only);
  assert_false(read_event(ROUTE_RESPONSES, "", "[DONE]").terminal);
}

static void responses_facts(void **state) {
  (void)state;
  struct event_facts facts = read_event(ROUTE_RESPONSES, "response.failed",
    "{\"type\":\"response.failed\",\"response\":{\"id\":\"resp_1\",\"status\":\"failed\",\"error\":{\"code\":"
    "\"rate_limit_exceeded\",\"message\":\"slow\\u0020down\"},\"usage\":null}}");
  assert_true(facts.class == EVENT_FAIL && facts.terminal && !facts.finished && facts.sequence == -1);
  assert_text(facts.error.code, "rate_limit_exceeded");
  assert_text(facts.error.message, "slow down");
  assert_text(facts.response_id, "resp_1");
  assert_null(facts.finish_reason.p);
  facts = read_event(ROUTE_RESPONSES, "error",
                     "{\"type\":\"error\",\"sequence_number\":9,\"code\":\"c\",\"message\":\"m\"}");
  assert_text(facts.error.code, "c");
  assert_text(facts.error.message, "m");
  assert_null(facts.error.type.p);
  assert_true(facts.sequence == 9);
  facts = read_event(ROUTE_RESPONSES, "error", "{\"type\":\"overloaded\",\"code\":\"c\",\"message\":\"m\"}");
  assert_text(facts.error.type, "overloaded");
  facts = read_event(ROUTE_RESPONSES, "",
    "{\"type\":\"response.incomplete\",\"response\":{\"id\":\"resp_2\",\"status\":\"incomplete\",\"usage\":{"
    "\"input_tokens\":3,\"input_tokens_details\":{\"cached_tokens\":2},\"output_tokens\":1}}}");
  assert_true(facts.class == EVENT_END && facts.finished && facts.terminal && !facts.done_only);
  assert_text(facts.finish_reason, "incomplete");
  assert_true(facts.usage.known && facts.usage.input == 3 && facts.usage.output == 1 && facts.usage.cached == 2);
  assert_text(read_event(ROUTE_RESPONSES, "response.completed", "{\"cut").finish_reason, "completed");
}

static void messages_events(void **state) {
  (void)state;
  static const struct single singles[] = {
    { "message_start", "{\"type\":\"message_start\",\"message\":{}}", 'H' },
    { "", "{\"type\":\"message_start\",\"message\":{}}", 'H' },
    { "ping", "{\"type\":\"ping\"}", 'H' },
    { "ping", "", 'H' },
    { "message_start", "{\"cut", 'H' },
    { "content_block_start", "{\"content_block\":{\"type\":\"text\",\"text\":\"\"}}", 'H' },
    { "content_block_start", "{\"content_block\":{\"type\":\"text\",\"text\":\"x\"}}", 'C' },
    { "content_block_start", "{\"content_block\":{\"type\":\"thinking\",\"thinking\":\"\",\"signature\":\"\"}}", 'H' },
    { "content_block_start", "{\"content_block\":{\"type\":\"redacted_thinking\",\"data\":\"x\"}}", 'C' },
    { "content_block_start", "{\"content_block\":{\"type\":\"tool_use\",\"id\":\"t\",\"input\":{}}}", 'C' },
    { "content_block_start", "{\"content_block\":{\"type\":\"server_tool_use\"}}", 'C' },
    { "content_block_delta", "{\"delta\":{\"type\":\"text_delta\",\"text\":\"\"}}", 'H' },
    { "content_block_delta", "{\"delta\":{\"type\":\"text_delta\",\"text\":\"x\"}}", 'C' },
    { "content_block_delta", "{\"delta\":{\"type\":\"thinking_delta\",\"thinking\":\"x\"}}", 'C' },
    { "content_block_delta", "{\"delta\":{\"type\":\"input_json_delta\",\"partial_json\":\"\"}}", 'C' },
    { "content_block_delta", "{\"delta\":{\"type\":\"signature_delta\",\"signature\":\"x\"}}", 'C' },
    { "content_block_delta", "{\"cut", 'C' },
    { "content_block_stop", "{\"type\":\"content_block_stop\"}", 'H' },
    { "message_delta", "{\"delta\":{\"stop_reason\":\"end_turn\"}}", 'C' },
    { "message_delta", "{\"delta\":{\"stop_reason\":null}}", 'H' },
    { "message_stop", "{\"type\":\"message_stop\"}", 'E' },
    { "message_stop", "", 'E' },
    { "", "{\"type\":\"message_stop\"}", 'E' },
    { "message", "{\"type\":\"message_stop\"}", 'E' },
    { "error", "{\"type\":\"error\",\"error\":{\"type\":\"t\"}}", 'F' },
    { "", "{\"type\":\"error\",\"error\":{\"type\":\"t\"}}", 'F' },
    { "", "{\"error\":{\"type\":\"t\"}}", 'F' },
    { "error", "boom", 'F' },
    { "error", "{\"content_block\":{\"type\":\"tool_use\"}}", 'F' },
    { "something_new", "{}", 'C' },
    { "something_new", "", 'H' },
    { "", "", 'H' },
    { "", "not json", 'C' },
    { "", "[DONE]", 'H' },
  };
  CHECK_SINGLES(ROUTE_MESSAGES, singles);
}

static void messages_facts(void **state) {
  (void)state;
  struct event_facts facts = read_event(ROUTE_MESSAGES, "message_start",
    "{\"type\":\"message_start\",\"message\":{\"id\":\"msg_1\",\"usage\":{\"input_tokens\":14,"
    "\"cache_creation_input_tokens\":9,\"cache_read_input_tokens\":7,\"output_tokens\":1}}}");
  assert_text(facts.response_id, "msg_1");
  assert_true(facts.usage.known && facts.usage.input == 14 && facts.usage.cached == 7 && facts.usage.output == 1);
  facts = read_event(ROUTE_MESSAGES, "message_delta",
                     "{\"delta\":{\"stop_reason\":\"max_tokens\"},\"usage\":{\"output_tokens\":6}}");
  assert_true(facts.finished && !facts.terminal && facts.usage.known && facts.usage.output == 6);
  assert_text(facts.finish_reason, "max_tokens");
  assert_true(read_event(ROUTE_MESSAGES, "message_stop", "{}").terminal);
  facts = read_event(ROUTE_MESSAGES, "error",
    "{\"type\":\"error\",\"error\":{\"type\":\"rate_limit_error\",\"message\":\"m\","
    "\"details\":{\"error_code\":\"spend\"}}}");
  assert_true(facts.class == EVENT_FAIL && facts.terminal);
  assert_text(facts.error.type, "rate_limit_error");
  assert_text(facts.error.code, "spend");
  assert_text(facts.error.message, "m");
}

static void comments_hold_everywhere(void **state) {
  (void)state;
  struct sse_event comment = { SPAN_NONE, SPAN_NONE, true, false };
  struct event_facts facts;
  for (int route = ROUTE_NONE; route < ROUTE_COUNT; route++) {
    commit_read_event((enum route)route, &comment, &arena, &facts);
    assert_true(facts.class == EVENT_HOLD && facts.sequence == -1 && !facts.terminal && !facts.done_only);
  }
}

static void any_data_commits_on_other_routes(void **state) {
  (void)state;
  static const struct single singles[] = { { "", "{\"error\":{}}", 'C' }, { "x", "", 'H' }, { "error", "x", 'C' } };
  CHECK_SINGLES(ROUTE_NONE, singles);
  CHECK_SINGLES(ROUTE_EMBEDDINGS, singles);
}

static void facts_outlive_the_event(void **state) {
  (void)state;
  char *data = strdup("{\"id\":\"chatcmpl-1\",\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}");
  char *bad = strdup("{\"error\":{\"type\":\"t\",\"code\":17,\"message\":\"m\"}}");
  assert_true(data && bad);
  struct event_facts facts = read_event(ROUTE_CHAT, "", data), failed = read_event(ROUTE_CHAT, "", bad);
  memset(data, 'x', strlen(data));
  memset(bad, 'x', strlen(bad));
  assert_text(facts.response_id, "chatcmpl-1");
  assert_text(facts.finish_reason, "stop");
  assert_text(failed.error.type, "t");
  assert_text(failed.error.code, "17");
  assert_text(failed.error.message, "m");
  free(data);
  free(bad);
}

static uint32_t seed = 4711;

static uint32_t draw(uint32_t below) {
  seed = seed * 1664525u + 1013904223u;
  return (uint32_t)((uint64_t)seed * below >> 32);
}

/* Fixture streams with a few bytes changed, read as every route: nothing may be read or written out of bounds. */
static void broken_streams_do_no_harm(void **state) {
  (void)state;
  static const char *const names[] = { "openai-chat/success-stream-tool-calls.sse",
                                       "openai-responses/failed-stream.sse",
                                       "anthropic-messages/success-stream-tool-use.sse" };
  static const char alphabet[] = "{}[]\":,\\u0e-\n\r tn\xff";
  for (int round = 0; round < 300; round++) {
    struct buf text = { 0 };
    struct sse sse;
    struct sse_event event;
    struct event_facts facts;
    read_fixture(names[round % 3], &text);
    for (int i = 0; i < 20; i++) text.p[draw((uint32_t)text.n)] = alphabet[draw(sizeof(alphabet) - 1)];
    sse_init(&sse, round % 2 ? 200 : 0);
    for (size_t at = 0; sse_next(&sse, text.p, text.n, &at, &event);)
      for (int route = ROUTE_NONE; route < ROUTE_COUNT; route++) {
        commit_read_event((enum route)route, &event, &arena, &facts);
        (void)commit_answer_type(event.name, event.data);
        bool good = commit_read_answer((enum route)route, event.data, &arena, &facts);
        assert_true(good || facts.class == EVENT_COMMIT);
      }
    sse_free(&sse);
    buf_free(&text);
    arena_free(&arena);
  }
}

/* ---- whole answers ---- */

static struct event_facts read_answer(enum route route, const char *name) {
  struct buf text = { 0 };
  struct event_facts facts;
  read_fixture(name, &text);
  assert_true(commit_read_answer(route, buf_span(&text), &arena, &facts));
  buf_free(&text);
  return facts;
}

static void whole_answers(void **state) {
  (void)state;
  static const struct {
    enum route route;
    const char *name, *id, *finish;
  } cases[] = {
    { ROUTE_CHAT, "openai-chat/success.json", "chatcmpl-fix001", "stop" },
    { ROUTE_CHAT, "openai-chat/success-tool-call.json", "chatcmpl-fix001", "tool_calls" },
    { ROUTE_CHAT, "azure-openai/success.json", "chatcmpl-fix001", "stop" },
    { ROUTE_CHAT, "gemini-openai/success.json", "fixGemini001", "stop" },
    { ROUTE_RESPONSES, "openai-responses/success.json", "resp_fix001", "completed" },
    { ROUTE_MESSAGES, "anthropic-messages/success.json", "msg_01Fixture", "end_turn" },
    { ROUTE_MESSAGES, "anthropic-messages/success-tool-use.json", "msg_01Fixture", "tool_use" },
  };
  for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
    struct event_facts facts = read_answer(cases[i].route, cases[i].name);
    assert_int_equal(facts.class, EVENT_COMMIT);
    assert_true(facts.finished && facts.usage.known && facts.usage.input == 14 && facts.usage.output == 6);
    assert_text(facts.response_id, cases[i].id);
    assert_text(facts.finish_reason, cases[i].finish);
  }
  struct event_facts facts = read_answer(ROUTE_RESPONSES, "openai-responses/background-queued.json");
  assert_true(!facts.finished && !facts.usage.known && facts.class == EVENT_COMMIT);
  assert_text(facts.finish_reason, "queued");
}

static void whole_answers_that_are_errors(void **state) {
  (void)state;
  struct event_facts facts = read_answer(ROUTE_CHAT, "gemini-openai/error-429.json");
  assert_int_equal(facts.class, EVENT_FAIL);
  assert_text(facts.error.type, "RESOURCE_EXHAUSTED");
  assert_text(facts.error.code, "429");
  facts = read_answer(ROUTE_MESSAGES, "anthropic-messages/error-429-spend-limit.json");
  assert_int_equal(facts.class, EVENT_FAIL);
  assert_text(facts.error.type, "rate_limit_error");
  assert_true(facts.error.code.n > 0);
  assert_false(commit_read_answer(ROUTE_CHAT, SPAN("<html>"), &arena, &facts));
  assert_false(commit_read_answer(ROUTE_CHAT, SPAN_NONE, &arena, &facts));
  assert_true(commit_read_answer(ROUTE_NONE, SPAN("{\"id\":\"file-1\",\"error\":{\"message\":null}}"), &arena, &facts));
  assert_int_equal(facts.class, EVENT_COMMIT);
  assert_text(facts.response_id, "file-1");
}

static void answer_types(void **state) {
  (void)state;
  static const struct {
    const char *type, *first;
    enum answer_type answer;
  } cases[] = {
    { "text/event-stream", "{", ANSWER_STREAM },
    { "Text/Event-Stream; charset=utf-8", "", ANSWER_STREAM },
    { "application/json", "data:", ANSWER_JSON },
    { " application/json ;charset=utf-8", "", ANSWER_JSON },
    { "application/problem+json", "", ANSWER_JSON },
    { "text/html; charset=utf-8", "{", ANSWER_HTML },
    { "", "", ANSWER_UNKNOWN },
    { "", " \r\n", ANSWER_UNKNOWN },
    { "", " \n{", ANSWER_JSON },
    { "text/plain", "[", ANSWER_JSON },
    { "text/plain", "\"", ANSWER_JSON },
    { "application/octet-stream", "<!doctype", ANSWER_HTML },
    { "", "data: x", ANSWER_STREAM },
    { "", ": c", ANSWER_STREAM },
    { "+json", "d", ANSWER_STREAM },
    { "", "\xef\xbb", ANSWER_UNKNOWN },
    { "", "\xef\xbb\xbf{", ANSWER_JSON },
    { "", "\xef\xbb\xbf" "data", ANSWER_STREAM },
  };
  for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++)
    if (commit_answer_type(span_of(cases[i].type), span_of(cases[i].first)) != cases[i].answer)
      fail_msg("%s, %s", cases[i].type, cases[i].first);
  assert_int_equal(commit_answer_type(SPAN_NONE, SPAN_NONE), ANSWER_UNKNOWN);
  assert_int_equal(commit_answer_type(SPAN_NONE, SPAN("\0")), ANSWER_STREAM);
}

int main(void) {
  const struct CMUnitTest tests[] = {
    TEST("chat, azure and gemini fixtures: every event's class", chat_fixtures),
    TEST("responses fixtures: every event's class", responses_fixtures),
    TEST("messages fixtures: every event's class", messages_fixtures),
    TEST("F6 preamble holds: role, empty and bare chunks", chat_preamble_holds),
    TEST("F3 content commits: every kind of delta, and what is not understood", chat_content_commits),
    TEST("chat ends with [DONE]; a finish reason commits", chat_ends),
    TEST("F1 errors in a chat stream fail it, whatever their shape", errors_in_a_chat_stream_fail),
    TEST("chat usage is read", chat_usage_is_read),
    TEST("an ordinary delta allocates nothing", an_ordinary_delta_allocates_nothing),
    TEST("F6 responses: envelopes hold, the rest commits, ends or fails", responses_events),
    TEST("responses facts: id, usage, status, sequence, error", responses_facts),
    TEST("F6 messages: structure holds, content commits", messages_events),
    TEST("messages facts: id, usage, stop reason, error", messages_facts),
    TEST("F6 comments hold on every route", comments_hold_everywhere),
    TEST("any data commits on other routes", any_data_commits_on_other_routes),
    TEST("facts outlive the event", facts_outlive_the_event),
    TEST("broken streams do no harm", broken_streams_do_no_harm),
    TEST("whole answers: id, usage, finish reason", whole_answers),
    TEST("whole answers that are errors", whole_answers_that_are_errors),
    TEST("the type of an answer, by header, else by its first byte", answer_types),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
