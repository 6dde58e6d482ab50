// Slow and hostile clients cost bounded memory and bounded time, and other traffic goes on meanwhile.
import test from 'node:test';
import assert from 'node:assert/strict';
import crypto from 'node:crypto';
import net from 'node:net';
import { BULLPEN } from './lib/bullpen.mjs';
import { world } from './lib/world.mjs';
import { ROUTES, EACH_ROUTE } from './lib/routes.mjs';
import { good, streamThen } from './lib/upstream.mjs';
import { Connection, modelRequest } from './lib/client.mjs';
import { checkRefusal } from './lib/check.mjs';
import { Parser } from './lib/http1.mjs';
import { processorSeconds, residentBytes } from './lib/process.mjs';
import { deferred, inParallel, until, within } from './lib/wait.mjs';

const MIB = 1024 * 1024;
const SANITIZED = BULLPEN.includes('asan') || BULLPEN.includes('tsan');
const chat = ROUTES.chat;
const drained = (io) => (io.socket.writableNeedDrain ? Promise.race([new Promise((r) => { io.socket.once('drain', r); }), io.gone]) : null);
const settled = (w, n) => w.proxy.waitForLog({ message: 'request' }, { count: n });

// Other traffic, until told to stop: every answer must be good.
function traffic(w) {
  let on = true, count = 0;
  const run = (async () => {
    while (on) { const r = await w.post({ model: 'b/m-b', stream: count % 2 === 0 }); assert.equal(r.status, 200, r.text); count++; }
  })();
  run.catch(() => {});
  return async (atLeast = 1) => { await Promise.race([run, until(() => count >= atLeast, { what: 'other traffic' })]); on = false; await run; return count; };
}

for (const route of EACH_ROUTE) {
  test(`320 ${route.name}: a slow reader of a 100 MB stream: memory is bounded, no idle is blamed on the upstream, every byte arrives`, async (t) => {
    const piece = Buffer.from(route.more.repeat(Math.ceil(100_000 / route.more.length)));
    const count = Math.ceil(100_000_000 / 3 / piece.length) * (route === chat ? 3 : 1); // the whole 100 MB once, a third of it on the others
    const sent = crypto.createHash('sha1');
    let bytes = 0;
    const step = streamThen([...route.preamble, route.content], async (io) => {
      for (let i = 0; i < count && !io.isGone; i++) {
        io.chunk(piece);
        sent.update(piece);
        bytes += piece.length;
        await drained(io);
      }
      for (const p of route.ending) io.chunk(p);
      io.lastChunk();
    });
    const w = await world(t, { route, steps: [step, good()], config: { timeouts: { idle: 0.25 } } });
    for (let i = 0; i < 20; i++) await w.post({ model: 'b/m-b', stream: true });
    const before = residentBytes(w.proxy);
    let most = before;
    const watch = setInterval(() => { most = Math.max(most, residentBytes(w.proxy)); }, 20);
    w.later(() => clearInterval(watch));
    const got = crypto.createHash('sha1'), head = [...route.preamble, route.content].join('').length;
    let received = 0, tail = Buffer.alloc(0), done = false, skip = head;
    const parser = new Parser({ head: () => 'chunked', end: () => { done = true; }, data: (b) => {
      received += b.length;
      const body = b.subarray(Math.min(skip, b.length));
      skip -= b.length - body.length;
      const at = Math.min(body.length, Math.max(0, count * piece.length - (received - head - body.length)));
      got.update(body.subarray(0, at));
      tail = Buffer.concat([tail, body.subarray(at)]);
    } });
    const url = new URL(w.proxy.url);
    const socket = net.connect({ host: url.hostname, port: Number(url.port), highWaterMark: 1 << 18 });
    w.later(() => socket.destroy());
    socket.on('data', (b) => parser.feed(b));
    const request = modelRequest(route, { stream: true });
    socket.write(`POST ${request.path} HTTP/1.1\r\nHost: x.localhost\r\nContent-Type: application/json\r\nContent-Length: ${request.body.length}\r\n\r\n${request.body}`);
    await until(() => received > 0, { what: 'the beginning' });
    const others = traffic(w);
    // Three times it takes nothing for longer than `idle`, while the upstream has more and everything on the way is full.
    for (let i = 1; i <= (route === chat ? 3 : 2) && !done; i++) {
      socket.pause();
      let still = -1;
      await until(async () => { const same = bytes === still; still = bytes; await new Promise((r) => setTimeout(r, 160)); return same; }, { timeout: 20000, what: 'the upstream to be paused' });
      const goal = received + (count * piece.length) / 4;
      socket.resume();
      await until(() => done || received >= goal, { timeout: 20000, what: 'some more' });
    }
    await until(() => done, { timeout: 30000, what: 'the end of the stream' });
    await others();
    assert.equal(got.digest('hex'), sent.digest('hex'));
    assert.equal(tail.toString(), route.ending.join(''));
    const line = await w.proxy.waitForLog((l) => l.message === 'request' && l.candidate === 'a/m-a');
    assert.equal(line.outcome, 'ok');
    assert.deepEqual(w.proxy.failures(), []);
    assert.ok(SANITIZED || most - before < 8 * MIB, `resident memory grew by ${((most - before) / MIB).toFixed(1)} MiB`);
  });
}

