// HTTP/1.1 messages read from a raw socket, incrementally. Both sides of the tests use it: the scripted upstream reads requests,
// the raw client reads answers. It is strict: what it cannot read is an error, never guessed.

export class Headers {
  constructor(pairs) { this.pairs = pairs; }
  get(name) { return this.pairs.find(([n]) => n.toLowerCase() === name)?.[1]; }
  all(name) { return this.pairs.filter(([n]) => n.toLowerCase() === name).map(([, v]) => v); }
  has(name) { return this.get(name) !== undefined; }
  names() { return this.pairs.map(([n]) => n.toLowerCase()); }
}

function parseHead(bytes) {
  const lines = bytes.toString('latin1').split('\r\n');
  const first = lines.shift();
  const pairs = lines.filter(Boolean).map((line) => {
    const colon = line.indexOf(':');
    if (colon < 1) throw new Error(`bad header line ${JSON.stringify(line)}`);
    return [line.slice(0, colon), line.slice(colon + 1).trim()];
  });
  return { first, headers: new Headers(pairs) };
}

// Calls back: head(first, headers, rawBytes) returns how the body is framed: 'chunked' | 'close' | a number of bytes;
// data(bytes); chunk(bytes) once per whole chunk; end(); another message may follow.
export class Parser {
  constructor(on) {
    this.on = on;
    this.rest = Buffer.alloc(0);
    this.state = 'head';
    this.left = 0;
  }

  feed(bytes) {
    if (this.state === 'length' && this.rest.length === 0 && bytes.length <= this.left) return this.#take(bytes);
    this.rest = this.rest.length ? Buffer.concat([this.rest, bytes]) : bytes;
    while (this.#step()) { /* one step at a time */ }
    return undefined;
  }

  #take(bytes) {
    this.left -= bytes.length;
    if (bytes.length) this.on.data?.(bytes);
    if (this.left === 0) this.#finish();
  }

  #finish() {
    this.state = 'head';
    this.on.end?.();
  }

  #line() {
    const at = this.rest.indexOf('\r\n');
    if (at < 0) return null;
    const line = this.rest.subarray(0, at).toString('latin1');
    this.rest = this.rest.subarray(at + 2);
    return line;
  }

  #step() {
    if (this.state === 'head') return this.#head();
    if (this.rest.length === 0) return false;
    if (this.state === 'close') {
      this.on.data?.(this.rest);
      this.rest = Buffer.alloc(0);
      return false;
    }
    if (this.state === 'length') {
      const part = this.rest.subarray(0, this.left);
      this.rest = this.rest.subarray(part.length);
      this.#take(part);
      return true;
    }
    return this.#chunked();
  }

  #head() {
    const at = this.rest.indexOf('\r\n\r\n');
    if (at < 0) return false;
    const raw = this.rest.subarray(0, at + 4);
    this.rest = this.rest.subarray(at + 4);
    const { first, headers } = parseHead(raw.subarray(0, at));
    const framing = this.on.head(first, headers, raw);
    if (framing === 'skip') return true;
    if (framing === 'chunked') this.state = 'size';
    else if (framing === 'close') this.state = 'close';
    else if (framing === 0) this.#finish();
    else { this.state = 'length'; this.left = framing; }
    return true;
  }

  #chunked() {
    if (this.state === 'size') {
      const line = this.#line();
      if (line === null) return false;
      if (!/^[0-9a-fA-F]+(;.*)?$/.test(line)) throw new Error(`bad chunk size ${JSON.stringify(line)}`);
      this.left = parseInt(line, 16);
      this.state = this.left ? 'chunk' : 'trailer';
      return true;
    }
    if (this.state === 'trailer') {
      const line = this.#line();
      if (line === null) return false;
      if (line === '') this.#finish();
      return true;
    }
    if (this.rest.length < this.left + 2) return false;
    const part = this.rest.subarray(0, this.left);
    if (this.rest.subarray(this.left, this.left + 2).toString() !== '\r\n') throw new Error('chunk without its CRLF');
    this.rest = this.rest.subarray(this.left + 2);
    this.state = 'size';
    this.on.data?.(part);
    return true;
  }
}

export function bodyFraming(headers, fallback) {
  if (/chunked/i.test(headers.get('transfer-encoding') ?? '')) return 'chunked';
  const length = headers.get('content-length');
  return length === undefined ? fallback : Number(length);
}
