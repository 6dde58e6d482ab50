/* The configuration: what loads and what it becomes, every refusal with its exact text, and model resolution. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

#include "config/config.h"
#include "config/lines.h"
#include "config/options.h"
#include "vm/vm.h"

static char folder[] = "config_test_XXXXXX";
static char error[2048];

static void write_file(const char *name, const char *text) {
  FILE *f = fopen(name, "w");
  assert_non_null(f);
  assert_int_equal(fwrite(text, 1, strlen(text), f), strlen(text));
  assert_int_equal(fclose(f), 0);
}

static const struct config *load(struct bench *bench, const char *source) {
  write_file("bullpen.lua", source);
  error[0] = '\0';
  return config_load("bullpen.lua", bench, error, sizeof error);
}

static const struct config *load_good(struct bench *bench, const char *source) {
  const struct config *config = load(bench, source);
  if (!config) fail_msg("%s", error);
  return config;
}

/* One upstream that may stand in any of the sources below. */
#define UP "upstreams = { a = { base_url = \"http://127.0.0.1:1/v1\", key = \"k\" } }"
#define UPSTREAM(more) "return { upstreams = { a = { base_url = \"http://127.0.0.1:1/v1\", key = \"k\"" more " } } }"
#define WITH(more) "return { " UP ",\n" more "\n}"

/* ---- refusals ---- */

