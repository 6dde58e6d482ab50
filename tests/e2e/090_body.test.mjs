// The upstream gets the client's body byte for byte; only the value of the top-level "model" is replaced, in place.
import test from 'node:test';
import assert from 'node:assert/strict';
import { world } from './lib/world.mjs';
import { EACH_ROUTE, ROUTES } from './lib/routes.mjs';
import { good, status } from './lib/upstream.mjs';
import { checkRefusal } from './lib/check.mjs';

// [what the client sends, what the upstream must get]; the model is written as m, and becomes m-a.
const BODIES = {
  'order, blanks and newlines': ['\r\n {\n\t"a" : 1 ,\n "model" :\t"m" , "z":[ ]}\n ', '\r\n {\n\t"a" : 1 ,\n "model" :\t"m-a" , "z":[ ]}\n '],
  'escapes in other strings': ['{"s":"\\u00e9\\n\\"\\\\\\/\\ud83d\\ude00","model":"m"}', '{"s":"\\u00e9\\n\\"\\\\\\/\\ud83d\\ude00","model":"m-a"}'],
  'an escaped model': ['{"model":"\\u006d"}', '{"model":"m-a"}'],
  'an escaped key': ['{"mod\\u0065l":"m"}', '{"mod\\u0065l":"m-a"}'],
  'nested models': ['{"x":{"model":"m"},"y":[{"model":"m"}],"model":"m","w":"\\"model\\":\\"m\\""}', '{"x":{"model":"m"},"y":[{"model":"m"}],"model":"m-a","w":"\\"model\\":\\"m\\""}'],
  'big numbers': ['{"model":"m","seed":12345678901234567890123,"f":1.0,"e":1E400,"n":-0.0}', '{"model":"m-a","seed":12345678901234567890123,"f":1.0,"e":1E400,"n":-0.0}'],
  'empty list and object': ['{"tools":[],"metadata":{},"model":"m"}', '{"tools":[],"metadata":{},"model":"m-a"}'],
  'duplicate other keys': ['{"a":1,"a":2,"model":"m","a":3}', '{"a":1,"a":2,"model":"m-a","a":3}'],
  'non-ASCII': ['{"model":"m","t":"日本語 ✓ \u2028"}', '{"model":"m-a","t":"日本語 ✓ \u2028"}'],
  'deep nesting': [`{"d":${'['.repeat(200)}${']'.repeat(200)},"model":"m"}`, `{"d":${'['.repeat(200)}${']'.repeat(200)},"model":"m-a"}`],
  fallbacks: ['{"model":"m","fallbacks":["x"]}', '{"model":"m-a","fallbacks":["x"]}'],
};

for (const route of EACH_ROUTE) {
  test(`090 A3 P9 ${route.name}: byte for byte but for the model`, async (t) => {
    const w = await world(t, { route, steps: [good()] });
    for (const [name, [sent, wanted]] of Object.entries(BODIES)) {
      const r = await w.post({ body: sent });
      assert.equal(r.status, 200, `${name}: ${r.text}`);
      assert.equal(w.a.last.body.toString(), wanted, name);
      assert.equal(w.a.last.headers.get('content-length'), String(Buffer.byteLength(wanted)), name);
    }
  });

  test(`090 ${route.name}: a bad body reaches nobody`, async (t) => {
    const w = await world(t, { route, steps: [good()] });
    for (const body of ['{"model":"m","model":"m"}', '{"model":"m","mo\\u0064el":"n"}', '{"model":"m",}', '{"model":"m"} x', "{'model':'m'}", '\ufeff{"model":', '{"model":"m\n"}', `{"model":"m","d":${'['.repeat(100_000)}`])
      checkRefusal(await w.post({ body }), route, 'badJson');
    for (const body of ['{"model":null}', '{"model":7}', '{"model":""}', '{}']) {
      const r = await w.post({ body });
      assert.equal(r.status, 400, body);
      assert.equal(r.end, 'clean');
    }
    assert.equal(w.a.calls, 0);
  });

  test(`090 ${route.name}: each attempt gets its own model in the same bytes`, async (t) => {
    const w = await world(t, { route, steps: [status(503), status(503), good()] });
    const body = '{ "n" : 1.50, "model":"m", "tail":[] }';
    assert.equal((await w.post({ body })).status, 200);
    assert.deepEqual(w.list.map((u) => u.last.body.toString()), ['a', 'b', 'c'].map((x) => body.replace('"m"', `"m-${x}"`)));
  });
}

test('090 20 MB', async (t) => {
  const w = await world(t, { steps: [status(503), good()] });
  const pad = Array.from({ length: 20_000 }, (_, i) => `part ${i} ${'é\\n"'.repeat(200)}`);
  const body = JSON.stringify({ pad, model: 'm', end: [] });
  assert.ok(Buffer.byteLength(body) > 20_000_000);
  const r = await w.post({ body, timeout: 20000 });
  assert.equal(r.status, 200);
  const wanted = JSON.stringify({ pad, model: 'm-b', end: [] });
  assert.ok(w.b.last.body.equals(Buffer.from(wanted)), 'equal bytes');
  assert.equal(w.a.last.body.length, w.b.last.body.length);
});

test('090 the answer\'s model is the upstream\'s own', async (t) => {
  for (const route of EACH_ROUTE) {
    const w = await world(t, { route, steps: [good()] });
    assert.match((await w.post()).json.model, /fixture-1$/);
  }
});

test('090 a model value with characters that need escapes is written so', async (t) => {
  const w = await world(t, { steps: [good()], config: { models: { m: ['a/we"ird\\name/é'] } } });
  assert.equal((await w.post({ body: '{"model":"m","x":1}' })).status, 200);
  assert.deepEqual(JSON.parse(w.a.last.body), { model: 'we"ird\\name/é', x: 1 });
});

test('090 limits.bodies: together they are bounded; over it 503', async (t) => {
  const { Connection } = await import('./lib/client.mjs');
  const { within } = await import('./lib/wait.mjs');
  const w = await world(t, { steps: [good()], config: { limits: { body: '1MiB', bodies: '1MiB' } } });
  const slow = new Connection(w.proxy.url);
  w.later(() => slow.destroy());
  const first = slow.send({ path: ROUTES.chat.path, headers: { 'Content-Length': 900_000 } });
  slow.write(`{"model":"m","pad":"${'x'.repeat(700_000)}`);
  let refused;
  for (let i = 0; i < 50 && !refused; i++) {
    const r = await w.post({ extra: { pad: 'y'.repeat(600_000) } });
    if (r.status === 503) refused = r; else assert.equal(r.status, 200);
  }
  assert.ok(refused, '700 kB and 600 kB are over 1 MiB');
  checkRefusal(refused, ROUTES.chat, 'overloaded');
  const have = `{"model":"m","pad":"${'x'.repeat(700_000)}`.length;
  slow.write(`${'x'.repeat(900_000 - have - 2)}"}`);
  assert.equal((await within(first.done.promise, 5000, 'the slow one')).status, 200);
});
