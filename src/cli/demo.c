/*
 * `bullpen demo`: three mocks and the real proxy in one process, nothing to set up. One upstream answers 429, 503 and
 * 529 in turn, one answers 200 and then an error as its first event, one is healthy; the chain tries them in that
 * order, so that the first request shows every kind of failover and the second one the bench.
 *
 * The configuration is written into a folder of its own, because the proxy reads it as it reads any (and again on
 * SIGHUP), and is removed when the proxy has ended.
 */
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/arena.h"
#include "cli/cli.h"
#include "cli/mock.h"

enum { FLAKY, LIAR, HEALTHY, MOCKS };
enum { PORT = 8080, ADMIN_PORT = 9090 };

static const struct scripted {
  const char *name, *script;
} scripted[MOCKS] = {
  [FLAKY] = { "flaky", "local statuses = { 429, 503, 529 }\n"
                       "return function(request)\n"
                       "  return { status = statuses[(request.number - 1) % 3 + 1] }\n"
                       "end\n" },
  [LIAR] = { "liar", "return { steps = { { fault = 'error_event' } } }\n" },
  [HEALTHY] = { "healthy", "return { steps = { { text = 'Hello from the healthy upstream.', stream = { interval = 0.1 } } } }\n" },
};

struct demo {
  struct arena arena;
  struct mock *mocks[MOCKS];
  unsigned port, admin_port;
  char *folder, *config; /* paths; NULL until they exist */
};

static const char usage[] =
  "usage: bullpen demo\n"
  "\n"
  "Runs the proxy with three local upstreams, two of which misbehave, and prints curl lines to try. It listens on 127.0.0.1:8080\n"
  "and :9090 (admin), or on free ports when those are taken. Nothing leaves this machine.\n";

/* ---- ports ---- */

/* `wanted` if it is free on 127.0.0.1, else (and for 0) any that is. 0: none. */
static unsigned find_port(unsigned wanted) {
  int on = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  struct sockaddr_in name = { .sin_family = AF_INET, .sin_port = htons((uint16_t)wanted) };
  socklen_t size = sizeof name;
  name.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (fd < 0) return 0;
  bool good = setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) == 0 && bind(fd, (struct sockaddr *)&name,
                                                                                    size) == 0 &&
              listen(fd, 1) == 0 && getsockname(fd, (struct sockaddr *)&name, &size) == 0;
  close(fd);
  if (good) return ntohs(name.sin_port);
  return wanted ? find_port(0) : 0;
}

/* ---- the configuration ---- */

static void write_upstreams(const struct demo *demo, FILE *out) {
  for (int i = 0; i < MOCKS; i++) {
    const char *address = mock_address(demo->mocks[i]);
    fprintf(out, "    %s = { api = \"openai\", base_url = \"http://%s/v1\", auth = \"none\" },\n", scripted[i].name, address);
    fprintf(out, "    [\"%s-claude\"] = { api = \"anthropic\", base_url = \"http://%s/v1\", auth = \"none\" },\n", scripted[i].name,
            address);
  }
}

static void write_text(const struct demo *demo, FILE *out) {
  fprintf(out, "return {\n  listen = \"127.0.0.1:%u\",\n  admin = { listen = \"127.0.0.1:%u\" },\n  upstreams = {\n", demo->port,
          demo->admin_port);
  write_upstreams(demo, out);
  fputs("  },\n"
        "  models = {\n"
        "    demo = { \"flaky/demo\", \"liar/demo\", \"healthy/demo\" },\n"
        "    [\"claude-demo\"] = { \"flaky-claude/demo\", \"liar-claude/demo\", \"healthy-claude/demo\" },\n"
        "  },\n"
        "}\n",
        out);
}

/* Makes the folder and the file. False with errno set. */
static bool write_config(struct demo *demo) {
  const char *parent = getenv("TMPDIR");
  char *folder = arena_printf(&demo->arena, "%s/bullpen-demo-XXXXXX", parent && *parent ? parent : P_tmpdir);
  if (!folder || !mkdtemp(folder)) return false;
  demo->folder = folder;
  demo->config = arena_printf(&demo->arena, "%s/bullpen.lua", folder);
  FILE *out = demo->config ? fopen(demo->config, "wxe") : NULL;
  if (!out) return false;
  write_text(demo, out);
  bool good = !ferror(out);
  return fclose(out) == 0 && good;
}

