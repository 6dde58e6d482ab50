/*
 * `bullpen mock SCRIPT`: reads the script, starts one mock and waits for SIGINT or SIGTERM, which end it at once with
 * exit code 0. The line it prints on start is what tests wait for and read the port from.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "base/buf.h"
#include "cli/mock.h"

static const char usage[] =
  "usage: bullpen mock [--listen ADDRESS] SCRIPT\n"
  "\n"
  "Runs an upstream whose answers and faults a Lua file decides. It prints `mock listening on http://ADDRESS`.\n"
  "\n"
  "The file returns { listen = \"127.0.0.1:0\", steps = { step, ... } } or one function(request) -> step; each request takes the\n"
  "next step, the last repeats, and a step of the list may be a function too. --listen wins over `listen`.\n"
  "request: method, path, query, headers (lower-case), body, json, model, stream, route, number (from 1).\n"
  "step, all of it optional ({} is a good answer in the shape of the request's route, streamed if it asked for that):\n"
  "  status, headers         { [\"retry-after\"] = 2, [\"content-type\"] = false, [\"x-a\"] = { \"1\", \"2\" } } or { { \"x-a\", \"1\" } }\n"
  "  body                    a string, or a table that becomes JSON\n"
  "  text                    of the good answer; else \"Hello from upstream.\"\n"
  "  error                   { type =, code =, message = } of an error status or event; else as the route and status have it\n"
  "  delay                   seconds before the head\n"
  "  stream                  { chunks = N or { \"text\", ... }, first = seconds before the first chunk, interval = between them };\n"
  "                          a chunk that ends with an empty line is an event by itself, sent as it is\n"
  "  fault                   refuse, silent, reset, reset_after=N, truncate_after=N, stall_after=N (N bytes of body), error_event,\n"
  "                          error_after_start, empty, html, wrong_type; also { reset_after = N }\n"
  "  framing                 \"chunked\", \"length\" or \"close\";  split = N: write the body N bytes at a time;  close = true\n"
  "  raw                     these bytes instead of everything, then a close unless keep = true\n"
  "\n"
  "GET /_mock/requests tells what it was sent, DELETE clears that and begins the steps again, and\n"
  "GET /_mock/wait?count=N&closed=N&timeout=S waits until N requests came (and N of them were left by their client).\n";

/* The file's text into `source`. False with errno set. */
static bool read_file(const char *path, struct buf *source) {
  FILE *file = fopen(path, "re");
  if (!file) return false;
  size_t got;
  do {
    char *room = buf_reserve(source, 64 << 10);
    got = room ? fread(room, 1, 64 << 10, file) : 0;
    source->n += got;
  } while (got);
  bool good = !ferror(file) && buf_ok(source);
  int failed = errno;
  fclose(file);
  errno = good ? 0 : failed ? failed : ENOMEM;
  return good;
}

/* False: misuse. */
static bool read_arguments(int argc, char **argv, const char **script, const char **listen) {
  for (int i = 1; i < argc; i++) {
    if (!strcmp(argv[i], "--listen") && i + 1 < argc) *listen = argv[++i];
    else if (!strncmp(argv[i], "--listen=", 9)) *listen = argv[i] + 9;
    else if (argv[i][0] == '-' || *script) return false;
    else *script = argv[i];
  }
  return *script != NULL;
}

int cli_mock(int argc, char **argv) {
  const char *script = NULL, *listen = NULL;
  char error[1024];
  if (cli_help_asked(argc, argv, usage)) return 0;
  if (!read_arguments(argc, argv, &script, &listen)) {
    fputs("usage: bullpen mock [--listen ADDRESS] SCRIPT\n", stderr);
    return 2;
  }
  sigset_t ends;
  sigemptyset(&ends);
  sigaddset(&ends, SIGINT);
  sigaddset(&ends, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &ends, NULL); /* before any thread: they are waited for below */
  struct buf source = { 0 };
  struct mock *mock = NULL;
  if (!read_file(script, &source)) snprintf(error, sizeof error, "%s: %s", script, strerror(errno));
  else mock = mock_start(script, buf_span(&source), listen, error, sizeof error);
  buf_free(&source);
  if (!mock) {
    fprintf(stderr, "%s\n", error);
    return 1;
  }
  printf("mock listening on http://%s\n", mock_address(mock));
  fflush(stdout);
  int received;
  while (sigwait(&ends, &received) != 0) continue;
  mock_stop(&mock);
  return 0;
}
