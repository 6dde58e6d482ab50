// SIGTERM: what runs is finished, what comes anew is 503, then exit status 0. A second signal closes at once. SIGHUP reloads.
import test from 'node:test';
import assert from 'node:assert/strict';
import fs from 'node:fs';
import { world } from './lib/world.mjs';
import { EACH_ROUTE, ROUTES } from './lib/routes.mjs';
import { good, silent, streamThen } from './lib/upstream.mjs';
import { Connection, modelRequest, request } from './lib/client.mjs';
import { checkRefusal } from './lib/check.mjs';
import { deferred, until, within } from './lib/wait.mjs';

for (const route of EACH_ROUTE) {
  test(`220 ${route.name}: a running stream is finished, a new request on an open connection is 503, then exit 0`, async (t) => {
    const go = deferred();
    const step = streamThen([...route.preamble, route.content], async (io) => { await go.promise; io.chunk(route.more); for (const p of route.ending) io.chunk(p); io.lastChunk(); });
    const w = await world(t, { route, steps: [[step, good()]], config: { timeouts: { drain: 20 } } });
    const { connection, answer, done } = w.open({ stream: true });
    await answer.until('AAAA');
    // One connection is in the middle of a request's head when the drain begins. The refusal on another one proves that the worker has read it.
    const open = new Connection(w.proxy.url);
    w.later(() => open.destroy());
    const late = open.expect();
    const body = JSON.stringify(route.body('m'));
    open.write(`POST ${route.path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: ${body.length}\r\n`);
    await until(() => !open.socket.connecting && open.socket.writableLength === 0, { what: 'half a head to be sent' });
    assert.equal((await w.post({ model: 'nope' })).status, 404);
    assert.equal((await w.proxy.admin('GET', '/readyz')).status, 200);
    w.proxy.signal('SIGTERM');
    await until(async () => { try { return (await w.proxy.admin('GET', '/readyz')).status === 503; } catch { return false; } }, { what: '/readyz to be 503' });
    open.write(`\r\n${body}`);
    await within(late.done.promise, 5000, 'the answer on the open connection');
    checkRefusal(late, route, 'overloaded');
    assert.match(late.header('connection') ?? '', /close/i);
    const behind = connection.send(modelRequest(route));
    await assert.rejects(within(request(w.proxy.url, modelRequest(route)).then((r) => { if (r.status !== 200) throw new Error('refused'); }), 5000, 'x'), 'no new connection is served');
    assert.equal(answer.end, null, 'the stream goes on');
    go.resolve();
    await done();
    assert.equal(answer.end, 'clean');
    assert.equal(answer.text, [...route.preamble, route.content, route.more, ...route.ending].join(''));
    // What was pipelined behind the stream is refused or closed upon, never served.
    await within(behind.done.promise, 5000, 'the end of the one behind it');
    if (behind.status !== undefined) checkRefusal(behind, route, 'overloaded');
    assert.equal(w.a.calls, 1);
    assert.deepEqual(await within(w.proxy.exit, 5000, 'the exit'), { code: 0, signal: null });
  });

  test(`220 ${route.name}: after timeouts.drain what still runs is ended, exit 0`, async (t) => {
    const w = await world(t, { route, steps: [streamThen([...route.preamble, route.content], (io) => io.gone)], config: { timeouts: { drain: 0.3 } } });
    const { answer, done } = w.open({ stream: true });
    await answer.until('AAAA');
    w.proxy.signal('SIGTERM');
    await done();
    assert.notEqual(answer.end, 'clean');
    assert.deepEqual(await within(w.proxy.exit, 5000, 'the exit'), { code: 0, signal: null });
    await w.a.waitClosed();
  });
}

test('220 an idle proxy ends at once; SIGINT too; idle keep-alive connections do not hold it', async (t) => {
  for (const signal of ['SIGTERM', 'SIGINT']) {
    const w = await world(t, { steps: [good()], config: { timeouts: { drain: 30 } } });
    const c = new Connection(w.proxy.url);
    w.later(() => c.destroy());
    await within(c.send(modelRequest(ROUTES.chat)).done.promise, 5000, 'an answer');
    w.proxy.signal(signal);
    assert.deepEqual(await within(w.proxy.exit, 4000, `the exit after ${signal}`), { code: 0, signal: null });
  }
});

test('220 a second signal closes at once', async (t) => {
  const w = await world(t, { steps: [silent()], config: { timeouts: { drain: 60, headers: 60 } } });
  const { connection } = w.open();
  await w.a.waitDone(1);
  w.proxy.signal('SIGTERM');
  await until(async () => { try { return (await w.proxy.admin('GET', '/readyz')).status === 503; } catch { return false; } }, { what: 'the drain' });
  w.proxy.signal('SIGTERM');
  await within(w.proxy.exit, 4000, 'the exit');
  await connection.waitClosed();
});

