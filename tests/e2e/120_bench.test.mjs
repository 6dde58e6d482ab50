// The bench: who fails sits out, for everybody, until its time; manual benches outlive everything; when all sit, they are called anyway.
import test from 'node:test';
import assert from 'node:assert/strict';
import { world, BUILTIN, ONE_TRY } from './lib/world.mjs';
import { EACH_ROUTE, ROUTES, fixture } from './lib/routes.mjs';
import { good, status } from './lib/upstream.mjs';
import { checkRefusal } from './lib/check.mjs';
import { until } from './lib/wait.mjs';

const trail = (r) => r.header('x-bullpen-trail');

for (const route of EACH_ROUTE) {
  test(`120 C1 C3 C4 ${route.name}: transient x3, then benched 300 s and skipped`, async (t) => {
    const w = await world(t, { route, policy: BUILTIN, steps: [status(503), good()] });
    const r = await w.post({ stream: true });
    assert.equal(trail(r), 'a/m-a=503, a/m-a=503, a/m-a=503, b/m-b=200');
    const [bench] = await w.proxy.benches();
    assert.deepEqual([bench.key, bench.manual], ['a/m-a', false]);
    assert.ok(bench.until - Date.now() / 1000 > 280 && bench.until - Date.now() / 1000 <= 300.5, `until ${bench.until}`);
    assert.equal(typeof bench.reason, 'string');
    assert.equal(trail(await w.post()), 'b/m-b=200');
    assert.equal(w.a.calls, 3);
    assert.equal(w.proxy.failures().length, 3);
    assert.equal(w.proxy.failures()[2].benched_for, 300);
  });

  test(`120 C3 ${route.name}: auth dead once: 401 benches the upstream, 403 the candidate; 400 and 404 nobody`, async (t) => {
    const models = { m: 'a/x,b/y', other: 'a/z,b/y', p: 'c/x,b/y' };
    const w = await world(t, { route, policy: BUILTIN, steps: [status(401), good(), status(403)], config: { models } });
    assert.equal(trail(await w.post()), 'a/x=401, b/y=200');
    assert.equal(trail(await w.post({ model: 'other' })), 'b/y=200', 'another model of the same account is benched too');
    assert.equal(trail(await w.post({ model: 'p' })), 'c/x=403, b/y=200');
    assert.deepEqual((await w.proxy.benches()).map((b) => b.key).sort(), ['a', 'c/x']);
    for (const code of [400, 413, 422]) {
      w.b.script(status(code));
      const r = await w.post({ model: 'b/y,a/x' });
      assert.equal(r.status, code);
      assert.equal(trail(r), `b/y=${code}`);
    }
    assert.equal((await w.proxy.benches()).length, 2);
  });

  test(`120 ${route.name}: quota and spend limits are the account's, codes are read before statuses`, async (t) => {
    const dead = route.anthropic ? 'error-429-spend-limit.json' : 'error-429-quota.json';
    const w = await world(t, { route, policy: BUILTIN, steps: [status(429, fixture(route, dead)), good()] });
    assert.equal(trail(await w.post()), 'a/m-a=429, b/m-b=200');
    assert.deepEqual((await w.proxy.benches()).map((b) => b.key), ['a']);
  });
}

test('120 C4 one bench for two chains and two workers', async (t) => {
  const w = await world(t, { policy: ONE_TRY, steps: [status(503), good()], config: { workers: 2, models: { m: 'a/x,b/y', n: 'a/x,b/z' } } });
  assert.equal(trail(await w.post()), 'a/x=503, b/y=200');
  const rs = await Promise.all(Array.from({ length: 24 }, (_, i) => w.post({ model: i % 2 ? 'm' : 'n' })));
  for (const r of rs) assert.match(trail(r), /^b\/[yz]=200$/);
  assert.equal(w.a.calls, 1);
});

test('120 retry-after: benched for it while another is free, at once', async (t) => {
  const w = await world(t, { policy: BUILTIN, steps: [status(429, undefined, { 'retry-after': '20' }), good()] });
  const start = performance.now();
  assert.equal(trail(await w.post()), 'a/m-a=429, b/m-b=200');
  assert.ok(performance.now() - start < 1000);
  const [bench] = await w.proxy.benches();
  const left = bench.until - Date.now() / 1000;
  assert.ok(left > 17 && left <= 20.5, `${left} s left`);
});

test('120 retry-after is waited for when nobody else is left', async (t) => {
  const w = await world(t, { policy: BUILTIN, steps: [[status(429, undefined, { 'retry-after-ms': '400' }), good()]] });
  const start = performance.now();
  const r = await w.post();
  const took = performance.now() - start;
  assert.equal(trail(r), 'a/m-a=429, a/m-a=200');
  assert.ok(took >= 380 && took < 3000, `waited ${took} ms`);
});

test('120 C5 all benched: still called, the soonest back first, manual ones last', async (t) => {
  const w = await world(t, { policy: ONE_TRY, steps: [good(), good(), good()] });
  const put = (key, seconds) => w.proxy.admin('PUT', `/api/benches/${key}`, { for: seconds, reason: 'test' });
  assert.equal((await put('a%2Fm-a', 500)).status, 200);
  await put('b/m-b', 100);
  await put('c', null);
  const r = await w.post();
  assert.equal(r.status, 200);
  assert.equal(trail(r), 'b/m-b=200');
});