static const struct refused {
  const char *source, *error;
} refused[] = {
  /* the file itself */
  { "return {", "bullpen.lua:1: unexpected symbol near <eof>" },
  { "return {\n listen = }", "bullpen.lua:2: unexpected symbol near '}'" },
  { "\nerror('no')", "bullpen.lua:2: no" },
  { "return {\n key = 'sk-secret\n}", "bullpen.lua:2: unfinished string" },
  { "return {\n key = 'x' 'sk-secret' }", "bullpen.lua:2: '}' expected (to close '{' at line 1)" },
  { "", "bullpen.lua:1: expected the file to return a table, got nothing" },
  { "\nreturn 5", "bullpen.lua:2: expected the file to return a table, got number" },
  { "while true do end", "bullpen.lua:1: time budget of 1000 ms exceeded" },
  { "local t = {}\nfor i = 1, 1e9 do t[i] = tostring(i) .. string.rep('x', 100000) end", "bullpen.lua:2: memory limit of 67108864 bytes exceeded" },
  { "return { " UP ", listen = LISTN }", "bullpen.lua:1: undefined global 'LISTN'" },
  { "local x = 1\nreturn { key = env 'BULLPEN_TEST_NOT_SET' }", "bullpen.lua:2: the environment variable 'BULLPEN_TEST_NOT_SET' is not set" },
  { "return {\n\n key = file 'no/such' }", "bullpen.lua:3: file 'no/such' cannot be read: No such file or directory" },
  { "return {\n listen = function() end }", "bullpen.lua:2: listen: a function cannot stand in a configuration" },
  { "return {\n listen = '127.0.0.1:1',\n [true] = 1 }", "bullpen.lua:1: a key is a boolean" },
  { "local t = {}\nt.a = t\nreturn {\n tags = t }", "bullpen.lua:2: tags.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a: tables are nested deeper than 16, or a table holds itself" },
  { "return { 1, 2 }", "bullpen.lua:1: expected named keys, got a list" },
  /* keys, types, ranges */
  { "return {\n\n upstreams = {\n  openai = { base_url = 'http://127.0.0.1', key = 'k',\n   weigth = 3 } } }", "bullpen.lua:5: upstreams.openai.weigth: unknown key (did you mean 'weight'?)" },
  { WITH("lisen = 1"), "bullpen.lua:2: lisen: unknown key (did you mean 'listen'?)" },
  { WITH("whatever = 1"), "bullpen.lua:2: whatever: unknown key" },
  { WITH("timeouts = { conect = 1 }"), "bullpen.lua:2: timeouts.conect: unknown key (did you mean 'connect'?)" },
  { WITH("timeouts = {\n connect = {} }"), "bullpen.lua:3: timeouts.connect: expected seconds (a number or \"250ms\"), got a table" },
  { WITH("timeouts = { connect = 'soon' }"), "bullpen.lua:2: timeouts.connect: expected seconds (a number or \"250ms\"), got a string that is none" },
  { WITH("timeouts = { connect = 0 }"), "bullpen.lua:2: timeouts.connect: 0 is out of range (1ms to 365d)" },
  { WITH("timeouts = { hold = -1 }"), "bullpen.lua:2: timeouts.hold: -1 is out of range (0, or 1ms to 365d)" },
  { WITH("timeouts = { idle = 0/0 }"), "bullpen.lua:2: timeouts.idle: not a number is out of range (1ms to 365d)" },
  { WITH("timeouts = 5"), "bullpen.lua:2: timeouts: expected a table, got a number" },
  { WITH("limits = { attempts = 0 }"), "bullpen.lua:2: limits.attempts: 0 is out of range (1 to 1000)" },
  { WITH("limits = { attempts = 1.5 }"), "bullpen.lua:2: limits.attempts: expected a whole number, got 1.5" },
  { WITH("limits = { body = '64 bananas' }"), "bullpen.lua:2: limits.body: expected bytes (a number or \"64MiB\"), got a string that is none" },
  { WITH("limits = { header = '2MiB' }"), "bullpen.lua:2: limits.header: 2097152 is out of range (1KiB to 1MiB)" },
  { WITH("workers = '4'"), "bullpen.lua:2: workers: expected a whole number, got a string" },
  { WITH("workers = 257"), "bullpen.lua:2: workers: 257 is out of range (0 to 256)" },
  { WITH("open = 'yes'"), "bullpen.lua:2: open: expected true or false, got a string" },
  { WITH("targets = 'stict'"), "bullpen.lua:2: targets: expected one of prefer, strict (did you mean 'strict'?)" },
  { WITH("log = { level = 3 }"), "bullpen.lua:2: log.level: expected one of the strings debug, info, warn, error, got a number" },
  { WITH("state = ''"), "bullpen.lua:2: state: is empty" },
  { WITH("zzz = 1,\naaa = 2"), "bullpen.lua:2: zzz: unknown key" },
  /* listeners */
  { WITH("listen = 8080"), "bullpen.lua:2: listen: expected a string or a list of strings, got a number" },
  { WITH("listen = {}"), "bullpen.lua:2: listen: is empty" },
  { WITH("listen = '8080'"), "bullpen.lua:2: listen: expected \"host:port\", \"[::1]:8080\", \":8080\" or \"unix:/path\"" },
  { WITH("listen = '127.0.0.1:70000'"), "bullpen.lua:2: listen: expected \"host:port\", \"[::1]:8080\", \":8080\" or \"unix:/path\"" },
  { WITH("listen = { '127.0.0.1:1',\n '[::1:8080' }"), "bullpen.lua:3: listen[2]: expected \"host:port\", \"[::1]:8080\", \":8080\" or \"unix:/path\"" },
  { WITH("listen = { '127.0.0.1:1', '127.0.0.1:1' }"), "bullpen.lua:2: listen[2]: stands in the list twice" },
  { WITH("listen = 'unix:'"), "bullpen.lua:2: listen: a path must follow unix:" },
  { WITH("listen = ':8080'"), "bullpen.lua:2: listen: :8080 is not loopback: configure clients, or write open = true" },
  { WITH("admin = { listen = '0.0.0.0:9090' }"), "bullpen.lua:2: admin.listen: 0.0.0.0:9090 is not loopback: set admin.token, or write admin.open = true" },
  { WITH("admin = { tokn = 'x' }"), "bullpen.lua:2: admin.tokn: unknown key (did you mean 'token'?)" },
  /* upstreams */
  { "\nreturn {}", "bullpen.lua:2: no upstreams: there must be at least one" },
  { "return {\n upstreams = {} }", "bullpen.lua:2: upstreams: no upstreams: there must be at least one" },
  { "return {\n upstreams = { { key = 'sk-secret' } } }", "bullpen.lua:2: upstreams: expected a table of NAME = { ... }, got a list" },
  { "return {\n upstreams = { a = 'http://x' } }", "bullpen.lua:2: upstreams.a: expected a table, got a string" },
  { "return { upstreams = {\n ['a/b'] = { } } }", "bullpen.lua:2: upstreams[\"a/b\"]: a name is made of letters, digits, '.', '_' and '-' (at most 128)" },
  { "return { upstreams = {\n a = { key = 'k' } } }", "bullpen.lua:2: upstreams.a: no base_url" },
  { "return { upstreams = {\n a = {\n base_url = 'http://127.0.0.1' } } }", "bullpen.lua:2: upstreams.a.key: no key (write key = env \"NAME\", or auth = \"none\" or \"forward\")" },
  { UPSTREAM(", api = 'opnai'"), "bullpen.lua:1: upstreams.a.api: expected one of openai, anthropic (did you mean 'openai'?)" },
  { UPSTREAM(", auth = 'basic'"), "bullpen.lua:1: upstreams.a.auth: expected one of bearer, x-api-key, api-key, none, forward" },
  { UPSTREAM(", priority = 0.5"), "bullpen.lua:1: upstreams.a.priority: expected a whole number, got 0.5" },
  { UPSTREAM(", weight = -1"), "bullpen.lua:1: upstreams.a.weight: -1 is out of range (0 to 1000000)" },
  { UPSTREAM(", http = 2"), "bullpen.lua:1: upstreams.a.http: expected one of the strings 1.1, 2, got a number" },
  { UPSTREAM(", tls = { verfy = false }"), "bullpen.lua:1: upstreams.a.tls.verfy: unknown key (did you mean 'verify'?)" },
  { UPSTREAM(", timeouts = { request = 1 }"), "bullpen.lua:1: upstreams.a.timeouts.request: unknown key" },
  { UPSTREAM(", routes = { 'chat', 'embedings' }"), "bullpen.lua:1: upstreams.a.routes[2]: expected one of chat, completions, embeddings, responses, messages (did you mean 'embeddings'?)" },
  { UPSTREAM(", routes = { 'messages' }"), "bullpen.lua:1: upstreams.a.routes[1]: an upstream with api = \"openai\" cannot serve the route messages" },
  { UPSTREAM(", routes = 'chat'"), "bullpen.lua:1: upstreams.a.routes: expected a list of strings, got a string" },
  { UPSTREAM(", headers = { ['x y'] = '1' }"), "bullpen.lua:1: upstreams.a.headers[\"x y\"]: is no header name" },
  { UPSTREAM(", headers = { Host = 'x' }"), "bullpen.lua:1: upstreams.a.headers.Host: cannot be set: it follows from the request" },
  { UPSTREAM(", headers = { a = 'x\\r\\ny: 1' }"), "bullpen.lua:1: upstreams.a.headers.a: holds a control character or a line break" },
  { UPSTREAM(", query = { 'x' }"), "bullpen.lua:1: upstreams.a.query: expected a table of names and strings, got a list" },
  { "return { upstreams = { a = { base_url = 'http://127.0.0.1',\n key = 'sk-secret\\n' } } }", "bullpen.lua:2: upstreams.a.key: holds a control character or a line break" },
  { "return { upstreams = { a = { base_url = 'http://127.0.0.1',\n key = '' } } }", "bullpen.lua:2: upstreams.a.key: is empty" },
  { "return { upstreams = { a = { key = 'k',\n base_url = 'ftp://x' } } }", "bullpen.lua:2: upstreams.a.base_url: expected http(s)://host[:port][/path]" },
  { "return { upstreams = { a = { key = 'k',\n base_url = 'https://u:sk-secret@x' } } }", "bullpen.lua:2: upstreams.a.base_url: credentials do not belong into a URL (use key)" },
  { "return { upstreams = { a = { key = 'k',\n base_url = 'https://x/v1?a=b' } } }", "bullpen.lua:2: upstreams.a.base_url: a query does not belong here (use query = { name = \"value\" })" },
  { "return { upstreams = { a = { key = 'k',\n base_url = 'https://x/v1#a' } } }", "bullpen.lua:2: upstreams.a.base_url: a fragment does not belong here" },
  { "return { upstreams = { a = { key = 'k',\n base_url = 'https://x:0/v1' } } }", "bullpen.lua:2: upstreams.a.base_url: the port is none" },
  { "return { upstreams = { a = { key = 'k',\n base_url = 'https:///v1' } } }", "bullpen.lua:2: upstreams.a.base_url: expected http(s)://host[:port][/path]" },
  /* models */
  { WITH("models = { 'a/x' }"), "bullpen.lua:2: models: expected a table of NAME = chain, got a list" },
  { WITH("models = {\n x = 5 }"), "bullpen.lua:3: models.x: expected a list of candidates or a string with commas, got a number" },
  { WITH("models = {\n x = ' , ' }"), "bullpen.lua:3: models.x: names no candidate" },
  { WITH("models = {\n x = 'b/x' }"), "bullpen.lua:3: models.x: unknown upstream 'b'" },
  { WITH("models = {\n smart = 'a/x', y = 'smrt' }"), "bullpen.lua:3: models.y: 'smrt' is neither a model's name nor upstream/model (did you mean 'smart'?)" },
  { WITH("models = {\n x = 'y',\n y = { 'a/m', 'z' },\n z = 'x' }"), "bullpen.lua:5: models.z: a cycle: 'x' leads back to itself" },
  { WITH("models = { ['gpt-4.1'] = { 'a/x',\n 'q/x' } }"), "bullpen.lua:3: models[\"gpt-4.1\"][2]: unknown upstream 'q'" },
  { WITH("models = { x = { {\n use = 'a/x', wieght = 1 } } }"), "bullpen.lua:3: models.x[1].wieght: unknown key (did you mean 'weight'?)" },
  { WITH("models = { x = {\n { weight = 1 } } }"), "bullpen.lua:3: models.x[1]: no use = \"upstream/model\"" },
  { WITH("models = { x = 'a/x', y = { { use = 'x' } } }"), "bullpen.lua:2: models.y[1].use: expected \"upstream/model\": only a candidate can be overridden" },
  { WITH("models = { x = { true } }"), "bullpen.lua:2: models.x[1]: expected \"upstream/model\" or { use = \"upstream/model\" }, got a boolean" },
  { WITH("models = { x = { 'a/x', polcy = 'b' } }"), "bullpen.lua:2: models.x.polcy: unknown key (did you mean 'policy'?)" },
  { WITH("models = { x = { 'a/x', policy = 'bach' } },\npolicies = { batch = 'p.lua' }"), "bullpen.lua:2: models.x.policy: 'bach' is none of `policies` (did you mean 'batch'?)" },
  { WITH("models = { x = 'a/*' }"), "bullpen.lua:2: models.x: 'a/' needs a model: only models[\"*\"] may leave it out" },
  { WITH("models = { ['x,y'] = 'a/m' }"), "bullpen.lua:2: models[\"x,y\"]: a comma cannot stand in a model's name: it parts the entries of a chain" },
  { WITH("models = { x = { 'a/x', [3] = 'a/y' } }"), "bullpen.lua:2: models.x: the list has a gap at 2" },
  /* policies */
  { WITH("policy = 'chain_with_bnch'"), "bullpen.lua:2: policy: no ready-made policy is called 'chain_with_bnch' (did you mean 'chain_with_bench'?); a file's path ends in .lua" },
  { WITH("policy = 5"), "bullpen.lua:2: policy: expected a path, a ready-made policy's name, or a table, got a number" },
  { WITH("policy = { file = 'p.lua', name = 'weighted' }"), "bullpen.lua:2: policy.name: cannot stand beside file" },
  { WITH("policies = { b = { file = 'p.lua',\n budget = { time = '1h' } } }"), "bullpen.lua:3: policies.b.budget.time: 3600 is out of range (0.1ms to 10s)" },
  { WITH("policies = { default = 'p.lua' }"), "bullpen.lua:2: policies.default: \"default\" is the name of `policy`" },
  /* clients */
  { WITH("clients = { ['sk-secret'] = { name = 'x' } }"), "bullpen.lua:2: clients: expected a list of { name =, key = }, got a table with named keys" },
  { WITH("clients = { { key = 'k' } }"), "bullpen.lua:2: clients[1]: no name" },
  { WITH("clients = { { name = 'n' } }"), "bullpen.lua:2: clients[1]: no key" },
  { WITH("clients = { { name = 'n', key = '1' },\n { name = 'n', key = '2' } }"), "bullpen.lua:3: clients[2].name: clients[1] has the same name" },
  { WITH("clients = { { name = 'n', key = '1' },\n { name = 'm', key = '1' } }"), "bullpen.lua:3: clients[2].key: clients[1] has the same key" },
  { WITH("clients = { { name = 'n', key = '1', models = { 'smrt' } } },\nmodels = { smart = 'a/x' }"), "bullpen.lua:2: clients[1].models[1]: unknown model 'smrt' (did you mean 'smart'?)" },
  { WITH("clients = { { name = 'n', key = '1', models = {} } }"), "bullpen.lua:2: clients[1].models: grants nothing: leave it out to grant every model" },
  { "return { upstreams = { a = { base_url = 'http://127.0.0.1',\n auth = 'forward' } },\nclients = { { name = 'n', key = '1' } } }", "bullpen.lua:2: upstreams.a.auth: \"forward\" cannot stand beside clients: their keys are bullpen's own" },
  /* paths */
  { WITH("paths = { ['/v1/batches*'] = 'b' }"), "bullpen.lua:2: paths[\"/v1/batches*\"]: unknown upstream 'b'" },
  { WITH("paths = { ['/batches'] = 'a' }"), "bullpen.lua:2: paths[\"/batches\"]: a path begins with /v1/" },
  { WITH("paths = { ['/v1/*/x'] = 'a' }"), "bullpen.lua:2: paths[\"/v1/*/x\"]: a star stands only at the end" },
};

