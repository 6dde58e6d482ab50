// Doubtful framing is refused and the connection closed before any upstream hears of it, and what hides behind it is never taken for a request.
import test from 'node:test';
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { world } from './lib/world.mjs';
import { EACH_ROUTE, ROUTES } from './lib/routes.mjs';
import { good } from './lib/upstream.mjs';
import { Connection, modelRequest } from './lib/client.mjs';
import { checkRefusal } from './lib/check.mjs';
import { until, within } from './lib/wait.mjs';

const chat = ROUTES.chat;
const body = JSON.stringify(chat.body('m'));
const n = body.length;
const chunked = `${n.toString(16)}\r\n${body}\r\n0\r\n\r\n`;
const line = `POST ${chat.path} HTTP/1.1\r\n`;
const host = 'Host: localhost\r\n';
const json = 'Content-Type: application/json\r\n';
const smuggled = `POST ${chat.path}?smuggled HTTP/1.1\r\n${host}${json}Content-Length: ${n}\r\n\r\n${body}`;
const te = 'Transfer-Encoding: chunked\r\n';
const cl = (value = n) => `Content-Length: ${value}\r\n`;
const withChunks = (text) => `${line}${host}${te}\r\n${text}`;

// name: [bytes of the request, statuses that are right; undefined: closed without a word]
const BAD = {
  'CL then TE': [`${line}${host}${cl()}${te}\r\n${chunked}`],
  'TE then CL': [`${line}${host}${te}${cl()}\r\n${chunked}`],
  'CL 0 with TE': [`${line}${host}${cl(0)}${te}\r\n${chunked}`],
  'two different CL': [`${line}${host}${cl()}${cl(n + 5)}\r\n${body}`],
  'two different CL, the shorter first': [`${line}${host}${cl(0)}${cl()}\r\n${body}`],
  'two equal CL': [`${line}${host}${cl()}${cl()}\r\n${body}`],
  'a list in CL': [`${line}${host}${cl(`${n}, ${n}`)}\r\n${body}`],
  'CL +5': [`${line}${host}${cl(`+${n}`)}\r\n${body}`],
  'CL -1': [`${line}${host}${cl('-1')}\r\n${body}`],
  'CL in hex': [`${line}${host}${cl(`0x${n.toString(16)}`)}\r\n${body}`],
  'CL with a letter': [`${line}${host}${cl(`${n}a`)}\r\n${body}`],
  'CL empty': [`${line}${host}Content-Length:\r\n\r\n${body}`],
  'CL with a blank inside': [`${line}${host}${cl(`${String(n)[0]} ${String(n).slice(1)}`)}\r\n${body}`],
  'CL beyond 64 bits': [`${line}${host}${cl('18446744073709551616')}\r\n${body}`, [400, 413]],
  'a blank before the colon of TE': [`${line}${host}Transfer-Encoding : chunked\r\n\r\n${chunked}`],
  'a tab before the colon of TE': [`${line}${host}Transfer-Encoding\t: chunked\r\n\r\n${chunked}`],
  'a blank before the colon of CL': [`${line}${host}Content-Length : ${n}\r\n\r\n${body}`],
  'two TE': [`${line}${host}${te}${te}\r\n${chunked}`],
  'TE chunked and identity': [`${line}${host}${te}Transfer-Encoding: identity\r\n\r\n${chunked}`],
  'TE in 1.0': [`POST ${chat.path} HTTP/1.0\r\n${host}${te}\r\n${chunked}`],
  'TE gzip': [`${line}${host}Transfer-Encoding: gzip\r\n\r\n${chunked}`, [501]],
  'TE gzip, chunked': [`${line}${host}Transfer-Encoding: gzip, chunked\r\n\r\n${chunked}`, [400, 501]],
  'TE chunked, gzip': [`${line}${host}Transfer-Encoding: chunked, gzip\r\n\r\n${chunked}`, [400, 501]],
  'TE chunked, chunked': [`${line}${host}Transfer-Encoding: chunked, chunked\r\n\r\n${chunked}`, [400, 501]],
  'TE xchunked': [`${line}${host}Transfer-Encoding: xchunked\r\n\r\n${chunked}`, [400, 501]],
  'TE chunked with a parameter': [`${line}${host}Transfer-Encoding: chunked;a=b\r\n\r\n${chunked}`, [400, 501]],
  'TE identity': [`${line}${host}Transfer-Encoding: identity\r\n\r\n${body}`, [400, 501]],
  'TE empty': [`${line}${host}Transfer-Encoding:\r\n\r\n${chunked}`, [400, 501]],
  'TE with a vertical tab': [`${line}${host}Transfer-Encoding: \x0bchunked\r\n\r\n${chunked}`, [400, 501]],
  'TE quoted': [`${line}${host}Transfer-Encoding: "chunked"\r\n\r\n${chunked}`, [400, 501]],
  'NUL in a value': [`${line}${host}X-A: a\0b\r\n${cl()}\r\n${body}`],
  'NUL in a name': [`${line}${host}X\0A: b\r\n${cl()}\r\n${body}`],
  'NUL in the target': [`POST ${chat.path}\0 HTTP/1.1\r\n${host}${cl()}\r\n${body}`],
  'NUL at the end of CL': [`${line}${host}Content-Length: ${n}\0\r\n\r\n${body}`],
  'NUL hiding TE': [`${line}${host}X-A: b\0\r\n${te}${cl()}\r\n${chunked}`],
  'a bare CR in a value': [`${line}${host}X-A: a\rb\r\n${cl()}\r\n${body}`],
  'a bare CR that would begin a header': [`${line}${host}X-A: a\rTransfer-Encoding: chunked\r\n${cl()}\r\n${body}`],
  'a bare CR before the end of a line': [`${line}${host}X-A: a\r\r\n${cl()}\r\n${body}`],
  'a bare LF after the request line': [`POST ${chat.path} HTTP/1.1\n${host}${cl()}\r\n${body}`],
  'a bare LF after a header': [`${line}${host}X-A: a\n${cl()}\r\n${body}`],
  'a bare LF after Host': [`${line}Host: localhost\n${cl()}\r\n${body}`],
  'bare LFs throughout': [`POST ${chat.path} HTTP/1.1\nHost: localhost\nContent-Length: ${n}\n\n${body}`],
  'a bare LF for the blank line': [`${line}${host}${cl()}\n${body}`],
  'obs-fold': [`${line}${host}X-A: a\r\n b\r\n${cl()}\r\n${body}`],
  'obs-fold of TE': [`${line}${host}Transfer-Encoding:\r\n chunked\r\n\r\n${chunked}`],
  'obs-fold hiding CL': [`${line}${host}X-A: a\r\n Content-Length: 3\r\n${cl()}\r\n${body}`],
  'a blank before the first header': [`${line} ${host}${cl()}\r\n${body}`],
  'two Host': [`${line}${host}Host: other.localhost\r\n${cl()}\r\n${body}`],
  'two equal Host': [`${line}${host}${host}${cl()}\r\n${body}`],
  'no Host': [`${line}${cl()}\r\n${body}`],
  'absolute-form with another host': [`POST http://other.localhost${chat.path} HTTP/1.1\r\n${host}${cl()}\r\n${body}`],
  'absolute-form with a user': [`POST http://localhost@other.localhost${chat.path} HTTP/1.1\r\n${host}${cl()}\r\n${body}`],
  'authority-form': [`CONNECT localhost:80 HTTP/1.1\r\n${host}\r\n`, [400, 404, 405, 501]],
  'a header without a colon': [`${line}${host}Transfer-Encoding chunked\r\n${cl()}\r\n${body}`],
  'an empty name': [`${line}${host}: x\r\n${cl()}\r\n${body}`],
  'no version': [`POST ${chat.path}\r\n${host}${cl()}\r\n\r\n${body}`, [400, 404, 405, 505]],
  'HTTP/2.0 in words': [`POST ${chat.path} HTTP/2.0\r\n${host}${cl()}\r\n${body}`, [400, 505]],
  'HTTP/1.1 with a tail': [`POST ${chat.path} HTTP/1.1 x\r\n${host}${cl()}\r\n${body}`, [400, 505]],
  'chunk size zz': [withChunks(`zz\r\n${body}\r\n0\r\n\r\n`)],
  'chunk size +n': [withChunks(`+${chunked}`)],
  'chunk size -n': [withChunks(`-${chunked}`)],
  'chunk size 0xn': [withChunks(`0x${chunked}`)],
  'chunk size with a blank before it': [withChunks(` ${chunked}`)],
  'chunk size empty': [withChunks(`\r\n${body}\r\n0\r\n\r\n`)],
  'chunk size beyond 64 bits': [withChunks(`1${'0'.repeat(16)}${n.toString(16)}\r\n${body}\r\n0\r\n\r\n`), [400, 413]],
  'chunk size too large for its chunk': [withChunks(`${(n - 1).toString(16)}\r\n${body}\r\n0\r\n\r\n`)],
  'chunk size with a bare CR': [withChunks(`${n.toString(16)}\r${body}\r\n0\r\n\r\n`)],
  'chunk extension of 100 KB': [withChunks(`${n.toString(16)};${'x'.repeat(100_000)}\r\n${body}\r\n0\r\n\r\n`), [400, 408, 413, 431]],
  'a trailer of 100 KB': [withChunks(`${n.toString(16)}\r\n${body}\r\n0\r\nX: ${'x'.repeat(100_000)}\r\n\r\n`), [400, 408, 413, 431]],
  '10,000 trailers': [withChunks(`${n.toString(16)}\r\n${body}\r\n0\r\n${'X: y\r\n'.repeat(10_000)}\r\n`), [400, 408, 413, 431]],
};

