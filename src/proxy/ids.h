/*
 * Which upstream made an id that later requests name (resp_, file-, batch_, msgbatch_), and for which client: state lives in one account, so those
 * requests must go back to it, and nobody else's. Process-wide, bounded (limits.ids; least recently used out), kept for a day. Safe for
 * threads; only routes with such ids ever take its lock.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "base/clock.h"
#include "base/span.h"

struct ids;

/* NULL when out of memory. */
struct ids *ids_new(size_t limit);
void ids_free(struct ids *ids);

/* `client` NULL: no client keys are configured. Ids over 200 bytes are not kept. */
void ids_put(struct ids *ids, struct span id, const char *upstream, const char *client, seconds now);

enum ids_found { IDS_UNKNOWN, IDS_OURS, IDS_FOREIGN };
enum { IDS_UPSTREAM_BYTES = 128 };
/* IDS_OURS: `upstream` gets the name of the maker. IDS_FOREIGN: another client's. */
enum ids_found ids_find(struct ids *ids, struct span id, const char *client, seconds now, char upstream[IDS_UPSTREAM_BYTES]);

/* The first segment of a path that is such an id; SPAN_NONE: none. */
struct span ids_in_path(struct span path);
/* Does it look like an id that is kept? */
bool ids_is_kept(struct span id);