static void test_refused(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++) {
    struct bench *bench = bench_new(1000);
    const struct config *config = load(bench, refused[i].source);
    if (config || strcmp(error, refused[i].error) != 0) print_message("source:\n%s\n", refused[i].source);
    assert_string_equal(error, refused[i].error);
    assert_null(config);
    assert_null(strstr(error, "secret"));
    bench_free(bench);
  }
}

static void test_file_faults(void **state) {
  (void)state;
  assert_null(config_load("missing.lua", NULL, error, sizeof error));
  assert_string_equal(error, "missing.lua: cannot be read: No such file or directory");
  assert_null(config_load(".", NULL, error, sizeof error));
  assert_string_equal(error, ".: cannot be read: Is a directory");
  char path[256];
  snprintf(path, sizeof path, "./././././././././././././././././././././././././././././././././././bullpen.lua");
  write_file("bullpen.lua", "\nreturn {");
  assert_null(config_load(path, NULL, error, sizeof error));
  char expected[512];
  snprintf(expected, sizeof expected, "%s:2: unexpected symbol near <eof>", path);
  assert_string_equal(error, expected);
  char small[10];
  assert_null(config_load("bullpen.lua", NULL, small, sizeof small));
  assert_string_equal(small, "bullpen.l");
}

/* ---- what loads ---- */