// Chunk framing is read by libmicrohttpd, which ends a line at a bare LF too. It may take these, as what they say and no more.
const ODD_CHUNKS = {
  'chunk size line that ends in LF': withChunks(`${n.toString(16)}\n${body}\r\n0\r\n\r\n`),
  'chunk that ends in LF': withChunks(`${n.toString(16)}\r\n${body}\n0\r\n\r\n`),
  'chunk extension': withChunks(`${n.toString(16)};a=b\r\n${body}\r\n0;c="d e"\r\n\r\n`),
  'chunk extension with a bare LF': withChunks(`${n.toString(16)};a\n${body}\r\n0\r\n\r\n`),
  'chunk extension with a NUL': withChunks(`${n.toString(16)};a\0b\r\n${body}\r\n0\r\n\r\n`),
};

// One connection: the doubtful request, and a good one close behind it.
async function attack(w, bytes) {
  const c = new Connection(w.proxy.url);
  w.later(() => c.destroy());
  const answer = c.expect();
  c.write(Buffer.from(bytes + smuggled, 'latin1'));
  await c.waitClosed(8000);
  await within(answer.done.promise, 1000, 'the answer to settle');
  return { answer, heads: (c.bytes.toString('latin1').match(/HTTP\/1\.\d \d{3}/g) ?? []).map((h) => Number(h.slice(9))), error: c.error };
}

