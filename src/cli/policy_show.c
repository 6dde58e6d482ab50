/*
 * bullpen policy show NAME: the source of a ready-made policy, to start one's own from. What is printed is the text in
 * the binary, byte for byte; a file made of it works as it is, for the library is in the binary too.
 */
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "vm/vm.h"

#define FOLDER "policies/"
#define ENDING ".lua"

enum { NAME_BYTES = 256 };

static const char usage[] =
    "usage: bullpen policy show NAME\n"
    "\n"
    "Prints the source of a ready-made policy, to start your own from:\n"
    "\n"
    "  bullpen policy show weighted > policy.lua\n"
    "\n"
    "  --help   print this\n";

/* The names there are, with commas between them. */
static void print_names(FILE *out) {
  const char *file, *comma = "";
  for (size_t i = 0; (file = embedded_name(i)); i++) {
    size_t n = strlen(file);
    if (strncmp(file, FOLDER, strlen(FOLDER)) != 0 || n <= strlen(FOLDER ENDING)) continue;
    fprintf(out, "%s%.*s", comma, (int)(n - strlen(FOLDER ENDING)), file + strlen(FOLDER));
    comma = ", ";
  }
}

static int show(const char *name) {
  char file[NAME_BYTES];
  int n = snprintf(file, sizeof file, FOLDER "%s" ENDING, name);
  struct span text = n > 0 && (size_t)n < sizeof file ? embedded_find(file) : SPAN_NONE;
  if (!text.p) {
    fprintf(stderr, "bullpen: no ready-made policy is called '%s'; there are ", name);
    print_names(stderr);
    fputs("\n", stderr);
    return 1;
  }
  if (fwrite(text.p, 1, text.n, stdout) == text.n && fflush(stdout) == 0) return 0;
  perror("bullpen: standard output");
  return 1;
}

int cli_policy_show(int argc, char **argv) {
  if (cli_help_asked(argc, argv, usage)) return 0;
  if (argc == 3 && strcmp(argv[1], "show") == 0 && argv[2][0] != '-') return show(argv[2]);
  fputs(usage, stderr);
  return 2;
}
