// A policy file decides who is tried, what a failure means, how long to wait, what is told and what exhausted answers; whatever a hook
// does wrong is answered by the built-in and counted.
import test from 'node:test';
import assert from 'node:assert/strict';
import { world, BUILTIN } from './lib/world.mjs';
import { EACH_ROUTE, ROUTES, fixture } from './lib/routes.mjs';
import { lua } from './lib/lua.mjs';
import { good, status, stream } from './lib/upstream.mjs';
import { checkRefusal } from './lib/check.mjs';

const told = (w) => w.proxy.logs.filter((l) => l.message === 'told');

test('110 ten lines change the routing', async (t) => {
  const policy = `
local policy = {}
function policy.select(request, pool, attempts)
  if request.headers["x-tier"] == "cheap" then
    for _, candidate in ipairs(pool) do
      if candidate.tags.tier == "cheap" and candidate.tried == 0 then return candidate end
    end
  end
end
return policy`;
  const w = await world(t, { policy, steps: [good(), good()], upstream: { b: { tags: { tier: 'cheap' } }, a: { tags: { tier: 'gold' } } } });
  const cheap = await w.post({ headers: { 'x-tier': 'cheap' } });
  assert.equal(cheap.header('x-bullpen-candidate'), 'b/m-b');
  assert.match(cheap.header('x-bullpen-policy'), /^[0-9a-f]{12}$/);
  assert.equal((await w.post()).header('x-bullpen-candidate'), 'a/m-a');
  assert.equal((await w.proxy.requestLine()).policy, cheap.header('x-bullpen-policy'));
});