static const char full[] =
    "local common = require 'common'\n"
    "return {\n"
    "  listen = { '127.0.0.1:8080', '[::1]:0', 'unix:run/b.sock', ':80' }, open = true, workers = 3,\n"
    "  admin = { listen = 'localhost:9090', token = env 'BULLPEN_TEST_TOKEN' },\n"
    "  upstreams = {\n"
    "    openai = { api = 'openai', base_url = 'https://api.openai.com/v1/', key = file 'secret', weight = 3, query = { v = '1' },\n"
    "      headers = { ['x-b'] = 'B',\n ['x-a'] = 'A' }, timeouts = { connect = '250ms', hold = 0 }, price = { input = 2.5 } },\n"
    "    azure = { base_url = 'HTTPS://x.azure.com/openai/v1', key = env('BULLPEN_TEST_NONE', 'dflt'), auth = 'api-key', max_inflight = 2 },\n"
    "    anthropic = { api = 'anthropic', base_url = common.url, key = 'k', priority = 1, http = '2', enabled = false },\n"
    "    near = { base_url = 'http://[::1]:81', auth = 'none', routes = { 'chat', 'embeddings' }, tls = { ca = 'ca.pem' } },\n"
    "  },\n"
    "  models = {\n"
    "    ['gpt-4o'] = { 'openai/gpt-4o', { use = 'azure/gpt-4o-eu', weight = 1, tags = { eu = true }, timeouts = { idle = 7 } } },\n"
    "    smart = 'gpt-4o, ,near/meta/llama-3,openai/gpt-4o',\n"
    "    nightly = { 'near/n', 'smart', policy = 'batch' },\n"
    "    ['*'] = 'openai/*,near/fixed',\n"
    "  },\n"
    "  policy = 'policy.lua',\n"
    "  policies = { batch = { file = 'sub/b.lua', watch = true, on_error = 'reject', options = { tries = 2 }, budget = { time = '5ms' } },\n"
    "    plain = 'chain_with_bench' },\n"
    "  timeouts = { request = '15m', idle = '1.5s', drain = '1h' }, limits = { body = '1KB', bodies = '2GiB', attempts = 4 },\n"
    "  log = { format = 'json', level = 'warn', file = 'log/b.log' }, state = 'state', targets = 'strict',\n"
    "  paths = { ['/v1/*'] = 'azure', ['/v1/batches*'] = 'openai', ['/v1/batches/x'] = 'near' },\n"
    "}\n";

static void check_upstreams(const struct config *c) {
  assert_int_equal(c->upstream_count, 4);
  const struct upstream *u = &c->upstreams[0];
  assert_string_equal(u->name, "openai"); /* in the order of the source */
  assert_string_equal(u->base_url, "https://api.openai.com/v1");
  assert_string_equal(u->key, "sk-from-file");
  assert_true(u->weight == 3 && u->timeouts.connect == 0.25 && u->timeouts.hold == SECONDS_NEVER && u->timeouts.headers == 300);
  assert_true(u->timeouts.idle == 1.5);
  assert_int_equal(u->headers.count, 2);
  assert_true(span_is(u->headers.list[0].name, "x-b") && span_is(u->headers.list[1].value, "A"));
  assert_true(u->tls_verify && !u->http2 && u->enabled && u->auth == AUTH_BEARER);
  assert_true(value_member(u->price, "input")->number == 2.5);
  u = config_upstream(c, SPAN("azure"));
  assert_true(u->auth == AUTH_API_KEY && u->max_inflight == 2 && strcmp(u->key, "dflt") == 0);
  u = config_upstream(c, SPAN("anthropic"));
  assert_true(u->api == API_ANTHROPIC && u->auth == AUTH_X_API_KEY && u->priority == 1 && u->http2 && !u->enabled);
  u = config_upstream(c, SPAN("near"));
  assert_int_equal(u->routes, 1u << ROUTE_CHAT | 1u << ROUTE_EMBEDDINGS);
  assert_true(u->tls_ca[0] == '/' && !u->key);
  assert_null(config_upstream(c, SPAN("nea")));
}

static void check_models(const struct config *c, struct bench *bench) {
  assert_int_equal(c->model_count, 3);
  const struct model *smart = &c->models[2];
  assert_string_equal(smart->name, "smart");
  assert_int_equal(smart->count, 3);
  assert_string_equal(smart->chain[1]->name, "azure/gpt-4o-eu");
  assert_true(smart->chain[1]->weight == 1 && smart->chain[1]->timeouts.idle == 7 && value_member(smart->chain[1]->tags, "eu"));
  assert_string_equal(smart->chain[2]->model, "meta/llama-3");
  const struct model *nightly = &c->models[1];
  assert_string_equal(nightly->policy, "batch");
  assert_string_equal(nightly->chain[0]->name, "near/n");
  assert_int_equal(nightly->count, 4);
  assert_ptr_equal(nightly->chain[1]->key, bench_find(bench, SPAN("openai/gpt-4o")));
  assert_ptr_equal(nightly->chain[1]->upstream_key, bench_find(bench, SPAN("openai")));
  assert_non_null(nightly->chain[1]->key);
  assert_int_equal(c->any_model->count, 2);
  assert_string_equal(c->any_model->chain[0]->model, "");
  assert_string_equal(c->any_model->chain[0]->name, "openai/*");
}

