/*
 * From what the client asked for to the pool of candidates: contract section 3, its rules in their order.
 *
 *   text --> name and suffix target --> grant --> chain: models[NAME], else the text itself, else models["*"]
 *        --> less those of the wrong route or disabled --> pinned to one upstream --> narrowed to the target --> pool
 *
 * Everything made here lives in the request's arena. Names that only a request bears are bounded in length and
 * hold no control characters, since they go into headers and logs. Nothing here reads a clock or a bench.
 */
#include <stdlib.h>
#include <string.h>

#include "config/config.h"

enum { CHAIN_MOST = 64, NAME_MOST = 300 };

struct query {
  const struct config *config;
  struct bench *bench;
  struct arena *arena;
  enum route route;
  struct span name;      /* what is looked up, without a suffix */
  struct span target;    /* the header's, else the suffix's; p NULL: none */
  const struct upstream *pinned;
  const struct candidate **chain;
  size_t count;
  bool no_memory;
};

const struct upstream *config_upstream(const struct config *config, struct span name) {
  for (size_t i = 0; i < config->upstream_count; i++)
    if (config->upstreams[i].name && span_is(name, config->upstreams[i].name)) return &config->upstreams[i];
  return NULL;
}

static int compare_name(const void *key, const void *element) {
  const struct span *name = key;
  const char *other = ((const struct model *)element)->name;
  int order = strncmp(name->p, other, name->n);
  return order ? order : other[name->n] ? -1 : 0;
}

static const struct model *find_model(const struct config *config, struct span name) {
  if (!name.n || memchr(name.p, '\0', name.n)) return NULL;
  return bsearch(&name, config->models, config->model_count, sizeof *config->models, compare_name);
}

/* ---- rule 1: the suffix ---- */

static void split_suffix(struct query *q) {
  const char *at = q->name.n ? memrchr(q->name.p, '@', q->name.n) : NULL;
  if (!at || find_model(q->config, q->name)) return;
  struct span rest = { q->name.p, (size_t)(at - q->name.p) };
  struct span suffix = span_skip(q->name, rest.n + 1);
  if (!rest.n || !suffix.n) return;
  if (!config_upstream(q->config, suffix) && !find_model(q->config, rest)) return;
  q->name = rest;
  if (!q->target.p) q->target = suffix;
}

static bool is_granted(const struct client *client, struct span name) {
  if (!client || !client->models) return true;
  for (size_t i = 0; i < client->model_count; i++)
    if (span_is(name, client->models[i])) return true;
  return false;
}

/* ---- rules 3 and 4: candidates that only a request names ---- */

static bool is_presentable(struct span model) {
  if (!model.n || model.n > NAME_MOST || span_is(model, "*")) return false;
  for (size_t i = 0; i < model.n; i++)
    if ((unsigned char)model.p[i] < 0x20 || model.p[i] == 0x7f) return false;
  return true;
}

/* `like` has its settings already, but for names and key. */
static const struct candidate *make_candidate(struct query *q, struct candidate like, struct span model) {
  struct candidate *c = ARENA_NEW(q->arena, struct candidate);
  if (!c) return NULL;
  *c = like;
  c->model = arena_copy(q->arena, model);
  c->name = c->model ? arena_printf(q->arena, "%s/%s", like.upstream_name, c->model) : NULL;
  if (!c->name) return NULL;
  c->key = q->bench ? bench_get(q->bench, span_of(c->name)) : NULL;
  if (!c->key) c->key = c->upstream_key;
  return c;
}

static struct candidate settings_of(const struct upstream *u) {
  return (struct candidate){
    .upstream_name = u->name, .api = u->api, .weight = u->weight, .priority = u->priority,
    .passthrough = u->passthrough, .forwards = u->auth == AUTH_FORWARD, .max_inflight = u->max_inflight, .timeouts = u->timeouts, .tags = u->tags,
    .price = u->price, .upstream_key = u->bench_key, .upstream = u,
  };
}

static bool add_once(struct query *q, const struct candidate *candidate) {
  q->no_memory |= !candidate;
  if (!candidate) return false;
  for (size_t i = 0; i < q->count; i++)
    if (strcmp(q->chain[i]->name, candidate->name) == 0) return true;
  q->chain[q->count++] = candidate;
  return true;
}

/* One entry of a chain in a request; blank ones are skipped, so `model` may come back empty. */
static bool read_entry(const struct query *q, struct span entry, const struct upstream **u, struct span *model) {
  *model = SPAN_NONE;
  if (!entry.n) return true;
  const char *slash = memchr(entry.p, '/', entry.n);
  if (!slash) return false;
  size_t n = (size_t)(slash - entry.p);
  *model = span_skip(entry, n + 1);
  *u = config_upstream(q->config, (struct span){ entry.p, n });
  return *u && is_presentable(*model);
}

static struct span next_entry(struct span *rest) {
  const char *comma = memchr(rest->p, ',', rest->n);
  struct span entry = { rest->p, comma ? (size_t)(comma - rest->p) : rest->n };
  *rest = span_skip(*rest, entry.n + 1);
  return span_trim(entry);
}

/* How many entries the text has when all of them are good; 0 otherwise, or when they are too many. */
static size_t count_entries(const struct query *q) {
  size_t count = 0;
  const struct upstream *u;
  struct span model;
  for (struct span rest = q->name; rest.n;) {
    if (!read_entry(q, next_entry(&rest), &u, &model)) return 0;
    count += model.n > 0;
    if (count > CHAIN_MOST) return 0;
  }
  return count;
}

