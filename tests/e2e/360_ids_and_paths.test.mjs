// What an upstream made is found there again: ids in bodies and paths, for the client that was given them and nobody else; other paths; 426; HTTP/1.0; HEAD.
import test from 'node:test';
import assert from 'node:assert/strict';
import { world } from './lib/world.mjs';
import { EACH_ROUTE, ROUTES, fixture, whole } from './lib/routes.mjs';
import { answer, good, stream } from './lib/upstream.mjs';
import { Connection, modelRequest, request } from './lib/client.mjs';
import { checkRefusal } from './lib/check.mjs';
import { within } from './lib/wait.mjs';

const route = ROUTES.responses;
const json = { 'content-type': 'application/json' };
const CLIENTS = [{ name: 'ann', key: 'key-ann' }, { name: 'bob', key: 'key-bob' }];
const as = (name) => ({ authorization: `Bearer key-${name}` });
const made = (id) => answer(200, json, JSON.stringify({ id, object: 'response', status: 'completed', output: [] }));
const madeStream = (id) => stream(whole(route).replaceAll('resp_t1', id));
// Each upstream makes responses with its own letter and a number.
const maker = (letter) => {
  let n = 0;
  return (io, req) => {
    if (req.method !== 'POST') return answer(200, json, '{"object":"response"}')(io);
    return (req.json.stream ? madeStream : made)(`resp_${letter}${++n}`)(io);
  };
};
const get = (w, path, headers = {}) => request(w.proxy.url, { method: 'GET', path, headers });
const ROTATE = 'local p = {}\nlocal n = 0\nfunction p.select(request, pool, attempts) return pool[1] end\nreturn p';

test('360 previous_response_id goes to its maker, stream or not, and another client may not use it', async (t) => {
  const w = await world(t, { route, steps: [[maker('a')], [maker('b')]], config: { clients: CLIENTS }, policy: ROTATE });
  for (const isStream of [false, true]) {
    for (const letter of ['b', 'a']) {
      const first = await w.post({ stream: isStream, model: 'm', headers: { ...as('ann'), 'x-bullpen-upstream': letter } });
      const id = /resp_[ab]\d+/.exec(first.text)[0];
      assert.equal(id[5], letter);
      const again = await w.post({ stream: isStream, headers: as('ann'), extra: { previous_response_id: id } });
      assert.equal(again.header('x-bullpen-candidate'), `${letter}/m-${letter}`);
      const calls = [w.a.calls, w.b.calls];
      const foreign = await w.post({ stream: isStream, headers: as('bob'), extra: { previous_response_id: id } });
      assert.equal(foreign.status, 404);
      assert.equal(foreign.json.error.type, 'invalid_request_error');
      assert.ok(!foreign.text.includes(letter === 'a' ? '"a"' : '"b"'));
      assert.deepEqual([w.a.calls, w.b.calls], calls, 'nobody heard of it');
      // One that nobody has seen narrows nothing.
      assert.equal((await w.post({ headers: as('bob'), extra: { previous_response_id: 'resp_unseen' } })).status, 200);
    }
  }
});

