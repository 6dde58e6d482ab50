/*
 * `paths`: which upstream serves a path that is no route. A pattern is a path, or a prefix with a star at its end;
 * the exact one wins, then the longest prefix, whatever the order in which they were written.
 */
#include <stdlib.h>
#include <string.h>

#include "config/build.h"

static bool is_prefix(const char *pattern) {
  return pattern[strlen(pattern) - 1] == '*';
}

static void read_path(struct build *b, const struct place *place, const struct value *value, size_t index) {
  struct path_rule *rule = (struct path_rule *)b->config->paths + index;
  struct value pattern = { .kind = VALUE_STRING, .string = place->key };
  struct guess guess = { 0 };
  if (!option_check_text(b->report, place, &pattern) || !option_check_text(b->report, place, value)) return;
  const char *star = memchr(place->key.p, '*', place->key.n);
  if (!span_starts(place->key, "/v1/")) report_at(b->report, place, "a path begins with /v1/");
  if (star && star != place->key.p + place->key.n - 1) report_at(b->report, place, "a star stands only at the end");
  rule->pattern = arena_copy(&b->config->arena, place->key);
  rule->upstream = config_upstream(b->config, value->string);
  if (!rule->pattern) report_memory(b->report);
  if (rule->upstream) return;
  guess = guess_begin(value->string);
  for (size_t i = 0; i < b->config->upstream_count; i++) guess_offer(&guess, span_of(b->config->upstreams[i].name));
  int shown = value->string.n > 80 ? 80 : (int)value->string.n;
  report_at(b->report, place, "unknown upstream '%.*s'%s", shown, value->string.p, guess_text(&guess));
}

static int by_precedence(const void *a, const void *b) {
  const char *x = ((const struct path_rule *)a)->pattern, *y = ((const struct path_rule *)b)->pattern;
  if (is_prefix(x) != is_prefix(y)) return is_prefix(x) ? 1 : -1;
  size_t n = strlen(x), m = strlen(y);
  return n != m ? (n > m ? -1 : 1) : strcmp(x, y);
}

void build_paths(struct build *b) {
  size_t count = build_count(b, "paths");
  struct path_rule *rules = build_alloc(b, sizeof *rules * (count ? count : 1));
  if (!rules) return;
  b->config->paths = rules;
  b->config->path_count = count;
  build_each_member(b, "paths", read_path);
  if (report_clean(b->report)) qsort(rules, count, sizeof *rules, by_precedence);
}

static bool matches(const char *pattern, struct span path) {
  size_t n = strlen(pattern);
  if (!is_prefix(pattern)) return span_is(path, pattern);
  return path.n >= n - 1 && memcmp(path.p, pattern, n - 1) == 0;
}

const struct upstream *config_path_upstream(const struct config *config, struct span path, struct span target) {
  if (target.n) return config_upstream(config, target);
  for (size_t i = 0; i < config->path_count; i++)
    if (matches(config->paths[i].pattern, path)) return config->paths[i].upstream;
  return NULL;
}
