// The admin interface: health, metrics, benches, requests and events, behind its token, with the errors it promises.
import test from 'node:test';
import assert from 'node:assert/strict';
import { world } from './lib/world.mjs';
import { EACH_ROUTE, ROUTES } from './lib/routes.mjs';
import { good, reset, status, streamThen } from './lib/upstream.mjs';
import { Connection, parseEvents, request } from './lib/client.mjs';
import { run } from './lib/bullpen.mjs';

test('160 health, readiness, the page and HEAD need no token; the rest does', async (t) => {
  const w = await world(t, { steps: [good()], config: { admin: { token: 'adm1n' } } });
  for (const path of ['/healthz', '/readyz', '/metrics', '/']) {
    assert.equal((await w.proxy.admin('GET', path)).status, 200, path);
    assert.equal((await w.proxy.admin('HEAD', path)).status, 200, `HEAD ${path}`);
  }
  for (const path of ['/api/status', '/api/benches', '/api/upstreams', '/api/requests', '/api/policies', '/api/events']) {
    for (const headers of [{}, { Authorization: 'Bearer wrong' }, { Authorization: 'Bearer adm1' }]) {
      const r = await w.proxy.admin('GET', path, undefined, headers);
      assert.equal(r.status, 401, path);
      assert.equal(typeof r.json.error.message, 'string');
    }
  }
  const auth = { Authorization: 'Bearer adm1n' };
  const s = await w.proxy.admin('GET', '/api/status', undefined, auth);
  assert.equal(s.status, 200);
  assert.equal(s.json.workers, 1);
  assert.equal(typeof s.json.version, 'string');
  assert.ok(s.json.uptime >= 0);
  assert.equal((await w.proxy.admin('PUT', '/api/benches/a', { for: 1, reason: 'x' })).status, 401);
  assert.equal((await w.proxy.admin('PUT', '/api/benches/a', { for: 1, reason: 'x' }, auth)).status, 200);
});

test('160 bad calls: 404, 405, 400, 415 with a message', async (t) => {
  const w = await world(t, { steps: [good()] });
  const is = async (wanted, method, path, json, headers) => {
    const r = await w.proxy.admin(method, path, json, headers);
    assert.ok([wanted].flat().includes(r.status), `${method} ${path}: ${r.status} ${r.text}`);
    assert.equal(typeof r.json.error.message, 'string');
  };
  await is(404, 'GET', '/api/nothing');
  await is(404, 'GET', '/nothing');
  await is(404, 'GET', '/api/requests/none');
  await is(405, 'DELETE', '/api/status');
  await is(404, 'PUT', '/api/benches/nobody', { for: 1, reason: 'x' });
  for (const bad of [{ for: -1 }, { for: 'soon' }, { for: {} }, []]) await is([400, 422], 'PUT', '/api/benches/a', bad);
  await is([400, 422], 'PUT', '/api/upstreams/a', { state: 'party' });
  await is(404, 'PUT', '/api/upstreams/nobody', { state: 'drain' });
  const form = await request(w.proxy.adminUrl, { method: 'PUT', path: '/api/benches/a', headers: { 'Content-Type': 'text/plain' }, body: '{"for":1}' });
  assert.equal(form.status, 415);
  assert.deepEqual(await w.proxy.benches(), []);
});

