import { randomUUID } from 'node:crypto';
import type { Binding, Pod, Service } from 'kubernetes-types/core/v1.js';
import type { Clock } from '../../api/clock.js';
import { rfc3339 } from '../../api/clock.js';
import {
  allKinds,
  namespaces,
  pods,
  priorityClasses,
  runtimeClasses,
  serviceAccounts,
  services,
} from '../../api/kinds/index.js';
import { apiVersionOf, type CustomParts, type FieldError, type Kind } from '../../api/kinds/kind.js';
import { SYSTEM_PRIORITIES } from '../../api/kinds/priorityclass.js';
import { decode, schemaNamed, schemaOf } from '../../api/kinds/schema.js';
import type { Log } from '../../api/log.js';
import {
  ApiError,
  alreadyExists,
  badRequest,
  conflict,
  isApiError,
  notFound,
} from '../../api/meta/errors.js';
import { invalid, invalidObject } from '../../api/meta/field-errors.js';
import { deepCopy, deepEqual, deepFreeze, isPlainObject, jsonSizeBound } from '../../api/meta/json.js';
import type { AnyObject, ObjectKey, ObjectMeta } from '../../api/meta/object.js';
import { validateObjectMeta, validateObjectMetaUpdate } from '../../api/meta/object-meta.js';
import {
  type FieldTerm,
  matchesAll,
  parseFieldSelector,
  parseSelector,
  type Selector,
} from '../../api/meta/selector.js';
import type { Authorizer } from '../auth/attributes.js';
import type { Client, DeleteOptions, Frozen, Watcher } from '../client.js';
import { Compacted, type Entry, RevisionConflict, type Store } from '../store/store.js';
import { AdmissionChain } from './admission/chain.js';
import { type OptionsKind, Request, type Target, type World } from './admission/plugin.js';
import { plugins, without } from './admission/plugins.js';
import { ResourceQuotas } from './admission/quota/resourcequota.js';
import type { Allocator, Claim } from './allocator.js';
import {
  type Answer,
  type DeleteResult,
  type Guard,
  type ListQuery,
  type ListResult,
  PATCH_TYPES,
  type RegistryVerbs,
  type RequestContext,
  type Subresource,
  type WatchQuery,
} from './api.js';
import { Continuations } from './continue.js';
import { leaveToEvict, noteEviction } from './eviction.js';
import { field } from './fieldset.js';
import {
  type Applied,
  afterCreate,
  afterUpdate,
  apply,
  type Door,
  encodeOwners,
  type Manager,
  type Owners,
  ownersOf,
  sameOwners,
  shareFields,
  type Write,
} from './managed.js';
import { jsonPatch, mergePatch, strategicMergePatch } from './patch.js';
import { patchError, strictPatchError } from './patch-errors.js';
import { SCALE_SCHEMA, scaleOf, setScale } from './scale.js';
import { firstAddress, ServiceAddresses, serviceNetwork } from './service-addresses.js';
import { problemsOf } from './typed.js';
import { kept, shown, storedKind } from './views.js';
import { KindWatcher } from './watch.js';

/** etcd's limit for one value, and therefore Kubernetes'. */
const MAX_OBJECT_BYTES = 1.5 * 1024 * 1024;
/** A write that names no resourceVersion starts anew when someone else was quicker; this often. */
const MAX_ATTEMPTS = 16;
/** Of a collection: enough to share group commits, few enough to leave room for other writers. */
const DELETES_AT_ONCE = 256;
const SUFFIX = 'bcdfghjklmnpqrstvwxz2456789';
const MAX_GENERATED_BASE = 58;
const MODIFIED =
  'the object has been modified; please apply your changes to the latest version and try again';

const NO_VERSION: FieldError = {
  type: 'Invalid',
  field: 'metadata.resourceVersion',
  message: 'Invalid value: 0x0: must be specified for an update',
};

type Plain = Record<string, unknown>;

/** Metadata of an object on its way into the store: only the registry writes what is read-only to everybody else. */
type WritableMeta = { -readonly [K in keyof ObjectMeta]: ObjectMeta[K] };
const metaOf = (o: AnyObject): WritableMeta => {
  o.metadata ??= {};
  return o.metadata;
};

/** The Stamp that a store needs so that one copy of an object serves every reader. */
export function stampResourceVersion(value: object, revision: number): void {
  shareFields(value as AnyObject);
  metaOf(value as AnyObject).resourceVersion = String(revision);
}

export interface RegistryOptions {
  store: Store;
  clock: Clock;
  log: Log;
  /** Where Services get their addresses from. Default {@link SERVICE_NETWORK}. */
  serviceNetwork?: string;
  /** Admission plugins that are left out, by name. Throws at construction for a name that no plugin has. */
  disabledAdmission?: readonly string[];
}

export const SERVICE_NETWORK = '10.96.0.0/16';

/** What a selector text says, parsed. */
interface Filter {
  labels: Selector;
  fields: FieldTerm[];
}

