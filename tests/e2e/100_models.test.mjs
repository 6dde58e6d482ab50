// A model name becomes a pool in the order of the contract: target, models, a chain in the request, "*", else 404.
import test from 'node:test';
import assert from 'node:assert/strict';
import { world, BUILTIN } from './lib/world.mjs';
import { EACH_ROUTE, ROUTES } from './lib/routes.mjs';
import { good, status } from './lib/upstream.mjs';
import { request } from './lib/client.mjs';
import { checkRefusal } from './lib/check.mjs';

const served = (r) => (r.status === 200 ? r.header('x-bullpen-candidate') : `${r.status}`);

for (const route of EACH_ROUTE) {
  test(`100 W2 ${route.name}: header, suffix, unknown target`, async (t) => {
    const w = await world(t, { route, steps: [good(), good()] });
    const target = (name) => ({ headers: { 'x-bullpen-upstream': name } });
    assert.equal(served(await w.post({})), 'a/m-a');
    assert.equal(served(await w.post(target('b'))), 'b/m-b');
    assert.equal(served(await w.post({ model: 'm@b' })), 'b/m-b');
    assert.equal(served(await w.post({ model: 'm@b', ...target('a') })), 'a/m-a', 'the header wins');
    assert.equal(w.a.last.json.model, 'm-a');
    assert.equal(served(await w.post(target('nobody'))), 'a/m-a', 'unknown: the whole pool');
    assert.ok(w.proxy.logs.some((l) => l.level === 'warn' && JSON.stringify(l).includes('nobody')), 'with a warning');
    assert.equal(served(await w.post({ model: 'm@nobody' })), 'a/m-a', 'the rest is a known name');
    checkRefusal(await w.post({ model: 'zz@nobody' }), route, 'unknownModel', { message: "Model 'zz@nobody' not found" });
    for (const r of w.a.requests) assert.equal(r.headers.get('x-bullpen-upstream'), undefined);
  });

  test(`100 W2 ${route.name}: strict targets are 404`, async (t) => {
    const w = await world(t, { route, steps: [good(), good()], config: { targets: 'strict' } });
    assert.equal(served(await w.post({ headers: { 'x-bullpen-upstream': 'b' } })), 'b/m-b');
    checkRefusal(await w.post({ headers: { 'x-bullpen-upstream': 'nobody' } }), route, 'unknownModel');
    assert.equal((await w.post({ model: 'm@nobody' })).status, 404);
    assert.equal(w.a.calls, 0);
  });

  test(`100 P9 C11 ${route.name}: aliases, nested names, a chain in the request, "*"`, async (t) => {
    const w = await world(t, { route, steps: [good(), good()], config: { models: {
      m: ['a/m-a', 'b/m-b'], smart: 'b/real-name, ,a/other', nested: ['smart', 'a/last'], 'odd@name': 'b/odd', '*': ['b/*'] } } });
    assert.equal(served(await w.post({ model: 'smart' })), 'b/real-name');
    assert.equal(w.b.last.json.model, 'real-name');
    assert.equal(served(await w.post({ model: 'nested' })), 'b/real-name');
    assert.equal(served(await w.post({ model: 'odd@name' })), 'b/odd');
    assert.equal(served(await w.post({ model: 'a/free,b/x' })), 'a/free');
    assert.equal(w.a.last.json.model, 'free');
    assert.equal(served(await w.post({ model: 'a/deep/er/name' })), 'a/deep/er/name');
    assert.equal(w.a.last.json.model, 'deep/er/name');
    assert.equal(served(await w.post({ model: 'anything-else' })), 'b/anything-else');
    assert.equal(w.b.last.json.model, 'anything-else');
    assert.equal(served(await w.post({ model: 'c/unknown' })), 'b/c/unknown', 'not a chain: an upstream of it is unknown');
  });

  test(`100 ${route.name}: a chain in the request fails over in its order`, async (t) => {
    const w = await world(t, { route, steps: [good(), status(503)] });
    const r = await w.post({ model: 'b/one,a/two' });
    assert.equal(r.header('x-bullpen-trail'), 'b/one=503, a/two=200');
    assert.equal(w.a.last.json.model, 'two');
  });
}

test('100 P2 disabled upstreams and those that do not serve the route are left out', async (t) => {
  const w = await world(t, { policy: BUILTIN, steps: [good(), good(), good()], upstream: { a: { enabled: false }, b: { routes: ['embeddings'] }, c: {} } });
  assert.equal(served(await w.post()), 'c/m-c');
  assert.equal(served(await w.post({ path: '/v1/embeddings' })), 'b/m-b');
  assert.equal(w.a.calls, 0);
});