for (const route of EACH_ROUTE) {
  test(`110 C8 ${route.name}: hooks see what the contract says, and observe hears one event per decision`, async (t) => {
    const policy = `
local policy = { options = { size = 1 } }
local size
function policy.init(options) size = options.size end
function policy.select(request, pool, attempts)
  request.vars.asked = (request.vars.asked or 0) + 1
  bullpen.log("info", "select", { n = #attempts, pool = #pool, name = pool[1].name, model = request.model, stream = request.stream, route = request.route,
    auth = tostring(request.headers.authorization), cookie = tostring(request.headers.cookie), client = tostring(request.client and request.client.name),
    field = tostring(request.field("seed")), json = request.json and request.json.seed == 42, size = size, asked = request.vars.asked })
end
function policy.classify(request, attempt)
  bullpen.log("info", "classify", { number = attempt.number, outcome = attempt.outcome, status = attempt.status, retry = attempt.retry_after,
    candidate = attempt.candidate.name, type = attempt.error and attempt.error.type, words = attempt.error and attempt.error.message, body = #(attempt.body or "") })
  return "next", { bench = 60, reason = "because" }
end
function policy.backoff(request, attempt) bullpen.log("info", "backoff", { number = attempt.number }) return 0 end
function policy.observe(e)
  bullpen.log("info", "told", { type = e.type, id = e.request_id, candidate = e.candidate, next = e.next, outcome = e.outcome, status = e.status, verdict = e.verdict,
    benched_for = e.benched_for, reason = e.reason, model = e.model, asked = e.vars and e.vars.asked, attempt = e.attempt })
end
return policy`;
    const w = await world(t, { route, policy: undefined, files: { 'p.lua': policy }, config: { policy: { file: 'p.lua', options: { size: 7 } } }, steps: [status(429, undefined, { 'retry-after': '20' }), good()] });
    const r = await w.post({ stream: true, headers: { Cookie: 'c=1', Authorization: 'Bearer client' }, extra: { seed: 42 } });
    assert.equal(r.status, 200, r.text);
    await w.proxy.waitForLog({ message: 'told', type: 'finished' });
    const of = (message) => w.proxy.logs.filter((l) => l.message === message);
    assert.deepEqual(of('select').map(({ n, pool, name, model, stream: s, route: name2, auth, cookie, client, field, json, size, asked }) => ({ n, pool, name, model, s, name2, auth, cookie, client, field, json, size, asked })),
      [0, 1].map((n) => ({ n, pool: 2, name: 'a/m-a', model: 'm', s: true, name2: route.name, auth: 'nil', cookie: 'nil', client: 'nil', field: '42', json: true, size: 7, asked: n + 1 })));
    const [c] = of('classify');
    assert.equal(of('classify').length, 1);
    assert.deepEqual([c.number, c.outcome, c.status, c.retry, c.candidate], [1, 'status', 429, 20, 'a/m-a']);
    assert.equal(c.body, fixture(route, 'error-429.json').length);
    assert.equal(c.words, JSON.parse(fixture(route, 'error-429.json')).error.message);
    assert.deepEqual(of('backoff').map((l) => l.number), [1]);
    const types = told(w).map((l) => l.type).filter((x) => x !== 'policy_loaded');
    assert.deepEqual([...types].sort(), ['attempt_failed', 'benched', 'committed', 'failed_over', 'finished']);
    const by = Object.fromEntries(told(w).map((l) => [l.type, l]));
    assert.deepEqual([by.attempt_failed.candidate, by.attempt_failed.outcome, by.attempt_failed.status, by.attempt_failed.verdict], ['a/m-a', 'status', 429, 'next']);
    assert.deepEqual([by.failed_over.candidate, by.failed_over.next], ['a/m-a', 'b/m-b']);
    assert.equal(by.benched.benched_for, 60);
    assert.deepEqual([by.finished.status, by.finished.outcome, by.finished.asked], [200, 'ok', 2]);
    for (const l of told(w)) if (l.type !== 'policy_loaded') assert.equal(l.id, r.header('x-bullpen-request-id'), 'F5: one request id');
  });

  test(`110 ${route.name}: gate may fail what the built-in would commit, and hold it`, async (t) => {
    const policy = `
local policy = {}
function policy.gate(request, attempt, event)
  if event.data:find("AAAA", 1, true) then return attempt.candidate.upstream == "a" and "fail" or "hold" end
end
function policy.classify(request, attempt)
  bullpen.log("info", "classify", { outcome = attempt.outcome })
  return "next"
end
return policy`;
    const text = [...route.preamble, route.content, route.more, ...route.ending].join('');
    const w = await world(t, { route, policy, steps: [stream(text), stream(text)] });
    const r = await w.post({ stream: true });
    assert.equal(r.text, text);
    assert.equal(r.header('x-bullpen-trail'), 'a/m-a=stream_error, b/m-b=200');
    assert.equal(w.proxy.logs.find((l) => l.message === 'classify').outcome, 'stream_error');
    assert.equal(await w.proxy.metric('bullpen_policy_errors_total'), 0);
  });

  test(`110 ${route.name}: exhausted may answer in its own words, or with the last answer whole`, async (t) => {
    const own = `
local policy = {}
function policy.classify() return "next" end
function policy.exhausted(request, attempts)
  if request.headers["x-last"] then return "last" end
  return { status = 503, type = "my_type", code = "my_code", message = "tried " .. #attempts }
end
return policy`;
    const w = await world(t, { route, policy: own, steps: [status(500), status(503)] });
    const r = await w.post({ stream: true });
    assert.equal(r.status, 503);
    assert.equal(r.json.error.message, 'tried 2');
    assert.equal(r.json.error.type, 'my_type');
    if (!route.anthropic) assert.equal(r.json.error.code, 'my_code');
    const last = await w.post({ stream: true, headers: { 'x-last': '1' } });
    assert.equal(last.status, 503);
    const sent = fixture(route, 'error-503.json');
    if (sent) assert.deepEqual(last.body, sent); else assert.equal(last.json.error.message, 'upstream says 503');
    assert.equal(last.header('x-bullpen-trail'), 'a/m-a=500, b/m-b=503');
  });
}

test('110 verdicts: retry asks for the same one again, stop ends, accept delivers', async (t) => {
  const policy = `
local policy = {}
function policy.classify(request, attempt)
  local what = request.headers["x-do"]
  if what == "retry" then if attempt.try < 3 then return "retry", { delay = 0 } end return "next" end
  if what == "stop" then return "stop", { status = 418, message = "enough of this" } end
  if what == "accept" then return "accept" end
  return "next"
end
return policy`;
  const w = await world(t, { policy, steps: [status(503), good()] });
  const go = (what) => w.post({ headers: { 'x-do': what } });
  const retry = await go('retry');
  assert.equal(retry.header('x-bullpen-trail'), 'a/m-a=503, a/m-a=503, a/m-a=503, b/m-b=200');
  const stop = await go('stop');
  assert.equal(stop.status, 418);
  assert.equal(stop.json.error.message, 'enough of this');
  const accept = await go('accept');
  assert.equal(accept.status, 503);
  assert.deepEqual(accept.body, fixture(ROUTES.chat, 'error-503.json'));
  assert.equal(w.b.calls, 1);
});

