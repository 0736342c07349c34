import type { Service, ServiceSpec } from 'kubernetes-types/core/v1.js';
import { ipWarnings } from '../meta/ip.js';
import { deepEqual } from '../meta/json.js';
import { dns1123Label } from '../meta/names.js';
import { formatSelector, requirementsOf } from '../meta/selector.js';
import { ageColumn, column, nameColumn } from './columns.js';
import type { Kind } from './kind.js';
import {
  isExternal,
  needsHealthCheck,
  validateService,
  validateServiceStatus,
  validateServiceUpdate,
} from './service-validation.js';

const AFFINITY_SECONDS = 10800;

export const selectorText = (labels: Readonly<Record<string, string>> | undefined): string =>
  labels && Object.keys(labels).length ? formatSelector(requirementsOf({ matchLabels: labels })) : '<none>';

/** `192.0.2.1` or `host.example`; without `wide` no longer than 16 characters. */
export function loadBalancerText(
  ingress: readonly { ip?: string; hostname?: string }[] | undefined,
  wide = false,
): string {
  const texts = (ingress ?? []).map((i) => i.ip || i.hostname || '').filter((t) => t !== '');
  const text = [...new Set(texts)].sort().join(',');
  return !wide && text.length > 16 ? `${text.slice(0, 13)}...` : text;
}

function externalText({ spec = {}, status }: Service): string {
  const { externalIPs = [] } = spec;
  if (spec.type === 'ExternalName') return spec.externalName ?? '';
  if (spec.type !== 'LoadBalancer') return externalIPs.join(',') || '<none>';
  const balanced = loadBalancerText(status?.loadBalancer?.ingress);
  return [...(balanced ? balanced.split(',') : []), ...externalIPs].join(',') || '<pending>';
}

const portsText = ({ ports = [] }: ServiceSpec): string =>
  ports.map((p) => `${p.port}${p.nodePort ? `:${p.nodePort}` : ''}/${p.protocol}`).join(',') || '<none>';

function defaultStatus(o: Service): void {
  for (const i of o.status?.loadBalancer?.ingress ?? []) if (i.ip) i.ipMode ??= 'VIP';
}

/** Kubernetes' SetDefaults_Service; what only one Service may have (addresses, node ports) comes later. */
export function defaultService(o: Service): void {
  o.spec ??= {};
  const { spec } = o;
  spec.sessionAffinity ||= 'None';
  if (spec.sessionAffinity === 'None') delete spec.sessionAffinityConfig;
  if (
    spec.sessionAffinity === 'ClientIP' &&
    spec.sessionAffinityConfig?.clientIP?.timeoutSeconds === undefined
  )
    spec.sessionAffinityConfig = { clientIP: { timeoutSeconds: AFFINITY_SECONDS } };
  spec.type ||= 'ClusterIP';
  for (const p of spec.ports ?? []) {
    p.protocol ||= 'TCP';
    if (!p.targetPort) p.targetPort = p.port;
  }
  if (isExternal(spec)) spec.externalTrafficPolicy ||= 'Cluster';
  if (['ClusterIP', 'NodePort', 'LoadBalancer'].includes(spec.type)) spec.internalTrafficPolicy ??= 'Cluster';
  // As Kubernetes shows it, whatever was sent.
  else if (spec.type === 'ExternalName') delete spec.internalTrafficPolicy;
  if (spec.type === 'LoadBalancer') {
    spec.allocateLoadBalancerNodePorts ??= true;
    defaultStatus(o);
  }
  // Zero stands for none in Go.
  if (!spec.healthCheckNodePort) delete spec.healthCheckNodePort;
  for (const p of spec.ports ?? []) if (!p.nodePort) delete p.nodePort;
  for (const k of ['clusterIP', 'externalName', 'externalTrafficPolicy', 'loadBalancerIP'] as const)
    if (spec[k] === '') delete spec[k];
}

export const needsClusterIP = (s: ServiceSpec): boolean => s.type !== 'ExternalName';
const usesNodePorts = (s: ServiceSpec): boolean => s.type === 'NodePort' || s.type === 'LoadBalancer';
/** New node ports are handed out, unless the load balancer of the Service wants none. */
export const wantsNodePorts = (s: ServiceSpec): boolean =>
  s.type === 'NodePort' || (s.type === 'LoadBalancer' && s.allocateLoadBalancerNodePorts !== false);

export const nodePortsOf = (s: ServiceSpec): number[] => (s.ports ?? []).flatMap((p) => p.nodePort || []);

/** What was handed out before stays where an updater says nothing about it. */
function keepAllocated(spec: ServiceSpec, old: ServiceSpec): void {
  if (needsClusterIP(old) && needsClusterIP(spec)) {
    if (!spec.clusterIP && old.clusterIP) spec.clusterIP = old.clusterIP;
    if (!spec.clusterIPs?.length && old.clusterIPs?.length) spec.clusterIPs = [...old.clusterIPs];
  }
  if (wantsNodePorts(old) && wantsNodePorts(spec)) {
    const now = nodePortsOf(spec);
    const used = new Set(nodePortsOf(old).filter((p) => now.includes(p)));
    const byName = new Map((old.ports ?? []).map((p) => [p.name ?? '', p.nodePort]));
    for (const p of spec.ports ?? []) {
      const before = byName.get(p.name ?? '');
      if (!p.nodePort && before && !used.has(before)) p.nodePort = before;
    }
  }
  if (needsHealthCheck(old) && needsHealthCheck(spec) && old.healthCheckNodePort)
    spec.healthCheckNodePort ||= old.healthCheckNodePort;
}

