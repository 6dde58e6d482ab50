// The real binary: started with a config, watched through its log, stopped with SIGTERM. A sanitizer report fails the test that caused it.
import { spawn } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { toLua, merge } from './lua.mjs';
import { request } from './client.mjs';
import { until, within } from './wait.mjs';

const ROOT = path.join(path.dirname(fileURLToPath(import.meta.url)), '../../..');
export const BULLPEN = path.resolve(ROOT, process.env.BULLPEN ?? 'build/bullpen');
const REPORTS = ['ERROR: AddressSanitizer', 'runtime error:', 'LeakSanitizer', 'WARNING: ThreadSanitizer'];

process.setMaxListeners(0);
for (const signal of ['SIGTERM', 'SIGINT']) process.once(signal, () => process.exit(1));

function sanitizerReport(text) {
  return REPORTS.some((mark) => text.includes(mark)) ? text : null;
}

export function tempDir(files = {}) {
  const dir = fs.mkdtempSync(path.join(os.tmpdir(), 'bullpen-e2e-'));
  for (const [name, text] of Object.entries(files)) {
    fs.mkdirSync(path.dirname(path.join(dir, name)), { recursive: true });
    fs.writeFileSync(path.join(dir, name), text);
  }
  return dir;
}

export const configText = (config) => (typeof config === 'string' ? config : `return ${toLua(config)}\n`);

// Any running command of the binary, its output kept.
export class Running {
  constructor(args, { cwd, env = {} } = {}) {
    this.stdout = '';
    this.stderr = '';
    this.logs = [];
    this.exited = null;
    const clean = { ...process.env, ...env };
    for (const name of ['http_proxy', 'https_proxy', 'HTTP_PROXY', 'HTTPS_PROXY', 'all_proxy', 'ALL_PROXY', 'BULLPEN_ADMIN', 'BULLPEN_ADMIN_TOKEN'])
      if (!(name in env)) delete clean[name];
    this.child = spawn(BULLPEN, args, { cwd, env: clean, stdio: ['ignore', 'pipe', 'pipe'] });
    // A test file that ends early, or is told to, leaves nothing running.
    process.once('exit', () => this.child.kill('SIGKILL'));
    this.child.stdout.on('data', (bytes) => { this.stdout += bytes; });
    let rest = '';
    this.child.stderr.on('data', (bytes) => {
      this.stderr += bytes;
      const lines = (rest + bytes).split('\n');
      rest = lines.pop();
      for (const line of lines) {
        let fields;
        try { fields = JSON.parse(line); } catch { continue; /* text format, or a report */ }
        // What a policy logs carries its own words in `text`.
        this.logs.push(fields.message === 'policy' && fields.text !== undefined ? { ...fields, message: fields.text } : fields);
      }
    });
    this.exit = new Promise((resolve) => {
      this.child.on('error', (error) => { this.exited = { error }; resolve(this.exited); });
      this.child.on('close', (code, signal) => { this.exited = { code, signal }; resolve(this.exited); });
    });
  }

  // The first log line that satisfies the test (an object of fields, or a function).
  async waitForLog(test, { timeout = 5000, count = 1 } = {}) {
    const is = typeof test === 'function' ? test : (line) => Object.entries(test).every(([k, v]) => line[k] === v);
    return until(() => {
      const found = this.logs.filter(is);
      if (found.length >= count) return found[count - 1];
      if (this.exited) throw new Error(`bullpen ended (${JSON.stringify(this.exited)}) before that log line\n${this.stderr}`);
      return null;
    }, { timeout, what: () => `log line ${test}${JSON.stringify(test)}\n${this.stderr}` });
  }

  signal(name) { this.child.kill(name); }

