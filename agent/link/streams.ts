/** The agent's end of streams: sends as much as the hub has granted and no more. */
import { finished } from 'node:stream/promises';
import type { Clock } from '../../api/clock.js';
import type { StatusReason } from '../../api/meta/errors.js';
import type { Frame } from '../../api/wire/codec.js';
import {
  type Cancel,
  type Credit,
  type End,
  type Open,
  type Opened,
  type StreamError,
  TYPE,
  unpackData,
} from '../../api/wire/messages.js';
import { StreamEnd, SUB } from '../../api/wire/stream-end.js';
import type { PodLogOptions, StatsOptions } from '../../api/wire/streams.js';
import { LIMITS } from '../../api/wire/topics.js';
import type { ChannelRequest, PodConnections, PodHost } from '../ports.js';

/** An open stream that has nothing to say is confirmed after so many ms; an error by then is the answer instead. */
const OPENED_MS = 100;
/** What the hub may send on; other sub-channels are of a later release. */
const READS = [SUB.stdin, SUB.resize];

/** Resolves when handed to the network. */
type Send = (type: number, body: unknown) => Promise<void>;

interface Stream {
  end: StreamEnd;
  abort: AbortController;
}

/** Carries one kind of stream to its end; resolves with an exit code, if the kind has one. */
type Run = (s: Stream, options: Open['r']['options']) => Promise<number | undefined>;

export class AgentStreams {
  readonly #streams = new Map<number, Stream>();
  readonly #kinds: Readonly<Record<string, Run>>;

  constructor(
    host: Pick<PodHost, 'logs' | 'stats'>,
    connections: PodConnections | undefined,
    private readonly clock: Clock,
    private readonly send: Send,
  ) {
    const connect =
      (kind: ChannelRequest['kind']): Run =>
      (s, options) =>
        this.#connect(s, connections!, { kind, options } as ChannelRequest);
    this.#kinds = {
      logs: (s, o) => this.#answer(s, host.logs(o as PodLogOptions, s.abort.signal)),
      stats: (s, o) => this.#answer(s, jsonOf(host.stats(o as StatsOptions))),
      ...(connections
        ? { exec: connect('exec'), attach: connect('attach'), forward: connect('forward') }
        : {}),
    };
  }

  get size(): number {
    return this.#streams.size;
  }

  receive(frame: Frame): void {
    if (frame.type === TYPE.open) this.#open(frame.body as Open);
    else if (frame.type === TYPE.data) {
      const data = Buffer.isBuffer(frame.body) ? unpackData(frame.body) : undefined;
      const s = data && this.#streams.get(data.stream);
      if (!s) return;
      try {
        s.end.receive(data);
      } catch (e) {
        this.#fail(data.stream, e);
        this.#close(s, e as Error);
      }
    } else if (frame.type === TYPE.credit) {
      const { i, w } = frame.body as Credit;
      this.#streams.get(i)?.end.grant(w);
    } else if (frame.type === TYPE.cancel) {
      const s = this.#streams.get((frame.body as Cancel).i);
      if (s) this.#close(s, new Error('whoever asked has gone'));
    }
  }

  /** The link is gone, and with it whoever read. */
  closeAll(): void {
    for (const s of [...this.#streams.values()]) this.#close(s, new Error('the link to the hub was lost'));
  }

  #open(o: Open): void {
    if (this.#streams.has(o.i)) return;
    const fail = (r: StatusReason, m: string) => this.#fail(o.i, { reason: r, message: m });
    if (this.#streams.size >= LIMITS.streams) {
      fail('TooManyRequests', 'too many open streams on this node');
      return;
    }
    const run = Object.hasOwn(this.#kinds, o.r.kind) ? this.#kinds[o.r.kind] : undefined;
    if (!run) {
      fail('BadRequest', `this agent has no "${o.r.kind}" streams; upgrade it`);
      return;
    }
    const end = new StreamEnd(o.i, this.send, { credit: o.w, reads: READS });
    const s: Stream = { end, abort: new AbortController() };
    this.#streams.set(o.i, s);
    void this.#run(s, () => run(s, o.r.options));
  }

  async #run(s: Stream, run: () => Promise<number | undefined>): Promise<void> {
    const i = s.end.id;
    try {
      const code = await run();
      if (!s.end.over)
        void this.send(TYPE.end, { i, n: s.end.sent, ...(code ? { c: code } : {}) } satisfies End);
    } catch (e) {
      if (!s.end.over) this.#fail(i, e);
    } finally {
      this.#close(s);
    }
  }

  #fail(i: number, e: unknown): void {
    const { reason = 'InternalError', message } = e as { reason?: StatusReason; message: string };
    void this.send(TYPE.error, { i, r: reason, m: message } satisfies StreamError);
  }

  #close(s: Stream, why?: Error): void {
    this.#streams.delete(s.end.id);
    s.end.finish(why);
    s.abort.abort(why);
  }

  /** What is only answered: logs, usage. */
  async #answer({ end, abort }: Stream, source: AsyncIterable<Uint8Array>): Promise<undefined> {
    const confirm = this.clock.after(
      OPENED_MS,
      () => void this.send(TYPE.opened, { i: end.id } satisfies Opened),
    );
    try {
      for await (const bytes of gather(source, LIMITS.streamFrame)) {
        await end.write(SUB.stdout, bytes);
        if (abort.signal.aborted) break;
      }
    } finally {
      confirm();
    }
    return undefined;
  }

  /** What goes both ways. Ends when all that the process wrote has been handed to the network. */
  async #connect(
    { end, abort }: Stream,
    connections: PodConnections,
    request: ChannelRequest,
  ): Promise<number> {
    // The end of a connection's one direction is told; a process says the same by ending.
    const stdout = end.writable(SUB.stdout, { closes: request.kind === 'forward' });
    const stderr = end.writable(SUB.stderr);
    const stdin = end.readable(SUB.stdin);
    const resize = end.readable(SUB.resize);
    const all = [stdin, resize, stdout, stderr];
    // Whoever uses them sees errors as well; an error of one that nobody uses is no error.
    for (const x of all) x.on('error', () => {});
    try {
      const code = await connections.connect(request, {
        stdin,
        stdout,
        stderr,
        resize,
        signal: abort.signal,
        accepted: () => void this.send(TYPE.opened, { i: end.id, w: LIMITS.window } satisfies Opened),
      });
      for (const w of [stdout, stderr]) {
        w.end();
        if (!w.writableFinished) await finished(w).catch(() => {});
      }
      return code;
    } finally {
      for (const x of all) x.destroy();
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
