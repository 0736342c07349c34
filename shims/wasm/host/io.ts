import { codeOf } from './paths.js';
import { pause } from './system.js';

/** wasi:io for preview 2: errors, pollables and streams. Everything is synchronous; the network happens {@link Outside}. */

/** A `result`'s error side, as jco expects it to be thrown. */
export class Payload extends Error {
  constructor(readonly payload: unknown) {
    super('payload');
  }
}
export const throws = (payload: unknown): never => {
  throw new Payload(payload);
};

/** Resources that a guest may name but never gets hold of, since nothing makes one. */
export const never = (...names: string[]): Record<string, unknown> =>
  Object.fromEntries(names.map((name) => [name, class {}]));

export class IoError extends Error {
  /** `code` is POSIX's; `http` is wasi:http's error-code, where the stream was a body. */
  constructor(
    readonly code: string,
    readonly http?: unknown,
  ) {
    super(code);
  }
  toDebugString(): string {
    return this.code;
  }
}

/** What goes on beside the guest, in another thread. */
export interface Outside {
  /** Takes in what has happened. */
  pump(): void;
  /** Waits until something happens, at most `ms`, which may be infinite. */
  sleep(ms: number): void;
}
let outside: Outside | undefined;
let beforeSleep = (): void => {};

/** What polls wait for besides time, and what to do before each wait. */
export function connectPolls(o: { outside?: Outside; beforeSleep?: () => void }): void {
  outside = o.outside ?? outside;
  beforeSleep = o.beforeSleep ?? beforeSleep;
}

/** Ready from `due` on (milliseconds of `performance.now()`), or once `happened` says so. Files always are. */
export class Pollable {
  constructor(
    readonly due: number,
    readonly happened?: () => boolean,
  ) {}
  ready(): boolean {
    outside?.pump();
    return isReady(this, performance.now());
  }
  block(): void {
    poll([this]);
  }
}
export const READY = 0;
/** Ready when something outside has happened. */
export const when = (happened: () => boolean): Pollable => new Pollable(Number.POSITIVE_INFINITY, happened);

const isReady = (p: Pollable, now: number): boolean => p.due <= now || p.happened?.() === true;

export function poll(list: readonly Pollable[]): Uint32Array {
  if (list.length === 0) throw new WebAssembly.RuntimeError('poll of an empty list');
  for (;;) {
    outside?.pump();
    const now = performance.now();
    const ready = [...list.keys()].filter((i) => isReady(list[i]!, now));
    if (ready.length > 0) return Uint32Array.from(ready);
    beforeSleep();
    const ms = list.reduce((least, p) => Math.min(least, p.due), Number.POSITIVE_INFINITY) - now;
    if (outside) outside.sleep(ms);
    else pause(ms);
  }
}

/** At most this much in one read or write; the interface lets the host give less. */
const CHUNK = 1 << 20;
export const clamp = (n: bigint): number => Number(n > BigInt(CHUNK) ? CHUNK : n);

const failed = (e: unknown): never =>
  throws({ tag: 'last-operation-failed', val: e instanceof IoError ? e : new IoError(codeOf(e)) });

/** Where an input stream reads. Errors that `read` throws become the guest's. */
export interface Source {
  /** Nothing left is an empty answer, which closes the stream; undefined means: nothing yet. */
  read(length: number): Uint8Array | undefined;
  /** Absent where there is always an answer. */
  ready?(): boolean;
}

export class InputStream {
  constructor(private readonly source: Source) {}
  read(length: bigint): Uint8Array {
    if (length === 0n) return new Uint8Array(0);
    let got: Uint8Array | undefined;
    try {
      if (this.source.ready) outside?.pump();
      got = this.source.read(clamp(length));
    } catch (e) {
      return failed(e);
    }
    if (got === undefined) return new Uint8Array(0);
    return got.length > 0 ? got : throws({ tag: 'closed' });
  }
  blockingRead(length: bigint): Uint8Array {
    if (length > 0n) this.subscribe().block();
    return this.read(length);
  }
  skip(length: bigint): bigint {
    return BigInt(this.read(length).length);
  }
  blockingSkip(length: bigint): bigint {
    return BigInt(this.blockingRead(length).length);
  }
  subscribe(): Pollable {
    const { source } = this;
    return source.ready ? when(() => source.ready!()) : new Pollable(READY);
  }
}

/** Where an output stream writes. Errors thrown become the guest's. */
export interface Sink {
  write(bytes: Uint8Array): void;
  /** Bytes that may be written now; absent where there is always room. */
  room?(): number;
  /** Whether all of it has reached its place. */
  flushed?(): boolean;
}

export class OutputStream {
  constructor(private readonly sink: Sink) {}
  #room(): number {
    if (!this.sink.room) return CHUNK;
    outside?.pump();
    return this.sink.room();
  }
  #try<T>(operation: () => T): T {
    try {
      return operation();
    } catch (e) {
      if (e instanceof Payload || e instanceof WebAssembly.RuntimeError) throw e;
      return failed(e);
    }
  }
  checkWrite(): bigint {
    return BigInt(this.#try(() => this.#room()));
  }
  write(bytes: Uint8Array): void {
    this.#try(() => {
      // The interface's own words: a trap.
      if (this.sink.room && bytes.length > this.#room())
        throw new WebAssembly.RuntimeError('write of more than check-write permitted');
      if (bytes.length > 0) this.sink.write(bytes);
    });
  }
  blockingWriteAndFlush(bytes: Uint8Array): void {
    for (let at = 0; at < bytes.length; ) {
      this.subscribe().block();
      const part = bytes.subarray(at, at + Number(this.checkWrite()));
      this.write(part);
      at += part.length;
    }
    this.blockingFlush();
  }
  flush(): void {
    this.checkWrite();
  }
  blockingFlush(): void {
    const { sink } = this;
    if (sink.flushed) when(() => sink.flushed!()).block();
    this.checkWrite();
  }
  writeZeroes(length: bigint): void {
    this.write(new Uint8Array(clamp(length)));
  }
  blockingWriteZeroesAndFlush(length: bigint): void {
    this.blockingWriteAndFlush(new Uint8Array(clamp(length)));
  }
  splice(source: InputStream, length: bigint): bigint {
    const room = BigInt(this.checkWrite());
    const bytes = source.read(length < room ? length : room);
    this.write(bytes);
    return BigInt(bytes.length);
  }
  blockingSplice(source: InputStream, length: bigint): bigint {
    this.subscribe().block();
    source.subscribe().block();
    return this.splice(source, length);
  }
  subscribe(): Pollable {
    const { sink } = this;
    return sink.room
      ? when(() => {
          try {
            return sink.room!() > 0;
          } catch {
            // The next call tells what is wrong.
            return true;
          }
        })
      : new Pollable(READY);
  }
}
