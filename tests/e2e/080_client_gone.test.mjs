// A client that leaves, in whatever phase, ends its upstream request at once: no further call, nobody benched, recorded as client_gone.
import test from 'node:test';
import assert from 'node:assert/strict';
import { world } from './lib/world.mjs';
import { EACH_ROUTE, ROUTES } from './lib/routes.mjs';
import { good, silent, status, streamThen } from './lib/upstream.mjs';
import { deferred, until } from './lib/wait.mjs';

const LEAVE = { reset: (c) => c.reset(), close: (c) => c.destroy(), 'half-close': (c) => c.finish() };

// `pooled`: the failed answer was read whole, so its connection may stay open for the next request.
async function checkGone(w, calls, { pooled = false } = {}) {
  const line = await w.proxy.requestLine({ outcome: 'client_gone' });
  assert.equal(w.proxy.requestLines().length, 1, 'recorded once');
  if (!pooled) await until(() => w.list.every((u) => u.open === 0), { what: 'upstream connections closed' });
  assert.deepEqual(w.list.map((u) => u.calls), calls);
  assert.deepEqual(await w.proxy.benches(), []);
  return line;
}

for (const route of EACH_ROUTE) {
  for (const [how, leave] of Object.entries(LEAVE)) {
    for (const isStream of [false, true]) {
      test(`080 W10 ${route.name} ${isStream ? 'stream' : 'plain'}: ${how} while waiting for the head`, async (t) => {
        const w = await world(t, { route, steps: [silent(), good()] });
        const { connection } = w.open({ stream: isStream });
        await w.a.waitDone(1);
        leave(connection);
        await w.a.waitClosed();
        await checkGone(w, [1, 0]);
      });
    }

    test(`080 ${route.name}: ${how} while the preamble is held`, async (t) => {
      const w = await world(t, { route, steps: [streamThen(route.preamble, (io) => io.gone), good()] });
      const { connection } = w.open({ stream: true });
      await w.a.waitDone(1);
      leave(connection);
      await w.a.waitClosed();
      await checkGone(w, [1, 0]);
    });

    test(`080 ${route.name}: ${how} in mid-stream`, async (t) => {
      const w = await world(t, { route, steps: [streamThen([...route.preamble, route.content], (io) => io.gone), good()] });
      const { connection, answer } = w.open({ stream: true });
      await answer.until('AAAA');
      leave(connection);
      await w.a.waitClosed();
      const line = await checkGone(w, [1, 0]);
      assert.equal(line.candidate, 'a/m-a');
    });

    test(`080 W10 ${route.name}: ${how} in backoff: no further call`, async (t) => {
      const policy = 'local p = {}\nfunction p.classify() return "retry", { delay = 20 } end\nreturn p';
      const w = await world(t, { route, policy, steps: [status(503), good()] });
      const { connection } = w.open({ stream: true });
      await w.proxy.waitForLog({ message: 'attempt failed' });
      leave(connection);
      const start = performance.now();
      await checkGone(w, [1, 0], { pooled: true });
      assert.ok(performance.now() - start < 3000, 'the wait ends with the client');
    });
  }
}

test('080 while the upstream is still being sent the body', async (t) => {
  const held = deferred();
  const step = async (io, req) => { io.socket.pause(); await held.promise; io.socket.resume(); await io.gone; req.after = req.got ?? 0; };
  step.atHead = true;
  const w = await world(t, { steps: [step, good()] });
  const { connection } = w.open({ extra: { pad: 'x'.repeat(20_000_000) }, timeout: 1 });
  await w.a.waitCalls(1, 10000);
  connection.reset();
  await w.proxy.requestLine({ outcome: 'client_gone' });
  held.resolve();
  await w.a.waitClosed();
  assert.ok((w.a.requests[0].got ?? 0) < 20_000_000, 'the upload was cut');
  assert.equal(w.b.calls, 0);
  assert.deepEqual(await w.proxy.benches(), []);
});

test('080 while paused for a slow client: no progress for client_send is client_gone', async (t) => {
  const route = ROUTES.chat;
  const piece = `data: {"choices":[{"index":0,"delta":{"content":"${'y'.repeat(60_000)}"}}]}\n\n`;
  const step = streamThen([...route.preamble, route.content], async (io) => {
    while (!io.isGone) {
      io.chunk(piece);
      if (io.socket.writableNeedDrain) await new Promise((r) => { io.socket.once('drain', r); io.gone.then(r); });
    }
  });
  const w = await world(t, { steps: [step, good()], config: { timeouts: { client_send: 0.5, idle: 60 } } });
  const { connection, head } = w.open({ stream: true });
  await head();
  connection.socket.pause();
  await w.proxy.waitForLog((l) => l.message === 'request' && l.outcome === 'client_gone', { timeout: 8000 });
  await w.a.waitClosed();
  assert.equal(w.b.calls, 0);
  assert.deepEqual(await w.proxy.benches(), []);
});

test('080 a client that leaves while sending its body reaches no upstream', async (t) => {
  const { Connection } = await import('./lib/client.mjs');
  const w = await world(t, { steps: [good()] });
  const c = new Connection(w.proxy.url);
  c.send({ path: ROUTES.chat.path, headers: { 'Content-Length': 1000 } });
  c.write('{"model":"m",');
  await new Promise((r) => c.socket.once('connect', r)).catch(() => {});
  c.reset();
  assert.equal((await w.post()).status, 200);
  assert.equal(w.a.calls, 1);
});

test('080 after the terminal event a leaving client changes nothing', async (t) => {
  const route = ROUTES.messages;
  const w = await world(t, { route, steps: [streamThen([...route.preamble, route.content, ...route.ending], (io) => io.gone), good()] });
  const { connection, answer } = w.open({ stream: true });
  await answer.until('message_stop');
  connection.reset();
  const line = await w.proxy.requestLine();
  assert.equal(line.outcome, 'ok');
  await w.a.waitClosed();
});

test('080 C9 one who leaves does not disturb the others', async (t) => {
  const go = deferred();
  const step = streamThen([...ROUTES.chat.preamble, ROUTES.chat.content], async (io) => { await go.promise; for (const p of ROUTES.chat.ending) io.chunk(p); io.lastChunk(); });
  const w = await world(t, { steps: [[step]], config: { workers: 2 } });
  const all = Array.from({ length: 20 }, () => w.open({ stream: true }));
  for (const { answer } of all) await answer.until('AAAA');
  for (const { connection } of all.slice(0, 10)) connection.reset();
  await w.proxy.waitForLog((l) => l.message === 'request' && l.outcome === 'client_gone', { count: 10 });
  go.resolve();
  for (const { done } of all.slice(10)) { const r = await done(); assert.equal(r.end, 'clean'); assert.ok(r.text.endsWith('[DONE]\n\n')); }
  assert.equal((await w.proxy.waitForLog((l) => l.message === 'request' && l.outcome === 'ok', { count: 10 })).status, 200);
});
