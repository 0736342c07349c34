/** What each node must have, computed from the store's objects. */
import { createHmac } from 'node:crypto';
import type {
  ConfigMap,
  Node,
  PersistentVolume,
  PersistentVolumeClaim,
  Pod,
  PodSpec,
  Secret,
  Service,
  ServiceAccount,
} from 'kubernetes-types/core/v1.js';
import type { RuntimeClass } from 'kubernetes-types/node/v1.js';
import type { Clock } from '../../api/clock.js';
import {
  configMaps,
  nodes,
  persistentVolumeClaims,
  persistentVolumes,
  pods,
  runtimeClasses,
  secrets,
  serviceAccounts,
  services,
} from '../../api/kinds/index.js';
import { apiVersionOf, type Kind } from '../../api/kinds/kind.js';
import { linkAnnotations } from '../../api/kinds/link-settings.js';
import type { KubeObject, ObjectMeta } from '../../api/meta/object.js';
import { canonical, type Item, type ItemKind, type Items, itemKey } from '../../api/wire/set.js';
import type { Holder, PodTokenSource } from '../auth/podtokens.js';
import type { Frozen } from '../client.js';
import type { Informer, Informers } from '../informer.js';
import { claimNames, isBound, resolveClaims } from '../volumes.js';

const LAST_APPLIED = 'kubectl.kubernetes.io/last-applied-configuration';

/** Names of what a pod refers to in its own namespace. */
export function referencesOf(spec: Frozen<PodSpec> | undefined): { c: Set<string>; s: Set<string> } {
  const c = new Set<string>();
  const s = new Set<string>();
  const add = (set: Set<string>, name: string | undefined) => {
    if (name) set.add(name);
  };
  for (const v of spec?.volumes ?? []) {
    add(c, v.configMap?.name);
    add(s, v.secret?.secretName);
    for (const source of v.projected?.sources ?? []) {
      add(c, source.configMap?.name);
      add(s, source.secret?.name);
    }
  }
  for (const container of [
    ...(spec?.initContainers ?? []),
    ...(spec?.containers ?? []),
    ...(spec?.ephemeralContainers ?? []),
  ]) {
    for (const e of container.env ?? []) {
      add(c, e.valueFrom?.configMapKeyRef?.name);
      add(s, e.valueFrom?.secretKeyRef?.name);
    }
    for (const e of container.envFrom ?? []) {
      add(c, e.configMapRef?.name);
      add(s, e.secretRef?.name);
    }
  }
  for (const p of spec?.imagePullSecrets ?? []) add(s, p.name);
  return { c, s };
}

/** What a pod's environment says of a Service; undefined of one without an address, and of the API's own, whose address devices know. */
function shownService({ metadata, spec }: Frozen<Service>): KubeObject | undefined {
  const { namespace = '', name = '' } = metadata ?? {};
  const clusterIP = spec?.clusterIP;
  if (!clusterIP || clusterIP === 'None' || (namespace === 'default' && name === 'kubernetes'))
    return undefined;
  const ports = (spec?.ports ?? []).map((p) => ({
    ...(p.name ? { name: p.name } : {}),
    ...(p.protocol && p.protocol !== 'TCP' ? { protocol: p.protocol } : {}),
    port: p.port,
  }));
  return { metadata: { namespace, name }, spec: { clusterIP, ports } } as KubeObject;
}

const TERMINAL = new Set(['Succeeded', 'Failed']);

/** Of metadata what no node gets. */
const UNSENT: ReadonlySet<string> = new Set(['managedFields', 'resourceVersion', 'selfLink']);

/**
 * Whether a node gets the same of both, as far as that can be told at a glance: a write shares with what was there the
 * parts that it leaves alone, so that the reports of a pod's status are no news to its node.
 */
function sameToNode(a: Frozen<Pod>, b: Frozen<Pod>): boolean {
  const final = ({ status }: Frozen<Pod>) => (TERMINAL.has(status?.phase ?? '') ? status!.phase : undefined);
  if (a.spec !== b.spec || final(a) !== final(b)) return false;
  const x = (a.metadata ?? {}) as Readonly<Record<string, unknown>>;
  const y = (b.metadata ?? {}) as Readonly<Record<string, unknown>>;
  for (const key in x) if (!UNSENT.has(key) && x[key] !== y[key]) return false;
  for (const key in y) if (!UNSENT.has(key) && !(key in x)) return false;
  return true;
}

/**
 * The part of an object that a node needs. Without `resourceVersion` and `status`, so that a node's own reports do
 * not come back to it; but with a pod's final phase, so that no node ever runs a finished pod again.
 */
