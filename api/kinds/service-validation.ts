/** Kubernetes' rules for Services (pkg/apis/core/validation ValidateServiceCreate, ValidateServiceUpdate). */
import type { Service, ServicePort, ServiceSpec } from 'kubernetes-types/core/v1.js';
import { duplicate, forbidden, invalid, notSupported, required } from '../meta/field-errors.js';
import { endpointIpErrors, familyOf, ipErrors, networkErrors } from '../meta/ip.js';
import { deepEqual } from '../meta/json.js';
import { dns1123Label, dns1123Subdomain, portName, qualifiedName } from '../meta/names.js';
import { validateLabels } from '../meta/object-meta.js';
import type { FieldError } from './kind.js';

export const PROTOCOLS = ['SCTP', 'TCP', 'UDP'];
export const PORT_RANGE = 'must be between 1 and 65535, inclusive';
export const isPort = (n: number | undefined): boolean => n !== undefined && n >= 1 && n <= 65535;
const MAX_AFFINITY_SECONDS = 86400;
const TYPES = ['ClusterIP', 'ExternalName', 'LoadBalancer', 'NodePort'];
const FAMILIES = ['IPv4', 'IPv6'];
const POLICIES = ['PreferDualStack', 'RequireDualStack', 'SingleStack'];
const TRAFFIC_POLICIES = ['Cluster', 'Local'];
const DISTRIBUTIONS = ['PreferClose', 'PreferSameNode', 'PreferSameZone'];
const TOPOLOGY_HINTS = 'service.kubernetes.io/topology-aware-hints';
const TOPOLOGY_MODE = 'service.kubernetes.io/topology-mode';
const SOURCE_RANGES = 'service.beta.kubernetes.io/load-balancer-source-ranges';

type Spec = ServiceSpec;

export const isHeadless = ({ clusterIPs }: Spec): boolean =>
  clusterIPs?.length === 1 && clusterIPs[0] === 'None';

/** Reached from outside the cluster, so that it matters where the traffic goes then. */
export const isExternal = (s: Spec): boolean =>
  s.type === 'LoadBalancer' ||
  s.type === 'NodePort' ||
  (s.type === 'ClusterIP' && (s.externalIPs?.length ?? 0) > 0);

/** A load balancer asks on a port of every node which of them have endpoints. */
export const needsHealthCheck = (s: Spec): boolean =>
  s.type === 'LoadBalancer' && s.externalTrafficPolicy === 'Local';

const each = (texts: string[], field: string, value: unknown): FieldError[] =>
  texts.map((t) => invalid(field, value, t));

function validatePort(p: ServicePort, at: string, needsName: boolean, names: Set<string>): FieldError[] {
  const errors: FieldError[] = [];
  if (!p.name) {
    if (needsName) errors.push(required(`${at}.name`));
  } else {
    errors.push(...each(dns1123Label(p.name), `${at}.name`, p.name));
    if (names.has(p.name)) errors.push(duplicate(`${at}.name`, p.name));
    names.add(p.name);
  }
  if (!isPort(p.port)) errors.push(invalid(`${at}.port`, p.port ?? 0, PORT_RANGE));
  if (!p.protocol) errors.push(required(`${at}.protocol`));
  else if (!PROTOCOLS.includes(p.protocol))
    errors.push(notSupported(`${at}.protocol`, p.protocol, PROTOCOLS));
  const { targetPort } = p;
  if (typeof targetPort === 'string')
    errors.push(...each(portName(targetPort), `${at}.targetPort`, targetPort));
  else if (!isPort(targetPort)) errors.push(invalid(`${at}.targetPort`, targetPort ?? 0, PORT_RANGE));
  if (p.appProtocol !== undefined)
    errors.push(...each(qualifiedName(p.appProtocol), `${at}.appProtocol`, p.appProtocol));
  return errors;
}

function validatePorts(spec: Spec): FieldError[] {
  const ports = spec.ports ?? [];
  const names = new Set<string>();
  const errors = ports.flatMap((p, i) => validatePort(p, `spec.ports[${i}]`, ports.length > 1, names));
  if (spec.type === 'ClusterIP')
    ports.forEach((p, i) => {
      if (p.nodePort)
        errors.push(forbidden(`spec.ports[${i}].nodePort`, "may not be used when `type` is 'ClusterIP'"));
    });
  const nodePorts = new Set<string>();
  const seen = new Set<string>();
  ports.forEach((p, i) => {
    const nodePort = `${p.protocol}/${p.nodePort}`;
    if (p.nodePort && nodePorts.has(nodePort))
      errors.push(duplicate(`spec.ports[${i}].nodePort`, p.nodePort));
    nodePorts.add(nodePort);
  });
  ports.forEach((p, i) => {
    const key = `${p.protocol}/${p.port}`;
    if (seen.has(key)) errors.push(duplicate(`spec.ports[${i}]`, { port: p.port, protocol: p.protocol }));
    seen.add(key);
  });
  return errors;
}

