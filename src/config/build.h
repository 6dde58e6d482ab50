/*
 * Inside the room: how a checked table becomes a config. Each build_* function reads one part of the root table,
 * reports what is wrong with it and goes on; nothing is usable unless the report is clean at the end.
 */
#pragma once

#include "config/config.h"
#include "config/options.h"

/* What a chain's own table may say beside its entries. */
struct chain_options {
  const char *policy;
};

/* One entry of a chain, filled over a copy of its upstream's settings. */
struct chain_entry {
  const char *use;
  double weight;
  int priority;
  const struct value *tags, *price;
  struct timeouts timeouts;
};

struct build {
  struct config *config;
  struct report *report;
  const struct value *root;    /* the file's table, its keys in source order */
  struct place place;          /* of the root */
  struct upstream *upstreams;  /* config->upstreams, to be written */
  void *drafts;                /* the models' own, while they are read */
  const char **warnings;       /* config->warnings, to be written */
  size_t warning_room;
};

void build_listeners(struct build *b);
void build_upstreams(struct build *b);
void build_policies(struct build *b);
void build_clients(struct build *b);
/* The rest needs the names of upstreams and policies, so it runs only after a clean report. */
void build_models(struct build *b);
void build_paths(struct build *b);
/* Grants and what must not stand together: clients, listeners, auth, admin. */
void build_rules(struct build *b);
/* Makes the bench keys; last, so that a refused config leaves none behind. `bench` NULL: none are made. */
void build_bench_keys(struct build *b, struct bench *bench);

/* ---- shared by them ---- */

/* Calls `each` for every member of the root's table `key`, in source order; reports a wrong type. */
void build_each_member(struct build *b, const char *key,
                       void (*each)(struct build *b, const struct place *place, const struct value *value,
                                    size_t index));
size_t build_count(const struct build *b, const char *key);
/* Is it a table whose keys are 1..n (n may be 0)? Reports otherwise. */
bool build_is_list(struct build *b, const struct place *place, const struct value *value, const char *expected);
/* A list of strings, copied; *count entries. NULL with a report otherwise (or for an empty list). */
const char **build_texts(struct build *b, const struct place *place, const struct value *value, size_t *count);
void *build_alloc(struct build *b, size_t size);
/* The path taken from the config's folder. */
const char *build_path(struct build *b, const char *path);
void build_warn(struct build *b, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* ---- addresses ---- */

void address_parse(struct build *b, const struct place *place, const char *text, struct listen_address *address);
/* The URL without trailing slashes, or NULL with a report. */
const char *address_base_url(struct build *b, const struct place *place, const char *url);
/* The host of a URL that has passed. */
struct span address_url_host(const char *url);
bool address_is_loopback(struct span host);

/* ---- running the file ---- */

struct source_result {
  struct arena *scratch;          /* given by the caller: for the lines */
  const struct value *root;       /* a table */
  const char *const *secret_files; /* what file() read */
  size_t secret_file_count;
};

/* Runs the source in a limited VM and reads what it returns into `arena`. Sets report->lines. False and
 * report->error otherwise. */
bool source_run(struct span source, const char *folder, struct arena *arena, struct report *report,
                struct source_result *result);
