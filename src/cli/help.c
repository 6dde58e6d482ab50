/* What every subcommand does alike about --help. An argument after `--` is no option. */
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"

bool cli_help_asked(int argc, char **argv, const char *usage) {
  for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++) {
    if (strcmp(argv[i], "--help") != 0 && strcmp(argv[i], "-h") != 0) continue;
    fputs(usage, stdout);
    return true;
  }
  return false;
}
