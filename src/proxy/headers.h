/* What of a request's head goes to an upstream, and what of an answer's head goes to the client (contract section 8). */
#pragma once

#include "base/arena.h"
#include "config/config.h"
#include "core/request.h"

/* The request's URL at that upstream: its base, the client's raw path without its leading /v1, the client's query, the upstream's own query on
 * top. In the arena; NULL when out of memory. */
const char *headers_url(struct arena *arena, const struct upstream *upstream, struct span path, struct span query);

/* The headers to send, credential included. `identity`: we must read the body, so no coding is accepted. False when out of memory. */
bool headers_to_upstream(struct arena *arena, const struct upstream *upstream, struct headers client, bool identity, struct pairs *out);

/* The winner's headers without those that are not the client's business, with room for `extra` more at the end of out->list. */
bool headers_to_client(struct arena *arena, struct headers upstream, size_t extra, struct header **list, size_t *count);

/* An upstream may quote our credential back at us: it is blotted out in place, its length kept. */
void headers_blot_key(const struct upstream *upstream, char *text, size_t n);

/* A copy that lives in the arena; empty when out of memory. */
struct headers headers_copy(struct arena *arena, struct headers from);

/* The client's key: Authorization: Bearer, or x-api-key. SPAN_NONE: none came. */
struct span headers_client_key(struct headers client);
