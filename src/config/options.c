/*
 * The option table and its printing. To add a setting: one line here, one field in config.h. Nothing else knows a
 * default or a range.
 *
 * Offsets are of the section's struct: struct config for the root and its groups, struct upstream, struct
 * chain_entry, struct policy_spec, struct client. `policies.NAME` takes the same options as `policy` and is filled
 * from that section.
 */
#include "config/options.h"

#include <stdio.h>
#include <string.h>

#include "config/build.h"

#define FIELD(type, field) offsetof(struct type, field)
#define DAY (86400.0)
#define YEAR (365 * DAY)
#define KIB (1024.0)
#define MIB (1024 * KIB)
#define GIB (1024 * MIB)

/* A choice is stored through an int. */
_Static_assert(sizeof(enum api) == sizeof(int) && sizeof(enum auth) == sizeof(int), "enums");
_Static_assert(sizeof(enum log_level) == sizeof(int), "enums");

#define OVERRIDE(section, type, inherited, kind, name) \
  { section ".timeouts." #name, kind, FIELD(type, timeouts.name), 0.001, YEAR, NULL, "(" inherited "." #name ")", \
    "seconds", "overrides timeouts." #name }
#define ATTEMPT_TIMEOUTS(section, type, inherited) \
  { section ".timeouts", OPTION_GROUP, 0, 0, 0, "a table", "(" inherited ")", NULL, \
    "overrides of connect, headers, first_event, idle, hold" }, \
  OVERRIDE(section, type, inherited, OPTION_SECONDS, connect), \
  OVERRIDE(section, type, inherited, OPTION_SECONDS, headers), \
  OVERRIDE(section, type, inherited, OPTION_SECONDS, first_event), \
  OVERRIDE(section, type, inherited, OPTION_SECONDS, idle), \
  OVERRIDE(section, type, inherited, OPTION_HOLD, hold)

#define TIMEOUT(name, field, fallback, help) \
  { "timeouts." name, OPTION_SECONDS, FIELD(config, timeouts.field), 0.001, YEAR, NULL, fallback, "seconds", help }
#define COUNT_LIMIT(name, least, most, fallback, unit, help) \
  { "limits." #name, OPTION_COUNT, FIELD(config, limits.name), least, most, NULL, fallback, unit, help }
#define BYTE_LIMIT(name, least, most, fallback, help) \
  { "limits." #name, OPTION_BYTES, FIELD(config, limits.name), least, most, NULL, fallback, "bytes", help }

static const struct option options[] = {
  { "listen", OPTION_OTHER, 0, 0, 0, "\"host:port\", \"[::1]:8080\", \":8080\", \"unix:/path\", or a list of them",
    "127.0.0.1:8080", NULL, "where clients connect; port 0 takes a free one" },
  { "workers", OPTION_COUNT, FIELD(config, workers), 0, 256, NULL, "0", "threads",
    "event-loop threads; 0: one per CPU" },
  { "open", OPTION_BOOL, FIELD(config, open), 0, 0, NULL, "false", NULL,
    "serve without client keys on addresses that are not loopback" },
  { "targets", OPTION_SWITCH, FIELD(config, strict_targets), 0, 0, "prefer|strict", "prefer", NULL,
    "an unknown or unfit target: a warning and the whole pool, or 404" },
  { "state", OPTION_PATH, FIELD(config, state), 0, 0, NULL, NULL, NULL, "a folder for what must survive a restart" },

  { "admin", OPTION_GROUP, 0, 0, 0, "a table", "(no admin interface)", NULL, "the admin interface" },
  { "admin.listen", OPTION_OTHER, 0, 0, 0, "as listen, one", "127.0.0.1:9090", NULL,
    "its address, where there is an admin table" },
  { "admin.token", OPTION_SECRET, FIELD(config, admin.token), 0, 0, NULL, NULL, NULL,
    "the bearer token it asks for" },
  { "admin.open", OPTION_BOOL, FIELD(config, admin.open), 0, 0, NULL, "false", NULL,
    "no token on an address that is not loopback" },

  { "upstreams", OPTION_OTHER, 0, 0, 0, "a table of NAME = { ... }", NULL, NULL,
    "accounts at providers; at least one" },
  { "upstreams.NAME.api", OPTION_CHOICE, FIELD(upstream, api), 0, 0, "openai|anthropic", "openai", NULL,
    "the API family it speaks" },
  { "upstreams.NAME.base_url", OPTION_TEXT, FIELD(upstream, base_url), 0, 0, NULL, NULL, NULL,
    "http(s)://host[:port][/path]; required" },
  { "upstreams.NAME.key", OPTION_SECRET, FIELD(upstream, key), 0, 0, NULL, NULL, NULL,
    "the credential; required unless auth is none or forward" },
  { "upstreams.NAME.auth", OPTION_CHOICE, FIELD(upstream, auth), 0, 0, "bearer|x-api-key|api-key|none|forward",
    "(by api: bearer, x-api-key)", NULL, "how the credential is sent; forward: the client's own" },
  { "upstreams.NAME.headers", OPTION_OTHER, 0, 0, 0, "a table of names and strings", "{}", NULL,
    "headers added to each request" },
  { "upstreams.NAME.query", OPTION_OTHER, 0, 0, 0, "a table of names and strings", "{}", NULL,
    "query parameters added; they win on the same name" },
  { "upstreams.NAME.weight", OPTION_NUMBER, FIELD(upstream, weight), 0, 1e6, NULL, "1", NULL,
    "share among candidates, for policies" },
  { "upstreams.NAME.priority", OPTION_INTEGER, FIELD(upstream, priority), -1e6, 1e6, NULL, "0", NULL,
    "lower is tried first, for policies" },
  { "upstreams.NAME.enabled", OPTION_BOOL, FIELD(upstream, enabled), 0, 0, NULL, "true", NULL,
    "false: takes no requests" },
  { "upstreams.NAME.passthrough", OPTION_BOOL, FIELD(upstream, passthrough), 0, 0, NULL, "false", NULL,
    "answers byte for byte; failover before the head only" },
  { "upstreams.NAME.routes", OPTION_OTHER, 0, 0, 0, "a list of route names", "(by api)", NULL,
    "which routes it serves: chat completions embeddings responses messages" },
  { "upstreams.NAME.tags", OPTION_TABLE, FIELD(upstream, tags), 0, 0, NULL, NULL, NULL,
    "anything, handed to policies" },
  { "upstreams.NAME.price", OPTION_TABLE, FIELD(upstream, price), 0, 0, NULL, NULL, NULL,
    "anything, handed to policies" },
  ATTEMPT_TIMEOUTS("upstreams.NAME", upstream, "timeouts"),
  { "upstreams.NAME.tls", OPTION_GROUP, 0, 0, 0, "a table", "{}", NULL, "how its certificate is checked" },
  { "upstreams.NAME.tls.ca", OPTION_PATH, FIELD(upstream, tls_ca), 0, 0, NULL, "(the system's)", NULL,
    "a file of certificates to trust" },
  { "upstreams.NAME.tls.verify", OPTION_BOOL, FIELD(upstream, tls_verify), 0, 0, NULL, "true", NULL,
    "false: any certificate will do" },
  { "upstreams.NAME.http", OPTION_SWITCH, FIELD(upstream, http2), 0, 0, "1.1|2", "1.1", NULL,
    "the HTTP version spoken with it" },
  { "upstreams.NAME.max_inflight", OPTION_COUNT, FIELD(upstream, max_inflight), 0, 1e6, NULL, "0", "attempts",
    "at most so many at once; 0: no limit" },

  { "models", OPTION_OTHER, 0, 0, 0, "a table of NAME = chain", "{}", NULL,
    "chains by the name clients ask for; \"*\": any other name" },
  { "models.NAME.policy", OPTION_TEXT, FIELD(chain_options, policy), 0, 0, NULL, "(`policy`)", NULL,
    "the one of `policies` that decides for this chain" },
  { "models.NAME[].use", OPTION_TEXT, FIELD(chain_entry, use), 0, 0, NULL, NULL, NULL,
    "\"upstream/model\"; required" },
  { "models.NAME[].weight", OPTION_NUMBER, FIELD(chain_entry, weight), 0, 1e6, NULL, "(the upstream's)", NULL,
    "overrides the upstream's weight" },
  { "models.NAME[].priority", OPTION_INTEGER, FIELD(chain_entry, priority), -1e6, 1e6, NULL, "(the upstream's)",
    NULL, "overrides the upstream's priority" },
  { "models.NAME[].tags", OPTION_TABLE, FIELD(chain_entry, tags), 0, 0, NULL, "(the upstream's)", NULL,
    "overrides the upstream's tags" },
  { "models.NAME[].price", OPTION_TABLE, FIELD(chain_entry, price), 0, 0, NULL, "(the upstream's)", NULL,
    "overrides the upstream's price" },
  ATTEMPT_TIMEOUTS("models.NAME[]", chain_entry, "the upstream's timeouts"),

  { "policy", OPTION_OTHER, 0, 0, 0, "a path, a ready-made policy's name, or a table", "chain_with_bench", NULL,
    "the default policy" },
  { "policy.file", OPTION_PATH, FIELD(policy_spec, file), 0, 0, NULL, NULL, NULL, "a Lua file; not beside name" },
  { "policy.name", OPTION_TEXT, FIELD(policy_spec, ready), 0, 0, NULL, "chain_with_bench", NULL,
    "a ready-made policy" },
  { "policy.watch", OPTION_BOOL, FIELD(policy_spec, watch), 0, 0, NULL, "false", NULL,
    "reload when its files change" },
  { "policy.options", OPTION_TABLE, FIELD(policy_spec, options), 0, 0, NULL, NULL, NULL,
    "what its init(options) gets" },
  { "policy.on_error", OPTION_SWITCH, FIELD(policy_spec, reject), 0, 0, "builtin|reject", "builtin", NULL,
    "a failing hook: the built-in answers, or 503" },
  { "policy.budget", OPTION_GROUP, 0, 0, 0, "a table", "{}", NULL, "what a hook may use" },
  { "policy.budget.time", OPTION_SECONDS, FIELD(policy_spec, time), 0.0001, 10, NULL, "10ms", "seconds",
    "for one call of a hook" },
  { "policy.budget.memory", OPTION_BYTES, FIELD(policy_spec, memory), MIB, 4 * GIB, NULL, "64MiB", "bytes",
    "for one VM" },
  { "policies", OPTION_OTHER, 0, 0, 0, "a table of NAME = policy", "{}", NULL, "more policies, each as `policy`" },

  { "clients", OPTION_OTHER, 0, 0, 0, "a list of { name =, key = }", "{}", NULL,
    "who may connect; absent: anybody, on loopback" },
  { "clients[].name", OPTION_TEXT, FIELD(client, name), 0, 0, NULL, NULL, NULL,
    "for logs, records and policies; required" },
  { "clients[].key", OPTION_SECRET, FIELD(client, key), 0, 0, NULL, NULL, NULL, "at most 512 bytes; required" },
  { "clients[].models", OPTION_OTHER, 0, 0, 0, "a list of model names", "(every model)", NULL,
    "a grant: these names only" },
  { "clients[].tags", OPTION_TABLE, FIELD(client, tags), 0, 0, NULL, NULL, NULL, "anything, handed to policies" },

  { "timeouts", OPTION_GROUP, 0, 0, 0, "a table", "{}", NULL, "times" },
  TIMEOUT("connect", attempt.connect, "5", "to connect, from the attempt's start"),
  TIMEOUT("headers", attempt.headers, "300", "to the head, from the attempt's start"),
  TIMEOUT("first_event", attempt.first_event, "300", "from the head to the commit"),
  TIMEOUT("idle", attempt.idle, "120", "between two reads from the upstream"),
  { "timeouts.hold", OPTION_HOLD, FIELD(config, timeouts.attempt.hold), 0.001, YEAR, NULL, "20", "seconds",
    "how long a stream's preamble is held back at most; 0: no limit" },
  TIMEOUT("request", request, "900", "from the complete request to the commit"),
  TIMEOUT("client_header", client_header, "30", "for a client to send its head"),
  TIMEOUT("client_body", client_body, "60", "for a client to send its body"),
  TIMEOUT("client_send", client_send, "60", "without progress in sending to a client"),
  TIMEOUT("keepalive", keepalive, "75", "an idle client connection is kept so long"),
  TIMEOUT("drain", drain, "60", "for requests in flight at shutdown"),
  TIMEOUT("stall", stall, "1", "a worker's turn longer than this is logged"),

  { "limits", OPTION_GROUP, 0, 0, 0, "a table", "{}", NULL, "sizes and counts" },
  BYTE_LIMIT(body, 1, 4 * GIB, "64MiB", "one request's body"),
  BYTE_LIMIT(bodies, 1, 1024 * GIB, "1GiB", "all request bodies in memory"),
  BYTE_LIMIT(header, KIB, MIB, "32KiB", "one request's head"),
  COUNT_LIMIT(attempts, 1, 1000, "16", "attempts", "for one request"),
  BYTE_LIMIT(buffer, 256, 64 * MIB, "256KiB", "held back of one answer"),
  COUNT_LIMIT(connections, 1, 1e7, "16384", "connections", "of clients"),
  COUNT_LIMIT(records, 1, 1e7, "10000", "requests", "kept for explain"),
  COUNT_LIMIT(ids, 1, 1e8, "100000", "ids", "of answers, with the upstream that made them"),
  BYTE_LIMIT(shared, 4 * KIB, 64 * GIB, "16MiB", "the policies' shared store"),

  { "log", OPTION_GROUP, 0, 0, 0, "a table", "{}", NULL, "the log" },
  { "log.format", OPTION_SWITCH, FIELD(config, log.json), 0, 0, "text|json", "text", NULL, "how a line is written" },
  { "log.level", OPTION_CHOICE, FIELD(config, log.level), 0, 0, "debug|info|warn|error", "info", NULL,
    "the lowest level written" },
  { "log.file", OPTION_PATH, FIELD(config, log.file), 0, 0, NULL, "-", NULL, "a file; \"-\" is standard error" },

  { "paths", OPTION_OTHER, 0, 0, 0, "a table of [\"/v1/path*\"] = upstream", "{}", NULL,
    "which upstream serves a path that is no route" },
};

enum { OPTION_TOTAL = sizeof options / sizeof options[0] };

/* The name within its section, or SPAN_NONE when the option stands in another. */
static struct span name_in(const struct option *option, const char *section) {
  size_t n = strlen(section);
  const char *name = option->key;
  if (n) {
    if (strncmp(name, section, n) != 0 || name[n] != '.') return SPAN_NONE;
    name += n + 1;
  }
  return strchr(name, '.') ? SPAN_NONE : span_of(name);
}

const struct option *option_next(const char *section, const struct option *before, struct span *name) {
  for (const struct option *o = before ? before + 1 : options; o < options + OPTION_TOTAL; o++) {
    *name = name_in(o, section);
    if (name->p) return o;
  }
  return NULL;
}

const struct option *option_find(const char *section, struct span name) {
  struct span found;
  for (const struct option *o = option_next(section, NULL, &found); o; o = option_next(section, o, &found))
    if (span_eq(found, name)) return o;
  return NULL;
}

static const char *type_words(const struct option *option) {
  switch (option->type) {
    case OPTION_GROUP:
    case OPTION_TABLE: return "table";
    case OPTION_TEXT:
    case OPTION_CHOICE:
    case OPTION_SWITCH: return "string";
    case OPTION_SECRET: return "secret";
    case OPTION_PATH: return "path";
    case OPTION_BOOL: return "boolean";
    case OPTION_NUMBER: return "number";
    case OPTION_INTEGER:
    case OPTION_COUNT: return "whole number";
    case OPTION_BYTES: return "size";
    case OPTION_SECONDS:
    case OPTION_HOLD: return "time";
    case OPTION_OTHER: return option->choices;
  }
  return "";
}

const struct option_help *config_options(size_t *count) {
  static struct option_help help[OPTION_TOTAL];
  static char ranges[OPTION_TOTAL][96];
  for (size_t i = 0; i < OPTION_TOTAL; i++) {
    const struct option *o = &options[i];
    option_range(o, ranges[i], sizeof ranges[i]);
    help[i] = (struct option_help){ o->key, type_words(o), ranges[i], o->fallback, o->unit, o->help };
    if (!o->fallback) help[i].fallback = "";
    if (!o->unit) help[i].unit = "";
  }
  *count = OPTION_TOTAL;
  return help;
}