static void test_full(void **state) {
  (void)state;
  struct bench *bench = bench_new(100);
  setenv("BULLPEN_TEST_TOKEN", "tok", 1);
  write_file("secret", "  sk-from-file\n\n");
  write_file("common.lua", "return { url = 'https://api.anthropic.com/v1' }");
  const struct config *c = load_good(bench, full);
  assert_string_equal(c->file, "bullpen.lua");
  assert_true(c->folder[0] == '/');
  assert_int_equal(c->listen_count, 4);
  assert_true(c->listen[0].loopback && c->listen[0].port == 8080 && strcmp(c->listen[0].host, "127.0.0.1") == 0);
  assert_true(c->listen[1].loopback && c->listen[1].port == 0 && strcmp(c->listen[1].host, "::1") == 0);
  assert_true(c->listen[2].loopback && c->listen[2].is_unix && c->listen[2].host[0] == '/');
  assert_true(!c->listen[3].loopback && strcmp(c->listen[3].host, "::") == 0 && strcmp(c->listen[3].text, ":80") == 0);
  assert_true(c->admin.listen->loopback && strcmp(c->admin.token, "tok") == 0);
  assert_int_equal(c->workers, 3);
  check_upstreams(c);
  check_models(c, bench);
  assert_string_equal(c->policy.name, "default");
  assert_true(c->policy.file[0] == '/' && !c->policy.ready && c->policy.time == 0.01 && c->policy.memory == 64 << 20);
  assert_true(c->policies[0].watch && c->policies[0].reject && c->policies[0].time == 0.005 && !c->policies[0].ready);
  assert_true(!c->policies[1].file && !c->policies[1].ready);
  assert_true(c->timeouts.request == 900 && c->timeouts.drain == 3600 && c->timeouts.attempt.hold == 20);
  assert_true(c->limits.body == 1000 && c->limits.bodies == (size_t)2 << 30 && c->limits.attempts == 4 && c->limits.buffer == 256 << 10);
  assert_true(c->log.json && c->log.level == LOG_WARN && c->log.file[0] == '/' && c->state[0] == '/' && c->strict_targets);
  assert_ptr_equal(config_path_upstream(c, SPAN("/v1/batches/x"), SPAN_NONE), config_upstream(c, SPAN("near")));
  assert_ptr_equal(config_path_upstream(c, SPAN("/v1/batches/y"), SPAN_NONE), config_upstream(c, SPAN("openai")));
  assert_ptr_equal(config_path_upstream(c, SPAN("/v1/files"), SPAN_NONE), config_upstream(c, SPAN("azure")));
  assert_ptr_equal(config_path_upstream(c, SPAN("/v1/files"), SPAN("near")), config_upstream(c, SPAN("near")));
  assert_null(config_path_upstream(c, SPAN("/v1/files"), SPAN("x")));
  assert_int_equal(c->secret_file_count, 1);
  assert_int_equal(c->warning_count, 1);
  assert_string_equal(c->warnings[0], "anybody who reaches :80 may use it: there are no clients (open = true)");
  const struct config *second = config_ref(c);
  config_release(&c);
  assert_null(c);
  assert_string_equal(second->upstreams[0].name, "openai");
  config_release(&second);
  bench_free(bench);
}

/* Cut anywhere, and with a line lost anywhere, it is refused or it loads; nothing else. */
static void test_damaged(void **state) {
  (void)state;
  static char source[sizeof full];
  for (size_t n = 0; n < sizeof full; n += 11) {
    memcpy(source, full, n);
    source[n] = '\0';
    const struct config *c = load(NULL, source);
    assert_true(c || strncmp(error, "bullpen.lua:", 12) == 0);
    config_release(&c);
  }
  for (const char *line = full, *end; (end = strchr(line, '\n')); line = end + 1) {
    size_t before = (size_t)(line - full);
    memcpy(source, full, before);
    strcpy(source + before, end + 1);
    const struct config *c = load(NULL, source);
    assert_true(c || strncmp(error, "bullpen.lua:", 12) == 0);
    config_release(&c);
  }
}

static void test_defaults(void **state) {
  (void)state;
  const struct config *c = load_good(NULL, "return { " UP " }");
  assert_int_equal(c->listen_count, 1);
  assert_true(c->listen[0].port == 8080 && c->listen[0].loopback && !c->admin.listen && c->workers >= 1);
  assert_true(c->timeouts.attempt.connect == 5 && c->timeouts.stall == 1 && c->limits.connections == 16384 && c->limits.body == 64 << 20);
  assert_true(!c->policy.file && !c->policy.ready && !c->state && strcmp(c->log.file, "-") == 0 && c->log.level == LOG_INFO);
  assert_true(c->upstreams[0].enabled && c->upstreams[0].weight == 1 && c->upstreams[0].timeouts.idle == 120);
  assert_int_equal(c->warning_count, 0);
  config_release(&c);
  c = load_good(NULL, WITH("admin = {}"));
  assert_string_equal(c->admin.listen->text, "127.0.0.1:9090");
  config_release(&c);
}

static void test_ready_policies(void **state) {
  (void)state;
  for (size_t i = 0; embedded_name(i); i++) {
    char name[128] = "", source[512];
    if (sscanf(embedded_name(i), "policies/%100[^.].lua", name) != 1 || strcmp(name, "chain_with_bench") == 0) continue;
    snprintf(source, sizeof source, WITH("policy = '%s'"), name);
    const struct config *c = load_good(NULL, source);
    assert_string_equal(c->policy.ready, name);
    config_release(&c);
  }
}

