/**
 * Streams between the hub and a node: many at once over one connection. The receiver grants bytes of credit, so a
 * stream has at most one window in flight and never starves control traffic.
 */
import type { Clock } from '../../api/clock.js';
import { ApiError } from '../../api/meta/errors.js';
import type { Frame } from '../../api/wire/codec.js';
import {
  type Credit,
  type End,
  type Open,
  type StreamError,
  type StreamRequests,
  TYPE,
  unpackData,
} from '../../api/wire/messages.js';
import { LIMITS } from '../../api/wire/topics.js';

/** How long a node may take until it says that a stream is open, in ms. */
const OPEN_MS = 20_000;

type Send = (type: number, body: unknown) => void;

interface Stream {
  readonly id: number;
  readonly send: Send;
  readonly chunks: Buffer[];
  /** Bytes in `chunks`. */
  waiting: number;
  /** Consumed since credit was last granted. */
  consumed: number;
  frames: number;
  ended: boolean;
  error: ApiError | undefined;
  opened: () => void;
  wake: () => void;
}

/** The hub's streams of one node. */
export class NodeStreamTable {
  readonly #streams = new Map<number, Stream>();
  #next: number;

  constructor(
    private readonly node: string,
    private readonly clock: Clock,
  ) {
    // Random, so that frames of a hub's former life do not meet a stream of this one.
    this.#next = Math.floor(clock.random() * 0x7fffffff);
  }

  get size(): number {
    return this.#streams.size;
  }

  /** Resolves when the node has opened it; rejects with the node's ApiError. The iterable may be consumed once. */
  async open<K extends keyof StreamRequests>(
    kind: K,
    options: StreamRequests[K],
    send: Send,
    signal: AbortSignal,
  ): Promise<AsyncIterable<Uint8Array>> {
    if (this.#streams.size >= LIMITS.streams)
      throw new ApiError(
        'TooManyRequests',
        `node ${this.node} already has ${LIMITS.streams} open streams; close one and try again`,
        { retryAfterSeconds: 5 },
      );
    signal.throwIfAborted();
    this.#next = (this.#next + 1) >>> 0;
    const id = this.#next;
    const stream: Stream = {
      id,
      send,
      chunks: [],
      waiting: 0,
      consumed: 0,
      frames: 0,
      ended: false,
      error: undefined,
      opened: () => {},
      wake: () => {},
    };
    const opened = new Promise<void>((resolve) => {
      stream.opened = resolve;
    });
    this.#streams.set(id, stream);
    const abort = () => this.#cancel(stream);
    signal.addEventListener('abort', abort, { once: true });
    const late = this.clock.after(OPEN_MS, () =>
      this.#fail(
        stream,
        new ApiError('ServiceUnavailable', `node ${this.node} did not answer in ${OPEN_MS / 1000} s`),
        true,
      ),
    );
    const body: Open = { i: id, w: LIMITS.window, r: { kind, options } };
    send(TYPE.open, body);
    await opened;
    late();
    // Nothing but an error came: the caller gets it in place of a stream.
    if (stream.error && stream.chunks.length === 0) {
      signal.removeEventListener('abort', abort);
      throw stream.error;
    }
    return this.#read(stream, () => signal.removeEventListener('abort', abort));
  }

  /** A frame from the node. Unknown streams are answered with `cancel` once data comes, so that the node stops. */
  receive(frame: Frame, send: Send): void {
    if (frame.type === TYPE.data) {
      const data = Buffer.isBuffer(frame.body) ? unpackData(frame.body) : undefined;
      if (!data) return;
      const s = this.#streams.get(data.stream);
      if (!s) {
        send(TYPE.cancel, { i: data.stream });
        return;
      }
      if (data.index < s.frames) return;
      if (data.index > s.frames) {
        this.#fail(s, new ApiError('InternalError', `node ${this.node}: part of the stream was lost`), true);
        return;
      }
      s.frames++;
      s.waiting += data.bytes.length;
      if (s.waiting > LIMITS.window) {
        this.#fail(s, new ApiError('InternalError', `node ${this.node} sent more than it was granted`), true);
        return;
      }
      s.chunks.push(Buffer.from(data.bytes));
      s.opened();
      s.wake();
      return;
    }
    const body = frame.body as { i?: number } | undefined;
    const s = this.#streams.get(body?.i ?? -1);
    if (!s) return;
    if (frame.type === TYPE.opened) s.opened();
    else if (frame.type === TYPE.end) {
      if ((body as End).n === s.frames) this.#close(s);
      else
        this.#fail(s, new ApiError('InternalError', `node ${this.node}: the stream's end was lost`), false);
    } else if (frame.type === TYPE.error) {
      const e = body as StreamError;
      this.#fail(s, new ApiError(e.r, String(e.m)), false);
    }
  }

  /** The link is gone: every stream ends with an error. */
  closeAll(): void {
    for (const s of [...this.#streams.values()])
      this.#fail(s, new ApiError('ServiceUnavailable', `the link to node ${this.node} was lost`), false);
  }

  async *#read(s: Stream, release: () => void): AsyncGenerator<Uint8Array> {
    try {
      for (;;) {
        const chunk = s.chunks.shift();
        if (chunk) {
          s.waiting -= chunk.length;
          s.consumed += chunk.length;
          if (s.consumed >= LIMITS.window / 2 && !s.ended) {
            const more: Credit = { i: s.id, w: s.consumed };
            s.consumed = 0;
            s.send(TYPE.credit, more);
          }
          yield chunk;
        } else if (s.error) throw s.error;
        else if (s.ended) return;
        else
          await new Promise<void>((resolve) => {
            s.wake = resolve;
          });
      }
    } finally {
      release();
      this.#cancel(s);
    }
  }

  #cancel(s: Stream): void {
    if (!s.ended) s.send(TYPE.cancel, { i: s.id });
    this.#close(s);
  }

  #fail(s: Stream, e: ApiError, tell: boolean): void {
    if (s.ended) return;
    s.error = e;
    if (tell) s.send(TYPE.cancel, { i: s.id });
    this.#close(s);
  }

  #close(s: Stream): void {
    s.ended = true;
    this.#streams.delete(s.id);
    s.opened();
    s.wake();
  }
}
