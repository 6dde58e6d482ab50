// A candidate that fails before the commit is replaced by the next one, and nothing of it reaches the client.
import test from 'node:test';
import assert from 'node:assert/strict';
import net from 'node:net';
import { spawn } from 'node:child_process';
import { startProxy } from './lib/bullpen.mjs';
import { cleanups, world, ONE_TRY } from './lib/world.mjs';
import { EACH_ROUTE, ROUTES, fixture } from './lib/routes.mjs';
import { good, startUpstream, status, reset, fin } from './lib/upstream.mjs';
import { modelRequest, request } from './lib/client.mjs';
import { checkRefusal } from './lib/check.mjs';
import { until } from './lib/wait.mjs';

const STATUSES = [401, 402, 403, 408, 409, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529];

for (const route of EACH_ROUTE) {
  test(`020 P1 ${route.name}: every status that moves on, stream or not`, async (t) => {
    const later = cleanups(t);
    // One server plays all the failing upstreams: the first path segment says which.
    const bad = await startUpstream([(io, req) => status(Number(/\/s(\d+)/.exec(req.path)[1]))(io, req)]);
    later(() => bad.close());
    const ok = await startUpstream([good()]);
    later(() => ok.close());
    const upstreams = { ok: { api: route.api, base_url: ok.url(), key: 'k' } };
    const models = {};
    for (const code of STATUSES) for (const kind of ['plain', 'stream']) {
      upstreams[`${kind}${code}`] = { api: route.api, base_url: bad.url(`/s${code}/v1`), key: 'k' };
      models[`${kind}${code}`] = [`${kind}${code}/x`, 'ok/y'];
    }
    const proxy = await startProxy({ config: { upstreams, models }, policy: ONE_TRY });
    later(() => proxy.stop());
    for (const code of STATUSES) for (const kind of ['plain', 'stream']) {
      const before = [bad.calls, ok.calls];
      const r = await request(proxy.url, modelRequest(route, { model: `${kind}${code}`, stream: kind === 'stream' }));
      assert.equal(r.status, 200, `${kind} ${code}: ${r.text}`);
      assert.equal(r.text, fixture(route, kind === 'stream' ? 'success-stream.sse' : 'success.json').toString());
      assert.equal(r.end, 'clean');
      assert.deepEqual([bad.calls, ok.calls], [before[0] + 1, before[1] + 1], `calls for ${kind} ${code}`);
      assert.equal(r.header('x-bullpen-trail'), `${kind}${code}/x=${code}, ok/y=200`);
      assert.equal(r.header('x-bullpen-attempts'), '2');
      assert.equal(r.header('x-bullpen-candidate'), 'ok/y');
    }
  });
}

// A port nobody listens on.
async function closedPort() {
  const server = net.createServer().listen(0, '127.0.0.1');
  await new Promise((done) => server.once('listening', done));
  const { port } = server.address();
  await new Promise((done) => server.close(done));
  return port;
}

// A port whose accept queue is full and whose owner is stopped: connections to it are never made.
async function blackhole(later) {
  const code = 'require("net").createServer().listen({port:0,host:"127.0.0.1",backlog:1},function(){console.log(this.address().port)})';
  const child = spawn(process.execPath, ['-e', code], { stdio: ['ignore', 'pipe', 'inherit'] });
  later(() => child.kill('SIGKILL'));
  const port = Number(await new Promise((done) => child.stdout.once('data', done)));
  child.kill('SIGSTOP');
  const fillers = [];
  let pending = 0;
  for (let i = 0; i < 6; i++) {
    const s = net.connect(port, '127.0.0.1');
    s.on('error', () => {});
    s.on('connect', () => { pending--; });
    pending++;
    fillers.push(s);
  }
  later(() => fillers.forEach((s) => s.destroy()));
  await until(() => fillers.filter((s) => !s.connecting).length >= 2, { what: 'the accept queue to fill' });
  return port;
}

const rstAtHead = () => { const f = (io) => io.reset(); f.atHead = true; return f; };
const headCut = () => (io) => { io.raw('HTTP/1.1 200 OK\r\nContent-Ty'); io.fin(); };
const bodyCut = (type) => () => (io) => { io.head(200, { 'content-type': type }, 1000); io.raw('{"id":'); io.fin(); };

const TRANSPORT = {
  'refused -> connect': { base: async () => `http://127.0.0.1:${await closedPort()}/v1`, outcome: ['connect'] },
  'no such host -> dns': { base: async () => 'http://nowhere.invalid/v1', outcome: ['dns'] },
  'connect timeout': { base: async (later) => `http://127.0.0.1:${await blackhole(later)}/v1`, outcome: ['connect_timeout'] },
  'reset after the request': { step: reset, outcome: ['reset'] },
  'closed without an answer': { step: fin, outcome: ['reset', 'truncated'] },
  'broken pipe while uploading': { step: rstAtHead, outcome: ['reset'], big: true },
  'head cut short -> truncated': { step: headCut, outcome: ['truncated'] },
  'body cut short -> truncated': { step: bodyCut('application/json'), outcome: ['truncated', 'reset'], plainOnly: true },
  'not HTTP at all': { step: () => (io) => { io.raw('SSH-2.0-OpenSSH_9.2\r\n'); io.fin(); }, outcome: ['reset', 'truncated', 'wrong_type'] },
  'a response head over 64 KiB -> too_large': { step: () => (io) => io.head(200, { 'content-type': 'application/json', 'x-big': 'y'.repeat(70000) }, 0), outcome: ['too_large'] },
};