/* ---- what it tells ---- */

static void print_curl(const char *what, unsigned port, const char *option, const char *path, const char *body) {
  printf("# %s\ncurl %s http://127.0.0.1:%u%s -H 'content-type: application/json' \\\n  -d '%s'\n\n", what, option, port, path, body);
}

static void print_policy(void) {
  fputs("The built-in policy tries a candidate three times and benches one that keeps failing for 5 minutes: x-bullpen-trail of the first\n"
        "request shows every attempt, the second request goes straight to healthy. A policy of your own decides otherwise. This one\n"
        "gives each candidate one try and half a minute on the bench (save it as policy.lua, write policy = \"policy.lua\" in a\n"
        "config, look at it with `bullpen check`):\n\n"
        "  local policy = {}\n"
        "  function policy.classify(request, attempt)\n"
        "    if attempt.outcome == \"status\" and attempt.status < 500 and attempt.status ~= 429 then\n"
        "      return \"accept\"              -- the request's own fault: the client gets the answer\n"
        "    end\n"
        "    return \"next\", { bench = 30 }  -- seconds\n"
        "  end\n"
        "  return policy\n\n",
        stdout);
}

static void print_guide(const struct demo *demo) {
  static const char chat[] = "\"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}]";
  char body[256];
  printf("bullpen demo: http://127.0.0.1:%u, admin http://127.0.0.1:%u (config: %s)\n\n", demo->port, demo->admin_port, demo->config);
  for (int i = 0; i < MOCKS; i++) printf("  %-8s http://%s\n", scripted[i].name, mock_address(demo->mocks[i]));
  fputs("\nThe models `demo` and `claude-demo` try flaky (429, 503, 529 in turn), then liar (200, then an error as its first event), then\n"
        "healthy. Try, and look at the x-bullpen-* headers:\n\n", stdout);
  snprintf(body, sizeof body, "{\"model\": \"demo\", %s}", chat);
  print_curl("chat", demo->port, "-i", "/v1/chat/completions", body);
  snprintf(body, sizeof body, "{\"model\": \"demo\", \"stream\": true, %s}", chat);
  print_curl("chat, streamed", demo->port, "-iN", "/v1/chat/completions", body);
  print_curl("responses, streamed", demo->port, "-iN", "/v1/responses", "{\"model\": \"demo\", \"stream\": true, \"input\": \"Hi\"}");
  snprintf(body, sizeof body, "{\"model\": \"claude-demo\", \"max_tokens\": 64, %s}", chat);
  print_curl("messages", demo->port, "-i", "/v1/messages", body);
  printf("# who is benched, until when, and why; and the metrics\ncurl http://127.0.0.1:%u/api/benches\ncurl "
         "http://127.0.0.1:%u/metrics\n\n", demo->admin_port, demo->admin_port);
  print_policy();
  fputs("Ctrl-C ends it.\n\n", stdout);
  fflush(stdout);
}

/* ---- the command ---- */

/* False, said on standard error, when something is missing. */
static bool prepare(struct demo *demo) {
  char error[512];
  for (int i = 0; i < MOCKS; i++) {
    demo->mocks[i] = mock_start(scripted[i].name, span_of(scripted[i].script), NULL, error, sizeof error);
    if (demo->mocks[i]) continue;
    fprintf(stderr, "bullpen demo: %s\n", error);
    return false;
  }
  demo->port = find_port(PORT);
  demo->admin_port = find_port(ADMIN_PORT);
  if (demo->port && demo->admin_port && write_config(demo)) return true;
  fprintf(stderr, "bullpen demo: cannot prepare: %s\n", strerror(errno));
  return false;
}

static void clean_up(struct demo *demo) {
  for (int i = 0; i < MOCKS; i++) mock_stop(&demo->mocks[i]);
  if (demo->config) (void)unlink(demo->config);
  if (demo->folder) (void)rmdir(demo->folder);
  arena_free(&demo->arena);
}

int cli_demo(int argc, char **argv) {
  struct demo demo = { 0 };
  int code = 1;
  if (cli_help_asked(argc, argv, usage)) return 0;
  if (argc > 1) {
    fputs("usage: bullpen demo\n", stderr);
    return 2;
  }
  if (prepare(&demo)) {
    print_guide(&demo);
    char *serve[] = { "serve", demo.config, NULL };
    code = cli_serve(2, serve);
  }
  clean_up(&demo);
  return code;
}
