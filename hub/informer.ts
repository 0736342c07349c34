import type { Clock } from '../api/clock.js';
import { apiVersionOf, type Kind } from '../api/kinds/kind.js';
import type { Log } from '../api/log.js';
import { isApiError } from '../api/meta/errors.js';
import { type KubeObject, keyOf } from '../api/meta/object.js';
import type { Client, Frozen, Watcher } from './client.js';

/** Told after the cache has changed. `now` is undefined for a deletion, `before` for an addition. */
export type ChangeListener<T> = (
  key: string,
  now: Frozen<T> | undefined,
  before: Frozen<T> | undefined,
) => void;

const RETRY_FIRST_MS = 100;
const RETRY_MAX_MS = 30_000;

/**
 * A synchronous view of all objects of one kind, kept current by list and watch. It holds the registry's own frozen
 * objects, never copies. Listeners are for finding out which key to queue; decisions re-read the world.
 */
export class Informer<T extends KubeObject> {
  readonly #items = new Map<string, Frozen<T>>();
  readonly #listeners: ChangeListener<T>[] = [];
  readonly #indexes = new Map<
    string,
    { of: (o: Frozen<T>) => readonly string[]; keys: Map<string, Set<string>> }
  >();
  #stopped = false;
  #started: Promise<void> | undefined;
  #loop: Promise<void> | undefined;
  #watcher: Watcher<Frozen<T>> | undefined;
  #wake: (() => void) | undefined;
  #synced = false;
  #revision = '0';

  constructor(
    private readonly client: Client,
    readonly kind: Kind<T>,
    private readonly clock: Clock,
    private readonly log: Log,
  ) {}

  /** The first list is in. */
  get synced(): boolean {
    return this.#synced;
  }

  /** resourceVersion of the last list or event taken in. */
  get revision(): string {
    return this.#revision;
  }

  get size(): number {
    return this.#items.size;
  }

  get(key: string): Frozen<T> | undefined {
    return this.#items.get(key);
  }

  values(): IterableIterator<Frozen<T>> {
    return this.#items.values();
  }

  keys(): IterableIterator<string> {
    return this.#items.keys();
  }

  /** Objects for which the index function named `index` gave `value`. */
  by(index: string, value: string): Frozen<T>[] {
    const keys = this.#index(index).keys.get(value);
    const found: Frozen<T>[] = [];
    if (keys) for (const key of keys) found.push(this.#items.get(key)!);
    return found;
  }

  /** How many {@link by} would give. */
  count(index: string, value: string): number {
    return this.#index(index).keys.get(value)?.size ?? 0;
  }

  /** Adds an index, once per name; later calls with the same name change nothing. */
  index(name: string, of: (o: Frozen<T>) => readonly string[]): this {
    if (this.#indexes.has(name)) return this;
    const index = { of, keys: new Map<string, Set<string>>() };
    this.#indexes.set(name, index);
    for (const [key, o] of this.#items) for (const v of of(o)) put(index.keys, v, key);
    return this;
  }

  /** Listeners added before `start` hear of every object. A listener that throws is logged and disturbs nobody. */
  onChange(listener: ChangeListener<T>): this {
    this.#listeners.push(listener);
    // A latecomer is told what is there, as additions; not at once, for it may still be in the middle of being made.
    if (this.#items.size > 0)
      queueMicrotask(() => {
        for (const [key, item] of this.#items) this.#notify(listener, key, item, undefined);
      });
    return this;
  }

  /** Resolves when the first list is in. Calling it again returns the same promise. */
  start(): Promise<void> {
    this.#started ??= new Promise<void>((resolve) => {
      this.#loop = this.#run(resolve);
    });
    return this.#started;
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    this.#watcher?.close();
    this.#wake?.();
    await this.#loop;
  }

  async #run(synced: () => void): Promise<void> {
    let failures = 0;
    while (!this.#stopped) {
      try {
        const { items, resourceVersion } = await this.client.list(this.kind);
        if (this.#stopped) break;
        const watcher = this.client.watch(this.kind, { resourceVersion });
        this.#watcher = watcher;
        this.#replace(items as Frozen<T>[]);
        this.#revision = resourceVersion;
        this.#synced = true;
        synced();
        failures = 0;
        for await (const event of watcher) {
          const rv = (event.object as KubeObject).metadata?.resourceVersion;
          if (event.type === 'DELETED') this.#remove(keyOf(event.object as KubeObject));
          else if (event.type !== 'BOOKMARK') this.#set(event.object as Frozen<T>);
          if (rv) this.#revision = rv;
        }
      } catch (e) {
        const fields = { kind: this.kind.kind, err: e instanceof Error ? e.message : String(e) };
        if (isApiError(e, 'Expired')) {
          this.log.debug(fields, 'watch fell behind, listing again');
          continue;
        }
        this.log.warn(fields, 'list and watch failed');
        failures++;
      } finally {
        this.#watcher?.close();
        this.#watcher = undefined;
      }
      if (this.#stopped) break;
      await this.#pause(Math.min(RETRY_MAX_MS, RETRY_FIRST_MS * 2 ** Math.min(failures, 20)));
    }
    synced();
  }

  #pause(ms: number): Promise<void> {
    return new Promise((resolve) => {
      const cancel = this.clock.after(ms, resolve);
      this.#wake = () => {
        cancel();
        resolve();
      };
    });
  }

  #replace(items: Frozen<T>[]): void {
    const gone = new Set(this.#items.keys());
    for (const o of items) {
      const key = keyOf(o as KubeObject);
      gone.delete(key);
      const before = this.#items.get(key);
      if (before && version(before) === version(o)) continue;
      // The same name with another uid: the old one was deleted while nobody looked.
      if (before && uid(before) !== uid(o)) this.#remove(key);
      this.#set(o);
    }
    for (const key of gone) this.#remove(key);
  }

  #set(o: Frozen<T>): void {
    const key = keyOf(o as KubeObject);
    const before = this.#items.get(key);
    this.#items.set(key, o);
    for (const index of this.#indexes.values()) {
      const had = before ? index.of(before) : [];
      const has = index.of(o);
      if (had.length === has.length && had.every((v, i) => v === has[i])) continue;
      for (const v of had) drop(index.keys, v, key);
      for (const v of has) put(index.keys, v, key);
    }
    this.#tell(key, o, before);
  }

  #remove(key: string): void {
    const before = this.#items.get(key);
    if (!before) return;
    this.#items.delete(key);
    for (const index of this.#indexes.values()) for (const v of index.of(before)) drop(index.keys, v, key);
    this.#tell(key, undefined, before);
  }

  #tell(key: string, now: Frozen<T> | undefined, before: Frozen<T> | undefined): void {
    for (const listener of this.#listeners) this.#notify(listener, key, now, before);
  }

  #notify(
    listener: ChangeListener<T>,
    key: string,
    now: Frozen<T> | undefined,
    before: Frozen<T> | undefined,
  ): void {
    try {
      listener(key, now, before);
    } catch (e) {
      this.log.error(
        { kind: this.kind.kind, key, err: e instanceof Error ? e.stack : String(e) },
        'change listener failed',
      );
    }
  }

