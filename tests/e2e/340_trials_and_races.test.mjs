// Off its bench a candidate gets one trial at a time, whoever races for it; what is older than a bench does not lift it; `max_inflight` is never exceeded.
import test from 'node:test';
import assert from 'node:assert/strict';
import { world } from './lib/world.mjs';
import { EACH_ROUTE, ROUTES } from './lib/routes.mjs';
import { good, status } from './lib/upstream.mjs';
import { checkRefusal } from './lib/check.mjs';
import { deferred, until } from './lib/wait.mjs';

const CLIENTS = 64;
const NEXT = 'local p = {}\nfunction p.classify(request, attempt) if attempt.outcome ~= "status" or attempt.status >= 500 then return "next", { bench = 0.3 } end end\nreturn p';
// A step that waits for its gate, counting how many wait at the same time.
function counted() {
  const seen = { now: 0, most: 0, gate: deferred(), then: good() };
  seen.step = async (io, req) => {
    seen.now++;
    seen.most = Math.max(seen.most, seen.now);
    await Promise.race([seen.gate.promise, io.gone]);
    seen.now--;
    if (!io.isGone) await seen.then(io, req);
  };
  return seen;
}
const openMany = (w, options) => Array.from({ length: CLIENTS }, (_, i) => w.open({ stream: i % 2 === 0, ...options }));
const benchOver = (w) => until(async () => (await w.proxy.benches()).every((b) => b.until !== null && b.until * 1000 < Date.now()), { what: 'the bench to be over' });

async function benched(w) {
  const before = w.a.calls;
  const r = await w.post();
  assert.equal(r.header('x-bullpen-trail'), 'a/m-a=503, b/m-b=200');
  assert.equal(w.a.calls, before + 1);
}

