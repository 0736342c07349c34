/** What the Endpoints and EndpointSlices of a Service are to say. Pure; after Kubernetes' endpoint and endpointslice controllers. */
import type {
  EndpointAddress,
  EndpointPort,
  EndpointSubset,
  Endpoints,
  Pod,
  Service,
} from 'kubernetes-types/core/v1.js';
import type { Endpoint, EndpointSlice, EndpointPort as SlicePort } from 'kubernetes-types/discovery/v1.js';
import { familyOf } from '../../api/meta/ip.js';
import type { Frozen } from '../client.js';
import { hasEnded, isReady } from './pods.js';

export const SERVICE_NAME = 'kubernetes.io/service-name';
export const MANAGED_BY = 'endpointslice.kubernetes.io/managed-by';
export const SLICES_BY = 'endpointslice-controller.k8s.io';
export const MIRRORED_BY = 'endpointslicemirroring-controller.k8s.io';
export const SKIP_MIRROR = 'endpointslice.kubernetes.io/skip-mirror';
export const ENDPOINTS_MANAGED_BY = 'endpoints.kubernetes.io/managed-by';
export const ENDPOINTS_BY = 'endpoint-controller';
const OVER_CAPACITY = 'endpoints.kubernetes.io/over-capacity';
const HEADLESS = 'service.kubernetes.io/headless';
const MAX_PER_SLICE = 100;
const MAX_ADDRESSES = 1000;

export type SlicePlan = Pick<EndpointSlice, 'addressType' | 'endpoints' | 'ports'>;

interface Resolved {
  name: string;
  port: number;
  protocol: string;
  appProtocol?: string;
}

/** One pod of a Service, as far as traffic goes. */
interface Target {
  readonly pod: Frozen<Pod>;
  readonly ip: string;
  readonly ports: readonly Resolved[];
  readonly ready: boolean;
}

/** Where a port of a Service leads on a pod; undefined when the pod has no port of that name. */
function resolvePort(
  pod: Frozen<Pod>,
  p: { readonly port: number; readonly targetPort?: number | string; readonly protocol?: string },
): number | undefined {
  const { targetPort = p.port, protocol = 'TCP' } = p;
  if (typeof targetPort === 'number') return targetPort;
  const sidecars = (pod.spec?.initContainers ?? []).filter(
    (c) => (c as { restartPolicy?: string }).restartPolicy === 'Always',
  );
  for (const c of [...(pod.spec?.containers ?? []), ...sidecars])
    for (const port of c.ports ?? [])
      if (port.name === targetPort && (port.protocol ?? 'TCP') === protocol) return port.containerPort;
  return undefined;
}

const portsOf = (service: Frozen<Service>, pod: Frozen<Pod>): Resolved[] =>
  (service.spec?.ports ?? []).flatMap((p) => {
    const port = resolvePort(pod, p);
    return port === undefined
      ? []
      : [
          {
            name: p.name ?? '',
            port,
            protocol: p.protocol ?? 'TCP',
            ...(p.appProtocol === undefined ? {} : { appProtocol: p.appProtocol }),
          },
        ];
  });

/** What a change of a pod may mean for endpoints: equal texts mean nothing. */
export const endpointView = (p: Frozen<Pod>): string =>
  JSON.stringify([
    p.metadata?.labels,
    p.metadata?.deletionTimestamp !== undefined,
    p.status?.podIP,
    p.spec?.nodeName,
    isReady(p),
    hasEnded(p),
  ]);

const ipOf = (pod: Frozen<Pod>, family: string): string | undefined =>
  [...(pod.status?.podIPs ?? []).map((i) => i.ip), pod.status?.podIP].find(
    (ip) => ip !== undefined && ip !== '' && familyOf(ip) === family,
  );

function targetsOf(service: Frozen<Service>, pods: readonly Frozen<Pod>[]): Target[] {
  const family = service.spec?.ipFamilies?.[0] ?? 'IPv4';
  return pods
    .flatMap((pod) => {
      const ip = ipOf(pod, family);
      if (!ip || hasEnded(pod)) return [];
      return [{ pod, ip, ports: portsOf(service, pod), ready: isReady(pod) }];
    })
    .sort((a, b) => (a.ip < b.ip ? -1 : a.ip > b.ip ? 1 : 0));
}

const reference = ({ metadata: m }: Frozen<Pod>) => ({
  kind: 'Pod',
  namespace: m!.namespace!,
  name: m!.name!,
  uid: m!.uid!,
});

/** A pod's own name below its Service, where it asks for one. */
const hostnameOf = (service: Frozen<Service>, { spec, metadata }: Frozen<Pod>): string | undefined =>
  spec?.hostname &&
  spec.subdomain === service.metadata?.name &&
  metadata?.namespace === service.metadata?.namespace
    ? spec.hostname
    : undefined;

const isHeadless = (s: Frozen<Service>) => s.spec?.clusterIP === 'None';

function labelsOf(service: Frozen<Service>): Record<string, string> {
  const { [HEADLESS]: _, ...labels } = (service.metadata?.labels ?? {}) as Record<string, string>;
  return isHeadless(service) ? { ...labels, [HEADLESS]: '' } : labels;
}