test('110 limits.attempts is kept whatever the policy says', async (t) => {
  const policy = 'local p = {}\nfunction p.classify() return "retry", { delay = 0 } end\nreturn p';
  const w = await world(t, { policy, steps: [status(503), good()], config: { limits: { attempts: 5 } } });
  const r = await w.post();
  checkRefusal(r, ROUTES.chat, 'exhausted502');
  assert.equal(r.header('x-bullpen-attempts'), '5');
  assert.equal(w.a.calls, 5);
});

test('110 select: false gives up at once; a pick outside the pool is a policy error', async (t) => {
  const policy = `
local p = {}
function p.select(request) if request.headers["x-no"] then return false, "no thanks" end return "nobody/at-all" end
return p`;
  const w = await world(t, { policy, steps: [good()] });
  const r = await w.post({ headers: { 'x-no': '1' } });
  checkRefusal(r, ROUTES.chat, 'exhausted502');
  assert.equal(w.a.calls, 0);
  assert.equal(r.header('x-bullpen-attempts'), '0');
  assert.equal((await w.post()).status, 200);
  assert.equal(await w.proxy.metric('bullpen_policy_errors_total', { hook: 'select', reason: 'bad_return' }), 1);
});

test('110 a model may name another policy; first_event leaves a 500 alone', async (t) => {
  const models = lua('{ m = { "a/m-a", "b/m-b" }, night = { "a/m-a", "b/m-b", policy = "one" } }');
  const w = await world(t, { steps: [[status(500)], [good()]], config: { models, policies: { one: { name: 'first_event' } } } });
  assert.equal((await w.post()).status, 200);
  await w.proxy.admin('DELETE', '/api/benches/a%2Fm-a');
  const direct = await w.post({ model: 'night' });
  assert.equal(direct.status, 500);
  assert.deepEqual(direct.body, fixture(ROUTES.chat, 'error-500.json'));
});

test('110 the built-in is also a ready-made file with options', async (t) => {
  const w = await world(t, { policy: { name: 'chain_with_bench', options: { tries: 1, bench: 60 } }, steps: [status(503), good()] });
  assert.equal((await w.post()).header('x-bullpen-trail'), 'a/m-a=503, b/m-b=200');
  const [bench] = await w.proxy.benches();
  assert.ok(bench.until - Date.now() / 1000 < 61);
});

const REASONS = ['time', 'memory', 'raised', 'bad_return'];
const BAD = {
  'endless loop': ['while true do end', 'time'],
  'endless loop in pcall': ['while true do pcall(function() while true do end end) end', 'time'],
  'endless loop in a coroutine': ['local co = coroutine.wrap(function() while true do end end) co()', 'time'],
  raise: ['error("boom")', 'raised'],
  'raise a table': ['error({})', 'raised'],
  'undefined global': ['return undefined_thing.x', 'raised'],
  'write a global': ['leak = 1', 'raised'],
  'no os.execute': ['os.execute("true")', 'raised'],
  'pattern bomb': ['return (string.rep("a", 30000)):find(string.rep("a*", 40) .. "b")', 'raised|time'],
  'wrong return': ['return 42', 'bad_return'],
  // Last: a VM that ran out of memory is replaced at most once a second.
  'memory bomb': ['local t = {} for i = 1, 1e9 do t[i] = { i } end', 'memory|time'],
  'string bomb': ['local s = string.rep("x", 1e9) return s', 'memory'],
};

for (const hook of ['select', 'classify', 'backoff', 'exhausted']) {
  test(`110 4.3 a bad ${hook} never fails a request: the built-in answers, and it is counted`, async (t) => {
    const branches = Object.entries(BAD).map(([name, [code]]) => `if bad == "${name}" then ${code === 'return 42' && hook === 'backoff' ? 'return "soon"' : /return [^ ]/.test(code) ? `do ${code} end` : code} end`);
    const policy = `
local policy = {}
function policy.${hook}(request, a, b)
  local bad = request.headers["x-bad"]
  ${branches.join('\n  ')}
end
return policy`;
    const w = await world(t, { policy: undefined, files: { 'p.lua': policy }, config: { policy: { file: 'p.lua', budget: { time: '5ms', memory: '8MiB' } } }, steps: [status(401), status(403)] });
    const counted = async () => Object.fromEntries(await Promise.all(REASONS.map(async (reason) => [reason, await w.proxy.metric('bullpen_policy_errors_total', { hook, reason })])));
    for (const [name, [, reason]] of Object.entries(BAD)) {
      const before = await counted();
      const r = await w.post({ headers: { 'x-bad': name } });
      checkRefusal(r, ROUTES.chat, 'exhausted502');
      const after = await counted();
      const grown = REASONS.filter((x) => after[x] > before[x]);
      assert.ok(grown.length === 1 && reason.split('|').includes(grown[0]), `${name} is counted as ${grown}, ${reason} expected`);
    }
    assert.ok(w.proxy.logs.some((l) => ['warn', 'error'].includes(l.level) && /p\.lua:\d+/.test(JSON.stringify(l))), 'logged with file:line');
  });
}

