// A wrong config or policy is refused before a socket opens, with file:line: key: what, and exit status 1; usage errors are 2.
import test from 'node:test';
import assert from 'node:assert/strict';
import fs from 'node:fs';
import { run, tempDir } from './lib/bullpen.mjs';

const UP = 'upstreams = { a = { api = "openai", base_url = "http://127.0.0.1:1/v1", key = "k" } }';
const MODELS = 'models = { m = "a/x" }';

async function check(text, { command = 'check', files = {}, env } = {}) {
  const cwd = tempDir({ 'bullpen.lua': text, ...files });
  try {
    return await run([command, 'bullpen.lua'], { cwd, env });
  } finally {
    fs.rmSync(cwd, { recursive: true, force: true });
  }
}

// [name, config, what the message must match]
const WRONG = [
  ['unknown key with a suggestion', `return {\n  ${MODELS},\n  upstreams = {\n    a = { api = "openai", base_url = "http://127.0.0.1:1/v1", key = "k",\n      weigth = 2 } } }`, /bullpen\.lua:\d+: upstreams\.a\.weigth: unknown key \(did you mean 'weight'\?\)/],
  ['unknown key at the top', `return { lisen = "127.0.0.1:1", ${UP}, ${MODELS} }`, /lisen: unknown key \(did you mean 'listen'\?\)/],
  ['wrong type', `return { workers = "many", ${UP}, ${MODELS} }`, /bullpen\.lua:\d+: workers: /],
  ['bad range', `return { workers = -1, ${UP}, ${MODELS} }`, /workers: /],
  ['bad time unit', `return { timeouts = { connect = "5 parsecs" }, ${UP}, ${MODELS} }`, /timeouts\.connect: /],
  ['bad size', `return { limits = { body = "64 XB" }, ${UP}, ${MODELS} }`, /limits\.body: /],
  ['syntax', `return {\n  ${UP},\n  models = {{{\n`, /bullpen\.lua:\d+: /],
  ['raises', 'error("no way")', /bullpen\.lua:1: .*no way/],
  ['no table', 'return 42', /bullpen\.lua/],
  ['endless', 'while true do end', /bullpen\.lua:1/],
  ['C11 unknown upstream in a chain', `return { ${UP}, models = { m = { "a/x", "nobody/y" } } }`, /models\.m.*nobody/],
  ['C11 cycle', `return { ${UP}, models = { m = "n", n = "m" } }`, /models\.[mn].*cycle/i],
  ['C11 empty chain', `return { ${UP}, models = { m = " , " } }`, /models\.m/],
  ['no key', `return { upstreams = { a = { api = "openai", base_url = "http://127.0.0.1:1/v1" } }, ${MODELS} }`, /upstreams\.a(\.key)?: .*key/],
  ['unknown api', `return { upstreams = { a = { api = "gopher", base_url = "http://127.0.0.1:1/v1", key = "k" } }, ${MODELS} }`, /upstreams\.a\.api/],
  ['bad base_url', `return { upstreams = { a = { api = "openai", base_url = "ftp//x", key = "k" } }, ${MODELS} }`, /upstreams\.a\.base_url/],
  ['env without a value', `return { ${UP.replace('"k"', 'env "BULLPEN_TEST_UNSET"')}, ${MODELS} }`, /BULLPEN_TEST_UNSET/],
  ['forward beside clients', `return { upstreams = { a = { api = "openai", base_url = "http://127.0.0.1:1/v1", auth = "forward" } }, ${MODELS}, clients = { { name = "x", key = "k" } } }`, /forward/],
  ['open on every address', `return { listen = "0.0.0.0:0", ${UP}, ${MODELS} }`, /clients|open/],
  ['open admin on every address', `return { admin = { listen = "0.0.0.0:0" }, ${UP}, ${MODELS} }`, /admin\.(token|open|listen)/],
  ['no such policy', `return { policy = "no_such_policy", ${UP}, ${MODELS} }`, /bullpen\.lua:\d+: policy: .+/],
  ['a model naming an unknown policy', `return { ${UP}, models = { m = { "a/x", policy = "batch" } } }`, /batch/],
  ['an option the policy does not name', `return { policy = { name = "weighted", options = { colour = 1 } }, ${UP}, ${MODELS} }`, /colour/],
  ['io is not there', 'io.open("/etc/passwd") return {}', /bullpen\.lua:1: /],
];