export function strip(
  kind: ItemKind,
  o: Frozen<KubeObject>,
  of: Pick<Kind, 'group' | 'version' | 'kind'>,
): KubeObject {
  const {
    managedFields: _m,
    resourceVersion: _r,
    selfLink: _s,
    ...metadata
  } = (o.metadata ?? {}) as ObjectMeta;
  if (kind !== 'p' && metadata.annotations?.[LAST_APPLIED] !== undefined) {
    const { [LAST_APPLIED]: _l, ...annotations } = metadata.annotations;
    metadata.annotations = annotations;
  }
  const { status, ...rest } = o as Frozen<KubeObject> & { status?: { phase?: string } };
  const out: Record<string, unknown> = { ...rest, apiVersion: apiVersionOf(of), kind: of.kind, metadata };
  if (kind === 'p' && status?.phase && TERMINAL.has(status.phase)) out.status = { phase: status.phase };
  return out as KubeObject;
}

/** The tokens of a pod: made when they are sent, since every pod of the cluster has one of these. */
class TokenItem implements Item {
  constructor(
    private readonly source: PodTokenSource,
    private readonly pod: Frozen<Pod>,
    private readonly holder: Holder,
    /** When this was the token to have, and until when it is (Unix ms). */
    private readonly at: number,
    readonly until: number,
    readonly hash: string,
  ) {}

  /** Whether it names these. */
  of(account: string, node: string | undefined): boolean {
    return this.holder.account.uid === account && this.holder.node?.uid === node;
  }

  /** Signed anew each time. */
  get object(): KubeObject {
    return this.source.sign(this.pod, this.holder, this.at) as KubeObject;
  }
}

/** Kinds of which pods name single objects. */
type Named = Exclude<ItemKind, 'p' | 't' | 'n' | 'v'>;

/** Nodes' desired sets, and whom a change concerns. Reads the informers' caches and holds no copies of its own. */
export class DesiredSets {
  readonly #pods: Informer<Pod>;
  readonly #nodes: Informer<Node>;
  readonly #lookup: { readonly [K in Named]: Informer<KubeObject> };
  readonly #claims: Informer<PersistentVolumeClaim>;
  readonly #volumes: Informer<PersistentVolume>;
  readonly #services: Informer<Service>;
  readonly #items = new WeakMap<object, Item>();
  /** Of pods without claims, by their spec; so are their references. */
  readonly #podItems = new WeakMap<object, Item>();
  readonly #references = new WeakMap<object, ReturnType<typeof referencesOf>>();
  /** Of pods with tokens, by their spec, which stays the same object through all reports of their status. */
  readonly #tokens = new WeakMap<object, TokenItem>();
  /** Node to the end of the timer that waits for its tokens to be renewed. */
  readonly #renewals = new Map<string, () => void>();
  /** Item key to the nodes whose pods refer to it, whether it exists or not. */
  readonly #wantedBy = new Map<string, Set<string>>();
  readonly #wants = new Map<string, Set<string>>();

