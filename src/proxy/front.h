/*
 * The client side: bytes in, exchanges, bytes out. The only room, beside loop and admin, that knows libmicrohttpd; kept thin because its
 * versions differ.
 */
#pragma once

#include <stdbool.h>
#include <sys/socket.h>

#include "base/span.h"

struct conn; /* one client connection */
struct front;
struct worker;

/* NULL when the library cannot be started. */
struct front *front_new(struct worker *worker);
/* Closes every connection; exchanges are freed. */
void front_free(struct front *front);

/* The library lays fields out in memory as the guard expects: run once at start. */
bool front_self_test(const char **why);

/* Takes over a connected socket. */
void front_accept(struct front *front, int fd, const struct sockaddr *address, socklen_t length);

/* Lets the library work, if it has anything to do. True when it had: others may have got something to do by it. */
bool front_turn(struct front *front);

/* The exchange of this connection has news: an answer, bytes, or its end. */
void front_wake(struct conn *conn);
/* Writes `last_words` as they are, as far as the socket takes them, and closes. */
void front_give_up(struct conn *conn, struct span last_words);
/* The client, as it is named in logs; never NULL. */
const char *front_peer(const struct conn *conn);
/* The client has closed, or half-closed, its side. */
bool front_gone(const struct conn *conn);

/* Connections without a request are closed at once, others after their answer. */
void front_drain(struct front *front);
unsigned front_connections(const struct front *front);