for (const [name, text, message] of WRONG) {
  test(`150 config: ${name}`, async () => {
    for (const command of ['check', 'serve']) {
      const r = await check(text, { command });
      assert.equal(r.code, 1, `${command}: ${r.stdout}${r.stderr}`);
      assert.match(r.stderr + r.stdout, message);
      assert.ok(!/"?listening/.test(r.stderr), 'no socket was opened');
    }
  });
}

const WITH_POLICY = `return { policy = "policy.lua", ${UP}, ${MODELS} }`;
const WRONG_POLICY = [
  ['syntax', 'local p = {\nreturn p', /policy\.lua:\d+: /],
  ['unknown hook', 'local p = {}\nfunction p.selekt() end\nreturn p', /selekt/],
  ['hook that is no function', 'return { select = 7 }', /select/],
  ['no table', 'return 1', /policy\.lua/],
  ['raises while loading', 'local x = nil\nreturn x.y', /policy\.lua:2/],
  ['raises in a hook', 'local p = {}\nfunction p.classify(request, attempt)\n  return attempt.nothing.here\nend\nreturn p', /policy\.lua:3/],
  ['endless hook', 'local p = {}\nfunction p.select() while true do end end\nreturn p', /policy\.lua:2/],
  ['wrong verdict', 'local p = {}\nfunction p.classify() return "perhaps" end\nreturn p', /classify.*|perhaps/],
  ['undefined global', 'local p = {}\nfunction p.observe(e) print_it(e) end\nreturn p', /policy\.lua:2.*print_it/],
  ['file outside the folder', 'local x = require "../secret"\nreturn {}', /policy\.lua:1/],
];
for (const [name, policy, message] of WRONG_POLICY) {
  test(`150 policy: ${name}`, async () => {
    for (const command of ['check', 'serve']) {
      const r = await check(WITH_POLICY, { command, files: { 'policy.lua': policy } });
      assert.equal(r.code, 1, `${command}: ${r.stdout}${r.stderr}`);
      assert.match(r.stderr + r.stdout, message);
    }
  });
}

test('150 a good config passes: env, file, require, times and sizes with units', async () => {
  const text = `local parts = require "parts"
return {
  listen = { "127.0.0.1:0", "unix:x.sock" },
  upstreams = { a = { api = "openai", base_url = "https://api.openai.com/v1", key = env "E2E_KEY", tags = parts.tags },
    b = { api = "anthropic", base_url = "https://api.anthropic.com/v1", key = file "secret.txt" },
    c = { api = "openai", base_url = "http://localhost:1/v1", key = env("E2E_UNSET", "default") } },
  models = { m = { "a/x", { use = "c/y", weight = 2, timeouts = { headers = "1s" } } }, claude = "b/claude", n = "m" },
  timeouts = { connect = "250ms", headers = "2m", idle = 1.5 }, limits = { body = "1MiB", buffer = 65536 },
}`;
  const r = await check(text, { files: { 'parts.lua': 'return { tags = { x = 1 } }', 'secret.txt': 's3cret\n' }, env: { E2E_KEY: 'k' } });
  assert.equal(r.code, 0, r.stdout + r.stderr);
  assert.ok(!(r.stdout + r.stderr).includes('s3cret'));
});

test('150 usage errors are 2, help and version 0', async () => {
  const cwd = tempDir();
  for (const args of [['nonsense'], ['--nonsense'], ['check'], ['check', 'a', 'b', 'c']])
    assert.equal((await run(args, { cwd })).code, 2, args.join(' '));
  const version = await run(['--version'], { cwd });
  assert.equal(version.code, 0);
  assert.match(version.stdout, /^bullpen \d+\.\d+\.\d+/);
  const help = await run(['--help'], { cwd });
  assert.equal(help.code, 0);
  for (const command of ['serve', 'demo', 'mock', 'check']) {
    assert.ok(help.stdout.includes(command), command);
    const one = await run([command, '--help'], { cwd });
    assert.equal(one.code, 0, `${command} --help`);
    assert.ok(one.stdout.includes(command));
  }
  assert.equal((await run(['check', 'missing.lua'], { cwd })).code, 1);
  fs.rmSync(cwd, { recursive: true, force: true });
});

test('150 a port that is taken is an error, exit 1', async (t) => {
  const { createServer } = await import('node:net');
  const server = createServer().listen(0, '127.0.0.1');
  t.after(() => server.close());
  await new Promise((r) => server.once('listening', r));
  const r = await check(`return { listen = "127.0.0.1:${server.address().port}", admin = { listen = "127.0.0.1:0" }, ${UP}, ${MODELS} }`, { command: 'serve' });
  assert.equal(r.code, 1);
  assert.match(r.stderr, new RegExp(String(server.address().port)));
});