  // SIGTERM, then exit status 0 and a clean standard error are required.
  async stop({ timeout = 15000 } = {}) {
    if (!this.exited) this.signal('SIGTERM');
    try {
      await within(this.exit, timeout, 'bullpen to end after SIGTERM');
    } catch (error) {
      this.child.kill('SIGKILL');
      throw new Error(`${error.message}\n${this.stderr}`);
    }
    const report = sanitizerReport(this.stderr);
    if (report) throw new Error(`sanitizer report:\n${report}`);
    if (this.exited.code !== 0) throw new Error(`exit status ${JSON.stringify(this.exited)}, 0 expected\n${this.stderr}`);
  }
}

// One command to its end.
export async function run(args, { cwd, env, timeout = 20000 } = {}) {
  const running = new Running(args, { cwd, env });
  try {
    await within(running.exit, timeout, `bullpen ${args.join(' ')}`);
  } catch (error) {
    running.child.kill('SIGKILL');
    throw error;
  }
  const report = sanitizerReport(running.stderr);
  if (report) throw new Error(`sanitizer report:\n${report}`);
  return { code: running.exited.code, signal: running.exited.signal, stdout: running.stdout, stderr: running.stderr };
}

const DEFAULTS = {
  listen: '127.0.0.1:0',
  workers: 1,
  admin: { listen: '127.0.0.1:0' },
  log: { format: 'json' },
  timeouts: { drain: 1 },
};

export class Proxy extends Running {
  get url() { return `http://${this.address}`; }
  get adminUrl() { return `http://${this.adminAddress}`; }

  // A call of the admin interface; `json` is sent when given.
  async admin(method, target, json, headers = {}) {
    const body = json === undefined ? undefined : JSON.stringify(json);
    const type = body === undefined ? {} : { 'Content-Type': 'application/json' };
    return request(this.adminUrl, { method, path: target, headers: { ...type, ...headers }, body });
  }

  async benches() { return (await this.admin('GET', '/api/benches')).json.benches; }
  async metrics() { return (await this.admin('GET', '/metrics')).text; }
  // The number of one metric line, e.g. metric('bullpen_requests_total') sums all of its label sets.
  async metric(name, labels = {}) {
    const lines = (await this.metrics()).split('\n').filter((l) => l.startsWith(`${name}{`) || l.startsWith(`${name} `));
    const wanted = lines.filter((l) => Object.entries(labels).every(([k, v]) => l.includes(`${k}="${v}"`)));
    return wanted.reduce((sum, l) => sum + Number(l.slice(l.lastIndexOf(' ') + 1)), 0);
  }

  requestLine(test = {}) { return this.waitForLog((l) => l.message === 'request' && Object.entries(test).every(([k, v]) => l[k] === v)); }
  requestLines() { return this.logs.filter((l) => l.message === 'request'); }
  failures() { return this.logs.filter((l) => l.message === 'attempt failed'); }
}

export async function startProxy({ config, policy, files = {}, env, listeners = 1, raw = false } = {}) {
  const full = raw || typeof config === 'string' ? config : merge(DEFAULTS, config);
  if (policy !== undefined && typeof full === 'object' && full.policy === undefined) full.policy = 'policy.lua';
  const cwd = tempDir({ 'bullpen.lua': configText(full), ...(policy !== undefined ? { 'policy.lua': policy } : {}), ...files });
  const proxy = new Proxy(['serve', 'bullpen.lua'], { cwd, env });
  proxy.dir = cwd;
  const stop = proxy.stop.bind(proxy);
  proxy.stop = async (options) => { try { await stop(options); } finally { fs.rmSync(cwd, { recursive: true, force: true }); } };
  try {
    const first = await proxy.waitForLog({ message: 'listening', role: 'proxy' }, { count: 1, timeout: 10000 });
    if (listeners > 1) await proxy.waitForLog({ message: 'listening', role: 'proxy' }, { count: listeners });
    proxy.address = first.address;
    if (typeof full === 'string' || full.admin?.listen)
      proxy.adminAddress = (await proxy.waitForLog({ message: 'listening', role: 'admin' })).address;
  } catch (error) {
    proxy.child.kill('SIGKILL');
    fs.rmSync(cwd, { recursive: true, force: true });
    throw error;
  }
  return proxy;
}
