// The admin interface: health, metrics, benches, requests and events, behind its token, with the errors it promises.
import test from 'node:test';
import assert from 'node:assert/strict';
import { world } from './lib/world.mjs';
import { EACH_ROUTE, ROUTES } from './lib/routes.mjs';
import { good, reset, status, streamThen } from './lib/upstream.mjs';
import { Connection, parseEvents, request } from './lib/client.mjs';
import { run } from './lib/bullpen.mjs';

test('160 health, readiness, metrics and HEAD need no token; the rest does', async (t) => {
  const w = await world(t, { steps: [good()], config: { admin: { token: 'adm1n' } } });
  for (const path of ['/healthz', '/readyz', '/metrics']) {
    assert.equal((await w.proxy.admin('GET', path)).status, 200, path);
    assert.equal((await w.proxy.admin('HEAD', path)).status, 200, `HEAD ${path}`);
  }
  for (const path of ['/api/status', '/api/benches']) {
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
  await is(405, 'DELETE', '/api/status');
  await is(404, 'PUT', '/api/benches/nobody', { for: 1, reason: 'x' });
  for (const bad of [{ for: -1 }, { for: 'soon' }, { for: {} }, []]) await is([400, 422], 'PUT', '/api/benches/a', bad);
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