test('320 slowloris in the head and in the body: closed in time, no upstream hears of them, other traffic goes on', async (t) => {
  const w = await world(t, { steps: [good(), good()], config: { workers: 2, timeouts: { client_header: 0.6, client_body: 0.6 } } });
  const others = traffic(w);
  const head = `POST ${chat.path} HTTP/1.1\r\nHost: localhost\r\n`;
  const slow = {
    'nothing at all': '',
    'a head, byte by byte': `${head}X-Slow: ${'x'.repeat(10000)}`,
    'a request line, byte by byte': `POST /${'y'.repeat(10000)}`,
    'a body, byte by byte': `${head}Content-Length: 20000\r\n\r\n{"model":"m","pad":"${'z'.repeat(10000)}`,
    'chunks, byte by byte': `${head}Transfer-Encoding: chunked\r\n\r\n${'1\r\nz\r\n'.repeat(3000)}`,
  };
  await Promise.all(Object.entries(slow).flatMap(([name, text]) => Array.from({ length: 10 }, async () => {
    const c = new Connection(w.proxy.url);
    w.later(() => c.destroy());
    c.expect();
    const start = Math.max(text.indexOf('\r\n\r\n') + 4, Math.min(20, text.length));
    c.write(text.slice(0, start));
    let at = start;
    const drip = setInterval(() => { if (!c.closed && at < text.length) c.write(text[at++]); }, 25);
    w.later(() => clearInterval(drip));
    await c.waitClosed(8000).catch(() => assert.fail(`${name} is still open`));
    clearInterval(drip);
  })));
  await others(5);
  assert.equal(w.a.calls, 0);
  assert.equal(w.b.errors.length, 0);
  assert.deepEqual(await w.proxy.benches(), []);
});

test('320 a body that is late is told so, where it can still be told', async (t) => {
  const w = await world(t, { steps: [good()], config: { timeouts: { client_body: 0.3 } } });
  const c = new Connection(w.proxy.url);
  w.later(() => c.destroy());
  const answer = c.send({ path: chat.path, headers: { 'Content-Length': 1000 } });
  c.write('{"model"');
  await c.waitClosed(9000);
  await within(answer.done.promise, 1000, 'the answer');
  if (answer.status !== undefined) assert.equal(answer.status, 408);
  assert.equal(w.a.calls, 0);
});

test('320 5,000 idle connections, before and after their first request, do not hold up the others', async (t) => {
  const w = await world(t, { steps: [good(), good()], config: { workers: 2, limits: { connections: 6000 } } });
  const url = new URL(w.proxy.url);
  const before = residentBytes(w.proxy);
  const sockets = [];
  w.later(() => sockets.forEach((s) => s.destroy()));
  await inParallel(Array.from({ length: 5000 }), 200, () => new Promise((resolve, reject) => {
    const s = net.connect(Number(url.port), url.hostname, resolve).on('error', reject);
    sockets.push(s);
  }));
  await until(async () => (await w.proxy.metric('bullpen_connections')) >= 5000, { what: 'all of them accepted' });
  // Every tenth one asks something and then idles.
  await inParallel(sockets.filter((_, i) => i % 10 === 0), 50, (s) => new Promise((resolve) => { s.once('data', resolve); s.write('GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n'); }));
  const others = traffic(w);
  const started = performance.now();
  const n = await others(50);
  assert.ok((performance.now() - started) / n < 200, 'a request among them is fast');
  const each = (residentBytes(w.proxy) - before) / 5000;
  assert.ok(SANITIZED || each < 100_000, `${each} bytes for each idle connection`);
  for (const s of sockets) s.destroy();
  await until(async () => (await w.proxy.metric('bullpen_connections')) < 10, { what: 'all of them gone' });
  assert.equal((await w.post()).status, 200);
});

