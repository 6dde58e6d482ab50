// A scripted upstream on a raw socket: it parses requests, records them byte for byte, and does exactly what the test says with the
// connection. A step is `async (io, request) => {}`; each request takes the next one and the last repeats. A step with
// `atHead = true` runs when the head is in, before the body.
import net from 'node:net';
import tls from 'node:tls';
import { EventEmitter } from 'node:events';
import { Parser, bodyFraming } from './http1.mjs';
import { deferred, resetSocket, until } from './wait.mjs';
import { fixture, fixtureHead, routeOfUpstreamPath } from './routes.mjs';

const REASONS = { 200: 'OK', 400: 'Bad Request', 429: 'Too Many Requests', 500: 'Internal Server Error', 503: 'Service Unavailable' };

// What a step may do with its connection.
export class Io {
  constructor(socket, gone) {
    this.socket = socket;
    this.gone = gone; // resolves when the peer has closed or reset the connection
    this.isGone = false;
    gone.then(() => { this.isGone = true; });
  }

  raw(bytes) {
    if (!this.socket.destroyed) this.socket.write(bytes);
  }

  // `framing`: 'chunked', 'close', or a content length.
  head(status, headers = {}, framing = 'chunked') {
    const list = Array.isArray(headers) ? headers : Object.entries(headers);
    const lines = list.map(([name, value]) => `${name}: ${value}\r\n`);
    if (framing === 'chunked') lines.push('transfer-encoding: chunked\r\n');
    else if (framing === 'close') lines.push('connection: close\r\n');
    else lines.push(`content-length: ${framing}\r\n`);
    this.raw(`HTTP/1.1 ${status} ${REASONS[status] ?? 'Status'}\r\n${lines.join('')}\r\n`);
  }

  chunk(bytes) {
    const body = Buffer.from(bytes);
    if (body.length) this.raw(Buffer.concat([Buffer.from(`${body.length.toString(16)}\r\n`), body, Buffer.from('\r\n')]));
  }

  lastChunk() { this.raw('0\r\n\r\n'); }
  fin() { this.socket.end(); }
  reset() { resetSocket(this.socket); }

  answer(status, headers, body) {
    this.head(status, headers, Buffer.byteLength(body));
    this.raw(body);
  }

  // An event stream's head.
  sse(headers = {}) { this.head(200, { 'content-type': 'text/event-stream; charset=utf-8', ...headers }); }
}

export class Upstream extends EventEmitter {
  constructor(steps) {
    super();
    this.steps = steps;
    this.requests = [];
    this.connections = 0;
    this.sockets = new Set();
    this.errors = [];
  }

  get calls() { return this.requests.length; }
  get last() { return this.requests.at(-1); }
  get open() { return this.sockets.size; }
  get port() { return this.server.address().port; }
  script(...steps) { this.steps = steps; this.from = this.requests.length; return this; }
  url(path = '/v1') { return `${this.tls ? 'https' : 'http'}://${this.host ?? '127.0.0.1'}:${this.port}${path}`; }
  waitCalls(n, timeout) { return until(() => this.calls >= n && this.requests[n - 1], { timeout, what: `call ${n} of the upstream` }); }
  waitDone(n) { return until(() => this.requests[n - 1]?.complete && this.requests[n - 1], { what: `whole request ${n}` }); }
  waitClosed() { return until(() => this.sockets.size === 0, { what: 'the upstream connections closed' }); }

  accept(socket) {
    this.connections++;
    this.sockets.add(socket);
    socket.setNoDelay?.(true);
    const gone = deferred();
    for (const event of ['end', 'close', 'error']) socket.on(event, () => gone.resolve());
    socket.on('error', () => {});
    socket.on('close', () => this.sockets.delete(socket));
    if (this.onConnection) return this.onConnection(socket);
    const io = new Io(socket, gone.promise);
    let request = null;
    const run = (step) => Promise.resolve(step(io, request)).catch((error) => this.errors.push(error));
    let step = null;
    const parser = new Parser({
      head: (first, headers, raw) => {
        const [method, path] = first.split(' ');
        request = { method, path, headers, head: Buffer.from(raw), parts: [], complete: false, io, body: Buffer.alloc(0), at: performance.now() };
        Object.defineProperty(request, 'json', { get() { return JSON.parse(this.body.toString()); } });
        this.requests.push(request);
        step = this.#next();
        if (step.atHead) run(step);
        return bodyFraming(headers, 0);
      },
      data: (bytes) => { request.parts.push(bytes); request.got = (request.got ?? 0) + bytes.length; },
      end: () => {
        request.body = Buffer.concat(request.parts);
        request.complete = true;
        this.emit('request', request);
        if (!step.atHead) run(step);
      },
    });
    socket.on('data', (bytes) => parser.feed(bytes));
  }

  #next() {
    const index = this.requests.length - 1 - (this.from ?? 0);
    const step = this.steps[Math.min(index, this.steps.length - 1)];
    if (!step) throw new Error('the upstream has no step for this request');
    return step;
  }

  async close() {
    for (const socket of this.sockets) socket.destroy();
    await new Promise((resolve) => this.server.close(resolve));
    if (this.errors.length) throw this.errors[0];
  }
}

export async function startUpstream(steps = [good()], { secure, host = '127.0.0.1' } = {}) {
  const upstream = new Upstream(steps);
  upstream.tls = Boolean(secure);
  upstream.server = secure ? tls.createServer(secure, (s) => upstream.accept(s)) : net.createServer((s) => upstream.accept(s));
  upstream.server.on('tlsClientError', () => {});
  await new Promise((resolve, reject) => upstream.server.once('error', reject).listen({ port: 0, host }, resolve));
  return upstream;
}

// ---- ready-made steps ----

const wantsStream = (request) => { try { return request.json.stream === true; } catch { return false; } };

// The canned good answer of the route that was called, stream or not as asked.
export const good = (extra = {}) => (io, request) => {
  const route = routeOfUpstreamPath(request.path);
  const name = wantsStream(request) ? 'success-stream.sse' : 'success.json';
  const body = fixture(route, name);
  const headers = [...fixtureHead(route, name).headers, ...Object.entries(extra)];
  if (!wantsStream(request)) return io.answer(200, headers, body);
  io.head(200, headers);
  io.chunk(body);
  return io.lastChunk();
};

// An error answer: the route's fixture of that status, or the bytes given.
export const status = (code, body, headers = {}) => (io, request) => {
  if (body !== undefined) return io.answer(code, { 'content-type': 'application/json', ...headers }, body);
  const route = routeOfUpstreamPath(request.path);
  const text = fixture(route, `error-${code}.json`) ??
    Buffer.from(JSON.stringify({ error: { message: `upstream says ${code}`, type: 'server_error', param: null, code: null } }));
  return io.answer(code, { 'content-type': 'application/json', ...headers }, text);
};

// A 200 whose body is the bytes given, chunked in these parts, ended cleanly.
export const stream = (...parts) => (io) => {
  io.sse();
  for (const part of parts) io.chunk(part);
  io.lastChunk();
};

// A stream of these parts and then `end(io)`.
export const streamThen = (parts, end) => async (io) => {
  io.sse();
  for (const part of parts) io.chunk(part);
  await end(io);
};

export const answer = (code, headers, body) => (io) => io.answer(code, headers, body);
export const silent = () => (io) => io.gone;
export const reset = () => (io) => io.reset();
export const fin = () => (io) => io.fin();
