/*
 * Where policies come from. A string is a path when it ends in .lua or holds a slash, otherwise the name of a
 * ready-made policy out of the binary. The files themselves are opened by the policy room. `chain_with_bench` is
 * the built-in in C, unless options are given to it: those only its Lua twin can read.
 */
#include <stdio.h>
#include <string.h>

#include "config/build.h"
#include "vm/vm.h"

#define BUILTIN "chain_with_bench"

static bool is_path(struct span text) {
  return memchr(text.p, '/', text.n) || (text.n >= 4 && memcmp(text.p + text.n - 4, ".lua", 4) == 0);
}

static bool is_embedded(const char *name) {
  char path[256];
  int n = snprintf(path, sizeof path, "policies/%s.lua", name);
  return n > 0 && (size_t)n < sizeof path && embedded_find(path).p;
}

static void report_unknown(struct build *b, const struct place *place, const char *name) {
  struct guess guess = guess_begin(span_of(name));
  guess_offer(&guess, SPAN(BUILTIN));
  const char *file;
  for (size_t i = 0; (file = embedded_name(i)); i++) {
    struct span ready = span_of(file);
    if (!span_starts(ready, "policies/") || ready.n < strlen("policies/.lua")) continue;
    ready = span_skip(ready, strlen("policies/"));
    ready.n -= strlen(".lua");
    guess_offer(&guess, ready);
  }
  report_at(b->report, place, "no ready-made policy is called '%s'%s; a file's path ends in .lua", name, guess_text(&guess));
}

/* Settles what spec->ready names. */
static void check_ready(struct build *b, const struct place *place, struct policy_spec *spec) {
  if (!spec->ready) return;
  if (strcmp(spec->ready, BUILTIN) == 0) {
    if (!spec->options) {
      spec->ready = NULL;
      return;
    }
    if (!is_embedded(BUILTIN)) {
      struct place options = lines_member(place, SPAN("options"));
      report_at(b->report, &options, "the built-in policy has no options");
    }
    return;
  }
  if (!is_embedded(spec->ready)) report_unknown(b, place, spec->ready);
}

static void read_table(struct build *b, const struct place *place, const struct value *value,
                       struct policy_spec *spec) {
  options_fill(b->report, &b->config->arena, place, "policy", value, spec);
  struct place name = lines_member(place, SPAN("name"));
  bool has_name = value_member(value, "name"), has_file = value_member(value, "file");
  if (has_name && has_file) {
    report_at(b->report, &name, "cannot stand beside file");
    return;
  }
  if (has_file) {
    spec->ready = NULL;
    spec->file = build_path(b, spec->file);
  } else if (has_name) {
    check_ready(b, &name, spec);
  } else {
    check_ready(b, place, spec);
  }
}

static void read_spec(struct build *b, const struct place *place, const struct value *value, struct policy_spec *spec) {
  if (value && value->kind == VALUE_TABLE) {
    read_table(b, place, value, spec);
    return;
  }
  options_fill(b->report, &b->config->arena, place, "policy", NULL, spec);
  if (!value) {
    check_ready(b, place, spec);
    return;
  }
  if (value->kind != VALUE_STRING) {
    report_at(b->report, place, "expected a path, a ready-made policy's name, or a table, got %s", option_kind(value));
    return;
  }
  if (!option_check_text(b->report, place, value)) return;
  const char *text = arena_copy(&b->config->arena, value->string);
  if (!text) {
    report_memory(b->report);
    return;
  }
  spec->ready = is_path(value->string) ? NULL : text;
  spec->file = spec->ready ? NULL : build_path(b, text);
  check_ready(b, place, spec);
}

static void read_member(struct build *b, const struct place *place, const struct value *value, size_t index) {
  struct policy_spec *spec = (struct policy_spec *)b->config->policies + index;
  struct value name = { .kind = VALUE_STRING, .string = place->key };
  if (!option_check_text(b->report, place, &name)) return;
  if (span_is(place->key, "default")) report_at(b->report, place, "\"default\" is the name of `policy`");
  spec->name = arena_copy(&b->config->arena, place->key);
  if (!spec->name) report_memory(b->report);
  read_spec(b, place, value, spec);
}

void build_policies(struct build *b) {
  struct place place = lines_member(&b->place, SPAN("policy"));
  b->config->policy.name = "default";
  read_spec(b, &place, value_member(b->root, "policy"), &b->config->policy);
  size_t count = build_count(b, "policies");
  struct policy_spec *list = build_alloc(b, sizeof *list * (count ? count : 1));
  if (!list) return;
  b->config->policies = list;
  b->config->policy_count = count;
  build_each_member(b, "policies", read_member);
}