test('320 clients that never read: client_send ends them, streams and plain answers alike', async (t) => {
  const flood = streamThen([...chat.preamble, chat.content], async (io) => {
    const piece = chat.more.repeat(500);
    while (!io.isGone) { io.chunk(piece); await drained(io); }
  });
  const plain = async (io) => {
    io.head(200, { 'content-type': 'application/json' }, 50_000_000);
    io.raw('{"id":"x","a":"');
    const piece = 'x'.repeat(100_000);
    while (!io.isGone) { io.raw(piece); await drained(io); }
  };
  const w = await world(t, { steps: [(io, req) => (req.json.stream ? flood(io) : plain(io)), good()], config: { timeouts: { client_send: 0.5, idle: 60 } } });
  const before = residentBytes(w.proxy);
  const others = traffic(w);
  const all = Array.from({ length: 16 }, (_, i) => w.open({ stream: i % 2 === 0 }));
  for (const { connection } of all) connection.socket.pause();
  await w.proxy.waitForLog((l) => l.message === 'request' && l.outcome === 'client_gone', { count: 16, timeout: 15000 });
  await w.a.waitClosed();
  await others(5);
  assert.ok(SANITIZED || residentBytes(w.proxy) - before < 16 * MIB, 'no more than the buffers');
  assert.deepEqual(await w.proxy.benches(), []);
});

test('320 pipelined requests are answered in order, each once', async (t) => {
  const w = await world(t, { steps: [good(), good()] });
  const c = new Connection(w.proxy.url);
  w.later(() => c.destroy());
  const answers = [];
  for (let i = 0; i < 40; i++) {
    if (i % 4 === 3) answers.push(c.send({ method: 'GET', path: '/v1/models' }));
    else answers.push(c.send(modelRequest(chat, { stream: i % 2 === 0, model: i % 4 === 1 ? 'nope' : 'm' })));
  }
  for (const [i, a] of answers.entries()) {
    await within(a.done.promise, 5000, `answer ${i}`);
    assert.equal(a.status, i % 4 === 1 ? 404 : 200, `answer ${i}`);
    assert.equal(a.end, 'clean');
    const type = a.header('content-type');
    assert.match(type, i % 4 === 3 || i % 2 === 1 ? /json/ : /event-stream/, `answer ${i}`);
  }
  assert.equal(w.a.calls, 20);
  await settled(w, 40);
});

test('320 a head of 100 KB and one of 10,000 fields are refused, and nobody hears of them', async (t) => {
  const w = await world(t, { steps: [good()] });
  const huge = {
    '100 KB in one field': `X-Big: ${'x'.repeat(100_000)}\r\n`,
    '100 KB in many fields': Array.from({ length: 100 }, (_, i) => `X-${i}: ${'x'.repeat(1000)}\r\n`).join(''),
    '10,000 fields': Array.from({ length: 10_000 }, (_, i) => `A${i}: b\r\n`).join(''),
    '10,000 empty fields': 'A:\r\n'.repeat(10_000),
  };
  const body = JSON.stringify(chat.body('m'));
  for (const [name, fields] of Object.entries(huge)) {
    const c = new Connection(w.proxy.url);
    w.later(() => c.destroy());
    const answer = c.expect();
    c.write(`POST ${chat.path} HTTP/1.1\r\nHost: localhost\r\n${fields}Content-Length: ${body.length}\r\n\r\n${body}`);
    await c.waitClosed();
    await within(answer.done.promise, 1000, name);
    assert.ok([undefined, 400, 413, 414, 431].includes(answer.status), `${name}: ${answer.status}`);
  }
  const c = new Connection(w.proxy.url);
  w.later(() => c.destroy());
  const answer = c.expect();
  c.write(`POST /v1/${'p'.repeat(100_000)} HTTP/1.1\r\nHost: localhost\r\n\r\n`);
  await c.waitClosed();
  assert.ok([undefined, 400, 414, 431].includes(answer.status));
  assert.equal(w.a.calls, 0);
  assert.equal((await w.post({ headers: { 'x-fine': 'y'.repeat(8000) } })).status, 200);
});

