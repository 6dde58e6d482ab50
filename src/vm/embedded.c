/*
 * The Lua files in the binary, as the build made them from lua/: one table of names and bytes, searched from one end to the other (a few
 * dozen files, asked for at load time only).
 */
#include "vm/vm.h"

struct embedded_file {
  const char *name;
  const unsigned char *bytes;
  size_t length;
};

#include "embedded.inc"

struct span embedded_find(const char *name) {
  for (const struct embedded_file *f = embedded_files; f->name; f++) {
    if (strcmp(f->name, name) == 0) return (struct span){ (const char *)f->bytes, f->length };
  }
  return SPAN_NONE;
}

const char *embedded_name(size_t index) {
  return index < sizeof embedded_files / sizeof embedded_files[0] ? embedded_files[index].name : NULL;
}