function validateExternalName(spec: Spec): FieldError[] {
  const errors: FieldError[] = [];
  const why = 'may not be set for ExternalName services';
  if (spec.clusterIPs?.length) errors.push(forbidden('spec.clusterIPs', why));
  if (spec.ipFamilies?.length) errors.push(forbidden('spec.ipFamilies', why));
  if (spec.ipFamilyPolicy !== undefined) errors.push(forbidden('spec.ipFamilyPolicy', why));
  const name = (spec.externalName ?? '').replace(/\.$/, '');
  if (name) errors.push(...each(dns1123Subdomain(name), 'spec.externalName', name));
  else errors.push(required('spec.externalName'));
  return errors;
}

function validateAffinity(spec: Spec): FieldError[] {
  const at = 'spec.sessionAffinityConfig';
  const { sessionAffinity: affinity, sessionAffinityConfig: config } = spec;
  if (!affinity) return [required('spec.sessionAffinity')];
  if (affinity === 'None')
    return config ? [forbidden(at, 'must not be set when session affinity is None')] : [];
  if (affinity !== 'ClientIP') return [notSupported('spec.sessionAffinity', affinity, ['ClientIP', 'None'])];
  const seconds = config?.clientIP?.timeoutSeconds;
  if (seconds === undefined)
    return [required(`${at}.clientIP.timeoutSeconds`, 'when session affinity type is ClientIP')];
  return seconds <= 0 || seconds > MAX_AFFINITY_SECONDS
    ? [
        invalid(
          `${at}.clientIP.timeoutSeconds`,
          seconds,
          `must be greater than 0 and less than ${MAX_AFFINITY_SECONDS}`,
        ),
      ]
    : [];
}

/** clusterIP, clusterIPs, ipFamilies and ipFamilyPolicy, each for itself and together. */
export function validateClusterIPs({ spec = {} }: Service, old?: Service): FieldError[] {
  if (spec.type === 'ExternalName') return [];
  const errors: FieldError[] = [];
  const at = 'spec.clusterIPs';
  const { clusterIP, clusterIPs = [], ipFamilies = [] } = spec;
  if (clusterIP) {
    if (clusterIPs.length === 0) errors.push(required(at));
    else if (clusterIPs[0] !== clusterIP)
      errors.push(invalid(at, clusterIPs, 'first value must match `clusterIP`'));
  } else if (clusterIPs.length)
    errors.push(invalid(at, clusterIPs, 'must be empty when `clusterIP` is not specified'));
  ipFamilies.forEach((family, i) => {
    if (!FAMILIES.includes(family)) errors.push(notSupported(`spec.ipFamilies[${i}]`, family, FAMILIES));
    if (ipFamilies.indexOf(family) < i) errors.push(duplicate(`spec.ipFamilies[${i}]`, family));
  });
  if (spec.ipFamilyPolicy !== undefined && !POLICIES.includes(spec.ipFamilyPolicy))
    errors.push(notSupported('spec.ipFamilyPolicy', spec.ipFamilyPolicy, POLICIES));
  const wrong: FieldError[] = [];
  clusterIPs.forEach((ip, i) => {
    if (i > 0 || ip !== 'None') wrong.push(...ipErrors(ip, `${at}[${i}]`, old?.spec?.clusterIPs));
    else if (clusterIPs.length > 1)
      wrong.push(invalid(at, clusterIPs, "'None' must be the first and only value"));
  });
  errors.push(...wrong);
  if (clusterIPs.length > 2) errors.push(invalid(at, clusterIPs, 'may only hold up to 2 values'));
  if (wrong.length) return errors;
  if (clusterIPs.length > 1 && new Set(clusterIPs.map(familyOf)).size < 2)
    errors.push(invalid(at, clusterIPs, 'may specify no more than one IP for each IP family'));
  if (!isHeadless(spec))
    clusterIPs.forEach((ip, i) => {
      const family = ipFamilies[i];
      if (family && FAMILIES.includes(family) && family !== familyOf(ip))
        errors.push(
          invalid(`${at}[${i}]`, ip, `expected an ${family} value as indicated by \`ipFamilies[${i}]\``),
        );
    });
  return errors;
}

