/*
 * The APIs as clients see them: path -> route; the error bodies and stream error frames of each route (contract section 7, exact);
 * and reading any error shape that is known.
 */
#pragma once

#include "base/arena.h"
#include "base/buf.h"
#include "core/commit.h"
#include "core/request.h"

const char *route_name(enum route route); /* "chat"; "other" for ROUTE_NONE */
bool route_parse(struct span name, enum route *route);

/* The route of a path without its query ("/v1/chat/completions" -> ROUTE_CHAT); ROUTE_NONE for any other. */
enum route route_of_path(struct span path);

/* The API family an upstream must speak to serve the route. For ROUTE_NONE: API_OPENAI. */
enum api route_api(enum route route);
const char *api_name(enum api api);
bool api_parse(struct span name, enum api *api);

/* Bit set of routes an upstream serves when it does not say: 1u << route. */
unsigned api_default_routes(enum api api);

/* The cases of section 7's table that bullpen answers itself. */
enum refusal {
  REFUSAL_EXHAUSTED,        /* status 502, 504, 429 or 529 given by the engine */
  REFUSAL_DEADLINE,         /* 504 */
  REFUSAL_UNKNOWN_MODEL,    /* 404 */
  REFUSAL_UNKNOWN_PATH,     /* 404 */
  REFUSAL_METHOD,           /* 405 */
  REFUSAL_MODEL_DENIED,     /* 403 model_not_allowed */
  REFUSAL_BAD_KEY,          /* 401 */
  REFUSAL_BODY_TOO_LARGE,   /* 413 */
  REFUSAL_BAD_JSON,         /* 400 invalid_json */
  REFUSAL_NO_MODEL,         /* 400 missing_model */
  REFUSAL_OVERLOADED,       /* 503 */
  REFUSAL_BAD_FRAMING,      /* 400 invalid_request_error / bad_request */
  REFUSAL_BAD_CODING,       /* 501 for an unknown transfer coding */
  REFUSAL_CONTENT_ENCODING, /* 415 */
  REFUSAL_UPGRADE,          /* 426 */
  REFUSAL_FORBIDDEN_ORIGIN, /* 403, the loopback rule: permission_error / forbidden */
  REFUSAL_BODY_TIMEOUT,     /* 408, the client's body did not come within timeouts.client_body */
  REFUSAL_ID_NOT_FOUND,     /* 404, not_found */
};
int refusal_status(enum refusal refusal); /* the usual status; 502 for EXHAUSTED */

/* One error to put into a route's shape. Unset (NULL) type and code are filled in for the route and status. */
struct error_text {
  int status;
  const char *type;
  const char *code;
  struct span message;
  const char *request_id;
};

/* The error of a refusal in the route's words: type and code as the table has them. `messages_shape` is true for the messages route
 * (also for a refusal on an unknown path when the client sent `anthropic-version`). For EXHAUSTED the type goes by error->status. */
void dialect_refusal(enum refusal refusal, bool messages_shape, struct error_text *error);

/* The error body as JSON. */
void dialect_put_error(struct buf *out, bool messages_shape, const struct error_text *error);

/* The frame that ends a broken stream of that route, exact as in section 7, blank line included. `sequence` is the last sequence number
 * seen (responses; the frame carries the next; -1: none seen, 0 is sent). */
void dialect_put_frame(struct buf *out, enum route route, struct span message, const char *request_id, double sequence);

/* Reads an error out of a body in any known shape: OpenAI object, Anthropic, Gemini's array or object, Azure, AWS {message}, `error` as a
 * string, HTML or plain text (message: its text, tags dropped, at most 2 KiB), doubly-encoded. Codes that are numbers become text.
 * Anthropic's error.details.error_code is the code. For Gemini `status` is the type. */
void dialect_read_error(struct span body, struct arena *arena, struct upstream_error *error);

/* Does the body already have the route's shape (section 7), so that it goes to the client byte for byte. */
bool dialect_has_shape(bool messages_shape, struct span body);

/* An upstream's error body in another shape, rewritten into the route's; the original text is in `message`. */
void dialect_rewrite_error(struct buf *out, bool messages_shape, int status, struct span body, const char *request_id);

/* The status of an accepted stream_error by its type or code: rate limit 429, overloaded 529, authentication 401, permission 403, not found
 * 404, invalid request 400, else 502. */
int dialect_error_status(const struct upstream_error *error);

/* What an error says about whose fault it is; codes are read before statuses (contract 5.2). */
enum error_kind {
  ERROR_TRANSIENT,
  ERROR_AUTH_UPSTREAM,    /* 401, 402, exhausted quota or spend limit: the whole upstream is dead */
  ERROR_AUTH_CANDIDATE,   /* 403 */
  ERROR_MODEL_MISSING,    /* a 404 that says the model does not exist there */
  ERROR_REQUEST_SPECIFIC, /* 400, 404, 413, 422, context length, content filter */
  ERROR_OTHER,            /* every other status: accept, never benched */
};
enum error_kind dialect_error_kind(int status, const struct upstream_error *error);
const char *error_kind_name(enum error_kind kind); /* "transient", "auth_dead", "auth_dead", "model_missing", "request_specific", "other" */