test('120 C5 all benched automatically: soonest back first', async (t) => {
  const policy = `
local p = {}
function p.classify(request, attempt)
  return "next", { bench = ({ a = 90, b = 30, c = 60 })[attempt.candidate.upstream] }
end
return p`;
  const w = await world(t, { policy, steps: [status(500), status(409), status(503)] });
  assert.equal(trail(await w.post()), 'a/m-a=500, b/m-b=409, c/m-c=503');
  assert.equal(trail(await w.post()), 'b/m-b=409, c/m-c=503, a/m-a=500');
});

test('120 C6 a manual bench survives a success, a failure and a shorter cooldown', async (t) => {
  const w = await world(t, { policy: ONE_TRY, steps: [[good(), status(503), good()]] });
  await w.proxy.admin('PUT', '/api/benches/a%2Fm-a', { for: 600, reason: 'maintenance' });
  const manual = async () => (await w.proxy.benches()).find((b) => b.key === 'a/m-a');
  const before = await manual();
  for (const wanted of [200, 502, 200]) {
    assert.equal((await w.post()).status, wanted);
    const b = await manual();
    assert.deepEqual([b.manual, b.until, b.reason, b.since], [true, before.until, 'maintenance', before.since]);
  }
});

test('120 C7 list, bench, unbench through the admin interface', async (t) => {
  const w = await world(t, { policy: ONE_TRY, steps: [good(), good()] });
  assert.deepEqual(await w.proxy.benches(), []);
  assert.equal((await w.proxy.admin('PUT', '/api/benches/a', { for: null, reason: 'until lifted' })).status, 200);
  const [b] = await w.proxy.benches();
  assert.deepEqual([b.key, b.until, b.manual, b.reason], ['a', null, true, 'until lifted']);
  assert.equal(trail(await w.post()), 'b/m-b=200', 'a whole upstream benches its candidates');
  assert.deepEqual((await w.proxy.admin('DELETE', '/api/benches/a')).json, { was_benched: true });
  assert.deepEqual((await w.proxy.admin('DELETE', '/api/benches/a')).json, { was_benched: false });
  assert.equal(trail(await w.post()), 'a/m-a=200');
  await w.proxy.admin('PUT', '/api/benches/a', { for: 600, reason: 'x' });
  await w.proxy.admin('PUT', '/api/benches/a', { for: 0.05, reason: 'shorter' });
  await until(async () => (await w.proxy.benches()).length === 0, { what: 'PUT replaces it, shorter too' });
  assert.equal((await w.proxy.admin('PUT', '/api/benches/nobody', { for: 1, reason: 'x' })).status, 404);
  assert.equal((await w.proxy.admin('DELETE', '/api/benches/no%2Fbody')).status, 404);
});

test('120 when a bench ends, one attempt is the trial; success clears it', async (t) => {
  const policy = 'local p = {}\nfunction p.classify() return "next", { bench = 0.3 } end\nreturn p';
  const w = await world(t, { policy, steps: [[status(500), good()], [good()]] });
  assert.equal(trail(await w.post()), 'a/m-a=500, b/m-b=200');
  assert.equal(trail(await w.post()), 'b/m-b=200');
  await until(async () => trail(await w.post()) === 'a/m-a=200', { what: 'a is back' });
  assert.deepEqual(await w.proxy.benches(), []);
  assert.equal(w.a.calls, 2);
});

test('120 a trial is made by one request alone', async (t) => {
  const policy = 'local p = {}\nfunction p.classify() return "next", { bench = 0.2 } end\nreturn p';
  const hold = { release: null };
  const slow = async (io, req) => { await new Promise((r) => { hold.release = r; }); await good()(io, req); };
  const w = await world(t, { policy, steps: [[status(500), slow, good()], [good()]], config: { workers: 2 } });
  await w.post();
  await until(async () => { const { answer } = w.open(); await until(() => answer.end || w.a.calls > 1, { what: 'an answer or the trial' }); return w.a.calls > 1; }, { what: 'the trial to begin' });
  const rs = await Promise.all(Array.from({ length: 10 }, () => w.post()));
  for (const r of rs) assert.equal(trail(r), 'b/m-b=200');
  assert.equal(w.a.calls, 2, 'one trial');
  hold.release();
  await until(async () => trail(await w.post()) === 'a/m-a=200', { what: 'a back after the trial' });
});

test('120 a poisoned request does not bench everybody', async (t) => {
  const w = await world(t, { policy: BUILTIN, steps: [status(500), status(500)] });
  checkRefusal(await w.post(), ROUTES.chat, 'exhausted502');
  assert.deepEqual(await w.proxy.benches(), []);
  const other = await world(t, { policy: BUILTIN, steps: [status(500), status(408)] });
  await other.post();
  assert.equal((await other.proxy.benches()).length, 2, 'different failures are not the request\'s');
});

test('120 max_inflight: the full one is passed over, all full is 503 with retry-after 1', async (t) => {
  const gate = {}; gate.open = new Promise((r) => { gate.go = r; });
  const slow = async (io, req) => { await gate.open; await good()(io, req); };
  const w = await world(t, { policy: ONE_TRY, steps: [[slow], [slow]], upstream: { all: { max_inflight: 1 } } });
  const first = w.open(); await w.a.waitCalls(1);
  const second = w.open(); await w.b.waitCalls(1);
  const third = await w.post();
  checkRefusal(third, ROUTES.chat, 'overloaded');
  assert.equal(third.header('retry-after'), '1');
  gate.go();
  assert.equal((await first.done()).status, 200);
  assert.equal((await second.done()).header('x-bullpen-trail'), 'b/m-b=200');
  assert.deepEqual(await w.proxy.benches(), []);
});

