/** The agent's end of streams: sends as much as the hub has granted and no more. */
import type { Clock } from '../../api/clock.js';
import type { StatusReason } from '../../api/meta/errors.js';
import type { Frame } from '../../api/wire/codec.js';
import {
  type Cancel,
  type Credit,
  type End,
  type Open,
  type Opened,
  packData,
  type StreamError,
  TYPE,
} from '../../api/wire/messages.js';
import type { PodLogOptions, StatsOptions } from '../../api/wire/streams.js';
import { LIMITS } from '../../api/wire/topics.js';
import type { PodHost } from '../ports.js';

/** An open stream that has nothing to say is confirmed after so many ms; an error by then is the answer instead. */
const OPENED_MS = 100;
/** Standard output: the sub-channel of logs. */
const STDOUT = 1;

/** Resolves when handed to the network. */
type Send = (type: number, body: unknown) => Promise<void>;

interface Stream {
  abort: AbortController;
  credit: number;
  wake: () => void;
}

export class AgentStreams {
  readonly #streams = new Map<number, Stream>();

  constructor(
    private readonly host: Pick<PodHost, 'logs' | 'stats'>,
    private readonly clock: Clock,
    private readonly send: Send,
  ) {}

  get size(): number {
    return this.#streams.size;
  }

  receive(frame: Frame): void {
    if (frame.type === TYPE.open) this.#open(frame.body as Open);
    else if (frame.type === TYPE.credit) {
      const { i, w } = frame.body as Credit;
      const s = this.#streams.get(i);
      if (!s) return;
      s.credit = Math.min(LIMITS.window, s.credit + w);
      s.wake();
    } else if (frame.type === TYPE.cancel) this.#streams.get((frame.body as Cancel).i)?.abort.abort();
  }

  /** The link is gone, and with it whoever read. */
  closeAll(): void {
    for (const s of this.#streams.values()) s.abort.abort();
    this.#streams.clear();
  }

  #open(o: Open): void {
    if (this.#streams.has(o.i)) return;
    const fail = (r: StatusReason, m: string) =>
      void this.send(TYPE.error, { i: o.i, r, m } satisfies StreamError);
    if (this.#streams.size >= LIMITS.streams) {
      fail('TooManyRequests', 'too many open streams on this node');
      return;
    }
    const start = {
      logs: (signal: AbortSignal) => this.host.logs(o.r.options as PodLogOptions, signal),
      stats: () => jsonOf(this.host.stats(o.r.options as StatsOptions)),
    }[o.r.kind];
    if (!start) {
      fail('BadRequest', `this agent has no "${o.r.kind}" streams; upgrade it`);
      return;
    }
    const s: Stream = { abort: new AbortController(), credit: o.w, wake: () => {} };
    s.abort.signal.addEventListener('abort', () => s.wake(), { once: true });
    this.#streams.set(o.i, s);
    void this.#pump(o.i, s, start);
  }

  async #pump(
    i: number,
    s: Stream,
    start: (signal: AbortSignal) => AsyncIterable<Uint8Array>,
  ): Promise<void> {
    const { signal } = s.abort;
    let sent = 0;
    const confirm = this.clock.after(OPENED_MS, () => void this.send(TYPE.opened, { i } satisfies Opened));
    /** Whole frames of `bytes`, as credit comes in; the last one may be short. */
    const write = async (bytes: Uint8Array) => {
      for (let at = 0; at < bytes.length && !signal.aborted; ) {
        while (s.credit <= 0 && !signal.aborted)
          await new Promise<void>((resolve) => {
            s.wake = resolve;
          });
        if (signal.aborted) return;
        const n = Math.min(bytes.length - at, s.credit, LIMITS.streamFrame);
        s.credit -= n;
        await this.send(TYPE.data, packData(i, sent++, STDOUT, bytes.subarray(at, at + n)));
        at += n;
      }
    };
    try {
      for await (const bytes of gather(start(signal), LIMITS.streamFrame)) {
        await write(bytes);
        if (signal.aborted) break;
      }
      if (!signal.aborted) void this.send(TYPE.end, { i, n: sent } satisfies End);
    } catch (e) {
      const reason = (e as { reason?: StatusReason }).reason ?? 'InternalError';
      if (!signal.aborted)
        void this.send(TYPE.error, { i, r: reason, m: (e as Error).message } satisfies StreamError);
    } finally {
      confirm();
      if (this.#streams.get(i) === s) this.#streams.delete(i);
    }
  }
}

/**
 * Joins chunks up to about `size` bytes, as long as the next one is there at once: a log is read line by line, and a
 * message for each would cost more than the line.
 */
export async function* gather(source: AsyncIterable<Uint8Array>, size: number): AsyncGenerator<Uint8Array> {
  const it = source[Symbol.asyncIterator]();
  let parts: Uint8Array[] = [];
  let bytes = 0;
  const take = () => {
    const all = parts.length === 1 ? parts[0]! : Buffer.concat(parts);
    parts = [];
    bytes = 0;
    return all;
  };
  try {
    for (;;) {
      const next = it.next();
      if (bytes > 0) {
        const ready = next.then(
          () => true,
          () => true,
        );
        const later = new Promise<boolean>((resolve) => setImmediate(resolve, false));
        if (bytes >= size || !(await Promise.race([ready, later]))) yield take();
      }
      const { done, value } = await next;
      if (done) break;
      parts.push(value);
      bytes += value.length;
    }
    if (bytes > 0) yield take();
  } finally {
    await it.return?.();
  }
}

/** A small answer, as the only chunk of a stream. */
async function* jsonOf(answer: Promise<unknown>): AsyncGenerator<Uint8Array> {
  yield Buffer.from(JSON.stringify(await answer));
}
