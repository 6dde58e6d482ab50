/*
 * The record is a list in order of entry, guarded by one lock, with one condition variable that is signalled at every
 * change. A request gets its number when its head is in and is entered when its body is: a body that breaks off is
 * entered too. Entries are found again by serial, from the newest backwards, because only requests still in flight are
 * looked for.
 *
 * Memory: MOCK_RECORDS entries, the oldest go first; bodies share MOCK_RECORDED_BYTES, and one that no longer fits is
 * entered without its text.
 */
#include "cli/mock_record.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/queue.h>
#include <time.h>

#include "base/json.h"
#include "cli/mock.h"

struct entry {
  TAILQ_ENTRY(entry) link;
  struct mock_ticket ticket;
  unsigned connection;
  size_t body_size;
  bool body_dropped, client_closed;
  struct arena arena; /* the spans below */
  struct span method, target, path, query, body;
  struct headers headers;
};

struct mock_record {
  pthread_mutex_t lock;
  pthread_cond_t changed;
  TAILQ_HEAD(entries, entry) entries;
  size_t count, closed;    /* entries, and those with client_closed */
  size_t bytes;            /* of bodies */
  uint64_t serial;         /* last one given out */
  uint64_t first;          /* serials before this one were cleared away */
  unsigned number;         /* last one given out */
  bool stopping;
};

struct mock_record *mock_record_new(void) {
  struct mock_record *record = calloc(1, sizeof *record);
  if (!record) return NULL;
  pthread_condattr_t attributes;
  pthread_condattr_init(&attributes);
  pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
  pthread_cond_init(&record->changed, &attributes);
  pthread_condattr_destroy(&attributes);
  pthread_mutex_init(&record->lock, NULL);
  TAILQ_INIT(&record->entries);
  return record;
}

static void drop_oldest(struct mock_record *record) {
  struct entry *entry = TAILQ_FIRST(&record->entries);
  TAILQ_REMOVE(&record->entries, entry, link);
  record->count--;
  record->closed -= entry->client_closed;
  record->bytes -= entry->body.n;
  arena_free(&entry->arena);
  free(entry);
}

void mock_record_free(struct mock_record *record) {
  if (!record) return;
  while (record->count) drop_oldest(record);
  pthread_cond_destroy(&record->changed);
  pthread_mutex_destroy(&record->lock);
  free(record);
}

void mock_record_stop(struct mock_record *record) {
  pthread_mutex_lock(&record->lock);
  record->stopping = true;
  pthread_cond_broadcast(&record->changed);
  pthread_mutex_unlock(&record->lock);
}

/* ---- entering ---- */

struct mock_ticket mock_record_begin(struct mock_record *record) {
  pthread_mutex_lock(&record->lock);
  struct mock_ticket ticket = { .serial = ++record->serial, .number = ++record->number };
  pthread_mutex_unlock(&record->lock);
  return ticket;
}

static struct span copy_span(struct entry *entry, struct span s, bool *good) {
  char *copy = arena_copy(&entry->arena, s);
  *good = *good && copy;
  return (struct span){ copy, copy ? s.n : 0 };
}

/* Everything but the body. False: out of memory. */
static bool copy_head(struct entry *entry, const struct mock_request *request) {
  bool good = true;
  entry->method = copy_span(entry, request->method, &good);
  entry->target = copy_span(entry, request->target, &good);
  entry->path = copy_span(entry, request->path, &good);
  entry->query = copy_span(entry, request->query, &good);
  struct header *list = ARENA_ARRAY(&entry->arena, struct header, request->headers.count + 1);
  for (size_t i = 0; list && i < request->headers.count; i++) {
    list[i].name = copy_span(entry, request->headers.list[i].name, &good);
    list[i].value = copy_span(entry, request->headers.list[i].value, &good);
  }
  entry->headers = (struct headers){ list, list ? request->headers.count : 0 };
  return good && list;
}

