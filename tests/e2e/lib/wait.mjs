// Waiting for conditions, never for time to pass.
import { setTimeout as tick } from 'node:timers/promises';

// Resolves with the first truthy value of `fn`; rejects with `what` when that does not happen in time.
export async function until(fn, { timeout = 5000, what = fn.toString() } = {}) {
  const end = performance.now() + timeout;
  for (;;) {
    const value = await fn();
    if (value) return value;
    if (performance.now() > end) throw new Error(`timed out waiting for: ${typeof what === 'function' ? what() : what}`);
    await tick(4);
  }
}

export function deferred() {
  let resolve, reject;
  const promise = new Promise((a, b) => { resolve = a; reject = b; });
  return { promise, resolve, reject };
}

// `promise`, or an error naming `what` after `ms`.
export async function within(promise, ms, what) {
  let timer;
  const late = new Promise((_, reject) => { timer = setTimeout(() => reject(new Error(`timed out waiting for: ${what}`)), ms); });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

// RST, now. resetAndDestroy() sends a FIN first when a write has just been made.
export function resetSocket(socket) {
  socket.resetAndClosing = true;
  socket.destroy();
}

// Runs `one(job, lane)` over all the jobs, so many lanes at a time; the first error ends it.
export async function inParallel(jobs, width, one) {
  let next = 0;
  const run = async (_, lane) => { while (next < jobs.length) await one(jobs[next++], lane); };
  await Promise.all(Array.from({ length: Math.min(width, jobs.length) }, run));
}
