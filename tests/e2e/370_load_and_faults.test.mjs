// Under load and with the system failing under it: every stream is whole, nothing is kept, what cannot be had is refused cleanly, and it recovers by itself.
import test from 'node:test';
import assert from 'node:assert/strict';
import { execFileSync, spawn, spawnSync } from 'node:child_process';
import fs from 'node:fs';
import net from 'node:net';
import path from 'node:path';
import { BULLPEN, configText, startProxy, tempDir } from './lib/bullpen.mjs';
import { cleanups, world } from './lib/world.mjs';
import { EACH_ROUTE, ROUTES, whole } from './lib/routes.mjs';
import { good, reset, startUpstream, status, streamThen } from './lib/upstream.mjs';
import { Connection, modelRequest, request } from './lib/client.mjs';
import { checkRefusal } from './lib/check.mjs';
import { descriptors, processorSeconds, residentBytes } from './lib/process.mjs';
import { deferred, inParallel, until, within } from './lib/wait.mjs';

const SANITIZED = BULLPEN.includes('asan') || BULLPEN.includes('tsan');
const NEXT = 'local p = {}\nfunction p.classify() return "next" end\nreturn p';
const chat = ROUTES.chat;
const COUNT = 1000;

test('370 1,000 concurrent streams of all routes, a third of the attempts failing: all whole; a second run keeps nothing more', async (t) => {
  const later = cleanups(t);
  let waiting = 0, gate = deferred();
  const failures = [status(503), reset(), (io) => { io.sse(); io.chunk(': hi\n\n'); io.reset(); }, (io) => { io.sse(); io.fin(); }];
  // The number in the request says how often it fails first; a good one waits until all of them are open.
  const tries = new Map();
  const step = async (io, req) => {
    const n = req.headers.get('x-number');
    const before = tries.get(n) ?? 0;
    tries.set(n, before + 1);
    if (before < Number(n) % 2) return failures[(Number(n) >> 1) % 2 ? 1 : (Number(n) >> 2) % 3 ? (Number(n) >> 2) % 3 + 1 : 0](io, req);
    const route = EACH_ROUTE.find((r) => req.path.endsWith(r.upPath));
    io.sse();
    io.chunk(route.preamble.join('') + route.content.replace('AAAA', `number ${n}`));
    waiting++;
    await Promise.race([gate.promise, io.gone]);
    io.chunk(route.more);
    io.chunk(route.ending.join(''));
    return io.lastChunk();
  };
  const up = await startUpstream([step]);
  later(() => up.close());
  const upstreams = {}, models = {};
  for (const api of ['openai', 'anthropic']) for (const x of ['1', '2', '3']) upstreams[`${api}${x}`] = { api, base_url: up.url(), key: 'k' };
  for (const route of EACH_ROUTE) models[route.name] = ['1', '2', '3'].map((x) => `${route.api}${x}/x`);
  const proxy = await startProxy({ config: { workers: 2, upstreams, models, timeouts: { request: 60, idle: 60, first_event: 60 } }, policy: NEXT });
  later(() => proxy.stop());
  const run = async () => {
    tries.clear();
    waiting = 0;
    gate = deferred();
    const all = Array.from({ length: COUNT }, (_, i) => {
      const route = EACH_ROUTE[i % 3];
      const c = new Connection(proxy.url);
      const m = modelRequest(route, { model: route.name, stream: true, headers: { 'x-number': i } });
      return { i, route, c, answer: c.send(m) };
    });
    await until(() => waiting === COUNT, { timeout: 20000, what: () => `${waiting} of ${COUNT} streams open` });
    gate.resolve();
    for (const { i, route, c, answer } of all) {
      await within(answer.done.promise, 20000, `stream ${i}`);
      assert.equal(answer.status, 200);
      assert.equal(answer.text, whole(route).replace('AAAA', `number ${i}`), `stream ${i}`);
      assert.equal(answer.end, 'clean');
      // A reset may have met a kept connection: then it was sent once more, as the same attempt.
      const attempts = i % 4 === 3 ? ['1', '2'] : [String(1 + (i % 2))];
      assert.ok(attempts.includes(answer.header('x-bullpen-attempts')), `stream ${i}: ${answer.header('x-bullpen-trail')}`);
      c.destroy();
    }
    await until(async () => (await proxy.metric('bullpen_connections')) === 0, { what: 'the clients gone' });
  };
  await run();
  await until(() => up.open <= 512, { what: 'no more upstream connections than are kept' });
  const first = { fds: descriptors(proxy), rss: residentBytes(proxy), kept: up.open };
  await run();
  await until(() => descriptors(proxy) - up.open <= first.fds - first.kept, { what: () => `descriptors: ${first.fds} before, ${descriptors(proxy)} now` });
  const grown = () => residentBytes(proxy) - first.rss;
  if (!SANITIZED) await until(() => grown() < 8 << 20, { what: () => `resident memory as before, not ${(grown() / 1048576).toFixed(1)} MiB more` });
  assert.deepEqual(await proxy.benches(), []);
  assert.equal(await proxy.metric('bullpen_inflight_requests'), 0);
});