static void enter(struct mock_record *record, struct entry *entry, const struct mock_request *request) {
  bool good = true;
  if (request->body_cut || record->bytes + request->body.n > MOCK_RECORDED_BYTES) entry->body_dropped = true;
  else entry->body = copy_span(entry, buf_span(&request->body), &good);
  if (!good) entry->body_dropped = true;
  record->bytes += entry->body.n;
  TAILQ_INSERT_TAIL(&record->entries, entry, link);
  if (++record->count > MOCK_RECORDS) drop_oldest(record);
  pthread_cond_broadcast(&record->changed);
}

void mock_record_add(struct mock_record *record, struct mock_ticket ticket, const struct mock_request *request,
                     unsigned connection) {
  struct entry *entry = calloc(1, sizeof *entry);
  if (!entry) return;
  entry->ticket = ticket;
  entry->connection = connection;
  entry->body_size = request->body_size;
  bool good = copy_head(entry, request);
  pthread_mutex_lock(&record->lock);
  good = good && ticket.serial >= record->first;
  if (good) enter(record, entry, request);
  pthread_mutex_unlock(&record->lock);
  if (good) return;
  arena_free(&entry->arena);
  free(entry);
}

void mock_record_closed(struct mock_record *record, struct mock_ticket ticket) {
  pthread_mutex_lock(&record->lock);
  struct entry *entry = TAILQ_LAST(&record->entries, entries);
  while (entry && entry->ticket.serial != ticket.serial) entry = TAILQ_PREV(entry, entries, link);
  if (entry && !entry->client_closed) {
    entry->client_closed = true;
    record->closed++;
    pthread_cond_broadcast(&record->changed);
  }
  pthread_mutex_unlock(&record->lock);
}

/* ---- telling ---- */

static void put_base64(struct buf *out, struct span bytes) {
  static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  for (size_t i = 0; i < bytes.n; i += 3) {
    unsigned char b[3] = { 0 };
    size_t n = bytes.n - i < 3 ? bytes.n - i : 3;
    memcpy(b, bytes.p + i, n);
    char four[4] = { digits[b[0] >> 2], digits[(b[0] & 3) << 4 | b[1] >> 4], digits[(b[1] & 15) << 2 | b[2] >> 6],
                     digits[b[2] & 63] };
    if (n < 3) four[3] = '=';
    if (n < 2) four[2] = '=';
    buf_add(out, four, 4);
  }
}

/* Well-formed UTF-8: no overlong forms, no surrogates, nothing above U+10FFFF. */
static bool is_utf8(struct span text) {
  for (size_t i = 0; i < text.n;) {
    const unsigned char *p = (const unsigned char *)text.p + i;
    size_t n = p[0] < 0x80 ? 1 : p[0] >= 0xf0 ? 4 : p[0] >= 0xe0 ? 3 : 2;
    if (n > text.n - i || (n > 1 && (p[0] < 0xc2 || p[0] > 0xf4))) return false;
    for (size_t k = 1; k < n; k++)
      if ((p[k] & 0xc0) != 0x80) return false;
    if ((p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] > 0x9f)) return false;
    if ((p[0] == 0xf0 && p[1] < 0x90) || (p[0] == 0xf4 && p[1] > 0x8f)) return false;
    i += n;
  }
  return true;
}

static void put_text(struct buf *out, const char *key, struct span text) {
  json_put_key(out, key);
  json_put_string(out, text);
}

static void put_flag(struct buf *out, const char *key, bool flag) {
  json_put_key(out, key);
  buf_puts(out, flag ? "true" : "false");
}

static void put_body(struct buf *out, const struct entry *entry) {
  if (entry->body_dropped) {
    put_flag(out, "body_dropped", true);
  } else if (is_utf8(entry->body)) {
    put_text(out, "body", entry->body);
  } else {
    json_put_key(out, "body_base64");
    buf_puts(out, "\"");
    put_base64(out, entry->body);
    buf_puts(out, "\"");
  }
  json_put_key(out, "body_size");
  json_put_number(out, (double)entry->body_size);
}

