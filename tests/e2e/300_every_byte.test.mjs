// An answer cut at any byte: before the commit the client sees the second upstream's bytes alone; after it whole events, one error frame and an unclean end.
import test from 'node:test';
import assert from 'node:assert/strict';
import { world } from './lib/world.mjs';
import { EACH_ROUTE, fixture, fixtureHead, whole } from './lib/routes.mjs';
import { checkFrame } from './lib/check.mjs';
import { keptClient, modelRequest } from './lib/client.mjs';
import { inParallel } from './lib/wait.mjs';

const NEXT = 'local p = {}\nfunction p.classify() return "next" end\nreturn p';
const WIDTH = { stall: 600 };

// Each request says in a header how its first upstream is to fail; one that is silent is given up soon, and only there.
async function cutAll(t, route, { jobs, stream, timeouts, cut, second, check }) {
  const steps = [(io, req) => {
    const [kind, at, more] = req.headers.get('x-cut').split(' ');
    io.socket.cork();
    cut(io, Number(at), more);
    io.socket.uncork();
    return END[kind](io);
  }, second];
  const w = await world(t, { route, policy: NEXT, steps, upstream: { a: { timeouts: { first_event: 0.2, idle: 0.2, ...timeouts } }, b: {} }, config: { workers: 2 } });
  const served = { a: 0, b: 0 };
  const one = async (job, ask) => {
    const headers = { 'Content-Type': 'application/json', 'x-cut': `${job.kind} ${job.at} ${job.framing ?? '-'}` };
    const r = await ask({ ...modelRequest(route, { stream }), headers }, { timeout: 30000 });
    try {
      assert.equal(r.status, 200);
      served[check(job, r)]++;
    } catch (error) {
      error.message = `${job.kind} at ${job.at} ${job.framing ?? ''}: ${error.message}\n${r.end} ${r.header('x-bullpen-trail')} ${JSON.stringify(r.text)}`;
      throw error;
    }
  };
  for (const kind of Object.keys(END)) {
    const clients = [];
    await inParallel(jobs.filter((job) => job.kind === kind), WIDTH[kind] ?? 24, (job, lane) => one(job, clients[lane] ??= keptClient(w.proxy.url)));
    for (const client of clients) client.close();
  }
  assert.equal(w.b.calls, served.b);
  assert.ok(served.a > 0 && served.b > 0);
  assert.deepEqual(await w.proxy.benches(), []);
  assert.equal(await w.proxy.metric('bullpen_requests_total'), jobs.length);
}

const END = {
  reset: (io) => io.reset(),
  clean: (io) => io.lastChunk(),
  fin: (io) => io.fin(),
  stall: (io) => io.gone,
};

// ---- streams ----

// Where events end, which one commits, which one says why the model stopped, and where the last one ends.
function anatomy(route, text) {
  const ends = [...text.matchAll(/\n\n/g)].map((m) => m.index + 2);
  const events = ends.map((end, i) => ({ end, text: text.slice(ends[i - 1] ?? 0, end) }));
  const content = { chat: /"content":"[^"]/, responses: /output_text\.delta/, messages: /content_block_delta/ }[route.name];
  const finish = { chat: /"finish_reason":"/, responses: /event: response\.completed/, messages: /event: message_stop/ }[route.name];
  const commit = events.find((e) => content.test(e.text)).end;
  const finished = events.find((e) => finish.test(e.text)).end;
  assert.ok(commit < finished);
  return { commit, finished, terminal: ends.at(-1), wholeUpTo: (n) => ends.findLast((end) => end <= n) ?? 0 };
}

// A frame's number goes on from the last one that was seen.
const numberAfter = (text) => Number([...text.matchAll(/"sequence_number":\s*(\d+)/g)].at(-1)?.[1] ?? -1) + 1;

