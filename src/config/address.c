/*
 * Addresses to listen on, and base URLs. Nothing is resolved here: a host is taken as it is written, and is
 * loopback only when that shows (127.0.0.0/8, ::1, localhost), because a name may resolve to anything later.
 */
#include <arpa/inet.h>
#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

#include "config/build.h"

bool address_is_loopback(struct span host) {
  char text[64];
  struct in_addr four;
  struct in6_addr six;
  if (span_is_nocase(host, "localhost")) return true;
  if (host.n >= 2 && host.p[0] == '[') host = (struct span){ host.p + 1, host.n - 2 };
  if (!host.n || host.n >= sizeof text) return false;
  memcpy(text, host.p, host.n);
  text[host.n] = '\0';
  if (inet_pton(AF_INET, text, &four) == 1) return (ntohl(four.s_addr) >> 24) == 127;
  return inet_pton(AF_INET6, text, &six) == 1 && IN6_IS_ADDR_LOOPBACK(&six);
}

static bool is_host_name(struct span host) {
  for (size_t i = 0; i < host.n; i++)
    if (!isalnum((unsigned char)host.p[i]) && !strchr(".-_", host.p[i])) return false;
  return host.n > 0 && host.n < 256;
}

/* Between its brackets. */
static bool is_ipv6(struct span host) {
  char text[64];
  struct in6_addr six;
  if (host.n < 3 || host.n - 2 >= sizeof text || host.p[host.n - 1] != ']') return false;
  memcpy(text, host.p + 1, host.n - 2);
  text[host.n - 2] = '\0';
  return inet_pton(AF_INET6, text, &six) == 1;
}

/* Parts "host:port" at the colon that ends the host; the port is empty when there is none. */
static void split_port(struct span text, struct span *host, struct span *port) {
  size_t from = 0, n;
  if (text.n && text.p[0] == '[') {
    const char *end = memchr(text.p, ']', text.n);
    from = end ? (size_t)(end - text.p) : 0;
  }
  const char *colon = memchr(text.p + from, ':', text.n - from);
  n = colon ? (size_t)(colon - text.p) : text.n;
  *host = (struct span){ text.p, n };
  *port = colon ? span_skip(text, n + 1) : SPAN_NONE;
}

static bool parse_port(struct span text, long least, uint16_t *port) {
  if (!text.n || text.n > 5) return false;
  long number = 0;
  for (size_t i = 0; i < text.n; i++) {
    if (!isdigit((unsigned char)text.p[i])) return false;
    number = number * 10 + (text.p[i] - '0');
  }
  *port = (uint16_t)number;
  return number >= least && number <= 65535;
}

static void parse_unix(struct build *b, const struct place *place, struct span path, struct listen_address *address) {
  char *copy = arena_copy(&b->config->arena, path);
  if (!copy) {
    report_memory(b->report);
    return;
  }
  address->is_unix = address->loopback = true;
  address->host = build_path(b, copy);
  if (!path.n)
    report_at(b->report, place, "a path must follow unix:");
  else if (address->host && strlen(address->host) >= sizeof((struct sockaddr_un *)0)->sun_path)
    report_at(b->report, place, "the socket's path is longer than %zu bytes",
              sizeof((struct sockaddr_un *)0)->sun_path - 1);
}

void address_parse(struct build *b, const struct place *place, const char *text, struct listen_address *address) {
  struct span all = span_of(text), host, port;
  *address = (struct listen_address){ .text = text };
  if (span_starts(all, "unix:")) {
    parse_unix(b, place, span_skip(all, 5), address);
    return;
  }
  split_port(all, &host, &port);
  bool six = host.n && host.p[0] == '[' && is_ipv6(host);
  if (!parse_port(port, 0, &address->port) || (host.n && !six && !is_host_name(host))) {
    report_at(b->report, place, "expected \"host:port\", \"[::1]:8080\", \":8080\" or \"unix:/path\"");
    return;
  }
  if (!host.n) host = SPAN("::");
  address->loopback = address_is_loopback(host);
  if (six) host = (struct span){ host.p + 1, host.n - 2 };
  address->host = arena_copy(&b->config->arena, host);
  if (!address->host) report_memory(b->report);
}

/* ---- base URLs ---- */

/* What follows `http://` or `https://`, or SPAN_NONE. */
static struct span after_scheme(struct span url) {
  if (url.n >= 8 && strncasecmp(url.p, "https://", 8) == 0) return span_skip(url, 8);
  if (url.n >= 7 && strncasecmp(url.p, "http://", 7) == 0) return span_skip(url, 7);
  return SPAN_NONE;
}

static struct span authority_of(struct span rest) {
  size_t n = 0;
  while (n < rest.n && !strchr("/?#", rest.p[n])) n++;
  return (struct span){ rest.p, n };
}

struct span address_url_host(const char *url) {
  struct span host, port;
  split_port(authority_of(after_scheme(span_of(url))), &host, &port);
  return host;
}

static const char *url_fault(struct span url) {
  struct span rest = after_scheme(url), host, port;
  uint16_t number;
  for (size_t i = 0; i < url.n; i++)
    if ((unsigned char)url.p[i] <= ' ' || (unsigned char)url.p[i] >= 0x7f)
      return "expected http(s)://host[:port][/path], without blanks";
  if (!rest.p) return "expected http(s)://host[:port][/path]";
  struct span authority = authority_of(rest);
  if (memchr(authority.p, '@', authority.n)) return "credentials do not belong into a URL (use key)";
  if (memchr(rest.p, '#', rest.n)) return "a fragment does not belong here";
  if (memchr(rest.p, '?', rest.n)) return "a query does not belong here (use query = { name = \"value\" })";
  split_port(authority, &host, &port);
  if (!host.n || (host.p[0] == '[' ? !is_ipv6(host) : !is_host_name(host)))
    return "expected http(s)://host[:port][/path]";
  if (port.p && !parse_port(port, 1, &number)) return "the port is none";
  return NULL;
}

const char *address_base_url(struct build *b, const struct place *place, const char *url) {
  struct span text = span_of(url);
  const char *fault = url_fault(text);
  if (fault) {
    report_at(b->report, place, "%s", fault);
    return NULL;
  }
  while (text.p[text.n - 1] == '/') text.n--;
  const char *copy = arena_copy(&b->config->arena, text);
  if (!copy) report_memory(b->report);
  return copy;
}
