/** What objects use of a quota, and which of them a quota is about (Kubernetes' pkg/quota/v1/evaluator/core). Pure. */
import type { Pod, ResourceQuota, ScopedResourceSelectorRequirement } from 'kubernetes-types/core/v1.js';
import { pods } from '../../../../api/kinds/index.js';
import type { Kind } from '../../../../api/kinds/kind.js';
import { podTotal } from '../../../../api/kinds/pod-resources.js';
import { qosClassOf } from '../../../../api/kinds/qos.js';
import { isNativeResource } from '../../../../api/kinds/resource-names.js';
import type { AnyObject } from '../../../../api/meta/object.js';
import { formatQuantity, parseQuantity, type Quantity } from '../../../../api/meta/quantity.js';
import type { Frozen } from '../../../client.js';
import { same } from '../plugin.js';

/** Amounts by resource, as quotas name them. */
export type Usage = Readonly<Record<string, Quantity>>;

type Requirement = Frozen<ScopedResourceSelectorRequirement>;
type Stored = Frozen<AnyObject>;

/** How objects of one kind are charged. */
export interface Evaluator {
  /** Whether a resource that a quota limits is one of this kind's. */
  tracks(resource: string): boolean;
  usage(o: Stored, now: number): Usage;
  /** Whether the object is in a scope; absent: it is in none. */
  inScope?(o: Stored, scope: Requirement): boolean;
  /** What the object must say because the quota limits it; the text of the refusal. */
  missing?(o: Stored, tracked: readonly string[]): string | undefined;
  /** When the object stops being charged though nobody writes it, in ms. */
  expires?(o: Stored): number | undefined;
  /** Whether an update can change what is used. */
  readonly changes: boolean;
}

const count = (n: number): Quantity => ({ nanos: BigInt(n) * 1_000_000_000n, format: 'DecimalSI' });
const ONE = count(1);
const countName = (kind: Kind): string => `count/${kind.plural}${kind.group ? `.${kind.group}` : ''}`;

// ---- pods

const COMPUTE = ['cpu', 'memory', 'ephemeral-storage'];
const OF_PODS = new Set([
  'count/pods',
  'pods',
  ...COMPUTE.flatMap((r) => [r, `requests.${r}`, `limits.${r}`]),
]);
/** Who limits the sum of these wants every container to say its part. */
const TO_BE_SAID = ['cpu', 'memory'].flatMap((r) => [r, `requests.${r}`, `limits.${r}`]);

const isTerminating = (p: Pod): boolean => (p.spec?.activeDeadlineSeconds ?? -1) >= 0;

function looksIntoOtherNamespaces(p: Pod): boolean {
  type Term = { namespaces?: readonly string[]; namespaceSelector?: object };
  const { podAffinity, podAntiAffinity } = p.spec?.affinity ?? {};
  return [podAffinity, podAntiAffinity]
    .flatMap((a): Term[] => [
      ...(a?.requiredDuringSchedulingIgnoredDuringExecution ?? []),
      ...(a?.preferredDuringSchedulingIgnoredDuringExecution ?? []).map((w) => w.podAffinityTerm),
    ])
    .some((t) => t.namespaces?.length || t.namespaceSelector);
}

const OPERATORS: Readonly<Record<string, (name: string | undefined, values: readonly string[]) => boolean>> =
  {
    In: (name, values) => name !== undefined && values.includes(name),
    NotIn: (name, values) => name === undefined || !values.includes(name),
    Exists: (name) => name !== undefined,
    DoesNotExist: (name) => name === undefined,
  };

const SCOPES: Readonly<Record<string, (p: Pod, r: Requirement) => boolean>> = {
  Terminating: isTerminating,
  NotTerminating: (p) => !isTerminating(p),
  BestEffort: (p) => qosClassOf(p) === 'BestEffort',
  NotBestEffort: (p) => qosClassOf(p) !== 'BestEffort',
  PriorityClass: (p, r) =>
    OPERATORS[r.operator]?.(p.spec?.priorityClassName || undefined, r.values ?? []) ?? false,
  CrossNamespacePodAffinity: looksIntoOtherNamespaces,
};

/** The time after which a pod that is being deleted is no longer charged: its node may never tell. */
function podExpires(o: Stored): number | undefined {
  const { deletionTimestamp, deletionGracePeriodSeconds } = o.metadata ?? {};
  if (deletionTimestamp === undefined || deletionGracePeriodSeconds === undefined) return undefined;
  return Date.parse(deletionTimestamp) + deletionGracePeriodSeconds * 1000;
}

/** Requests and limits by the names that quotas use. */
function computeUsage(
  requests: Readonly<Record<string, string>>,
  limits: Readonly<Record<string, string>>,
): Record<string, Quantity> {
  const out: Record<string, Quantity> = {};
  for (const [name, text] of Object.entries(requests)) {
    const amount = parseQuantity(text);
    if (COMPUTE.includes(name) || name.startsWith('hugepages-')) out[name] = amount;
    if (COMPUTE.includes(name) || name.startsWith('hugepages-') || !isNativeResource(name))
      out[`requests.${name}`] = amount;
  }
  for (const name of COMPUTE)
    if (limits[name] !== undefined) out[`limits.${name}`] = parseQuantity(limits[name]);
  return out;
}

