/* A writer, not a tree: callers print structure themselves, this file knows quoting, commas and numbers. */
#include "base/json.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

/* The length of the well-formed UTF-8 character at s.p, or 0. */
static size_t utf8_length(struct span s) {
  const unsigned char *p = (const unsigned char *)s.p;
  if (p[0] < 0x80) return 1;
  size_t n = p[0] >= 0xf0 ? 4 : p[0] >= 0xe0 ? 3 : 2;
  if (p[0] < 0xc2 || p[0] > 0xf4 || s.n < n) return 0;
  for (size_t i = 1; i < n; i++)
    if ((p[i] & 0xc0) != 0x80) return 0;
  if ((p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] > 0x9f)) return 0;
  if ((p[0] == 0xf0 && p[1] < 0x90) || (p[0] == 0xf4 && p[1] > 0x8f)) return 0;
  return n;
}

static void put_escaped(struct buf *out, unsigned char c) {
  switch (c) {
    case '"': buf_puts(out, "\\\""); return;
    case '\\': buf_puts(out, "\\\\"); return;
    case '\n': buf_puts(out, "\\n"); return;
    case '\r': buf_puts(out, "\\r"); return;
    case '\t': buf_puts(out, "\\t"); return;
    default: buf_printf(out, "\\u%04x", c);
  }
}

void json_put_string(struct buf *out, struct span text) {
  buf_puts(out, "\"");
  while (text.n) {
    unsigned char c = (unsigned char)text.p[0];
    size_t n = utf8_length(text);
    if (n == 0)
      buf_puts(out, "\xef\xbf\xbd");
    else if (n == 1 && (c < 0x20 || c == '"' || c == '\\' || c == 0x7f))
      put_escaped(out, c);
    else
      buf_add(out, text.p, n);
    text = span_skip(text, n ? n : 1);
  }
  buf_puts(out, "\"");
}

void json_put_comma(struct buf *out) {
  char last = out->n ? out->p[out->n - 1] : '{';
  if (last != '{' && last != '[' && last != ':' && last != ',') buf_puts(out, ",");
}

void json_put_key(struct buf *out, const char *name) {
  json_put_comma(out);
  json_put_string(out, span_of(name));
  buf_puts(out, ":");
}

void json_put_number(struct buf *out, double number) {
  if (!isfinite(number)) {
    buf_puts(out, "null");
    return;
  }
  char text[32];
  for (int digits = 6; digits <= 17; digits++) {
    snprintf(text, sizeof text, "%.*g", digits, number);
    if (strtod(text, NULL) == number) break;
  }
  buf_puts(out, text);
}
