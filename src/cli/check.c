/*
 * bullpen check CONFIG: everything that `serve` would refuse at start, without a socket: the configuration, then
 * each policy loaded in a fresh VM and its hooks called on sample data. Good parts are an `ok` line each on
 * standard output; what is wrong is `file:line: message` on standard error.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "config/config.h"
#include "policy/policy.h"

enum { KEYS_MOST = 1 << 20, ERROR_BYTES = 2048 };

static const char usage[] =
    "usage: bullpen check CONFIG\n"
    "       bullpen check --options\n"
    "\n"
    "Loads the configuration and its policies and calls every hook on sample data.\n"
    "Prints `ok` lines, or `file:line: message` and exits 1.\n"
    "\n"
    "  --options   print every key a configuration may hold\n"
    "  --help      print this\n";

/* A cell of a Markdown table: bars would end it. */
static void print_cell(const char *text) {
  printf(" ");
  for (; *text; text++) {
    if (*text == '|') putchar('\\');
    putchar(*text);
  }
  printf(" |");
}

static int print_options(void) {
  size_t count;
  const struct option_help *options = config_options(&count);
  printf("| key | type | range | default | unit | what it is |\n|---|---|---|---|---|---|\n");
  for (size_t i = 0; i < count; i++) {
    printf("| `%s` |", options[i].key);
    print_cell(options[i].type);
    print_cell(options[i].range);
    print_cell(options[i].fallback);
    print_cell(options[i].unit);
    print_cell(options[i].help);
    printf("\n");
  }
  return 0;
}

static bool check_policy(const struct policy_spec *spec, const struct policy_host *host) {
  char error[ERROR_BYTES] = "";
  struct policy *policy = policy_load(spec, host, true, error, sizeof error);
  bool good = policy && policy_check(policy, error, sizeof error);
  if (good)
    printf("ok policy %s: %s, version %s\n", spec->name, spec->file ? spec->file : spec->ready ? spec->ready
           : "built-in",
           policy_version(policy));
  else
    fprintf(stderr, "%s\n", error);
  policy_release(&policy);
  return good;
}

static bool check_policies(const struct config *config, struct bench *bench) {
  struct policy_shared *shared = policy_shared_new(config->limits.shared);
  struct policy_counts *counts = calloc(1, sizeof *counts);
  struct policy_host host = { .bench = bench, .shared = shared, .counts = counts };
  bool good = shared && counts;
  if (!good) fprintf(stderr, "%s: out of memory\n", config->file);
  if (good) good = check_policy(&config->policy, &host);
  for (size_t i = 0; shared && counts && i < config->policy_count; i++)
    good &= check_policy(&config->policies[i], &host);
  free(counts);
  policy_shared_free(shared);
  return good;
}

static int check_file(const char *path) {
  char error[ERROR_BYTES] = "";
  struct bench *bench = bench_new(KEYS_MOST);
  const struct config *config = bench ? config_load(path, bench, error, sizeof error) : NULL;
  bool good = config;
  if (!config) {
    fprintf(stderr, "%s\n", *error ? error : "out of memory");
  } else {
    for (size_t i = 0; i < config->warning_count; i++) fprintf(stderr, "%s: warning: %s\n", path, config->warnings[i]);
    printf("ok %s: %zu upstreams, %zu models, %zu clients\n", path, config->upstream_count,
           config->model_count + (config->any_model != NULL), config->client_count);
    good = check_policies(config, bench);
  }
  config_release(&config);
  bench_free(bench);
  return good ? 0 : 1;
}

int cli_check(int argc, char **argv) {
  if (cli_help_asked(argc, argv, usage)) return 0;
  if (argc == 2 && strcmp(argv[1], "--options") == 0) return print_options();
  if (argc == 2 && argv[1][0] != '-') return check_file(argv[1]);
  fputs(usage, stderr);
  return 2;
}