static bool take_text(struct query *q) {
  size_t count = count_entries(q);
  if (!count) return false;
  q->chain = ARENA_ARRAY(q->arena, const struct candidate *, count);
  q->no_memory |= !q->chain;
  for (struct span rest = q->name; q->chain && rest.n;) {
    const struct upstream *u = NULL;
    struct span model;
    if (!read_entry(q, next_entry(&rest), &u, &model)) break;
    if (model.n && !add_once(q, make_candidate(q, settings_of(u), model))) break;
  }
  return true;
}

static bool take_any(struct query *q) {
  const struct model *any = q->config->any_model;
  if (!any || !is_presentable(q->name)) return false;
  q->chain = ARENA_ARRAY(q->arena, const struct candidate *, any->count);
  q->no_memory |= !q->chain;
  for (size_t i = 0; q->chain && i < any->count; i++) {
    const struct candidate *c = any->chain[i];
    if (!add_once(q, *c->model ? c : make_candidate(q, *c, q->name))) break;
  }
  return true;
}

/* Rules 2, 3, 4; false is rule 5. */
static bool find_chain(struct query *q, const char **policy) {
  const struct model *model = find_model(q->config, q->name);
  if (model) {
    q->chain = model->chain;
    q->count = model->count;
    *policy = model->policy;
    return true;
  }
  if (take_text(q)) return true;
  if (!take_any(q)) return false;
  *policy = q->config->any_model->policy;
  return true;
}

/* ---- the pool ---- */

static const struct upstream *upstream_of(const struct candidate *c) {
  return c->upstream;
}

static const char *unfit(const struct query *q, const struct upstream *u) {
  if (q->route != ROUTE_NONE && (u->api != route_api(q->route) || !(u->routes & 1u << q->route))) return "route";
  return u->enabled ? NULL : "disabled";
}

/* Marks the others when at least one that is marked `fit` (or any one, when `fit` is false) belongs to `u`; false
 * when there is none. */
static bool narrow(const struct query *q, const struct upstream *u, const char *why, bool fit, const char **marks) {
  bool found = false;
  for (size_t i = 0; i < q->count; i++) found |= upstream_of(q->chain[i]) == u && (!fit || !marks[i]);
  for (size_t i = 0; found && i < q->count; i++)
    if (upstream_of(q->chain[i]) != u && !marks[i]) marks[i] = why;
  return found;
}

/* False when the target is strict and nobody fits. */
static bool take_target(struct query *q, const char **marks, struct resolution *resolution) {
  if (!q->target.p) return true;
  const struct upstream *u = config_upstream(q->config, q->target);
  if (u && narrow(q, u, "target", true, marks)) {
    resolution->target = u->name;
    return true;
  }
  if (q->config->strict_targets) {
    for (size_t i = 0; i < q->count; i++)
      if (!marks[i] || upstream_of(q->chain[i]) != u) marks[i] = "target";
    return false;
  }
  int shown = q->target.n > 64 ? 64 : (int)q->target.n;
  const char *what = u ? "has no candidate that fits" : "is no upstream";
  resolution->warning = arena_printf(q->arena, "target '%.*s' %s: the whole pool stays", shown, q->target.p, what);
  q->no_memory |= !resolution->warning;
  return true;
}

static void part(struct query *q, const char **marks, struct resolution *resolution) {
  struct left_out *out = ARENA_ARRAY(q->arena, struct left_out, q->count);
  const struct candidate **pool = ARENA_ARRAY(q->arena, const struct candidate *, q->count);
  q->no_memory |= !out || !pool;
  if (q->no_memory) return;
  bool disabled = false;
  for (size_t i = 0; i < q->count; i++) {
    if (marks[i]) out[resolution->left_out_count++] = (struct left_out){ q->chain[i]->name, marks[i] };
    else pool[resolution->count++] = q->chain[i];
    disabled |= marks[i] && strcmp(marks[i], "disabled") == 0;
  }
  resolution->pool = pool;
  resolution->left_out = out;
  resolution->all_disabled = !resolution->count && disabled;
}

static enum resolved select_pool(struct query *q, struct resolution *resolution) {
  const char **marks = ARENA_ARRAY(q->arena, const char *, q->count);
  if (!marks) return RESOLVED_NO_MEMORY;
  for (size_t i = 0; i < q->count; i++) marks[i] = unfit(q, upstream_of(q->chain[i]));
  /* The answer that the request refers to is known at one upstream only; if that is not in the chain, the others may
   * say so themselves. */
  if (q->pinned) (void)narrow(q, q->pinned, "pinned", false, marks);
  bool taken = take_target(q, marks, resolution);
  part(q, marks, resolution);
  if (q->no_memory) return RESOLVED_NO_MEMORY;
  return taken && resolution->count ? RESOLVED : RESOLVED_UNKNOWN;
}

enum resolved config_resolve(const struct config *config, struct bench *bench, struct arena *arena, enum route route,
                             struct span model, struct span target, const struct upstream *pinned,
                             const struct client *client, struct resolution *resolution) {
  struct query q = {
    .config = config, .bench = bench, .arena = arena, .route = route, .name = model, .pinned = pinned,
    .target = target.n ? target : SPAN_NONE,
  };
  *resolution = (struct resolution){ 0 };
  split_suffix(&q);
  if (!is_granted(client, q.name)) return RESOLVED_DENIED;
  bool found = find_chain(&q, &resolution->policy);
  if (q.no_memory) return RESOLVED_NO_MEMORY;
  return found ? select_pool(&q, resolution) : RESOLVED_UNKNOWN;
}
