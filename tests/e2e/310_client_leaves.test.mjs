// A client that leaves in any phase, by close, reset or half-close, ends its upstream request within 100 ms: nobody benched, no further attempt, `client_gone`.
import test from 'node:test';
import assert from 'node:assert/strict';
import { world } from './lib/world.mjs';
import { EACH_ROUTE, ROUTES } from './lib/routes.mjs';
import { good, silent, status, streamThen } from './lib/upstream.mjs';
import { Connection } from './lib/client.mjs';
import { blackhole } from './lib/nowhere.mjs';
import { descriptors } from './lib/process.mjs';
import { until, within } from './lib/wait.mjs';

const LEAVE = { close: (c) => c.destroy(), reset: (c) => c.reset(), 'half-close': (c) => c.finish() };
const SLOW = Number(process.env.SLOW ?? 1);
const LIMIT = 100 * SLOW;

// A stream that goes on as fast as it is taken.
const endless = (route) => streamThen([...route.preamble, route.content], async (io) => {
  const piece = route.more.repeat(300);
  while (!io.isGone) {
    io.chunk(piece);
    if (io.socket.writableNeedDrain) await Promise.race([new Promise((r) => { io.socket.once('drain', r); }), io.gone]);
  }
});
const unread = () => { const f = (io) => { io.socket.pause(); return io.gone; }; f.atHead = true; return f; };

const RETRY = 'local p = {}\nfunction p.classify() return "retry", { delay = 20 } end\nreturn p';

// What makes the phase: `a` is the first upstream's script, `ready` waits until the request is in it.
const PHASES = {
  'uploading to the upstream': { a: unread, options: { extra: { pad: 'x'.repeat(12_000_000) } }, ready: (w, n) => w.a.waitCalls(n) },
  'in the TLS handshake': { secure: true, a: good, ready: (w, n) => until(() => w.a.connections >= n, { what: 'the connection' }) },
  'waiting for the head': { a: silent, ready: (w, n) => w.a.waitDone(n) },
  'holding back': { a: (route) => streamThen(route.preamble, (io) => io.gone), options: { stream: true }, ready: (w, n) => w.a.waitDone(n) },
  streaming: { a: (route) => streamThen([...route.preamble, route.content], (io) => io.gone), options: { stream: true }, ready: (w, n, { answer }) => answer.until('AAAA') },
  'paused for a slow client': { a: endless, options: { stream: true }, ready: async (w, n, { answer, connection }) => {
    await answer.until('AAAA');
    connection.socket.pause();
    await until(() => w.a.requests[n - 1].io.socket.writableNeedDrain, { what: 'the upstream to be held up' });
  } },
  'in backoff': { a: () => status(503), policy: RETRY, pooled: true, ready: (w, n) => w.proxy.waitForLog({ message: 'attempt failed' }, { count: n }) },
};

// Resolves with the milliseconds until the upstream sees its connection gone.
function timeUntilClosed(socket) {
  const start = performance.now();
  return new Promise((resolve) => {
    for (const event of ['end', 'close', 'error']) socket.once(event, () => resolve(performance.now() - start));
    socket.resume();
  });
}

for (const [phase, { a, secure, options, policy, pooled, ready }] of Object.entries(PHASES)) {
  for (const route of EACH_ROUTE) {
    test(`310 ${route.name}: leaves while ${phase}`, async (t) => {
      const w = await world(t, { route, steps: [a(route), good()], ...(policy ? { policy } : {}), upstream: { a: {}, b: {} }, config: { timeouts: { headers: 60, idle: 60, client_send: 60 } } });
      if (secure) await useSilentTls(t, w);
      let n = 0;
      for (const [how, leave] of Object.entries(LEAVE)) {
        // The limit is the proxy's; a busy machine gets a second and a third look.
        for (let look = 1; ; look++) {
          n++;
          const o = w.open(options);
          await ready(w, n, o);
          const socket = [...w.a.sockets].at(-1);
          const closed = pooled ? Promise.resolve(0) : timeUntilClosed(socket);
          const start = performance.now();
          leave(o.connection);
          const took = await within(closed, 5000, `the upstream to be closed after a ${how}`);
          await w.proxy.waitForLog((l) => l.message === 'request' && l.outcome === 'client_gone', { count: n });
          const logged = performance.now() - start;
          if (took < LIMIT && logged < LIMIT * 3) break;
          assert.ok(look < 4, `${how}: the upstream saw it after ${took} ms, the log after ${logged} ms`);
        }
      }
      assert.equal(w.proxy.requestLines().length, n, 'each is recorded once');
      if (!secure) assert.equal(w.a.calls, n, 'no further attempt');
      else assert.equal(w.a.connections, n);
      assert.equal(w.b.calls, 0);
      assert.deepEqual(await w.proxy.benches(), []);
      await until(async () => (await w.proxy.metric('bullpen_inflight_requests')) === 0, { what: 'no request in flight' });
      assert.equal((await w.post({ model: 'b/x' })).status, 200);
    });
  }
}

