/*
 * From a path to a frozen config:
 *
 *   read the text --> run it (source.c) --> order keys as in the source --> fill the root (fill.c)
 *     --> upstreams, policies, clients --> [clean?] models, paths, rules --> [clean?] bench keys --> frozen
 *
 * Each arrow reports what it finds and goes on, but what depends on names runs only on clean ground, so one
 * mistake is not reported as another. Lua hands out a table's keys in no order; after the ordering, everything
 * downstream is as the operator wrote it.
 *
 * The reference count stands before the config in one block; the arena holds the rest and goes with it.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "config/build.h"

enum { SOURCE_MOST = 4 << 20, WORKERS_MOST = 256 };

struct frozen {
  atomic_uint references;
  struct config config;
};

static struct frozen *frozen_of(const struct config *config) {
  return (struct frozen *)((char *)config - offsetof(struct frozen, config));
}

const struct config *config_ref(const struct config *config) {
  if (config) atomic_fetch_add_explicit(&frozen_of(config)->references, 1, memory_order_relaxed);
  return config;
}

static void destroy(struct frozen *frozen) {
  struct arena arena = frozen->config.arena;
  arena_free(&arena);
  free(frozen);
}

void config_release(const struct config **config) {
  if (!*config) return;
  struct frozen *frozen = frozen_of(*config);
  *config = NULL;
  if (atomic_fetch_sub_explicit(&frozen->references, 1, memory_order_acq_rel) == 1) destroy(frozen);
}

/* ---- the text ---- */

static bool read_source(const char *path, struct buf *out) {
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return false;
  ssize_t got = 1;
  while (got > 0 && out->n <= SOURCE_MOST) {
    char *room = buf_reserve(out, 65536);
    if (!room) break;
    got = read(fd, room, 65536);
    if (got > 0) out->n += (size_t)got;
  }
  int cause = got < 0 ? errno : !buf_ok(out) ? ENOMEM : out->n > SOURCE_MOST ? EFBIG : 0;
  close(fd);
  errno = cause;
  return cause == 0;
}

/* The absolute folder of the file, in the arena; NULL with errno set. */
static const char *find_folder(const char *path, struct arena *arena) {
  const char *slash = strrchr(path, '/');
  char *folder = slash ? strndup(path, slash == path ? 1 : (size_t)(slash - path)) : strdup(".");
  char *real = folder ? realpath(folder, NULL) : NULL;
  const char *copy = real ? arena_copy(arena, span_of(real)) : NULL;
  free(folder);
  free(real);
  return copy;
}

/* ---- order ---- */

struct ordered {
  unsigned line;
  struct value_pair pair;
};

/* List elements first by index, then names by line, then by name. */
static int compare(const void *a, const void *b) {
  const struct ordered *x = a, *y = b;
  const struct value *k = &x->pair.key, *l = &y->pair.key;
  if (k->kind != l->kind) return k->kind == VALUE_INTEGER ? -1 : 1;
  if (k->kind == VALUE_INTEGER) return k->integer < l->integer ? -1 : k->integer > l->integer;
  if (x->line != y->line) return x->line < y->line ? -1 : 1;
  size_t n = k->string.n < l->string.n ? k->string.n : l->string.n;
  int order = memcmp(k->string.p, l->string.p, n);
  return order ? order : k->string.n < l->string.n ? -1 : k->string.n > l->string.n;
}

static bool put_in_order(const struct lines *lines, const struct value *value, const struct place *place) {
  size_t count = value->kind == VALUE_TABLE ? value->table.count : 0;
  if (!count) return true;
  struct value_pair *pairs = (struct value_pair *)value->table.pairs; /* ours: the tree was built in our arena */
  struct ordered *list = malloc(sizeof *list * count);
  bool good = list;
  for (size_t i = 0; good && i < count; i++) {
    bool named = pairs[i].key.kind == VALUE_STRING;
    struct place at =
        named ? lines_member(place, pairs[i].key.string) : lines_element(place, (size_t)pairs[i].key.integer);
    list[i] = (struct ordered){ lines_find(lines, &at), pairs[i] };
    good = put_in_order(lines, &pairs[i].value, &at);
  }
  if (good) qsort(list, count, sizeof *list, compare);
  for (size_t i = 0; good && i < count; i++) pairs[i] = list[i].pair;
  free(list);
  return good;
}

/* ---- building ---- */

static void build_all(struct build *b, struct bench *bench) {
  struct config *config = b->config;
  options_fill(b->report, &config->arena, &b->place, "", b->root, config);
  build_listeners(b);
  build_upstreams(b);
  build_policies(b);
  build_clients(b);
  if (!report_clean(b->report)) return;
  build_models(b);
  build_paths(b);
  if (!report_clean(b->report)) return;
  build_rules(b);
  if (!report_clean(b->report)) return;
  build_bench_keys(b, bench);
  config->state = build_path(b, config->state);
  if (strcmp(config->log.file, "-") != 0) config->log.file = build_path(b, config->log.file);
  if (config->workers) return;
  long cpus = sysconf(_SC_NPROCESSORS_ONLN);
  config->workers = cpus < 1 ? 1 : cpus > WORKERS_MOST ? WORKERS_MOST : (unsigned)cpus;
}

static bool load_into(struct config *config, struct span source, struct arena *scratch, struct bench *bench,
                      struct report *report) {
  struct source_result result = { .scratch = scratch };
  if (!source_run(source, config->folder, &config->arena, report, &result)) return false;
  config->secret_files = result.secret_files;
  config->secret_file_count = result.secret_file_count;
  struct build b = { .config = config, .report = report, .root = result.root, .place = lines_root(report->lines) };
  if (!put_in_order(report->lines, result.root, &b.place))
    report_memory(report);
  else
    build_all(&b, bench);
  return report_clean(report);
}

const struct config *config_load(const char *path, struct bench *bench, char *error, size_t error_size) {
  struct frozen *frozen = calloc(1, sizeof *frozen);
  struct report report = { .file = path, .error = error, .size = error_size };
  struct buf source = { 0 };
  struct arena scratch = { 0 };
  bool good = false;
  if (!frozen) {
    report_memory(&report);
    return NULL;
  }
  struct config *config = &frozen->config;
  atomic_init(&frozen->references, 1);
  config->file = arena_copy(&config->arena, span_of(path));
  config->folder = find_folder(path, &config->arena);
  if (!config->file || !config->folder || !read_source(path, &source))
    snprintf(error, error_size, "%s: cannot be read: %s", path, strerror(errno ? errno : ENOMEM));
  else
    good = load_into(config, buf_span(&source), &scratch, bench, &report);
  buf_free(&source);
  arena_free(&scratch);
  if (good) return config;
  destroy(frozen);
  return NULL;
}
