/*
 * Listening sockets are made here and handed over, because the HTTP library knows neither names, nor unix sockets, nor which port
 * it got. "Every address" is one IPv6 socket that takes IPv4 too, where the system has IPv6.
 */
#include "base/socket.h"

#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum { BACKLOG = 4096 };

static int fail(int fd, const char *why, char *error, size_t error_size) {
  snprintf(error, error_size, "%s", why);
  if (fd >= 0) close(fd);
  return -1;
}

/* A name in the file system with no process behind it is what a crash left. */
static void drop_stale(const struct sockaddr_un *name) {
  struct stat st;
  if (lstat(name->sun_path, &st) != 0 || !S_ISSOCK(st.st_mode)) return;
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return;
  bool refused = connect(fd, (const struct sockaddr *)name, sizeof *name) != 0 && errno == ECONNREFUSED;
  close(fd);
  if (refused) unlink(name->sun_path);
}

static int open_unix(const struct socket_place *place, char real[SOCKET_ADDRESS], char *error, size_t error_size) {
  struct sockaddr_un name = { .sun_family = AF_UNIX };
  if (strlen(place->host) >= sizeof name.sun_path) return fail(-1, "is too long a path", error, error_size);
  strcpy(name.sun_path, place->host);
  drop_stale(&name);
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0 || bind(fd, (const struct sockaddr *)&name, sizeof name) != 0)
    return fail(fd, strerror(errno), error, error_size);
  if (chmod(name.sun_path, 0660) != 0 || listen(fd, BACKLOG) != 0) {
    int why = errno;
    unlink(name.sun_path);
    return fail(fd, strerror(why), error, error_size);
  }
  snprintf(real, SOCKET_ADDRESS, "unix:%s", name.sun_path);
  return fd;
}

static bool name_socket(int fd, char real[SOCKET_ADDRESS], uint16_t *got) {
  struct sockaddr_storage at;
  socklen_t size = sizeof at;
  char host[64], port[8];
  int numeric = NI_NUMERICHOST | NI_NUMERICSERV;
  if (getsockname(fd, (struct sockaddr *)&at, &size) != 0) return false;
  if (getnameinfo((struct sockaddr *)&at, size, host, sizeof host, port, sizeof port, numeric) != 0) return false;
  *got = (uint16_t)strtoul(port, NULL, 10);
  snprintf(real, SOCKET_ADDRESS, at.ss_family == AF_INET6 ? "[%s]:%s" : "%s:%s", host, port);
  return true;
}

static bool is_every(const struct socket_place *place) {
  return !*place->host || strcmp(place->host, "::") == 0;
}

static int bind_tcp(const struct addrinfo *to, const struct socket_place *place) {
  int on = 1, only = !is_every(place);
  int fd = socket(to->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return -1;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (to->ai_family == AF_INET6) setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &only, sizeof only);
  if (place->shared) setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on);
  if (bind(fd, to->ai_addr, to->ai_addrlen) == 0 && listen(fd, BACKLOG) == 0) return fd;
  int why = errno;
  close(fd);
  errno = why;
  return -1;
}

/* The first address of a name; of "every address" the IPv6 one, which takes both. */
static const struct addrinfo *preferred(const struct addrinfo *found, const struct socket_place *place) {
  for (const struct addrinfo *a = found; a && is_every(place); a = a->ai_next)
    if (a->ai_family == AF_INET6) return a;
  return found;
}

static int open_tcp(const struct socket_place *place, char real[SOCKET_ADDRESS], uint16_t *got, char *error, size_t error_size) {
  struct addrinfo hints = { .ai_flags = AI_PASSIVE | AI_NUMERICSERV, .ai_socktype = SOCK_STREAM }, *found = NULL;
  char port[8];
  snprintf(port, sizeof port, "%u", place->port);
  int result = getaddrinfo(is_every(place) ? NULL : place->host, port, &hints, &found);
  if (result != 0) return fail(-1, gai_strerror(result), error, error_size);
  int fd = bind_tcp(preferred(found, place), place);
  if (fd < 0 && is_every(place)) fd = bind_tcp(found, place);
  int why = errno;
  freeaddrinfo(found);
  if (fd < 0) return fail(-1, strerror(why), error, error_size);
  if (!name_socket(fd, real, got)) return fail(fd, "its address cannot be read", error, error_size);
  return fd;
}

int socket_listen(const struct socket_place *place, char real[SOCKET_ADDRESS], uint16_t *port, char *error, size_t error_size) {
  *port = 0;
  return place->is_unix ? open_unix(place, real, error, error_size) : open_tcp(place, real, port, error, error_size);
}

void socket_unlink(const struct socket_place *place) {
  if (place->is_unix) unlink(place->host);
}
