/*
 * Upstreams: accounts at providers. A name is used in candidates, headers, URLs of the admin interface and
 * metrics, so only letters, digits and `._-` are let into it. What is left unsaid comes from the option table, or
 * from the config's timeouts and the api.
 */
#include <ctype.h>
#include <string.h>

#include "config/build.h"

enum { NAME_MOST = 128 };

static bool is_upstream_name(struct span name) {
  for (size_t i = 0; i < name.n; i++)
    if (!isalnum((unsigned char)name.p[i]) && !strchr("._-", name.p[i])) return false;
  return name.n > 0 && name.n <= NAME_MOST;
}

/* ---- headers and query ---- */

static bool is_token(struct span name) {
  for (size_t i = 0; i < name.n; i++)
    if (!isalnum((unsigned char)name.p[i]) && !strchr("!#$%&'*+-.^_`|~", name.p[i])) return false;
  return name.n > 0;
}

/* Headers that make up the framing: they follow from the request, never from a configuration. */
static bool is_framing(struct span name) {
  static const char *const names[] = {
    "host", "connection", "content-length", "transfer-encoding", "keep-alive", "te", "trailer", "upgrade", "expect",
    "proxy-connection",
  };
  for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
    if (span_is_nocase(name, names[i])) return true;
  return false;
}

static void check_header(struct build *b, const struct place *place) {
  if (!is_token(place->key))
    report_at(b->report, place, "is no header name");
  else if (is_framing(place->key))
    report_at(b->report, place, "cannot be set: it follows from the request");
}

static struct pairs read_pairs(struct build *b, const struct place *up, const struct value *table, const char *key,
                               bool headers) {
  const struct value *value = value_member(table, key);
  struct place place = lines_member(up, span_of(key));
  if (!value) return (struct pairs){ 0 };
  if (value->kind != VALUE_TABLE) {
    report_at(b->report, &place, "expected a table of names and strings, got %s", option_kind(value));
    return (struct pairs){ 0 };
  }
  struct pair *list = build_alloc(b, sizeof *list * value->table.count);
  for (size_t i = 0; list && i < value->table.count; i++) {
    const struct value_pair *pair = &value->table.pairs[i];
    if (pair->key.kind != VALUE_STRING) {
      report_at(b->report, &place, "expected a table of names and strings, got a list");
      break;
    }
    struct place at = lines_member(&place, pair->key.string);
    if (headers) check_header(b, &at);
    if (!option_check_text(b->report, &at, &pair->value)) continue;
    list[i] = (struct pair){ pair->key.string, pair->value.string };
  }
  return (struct pairs){ list, list ? value->table.count : 0 };
}

/* ---- one upstream ---- */

static void read_routes(struct build *b, const struct place *up, const struct value *table, struct upstream *u) {
  const struct value *value = value_member(table, "routes");
  u->routes = api_default_routes(u->api);
  if (!value) return;
  struct place place = lines_member(up, SPAN("routes"));
  size_t count;
  const char **names = build_texts(b, &place, value, &count);
  u->routes = 0;
  for (size_t i = 0; names && i < count; i++) {
    enum route route;
    struct place at = lines_element(&place, i + 1);
    if (!route_parse(span_of(names[i]), &route) || route == ROUTE_NONE) {
      struct guess guess = guess_begin(span_of(names[i]));
      for (int r = ROUTE_NONE + 1; r < ROUTE_COUNT; r++) guess_offer(&guess, span_of(route_name((enum route)r)));
      report_at(b->report, &at, "expected one of chat, completions, embeddings, responses, messages%s",
                guess_text(&guess));
    } else if (route_api(route) != u->api) {
      report_at(b->report, &at, "an upstream with api = \"%s\" cannot serve the route %s", api_name(u->api), names[i]);
    } else {
      u->routes |= 1u << route;
    }
  }
}

static void check_key(struct build *b, const struct place *place, const struct value *table, struct upstream *u) {
  if (!value_member(table, "auth")) u->auth = u->api == API_ANTHROPIC ? AUTH_X_API_KEY : AUTH_BEARER;
  bool wanted = u->auth != AUTH_NONE && u->auth != AUTH_FORWARD;
  if (wanted && !value_member(table, "key")) {
    struct place key = lines_member(place, SPAN("key"));
    report_at(b->report, &key, "no key (write key = env \"NAME\", or auth = \"none\" or \"forward\")");
  } else if (!wanted && u->key) {
    const char *auth = u->auth == AUTH_NONE ? "none" : "forward";
    build_warn(b, "upstreams.%s.key is not used with auth = \"%s\"", u->name, auth);
    u->key = NULL;
  }
}

static void check_url(struct build *b, const struct place *up, const struct value *table, struct upstream *u) {
  if (!u->base_url) {
    if (!value_member(table, "base_url")) report_at(b->report, up, "no base_url");
    return;
  }
  struct place place = lines_member(up, SPAN("base_url"));
  u->base_url = address_base_url(b, &place, u->base_url);
  if (u->base_url && strncasecmp(u->base_url, "http:", 5) == 0 && !address_is_loopback(address_url_host(u->base_url)) &&
      u->auth != AUTH_NONE)
    build_warn(b, "upstreams.%s.base_url is http: the credential crosses the network in clear", u->name);
}

static void read_upstream(struct build *b, const struct place *place, const struct value *value, size_t index) {
  struct upstream *u = &b->upstreams[index];
  if (!is_upstream_name(place->key)) {
    report_at(b->report, place, "a name is made of letters, digits, '.', '_' and '-' (at most %d)", NAME_MOST);
    return;
  }
  u->name = arena_copy(&b->config->arena, place->key);
  if (!u->name) {
    report_memory(b->report);
    return;
  }
  u->timeouts = b->config->timeouts.attempt;
  options_fill(b->report, &b->config->arena, place, "upstreams.NAME", value, u);
  if (value->kind != VALUE_TABLE) return;
  u->headers = read_pairs(b, place, value, "headers", true);
  u->query = read_pairs(b, place, value, "query", false);
  read_routes(b, place, value, u);
  check_key(b, place, value, u);
  check_url(b, place, value, u);
  u->tls_ca = build_path(b, u->tls_ca);
  if (!u->tls_verify) build_warn(b, "upstreams.%s.tls.verify is off: any certificate will do", u->name);
}

void build_upstreams(struct build *b) {
  size_t count = build_count(b, "upstreams");
  b->upstreams = build_alloc(b, sizeof *b->upstreams * (count ? count : 1));
  if (!b->upstreams) return;
  b->config->upstreams = b->upstreams;
  b->config->upstream_count = count;
  build_each_member(b, "upstreams", read_upstream);
  if (!count && report_clean(b->report)) {
    struct place place = lines_member(&b->place, SPAN("upstreams"));
    report_at(b->report, value_member(b->root, "upstreams") ? &place : &b->place,
              "no upstreams: there must be at least one");
  }
}
