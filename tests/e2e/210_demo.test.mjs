// bullpen demo prints curl lines, and each of them works.
import test from 'node:test';
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import fs from 'node:fs';
import { Running, tempDir } from './lib/bullpen.mjs';
import { until } from './lib/wait.mjs';

test('210 the curl lines of the demo work', async (t) => {
  const cwd = tempDir();
  const demo = new Running(['demo'], { cwd });
  t.after(async () => { try { await demo.stop(); } finally { fs.rmSync(cwd, { recursive: true, force: true }); } });
  // Lines that end in a backslash go on.
  const commands = () => demo.stdout.replace(/\\\n\s*/g, ' ').split('\n').map((l) => l.trim().replace(/^\$ /, '')).filter((l) => l.startsWith('curl '));
  await until(() => { if (demo.exited) throw new Error(demo.stderr + demo.stdout); return commands().length >= 1 && demo.stdout.endsWith('\n'); }, { timeout: 8000, what: 'curl lines' });
  let last = -1;
  await until(() => { const same = commands().length === last; last = commands().length; return same; }, { what: 'all of the curl lines' });
  const lines = commands();
  assert.ok(lines.length >= 2, demo.stdout);
  let proxied = 0;
  for (const line of lines) {
    assert.ok(/127\.0\.0\.1|localhost/.test(line), line);
    const { code, out, err } = await new Promise((resolve) => {
      execFile('/bin/sh', ['-c', line.replace(/^curl /, 'curl --noproxy "*" -m 15 ')], (error, stdout, stderr) => resolve({ code: error?.code ?? 0, out: stdout, err: stderr }));
    });
    // An endless one (events) is ended by -m: 28.
    assert.ok(code === 0 || code === 28, `${line}: exit ${code} ${err}`);
    assert.ok(out.length > 0, line);
    if (/\/v1\/(chat|messages|responses)/.test(line)) { proxied++; assert.ok(!/all_upstreams_failed/.test(out), `${line}\n${out}`); }
  }
  assert.ok(proxied >= 1);
});
