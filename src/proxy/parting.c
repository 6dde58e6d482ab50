/* A parting is a source and a timer in one list; whichever comes first ends it. */
#include "proxy/parting.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define PARTING_SECONDS 1.0
enum { PARTINGS_MAX = 256 };

struct parting {
  struct loop_source source;
  struct timer timer;
  struct partings *all;
  struct parting *next, **prev;
};

static void end(struct parting *p) {
  *p->prev = p->next;
  if (p->next) p->next->prev = p->prev;
  p->all->count--;
  loop_arm(p->all->loop, &p->timer, SECONDS_NEVER);
  loop_remove(p->all->loop, &p->source);
  close(p->source.fd);
  loop_bury(p->all->loop, p);
}

static void throw_away(struct loop_source *source, uint32_t events) {
  struct parting *p = (struct parting *)source;
  char bytes[16384];
  ssize_t n = recv(source->fd, bytes, sizeof bytes, MSG_DONTWAIT);
  if (n > 0 || (n < 0 && (errno == EAGAIN || errno == EINTR) && !(events & EPOLLERR))) return;
  end(p);
}

static void time_is_up(struct timer *timer, seconds now) {
  (void)now;
  end((struct parting *)((char *)timer - offsetof(struct parting, timer)));
}

void parting_begin(struct partings *all, int fd) {
  struct parting *p = all->count < PARTINGS_MAX ? calloc(1, sizeof *p) : NULL;
  if (!p || shutdown(fd, SHUT_WR) != 0) {
    free(p);
    close(fd);
    return;
  }
  p->source = (struct loop_source){ .fd = fd, .ready = throw_away };
  p->timer.due = time_is_up;
  p->all = all;
  p->next = all->first;
  p->prev = &all->first;
  if (p->next) p->next->prev = &p->next;
  all->first = p;
  all->count++;
  loop_arm(all->loop, &p->timer, loop_now(all->loop) + PARTING_SECONDS);
  if (!loop_add(all->loop, &p->source, EPOLLIN)) end(p);
}

void parting_end_all(struct partings *all) {
  while (all->first) end(all->first);
}