static void put_headers(struct buf *out, struct headers headers) {
  json_put_key(out, "headers");
  buf_puts(out, "[");
  for (size_t i = 0; i < headers.count; i++) {
    json_put_comma(out);
    buf_puts(out, "[");
    json_put_string(out, headers.list[i].name);
    buf_puts(out, ",");
    json_put_string(out, headers.list[i].value);
    buf_puts(out, "]");
  }
  buf_puts(out, "]");
}

static void put_entry(struct buf *out, const struct entry *entry) {
  json_put_comma(out);
  buf_puts(out, "{");
  json_put_key(out, "number");
  json_put_number(out, entry->ticket.number);
  json_put_key(out, "connection");
  json_put_number(out, entry->connection);
  put_text(out, "method", entry->method);
  put_text(out, "path", entry->path);
  put_text(out, "query", entry->query);
  put_text(out, "target", entry->target);
  put_headers(out, entry->headers);
  put_body(out, entry);
  put_flag(out, "client_closed", entry->client_closed);
  buf_puts(out, "}");
}

static void put_entries(struct buf *out, const struct mock_record *record) {
  const struct entry *entry;
  buf_puts(out, "[");
  TAILQ_FOREACH(entry, &record->entries, link) put_entry(out, entry);
  buf_puts(out, "]\n");
}

/* ---- /_mock/ ---- */

static void clear(struct mock_record *record) {
  while (record->count) drop_oldest(record);
  record->number = 0;
  record->first = record->serial + 1;
}

/* The number after `name=` in a query; `otherwise` when it is not there. */
static double query_number(struct span query, const char *name, double otherwise) {
  char text[32];
  size_t n = strlen(name);
  while (query.n) {
    const char *end = memchr(query.p, '&', query.n);
    struct span part = { query.p, end ? (size_t)(end - query.p) : query.n };
    query = span_skip(query, part.n + 1);
    if (!span_starts(part, name) || part.n <= n || part.p[n] != '=' || part.n - n > sizeof text) continue;
    memcpy(text, part.p + n + 1, part.n - n - 1);
    text[part.n - n - 1] = '\0';
    double number = strtod(text, NULL);
    return number >= 0 && number < 1e9 ? number : otherwise;
  }
  return otherwise;
}

/* With the lock held. False when the time is up first, or the mock stops. */
static bool wait_for(struct mock_record *record, struct span query) {
  double count = query_number(query, "count", 0), closed = query_number(query, "closed", 0);
  double timeout = query_number(query, "timeout", 5), whole = floor(timeout);
  struct timespec until;
  clock_gettime(CLOCK_MONOTONIC, &until);
  until.tv_sec += (time_t)whole;
  until.tv_nsec += (long)((timeout - whole) * 1e9);
  if (until.tv_nsec >= 1000000000L) {
    until.tv_sec++;
    until.tv_nsec -= 1000000000L;
  }
  while (((double)record->count < count || (double)record->closed < closed) && !record->stopping)
    if (pthread_cond_timedwait(&record->changed, &record->lock, &until) != 0) return false;
  return !record->stopping;
}

int mock_record_answer(struct mock_record *record, const struct mock_request *request, struct buf *out) {
  bool get = span_is(request->method, "GET");
  int status = 200;
  pthread_mutex_lock(&record->lock);
  if (span_is(request->path, "/_mock/requests") && get) {
    put_entries(out, record);
  } else if (span_is(request->path, "/_mock/requests") && span_is(request->method, "DELETE")) {
    clear(record);
    buf_puts(out, "{}\n");
  } else if (span_is(request->path, "/_mock/wait") && get) {
    status = wait_for(record, request->query) ? 200 : 408;
    put_entries(out, record);
  } else {
    status = 404;
    buf_puts(out, "{\"error\":{\"message\":\"there are GET and DELETE /_mock/requests, and GET /_mock/wait?count=N&timeout=S\"}}\n");
  }
  pthread_mutex_unlock(&record->lock);
  return status;
}