for (const route of EACH_ROUTE) {
  test(`340 ${route.name}: 64 clients on two workers: one trial at a time, also when the trial's client leaves or it fails`, async (t) => {
    const trial = counted();
    const w = await world(t, { route, policy: NEXT, steps: [[status(503), trial.step], [good()]], config: { workers: 2, timeouts: { headers: 60 } } });
    await benched(w);
    // Three times the trial's client leaves; the claim is given back, and one other takes it.
    for (let round = 1; round <= 3; round++) {
      await benchOver(w);
      const all = openMany(w);
      await until(() => all.filter(({ answer }) => answer.end).length === CLIENTS - 1, { what: 'all but the trial to be answered' });
      for (const { answer } of all) if (answer.end) assert.equal(answer.header('x-bullpen-candidate'), 'b/m-b');
      assert.equal(w.a.calls, 1 + round, 'one trial');
      all.find(({ answer }) => !answer.end).connection.reset();
      await w.proxy.waitForLog((l) => l.message === 'request' && l.outcome === 'client_gone', { count: round });
      await until(() => trial.now === 0, { what: 'the trial to be cancelled' });
    }
    // A trial that fails benches it again, as long as last time.
    trial.then = status(503);
    const failing = openMany(w);
    await until(() => failing.filter(({ answer }) => answer.end).length === CLIENTS - 1, { what: 'all but the trial to be answered' });
    assert.equal(w.a.calls, 5);
    trial.gate.resolve();
    await Promise.all(failing.map(({ done }) => done()));
    const [bench] = await w.proxy.benches();
    assert.equal(bench.key, 'a/m-a');
    assert.equal(bench.fails, 2);
    // A trial that succeeds lifts it, and then everybody may.
    await benchOver(w);
    trial.gate = deferred();
    trial.then = good();
    const last = openMany(w);
    await until(() => last.filter(({ answer }) => answer.end).length === CLIENTS - 1, { what: 'all but the trial to be answered' });
    assert.equal(w.a.calls, 6);
    assert.equal(trial.most, 1, 'never two at once');
    trial.gate.resolve();
    await Promise.all(last.map(({ done }) => done()));
    assert.deepEqual(await w.proxy.benches(), []);
    const free = await Promise.all(Array.from({ length: CLIENTS }, () => w.post()));
    assert.ok(free.every((r) => r.header('x-bullpen-candidate') === 'a/m-a'));
  });

  test(`340 ${route.name}: a late success of an older attempt lifts nothing, a late failure counts for nothing`, async (t) => {
    const old = counted();
    const bad = status(503);
    const policy = NEXT.replace('0.3', '60');
    const w = await world(t, { route, policy, steps: [[old.step, old.step, bad], [good()]], config: { workers: 2 } });
    const first = [w.open({ stream: true }), w.open()];
    await w.a.waitDone(2);
    await benched(w);
    const [before] = await w.proxy.benches();
    assert.equal(before.fails, 1);
    old.gate.resolve();
    for (const { done } of first) assert.equal((await done()).header('x-bullpen-candidate'), 'a/m-a');
    assert.deepEqual(await w.proxy.benches(), [before], 'the bench stands as it was');
    assert.equal((await w.post()).header('x-bullpen-trail'), 'b/m-b=200');
    // The same with older attempts that fail: the count stays.
    const late = counted();
    late.then = status(500);
    const v = await world(t, { route, policy, steps: [[late.step, late.step, bad], [good()]], config: { workers: 2 } });
    const others = [v.open({ stream: true }), v.open()];
    await v.a.waitDone(2);
    await benched(v);
    late.gate.resolve();
    for (const { done } of others) assert.equal((await done()).header('x-bullpen-trail'), 'a/m-a=500, b/m-b=200');
    assert.equal((await v.proxy.benches())[0].fails, 1, 'attempts begun before the bench do not raise its count');
  });

  test(`340 ${route.name}: max_inflight is never exceeded, and its slots come back`, async (t) => {
    const a = counted(), b = counted();
    const w = await world(t, { route, steps: [[a.step], [b.step]], upstream: { a: { max_inflight: 3 }, b: { max_inflight: 5 } }, config: { workers: 2, timeouts: { headers: 60 } } });
    for (let round = 1; round <= 3; round++) {
      a.gate = deferred();
      b.gate = deferred();
      const all = openMany(w);
      await until(() => all.filter(({ answer }) => answer.end).length === CLIENTS - 8, { what: 'those for whom there is no room' });
      for (const { answer } of all.filter((o) => o.answer.end)) {
        checkRefusal(answer, route, 'overloaded');
        assert.equal(answer.header('retry-after'), '1');
        assert.equal(answer.header('x-bullpen-attempts') ?? '0', '0');
      }
      await until(() => a.now === 3 && b.now === 5, { what: 'the slots to be taken' });
      // Some leave, and as many others get their places.
      const inside = all.filter(({ answer }) => !answer.end);
      for (const { connection } of inside.slice(0, 4)) connection.reset();
      await until(() => a.now + b.now === 4, { what: 'their places to be free' });
      await w.proxy.waitForLog((l) => l.message === 'request' && l.outcome === 'client_gone', { count: 4 * round });
      const next = Array.from({ length: 4 }, () => w.open());
      await until(() => a.now === 3 && b.now === 5, { what: 'the slots to be taken again' });
      a.gate.resolve();
      b.gate.resolve();
      for (const { done } of [...inside.slice(4), ...next]) assert.equal((await done()).status, 200);
    }
    assert.deepEqual([a.most, b.most], [3, 5]);
    assert.deepEqual(await w.proxy.benches(), []);
    for (const up of (await w.proxy.admin('GET', '/api/upstreams')).json.candidates ?? []) assert.equal(up.inflight, 0, up.name);
  });
}

test('340 a pick that is benched while its wait goes on is asked for again', async (t) => {
  const policy = `
local p = {}
function p.select(request, pool, attempts)
  bullpen.log("info", "asked", { attempts = #attempts })
  for _, c in ipairs(pool) do if not c.benched and not c.tried then return c end end
end
function p.classify() return "next" end
function p.backoff(request, attempt) return 0.5 end
return p`;
  const w = await world(t, { policy, steps: [status(503), good(), good()] });
  const { done } = w.open();
  await w.proxy.waitForLog({ message: 'asked' }, { count: 2 });
  assert.equal((await w.proxy.admin('PUT', '/api/benches/b%2Fm-b', { for: 60, reason: 'test' })).status, 200);
  const r = await done();
  assert.equal(r.header('x-bullpen-trail'), 'a/m-a=503, c/m-c=200');
  assert.equal(w.b.calls, 0);
});

test('340 a race of failures leaves one bench with one count, on two workers', async (t) => {
  const all = counted();
  all.then = status(503);
  const w = await world(t, { route: ROUTES.chat, policy: NEXT.replace('0.3', '60'), steps: [[all.step], [good()]], config: { workers: 2 } });
  const open = openMany(w);
  await until(() => all.now === CLIENTS, { what: 'all of them under way' });
  all.gate.resolve();
  for (const { done } of open) assert.equal((await done()).header('x-bullpen-trail'), 'a/m-a=503, b/m-b=200');
  const benches = await w.proxy.benches();
  assert.deepEqual(benches.map((b) => [b.key, b.fails, b.manual]), [['a/m-a', 1, false]]);
  assert.equal((await w.post()).header('x-bullpen-trail'), 'b/m-b=200');
});