for (const route of EACH_ROUTE) {
  for (const [name, { base, step, outcome, big, plainOnly }] of Object.entries(TRANSPORT)) {
    for (const stream of plainOnly ? [false] : [false, true]) {
      test(`020 W6 ${route.name} ${stream ? 'stream' : 'plain'}: ${name}`, async (t) => {
        const later = cleanups(t);
        const w = await world(t, {
          route, steps: [step?.() ?? good(), good()],
          upstream: { a: { key: 'k', timeouts: { connect: name === 'connect timeout' ? 0.2 : 5 }, ...(base ? { base_url: await base(later) } : {}) }, b: {} },
        });
        const r = await w.post({ stream, extra: big ? { pad: 'x'.repeat(6_000_000) } : {} });
        assert.equal(r.status, 200, r.text);
        assert.equal(r.text, fixture(route, stream ? 'success-stream.sse' : 'success.json').toString());
        const failure = await w.proxy.waitForLog({ message: 'attempt failed' });
        assert.ok(outcome.includes(failure.outcome), `outcome ${failure.outcome}, one of ${outcome} expected`);
        assert.equal(failure.candidate, 'a/m-a');
        assert.equal(r.header('x-bullpen-trail'), `a/m-a=${failure.outcome}, b/m-b=200`);
        assert.equal(w.b.calls, 1);
        const [bench] = await w.proxy.benches();
        assert.equal(bench.key, 'a/m-a', 'a transport failure of the last try benches');
      });
    }
  }
}

test('020 a connection that dies in the body of a plain answer after the buffer is ended short, not replaced', async (t) => {
  const big = 'x'.repeat(100_000);
  const cut = (io) => { io.head(200, { 'content-type': 'application/json' }, 200_000); io.raw(`{"a":"${big}`); io.socket.write('y', () => setImmediate(() => io.fin())); };
  const w = await world(t, { steps: [cut, good()], config: { limits: { buffer: '16KiB' } } });
  const r = await w.post();
  assert.equal(r.status, 200);
  assert.notEqual(r.end, 'clean');
  assert.ok(r.text.startsWith('{"a":"xxx'));
  assert.equal(w.b.calls, 0);
});

test('020 P7 a thousand failed tries: the number of descriptors stays flat', async (t) => {
  const policy = 'local p = {}\nfunction p.classify() return "next" end\nreturn p';
  const long = (io) => { io.head(503, { 'content-type': 'application/json' }, 50_000_000); io.raw(`{"error":{"message":"${'x'.repeat(100_000)}`); };
  const w = await world(t, { steps: [[long], [good()]], policy });
  const { readdirSync } = await import('node:fs');
  const count = () => readdirSync(`/proc/${w.proxy.child.pid}/fd`).length;
  for (let i = 0; i < 10; i++) assert.equal((await w.post()).status, 200);
  const before = count();
  for (let i = 0; i < 100; i++) {
    const rs = await Promise.all(Array.from({ length: 10 }, () => w.post()));
    for (const r of rs) assert.equal(r.status, 200);
  }
  await until(() => count() <= before + 12, { what: () => `descriptors flat: ${before} before, ${count()} now` });
  await until(() => w.a.open <= 1, { what: 'failed transfers released' });
  assert.equal(w.a.calls, 1010);
});

test('020 5.9 a reused connection that dies is tried once more on a fresh one: one attempt, resent', async (t) => {
  const w = await world(t, { steps: [[good(), reset(), good()], [good()]] });
  assert.equal((await w.post()).status, 200);
  const r = await w.post();
  assert.equal(r.status, 200, r.text);
  assert.equal(r.header('x-bullpen-candidate'), 'a/m-a');
  assert.equal(r.header('x-bullpen-attempts'), '1');
  assert.equal(w.b.calls, 0);
  assert.ok(w.a.connections >= 2, 'a fresh connection');
  assert.equal(w.a.calls, 3);
  assert.deepEqual(w.a.last.body, w.a.requests[1].body, 'the whole body again');
  assert.deepEqual(await w.proxy.benches(), []);
});

test('020 5.9 once more, not twice: a fresh one that dies too is a failed attempt, and says it was resent', async (t) => {
  const w = await world(t, { steps: [[good(), reset(), reset()], [good()]] });
  assert.equal((await w.post()).status, 200);
  const r = await w.post({ stream: true });
  assert.equal(r.header('x-bullpen-trail'), 'a/m-a=reset, b/m-b=200');
  assert.equal(w.a.calls, 3);
  const failure = await w.proxy.waitForLog({ message: 'attempt failed' });
  assert.equal(failure.resent, true);
});

test('020 redirects are a status, not followed', async (t) => {
  const w = await world(t, { steps: [[status(302, '{"error":{"message":"moved"}}', { location: 'http://127.0.0.1:1/' })], [good()]] });
  const r = await w.post();
  assert.equal(r.status, 302);
  assert.equal(w.a.calls, 1);
  assert.equal(w.b.calls, 0);
});

test('020 all transport: exhausted 502 in the shape of each route', async (t) => {
  for (const route of EACH_ROUTE) {
    const w = await world(t, { route, steps: [[reset()], [reset()]] });
    checkRefusal(await w.post(), route, 'exhausted502');
    checkRefusal(await w.post({ stream: true }), route, 'exhausted502');
  }
});