test('330 what is doubtful is 400 or 501 and a close, no second request is parsed, no upstream is called', async (t) => {
  const w = await world(t, { steps: [good()], config: { timeouts: { client_header: 3, client_body: 3, keepalive: 3 } } });
  const wrong = [];
  for (const [name, [bytes, statuses = [400]]] of Object.entries(BAD)) {
    const calls = w.a.calls, lines = w.proxy.requestLines().length;
    const { answer, heads, error } = await attack(w, bytes).catch((e) => ({ answer: {}, heads: [], error: e }));
    const say = (what) => wrong.push(`${name}: ${what} (${heads.join(' | ')})`);
    if (error) say(`unreadable: ${error.message}`);
    if (heads.some((h) => !statuses.includes(h))) say('the status'); // libmicrohttpd says its own refusals twice
    if (w.a.calls !== calls) say(`the upstream got ${w.a.calls - calls} requests`);
    if (w.proxy.requestLines().length > lines + 1) say('more than one request in the log');
  }
  assert.deepEqual(wrong, []);
  assert.ok(!w.proxy.stderr.includes('smuggled'));
  assert.ok(w.a.requests.every((r) => !r.path.includes('smuggled')));
  const calls = w.a.calls;
  assert.equal((await w.post()).status, 200);
  assert.equal(w.a.calls, calls + 1);
});