  /**
   * `hashKey` keys the items' hashes: they travel in the clear to whoever runs the broker, and the plain hash of a
   * short secret would let it be guessed. `changed` is called with each node whose set may have changed. Without
   * `tokens` pods get none.
   */
  constructor(
    informers: Informers,
    private readonly hashKey: Buffer,
    private readonly clock: Clock,
    private readonly tokens: PodTokenSource | undefined,
    private readonly changed: (node: string) => void,
  ) {
    this.#nodes = informers.of(nodes);
    this.#nodes.onChange((name, now, before) => {
      const [is, was] = [now, before].map((n) => canonical(linkAnnotations(n?.metadata?.annotations)));
      if (is !== was) changed(name);
    });
    this.#pods = informers.of(pods).index('node', (p) => (p.spec?.nodeName ? [p.spec.nodeName] : []));
    this.#pods.onChange((_key, now, before) => {
      if (now && before && sameToNode(now, before)) return;
      const nodes = new Set([now?.spec?.nodeName, before?.spec?.nodeName]);
      for (const n of nodes) if (n) changed(n);
    });
    this.#volumes = informers.of(persistentVolumes);
    this.#claims = informers.of(persistentVolumeClaims);
    this.#claims.onChange((key) => {
      for (const n of this.#wantedBy.get(`claim/${key}`) ?? []) changed(n);
    });
    const watch = <T extends KubeObject>(kind: ItemKind, of: Kind<T>): Informer<KubeObject> => {
      const informer = informers.of(of) as unknown as Informer<KubeObject>;
      informer.onChange((_key, now, before) => {
        const key = itemKey(kind, (now ?? before)! as KubeObject);
        for (const n of this.#wantedBy.get(key) ?? []) changed(n);
      });
      return informer;
    };
    this.#services = informers
      .of(services)
      .index('namespace', (s) => (s.metadata?.namespace ? [s.metadata.namespace] : []));
    this.#services.onChange((_key, now, before) => {
      const [is, was] = [now, before].map((s) => s && canonical(shownService(s) ?? {}));
      if (is === was) return;
      for (const n of this.#wantedBy.get(`services/${(now ?? before)!.metadata?.namespace}`) ?? [])
        changed(n);
    });
    this.#lookup = {
      c: watch<ConfigMap>('c', configMaps),
      s: watch<Secret>('s', secrets),
      a: watch<ServiceAccount>('a', serviceAccounts),
      r: watch<RuntimeClass>('r', runtimeClasses),
    };
  }

  /** The newest revision that went into any set. */
  get revision(): number {
    const all = [
      this.#pods,
      this.#nodes,
      this.#claims,
      this.#volumes,
      this.#services,
      ...Object.values(this.#lookup),
    ];
    return Math.max(...all.map((i) => Number(i.revision) || 0));
  }

  /** Pods that are to end and of which no agent has ever told anything. */
  untold(node: string): Frozen<Pod>[] {
    return [...this.#pods.by('node', node)].filter(
      ({ metadata, status = {} }) =>
        metadata?.deletionTimestamp &&
        (status.phase ?? 'Pending') === 'Pending' &&
        !status.startTime &&
        !status.containerStatuses,
    );
  }

  /** The node's set as of now, but for pods `without` (uids); from then on `changed` is called for what it refers to, until `forget`. */
  of(node: string, without: ReadonlySet<string> = new Set()): Items {
    const items: Items = new Map();
    const wants = new Set<string>();
    const now = this.clock.now();
    let renewAt = Number.POSITIVE_INFINITY;
    const linked = new Set<string>();
    const want = (kind: Named, namespace: string, name: string | undefined) => {
      if (!name) return undefined;
      const key = itemKey(kind, { metadata: { namespace, name } });
      if (wants.has(key)) return undefined;
      wants.add(key);
      const o = this.#lookup[kind].get(namespace ? `${namespace}/${name}` : name);
      if (o) items.set(key, this.#item(kind, o, this.#lookup[kind].kind));
      return o;
    };
    for (const pod of this.#pods.by('node', node)) {
      if (without.has(pod.metadata?.uid ?? '')) continue;
      const namespace = pod.metadata?.namespace ?? '';
      items.set(
        itemKey('p', { metadata: { namespace, name: pod.metadata?.name ?? '' } }),
        this.#podItem(pod, wants),
      );
      const refs = this.#referencesOf(pod.spec);
      for (const name of refs.c) want('c', namespace, name);
      for (const name of refs.s) want('s', namespace, name);
      const account = want('a', namespace, pod.spec?.serviceAccountName) as ServiceAccount | undefined;
      for (const p of account?.imagePullSecrets ?? []) want('s', namespace, p.name);
      want('r', '', pod.spec?.runtimeClassName);
      if (pod.spec?.enableServiceLinks !== false) linked.add(namespace);
      const tokens = this.#tokensOf(pod, now);
      if (!tokens) continue;
      items.set(itemKey('t', { metadata: pod.metadata as ObjectMeta }), tokens);
      renewAt = Math.min(renewAt, tokens.until);
    }
    for (const namespace of linked) this.#addServices(items, wants, namespace);
    const settings = this.#settingsOf(node);
    if (settings) items.set(itemKey('n', settings.object), settings);
    this.#remember(node, wants);
    this.#renew(node, renewAt - now);
    return items;
  }

  /** A pod, with paths of volumes in the place of claims: what stands behind a claim is the hub's to know. */
  #podItem(pod: Frozen<Pod>, wants: Set<string>): Item {
    const names = claimNames(pod);
    if (names.length === 0) return this.#plainItem(pod);
    const { namespace = '', name = '' } = pod.metadata ?? {};
    for (const c of names) wants.add(`claim/${namespace}/${c}`);
    const spec = resolveClaims(pod.spec!, name, (claim) => {
      const c = this.#claims.get(`${namespace}/${claim}`);
      return c && isBound(c) ? this.#volumes.get(c.spec!.volumeName!) : undefined;
    });
    const object = strip('p', { ...pod, spec } as Frozen<Pod>, pods);
    return { hash: this.#hash(object), object };
  }

  /** What the pods of a namespace see of its Services in their environment. */
  #addServices(items: Items, wants: Set<string>, namespace: string): void {
    wants.add(`services/${namespace}`);
    for (const service of this.#services.by('namespace', namespace)) {
      const shown = shownService(service);
      if (!shown) continue;
      const known = this.#items.get(service);
      const item = known ?? { hash: this.#hash(shown), object: shown };
      if (!known) this.#items.set(service, item);
      items.set(itemKey('v', shown), item);
    }
  }

  #plainItem(pod: Frozen<Pod>): Item {
    if (!pod.spec) return this.#item('p', pod, pods);
    const known = this.#podItems.get(pod.spec);
    if (known && sameToNode(known.object as Pod, pod)) return known;
    const item = this.#item('p', pod, pods);
    this.#podItems.set(pod.spec, item);
    return item;
  }

  #referencesOf(spec: Frozen<PodSpec> | undefined): ReturnType<typeof referencesOf> {
    if (!spec) return referencesOf(spec);
    let known = this.#references.get(spec);
    if (!known) {
      known = referencesOf(spec);
      this.#references.set(spec, known);
    }
    return known;
  }

  /** The node's link settings, when it has any: a node without costs nothing. */
  #settingsOf(node: string): Item | undefined {
    const annotations = linkAnnotations(this.#nodes.get(node)?.metadata?.annotations);
    if (!annotations) return undefined;
    const object = { apiVersion: 'v1', kind: 'Node', metadata: { name: node, annotations } };
    return { hash: this.#hash(object), object };
  }

  #tokensOf(pod: Frozen<Pod>, now: number): TokenItem | undefined {
    if (!this.tokens || !pod.spec || TERMINAL.has(pod.status?.phase ?? '')) return undefined;
    const { namespace = '' } = pod.metadata ?? {};
    const account = this.#lookup.a.get(`${namespace}/${pod.spec?.serviceAccountName || 'default'}`) as
      | Frozen<ServiceAccount>
      | undefined;
    if (!account) return undefined;
    const accountUid = account.metadata?.uid ?? '';
    const node = this.#nodes.get(pod.spec?.nodeName ?? '')?.metadata;
    const known = this.#tokens.get(pod.spec);
    if (known?.of(accountUid, node?.uid) && now < known.until) return known;
    const holder: Holder = {
      account: { namespace, name: account.metadata?.name ?? '', uid: accountUid },
      ...(node ? { node: { name: node.name ?? '', uid: node.uid ?? '' } } : {}),
    };
    const made = this.tokens.of(pod, holder, now);
    if (!made) return undefined;
    const hash = this.#hash({ kid: this.tokens.kid, claims: made.claims });
    // Not the pod itself, of which each report makes another.
    const { name, uid, creationTimestamp } = pod.metadata ?? {};
    const bare = { metadata: { namespace, name, uid, creationTimestamp }, spec: pod.spec } as Frozen<Pod>;
    const item = new TokenItem(this.tokens, bare, holder, now, made.until, hash);
    this.#tokens.set(pod.spec, item);
    return item;
  }

  /** Looks at a node again once the first of its tokens is to be renewed. */
  #renew(node: string, ms: number): void {
    this.#renewals.get(node)?.();
    this.#renewals.delete(node);
    if (!Number.isFinite(ms)) return;
    const cancel = this.clock.after(Math.max(ms, 1000), () => {
      this.#renewals.delete(node);
      this.changed(node);
    });
    this.#renewals.set(node, cancel);
  }

  stop(): void {
    for (const cancel of this.#renewals.values()) cancel();
    this.#renewals.clear();
  }

  forget(node: string): void {
    this.#renew(node, Number.POSITIVE_INFINITY);
    this.#remember(node, new Set());
    this.#wants.delete(node);
  }

  #remember(node: string, wants: Set<string>): void {
    const had = this.#wants.get(node);
    for (const key of had ?? []) {
      if (wants.has(key)) continue;
      const nodes = this.#wantedBy.get(key);
      nodes?.delete(node);
      if (nodes?.size === 0) this.#wantedBy.delete(key);
    }
    for (const key of wants) {
      const nodes = this.#wantedBy.get(key);
      if (nodes) nodes.add(node);
      else this.#wantedBy.set(key, new Set([node]));
    }
    this.#wants.set(node, wants);
  }

  #item(kind: ItemKind, o: Frozen<KubeObject>, of: Pick<Kind, 'group' | 'version' | 'kind'>): Item {
    const known = this.#items.get(o);
    if (known) return known;
    const object = strip(kind, o, of);
    const item = { hash: this.#hash(object), object };
    this.#items.set(o, item);
    return item;
  }

  #hash(object: object): string {
    const hash = createHmac('sha256', this.hashKey).update(canonical(object)).digest();
    return hash.subarray(0, 6).toString('base64url');
  }
}
