/*
 * Two filters. Both drop the hop-by-hop headers and those that Connection names; what else each drops is one list. Header names are few and
 * short: linear searches.
 */
#include "proxy/headers.h"

#include "base/buf.h"

enum { CLIENT_HEAD_BYTES = 24 * 1024 }; /* of an answer's head that is passed on; what is over it is dropped */

static const char *const hop_by_hop[] = { "connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding",
                                          "upgrade", "proxy-authenticate", "proxy-authorization", "content-length", NULL };
static const char *const not_up[] = { "host", "expect", "authorization", "x-api-key", "api-key", "cookie", "cookie2", "origin", "referer",
                                      "forwarded", "openai-organization", "openai-project", NULL };
static const char *const not_up_prefix[] = { "sec-", "x-bullpen-", "x-forwarded-", NULL };
static const char *const not_down[] = { "set-cookie", "set-cookie2", "alt-svc", "date", NULL };
static const char *const not_down_prefix[] = { "x-bullpen-", NULL };

static bool is_one_of(struct span name, const char *const *names) {
  for (; *names; names++)
    if (span_is_nocase(name, *names)) return true;
  return false;
}

static bool begins_with(struct span name, const char *const *prefixes) {
  for (; *prefixes; prefixes++)
    if (name.n >= strlen(*prefixes) && strncasecmp(name.p, *prefixes, strlen(*prefixes)) == 0) return true;
  return false;
}

/* Is the name among the comma-separated ones of any Connection header? */
static bool named_by_connection(struct headers headers, struct span name) {
  for (size_t i = 0; i < headers.count; i++) {
    if (!span_is_nocase(headers.list[i].name, "connection")) continue;
    struct span rest = headers.list[i].value;
    while (rest.n) {
      const char *comma = memchr(rest.p, ',', rest.n);
      struct span token = span_trim((struct span){ rest.p, comma ? (size_t)(comma - rest.p) : rest.n });
      if (token.n == name.n && strncasecmp(token.p, name.p, name.n) == 0) return true;
      rest = span_skip(rest, comma ? (size_t)(comma - rest.p) + 1 : rest.n);
    }
  }
  return false;
}

struct headers headers_copy(struct arena *arena, struct headers from) {
  struct header *list = ARENA_ARRAY(arena, struct header, from.count);
  struct headers none = { NULL, 0 };
  for (size_t i = 0; list && i < from.count; i++) {
    list[i].name.p = arena_copy(arena, from.list[i].name);
    list[i].value.p = arena_copy(arena, from.list[i].value);
    if (!list[i].name.p || !list[i].value.p) return none;
    list[i].name.n = from.list[i].name.n;
    list[i].value.n = from.list[i].value.n;
  }
  return list ? (struct headers){ list, from.count } : none;
}

void headers_blot_key(const struct upstream *u, char *text, size_t n) {
  size_t length = u->key ? strlen(u->key) : 0;
  if (length < 4) return; /* shorter ones are no secrets, and would blot out words */
  for (char *at = text; n && (at = memmem(at, n - (size_t)(at - text), u->key, length)); at += length) memset(at, '*', length);
}

/* ---- the URL ---- */

static bool overridden(const struct upstream *u, struct span parameter) {
  const char *equals = memchr(parameter.p, '=', parameter.n);
  struct span name = { parameter.p, equals ? (size_t)(equals - parameter.p) : parameter.n };
  for (size_t i = 0; i < u->query.count; i++)
    if (span_eq(u->query.list[i].name, name)) return true;
  return false;
}

static void put_encoded(struct buf *out, struct span text) {
  for (size_t i = 0; i < text.n; i++) {
    unsigned char c = (unsigned char)text.p[i];
    bool plain = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c && strchr("-._~:", c));
    if (plain)
      buf_add(out, &text.p[i], 1);
    else
      buf_printf(out, "%%%02X", c);
  }
}

static void put_query(struct buf *url, const struct upstream *u, struct span query) {
  char mark = '?';
  while (query.n) {
    const char *amp = memchr(query.p, '&', query.n);
    struct span one = { query.p, amp ? (size_t)(amp - query.p) : query.n };
    query = span_skip(query, one.n + 1);
    if (overridden(u, one)) continue;
    buf_add(url, &mark, 1);
    buf_add_span(url, one);
    mark = '&';
  }
  for (size_t i = 0; i < u->query.count; i++) {
    buf_add(url, &mark, 1);
    put_encoded(url, u->query.list[i].name);
    buf_puts(url, "=");
    put_encoded(url, u->query.list[i].value);
    mark = '&';
  }
}

