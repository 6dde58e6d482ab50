/*
 * The rules of contract section 7: Content-Length at most once, digits only, never beside Transfer-Encoding; Transfer-Encoding at most once and
 * exactly `chunked`, never in HTTP/1.0; one Host in 1.1, at most one in 1.0; names are tokens; values hold no control characters; an absolute
 * target names the same host.
 */
#include "proxy/guard.h"

struct framing {
  unsigned lengths, codings, hosts;
  struct span length, coding, host;
};

/* RFC 9110 token characters. */
static bool is_token(struct span name) {
  for (size_t i = 0; i < name.n; i++) {
    char c = name.p[i];
    bool alphanumeric = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    if (!alphanumeric && (c == 0 || !strchr("!#$%&'*+-.^_`|~", c))) return false;
  }
  return name.n > 0;
}

static bool has_control(struct span value) {
  for (size_t i = 0; i < value.n; i++)
    if (((unsigned char)value.p[i] < 0x20 && value.p[i] != '\t') || value.p[i] == 0x7f) return true;
  return false;
}

static bool is_digits(struct span text) {
  for (size_t i = 0; i < text.n; i++)
    if (text.p[i] < '0' || text.p[i] > '9') return false;
  return text.n > 0 && text.n <= 18;
}

static const char *collect(struct headers headers, struct framing *f) {
  for (size_t i = 0; i < headers.count; i++) {
    const struct header *h = &headers.list[i];
    if (!is_token(h->name)) return "a header name that is no token";
    if (has_control(h->value)) return "a control character in a header";
    if (span_is_nocase(h->name, "content-length")) f->lengths++, f->length = h->value;
    if (span_is_nocase(h->name, "transfer-encoding")) f->codings++, f->coding = h->value;
    if (span_is_nocase(h->name, "host")) f->hosts++, f->host = h->value;
  }
  return NULL;
}

/* An absolute target's authority, or SPAN_NONE for the usual origin form. */
static struct span authority_of(struct span target) {
  size_t skip = 0;
  if (target.n >= 7 && strncasecmp(target.p, "http://", 7) == 0) skip = 7;
  if (target.n >= 8 && strncasecmp(target.p, "https://", 8) == 0) skip = 8;
  if (!skip) return SPAN_NONE;
  struct span rest = span_skip(target, skip);
  size_t n = 0;
  while (n < rest.n && rest.p[n] != '/' && rest.p[n] != '?') n++;
  return (struct span){ rest.p, n };
}

/* Blanks and control characters end a target, or hide in it. */
static bool has_blank_or_control(struct span target) {
  for (size_t i = 0; i < target.n; i++)
    if ((unsigned char)target.p[i] <= 0x20 || target.p[i] == 0x7f) return true;
  return false;
}

static const char *check_host(const struct guard_request *r, const struct framing *f, bool old) {
  if (has_blank_or_control(r->target)) return "a blank or control character in the request target";
  if (f->hosts > 1) return "two Host headers";
  if (f->hosts == 0 && !old) return "no Host header";
  struct span authority = authority_of(r->target);
  if (!authority.p) return r->target.n && (r->target.p[0] == '/' || span_is(r->target, "*")) ? NULL : "a request target that is no path";
  if (f->hosts && (authority.n != f->host.n || strncasecmp(authority.p, f->host.p, authority.n) != 0))
    return "a request target with another host";
  return NULL;
}

enum guard_verdict guard_check(const struct guard_request *r, const char **why) {
  struct framing f = { 0 };
  bool old = span_is(r->version, "HTTP/1.0");
  *why = collect(r->headers, &f);
  if (!*why && f.codings > 1) *why = "two Transfer-Encoding headers";
  if (!*why && f.codings && f.lengths) *why = "Content-Length beside Transfer-Encoding";
  if (!*why && f.codings && old) *why = "Transfer-Encoding in HTTP/1.0";
  if (!*why && f.lengths > 1) *why = "two Content-Length headers";
  if (!*why && f.lengths && !is_digits(f.length)) *why = "a Content-Length that is no number";
  if (!*why) *why = check_host(r, &f, old);
  if (*why) return GUARD_BAD;
  if (!f.codings || span_is_nocase(f.coding, "chunked")) return GUARD_GOOD;
  *why = "an unknown transfer coding";
  static const char *const registered[] = { "gzip", "x-gzip", "compress", "x-compress", "deflate" };
  for (size_t i = 0; i < sizeof registered / sizeof *registered; i++)
    if (span_is_nocase(f.coding, registered[i])) return GUARD_UNKNOWN_CODING;
  return GUARD_BAD;
}

static bool nuls(const char *at, const char *end) {
  for (; at < end; at++)
    if (*at) return false;
  return true;
}

bool guard_layout(struct span version, struct headers headers, const char *end) {
  const char *at = version.p + version.n; /* the end of what came before */
  for (size_t i = 0; i < headers.count; i++) {
    const struct header *h = &headers.list[i];
    if (h->name.p != at + 2 || !nuls(at, h->name.p)) return false;
    const char *after_name = h->name.p + h->name.n;
    if (h->value.p <= after_name || *after_name) return false;
    for (const char *p = after_name + 1; p < h->value.p; p++)
      if (*p != ' ' && *p != '\t') return false;
    at = h->value.p + h->value.n;
  }
  return at + 4 == end && nuls(at, end);
}
