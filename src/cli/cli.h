/* The subcommands, one file each. Each gets its own arguments (argv[0] is its name) and returns the exit code: 0 good, 1 the input is
 * wrong, 2 usage, 3 could not reach the admin interface. */
#pragma once

#include <stdbool.h>

#define BULLPEN_VERSION "0.1.0"

int cli_serve(int argc, char **argv);
int cli_demo(int argc, char **argv);
int cli_mock(int argc, char **argv);
int cli_check(int argc, char **argv);
int cli_policy_show(int argc, char **argv); /* policy show NAME */

/* Prints usage for `command` on standard output when --help is among the arguments: true then. */
bool cli_help_asked(int argc, char **argv, const char *usage);
