// What comes before the first content is held back: a stream that fails there is replaced whole, and commits at the first content.
import test from 'node:test';
import assert from 'node:assert/strict';
import { world } from './lib/world.mjs';
import { EACH_ROUTE, ROUTES, fixture, whole } from './lib/routes.mjs';
import { answer, good, stream, streamThen } from './lib/upstream.mjs';
import { checkBroken, checkRefusal } from './lib/check.mjs';
import { deferred } from './lib/wait.mjs';

for (const route of EACH_ROUTE) {
  const goodBytes = fixture(route, 'success-stream.sse').toString();

  for (const [kind, bytes] of Object.entries(route.errors)) {
    test(`040 F1 ${route.name}: ${kind} as the first event moves on`, async (t) => {
      const w = await world(t, { route, steps: [stream(bytes), good()] });
      const r = await w.post({ stream: true });
      assert.equal(r.status, 200);
      assert.equal(r.text, goodBytes);
      assert.equal(r.end, 'clean');
      assert.equal(r.header('x-bullpen-trail'), 'a/m-a=stream_error, b/m-b=200');
      assert.equal((await w.proxy.requestLine()).outcome, 'ok');
    });

    test(`040 F6 ${route.name}: ${kind} after each length of preamble moves on, no byte of it is seen`, async (t) => {
      const steps = route.preamble.map((_, i) => stream(...route.preamble.slice(0, i + 1), bytes));
      for (const step of steps) {
        const w = await world(t, { route, steps: [step, good()] });
        const r = await w.post({ stream: true });
        assert.equal(r.text, goodBytes);
        assert.equal(w.a.calls, 1);
        assert.equal(w.b.calls, 1);
      }
    });

    test(`040 ${route.name}: ${kind} from every candidate is an HTTP error of its kind, not a 200`, async (t) => {
      const policy = 'local p = {}\nfunction p.classify(r, a) if a.number == 2 then return "accept" end return "next" end\nreturn p';
      const w = await world(t, { route, policy, steps: [stream(route.preamble[0], bytes), stream(...route.preamble, bytes)] });
      const r = await w.post({ stream: true });
      assert.equal(r.status, route.errorStatus[kind], r.text);
      assert.match(r.header('content-type'), /^application\/json/);
      assert.equal(typeof r.json.error.message, 'string');
      if (route.anthropic) assert.equal(r.json.type, 'error');
      assert.equal(w.b.calls, 1);
      assert.equal((await w.proxy.requestLine()).status, route.errorStatus[kind]);
    });
  }

  test(`040 ${route.name}: all candidates fail before content: exhausted, not a 200`, async (t) => {
    const [bytes] = Object.values(route.errors);
    const w = await world(t, { route, steps: [stream(...route.preamble, bytes), stream(bytes)] });
    const r = await w.post({ stream: true });
    // Overloaded from everybody may be said as 529 where the API has that word.
    checkRefusal(r, route, route.anthropic && r.status === 529 ? 'exhausted529' : 'exhausted502');
    assert.equal(r.header('x-bullpen-trail'), 'a/m-a=stream_error, b/m-b=stream_error');
    assert.match(r.header('retry-after') ?? '', /^\d+$/);
    assert.equal((await w.proxy.requestLine()).status, r.status);
  });

  for (const [kind, bytes] of Object.entries(route.contents)) {
    test(`040 F3 ${route.name}: ${kind} commits, with the preamble before it byte for byte`, async (t) => {
      const seen = deferred();
      const step = streamThen([...route.preamble, bytes], async (io) => { await seen.promise; io.reset(); });
      const w = await world(t, { route, steps: [step, good()] });
      const { answer, done } = w.open({ stream: true });
      await answer.until((text) => text === [...route.preamble, bytes].join(''));
      seen.resolve();
      await done();
      assert.equal(w.b.calls, 0, 'no second upstream after content');
      assert.equal(answer.text.slice(0, [...route.preamble, bytes].join('').length), [...route.preamble, bytes].join(''));
      assert.equal(answer.header('x-bullpen-candidate'), 'a/m-a');
    });
  }

  test(`040 ${route.name}: partial events of attempt 1 do not poison attempt 2`, async (t) => {
    const partial = streamThen([...route.preamble, route.content.slice(0, -5)], (io) => io.reset());
    const w = await world(t, { route, steps: [partial, stream(whole(route))] });
    const r = await w.post({ stream: true });
    assert.equal(r.text, whole(route));
    assert.equal(r.end, 'clean');
  });

  test(`040 ${route.name}: headers of attempt 1 do not reach the client with attempt 2`, async (t) => {
    const first = (io) => { io.sse({ 'x-first': 'leak', 'x-request-id': 'req_first', 'openai-version': 'leak' }); io.chunk(route.preamble[0]); io.reset(); };
    const second = (io) => { io.sse({ 'x-second': 'yes' }); io.chunk(whole(route)); io.lastChunk(); };
    const w = await world(t, { route, steps: [first, second] });
    const r = await w.post({ stream: true });
    assert.equal(r.text, whole(route));
    assert.equal(r.header('x-second'), 'yes');
    assert.equal(r.header('x-first'), undefined);
    assert.equal(r.header('x-request-id'), undefined);
    assert.equal(r.header('openai-version'), undefined);
  });

  test(`040 F6 ${route.name}: a full buffer commits; memory is bounded`, async (t) => {
    const filler = route.anthropic ? 'event: ping\ndata: {"type":"ping"}\n\n' : ': keepalive keepalive keepalive keepalive\n\n';
    const flood = filler.repeat(300);
    const seen = deferred();
    const step = streamThen([flood], async (io) => { await seen.promise; io.reset(); });
    const w = await world(t, { route, steps: [step, good()], config: { limits: { buffer: '4KiB' } } });
    const { answer, head, done } = w.open({ stream: true });
    await head();
    assert.equal(answer.status, 200);
    await answer.until((text) => text.length >= 4096);
    seen.resolve();
    await done();
    assert.equal(w.b.calls, 0);
    assert.notEqual(answer.end, 'clean');
  });

  test(`040 ${route.name}: timeouts.hold releases the preamble, and that is the commit`, async (t) => {
    const seen = deferred();
    const step = streamThen(route.preamble, async (io) => { await seen.promise; io.reset(); });
    const w = await world(t, { route, steps: [step, good()], config: { timeouts: { hold: 0.2, first_event: 30 } } });
    const { answer, done } = w.open({ stream: true });
    await answer.until((text) => text === route.preamble.join(''));
    seen.resolve();
    await done();
    checkBroken(answer, route, route.preamble.join(''), { sequence: 4 });
    assert.equal(w.b.calls, 0);
  });

  test(`040 ${route.name}: hold = 0 never releases what is held by time`, async (t) => {
    const [bytes] = Object.values(route.errors);
    const go = deferred();
    const step = streamThen(route.preamble, async (io) => { await go.promise; io.chunk(bytes); io.lastChunk(); });
    const w = await world(t, { route, steps: [step, good()], config: { timeouts: { hold: 0 } } });
    const { answer, done } = w.open({ stream: true });
    await w.a.waitDone(1);
    // Two whole requests go by meanwhile: time enough for a timer of zero.
    for (let i = 0; i < 2; i++) assert.equal((await w.proxy.admin('GET', '/healthz')).status, 200);
    go.resolve();
    await done();
    assert.equal(answer.text, goodBytes);
    assert.equal(answer.header('x-bullpen-candidate'), 'b/m-b');
  });
}

