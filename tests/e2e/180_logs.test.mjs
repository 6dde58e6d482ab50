// The log tells every decision with its cause, in text or JSON, and never a secret.
import test from 'node:test';
import assert from 'node:assert/strict';
import fs from 'node:fs';
import { world } from './lib/world.mjs';
import { EACH_ROUTE, ROUTES } from './lib/routes.mjs';
import { good, reset, status } from './lib/upstream.mjs';
import { request, modelRequest } from './lib/client.mjs';
import { Proxy } from './lib/bullpen.mjs';
import { until } from './lib/wait.mjs';

const SECRETS = ['sk-upstream-secret-1', 'client-secret-2', 'admin-secret-3', 'forwarded-secret-4'];

for (const route of EACH_ROUTE) {
  test(`180 C10 ${route.name}: trail and cause of every attempt; the client gets a general message`, async (t) => {
    const w = await world(t, { route, steps: [reset(), status(503, '{"error":{"message":"backend melted"}}'), (io) => { io.sse(); io.lastChunk(); }] });
    const r = await w.post({ stream: true });
    assert.equal(r.status, 502);
    const line = await w.proxy.requestLine();
    assert.equal(line.trail, 'a/m-a=reset, b/m-b=503, c/m-c=empty');
    assert.equal(line.trail, r.header('x-bullpen-trail'));
    assert.equal(line.attempts, 3);
    assert.equal(line.status, 502);
    const failures = w.proxy.failures();
    assert.deepEqual(failures.map((f) => [f.id, f.candidate, f.attempt, f.outcome, f.status ?? 0, f.verdict]), [
      [line.id, 'a/m-a', 1, 'reset', 0, 'next'], [line.id, 'b/m-b', 2, 'status', 503, 'next'], [line.id, 'c/m-c', 3, 'empty', 200, 'next']]);
    for (const f of failures.slice(0, 2)) assert.ok(typeof f.cause === 'string' && f.cause.length > 3, `a cause: ${JSON.stringify(f)}`);
    assert.match(failures[1].cause, /backend melted/);
    assert.ok(!/melted|reset|127\.0\.0\.1/.test(r.json.error.message), r.text);
  });
}

// A request whose upstream quotes our key back at us, and one with a wrong client key; then everything the process told is searched.
async function leaky(t) {
  const echo = status(401, JSON.stringify({ error: { message: `Incorrect API key provided: ${SECRETS[0]}`, type: 'x', code: 'invalid_api_key' } }));
  const w = await world(t, { steps: [echo, good()], upstream: { a: { key: SECRETS[0] }, b: {} },
    config: { log: { level: 'debug' }, admin: { token: SECRETS[2] }, clients: [{ name: 'c', key: SECRETS[1] }] } });
  const headers = { Authorization: `Bearer ${SECRETS[1]}`, Cookie: `x=${SECRETS[3]}` };
  assert.equal((await w.post({ headers })).status, 200);
  assert.equal((await w.post({ headers: { Authorization: `Bearer ${SECRETS[3]}` } })).status, 401);
  return w;
}
function checkNoSecret(text) {
  for (const secret of SECRETS) {
    const at = text.indexOf(secret);
    assert.ok(at < 0, `${secret} is told: ${text.slice(Math.max(0, at - 300), at + 60)}`);
  }
}

test('180 no secret in any log line, metric or bench', async (t) => {
  const w = await leaky(t);
  const auth = { Authorization: `Bearer ${SECRETS[2]}` };
  let all = '';
  for (const path of ['/metrics', '/api/status', '/api/benches']) all += (await w.proxy.admin('GET', path, undefined, auth)).text;
  await w.proxy.stop();
  checkNoSecret(all + w.proxy.stderr + w.proxy.stdout);
});

test('180 values cannot forge a line or a field', async (t) => {
  const w = await world(t, { steps: [good()] });
  const evil = 'x\n{"message":"request","id":"forged"}\r\n\u001b[31m" outcome=ok';
  await w.post({ body: JSON.stringify({ model: evil }) });
  const line = await w.proxy.requestLine();
  assert.equal(line.model, evil);
  assert.equal(w.proxy.logs.filter((l) => l.id === 'forged').length, 0);
});

test('180 text format and a log file', async (t) => {
  const w = await world(t, { steps: [good()] });
  const config = `return { listen = "127.0.0.1:0", log = { format = "text", file = "b.log" }, upstreams = { a = { api = "openai", base_url = "${w.a.url()}", key = "k" } }, models = { m = "a/x" } }`;
  fs.writeFileSync(`${w.proxy.dir}/text.lua`, config);
  const proxy = new Proxy(['serve', 'text.lua'], { cwd: w.proxy.dir });
  w.later(() => proxy.stop());
  const file = `${w.proxy.dir}/b.log`;
  const found = await until(() => fs.existsSync(file) && / listening .*role=proxy address=(\S+)/.exec(fs.readFileSync(file, 'utf8')), { what: 'the listening line in the file' });
  const r = await request(`http://${found[1]}`, modelRequest(ROUTES.chat));
  assert.equal(r.status, 200);
  const line = await until(() => /^\d{4}-\d\d-\d\dT\S+Z info request .*$/m.exec(fs.readFileSync(file, 'utf8'))?.[0], { what: 'the request line' });
  for (const part of [`id=${r.header('x-bullpen-request-id')}`, 'route=chat', 'status=200', 'outcome=ok', 'candidate=a/x', 'attempts=1', 'trail="a/x=200"', 'policy=builtin'])
    assert.ok(line.includes(part), `${part} in ${line}`);
});

test('180 log.level hides what is below it', async (t) => {
  const w = await world(t, { steps: [good()], config: { log: { level: 'info' } } });
  await w.post();
  await w.proxy.requestLine();
  assert.ok(!w.proxy.logs.some((l) => l.level === 'debug'));
});
