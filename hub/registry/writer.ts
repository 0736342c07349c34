/**
 * Writes of objects: what a request makes goes through admission and the rules into the store, one after the other for
 * each object.
 */
import { randomUUID } from 'node:crypto';
import { type Clock, rfc3339 } from '../../api/clock.js';
import type { Kind } from '../../api/kinds/kind.js';
import type { Log } from '../../api/log.js';
import { ApiError, alreadyExists, conflict, isApiError } from '../../api/meta/errors.js';
import { deepFreeze } from '../../api/meta/json.js';
import type { AnyObject, ObjectKey } from '../../api/meta/object.js';
import { validateObjectMeta } from '../../api/meta/object-meta.js';
import type { DeleteOptions, Frozen } from '../client.js';
import { Compacted, type Entry, RevisionConflict, type Store } from '../store/store.js';
import type { AdmissionChain } from './admission/chain.js';
import { type OptionsKind, Request, type Target } from './admission/plugin.js';
import type { Allocator, Claim } from './allocator.js';
import type { DeleteResult, Guard, RequestContext, Subresource } from './api.js';
import { checkDeletePreconditions, markDeleted, mayGo } from './deletion.js';
import { type Forms, formsOf } from './forms.js';
import { afterCreate, encodeOwners, type Owners } from './managed.js';
import { checkPreconditions, clearForCreate, MODIFIED, metaOf, unchanged } from './meta.js';
import { isClient, managerOf, setOwners, writeThrough } from './owners.js';
import type { Reader } from './reader.js';
import { checkSize, checkUpdate, place, validate } from './rules.js';
import { scaleOf } from './scale.js';
import { settled } from './unconverted.js';

/** A write that names no resourceVersion starts anew when someone else was quicker; this often. */
export const MAX_ATTEMPTS = 16;
const SUFFIX = 'bcdfghjklmnpqrstvwxz2456789';
const MAX_GENERATED_BASE = 58;

export interface WriterOptions {
  store: Store;
  clock: Clock;
  log: Log;
  reader: Reader;
  admission: AdmissionChain;
  guards: readonly Guard[];
  allocators: ReadonlyMap<Kind, Allocator<AnyObject>>;
}

const named = ({ namespace, name }: ObjectKey) => ({ namespace, name });

/** A try of a change. */
export interface Round {
  /** From 1. */
  readonly attempt: number;
  /** Where versions of the kind differ in form. */
  readonly forms?: Forms;
}

/** Makes, changes and removes one object at a time. Rejects with ApiError only. */
export class Writer {
  readonly #store: Store;
  readonly #clock: Clock;
  readonly #log: Log;
  readonly #reader: Reader;
  readonly #admission: AdmissionChain;
  readonly #guards: readonly Guard[];
  readonly #allocators: ReadonlyMap<Kind, Allocator<AnyObject>>;
  /** The last write under way for each key: the next one waits for it instead of losing the race. */
  readonly #writing = new Map<string, Promise<unknown>>();

  constructor({ store, clock, log, reader, admission, guards, allocators }: WriterOptions) {
    this.#store = store;
    this.#clock = clock;
    this.#log = log;
    this.#reader = reader;
    this.#admission = admission;
    this.#guards = guards;
    this.#allocators = allocators;
  }

