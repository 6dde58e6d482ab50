// Assertions on what the contract says, byte for byte.
import assert from 'node:assert/strict';
import { REFUSALS } from './routes.mjs';

export const BENIGN = /^[^\n]{1,400}$/;

// An error that bullpen makes itself: the exact body around a general message.
export function checkRefusal(answer, route, name, { message } = {}) {
  const want = REFUSALS[name];
  assert.equal(answer.status, want.status, `status of ${name}: ${answer.text}`);
  assert.match(answer.header('content-type') ?? '', /^application\/json/);
  const id = answer.header('x-bullpen-request-id');
  assert.ok(id, 'x-bullpen-request-id');
  const got = answer.json.error?.message;
  assert.equal(typeof got, 'string');
  assert.match(got, BENIGN);
  const m = JSON.stringify(got);
  const bytes = route.anthropic
    ? `{"type":"error","error":{"type":"${want.anthropic}","message":${m}},"request_id":${JSON.stringify(id)}}`
    : `{"error":{"message":${m},"type":"${want.type}","param":null,"code":"${want.code}"}}`;
  assert.equal(answer.text.trimEnd(), bytes);
  if (message) assert.equal(got, message);
  assert.equal(answer.end, 'clean');
}

// `tail` is the one error frame of a broken stream, exact around its message; `sequence` is the number it must carry (responses).
export function checkFrame(route, tail, { id, sequence } = {}) {
  const data = /(?:^|\n)data: (.*)\n\n$/.exec(tail)?.[1];
  assert.ok(data, `one whole frame expected: ${JSON.stringify(tail)}`);
  const json = JSON.parse(data);
  if (route.name === 'responses') {
    const m = JSON.stringify(json.message);
    const start = `event: error\ndata: {"type":"error","code":"upstream_failed","message":${m},"param":null,"sequence_number":${sequence},"error":{`;
    assert.ok(tail.startsWith(start), `frame ${JSON.stringify(tail)} should start with ${JSON.stringify(start)}`);
    assert.equal(json.error.message, json.message);
    assert.equal(json.error.code, 'upstream_failed');
    assert.match(json.message, BENIGN);
    return;
  }
  assert.match(json.error.message, BENIGN);
  assert.equal(tail, route.frame(json.error.message, id));
}

// A stream that broke after commit: what was relayed, then the frame, then an end that is not clean.
export function checkBroken(answer, route, relayed, { sequence = 5 } = {}) {
  assert.equal(answer.status, 200);
  assert.equal(answer.text.slice(0, relayed.length), relayed, 'what was relayed, byte for byte');
  checkFrame(route, answer.text.slice(relayed.length), { id: answer.header('x-bullpen-request-id'), sequence });
  assert.notEqual(answer.end, 'clean');
}

export function checkHeaders(answer, wanted) {
  for (const [name, value] of Object.entries(wanted)) {
    if (value instanceof RegExp) assert.match(answer.header(name) ?? '', value, name);
    else assert.equal(answer.header(name), value, name);
  }
}
