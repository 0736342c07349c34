import { randomUUID } from 'node:crypto';
import { type Clock, rfc3339 } from '../../api/clock.js';
import type { Kind } from '../../api/kinds/kind.js';
import { ApiError, alreadyExists, conflict, notFound } from '../../api/meta/errors.js';
import { type KubeObject, keyOf, type ObjectKey, type ObjectMeta } from '../../api/meta/object.js';
import type {
  Client,
  DeleteOptions,
  Frozen,
  ListOptions,
  WatchEvent,
  Watcher,
  WatchOptions,
} from '../client.js';

type Mutable<T> = { -readonly [K in keyof T]: T[K] };

/** A small stand-in for the registry, for tests of whoever works over the Client seam. Selectors are not supported. */
export class MemoryClient implements Client {
  revision = 1;
  /** Throws from it make the next call fail. */
  fault: (verb: string, plural: string) => void = () => {};
  readonly #objects = new Map<string, Map<string, KubeObject>>();
  readonly #watchers = new Set<MemoryWatcher>();
  #serial = 0;

  constructor(private readonly clock: Clock) {}

  async get<T extends KubeObject>(kind: Kind<T>, key: ObjectKey): Promise<Frozen<T>> {
    this.fault('get', kind.plural);
    return this.#must(kind, pathOf(key)) as Frozen<T>;
  }

  async list<T extends KubeObject>(kind: Kind<T>, options: ListOptions = {}) {
    this.fault('list', kind.plural);
    const items = [...this.#of(kind.plural).values()].filter(
      (o) => !options.namespace || o.metadata?.namespace === options.namespace,
    );
    return { items: items as Frozen<T>[], resourceVersion: `${this.revision}` };
  }

  watch<T extends KubeObject>(kind: Kind<T>, options: WatchOptions = {}): Watcher<Frozen<T>> {
    this.fault('watch', kind.plural);
    const w = new MemoryWatcher(kind.plural, () => this.#watchers.delete(w));
    if (options.resourceVersion !== undefined && Number(options.resourceVersion) !== this.revision)
      w.fail(new ApiError('Expired', 'too old resource version'));
    this.#watchers.add(w);
    return w as unknown as Watcher<Frozen<T>>;
  }

  /** Every watcher of the kind fails as if it had fallen behind. */
  expire(plural: string): void {
    for (const w of this.#watchers) if (w.plural === plural) w.fail(new ApiError('Expired', 'too old'));
  }

  async create<T extends KubeObject>(kind: Kind<T>, object: T): Promise<Frozen<T>> {
    this.fault('create', kind.plural);
    const o = structuredClone(object) as KubeObject;
    o.metadata ??= {};
    const m: Mutable<ObjectMeta> = o.metadata;
    if (!m.name && m.generateName)
      m.name = `${m.generateName}${(this.#serial++).toString(36).padStart(5, '0')}`;
    if (this.#of(kind.plural).has(keyOf(o))) throw alreadyExists(kind.plural, m.name!, kind.group);
    m.uid = randomUUID();
    m.creationTimestamp = rfc3339(this.clock.now());
    m.generation = 1;
    return this.#put(kind, 'ADDED', o) as Frozen<T>;
  }

  async update<T extends KubeObject>(kind: Kind<T>, object: T): Promise<Frozen<T>> {
    this.fault('update', kind.plural);
    const old = this.#must(kind, keyOf(object)) as KubeObject & { status?: unknown; spec?: unknown };
    const o = structuredClone(object) as typeof old;
    this.#cas(kind, o, old);
    if (kind.status) o.status = old.status;
    return this.#changed(kind, o, old) as Frozen<T>;
  }

  async updateStatus<T extends KubeObject>(kind: Kind<T>, object: T): Promise<Frozen<T>> {
    this.fault('updateStatus', kind.plural);
    const old = this.#must(kind, keyOf(object));
    this.#cas(kind, object, old);
    return this.#changed(
      kind,
      { ...old, status: (object as { status?: unknown }).status } as KubeObject,
      old,
    ) as Frozen<T>;
  }

  async patch<T extends KubeObject>(kind: Kind<T>, key: ObjectKey, patch: object): Promise<Frozen<T>> {
    this.fault('patch', kind.plural);
    const old = this.#must(kind, pathOf(key));
    const o = merge(old, patch) as KubeObject;
    this.#cas(kind, o, old);
    return this.#changed(kind, o, old) as Frozen<T>;
  }

  async bind(pod: ObjectKey & { uid: string }, nodeName: string): Promise<void> {
    this.fault('bind', 'pods');
    const kind = { plural: 'pods', group: '' } as Kind;
    const old = this.#must(kind, pathOf(pod)) as KubeObject & { spec: { nodeName?: string } };
    if (old.spec.nodeName) throw conflict('pods', pod.name, `already bound to "${old.spec.nodeName}"`);
    this.#put(kind, 'MODIFIED', { ...structuredClone(old), spec: { ...old.spec, nodeName } } as KubeObject);
  }

  async delete<T extends KubeObject>(
    kind: Kind<T>,
    key: ObjectKey,
    options: DeleteOptions = {},
  ): Promise<void> {
    this.fault('delete', kind.plural);
    const old = this.#must(kind, pathOf(key));
    if (options.uid && options.uid !== old.metadata?.uid)
      throw conflict(kind.plural, key.name, 'uid', kind.group);
    const o = structuredClone(old);
    const m: Mutable<ObjectMeta> = o.metadata!;
    const finalizer = { Orphan: 'orphan', Foreground: 'foregroundDeletion', Background: '' }[
      options.propagationPolicy ?? 'Background'
    ];
    if (finalizer) m.finalizers = [...new Set([...(m.finalizers ?? []), finalizer])];
    const grace =
      options.gracePeriodSeconds ??
      ((o as { spec?: { nodeName?: string } }).spec?.nodeName ? (kind.defaultGracePeriod?.(o as T) ?? 0) : 0);
    if (grace === 0 && !m.finalizers?.length) {
      this.#put(kind, 'DELETED', o);
      return;
    }
    if (m.deletionTimestamp) return;
    m.deletionTimestamp = rfc3339(this.clock.now() + grace * 1000);
    m.deletionGracePeriodSeconds = grace;
    this.#put(kind, 'MODIFIED', o);
  }

  #changed(kind: Kind<never> | Kind, o: KubeObject, old: KubeObject): KubeObject {
    const spec = (x: KubeObject) => JSON.stringify((x as { spec?: unknown }).spec);
    o.metadata = {
      ...o.metadata,
      generation: (old.metadata?.generation ?? 1) + (spec(o) === spec(old) ? 0 : 1),
    };
    if (JSON.stringify(o) === JSON.stringify(old)) return old;
    if (
      o.metadata.deletionTimestamp &&
      !o.metadata.finalizers?.length &&
      !o.metadata.deletionGracePeriodSeconds
    )
      return this.#put(kind, 'DELETED', o);
    return this.#put(kind, 'MODIFIED', o);
  }

  #cas(kind: { plural: string; group: string }, o: KubeObject, old: KubeObject): void {
    const rv = o.metadata?.resourceVersion;
    if (rv && rv !== old.metadata?.resourceVersion)
      throw conflict(kind.plural, old.metadata!.name!, 'the object has been modified', kind.group);
  }

