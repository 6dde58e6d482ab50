// What crosses the proxy: the client's body and headers to the upstream but for credentials and hop-by-hop ones, the winner's to the
// client; a passthrough upstream's answers byte for byte.
import test from 'node:test';
import assert from 'node:assert/strict';
import { world } from './lib/world.mjs';
import { EACH_ROUTE, ROUTES, fixture } from './lib/routes.mjs';
import { answer, good, reset, status, stream } from './lib/upstream.mjs';

const SENT = {
  Authorization: 'Bearer client-secret', 'x-api-key': 'client-secret', 'api-key': 'client-secret', Cookie: 'session=client-secret',
  Referer: 'http://localhost/x', 'Sec-Fetch-Mode': 'cors', 'Sec-CH-UA': 'x', 'X-Bullpen-Upstream': 'a', 'x-bullpen-other': 'x',
  'X-Forwarded-For': '10.0.0.1', 'X-Forwarded-Proto': 'https', Connection: 'keep-alive, X-Hop', 'X-Hop': 'named', 'Keep-Alive': 'timeout=5', 'Proxy-Authorization': 'Basic client-secret',
  'Proxy-Connection': 'keep-alive', TE: 'trailers', Trailer: 'x', 'Accept-Encoding': 'gzip, br',
};
const KEPT = { 'User-Agent': 'OpenAI/JS 6.49.0', Accept: 'application/json', 'x-stainless-lang': 'js', 'OpenAI-Beta': 'assistants=v2', 'anthropic-version': '2023-06-01',
  'anthropic-beta': 'a,b', 'X-Custom': 'v; w="x"', 'Content-Type': 'application/json', traceparent: '00-abc-def-01' };

for (const route of EACH_ROUTE) {
  test(`130 A3 ${route.name}: headers to the upstream`, async (t) => {
    const w = await world(t, { route, steps: [good()] });
    const r = await w.post({ headers: { ...SENT, ...KEPT }, });
    // A page of another origin is refused; this one is our own host.
    assert.equal(r.status, 200, r.text);
    const seen = w.a.last.headers;
    for (const [name, value] of Object.entries(KEPT)) assert.deepEqual(seen.all(name.toLowerCase()), [value], name);
    const gone = Object.keys(SENT).map((n) => n.toLowerCase()).filter((n) => !['authorization', 'x-api-key', 'accept-encoding', 'connection', 'keep-alive'].includes(n));
    for (const name of gone) assert.deepEqual(seen.all(name), [], name);
    assert.ok(!w.a.last.head.includes('client-secret'), 'no credential of the client');
    assert.ok(!/x-hop|trailers/i.test(w.a.last.head.toString()));
    assert.deepEqual(seen.all('accept-encoding'), ['identity']);
    assert.deepEqual(seen.all('host'), [`127.0.0.1:${w.a.port}`]);
    if (route.anthropic) { assert.deepEqual(seen.all('x-api-key'), ['key-a']); assert.deepEqual(seen.all('authorization'), []); }
    else { assert.deepEqual(seen.all('authorization'), ['Bearer key-a']); assert.deepEqual(seen.all('x-api-key'), []); }
    assert.equal(seen.all('content-length').length, 1);
  });

  test(`130 ${route.name}: headers to the client`, async (t) => {
    const fail = (io, req) => status(429, undefined, { 'x-ratelimit-remaining-requests': '0', 'anthropic-ratelimit-requests-remaining': '0', 'x-loser': '1', 'retry-after': '20' })(io, req);
    const win = (io) => {
      io.raw('HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: X-Named\r\nX-Named: hop\r\nKeep-Alive: timeout=9\r\nProxy-Authenticate: Basic\r\nUpgrade: h2\r\n' +
        'Set-Cookie: a=1\r\nSet-Cookie: b=2\r\nAlt-Svc: h3=":443"\r\nX-Winner: one\r\nX-Winner: two\r\nx-bullpen-candidate: forged\r\nx-request-id: req_9\r\nTransfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n2\r\n{}\r\n0\r\nX-T: late\r\n\r\n');
    };
    const w = await world(t, { route, steps: [fail, win] });
    const r = await w.post();
    assert.equal(r.text, '{}');
    for (const name of ['set-cookie', 'alt-svc', 'x-named', 'keep-alive', 'proxy-authenticate', 'upgrade', 'trailer', 'x-t', 'x-loser', 'retry-after',
      'x-ratelimit-remaining-requests', 'anthropic-ratelimit-requests-remaining']) assert.deepEqual(r.headers.all(name), [], name);
    assert.deepEqual(r.headers.all('x-winner'), ['one', 'two']);
    assert.deepEqual(r.headers.all('x-bullpen-candidate'), ['b/m-b']);
    assert.equal(r.header('x-request-id'), 'req_9');
    assert.equal(r.headers.all('date').length, 1);
    assert.equal(r.headers.all('content-type').length, 1);
    assert.ok(!r.connection.bytes.toString().includes('X-T: late'), 'no trailers');
  });

  test(`130 A1 ${route.name}: passthrough moves on at 429 and 529, nothing written`, async (t) => {
    const w = await world(t, { route, steps: [[status(429), status(529), reset()], [good()]], upstream: { a: { passthrough: true }, b: {} } });
    for (const first of ['429', '529', 'reset']) {
      const r = await w.post({ stream: true });
      assert.equal(r.text, fixture(route, 'success-stream.sse').toString());
      assert.equal(r.header('x-bullpen-trail'), `a/m-a=${first}, b/m-b=200`);
      await w.proxy.admin('DELETE', '/api/benches/a%2Fm-a');
    }
  });

  test(`130 A2 ${route.name}: passthrough keeps every other answer: status, type, bytes`, async (t) => {
    const odd = Buffer.from('\x00odd <b>400</b> {"nope"\xff', 'latin1');
    const error = [...route.preamble, Object.values(route.errors)[0]].join('');
    const steps = [answer(400, { 'content-type': 'application/x-odd' }, odd), answer(503, { 'content-type': 'text/html' }, '<html>x</html>'), answer(401, {}, 'no'), stream(error), answer(200, { 'content-type': 'application/json' }, '{}')];
    const w = await world(t, { route, steps: [steps, [good()]], upstream: { a: { passthrough: true }, b: {} } });
    for (const [code, type, body] of [[400, 'application/x-odd', odd], [503, 'text/html', '<html>x</html>'], [401, undefined, 'no']]) {
      const r = await w.post({ stream: true });
      assert.equal(r.status, code);
      assert.equal(r.header('content-type'), type);
      assert.deepEqual(r.body, Buffer.from(body));
    }
    const r = await w.post({ stream: true });
    assert.equal(r.status, 200);
    assert.equal(r.text, error, 'commits at its head: its errors are its own');
    assert.equal((await w.post({ stream: true })).text, '{}', 'never checked for its type');
    assert.equal(w.b.calls, 0);
  });
}

