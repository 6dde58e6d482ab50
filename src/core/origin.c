/* Names are judged as browsers do: "localhost" and what ends in ".localhost" never leave the machine. */
#include "core/origin.h"

#include <arpa/inet.h>

/* Without the port and the brackets. */
static struct span host_name(struct span host) {
  const char *end = NULL;
  if (host.n && host.p[0] == '[') {
    end = memchr(host.p, ']', host.n);
    return end ? (struct span){ host.p + 1, (size_t)(end - host.p - 1) } : SPAN_NONE;
  }
  end = host.n ? memchr(host.p, ':', host.n) : NULL;
  return end ? (struct span){ host.p, (size_t)(end - host.p) } : host;
}

static bool is_loopback_name(struct span name) {
  static const char tail[] = ".localhost";
  size_t n = sizeof tail - 1;
  if (name.n && name.p[name.n - 1] == '.') name.n--;
  return span_is_nocase(name, "localhost") || (name.n > n && span_is_nocase(span_skip(name, name.n - n), tail));
}

static bool is_address(struct span name) {
  char text[INET6_ADDRSTRLEN];
  struct in6_addr address;
  if (name.n == 0 || name.n >= sizeof text || memchr(name.p, 0, name.n)) return false;
  memcpy(text, name.p, name.n);
  text[name.n] = 0;
  return inet_pton(AF_INET, text, &address) == 1 || inet_pton(AF_INET6, text, &address) == 1;
}

bool origin_host_is_local(struct span host) {
  struct span name = host_name(host);
  return is_loopback_name(name) || is_address(name);
}

bool origin_is_own(struct span origin, struct span host) {
  const char *at = origin.n ? memmem(origin.p, origin.n, "://", 3) : NULL;
  if (!at) return false;
  struct span own = span_skip(origin, (size_t)(at + 3 - origin.p));
  return own.n == host.n && strncasecmp(own.p, host.p, host.n) == 0;
}