/** Old clients know only one of clusterIP and clusterIPs: the other follows. */
export function alignClusterIPs(spec: ServiceSpec, old?: ServiceSpec): void {
  if (!old) {
    if (spec.clusterIP && !spec.clusterIPs?.length) spec.clusterIPs = [spec.clusterIP];
    return;
  }
  const same = deepEqual(spec.clusterIPs ?? [], old.clusterIPs ?? []);
  if (old.clusterIP === spec.clusterIP || !same) return;
  if (spec.clusterIP) spec.clusterIPs = [spec.clusterIP];
  else if (old.clusterIP) delete spec.clusterIPs;
}

/** After a change of type, what the old one needed goes, unless the updater meant to set it. */
function dropForeign(o: Service, spec: ServiceSpec, old: ServiceSpec): void {
  if (needsClusterIP(old) && !needsClusterIP(spec)) {
    if (spec.clusterIP === old.clusterIP && deepEqual(spec.clusterIPs, old.clusterIPs)) {
      delete spec.clusterIP;
      delete spec.clusterIPs;
    }
    if (deepEqual(spec.ipFamilies, old.ipFamilies)) delete spec.ipFamilies;
    if (spec.ipFamilyPolicy === old.ipFamilyPolicy) delete spec.ipFamilyPolicy;
  }
  const had = nodePortsOf(old);
  if (usesNodePorts(old) && !usesNodePorts(spec) && nodePortsOf(spec).every((p) => had.includes(p)))
    for (const p of spec.ports ?? []) delete p.nodePort;
  if (
    needsHealthCheck(old) &&
    !needsHealthCheck(spec) &&
    spec.healthCheckNodePort === old.healthCheckNodePort
  )
    delete spec.healthCheckNodePort;
  if (old.type === 'LoadBalancer' && spec.type !== 'LoadBalancer') {
    if (spec.allocateLoadBalancerNodePorts === old.allocateLoadBalancerNodePorts)
      delete spec.allocateLoadBalancerNodePorts;
    if (spec.loadBalancerClass === old.loadBalancerClass) delete spec.loadBalancerClass;
  }
  if (isExternal(old) && !isExternal(spec) && spec.externalTrafficPolicy === old.externalTrafficPolicy)
    delete spec.externalTrafficPolicy;
  if (spec.type !== 'LoadBalancer')
    (o as { status: Service['status'] }).status = { ...o.status, loadBalancer: {} };
}

function warningsOf({ spec = {}, metadata }: Service): string[] {
  const texts: string[] = [];
  if (metadata?.annotations?.['service.kubernetes.io/topology-aware-hints'] !== undefined)
    texts.push(
      'annotation service.kubernetes.io/topology-aware-hints is deprecated, please use service.kubernetes.io/topology-mode instead',
    );
  const { externalIPs = [], type } = spec;
  const headless = type === 'ClusterIP' && spec.clusterIP === 'None';
  if (!headless)
    (spec.clusterIPs ?? []).forEach((ip, i) => {
      texts.push(...ipWarnings(ip, `spec.clusterIPs[${i}]`));
    });
  if (headless) {
    if (spec.loadBalancerIP) texts.push('spec.loadBalancerIP is ignored for headless services');
    if (externalIPs.length) texts.push('spec.externalIPs is ignored for headless services');
    if (spec.sessionAffinity !== 'None') texts.push('spec.SessionAffinity is ignored for headless services');
  }
  externalIPs.forEach((ip, i) => {
    texts.push(...ipWarnings(ip, `spec.externalIPs[${i}]`));
  });
  if (externalIPs.length && !headless && type !== 'ExternalName')
    texts.push('spec.externalIPs is deprecated and may no longer be implemented in some clusters');
  if (type === 'ExternalName' && externalIPs.length)
    texts.push('spec.externalIPs is ignored when spec.type is "ExternalName"');
  if (type !== 'ExternalName' && spec.externalName)
    texts.push('spec.externalName is ignored when spec.type is not "ExternalName"');
  if (spec.trafficDistribution === 'PreferClose')
    texts.push('spec.trafficDistribution: "PreferClose" is deprecated; use "PreferSameZone"');
  return texts;
}

export const services: Kind<Service> = {
  group: '',
  version: 'v1',
  kind: 'Service',
  plural: 'services',
  singular: 'service',
  shortNames: ['svc'],
  categories: ['all'],
  namespaced: true,
  schema: 'io.k8s.api.core.v1.Service',
  createOnUpdate: true,
  columns: [
    nameColumn,
    column('Type', 'string', 'How it is exposed.', (o) => o.spec?.type ?? ''),
    column(
      'Cluster-IP',
      'string',
      'Its address inside the cluster.',
      (o) => o.spec?.clusterIPs?.[0] ?? '<none>',
    ),
    column('External-IP', 'string', 'Addresses outside the cluster.', externalText),
    column('Port(s)', 'string', 'Ports that it exposes.', (o) => portsText(o.spec ?? {})),
    ageColumn,
    column('Selector', 'string', 'Label selector for pods.', (o) => selectorText(o.spec?.selector), 1),
  ],
  status: true,
  selectable: {
    'spec.clusterIP': (o) => o.spec?.clusterIP ?? '',
    'spec.type': (o) => o.spec?.type ?? '',
  },
  validName: dns1123Label,
  setDefaults: defaultService,
  prepareForCreate(o) {
    (o as { status: Service['status'] }).status = { loadBalancer: {} };
    alignClusterIPs(o.spec!);
  },
  prepareForUpdate(o, old) {
    defaultService(o);
    keepAllocated(o.spec!, old.spec!);
    alignClusterIPs(o.spec!, old.spec);
    dropForeign(o, o.spec!, old.spec!);
  },
  validate: validateService,
  validateUpdate: validateServiceUpdate,
  prepareForStatus: defaultStatus,
  validateStatus: validateServiceStatus,
  warnings: warningsOf,
};
