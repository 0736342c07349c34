/**
 * SPDY/3.1 as Kubernetes' clients and container runtimes speak it (moby/spdystream): streams in both directions over
 * one connection, without SPDY's own flow control. A stream that nobody reads therefore holds up its connection.
 */
import { Duplex } from 'node:stream';
import { HeaderReader, type Headers, HeaderWriter } from './headers.js';

const VERSION = 3;
const TYPE = {
  synStream: 1,
  synReply: 2,
  rstStream: 3,
  settings: 4,
  ping: 6,
  goAway: 7,
  headers: 8,
} as const;
const FIN = 1;
const CONTROL = 0x8000;
const HEAD = 8;
const STATUS = { protocolError: 1, refused: 3, cancel: 5 } as const;
/** Bytes of one control frame. */
const MAX_CONTROL = 64 * 1024;
/** Bytes of one data frame that is sent. */
const MAX_DATA = 32 * 1024;
/** What one stream may have unread before the connection waits for its reader. */
const WINDOW = 128 * 1024;
const MAX_STREAMS = 256;

export class SpdyStream extends Duplex {
  /** Neither end has anything more to send. */
  #finished = false;

  constructor(
    readonly id: number,
    readonly headers: Headers,
    private readonly session: SpdySession,
  ) {
    super({ readableHighWaterMark: WINDOW, writableHighWaterMark: MAX_DATA });
    // Whoever reads or writes hears of an error; one that nobody is told of is none.
    this.on('error', () => {});
  }

  override _read(): void {
    this.session.proceed(this);
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding, done: (e?: Error | null) => void): void {
    for (let at = 0; at < chunk.length; at += MAX_DATA) {
      const part = chunk.subarray(at, at + MAX_DATA);
      this.session.sendData(this.id, part, 0, at + MAX_DATA >= chunk.length ? done : undefined);
    }
    if (chunk.length === 0) done();
  }

  override _final(done: (e?: Error | null) => void): void {
    this.session.sendData(this.id, Buffer.alloc(0), FIN, done);
  }

  override _destroy(error: Error | null, done: (e?: Error | null) => void): void {
    this.#finished = this.readableEnded && this.writableFinished;
    this.session.forget(this, !this.#finished);
    done(error);
  }
}

export interface SpdyOptions {
  server: boolean;
  /** A stream that the other side opened. What it throws refuses the stream. */
  onStream?: (stream: SpdyStream) => void;
}

export class SpdySession {
  readonly #transport: Duplex;
  readonly #o: SpdyOptions;
  readonly #streams = new Map<number, SpdyStream>();
  readonly #reader = new HeaderReader();
  readonly #writer = new HeaderWriter();
  /** Streams whose reader is behind. */
  readonly #full = new Set<SpdyStream>();
  #nextId: number;
  /** What came of a frame's head, or of a control frame. */
  #partial: Buffer = Buffer.alloc(0);
  /** Of the data frame under way. */
  #data: { stream: SpdyStream | undefined; left: number; fin: boolean } | undefined;
  #closed = false;
  /** The other side waits for the streams to end, and then closes. */
  #leaving = false;
  /** Resolves when the connection is gone, whoever ended it. */
  readonly closed: Promise<void>;

  constructor(transport: Duplex, options: SpdyOptions) {
    this.#transport = transport;
    this.#o = options;
    this.#nextId = options.server ? 2 : 1;
    this.closed = new Promise((resolve) => {
      const gone = () => {
        this.#gone();
        resolve();
      };
      transport.once('close', gone);
      transport.once('end', gone);
      transport.on('error', gone);
    });
    transport.on('data', (chunk: Buffer) => {
      try {
        this.#take(chunk);
      } catch {
        this.close();
      }
    });
  }

  /** Opens a stream. */
  open(headers: Headers): SpdyStream {
    const stream = new SpdyStream(this.#nextId, headers, this);
    this.#nextId += 2;
    if (this.#closed || this.#leaving) {
      stream.destroy(new Error('the connection is closed'));
      return stream;
    }
    this.#streams.set(stream.id, stream);
    const head = Buffer.alloc(10);
    head.writeUInt32BE(stream.id, 0);
    this.#sendControl(TYPE.synStream, 0, Buffer.concat([head, this.#writer.write(headers)]));
    return stream;
  }

  /** Ends the connection once what was written is out; all streams end with it. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    // With an error: who waits for the end of what it has not read yet would wait for ever.
    for (const s of [...this.#streams.values()]) s.destroy(new Error('the connection was closed'));
    this.#transport.end();
    // Whoever is on the other side need not say goodbye.
    this.#transport.resume();
  }

  /** The other side has ended it: what has come can still be read. */
  #gone(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#drain();
    this.#transport.end();
  }

  /** Nothing more comes on any stream. */
  #drain(): void {
    for (const s of [...this.#streams.values()]) {
      s.once('end', () => s.destroy());
      s.push(null);
    }
  }

  // --- for streams --------------------------------------------------------------------------------------------------

