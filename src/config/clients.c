/*
 * Who may connect and where: listeners, clients, the admin interface, and the rules that tie them together.
 * Without client keys anybody who can reach a listener spends the operator's money, so that is allowed on loopback
 * only, unless it is written down (`open`).
 */
#include <string.h>

#include "config/build.h"

enum { KEY_MOST = 512 };

/* ---- listeners ---- */

static void read_listener(struct build *b, const struct place *place, const struct value *value,
                          struct listen_address *list, size_t at) {
  if (!option_check_text(b->report, place, value)) return;
  const char *text = arena_copy(&b->config->arena, value->string);
  if (!text) {
    report_memory(b->report);
    return;
  }
  address_parse(b, place, text, &list[at]);
  for (size_t i = 0; i < at; i++)
    if (list[i].text && strcmp(list[i].text, text) == 0 && (list[at].is_unix || list[at].port))
      report_at(b->report, place, "stands in the list twice");
}

void build_listeners(struct build *b) {
  const struct value standard = { .kind = VALUE_STRING, .string = span_of(option_find("", SPAN("listen"))->fallback) };
  const struct value *value = value_member(b->root, "listen");
  struct place place = lines_member(&b->place, SPAN("listen"));
  if (!value) value = &standard;
  bool list = value->kind == VALUE_TABLE;
  if (!list && value->kind != VALUE_STRING) {
    report_at(b->report, &place, "expected a string or a list of strings, got %s", option_kind(value));
    return;
  }
  if (list && !build_is_list(b, &place, value, "a string or a list of strings")) return;
  size_t count = list ? value->table.count : 1;
  struct listen_address *listen = build_alloc(b, sizeof *listen * (count ? count : 1));
  if (!listen) return;
  b->config->listen = listen;
  b->config->listen_count = count;
  if (!count) report_at(b->report, &place, "is empty");
  for (size_t i = 0; i < count; i++) {
    struct place at = list ? lines_element(&place, i + 1) : place;
    read_listener(b, &at, list ? &value->table.pairs[i].value : value, listen, i);
  }
}

static void build_admin(struct build *b) {
  const struct value *table = value_member(b->root, "admin");
  struct place admin = lines_member(&b->place, SPAN("admin")), place = lines_member(&admin, SPAN("listen"));
  if (!table || table->kind != VALUE_TABLE) return;
  const struct value *value = value_member(table, "listen");
  if (value && !option_check_text(b->report, &place, value)) return;
  const char *text = option_find("admin", SPAN("listen"))->fallback;
  if (value) text = arena_copy(&b->config->arena, value->string);
  struct listen_address *listen = build_alloc(b, sizeof *listen);
  if (!text) report_memory(b->report);
  if (!listen || !text) return;
  b->config->admin.listen = listen;
  address_parse(b, &place, text, listen);
}

/* ---- clients ---- */

static void read_client(struct build *b, const struct place *place, const struct value *value, struct client *c) {
  options_fill(b->report, &b->config->arena, place, "clients[]", value, c);
  if (value->kind != VALUE_TABLE) return;
  if (!value_member(value, "name")) report_at(b->report, place, "no name");
  if (!value_member(value, "key")) report_at(b->report, place, "no key");
  struct place models = lines_member(place, SPAN("models")), key = lines_member(place, SPAN("key"));
  const struct value *grant = value_member(value, "models");
  if (grant) {
    c->models = build_texts(b, &models, grant, &c->model_count);
    if (grant->kind == VALUE_TABLE && !grant->table.count)
      report_at(b->report, &models, "grants nothing: leave it out to grant every model");
  }
  if (!c->key) return;
  size_t n = strlen(c->key);
  if (n > KEY_MOST) {
    report_at(b->report, &key, "is longer than %d bytes", KEY_MOST);
    return;
  }
  /* Padded with zeros: config_client reads as far as the longest key that it lets in. */
  char *padded = build_alloc(b, KEY_MOST + 1);
  if (padded) c->key = memcpy(padded, c->key, n);
}

static void check_duplicate(struct build *b, const struct place *place, size_t at) {
  const struct client *clients = b->config->clients, *c = &clients[at];
  for (size_t i = 0; i < at; i++) {
    struct place name = lines_member(place, SPAN("name")), key = lines_member(place, SPAN("key"));
    if (c->name && clients[i].name && strcmp(c->name, clients[i].name) == 0)
      report_at(b->report, &name, "clients[%zu] has the same name", i + 1);
    if (c->key && clients[i].key && strcmp(c->key, clients[i].key) == 0)
      report_at(b->report, &key, "clients[%zu] has the same key", i + 1);
  }
}

