// What once went wrong and was found by hand does not come back.
import test from 'node:test';
import assert from 'node:assert/strict';
import { world, BUILTIN } from './lib/world.mjs';
import { Connection, modelRequest } from './lib/client.mjs';
import { ROUTES } from './lib/routes.mjs';
import { good, answer } from './lib/upstream.mjs';
import { until, within } from './lib/wait.mjs';

const chat = ROUTES.chat;
const CONTENT = 'data: {"choices":[{"index":0,"delta":{"content":"x"},"finish_reason":null}]}\n\n';

// Commits, then breaks.
const broken = (io) => { io.sse(); io.chunk(CONTENT); setImmediate(() => io.reset()); };

test('901 a stream that ends badly gives its connection back, an older idle connection or not', async (t) => {
  const w = await world(t, { steps: [[broken]] });
  const old = new Connection(w.proxy.url);
  await within(old.send({ method: 'GET', path: '/v1/models' }).done.promise, 5000, 'an answer');
  for (let i = 0; i < 20; i++) await w.post({ stream: true });
  await until(async () => (await w.proxy.metric('bullpen_connections')) <= 1, { what: 'one connection left' });
  old.destroy();
});

test('902 a second SIGTERM ends cleanly while an answered stream waits for its upstream to end', async (t) => {
  const w = await world(t, { steps: [[(io) => { io.sse(); io.chunk(`${CONTENT}data: [DONE]\n\n`); return io.gone; }]], config: { timeouts: { drain: 30 } } });
  const o = w.open({ stream: true });
  await o.answer.until('[DONE]');
  w.proxy.signal('SIGTERM');
  await w.proxy.waitForLog({ message: 'draining' });
  w.proxy.signal('SIGTERM');
  assert.equal((await within(w.proxy.exit, 10000, 'the end')).code, 0);
});

test('903 a body that stalls, or grows too large, after its 100 Continue is refused in time', async (t) => {
  const w = await world(t, { steps: [[good()]], config: { timeouts: { client_body: '300ms' }, limits: { body: 1000 } } });
  const refused = async (headers, bytes, status) => {
    const c = new Connection(w.proxy.url);
    const a = c.send({ path: chat.path, headers: { ...headers, Expect: '100-continue' } });
    await until(() => a.interim.includes(100), { what: '100 Continue' });
    c.write(bytes);
    await within(a.done.promise, 9000, 'the refusal');
    assert.equal(a.status, status);
    assert.match(a.header('x-bullpen-request-id'), /^bp_/);
    c.destroy();
  };
  await refused({ 'Content-Length': 500 }, '{', 408);
  await refused({ 'Transfer-Encoding': 'chunked' }, `7d0\r\n${'x'.repeat(2000)}\r\n`, 413);
});

test('904 a target with a control character is 400 and benches nobody; an absolute form behind a path is a path', async (t) => {
  const w = await world(t, { steps: [[good()], [good()]], policy: BUILTIN });
  for (const target of [`${chat.path}?a=\x01b`, `${chat.path}?a=\x7f`, '/a://x/v1/chat/completions']) {
    const c = new Connection(w.proxy.url);
    const a = c.send({ ...modelRequest(chat), path: target });
    await within(a.done.promise, 5000, 'a refusal');
    assert.ok([400, 404].includes(a.status), `${JSON.stringify(target)}: ${a.status}`);
    c.destroy();
  }
  assert.equal(w.a.calls, 0);
  assert.deepEqual(await w.proxy.benches(), []);
});

test('905 the error frame never runs on from an overlong tail that went unfinished', async (t) => {
  const w = await world(t, { steps: [[async (io) => {
    io.sse();
    io.chunk(CONTENT);
    io.chunk(`data: ${'z'.repeat(20000)}`);
    setTimeout(() => io.reset(), 100);
  }]], config: { limits: { buffer: '4KiB' } } });
  const r = await w.post({ stream: true });
  assert.match(r.text, /z\n\ndata: \{"error":/);
  assert.notEqual(r.end, 'clean');
});

test('906 a passed retry-after that is a date far away is sent as 60', async (t) => {
  const body = '{"error":{"message":"no","type":"x","param":null,"code":null}}';
  const w = await world(t, { steps: [[answer(400, { 'content-type': 'application/json', 'retry-after': 'Wed, 21 Oct 2099 07:28:00 GMT' }, body)]] });
  const r = await w.post();
  assert.equal(r.status, 400);
  assert.equal(r.header('retry-after'), '60');
});

test('907 an answer with both a length and chunks is as long as its chunks', async (t) => {
  const json = '{"id":"x","choices":[{"index":0,"message":{"role":"assistant","content":"hello"},"finish_reason":"stop"}]}';
  const w = await world(t, { steps: [[(io) => {
    io.head(200, { 'content-type': 'application/json', 'content-length': '3' }, 'chunked');
    io.chunk(json);
    io.lastChunk();
  }]] });
  const r = await w.post();
  assert.equal(r.text, json);
  assert.equal(r.end, 'clean');
});

test('908 an overlong model is 400, and its name is not written into the log', async (t) => {
  const w = await world(t, { steps: [[good()]] });
  const r = await w.post({ model: 'm'.repeat(100_000) });
  assert.equal(r.status, 400);
  await w.proxy.requestLine();
  assert.ok(w.proxy.stderr.length < 20_000);
});

test('909 what fails the framing check is no request: no record, no event', async (t) => {
  const w = await world(t, { steps: [[good()]] });
  const c = new Connection(w.proxy.url);
  c.expect();
  c.write('GET /v1/models HTTP/1.1\r\n\r\n');
  await c.waitClosed(3000);
  assert.equal((await w.post()).status, 200);
  await w.proxy.requestLine();
  assert.equal(w.proxy.requestLines().length, 1);
});