function validateSourceRanges(o: Service, old: Service | undefined): FieldError[] {
  const spec = o.spec!;
  const why = "may only be used when `type` is 'LoadBalancer'";
  const ranges = spec.loadBalancerSourceRanges ?? [];
  if (ranges.length) {
    const at = 'spec.LoadBalancerSourceRanges';
    const before = (old?.spec?.loadBalancerSourceRanges ?? []).map((r) => r.trim());
    return [
      ...(spec.type === 'LoadBalancer' ? [] : [forbidden(at, why)]),
      ...ranges.flatMap((r, i) => networkErrors(r.trim(), `${at}[${i}]`, before)),
    ];
  }
  const text = o.metadata?.annotations?.[SOURCE_RANGES];
  if (text === undefined) return [];
  const at = `metadata.annotations[${SOURCE_RANGES}]`;
  const same = old?.metadata?.annotations?.[SOURCE_RANGES] === text;
  return [
    ...(spec.type === 'LoadBalancer' ? [] : [forbidden(at, why)]),
    ...(same || text.trim() === '' ? [] : text.split(',').flatMap((r) => networkErrors(r.trim(), at))),
  ];
}

function validateLoadBalancer(spec: Spec, old: Spec | undefined): FieldError[] {
  const errors: FieldError[] = [];
  const { loadBalancerClass: lbClass } = spec;
  if (spec.type !== 'LoadBalancer') {
    const why = "may only be used when `type` is 'LoadBalancer'";
    if (spec.allocateLoadBalancerNodePorts !== undefined)
      errors.push(forbidden('spec.allocateLoadBalancerNodePorts', why));
    if (lbClass !== undefined) errors.push(forbidden('spec.loadBalancerClass', why));
    return errors;
  }
  if (spec.allocateLoadBalancerNodePorts === undefined)
    errors.push(required('allocateLoadBalancerNodePorts'));
  if (old?.type === 'LoadBalancer' && old.loadBalancerClass !== lbClass)
    errors.push(invalid('spec.loadBalancerClass', lbClass, 'may not change once set'));
  if (lbClass !== undefined) errors.push(...each(qualifiedName(lbClass), 'spec.loadBalancerClass', lbClass));
  return errors;
}

function validateTraffic(spec: Spec): FieldError[] {
  const errors: FieldError[] = [];
  const { externalTrafficPolicy: external, internalTrafficPolicy: internal } = spec;
  if (!isExternal(spec)) {
    if (external)
      errors.push(
        invalid('spec.externalTrafficPolicy', external, 'may only be set for externally-accessible services'),
      );
  } else if (!external) errors.push(required('spec.externalTrafficPolicy'));
  else if (!TRAFFIC_POLICIES.includes(external))
    errors.push(notSupported('spec.externalTrafficPolicy', external, TRAFFIC_POLICIES));
  const check = spec.healthCheckNodePort ?? 0;
  if (!needsHealthCheck(spec)) {
    if (check)
      errors.push(
        invalid(
          'spec.healthCheckNodePort',
          check,
          "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'",
        ),
      );
  } else if (!check) errors.push(required('spec.healthCheckNodePort'));
  else if (!isPort(check)) errors.push(invalid('spec.healthCheckNodePort', check, PORT_RANGE));
  if (internal === undefined) {
    if (spec.type !== 'ExternalName' && TYPES.includes(spec.type ?? ''))
      errors.push(required('spec.internalTrafficPolicy'));
  } else if (!TRAFFIC_POLICIES.includes(internal))
    errors.push(notSupported('spec.internalTrafficPolicy', internal, TRAFFIC_POLICIES));
  const { trafficDistribution } = spec;
  if (trafficDistribution !== undefined && !DISTRIBUTIONS.includes(trafficDistribution))
    errors.push(notSupported('spec.trafficDistribution', trafficDistribution, DISTRIBUTIONS));
  return errors;
}

