/** Every verb for every kind, put together from reader, writer and the readings of bodies. */
import type { Binding, Service } from 'kubernetes-types/core/v1.js';
import type { Clock } from '../../api/clock.js';
import { allKinds, pods, serviceAccounts, services } from '../../api/kinds/index.js';
import type { FieldError, Kind } from '../../api/kinds/kind.js';
import { schemaNamed, schemaOf } from '../../api/kinds/schema.js';
import type { Log } from '../../api/log.js';
import { ApiError, badRequest, conflict, isApiError } from '../../api/meta/errors.js';
import { invalidObject } from '../../api/meta/field-errors.js';
import { deepCopy, deepFreeze, isPlainObject } from '../../api/meta/json.js';
import type { AnyObject, ObjectKey } from '../../api/meta/object.js';
import type { Authorizer } from '../auth/attributes.js';
import type { Client, DeleteOptions, Frozen, Watcher } from '../client.js';
import type { Directory } from '../outbound/service.js';
import type { Store } from '../store/store.js';
import { AdmissionChain } from './admission/chain.js';
import type { Target } from './admission/plugin.js';
import { plugins, without } from './admission/plugins.js';
import { ResourceQuotas } from './admission/quota/resourcequota.js';
import type { Allocator } from './allocator.js';
import {
  type Answer,
  type DeleteResult,
  type Guard,
  type ListQuery,
  type ListResult,
  PATCH_TYPES,
  type RegistryVerbs,
  type RequestContext,
  type Source,
  type Subresource,
  type WatchQuery,
} from './api.js';
import { bindPod, checkBinding } from './binding.js';
import { decodeApplied, decodeAs, decodeObject, strictTexts } from './decode.js';
import { deleteOptions } from './deletion.js';
import { leaveToEvict, noteEviction } from './eviction.js';
import type { Forms } from './forms.js';
import { bootstrap, clientOf } from './inside.js';
import { type Applied, apply, shareFields } from './managed.js';
import { checkPreconditions, MODIFIED, metaOf, parseRevision } from './meta.js';
import { managerOf, writeThrough } from './owners.js';
import { jsonPatch, mergePatch, strategicMergePatch } from './patch.js';
import { patchError, strictPatchError } from './patch-errors.js';
import { Reader } from './reader.js';
import { storedForm } from './rules.js';
import { SCALE_SCHEMA, scaleOf } from './scale.js';
import { firstAddress, ServiceAddresses, serviceNetwork } from './service-addresses.js';
import { settled } from './unconverted.js';
import { kept, shown, storedKind } from './views.js';
import { MAX_ATTEMPTS, Writer } from './writer.js';

/** Of a collection: enough to share group commits, few enough to leave room for other writers. */
const DELETES_AT_ONCE = 256;

const NO_VERSION: FieldError = {
  type: 'Invalid',
  field: 'metadata.resourceVersion',
  message: 'Invalid value: 0x0: must be specified for an update',
};

