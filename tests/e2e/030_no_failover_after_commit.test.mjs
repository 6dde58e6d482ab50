// After the first content there is no failover: the stream ends with one error frame and an unclean close, and nothing is spliced in.
import test from 'node:test';
import assert from 'node:assert/strict';
import { world } from './lib/world.mjs';
import { EACH_ROUTE, whole } from './lib/routes.mjs';
import { good, streamThen } from './lib/upstream.mjs';
import { checkBroken, checkFrame } from './lib/check.mjs';
import { Connection, modelRequest } from './lib/client.mjs';
import { deferred } from './lib/wait.mjs';

// Logs the type of every event, and lets one try be enough.
const OBSERVED = {
  policy: `
local policy = {}
function policy.classify(request, attempt) if attempt.committed then return "stop" end return "next" end
function policy.observe(event) bullpen.log("info", "told", { type = event.type, outcome = event.outcome }) end
return policy`,
};

const ENDS = {
  reset: (io) => io.reset(),
  'FIN without the last chunk': (io) => io.fin(),
  'a clean end before the terminal event': (io) => io.lastChunk(),
  'silence for idle': (io) => io.gone,
};
const OUTCOME = { reset: ['reset'], 'FIN without the last chunk': ['truncated', 'reset'], 'a clean end before the terminal event': ['truncated'], 'silence for idle': ['idle_timeout'] };

for (const route of EACH_ROUTE) {
  for (const [name, end] of Object.entries(ENDS)) {
    test(`030 W9 F3 ${route.name}: content, then ${name}`, async (t) => {
      const seen = deferred();
      const relayed = [...route.preamble, route.content, route.more].join('');
      const step = streamThen([...route.preamble, route.content, route.more], async (io) => { await seen.promise; await end(io); });
      const w = await world(t, { route, steps: [step, good()], ...OBSERVED, config: { timeouts: { idle: 0.4 } } });
      const { answer, done } = w.open({ stream: true });
      await answer.until('BBBB');
      seen.resolve();
      await done();
      checkBroken(answer, route, relayed, { sequence: 6 });
      assert.equal(w.a.calls, 1);
      assert.equal(w.b.calls, 0);
      const line = await w.proxy.requestLine();
      assert.ok(OUTCOME[name].includes(line.outcome), `outcome ${line.outcome}`);
      assert.equal(line.attempts, 1);
      assert.equal(line.status, 200);
      const told = (await w.proxy.waitForLog({ message: 'told', type: 'finished' })) && w.proxy.logs.filter((l) => l.message === 'told').map((l) => l.type);
      assert.ok(told.includes('committed'), `events ${told}`);
      assert.equal(told.filter((type) => type === 'failed_over').length, 0);
      assert.equal(told.filter((type) => type === 'finished').length, 1);
    });
  }

  test(`030 W9 ${route.name}: the unfinished tail of a broken stream is dropped`, async (t) => {
    const seen = deferred();
    const step = streamThen([...route.preamble, route.content, `${route.more}${route.other.slice(0, -4)}`], async (io) => { await seen.promise; io.reset(); });
    const w = await world(t, { route, steps: [step, good()] });
    const { answer, done } = w.open({ stream: true });
    await answer.until('BBBB');
    assert.ok(!answer.text.includes('ZZZZ'), 'an unfinished event is kept back');
    seen.resolve();
    await done();
    checkBroken(answer, route, [...route.preamble, route.content, route.more].join(''), { sequence: 6 });
  });

  test(`030 ${route.name}: an upstream's own error event after content is relayed and nothing is added`, async (t) => {
    for (const bytes of Object.values(route.errors)) {
      const parts = [...route.preamble, route.content, bytes];
      const w = await world(t, { route, steps: [streamThen(parts, (io) => io.lastChunk()), good()] });
      const r = await w.post({ stream: true });
      assert.equal(r.status, 200);
      assert.equal(r.text, parts.join(''));
      assert.equal(w.b.calls, 0);
      assert.equal((await w.proxy.requestLine()).outcome, 'stream_error');
    }
  });

  test(`030 ${route.name}: after the terminal event a reset changes nothing`, async (t) => {
    const step = streamThen([whole(route)], (io) => io.socket.write('', () => setImmediate(() => io.reset())));
    const w = await world(t, { route, steps: [step, good()] });
    const r = await w.post({ stream: true });
    assert.equal(r.text, whole(route));
    assert.equal(r.end, 'clean');
    const line = await w.proxy.requestLine();
    assert.equal(line.outcome, 'ok');
    assert.deepEqual(await w.proxy.benches(), []);
  });

  test(`030 ${route.name}: an upstream that stays open after the terminal event does not hold the client`, async (t) => {
    const step = streamThen([whole(route)], (io) => io.gone);
    const w = await world(t, { route, steps: [step, good()], config: { timeouts: { idle: 30 } } });
    const r = await w.post({ stream: true, timeout: 4000 });
    assert.equal(r.text, whole(route));
    assert.equal(r.end, 'clean');
    await w.a.waitClosed();
    assert.equal((await w.proxy.requestLine()).outcome, 'ok');
  });

  test(`030 ${route.name}: an HTTP/1.0 client gets the frame and a close`, async (t) => {
    const seen = deferred();
    const step = streamThen([...route.preamble, route.content], async (io) => { await seen.promise; io.reset(); });
    const w = await world(t, { route, steps: [step, good()] });
    const c = new Connection(w.proxy.url);
    w.later(() => c.destroy());
    const answer = c.send({ ...modelRequest(route, { stream: true }), version: '1.0' });
    await answer.until('AAAA');
    seen.resolve();
    await c.waitClosed();
    const relayed = [...route.preamble, route.content].join('');
    assert.equal(answer.text.slice(0, relayed.length), relayed);
    checkFrame(route, answer.text.slice(relayed.length), { id: answer.header('x-bullpen-request-id'), sequence: 5 });
  });
}
