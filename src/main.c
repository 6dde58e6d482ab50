/* Picks the subcommand, nothing else. */
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"

static const struct command {
  const char *name;
  int (*run)(int argc, char **argv);
  const char *usage, *summary;
} commands[] = {
  { "serve", cli_serve, "serve [CONFIG]", "run the proxy (default ./bullpen.lua)" },
  { "demo", cli_demo, "demo", "proxy plus three local upstreams that misbehave; prints curl lines to try" },
  { "mock", cli_mock, "mock SCRIPT", "a scripted upstream, with faults" },
  { "check", cli_check, "check CONFIG", "load config and policy, call every hook on sample data" },
  { "policy", cli_policy_show, "policy show NAME", "print a ready-made policy's source, to start one's own from" },
};
enum { COMMAND_COUNT = sizeof commands / sizeof commands[0] };

static void print_usage(FILE *out) {
  fputs("usage: bullpen COMMAND [ARGUMENTS]\n\n", out);
  for (size_t i = 0; i < COMMAND_COUNT; i++) fprintf(out, "  %-16s %s\n", commands[i].usage, commands[i].summary);
  fputs("\n`bullpen COMMAND --help` tells more of one; `bullpen --version` prints the version.\n", out);
}

int main(int argc, char **argv) {
  const char *name = argc > 1 ? argv[1] : "";
  if (!strcmp(name, "--version")) return printf("bullpen %s\n", BULLPEN_VERSION) < 0;
  if (!strcmp(name, "--help") || !strcmp(name, "-h")) {
    print_usage(stdout);
    return 0;
  }
  for (size_t i = 0; i < COMMAND_COUNT; i++)
    if (!strcmp(name, commands[i].name)) return commands[i].run(argc - 1, argv + 1);
  if (*name) fprintf(stderr, "bullpen: '%s' is no command\n", name);
  print_usage(stderr);
  return 2;
}