type Plain = Record<string, unknown>;

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
  /** For kinds that are read and never stored. */
  readonly sources = new Map<Kind, Source>();
  /** The first address for Services: that of the API. */
  readonly apiClusterIP: string;
  /** Answers TokenRequests for ServiceAccounts. */
  tokens: { request(namespace: string, name: string, request: AnyObject): Promise<AnyObject> } | undefined;
  /** Finds the addresses behind Services. */
  readonly directory: Directory;
  /** What quotas come to. */
  readonly quota: ResourceQuotas;
  readonly #store: Store;
  readonly #clock: Clock;
  readonly #byPath = new Map<string, Kind>();
  readonly #kindListeners = new Set<() => void>();
  readonly #reader: Reader;
  readonly #writer: Writer;

  constructor({
    store,
    clock,
    log,
    serviceNetwork: network = SERVICE_NETWORK,
    disabledAdmission = [],
  }: RegistryOptions) {
    this.#store = store;
    this.#clock = clock;
    const reader = new Reader({ store, clock, kinds: () => this.kinds });
    this.#reader = reader;
    this.directory = { world: reader.world, kinds: () => this.kinds, random: () => clock.random() };
    this.quota = new ResourceQuotas(reader.world, clock);
    const chain = plugins({
      clock,
      log,
      quota: this.quota,
      kinds: () => this.kinds,
      authorizer: () => this.authorizer,
    });
    const admission = new AdmissionChain(without(chain, disabledAdmission), reader.world);
    this.apiClusterIP = firstAddress(serviceNetwork(network));
    const kind = services as unknown as Kind;
    const all = () => store.list(reader.prefix(kind)).entries.map((e) => e.value as Service);
    const addresses = new ServiceAddresses({ network, all, random: () => clock.random() });
    const allocators = new Map([[kind, addresses as unknown as Allocator<AnyObject>]]);
    this.#writer = new Writer({ store, clock, log, reader, admission, guards: this.guards, allocators });
    this.setCustomKinds([]);
  }

  /** Serves these kinds besides the built-in ones. */
  setCustomKinds(custom: readonly Kind[]): void {
    this.kinds = custom.length ? [...allKinds, ...custom] : allKinds;
    this.#byPath.clear();
    for (const k of this.kinds) this.#byPath.set(`${k.group}/${k.version}/${k.plural}`, k);
    for (const listener of this.#kindListeners) listener();
    this.#reader.endWatchesBut(new Set(this.kinds));
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

  get(ctx: RequestContext, kind: Kind, key: ObjectKey, subresource?: Subresource): Frozen<AnyObject> {
    if (ctx.resourceVersion) this.#reader.notFromTheFuture(parseRevision(ctx.resourceVersion));
    const o = this.#reader.give(this.#reader.need(kind, key), kind);
    return subresource === 'scale' ? deepFreeze(scaleOf(kind, o)) : o;
  }

  list(_ctx: RequestContext, kind: Kind, query: ListQuery): ListResult {
    return this.#reader.list(kind, query);
  }

  async ask(ctx: RequestContext, kind: Kind, key: ObjectKey): Promise<Frozen<AnyObject>> {
    this.#reader.key(kind, key);
    return deepFreeze((await this.#source(kind).get(ctx, key)) as AnyObject);
  }

  async askAll(ctx: RequestContext, kind: Kind, query: ListQuery): Promise<ListResult> {
    this.#reader.filter(kind, query);
    const items = (await this.#source(kind).list(ctx, query)) as AnyObject[];
    return { items: deepFreeze(items), resourceVersion: '' };
  }

  #source(kind: Kind): Source {
    const source = this.sources.get(kind);
    if (!source)
      throw new ApiError('ServiceUnavailable', 'the server is currently unable to handle the request');
    return source;
  }

  watch(_ctx: RequestContext, kind: Kind, query: WatchQuery): Watcher<Frozen<AnyObject>> {
    return this.#reader.watch(kind, query);
  }

  async create(
    ctx: RequestContext,
    kind: Kind,
    namespace: string | undefined,
    body: unknown,
  ): Promise<Frozen<AnyObject>> {
    const o = decodeObject(ctx, kind, body);
    const answer = this.answers.get(kind);
    if (answer) return deepFreeze(await answer(ctx, o, namespace));
    return shown(kind, await this.#writer.insert(ctx, storedKind(kind), namespace, storedForm(kind, o)));
  }

  async update(
    ctx: RequestContext,
    kind: Kind,
    key: ObjectKey,
    body: unknown,
    subresource?: Subresource,
  ): Promise<Frozen<AnyObject>> {
    const o = decodeObject(ctx, kind, body, subresource);
    const { metadata: meta } = o;
    if (meta?.name && meta.name !== key.name)
      throw badRequest(
        `the name of the object (${meta.name}) does not match the name on the URL (${key.name})`,
      );
    const home = storedKind(kind);
    // As in Kubernetes, 0 is none.
    if (meta?.resourceVersion === '0') delete metaOf(o).resourceVersion;
    const pinned = meta?.resourceVersion;
    // Not of the hub's own parts, which have no field manager.
    const needsVersion = home.updateNeedsVersion && ctx.fieldManager !== undefined && subresource !== 'scale';
    const wanted = (current: AnyObject) => (subresource === 'scale' ? o : storedForm(kind, o, current));
    try {
      const now = await this.#writer.change(
        ctx,
        home,
        key,
        subresource,
        'UpdateOptions',
        (current, { attempt }) => {
          if (attempt > 1 && pinned) throw conflict(kind.plural, key.name, MODIFIED, kind.group);
          if (!pinned && needsVersion)
            throw invalidObject({ kind: kind.plural, group: kind.group }, key.name, [NO_VERSION]);
          return { wanted: wanted(current) };
        },
      );
      return subresource === 'scale' ? now : shown(kind, now);
    } catch (e) {
      const absent = isApiError(e, 'NotFound') && !this.#reader.find(kind, key);
      if (!absent || subresource || !home.createOnUpdate) throw e;
    }
    checkPreconditions(kind, key.name, { uid: meta?.uid }, { uid: '' });
    await ctx.checkCreate?.();
    const { resourceVersion: _, ...metadata } = metaOf(o);
    const made = { ...o, metadata: { ...metadata, name: key.name } };
    return shown(kind, await this.#writer.insert(ctx, home, key.namespace, storedForm(kind, made)));
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
    const now = await this.#writer.change(ctx, home, key, subresource, 'PatchOptions', (current) => {
      const view = subresource === 'scale' ? scaleOf(home, current) : shown(kind, current);
      const patched = run(deepCopy(view) as Plain);
      let wanted: AnyObject;
      try {
        wanted = decodeObject(ctx, kind, patched, subresource, (texts) =>
          strictPatchError(type, body, patched, texts),
        );
      } catch (e) {
        throw patchError(type, body, patched, e);
      }
      return { wanted: subresource === 'scale' ? wanted : storedForm(kind, wanted, current) };
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
    const manager = managerOf(ctx, home, subresource, 'Apply');
    if (!manager) throw badRequest('an apply needs a field manager');
    if (ctx.duplicates?.texts.length && ctx.fieldValidation === 'Strict')
      throw badRequest(`error strict decoding YAML: ${strictTexts(ctx.duplicates.texts).join(', ')}`);
    const applied = decodeApplied(ctx, kind, key, body, subresource);
    const config = subresource === 'scale' ? applied : kept(kind, applied);
    const lay = (live: AnyObject, forms?: Forms): Applied => {
      const write = writeThrough(home, subresource, this.#clock.now(), forms);
      return apply(write, live.metadata?.managedFields, live, config, manager, force);
    };
    // Someone else may make the object, or take it away, in between.
    for (let attempt = 1; ; attempt++) {
      try {
        if (this.#reader.find(kind, key) || subresource) {
          const object = await this.#writer.change(
            ctx,
            home,
            key,
            subresource,
            'PatchOptions',
            (current, { forms }) => {
              const { object, owners } = lay(current, forms);
              const wanted = deepCopy(object);
              return { wanted: subresource === 'scale' ? scaleOf(home, wanted) : wanted, owners };
            },
          );
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
        const made = await this.#writer.insert(ctx, home, key.namespace, deepCopy(object), owners);
        return { object: shown(kind, made), created: true };
      } catch (e) {
        const raced = isApiError(e, 'AlreadyExists') || (!subresource && isApiError(e, 'NotFound'));
        const there = this.#reader.find(kind, key) !== undefined;
        if (!raced || there !== isApiError(e, 'AlreadyExists') || attempt >= MAX_ATTEMPTS) throw e;
      }
    }
  }

  async delete(
    ctx: RequestContext,
    kind: Kind,
    key: ObjectKey,
    options: DeleteOptions,
  ): Promise<DeleteResult> {
    const { object, removed } = await this.#writer.delete(ctx, storedKind(kind), key, options);
    return { object: shown(kind, object), removed };
  }

  async deleteCollection(
    ctx: RequestContext,
    kind: Kind,
    query: ListQuery,
    options: DeleteOptions,
  ): Promise<ListResult> {
    const found = await settled(() => this.list(ctx, kind, query));
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
    return deleteOptions(body, query);
  }

  async bind(ctx: RequestContext, key: ObjectKey, body: unknown): Promise<void> {
    const sent = decodeAs(ctx, body, 'Binding', 'v1', 'io.k8s.api.core.v1.Binding');
    checkBinding(key.name, sent as unknown as Binding);
    await this.#writer.edit(ctx, pods as unknown as Kind, key, 'binding', sent, (pod, binding) =>
      bindPod(pod, binding as unknown as Binding, this.#clock.now()),
    );
  }

  async connect(
    ctx: RequestContext,
    kind: Kind,
    key: ObjectKey,
    subresource: string,
    options: AnyObject,
  ): Promise<void> {
    await this.#writer.admitBody(ctx, { operation: 'CONNECT', kind, subresource }, key, options);
    await ctx.checkCreate?.();
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
    const admitted = await this.#writer.admitBody(ctx, target, key, request);
    return this.tokens.request(key.namespace ?? '', key.name, admitted?.object ?? request);
  }

  async evict(ctx: RequestContext, key: ObjectKey, body: unknown): Promise<void> {
    const sent = decodeAs(ctx, body, 'Eviction', 'policy/v1', 'io.k8s.api.policy.v1.Eviction');
    const target: Target = { operation: 'CREATE', kind: pods as unknown as Kind, subresource: 'eviction' };
    const eviction = (await this.#writer.admitBody(ctx, target, key, sent))?.object ?? sent;
    const asked = deleteOptions(eviction['deleteOptions'], {});
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

  client(user = 'system:coxswain'): Client {
    return clientOf(this, user);
  }

  /** Makes what every cluster has from the start, as far as it is not there. */
  bootstrap(): Promise<void> {
    return bootstrap(this.client(), (kind, key) => this.#reader.find(kind, key) !== undefined);
  }
}
