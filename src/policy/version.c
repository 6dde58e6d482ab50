/*
 * The version of a policy: the first 12 hex digits of a SHA-256 over the names and texts of all its files and its
 * options. Every part carries its length, files go by name and options by key, so that the same policy has the same
 * version on every machine and in any order of loading.
 */
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/buf.h"
#include "policy/parts.h"

static void put_part(struct buf *out, struct span part) {
  buf_printf(out, "%zu:", part.n);
  buf_add_span(out, part);
}

static int compare_spans(struct span a, struct span b) {
  int order = memcmp(a.p, b.p, a.n < b.n ? a.n : b.n);
  return order ? order : (a.n > b.n) - (a.n < b.n);
}

static int by_name(const void *a, const void *b) {
  return strcmp(((const struct policy_source *)a)->name, ((const struct policy_source *)b)->name);
}

/* Numbers before texts. */
static int by_key(const void *a, const void *b) {
  const struct value *left = &((const struct value_pair *)a)->key, *right = &((const struct value_pair *)b)->key;
  if (left->kind != right->kind) return left->kind < right->kind ? -1 : 1;
  if (left->kind == VALUE_STRING) return compare_spans(left->string, right->string);
  return (left->integer > right->integer) - (left->integer < right->integer);
}

static void put_value(struct buf *out, const struct value *value);

static void put_table(struct buf *out, const struct value *table) {
  size_t count = table->table.count;
  struct value_pair *pairs = calloc(count + 1, sizeof *pairs);
  out->oom = out->oom || !pairs;
  if (!pairs) return;
  if (count) memcpy(pairs, table->table.pairs, count * sizeof *pairs);
  qsort(pairs, count, sizeof *pairs, by_key);
  buf_printf(out, "{%zu", count);
  for (size_t i = 0; i < count; i++) {
    put_value(out, &pairs[i].key);
    put_value(out, &pairs[i].value);
  }
  buf_puts(out, "}");
  free(pairs);
}

static void put_value(struct buf *out, const struct value *value) {
  switch (value->kind) {
    case VALUE_NIL: buf_puts(out, "n"); return;
    case VALUE_BOOL: buf_puts(out, value->boolean ? "t" : "f"); return;
    case VALUE_NUMBER: buf_printf(out, "d%a;", value->number); return;
    case VALUE_INTEGER: buf_printf(out, "i%lld;", value->integer); return;
    case VALUE_STRING: put_part(out, value->string); return;
    case VALUE_TABLE: put_table(out, value); return;
  }
}

static void put_sources(struct buf *out, const struct sources *sources) {
  struct policy_source sorted[SOURCES_MAX];
  memcpy(sorted, sources->list, sources->count * sizeof *sorted);
  qsort(sorted, sources->count, sizeof *sorted, by_name);
  for (size_t i = 0; i < sources->count; i++) {
    put_part(out, span_of(sorted[i].name));
    put_part(out, sorted[i].text);
  }
}

bool version_make(struct policy *policy) {
  struct buf all = { 0 };
  unsigned char digest[EVP_MAX_MD_SIZE];
  put_sources(&all, &policy->sources);
  if (policy->spec.options) put_value(&all, policy->spec.options);
  bool good = buf_ok(&all) && EVP_Digest(all.p, all.n, digest, NULL, EVP_sha256(), NULL) == 1;
  for (size_t i = 0; good && i < VERSION_DIGITS / 2; i++) snprintf(policy->version + 2 * i, 3, "%02x", digest[i]);
  buf_free(&all);
  return good;
}
