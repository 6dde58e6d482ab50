/*
 * /metrics in Prometheus' text format, version 0.0.4. README.md beside this file is the catalogue.
 *
 * What the bench registry and the policies count is written here; options->metrics adds what the data plane counts.
 * Everything is read from atomics while it changes: a scrape is no snapshot, but each histogram adds up in itself,
 * because its count is the sum of its buckets.
 *
 * Keys may be named by clients and policies, so a label's value is made safe: bytes that are not plain ASCII are
 * written as in a URL (%C3), which is also how the API takes them.
 */
#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "admin/endpoint.h"
#include "base/log.h"

static void put_family(struct buf *out, const char *name, const char *type, const char *help) {
  buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void put_label(struct buf *out, const char *name, const char *value) {
  buf_printf(out, "%s=\"", name);
  for (const char *c = value; *c; c++) {
    if (*c == '"' || *c == '\\')
      buf_printf(out, "\\%c", *c);
    else if (*c < ' ' || *c > '~')
      buf_printf(out, "%%%02X", (unsigned char)*c);
    else
      buf_add(out, c, 1);
  }
  buf_puts(out, "\"");
}

/* ---- keys ---- */

struct walk {
  struct buf *out;
  seconds now;
};

static void put_attempts(void *context, struct bench_key *key) {
  struct walk *walk = context;
  struct bench_tally tally;
  if (!strchr(bench_name(key), '/')) return; /* an upstream has no attempts of its own */
  bench_tally(key, &tally);
  for (size_t i = 0; i < OUTCOME_COUNT; i++) {
    if (tally.attempts[i] == 0) continue;
    buf_puts(walk->out, "bullpen_attempts_total{");
    put_label(walk->out, "candidate", bench_name(key));
    buf_printf(walk->out, ",outcome=\"%s\"} %" PRIu64 "\n", outcome_name((enum outcome)i), tally.attempts[i]);
  }
}

static void put_key_gauge(struct buf *out, const char *name, const struct bench_key *key, unsigned value) {
  buf_printf(out, "%s{", name);
  put_label(out, "key", bench_name(key));
  buf_printf(out, "} %u\n", value);
}

static void put_benched(void *context, struct bench_key *key) {
  struct walk *walk = context;
  struct bench_state state;
  bench_read(key, walk->now, &state);
  put_key_gauge(walk->out, "bullpen_benched", key, state.benched);
}

static void put_inflight(void *context, struct bench_key *key) {
  struct walk *walk = context;
  struct bench_tally tally;
  bench_tally(key, &tally);
  put_key_gauge(walk->out, "bullpen_inflight", key, tally.inflight);
}

static void put_keys(struct bench *bench, struct buf *out) {
  struct walk walk = { out, clock_now() };
  put_family(out, "bullpen_attempts_total", "counter", "Attempts at upstreams by what became of them.");
  bench_each(bench, put_attempts, &walk);
  put_family(out, "bullpen_benched", "gauge", "1 while the candidate or upstream is itself benched, else 0.");
  bench_each(bench, put_benched, &walk);
  put_family(out, "bullpen_inflight", "gauge", "Attempts under way.");
  bench_each(bench, put_inflight, &walk);
}

/* ---- policies ---- */

static void put_policy_errors(const struct policy_counts *counts, struct buf *out) {
  put_family(out, "bullpen_policy_errors_total", "counter", "Hook calls that the built-in policy answered instead.");
  for (size_t hook = 0; hook < HOOK_COUNT; hook++)
    for (size_t fault = 0; fault < FAULT_COUNT; fault++)
      buf_printf(out, "bullpen_policy_errors_total{hook=\"%s\",reason=\"%s\"} %lu\n", policy_hook_names[hook],
                 policy_fault_names[fault], atomic_load(&counts->faults[hook][fault]));
}

static void put_hook_seconds(const struct policy_counts *counts, size_t hook, struct buf *out) {
  static const char family[] = "bullpen_policy_hook_seconds";
  const char *name = policy_hook_names[hook];
  double total = (double)atomic_load(&counts->nanoseconds[hook]) / 1e9;
  unsigned long sum = 0;
  for (size_t i = 0; i < HOOK_BUCKETS; i++) {
    sum += atomic_load(&counts->buckets[hook][i]);
    buf_printf(out, "%s_bucket{hook=\"%s\",le=\"%g\"} %lu\n", family, name, policy_hook_bounds[i], sum);
  }
  sum += atomic_load(&counts->buckets[hook][HOOK_BUCKETS]);
  buf_printf(out, "%s_bucket{hook=\"%s\",le=\"+Inf\"} %lu\n", family, name, sum);
  buf_printf(out, "%s_sum{hook=\"%s\"} %.9f\n%s_count{hook=\"%s\"} %lu\n", family, name, total, family, name, sum);
}

static void put_policies(const struct policy_counts *counts, struct buf *out) {
  put_policy_errors(counts, out);
  put_family(out, "bullpen_policy_hook_seconds", "histogram", "How long calls of policy hooks took.");
  for (size_t hook = 0; hook < HOOK_COUNT; hook++) put_hook_seconds(counts, hook, out);
}

/* ---- the process ---- */

/* The number after `skip` blanks of the file's first line that begins with `prefix`; -1 when there is none. Blanks are
 * counted from the last ')' on, if there is one: it ends a process' name, which may hold blanks. */
static double read_number(const char *path, const char *prefix, int skip) {
  char line[1024];
  double number = -1;
  FILE *file = fopen(path, "re");
  if (!file) return -1;
  while (fgets(line, sizeof line, file)) {
    if (strncmp(line, prefix, strlen(prefix)) != 0) continue;
    char *at = strrchr(line, ')');
    if (!at) at = line;
    for (int i = 0; i < skip && at; i++) at = strchr(at + 1, ' ');
    if (at) number = strtod(at, NULL);
    break;
  }
  fclose(file);
  return number;
}

seconds metrics_process_start(void) {
  double ticks = read_number("/proc/self/stat", "", 20); /* field 22; the name that ends with ')' is field 2 */
  double boot = read_number("/proc/stat", "btime ", 1);
  return ticks < 0 || boot < 0 ? 0 : boot + ticks / (double)sysconf(_SC_CLK_TCK);
}

static double resident_bytes(void) {
  double pages = read_number("/proc/self/statm", "", 1);
  return pages < 0 ? -1 : pages * (double)sysconf(_SC_PAGESIZE);
}

static double open_descriptors(void) {
  DIR *folder = opendir("/proc/self/fd");
  if (!folder) return -1;
  long n = -1; /* the folder's own */
  for (const struct dirent *entry; (entry = readdir(folder));) n += entry->d_name[0] != '.';
  closedir(folder);
  return (double)n;
}

static void put_number(struct buf *out, const char *name, const char *type, const char *help, double value,
                       int digits) {
  if (value < 0) return; /* the system does not say */
  put_family(out, name, type, help);
  buf_printf(out, "%s %.*f\n", name, digits, value);
}

static void put_process(seconds started, struct buf *out) {
  put_number(out, "bullpen_log_lost_total", "counter", "Log lines that could not be written.", (double)log_lost(), 0);
  put_number(out, "process_resident_memory_bytes", "gauge", "Resident memory.", resident_bytes(), 0);
  put_number(out, "process_open_fds", "gauge", "Open file descriptors.", open_descriptors(), 0);
  put_number(out, "process_start_time_seconds", "gauge", "Start of the process, seconds since the epoch.", started, 2);
}

void metrics_get(struct admin_request *request, struct admin_answer *answer) {
  const struct admin_options *o = request->options;
  answer->type = "text/plain; version=0.0.4; charset=utf-8";
  put_keys(o->bench, &answer->body);
  if (o->policy_counts) put_policies(o->policy_counts, &answer->body);
  put_process(request->started, &answer->body);
  if (o->metrics) o->metrics(o->context, &answer->body);
}
