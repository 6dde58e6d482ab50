// bullpen mock: a scripted upstream with every fault of the contract, and a record of what it was sent.
import test from 'node:test';
import assert from 'node:assert/strict';
import fs from 'node:fs';
import { Running, run, tempDir } from './lib/bullpen.mjs';
import { cleanups } from './lib/world.mjs';
import { EACH_ROUTE, ROUTES } from './lib/routes.mjs';
import { Connection, modelRequest, parseEvents, request } from './lib/client.mjs';
import { until, within } from './lib/wait.mjs';

async function mock(t, script) {
  const later = cleanups(t);
  const cwd = tempDir({ 'mock.lua': script });
  const running = new Running(['mock', 'mock.lua'], { cwd });
  later(async () => { try { await running.stop(); } finally { fs.rmSync(cwd, { recursive: true, force: true }); } });
  const address = await until(() => {
    if (running.exited) throw new Error(running.stderr + running.stdout);
    return /(127\.0\.0\.1:\d+)/.exec(running.stderr + running.stdout)?.[1];
  }, { what: 'the mock to listen' });
  return { url: `http://${address}`, running, later };
}
const steps = (text) => `return { listen = "127.0.0.1:0", steps = { ${text} } }`;

for (const route of EACH_ROUTE) {
  test(`200 ${route.name}: a good answer in the route's shape, stream or not as asked`, async (t) => {
    const m = await mock(t, steps('{}'));
    const plain = await request(m.url, modelRequest(route));
    assert.equal(plain.status, 200);
    assert.match(plain.header('content-type'), /^application\/json/);
    const json = plain.json;
    assert.equal(typeof (route.anthropic ? json.content[0].text : route.name === 'chat' ? json.choices[0].message.content : json.output[0].content[0].text), 'string');
    const s = await request(m.url, modelRequest(route, { stream: true }));
    assert.match(s.header('content-type'), /^text\/event-stream/);
    assert.equal(s.end, 'clean');
    const events = parseEvents(s.text);
    const last = events.at(-1);
    if (route.name === 'chat') assert.equal(last.data, '[DONE]');
    else assert.equal(last.name, route.anthropic ? 'message_stop' : 'response.completed');
  });

  test(`200 ${route.name}: faults`, async (t) => {
    const m = await mock(t, steps(`{ fault = "reset" }, { fault = "empty" }, { fault = "html" }, { fault = "wrong_type" }, { fault = "error_event" },
      { fault = "error_after_start" }, { fault = "truncate_after=40" }, { fault = "reset_after=40" }, { fault = "stall_after=40" }, { fault = "silent" }`));
    const go = () => request(m.url, modelRequest(route, { stream: true }));
    const r = await go();
    assert.equal(r.status, undefined);
    assert.notEqual(r.end, 'clean');
    const empty = await go();
    assert.deepEqual([empty.status, empty.body.length, empty.end], [200, 0, 'clean']);
    const html = await go();
    assert.match(html.text, /^\s*<(html|!doctype)/i);
    assert.match(html.header('content-type'), /text\/html/);
    assert.equal(html.status >= 500 || html.status === 200, true);
    const wrong = await go();
    assert.equal(wrong.status, 200);
    assert.match(wrong.header('content-type'), /^application\/json/);
    const error = await go();
    assert.equal(error.status, 200);
    assert.match(parseEvents(error.text)[0].data, /error/);
    const after = await go();
    const events = parseEvents(after.text);
    assert.ok(events.length >= 2);
    assert.ok(!/"error":\s*\{/.test(events[0].data), after.text);
    assert.match(events.at(-1).data === '[DONE]' ? events.at(-2).data : events.at(-1).data, /error/);
    const truncated = await go();
    assert.equal(truncated.status, 200);
    assert.ok(truncated.body.length <= 40 || truncated.end === 'cut', truncated.text);
    assert.equal(truncated.body.length, 40);
    const cut = await go();
    assert.notEqual(cut.end, 'clean');
    for (const wanted of [40, 0]) {
      const c = new Connection(m.url);
      m.later(() => c.destroy());
      const a = c.send(modelRequest(route, { stream: true }));
      if (wanted) await until(() => a.body.length >= wanted, { what: 'the first 40 bytes' });
      else await until(async () => (await request(m.url, { method: 'GET', path: '/_mock/requests' })).text.split(route.path).length > 10, { what: 'the silent one to be recorded' });
      assert.equal(a.end, null);
      assert.equal(a.body.length, wanted);
      c.destroy();
    }
  });
}

test('200 status, headers, body, delay, repeats the last step, records requests', async (t) => {
  const m = await mock(t, steps('{ status = 429, headers = { ["retry-after"] = "7" }, body = [[{"error":{"message":"slow down"}}]] }, { delay = 0.2, status = 503 }'));
  const first = await request(m.url, modelRequest(ROUTES.chat, { headers: { 'X-Seen': 'yes' } }));
  assert.equal(first.status, 429);
  assert.equal(first.header('retry-after'), '7');
  assert.equal(first.text, '{"error":{"message":"slow down"}}');
  for (let i = 0; i < 2; i++) {
    const start = performance.now();
    assert.equal((await request(m.url, modelRequest(ROUTES.chat))).status, 503);
    assert.ok(performance.now() - start >= 190);
  }
  const record = await request(m.url, { method: 'GET', path: '/_mock/requests' });
  const list = record.json.requests ?? record.json;
  assert.equal(list.length, 3, record.text);
  assert.equal(list[0].path, ROUTES.chat.path);
  assert.equal(list[0].method, 'POST');
  assert.ok(JSON.stringify(list[0].headers).toLowerCase().includes('x-seen'));
  assert.deepEqual(JSON.parse(list[0].body), ROUTES.chat.body('m'));
});

test('200 stream = { chunks, interval, first } and a function as script', async (t) => {
  const m = await mock(t, `return function(request)
    if request.path == "/v1/messages" then return { status = 529 } end
    return { stream = { chunks = 3, interval = 0.02, first = 0.05 } }
  end`).catch((error) => error);
  if (m instanceof Error) assert.fail(m.message);
  assert.equal((await request(m.url, modelRequest(ROUTES.messages))).status, 529);
  const start = performance.now();
  const r = await request(m.url, modelRequest(ROUTES.chat, { stream: true }));
  assert.ok(performance.now() - start >= 85, 'takes first + 2 intervals');
  const contents = parseEvents(r.text).filter((e) => /"content":"[^"]/.test(e.data));
  assert.equal(contents.length, 3, r.text);
});

test('200 refuse: nothing listens', async (t) => {
  const m = await mock(t, steps('{ fault = "refuse" }, {}'));
  const r = await within(request(m.url, modelRequest(ROUTES.chat)), 5000, 'a refusal').catch((e) => e);
  assert.equal(r.status, undefined);
});

test('200 a bad script is exit 1 with file:line', async () => {
  for (const script of ['return {', 'return 7', 'error("x")']) {
    const cwd = tempDir({ 'mock.lua': script });
    const r = await run(['mock', 'mock.lua'], { cwd });
    assert.equal(r.code, 1, `${script}: ${r.stderr}`);
    assert.match(r.stderr, /mock\.lua/);
    fs.rmSync(cwd, { recursive: true, force: true });
  }
});

test('200 an unknown fault or an unknown key of a step is exit 1 too', async () => {
  for (const script of [steps('{ fault = "party" }'), steps('{ statuss = 1 }')]) {
    const cwd = tempDir({ 'mock.lua': script });
    const r = await run(['mock', 'mock.lua'], { cwd, timeout: 3000 });
    assert.equal(r.code, 1, `${script}: ${r.stderr}`);
    assert.match(r.stderr, /mock\.lua/);
    fs.rmSync(cwd, { recursive: true, force: true });
  }
});
