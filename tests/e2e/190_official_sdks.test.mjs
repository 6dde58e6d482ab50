// The official SDKs work through the proxy unchanged: answers, streams, and errors raised as their own typed exceptions.
import test from 'node:test';
import assert from 'node:assert/strict';
import { world } from './lib/world.mjs';
import { ROUTES } from './lib/routes.mjs';
import { answer, good, status, stream, streamThen } from './lib/upstream.mjs';
import { deferred } from './lib/wait.mjs';

let OpenAI, Anthropic;
try {
  ({ default: OpenAI } = await import('openai'));
  ({ default: Anthropic } = await import('@anthropic-ai/sdk'));
} catch { /* npm install was not run */ }
const skip = OpenAI && Anthropic ? false : 'run npm install in tests/e2e first';

const openai = (w, extra) => new OpenAI({ baseURL: `${w.proxy.url}/v1`, apiKey: 'client', maxRetries: 0, timeout: 8000, ...extra });
const anthropic = (w, extra) => new Anthropic({ baseURL: w.proxy.url, apiKey: 'client', maxRetries: 0, timeout: 8000, ...extra });

// One way to ask for each route: the text, streamed or not.
const ASK = {
  chat: async (w, isStream, onText) => {
    const body = { model: 'm', messages: [{ role: 'user', content: 'hi' }] };
    if (!isStream) return (await openai(w).chat.completions.create(body)).choices[0].message.content;
    let text = '';
    for await (const chunk of await openai(w).chat.completions.create({ ...body, stream: true })) { text += chunk.choices[0]?.delta?.content ?? ''; if (text) onText?.(); }
    return text;
  },
  responses: async (w, isStream, onText) => {
    const body = { model: 'm', input: 'hi' };
    if (!isStream) return (await openai(w).responses.create(body)).output_text;
    let text = '';
    for await (const event of await openai(w).responses.create({ ...body, stream: true })) if (event.type === 'response.output_text.delta') { text += event.delta; onText?.(); }
    return text;
  },
  messages: async (w, isStream, onText) => {
    const body = { model: 'm', max_tokens: 64, messages: [{ role: 'user', content: 'hi' }] };
    if (!isStream) return (await anthropic(w).messages.create(body)).content[0].text;
    let text = '';
    for await (const event of await anthropic(w).messages.create({ ...body, stream: true })) if (event.type === 'content_block_delta') { text += event.delta.text; onText?.(); }
    return text;
  },
};
const sdk = (route) => (route.anthropic ? Anthropic : OpenAI);

for (const route of Object.values(ROUTES)) {
  for (const isStream of [false, true]) {
    const kind = `${route.name} ${isStream ? 'stream' : 'plain'}`;

    test(`190 ${kind}: the answer, after a failover`, { skip }, async (t) => {
      const w = await world(t, { route, steps: [status(503), good()] });
      assert.equal(await ASK[route.name](w, isStream), 'Hello from upstream.');
      assert.equal(w.a.calls, 1);
      assert.ok(!w.b.last.head.toString().includes('Bearer client'));
    });

    test(`190 ${kind}: errors are typed`, { skip }, async (t) => {
      const policy = 'local p = {}\nfunction p.classify() return "accept" end\nreturn p';
      const w = await world(t, { route, policy, steps: [good()] });
      const cases = [[400, 'BadRequestError'], [401, 'AuthenticationError'], [403, 'PermissionDeniedError'], [404, 'NotFoundError'], [429, 'RateLimitError'], [500, 'InternalServerError']];
      for (const [code, name] of cases) {
        w.a.script(status(code));
        await assert.rejects(ASK[route.name](w, isStream), (error) => {
          assert.ok(error instanceof sdk(route)[name], `${code}: ${error.constructor.name} ${error.message}`);
          assert.equal(error.status, code);
          return true;
        });
      }
      // bullpen's own refusals too: an HTML 502, an unknown model.
      w.a.script(answer(502, { 'content-type': 'text/html' }, '<html><title>502 Bad Gateway</title></html>'));
      await assert.rejects(ASK[route.name](w, isStream), (error) => error instanceof sdk(route).InternalServerError && error.status === 502 && /502 Bad Gateway/.test(error.message));
    });

    test(`190 ${kind}: exhausted is an InternalServerError that may be retried, with its message`, { skip }, async (t) => {
      const w = await world(t, { route, steps: [status(503), status(500)] });
      await assert.rejects(ASK[route.name](w, isStream), (error) => {
        assert.ok(error instanceof sdk(route).InternalServerError, error.constructor.name);
        assert.equal(error.status, 502);
        if (!route.anthropic) assert.equal(error.code, 'all_upstreams_failed');
        return true;
      });
    });

    test(`190 ${kind}: our own 401 and 404`, { skip }, async (t) => {
      const w = await world(t, { route, steps: [good()], config: { clients: [{ name: 'x', key: 'other' }] } });
      await assert.rejects(ASK[route.name](w, isStream), (e) => e instanceof sdk(route).AuthenticationError && e.status === 401);
      const w2 = await world(t, { route, steps: [good()], config: { models: { m: undefined, n: 'a/x' } } });
      await assert.rejects(ASK[route.name](w2, isStream), (e) => e instanceof sdk(route).NotFoundError && e.message.includes("Model 'm' not found"));
    });
  }

  test(`190 ${route.name}: an upstream that dies in mid-stream raises an APIError`, { skip }, async (t) => {
    for (const how of ['reset', 'clean end']) {
      const go = deferred();
      const step = streamThen([...route.preamble, route.content], async (io) => { await go.promise; if (how === 'reset') io.reset(); else io.lastChunk(); });
      const w = await world(t, { route, steps: [step, good()] });
      await assert.rejects(ASK[route.name](w, true, () => go.resolve()), (error) => error instanceof sdk(route).APIError && !/Hello/.test(error.message), how);
      assert.equal(w.b.calls, 0);
    }
  });

  test(`190 ${route.name}: an error as the first event is replaced`, { skip }, async (t) => {
    const w = await world(t, { route, steps: [stream(Object.values(route.errors)[0]), good()] });
    assert.equal(await ASK[route.name](w, true), 'Hello from upstream.');
  });
}

test('190 the SDKs\' stream helpers and models.list', { skip }, async (t) => {
  const w = await world(t, { steps: [good()] });
  const run = openai(w).chat.completions.stream({ model: 'm', messages: [{ role: 'user', content: 'hi' }] });
  assert.equal(await run.finalContent(), 'Hello from upstream.');
  const list = [];
  for await (const model of openai(w).models.list()) list.push(model.id);
  assert.deepEqual(list, ['m']);
  const m = await world(t, { route: ROUTES.messages, steps: [good()] });
  const message = await anthropic(m).messages.stream({ model: 'm', max_tokens: 64, messages: [{ role: 'user', content: 'hi' }] }).finalMessage();
  assert.equal(message.content[0].text, 'Hello from upstream.');
  assert.equal(message.usage.output_tokens, 6);
  const names = [];
  for await (const model of anthropic(m).models.list()) names.push(model.id);
  assert.deepEqual(names, ['m']);
});

test('190 maxRetries of the SDK and x-should-retry: false', { skip }, async (t) => {
  const w = await world(t, { policy: undefined, steps: [status(401)] });
  await assert.rejects(openai(w, { maxRetries: 2 }).chat.completions.create({ model: 'm', messages: [] }), OpenAI.APIError);
  assert.equal(w.proxy.requestLines().length, 1, 'the SDK does not try again what cannot help');
});