// ---- the system fails ----

const prlimit = spawnSync('prlimit', ['--version']).status === 0;

test('370 EMFILE: connections wait or are refused, nothing spins or dies, and it is back to normal by itself', { skip: !prlimit && 'no prlimit' }, async (t) => {
  const hold = deferred();
  const w = await world(t, { steps: [[streamThen([...chat.preamble, chat.content], async (io) => { await Promise.race([hold.promise, io.gone]); io.chunk(chat.ending.join('')); io.lastChunk(); })], [good()]], policy: NEXT, config: { timeouts: { idle: 60 } } });
  assert.equal((await w.post({ model: 'b/m-b' })).status, 200);
  const all = Array.from({ length: 6 }, () => w.open({ stream: true }));
  for (const { answer } of all) await answer.until('AAAA');
  const limit = descriptors(w.proxy) + 8;
  execFileSync('prlimit', ['--pid', String(w.proxy.child.pid), `--nofile=${limit}:${limit}`]);
  // Of these some find no socket for their upstream and are told so; the rest wait to be accepted.
  for (let i = 0; i < 40; i++) all.push(w.open({ stream: true }));
  await w.proxy.waitForLog({ message: 'cannot accept connections' }, { timeout: 8000 });
  const before = processorSeconds(w.proxy);
  await new Promise((r) => setTimeout(r, 300));
  assert.ok(processorSeconds(w.proxy) - before < 0.15, 'waiting for descriptors costs no processor time');
  hold.resolve();
  for (const { answer, connection, done } of all) {
    await done();
    if (all.findIndex((o) => o.answer === answer) < 6) assert.equal(answer.text, [...chat.preamble, chat.content, ...chat.ending].join(''), 'those that streamed go on');
    assert.ok([200, 502].includes(answer.status), `${answer.status} ${answer.text}`);
    if (answer.status === 502) checkRefusal(answer, chat, 'exhausted502');
    else assert.ok(answer.text.endsWith('[DONE]\n\n') || answer.text.includes('"chat.completion'), answer.text);
    connection.destroy();
  }
  await until(async () => { const r = await w.post().catch(() => ({})); return r.status === 200; }, { what: 'normal service' });
  assert.ok(w.proxy.logs.filter((l) => l.message === 'cannot accept connections').length < 20, 'the log is not flooded');
});