test('040 a client sees its head only with the commit', async (t) => {
  const route = ROUTES.messages;
  const go = deferred();
  const step = streamThen(route.preamble, async (io) => { await go.promise; io.chunk(route.content); for (const p of route.ending) io.chunk(p); io.lastChunk(); });
  const w = await world(t, { route, steps: [step] });
  const { connection, answer, done } = w.open({ stream: true });
  await w.a.waitDone(1);
  // A request made after the preamble was sent is answered whole meanwhile: the first one still has no byte.
  assert.equal((await w.proxy.admin('GET', '/healthz')).status, 200);
  assert.equal(connection.bytes.length, 0);
  go.resolve();
  await done();
  assert.equal(answer.text, [...route.preamble, route.content, ...route.ending].join(''));
});

for (const route of EACH_ROUTE)
  test(`040 ${route.name}: a plain 200 whose body is an error is no success: it moves on, and alone it is an HTTP error`, async (t) => {
    const body = route.anthropic
      ? '{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}'
      : '{"error":{"message":"Overloaded","type":"server_error","param":null,"code":"server_is_overloaded"}}';
    const lie = answer(200, { 'content-type': 'application/json' }, body);
    const w = await world(t, { route, steps: [[lie], [good()]] });
    const r = await w.post();
    assert.equal(r.status, 200);
    assert.equal(r.header('x-bullpen-trail'), 'a/m-a=stream_error, b/m-b=200');
    const alone = await world(t, { route, steps: [[lie]] });
    assert.ok((await alone.post()).status >= 500);
  });
