// Places that do not answer.
import net from 'node:net';
import { spawn } from 'node:child_process';
import { until } from './wait.mjs';

// A port whose accept queue is full and whose owner is stopped: connections to it are never made.
export async function blackhole(later) {
  const code = 'require("net").createServer().listen({port:0,host:"127.0.0.1",backlog:1},function(){console.log(this.address().port)})';
  const child = spawn(process.execPath, ['-e', code], { stdio: ['ignore', 'pipe', 'inherit'] });
  later(() => child.kill('SIGKILL'));
  const port = Number(await new Promise((done) => child.stdout.once('data', done)));
  child.kill('SIGSTOP');
  const fillers = Array.from({ length: 6 }, () => net.connect(port, '127.0.0.1').on('error', () => {}));
  later(() => fillers.forEach((s) => s.destroy()));
  await until(() => fillers.filter((s) => !s.connecting).length >= 2, { what: 'the accept queue to fill' });
  return port;
}
