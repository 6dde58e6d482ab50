// An allocation that fails anywhere in the proxy costs at most that one request: no crash, an answer or a close within 5 s, no half answer that
// looks whole, no half request upstream, the next request served well, no descriptor lost.
// One failure per request, at some of the places (FAULT_EVERY=1: at all of them, and again with everything failing from there on).
import test from 'node:test';
import assert from 'node:assert/strict';
import fs from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { world, cleanups, BUILTIN, ONE_TRY } from '../e2e/lib/world.mjs';
import { tempDir } from '../e2e/lib/bullpen.mjs';
import { ROUTES } from '../e2e/lib/routes.mjs';
import { Connection, modelRequest } from '../e2e/lib/client.mjs';
import { good, silent, status, reset } from '../e2e/lib/upstream.mjs';
import { until, within } from '../e2e/lib/wait.mjs';

const SHIM = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '../..', process.env.FAILMALLOC_SO ?? 'build/fault/failmalloc.so');
const EVERY = Boolean(process.env.FAULT_EVERY);
const SAMPLES = 24;
const HANG = 5000;
const ONLY = Number(process.env.FAULT_AT ?? 0); // this allocation alone

// The six numbers that failmalloc.c maps.
class Allocator {
  constructor(file) {
    fs.writeFileSync(file, Buffer.alloc(48));
    this.fd = fs.openSync(file, 'r+');
  }
  #put(index, number) {
    const bytes = Buffer.alloc(8);
    bytes.writeBigUInt64LE(BigInt(number));
    fs.writeSync(this.fd, bytes, 0, 8, index * 8);
  }
  #get(index) {
    const bytes = Buffer.alloc(8);
    fs.readSync(this.fd, bytes, 0, 8, index * 8);
    return Number(bytes.readBigUInt64LE());
  }
  arm(at, onwards = false) {
    this.#put(1, at);
    this.#put(2, onwards ? 1 : 0);
    this.#put(3, 0);
    this.#put(4, 0);
    this.#put(0, 1);
  }
  disarm() { this.#put(0, 0); return { calls: this.#get(3), failed: this.#get(4) }; }
}

// None when it has just ended.
const descriptors = (proxy) => (fs.existsSync(`/proc/${proxy.child.pid}/fd`) ? fs.readdirSync(`/proc/${proxy.child.pid}/fd`).length : 0);

// An answer to the end, or how the connection ended without one.
async function ask(w, options) {
  const connection = new Connection(w.proxy.url);
  try {
    const answer = connection.send(options);
    return await within(answer.done.promise, HANG, 'an answer or a close');
  } finally {
    connection.destroy();
  }
}

// The client leaves once its request is at the upstream; the upstream must see that.
async function leave(w, options) {
  const connection = new Connection(w.proxy.url);
  const before = w.a.calls;
  const answer = connection.send(options);
  await until(() => w.a.calls > before || answer.end, { timeout: HANG, what: 'the request at the upstream, or an end' });
  connection.destroy();
  await until(() => w.a.requests.every((r) => r.complete || r.io.isGone), { timeout: HANG, what: 'the upstream request to be cancelled' });
  return { end: 'left' };
}

const POLICY = `
local policy = {}
function policy.select(request, pool, attempts)
  for _, c in ipairs(pool) do if c.tried == 0 then return { use = c.name, label = "mine" } end end
end
function policy.classify(request, attempt)
  if attempt.outcome ~= "ok" then return "next", { bench = 1, reason = "no: " .. tostring(request.json and request.json.model) } end
end
function policy.observe(event) policy.last = event.type .. (event.candidate or "") end
return policy
`;

const chat = (extra) => modelRequest(ROUTES.chat, extra);
const SCENARIOS = {
  plain: { steps: [[good()]], request: () => chat() },
  stream: { steps: [[good()]], request: () => chat({ stream: true }) },
  failover: { steps: [[status(401)], [good()]], request: () => chat({ stream: true }) },
  'a reset, then another': { policy: ONE_TRY, steps: [[reset()], [good()]], request: () => modelRequest(ROUTES.messages), route: ROUTES.messages },
  'error body': { steps: [[status(400)]], request: () => chat(), wanted: 400 },
  'large body': { steps: [[good()]], request: () => chat({ extra: { padding: 'x'.repeat(1 << 20) } }) },
  'policy hook': { steps: [[status(503)], [good()]], request: () => chat(), policy: POLICY },
  'client gone': { steps: [[silent()]], request: () => chat({ stream: true }), run: leave, wanted: null },
  exhausted: { steps: [[status(401)], [status(401)]], request: () => chat(), wanted: 502 },
  'another path': { steps: [[(io) => io.answer(200, { 'content-type': 'application/json' }, '{"id":"file-1","object":"file"}')]], wanted: 200,
    request: () => ({ method: 'GET', path: '/v1/files/file-1', headers: { 'x-bullpen-upstream': 'a' } }) },
  'models list': { steps: [[good()]], request: () => ({ method: 'GET', path: '/v1/models' }), wanted: 200 },
};

