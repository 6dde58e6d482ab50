/*
 * Chains: each model's entries are flattened into one list of candidates. A name among them stands for that
 * model's own chain, flattened first; the same candidate twice in a chain is kept where it stands first.
 *
 *   NEW --> OPEN (its entries are being read; meeting it again is a cycle) --> DONE
 *
 * An entry whose part before the first slash is an upstream is a candidate, also when a model bears the same name;
 * otherwise a model of that name is taken; otherwise it is an error. Only models["*"] may leave a candidate's
 * model out (a star after the slash, or nothing).
 */
#include <stdlib.h>
#include <string.h>

#include "config/build.h"

enum { CHAIN_MOST = 1024, DEPTH_MOST = 64, NAME_MOST = 300 };

struct draft {
  struct span name;
  const struct value *value;
  enum { DRAFT_NEW, DRAFT_OPEN, DRAFT_DONE } state;
  const struct candidate **chain;
  size_t count, room;
  const char *policy;
};

struct drafts {
  struct build *b;
  struct place place; /* of `models` */
  struct draft *list;
  size_t count;
  unsigned depth;
};

static bool is_any(struct span name) {
  return span_is(name, "*");
}

static void append(struct drafts *d, struct draft *draft, const struct place *place,
                   const struct candidate *candidate) {
  for (size_t i = 0; i < draft->count; i++)
    if (strcmp(draft->chain[i]->name, candidate->name) == 0) return;
  if (draft->count == CHAIN_MOST) {
    report_at(d->b->report, place, "the chain is longer than %d candidates", CHAIN_MOST);
    return;
  }
  if (draft->count == draft->room) {
    size_t room = draft->room ? draft->room * 2 : 4;
    const struct candidate **grown = build_alloc(d->b, sizeof *grown * room);
    if (!grown) return;
    if (draft->count) memcpy(grown, draft->chain, sizeof *grown * draft->count);
    draft->chain = grown;
    draft->room = room;
  }
  draft->chain[draft->count++] = candidate;
}

static struct chain_entry plain_entry(const struct upstream *u) {
  return (struct chain_entry){
    .weight = u->weight, .priority = u->priority, .tags = u->tags, .price = u->price, .timeouts = u->timeouts,
  };
}

static void add_candidate(struct drafts *d, struct draft *draft, const struct place *place, const struct upstream *u,
                          struct span model, const struct chain_entry *entry) {
  struct arena *arena = &d->b->config->arena;
  bool open = is_any(draft->name) && (is_any(model) || !model.n);
  if (!open && (!model.n || is_any(model))) {
    report_at(d->b->report, place, "'%s/' needs a model: only models[\"*\"] may leave it out", u->name);
    return;
  }
  if (model.n > NAME_MOST) {
    report_at(d->b->report, place, "the model's name is longer than %d bytes", NAME_MOST);
    return;
  }
  if (open) model = SPAN_NONE;
  struct candidate *c = build_alloc(d->b, sizeof *c);
  if (!c) return;
  *c = (struct candidate){
    .upstream_name = u->name, .api = u->api, .passthrough = u->passthrough, .forwards = u->auth == AUTH_FORWARD, .max_inflight = u->max_inflight,
    .upstream = u, .weight = entry->weight, .priority = entry->priority, .tags = entry->tags, .price = entry->price,
    .timeouts = entry->timeouts,
  };
  c->model = arena_copy(arena, model);
  c->name = arena_printf(arena, "%s/%s", u->name, open ? "*" : c->model ? c->model : "");
  if (!c->model || !c->name)
    report_memory(d->b->report);
  else
    append(d, draft, place, c);
}

/* ---- names ---- */

static const struct upstream *upstream_of(const struct config *config, struct span entry, struct span *model) {
  const char *slash = memchr(entry.p, '/', entry.n);
  if (!slash) return NULL;
  size_t n = (size_t)(slash - entry.p);
  *model = span_skip(entry, n + 1);
  return config_upstream(config, (struct span){ entry.p, n });
}

static struct draft *draft_find(struct drafts *d, struct span name) {
  for (size_t i = 0; i < d->count; i++)
    if (span_eq(d->list[i].name, name)) return &d->list[i];
  return NULL;
}