// The last event without its blank line: is its data whole, and does it end the stream?
function isWhole(tail) {
  const data = /(?:^|\n)data: (.*)\n?$/.exec(tail)?.[1];
  if (data === '[DONE]') return true;
  try { return Boolean(JSON.parse(data)); } catch { return false; }
}
const ENDING = { chat: /"finish_reason":"|\[DONE\]/, responses: /response\.completed/, messages: /message_stop/ };

function checkCut(route, text, parts, second, { kind, at }, r) {
  if (at < parts.commit) {
    assert.equal(r.text, second);
    assert.equal(r.end, 'clean');
    assert.equal(r.header('x-bullpen-candidate'), 'b/m-b');
    return 'b';
  }
  const wholeEvents = text.slice(0, parts.wholeUpTo(at)), tail = text.slice(wholeEvents.length, at);
  assert.equal(r.header('x-bullpen-candidate'), 'a/m-a');
  assert.equal(r.header('x-bullpen-attempts'), '1');
  if (at >= parts.terminal) {
    assert.equal(r.text, text);
    assert.equal(r.end, 'clean');
  } else if (kind === 'clean' && r.end === 'clean') {
    // An end that the framing vouches for is good after chat's finish reason, or with a last event that lacks nothing but its blank line.
    const ending = isWhole(tail) && ENDING[route.name].test(tail);
    assert.ok(ending || (route.name === 'chat' && at >= parts.finished), 'a silent end');
    if (!ending || r.text.length !== at) assert.equal(r.text, wholeEvents);
    else assert.equal(r.text, text.slice(0, at));
  } else {
    assert.equal(r.text.slice(0, wholeEvents.length), wholeEvents);
    checkFrame(route, r.text.slice(wholeEvents.length), { id: r.header('x-bullpen-request-id'), sequence: numberAfter(wholeEvents) });
    assert.notEqual(r.end, 'clean');
  }
  return 'a';
}

for (const route of EACH_ROUTE) {
  test(`300 ${route.name}: a recorded stream cut at every byte`, async (t) => {
    const bytes = fixture(route, 'success-stream.sse');
    const text = bytes.toString();
    const second = whole(route).replaceAll('AAAA', 'second');
    const parts = anatomy(route, text);
    // Every byte by reset and by a clean end. The other two ends do not look at the bytes: every seventh, and all around the ends of events.
    const near = (at) => [-2, -1, 0, 1].some((d) => parts.wholeUpTo(at - d) === at - d);
    const all = Array.from({ length: bytes.length + 1 }, (_, at) => at);
    const jobs = Object.keys(END).flatMap((kind) => all.filter((at) => kind === 'reset' || kind === 'clean' || at % 7 === 0 || near(at)).map((at) => ({ kind, at })));
    await cutAll(t, route, {
      jobs, stream: true,
      cut: (io, at) => { io.sse(); io.chunk(bytes.subarray(0, at)); },
      second: (io) => { io.sse(); io.chunk(second); io.lastChunk(); },
      check: (job, r) => checkCut(route, text, parts, second, job, r),
    });
  });
}

// ---- plain answers ----

// The bytes of a whole answer in each framing, and where its JSON ends.
function recorded(route) {
  const short = { chat: '{"id":"c1","choices":[{"index":0,"message":{"role":"assistant","content":"hi"},"finish_reason":"stop"}]}\n',
    responses: '{"id":"r1","status":"completed","output":[{"type":"message","content":[{"type":"output_text","text":"hi"}]}]}\n' }[route.name];
  const body = short ?? fixture(route, 'success.json').toString();
  const fields = [...fixtureHead(route, 'success.json').headers.filter(([n]) => !/^(content-length|transfer-encoding|connection)$/i.test(n)).slice(0, 4)];
  const head = (framing) => `HTTP/1.1 200 OK\r\n${[...fields, ...framing].map(([n, v]) => `${n}: ${v}\r\n`).join('')}\r\n`;
  const half = body.length >> 1;
  const chunk = (text) => `${text.length.toString(16)}\r\n${text}\r\n`;
  return { body, framings: {
    length: head([['content-length', body.length]]) + body,
    chunked: `${head([['transfer-encoding', 'chunked']])}${chunk(body.slice(0, half))}${chunk(body.slice(half))}0\r\n\r\n`,
    close: head([['connection', 'close']]) + body,
  } };
}

for (const route of EACH_ROUTE) {
  test(`300 ${route.name}: a plain answer cut at every byte of head and body, in each framing`, async (t) => {
    const { body, framings } = recorded(route);
    const second = JSON.stringify({ second: 'upstream' });
    const jobs = ['reset', 'fin', 'stall'].flatMap((kind) => Object.entries(framings).flatMap(([framing, text]) =>
      Array.from({ length: text.length + (kind === 'stall' ? 0 : 1) }, (_, at) => ({ kind, at, framing, text }))));
    await cutAll(t, route, {
      jobs, stream: false, timeouts: { headers: 0.3 },
      cut: (io, at, framing) => { if (at) io.raw(framings[framing].slice(0, at)); },
      second: (io) => io.answer(200, { 'content-type': 'application/json' }, second),
      check: ({ kind, at, framing, text }, r) => {
        // Close-delimited, nothing but the JSON itself tells whether it is whole. The blank line after the last chunk's size may be missed.
        const untold = framing === 'chunked' && kind !== 'stall' && at >= text.length - 2 && at < text.length;
        const isAll = untold ? r.header('x-bullpen-candidate') === 'a/m-a' : framing === 'close' ? kind === 'fin' && at >= text.trimEnd().length : at === text.length;
        assert.equal(r.header('x-bullpen-candidate'), isAll ? 'a/m-a' : 'b/m-b');
        assert.equal(r.text, !isAll ? second : framing === 'close' ? body.slice(0, body.length - (text.length - at)) : body);
        assert.equal(r.end, 'clean');
        return isAll ? 'a' : 'b';
      },
    });
  });
}