test('360 resp_, file-, batch_ and msgbatch_ in a path go to their maker; others 404 for another client, for an unknown id, and with a grant 403', async (t) => {
  const ids = { responses: 'resp_x1', files: 'file-x1', batches: 'batch_x1', 'messages/batches': 'msgbatch_x1' };
  const step = (io, req) => {
    const kind = Object.keys(ids).find((k) => req.path === `/v1/${k}`);
    if (req.method === 'POST' && kind) return answer(200, json, JSON.stringify({ id: ids[kind], object: kind }))(io);
    return answer(200, json, JSON.stringify({ path: req.path }))(io);
  };
  const w = await world(t, { route, steps: [[step], [step]], config: { clients: [...CLIENTS, { name: 'eve', key: 'key-eve', models: ['m'] }] } });
  for (const [kind, id] of Object.entries(ids)) {
    const path = `/v1/${kind}`;
    const body = JSON.stringify(kind === 'responses' ? route.body('m') : { any: 'thing' });
    const first = await request(w.proxy.url, { path, headers: { ...as('ann'), 'x-bullpen-upstream': 'b', 'Content-Type': 'application/json' }, body });
    assert.equal(first.status, 200, `${kind}: ${first.text}`);
    const calls = [w.a.calls, w.b.calls];
    for (const tail of ['', '/content', '/cancel?x=1']) {
      const r = await get(w, `${path}/${id}${tail}`, as('ann'));
      assert.equal(r.status, 200, `${kind}: ${r.text}`);
      assert.ok(r.json.path.endsWith(`/${kind}/${id}${tail}`), r.json.path);
    }
    const gone = await request(w.proxy.url, { method: 'DELETE', path: `${path}/${id}`, headers: as('ann') });
    assert.equal(gone.status, 200);
    assert.equal(w.b.last.method, 'DELETE');
    assert.deepEqual([w.a.calls, w.b.calls], [calls[0], calls[1] + 4], 'all of it to its maker');
    for (const target of [{}, { 'x-bullpen-upstream': 'b' }]) assert.equal((await get(w, `${path}/${id}`, { ...as('bob'), ...target })).status, 404, 'another client');
    checkRefusal(await get(w, `${path}/${id}9`, as('ann')), ROUTES.chat, 'unknownPath');
    checkRefusal(await get(w, `${path}/${id}`, as('eve')), ROUTES.chat, 'modelDenied');
    assert.deepEqual([w.a.calls, w.b.calls], [calls[0], calls[1] + 4]);
  }
});

test('360 limits.ids bounds what is kept: the least recently used goes first', async (t) => {
  const w = await world(t, { route, steps: [[maker('a')], [maker('b')]], config: { limits: { ids: 4 }, workers: 2 } });
  const ids = [];
  for (let i = 0; i < 4; i++) ids.push((await w.post({ headers: { 'x-bullpen-upstream': 'b' } })).json.id);
  assert.equal((await get(w, `/v1/responses/${ids[0]}`)).status, 200, 'used: now the youngest');
  for (let i = 0; i < 2; i++) await w.post({ headers: { 'x-bullpen-upstream': 'b' } });
  assert.equal((await get(w, `/v1/responses/${ids[0]}`)).status, 200);
  for (const id of [ids[1], ids[2]]) assert.equal((await get(w, `/v1/responses/${id}`)).status, 404);
  assert.equal((await get(w, `/v1/responses/${ids[3]}`)).status, 200);
  // Thousands do not grow it.
  for (let i = 0; i < 200; i++) await w.post({ headers: { 'x-bullpen-upstream': 'b' } });
  assert.equal((await get(w, `/v1/responses/${ids[0]}`)).status, 404);
});

test('360 ids of answers that failed over belong to the one that served', async (t) => {
  const w = await world(t, { route, steps: [[(io) => io.reset()], [made('resp_late')]] });
  assert.equal((await w.post()).header('x-bullpen-candidate'), 'b/m-b');
  const r = await w.post({ extra: { previous_response_id: 'resp_late' } });
  assert.equal(r.header('x-bullpen-trail'), 'b/m-b=200');
  assert.equal((await get(w, '/v1/responses/resp_late')).status, 200);
  assert.equal(w.b.last.method, 'GET');
});

test('360 paths: the header, then `paths`, then the maker, else 404; one upstream, no failover, its answer as it is', async (t) => {
  const echo = (io, req) => answer(req.path.includes('teapot') ? 418 : 200, { ...json, 'x-own': 'yes' }, JSON.stringify({ path: req.path, method: req.method, body: req.body.toString() }))(io);
  const w = await world(t, { route: ROUTES.chat, steps: [[echo], [echo]], config: { paths: { '/v1/batches*': 'b', '/v1/audio/speech': 'b' } } });
  const sent = Buffer.from([0, 1, 2, 255]);
  const cases = [['/v1/batches', {}, 'b'], ['/v1/batches/anything?limit=2', {}, 'b'], ['/v1/audio/speech', {}, 'b'], ['/v1/batches', { 'x-bullpen-upstream': 'a' }, 'a'], ['/v1/unlisted', { 'x-bullpen-upstream': 'a' }, 'a'], ['/v1/batches/teapot', {}, 'b']];
  for (const [path, headers, who] of cases) {
    const calls = w[who].calls;
    const r = await request(w.proxy.url, { path, headers, body: sent });
    assert.equal(r.status, path.includes('teapot') ? 418 : 200, path);
    assert.equal(r.header('x-own'), 'yes');
    assert.equal(w[who].calls, calls + 1, path);
    assert.deepEqual(w[who].last.body, sent);
    assert.equal(w[who].last.path, path);
    assert.equal(w[who].last.headers.get('authorization'), `Bearer key-${who}`);
    assert.ok(!w[who].last.headers.has('x-bullpen-upstream'));
  }
  for (const path of ['/v1/unlisted', '/v1/audio/speech/x', '/v1', '/', '/v2/batches']) checkRefusal(await request(w.proxy.url, { path, body: '{}' }), ROUTES.chat, 'unknownPath');
  // No failover there, nobody benched.
  w.b.script((io) => io.reset());
  const calls = w.a.calls;
  const r = await request(w.proxy.url, { path: '/v1/batches', body: '{}' });
  assert.equal(r.status, 502);
  assert.equal(w.a.calls, calls);
  assert.deepEqual(await w.proxy.benches(), []);
});

