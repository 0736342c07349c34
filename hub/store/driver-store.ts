import { deepFreeze } from '../../api/meta/json.js';
import type { Change, Driver } from './driver.js';
import {
  type Entry,
  RevisionConflict,
  type Stamp,
  type Store,
  type StoreEvent,
  type StoreWatch,
} from './store.js';
import { WatchWindow, type WindowLimits } from './watch-window.js';

export interface StoreOptions extends Partial<WindowLimits> {
  /** Changes committed together at most. */
  batchChanges?: number;
  /** Bytes of JSON committed together at most (one larger change goes alone). */
  batchBytes?: number;
  /** Writes that may wait; beyond, a write is rejected with {@link StoreBusy}. */
  queuedWrites?: number;
  /** Writes the revision into each value before it is frozen. */
  stamp?: Stamp;
}

const DEFAULTS: Required<StoreOptions> = {
  historyEvents: 4096,
  historyBytes: 8 << 20,
  watcherEvents: 8192,
  batchChanges: 512,
  batchBytes: 4 << 20,
  queuedWrites: 16_384,
  stamp: () => {},
};

/** More writes are waiting for the disk than the store holds. Try again later. */
export class StoreBusy extends Error {
  constructor(waiting: number) {
    super(`${waiting} writes are waiting for the disk already: try again later`);
    this.name = 'StoreBusy';
  }
}

interface Write {
  key: string;
  /** Absent: delete. */
  put?: { value: object; json: string };
  /** Revision of the entry that this changes; undefined: there must be none. */
  expected: number | undefined;
  resolve(e: Entry): void;
  reject(e: unknown): void;
}

/** Entries in key order. Keys compare by UTF-16 code unit, which for Kubernetes' names is byte order, as in etcd. */
class Index {
  readonly #byKey = new Map<string, Entry>();
  #sorted: Entry[] = [];

  load(entries: Entry[]): void {
    this.#sorted = entries.sort((a, b) => (a.key < b.key ? -1 : 1));
    this.#byKey.clear();
    for (const e of entries) this.#byKey.set(e.key, e);
  }

  get(key: string): Entry | undefined {
    return this.#byKey.get(key);
  }

  set(e: Entry): void {
    const at = this.#lowerBound(e.key);
    this.#sorted.splice(at, this.#byKey.has(e.key) ? 1 : 0, e);
    this.#byKey.set(e.key, e);
  }

