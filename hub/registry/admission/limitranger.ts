import type { Container, LimitRange, LimitRangeItem, Pod } from 'kubernetes-types/core/v1.js';
import { limitRanges, pods } from '../../../api/kinds/index.js';
import type { Kind } from '../../../api/kinds/kind.js';
import { podTotal } from '../../../api/kinds/pod-resources.js';
import { canonicalQuantity, compareQuantity, parseQuantity } from '../../../api/meta/quantity.js';
import type { Frozen } from '../../client.js';
import { forbidden, type Plugin, type Request, same, type Target } from './plugin.js';

const ANNOTATION = 'kubernetes.io/limit-ranger';

type List = Readonly<Record<string, string>>;
interface Asked {
  readonly requests: List;
  readonly limits: List;
}

const isClaim = ({ kind }: Target): boolean => kind.group === '' && kind.plural === 'persistentvolumeclaims';

const rangesOf = ({ world, namespace }: Request) =>
  world.list(limitRanges as unknown as Kind, namespace) as readonly Frozen<LimitRange>[];

/** What containers, pods and claims get and may ask for in a namespace. */
export const limitRanger: Plugin = {
  name: 'LimitRanger',
  handles: (target) => {
    const { kind, operation, subresource } = target;
    // Of a pod that is there, resources change through `resize` alone.
    if (same(kind, pods))
      return operation === 'CREATE' ? !subresource : operation === 'UPDATE' && subresource === 'resize';
    return isClaim(target) && !subresource && (operation === 'CREATE' || operation === 'UPDATE');
  },
  mutate(request) {
    if (!same(request.kind, pods)) return;
    for (const range of rangesOf(request)) setDefaults(request.object as Pod, range);
  },
  validate(request) {
    for (const range of rangesOf(request)) {
      const errors = [
        ...new Set((range.spec?.limits ?? []).flatMap((item) => problems(item as LimitRangeItem, request))),
      ];
      if (errors.length)
        throw forbidden(request, errors.length === 1 ? errors[0]! : `[${errors.join(', ')}]`);
    }
  },
};

/** Fills in what containers leave open, and notes it on the pod. */
function setDefaults(pod: Pod, range: Frozen<LimitRange>): void {
  const items = (range.spec?.limits ?? []).filter((i) => i.type === 'Container');
  const defaults = {
    requests: Object.assign({}, ...items.map((i) => i.defaultRequest)) as List,
    limits: Object.assign({}, ...items.map((i) => i.default)) as List,
  };
  const notes: string[] = [];
  const fill = (c: Container, what: string) => {
    const set = (list: 'requests' | 'limits', noun: string) => {
      const open = Object.keys(defaults[list]).filter((n) => c.resources?.[list]?.[n] === undefined);
      if (open.length === 0) return;
      c.resources = {
        ...c.resources,
        [list]: { ...c.resources?.[list], ...Object.fromEntries(open.map((n) => [n, defaults[list][n]!])) },
      };
      notes.push(`${open.sort().join(', ')} ${noun} for ${what} ${c.name}`);
    };
    set('requests', 'request');
    set('limits', 'limit');
  };
  for (const c of pod.spec?.containers ?? []) fill(c, 'container');
  for (const c of pod.spec?.initContainers ?? []) fill(c, 'init container');
  if (notes.length === 0) return;
  pod.metadata = {
    ...pod.metadata,
    annotations: {
      ...pod.metadata?.annotations,
      [ANNOTATION]: `LimitRanger plugin set: ${notes.join('; ')}`,
    },
  };
}

/** What an item of a LimitRange says against the object. */
function problems(item: LimitRangeItem, request: Request): string[] {
  if (same(request.kind, pods)) {
    const { spec } = request.object as Pod;
    if (item.type === 'Container')
      return [...(spec?.containers ?? []), ...(spec?.initContainers ?? [])].flatMap((c) =>
        check(item, { requests: c.resources?.requests ?? {}, limits: c.resources?.limits ?? {} }),
      );
    if (item.type === 'Pod')
      return check(item, {
        requests: podTotal(spec, 'requests', false),
        limits: podTotal(spec, 'limits', false),
      });
    return [];
  }
  if (item.type !== 'PersistentVolumeClaim') return [];
  const requestsOf = (o: unknown): List =>
    (o as { spec?: { resources?: { requests?: List } } } | undefined)?.spec?.resources?.requests ?? {};
  const requests = requestsOf(request.object);
  const before = requestsOf(request.oldObject);
  // What a claim has already it may keep.
  const kept = (name: string) =>
    requests[name] !== undefined &&
    before[name] !== undefined &&
    !compareQuantity(requests[name], before[name]);
  return [
    ...each(item.min)
      .filter(([n]) => !kept(n))
      .flatMap(([n, v]) => atLeast(item.type, n, v, { requests, limits: {} })),
    ...each(item.max)
      .filter(([n]) => !kept(n))
      .flatMap(([n, v]) => {
        const text = `maximum ${n} usage per ${item.type} is ${canonicalQuantity(v)}`;
        if (requests[n] === undefined) return [`${text}.  No request is specified`];
        return compareQuantity(requests[n], v) > 0
          ? [`${text}, but request is ${canonicalQuantity(requests[n])}`]
          : [];
      }),
  ];
}

const each = (list: List | undefined): [string, string][] =>
  Object.entries(list ?? {}).sort(([a], [b]) => (a < b ? -1 : 1));

const check = (item: LimitRangeItem, asked: Asked): string[] => [
  ...each(item.min).flatMap(([name, v]) => atLeast(item.type, name, v, asked)),
  ...each(item.max).flatMap(([name, v]) => atMost(item.type, name, v, asked)),
  ...each(item.maxLimitRequestRatio).flatMap(([name, v]) => ratio(item.type, name, v, asked)),
];

function atLeast(type: string, name: string, least: string, { requests, limits }: Asked): string[] {
  const text = `minimum ${name} usage per ${type} is ${canonicalQuantity(least)}`;
  const request = requests[name];
  const limit = limits[name];
  if (request === undefined) return [`${text}.  No request is specified`];
  if (compareQuantity(request, least) < 0) return [`${text}, but request is ${canonicalQuantity(request)}`];
  if (limit !== undefined && compareQuantity(limit, least) < 0)
    return [`${text}, but limit is ${canonicalQuantity(limit)}`];
  return [];
}

function atMost(type: string, name: string, most: string, { requests, limits }: Asked): string[] {
  const text = `maximum ${name} usage per ${type} is ${canonicalQuantity(most)}`;
  const request = requests[name];
  const limit = limits[name];
  if (limit === undefined) return [`${text}.  No limit is specified`];
  if (compareQuantity(limit, most) > 0) return [`${text}, but limit is ${canonicalQuantity(limit)}`];
  if (request !== undefined && compareQuantity(request, most) > 0)
    return [`${text}, but request is ${canonicalQuantity(request)}`];
  return [];
}

function ratio(type: string, name: string, most: string, { requests, limits }: Asked): string[] {
  const text = `${name} max limit to request ratio per ${type} is ${canonicalQuantity(most)}`;
  const nanos = (amount: string | undefined) => (amount === undefined ? 0n : parseQuantity(amount).nanos);
  const request = nanos(requests[name]);
  const limit = nanos(limits[name]);
  if (request === 0n) return [`${text}, but no request is specified or request is 0`];
  if (limit === 0n) return [`${text}, but no limit is specified or limit is 0`];
  return limit * 1_000_000_000n > request * nanos(most)
    ? [`${text}, but provided ratio is ${(Number(limit) / Number(request)).toFixed(6)}`]
    : [];
}
