// A raw HTTP/1.1 client: it sends the bytes it is given, and says exactly what came back and how the connection ended.
import net from 'node:net';
import { Parser, bodyFraming } from './http1.mjs';
import { deferred, resetSocket, until, within } from './wait.mjs';

// One answer. `end`: 'clean' (final chunk, full length, or no body), 'cut' (FIN before that), 'reset', or null while it is still coming.
class Answer {
  constructor() {
    this.head = deferred();
    this.done = deferred();
    this.head.promise.catch(() => {});
    this.parts = [];
    this.end = null;
    this.interim = [];
  }
  get body() { return Buffer.concat(this.parts); }
  get text() { return this.body.toString(); }
  get json() { return JSON.parse(this.text); }
  header(name) { return this.headers?.get(name); }
  // Waits until the body contains / satisfies it.
  async until(test, timeout = 5000) {
    const fn = typeof test === 'string' ? (text) => text.includes(test) : test;
    return until(() => fn(this.text) || (this.end && this.end !== null && Promise.reject(new Error(
      `the answer ended (${this.end}) before that: ${this.status} ${this.text}`))), { timeout, what: `the body to satisfy ${test}` });
  }
}

export class Connection {
  constructor(target) {
    const options = typeof target === 'string' ? new URL(target) : target;
    this.host = options.host ?? 'localhost';
    const where = options.socketPath ? { path: options.socketPath } : { host: options.hostname.replace(/^\[|\]$/g, ''), port: Number(options.port) };
    this.socket = net.connect({ ...where, allowHalfOpen: true });
    this.socket.setNoDelay(true);
    this.answers = [];
    this.raw = [];
    this.closed = null; // 'fin' | 'reset'
    this.waiting = [];
    const close = (how) => {
      if (this.closed) return;
      this.closed = how;
      for (const answer of this.waiting.splice(0)) {
        const cleanByClose = answer.framing === 'close' && how === 'fin';
        this.#settle(answer, cleanByClose ? 'clean' : how === 'fin' ? 'cut' : 'reset');
      }
    };
    this.socket.on('error', () => close('reset'));
    this.socket.on('end', () => { close('fin'); this.socket.end(); });
    this.socket.on('close', () => close('reset'));
    this.parser = new Parser({
      head: (first, headers) => this.#head(first, headers),
      data: (bytes) => this.waiting[0]?.parts.push(Buffer.from(bytes)),
      end: () => this.#settle(this.waiting.shift(), 'clean'),
    });
    this.socket.on('data', (bytes) => { this.raw.push(bytes); try { this.parser.feed(bytes); } catch (error) { this.error = error; this.socket.destroy(); } });
  }

  #head(first, headers) {
    const code = Number(first.split(' ')[1]);
    const answer = this.waiting[0];
    if (!answer) throw new Error(`an answer nobody asked for: ${first}`);
    if (code >= 100 && code < 200) { answer.interim.push(code); return 'skip'; }
    Object.assign(answer, { status: code, first, headers, headAt: performance.now() });
    const empty = answer.method === 'HEAD' || code === 204 || code === 304;
    answer.framing = empty ? 0 : bodyFraming(headers, 'close');
    answer.head.resolve(answer);
    return answer.framing;
  }

  #settle(answer, end) {
    if (!answer) return;
    answer.end = end;
    answer.head.reject(new Error(`the connection ended (${end}) before a head`));
    answer.done.resolve(answer);
  }

  get bytes() { return Buffer.concat(this.raw); }
  write(bytes) { this.socket.write(bytes); }
  finish() { this.socket.end(); }
  reset() { resetSocket(this.socket); }
  destroy() { this.socket.destroy(); }
  waitClosed(ms = 5000) { return until(() => this.closed, { timeout: ms, what: 'the connection to be closed' }); }

  // Expects one more answer; the request's bytes are the caller's.
  expect(method = 'POST') {
    const answer = new Answer();
    answer.method = method;
    answer.connection = this;
    if (this.closed) this.#settle(answer, this.closed === 'fin' ? 'cut' : 'reset');
    else this.waiting.push(answer);
    this.answers.push(answer);
    return answer;
  }

  // Sends a whole request. Headers may be an object or a list of pairs; a content-length is added when there is a body.
  send({ method = 'POST', path = '/', headers = {}, body, host = this.host, version = '1.1' }) {
    const answer = this.expect(method);
    const list = Array.isArray(headers) ? [...headers] : Object.entries(headers);
    const has = (name) => list.some(([n]) => n.toLowerCase() === name);
    if (!has('host') && host !== null) list.unshift(['Host', host]);
    if (body !== undefined && !has('content-length') && !has('transfer-encoding')) list.push(['Content-Length', Buffer.byteLength(body)]);
    const head = `${method} ${path} HTTP/${version}\r\n${list.map(([n, v]) => `${n}: ${v}\r\n`).join('')}\r\n`;
    this.socket.write(head, 'latin1');
    if (body !== undefined) this.socket.write(body);
    return answer;
  }
}

// One request on a connection of its own, answered to the end.
export async function request(target, options, { timeout = 10000 } = {}) {
  const connection = new Connection(target);
  const answer = connection.send(options);
  try {
    return await within(answer.done.promise, timeout, `the answer to ${options.method ?? 'POST'} ${options.path}`);
  } finally {
    connection.destroy();
  }
}

// The model request of a route, as `send` takes it.
export function modelRequest(route, { model = 'm', stream = false, headers = {}, body, extra = {}, path } = {}) {
  const json = body ?? JSON.stringify(route.body(model, stream ? { stream: true, ...extra } : extra));
  return { method: 'POST', path: path ?? route.path, headers: { 'Content-Type': 'application/json', ...headers }, body: json };
}

// Events of an event stream: [{ name, data }], comments left out.
export function parseEvents(text) {
  return text.split(/\r\n\r\n|\n\n|\r\r/).map((block) => {
    const lines = block.split(/\r\n|\n|\r/);
    const of = (field) => lines.filter((l) => l.startsWith(`${field}:`)).map((l) => l.slice(field.length + 1).replace(/^ /, ''));
    return { name: of('event')[0], data: of('data').join('\n') };
  }).filter((e) => e.name !== undefined || e.data !== '');
}

// A client that keeps its connection for the next request as long as answers end cleanly.
export function keptClient(target) {
  let kept = null;
  const ask = async (options, { timeout = 10000 } = {}) => {
    const connection = kept && !kept.closed ? kept : new Connection(target);
    kept = null;
    try {
      const answer = await within(connection.send(options).done.promise, timeout, `the answer to ${options.method ?? 'POST'} ${options.path}`);
      connection.raw.length = connection.answers.length = 0;
      if (answer.end === 'clean' && !/close/i.test(answer.header('connection') ?? '')) kept = connection;
      return answer;
    } finally {
      if (!kept) connection.destroy();
    }
  };
  ask.close = () => kept?.destroy();
  return ask;
}
