// A ready-made policy can be looked at, started from, and not misspelt.
import test from 'node:test';
import assert from 'node:assert/strict';
import fs from 'node:fs';
import { configText, run, tempDir } from './lib/bullpen.mjs';

const NAMES = ['account_pool', 'chain_with_bench', 'first_event', 'priority', 'weighted'];
const config = (policy) => configText({
  listen: '127.0.0.1:0', upstreams: { a: { api: 'openai', base_url: 'http://127.0.0.1:1/v1', key: 'k' } }, models: { m: 'a/x' }, policy,
});

async function check(t, policy, files = {}) {
  const cwd = tempDir({ 'bullpen.lua': config(policy), ...files });
  t.after(() => fs.rmSync(cwd, { recursive: true }));
  return run(['check', 'bullpen.lua'], { cwd });
}

test('410: every ready-made policy passes the check; what `policy show` prints works as a file', async (t) => {
  for (const name of NAMES) {
    assert.equal((await check(t, name)).code, 0, name);
    assert.equal((await check(t, { name, options: {} })).code, 0, name);
    const shown = await run(['policy', 'show', name]);
    assert.equal(shown.code, 0);
    assert.match(shown.stdout, new RegExp(`^-- ${name}: `));
    const copied = await check(t, 'own.lua', { 'own.lua': shown.stdout });
    assert.equal(copied.code, 0, copied.stderr);
  }
});

test('410: an unknown name is exit 1 with the names there are, bad usage is exit 2', async () => {
  const unknown = await run(['policy', 'show', 'weigthed']);
  assert.equal(unknown.code, 1);
  for (const name of NAMES) assert.ok(unknown.stderr.includes(name), name);
  assert.equal(unknown.stdout, '');
  assert.equal((await run(['policy', 'show'])).code, 2);
  assert.equal((await run(['policy', 'show', '--help'])).code, 0);
});

test('410: an unknown option, a wrong type and an unknown policy are load errors that name them', async (t) => {
  for (const [policy, part] of [
    [{ name: 'priority', options: { retrys: 1 } }, /options\.retrys.*did you mean 'retries'/],
    [{ name: 'weighted', options: { tries: 'two' } }, /weighted: tries: a number is expected/],
    [{ name: 'weighted', options: { statuses: ['5x'] } }, /'5x' is no status/],
    [{ name: 'account_pool', options: { rules: [{ word: 'x' }] } }, /rules\[1\]: unknown option 'word'/],
    ['weigthed', /did you mean 'weighted'/],
  ]) {
    const r = await check(t, policy);
    assert.equal(r.code, 1);
    assert.match(r.stderr, part);
  }
});