/** The one writer of the cluster: defaults, validates, versions, admits; every verb for every kind. */
export class Registry implements RegistryVerbs {
  /** Replaced, never changed: whoever keeps something made from it compares. */
  kinds: readonly Kind[] = allKinds;
  /** Asked about every write; added to by who knows users' rights. */
  readonly guards: Guard[] = [];
  /** Knows users' rights, for policies that ask; set by who has it. */
  authorizer: Authorizer | undefined;
  /** For kinds that are questions: what is asked is answered, not stored. */
  readonly answers = new Map<Kind, Answer>();
  readonly #allocators = new Map<Kind, Allocator<AnyObject>>();
  /** The first address for Services: that of the API. */
  readonly apiClusterIP: string;
  /** Answers TokenRequests for ServiceAccounts. */
  tokens: { request(namespace: string, name: string, request: AnyObject): Promise<AnyObject> } | undefined;
  /** What quotas come to. */
  readonly quota: ResourceQuotas;
  readonly #store: Store;
  readonly #clock: Clock;
  readonly #log: Log;
  readonly #byPath = new Map<string, Kind>();
  readonly #kindListeners = new Set<() => void>();
  /** The last write under way for each key: the next one waits for it instead of losing the race. */
  readonly #writing = new Map<string, Promise<unknown>>();
  /** Copies with a resourceVersion for values of a store that does not stamp. */
  readonly #stamped = new WeakMap<object, AnyObject>();
  readonly #continuations: Continuations;
  /** Watches of kinds that may go. */
  readonly #customWatchers = new Map<KindWatcher, Kind>();
  /** What admission reads. */
  readonly #world: World = {
    get: (kind, key) => {
      const entry = this.#store.get(this.#key(kind, key));
      return entry && this.#give(entry, kind);
    },
    list: (kind, namespace = ''): readonly AnyObject[] => {
      let lists = this.#lists.get(kind);
      if (!lists) {
        lists = new Map();
        this.#lists.set(kind, lists);
      }
      let list = lists.get(namespace);
      if (!list) {
        list = this.#world.scan(kind, namespace) as readonly AnyObject[];
        lists.set(namespace, list);
      }
      return list;
    },
    scan: (kind, namespace) =>
      this.#store.list(this.#prefix(kind, namespace)).entries.map((e) => this.#give(e, kind)),
    kinds: () => this.kinds,
  };
  readonly #admission: AdmissionChain;
  /** What plugins listed, until one of the kind changes. */
  readonly #lists = new Map<Kind, Map<string, readonly AnyObject[]>>();

  constructor({
    store,
    clock,
    log,
    serviceNetwork: network = SERVICE_NETWORK,
    disabledAdmission = [],
  }: RegistryOptions) {
    this.#store = store;
    this.#clock = clock;
    this.#log = log;
    this.#continuations = new Continuations(clock);
    this.quota = new ResourceQuotas(this.#world, clock);
    const chain = plugins({
      clock,
      log,
      quota: this.quota,
      kinds: () => this.kinds,
      authorizer: () => this.authorizer,
    });
    this.#admission = new AdmissionChain(without(chain, disabledAdmission), this.#world);
    this.setCustomKinds([]);
    this.apiClusterIP = firstAddress(serviceNetwork(network));
    const kind = services as unknown as Kind;
    const all = () => store.list(this.#prefix(kind)).entries.map((e) => e.value as Service);
    const addresses = new ServiceAddresses({ network, all, random: () => clock.random() });
    this.#allocators.set(kind, addresses as unknown as Allocator<AnyObject>);
  }

  /** Serves these kinds besides the built-in ones. */
  setCustomKinds(custom: readonly Kind[]): void {
    this.kinds = custom.length ? [...allKinds, ...custom] : allKinds;
    this.#byPath.clear();
    for (const k of this.kinds) this.#byPath.set(`${k.group}/${k.version}/${k.plural}`, k);
    for (const listener of this.#kindListeners) listener();
    const served = new Set(this.kinds);
    for (const [watcher, kind] of this.#customWatchers) if (!served.has(kind)) watcher.close();
  }

  onKinds(listener: () => void): void {
    this.#kindListeners.add(listener);
  }

  get resourceVersion(): string {
    return String(this.#store.revision);
  }

  kindFor(group: string, version: string, plural: string): Kind | undefined {
    return this.#byPath.get(`${group}/${version}/${plural}`);
  }

  // ---- reading

  get(ctx: RequestContext, kind: Kind, key: ObjectKey, subresource?: Subresource): Frozen<AnyObject> {
    if (ctx.resourceVersion) this.#notFromTheFuture(parseRevision(ctx.resourceVersion));
    const o = this.#give(this.#need(kind, key), kind);
    return subresource === 'scale' ? deepFreeze(scaleOf(kind, o)) : o;
  }

  list(_ctx: RequestContext, kind: Kind, query: ListQuery): ListResult {
    const filter = this.#filter(kind, query);
    const prefix = this.#prefix(kind, query.namespace);
    const { entries, revision, start } = this.#snapshot(prefix, query);
    const limit = positive(query.limit, 'limit');
    const all = filter.labels.length === 0 && filter.fields.length === 0;
    const items: AnyObject[] = [];
    let i = start;
    for (; i < entries.length && (limit === 0 || items.length < limit); i++) {
      const o = this.#give(entries[i]!, kind);
      if (all || this.#matches(kind, filter, o)) items.push(o);
    }
    const resourceVersion = String(revision);
    if (i >= entries.length) return { items, resourceVersion };
    return {
      items,
      resourceVersion,
      continue: this.#continuations.token(prefix, entries, revision, i),
      // Unknown with a selector, as in Kubernetes.
      ...(all ? { remainingItemCount: entries.length - i } : {}),
    };
  }

  /** What a list is made from, at the revision that it asks for. */
  #snapshot(prefix: string, query: ListQuery): { entries: Entry[]; revision: number; start: number } {
    const { resourceVersion: rv, resourceVersionMatch: match } = query;
    if (query.continue) {
      if (rv && rv !== '0')
        throw badRequest('specifying resource version is not allowed when using continue');
      return this.#continuations.resume(query.continue, prefix, this.#store);
    }
    if (match && !rv)
      throw badRequest('resourceVersionMatch is forbidden unless resourceVersion is provided');
    if (match && match !== 'Exact' && match !== 'NotOlderThan')
      throw badRequest(`unknown ResourceVersionMatch value: ${match}`);
    const revision = rv ? parseRevision(rv) : 0;
    this.#notFromTheFuture(revision);
    // A page of a list at a revision means that one, for clients older than resourceVersionMatch.
    const exact = match === 'Exact' || (!match && query.limit && revision > 0);
    if (!exact || revision === this.#store.revision) return { ...this.#store.list(prefix), start: 0 };
    try {
      return { entries: this.#store.listAt(prefix, revision), revision, start: 0 };
    } catch (e) {
      if (!(e instanceof Compacted)) throw e;
      throw new ApiError('Expired', 'The resourceVersion for the provided list is too old.');
    }
  }

  #notFromTheFuture(revision: number): void {
    const now = this.#store.revision;
    if (revision > now)
      throw new ApiError('Timeout', `Timeout: Too large resource version: ${revision}, current: ${now}`, {
        causes: [{ reason: 'ResourceVersionTooLarge', message: 'Too large resource version' }],
        retryAfterSeconds: 1,
      });
  }

  watch(_ctx: RequestContext, kind: Kind, query: WatchQuery): Watcher<Frozen<AnyObject>> {
    const filter = this.#filter(kind, query);
    const prefix = this.#prefix(kind, query.namespace) + this.#onlyName(kind, query.namespace, filter);
    const { resourceVersion: rv } = query;
    const fromNow = query.sendInitialEvents ?? (rv === undefined || rv === '' || rv === '0');
    let initial: AnyObject[] | undefined;
    let from: number;
    if (rv) this.#notFromTheFuture(parseRevision(rv));
    if (fromNow) {
      const { entries, revision } = this.#store.list(prefix);
      initial = [];
      for (const e of entries) {
        const o = this.#give(e, kind);
        if (this.#matches(kind, filter, o)) initial.push(o);
      }
      from = revision;
    } else from = rv ? parseRevision(rv) : this.#store.revision;
    const watcher = new KindWatcher({
      source: this.#store.watch(prefix, from),
      initial,
      initialRevision: from,
      // The end is told by a bookmark, so only to those who want bookmarks.
      endOfInitial: query.sendInitialEvents === true && query.allowWatchBookmarks === true,
      bookmarks: query.allowWatchBookmarks === true,
      kind,
      clock: this.#clock,
      matches: (o) => this.#matches(kind, filter, o),
      give: (e) => this.#give(e, kind),
      ended: () => this.#customWatchers.delete(watcher),
    });
    if (kind.custom) this.#customWatchers.set(watcher, kind);
    return watcher;
  }

  /** A watch of one object looks at what begins with its key alone. */
  #onlyName(kind: Kind, namespace: string | undefined, { fields }: Filter): string {
    if (kind.namespaced && !namespace) return '';
    return fields.find((t) => t.field === 'metadata.name' && t.equal)?.value ?? '';
  }

  // ---- writing

  async create(
    ctx: RequestContext,
    kind: Kind,
    namespace: string | undefined,
    body: unknown,
  ): Promise<Frozen<AnyObject>> {
    const o = this.#decode(ctx, kind, body);
    const answer = this.answers.get(kind);
    if (answer) return deepFreeze(await answer(ctx, o, namespace));
    return shown(kind, await this.#insert(ctx, storedKind(kind), namespace, this.#kept(kind, o)));
  }

  /** A whole object in the form in which it is stored. */
  #kept(kind: Kind, o: AnyObject, stored?: AnyObject): AnyObject {
    if (!kind.view) return o;
    kind.setDefaults?.(o);
    const old = stored && shown(kind, stored);
    this.#validate(kind.view.of, o.metadata?.name ?? '', [], () => kind.validate?.(o, old) ?? []);
    return kept(kind, o, stored);
  }

  /** `owners` are known already when the object comes from an apply. */
  async #insert(
    ctx: RequestContext,
    kind: Kind,
    namespace: string | undefined,
    o: AnyObject,
    owners?: Owners,
  ): Promise<Frozen<AnyObject>> {
    if (kind.load) await kind.load();
    this.#prepareMeta(kind, metaOf(o), namespace);
    const sent = metaOf(o).managedFields;
    delete metaOf(o).managedFields;
    kind.setDefaults?.(o);
    const manager = this.#manager(ctx, kind);
    const managed = owners ?? (manager && afterCreate(this.#write(kind), o, manager, sent));
    const { namespace: within, name = '' } = metaOf(o);
    const request = this.#request(ctx, { operation: 'CREATE', kind }, 'CreateOptions', {
      namespace: within,
      name,
      object: o,
    });
    const mutated = this.#admission.mutate(request);
    if (mutated) {
      await mutated;
      this.#prepareMeta(kind, metaOf(request.object!), within);
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
      this.#validate(
        kind,
        meta.name ?? '',
        validateObjectMeta(meta, kind.namespaced, kind.validName),
        () => kind.validate?.(made) ?? [],
      );
      ctx.warnings.push(...(kind.warnings?.(made) ?? []));
      request.name = meta.name!;
      const validated = this.#admission.validate(request);
      if (validated) await validated;
      for (const guard of this.guards) guard(ctx, { verb: 'create', kind, next: made });
      this.#checkSize(made, owners !== undefined);
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
        return await this.#serially(this.#key(kind, key), async (storeKey) => {
          const there = this.#store.get(storeKey);
          if (there) throw alreadyExists(kind.plural, key.name, kind.group);
          if (ctx.dryRun) return deepFreeze(o);
          const entry = await this.#store.create(storeKey, o);
          this.#committed(kind, entry, undefined);
          return this.#give(entry, kind);
        });
      } catch (e) {
        const taken = e instanceof RevisionConflict || isApiError(e, 'AlreadyExists');
        if (!taken) throw this.#asApiError(e);
        if (!generated || attempt >= 8) throw alreadyExists(kind.plural, key.name, kind.group);
        meta.name = this.#generateName(generated);
      }
    }
  }

  /** Clears what a creator may not choose. */
  #prepareMeta(kind: Kind, meta: WritableMeta, namespace: string | undefined): void {
    if (meta.resourceVersion) throw badRequest('resourceVersion should not be set on objects to be created');
    this.#placeInNamespace(kind, meta, namespace);
    delete meta.resourceVersion;
    delete meta.deletionTimestamp;
    delete meta.deletionGracePeriodSeconds;
    delete meta.generation;
    delete meta.uid;
    delete meta.creationTimestamp;
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
      ...target,
      object: undefined,
      oldObject: undefined,
      ...what,
      ctx,
      world: this.#world,
      optionsKind,
    });
  }

  /** After each write that the store acknowledged. */
  #committed(kind: Kind, now: Entry | undefined, before: AnyObject | undefined): void {
    const after = now?.value as AnyObject | undefined;
    const lists = this.#lists.get(kind);
    lists?.delete('');
    lists?.delete((after ?? before)?.metadata?.namespace ?? '');
    this.#admission.committed(kind, after, before);
  }

  async update(
    ctx: RequestContext,
    kind: Kind,
    key: ObjectKey,
    body: unknown,
    subresource?: Subresource,
  ): Promise<Frozen<AnyObject>> {
    const o = this.#decode(ctx, kind, body, subresource);
    const { metadata: meta } = o;
    if (meta?.name && meta.name !== key.name)
      throw badRequest(
        `the name of the object (${meta.name}) does not match the name on the URL (${key.name})`,
      );
    const home = storedKind(kind);
    // As in Kubernetes, 0 is none.
    if (meta?.resourceVersion === '0') delete metaOf(o).resourceVersion;
    const pinned = meta?.resourceVersion;
    const needsVersion = kind.custom && ctx.fieldManager !== undefined && subresource !== 'scale';
    const wanted = (current: AnyObject) => (subresource === 'scale' ? o : this.#kept(kind, o, current));
    try {
      const now = await this.#change(ctx, home, key, subresource, 'UpdateOptions', (current, attempt) => {
        if (attempt > 1 && pinned) throw conflict(kind.plural, key.name, MODIFIED, kind.group);
        if (!pinned && needsVersion)
          throw invalidObject({ kind: kind.plural, group: kind.group }, key.name, [NO_VERSION]);
        return { wanted: wanted(current) };
      });
      return subresource === 'scale' ? now : shown(kind, now);
    } catch (e) {
      const absent = isApiError(e, 'NotFound') && !this.#store.get(this.#key(kind, key));
      if (!absent || subresource || !home.createOnUpdate) throw e;
    }
    this.#checkPreconditions(kind, key.name, { uid: meta?.uid }, { uid: '' });
    await ctx.checkCreate?.();
    const { resourceVersion: _, ...metadata } = metaOf(o);
    const made = { ...o, metadata: { ...metadata, name: key.name } };
    return shown(kind, await this.#insert(ctx, home, key.namespace, this.#kept(kind, made)));
  }

  async patch(
    ctx: RequestContext,
    kind: Kind,
    key: ObjectKey,
    type: string,
    body: unknown,
    subresource?: Subresource,
  ): Promise<Frozen<AnyObject>> {
    const schema = subresource === 'scale' ? schemaNamed(SCALE_SCHEMA) : schemaOf(kind);
    const apply: Record<string, (target: Plain) => unknown> = {
      [PATCH_TYPES.json]: (target) => jsonPatch(target, body),
      [PATCH_TYPES.merge]: (target) => {
        if (!isPlainObject(body)) throw badRequest('a merge patch of an object is an object');
        return mergePatch(target, body);
      },
      [PATCH_TYPES.strategic]: (target) => strategicMergePatch(target, body, schema),
    };
    // Merge keys are known for Kubernetes' own kinds only.
    if (kind.custom && subresource !== 'scale') delete apply[PATCH_TYPES.strategic];
    const run = Object.hasOwn(apply, type) ? apply[type] : undefined;
    if (!run)
      throw new ApiError(
        'UnsupportedMediaType',
        `the body of the request was in an unknown format - accepted media types include: ${[...Object.keys(apply), PATCH_TYPES.apply].join(', ')}`,
      );
    const home = storedKind(kind);
    const now = await this.#change(ctx, home, key, subresource, 'PatchOptions', (current) => {
      const view = subresource === 'scale' ? scaleOf(home, current) : shown(kind, current);
      const patched = run(deepCopy(view) as Plain);
      let wanted: AnyObject;
      try {
        wanted = this.#decode(ctx, kind, patched, subresource, (texts) =>
          strictPatchError(type, body, patched, texts),
        );
      } catch (e) {
        throw patchError(type, body, patched, e);
      }
      return { wanted: subresource === 'scale' ? wanted : this.#kept(kind, wanted, current) };
    });
    return subresource === 'scale' ? now : shown(kind, now);
  }

  async apply(
    ctx: RequestContext,
    kind: Kind,
    key: ObjectKey,
    body: unknown,
    { force }: { force: boolean },
    subresource?: Subresource,
  ): Promise<{ object: Frozen<AnyObject>; created: boolean }> {
    const home = storedKind(kind);
    const manager = this.#manager(ctx, home, subresource, 'Apply');
    if (!manager) throw badRequest('an apply needs a field manager');
    if (ctx.duplicates?.length && ctx.fieldValidation === 'Strict')
      throw badRequest(`error strict decoding patch: ${ctx.duplicates.join(', ')}`);
    const applied = this.#decodeApplied(ctx, kind, key, body, subresource);
    const config = subresource === 'scale' ? applied : kept(kind, applied);
    const lay = (live: AnyObject, entries?: ObjectMeta['managedFields']): Applied =>
      apply(this.#write(home, subresource), entries, live, config, manager, force);
    // Someone else may make the object, or take it away, in between.
    for (let attempt = 1; ; attempt++) {
      try {
        if (this.#store.get(this.#key(kind, key)) || subresource) {
          const object = await this.#change(ctx, home, key, subresource, 'PatchOptions', (current) => {
            const { object, owners } = lay(current, current.metadata!.managedFields);
            const wanted = deepCopy(object);
            return { wanted: subresource === 'scale' ? scaleOf(home, wanted) : wanted, owners };
          });
          return { object: subresource === 'scale' ? object : shown(kind, object), created: false };
        }
        const { metadata } = config;
        if (metadata?.uid)
          throw conflict(
            kind.plural,
            key.name,
            `uid mismatch: the provided object specified uid ${metadata.uid}, and no existing object was found`,
            kind.group,
          );
        if (!metadata?.name)
          throw badRequest(
            `the name of the object (${key.name} based on URL) was undeterminable: name must be provided`,
          );
        await ctx.checkCreate?.();
        const { object, owners } = lay({});
        const made = await this.#insert(ctx, home, key.namespace, deepCopy(object), owners);
        return { object: shown(kind, made), created: true };
      } catch (e) {
        const raced = isApiError(e, 'AlreadyExists') || (!subresource && isApiError(e, 'NotFound'));
        const there = this.#store.get(this.#key(kind, key)) !== undefined;
        if (!raced || there !== isApiError(e, 'AlreadyExists') || attempt >= MAX_ATTEMPTS) throw e;
      }
    }
  }

  /** What a client applies: strict about fields, since nobody could own what is not kept. */
  #decodeApplied(
    ctx: RequestContext,
    kind: Kind,
    key: ObjectKey,
    body: unknown,
    subresource: Subresource | undefined,
  ): AnyObject {
    if (!isPlainObject(body)) throw badRequest('error decoding patch: an apply patch is an object');
    const scale = subresource === 'scale';
    const gvk = scale
      ? 'autoscaling/v1, Kind=Scale'
      : `${kind.group ? `${kind.group}/` : '/'}${kind.version}, Kind=${kind.kind}`;
    const version = scale ? 'autoscaling/v1' : apiVersionOf(kind);
    if (body['kind'] !== (scale ? 'Scale' : kind.kind) || body['apiVersion'] !== version) {
      const [v, g = ''] = String(body['apiVersion'] ?? '')
        .split('/', 2)
        .reverse();
      throw badRequest(
        `invalid object type: ${`${g}/${v}, Kind=${String(body['kind'] ?? '')}`.slice(0, 256)}`,
      );
    }
    const meta = body['metadata'];
    if (isPlainObject(meta)) {
      if (meta['managedFields'] !== undefined && meta['managedFields'] !== null)
        throw badRequest('metadata.managedFields must be nil');
      if (meta['name'] !== undefined && meta['name'] !== key.name)
        throw badRequest(
          `the name of the object (${String(meta['name'])}) does not match the name on the URL (${key.name})`,
        );
    }
    const wrong = problemsOf(body, scale ? schemaNamed(SCALE_SCHEMA) : schemaOf(kind));
    if (wrong.length) {
      const name = `${key.namespace ?? ''}/${key.name}`;
      const text = wrong.length === 1 ? wrong[0] : `errors:\n  ${wrong.slice(0, 100).join('\n  ')}`;
      throw badRequest(`failed to create typed patch object (${name}; ${gvk}): ${text}`);
    }
    const config = this.#decode(ctx, kind, body, subresource);
    if (!scale) return config;
    const replicas = (config['spec'] as { replicas?: number } | undefined)?.replicas;
    const { resourceVersion, uid } = config.metadata ?? {};
    const parent: AnyObject = {
      metadata: { ...(resourceVersion ? { resourceVersion } : {}), ...(uid ? { uid } : {}) },
    };
    if (replicas !== undefined) {
      const path = kind.scale!.specReplicas.split('.').slice(1);
      const leaf = path.pop()!;
      let at = parent as Plain;
      for (const name of path) {
        at[name] = {};
        at = at[name] as Plain;
      }
      at[leaf] = replicas;
    }
    return parent;
  }

  /** Who writes; undefined for the hub's own parts. */
  #manager(
    ctx: RequestContext,
    kind: Kind,
    subresource?: Subresource,
    operation: Manager['operation'] = 'Update',
  ): Manager | undefined {
    if (ctx.fieldManager === undefined) return undefined;
    return {
      manager: ctx.fieldManager || 'unknown',
      operation,
      apiVersion: apiVersionOf(kind),
      ...(subresource ? { subresource } : {}),
    };
  }

  /** Writes into `next` who owns what after it takes the place of `current`; `owners` when an apply knows already. */
  #setOwners(
    ctx: RequestContext,
    kind: Kind,
    subresource: Subresource | undefined,
    next: AnyObject,
    current: AnyObject,
    sent: ObjectMeta['managedFields'],
    owners: Owners | undefined,
  ): void {
    const meta = metaOf(next);
    const stored = current.metadata!.managedFields;
    const entries = (): ObjectMeta['managedFields'] => {
      if (owners) return encodeOwners(owners);
      // What nobody was tracked for stays so until the first apply.
      if (!stored && !sent) return undefined;
      const before = ownersOf(stored, sent);
      if (before.size === 0) return undefined;
      const manager = this.#manager(ctx, kind, subresource);
      const after = afterUpdate(this.#write(kind, subresource), before, current, next, manager);
      return after === before && !sent ? stored : encodeOwners(after);
    };
    const owned = entries();
    if (stored && sameOwners(owned, stored)) {
      // A write that changes nothing is none, so the time does not move either; and equal entries are one in memory.
      meta.managedFields = stored;
      if (unchanged(next, current) || deepEqual(owned, stored)) return;
    }
    if (owned) meta.managedFields = owned;
    else delete meta.managedFields;
  }

  /** The fields that a door lets through: the main one keeps status, that of status the rest. */
  #write(kind: Kind, subresource?: Subresource): Write {
    const status = field('status');
    const doors: Partial<Record<Subresource | 'main', Door>> = {
      status: (set) => set.only(status),
      approval: (set) => set.only(status),
      main: kind.status ? (set) => set.without(status) : undefined,
    };
    return {
      schema: schemaOf(kind),
      door: doors[subresource ?? 'main'] ?? ((set) => set),
      time: rfc3339(this.#clock.now()),
    };
  }

  /** Reads, changes and writes one object; starts anew when someone else was quicker and the change allows it. */
  async #change(
    ctx: RequestContext,
    kind: Kind,
    key: ObjectKey,
    subresource: Subresource | undefined,
    optionsKind: OptionsKind,
    make: (current: AnyObject, attempt: number) => { wanted: AnyObject; owners?: Owners },
  ): Promise<Frozen<AnyObject>> {
    if (kind.load) await kind.load();
    const target: Target = { operation: 'UPDATE', kind, ...(subresource ? { subresource } : {}) };
    return this.#inTurn(target, key, async (attempt) => {
      const entry = this.#need(kind, key);
      const current = this.#give(entry, kind);
      const { wanted, owners } = make(current, attempt);
      this.#checkPreconditions(kind, key.name, wanted.metadata, current.metadata!);
      const sent = subresource ? undefined : wanted.metadata?.managedFields;
      let next = this.#place(kind, current, wanted, subresource);
      this.#setOwners(ctx, kind, subresource, next, current, sent, owners);
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
          next = this.#place(kind, current, request.object!, subresource);
          if (managedFields) metaOf(next).managedFields = managedFields;
          request.object = shown(next);
        }
      }
      let claim: Claim | undefined;
      try {
        if (subresource !== 'status')
          claim = this.#allocators.get(kind)?.begin(next, current, ctx.dryRun === true);
        this.#check(kind, current, next, subresource);
        if (!subresource)
          for (const w of kind.warnings?.(next) ?? []) if (!ctx.warnings.includes(w)) ctx.warnings.push(w);
        if (request) {
          const validated = this.#admission.validate(request);
          if (validated) await validated;
        }
        for (const guard of this.guards) guard(ctx, { verb: 'update', kind, subresource, next, current });
        const answer = (o: AnyObject) => (subresource === 'scale' ? deepFreeze(shown(o)) : o);
        if (unchanged(next, current)) return answer(current);
        this.#checkSize(next, owners !== undefined);
        const gone = this.#mayGo(kind, next);
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
      const storeKey = this.#key(kind, key);
      return await (this.#admission.waits(target) ? tries() : this.#serially(storeKey, tries));
    } catch (e) {
      throw this.#asApiError(e);
    }
  }

  /** Throws RevisionConflict when the entry is no longer what is stored. */
  async #replace(kind: Kind, entry: Entry, next: AnyObject): Promise<AnyObject> {
    const now = await this.#store.update(entry.key, next, entry.revision);
    this.#committed(kind, now, entry.value as AnyObject);
    return this.#give(now, kind);
  }

  /** So does this. */
  async #remove(kind: Kind, entry: Entry): Promise<void> {
    await this.#store.delete(entry.key, entry.revision);
    this.#allocators.get(kind)?.released(entry.value as AnyObject);
    this.#committed(kind, undefined, entry.value as AnyObject);
  }

  /** What is stored after a write: `wanted` through the given door, everything else as it is; with defaults. */
  #place(kind: Kind, current: AnyObject, wanted: AnyObject, subresource: Subresource | undefined): AnyObject {
    const meta = current.metadata!;
    if (subresource === 'status' || subresource === 'approval') {
      const next: AnyObject = { ...current, metadata: { ...meta }, status: wanted['status'] };
      kind.prepareForStatus?.(next, current, subresource, rfc3339(this.#clock.now()));
      if (next['status'] === undefined) delete next['status'];
      delete metaOf(next).resourceVersion;
      if (kind.custom) kind.setDefaults?.(next);
      return next;
    }
    let next = wanted;
    if (subresource === 'scale') {
      next = deepCopy(current);
      setScale(kind, next, wanted);
    }
    const member = subresource && kind.specDoors?.[subresource];
    if (member) {
      next = deepCopy(current);
      const { [member]: _, ...spec } = next['spec'] as Plain;
      const value = (wanted['spec'] as Plain | undefined)?.[member];
      next['spec'] = value === undefined ? spec : { ...spec, [member]: value };
    }
    const m = metaOf(next);
    this.#placeInNamespace(kind, m, meta.namespace);
    m.name ??= meta.name!;
    m.uid = meta.uid!;
    m.creationTimestamp = meta.creationTimestamp!;
    delete m.resourceVersion;
    for (const k of ['deletionTimestamp', 'deletionGracePeriodSeconds', 'generation'] as const) {
      delete m[k];
      if (meta[k] !== undefined) (m as Plain)[k] = meta[k];
    }
    if (meta.generateName) m.generateName = meta.generateName;
    if (kind.status) {
      delete next['status'];
      if (current['status'] !== undefined) next['status'] = current['status'];
    }
    kind.prepareForUpdate?.(next, current);
    kind.setDefaults?.(next);
    return next;
  }

  /** Validates what is to take the place of `current`, and counts its generation. */
  #check(kind: Kind, current: AnyObject, next: AnyObject, subresource: Subresource | undefined): void {
    const m = metaOf(next);
    const meta = current.metadata!;
    if (subresource === 'status' || subresource === 'approval') {
      this.#validate(kind, meta.name ?? '', [], () => [
        ...((kind.custom && kind.validate?.(next, current)) || []),
        ...(kind.validateStatus?.(next, current, subresource) ?? []),
      ]);
      return;
    }
    this.#validate(
      kind,
      meta.name ?? '',
      [...validateObjectMeta(m, kind.namespaced, kind.validName), ...validateObjectMetaUpdate(m, meta)],
      () => [
        ...(kind.validate?.(next, current) ?? []),
        ...(kind.validateUpdate?.(next, current, subresource) ?? []),
      ],
    );
    if (kind.generation && !deepEqual(wishOf(kind, next), wishOf(kind, current)))
      m.generation = (meta.generation ?? 0) + 1;
  }

  /** A deleted object that nothing holds any more. */
  #mayGo(kind: Kind, o: AnyObject): boolean {
    const m = o.metadata!;
    return (
      m.deletionTimestamp !== undefined &&
      !m.finalizers?.length &&
      !kind.holdsDeletion?.(o) &&
      !m.deletionGracePeriodSeconds
    );
  }

  async bind(ctx: RequestContext, key: ObjectKey, body: unknown): Promise<void> {
    const sent = decodeAs(ctx, body, 'Binding', 'v1', 'io.k8s.api.core.v1.Binding');
    const { target } = sent as unknown as Binding;
    const errors: FieldError[] = [];
    if (target?.kind && target.kind !== 'Node')
      errors.push(invalid('target.kind', target.kind, 'must be empty, "Node" is the only kind'));
    if (!target?.name) errors.push({ type: 'Required', field: 'target.name', message: 'Required value' });
    if (errors.length) throw invalidObject({ kind: 'Binding', group: '' }, key.name, errors);
    const refuse = (why: string) => conflict('pods/binding', key.name, why);
    await this.#edit(ctx, pods as unknown as Kind, key, 'binding', sent, (o, current, admitted) => {
      const binding = admitted as unknown as Binding;
      const pod = o as { -readonly [K in keyof Pod]: Pod[K] };
      const { uid } = binding.metadata ?? {};
      if (uid && uid !== current.metadata?.uid)
        throw refuse(
          `Precondition failed: UID in precondition: ${uid}, UID in object meta: ${current.metadata?.uid}`,
        );
      if (current.metadata?.deletionTimestamp)
        throw refuse(`pod ${key.name} is being deleted, cannot be assigned to a host`);
      if (pod.spec?.nodeName)
        throw refuse(`pod ${key.name} is already assigned to node ${JSON.stringify(pod.spec.nodeName)}`);
      if (pod.spec?.schedulingGates?.length)
        throw refuse(`pod ${key.name} has non-empty .spec.schedulingGates`);
      pod.spec = { ...pod.spec!, nodeName: binding.target.name! };
      pod.metadata = { ...pod.metadata };
      if (binding.metadata?.annotations)
        pod.metadata.annotations = { ...pod.metadata.annotations, ...binding.metadata.annotations };
      const conditions = (pod.status?.conditions ?? []).filter((c) => c.type !== 'PodScheduled');
      pod.status = {
        ...pod.status,
        conditions: [
          ...conditions,
          {
            type: 'PodScheduled',
            status: 'True',
            lastTransitionTime: rfc3339(this.#clock.now()),
          },
        ],
      };
    });
  }

  async requestToken(ctx: RequestContext, key: ObjectKey, body: unknown): Promise<AnyObject> {
    const schema = 'io.k8s.api.authentication.v1.TokenRequest';
    const request = decodeAs(ctx, body, 'TokenRequest', 'authentication.k8s.io/v1', schema);
    if (!this.tokens) throw new ApiError('ServiceUnavailable', 'this server makes no tokens');
    const target: Target = {
      operation: 'CREATE',
      kind: serviceAccounts as unknown as Kind,
      subresource: 'token',
    };
    const admitted = await this.#admitBody(ctx, target, key, request);
    return this.tokens.request(key.namespace ?? '', key.name, admitted?.object ?? request);
  }

  async evict(ctx: RequestContext, key: ObjectKey, body: unknown): Promise<void> {
    const sent = decodeAs(ctx, body, 'Eviction', 'policy/v1', 'io.k8s.api.policy.v1.Eviction');
    const target: Target = { operation: 'CREATE', kind: pods as unknown as Kind, subresource: 'eviction' };
    const eviction = (await this.#admitBody(ctx, target, key, sent))?.object ?? sent;
    const asked = this.deleteOptions(eviction['deleteOptions'], {});
    const options = await leaveToEvict(
      this.client(),
      key,
      { ...asked, ...(ctx.dryRun ? { dryRun: true } : {}) },
      this.#clock.now(),
    );
    if (!options.dryRun) {
      const resourceVersion = await noteEviction(this.client(), key, options, this.#clock.now());
      if (options.resourceVersion) options.resourceVersion = resourceVersion;
    }
    await this.delete(ctx, pods as unknown as Kind, key, options);
  }

  /** Changes one object through a subresource that has a body and rules of its own, which stand in `change`. */
  async #edit(
    ctx: RequestContext,
    kind: Kind,
    key: ObjectKey,
    subresource: string,
    body: AnyObject,
    change: (shallowCopy: AnyObject, current: AnyObject, body: AnyObject) => void,
  ): Promise<AnyObject> {
    const target: Target = { operation: 'CREATE', kind, subresource };
    return this.#inTurn(target, key, async () => {
      const request = await this.#admitBody(ctx, target, key, body);
      try {
        const entry = this.#need(kind, key);
        const current = this.#give(entry, kind);
        const next: AnyObject = { ...current, metadata: { ...current.metadata } };
        change(next, current, request?.object ?? body);
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

  /** Asks all plugins about the body of a subresource; undefined when none has a say. */
  async #admitBody(
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

  // ---- deleting

  async delete(
    ctx: RequestContext,
    kind: Kind,
    key: ObjectKey,
    options: DeleteOptions,
  ): Promise<DeleteResult> {
    if (kind.view) {
      const { object, removed } = await this.delete(ctx, kind.view.of, key, options);
      return { object: shown(kind, object), removed };
    }
    const target: Target = { operation: 'DELETE', kind };
    return this.#inTurn(target, key, async () => {
      const asked = this.#admission.concerns(target);
      const there = this.#store.get(this.#key(kind, key));
      const request =
        asked &&
        this.#request(ctx, target, 'DeleteOptions', {
          ...named(key),
          ...(there ? { oldObject: this.#give(there, kind) } : {}),
          deleteOptions: options,
        });
      if (request) {
        const mutated = this.#admission.mutate(request);
        if (mutated) await mutated;
      }
      const entry = there ?? this.#need(kind, key);
      const current = this.#give(entry, kind);
      for (const guard of this.guards) guard(ctx, { verb: 'delete', kind, next: current, current });
      this.#checkDeletePreconditions(kind, key.name, options, current.metadata!);
      try {
        if (request) {
          const validated = this.#admission.validate(request);
          if (validated) await validated;
        }
        const next = this.#markDeleted(kind, current, options);
        const gone = this.#mayGo(kind, next);
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

  /** `current` with what a delete writes into it (registry/rest BeforeDelete and deletionFinalizersForGarbageCollection). */
  #markDeleted(kind: Kind, current: AnyObject, options: DeleteOptions): AnyObject {
    const next: AnyObject = { ...current, metadata: { ...current.metadata } };
    const m = metaOf(next);
    delete m.resourceVersion;
    const finalizers = new Set(m.finalizers ?? []);
    const { propagationPolicy: policy } = options;
    if (policy) {
      finalizers.delete('orphan');
      finalizers.delete('foregroundDeletion');
      if (policy === 'Orphan') finalizers.add('orphan');
      if (policy === 'Foreground') finalizers.add('foregroundDeletion');
    } else if (kind.orphansByDefault && !finalizers.has('foregroundDeletion')) finalizers.add('orphan');
    if (finalizers.size || m.finalizers) m.finalizers = [...finalizers];
    if (m.finalizers?.length === 0) delete m.finalizers;
    // Kubernetes reads a negative grace period as one second.
    const asked =
      options.gracePeriodSeconds === undefined
        ? undefined
        : options.gracePeriodSeconds < 0
          ? 1
          : options.gracePeriodSeconds;
    const now = this.#clock.now();
    if (m.deletionTimestamp === undefined) {
      const grace = kind.defaultGracePeriod ? this.#grace(kind, current, asked) : 0;
      m.deletionTimestamp = rfc3339(now + grace * 1000);
      m.deletionGracePeriodSeconds = grace;
      if (m.generation !== undefined) m.generation++;
      kind.prepareForDelete?.(next);
    } else if (kind.defaultGracePeriod) {
      // Already going: the grace period may only become shorter.
      const before = m.deletionGracePeriodSeconds ?? 0;
      const grace = asked === undefined ? before : this.#grace(kind, current, asked);
      if (grace < before) {
        const started = Date.parse(String(m.deletionTimestamp)) - before * 1000;
        m.deletionTimestamp = rfc3339(started + grace * 1000);
        m.deletionGracePeriodSeconds = grace;
      }
    }
    return next;
  }

  #grace(kind: Kind, o: AnyObject, asked: number | undefined): number {
    const byDefault = kind.defaultGracePeriod!(o);
    // 0 from the kind says that nothing runs (a pod that is on no node, or has ended): there is no one to wait for.
    return byDefault === 0 ? 0 : (asked ?? byDefault);
  }

  async deleteCollection(
    ctx: RequestContext,
    kind: Kind,
    query: ListQuery,
    options: DeleteOptions,
  ): Promise<ListResult> {
    const found = this.list(ctx, kind, query);
    const remove = async (o: Frozen<AnyObject>) => {
      const { namespace, name } = o.metadata ?? {};
      try {
        await this.delete(ctx, kind, { namespace, name: name! }, options);
      } catch (e) {
        if (!isApiError(e, 'NotFound')) throw e;
      }
    };
    for (let i = 0; i < found.items.length; i += DELETES_AT_ONCE)
      await Promise.all(found.items.slice(i, i + DELETES_AT_ONCE).map(remove));
    return found;
  }

  deleteOptions(body: unknown, query: Readonly<Record<string, string | undefined>>): DeleteOptions {
    const o = (
      body === undefined || body === null
        ? {}
        : decodeBody(body, 'DeleteOptions', 'v1', 'io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions').object
    ) as {
      gracePeriodSeconds?: number;
      propagationPolicy?: string;
      orphanDependents?: boolean;
      dryRun?: string[];
      preconditions?: { uid?: string; resourceVersion?: string };
    };
    const fromQuery = query['gracePeriodSeconds'];
    if (fromQuery !== undefined && o.gracePeriodSeconds === undefined) {
      if (!/^-?\d{1,10}$/.test(fromQuery))
        throw badRequest(`gracePeriodSeconds: ${JSON.stringify(fromQuery)} is no whole number`);
      o.gracePeriodSeconds = Number(fromQuery);
    }
    const orphan = o.orphanDependents ?? { true: true, false: false }[query['orphanDependents'] ?? ''];
    let policy = o.propagationPolicy ?? query['propagationPolicy'];
    if (policy && orphan !== undefined)
      throw badRequest('orphanDependents and deletionPropagation cannot be both set');
    if (orphan !== undefined) policy = orphan ? 'Orphan' : 'Background';
    if (policy && !['Background', 'Foreground', 'Orphan'].includes(policy))
      throw badRequest(
        `invalid DeleteOptions: propagationPolicy: Unsupported value: ${JSON.stringify(policy)}: supported values: "Background", "Foreground", "Orphan"`,
      );
    if (o.dryRun?.some((d) => d !== 'All'))
      throw badRequest(
        `invalid DeleteOptions: dryRun: Unsupported value: ${JSON.stringify(o.dryRun)}: supported values: "All"`,
      );
    return {
      ...(o.dryRun?.length ? { dryRun: true } : {}),
      ...(o.gracePeriodSeconds === undefined ? {} : { gracePeriodSeconds: o.gracePeriodSeconds }),
      ...(o.preconditions?.uid ? { uid: o.preconditions.uid } : {}),
      ...(o.preconditions?.resourceVersion ? { resourceVersion: o.preconditions.resourceVersion } : {}),
      ...(policy ? { propagationPolicy: policy as NonNullable<DeleteOptions['propagationPolicy']> } : {}),
    };
  }

  // ---- the inside's door

  client(user = 'system:coxswain'): Client {
    const ctx = (): RequestContext => ({
      user,
      groups: ['system:masters'],
      fieldValidation: 'Ignore',
      warnings: [],
    });
    const copy = (o: object) => deepCopy(o) as unknown;
    const keyOf = (o: { metadata?: ObjectMeta }): ObjectKey => ({
      namespace: o.metadata?.namespace,
      name: o.metadata?.name ?? '',
    });
    // The verbs are generic over kinds; the client narrows them to the kind's own type.
    const verbs = {
      get: async (kind: Kind, key: ObjectKey) => this.get(ctx(), kind, key),
      list: async (kind: Kind, options: ListQuery = {}) => this.list(ctx(), kind, options),
      watch: (kind: Kind, options: WatchQuery = {}) => this.watch(ctx(), kind, options),
      create: (kind: Kind, o: AnyObject) => this.create(ctx(), kind, o.metadata?.namespace, copy(o)),
      update: (kind: Kind, o: AnyObject) => this.update(ctx(), kind, keyOf(o), copy(o)),
      updateStatus: (kind: Kind, o: AnyObject) => this.update(ctx(), kind, keyOf(o), copy(o), 'status'),
      patch: (kind: Kind, key: ObjectKey, patch: object, subresource?: Subresource) =>
        this.patch(ctx(), kind, key, PATCH_TYPES.merge, patch, subresource),
      bind: ({ uid, ...key }: ObjectKey & { uid: string }, nodeName: string) =>
        this.bind(ctx(), key, {
          metadata: { name: key.name, uid },
          target: { kind: 'Node', name: nodeName },
        }),
      delete: async (kind: Kind, key: ObjectKey, options: DeleteOptions = {}) => {
        await this.delete(ctx(), kind, key, options);
      },
    };
    return verbs as unknown as Client;
  }

  // ---- helpers

  #prefix(kind: Kind, namespace?: string): string {
    const { group, plural } = storedKind(kind);
    const base = `/${group || 'core'}/${plural}/`;
    return kind.namespaced && namespace ? `${base}${namespace}/` : base;
  }

  #key(kind: Kind, { namespace, name }: ObjectKey): string {
    if (kind.namespaced && !namespace)
      throw badRequest(`an empty namespace may not be set when a resource name is provided`);
    // A slash would reach into another's keys; no valid name has one.
    if (!name || name.includes('/') || namespace?.includes('/'))
      throw notFound(kind.plural, name, kind.group);
    return this.#prefix(kind, namespace) + name;
  }

  #need(kind: Kind, key: ObjectKey): Entry {
    const entry = this.#store.get(this.#key(kind, key));
    if (!entry) throw notFound(kind.plural, key.name, kind.group);
    return entry;
  }

  /** The object of an entry as its kind shows it, with its resourceVersion in it. */
  #give(entry: Entry, kind: Kind): AnyObject {
    const o = this.#stampedValue(entry);
    return kind.custom ? kind.custom.view(o) : shown(kind, o);
  }

  #stampedValue(entry: Entry): AnyObject {
    const value = entry.value as AnyObject;
    const resourceVersion = String(entry.revision);
    if (value.metadata?.resourceVersion === resourceVersion) return value;
    let stamped = this.#stamped.get(value);
    if (!stamped) {
      const metadata = Object.freeze({ ...value.metadata, resourceVersion });
      stamped = Object.freeze({ ...value, metadata });
      this.#stamped.set(value, stamped);
    }
    return stamped;
  }

  #filter(kind: Kind, query: { labelSelector?: string; fieldSelector?: string }): Filter {
    const fields = query.fieldSelector ? parseFieldSelector(query.fieldSelector) : [];
    for (const { field } of fields) {
      const known =
        field === 'metadata.name' ||
        (field === 'metadata.namespace' && kind.namespaced) ||
        Object.hasOwn(kind.selectable, field);
      if (!known) throw badRequest(`field label not supported: ${field}`);
    }
    return { labels: query.labelSelector ? parseSelector(query.labelSelector) : [], fields };
  }

  #matches(kind: Kind, filter: Filter, o: AnyObject): boolean {
    if (!matchesAll(filter.labels, o.metadata?.labels)) return false;
    return filter.fields.every(({ field, value, equal }) => {
      const actual =
        field === 'metadata.name'
          ? o.metadata?.name
          : field === 'metadata.namespace'
            ? o.metadata?.namespace
            : kind.selectable[field]!(o);
      return (actual === value) === equal;
    });
  }

  /** `body` as an object of the kind: fields checked, its apiVersion and kind in place, metadata there. */
  #decode(
    ctx: RequestContext,
    kind: Kind,
    body: unknown,
    subresource?: Subresource,
    strictError?: (texts: string[]) => ApiError,
  ): AnyObject {
    const o =
      subresource === 'scale'
        ? decodeAs(ctx, body, 'Scale', 'autoscaling/v1', SCALE_SCHEMA, strictError)
        : decodeAs(ctx, body, kind.kind, apiVersionOf(kind), kind.custom ?? kind.schema, strictError);
    const meta = metaOf(o);
    delete meta.selfLink;
    return o;
  }

  #placeInNamespace(kind: Kind, meta: ObjectMeta, namespace: string | undefined): void {
    if (!kind.namespaced) {
      if (meta.namespace === '') delete meta.namespace;
      return;
    }
    if (meta.namespace && namespace && meta.namespace !== namespace)
      throw badRequest(
        'the namespace of the provided object does not match the namespace sent on the request',
      );
    if (namespace) meta.namespace = namespace;
  }

  #checkPreconditions(kind: Kind, name: string, wanted: ObjectMeta | undefined, current: ObjectMeta): void {
    if (wanted?.uid && wanted.uid !== current.uid)
      throw conflict(
        kind.plural,
        name,
        `Precondition failed: UID in precondition: ${wanted.uid}, UID in object meta: ${current.uid}`,
        kind.group,
      );
    if (wanted?.resourceVersion && wanted.resourceVersion !== current.resourceVersion) {
      parseRevision(wanted.resourceVersion);
      throw conflict(kind.plural, name, MODIFIED, kind.group);
    }
  }

  #checkDeletePreconditions(kind: Kind, name: string, options: DeleteOptions, current: ObjectMeta): void {
    if (options.uid && options.uid !== current.uid)
      throw conflict(
        kind.plural,
        name,
        `the UID in the precondition (${options.uid}) does not match the UID in record (${current.uid}). The object might have been deleted and then recreated`,
        kind.group,
      );
    if (options.resourceVersion && options.resourceVersion !== current.resourceVersion)
      throw conflict(
        kind.plural,
        name,
        `the ResourceVersion in the precondition (${options.resourceVersion}) does not match the ResourceVersion in record (${current.resourceVersion}). The object might have been modified`,
        kind.group,
      );
  }

  /** Throws Invalid. The kind's own rules are asked even when metadata is wrong, as in Kubernetes. */
  #validate(kind: Kind, name: string, meta: FieldError[], rules: () => FieldError[]): void {
    const errors = [...meta, ...rules()];
    if (errors.length) throw invalidObject(kind, name, errors);
  }

  /** Who owns what is forgotten where it makes an object too large, except for `applied` ones. */
  #checkSize(o: AnyObject, applied = false): void {
    if (jsonSizeBound(o, MAX_OBJECT_BYTES) <= MAX_OBJECT_BYTES) return;
    const tooLarge = () => Buffer.byteLength(JSON.stringify(o)) > MAX_OBJECT_BYTES;
    if (tooLarge() && !applied) delete metaOf(o).managedFields;
    if (tooLarge()) throw new ApiError('RequestEntityTooLarge', 'etcdserver: request is too large');
  }

  #generateName(base: string): string {
    let suffix = '';
    for (let i = 0; i < 5; i++) suffix += SUFFIX[Math.floor(this.#clock.random() * SUFFIX.length)];
    return base.slice(0, MAX_GENERATED_BASE) + suffix;
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

  #asApiError(e: unknown): ApiError {
    if (e instanceof ApiError) return e;
    if (e instanceof Compacted) return new ApiError('Expired', e.message);
    const message = e instanceof Error ? e.message : String(e);
    if (e instanceof Error && e.name === 'StoreBusy')
      return new ApiError('TooManyRequests', message, { retryAfterSeconds: 1 });
    this.#log.error({ err: e }, 'a write failed');
    return new ApiError('InternalError', `Internal error occurred: ${message}`);
  }

  // ---- first start

  /** Makes what every cluster has from the start, as far as it is not there. */
  async bootstrap(): Promise<void> {
    const client = this.client();
    // Looked for first: a hub must be able to start while a webhook or a policy refuses everything.
    const ensure = async (kind: object, o: { metadata: { name: string } }) => {
      const there = this.#store.get(this.#key(kind as Kind, o.metadata));
      if (!there) await client.create(kind as Kind, o as AnyObject);
    };
    for (const name of ['default', 'kube-system', 'kube-public', 'kube-node-lease'])
      await ensure(namespaces, { metadata: { name } });
    for (const { name, ...rest } of SYSTEM_PRIORITIES)
      await ensure(priorityClasses, { metadata: { name }, ...rest });
    for (const name of ['oci', 'wasm', 'wasmtime'])
      await ensure(runtimeClasses, { metadata: { name }, handler: name } as never);
  }
}