test('160 metrics have the families and count what happened', async (t) => {
  const w = await world(t, { steps: [status(503), good()] });
  await w.post();
  await w.post({ model: 'nope' });
  const text = await w.proxy.metrics();
  for (const name of ['bullpen_requests_total', 'bullpen_attempts_total', 'bullpen_benched', 'bullpen_policy_errors_total', 'bullpen_request_duration_seconds', 'bullpen_policy_hook_seconds'])
    assert.match(text, new RegExp(`^# TYPE ${name} `, 'm'), name);
  assert.equal(await w.proxy.metric('bullpen_requests_total'), 2);
  assert.equal(await w.proxy.metric('bullpen_attempts_total', { candidate: 'a/m-a', outcome: 'status' }), 1);
  assert.equal(await w.proxy.metric('bullpen_attempts_total', { candidate: 'b/m-b', outcome: 'ok' }), 1);
  assert.ok(await w.proxy.metric('bullpen_benched') >= 1);
  assert.equal(await w.proxy.metric('bullpen_request_duration_seconds_count'), 2);
  for (const line of text.split('\n').filter((l) => l && !l.startsWith('#')))
    assert.match(line, /^[a-zA-Z_:][a-zA-Z0-9_:]*(\{([a-zA-Z_][a-zA-Z0-9_]*="([^"\\\n]|\\.)*",?)*\})? (-?[0-9.e+-]+|\+Inf|NaN)$/, 'exposition format');
});

for (const route of EACH_ROUTE) {
  test(`160 P10 F5 A9 W11 ${route.name}: one record for each request, with every attempt and its reason`, async (t) => {
    const w = await world(t, { route, steps: [[status(503), good()], [good()]] });
    const ok = await w.post({ stream: true });
    const id = ok.header('x-bullpen-request-id');
    const missing = await w.post({ model: 'nope' });
    await w.proxy.waitForLog({ message: 'request' }, { count: 2 });
    const { requests } = (await w.proxy.admin('GET', '/api/requests?limit=10')).json;
    assert.equal(requests.length, 2);
    assert.deepEqual(requests.map((r) => r.id), [missing.header('x-bullpen-request-id'), id], 'newest first');
    assert.equal(requests[1].outcome, 'ok', 'recovered is not an error');
    assert.equal(requests[1].status, 200);
    assert.equal(requests[1].candidate, 'b/m-b');
    assert.deepEqual((await w.proxy.admin('GET', '/api/requests?outcome=ok')).json.requests.map((r) => r.id), [id]);
    assert.deepEqual((await w.proxy.admin('GET', '/api/requests?candidate=b%2Fm-b&limit=1')).json.requests.map((r) => r.id), [id]);
    const one = (await w.proxy.admin('GET', `/api/requests/${id}`)).json;
    const text = JSON.stringify(one);
    const attempts = one.attempts ?? one.request?.attempts;
    assert.ok(Array.isArray(attempts), text);
    assert.deepEqual(attempts.map((a) => [a.candidate, a.outcome, a.status]), [['a/m-a', 'status', 503], ['b/m-b', 'ok', 200]]);
    assert.equal(attempts[0].verdict, 'next');
    assert.ok(!text.includes('key-a') && !text.includes('key-b'));
  });
}

test('160 events are told live as they happen', async (t) => {
  const w = await world(t, { steps: [status(503), good()] });
  const c = new Connection(w.proxy.adminUrl);
  w.later(() => c.destroy());
  const events = c.send({ method: 'GET', path: '/api/events' });
  await events.head.promise;
  assert.match(events.header('content-type'), /^text\/event-stream/);
  const r = await w.post({ stream: true });
  await events.until('finished');
  const list = parseEvents(events.text).filter((e) => e.data).map((e) => JSON.parse(e.data)).filter((e) => e.request_id === r.header('x-bullpen-request-id'));
  assert.deepEqual(list.map((e) => e.type).sort(), ['attempt_failed', 'benched', 'committed', 'failed_over', 'finished']);
  const failed = list.find((e) => e.type === 'attempt_failed');
  assert.deepEqual([failed.candidate, failed.outcome, failed.status], ['a/m-a', 'status', 503]);
});

test('160 W11 zero-event + abort + good: each recorded once', async (t) => {
  const route = ROUTES.chat;
  const w = await world(t, { steps: [[(io) => { io.sse(); io.lastChunk(); }, streamThen([...route.preamble, route.content], (io) => io.gone), good()]] });
  assert.equal((await w.post({ stream: true })).status, 502);
  const { connection, answer } = w.open({ stream: true });
  await answer.until('AAAA');
  connection.reset();
  await w.proxy.requestLine({ outcome: 'client_gone' });
  assert.equal((await w.post({ stream: true })).status, 200);
  await w.proxy.waitForLog({ message: 'request' }, { count: 3 });
  const { requests } = (await w.proxy.admin('GET', '/api/requests')).json;
  assert.deepEqual(requests.map((r) => r.outcome), ['ok', 'client_gone', 'empty']);
  assert.equal(new Set(requests.map((r) => r.id)).size, 3);
  assert.equal(await w.proxy.metric('bullpen_requests_total'), 3);
});

test('160 policies: list, check, reload, use, rollback', async (t) => {
  const fs = await import('node:fs');
  const text = (n) => `local p = {}\nfunction p.exhausted() return { status = 50${n}, message = "v${n}" } end\nfunction p.classify() return "next" end\nreturn p`;
  const w = await world(t, { policy: text(1), steps: [reset()] });
  const version = async () => { const r = await w.post(); return [r.status, r.header('x-bullpen-policy')]; };
  const [s1, v1] = await version();
  assert.equal(s1, 501);
  fs.writeFileSync(`${w.proxy.dir}/policy.lua`, text(3));
  const reload = await w.proxy.admin('POST', '/api/policy/reload', {});
  assert.equal(reload.status, 200, reload.text);
  assert.deepEqual(await version(), [503, reload.json.version]);
  fs.writeFileSync(`${w.proxy.dir}/policy.lua`, 'return {');
  const bad = await w.proxy.admin('POST', '/api/policy/reload', {});
  assert.equal(bad.status, 422);
  assert.match(bad.json.error.file, /policy\.lua$/);
  assert.equal(typeof bad.json.error.line, 'number');
  assert.deepEqual(await version(), [503, reload.json.version], 'the old one goes on');
  const back = await w.proxy.admin('POST', '/api/policy/rollback', {});
  assert.equal(back.json.version, v1);
  assert.deepEqual(await version(), [501, v1]);
  assert.equal((await w.proxy.admin('POST', '/api/policy/use', { version: reload.json.version })).status, 200);
  assert.deepEqual(await version(), [503, reload.json.version]);
  assert.equal((await w.proxy.admin('POST', '/api/policy/use', { version: '000000000000' })).status, 404);
  const lua = (body) => request(w.proxy.adminUrl, { method: 'POST', path: '/api/policy/check', headers: { 'Content-Type': 'text/x-lua' }, body });
  assert.equal((await lua(text(1))).status, 200);
  const wrong = await lua('local p = {}\nfunction p.select() error("x") end\nreturn p');
  assert.equal(wrong.status, 422);
  assert.equal(wrong.json.error.line, 2);
});

test('160 the commands speak to it: bench, upstream, policy, explain', async (t) => {
  const w = await world(t, { steps: [status(503), good()], config: { admin: { token: 'adm1n' } } });
  const env = { BULLPEN_ADMIN: w.proxy.adminUrl, BULLPEN_ADMIN_TOKEN: 'adm1n' };
  const go = (...args) => run(args, { cwd: w.proxy.dir, env });
  const id = (await w.post()).header('x-bullpen-request-id');
  let r = await go('bench', 'ls');
  assert.equal(r.code, 0, r.stderr);
  assert.match(r.stdout, /a\/m-a/);
  assert.equal((await go('bench', 'rm', 'a/m-a')).code, 0);
  assert.equal((await go('bench', 'add', 'b', '--for', '10m', '--reason', 'tea')).code, 0);
  r = await go('bench', 'ls', '--json');
  assert.deepEqual(JSON.parse(r.stdout).benches.map((b) => [b.key, b.manual, b.reason]), [['b', true, 'tea']]);
  assert.equal((await go('bench', 'add', 'nobody', '--for', '1m')).code, 1);
  assert.match((await go('upstream', 'ls')).stdout, /a\/m-a|a /);
  assert.equal((await go('upstream', 'drain', 'a')).code, 0);
  assert.equal((await go('upstream', 'ready', 'a')).code, 0);
  assert.equal((await go('policy', 'ls')).code, 0);
  r = await go('explain', id);
  assert.equal(r.code, 0, r.stderr);
  for (const part of ['a/m-a', '503', 'b/m-b', id]) assert.ok(r.stdout.includes(part), part);
  assert.equal((await go('explain', 'none')).code, 1);
  assert.notEqual((await run(['bench', 'ls', '--token', 'wrong'], { cwd: w.proxy.dir, env })).code, 0);
  r = await go('policy', 'show', 'weighted');
  assert.equal(r.code, 0);
  assert.match(r.stdout, /function/);
});