  delete(key: string): void {
    if (this.#byKey.delete(key)) this.#sorted.splice(this.#lowerBound(key), 1);
  }

  list(prefix: string): Entry[] {
    const from = this.#lowerBound(prefix);
    let to = from;
    while (to < this.#sorted.length && this.#sorted[to]!.key.startsWith(prefix)) to++;
    return this.#sorted.slice(from, to);
  }

  #lowerBound(key: string): number {
    let lo = 0;
    let hi = this.#sorted.length;
    while (lo < hi) {
      const mid = (lo + hi) >>> 1;
      if (this.#sorted[mid]!.key < key) lo = mid + 1;
      else hi = mid;
    }
    return lo;
  }
}

/**
 * The store: an index of frozen values in memory over a driver that makes changes durable. Writes that arrive while
 * the driver is busy form the next batch (group commit), each is compared with what the batches before it left, and
 * readers and watchers see a change only once it is durable.
 */
export class DriverStore implements Store {
  readonly #driver: Driver;
  readonly #options: Required<StoreOptions>;
  readonly #index = new Index();
  /** Bytes of JSON of each entry, for the window's bound. */
  readonly #bytes = new WeakMap<Entry, number>();
  #window: WatchWindow;
  #revision = 0;
  #failing: string | undefined;
  #queue: Write[] = [];
  #committing: Promise<void> | undefined;
  #state: 'new' | 'open' | 'closed' = 'new';

  constructor(driver: Driver, options: StoreOptions = {}) {
    this.#driver = driver;
    this.#options = { ...DEFAULTS, ...options };
    this.#window = new WatchWindow(this.#options, 0);
  }

  /** Why the last write failed, e.g. a full disk; undefined once one has succeeded again. */
  get failing(): string | undefined {
    return this.#failing;
  }

  get revision(): number {
    return this.#revision;
  }

  async open(): Promise<void> {
    if (this.#state !== 'new') throw new Error(`the store is ${this.#state}`);
    const { records, revision } = await this.#driver.open();
    const entries: Entry[] = [];
    for (const r of records) {
      entries.push(
        this.#entry(r.key, JSON.parse(r.json) as object, r.revision, r.createRevision, r.json.length),
      );
    }
    this.#index.load(entries);
    this.#revision = revision;
    this.#window = new WatchWindow(this.#options, revision);
    this.#state = 'open';
  }

  async close(): Promise<void> {
    this.#state = 'closed';
    while (this.#committing) await this.#committing;
    this.#window.close();
    await this.#driver.close();
  }

  get(key: string): Entry | undefined {
    return this.#index.get(key);
  }

  list(prefix: string): { entries: Entry[]; revision: number } {
    return { entries: this.#index.list(prefix), revision: this.#revision };
  }

  listAt(prefix: string, revision: number): Entry[] {
    const before = this.#window.before(prefix, revision);
    const now = this.#index.list(prefix);
    if (before.size === 0) return now;
    const entries = now.filter((e) => !before.has(e.key));
    for (const e of before.values()) if (e) entries.push(e);
    return entries.sort((a, b) => (a.key < b.key ? -1 : 1));
  }

  watch(prefix: string, fromRevision: number): StoreWatch {
    return this.#window.watch(prefix, fromRevision);
  }

  create(key: string, value: object): Promise<Entry> {
    return this.#write(key, undefined, value);
  }

  update(key: string, value: object, expectedRevision: number): Promise<Entry> {
    return this.#write(key, expectedRevision, value);
  }

  delete(key: string, expectedRevision: number): Promise<Entry> {
    return this.#write(key, expectedRevision);
  }

  async #write(key: string, expected: number | undefined, value?: object): Promise<Entry> {
    if (this.#state !== 'open')
      throw new Error(`the store is ${this.#state === 'new' ? 'not open' : 'closed'}`);
    if (this.#queue.length >= this.#options.queuedWrites) throw new StoreBusy(this.#queue.length);
    const put = value === undefined ? undefined : { value, json: JSON.stringify(value) };
    // A write that cannot succeed whatever is still on its way needs no place in the queue.
    if (!this.#committing && this.#queue.length === 0) check(key, this.#index.get(key), expected);
    return new Promise((resolve, reject) => {
      this.#queue.push({ key, put, expected, resolve, reject });
      this.#committing ??= this.#commitAll().finally(() => {
        this.#committing = undefined;
      });
    });
  }

  async #commitAll(): Promise<void> {
    // One turn of the event loop, so that writers woken together share a batch.
    await new Promise<void>((resolve) => setImmediate(resolve));
    while (this.#queue.length > 0) {
      const writes = this.#takeBatch();
      const changes: Change[] = [];
      const events: { event: StoreEvent; bytes: number; write: Write; result: Entry }[] = [];
      const refused: { write: Write; error: unknown }[] = [];
      const changed = new Map<string, Entry | undefined>();
      let revision = this.#revision;
      for (const write of writes) {
        const { key, put } = write;
        const previous = changed.has(key) ? changed.get(key) : this.#index.get(key);
        let entry: Entry | undefined;
        const created = previous?.createRevision ?? revision + 1;
        try {
          check(key, previous, write.expected);
          if (put) entry = this.#entry(key, put.value, revision + 1, created, put.json.length);
        } catch (error) {
          refused.push({ write, error });
          continue;
        }
        revision++;
        if (put && entry) {
          changed.set(key, entry);
          changes.push({ type: 'put', key, json: put.json, revision, createRevision: created });
          const bytes = put.json.length;
          events.push({
            event: { type: 'put', revision, key, entry, previous },
            bytes,
            write,
            result: entry,
          });
        } else {
          changed.set(key, undefined);
          changes.push({ type: 'delete', key, revision });
          events.push({
            event: { type: 'delete', revision, key, previous },
            bytes: this.#bytes.get(previous!) ?? 0,
            write,
            result: previous!,
          });
        }
      }
      try {
        if (changes.length > 0) await this.#driver.commit(changes);
        this.#failing = undefined;
      } catch (error) {
        this.#failing = error instanceof Error ? error.message : String(error);
        // A refusal may have rested on a change that did not come to be, so the whole batch shares the error.
        for (const w of writes) w.reject(error);
        continue;
      }
      for (const { event, bytes } of events) {
        if (event.entry) this.#index.set(event.entry);
        else this.#index.delete(event.key);
        this.#revision = event.revision;
        this.#window.push(event, bytes);
      }
      for (const { write, result } of events) write.resolve(result);
      for (const { write, error } of refused) write.reject(error);
    }
  }

  #takeBatch(): Write[] {
    let n = 0;
    let bytes = 0;
    for (const w of this.#queue) {
      bytes += w.put?.json.length ?? 0;
      if (n > 0 && (n >= this.#options.batchChanges || bytes > this.#options.batchBytes)) break;
      n++;
    }
    return this.#queue.splice(0, n);
  }

  #entry(key: string, value: object, revision: number, createRevision: number, bytes: number): Entry {
    this.#options.stamp(value, revision);
    const entry: Entry = Object.freeze({ key, value: deepFreeze(value), revision, createRevision });
    this.#bytes.set(entry, bytes);
    return entry;
  }
}

function check(key: string, current: Entry | undefined, expected: number | undefined): void {
  if (current?.revision !== expected) throw new RevisionConflict(key, current);
}
