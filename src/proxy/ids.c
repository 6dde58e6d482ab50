/*
 * A hash table of entries that are also in one list, newest use first. When the table is full the list's last entry makes room; an entry over a day old
 * is dropped when it is met.
 */
#include "proxy/ids.h"

#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#define KEPT_SECONDS (24.0 * 3600)

enum { ID_BYTES = 200 };

struct entry {
  struct entry *chain;         /* in its bucket */
  struct entry *newer, *older; /* by last use */
  seconds made;
  char *client; /* in `text`; NULL: none */
  char *upstream;
  char text[]; /* id, upstream and client, each NUL-terminated */
};

struct ids {
  pthread_mutex_t lock;
  size_t limit, count, buckets;
  struct entry **table;
  struct entry *newest, *oldest;
};

struct ids *ids_new(size_t limit) {
  struct ids *ids = calloc(1, sizeof *ids);
  if (!ids) return NULL;
  ids->limit = limit ? limit : 1;
  ids->buckets = ids->limit;
  ids->table = calloc(ids->buckets, sizeof *ids->table);
  if (!ids->table) {
    free(ids);
    return NULL;
  }
  pthread_mutex_init(&ids->lock, NULL);
  return ids;
}

void ids_free(struct ids *ids) {
  if (!ids) return;
  for (struct entry *e = ids->newest; e;) {
    struct entry *older = e->older;
    free(e);
    e = older;
  }
  free(ids->table);
  pthread_mutex_destroy(&ids->lock);
  free(ids);
}

static struct entry **bucket_of(const struct ids *ids, struct span id) {
  uint64_t h = 14695981039346656037u;
  for (size_t i = 0; i < id.n; i++) h = (h ^ (unsigned char)id.p[i]) * 1099511628211u;
  return &ids->table[h % ids->buckets];
}

static void unlink_use(struct ids *ids, struct entry *e) {
  if (e->newer) e->newer->older = e->older;
  else ids->newest = e->older;
  if (e->older) e->older->newer = e->newer;
  else ids->oldest = e->newer;
}

static void link_newest(struct ids *ids, struct entry *e) {
  e->newer = NULL;
  e->older = ids->newest;
  if (ids->newest) ids->newest->newer = e;
  ids->newest = e;
  if (!ids->oldest) ids->oldest = e;
}

static void drop(struct ids *ids, struct entry *e) {
  struct entry **at = bucket_of(ids, span_of(e->text));
  while (*at != e) at = &(*at)->chain;
  *at = e->chain;
  unlink_use(ids, e);
  free(e);
  ids->count--;
}

static struct entry *find(struct ids *ids, struct span id, seconds now) {
  struct entry *e = *bucket_of(ids, id);
  while (e && !span_is(id, e->text)) e = e->chain;
  if (!e || now - e->made <= KEPT_SECONDS) return e;
  drop(ids, e);
  return NULL;
}

static struct entry *make(struct span id, const char *upstream, const char *client, seconds now) {
  size_t u = strlen(upstream) + 1, c = client ? strlen(client) + 1 : 0;
  struct entry *e = calloc(1, sizeof *e + id.n + 1 + u + c);
  if (!e) return NULL;
  memcpy(e->text, id.p, id.n);
  e->upstream = memcpy(e->text + id.n + 1, upstream, u);
  if (client) e->client = memcpy(e->upstream + u, client, c);
  e->made = now;
  return e;
}

void ids_put(struct ids *ids, struct span id, const char *upstream, const char *client, seconds now) {
  if (id.n == 0 || id.n > ID_BYTES || memchr(id.p, 0, id.n)) return;
  struct entry *e = make(id, upstream, client, now);
  if (!e) return;
  pthread_mutex_lock(&ids->lock);
  struct entry *before = find(ids, id, now);
  if (before) drop(ids, before);
  if (ids->count >= ids->limit) drop(ids, ids->oldest);
  struct entry **bucket = bucket_of(ids, id);
  e->chain = *bucket;
  *bucket = e;
  link_newest(ids, e);
  ids->count++;
  pthread_mutex_unlock(&ids->lock);
}

static bool same_client(const char *a, const char *b) {
  return a && b ? strcmp(a, b) == 0 : a == b;
}

enum ids_found ids_find(struct ids *ids, struct span id, const char *client, seconds now, char upstream[IDS_UPSTREAM_BYTES]) {
  enum ids_found found = IDS_UNKNOWN;
  if (id.n == 0 || id.n > ID_BYTES) return found;
  pthread_mutex_lock(&ids->lock);
  struct entry *e = find(ids, id, now);
  if (e && same_client(e->client, client)) {
    found = IDS_OURS;
    snprintf(upstream, IDS_UPSTREAM_BYTES, "%s", e->upstream);
    unlink_use(ids, e);
    link_newest(ids, e);
  } else if (e) {
    found = IDS_FOREIGN;
  }
  pthread_mutex_unlock(&ids->lock);
  return found;
}

bool ids_is_kept(struct span id) {
  return span_starts(id, "resp_") || span_starts(id, "file-") || span_starts(id, "batch_") || span_starts(id, "msgbatch_") ||
         span_starts(id, "file_");
}

struct span ids_in_path(struct span path) {
  while (path.n) {
    const char *slash = memchr(path.p, '/', path.n);
    struct span segment = { path.p, slash ? (size_t)(slash - path.p) : path.n };
    if (ids_is_kept(segment)) return segment;
    path = span_skip(path, segment.n + 1);
  }
  return SPAN_NONE;
}