// Upstream `a` accepts and never shakes hands. Its proxy is a second one, whose base_url says https.
async function useSilentTls(t, w) {
  w.a.onConnection = () => {};
  const secure = await world(t, { route: w.route, steps: [good(), good()], upstream: { a: { base_url: w.a.url().replace('http:', 'https:') }, b: {} }, config: { timeouts: { connect: 60 } } });
  Object.assign(w, { proxy: secure.proxy, open: secure.open, post: secure.post, b: secure.b });
}

for (const [how, leave] of Object.entries(LEAVE)) {
  test(`310 ${how} while the upstream is being connected to`, async (t) => {
    const later = [];
    t.after(() => later.forEach((fn) => fn()));
    const port = await blackhole((fn) => later.push(fn));
    const w = await world(t, { steps: [good(), good()], upstream: { a: { base_url: `http://127.0.0.1:${port}/v1`, timeouts: { connect: 60 } }, b: {} } });
    const before = descriptors(w.proxy) + 1; /* the connection to b is kept */
    assert.equal((await w.post({ model: 'b/x' })).status, 200);
    await until(() => descriptors(w.proxy) === before, { what: () => `the first client closed: ${before}, not ${descriptors(w.proxy)}` });
    const { connection } = w.open();
    await until(() => descriptors(w.proxy) === before + 2, { what: () => `a client and an upstream socket: ${before} before, ${descriptors(w.proxy)} now` });
    leave(connection);
    await w.proxy.requestLine({ outcome: 'client_gone' });
    await until(() => descriptors(w.proxy) <= before, { what: () => `descriptors back at ${before}, not ${descriptors(w.proxy)}` });
    assert.equal(w.b.calls, 1);
    assert.deepEqual(await w.proxy.benches(), []);
  });

  test(`310 ${how} while sending the body: no upstream hears of it`, async (t) => {
    const w = await world(t, { steps: [good()], config: { timeouts: { client_body: 30 } } });
    for (const framing of [{ 'Content-Length': 100_000 }, { 'Transfer-Encoding': 'chunked' }]) {
      const before = w.proxy.requestLines().length;
      const c = new Connection(w.proxy.url);
      w.later(() => c.destroy());
      c.send({ path: ROUTES.chat.path, headers: framing });
      c.write(framing['Content-Length'] ? '{"model":"m",' : 'd\r\n{"model":"m",\r\n');
      await until(() => w.proxy.metric('bullpen_inflight_requests').then((x) => x === 1), { what: 'the request to be under way' });
      leave(c);
      const line = await w.proxy.waitForLog({ message: 'request' }, { count: before + 1 });
      assert.equal(line.outcome, 'client_gone');
    }
    assert.equal((await w.post()).status, 200);
    assert.equal(w.a.calls, 1);
  });
}

test('310 a half-close in one breath with the beginning of a body is noticed at once', async (t) => {
  const w = await world(t, { steps: [good()], config: { timeouts: { client_header: 30, client_body: 30 } } });
  const head = `POST ${ROUTES.chat.path} HTTP/1.1\r\nHost: localhost\r\n`;
  const beginnings = [`${head}Content-Length: 100000\r\n\r\n{"model":"m",`, `${head}Transfer-Encoding: chunked\r\n\r\nd\r\n{"model":"m",\r\n`, `${head}Content-Le`];
  for (let i = 0; i < 30; i++) {
    const c = new Connection(w.proxy.url);
    w.later(() => c.destroy());
    c.expect();
    c.socket.end(beginnings[i % 3]);
    await c.waitClosed(3000);
  }
  assert.equal((await w.post()).status, 200);
  assert.equal(w.a.calls, 1);
  assert.deepEqual(w.proxy.requestLines().filter((l) => l.status !== 200 && l.outcome !== 'client_gone'), []);
});

for (const route of EACH_ROUTE) {
  test(`310 ${route.name}: after the terminal event leaving changes nothing`, async (t) => {
    const w = await world(t, { route, steps: [streamThen([...route.preamble, route.content, ...route.ending], (io) => io.gone), good()] });
    let n = 0;
    for (const leave of Object.values(LEAVE)) {
      const { connection, answer } = w.open({ stream: true });
      await answer.until((text) => text.endsWith(route.ending.at(-1)));
      leave(connection);
      const line = await w.proxy.waitForLog({ message: 'request' }, { count: ++n });
      assert.equal(line.outcome, 'ok');
      assert.equal(line.candidate, 'a/m-a');
      await w.a.waitClosed();
    }
    assert.equal(w.b.calls, 0);
    assert.deepEqual(await w.proxy.benches(), []);
    assert.equal(await w.proxy.metric('bullpen_attempts_total', { outcome: 'ok' }), n);
  });
}
