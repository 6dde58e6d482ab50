// A committed stream reaches the client with its bytes unchanged, however the upstream splits and frames it.
import test from 'node:test';
import assert from 'node:assert/strict';
import { world } from './lib/world.mjs';
import { EACH_ROUTE, ROUTES, fixture, whole } from './lib/routes.mjs';
import { good, stream, streamThen } from './lib/upstream.mjs';
import { deferred } from './lib/wait.mjs';

for (const route of EACH_ROUTE) {
  test(`060 ${route.name}: split at every byte, LF and CRLF and CR`, async (t) => {
    const short = [route.preamble.at(-1), route.content, ...route.ending].join('');
    const texts = [short, short.replaceAll('\n', '\r\n'), short.replaceAll('\n', '\r')];
    let text = '';
    let at = 0;
    const w = await world(t, { route, steps: [(io) => stream(text.slice(0, at), text.slice(at))(io), good()] });
    for (text of texts) {
      for (at = 1; at < text.length; at++) {
        const r = await w.post({ stream: true });
        if (r.text !== text || r.end !== 'clean' || r.header('x-bullpen-candidate') !== 'a/m-a')
          assert.fail(`split at ${at} of ${JSON.stringify(text)}: ${r.end} ${r.header('x-bullpen-trail')} ${JSON.stringify(r.text)}`);
      }
    }
  });

  test(`060 ${route.name}: one byte at a time`, async (t) => {
    const text = `\uFEFF${whole(route)}`;
    const w = await world(t, { route, steps: [stream(...[...Buffer.from(text)].map((b) => Buffer.from([b]))), good()] });
    const r = await w.post({ stream: true });
    assert.equal(r.text.replace(/^\uFEFF/, ''), whole(route));
    assert.equal(r.body.length, Buffer.byteLength(text));
    assert.equal(r.end, 'clean');
  });

  test(`060 ${route.name}: comments, unknown fields, odd events and non-ASCII pass as they are`, async (t) => {
    const odd = ': comment\n\nid: 7\nretry: 10\n\n:\n\nevent:odd\ndata:{"type":"x_unknown","é":"日本"}\n\nfoo\n\n';
    const text = [route.preamble.join(''), route.content, odd, route.more, ': bye\n\n', ...route.ending].join('');
    const w = await world(t, { route, steps: [stream(text), good()] });
    const r = await w.post({ stream: true });
    assert.equal(r.text, text);
    assert.equal(r.end, 'clean');
  });

  test(`060 ${route.name}: each fixture that ends well is relayed unchanged`, async (t) => {
    const names = { chat: ['success-stream.sse', 'success-stream-include-usage.sse', 'success-stream-tool-calls.sse', 'no-done-but-finished.sse'],
      responses: ['success-stream.sse', 'success-stream-tool-call.sse', 'incomplete-stream.sse'],
      messages: ['success-stream.sse', 'success-stream-thinking.sse', 'success-stream-tool-use.sse'] }[route.name];
    const w = await world(t, { route, steps: [names.map((n) => stream(fixture(route, n))), [good()]] });
    for (const name of names) {
      const r = await w.post({ stream: true });
      assert.equal(r.text, fixture(route, name).toString(), name);
      assert.equal(r.end, 'clean', name);
      assert.equal(r.header('x-bullpen-candidate'), 'a/m-a');
    }
    assert.deepEqual(await w.proxy.benches(), []);
  });

  test(`060 ${route.name}: one malformed line after content does not end the stream`, async (t) => {
    const text = [...route.preamble, route.content, 'data: {"broken\n\n', route.more, ...route.ending].join('');
    const w = await world(t, { route, steps: [stream(text), good()] });
    const r = await w.post({ stream: true });
    assert.equal(r.text, text);
    assert.equal(r.end, 'clean');
  });

  test(`060 ${route.name}: events come through as they come, not at the end`, async (t) => {
    const gates = [deferred(), deferred()];
    const step = streamThen([...route.preamble, route.content], async (io) => {
      await gates[0].promise; io.chunk(route.more);
      await gates[1].promise; for (const p of route.ending) io.chunk(p); io.lastChunk();
    });
    const w = await world(t, { route, steps: [step] });
    const { answer, done } = w.open({ stream: true });
    const first = [...route.preamble, route.content].join('');
    await answer.until((text) => text === first);
    gates[0].resolve();
    await answer.until((text) => text === first + route.more);
    gates[1].resolve();
    await done();
    assert.equal(answer.text, first + route.more + route.ending.join(''));
    assert.equal(answer.end, 'clean');
  });
}

test('060 an event larger than the buffer is released and arrives whole', async (t) => {
  const route = ROUTES.chat;
  const big = `data: {"choices":[{"index":0,"delta":{"content":"${'x'.repeat(300_000)}"}}]}\n\n`;
  const text = [...route.preamble, route.content, big, ...route.ending].join('');
  const parts = text.match(/[\s\S]{1,9000}/g);
  const w = await world(t, { route, steps: [stream(...parts)], config: { limits: { buffer: '32KiB' } } });
  const r = await w.post({ stream: true });
  assert.equal(r.text.length, text.length);
  assert.equal(r.text, text);
  assert.equal(r.end, 'clean');
});

test('060 a slow client pauses its upstream: memory stays bounded and every byte arrives', async (t) => {
  const route = ROUTES.chat;
  const unit = `data: {"choices":[{"index":0,"delta":{"content":"${'y'.repeat(1000)}"}}]}\n\n`;
  const total = 40_000; // about 42 MB
  let sent = 0;
  const step = streamThen([...route.preamble, route.content], async (io) => {
    const piece = unit.repeat(50);
    for (let i = 0; i < total / 50 && !io.isGone; i++) {
      io.chunk(piece);
      sent += piece.length;
      if (io.socket.writableNeedDrain) await new Promise((r) => { io.socket.once('drain', r); io.gone.then(r); });
    }
    for (const p of route.ending) io.chunk(p);
    io.lastChunk();
  });
  const w = await world(t, { route, steps: [step], config: { timeouts: { idle: 0.5 } } });
  const { connection, answer, head } = w.open({ stream: true });
  await head();
  connection.socket.pause();
  const { readFileSync } = await import('node:fs');
  const { until } = await import('./lib/wait.mjs');
  // The upstream's writer stands still once every buffer on the way is full.
  let before = -1;
  await until(async () => { const still = sent === before; before = sent; await new Promise((r) => setTimeout(r, 150)); return still; }, { timeout: 8000, what: 'the upstream to be paused' });
  assert.ok(sent < total * unit.length / 2, `paused after ${sent} bytes`);
  const rss = () => Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${w.proxy.child.pid}/status`, 'utf8'))[1]);
  const atPause = rss();
  connection.socket.resume();
  await until(() => answer.end, { timeout: 20000, what: 'the end of the stream' });
  assert.equal(answer.end, 'clean');
  assert.equal(answer.body.length, [...route.preamble, route.content, ...route.ending].join('').length + total * unit.length);
  assert.ok(atPause < 200_000, `resident ${atPause} KiB`);
});