/** What counts in `metadata.generation`: of a custom kind everything that is not status, since nobody knows its form. */
const wishOf = (kind: Kind, o: AnyObject): unknown => {
  if (typeof kind.generation === 'function') return kind.generation(o);
  if (!kind.custom) return o['spec'];
  const { metadata: _m, status, ...rest } = o;
  return kind.status ? rest : { ...rest, status };
};

const named = ({ namespace, name }: ObjectKey) => ({ namespace, name });

/** `0` for absent. */
function positive(n: number | undefined, what: string): number {
  if (n === undefined) return 0;
  if (!Number.isInteger(n) || n < 0) throw badRequest(`${what}: Invalid value: must be a whole number >= 0`);
  return n;
}

function parseRevision(rv: string): number {
  if (!/^\d{1,15}$/.test(rv))
    throw badRequest(
      `invalid resource version: resourceVersion: Invalid value: ${JSON.stringify(rv.slice(0, 64))}: strconv.ParseUint: parsing ${JSON.stringify(rv.slice(0, 64))}: invalid syntax`,
    );
  return Number(rv);
}

/** Equal but for resourceVersion. */
function unchanged(next: AnyObject, current: AnyObject): boolean {
  const { resourceVersion: _a, ...a } = next.metadata ?? {};
  const { resourceVersion: _b, ...b } = current.metadata ?? {};
  return deepEqual(a, b) && deepEqual({ ...next, metadata: null }, { ...current, metadata: null });
}

