// A silent upstream is noticed before the head, between the head and the first event, and between events; the last candidate has the
// request's whole time.
import test from 'node:test';
import assert from 'node:assert/strict';
import { world, BUILTIN } from './lib/world.mjs';
import { EACH_ROUTE, ROUTES, fixture, whole } from './lib/routes.mjs';
import { good, silent, streamThen } from './lib/upstream.mjs';
import { checkBroken, checkRefusal } from './lib/check.mjs';
import { setTimeout as pause } from 'node:timers/promises';

const hang = (parts) => streamThen(parts, (io) => io.gone);
const ping = (route) => (route.anthropic ? 'event: ping\ndata: {"type":"ping"}\n\n' : ': ping\n\n');

for (const route of EACH_ROUTE) {
  const goodStream = fixture(route, 'success-stream.sse').toString();

  for (const stream of [false, true]) {
    test(`070 W12 ${route.name} ${stream ? 'stream' : 'plain'}: silence before the head`, async (t) => {
      const w = await world(t, { route, policy: BUILTIN, steps: [silent(), good()], config: { timeouts: { headers: 0.25 } } });
      const start = performance.now();
      const r = await w.post({ stream });
      const took = performance.now() - start;
      assert.equal(r.status, 200);
      assert.ok(took >= 240 && took < 2000, `took ${took} ms`);
      assert.equal(r.header('x-bullpen-trail'), 'a/m-a=headers_timeout, b/m-b=200');
      assert.equal(w.a.calls, 1, 'a timeout is not tried again on the same candidate');
      await w.a.waitClosed();
      assert.equal((await w.proxy.benches())[0].key, 'a/m-a');
    });
  }

  test(`070 ${route.name}: silence between the head and the first event`, async (t) => {
    const w = await world(t, { route, policy: BUILTIN, steps: [hang([]), good()], config: { timeouts: { first_event: 0.25 } } });
    const r = await w.post({ stream: true });
    assert.equal(r.text, goodStream);
    assert.equal(r.header('x-bullpen-trail'), 'a/m-a=first_event_timeout, b/m-b=200');
    await w.a.waitClosed();
  });

  test(`070 ${route.name}: pings and the preamble do not stop first_event`, async (t) => {
    const step = streamThen(route.preamble, async (io) => {
      while (!io.isGone) { io.chunk(ping(route)); await Promise.race([io.gone, pause(40)]); }
    });
    const w = await world(t, { route, policy: BUILTIN, steps: [step, good()], config: { timeouts: { first_event: 0.3, idle: 10 } } });
    const r = await w.post({ stream: true, timeout: 4000 });
    assert.equal(r.text, goodStream);
    assert.equal(r.header('x-bullpen-trail'), 'a/m-a=first_event_timeout, b/m-b=200');
  });

  test(`070 P8 ${route.name}: silence between events ends the stream with a frame at idle, no retry`, async (t) => {
    const parts = [...route.preamble, route.content, route.more];
    const w = await world(t, { route, policy: BUILTIN, steps: [hang(parts), good()], config: { timeouts: { idle: 0.4 } } });
    const { answer, head, done } = w.open({ stream: true });
    await head();
    const start = performance.now();
    await done();
    const took = performance.now() - start;
    assert.ok(took > 300 && took < 2500, `ended ${took} ms after the commit`);
    checkBroken(answer, route, parts.join(''), { sequence: 6 });
    assert.equal(w.b.calls, 0);
    assert.equal((await w.proxy.requestLine()).outcome, 'idle_timeout');
    await w.a.waitClosed();
  });

  test(`070 ${route.name}: alive at a slow trickle is not killed`, async (t) => {
    const text = whole(route);
    const step = streamThen([], async (io) => {
      for (const part of [...route.preamble, route.content, route.more, ...route.ending]) { io.chunk(part); await pause(150); }
      io.lastChunk();
    });
    const w = await world(t, { route, policy: BUILTIN, steps: [step, good()], config: { timeouts: { idle: 0.4, headers: 0.4, first_event: 2, request: 5 } } });
    const r = await w.post({ stream: true });
    assert.equal(r.text, text);
    assert.equal(r.end, 'clean');
    assert.equal(w.b.calls, 0);
  });

  test(`070 ${route.name}: a committed stream may outlive the request's deadline`, async (t) => {
    const step = streamThen([...route.preamble, route.content], async (io) => {
      for (let i = 0; i < 6; i++) { await pause(120); io.chunk(route.more); }
      for (const p of route.ending) io.chunk(p);
      io.lastChunk();
    });
    const w = await world(t, { route, steps: [step, good()], config: { timeouts: { request: 0.4 } } });
    const r = await w.post({ stream: true });
    assert.equal(r.end, 'clean');
    assert.ok(r.text.endsWith(route.ending.at(-1)));
  });

  test(`070 C9 ${route.name}: the deadline answers 504 deadline_exceeded and benches nobody`, async (t) => {
    const w = await world(t, { route, policy: BUILTIN, steps: [silent(), silent()], config: { timeouts: { headers: 30, request: 0.35 } } });
    for (const stream of [false, true]) {
      const start = performance.now();
      const r = await w.post({ stream });
      const took = performance.now() - start;
      checkRefusal(r, route, 'deadline');
      assert.ok(took > 300 && took < 2000, `took ${took} ms`);
    }
    assert.deepEqual(await w.proxy.benches(), []);
    assert.equal((await w.proxy.requestLine()).outcome, 'deadline');
    assert.equal(w.b.calls, 0);
    await w.a.waitClosed();
  });

  test(`070 ${route.name}: the last candidate's headers and first_event become the deadline`, async (t) => {
    const late = async (io, req) => { await pause(700); await good()(io, req); };
    const w = await world(t, { route, policy: BUILTIN, steps: [silent(), late], config: { timeouts: { headers: 0.2, first_event: 0.2, request: 8 } } });
    const r = await w.post({ stream: true });
    assert.equal(r.status, 200, r.text);
    assert.equal(r.text, goodStream);
    const only = await w.post({ stream: false });
    assert.equal(only.status, 200, 'the other one is benched: the only one left has nothing to lose');
  });
}

