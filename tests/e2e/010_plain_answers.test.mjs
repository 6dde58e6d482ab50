// A request that its first candidate answers comes back byte for byte, on every route, with bullpen's own headers beside it.
import test from 'node:test';
import assert from 'node:assert/strict';
import { world, BUILTIN } from './lib/world.mjs';
import { EACH_ROUTE, ROUTES, fixture, fixtureHead } from './lib/routes.mjs';
import { answer, good } from './lib/upstream.mjs';
import { checkHeaders } from './lib/check.mjs';
import { Connection, modelRequest, request } from './lib/client.mjs';
import { within } from './lib/wait.mjs';

for (const route of EACH_ROUTE) {
  for (const stream of [false, true]) {
    test(`010 ${route.name} ${stream ? 'stream' : 'plain'}: body, type and headers of the winner`, async (t) => {
      const w = await world(t, { route, policy: BUILTIN, steps: [good({ 'x-winner': 'yes' }), good()] });
      const r = await w.post({ stream });
      assert.equal(r.status, 200);
      assert.equal(r.end, 'clean');
      assert.deepEqual(r.body, fixture(route, stream ? 'success-stream.sse' : 'success.json'));
      checkHeaders(r, {
        'content-type': stream ? /^text\/event-stream/ : /^application\/json/,
        'x-bullpen-candidate': 'a/m-a',
        'x-bullpen-attempts': '1',
        'x-bullpen-trail': 'a/m-a=200',
        'x-bullpen-policy': 'builtin',
        'x-winner': 'yes',
      });
      // The winner's own limits are the client's to see.
      const limits = fixtureHead(route, stream ? 'success-stream.sse' : 'success.json').headers.filter(([name]) => name.includes('ratelimit'));
      for (const [name, value] of limits) assert.equal(r.header(name), value, name);
      assert.equal(w.a.calls, 1);
      assert.equal(w.b.calls, 0);
      assert.equal(w.a.last.method, 'POST');
      assert.equal(w.a.last.path, `/v1${route.upPath}`);
      const line = await w.proxy.requestLine();
      assert.equal(line.id, r.header('x-bullpen-request-id'));
      const { route: name, method, path, model, status, outcome, candidate, attempts, bytes } = line;
      assert.deepEqual({ name, method, path, model, status, outcome, candidate, attempts, bytes }, {
        name: route.name, method: 'POST', path: route.path, model: 'm', status: 200, outcome: 'ok', candidate: 'a/m-a', attempts: 1, bytes: r.body.length,
      });
      assert.ok(line.elapsed >= 0 && line.elapsed < 5);
      assert.ok(line.first_event >= 0 && line.first_event <= line.elapsed);
    });
  }
}

const json = '{"ok":true}';
for (const [path, route, api] of [['/v1/completions', 'completions', 'openai'], ['/v1/embeddings', 'embeddings', 'openai'], ['/v1/messages/count_tokens', 'messages', 'anthropic']]) {
  test(`010 ${path} is served and logged as ${route}`, async (t) => {
    const w = await world(t, { route: api === 'openai' ? ROUTES.chat : ROUTES.messages, steps: [answer(200, { 'content-type': 'application/json' }, json)] });
    const r = await w.post({ path });
    assert.equal(r.text, json);
    assert.equal(w.a.last.path, path);
    assert.equal((await w.proxy.requestLine()).route, route);
  });
}

test('010 the query of the request and a base URL with a prefix are kept; the upstream\'s own query wins', async (t) => {
  const w = await world(t, { steps: [good()] });
  await w.proxy.stop();
  const w2 = await world(t, { steps: [good()], upstream: { a: { query: { v: 'ours', extra: 'e' }, base_url: w.a.url('/deep/er/') } } });
  const r = await w2.post({ path: '/v1/chat/completions?beta=true&v=theirs' });
  assert.equal(r.status, 200);
  assert.match(w.a.last.path, /^\/deep\/er\/chat\/completions\?/);
  const query = new URLSearchParams(w.a.last.path.split('?')[1]);
  assert.deepEqual([...query].sort(), [['beta', 'true'], ['extra', 'e'], ['v', 'ours']]);
});

test('010 one connection carries many requests, pipelined ones too', async (t) => {
  const w = await world(t, { steps: [good()] });
  const c = new Connection(w.proxy.url);
  t.after(() => c.destroy());
  for (const stream of [false, true, false]) {
    const r = await within(c.send(modelRequest(ROUTES.chat, { stream })).done.promise, 5000, 'an answer');
    assert.equal(r.status, 200);
    assert.equal(r.end, 'clean');
  }
  const two = [c.send(modelRequest(ROUTES.chat)), c.send(modelRequest(ROUTES.chat, { stream: true }))];
  for (const r of two) assert.equal((await within(r.done.promise, 5000, 'a pipelined answer')).status, 200);
  assert.equal(two[1].text, fixture(ROUTES.chat, 'success-stream.sse').toString());
  assert.equal(w.a.calls, 5);
  const ids = c.answers.map((r) => r.header('x-bullpen-request-id'));
  assert.equal(new Set(ids).size, 5, 'ids are unique');
});

test('010 a chunked request body is taken and sent on with a length', async (t) => {
  const w = await world(t, { steps: [good()] });
  const body = JSON.stringify(ROUTES.chat.body('m'));
  const c = new Connection(w.proxy.url);
  t.after(() => c.destroy());
  const r = c.send({ path: '/v1/chat/completions', headers: { 'Transfer-Encoding': 'chunked', 'Content-Type': 'application/json' } });
  for (const part of [body.slice(0, 7), body.slice(7)]) c.write(`${part.length.toString(16)}\r\n${part}\r\n`);
  c.write('0\r\n\r\n');
  assert.equal((await within(r.done.promise, 5000, 'the answer')).status, 200);
  assert.equal(w.a.last.headers.get('transfer-encoding'), undefined);
  assert.equal(w.a.last.headers.get('content-length'), String(w.a.last.body.length));
  assert.equal(w.a.last.body.toString(), body.replace('"m"', '"m-a"'));
});

test('010 HTTP/1.0 clients get whole answers and a close', async (t) => {
  const w = await world(t, { steps: [good()] });
  for (const stream of [false, true]) {
    const r = await request(w.proxy.url, { ...modelRequest(ROUTES.chat, { stream }), version: '1.0' });
    assert.equal(r.status, 200);
    assert.equal(r.text, fixture(ROUTES.chat, stream ? 'success-stream.sse' : 'success.json').toString());
    assert.equal(r.header('transfer-encoding'), undefined);
  }
});

test('010 Expect: 100-continue is answered before the body is sent', async (t) => {
  const w = await world(t, { steps: [good()] });
  const body = JSON.stringify(ROUTES.chat.body('m'));
  const c = new Connection(w.proxy.url);
  t.after(() => c.destroy());
  const r = c.send({ path: '/v1/chat/completions', headers: { 'Content-Length': body.length, Expect: '100-continue' } });
  await within((async () => { while (!r.interim.length) await new Promise((done) => c.socket.once('data', done)); })(), 3000, '100 Continue');
  c.write(body);
  assert.equal((await within(r.done.promise, 5000, 'the answer')).status, 200);
  assert.equal(w.a.last.headers.get('expect'), undefined);
});