// A proxy on a unix socket, started through a shell; its standard error is kept.
async function serveThroughShell(t, before, config) {
  const later = cleanups(t);
  const up = await startUpstream([good()]);
  later(() => up.close());
  const dir = tempDir();
  later(() => fs.rmSync(dir, { recursive: true, force: true }));
  const file = path.join(dir, 's.sock');
  fs.writeFileSync(path.join(dir, 'bullpen.lua'), configText({ listen: `unix:${file}`, log: { format: 'json' }, ...config, upstreams: { a: { api: 'openai', base_url: up.url(), key: 'k' } }, models: { m: 'a/x' } }));
  const child = spawn('sh', ['-c', `${before} exec "$0" "$@"`, BULLPEN, 'serve', 'bullpen.lua'], { cwd: dir, stdio: ['ignore', 'ignore', 'pipe'] });
  const serving = { child, up, err: '', ask: (options) => request({ socketPath: file }, modelRequest(chat, options)) };
  child.stderr.on('data', (b) => { serving.err += b; });
  const exit = new Promise((resolve) => { child.on('close', (code) => resolve(code)); });
  process.once('exit', () => child.kill('SIGKILL'));
  later(async () => {
    child.kill('SIGTERM');
    assert.equal(await within(exit, 10000, 'the end'), 0, serving.err);
    assert.ok(!/Sanitizer|runtime error/.test(serving.err), serving.err);
  });
  const answers = () => request({ socketPath: file }, { method: 'GET', path: '/v1/models' }).then((r) => r.status === 200, () => false);
  await until(async () => child.exitCode !== null || (fs.existsSync(file) && answers()), { timeout: 10000, what: () => `the socket\n${serving.err}` });
  return serving;
}

test('370 started with few descriptors: a warning that says the number, and it serves', async (t) => {
  const s = await serveThroughShell(t, 'ulimit -n 128;', {});
  assert.equal((await s.ask()).status, 200);
  assert.match(s.err, /"level":"warn"[^\n]*\b128\b/);
});

// socket() and accept4() fail with ENOMEM as long as the named file exists.
const FAULT = `
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>
static int failing(void) { const char *f = getenv("FAULT_FILE"); return f && access(f, F_OK) == 0; }
int socket(int a, int b, int c) {
  int (*real)(int, int, int) = dlsym(RTLD_NEXT, "socket");
  if (a != AF_UNIX && failing()) { errno = ENOMEM; return -1; }
  return real(a, b, c);
}
int accept4(int fd, struct sockaddr *a, socklen_t *n, int flags) {
  int (*real)(int, struct sockaddr *, socklen_t *, int) = dlsym(RTLD_NEXT, "accept4");
  const char *f = getenv("FAULT_ACCEPT");
  if (f && access(f, F_OK) == 0) { errno = ENOMEM; return -1; }
  return real(fd, a, n, flags);
}
`;
const compiler = spawnSync('cc', ['--version']).status === 0;

test('370 ENOMEM from sockets: refused cleanly, then back to normal by itself', { skip: (!compiler && 'no cc') || (SANITIZED && 'the sanitizer is first in line') }, async (t) => {
  const dir = tempDir({ 'fault.c': FAULT });
  execFileSync('cc', ['-shared', '-fPIC', '-o', 'fault.so', 'fault.c', '-ldl'], { cwd: dir });
  const sockets = path.join(dir, 'sockets'), accepts = path.join(dir, 'accepts');
  const w = await world(t, { steps: [good(), good()], policy: NEXT, env: { LD_PRELOAD: path.join(dir, 'fault.so'), FAULT_FILE: sockets, FAULT_ACCEPT: accepts } });
  w.later(() => fs.rmSync(dir, { recursive: true, force: true }));
  fs.writeFileSync(sockets, '');
  const r = await w.post();
  checkRefusal(r, chat, 'exhausted502');
  assert.match(r.header('x-bullpen-trail'), /^a\/m-a=connect, b\/m-b=connect$/);
  fs.rmSync(sockets);
  assert.equal((await w.post()).status, 200);
  fs.writeFileSync(accepts, '');
  const waiting = w.open();
  await w.proxy.waitForLog({ message: 'cannot accept connections' });
  const before = processorSeconds(w.proxy);
  await new Promise((resolve) => setTimeout(resolve, 250));
  assert.ok(processorSeconds(w.proxy) - before < 0.12, 'it does not spin');
  fs.rmSync(accepts);
  assert.equal((await waiting.done()).status, 200, 'who waited is served');
});

