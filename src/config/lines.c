/*
 * Finds the line of a key path in the source of a configuration.
 *
 * Design: the text is cut into tokens; the last `return` outside every block is the chunk's own; the table
 * constructor behind it (or behind the local that it names) is walked into a tree of nodes, one for each `key =`,
 * `["key"] =` and positional element. An element that is a plain name (`upstreams = upstreams`) is followed to the
 * first `name = {`. Everything else of an expression is skipped.
 *
 * Invariants: the chunk has compiled, so brackets match; should they not, the walk ends early and lines are merely
 * less exact. The tree holds at most NODES_MAX nodes and DEPTH_MAX levels, whatever the source says (a table may
 * name itself).
 */
#include "config/lines.h"

#include <ctype.h>
#include <stdbool.h>
#include <stdlib.h>

enum { NODES_MAX = 200000, DEPTH_MAX = 16 };

enum token_kind { TOKEN_END, TOKEN_NAME, TOKEN_STRING, TOKEN_NUMBER, TOKEN_SIGN };

struct token {
  enum token_kind kind;
  char sign; /* TOKEN_SIGN: the character; 'E' for two-character signs that end in '=' */
  unsigned line;
  struct span text; /* without quotes */
};

struct line_node {
  struct span key; /* p NULL: positional */
  size_t index;
  unsigned line;
  const struct line_node *next; /* sibling */
  struct line_node *first, *last;
};

struct lines {
  struct arena *arena;
  const struct token *tokens; /* ends with a TOKEN_END */
  size_t count;               /* without it */
  struct line_node root;
  unsigned return_line;
  size_t nodes;
  bool no_memory;
};

/* ---- tokens ---- */

struct scan {
  struct span rest;
  unsigned line;
};

static void skip(struct scan *s, size_t n) {
  for (size_t i = 0; i < n && i < s->rest.n; i++) s->line += s->rest.p[i] == '\n';
  s->rest = span_skip(s->rest, n);
}

static char peek(const struct scan *s, size_t at) {
  return at < s->rest.n ? s->rest.p[at] : '\0';
}

/* The number of '=' in a long bracket that opens at `at`, or -1. */
static int long_level(const struct scan *s, size_t at) {
  int level = 0;
  if (peek(s, at) != '[') return -1;
  while (peek(s, at + 1 + (size_t)level) == '=') level++;
  return peek(s, at + 1 + (size_t)level) == '[' ? level : -1;
}

/* Takes a long bracket of that level, which opens here; its content. */
static struct span take_long(struct scan *s, int level) {
  size_t edge = (size_t)level + 2;
  skip(s, edge);
  struct span body = s->rest;
  for (size_t i = 0; i + edge <= body.n; i++) {
    if (body.p[i] != ']' || body.p[i + edge - 1] != ']') continue;
    size_t equals = 0;
    while (equals < (size_t)level && body.p[i + 1 + equals] == '=') equals++;
    if (equals != (size_t)level) continue;
    skip(s, i + edge);
    return (struct span){ body.p, i };
  }
  skip(s, body.n);
  return body;
}

static struct span take_quoted(struct scan *s) {
  char quote = s->rest.p[0];
  size_t n = 1;
  while (n < s->rest.n && s->rest.p[n] != quote) n += s->rest.p[n] == '\\' ? 2 : 1;
  if (n > s->rest.n) n = s->rest.n;
  struct span text = { s->rest.p + 1, n - 1 };
  skip(s, n + 1);
  return text;
}

static void skip_blanks(struct scan *s) {
  for (;;) {
    while (s->rest.n && isspace((unsigned char)s->rest.p[0])) skip(s, 1);
    if (!span_starts(s->rest, "--")) return;
    skip(s, 2);
    int level = long_level(s, 0);
    if (level >= 0)
      (void)take_long(s, level);
    else
      while (s->rest.n && s->rest.p[0] != '\n') skip(s, 1);
  }
}

static bool in_word(char c) {
  return isalnum((unsigned char)c) || c == '_';
}