void build_clients(struct build *b) {
  build_admin(b);
  const struct value *value = value_member(b->root, "clients");
  struct place place = lines_member(&b->place, SPAN("clients"));
  if (!value || !build_is_list(b, &place, value, "a list of { name =, key = }")) return;
  size_t count = value->table.count;
  struct client *clients = build_alloc(b, sizeof *clients * (count ? count : 1));
  if (!clients) return;
  b->config->clients = clients;
  b->config->client_count = count;
  for (size_t i = 0; i < count; i++) {
    struct place at = lines_element(&place, i + 1);
    read_client(b, &at, &value->table.pairs[i].value, &clients[i]);
    check_duplicate(b, &at, i);
  }
}

/* Without an early exit or a branch on a secret: the time goes by the length that came, and nothing else. */
const struct client *config_client(const struct config *config, struct span key) {
  char given[KEY_MOST + 1] = { 0 };
  if (!key.n || key.n > KEY_MOST || memchr(key.p, '\0', key.n)) return NULL;
  memcpy(given, key.p, key.n);
  size_t found = 0;
  for (size_t c = 0; c < config->client_count; c++) {
    const volatile char *own = config->clients[c].key;
    unsigned char differs = 0;
    for (size_t i = 0; i <= key.n; i++) differs |= (unsigned char)(given[i] ^ own[i]);
    found |= ((size_t)0 - (size_t)(((unsigned)differs - 1) >> 31)) & (c + 1);
  }
  return found ? &config->clients[found - 1] : NULL;
}

/* ---- rules ---- */

/* A grant must name what can be served: a model, a chain of known upstreams, or anything where models["*"] stands. */
static bool can_grant(const struct config *config, struct span name) {
  if (config->any_model) return true;
  for (size_t i = 0; i < config->model_count; i++)
    if (span_is(name, config->models[i].name)) return true;
  const char *slash = memchr(name.p, '/', name.n);
  return slash && config_upstream(config, (struct span){ name.p, (size_t)(slash - name.p) });
}

static void check_grants(struct build *b) {
  struct place clients = lines_member(&b->place, SPAN("clients"));
  for (size_t c = 0; c < b->config->client_count; c++) {
    struct place client = lines_element(&clients, c + 1), models = lines_member(&client, SPAN("models"));
    for (size_t i = 0; i < b->config->clients[c].model_count; i++) {
      struct span name = span_of(b->config->clients[c].models[i]);
      if (can_grant(b->config, name)) continue;
      struct guess guess = guess_begin(name);
      for (size_t m = 0; m < b->config->model_count; m++) guess_offer(&guess, span_of(b->config->models[m].name));
      struct place at = lines_element(&models, i + 1);
      report_at(b->report, &at, "unknown model '%.80s'%s", name.p, guess_text(&guess));
    }
  }
}

static void check_forward(struct build *b) {
  struct place upstreams = lines_member(&b->place, SPAN("upstreams"));
  for (size_t i = 0; i < b->config->upstream_count; i++) {
    struct place upstream = lines_member(&upstreams, span_of(b->config->upstreams[i].name));
    struct place auth = lines_member(&upstream, SPAN("auth"));
    if (b->config->upstreams[i].auth == AUTH_FORWARD)
      report_at(b->report, &auth, "\"forward\" cannot stand beside clients: their keys are bullpen's own");
  }
}

static void check_exposed(struct build *b) {
  const struct config *config = b->config;
  struct place listen = lines_member(&b->place, SPAN("listen"));
  for (size_t i = 0; i < config->listen_count; i++) {
    if (config->listen[i].loopback) continue;
    if (!config->open)
      report_at(b->report, &listen, "%.80s is not loopback: configure clients, or write open = true",
                config->listen[i].text);
    else
      build_warn(b, "anybody who reaches %s may use it: there are no clients (open = true)", config->listen[i].text);
  }
}

void build_rules(struct build *b) {
  const struct config *config = b->config;
  check_grants(b);
  if (config->client_count)
    check_forward(b);
  else
    check_exposed(b);
  const struct listen_address *admin = config->admin.listen;
  if (!admin || admin->loopback || config->admin.token) return;
  struct place table = lines_member(&b->place, SPAN("admin")), listen = lines_member(&table, SPAN("listen"));
  if (!config->admin.open)
    report_at(b->report, &listen, "%.80s is not loopback: set admin.token, or write admin.open = true", admin->text);
  else
    build_warn(b, "anybody who reaches %s may administrate: there is no admin.token (admin.open = true)", admin->text);
}