const HEAD = `POST ${chat.path} HTTP/1.1\r\nHost: localhost\r\n`;
const STUCK = { // never the end of it; the first three more than any buffer
  'a chunk extension': `${HEAD}Transfer-Encoding: chunked\r\n\r\n5;${'x'.repeat(100_000)}`,
  'a trailer': `${HEAD}Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nX: ${'x'.repeat(100_000)}`,
  'a size of zeros': `${HEAD}Transfer-Encoding: chunked\r\n\r\n${'0'.repeat(100_000)}`,
  'half a chunk': `${HEAD}Transfer-Encoding: chunked\r\n\r\nffff\r\n${'x'.repeat(30_000)}`,
  'half a body': `${HEAD}Content-Length: 1000000\r\n\r\n${'x'.repeat(500_000)}`,
  'half a head': `${HEAD}X-A: ${'x'.repeat(20_000)}`,
};
for (const [name, bytes] of Object.entries(STUCK)) {
  test(`320 a client that goes no further than ${name} costs no processor time, nor when it has left`, async (t) => {
    const w = await world(t, { steps: [good(), good()], config: { timeouts: { client_body: 30, client_header: 30 } } });
    const c = new Connection(w.proxy.url);
    w.later(() => c.destroy());
    c.expect();
    c.write(bytes);
    await traffic(w)(3);
    const share = async () => {
      const before = processorSeconds(w.proxy), start = performance.now();
      await new Promise((r) => setTimeout(r, 250));
      return Math.round(100 * (processorSeconds(w.proxy) - before) / ((performance.now() - start) / 1000));
    };
    const stuck = await share();
    c.destroy();
    await until(() => w.proxy.metric('bullpen_connections').then((n) => n === 0), { timeout: 2000, what: 'the connection to be closed' });
    assert.ok(stuck < 30, `${stuck} % of a processor`);
    const left = await share();
    assert.ok(left < 30, `${left} % of a processor after it has left`);
    assert.equal(w.a.calls, 0);
  });
}

test('320 over `connections`: a canned 503 that every client can read, and room again afterwards', async (t) => {
  const w = await world(t, { steps: [good()], config: { limits: { connections: 8 }, workers: 2 } });
  const held = [];
  await inParallel(Array.from({ length: 8 }), 1, async () => {
    const c = new Connection(w.proxy.url);
    held.push(c);
    w.later(() => c.destroy());
    await within(c.send({ method: 'GET', path: '/v1/models' }).done.promise, 5000, 'an answer');
  });
  let readable = 0;
  for (let i = 0; i < 20; i++) {
    const c = new Connection(w.proxy.url);
    w.later(() => c.destroy());
    const answer = i % 2 ? c.send(modelRequest(chat)) : c.expect(); // some say something, some wait to be told
    await within(answer.done.promise, 5000, 'the refusal');
    if (answer.status === undefined) continue;
    readable++;
    assert.equal(answer.status, 503);
    assert.equal(answer.end, 'clean', 'its length is right');
    assert.equal(answer.json.error.code, 'overloaded');
    assert.equal(answer.json.error.type, 'server_error');
    assert.match(answer.header('connection'), /close/);
    assert.ok(Number(answer.header('retry-after')) >= 1);
  }
  assert.equal(readable, 20);
  for (const c of held) c.destroy();
  await until(async () => { try { return (await w.post()).status === 200; } catch { return false; } }, { what: 'room again' });
});

for (const route of EACH_ROUTE) {
  test(`320 ${route.name}: over \`bodies\`: 503, and room again when what was held is gone`, async (t) => {
    const go = deferred();
    const hold = async (io, req) => { await Promise.race([go.promise, io.gone]); return good()(io, req); };
    const w = await world(t, { route, steps: [[hold]], config: { limits: { bodies: '1MiB', body: '800KiB' } } });
    const pad = 'x'.repeat(600_000);
    const first = w.open({ extra: { pad } });
    await w.a.waitDone(1);
    // Announced by its length: refused on the head. Chunked: refused when it is too much.
    const sized = await w.post({ extra: { pad } });
    checkRefusal(sized, route, 'overloaded');
    assert.equal(sized.header('retry-after'), '1');
    const body = JSON.stringify(route.body('m', { pad }));
    const c = new Connection(w.proxy.url);
    w.later(() => c.destroy());
    const chunked = c.send({ path: route.path, headers: { 'Transfer-Encoding': 'chunked' }, body: `${body.length.toString(16)}\r\n${body}\r\n0\r\n\r\n` });
    await within(chunked.done.promise, 8000, 'the answer to the chunked one');
    checkRefusal(chunked, route, 'overloaded');
    const small = w.open();
    await w.a.waitDone(2);
    go.resolve();
    assert.equal((await first.done()).status, 200);
    assert.equal((await small.done()).status, 200);
    assert.equal((await w.post({ extra: { pad } })).status, 200, 'room again');
    // Those who leave or are refused in mid-body give back what they held.
    for (let i = 0; i < 5; i++) {
      const gone = new Connection(w.proxy.url);
      w.later(() => gone.destroy());
      gone.send({ path: route.path, headers: { 'Content-Length': 700_000 } });
      gone.write('{"model":"m",');
      await until(() => w.proxy.metric('bullpen_inflight_requests').then((n) => n === 1), { what: 'it to be under way' });
      gone.reset();
      await until(() => w.proxy.metric('bullpen_inflight_requests').then((n) => n === 0), { what: 'it to be gone' });
    }
    assert.equal((await w.post({ extra: { pad } })).status, 200, 'room after those who left');
  });
}