test('330 odd chunks are refused, or taken for what they say', async (t) => {
  const w = await world(t, { steps: [good()], config: { timeouts: { client_body: 2 } } });
  for (const [name, bytes] of Object.entries(ODD_CHUNKS)) {
    const calls = w.a.calls;
    const c = new Connection(w.proxy.url);
    w.later(() => c.destroy());
    const first = c.expect(), second = c.expect();
    c.write(Buffer.from(bytes + smuggled, 'latin1'));
    await within(Promise.all([first.done.promise, second.done.promise]), 5000, `the end of ${name}`);
    if (first.status !== 200) {
      assert.ok([400, 408, 413].includes(first.status ?? 400), `${name}: ${first.status}`);
      assert.equal(second.status, undefined, name);
      assert.equal(w.a.calls, calls, name);
    } else {
      assert.equal(second.status, 200, name);
      assert.deepEqual(w.a.requests.slice(calls).map((r) => [r.path.includes('smuggled'), r.json.messages[0].content]), [[false, 'hi'], [true, 'hi']], name);
    }
  }
});

test('330 the refusals of our own have the shape of an error and say close', async (t) => {
  const w = await world(t, { steps: [good()] });
  for (const name of ['CL then TE', 'two different CL', 'TE in 1.0', 'two Host', 'no Host', 'obs-fold', 'NUL in a value', 'TE gzip']) {
    const { answer } = await attack(w, BAD[name][0]);
    assert.ok([400, 501].includes(answer.status), `${name}: ${answer.status}`);
    assert.equal(answer.json.error.type, 'invalid_request_error', name);
    assert.match(answer.header('connection'), /close/, name);
  }
});

test('330 what is sound goes through: chunks in pieces, extensions, trailers, an absolute target, blanks around values', async (t) => {
  const w = await world(t, { steps: [good()] });
  const sound = {
    'chunks of one byte': withChunks(`${[...body].map((b) => `1\r\n${b}\r\n`).join('')}0\r\n\r\n`),
    'a size with zeros and capitals': withChunks(`000${n.toString(16).toUpperCase()}\r\n${body}\r\n000\r\n\r\n`),
    'a trailer': withChunks(`${n.toString(16)}\r\n${body}\r\n0\r\nX-T: 1\r\n\r\n`),
    'an absolute target': `POST http://localhost${chat.path} HTTP/1.1\r\n${host}${cl()}\r\n${body}`,
    'Chunked in capitals': `${line}${host}Transfer-Encoding: Chunked\r\n\r\n${chunked}`,
    'blanks around values': `${line}Host:   localhost  \r\nContent-Length:\t${n}\r\n\r\n${body}`,
    'an empty value': `${line}${host}X-Empty:\r\n${cl()}\r\n${body}`,
    'empty lines before it': `\r\n\r\n${line}${host}${cl()}\r\n${body}`,
  };
  for (const [name, bytes] of Object.entries(sound)) {
    const c = new Connection(w.proxy.url);
    w.later(() => c.destroy());
    const first = c.expect(), second = c.expect();
    c.write(bytes + smuggled);
    await within(second.done.promise, 5000, `both answers to ${name}`);
    assert.deepEqual([first.status, second.status], [200, 200], `${name}: ${first.text}`);
    assert.equal(w.a.requests.at(-2).json.messages[0].content, 'hi', name);
  }
});

// ---- refusals while the client is still sending ----

const REFUSED = {
  'body too large': { options: {}, status: 413, code: 'request_too_large' },
  'no such key': { headers: { authorization: 'Bearer nope' }, status: 401, code: 'invalid_api_key' },
  'unknown path': { path: '/nowhere', status: 404, code: 'not_found' },
};

const refusing = (t) => world(t, { steps: [good()], config: { limits: { body: '1MiB' }, clients: [{ name: 'c', key: 'the-key' }] } });
const big = (mb = 20) => JSON.stringify({ model: 'm', messages: [], pad: 'x'.repeat(mb * 1_000_000) });

test('330 refusals at 20 MB can be read by fetch', async (t) => {
  const w = await refusing(t);
  for (const [name, { headers, path = chat.path, status, code }] of Object.entries(REFUSED)) {
    for (const stream of [false, true]) {
      const text = big();
      const source = stream ? new Blob([text]).stream() : text;
      const r = await within(fetch(`${w.proxy.url}${path}`, { method: 'POST', headers: { 'Content-Type': 'application/json', authorization: 'Bearer the-key', ...headers }, body: source, duplex: 'half' }), 15000, `fetch of ${name}`);
      assert.equal(r.status, status, name);
      assert.equal((await r.json()).error.code, code, name);
    }
  }
  assert.equal(w.a.calls, 0);
});