test('100 a previous_response_id narrows the pool to the upstream that made it', async (t) => {
  const w = await world(t, { route: ROUTES.responses, steps: [status(503), good()], policy: 'local p = {}\nfunction p.classify() return "next" end\nreturn p' });
  w.a.script(status(503), good());
  const first = await w.post();
  assert.equal(first.header('x-bullpen-candidate'), 'b/m-b');
  const r = await w.post({ extra: { previous_response_id: first.json.id } });
  assert.equal(r.header('x-bullpen-candidate'), 'b/m-b');
  assert.equal(w.a.calls, 1);
  const free = await w.post();
  assert.equal(free.status, 200);
});

test('100 GET /v1/models in both shapes, one model, HEAD, and the client\'s grant', async (t) => {
  const w = await world(t, { steps: [good()], config: { models: { other: 'a/x', '*': ['a/*'] }, clients: [{ name: 't', key: 'k1', models: ['m'] }, { name: 'all', key: 'k2' }] } });
  const get = (path, headers, method = 'GET') => request(w.proxy.url, { method, path, headers });
  const all = { Authorization: 'Bearer k2' };
  const list = await get('/v1/models', all);
  assert.equal(list.status, 200);
  assert.equal(list.json.object, 'list');
  assert.deepEqual(list.json.data.map((m) => [m.id, m.object]).sort(), [['m', 'model'], ['other', 'model']]);
  for (const m of list.json.data) { assert.equal(typeof m.created, 'number'); assert.equal(typeof m.owned_by, 'string'); }
  assert.deepEqual((await get('/v1/models', { Authorization: 'Bearer k1' })).json.data.map((m) => m.id), ['m']);
  const one = await get('/v1/models/m', all);
  assert.equal(one.json.id, 'm');
  assert.equal(one.json.object, 'model');
  assert.equal((await get('/v1/models/none', all)).status, 404);
  const shape = await get('/v1/models', { 'x-api-key': 'k2', 'anthropic-version': '2023-06-01' });
  assert.deepEqual(shape.json.data.map((m) => m.id).sort(), ['m', 'other']);
  for (const m of shape.json.data) assert.equal(m.type, 'model');
  assert.equal(typeof shape.json.has_more, 'boolean');
  checkRefusal(await get('/v1/models/none', { 'x-api-key': 'k2', 'anthropic-version': '2023-06-01' }), ROUTES.messages, 'unknownModel');
  const head = await get('/v1/models', all, 'HEAD');
  assert.equal(head.status, 200);
  assert.equal(head.body.length, 0);
  checkRefusal(await get('/v1/models', {}), ROUTES.chat, 'badKey');
  assert.equal(w.a.calls, 0);
});

test('100 other paths go to one upstream: the header, then paths, then the maker of the id', async (t) => {
  const json = (text) => (io) => io.answer(200, { 'content-type': 'application/json' }, text);
  const w = await world(t, { steps: [[json('{"id":"file-abc","from":"a"}')], [json('{"id":"batch_1","from":"b"}')]],
    config: { paths: { '/v1/batches*': 'b' }, clients: [{ name: 'x', key: 'kx' }, { name: 'y', key: 'ky' }, { name: 'g', key: 'kg', models: ['m'] }] } });
  const go = (method, path, headers = {}, body, key = 'kx') => request(w.proxy.url, { method, path, headers: { Authorization: `Bearer ${key}`, ...headers }, body });
  const up = await go('POST', '/v1/files?purpose=x', { 'x-bullpen-upstream': 'a', 'Content-Type': 'multipart/form-data; boundary=q' }, '--q\r\nraw bytes\r\n--q--');
  assert.equal(up.json.from, 'a');
  assert.equal(w.a.last.path, '/v1/files?purpose=x');
  assert.equal(w.a.last.body.toString(), '--q\r\nraw bytes\r\n--q--');
  assert.equal((await go('GET', '/v1/files/file-abc/content')).json.from, 'a');
  assert.equal((await go('GET', '/v1/batches/batch_1')).json.from, 'b');
  assert.equal((await go('GET', '/v1/files/file-abc', {}, undefined, 'ky')).status, 404, 'another client\'s id');
  assert.equal((await go('GET', '/v1/files/file-unknown')).status, 404);
  assert.equal((await go('GET', '/v1/files/file-abc', {}, undefined, 'kg')).status, 403, 'a grant does not reach other paths');
  w.a.script((io) => io.answer(500, { 'content-type': 'application/json' }, '{"error":{"message":"x"}}'));
  assert.equal((await go('DELETE', '/v1/files/file-abc')).status, 500, 'no failover');
});