  #of(plural: string): Map<string, KubeObject> {
    let m = this.#objects.get(plural);
    if (!m) {
      m = new Map();
      this.#objects.set(plural, m);
    }
    return m;
  }

  #must(kind: { plural: string; group: string }, path: string): KubeObject {
    const o = this.#of(kind.plural).get(path);
    if (!o) throw notFound(kind.plural, path.slice(path.indexOf('/') + 1), kind.group);
    return o;
  }

  #put(kind: { plural: string }, type: 'ADDED' | 'MODIFIED' | 'DELETED', o: KubeObject): KubeObject {
    o.metadata = { ...o.metadata, resourceVersion: `${++this.revision}` };
    const frozen = deepFreeze(o);
    if (type === 'DELETED') this.#of(kind.plural).delete(keyOf(o));
    else this.#of(kind.plural).set(keyOf(o), frozen);
    for (const w of this.#watchers) if (w.plural === kind.plural) w.push({ type, object: frozen });
    return frozen;
  }
}

class MemoryWatcher {
  readonly #buffer: WatchEvent<KubeObject>[] = [];
  #error: Error | undefined;
  #closed = false;
  #wake = () => {};

  constructor(
    readonly plural: string,
    private readonly onClose: () => void,
  ) {}

  push(e: WatchEvent<KubeObject>): void {
    this.#buffer.push(e);
    this.#wake();
  }

  fail(e: Error): void {
    this.#error = e;
    this.#wake();
  }

  close(): void {
    this.#closed = true;
    this.onClose();
    this.#wake();
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<WatchEvent<KubeObject>> {
    for (;;) {
      if (this.#closed) return;
      if (this.#error) throw this.#error;
      const e = this.#buffer.shift();
      if (e) yield e;
      else
        await new Promise<void>((resolve) => {
          this.#wake = resolve;
        });
    }
  }
}

const pathOf = (k: ObjectKey) => (k.namespace ? `${k.namespace}/${k.name}` : k.name);

function merge(into: unknown, patch: unknown): unknown {
  if (typeof patch !== 'object' || patch === null || Array.isArray(patch)) return structuredClone(patch);
  const out: Record<string, unknown> =
    typeof into === 'object' && into !== null && !Array.isArray(into) ? { ...into } : {};
  for (const [k, v] of Object.entries(patch))
    if (v === null) delete out[k];
    else out[k] = merge(out[k], v);
  return out;
}

function deepFreeze<T>(o: T): T {
  if (typeof o === 'object' && o !== null && !Object.isFrozen(o)) {
    Object.freeze(o);
    for (const v of Object.values(o)) deepFreeze(v);
  }
  return o;
}