// The output of a command that talks to the proxy of this process.
async function output(command, args, input) {
  const child = spawn(command, args, { stdio: ['pipe', 'pipe', 'pipe'] });
  let out = '', err = '';
  child.stdout.on('data', (b) => { out += b; });
  child.stderr.on('data', (b) => { err += b; });
  child.stdin.on('error', () => {});
  child.stdin.end(input);
  const code = await within(new Promise((r) => { child.on('close', r); }), 20000, command);
  return { code, out, err };
}
const has = (command) => spawnSync(command, ['--version']).status === 0;

test('330 refusals at 20 MB can be read by python3', { skip: !has('python3') && 'no python3' }, async (t) => {
  const w = await refusing(t);
  const url = new URL(w.proxy.url);
  const program = `
import http.client, json, sys
for path, key, chunked in json.loads(sys.argv[3]):
    c = http.client.HTTPConnection(sys.argv[1], int(sys.argv[2]), timeout=15)
    body = b'{"model":"m","pad":"' + b'x' * 20000000 + b'"}'
    data = (body[i:i + 65536] for i in range(0, len(body), 65536)) if chunked else body
    c.request('POST', path, data, {'Content-Type': 'application/json', 'Authorization': 'Bearer ' + key}, encode_chunked=chunked)
    r = c.getresponse()
    print(r.status, json.loads(r.read())['error']['code'])
`;
  const cases = [[chat.path, 'the-key', false], [chat.path, 'nope', false], ['/nowhere', 'the-key', false], [chat.path, 'the-key', true]];
  const { code, out, err } = await output('python3', ['-c', program, url.hostname, url.port, JSON.stringify(cases)]);
  assert.equal(code, 0, err);
  // A body without a length is too large only when it is: then it may be told while the client is still writing.
  assert.deepEqual(out.trim().split('\n'), ['413 request_too_large', '401 invalid_api_key', '404 not_found', '413 request_too_large']);
  assert.equal(w.a.calls, 0);
});

test('330 refusals at 20 MB can be read by curl, with and without Expect', { skip: !has('curl') && 'no curl' }, async (t) => {
  const w = await refusing(t);
  const text = big();
  for (const [name, { headers, path = chat.path, status, code }] of Object.entries(REFUSED)) {
    for (const how of [[], ['-H', 'Expect:'], ['-H', 'Transfer-Encoding: chunked'], ['-H', 'Transfer-Encoding: chunked', '-H', 'Expect:']]) {
      const args = ['-sS', '--noproxy', '*', '-m', '15', '-w', '\n%{http_code}', '-H', `Authorization: ${headers?.authorization ?? 'Bearer the-key'}`, ...how, '--data-binary', '@-', `${w.proxy.url}${path}`];
      const r = await output('curl', args, text);
      assert.equal(r.code, 0, `${name} ${how}: ${r.err}`);
      const [answer, http] = r.out.split('\n');
      assert.equal(http, String(status), `${name} ${how}`);
      assert.equal(JSON.parse(answer).error.code, code, `${name} ${how}`);
    }
  }
  assert.equal(w.a.calls, 0);
});

for (const route of EACH_ROUTE) {
  test(`330 ${route.name}: Expect: 100-continue is answered at once, with 100 or with the refusal`, async (t) => {
    const w = await world(t, { route, steps: [good()], config: { limits: { body: '1MiB' } } });
    const text = JSON.stringify(route.body('m'));
    const c = new Connection(w.proxy.url);
    w.later(() => c.destroy());
    const answer = c.send({ path: route.path, headers: { Expect: '100-continue', 'Content-Length': text.length } });
    await until(() => answer.interim.includes(100), { timeout: 2000, what: '100 Continue' });
    assert.equal(w.a.calls, 0);
    c.write(text);
    await within(answer.done.promise, 5000, 'the answer');
    assert.equal(answer.status, 200);
    assert.deepEqual(answer.interim, [100]);
    assert.ok(!w.a.last.headers.has('expect'), 'not passed on');
    const refused = new Connection(w.proxy.url);
    w.later(() => refused.destroy());
    const no = refused.send({ path: route.path, headers: { Expect: '100-continue', 'Content-Length': 20_000_000 } });
    await within(no.done.promise, 2000, 'the refusal without a byte of the body');
    assert.deepEqual(no.interim, []);
    checkRefusal(no, route, 'tooLarge');
    assert.equal(w.a.calls, 1);
    assert.equal((await w.post(modelRequest(route))).status, 200);
  });
}