/** `v1` of `apps/v1`. */
const versionOf = (apiVersion: string): string => apiVersion.replace(/^.*\//, '');

const JSON_TYPE = (v: unknown): string =>
  v === null ? 'null' : Array.isArray(v) ? 'array' : typeof v === 'boolean' ? 'bool' : typeof v;

function decodeBody(
  body: unknown,
  kind: string,
  apiVersion: string,
  schema: string | CustomParts,
): { object: AnyObject; unknown: string[] } {
  if (!isPlainObject(body))
    throw badRequest(
      `couldn't get version/kind; json parse error: json: cannot unmarshal ${JSON_TYPE(body)} into Go value of type struct { APIVersion string "json:\\"apiVersion,omitempty\\""; Kind string "json:\\"kind,omitempty\\"" }`,
    );
  const given = { kind: body['kind'] ?? kind, apiVersion: body['apiVersion'] ?? apiVersion };
  const what = `${kind} in version ${JSON.stringify(versionOf(apiVersion))} cannot be handled as a ${kind}`;
  if (given.kind !== kind) {
    const [k, v] = [String(given.kind).slice(0, 128), versionOf(String(given.apiVersion).slice(0, 128))];
    const group = apiVersion.includes('/') ? apiVersion.split(/[./]/, 1)[0] : 'core';
    throw badRequest(
      `${k} in version ${JSON.stringify(v)} cannot be handled as a ${kind}: converting (${v}.${k}) to (${group}.${kind}): unknown conversion`,
    );
  }
  if (given.apiVersion !== apiVersion && kind !== 'DeleteOptions')
    throw badRequest(
      `the API version in the data (${String(given.apiVersion).slice(0, 128)}) does not match the expected API version (${apiVersion})`,
    );
  const unknown = typeof schema === 'string' ? decode(body, schema, what) : schema.decode(body, what);
  body['kind'] = kind;
  body['apiVersion'] = apiVersion;
  return { object: body as AnyObject, unknown };
}

/** Decodes and answers unknown fields as `fieldValidation` wants it. */
function decodeAs(
  ctx: RequestContext,
  body: unknown,
  kind: string,
  apiVersion: string,
  schema: string | CustomParts,
  strictError = (texts: string[]): ApiError =>
    badRequest(
      `${kind} in version ${JSON.stringify(versionOf(apiVersion))} cannot be handled as a ${kind}: strict decoding error: ${texts.join(', ')}`,
    ),
): AnyObject {
  const { object, unknown } = decodeBody(body, kind, apiVersion, schema);
  const texts = [...(ctx.duplicates ?? []), ...unknown.map((f) => `unknown field ${JSON.stringify(f)}`)];
  if (texts.length && ctx.fieldValidation !== 'Ignore') {
    if (ctx.fieldValidation === 'Strict') throw strictError(texts);
    for (const t of texts) if (!ctx.warnings.includes(t)) ctx.warnings.push(t);
  }
  return object;
}
