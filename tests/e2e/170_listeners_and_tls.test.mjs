// Where it listens and how it speaks to upstreams: several addresses, IPv6, unix sockets; TLS verified; HTTP/2 by option.
import test from 'node:test';
import assert from 'node:assert/strict';
import http2 from 'node:http2';
import fs from 'node:fs';
import net from 'node:net';
import path from 'node:path';
import { execFileSync } from 'node:child_process';
import { startProxy, tempDir } from './lib/bullpen.mjs';
import { cleanups, world, ONE_TRY } from './lib/world.mjs';
import { EACH_ROUTE, ROUTES, fixture, routeOfUpstreamPath } from './lib/routes.mjs';
import { good, startUpstream } from './lib/upstream.mjs';
import { Connection, modelRequest, request } from './lib/client.mjs';
import { within } from './lib/wait.mjs';

function openssl(dir, ...args) { execFileSync('openssl', args, { cwd: dir, stdio: 'ignore' }); }

// A private CA and a certificate of it for 127.0.0.1, and one of nobody's.
function makeCerts() {
  const dir = tempDir({ 'ext.cnf': 'subjectAltName=IP:127.0.0.1,DNS:localhost\n' });
  const key = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes'];
  openssl(dir, 'req', '-x509', ...key, '-keyout', 'ca.key', '-out', 'ca.pem', '-days', '2', '-subj', '/CN=test ca');
  openssl(dir, 'req', ...key, '-keyout', 'server.key', '-out', 'server.csr', '-subj', '/CN=localhost');
  openssl(dir, 'x509', '-req', '-in', 'server.csr', '-CA', 'ca.pem', '-CAkey', 'ca.key', '-CAcreateserial', '-out', 'server.pem', '-days', '2', '-extfile', 'ext.cnf');
  openssl(dir, 'req', '-x509', ...key, '-keyout', 'other.key', '-out', 'other.pem', '-days', '2', '-subj', '/CN=other ca');
  const read = (name) => fs.readFileSync(path.join(dir, name));
  return { dir, ca: path.join(dir, 'ca.pem'), other: path.join(dir, 'other.pem'), key: read('server.key'), cert: read('server.pem') };
}
const certs = makeCerts();
test.after(() => fs.rmSync(certs.dir, { recursive: true, force: true }));

test('170 several addresses, IPv6 and a unix socket at once', async (t) => {
  const later = cleanups(t);
  const up = await startUpstream([good()]);
  later(() => up.close());
  const proxy = await startProxy({ listeners: 4, config: { workers: 2, listen: ['127.0.0.1:0', '127.0.0.2:0', '[::1]:0', 'unix:p.sock'],
    upstreams: { a: { api: 'openai', base_url: up.url(), key: 'k' } }, models: { m: 'a/x' } } });
  later(() => proxy.stop());
  const addresses = proxy.logs.filter((l) => l.message === 'listening' && l.role === 'proxy').map((l) => l.address);
  assert.equal(new Set(addresses).size, 4, addresses.join(' '));
  for (const address of addresses) {
    const target = address.includes('sock') ? { socketPath: path.join(proxy.dir, 'p.sock') } : `http://${address}`;
    for (let i = 0; i < 4; i++) {
      const r = await request(target, modelRequest(ROUTES.chat, { stream: i % 2 === 1 }));
      assert.equal(r.status, 200, `${address}: ${r.text}`);
    }
  }
  assert.equal(up.calls, 16);
});

test('170 a stale unix socket is replaced, and removed at the end', async (t) => {
  const later = cleanups(t);
  const dir = tempDir();
  later(() => fs.rmSync(dir, { recursive: true, force: true }));
  const file = path.join(dir, 's.sock');
  const config = { listen: `unix:${file}`, upstreams: { a: { api: 'openai', base_url: 'http://127.0.0.1:1/v1', key: 'k' } }, models: { m: 'a/x' } };
  const first = await startProxy({ config });
  first.child.kill('SIGKILL');
  await first.exit;
  later(() => fs.rmSync(first.dir, { recursive: true, force: true }));
  assert.ok(fs.existsSync(file));
  const second = await startProxy({ config });
  assert.equal((await request({ socketPath: file }, { method: 'GET', path: '/v1/models' })).status, 200);
  await second.stop();
  assert.ok(!fs.existsSync(file), 'removed');
});

test('170 connections are spread over the workers and all of them answer', async (t) => {
  const w = await world(t, { steps: [good()], config: { workers: 4 } });
  const rs = await Promise.all(Array.from({ length: 64 }, (_, i) => w.post({ stream: i % 2 === 0 })));
  for (const r of rs) assert.equal(r.status, 200);
  assert.equal(w.a.calls, 64);
});

for (const route of EACH_ROUTE) {
  test(`170 ${route.name}: TLS with a private CA is verified`, async (t) => {
    const w = await world(t, { route, secure: { key: certs.key, cert: certs.cert }, steps: [good()], upstream: { a: { tls: { ca: certs.ca } } } });
    for (const stream of [false, true]) {
      const r = await w.post({ stream });
      assert.equal(r.status, 200, r.text);
      assert.equal(r.text, fixture(route, stream ? 'success-stream.sse' : 'success.json').toString());
    }
    assert.equal(w.a.connections, 1, 'kept alive');
  });
}