// The name has a label that is too long: no resolver is asked, and none needs to be there.
test('370 DNS failures: the outcome is dns, the next one answers, other requests are not held up', async (t) => {
  const w = await world(t, { steps: [good(), good()], policy: NEXT, upstream: { a: { base_url: `http://${'x'.repeat(70)}.invalid/v1` }, b: {} } });
  const rs = await Promise.all(Array.from({ length: 40 }, (_, i) => w.post({ stream: i % 2 === 0 })));
  for (const r of rs) {
    assert.equal(r.status, 200);
    assert.equal(r.header('x-bullpen-trail'), 'a/m-a=dns, b/m-b=200');
  }
  assert.equal(w.proxy.failures().every((f) => f.outcome === 'dns' && /resolve/i.test(f.cause)), true);
  checkRefusal(await w.post({ model: 'a/x' }), chat, 'exhausted502');
});

// ---- stopping under load ----

test('370 SIGTERM under load drains: what runs is finished, what comes is refused, exit 0; a second one ends at once', async (t) => {
  for (const second of [false, true]) {
    const gate = deferred();
    let open = 0;
    const step = streamThen([...chat.preamble, chat.content], async (io) => { open++; await Promise.race([gate.promise, io.gone]); for (const p of [chat.more, ...chat.ending]) io.chunk(p); io.lastChunk(); });
    const w = await world(t, { steps: [[step]], config: { workers: 2, timeouts: { drain: 30 } } });
    const all = Array.from({ length: 200 }, () => w.open({ stream: true }));
    await until(() => open === 200, { timeout: 10000, what: 'all the streams' });
    // Traffic that goes on through the stop.
    let on = true, refused = 0;
    const load = inParallel(Array.from({ length: 8 }), 8, async () => {
      while (on) {
        const r = await request(w.proxy.url, { method: 'GET', path: '/v1/models' }, { timeout: 5000 }).catch(() => ({}));
        if (r.status === 200) continue;
        assert.ok(r.status === undefined || r.status === 503, `${r.status}`);
        refused++;
        await new Promise((resolve) => setTimeout(resolve, 5));
      }
    });
    w.proxy.signal('SIGTERM');
    await until(() => refused > 20, { what: 'new ones to be refused' });
    assert.equal(w.proxy.exited, null, 'it waits for those that run');
    if (second) {
      const start = performance.now();
      w.proxy.signal('SIGTERM');
      await within(w.proxy.exit, 3000, 'the end after the second signal');
      assert.ok(performance.now() - start < 2500);
      for (const { done, answer } of all) { await done(); assert.notEqual(answer.end, 'clean', 'nobody takes it for whole'); }
    } else {
      gate.resolve();
      for (const { done, answer } of all) { await done(); assert.equal(answer.text, whole(chat)); assert.equal(answer.end, 'clean'); }
      assert.deepEqual(await within(w.proxy.exit, 5000, 'the end of the drain'), { code: 0, signal: null });
    }
    on = false;
    await load;
    await w.a.waitClosed();
  }
});

test('370 a flood of connections that come and go leaves nothing behind', async (t) => {
  const w = await world(t, { steps: [good()], config: { workers: 2 } });
  for (let i = 0; i < 10; i++) await w.post();
  const before = descriptors(w.proxy);
  const url = new URL(w.proxy.url);
  await inParallel(Array.from({ length: 2000 }), 100, (_, lane) => new Promise((resolve) => {
    const s = net.connect(Number(url.port), url.hostname, () => {
      if (lane % 3 === 0) s.write('GET /v1/models HT');
      if (lane % 3 === 1) s.resetAndDestroy(); else s.destroy();
    });
    s.on('error', () => {}).on('close', resolve);
  }));
  await until(async () => (await w.proxy.metric('bullpen_connections')) === 0, { what: 'all of them gone' });
  await until(() => descriptors(w.proxy) <= before, { what: () => `descriptors: ${before} before, ${descriptors(w.proxy)} now` });
  assert.equal((await w.post()).status, 200);
});