static struct token next_token(struct scan *s) {
  skip_blanks(s);
  struct token t = { .line = s->line, .text = { s->rest.p, 0 } };
  if (!s->rest.n) return t;
  char c = s->rest.p[0];
  if (c == '"' || c == '\'') {
    t.kind = TOKEN_STRING;
    t.text = take_quoted(s);
  } else if (long_level(s, 0) >= 0) {
    t.kind = TOKEN_STRING;
    t.text = take_long(s, long_level(s, 0));
  } else if (in_word(c)) {
    t.kind = isdigit((unsigned char)c) ? TOKEN_NUMBER : TOKEN_NAME;
    while (in_word(peek(s, t.text.n)) || (t.kind == TOKEN_NUMBER && peek(s, t.text.n) == '.')) t.text.n++;
    skip(s, t.text.n);
  } else {
    t.kind = TOKEN_SIGN;
    t.sign = strchr("=~<>", c) && peek(s, 1) == '=' ? 'E' : c;
    skip(s, t.sign == 'E' ? 2 : 1);
  }
  return t;
}

static bool tokenise(struct lines *lines, struct span source) {
  struct scan counting = { source, 1 }, filling = counting;
  size_t count = 0;
  while (next_token(&counting).kind != TOKEN_END) count++;
  struct token *tokens = ARENA_ARRAY(lines->arena, struct token, count + 1);
  if (!tokens) return false;
  for (size_t i = 0; i <= count; i++) tokens[i] = next_token(&filling);
  lines->tokens = tokens;
  lines->count = count;
  return true;
}

/* ---- the tree ---- */

static const struct token *at(const struct lines *lines, size_t i) {
  return &lines->tokens[i < lines->count ? i : lines->count];
}

static bool is_sign(const struct lines *lines, size_t i, char sign) {
  return at(lines, i)->kind == TOKEN_SIGN && at(lines, i)->sign == sign;
}

static bool is_word(const struct lines *lines, size_t i, const char *word) {
  return at(lines, i)->kind == TOKEN_NAME && span_is(at(lines, i)->text, word);
}

/* What token i does to the nesting of brackets and blocks: +1, -1 or 0. */
static int nesting(const struct lines *lines, size_t i) {
  const struct token *t = at(lines, i);
  if (t->kind == TOKEN_SIGN) return strchr("({[", t->sign) ? 1 : strchr(")}]", t->sign) ? -1 : 0;
  static const char *const openers[] = { "function", "do", "if", "repeat" };
  for (size_t w = 0; w < sizeof openers / sizeof openers[0]; w++)
    if (is_word(lines, i, openers[w])) return 1;
  return is_word(lines, i, "end") || is_word(lines, i, "until") ? -1 : 0;
}

/* The token after the expression at i: a comma, a semicolon or what closes the constructor. */
static size_t skip_expression(const struct lines *lines, size_t i) {
  int depth = 0;
  for (; i < lines->count; i++) {
    if (depth == 0 && (is_sign(lines, i, ',') || is_sign(lines, i, ';') || is_sign(lines, i, '}'))) return i;
    depth += nesting(lines, i);
  }
  return i;
}

/* The token after the bracket that opens at i. */
static size_t skip_bracket(const struct lines *lines, size_t i) {
  int depth = 0;
  for (; i < lines->count; i++) {
    depth += nesting(lines, i);
    if (depth == 0) return i + 1;
  }
  return i;
}

/* The first `name = {`: the index of the brace, or 0. */
static size_t find_table(const struct lines *lines, struct span name) {
  for (size_t i = 0; i + 2 < lines->count; i++)
    if (at(lines, i)->kind == TOKEN_NAME && is_sign(lines, i + 1, '=') && is_sign(lines, i + 2, '{') &&
        span_eq(at(lines, i)->text, name))
      return i + 2;
  return 0;
}

static struct line_node *add_node(struct lines *lines, struct line_node *parent, struct line_node node) {
  if (lines->nodes >= NODES_MAX) return NULL;
  struct line_node *made = ARENA_NEW(lines->arena, struct line_node);
  if (!made) {
    lines->no_memory = true;
    return NULL;
  }
  *made = node;
  lines->nodes++;
  if (parent->last)
    parent->last->next = made;
  else
    parent->first = made;
  parent->last = made;
  return made;
}

/* Reads the head of the element at i into `node`; where its value begins. A computed key leaves both key and index
 * empty. */