static void report_unknown(struct drafts *d, const struct place *place, struct span entry) {
  const char *slash = memchr(entry.p, '/', entry.n);
  struct span word = slash ? (struct span){ entry.p, (size_t)(slash - entry.p) } : entry;
  struct guess guess = guess_begin(word);
  if (slash)
    for (size_t i = 0; i < d->b->config->upstream_count; i++)
      guess_offer(&guess, span_of(d->b->config->upstreams[i].name));
  else
    for (size_t i = 0; i < d->count; i++) guess_offer(&guess, d->list[i].name);
  int shown = word.n > 80 ? 80 : (int)word.n;
  if (slash)
    report_at(d->b->report, place, "unknown upstream '%.*s'%s", shown, word.p, guess_text(&guess));
  else
    report_at(d->b->report, place, "'%.*s' is neither a model's name nor upstream/model%s", shown, word.p,
              guess_text(&guess));
}

static void flatten(struct drafts *d, struct draft *draft);

static void add_nested(struct drafts *d, struct draft *draft, const struct place *place, struct draft *nested) {
  if (nested->state == DRAFT_OPEN) {
    report_at(d->b->report, place, "a cycle: '%.*s' leads back to itself", (int)nested->name.n, nested->name.p);
    return;
  }
  if (d->depth == DEPTH_MOST) {
    report_at(d->b->report, place, "names are nested deeper than %d", DEPTH_MOST);
    return;
  }
  flatten(d, nested);
  for (size_t i = 0; i < nested->count; i++) append(d, draft, place, nested->chain[i]);
}

/* One or more entries in a text, with commas between them; blanks are skipped. */
static void add_text(struct drafts *d, struct draft *draft, const struct place *place, const struct value *value) {
  if (!option_check_text(d->b->report, place, value)) return;
  for (struct span rest = value->string; rest.n;) {
    const char *comma = memchr(rest.p, ',', rest.n);
    size_t n = comma ? (size_t)(comma - rest.p) : rest.n;
    struct span entry = span_trim((struct span){ rest.p, n }), model;
    rest = span_skip(rest, n + 1);
    if (!entry.n) continue;
    const struct upstream *u = upstream_of(d->b->config, entry, &model);
    struct draft *nested = u || is_any(entry) ? NULL : draft_find(d, entry);
    if (u) {
      struct chain_entry plain = plain_entry(u);
      add_candidate(d, draft, place, u, model, &plain);
    } else if (nested) {
      add_nested(d, draft, place, nested);
    } else {
      report_unknown(d, place, entry);
    }
  }
}

/* { use = "upstream/model", weight = ... } */
static void add_entry(struct drafts *d, struct draft *draft, const struct place *place, const struct value *value) {
  struct place at = lines_member(place, SPAN("use"));
  const struct value *use = value_member(value, "use");
  struct chain_entry entry = { 0 };
  if (!use) {
    /* For its unknown keys, which may well be a misspelt `use`. */
    options_fill(d->b->report, &d->b->config->arena, place, "models.NAME[]", value, &entry);
    report_at(d->b->report, place, "no use = \"upstream/model\"");
    return;
  }
  if (!option_check_text(d->b->report, &at, use)) return;
  struct span name = span_trim(use->string), model;
  const struct upstream *u = upstream_of(d->b->config, name, &model);
  if (!u && !memchr(name.p, '/', name.n)) {
    report_at(d->b->report, &at, "expected \"upstream/model\": only a candidate can be overridden");
    return;
  }
  if (!u) {
    report_unknown(d, &at, name);
    return;
  }
  entry = plain_entry(u);
  options_fill(d->b->report, &d->b->config->arena, place, "models.NAME[]", value, &entry);
  add_candidate(d, draft, &at, u, model, &entry);
}

/* ---- one chain ---- */

static const char *find_policy(struct build *b, const struct place *place, const char *name) {
  struct guess guess = guess_begin(span_of(name));
  if (strcmp(name, b->config->policy.name) == 0) return NULL;
  for (size_t i = 0; i < b->config->policy_count; i++) {
    if (strcmp(b->config->policies[i].name, name) == 0) return b->config->policies[i].name;
    guess_offer(&guess, span_of(b->config->policies[i].name));
  }
  report_at(b->report, place, "'%.80s' is none of `policies`%s", name, guess_text(&guess));
  return NULL;
}

