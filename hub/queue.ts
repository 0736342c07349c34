import type { Clock } from '../api/clock.js';
import type { Log } from '../api/log.js';
import { isApiError } from '../api/meta/errors.js';

export interface WorkQueueOptions {
  /** Keys worked on at once. Default 1. */
  concurrency?: number;
  /** First delay after a failure, in ms; doubles with each further one of the same key. Default 10. */
  baseDelayMs?: number;
  /** The longest such delay, in ms. Default 60,000. */
  maxDelayMs?: number;
  /** Of keys that are ready the one with the highest number goes first, among equals the oldest. Default: all equal. */
  priority?: (key: string) => number;
}

/** Look at the key again after so many ms, in any case. */
// biome-ignore lint/suspicious/noConfusingVoidType: a reconciler with nothing to ask for just returns
export type Again = number | void;

/** Keys in a row before other work of the process gets a turn. */
const TURN = 32;

/**
 * A queue of keys with one reconciler. A key waits at most once and is never worked on twice at the same time; one
 * added while it is being worked on is worked on again afterwards. A failed key comes back with exponential delay.
 * Its size is bounded by the number of keys that exist.
 */
export class WorkQueue {
  readonly #ready: ReadyKeys;
  readonly #working = new Set<string>();
  /** Added while being worked on. */
  readonly #dirty = new Set<string>();
  readonly #failures = new Map<string, number>();
  readonly #timers = new Map<string, { at: number; cancel: () => void }>();
  readonly #concurrency: number;
  readonly #base: number;
  readonly #max: number;
  #running = false;
  #turn = 0;
  #yielding = false;
  #idleWaiters: (() => void)[] = [];

  constructor(
    readonly name: string,
    private readonly reconcile: (key: string) => Promise<Again>,
    private readonly clock: Clock,
    private readonly log: Log,
    options: WorkQueueOptions = {},
  ) {
    this.#concurrency = options.concurrency ?? 1;
    this.#base = options.baseDelayMs ?? 10;
    this.#max = options.maxDelayMs ?? 60_000;
    this.#ready = new ReadyKeys(options.priority ?? (() => 0));
  }

  /** Keys waiting to be worked on, those with a delay not counted. */
  get length(): number {
    return this.#ready.size;
  }

  /** Nothing to do now: no key is ready or being worked on. Delayed keys do not count. */
  get idle(): boolean {
    return this.#ready.size === 0 && this.#working.size === 0;
  }

  /** The key is to be worked on now. */
  add(key: string): void {
    const timer = this.#timers.get(key);
    if (timer) {
      timer.cancel();
      this.#timers.delete(key);
    }
    if (this.#working.has(key)) this.#dirty.add(key);
    else {
      this.#ready.add(key);
      this.#pump();
    }
  }

  /** The key is to be worked on after `ms`; of several such wishes the earliest counts. */
  addAfter(key: string, ms: number): void {
    if (ms <= 0) {
      this.add(key);
      return;
    }
    if (this.#ready.has(key)) return;
    const at = this.clock.monotonic() + ms;
    const waiting = this.#timers.get(key);
    if (waiting) {
      if (waiting.at <= at) return;
      waiting.cancel();
    }
    const cancel = this.clock.after(ms, () => {
      this.#timers.delete(key);
      this.add(key);
    });
    this.#timers.set(key, { at, cancel });
  }

  start(): void {
    this.#running = true;
    this.#pump();
  }

  /** Resolves when what is being worked on has ended; the rest stays undone. */
  async stop(): Promise<void> {
    this.#running = false;
    for (const t of this.#timers.values()) t.cancel();
    this.#timers.clear();
    this.#ready.clear();
    this.#dirty.clear();
    while (this.#working.size > 0) await new Promise<void>((resolve) => this.#idleWaiters.push(resolve));
  }

  #pump(): void {
    while (this.#running && !this.#yielding && this.#working.size < this.#concurrency) {
      const key = this.#ready.take();
      if (key === undefined) break;
      this.#working.add(key);
      void this.#work(key);
      // Reconcilers over an in-memory store hardly ever wait for I/O: without a pause they would starve it.
      if (++this.#turn % TURN === 0) {
        this.#yielding = true;
        setImmediate(() => {
          this.#yielding = false;
          this.#pump();
        });
      }
    }
  }

  async #work(key: string): Promise<void> {
    try {
      const again = await this.reconcile(key);
      this.#failures.delete(key);
      if (typeof again === 'number' && this.#running) this.addAfter(key, again);
    } catch (e) {
      const failures = this.#failures.get(key) ?? 0;
      this.#failures.set(key, failures + 1);
      const delay = Math.min(this.#max, this.#base * 2 ** Math.min(failures, 30));
      const fields = { queue: this.name, key, delay, err: e instanceof Error ? e.message : String(e) };
      // A conflict only says that the object was newer than our copy of it.
      if (isApiError(e, 'Conflict')) this.log.debug(fields, 'reconcile again');
      else this.log.warn(fields, 'reconcile failed');
      if (this.#running) this.addAfter(key, delay);
    } finally {
      this.#working.delete(key);
      if (this.#dirty.delete(key) && this.#running) this.add(key);
      else if (!this.#timers.has(key) && !this.#ready.has(key)) this.#failures.delete(key);
      const waiters = this.#idleWaiters;
      this.#idleWaiters = [];
      for (const w of waiters) w();
      this.#pump();
    }
  }
}

/** Keys in the order in which they are to be worked on. There are few different priorities. */
class ReadyKeys {
  /** By priority. Empty ones go. */
  readonly #groups = new Map<number, Set<string>>();
  readonly #priorities = new Map<string, number>();

  constructor(private readonly priority: (key: string) => number) {}

  get size(): number {
    return this.#priorities.size;
  }

  has(key: string): boolean {
    return this.#priorities.has(key);
  }

  add(key: string): void {
    if (this.#priorities.has(key)) return;
    const p = this.priority(key);
    let group = this.#groups.get(p);
    if (!group) {
      group = new Set();
      this.#groups.set(p, group);
    }
    group.add(key);
    this.#priorities.set(key, p);
  }

  take(): string | undefined {
    let highest = Number.NEGATIVE_INFINITY;
    for (const p of this.#groups.keys()) if (p > highest) highest = p;
    const group = this.#groups.get(highest);
    if (!group) return undefined;
    const key = group.values().next().value as string;
    group.delete(key);
    if (group.size === 0) this.#groups.delete(highest);
    this.#priorities.delete(key);
    return key;
  }

  clear(): void {
    this.#groups.clear();
    this.#priorities.clear();
  }
}
