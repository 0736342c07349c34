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
  type Opened,
  type StreamError,
  type StreamRequests,
  TYPE,
  unpackData,
} from '../../api/wire/messages.js';
import { StreamEnd, SUB } from '../../api/wire/stream-end.js';
import { LIMITS } from '../../api/wire/topics.js';
import { NodeRefusal, type NodeStream } from '../streams.js';

/** How long a node may take until it says that a stream is open, in ms. */
const OPEN_MS = 20_000;
const READS = [SUB.stdout, SUB.stderr];

type Send = (type: number, body: unknown) => void;

interface Stream {
  readonly end: StreamEnd;
  readonly send: Send;
  error: ApiError | undefined;
  opened: () => void;
  /** Called once, when it is over. */
  closed: (code: number) => void;
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

  /** Resolves when the node has opened it; rejects with the node's ApiError. */
  async open<K extends keyof StreamRequests>(
    kind: K,
    options: StreamRequests[K],
    send: Send,
    signal: AbortSignal,
  ): Promise<NodeStream> {
    if (this.#streams.size >= LIMITS.streams)
      throw new ApiError(
        'TooManyRequests',
        `node ${this.node} already has ${LIMITS.streams} open streams; close one and try again`,
        { retryAfterSeconds: 5 },
      );
    signal.throwIfAborted();
    this.#next = (this.#next + 1) >>> 0;
    const id = this.#next;
    const end = new StreamEnd(id, send, { credit: 0, reads: READS });
    const stream: Stream = { end, send, error: undefined, opened: () => {}, closed: () => {} };
    const opened = new Promise<void>((resolve) => {
      stream.opened = resolve;
    });
    const abort = () => this.#cancel(stream);
    const done = new Promise<number>((resolve, reject) => {
      stream.closed = (code) => {
        signal.removeEventListener('abort', abort);
        if (stream.error) reject(stream.error);
        else resolve(code);
      };
    });
    done.catch(() => {});
    this.#streams.set(id, stream);
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
    if (stream.error && end.received === 0) throw stream.error;
    return { end, done, cancel: abort };
  }

  /** A stream of which only the answer matters. Who stops reading ends it. */
  async read<K extends keyof StreamRequests>(
    kind: K,
    options: StreamRequests[K],
    send: Send,
    signal: AbortSignal,
  ): Promise<AsyncIterable<Uint8Array>> {
    const { end, cancel } = await this.open(kind, options, send, signal);
    return (async function* () {
      try {
        yield* end.chunks(SUB.stdout);
      } finally {
        cancel();
      }
    })();
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
      try {
        s.end.receive(data);
        s.opened();
      } catch (e) {
        const why = `node ${this.node}: ${(e as Error).message}`;
        this.#fail(s, new ApiError('InternalError', why), true);
      }
      return;
    }
    const body = frame.body as { i?: number } | undefined;
    const s = this.#streams.get(body?.i ?? -1);
    if (!s) return;
    if (frame.type === TYPE.opened) {
      s.end.grant((body as Opened).w ?? 0);
      s.opened();
    } else if (frame.type === TYPE.credit) s.end.grant((body as Credit).w);
    else if (frame.type === TYPE.end) {
      const { n, c = 0 } = body as End;
      if (n === s.end.received) this.#close(s, c);
      else
        this.#fail(s, new ApiError('InternalError', `node ${this.node}: the stream's end was lost`), false);
    } else if (frame.type === TYPE.error) {
      const e = body as StreamError;
      this.#fail(s, new NodeRefusal(e.r, String(e.m)), false);
    }
  }

  /** The link is gone: every stream ends with an error. */
  closeAll(): void {
    for (const s of [...this.#streams.values()])
      this.#fail(s, new ApiError('ServiceUnavailable', `the link to node ${this.node} was lost`), false);
  }

  #cancel(s: Stream): void {
    if (s.end.over) return;
    s.send(TYPE.cancel, { i: s.end.id });
    this.#close(s);
  }

  #fail(s: Stream, e: ApiError, tell: boolean): void {
    if (s.end.over) return;
    s.error = e;
    if (tell) s.send(TYPE.cancel, { i: s.end.id });
    this.#close(s);
  }

  #close(s: Stream, code = 0): void {
    this.#streams.delete(s.end.id);
    s.end.finish(s.error);
    s.opened();
    s.closed(code);
  }
}
