/*
 * What the builders share: walking members and lists, copying texts, paths, warnings, bench keys.
 */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "config/build.h"

void *build_alloc(struct build *b, size_t size) {
  void *p = arena_alloc(&b->config->arena, size);
  if (!p) report_memory(b->report);
  return p;
}

const char *build_path(struct build *b, const char *path) {
  if (!path || path[0] == '/') return path;
  const char *folder = strcmp(b->config->folder, "/") == 0 ? "" : b->config->folder;
  const char *whole = arena_printf(&b->config->arena, "%s/%s", folder, path);
  if (!whole) report_memory(b->report);
  return whole;
}

void build_warn(struct build *b, const char *format, ...) {
  char text[512];
  va_list args;
  va_start(args, format);
  vsnprintf(text, sizeof text, format, args);
  va_end(args);
  struct config *config = b->config;
  if (config->warning_count == b->warning_room) {
    size_t room = b->warning_room ? b->warning_room * 2 : 8;
    const char **grown = build_alloc(b, sizeof *grown * room);
    if (!grown) return;
    if (config->warning_count) memcpy(grown, config->warnings, sizeof *grown * config->warning_count);
    config->warnings = b->warnings = grown;
    b->warning_room = room;
  }
  const char *copy = arena_copy(&config->arena, span_of(text));
  if (copy)
    b->warnings[config->warning_count++] = copy;
  else
    report_memory(b->report);
}

size_t build_count(const struct build *b, const char *key) {
  const struct value *table = value_member(b->root, key);
  return table && table->kind == VALUE_TABLE ? table->table.count : 0;
}

void build_each_member(struct build *b, const char *key,
                       void (*each)(struct build *b, const struct place *place, const struct value *value,
                                    size_t index)) {
  const struct value *table = value_member(b->root, key);
  const char *expected = option_find("", span_of(key))->choices;
  struct place place = lines_member(&b->place, span_of(key));
  if (!table) return;
  if (table->kind != VALUE_TABLE) {
    report_at(b->report, &place, "expected %s, got %s", expected, option_kind(table));
    return;
  }
  for (size_t i = 0; i < table->table.count; i++) {
    const struct value_pair *pair = &table->table.pairs[i];
    if (pair->key.kind != VALUE_STRING) {
      report_at(b->report, &place, "expected %s, got a list", expected);
      return;
    }
    struct place at = lines_member(&place, pair->key.string);
    each(b, &at, &pair->value, i);
  }
}

bool build_is_list(struct build *b, const struct place *place, const struct value *value, const char *expected) {
  if (value->kind != VALUE_TABLE) {
    report_at(b->report, place, "expected %s, got %s", expected, option_kind(value));
    return false;
  }
  for (size_t i = 0; i < value->table.count; i++) {
    const struct value *key = &value->table.pairs[i].key;
    if (key->kind != VALUE_INTEGER) {
      /* The key is not named: somebody may have written a secret there. */
      report_at(b->report, place, "expected %s, got a table with named keys", expected);
      return false;
    }
    if (key->integer == (long long)i + 1) continue;
    report_at(b->report, place, "the list has a gap at %zu", i + 1);
    return false;
  }
  return true;
}

const char **build_texts(struct build *b, const struct place *place, const struct value *value, size_t *count) {
  *count = 0;
  if (!build_is_list(b, place, value, "a list of strings") || !value->table.count) return NULL;
  const char **list = build_alloc(b, sizeof *list * value->table.count);
  for (size_t i = 0; list && i < value->table.count; i++) {
    const struct value *item = &value->table.pairs[i].value;
    struct place at = lines_element(place, i + 1);
    if (!option_check_text(b->report, &at, item)) continue;
    list[*count] = arena_copy(&b->config->arena, item->string);
    if (list[*count])
      ++*count;
    else
      report_memory(b->report);
  }
  return list;
}

static void make_chain_keys(struct build *b, struct bench *bench, const struct model *model) {
  for (size_t i = 0; i < model->count; i++) {
    struct candidate *c = (struct candidate *)model->chain[i];
    const struct upstream *u = c->upstream;
    c->upstream_key = u->bench_key;
    if (!c->key) c->key = *c->model ? bench_get(bench, span_of(c->name)) : u->bench_key;
    if (c->key) continue;
    c->key = u->bench_key;
    build_warn(b, "the bench registry is full: %s is benched with the whole of %s", c->name, u->name);
  }
}

void build_bench_keys(struct build *b, struct bench *bench) {
  const struct config *config = b->config;
  if (!bench) return;
  for (size_t i = 0; i < config->upstream_count; i++) {
    b->upstreams[i].bench_key = bench_get(bench, span_of(b->upstreams[i].name));
    if (!b->upstreams[i].bench_key)
      report_at(b->report, &b->place, "the bench registry is full: no room for '%s'", b->upstreams[i].name);
  }
  for (size_t i = 0; i < config->model_count; i++) make_chain_keys(b, bench, &config->models[i]);
  if (config->any_model) make_chain_keys(b, bench, config->any_model);
}
