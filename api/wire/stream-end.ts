/**
 * One end of a stream: frames of several sub-channels in both directions, numbered, and no more bytes in flight than
 * the receiver has granted. Both sides of the link are made of it; docs/wire.md tells the protocol.
 */
import { Readable, Writable } from 'node:stream';
import { type Credit, packData, TYPE, type unpackData } from './messages.js';
import { LIMITS } from './topics.js';

/**
 * Sub-channels, with the numbers that Kubernetes' remote command protocol gives them. `close` carries the number of the
 * one that ends while others go on.
 */
export const SUB = { stdin: 0, stdout: 1, stderr: 2, resize: 4, close: 255 } as const;

/** Hands a message to the network; may resolve when it is gone. */
export type SendMessage = (type: number, body: unknown) => Promise<void> | void;

interface Outgoing {
  sub: number;
  bytes: Uint8Array;
  done: (e?: Error) => void;
}

interface Inbox {
  chunks: Buffer[];
  /** Nothing more will come; what is there is read first. */
  ended: boolean;
  /** Nobody reads: what comes is dropped. */
  dropped: boolean;
  wake: () => void;
}

/** The other side broke the protocol, or the network lost something. */
export class StreamBroken extends Error {}

export class StreamEnd {
  #credit: number;
  #sent = 0;
  #received = 0;
  /** Bytes that came and were not read yet. */
  #unread = 0;
  /** Read since credit was last granted. */
  #consumed = 0;
  readonly #inboxes = new Map<number, Inbox>();
  readonly #outbox: Outgoing[] = [];
  #pumping = false;
  #over = false;
  #error: Error | undefined;

  /** `credit` is what the other side has granted already; `reads` are the sub-channels that somebody here reads. */
  constructor(
    readonly id: number,
    private readonly send: SendMessage,
    { credit, reads }: { credit: number; reads: readonly number[] },
  ) {
    this.#credit = credit;
    for (const sub of reads)
      this.#inboxes.set(sub, { chunks: [], ended: false, dropped: false, wake: () => {} });
  }

  /** Data frames sent so far, and received. */
  get sent(): number {
    return this.#sent;
  }
  get received(): number {
    return this.#received;
  }
  get over(): boolean {
    return this.#over;
  }

  // --- sending ------------------------------------------------------------------------------------------------------

  /** Resolves when all of it was handed to the network; rejects when the stream ended before. */
  write(sub: number, bytes: Uint8Array): Promise<void> {
    return new Promise((resolve, reject) => {
      const done = (e?: Error) => (e ? reject(e) : resolve());
      if (this.#over) done(this.#error ?? new StreamBroken('the stream has ended'));
      else if (bytes.length === 0) done();
      else {
        this.#outbox.push({ sub, bytes, done });
        void this.#pump();
      }
    });
  }

  /** Says that this side sends nothing more on a sub-channel. Never rejects. */
  async close(sub: number): Promise<void> {
    await this.write(SUB.close, Uint8Array.of(sub)).catch(() => {});
  }

  /** The other side takes so many bytes more. */
  grant(bytes: number): void {
    this.#credit = Math.min(LIMITS.window, this.#credit + Math.max(0, bytes));
    void this.#pump();
  }

  async #pump(): Promise<void> {
    if (this.#pumping) return;
    this.#pumping = true;
    while (!this.#over && this.#credit > 0) {
      const head = this.#outbox[0];
      if (!head) break;
      const n = Math.min(head.bytes.length, this.#credit, LIMITS.streamFrame);
      this.#credit -= n;
      const frame = packData(this.id, this.#sent++, head.sub, head.bytes.subarray(0, n));
      head.bytes = head.bytes.subarray(n);
      await this.send(TYPE.data, frame);
      if (head.bytes.length === 0 && this.#outbox[0] === head) {
        this.#outbox.shift();
        head.done();
      }
    }
    this.#pumping = false;
  }

  // --- receiving ----------------------------------------------------------------------------------------------------

  /** A data frame. Throws StreamBroken when one before it is missing, or when it was more than granted. */
  receive(data: NonNullable<ReturnType<typeof unpackData>>): void {
    if (this.#over || data.index < this.#received) return;
    if (data.index > this.#received) throw new StreamBroken('part of the stream was lost');
    this.#received++;
    this.#unread += data.bytes.length;
    if (this.#unread > LIMITS.window) throw new StreamBroken('more was sent than had been granted');
    if (data.sub === SUB.close) {
      this.#consume(data.bytes.length);
      this.#end(this.#inboxes.get(data.bytes[0] ?? -1));
      return;
    }
    const inbox = this.#inboxes.get(data.sub);
    if (!inbox || inbox.dropped || inbox.ended) {
      this.#consume(data.bytes.length);
      return;
    }
    inbox.chunks.push(Buffer.from(data.bytes));
    inbox.wake();
  }

  /** What comes on a sub-channel, to be read once. Ends with it; throws what the stream ended with, after all of it. */
  async *chunks(sub: number): AsyncGenerator<Buffer> {
    const inbox = this.#inboxes.get(sub)!;
    try {
      for (;;) {
        const chunk = inbox.chunks.shift();
        if (chunk) {
          this.#consume(chunk.length);
          yield chunk;
        } else if (inbox.ended) return;
        else if (this.#over) {
          if (this.#error) throw this.#error;
          return;
        } else
          await new Promise<void>((resolve) => {
            inbox.wake = resolve;
          });
      }
    } finally {
      inbox.dropped = true;
      for (const c of inbox.chunks.splice(0)) this.#consume(c.length);
    }
  }

  #consume(bytes: number): void {
    this.#unread -= bytes;
    this.#consumed += bytes;
    if (this.#over || this.#consumed < LIMITS.window / 2) return;
    const more: Credit = { i: this.id, w: this.#consumed };
    this.#consumed = 0;
    void this.send(TYPE.credit, more);
  }

  #end(inbox: Inbox | undefined): void {
    if (!inbox) return;
    inbox.ended = true;
    inbox.wake();
  }

  // --- the end ------------------------------------------------------------------------------------------------------

  /** Nothing travels any more. What has come can still be read; then readers see the error, if there is one. */
  finish(error?: Error): void {
    if (this.#over) return;
    this.#over = true;
    this.#error = error;
    for (const o of this.#outbox.splice(0)) o.done(error ?? new StreamBroken('the stream has ended'));
    for (const inbox of this.#inboxes.values()) inbox.wake();
  }

  // --- as Node's streams --------------------------------------------------------------------------------------------

  readable(sub: number): Readable {
    return Readable.from(this.chunks(sub), { objectMode: false, highWaterMark: 1 });
  }

  /** `closes`: its end is told to the other side while the stream goes on. */
  writable(sub: number, { closes = false }: { closes?: boolean } = {}): Writable {
    const write = (bytes: Uint8Array, done: (e?: Error) => void) =>
      this.write(sub, bytes).then(() => done(), done);
    return new Writable({
      highWaterMark: LIMITS.streamFrame,
      decodeStrings: true,
      write: (chunk: Buffer, _encoding, done) => write(chunk, done),
      writev: (chunks, done) => write(Buffer.concat(chunks.map((c) => c.chunk as Buffer)), done),
      final: (done) => {
        if (closes) void this.close(sub).then(() => done());
        else done();
      },
    });
  }
}