test('070 a candidate\'s own timeouts override the upstream\'s, and those the config\'s', async (t) => {
  const w = await world(t, { policy: BUILTIN, steps: [silent(), silent(), good()], upstream: { a: { timeouts: { headers: 0.2 } }, b: { timeouts: { headers: 20 } }, c: {} },
    config: { timeouts: { headers: 30 }, models: { m: ['a/x', { use: 'b/y', timeouts: { headers: 0.2 } }, 'c/z'] } } });
  const r = await w.post({ timeout: 5000 });
  assert.equal(r.header('x-bullpen-trail'), 'a/x=headers_timeout, b/y=headers_timeout, c/z=200');
});

test('070 P6 all timed out: 504', async (t) => {
  const policy = `local p = {}
function p.classify(r, a) return "next" end
function p.select(r, pool, attempts)
  if #attempts == 0 then return { use = pool[1], timeouts = { headers = 0.15 } } end
  return false, "enough"
end
return p`;
  for (const route of EACH_ROUTE) {
    const w = await world(t, { route, policy, steps: [silent(), good()] });
    checkRefusal(await w.post({ timeout: 4000 }), route, 'exhausted504');
    assert.equal(w.b.calls, 0);
  }
});

test('070 a client that sends its body too slowly is answered 408 or closed, and no upstream hears of it', async (t) => {
  const { Connection } = await import('./lib/client.mjs');
  const w = await world(t, { steps: [good()], config: { timeouts: { client_body: 0.3, client_header: 0.3 } } });
  const c = new Connection(w.proxy.url);
  w.later(() => c.destroy());
  c.send({ path: ROUTES.chat.path, headers: { 'Content-Length': 100 } });
  c.write('{"model"');
  await c.waitClosed(4000);
  const [status] = [c.answers[0].status];
  assert.ok(status === undefined || status === 408, `status ${status}`);
  const silentOne = new Connection(w.proxy.url);
  w.later(() => silentOne.destroy());
  silentOne.write('POST /v1/chat/com');
  await silentOne.waitClosed(4000);
  assert.equal(w.a.calls, 0);
});
