/*
 * Preloaded into the whole binary: the nth allocation of its threads other than the first fails, whoever asks (the proxy, curl, microhttpd,
 * OpenSSL, Lua, libc). The test steers it through a file of six 64-bit numbers named by FAILMALLOC, mapped and shared, while the proxy runs:
 *
 *   armed, fail_at (0: only count), onwards (1: all after it too), calls (since the test put 0 there), failed, calls let through
 *
 * FAILMALLOC_TRACE=1: the stack of each failure, and of a crash, goes to standard error (addr2line -f -e BINARY +OFFSET names what is static).
 *
 * lua-cjson ends the process when its own buffers cannot be had: its calls (strbuf_*) are let through. For glibc, whose own names these are.
 */
#include <dlfcn.h>
#include <errno.h>
#include <execinfo.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

struct control {
  _Atomic unsigned long armed, fail_at, onwards, calls, failed, spared;
};

static struct control *control;
static int tracing;

void *__libc_malloc(size_t n);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *p, size_t n);
void *__libc_memalign(size_t align, size_t n);

static void trace(void) {
  void *frames[24];
  int n = backtrace(frames, 24);
  backtrace_symbols_fd(frames + 2, n - 2, 2);
  (void)!write(2, "\n", 1);
}

static void fatal(int number) {
  trace();
  signal(number, SIG_DFL);
  raise(number);
}

__attribute__((constructor)) static void open_control(void) {
  const char *path = getenv("FAILMALLOC");
  int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
  if (fd < 0) return;
  void *p = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  close(fd);
  void *frame;
  tracing = getenv("FAILMALLOC_TRACE") != NULL && backtrace(&frame, 1) > 0; /* its first call allocates */
  for (int i = 0; tracing && i < 4; i++) signal((int[]){ SIGSEGV, SIGFPE, SIGABRT, SIGBUS }[i], fatal);
  if (p != MAP_FAILED) control = p;
}

static int fails(void *caller) {
  struct control *c = control;
  Dl_info info;
  if (!c || !atomic_load(&c->armed) || syscall(SYS_gettid) == getpid()) return 0;
  unsigned long n = atomic_fetch_add(&c->calls, 1) + 1, at = atomic_load(&c->fail_at);
  if (!at || n < at || (n > at && !atomic_load(&c->onwards))) return 0;
  if (dladdr(caller, &info) && info.dli_sname && strncmp(info.dli_sname, "strbuf_", 7) == 0) {
    atomic_fetch_add(&c->spared, 1);
    return 0;
  }
  atomic_fetch_add(&c->failed, 1);
  if (tracing) trace();
  errno = ENOMEM;
  return 1;
}

#define CALLER __builtin_return_address(0)

void *malloc(size_t n) {
  return fails(CALLER) ? NULL : __libc_malloc(n);
}

void *calloc(size_t n, size_t size) {
  return fails(CALLER) ? NULL : __libc_calloc(n, size);
}

void *realloc(void *p, size_t n) {
  return fails(CALLER) ? NULL : __libc_realloc(p, n);
}

void *aligned_alloc(size_t align, size_t n) {
  return fails(CALLER) ? NULL : __libc_memalign(align, n);
}