const char *headers_url(struct arena *arena, const struct upstream *u, struct span path, struct span query) {
  struct buf url = { 0 };
  buf_puts(&url, u->base_url);
  if (span_starts(path, "/v1/") || span_is(path, "/v1")) path = span_skip(path, 3);
  buf_add_span(&url, path);
  put_query(&url, u, query);
  const char *copy = buf_ok(&url) ? arena_copy(arena, buf_span(&url)) : NULL;
  buf_free(&url);
  return copy;
}

/* ---- to the upstream ---- */

static struct pair credential(struct arena *arena, const struct upstream *u) {
  struct pair none = { SPAN_NONE, SPAN_NONE };
  switch (u->auth) {
    case AUTH_BEARER: return (struct pair){ SPAN("Authorization"), span_of(arena_printf(arena, "Bearer %s", u->key)) };
    case AUTH_X_API_KEY: return (struct pair){ SPAN("x-api-key"), span_of(u->key) };
    case AUTH_API_KEY: return (struct pair){ SPAN("api-key"), span_of(u->key) };
    case AUTH_NONE:
    case AUTH_FORWARD: return none;
  }
  return none;
}

static bool is_credential(struct span name) {
  static const char *const names[] = { "authorization", "x-api-key", "api-key", "openai-organization", "openai-project", NULL };
  return is_one_of(name, names);
}

static bool goes_up(const struct upstream *u, struct headers client, struct span name, bool identity) {
  if (is_one_of(name, hop_by_hop) || begins_with(name, not_up_prefix) || named_by_connection(client, name)) return false;
  if (identity && span_is_nocase(name, "accept-encoding")) return false;
  for (size_t i = 0; i < u->headers.count; i++)
    if (u->headers.list[i].name.n == name.n && strncasecmp(u->headers.list[i].name.p, name.p, name.n) == 0) return false;
  if (u->auth == AUTH_FORWARD && is_credential(name)) return true;
  return !is_one_of(name, not_up);
}

bool headers_to_upstream(struct arena *arena, const struct upstream *u, struct headers client, bool identity, struct pairs *out) {
  struct pair *list = ARENA_ARRAY(arena, struct pair, client.count + u->headers.count + 2);
  size_t n = 0;
  if (!list) return false;
  for (size_t i = 0; i < client.count; i++)
    if (goes_up(u, client, client.list[i].name, identity)) list[n++] = (struct pair){ client.list[i].name, client.list[i].value };
  for (size_t i = 0; i < u->headers.count; i++) list[n++] = u->headers.list[i];
  struct pair key = credential(arena, u);
  if (u->key && !key.value.p && u->auth != AUTH_NONE && u->auth != AUTH_FORWARD) return false;
  if (key.value.p) list[n++] = key;
  if (identity) list[n++] = (struct pair){ SPAN("Accept-Encoding"), SPAN("identity") };
  *out = (struct pairs){ list, n };
  return true;
}

struct span headers_client_key(struct headers client) {
  struct span bearer = headers_get(client, "authorization");
  if (bearer.n > 7 && strncasecmp(bearer.p, "bearer ", 7) == 0) return span_trim(span_skip(bearer, 7));
  return span_trim(headers_get(client, "x-api-key"));
}

/* ---- to the client ---- */

static bool goes_down(struct headers upstream, const struct header *h) {
  if (h->value.n == 0) return false; /* the library below refuses empty values */
  if (is_one_of(h->name, hop_by_hop) || is_one_of(h->name, not_down) || begins_with(h->name, not_down_prefix)) return false;
  return !named_by_connection(upstream, h->name);
}

bool headers_to_client(struct arena *arena, struct headers upstream, size_t extra, struct header **list, size_t *count) {
  struct header *out = ARENA_ARRAY(arena, struct header, upstream.count + extra);
  size_t n = 0, bytes = 0;
  if (!out) return false;
  for (size_t i = 0; i < upstream.count; i++) {
    const struct header *h = &upstream.list[i];
    if (!goes_down(upstream, h)) continue;
    bytes += h->name.n + h->value.n + 4;
    if (bytes > CLIENT_HEAD_BYTES) break;
    out[n++] = *h;
  }
  *list = out;
  *count = n;
  return true;
}