static size_t read_head(const struct lines *lines, size_t i, struct line_node *node, size_t *positions) {
  const struct token *t = at(lines, i);
  node->line = t->line;
  if (t->kind == TOKEN_NAME && is_sign(lines, i + 1, '=')) {
    node->key = t->text;
    return i + 2;
  }
  if (!is_sign(lines, i, '[')) {
    node->index = ++*positions;
    return i;
  }
  if (is_sign(lines, i + 2, ']') && at(lines, i + 1)->kind == TOKEN_STRING) node->key = at(lines, i + 1)->text;
  if (is_sign(lines, i + 2, ']') && at(lines, i + 1)->kind == TOKEN_NUMBER)
    node->index = strtoul(at(lines, i + 1)->text.p, NULL, 0);
  i = skip_bracket(lines, i);
  return is_sign(lines, i, '=') ? i + 1 : i;
}

/* Walks the constructor whose brace opens at i; the token after it. */
static size_t walk_table(struct lines *lines, size_t i, struct line_node *parent, unsigned depth) {
  size_t positions = 0;
  for (i++; i < lines->count && !is_sign(lines, i, '}');) {
    if (is_sign(lines, i, ',') || is_sign(lines, i, ';')) {
      i++;
      continue;
    }
    struct line_node head = { 0 };
    size_t value = read_head(lines, i, &head, &positions);
    struct line_node *node = depth < DEPTH_MAX ? add_node(lines, parent, head) : NULL;
    i = skip_expression(lines, value);
    if (!node) continue;
    if (is_sign(lines, value, '{')) {
      (void)walk_table(lines, value, node, depth + 1);
    } else if (at(lines, value)->kind == TOKEN_NAME && i == value + 1) {
      size_t table = find_table(lines, at(lines, value)->text);
      if (table && table != value) (void)walk_table(lines, table, node, depth + 1);
    }
  }
  return i + 1;
}

static void walk_chunk(struct lines *lines) {
  size_t last = lines->count;
  int depth = 0;
  for (size_t i = 0; i < lines->count; i++) {
    if (depth == 0 && is_word(lines, i, "return")) last = i;
    depth += nesting(lines, i);
  }
  if (last == lines->count) return;
  lines->return_line = lines->root.line = at(lines, last)->line;
  size_t table = is_sign(lines, last + 1, '{') ? last + 1 : find_table(lines, at(lines, last + 1)->text);
  if (table) (void)walk_table(lines, table, &lines->root, 0);
}

const struct lines *lines_read(struct arena *arena, struct span source) {
  struct lines *lines = ARENA_NEW(arena, struct lines);
  if (!lines) return NULL;
  lines->arena = arena;
  lines->return_line = lines->root.line = 1;
  if (!tokenise(lines, source)) return NULL;
  walk_chunk(lines);
  return lines->no_memory ? NULL : lines;
}

/* ---- places ---- */

static const struct line_node *child(const struct line_node *node, struct span key, size_t index) {
  for (const struct line_node *n = node ? node->first : NULL; n; n = n->next)
    if (key.p ? n->key.p && span_eq(n->key, key) : !n->key.p && n->index == index) return n;
  return NULL;
}

struct place lines_root(const struct lines *lines) {
  return (struct place){ .node = &lines->root };
}

struct place lines_member(const struct place *up, struct span key) {
  return (struct place){ up, key, 0, child(up->node, key, 0) };
}

struct place lines_element(const struct place *up, size_t index) {
  return (struct place){ up, SPAN_NONE, index, child(up->node, SPAN_NONE, index) };
}

static unsigned first_mention(const struct lines *lines, struct span key) {
  for (size_t i = 0; i + 1 < lines->count; i++) {
    const struct token *t = at(lines, i);
    bool named = t->kind == TOKEN_NAME && is_sign(lines, i + 1, '=');
    bool quoted = t->kind == TOKEN_STRING && is_sign(lines, i + 1, ']') && is_sign(lines, i + 2, '=');
    if ((named || quoted) && span_eq(t->text, key)) return t->line;
  }
  return 0;
}

unsigned lines_find(const struct lines *lines, const struct place *place) {
  if (place->node) return place->node->line;
  unsigned line = place->key.p ? first_mention(lines, place->key) : 0;
  if (line) return line;
  while (place && !place->node) place = place->up;
  return place ? place->node->line : lines->return_line;
}
