/*
 * The configuration: a Lua file that returns one table, checked against one option table, frozen into `const struct config`.
 *
 * A config is reference-counted: each worker and each request holds one, so that a reload never pulls it from under anybody. Everything in
 * it lives in its own arena. Bench keys belong to the registry and outlive every config.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/log.h"
#include "core/bench.h"
#include "core/dialect.h"
#include "core/request.h"

enum auth { AUTH_BEARER, AUTH_X_API_KEY, AUTH_API_KEY, AUTH_NONE, AUTH_FORWARD };

struct pair {
  struct span name, value;
};

struct pairs {
  const struct pair *list;
  size_t count;
};

struct upstream {
  const char *name;
  enum api api;
  const char *base_url; /* without a trailing slash */
  const char *key;      /* the credential; NULL for AUTH_NONE and AUTH_FORWARD. Never to be shown */
  enum auth auth;
  struct pairs headers, query; /* added; query wins on the same name */
  double weight;
  int priority;
  bool enabled, passthrough;
  unsigned routes; /* bit set: 1u << route */
  const struct value *tags, *price;
  struct timeouts timeouts; /* complete: the config's where it does not say */
  const char *tls_ca;       /* a file; NULL: the system's */
  bool tls_verify;
  bool http2;
  unsigned max_inflight; /* 0: no limit */
  struct bench_key *bench_key;
};

struct model {
  const char *name;
  const struct candidate **chain; /* nested names flattened, in order. A "*" entry's model may be empty: the client's name is used */
  size_t count;
  const char *policy; /* a name out of `policies`, or NULL: the default */
};

struct client {
  const char *name;
  const char *key; /* never to be shown */
  const char **models;
  size_t model_count; /* 0 with models NULL: every model */
  const struct value *tags;
};

/* Where a policy comes from and what it may use. */
struct policy_spec {
  const char *name;  /* in `policies`; "default" for the default one */
  const char *file;  /* absolute path, or NULL */
  const char *ready; /* ready-made policy's name, or NULL. Both NULL: the built-in */
  bool watch;
  bool reject; /* on_error = "reject" */
  seconds time;
  size_t memory;
  const struct value *options; /* a table, or NULL */
};

struct listen_address {
  const char *text; /* as written */
  bool is_unix;
  bool loopback; /* or unix */
  const char *host; /* numeric (without brackets; "::" for all addresses) or a name; or the socket's path, absolute */
  uint16_t port;
};

struct path_rule {
  const char *pattern; /* "/v1/batches*": a trailing star is a prefix */
  const struct upstream *upstream;
};

struct config {
  struct arena arena;
  const char *file, *folder;
  const struct listen_address *listen;
  size_t listen_count;
  unsigned workers; /* resolved: at least 1 */
  struct {
    const struct listen_address *listen; /* NULL: no admin interface */
    const char *token;                   /* NULL: open */
    bool open;
  } admin;
  bool open; /* serve without client keys on any address */
  const struct upstream *upstreams;
  size_t upstream_count;
  const struct model *models; /* the "*" one not among them */
  size_t model_count;
  const struct model *any_model; /* models["*"], or NULL */
  struct policy_spec policy;
  const struct policy_spec *policies;
  size_t policy_count;
  const struct client *clients;
  size_t client_count;
  bool strict_targets;
  const struct path_rule *paths;
  size_t path_count;
  struct {
    struct timeouts attempt; /* connect, headers, first_event, idle, hold */
    seconds request, client_header, client_body, client_send, keepalive, drain, stall;
  } timeouts;
  struct {
    size_t body, bodies, header, buffer, shared;
    unsigned attempts, connections, records, ids;
  } limits;
  struct {
    bool json;
    enum log_level level;
    const char *file;
  } log;
  const char *state; /* a folder, or NULL */
  const char *const *secret_files; /* what file() read, as paths: to be watched, a change means loading anew */
  size_t secret_file_count;
  const char *const *warnings; /* to be logged at start */
  size_t warning_count;
};

/* One reference; the keys of upstreams and candidates are made in `bench`. NULL and `error` = "file:line: key: what (did you mean ...)" otherwise. */
const struct config *config_load(const char *path, struct bench *bench, char *error, size_t error_size);
const struct config *config_ref(const struct config *config);
/* Gives one reference back; the last one frees. Clears the pointer. */
void config_release(const struct config **config);

const struct upstream *config_upstream(const struct config *config, struct span name);
/* The client whose key that is, compared in constant time; NULL: none. */
const struct client *config_client(const struct config *config, struct span key);

/* ---- model resolution (contract section 3) ---- */

enum resolved {
  RESOLVED,
  RESOLVED_UNKNOWN, /* 404: no such model, or strict target without a candidate, or nobody serves the route */
  RESOLVED_DENIED,  /* 403: outside the client's grant */
  RESOLVED_NO_MEMORY,
};

struct resolution {
  const struct candidate **pool;
  size_t count;
  const struct left_out *left_out; /* who would be in the pool, and why not */
  size_t left_out_count;
  const char *policy;  /* name in `policies`; NULL: the default */
  const char *target;  /* the upstream asked for that narrowed the pool; NULL: none */
  const char *warning; /* a target that was not taken; NULL */
  bool all_disabled;   /* beside RESOLVED_UNKNOWN: nobody is left because all that would do are disabled: 503, not 404 */
};

/*
 * `model` is what the client asked for, `target` the x-bullpen-upstream header (SPAN_NONE: absent), `pinned` an upstream that made the request's
 * previous_response_id (NULL: none). The pool's candidates live in the config or in `arena`; candidates that only a request names get a key
 * of the registry while it has room, else share their upstream's.
 */
enum resolved config_resolve(const struct config *config, struct bench *bench, struct arena *arena, enum route route, struct span model,
                             struct span target, const struct upstream *pinned, const struct client *client,
                             struct resolution *resolution);

/* The upstream for a path that is no route: the header, else `paths`; NULL: none. A header naming an unknown upstream is NULL too. A
 * disabled one is returned: the caller answers 503. */
const struct upstream *config_path_upstream(const struct config *config, struct span path, struct span target);

/* One line of the option table, for `bullpen check --options` and the README. */
struct option_help {
  const char *key, *type, *range, *fallback, *unit, *help;
};
const struct option_help *config_options(size_t *count);