  sendData(id: number, bytes: Buffer, flags: number, done?: (e?: Error | null) => void): void {
    if (this.#closed) {
      done?.(new Error('the connection is closed'));
      return;
    }
    const head = Buffer.alloc(HEAD);
    head.writeUInt32BE(id, 0);
    head.writeUInt32BE(((flags << 24) | bytes.length) >>> 0, 4);
    this.#transport.write(Buffer.concat([head, bytes]), done);
  }

  /** A stream's reader has caught up. */
  proceed(stream: SpdyStream): void {
    if (this.#full.delete(stream) && this.#full.size === 0) this.#transport.resume();
  }

  forget(stream: SpdyStream, reset: boolean): void {
    if (this.#streams.delete(stream.id) && reset && !this.#closed) this.#reset(stream.id, STATUS.cancel);
    this.proceed(stream);
    if (this.#leaving && this.#streams.size === 0) this.close();
  }

  // --- frames -------------------------------------------------------------------------------------------------------

  #sendControl(type: number, flags: number, body: Buffer): void {
    if (this.#closed) return;
    const head = Buffer.alloc(HEAD);
    head.writeUInt16BE(CONTROL | VERSION, 0);
    head.writeUInt16BE(type, 2);
    head.writeUInt32BE(((flags << 24) | body.length) >>> 0, 4);
    this.#transport.write(Buffer.concat([head, body]));
  }

  #reset(id: number, status: number): void {
    const body = Buffer.alloc(8);
    body.writeUInt32BE(id, 0);
    body.writeUInt32BE(status, 4);
    this.#sendControl(TYPE.rstStream, 0, body);
  }

  /** Data frames are passed on as they come, control frames when they are whole. */
  #take(chunk: Buffer): void {
    let rest: Buffer = this.#partial.length > 0 ? Buffer.concat([this.#partial, chunk]) : chunk;
    this.#partial = Buffer.alloc(0);
    while (!this.#closed) {
      const data = this.#data;
      if (data) {
        const part = rest.subarray(0, data.left);
        rest = rest.subarray(part.length);
        data.left -= part.length;
        if (part.length > 0) this.#push(data.stream, part);
        if (data.left > 0) return;
        if (data.fin) data.stream?.push(null);
        this.#data = undefined;
      }
      if (rest.length < HEAD) break;
      const size = rest.readUInt32BE(4) & 0xffffff;
      const flags = rest[4]!;
      if ((rest.readUInt16BE(0) & CONTROL) === 0) {
        const stream = this.#streams.get(rest.readUInt32BE(0));
        this.#data = { stream, left: size, fin: (flags & FIN) !== 0 };
        rest = rest.subarray(HEAD);
        continue;
      }
      if (size > MAX_CONTROL) throw new RangeError(`control frame of ${size} bytes`);
      if (rest.length < HEAD + size) break;
      this.#control(rest.readUInt16BE(2), flags, rest.subarray(HEAD, HEAD + size));
      rest = rest.subarray(HEAD + size);
    }
    this.#partial = Buffer.from(rest);
  }

  #push(stream: SpdyStream | undefined, bytes: Buffer): void {
    if (!stream || stream.destroyed || stream.readableEnded) return;
    if (stream.push(Buffer.from(bytes))) return;
    this.#full.add(stream);
    this.#transport.pause();
  }

  #control(type: number, flags: number, body: Buffer): void {
    if (type === TYPE.synStream) this.#opened(body, flags);
    else if (type === TYPE.synReply || type === TYPE.headers) {
      // Read in any case: each block continues the one before.
      this.#reader.read(body.subarray(4));
      if (flags & FIN) this.#streams.get(body.readUInt32BE(0))?.push(null);
    } else if (type === TYPE.rstStream) {
      const stream = this.#streams.get(body.readUInt32BE(0));
      if (stream) {
        this.#streams.delete(stream.id);
        // What came before it can still be read.
        stream.push(null);
        stream.once('end', () => stream.destroy());
      }
    } else if (type === TYPE.ping) {
      // Odd numbers are the client's, even ones the server's; one of ours is an answer.
      if ((body.readUInt32BE(0) % 2 === 1) === this.#o.server) this.#sendControl(TYPE.ping, 0, body);
    } else if (type === TYPE.goAway) {
      this.#leaving = true;
      this.#drain();
      if (this.#streams.size === 0) this.close();
    }
  }

  #opened(body: Buffer, flags: number): void {
    const id = body.readUInt32BE(0) & 0x7fffffff;
    const headers = this.#reader.read(body.subarray(10));
    if ((id % 2 === 1) !== this.#o.server || this.#streams.has(id)) {
      this.#reset(id, STATUS.protocolError);
      return;
    }
    if (this.#streams.size >= MAX_STREAMS || !this.#o.onStream) {
      this.#reset(id, STATUS.refused);
      return;
    }
    const stream = new SpdyStream(id, headers, this);
    this.#streams.set(id, stream);
    try {
      this.#o.onStream(stream);
    } catch {
      this.#streams.delete(id);
      stream.destroy();
      this.#reset(id, STATUS.protocolError);
      return;
    }
    const reply = Buffer.alloc(4);
    reply.writeUInt32BE(id, 0);
    this.#sendControl(TYPE.synReply, 0, Buffer.concat([reply, this.#writer.write({})]));
    if (flags & FIN) stream.push(null);
  }
}