test('110 4.3 a killed hook comes back in time', async (t) => {
  const policy = 'local p = {}\nfunction p.select(request)\n  while request.headers["x-bad"] do pcall(error) end\nend\nreturn p';
  const w = await world(t, { policy: undefined, files: { 'p.lua': policy }, config: { policy: { file: 'p.lua', budget: { time: '20ms' } } }, steps: [good()] });
  await w.post();
  const start = performance.now();
  assert.equal((await w.post({ headers: { 'x-bad': '1' } })).status, 200);
  assert.ok(performance.now() - start < 400);
  assert.equal(await w.proxy.metric('bullpen_policy_errors_total', { hook: 'select', reason: 'time' }), 1);
});

test('110 4.3 only the call that ran out of memory is the built-in\'s: the next one is the policy\'s again', async (t) => {
  const policy = `
local p = {}
function p.select(request, pool)
  if request.headers["x-bad"] then return string.rep("x", 1e9) end
  return pool[2]
end
return p`;
  const w = await world(t, { policy: undefined, files: { 'p.lua': policy }, config: { policy: { file: 'p.lua', budget: { memory: '8MiB' } } }, steps: [good(), good()] });
  assert.equal((await w.post({ headers: { 'x-bad': '1' } })).header('x-bullpen-candidate'), 'a/m-a');
  for (let i = 0; i < 3; i++) assert.equal((await w.post()).header('x-bullpen-candidate'), 'b/m-b');
  assert.equal(await w.proxy.metric('bullpen_policy_errors_total', { hook: 'select', reason: 'memory' }), 1);
});

test('110 on_error = "reject" answers 503', async (t) => {
  for (const route of EACH_ROUTE) {
    const policy = 'local p = {}\nfunction p.select(request) if request.headers["x-bad"] then error("boom") end end\nreturn p';
    const w = await world(t, { route, policy: undefined, files: { 'p.lua': policy }, config: { policy: { file: 'p.lua', on_error: 'reject' } }, steps: [good()] });
    const r = await w.post({ headers: { 'x-bad': '1' } });
    assert.equal(r.status, 503, r.text);
    assert.equal(typeof r.json.error.message, 'string');
    assert.ok(!r.text.includes('boom'), 'the cause is not the client\'s');
    assert.equal((await w.post()).status, 200);
    assert.equal(w.a.calls, 1);
  }
});

test('110 host functions: shared, bench, hash, require', async (t) => {
  const policy = `
local helper = require "helper"
local policy = {}
function policy.select(request)
  local n = bullpen.shared.incr("n", 1)
  if request.headers["x-bench"] then bullpen.bench("a/m-a", 30, "by hand of the policy") end
  bullpen.log("info", "host", { n = n, hash = bullpen.hash("x") == bullpen.hash("x"), helper = helper.word(), benched = bullpen.benched("a/m-a") })
end
return policy`;
  const w = await world(t, { policy, files: { 'helper.lua': 'return { word = function() return "hi" end }' }, steps: [good(), good()], config: { workers: 2 } });
  for (let i = 0; i < 6; i++) await w.post({ headers: i === 5 ? { 'x-bench': '1' } : {} });
  const lines = w.proxy.logs.filter((l) => l.message === 'host');
  assert.deepEqual(lines.map((l) => l.n).sort(), [1, 2, 3, 4, 5, 6, 7], 'process-wide and atomic; the last asked twice: its pick was benched meanwhile');
  assert.ok(lines.every((l) => l.hash === true && l.helper === 'hi'));
  const [bench] = await w.proxy.benches();
  assert.deepEqual([bench.key, bench.manual, bench.reason], ['a/m-a', false, 'by hand of the policy']);
  assert.equal((await w.post()).header('x-bullpen-candidate'), 'b/m-b');
});
