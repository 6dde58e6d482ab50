/* Tables are small and read at load: a linear search is enough. */
#include "base/value.h"

const struct value *value_member(const struct value *t, const char *key) {
  if (!t || t->kind != VALUE_TABLE) return NULL;
  for (size_t i = 0; i < t->table.count; i++) {
    const struct value_pair *pair = &t->table.pairs[i];
    if (pair->key.kind == VALUE_STRING && span_is(pair->key.string, key)) return &pair->value;
  }
  return NULL;
}
