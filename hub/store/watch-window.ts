import { Compacted, type Entry, type StoreEvent, type StoreWatch } from './store.js';

export interface WindowLimits {
  /** Events remembered for watchers that start in the past. */
  historyEvents: number;
  /** Bytes of JSON that the remembered events may hold on to. */
  historyBytes: number;
  /** Events that one watcher may have waiting before it is dropped. */
  watcherEvents: number;
}

/**
 * The recent past and those who watch. History and every watcher's buffer are bounded; a watcher that falls behind is
 * dropped with {@link Compacted} and has to list again.
 */
export class WatchWindow {
  readonly #limits: WindowLimits;
  readonly #groups = new Map<string, Set<Watcher>>();
  /** A queue: live from `#head`; compacted now and then so that a push stays cheap. */
  #history: { event: StoreEvent; bytes: number }[] = [];
  #head = 0;
  #bytes = 0;
  /** Watches may start at this revision or later. */
  #oldest: number;
  #revision: number;

  constructor(limits: WindowLimits, revision: number) {
    this.#limits = limits;
    this.#oldest = revision;
    this.#revision = revision;
  }

  /** Remembers the event and hands it to whoever watches its key. `bytes`: what remembering it costs. */
  push(event: StoreEvent, bytes: number): void {
    this.#revision = event.revision;
    this.#history.push({ event, bytes });
    this.#bytes += bytes;
    const { historyEvents, historyBytes } = this.#limits;
    while (this.#history.length - this.#head > historyEvents || this.#bytes > historyBytes) {
      const gone = this.#history[this.#head]!;
      this.#history[this.#head++] = undefined as never;
      this.#bytes -= gone.bytes;
      this.#oldest = gone.event.revision;
    }
    if (this.#head > 1024 && this.#head > this.#history.length / 2) {
      this.#history = this.#history.slice(this.#head);
      this.#head = 0;
    }
    for (const [prefix, watchers] of this.#groups) {
      if (event.key.startsWith(prefix)) for (const w of watchers) w.push(event);
    }
  }

  watch(prefix: string, fromRevision: number): StoreWatch {
    const watcher = new Watcher(fromRevision, this.#limits.watcherEvents, {
      progress: () => this.#revision,
      oldest: () => this.#oldest,
      detach: () => {
        const group = this.#groups.get(prefix);
        if (group?.delete(watcher) && group.size === 0) this.#groups.delete(prefix);
      },
    });
    if (!this.#remembers(fromRevision)) {
      watcher.fail(new Compacted(fromRevision, this.#oldest));
      return watcher;
    }
    // What is remembered is bounded already, so a late start cannot overflow: only what comes after counts.
    for (const event of this.#since(prefix, fromRevision)) watcher.preload(event);
    const group = this.#groups.get(prefix);
    if (group) group.add(watcher);
    else this.#groups.set(prefix, new Set([watcher]));
    return watcher;
  }

  /** What each key that has changed since `revision` was then; undefined where there was nothing. Throws Compacted. */
  before(prefix: string, revision: number): Map<string, Entry | undefined> {
    if (!this.#remembers(revision)) throw new Compacted(revision, this.#oldest);
    const before = new Map<string, Entry | undefined>();
    for (const { key, previous } of this.#since(prefix, revision))
      if (!before.has(key)) before.set(key, previous);
    return before;
  }

  #remembers(revision: number): boolean {
    return revision >= this.#oldest && revision <= this.#revision;
  }

  *#since(prefix: string, revision: number): Generator<StoreEvent> {
    // Revisions are consecutive, so the place of the first event after `revision` follows from its number.
    for (let i = this.#history.length - (this.#revision - revision); i < this.#history.length; i++) {
      const { event } = this.#history[i]!;
      if (event.key.startsWith(prefix)) yield event;
    }
  }

  /** Ends every watch. */
  close(): void {
    for (const group of [...this.#groups.values()]) for (const w of [...group]) w.close();
  }
}

const DONE: IteratorResult<StoreEvent> = { done: true, value: undefined };

interface Surroundings {
  progress(): number;
  oldest(): number;
  detach(): void;
}

class Watcher implements StoreWatch, AsyncIterator<StoreEvent> {
  #queue: StoreEvent[] = [];
  #head = 0;
  #preloaded = 0;
  #waiting: { resolve(r: IteratorResult<StoreEvent>): void; reject(e: Error): void }[] = [];
  #ended = false;
  #error: Error | undefined;
  /** The event handed out last, while the consumer may still be working on it. */
  #inHand: StoreEvent | undefined;
  /** Where an ended watch got to. */
  #at: number;

  constructor(
    from: number,
    readonly limit: number,
    readonly around: Surroundings,
  ) {
    this.#at = from;
  }

  get revision(): number {
    if (this.#ended) return this.#at;
    const next = this.#inHand ?? this.#queue[this.#head];
    return next ? next.revision - 1 : this.around.progress();
  }

  preload(event: StoreEvent): void {
    this.#queue.push(event);
    this.#preloaded++;
  }

  push(event: StoreEvent): void {
    const waiter = this.#waiting.shift();
    if (waiter) {
      this.#inHand = event;
      waiter.resolve({ done: false, value: event });
      return;
    }
    if (this.#queue.length - this.#head - this.#preloaded >= this.limit) {
      this.fail(new Compacted(this.revision, this.around.oldest()));
      return;
    }
    this.#queue.push(event);
  }

  fail(error: Error): void {
    this.#error = error;
    this.close();
  }

  close(): void {
    if (this.#ended) return;
    this.#at = this.revision;
    this.#ended = true;
    this.#queue = [];
    this.#head = 0;
    this.around.detach();
    for (const w of this.#waiting.splice(0)) w.resolve(DONE);
  }

  next(): Promise<IteratorResult<StoreEvent>> {
    this.#inHand = undefined;
    if (this.#error) {
      const e = this.#error;
      this.#error = undefined;
      return Promise.reject(e);
    }
    if (this.#ended) return Promise.resolve(DONE);
    const event = this.#queue[this.#head];
    if (event === undefined) return new Promise((resolve, reject) => this.#waiting.push({ resolve, reject }));
    this.#queue[this.#head++] = undefined as never;
    if (this.#preloaded > 0) this.#preloaded--;
    if (this.#head === this.#queue.length) {
      this.#queue = [];
      this.#head = 0;
    } else if (this.#head > 256 && this.#head > this.#queue.length / 2) {
      this.#queue = this.#queue.slice(this.#head);
      this.#head = 0;
    }
    this.#inHand = event;
    return Promise.resolve({ done: false, value: event });
  }

  return(): Promise<IteratorResult<StoreEvent>> {
    this.close();
    return Promise.resolve(DONE);
  }

  [Symbol.asyncIterator](): AsyncIterator<StoreEvent> {
    return this;
  }
}
