/* Listening sockets: TCP on a name or number, or a unix socket. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { SOCKET_ADDRESS = 128 };

struct socket_place {
  const char *host; /* a name, a numeric address, "" or "::" for every address; or a unix socket's path */
  uint16_t port;    /* 0: the system chooses */
  bool is_unix;
  bool shared; /* SO_REUSEPORT: several sockets on one port */
};

/*
 * A non-blocking listening socket, or -1 and `error`. `real` gets the address it has, with the port the system chose
 * for port 0: "127.0.0.1:9090", "[::1]:9090", "unix:/run/admin.sock"; `port` that port. A unix socket that nobody answers any
 * more is replaced; only the owner and the group may connect to it.
 */
int socket_listen(const struct socket_place *place, char real[SOCKET_ADDRESS], uint16_t *port, char *error, size_t error_size);

/* Takes a unix socket's name out of the file system. The socket itself is closed by whoever has it. */
void socket_unlink(const struct socket_place *place);