// What must be true of an answer, however bad the day.
function inspect(answer, whole, what) {
  if (answer.end === 'left' || answer.end !== 'clean') return;
  assert.ok(answer.status >= 200 && answer.status < 600, `${what}: status ${answer.status}`);
  if (answer.status === whole.status && answer.status < 300) assert.equal(answer.text, whole.text, `${what}: not the whole answer`);
}

// No upstream was sent part of a body as if it were all.
function inspectUpstreams(w, length, what) {
  for (const server of w.list) {
    for (const r of server.requests) if (length >= 0 && r.complete && r.method === 'POST') assert.equal(r.body.length, length, `${what}: the upstream got part of the body`);
    server.requests.splice(0, server.requests.length, ...server.requests.filter((r) => !r.complete && !r.io.isGone));
    server.from = 0;
  }
}

for (const [name, scenario] of Object.entries(SCENARIOS)) {
  test(`a failing allocation: ${name}`, { timeout: EVERY ? 1_200_000 : 120_000 }, async (t) => {
    const later = cleanups(t);
    const dir = tempDir();
    later(() => fs.rmSync(dir, { recursive: true, force: true }));
    const allocator = new Allocator(path.join(dir, 'control'));
    const env = { LD_PRELOAD: SHIM, FAILMALLOC: path.join(dir, 'control') };
    const w = await world(t, { route: scenario.route ?? ROUTES.chat, steps: scenario.steps, policy: scenario.policy ?? BUILTIN, env, config: {
      timeouts: { connect: 1, headers: 2, first_event: 2, idle: 2, request: 3, keepalive: 30 },
    } });
    later(() => allocator.disarm());
    const run = scenario.run ?? ask;
    const wanted = scenario.wanted === undefined ? 200 : scenario.wanted;
    const clear = async () => { for (const b of await w.proxy.benches()) await w.proxy.admin('DELETE', `/api/benches/${encodeURIComponent(b.key)}`); };
    const well = async (what) => {
      const answer = await run(w, scenario.request());
      if (wanted) assert.equal(answer.status, wanted, `${what}: ${answer.end} ${answer.text}`);
      if (wanted) assert.equal(answer.end, 'clean', what);
      return answer;
    };

    const body = scenario.request().body;
    await well('a first request');
    await well('a second request');
    await clear();
    const length = w.list[0].requests[0]?.body.length ?? 0;
    const length1 = w.list[1]?.requests[0]?.body.length;
    assert.ok(!body || length > 0);
    if (length1 !== undefined) assert.equal(length1, length); // "m-a" and "m-b" are as long
    allocator.arm(0);
    const whole = await well('a counted request');
    const { calls } = allocator.disarm();
    await clear();
    const before = descriptors(w.proxy);
    assert.ok(calls > 0, 'the allocator is not the failing one');

    let failed = 0, most = before;
    const problems = [];
    const every = EVERY ? 1 : Math.max(1, Math.floor(calls / SAMPLES));
    const once = async (n, onwards) => {
      const what = `allocation ${n} of ${calls}${onwards ? ' and all after it' : ''}`;
      const seen = w.proxy.stderr.length;
      try {
        allocator.arm(n, onwards);
        const answer = await run(w, scenario.request());
        failed += allocator.disarm().failed > 0;
        inspect(answer, whole, what);
        inspectUpstreams(w, length, what);
        await clear();
        const next = await well('the next request');
        if (wanted === 200) assert.equal(next.text, whole.text, 'the next request');
        inspectUpstreams(w, length, 'the next request');
        await clear();
      } catch (error) {
        allocator.disarm();
        problems.push(`${what}: ${error.message}\n${w.proxy.stderr.slice(seen)}`);
        if (!fs.existsSync(`/proc/${w.proxy.child.pid}/fd`)) await w.proxy.exit;
        if (w.proxy.exited) throw new Error(`bullpen ended: ${JSON.stringify(w.proxy.exited)}\n${problems.join('\n')}\n${w.proxy.stderr.slice(seen)}`);
        for (let i = 0; i < 3; i++) await run(w, scenario.request()).catch(() => {}); // so that the next problem is one of its own
        inspectUpstreams(w, -1);
        await clear().catch(() => {});
      }
      most = Math.max(most, descriptors(w.proxy));
    };
    for (const onwards of EVERY ? [false, true] : [false])
      for (let n = ONLY || 1; n <= (ONLY || calls); n += every) await once(n, onwards);
    assert.equal(problems.length, 0, `${problems.length} problems\n${problems.join('\n')}`);
    assert.ok(failed > 0, 'nothing failed');
    await until(() => descriptors(w.proxy) <= before + 2, { what: () => `descriptors to be as before: ${before}, now ${descriptors(w.proxy)}, ${most} at most` });
  });
}