static void test_warnings(void **state) {
  (void)state;
  const struct config *c = load_good(NULL, "return { upstreams = { a = { base_url = 'http://example.com', key = 'k', tls = { verify = false } },\n"
                                           "b = { base_url = 'http://localhost', auth = 'none', key = 'k' } } }");
  assert_int_equal(c->warning_count, 3);
  assert_string_equal(c->warnings[0], "upstreams.a.base_url is http: the credential crosses the network in clear");
  assert_string_equal(c->warnings[1], "upstreams.a.tls.verify is off: any certificate will do");
  assert_string_equal(c->warnings[2], "upstreams.b.key is not used with auth = \"none\"");
  assert_null(c->upstreams[1].key);
  config_release(&c);
}

static void test_clients(void **state) {
  (void)state;
  const struct config *c = load_good(NULL, WITH("listen = ':0', models = { m = 'a/x' }, clients = { { name = 'one', key = 'abc' },\n"
                                                "{ name = 'two', key = 'abcd', models = { 'm', 'a/y' }, tags = { tier = 'batch' } } }"));
  assert_string_equal(config_client(c, SPAN("abc"))->name, "one");
  assert_string_equal(config_client(c, SPAN("abcd"))->name, "two");
  assert_int_equal(config_client(c, SPAN("abcd"))->model_count, 2);
  assert_null(config_client(c, SPAN("ab")));
  assert_null(config_client(c, SPAN("abcde")));
  assert_null(config_client(c, SPAN("abc\0")));
  assert_null(config_client(c, SPAN_NONE));
  char large[600];
  memset(large, 'a', sizeof large);
  assert_null(config_client(c, (struct span){ large, sizeof large }));
  config_release(&c);
}

/* ---- lines ---- */

static void test_lines(void **state) {
  (void)state;
  static const char source[] =
      "local models = {\n  a = 'x', -- a = 1\n  b = { 1,\n    2 },\n}\n"
      "--[[ return {\n ]] local f = function() return { listen = 1 } end\n"
      "return { [ 'listen' ] = [==[\n]]\n]==],\n models = models, \"p1\";\n f(function() local x, y = 1, 2 end), last = '--[[', tail = 1 }";
  struct arena arena = { 0 };
  const struct lines *lines = lines_read(&arena, (struct span){ source, sizeof source - 1 });
  struct place root = lines_root(lines), member = lines_member(&root, SPAN("models")), b = lines_member(&member, SPAN("b"));
  struct place second = lines_element(&b, 2), listen = lines_member(&root, SPAN("listen")), tail = lines_member(&root, SPAN("tail"));
  struct place element = lines_element(&root, 2), none = lines_member(&root, SPAN("nowhere")), mention = lines_member(&root, SPAN("a"));
  assert_int_equal(lines_find(lines, &listen), 8);
  assert_int_equal(lines_find(lines, &member), 11);
  assert_int_equal(lines_find(lines, &b), 3);
  assert_int_equal(lines_find(lines, &second), 4);
  assert_int_equal(lines_find(lines, &element), 12);
  assert_int_equal(lines_find(lines, &tail), 12);
  assert_int_equal(lines_find(lines, &none), 8);
  assert_int_equal(lines_find(lines, &mention), 2);
  arena_free(&arena);
  static const char *const odd[] = { "", "return", "return {", "return {{{{", "'", "[[", "--[==[", "return { [", "return { a = ", "return x",
                                     "x = { x, x } return x", "return { ['a' = 1 } }}}", "\"\\" };
  for (size_t i = 0; i < sizeof odd / sizeof odd[0]; i++) {
    assert_non_null(lines_read(&arena, span_of(odd[i])));
    arena_free(&arena);
  }
}

static void test_units(void **state) {
  (void)state;
  double n;
  assert_true(option_parse_seconds(SPAN("250ms"), &n) && n == 0.25);
  assert_true(option_parse_seconds(SPAN("1.5s"), &n) && n == 1.5);
  assert_true(option_parse_seconds(SPAN("2m"), &n) && n == 120);
  assert_true(option_parse_seconds(SPAN("1h"), &n) && n == 3600);
  assert_true(option_parse_seconds(SPAN("1d"), &n) && n == 86400);
  assert_true(option_parse_seconds(SPAN("7"), &n) && n == 7);
  assert_true(option_parse_bytes(SPAN("64KiB"), &n) && n == 65536);
  assert_true(option_parse_bytes(SPAN("64KB"), &n) && n == 64000);
  assert_true(option_parse_bytes(SPAN("1GiB"), &n) && n == 1073741824);
  static const char *const bad[] = { "", "ms", "-1s", "1x", "1.2.3s", "0x10", "inf", "nan", "1e3s", "1 s s", "." };
  for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) assert_false(option_parse_seconds(span_of(bad[i]), &n));
}

static void test_options_agree(void **state) {
  (void)state;
  size_t count;
  const struct option_help *options = config_options(&count);
  assert_true(count > 60);
  for (size_t i = 0; i < count; i++) {
    assert_true(*options[i].key && *options[i].type && *options[i].help);
    for (size_t j = 0; j < i; j++) assert_string_not_equal(options[i].key, options[j].key);
  }
}

/* ---- resolution ---- */

struct answer {
  enum resolved result;
  char pool[512], left[512];
  struct resolution resolution;
};

static const struct config *world;
static struct bench *keys;
static struct arena arena;

static struct answer ask(enum route route, struct span model, const char *target, const char *pinned, const char *client) {
  struct answer a = { 0 };
  const struct upstream *pin = pinned ? config_upstream(world, span_of(pinned)) : NULL;
  a.result = config_resolve(world, keys, &arena, route, model, span_of(target), pin, client ? config_client(world, span_of(client)) : NULL,
                            &a.resolution);
  for (size_t i = 0; i < a.resolution.count; i++)
    snprintf(a.pool + strlen(a.pool), sizeof a.pool - strlen(a.pool), "%s%s", i ? " " : "", a.resolution.pool[i]->name);
  for (size_t i = 0; i < a.resolution.left_out_count; i++)
    snprintf(a.left + strlen(a.left), sizeof a.left - strlen(a.left), "%s%s=%s", i ? " " : "", a.resolution.left_out[i].name,
             a.resolution.left_out[i].why);
  return a;
}

