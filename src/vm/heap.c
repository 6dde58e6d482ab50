/*
 * The memory of a VM, counted and refused.
 *
 * Lua answers a refusal with a full collection and asks again for the same block. Only when that fails too, or nobody asks again, or little is left
 * after it, the state is spent: whatever a script caught, the call ends as VM_MEMORY.
 *
 * One instruction may cost milliseconds on large blocks (comparing two long strings, rehashing a large table, copying many arguments), so live
 * blocks of 256 KiB and more are counted by size, the hook looks the more often the larger the largest of them is, and the clock is read
 * after each slice of bytes here too.
 */
#include <stdlib.h>

#include "vm/inside.h"

static const size_t big_block = (size_t)256 << 10;

int vm_interval(const struct vm *vm) {
  if (vm_doomed(vm)) return 1;
  for (int i = VM_BIG_CLASSES - 1; i >= 0; i--) {
    if (vm->heap.big[i]) return ((VM_INTERVAL / 4) >> i) + 1;
  }
  return VM_INTERVAL;
}

static void pace(struct vm *vm) {
  vm->budget.interval = vm_interval(vm);
  if (vm->running) vm_rearm(vm, vm->running);
}

/* Counts a block of 256 KiB or more in (+1) or out (-1). */
static void count_big(struct vm *vm, size_t size, int by) {
  if (size < big_block) return;
  int class = 0;
  while (class < VM_BIG_CLASSES - 1 && size >= big_block << (class + 1)) class++;
  vm->heap.big[class] += (unsigned)by;
}

static void *refuse(struct vm *vm, const void *block, size_t size) {
  struct vm_heap *heap = &vm->heap;
  if (heap->refused) heap->spent = true;
  heap->refused = true;
  heap->refused_block = block;
  heap->refused_size = size;
  if (vm->running && vm->budget.kill == KILL_NONE) vm_locate(vm->running, 0, vm->where, sizeof vm->where);
  pace(vm);
  return NULL;
}

/* An allocation succeeded after a refusal: the second try after a collection that freed enough, or somebody who overlooked the refusal. */
static void recover(struct vm *vm, const void *block, size_t size) {
  struct vm_heap *heap = &vm->heap;
  bool second_try = block == heap->refused_block && size == heap->refused_size;
  if (!second_try || (heap->limit && heap->used > heap->limit - heap->limit / 8)) heap->spent = true;
  heap->refused = false;
  vm->budget.work = VM_WORK_SLICE; /* the collection took its time */
}

void *vm_reallocate(void *context, void *block, size_t old_size, size_t size) {
  struct vm *vm = context;
  struct vm_heap *heap = &vm->heap;
  size_t held = block ? old_size : 0; /* for a new block Lua gives its type there */
  if (size == 0) {
    free(block);
    heap->used -= held;
    count_big(vm, held, -1);
    return NULL;
  }
  bool grows = size > held;
  if (grows && heap->limit && (size > heap->limit || heap->used - held > heap->limit - size)) return refuse(vm, block, size);
  void *p = realloc(block, size);
  if (!p) return refuse(vm, block, size);
  heap->used += size - held;
  if (grows && heap->refused) recover(vm, block, size);
  bool big = size >= big_block || held >= big_block;
  if (big) {
    count_big(vm, held, -1);
    count_big(vm, size, +1);
  }
  vm->budget.work += size;
  if (big || vm->budget.work >= VM_WORK_SLICE) {
    vm->budget.work = 0;
    vm->budget.interval = vm_interval(vm);
    if (vm->running && vm_is_late(vm)) vm->budget.interval = 1; /* the hook fires at the next instruction and ends it */
    if (vm->running) vm_rearm(vm, vm->running);
  }
  return p;
}