test('130 auth styles, added headers, and forward', async (t) => {
  const auths = { bearer: ['authorization', 'Bearer K'], 'x-api-key': ['x-api-key', 'K'], 'api-key': ['api-key', 'K'] };
  for (const [auth, [name, value]] of Object.entries(auths)) {
    const w = await world(t, { steps: [good()], upstream: { a: { auth, key: 'K', headers: { 'X-Added': 'yes', 'User-Agent': 'ours' } } } });
    assert.equal((await w.post({ headers: { Authorization: 'Bearer theirs', 'x-api-key': 'theirs', 'api-key': 'theirs' } })).status, 200);
    const h = w.a.last.headers;
    for (const n of ['authorization', 'x-api-key', 'api-key']) assert.deepEqual(h.all(n), n === name ? [value] : [], `${auth}: ${n}`);
    assert.deepEqual(h.all('x-added'), ['yes']);
  }
  for (const auth of ['none', 'forward']) {
    const w = await world(t, { steps: [good()], upstream: { a: { auth, key: undefined } } });
    await w.post({ headers: { Authorization: 'Bearer theirs' } });
    assert.deepEqual(w.a.last.headers.all('authorization'), auth === 'none' ? [] : ['Bearer theirs'], auth);
  }
});

test('130 a 2xx with a Content-Encoding nobody asked for commits at its first byte and is relayed as it is', async (t) => {
  const { gzipSync } = await import('node:zlib');
  const bytes = gzipSync(fixture(ROUTES.chat, 'success-stream.sse'));
  const step = (io) => { io.sse({ 'content-encoding': 'gzip' }); io.chunk(bytes); io.lastChunk(); };
  const w = await world(t, { steps: [step, good()] });
  const r = await w.post({ stream: true });
  assert.deepEqual(r.body, bytes);
  assert.equal(r.header('content-encoding'), 'gzip');
  assert.equal(w.b.calls, 0);
});