static struct answer chat(const char *model, const char *target) {
  return ask(ROUTE_CHAT, span_of(model), target, NULL, NULL);
}

static void expect(struct answer a, enum resolved result, const char *pool, const char *left) {
  assert_int_equal(a.result, result);
  assert_string_equal(a.pool, pool);
  assert_string_equal(a.left, left);
}

#define WORLD(more)                                                                                                       \
  "return { upstreams = {\n"                                                                                              \
  " openai = { base_url = 'http://127.0.0.1', key = 'k' }, azure = { base_url = 'http://127.0.0.1', key = 'k', weight = 7 },\n" \
  " off = { base_url = 'http://127.0.0.1', key = 'k', enabled = false },\n"                                               \
  " claude = { api = 'anthropic', base_url = 'http://127.0.0.1', key = 'k' },\n"                                           \
  " emb = { base_url = 'http://127.0.0.1', key = 'k', routes = { 'embeddings' } } },\n"                                   \
  " policies = { batch = 'p.lua' },\n"                                                                                    \
  " clients = { { name = 't', key = 'team', models = { 'smart', 'free' } } },\n"                                          \
  " models = { smart = { 'openai/gpt-4o', 'azure/gpt-4o-eu', 'off/x', 'claude/c', 'emb/e', policy = 'batch' },\n"          \
  "  ['v@1'] = 'azure/v', dead = 'off/x,emb/e', free = 'azure/free', ['azure/x'] = 'openai/y',\n" more " } }"

static void begin(const char *source) {
  keys = bench_new(64);
  world = load_good(keys, source);
}

static void end(void) {
  config_release(&world);
  arena_free(&arena);
  bench_free(keys);
}

#define REST "off/x=disabled claude/c=route emb/e=route"

static void test_resolve_names(void **state) {
  (void)state;
  begin(WORLD(""));
  struct answer a = chat("smart", NULL);
  expect(a, RESOLVED, "openai/gpt-4o azure/gpt-4o-eu", REST);
  assert_string_equal(a.resolution.policy, "batch");
  assert_null(a.resolution.target);
  expect(ask(ROUTE_MESSAGES, SPAN("smart"), NULL, NULL, NULL), RESOLVED, "claude/c",
         "openai/gpt-4o=route azure/gpt-4o-eu=route off/x=route emb/e=route");
  expect(ask(ROUTE_EMBEDDINGS, SPAN("dead"), NULL, NULL, NULL), RESOLVED, "emb/e", "off/x=disabled");
  a = chat("dead", NULL);
  expect(a, RESOLVED_UNKNOWN, "", "off/x=disabled emb/e=route");
  assert_true(a.resolution.all_disabled);
  a = ask(ROUTE_MESSAGES, SPAN("dead"), NULL, NULL, NULL);
  assert_true(a.result == RESOLVED_UNKNOWN && !a.resolution.all_disabled);
  expect(chat("azure/x", NULL), RESOLVED, "openai/y", ""); /* a name beats a chain */
  expect(chat("nope", NULL), RESOLVED_UNKNOWN, "", "");
  expect(chat("smar", NULL), RESOLVED_UNKNOWN, "", "");
  expect(chat("smartt", NULL), RESOLVED_UNKNOWN, "", "");
  expect(chat("", NULL), RESOLVED_UNKNOWN, "", "");
  expect(chat("*", NULL), RESOLVED_UNKNOWN, "", "");
  expect(ask(ROUTE_CHAT, SPAN("smart\0x"), NULL, NULL, NULL), RESOLVED_UNKNOWN, "", "");
  end();
}

static void test_resolve_targets(void **state) {
  (void)state;
  begin(WORLD(""));
  struct answer a = chat("smart", "azure");
  expect(a, RESOLVED, "azure/gpt-4o-eu", "openai/gpt-4o=target " REST);
  assert_string_equal(a.resolution.target, "azure");
  expect(chat("smart@azure", NULL), RESOLVED, "azure/gpt-4o-eu", "openai/gpt-4o=target " REST);
  expect(chat("smart@azure", "openai"), RESOLVED, "openai/gpt-4o", "azure/gpt-4o-eu=target " REST);
  a = chat("smart@nobody", NULL);
  expect(a, RESOLVED, "openai/gpt-4o azure/gpt-4o-eu", REST);
  assert_string_equal(a.resolution.warning, "target 'nobody' is no upstream: the whole pool stays");
  a = chat("smart", "off");
  expect(a, RESOLVED, "openai/gpt-4o azure/gpt-4o-eu", REST);
  assert_string_equal(a.resolution.warning, "target 'off' has no candidate that fits: the whole pool stays");
  assert_null(chat("smart", "").resolution.warning);
  expect(chat("v@1", NULL), RESOLVED, "azure/v", "");
  expect(chat("v@1@azure", NULL), RESOLVED, "azure/v", "");
  expect(chat("w@1", NULL), RESOLVED_UNKNOWN, "", "");
  expect(chat("openai/w@1", NULL), RESOLVED, "openai/w@1", "");
  expect(chat("openai/w,azure/w@azure", NULL), RESOLVED, "azure/w", "openai/w=target");
  end();
}

static void test_resolve_strict(void **state) {
  (void)state;
  begin(WORLD("}, targets = 'strict', paths = {"));
  expect(chat("smart", "azure"), RESOLVED, "azure/gpt-4o-eu", "openai/gpt-4o=target " REST);
  expect(chat("smart", "nobody"), RESOLVED_UNKNOWN, "", "openai/gpt-4o=target azure/gpt-4o-eu=target off/x=target claude/c=target emb/e=target");
  struct answer a = chat("smart", "off");
  assert_true(a.result == RESOLVED_UNKNOWN && a.resolution.all_disabled);
  a = chat("smart", "claude");
  assert_true(a.result == RESOLVED_UNKNOWN && !a.resolution.all_disabled);
  end();
}

