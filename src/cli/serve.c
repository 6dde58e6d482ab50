/*
 * `bullpen serve`: loads the configuration, runs its policies' checks, starts the proxy and the admin interface, and waits for a signal. SIGTERM or
 * SIGINT drains (timeouts.drain), a second one ends at once; SIGHUP reopens the log file.
 *
 * All signals are blocked before any thread exists and taken here, one by one, by sigtimedwait.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "admin/admin.h"
#include "cli/cli.h"
#include "proxy/proxy.h"

enum { KEYS_MAX = 16384, DESCRIPTORS_A_CONNECTION = 3, DESCRIPTORS_BESIDE = 256 };
#define DRAIN_TICK 0.02 /* seconds between two looks at what is still in flight */

static const char usage[] = "usage: bullpen serve [CONFIG]\n\nRuns the proxy with CONFIG (default ./bullpen.lua).\n"
                            "SIGTERM drains and ends, a second one ends at once; SIGHUP reopens the log.\n";

struct serving {
  struct bench *bench;
  const struct config *config;
  struct policy_counts *counts;
  struct policy_shared *shared;
  struct proxy *proxy;
  struct admin *admin;
};

/* ---- for the admin interface ---- */

static bool is_draining(void *context) {
  const struct serving *s = context;
  return proxy_draining(s->proxy);
}

static void put_metrics(void *context, struct buf *out) {
  const struct serving *s = context;
  proxy_describe(s->proxy, out);
}

static void put_status(void *context, struct buf *out) {
  const struct serving *s = context;
  buf_printf(out, "\"workers\":%u,\"inflight\":%u,\"policy\":\"%s\"", proxy_workers(s->proxy), proxy_inflight(s->proxy),
             proxy_policy_version(s->proxy));
}

/* ---- starting ---- */

/* As many descriptors as the system allows; a warning with the number when limits.connections wants more. */
static void raise_descriptors(const struct config *config) {
  struct rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
  getrlimit(RLIMIT_NOFILE, &limit);
  rlim_t wanted = (rlim_t)config->limits.connections * DESCRIPTORS_A_CONNECTION + DESCRIPTORS_BESIDE;
  if (limit.rlim_cur < wanted)
    log_warn("limits.connections is more than the descriptor limit can serve", LOG_INT("connections", config->limits.connections),
             LOG_INT("descriptors", limit.rlim_cur), LOG_INT("enough_for", (limit.rlim_cur - DESCRIPTORS_BESIDE) / DESCRIPTORS_A_CONNECTION));
}

/* The checks of `bullpen check`, before a socket opens. */
static bool check_policies(const struct serving *s, char *error, size_t size) {
  struct policy_host host = { .bench = s->bench, .shared = s->shared, .counts = s->counts };
  for (size_t i = 0; i <= s->config->policy_count; i++) {
    const struct policy_spec *spec = i == 0 ? &s->config->policy : &s->config->policies[i - 1];
    struct policy *policy = policy_load(spec, &host, true, error, size);
    if (!policy) return false;
    bool good = policy_check(policy, error, size);
    policy_release(&policy);
    if (!good) return false;
  }
  memset(s->counts, 0, sizeof *s->counts); /* the checks are not traffic */
  return true;
}

static bool open_log(const struct config *config, char *error, size_t size) {
  if (log_open(config->log.file, config->log.json, config->log.level)) return true;
  snprintf(error, size, "%s: log.file: %s: %s", config->file, config->log.file, strerror(errno));
  return false;
}

static bool load(struct serving *s, const char *path, char *error, size_t size) {
  snprintf(error, size, "out of memory");
  s->bench = bench_new(KEYS_MAX);
  s->counts = calloc(1, sizeof *s->counts);
  s->config = s->bench && s->counts ? config_load(path, s->bench, error, size) : NULL;
  s->shared = s->config ? policy_shared_new(s->config->limits.shared) : NULL;
  return s->shared && check_policies(s, error, size) && open_log(s->config, error, size);
}

static bool start(struct serving *s, char *error, size_t size) {
  raise_descriptors(s->config);
  for (size_t i = 0; i < s->config->warning_count; i++) log_warn("config", LOG_TEXT("warning", s->config->warnings[i]));
  struct proxy_options proxy = { s->config, s->bench, s->counts, s->shared };
  s->proxy = proxy_start(&proxy, error, size);
  if (!s->proxy || !s->config->admin.listen) return s->proxy != NULL;
  struct admin_options admin = {
    .listen = s->config->admin.listen,
    .token = s->config->admin.token,
    .version = BULLPEN_VERSION,
    .bench = s->bench,
    .policy_counts = s->counts,
    .context = s,
    .draining = is_draining,
    .metrics = put_metrics,
    .status = put_status,
  };
  s->admin = admin_start(&admin, error, size);
  return s->admin != NULL;
}

/* ---- waiting and ending ---- */

static void wait_for_end(const sigset_t *signals) {
  for (;;) {
    int got = sigwaitinfo(signals, NULL);
    if (got == SIGTERM || got == SIGINT) return;
    if (got == SIGHUP && !log_reopen()) log_error("the log file cannot be reopened", LOG_TEXT("cause", strerror(errno)));
  }
}

static void drain(struct serving *s, const sigset_t *signals) {
  struct timespec tick = { 0, (long)(DRAIN_TICK * 1e9) };
  seconds end = clock_now() + s->config->timeouts.drain;
  log_info("draining", LOG_INT("inflight", proxy_inflight(s->proxy)), LOG_NUM("seconds", s->config->timeouts.drain));
  proxy_drain(s->proxy);
  while (proxy_inflight(s->proxy) > 0 && clock_now() < end) {
    int got = sigtimedwait(signals, NULL, &tick);
    if (got == SIGTERM || got == SIGINT) break;
  }
}

static void tear_down(struct serving *s) {
  if (s->admin) admin_stop(&s->admin);
  proxy_stop(&s->proxy);
  if (s->shared) policy_shared_free(s->shared);
  if (s->config) config_release(&s->config);
  bench_free(s->bench);
  free(s->counts);
}

int cli_serve(int argc, char **argv) {
  if (cli_help_asked(argc, argv, usage)) return 0;
  if (argc > 2 || (argc == 2 && argv[1][0] == '-')) {
    fputs(usage, stderr);
    return 2;
  }
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGHUP);
  pthread_sigmask(SIG_BLOCK, &signals, NULL);
  signal(SIGPIPE, SIG_IGN);
  struct serving s = { 0 };
  char error[1024] = "";
  bool good = load(&s, argc == 2 ? argv[1] : "bullpen.lua", error, sizeof error) && start(&s, error, sizeof error);
  if (good) {
    wait_for_end(&signals);
    drain(&s, &signals);
  } else {
    fprintf(stderr, "%s\n", error);
  }
  tear_down(&s);
  return good ? 0 : 1;
}
