// Every error bullpen makes itself has the status, the words and the exact bytes of contract section 7 in the shape of its route.
import test from 'node:test';
import assert from 'node:assert/strict';
import { world } from './lib/world.mjs';
import { EACH_ROUTE, ROUTES, fixture } from './lib/routes.mjs';
import { answer, good, reset, silent, status } from './lib/upstream.mjs';
import { Connection, modelRequest, request } from './lib/client.mjs';
import { checkRefusal } from './lib/check.mjs';
import { until, within } from './lib/wait.mjs';

const CLIENTS = [{ name: 'team-a', key: 'secret-a', models: ['m'] }, { name: 'team-b', key: 'secret-b' }];

for (const route of EACH_ROUTE) {
  test(`050 W7 ${route.name}: refusals that need no upstream`, async (t) => {
    const w = await world(t, { route, steps: [good()], config: { limits: { body: '64KiB' } } });
    for (const stream of [false, true]) {
      checkRefusal(await w.post({ stream, model: 'nope' }), route, 'unknownModel', { message: "Model 'nope' not found" });
      checkRefusal(await w.post({ stream, extra: { pad: 'x'.repeat(70_000) } }), route, 'tooLarge');
    }
    for (const body of ['{"model":"m"', 'not json', '[]', '"m"', '', '{"model":"m"}}', '{"model":"m","model":"m"}', '{"model":"m","mod\\u0065l":"x"}'])
      checkRefusal(await w.post({ body }), route, 'badJson');
    checkRefusal(await w.post({ body: '{"messages":[]}' }), route, 'noModel');
    checkRefusal(await w.post({ body: '{"a":{"model":"m"}}' }), route, 'noModel');
    for (const method of ['GET', 'PUT', 'DELETE', 'PATCH']) {
      const r = await request(w.proxy.url, { method, path: route.path, headers: {} });
      checkRefusal(r, route, 'method');
    }
    const head = await request(w.proxy.url, { method: 'HEAD', path: route.path });
    assert.equal(head.status, 405);
    assert.equal(head.body.length, 0);
    assert.equal(w.a.calls, 0);
    const gzip = await w.post({ headers: { 'Content-Encoding': 'gzip' } });
    assert.equal(gzip.status, 415);
    assert.equal(gzip.json.error.type, 'invalid_request_error');
    const upgrade = await request(w.proxy.url, { method: 'GET', path: route.path, headers: { Connection: 'Upgrade', Upgrade: 'websocket', 'Sec-WebSocket-Key': 'x3JJHMbDL1EzLkh9GBhXDw==', 'Sec-WebSocket-Version': '13' } });
    assert.equal(upgrade.status, 426);
    assert.equal(w.a.calls, 0);
  });

  test(`050 W7 ${route.name}: client keys and grants`, async (t) => {
    const w = await world(t, { route, steps: [good()], config: { clients: CLIENTS, models: { other: 'a/x' } } });
    for (const headers of [{}, { Authorization: 'Bearer wrong' }, { 'x-api-key': 'wrong' }, { Authorization: 'Basic c2VjcmV0LWE6' }, { Authorization: 'Bearer secret-' }, { Authorization: 'Bearer secret-aa' }, { 'api-key': '' }])
      checkRefusal(await w.post({ headers }), route, 'badKey');
    for (const headers of [{ Authorization: 'Bearer secret-a' }, { 'x-api-key': 'secret-a' }])
      assert.equal((await w.post({ headers })).status, 200);
    const calls = w.a.calls;
    for (const model of ['other', 'a/m-a', 'm@a', 'a/x,a/m-a', 'unheard-of']) {
      const r = await w.post({ model, headers: { 'x-api-key': 'secret-a' } });
      if (model === 'm@a') assert.equal(r.status, 200, 'a target inside the grant'); else checkRefusal(r, route, 'modelDenied');
    }
    assert.equal(w.a.calls, calls + 1);
    assert.equal((await w.post({ model: 'other', headers: { 'x-api-key': 'secret-b' } })).status, 200);
    checkRefusal(await w.post({ model: 'unheard-of', headers: { 'x-api-key': 'secret-b' } }), route, 'unknownModel');
    const clients = new Set(w.proxy.requestLines().map((l) => l.client));
    assert.ok(clients.has('team-a') && clients.has('team-b'));
  });

  test(`050 W7 ${route.name}: exhausted, deadline, overloaded`, async (t) => {
    const timeouts = { headers: 0.15, first_event: 0.15, request: 0.6 };
    const w = await world(t, { route, steps: [[reset()], [status(429, undefined, { 'retry-after': '1' })], [status(529)], [silent()]],
      config: { timeouts, models: { r: 'a/x', l: 'b/x', o: 'c/x', lo: 'c/y,b/y', s: 'd/x', dis: 'off/x' }, upstreams: { off: { api: route.api, base_url: 'http://127.0.0.1:9/v1', key: 'k', enabled: false } } },
      policy: 'local p = {}\nfunction p.classify() return "next" end\nreturn p' });
    for (const stream of [false, true]) {
      const r = await w.post({ stream, model: 'r' });
      checkRefusal(r, route, 'exhausted502');
      assert.match(r.header('retry-after'), /^([1-9]|[1-5]\d|60)$/);
      checkRefusal(await w.post({ stream, model: 'l' }), route, 'exhausted429');
      checkRefusal(await w.post({ stream, model: 'o' }), route, 'exhausted529');
      checkRefusal(await w.post({ stream, model: 'lo' }), route, 'exhausted429');
      checkRefusal(await w.post({ stream, model: 's' }), route, 'deadline');
      checkRefusal(await w.post({ stream, model: 'dis' }), route, 'overloaded');
    }
  });

  test(`050 ${route.name}: errors of an upstream in the route's shape pass byte for byte, others are rewritten`, async (t) => {
    const own = fixture(route, 'error-400.json');
    const html = '<html><head><title>400 Bad Request</title></head><body>cloudflare says no</body></html>';
    const gemini = '[{"error":{"code":400,"message":"Unknown name \\"tols\\"","status":"INVALID_ARGUMENT"}}]';
    const aws = '{"message":"Malformed input request"}';
    const w = await world(t, { route, steps: [[status(400, own), answer(400, { 'content-type': 'text/html' }, html), status(400, gemini), status(400, aws), status(422, 'plain text')]] });
    const r = await w.post({ stream: true });
    assert.equal(r.status, 400);
    assert.deepEqual(r.body, own);
    for (const [code, text] of [[400, 'cloudflare says no'], [400, 'Unknown name "tols"'], [400, 'Malformed input request'], [422, 'plain text']]) {
      const e = await w.post({ stream: true });
      assert.equal(e.status, code, `${text}: ${e.text}`);
      assert.match(e.header('content-type'), /^application\/json/);
      assert.equal(typeof e.json.error, 'object');
      assert.equal(typeof e.json.error.message, 'string');
      assert.equal(Number(e.header('content-length') ?? e.body.length), e.body.length);
      if (route.anthropic) assert.equal(e.json.type, 'error');
      assert.ok(e.json.error.message.includes(text), e.text);
    }
    assert.deepEqual(await w.proxy.benches(), [], 'request specific errors bench nobody');
  });
}