static void test_resolve_chains(void **state) {
  (void)state;
  begin(WORLD(""));
  struct answer a = chat(" azure/m/n , ,openai/x,azure/m/n", NULL);
  expect(a, RESOLVED, "azure/m/n openai/x", "");
  assert_null(a.resolution.policy);
  assert_string_equal(a.resolution.pool[0]->model, "m/n");
  assert_true(a.resolution.pool[0]->weight == 7 && a.resolution.pool[0]->key == bench_find(keys, SPAN("azure/m/n")));
  expect(chat("azure/m,nope/x", NULL), RESOLVED_UNKNOWN, "", "");
  expect(chat("azure/m,smart", NULL), RESOLVED_UNKNOWN, "", "");
  expect(chat("azure/", NULL), RESOLVED_UNKNOWN, "", "");
  expect(chat("azure/*", NULL), RESOLVED_UNKNOWN, "", "");
  expect(chat("azure/a\r\nb", NULL), RESOLVED_UNKNOWN, "", "");
  expect(chat(",", NULL), RESOLVED_UNKNOWN, "", "");
  char text[1024] = "";
  for (int i = 0; i < 65; i++) snprintf(text + strlen(text), sizeof text - strlen(text), "azure/%d,", i);
  expect(chat(text, NULL), RESOLVED_UNKNOWN, "", "");
  /* The registry is full after 64 names: then a candidate shares its upstream's key. */
  for (int i = 0; i < 80; i++) {
    snprintf(text, sizeof text, "azure/new-%d", i);
    a = chat(text, NULL);
    assert_non_null(a.resolution.pool[0]->key);
  }
  assert_ptr_equal(a.resolution.pool[0]->key, a.resolution.pool[0]->upstream_key);
  end();
}

static void test_resolve_any(void **state) {
  (void)state;
  begin(WORLD("['*'] = { { use = 'openai/*', weight = 5 }, 'azure/fixed', policy = 'batch' }"));
  struct answer a = chat("gpt-9", NULL);
  expect(a, RESOLVED, "openai/gpt-9 azure/fixed", "");
  assert_string_equal(a.resolution.policy, "batch");
  assert_string_equal(a.resolution.pool[0]->model, "gpt-9");
  assert_true(a.resolution.pool[0]->weight == 5 && a.resolution.pool[0]->key == bench_find(keys, SPAN("openai/gpt-9")));
  expect(chat("meta/llama", NULL), RESOLVED, "openai/meta/llama azure/fixed", "");
  expect(chat("gpt-9@azure", NULL), RESOLVED, "azure/fixed", "openai/gpt-9=target");
  expect(chat("*", NULL), RESOLVED_UNKNOWN, "", "");
  end();
}

static void test_resolve_pinned_and_grants(void **state) {
  (void)state;
  begin(WORLD("['*'] = 'openai/*'"));
  expect(ask(ROUTE_RESPONSES, SPAN("smart"), NULL, "azure", NULL), RESOLVED, "azure/gpt-4o-eu", "openai/gpt-4o=pinned " REST);
  expect(ask(ROUTE_RESPONSES, SPAN("smart"), NULL, "emb", NULL), RESOLVED_UNKNOWN, "",
         "openai/gpt-4o=pinned azure/gpt-4o-eu=pinned off/x=disabled claude/c=route emb/e=route");
  expect(ask(ROUTE_RESPONSES, SPAN("free"), NULL, "openai", NULL), RESOLVED, "azure/free", "");
  expect(ask(ROUTE_RESPONSES, SPAN("smart"), "openai", "azure", NULL), RESOLVED, "azure/gpt-4o-eu", "openai/gpt-4o=pinned " REST);
  expect(ask(ROUTE_CHAT, SPAN("free"), NULL, NULL, "team"), RESOLVED, "azure/free", "");
  expect(ask(ROUTE_CHAT, SPAN("smart@azure"), NULL, NULL, "team"), RESOLVED, "azure/gpt-4o-eu", "openai/gpt-4o=target " REST);
  expect(ask(ROUTE_CHAT, SPAN("smart"), "azure", NULL, "team"), RESOLVED, "azure/gpt-4o-eu", "openai/gpt-4o=target " REST);
  expect(ask(ROUTE_CHAT, SPAN("v@1"), NULL, NULL, "team"), RESOLVED_DENIED, "", "");
  expect(ask(ROUTE_CHAT, SPAN("openai/gpt-4o"), NULL, NULL, "team"), RESOLVED_DENIED, "", "");
  expect(ask(ROUTE_CHAT, SPAN("unknown"), NULL, NULL, "team"), RESOLVED_DENIED, "", "");
  expect(ask(ROUTE_CHAT, SPAN(""), NULL, NULL, "team"), RESOLVED_DENIED, "", "");
  end();
}

static int enter_folder(void **state) {
  (void)state;
  return mkdtemp(folder) && chdir(folder) == 0 ? 0 : -1;
}

static int leave_folder(void **state) {
  (void)state;
  static const char *const files[] = { "bullpen.lua", "common.lua", "secret" };
  for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) (void)unlink(files[i]);
  return chdir("..") == 0 ? rmdir(folder) : -1;
}

int main(void) {
  const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_refused),        cmocka_unit_test(test_file_faults),     cmocka_unit_test(test_full),
    cmocka_unit_test(test_defaults),       cmocka_unit_test(test_ready_policies),  cmocka_unit_test(test_warnings),
    cmocka_unit_test(test_clients),        cmocka_unit_test(test_lines),           cmocka_unit_test(test_units),
    cmocka_unit_test(test_options_agree),  cmocka_unit_test(test_resolve_names),   cmocka_unit_test(test_resolve_targets),
    cmocka_unit_test(test_resolve_strict), cmocka_unit_test(test_resolve_chains),  cmocka_unit_test(test_resolve_any),
    cmocka_unit_test(test_resolve_pinned_and_grants), cmocka_unit_test(test_damaged),
  };
  return cmocka_run_group_tests(tests, enter_folder, leave_folder);
}