export function validateService(o: Service, old?: Service): FieldError[] {
  const spec = o.spec ?? {};
  const errors: FieldError[] = [];
  const { [TOPOLOGY_HINTS]: hints, [TOPOLOGY_MODE]: mode } = o.metadata?.annotations ?? {};
  if (hints !== undefined && mode !== undefined && hints !== mode)
    errors.push(
      invalid(
        `metadata.annotations[${TOPOLOGY_MODE}]`,
        mode,
        `must match annotations[${TOPOLOGY_HINTS}] when both are specified`,
      ),
    );
  if (!spec.ports?.length && !isHeadless(spec) && spec.type !== 'ExternalName')
    errors.push(required('spec.ports'));
  if ((spec.type === 'LoadBalancer' || spec.type === 'NodePort') && isHeadless(spec))
    errors.push(invalid('spec.clusterIPs[0]', 'None', `may not be set to 'None' for ${spec.type} services`));
  if (spec.type === 'ExternalName') errors.push(...validateExternalName(spec));
  errors.push(...validatePorts(spec));
  errors.push(...validateLabels(spec.selector, 'spec.selector'));
  errors.push(...validateAffinity(spec));
  errors.push(...validateClusterIPs(o, old));
  (spec.externalIPs ?? []).forEach((ip, i) => {
    const wrong = ipErrors(ip, `spec.externalIPs[${i}]`, old?.spec?.externalIPs);
    errors.push(...(wrong.length ? wrong : endpointIpErrors(ip, `spec.externalIPs[${i}]`)));
  });
  if (!spec.type) errors.push(required('spec.type'));
  else if (!TYPES.includes(spec.type)) errors.push(notSupported('spec.type', spec.type, TYPES));
  errors.push(...validateSourceRanges(o, old));
  errors.push(...validateLoadBalancer(spec, old?.spec));
  errors.push(...validateTraffic(spec));
  return errors;
}

/** The first address and family stay; a second one may come, and go again where SingleStack is asked for. */
function validateChange(
  now: Spec,
  before: Spec,
  list: 'clusterIPs' | 'ipFamilies',
  what: string,
): FieldError[] {
  const a = before[list] ?? [];
  const b = now[list] ?? [];
  const first = `spec.${list}[0]`;
  const stays = 'may not change once set';
  if (a.length === b.length)
    return a.flatMap((v, i) =>
      v === b[i] ? [] : [invalid(list === 'clusterIPs' ? `spec.${list}[${i}]` : first, b, stays)],
    );
  const errors: FieldError[] = [];
  if (a.length > b.length && b.length === 0)
    errors.push(invalid(first, b, `primary ${what} can not be unset`));
  if (a.length > 0 && b.length > 0 && a[0] !== b[0]) errors.push(invalid(first, b, stays));
  if (a.length > b.length && b.length === 1 && now.ipFamilyPolicy !== 'SingleStack')
    errors.push(
      invalid(
        'spec.ipFamilyPolicy',
        now.ipFamilyPolicy,
        `must be set to 'SingleStack' when releasing the secondary ${what}`,
      ),
    );
  return errors;
}

export function validateServiceUpdate(o: Service, old: Service): FieldError[] {
  const now = o.spec ?? {};
  const before = old.spec ?? {};
  const errors: FieldError[] = [];
  if (now.type !== 'ExternalName' && before.type !== 'ExternalName') {
    const headless = [isHeadless(before), isHeadless(now)];
    if (!headless.every(Boolean)) errors.push(...validateChange(now, before, 'clusterIPs', 'clusterIP'));
    if (!headless.some(Boolean)) errors.push(...validateChange(now, before, 'ipFamilies', 'ipFamily'));
  }
  if (
    needsHealthCheck(before) &&
    needsHealthCheck(now) &&
    !deepEqual(now.healthCheckNodePort, before.healthCheckNodePort)
  )
    errors.push(forbidden('spec.healthCheckNodePort', 'field is immutable'));
  return errors;
}

const IP_MODES = ['Proxy', 'VIP'];

/** Of a write to `status`. */
export function validateServiceStatus(o: Service, old: Service): FieldError[] {
  const ingress = o.status?.loadBalancer?.ingress ?? [];
  const at = 'status.loadBalancer.ingress';
  if (o.spec?.type !== 'LoadBalancer')
    return ingress.length ? [forbidden(at, "may only be used when `spec.type` is 'LoadBalancer'")] : [];
  const before = (old.status?.loadBalancer?.ingress ?? []).flatMap((i) => i.ip ?? []);
  return ingress.flatMap(({ ip, ipMode, hostname }, i) => {
    const errors: FieldError[] = [];
    if (ip) errors.push(...ipErrors(ip, `${at}[${i}].ip`, before));
    if (ipMode === undefined) {
      if (ip) errors.push(required(`${at}[${i}].ipMode`, 'must be specified when `ip` is set'));
    } else if (!ip) errors.push(forbidden(`${at}[${i}].ipMode`, 'may not be specified when `ip` is not set'));
    else if (!IP_MODES.includes(ipMode)) errors.push(notSupported(`${at}[${i}].ipMode`, ipMode, IP_MODES));
    if (hostname) {
      errors.push(...each(dns1123Subdomain(hostname), `${at}[${i}].hostname`, hostname));
      if (ipErrors(hostname, '').length === 0)
        errors.push(invalid(`${at}[${i}].hostname`, hostname, 'must be a DNS name, not an IP address'));
    }
    return errors;
  });
}