/** Ports that lead to the same addresses make one subset. */
function subsetsOf(service: Frozen<Service>, targets: readonly Target[]): EndpointSubset[] {
  const publishes = service.spec?.publishNotReadyAddresses === true;
  const usable = targets
    .filter((t) => publishes || !t.pod.metadata?.deletionTimestamp)
    .slice(0, MAX_ADDRESSES);
  const reached = new Map<string, { port?: Resolved; by: Target[] }>();
  const without = !service.spec?.ports?.length;
  for (const t of usable)
    for (const port of without ? [undefined] : t.ports) {
      const key = JSON.stringify(port ?? null);
      const there = reached.get(key);
      if (there) there.by.push(t);
      else reached.set(key, { ...(port ? { port } : {}), by: [t] });
    }
  const groups = new Map<string, { ports: Resolved[]; by: Target[] }>();
  for (const { port, by } of reached.values()) {
    const key = by.map((t) => t.pod.metadata!.uid).join();
    const there = groups.get(key);
    if (there) there.ports.push(...(port ? [port] : []));
    else groups.set(key, { ports: port ? [port] : [], by });
  }
  const address = (t: Target): EndpointAddress => {
    const hostname = hostnameOf(service, t.pod);
    return {
      ip: t.ip,
      ...(hostname ? { hostname } : {}),
      ...(t.pod.spec?.nodeName ? { nodeName: t.pod.spec.nodeName } : {}),
      targetRef: reference(t.pod),
    };
  };
  return [...groups.values()].map(({ ports, by }) => {
    const ready = by.filter((t) => publishes || t.ready).map(address);
    const notReady = by.filter((t) => !publishes && !t.ready).map(address);
    return {
      ...(ready.length ? { addresses: ready } : {}),
      ...(notReady.length ? { notReadyAddresses: notReady } : {}),
      ...(ports.length
        ? {
            ports: ports.map(({ name, ...p }): EndpointPort => ({ ...(name ? { name } : {}), ...p })),
          }
        : {}),
    };
  });
}

/** The Endpoints of a Service with a selector; `pods` are those that it selects. */
export function planEndpoints(
  service: Frozen<Service>,
  pods: readonly Frozen<Pod>[],
): Pick<Endpoints, 'subsets'> & { labels: Record<string, string>; annotations: Record<string, string> } {
  const targets = targetsOf(service, pods);
  return {
    labels: { ...labelsOf(service), [ENDPOINTS_MANAGED_BY]: ENDPOINTS_BY },
    annotations: targets.length > MAX_ADDRESSES ? { [OVER_CAPACITY]: 'truncated' } : {},
    subsets: subsetsOf(service, targets),
  };
}

const chunks = <T>(all: readonly T[]): T[][] => {
  const out: T[][] = [];
  for (let i = 0; i < all.length; i += MAX_PER_SLICE) out.push(all.slice(i, i + MAX_PER_SLICE));
  return out;
};

/** The slices of a Service with a selector: at most 100 endpoints each, those with the same ports together. */
export function planSlices(
  service: Frozen<Service>,
  pods: readonly Frozen<Pod>[],
  zoneOf: (node: string) => string | undefined,
): SlicePlan[] {
  const publishes = service.spec?.publishNotReadyAddresses === true;
  const groups = new Map<string, { ports: SlicePort[]; endpoints: Endpoint[] }>();
  for (const t of targetsOf(service, pods)) {
    const key = JSON.stringify(t.ports);
    const group = groups.get(key) ?? { ports: t.ports.map((p) => ({ ...p })), endpoints: [] };
    groups.set(key, group);
    const terminating = t.pod.metadata?.deletionTimestamp !== undefined;
    const node = t.pod.spec?.nodeName;
    const zone = node && zoneOf(node);
    const hostname = hostnameOf(service, t.pod);
    group.endpoints.push({
      addresses: [t.ip],
      conditions: { ready: publishes || (t.ready && !terminating), serving: t.ready, terminating },
      ...(hostname ? { hostname } : {}),
      ...(node ? { nodeName: node } : {}),
      targetRef: reference(t.pod),
      ...(zone ? { zone } : {}),
    });
  }
  const addressType = service.spec?.ipFamilies?.[0] ?? 'IPv4';
  const plans = [...groups.values()].flatMap(({ ports, endpoints }) =>
    chunks(endpoints).map((part) => ({ addressType, endpoints: part, ports })),
  );
  // A Service without endpoints has one slice that says so.
  return plans.length ? plans : [{ addressType, endpoints: [], ports: [] }];
}

/** The slices that show Endpoints which somebody else made for a Service without a selector. */
export function mirrorSlices(endpoints: Frozen<Endpoints>): SlicePlan[] {
  return (endpoints.subsets ?? []).flatMap((s) => {
    const ports = (s.ports ?? []).map((p) => ({ ...p, name: p.name ?? '' })) as SlicePort[];
    const of = (list: readonly Frozen<EndpointAddress>[] | undefined, ready: boolean): Endpoint[] =>
      (list ?? []).map((a) => ({
        addresses: [a.ip],
        conditions: { ready },
        ...(a.hostname ? { hostname: a.hostname } : {}),
        ...(a.nodeName ? { nodeName: a.nodeName } : {}),
        ...(a.targetRef ? { targetRef: { ...a.targetRef } } : {}),
      }));
    const all = [...of(s.addresses, true), ...of(s.notReadyAddresses, false)];
    return (['IPv4', 'IPv6'] as const).flatMap((addressType) =>
      chunks(all.filter((e) => familyOf(e.addresses[0]!) === addressType)).map((part) => ({
        addressType,
        endpoints: part,
        ports,
      })),
    );
  });
}

/** Labels of the slices of a Service. */
export const sliceLabels = (service: Frozen<Service>, by: string): Record<string, string> => ({
  ...labelsOf(service),
  [SERVICE_NAME]: service.metadata!.name!,
  [MANAGED_BY]: by,
});
