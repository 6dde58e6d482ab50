/*
 * Error texts. A place is printed as it would be written in Lua: `upstreams.openai.weight`,
 * `models["gpt-4.1"][2].use`. Names come from the operator's file, so control characters are shown as '?' and long
 * ones are cut.
 */
#include "config/report.h"

#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>

#include "base/buf.h"

enum { ERRORS_LOOKED_AT = 1000, NAME_SHOWN = 80, GUESS_BYTES = 64 };

static void put_name(struct buf *out, struct span name) {
  size_t n = name.n < NAME_SHOWN ? name.n : NAME_SHOWN;
  for (size_t i = 0; i < n; i++) {
    unsigned char c = (unsigned char)name.p[i];
    buf_add(out, c < 0x20 || c == 0x7f ? "?" : name.p + i, 1);
  }
  if (n < name.n) buf_puts(out, "...");
}

static bool is_plain(struct span name) {
  for (size_t i = 0; i < name.n; i++)
    if (!isalnum((unsigned char)name.p[i]) && name.p[i] != '_' && name.p[i] != '-') return false;
  return name.n > 0;
}

static void put_place(struct buf *out, const struct place *place) {
  if (!place->up) return;
  put_place(out, place->up);
  if (!place->key.p) {
    buf_printf(out, "[%zu]", place->index);
  } else if (is_plain(place->key)) {
    if (place->up->up) buf_puts(out, ".");
    put_name(out, place->key);
  } else {
    buf_puts(out, "[\"");
    put_name(out, place->key);
    buf_puts(out, "\"]");
  }
}

void report_memory(struct report *r) {
  r->no_memory = true;
  snprintf(r->error, r->size, "%s: out of memory", r->file);
}

void report_at(struct report *r, const struct place *place, const char *format, ...) {
  if (r->no_memory || ++r->count > ERRORS_LOOKED_AT) return;
  unsigned line = lines_find(r->lines, place);
  if (r->line && line >= r->line) return;
  r->line = line;
  char what[512];
  va_list args;
  va_start(args, format);
  vsnprintf(what, sizeof what, format, args);
  va_end(args);
  struct buf text = { 0 };
  buf_printf(&text, "%s:%u: ", r->file, line);
  put_place(&text, place);
  if (place->up) buf_puts(&text, ": ");
  buf_puts(&text, what);
  if (buf_ok(&text))
    snprintf(r->error, r->size, "%.*s", (int)text.n, text.p);
  else
    report_memory(r);
  buf_free(&text);
}

/* ---- guesses ---- */

struct guess guess_begin(struct span word) {
  return (struct guess){ .word = word };
}

/* Insertions, deletions and replacements that make one of the other. */
static size_t edit_distance(struct span a, struct span b) {
  size_t row[GUESS_BYTES + 1];
  for (size_t j = 0; j <= b.n; j++) row[j] = j;
  for (size_t i = 1; i <= a.n; i++) {
    size_t corner = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.n; j++) {
      size_t replaced = corner + (a.p[i - 1] != b.p[j - 1]);
      size_t other = 1 + (row[j] < row[j - 1] ? row[j] : row[j - 1]);
      corner = row[j];
      row[j] = replaced < other ? replaced : other;
    }
  }
  return row[b.n];
}

/* Near is: at most two edits, or a third of the word; but never the whole of it. */
void guess_offer(struct guess *guess, struct span name) {
  if (!name.n || name.n > GUESS_BYTES || guess->word.n > GUESS_BYTES) return;
  size_t limit = guess->word.n / 3 > 2 ? guess->word.n / 3 : 2;
  size_t distance = edit_distance(guess->word, name);
  if (distance > limit || distance >= guess->word.n || distance >= name.n) return;
  if (guess->best.p && distance >= guess->distance) return;
  guess->best = name;
  guess->distance = distance;
}

const char *guess_text(struct guess *guess) {
  if (guess->best.p)
    snprintf(guess->text, sizeof guess->text, " (did you mean '%.*s'?)", (int)guess->best.n, guess->best.p);
  return guess->text;
}