static void read_chain(struct drafts *d, struct draft *draft, const struct place *place) {
  const struct value *value = draft->value;
  size_t i = 0;
  for (; i < value->table.count && value->table.pairs[i].key.kind == VALUE_INTEGER; i++) {
    const struct value *entry = &value->table.pairs[i].value;
    struct place at = lines_element(place, i + 1);
    if (value->table.pairs[i].key.integer != (long long)i + 1) {
      report_at(d->b->report, place, "the list has a gap at %zu", i + 1);
      return;
    }
    if (entry->kind == VALUE_STRING)
      add_text(d, draft, &at, entry);
    else if (entry->kind == VALUE_TABLE)
      add_entry(d, draft, &at, entry);
    else
      report_at(d->b->report, &at, "expected \"upstream/model\" or { use = \"upstream/model\" }, got %s",
                option_kind(entry));
  }
  struct chain_options options = { 0 };
  struct value named = { .kind = VALUE_TABLE, .table = { value->table.pairs + i, value->table.count - i } };
  options_fill(d->b->report, &d->b->config->arena, place, "models.NAME", &named, &options);
  struct place policy = lines_member(place, SPAN("policy"));
  if (options.policy) draft->policy = find_policy(d->b, &policy, options.policy);
}

static void flatten(struct drafts *d, struct draft *draft) {
  if (draft->state != DRAFT_NEW) return;
  draft->state = DRAFT_OPEN;
  d->depth++;
  struct place place = lines_member(&d->place, draft->name);
  unsigned before = d->b->report->count;
  if (draft->value->kind == VALUE_STRING)
    add_text(d, draft, &place, draft->value);
  else if (draft->value->kind == VALUE_TABLE)
    read_chain(d, draft, &place);
  else
    report_at(d->b->report, &place, "expected a list of candidates or a string with commas, got %s",
              option_kind(draft->value));
  if (!draft->count && d->b->report->count == before) report_at(d->b->report, &place, "names no candidate");
  d->depth--;
  draft->state = DRAFT_DONE;
}

/* ---- all of them ---- */

static void read_draft(struct build *b, const struct place *place, const struct value *value, size_t index) {
  struct draft *draft = (struct draft *)b->drafts + index;
  struct value name = { .kind = VALUE_STRING, .string = place->key };
  *draft = (struct draft){ .name = place->key, .value = value };
  if (!option_check_text(b->report, place, &name)) return;
  if (memchr(place->key.p, ',', place->key.n))
    report_at(b->report, place, "a comma cannot stand in a model's name: it parts the entries of a chain");
  if (place->key.n > NAME_MOST) report_at(b->report, place, "the name is longer than %d bytes", NAME_MOST);
}

static int by_name(const void *a, const void *b) {
  return strcmp(((const struct model *)a)->name, ((const struct model *)b)->name);
}

static void freeze(struct drafts *d) {
  struct config *config = d->b->config;
  struct model *models = build_alloc(d->b, sizeof *models * (d->count + 1)), *next = models;
  if (!models) return;
  for (size_t i = 0; i < d->count; i++) {
    struct draft *draft = &d->list[i];
    struct model *model = is_any(draft->name) ? &models[d->count] : next++;
    model->name = arena_copy(&config->arena, draft->name);
    model->chain = draft->chain;
    model->count = draft->count;
    model->policy = draft->policy;
    if (!model->name) report_memory(d->b->report);
    if (model == &models[d->count]) config->any_model = model;
  }
  if (!report_clean(d->b->report)) return;
  config->models = models;
  config->model_count = (size_t)(next - models);
  qsort(models, config->model_count, sizeof *models, by_name);
}

void build_models(struct build *b) {
  struct drafts d = { .b = b, .place = lines_member(&b->place, SPAN("models")), .count = build_count(b, "models") };
  b->drafts = d.list = build_alloc(b, sizeof *d.list * (d.count + 1));
  if (!d.list) return;
  build_each_member(b, "models", read_draft);
  if (!report_clean(b->report)) return;
  for (size_t i = 0; i < d.count; i++) flatten(&d, &d.list[i]);
  if (report_clean(b->report)) freeze(&d);
}