test('050 W7 unknown paths and other shapes', async (t) => {
  const w = await world(t, { steps: [good()] });
  for (const [headers, route] of [[{}, ROUTES.chat], [{ 'anthropic-version': '2023-06-01' }, ROUTES.messages]]) {
    for (const path of ['/v1/nothing', '/other', '/v1/batches/batch_unknown'])
      checkRefusal(await request(w.proxy.url, { method: 'GET', path, headers }), route, 'unknownPath');
  }
  for (const path of ['/v1/completions', '/v1/embeddings'])
    checkRefusal(await request(w.proxy.url, { path, headers: {}, body: '{"model":"nope"}' }), ROUTES.chat, 'unknownModel');
  // No candidate serves the route: an openai upstream does not speak messages.
  checkRefusal(await request(w.proxy.url, modelRequest(ROUTES.messages)), ROUTES.messages, 'unknownModel');
  assert.equal(w.a.calls, 0);
});

test('050 a refusal on the head lets a client that is still sending read the answer', async (t) => {
  const w = await world(t, { steps: [good()], config: { clients: CLIENTS } });
  const r = await w.post({ extra: { pad: 'x'.repeat(8_000_000) } });
  checkRefusal(r, ROUTES.chat, 'badKey');
  // With Expect the status comes at once, before any body.
  const c = new Connection(w.proxy.url);
  t.after(() => c.destroy());
  const a = c.send({ path: '/v1/chat/completions', headers: { 'Content-Length': 8_000_000, Expect: '100-continue' } });
  await within(a.head.promise, 3000, 'the refusal');
  assert.equal(a.status, 401);
  assert.deepEqual(a.interim, []);
});