  /** `owners` are known already when the object comes from an apply. */
  async insert(
    ctx: RequestContext,
    kind: Kind,
    namespace: string | undefined,
    o: AnyObject,
    owners?: Owners,
  ): Promise<Frozen<AnyObject>> {
    if (kind.load) await kind.load();
    clearForCreate(kind, metaOf(o), namespace);
    const sent = metaOf(o).managedFields;
    delete metaOf(o).managedFields;
    kind.setDefaults?.(o);
    const manager = managerOf(ctx, kind);
    const managed =
      owners ?? (manager && afterCreate(writeThrough(kind, undefined, this.#clock.now()), o, manager, sent));
    const { namespace: within, name = '' } = metaOf(o);
    const request = this.#request(ctx, { operation: 'CREATE', kind }, 'CreateOptions', {
      namespace: within,
      name,
      object: o,
    });
    const mutated = this.#admission.mutate(request);
    if (mutated) {
      await mutated;
      clearForCreate(kind, metaOf(request.object!), within);
    }
    const made = request.object!;
    const meta = metaOf(made);
    meta.uid = randomUUID();
    meta.creationTimestamp = rfc3339(this.#clock.now());
    if (kind.generation) meta.generation = 1;
    const generated = !meta.name && meta.generateName ? meta.generateName : undefined;
    if (generated) meta.name = this.#generateName(generated);
    // Some defaults follow from the name.
    if (generated || mutated) kind.setDefaults?.(made);
    kind.prepareForCreate?.(made, ctx);
    if (managed?.size) meta.managedFields = encodeOwners(managed)!;
    let claim: Claim | undefined;
    try {
      claim = this.#allocators.get(kind)?.begin(made, undefined, ctx.dryRun === true);
      validate(
        kind,
        meta.name ?? '',
        validateObjectMeta(meta, kind.namespaced, kind.validName, kind.custom !== undefined),
        () => kind.validate?.(made) ?? [],
      );
      ctx.warnings.push(...(kind.warnings?.(made) ?? []));
      request.name = meta.name!;
      const validated = this.#admission.validate(request);
      if (validated) await validated;
      for (const guard of this.#guards) guard(ctx, { verb: 'create', kind, next: made });
      checkSize(made, owners !== undefined);
      const added = await this.#add(ctx, kind, made, generated);
      claim?.keep();
      return added;
    } catch (e) {
      claim?.drop();
      request.failed();
      throw e;
    }
  }

  /** Writes a new object, under another name when a generated one is taken. */
  async #add(
    ctx: RequestContext,
    kind: Kind,
    o: AnyObject,
    generated: string | undefined,
  ): Promise<Frozen<AnyObject>> {
    const meta = metaOf(o);
    for (let attempt = 1; ; attempt++) {
      const key = { namespace: meta.namespace, name: meta.name! };
      try {
        const kept = kind.custom?.keep(o) ?? o;
        const value = kept instanceof Promise ? await kept : kept;
        const entry = await this.#serially(this.#reader.key(kind, key), async (storeKey) => {
          const there = this.#store.get(storeKey);
          if (there) throw alreadyExists(kind.plural, key.name, kind.group);
          if (ctx.dryRun) return undefined;
          const made = await this.#store.create(storeKey, value);
          this.#committed(kind, made, undefined);
          return made;
        });
        return entry ? await settled(() => this.#reader.give(entry, kind)) : deepFreeze(o);
      } catch (e) {
        const taken = e instanceof RevisionConflict || isApiError(e, 'AlreadyExists');
        if (!taken) throw this.#asApiError(e);
        if (!generated || attempt >= 8) throw alreadyExists(kind.plural, key.name, kind.group);
        meta.name = this.#generateName(generated);
      }
    }
  }

  /** Reads, changes and writes one object; starts anew when someone else was quicker and the change allows it. */
  async change(
    ctx: RequestContext,
    kind: Kind,
    key: ObjectKey,
    subresource: Subresource | undefined,
    optionsKind: OptionsKind,
    make: (current: AnyObject, round: Round) => { wanted: AnyObject; owners?: Owners },
  ): Promise<Frozen<AnyObject>> {
    if (kind.load) await kind.load();
    const target: Target = { operation: 'UPDATE', kind, ...(subresource ? { subresource } : {}) };
    return this.#inTurn(target, key, async (attempt) => {
      const entry = this.#reader.need(kind, key);
      const current = await settled(() => this.#reader.give(entry, kind));
      const forms = formsOf(kind);
      const { wanted, owners } = await settled(() => make(current, { attempt, ...(forms ? { forms } : {}) }));
      checkPreconditions(kind, key.name, wanted.metadata, current.metadata!);
      const sent = subresource ? undefined : wanted.metadata?.managedFields;
      let next = place(kind, current, wanted, subresource, this.#clock.now(), isClient(ctx));
      const placed = next;
      await settled(() =>
        setOwners(ctx, kind, subresource, placed, current, sent, owners, this.#clock.now(), forms),
      );
      const asked = this.#admission.concerns(target);
      const shown = (o: AnyObject) => (subresource === 'scale' ? scaleOf(kind, o) : o);
      const request =
        asked &&
        this.#request(ctx, target, optionsKind, {
          namespace: key.namespace,
          name: key.name,
          object: shown(next),
          oldObject: shown(current),
        });
      if (request) {
        const mutated = this.#admission.mutate(request);
        if (mutated) {
          await mutated;
          const { managedFields } = metaOf(next);
          next = place(kind, current, request.object!, subresource, this.#clock.now(), isClient(ctx));
          if (managedFields) metaOf(next).managedFields = managedFields;
          request.object = shown(next);
        }
      }
      let claim: Claim | undefined;
      try {
        if (subresource !== 'status')
          claim = this.#allocators.get(kind)?.begin(next, current, ctx.dryRun === true);
        checkUpdate(kind, current, next, subresource);
        if (!subresource)
          for (const w of kind.warnings?.(next) ?? []) if (!ctx.warnings.includes(w)) ctx.warnings.push(w);
        if (request) {
          const validated = this.#admission.validate(request);
          if (validated) await validated;
        }
        for (const guard of this.#guards) guard(ctx, { verb: 'update', kind, subresource, next, current });
        const answer = (o: AnyObject) => (subresource === 'scale' ? deepFreeze(shown(o)) : o);
        const stale = kind.custom?.isCurrent(entry.value as AnyObject) === false;
        if (unchanged(next, current) && !stale) return answer(current);
        checkSize(next, owners !== undefined);
        const gone = mayGo(kind, next);
        if (ctx.dryRun || gone) {
          if (!ctx.dryRun) await this.#remove(kind, entry);
          metaOf(next).resourceVersion = current.metadata!.resourceVersion!;
          return answer(deepFreeze(next));
        }
        const replaced = await this.#replace(kind, entry, next);
        claim?.keep();
        return answer(replaced);
      } catch (e) {
        if (request) request.failed();
        throw e;
      } finally {
        claim?.drop();
      }
    });
  }

  /** Changes one object through a subresource that has a body and rules of its own, which stand in `change`. */
  async edit(
    ctx: RequestContext,
    kind: Kind,
    key: ObjectKey,
    subresource: string,
    body: AnyObject,
    change: (shallowCopy: AnyObject, body: AnyObject) => void,
  ): Promise<AnyObject> {
    const target: Target = { operation: 'CREATE', kind, subresource };
    return this.#inTurn(target, key, async () => {
      const request = await this.admitBody(ctx, target, key, body);
      try {
        const entry = this.#reader.need(kind, key);
        const current = await settled(() => this.#reader.give(entry, kind));
        const next: AnyObject = { ...current, metadata: { ...current.metadata } };
        change(next, request?.object ?? body);
        delete metaOf(next).resourceVersion;
        if (unchanged(next, current)) return current;
        if (ctx.dryRun) return deepFreeze(next);
        return await this.#replace(kind, entry, next);
      } catch (e) {
        request?.failed();
        throw e;
      }
    });
  }

  async delete(
    ctx: RequestContext,
    kind: Kind,
    key: ObjectKey,
    options: DeleteOptions,
  ): Promise<DeleteResult> {
    const target: Target = { operation: 'DELETE', kind };
    return this.#inTurn(target, key, async () => {
      const asked = this.#admission.concerns(target);
      const there = this.#reader.find(kind, key);
      const oldObject = there && (await settled(() => this.#reader.give(there, kind)));
      const request =
        asked &&
        this.#request(ctx, target, 'DeleteOptions', {
          ...named(key),
          ...(oldObject ? { oldObject } : {}),
          deleteOptions: options,
        });
      if (request) {
        const mutated = this.#admission.mutate(request);
        if (mutated) await mutated;
      }
      const entry = there ?? this.#reader.need(kind, key);
      const current = oldObject ?? this.#reader.give(entry, kind);
      for (const guard of this.#guards) guard(ctx, { verb: 'delete', kind, next: current, current });
      checkDeletePreconditions(kind, key.name, options, current.metadata!);
      try {
        if (request) {
          const validated = this.#admission.validate(request);
          if (validated) await validated;
        }
        const next = markDeleted(kind, current, options, this.#clock.now());
        const gone = mayGo(kind, next);
        if (ctx.dryRun || options.dryRun) return { object: deepFreeze(next), removed: gone };
        if (gone) {
          await this.#remove(kind, entry);
          return { object: current, removed: true };
        }
        if (unchanged(next, current)) return { object: current, removed: false };
        return { object: await this.#replace(kind, entry, next), removed: false };
      } catch (e) {
        if (request) request.failed();
        throw e;
      }
    });
  }

  /** Asks all plugins about the body of a subresource; undefined when none has a say. */
  async admitBody(
    ctx: RequestContext,
    target: Target,
    key: ObjectKey,
    body: AnyObject,
  ): Promise<Request | undefined> {
    if (!this.#admission.concerns(target)) return undefined;
    const request = this.#request(ctx, target, 'CreateOptions', { ...named(key), object: body });
    await this.#admission.mutate(request);
    await this.#admission.validate(request);
    return request;
  }

  /** A write as admission sees it. */
  #request(
    ctx: RequestContext,
    target: Target,
    optionsKind: OptionsKind,
    what: {
      namespace: string | undefined;
      name: string;
      object?: AnyObject;
      oldObject?: AnyObject;
      deleteOptions?: DeleteOptions;
    },
  ): Request {
    return new Request({
      operation: target.operation,
      kind: target.kind,
      subresource: target.subresource,
      namespace: what.namespace,
      name: what.name,
      object: what.object,
      oldObject: what.oldObject,
      deleteOptions: what.deleteOptions,
      ctx,
      world: this.#reader.world,
      optionsKind,
    });
  }

  /**
   * Runs a read-and-write of one object, again when someone else was quicker. One after the other for each object, but
   * for those that may have to wait for others than this process.
   */
  async #inTurn<T>(target: Target, key: ObjectKey, attempt: (n: number) => Promise<T>): Promise<T> {
    const { kind } = target;
    const tries = async (): Promise<T> => {
      for (let n = 1; ; n++) {
        try {
          return await attempt(n);
        } catch (e) {
          if (!(e instanceof RevisionConflict)) throw e;
          if (n >= MAX_ATTEMPTS) throw conflict(kind.plural, key.name, MODIFIED, kind.group);
        }
      }
    };
    try {
      const storeKey = this.#reader.key(kind, key);
      const waits = kind.custom?.conversion !== undefined || this.#admission.waits(target);
      return await (waits ? tries() : this.#serially(storeKey, tries));
    } catch (e) {
      throw this.#asApiError(e);
    }
  }

  /** Runs the writes to one key one after the other. */
  async #serially<T>(key: string, write: (key: string) => Promise<T>): Promise<T> {
    const before = this.#writing.get(key);
    const run = before
      ? before.then(
          () => write(key),
          () => write(key),
        )
      : write(key);
    this.#writing.set(key, run);
    try {
      return await run;
    } finally {
      if (this.#writing.get(key) === run) this.#writing.delete(key);
    }
  }

  /** Throws RevisionConflict when the entry is no longer what is stored. */
  async #replace(kind: Kind, entry: Entry, next: AnyObject): Promise<AnyObject> {
    const before = entry.value as AnyObject;
    const kept = kind.custom?.keep(next, before) ?? next;
    const now = await this.#store.update(
      entry.key,
      kept instanceof Promise ? await kept : kept,
      entry.revision,
    );
    this.#committed(kind, now, before);
    return settled(() => this.#reader.give(now, kind));
  }

  /** So does this. */
  async #remove(kind: Kind, entry: Entry): Promise<void> {
    await this.#store.delete(entry.key, entry.revision);
    this.#allocators.get(kind)?.released(entry.value as AnyObject);
    this.#committed(kind, undefined, entry.value as AnyObject);
  }

  /** After each write that the store acknowledged. */
  #committed(kind: Kind, now: Entry | undefined, before: AnyObject | undefined): void {
    const after = now?.value as AnyObject | undefined;
    this.#reader.changed(kind, (after ?? before)?.metadata?.namespace ?? '');
    this.#admission.committed(kind, after, before);
  }

  #generateName(base: string): string {
    let suffix = '';
    for (let i = 0; i < 5; i++) suffix += SUFFIX[Math.floor(this.#clock.random() * SUFFIX.length)];
    return base.slice(0, MAX_GENERATED_BASE) + suffix;
  }

  #asApiError(e: unknown): ApiError {
    if (e instanceof ApiError) return e;
    if (e instanceof Compacted) return new ApiError('Expired', e.message);
    const message = e instanceof Error ? e.message : String(e);
    if (e instanceof Error && e.name === 'StoreBusy')
      return new ApiError('TooManyRequests', message, { retryAfterSeconds: 1 });
    this.#log.error({ err: e }, 'a write failed');
    return new ApiError('InternalError', `Internal error occurred: ${message}`);
  }
}