for (const one of EACH_ROUTE) {
  test(`360 ${one.name}: a WebSocket upgrade is 426 at once, and the connection goes on as HTTP`, async (t) => {
    const w = await world(t, { route: one, steps: [good()] });
    for (const path of [one.path, '/v1/realtime?model=m']) {
      const c = new Connection(w.proxy.url);
      w.later(() => c.destroy());
      const r = c.send({ method: 'GET', path, headers: { Connection: 'Upgrade', Upgrade: 'websocket', 'Sec-WebSocket-Key': 'dGhlIHNhbXBsZSBub25jZQ==', 'Sec-WebSocket-Version': '13' } });
      await within(r.done.promise, 5000, 'the answer');
      assert.equal(r.status, 426);
      assert.equal(typeof r.json.error.message, 'string');
      assert.equal(w.a.calls, 0);
    }
    assert.equal((await w.post()).status, 200);
  });

  test(`360 ${one.name}: HTTP/1.0: plain and stream, closed at the end, kept alive only where its length is known`, async (t) => {
    const w = await world(t, { route: one, steps: [good()] });
    for (const isStream of [false, true]) {
      for (const headers of [{}, { Connection: 'keep-alive' }]) {
        const c = new Connection(w.proxy.url);
        w.later(() => c.destroy());
        const m = modelRequest(one, { stream: isStream });
        const r = c.send({ ...m, headers: { ...m.headers, ...headers }, version: '1.0' });
        await within(r.done.promise, 5000, 'the answer');
        assert.equal(r.status, 200);
        assert.equal(r.text, fixture(one, isStream ? 'success-stream.sse' : 'success.json').toString());
        assert.equal(r.header('transfer-encoding'), undefined, 'no chunks for 1.0');
        assert.equal(r.end, 'clean');
        if (!headers.Connection || !r.header('content-length')) await c.waitClosed();
      }
    }
    const bare = new Connection(w.proxy.url);
    w.later(() => bare.destroy());
    const r = bare.send({ method: 'GET', path: '/v1/models', version: '1.0', host: null });
    await within(r.done.promise, 5000, 'the answer without a Host');
    assert.equal(r.status, 200);
  });
}

test('360 HEAD: answered without a body for GET paths of ours, 405 elsewhere, and the connection goes on', async (t) => {
  const w = await world(t, { steps: [good()], config: { paths: { '/v1/batches*': 'a' } } });
  const c = new Connection(w.proxy.url);
  w.later(() => c.destroy());
  const model = await get(w, '/v1/models');
  for (const [path, status] of [['/v1/models', 200], ['/v1/models/m', 200], ['/v1/models/nope', 404], [ROUTES.chat.path, 405], [ROUTES.messages.path, 405], ['/v1/batches', 405], ['/nowhere', 404]]) {
    const r = c.send({ method: 'HEAD', path });
    await within(r.done.promise, 5000, path);
    assert.equal(r.status, status, path);
    if (path === '/v1/models') assert.equal(r.header('content-length'), String(model.body.length));
  }
  const last = c.send(modelRequest(ROUTES.chat));
  await within(last.done.promise, 5000, 'the one behind them');
  assert.equal(last.status, 200, 'not a byte of a body came before it');
  assert.equal(w.a.calls, 1);
});
