// What the client hears when nobody could answer: the right status, when to come back, and whether that helps.
import test from 'node:test';
import assert from 'node:assert/strict';
import { world, BUILTIN } from './lib/world.mjs';
import { EACH_ROUTE, fixture } from './lib/routes.mjs';
import { answer, good, reset, status, stream } from './lib/upstream.mjs';
import { checkRefusal } from './lib/check.mjs';

const NEXT = 'local p = {}\nfunction p.classify() return "next" end\nreturn p';

for (const route of EACH_ROUTE) {
  for (const isStream of [false, true]) {
    const kind = `${route.name} ${isStream ? 'stream' : 'plain'}`;

    test(`140 P6 F2 ${kind}: exhausted statuses`, async (t) => {
      const cases = [
        [[429, 429], 'exhausted429'], [[529, 529], 'exhausted529'], [[429, 529], 'exhausted429'], [[529, 429], 'exhausted429'],
        [[503, 503], 'exhausted502'], [[429, 503], 'exhausted502'], [[500, 529], 'exhausted502'], [[401, 403], 'exhausted502'],
      ];
      const w = await world(t, { route, policy: NEXT, steps: [good(), good()] });
      for (const [codes, name] of cases) {
        w.a.script(status(codes[0])); w.b.script(status(codes[1]));
        const r = await w.post({ stream: isStream });
        checkRefusal(r, route, name);
        assert.equal(r.header('x-bullpen-trail'), `a/m-a=${codes[0]}, b/m-b=${codes[1]}`);
        assert.match(r.header('retry-after') ?? '', /^([1-9]|[1-5]\d|60)$/, `retry-after after ${codes}`);
        assert.ok(!/m-a|127\.0\.0\.1|key-a/.test(r.text), 'the message is general');
      }
    });

    test(`140 P6 ${kind}: "last" passes the last status answer verbatim`, async (t) => {
      const policy = `${NEXT.replace('return p', '')}\nfunction p.exhausted() return "last" end\nreturn p`;
      const body = fixture(route, 'error-500.json');
      const w = await world(t, { route, policy, steps: [status(500, '{"type":"error","error":{"type":"x","message":"first"}}'), status(503, body)] });
      const r = await w.post({ stream: isStream });
      assert.equal(r.status, 503);
      assert.deepEqual(r.body, body);
      w.b.script(reset());
      const mixed = await w.post({ stream: isStream });
      assert.ok([500, 502].includes(mixed.status), `${mixed.status}`);
      if (mixed.status === 500) assert.match(mixed.text, /"first"/);
      w.a.script(reset());
      checkRefusal(await w.post({ stream: isStream }), route, 'exhausted502');
    });
  }

  test(`140 W8 ${route.name}: a 200 with nothing in it is empty: the next one; if last, a real error`, async (t) => {
    const empties = {
      'no body': (io) => { io.sse(); io.lastChunk(); },
      'content-length 0': answer(200, { 'content-type': 'text/event-stream' }, ''),
      'comments only': stream(': a\n\n', ': b\n\n'),
      ...(route.anthropic || route.name === 'responses' ? {} : { '[DONE] alone': stream('data: [DONE]\n\n') }),
    };
    for (const [name, step] of Object.entries(empties)) {
      const w = await world(t, { route, steps: [step, good()] });
      const r = await w.post({ stream: true });
      assert.equal(r.header('x-bullpen-trail'), 'a/m-a=empty, b/m-b=200', name);
      assert.equal(r.text, fixture(route, 'success-stream.sse').toString());
      await w.proxy.requestLine();
      assert.equal(w.proxy.requestLines().length, 1);
      const alone = await world(t, { route, steps: [step] });
      checkRefusal(await alone.post({ stream: true }), route, 'exhausted502');
      assert.equal((await alone.proxy.requestLine()).outcome, 'empty');
    }
    const plain = await world(t, { route, steps: [answer(200, { 'content-type': 'application/json' }, ''), good()] });
    assert.equal((await plain.post()).header('x-bullpen-trail'), 'a/m-a=empty, b/m-b=200');
  });

  test(`140 ${route.name}: the wrong kind of 200 moves on`, async (t) => {
    const json = fixture(route, 'success.json');
    const sse = fixture(route, 'success-stream.sse');
    const html = '<!doctype html><html>hello</html>';
    const wrong = [
      [true, answer(200, { 'content-type': 'application/json' }, json)], [true, answer(200, { 'content-type': 'application/json' }, '{"error":{"message":"x"}}')],
      [true, answer(200, { 'content-type': 'text/html' }, html)], [true, answer(200, {}, json)], [true, answer(200, { 'content-type': 'text/plain' }, html)],
      [false, answer(200, { 'content-type': 'text/event-stream' }, sse)], [false, answer(200, {}, sse)],
    ];
    for (const [i, [isStream, step]] of wrong.entries()) {
      const w = await world(t, { route, steps: [step, good()] });
      const r = await w.post({ stream: isStream });
      assert.equal(r.header('x-bullpen-trail'), 'a/m-a=wrong_type, b/m-b=200', `case ${i}`);
      assert.equal(r.text, fixture(route, isStream ? 'success-stream.sse' : 'success.json').toString());
    }
    // A missing or odd type whose first byte fits is taken.
    const w = await world(t, { route, steps: [[answer(200, {}, sse), answer(200, { 'content-type': 'text/plain' }, json)], [good()]] });
    assert.equal((await w.post({ stream: true })).header('x-bullpen-candidate'), 'a/m-a');
    assert.equal((await w.post()).header('x-bullpen-candidate'), 'a/m-a');
  });

  test(`140 ${route.name}: truncation that looks like success, before content, moves on`, async (t) => {
    const w = await world(t, { route, steps: [stream(...route.preamble), good()] });
    const r = await w.post({ stream: true });
    assert.equal(r.header('x-bullpen-trail'), 'a/m-a=truncated, b/m-b=200');
    assert.equal(r.text, fixture(route, 'success-stream.sse').toString());
  });

  test(`140 ${route.name}: an HTML 502 from a proxy in front moves on; alone it is told in the route's shape`, async (t) => {
    const html = '<html><head><title>502 Bad Gateway</title></head><body>cloudflare</body></html>';
    const w = await world(t, { route, steps: [answer(502, { 'content-type': 'text/html' }, html), good()] });
    assert.equal((await w.post({ stream: true })).header('x-bullpen-trail'), 'a/m-a=502, b/m-b=200');
    const policy = 'local p = {}\nfunction p.classify() return "accept" end\nreturn p';
    const alone = await world(t, { route, policy, steps: [answer(502, { 'content-type': 'text/html' }, html)] });
    const r = await alone.post({ stream: true });
    assert.equal(r.status, 502);
    assert.match(r.header('content-type'), /json/);
    assert.match(r.json.error.message, /502 Bad Gateway/);
  });

  test(`140 ${route.name}: x-should-retry and retry-after`, async (t) => {
    const dead = await world(t, { route, policy: BUILTIN, steps: [status(401), status(403)] });
    const r = await dead.post();
    checkRefusal(r, route, 'exhausted502');
    assert.equal(r.header('x-should-retry'), 'false');
    const held = await world(t, { route, policy: BUILTIN, steps: [status(503)] });
    await held.proxy.admin('PUT', '/api/benches/a', { for: null, reason: 'x' });
    held.a.script(status(401));
    assert.equal((await held.post()).header('x-should-retry'), 'false');
    const transient = await world(t, { route, policy: NEXT, steps: [status(503), status(401)] });
    assert.equal((await transient.post()).header('x-should-retry'), undefined);
    // The soonest one back, plus up to a quarter.
    const policy = 'local p = {}\nfunction p.classify(r, a) return "next", { bench = a.candidate.upstream == "a" and 40 or 20 } end\nreturn p';
    const soon = await world(t, { route, policy, steps: [status(429, '{"error":{"message":"x"}}'), status(503)] });
    const after = Number((await soon.post()).header('retry-after'));
    assert.ok(after >= 19 && after <= 26, `retry-after ${after}`);
  });

  test(`140 ${route.name}: a passed retry-after over 60 is sent as 60; a passing limit keeps its own`, async (t) => {
    const policy = 'local p = {}\nfunction p.classify() return "accept" end\nreturn p';
    const w = await world(t, { route, policy, steps: [[status(429, undefined, { 'retry-after': '3600' }), status(429, undefined, { 'retry-after': '17' })]] });
    const long = await w.post();
    assert.equal(long.status, 429);
    assert.equal(long.header('retry-after'), '60');
    assert.deepEqual(long.body, fixture(route, 'error-429.json'));
    assert.equal((await w.post()).header('retry-after'), '17');
    const exhausted = await world(t, { route, policy: NEXT, steps: [status(429, undefined, { 'retry-after': '17' })] });
    assert.equal((await exhausted.post()).header('retry-after'), '17');
  });

  test(`140 ${route.name}: an error body is judged at 64 KiB or 2 s, and accept relays what is held and the rest`, async (t) => {
    const body = JSON.stringify({ type: 'error', error: { type: 'invalid_request_error', message: `x${'y'.repeat(300_000)}`, param: null, code: null } });
    const w = await world(t, { route, policy: BUILTIN, steps: [status(400, body)] });
    const r = await w.post();
    assert.equal(r.status, 400);
    assert.equal(r.text, body);
    w.a.script(async (io) => { io.head(400, { 'content-type': 'application/json' }, body.length); io.raw(body.slice(0, 100)); await new Promise((done) => setTimeout(done, 2400)); io.raw(body.slice(100)); });
    const slow = await w.post();
    assert.equal(slow.status, 400);
    assert.equal(slow.text, body);
  });
}
