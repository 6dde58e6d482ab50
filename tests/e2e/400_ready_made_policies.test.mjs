// The ready-made policies do on real sockets what they do in the engine's tests.
import test from 'node:test';
import assert from 'node:assert/strict';
import { world, BUILTIN } from './lib/world.mjs';
import { ROUTES, EACH_ROUTE } from './lib/routes.mjs';
import { answer, good, reset, status, stream } from './lib/upstream.mjs';
import { checkRefusal } from './lib/check.mjs';
import { until } from './lib/wait.mjs';

const ready = (name, options) => ({ policy: BUILTIN, config: { policy: options ? { name, options } : name } });
const calls = (w) => w.list.map((u) => u.calls);
const trail = (r) => r.header('x-bullpen-trail');

for (const route of EACH_ROUTE) {
  test(`400 W3 ${route.name}: weighted makes at most 3 x 2 calls, then 502`, async (t) => {
    const w = await world(t, { route, ...ready('weighted', { base: 0.001 }), steps: [0, 1, 2, 3].map(() => status(503)) });
    const r = await w.post();
    checkRefusal(r, route, 'exhausted502');
    assert.equal(r.header('x-bullpen-attempts'), '6');
    assert.deepEqual(calls(w).sort(), [0, 2, 2, 2]);
  });

  test(`400 W5 ${route.name}: weighted forwards a 401 at once, byte for byte`, async (t) => {
    const body = '{ "type":"error", "error" : {"type":"authentication_error","message":"no"}, "odd": 1.50 }';
    const w = await world(t, { route, ...ready('weighted'), steps: [status(401, body)] });
    const r = await w.post();
    assert.equal(r.status, 401);
    assert.equal(r.text, body);
    assert.equal(w.a.calls, 1);
  });
}

test('400 W1: weighted calls by weight, with 2 candidates too, and never one of weight 0 first', async (t) => {
  const w = await world(t, { ...ready('weighted'), steps: [good(), good(), good()], upstream: { a: { weight: 3 }, b: { weight: 1 }, c: { weight: 0 } } });
  for (let i = 0; i < 400; i += 20) await Promise.all(Array.from({ length: 20 }, () => w.post()));
  const [a, b, c] = calls(w);
  assert.equal(a + b, 400);
  assert.equal(c, 0);
  assert.ok(a > 250 && a < 350, `${a} of 400`); // 300, more than five deviations each way
});

test('400 F1 F2: first_event moves on for an error as the first event; its last error is the answer', async (t) => {
  const error = 'data: {"error":{"message":"Overloaded","type":"overloaded_error","code":null}}\n\n';
  const w = await world(t, { ...ready('first_event'), steps: [stream(error), good()] });
  const r = await w.post({ stream: true });
  assert.equal(r.status, 200);
  assert.equal(trail(r), 'a/m-a=stream_error, b/m-b=200');
  w.a.script(status(429)); w.b.script(status(429, '{"error":{"message":"second"}}'));
  const last = await w.post();
  assert.equal(last.status, 429);
  assert.match(last.text, /second/);
});

test('400: first_event deliberately leaves a 500 to the client', async (t) => {
  const body = '{"error":{"message":"mine","type":"server_error"}}';
  const w = await world(t, { ...ready('first_event'), steps: [status(500, body), good()] });
  const r = await w.post();
  assert.equal(r.status, 500);
  assert.equal(r.text, body);
  assert.deepEqual(calls(w), [1, 0]);
});

test('400 A5: account_pool leaves an account by status and keyword, in any case', async (t) => {
  const rules = [{ status: 400, keyword: 'Organization Disabled', minutes: 30 }];
  const w = await world(t, { ...ready('account_pool', { rules }), steps: [status(400, '{"error":{"message":"your ORGANIZATION disabled"}}'), good()] });
  assert.equal(trail(await w.post()), 'a/m-a=400, b/m-b=200');
  assert.equal(trail(await w.post()), 'b/m-b=200');
  const [bench] = await w.proxy.benches();
  assert.equal(bench.key, 'a');
  assert.equal(bench.reason, 'Organization Disabled');
  assert.ok(bench.until - Date.now() / 1000 > 1700 && bench.until - Date.now() / 1000 <= 1800);
});

test('400 A8: account_pool keeps a session where it was, and lets go of an account that rests', async (t) => {
  const w = await world(t, { ...ready('account_pool'), steps: [good(), good(), good()] });
  const session = { headers: { 'x-session-id': 's' } };
  const bound = trail(await w.post(session)).slice(0, 1);
  for (let i = 0; i < 4; i++) assert.equal(trail(await w.post(session)).slice(0, 1), bound);
  w[bound].script(status(429, undefined, { 'retry-after': '60' }));
  const moved = trail(await w.post(session));
  assert.match(moved, new RegExp(`^${bound}/m-${bound}=429, [abc]/m-[abc]=200$`));
  const other = moved.split(', ')[1].slice(0, 1);
  assert.equal(trail(await w.post(session)), `${other}/m-${other}=200`);
});

test('400 A1 A2: passthrough accounts are left for 429 and 529 alone', async (t) => {
  const w = await world(t, { ...ready('account_pool'), upstream: { all: { passthrough: true } }, steps: [status(429), good()] });
  const r = await w.post();
  assert.equal(r.status, 200);
  assert.equal(trail(r), 'a/m-a=429, b/m-b=200');
  w.b.script(answer(503, { 'content-type': 'text/plain; odd=1' }, 'odd \x01 bytes'));
  const odd = await w.post();
  assert.equal(odd.status, 503);
  assert.equal(odd.text, 'odd \x01 bytes');
  assert.equal(odd.header('content-type'), 'text/plain; odd=1');
});

test('400 P6: priority passes the last status and body on; refused is 502', async (t) => {
  const body = '{"error":{"message":"the last","type":"server_error"}, "odd": 1.0}';
  const w = await world(t, { ...ready('priority', { retries: 0 }), steps: [status(500), status(503, body)] });
  const r = await w.post();
  assert.equal(r.status, 503);
  assert.equal(r.text, body);
  w.a.script(reset()); w.b.script(reset());
  checkRefusal(await w.post(), ROUTES.chat, 'exhausted502');
});

test('400 P2 P4: priority goes by priority and really tries every one of its fallbacks', async (t) => {
  const upstream = { a: { priority: 3 }, b: { priority: 1 }, c: { priority: 2 } };
  const w = await world(t, { ...ready('priority'), upstream, steps: [good(), status(503), status(503)] });
  assert.equal(trail(await w.post()), 'b/m-b=503, b/m-b=503, c/m-c=503, c/m-c=503, a/m-a=200');
});

test('400: chain_with_bench with options is its Lua file', async (t) => {
  const w = await world(t, { ...ready('chain_with_bench', { tries: 1, bench: 60 }), steps: [status(503), good()] });
  const r = await w.post();
  assert.equal(trail(r), 'a/m-a=503, b/m-b=200');
  assert.notEqual(r.header('x-bullpen-policy'), 'builtin');
  const [bench] = await until(async () => { const list = await w.proxy.benches(); return list.length && list; });
  assert.equal(bench.key, 'a/m-a');
  assert.ok(bench.until - Date.now() / 1000 <= 60);
});