const podEvaluator: Evaluator = {
  changes: true,
  tracks: (r) =>
    OF_PODS.has(r) ||
    /^(requests\.)?hugepages-/.test(r) ||
    (r.startsWith('requests.') && !isNativeResource(r)),
  usage(o, now) {
    const p = o as Pod;
    const { phase } = p.status ?? {};
    // Every pod is an object; only those that may still run use anything else.
    if (phase === 'Succeeded' || phase === 'Failed' || (podExpires(o) ?? Number.POSITIVE_INFINITY) < now)
      return { 'count/pods': ONE };
    const { spec } = p;
    return {
      'count/pods': ONE,
      pods: ONE,
      ...computeUsage(podTotal(spec, 'requests', true), podTotal(spec, 'limits', true)),
    };
  },
  inScope: (o, r) => SCOPES[r.scopeName]?.(o as Pod, r) ?? false,
  missing(o, tracked) {
    const spec = (o as Pod).spec as Pod['spec'] & { resources?: { requests?: object; limits?: object } };
    if (Object.keys({ ...spec?.resources?.requests, ...spec?.resources?.limits }).length) return undefined;
    const wanted = TO_BE_SAID.filter((r) => tracked.includes(r)).sort();
    const containers = [...(spec?.containers ?? []), ...(spec?.initContainers ?? [])];
    const texts = wanted.flatMap((r) => {
      const silent = containers
        .filter((c) => computeUsage(c.resources?.requests ?? {}, c.resources?.limits ?? {})[r] === undefined)
        .map((c) => c.name);
      return silent.length ? [`${r} for: ${[...new Set(silent)].sort().join(',')}`] : [];
    });
    return texts.length ? `must specify ${texts.join('; ')}` : undefined;
  },
  expires: podExpires,
};

// ---- services and claims

const serviceEvaluator: Evaluator = {
  changes: true,
  tracks: (r) => ['count/services', 'services', 'services.nodeports', 'services.loadbalancers'].includes(r),
  usage(o) {
    const { type, ports = [] } = (o['spec'] ?? {}) as { type?: string; ports?: readonly unknown[] };
    const balanced = type === 'LoadBalancer';
    return {
      'count/services': ONE,
      services: ONE,
      ...(balanced ? { 'services.loadbalancers': ONE } : {}),
      ...(balanced || type === 'NodePort' ? { 'services.nodeports': count(ports.length) } : {}),
    };
  },
};

const CLASS_SUFFIX = '.storageclass.storage.k8s.io/';

const claimEvaluator: Evaluator = {
  changes: true,
  tracks: (r) =>
    ['count/persistentvolumeclaims', 'persistentvolumeclaims', 'requests.storage'].includes(r) ||
    ['requests.storage', 'persistentvolumeclaims'].some((n) => r.endsWith(CLASS_SUFFIX + n)),
  usage(o) {
    const { spec, status } = o as {
      spec?: { storageClassName?: string; resources?: { requests?: { storage?: string } } };
      status?: { allocatedResources?: { storage?: string } };
    };
    const className =
      o.metadata?.annotations?.['volume.beta.kubernetes.io/storage-class'] ?? spec?.storageClassName;
    const text = spec?.resources?.requests?.storage;
    const allocated = status?.allocatedResources?.storage;
    const asked = text === undefined ? undefined : parseQuantity(text);
    const given = allocated === undefined ? undefined : parseQuantity(allocated);
    // A claim that grows or shrinks is charged the larger size until it is done.
    const storage = asked && given && given.nanos > asked.nanos ? given : asked;
    return {
      'count/persistentvolumeclaims': ONE,
      persistentvolumeclaims: ONE,
      ...(className ? { [`${className}${CLASS_SUFFIX}persistentvolumeclaims`]: ONE } : {}),
      ...(storage ? { 'requests.storage': storage } : {}),
      ...(storage && className ? { [`${className}${CLASS_SUFFIX}requests.storage`]: storage } : {}),
    };
  },
};

// ---- everything else is counted

/** Kinds that quotas count under their old names as well. */
const OLD_NAMES = ['configmaps', 'resourcequotas', 'replicationcontrollers', 'secrets'];

function counter(kind: Kind): Evaluator {
  const names = [
    countName(kind),
    ...(kind.group === '' && OLD_NAMES.includes(kind.plural) ? [kind.plural] : []),
  ];
  const usage = Object.fromEntries(names.map((n) => [n, ONE]));
  return { changes: false, tracks: (r) => names.includes(r), usage: () => usage };
}

const SPECIAL: Readonly<Record<string, Evaluator>> = {
  '/services': serviceEvaluator,
  '/persistentvolumeclaims': claimEvaluator,
};
const evaluators = new WeakMap<Kind, Evaluator>();

/** Undefined for kinds that no quota is about. */
export function evaluatorOf(kind: Kind): Evaluator | undefined {
  if (!kind.namespaced || kind.verbs || kind.plural === 'events') return undefined;
  let e = evaluators.get(kind);
  if (!e) {
    const name = `${kind.group}/${kind.plural}`;
    e = same(kind, pods) ? podEvaluator : Object.hasOwn(SPECIAL, name) ? SPECIAL[name]! : counter(kind);
    evaluators.set(kind, e);
  }
  return e;
}

/** A quota's scopes and scope selector as one list. */
export const scopesOf = (q: Frozen<ResourceQuota>): Requirement[] => [
  ...(q.spec?.scopes ?? []).map((scopeName) => ({ scopeName, operator: 'Exists' })),
  ...(q.spec?.scopeSelector?.matchExpressions ?? []),
];

/** `pods=1,requests.cpu=500m`, for messages. */
export const usageText = (usage: Usage, names: readonly string[]): string =>
  [...names]
    .sort()
    .map((n) => `${n}=${usage[n] ? formatQuantity(usage[n]) : '0'}`)
    .join(',');