test('050 doubtful framing is refused and closed before an upstream hears of it', async (t) => {
  const w = await world(t, { steps: [good()] });
  const json = JSON.stringify(ROUTES.chat.body('m'));
  const start = 'POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n';
  const n = `Content-Length: ${json.length}\r\n`;
  const cases = {
    'CL with TE': [`${start}${n}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n`, 400],
    'two CL': [`${start}${n}Content-Length: ${json.length + 1}\r\n\r\n${json}`, 400],
    'two equal CL': [`${start}${n}${n}\r\n${json}`, 400],
    'CL with a sign': [`${start}Content-Length: +${json.length}\r\n\r\n${json}`, 400],
    'CL hex': [`${start}Content-Length: 0x10\r\n\r\n${json}`, 400],
    'CL list': [`${start}Content-Length: ${json.length}, ${json.length}\r\n\r\n${json}`, 400],
    'two TE': [`${start}Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n`, 400],
    'TE gzip, chunked': [`${start}Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n`, 501],
    'TE xchunked': [`${start}Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n`, 501],
    'TE in 1.0': [`POST /v1/chat/completions HTTP/1.0\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n`, 400],
    'space before the colon': [`${start}Content-Length : ${json.length}\r\n\r\n${json}`, 400],
    'folded header': [`${start}X-A: b\r\n c\r\n${n}\r\n${json}`, 400],
    'NUL in a value': [`${start}X-A: b\0c\r\n${n}\r\n${json}`, 400],
    'bare CR in a value': [`${start}X-A: b\rc\r\n${n}\r\n${json}`, 400],
    'two Host': [`${start}Host: localhost\r\n${n}\r\n${json}`, 400],
    'no Host': [`POST /v1/chat/completions HTTP/1.1\r\n${n}\r\n${json}`, 400],
  };
  for (const [name, [bytes, wanted]] of Object.entries(cases)) {
    const c = new Connection(w.proxy.url);
    const answered = c.expect('POST');
    c.write(Buffer.from(bytes, 'latin1'));
    await within(answered.done.promise, 5000, `an answer to ${name}`);
    const allowed = wanted === 501 ? [400, 501] : [wanted];
    assert.ok(allowed.includes(answered.status), `${name}: ${wanted} expected, got ${answered.status} ${c.bytes}`);
    await until(() => c.closed, { what: `the connection closed after ${name}` });
    c.destroy();
  }
  assert.equal(w.a.calls, 0);
  assert.equal((await w.post()).status, 200, 'and it goes on serving');
});

test('050 web pages must not drive a local proxy: Origin and Host', async (t) => {
  const w = await world(t, { steps: [good()] });
  const forbidden = async (headers, host) => {
    const r = await request(w.proxy.url, { ...modelRequest(ROUTES.chat, { headers }), ...(host ? { host } : {}) });
    assert.equal(r.status, 403, r.text);
    assert.equal(typeof r.json.error.message, 'string');
  };
  await forbidden({ Origin: 'https://evil.example' });
  await forbidden({}, 'evil.example');
  await forbidden({}, 'evil.example:8080');
  assert.equal(w.a.calls, 0);
  for (const host of ['localhost', '127.0.0.1:1', '[::1]:8080'])
    assert.equal((await request(w.proxy.url, { ...modelRequest(ROUTES.chat), host })).status, 200, host);
  const same = await request(w.proxy.url, { ...modelRequest(ROUTES.chat, { headers: { Origin: `http://${w.proxy.address}` } }), host: w.proxy.address });
  assert.equal(same.status, 200);
  const page = await request(w.proxy.adminUrl, { method: 'GET', path: '/api/status', headers: { Origin: 'https://evil.example' } });
  assert.equal(page.status, 403);
});