test('170 W6 a certificate of an unknown CA is refused: outcome tls, next candidate', async (t) => {
  for (const tls of [undefined, { ca: certs.other }]) {
    const later = cleanups(t);
    const plain = await startUpstream([good()]);
    later(() => plain.close());
    const w = await world(t, { secure: { key: certs.key, cert: certs.cert }, steps: [good()], upstream: { a: { tls } },
      config: { upstreams: { z: { api: 'openai', base_url: plain.url(), key: 'k' } }, models: { m: ['a/m-a', 'z/ok'] } } });
    const r = await w.post();
    assert.equal(r.header('x-bullpen-trail'), 'a/m-a=tls, z/ok=200');
    assert.equal(w.a.calls, 0, 'no request was sent');
    const failure = w.proxy.failures()[0];
    assert.match(failure.cause, /certificate|CA/i);
  }
  const w = await world(t, { secure: { key: certs.key, cert: certs.cert }, steps: [good()], upstream: { a: { tls: { verify: false } } } });
  assert.equal((await w.post()).status, 200, 'verify = false');
});

test('170 a certificate for another name is refused', async (t) => {
  const w = await world(t, { secure: { key: certs.key, cert: certs.cert }, steps: [good()], upstream: { a: { tls: { ca: certs.ca } } } });
  await w.post();
  const url = w.a.url().replace('127.0.0.1', '127.0.0.3');
  const server = net.createServer((s) => { const up = net.connect(w.a.port, '127.0.0.1'); s.pipe(up).pipe(s); s.on('error', () => {}); up.on('error', () => {}); });
  await new Promise((r) => server.listen(0, '127.0.0.3', r));
  w.later(() => server.close());
  const base_url = url.replace(/:\d+\//, `:${server.address().port}/`);
  const w2 = await world(t, { steps: [good()], upstream: { a: { base_url, tls: { ca: certs.ca } } } });
  const r = await w2.post();
  assert.equal(r.status, 502);
  assert.equal(r.header('x-bullpen-trail'), 'a/m-a=tls');
});

test('170 a plain server where TLS was expected', async (t) => {
  const w = await world(t, { steps: [good(), good()] });
  w.a.onConnection = (s) => s.once('data', () => s.end('HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n'));
  const w2 = await world(t, { steps: [good(), good()], upstream: { a: { base_url: w.a.url().replace('http:', 'https:') }, b: {} } });
  assert.equal((await w2.post()).header('x-bullpen-trail'), 'a/m-a=tls, b/m-b=200');
});

test('170 HTTP/2 upstream by option, plain and stream, many at once on one connection', async (t) => {
  const later = cleanups(t);
  const sessions = new Set();
  const seen = [];
  const server = http2.createSecureServer({ key: certs.key, cert: certs.cert }, (req, res) => {
    const parts = [];
    req.on('data', (b) => parts.push(b));
    req.on('end', () => {
      const body = JSON.parse(Buffer.concat(parts));
      seen.push({ version: req.httpVersion, headers: req.headers, model: body.model });
      const route = routeOfUpstreamPath(req.url);
      res.writeHead(200, { 'content-type': body.stream ? 'text/event-stream' : 'application/json' });
      res.end(fixture(route, body.stream ? 'success-stream.sse' : 'success.json'));
    });
  });
  server.on('session', (s) => { sessions.add(s); s.on('close', () => sessions.delete(s)); });
  await new Promise((r) => server.listen(0, '127.0.0.1', r));
  later(() => new Promise((r) => { for (const s of sessions) s.destroy(); server.close(r); }));
  for (const route of EACH_ROUTE) {
    const proxy = await startProxy({ config: { upstreams: { h: { api: route.api, base_url: `https://127.0.0.1:${server.address().port}/v1`, key: 'k', http: '2', tls: { ca: certs.ca } } }, models: { m: 'h/x' } }, policy: ONE_TRY });
    later(() => proxy.stop());
    const rs = await Promise.all(Array.from({ length: 12 }, (_, i) => request(proxy.url, modelRequest(route, { stream: i % 2 === 0 }))));
    for (const [i, r] of rs.entries()) {
      assert.equal(r.status, 200, r.text);
      assert.equal(r.text, fixture(route, i % 2 === 0 ? 'success-stream.sse' : 'success.json').toString());
      assert.equal(r.end, 'clean');
    }
  }
  assert.equal(seen.length, 36);
  for (const s of seen) assert.equal(s.version, '2.0');
});

test('170 limits.connections: one more is 503 or refused, and it recovers', async (t) => {
  const w = await world(t, { steps: [good()], config: { limits: { connections: 4 } } });
  const held = [];
  for (let i = 0; i < 4; i++) {
    const c = new Connection(w.proxy.url);
    w.later(() => c.destroy());
    assert.equal((await within(c.send(modelRequest(ROUTES.chat)).done.promise, 5000, 'an answer')).status, 200);
    held.push(c);
  }
  const extra = new Connection(w.proxy.url);
  w.later(() => extra.destroy());
  const r = await within(extra.send(modelRequest(ROUTES.chat)).done.promise, 5000, 'an answer or a close');
  assert.ok(r.status === 503 || r.status === undefined, `${r.status}`);
  assert.equal(w.a.calls, 4);
  for (const c of held) c.destroy();
  const { until } = await import('./lib/wait.mjs');
  await until(async () => { try { return (await w.post()).status === 200; } catch { return false; } }, { what: 'room again' });
});