  #index(name: string) {
    const index = this.#indexes.get(name);
    if (!index) throw new Error(`informer of ${this.kind.plural} has no index "${name}"`);
    return index;
  }
}

/** One informer per kind, shared by everyone in the hub who reads that kind. */
export class Informers {
  readonly #all = new Map<string, Informer<KubeObject>>();
  #started = false;

  constructor(
    private readonly client: Client,
    private readonly clock: Clock,
    private readonly log: Log,
  ) {}

  of<T extends KubeObject>(kind: Kind<T>): Informer<T> {
    const name = `${apiVersionOf(kind)}/${kind.plural}`;
    let informer = this.#all.get(name);
    if (!informer) {
      informer = new Informer(this.client, kind, this.clock, this.log) as unknown as Informer<KubeObject>;
      this.#all.set(name, informer);
      if (this.#started) void informer.start();
    }
    return informer as unknown as Informer<T>;
  }

  /** Stops and forgets the informer of a kind that is served no more. */
  async drop(kind: Kind<never>): Promise<void> {
    const name = `${apiVersionOf(kind)}/${kind.plural}`;
    const informer = this.#all.get(name);
    this.#all.delete(name);
    await informer?.stop();
  }

  all(): IterableIterator<Informer<KubeObject>> {
    return this.#all.values();
  }

  /** Resolves when every kind asked for so far is listed. May be called again after more were asked for. */
  async start(): Promise<void> {
    this.#started = true;
    await Promise.all([...this.#all.values()].map((i) => i.start()));
  }

  async stop(): Promise<void> {
    await Promise.all([...this.#all.values()].map((i) => i.stop()));
  }
}

const version = (o: unknown) => (o as KubeObject).metadata?.resourceVersion;
const uid = (o: unknown) => (o as KubeObject).metadata?.uid;

function put(keys: Map<string, Set<string>>, value: string, key: string): void {
  const set = keys.get(value);
  if (set) set.add(key);
  else keys.set(value, new Set([key]));
}

function drop(keys: Map<string, Set<string>>, value: string, key: string): void {
  const set = keys.get(value);
  if (set?.delete(key) && set.size === 0) keys.delete(value);
}
