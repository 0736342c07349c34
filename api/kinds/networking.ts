import type {
  HTTPIngressPath,
  Ingress,
  IngressBackend,
  IngressClass,
  IngressSpec,
  NetworkPolicy,
  NetworkPolicyPeer,
  NetworkPolicyPort,
} from 'kubernetes-types/networking/v1.js';
import { forbidden, invalid, notSupported, required, tooLong } from '../meta/field-errors.js';
import { contains, ipErrors, networkErrors, parseIp, parseNetwork } from '../meta/ip.js';
import {
  dns1123Label,
  dns1123Subdomain,
  domainPrefixedPath,
  pathSegmentName,
  portName,
  wildcardSubdomain,
} from '../meta/names.js';
import { formatSelector, requirementsOf, validateSelector } from '../meta/selector.js';
import { ageColumn, column, nameColumn } from './columns.js';
import type { FieldError, Kind } from './kind.js';
import { loadBalancerText } from './service.js';
import { isPort, PORT_RANGE, PROTOCOLS } from './service-validation.js';

const each = (texts: string[], field: string, value: unknown): FieldError[] =>
  texts.map((t) => invalid(field, value, t));

const CLASS_ANNOTATION = 'kubernetes.io/ingress.class';
export const DEFAULT_INGRESS_CLASS = 'ingressclass.kubernetes.io/is-default-class';
const PATH_TYPES = ['Exact', 'ImplementationSpecific', 'Prefix'];
const BAD_SEQUENCES = ['//', '/./', '/../', '%2f', '%2F'];
const BAD_ENDS = ['/..', '/.'];

function validateBackend(b: IngressBackend | undefined, at: string): FieldError[] {
  const { service, resource } = b ?? {};
  if (service && resource) return [invalid(at, '', 'cannot set both resource and service backends')];
  if (resource)
    return [
      ...(resource.apiGroup === undefined
        ? []
        : each(dns1123Subdomain(resource.apiGroup), `${at}.resource.apiGroup`, resource.apiGroup)),
      ...named(resource.kind, `${at}.resource.kind`),
      ...named(resource.name, `${at}.resource.name`),
    ];
  if (!service) return [invalid(at, '', 'resource or service backend is required')];
  const errors = service.name
    ? each(dns1123Label(service.name), `${at}.service.name`, service.name)
    : [required(`${at}.service.name`)];
  const { name, number } = service.port ?? {};
  if (name && number) errors.push(invalid(at, '', 'cannot set both port name & port number'));
  else if (name) errors.push(...each(portName(name), `${at}.service.port.name`, name));
  else if (!number) errors.push(required(at, 'port name or number is required'));
  else if (!isPort(number)) errors.push(invalid(`${at}.service.port.number`, number, PORT_RANGE));
  return errors;
}

const named = (v: string | undefined, at: string): FieldError[] =>
  v ? each(pathSegmentName(v), at, v) : [required(at)];

function validatePath(p: HTTPIngressPath, at: string): FieldError[] {
  const { path = '', pathType } = p;
  if (!pathType) return [required(`${at}.pathType`, 'pathType must be specified')];
  const errors: FieldError[] = [];
  const wrong = (why: string) => errors.push(invalid(`${at}.path`, path, why));
  if (!PATH_TYPES.includes(pathType)) errors.push(notSupported(`${at}.pathType`, pathType, PATH_TYPES));
  else if (!path.startsWith('/') && (path || pathType !== 'ImplementationSpecific'))
    wrong('must be an absolute path');
  if (pathType === 'Exact' || pathType === 'Prefix') {
    for (const s of BAD_SEQUENCES) if (path.includes(s)) wrong(`must not contain '${s}'`);
    for (const s of BAD_ENDS) if (path.endsWith(s)) wrong(`cannot end with '${s}'`);
  }
  return [...errors, ...validateBackend(p.backend, `${at}.backend`)];
}

const validHost = (host: string): string[] =>
  host.includes('*') ? wildcardSubdomain(host) : dns1123Subdomain(host);

function validateIngressSpec(spec: IngressSpec): FieldError[] {
  const errors: FieldError[] = [];
  const { rules = [], tls = [], ingressClassName } = spec;
  if (!rules.length && !spec.defaultBackend)
    errors.push(invalid('spec', spec.rules ?? null, 'either `defaultBackend` or `rules` must be specified'));
  if (spec.defaultBackend) errors.push(...validateBackend(spec.defaultBackend, 'spec.defaultBackend'));
  rules.forEach(({ host, http }, i) => {
    const at = `spec.rules[${i}]`;
    if (host) {
      if (parseIp(host)) errors.push(invalid(`${at}.host`, host, 'must be a DNS name, not an IP address'));
      errors.push(...each(validHost(host), `${at}.host`, host));
    }
    if (!http) return;
    if (!http.paths?.length) errors.push(required(`${at}.http.paths`));
    (http.paths ?? []).forEach((p, j) => {
      errors.push(...validatePath(p, `${at}.http.paths[${j}]`));
    });
  });
  tls.forEach(({ hosts = [], secretName }, i) => {
    const at = `spec.tls[${i}]`;
    hosts.forEach((h, j) => {
      errors.push(...each(validHost(h), `${at}.hosts[${j}]`, h));
    });
    if (secretName) errors.push(...each(dns1123Subdomain(secretName), `${at}.secretName`, secretName));
  });
  if (ingressClassName !== undefined)
    errors.push(...each(dns1123Subdomain(ingressClassName), 'spec.ingressClassName', ingressClassName));
  return errors;
}

function hostsText({ rules = [] }: IngressSpec): string {
  const hosts = rules.slice(0, 3).flatMap((r) => r.host || []);
  if (hosts.length === 0) return '*';
  return hosts.join(',') + (rules.length > 3 ? ` + ${rules.length - 3} more...` : '');
}

export const ingresses: Kind<Ingress> = {
  group: 'networking.k8s.io',
  version: 'v1',
  kind: 'Ingress',
  plural: 'ingresses',
  singular: 'ingress',
  shortNames: ['ing'],
  categories: [],
  namespaced: true,
  schema: 'io.k8s.api.networking.v1.Ingress',
  columns: [
    nameColumn,
    column('Class', 'string', 'Its IngressClass.', (o) => o.spec?.ingressClassName ?? '<none>'),
    column('Hosts', 'string', 'Hosts that its rules are for.', (o) => hostsText(o.spec ?? {})),
    column('Address', 'string', 'Where its load balancer is.', (o) =>
      loadBalancerText(o.status?.loadBalancer?.ingress),
    ),
    column('Ports', 'string', 'Ports that it opens.', (o) => (o.spec?.tls?.length ? '80, 443' : '80')),
    ageColumn,
  ],
  status: true,
  generation: true,
  selectable: {},
  setDefaults(o) {
    o.spec ??= {};
  },
  prepareForCreate(o) {
    (o as { status: Ingress['status'] }).status = { loadBalancer: {} };
  },
  validate(o, old) {
    const annotation = o.metadata?.annotations?.[CLASS_ANNOTATION];
    const name = o.spec?.ingressClassName;
    const differs = !old && annotation !== undefined && name !== undefined && annotation !== name;
    return [
      ...validateIngressSpec(o.spec!),
      ...(differs
        ? [
            invalid(
              `annotations.${CLASS_ANNOTATION}`,
              annotation,
              'must match `ingressClassName` when both are specified',
            ),
          ]
        : []),
    ];
  },
  validateStatus: (o, old) => {
    const before = (old.status?.loadBalancer?.ingress ?? []).flatMap((i) => i.ip ?? []);
    return (o.status?.loadBalancer?.ingress ?? []).flatMap(({ ip, hostname }, i) => {
      const at = `status.loadBalancer.ingress[${i}]`;
      return [
        ...(ip ? ipErrors(ip, `${at}.ip`, before) : []),
        ...(hostname ? each(dns1123Subdomain(hostname), `${at}.hostname`, hostname) : []),
        ...(hostname && parseIp(hostname)
          ? [invalid(`${at}.hostname`, hostname, 'must be a DNS name, not an IP address')]
          : []),
      ];
    });
  },
  warnings: (o) =>
    o.metadata?.annotations?.[CLASS_ANNOTATION] === undefined
      ? []
      : [`annotation "${CLASS_ANNOTATION}" is deprecated, please use 'spec.ingressClassName' instead`],
};

function validateParameters(p: NonNullable<NonNullable<IngressClass['spec']>['parameters']>): FieldError[] {
  const at = 'spec.parameters';
  const errors = [
    ...(p.apiGroup === undefined ? [] : each(dns1123Subdomain(p.apiGroup), `${at}.apiGroup`, p.apiGroup)),
    ...named(p.kind, `${at}.kind`),
    ...named(p.name, `${at}.name`),
  ];
  const { scope = '', namespace } = p;
  if (scope !== 'Cluster' && scope !== 'Namespace')
    errors.push(notSupported(`${at}.scope`, scope, ['Cluster', 'Namespace']));
  else if (scope === 'Cluster') {
    if (namespace !== undefined)
      errors.push(forbidden(`${at}.namespace`, "`parameters.scope` is set to 'Cluster'"));
  } else if (namespace === undefined)
    errors.push(required(`${at}.namespace`, "`parameters.scope` is set to 'Namespace'"));
  else errors.push(...each(dns1123Label(namespace), `${at}.namespace`, namespace));
  return errors;
}

const withDefault = (o: { metadata?: IngressClass['metadata'] }, annotation: string): string =>
  `${o.metadata?.name ?? ''}${o.metadata?.annotations?.[annotation] === 'true' ? ' (default)' : ''}`;

export const ingressClasses: Kind<IngressClass> = {
  group: 'networking.k8s.io',
  version: 'v1',
  kind: 'IngressClass',
  plural: 'ingressclasses',
  singular: 'ingressclass',
  shortNames: [],
  categories: [],
  namespaced: false,
  schema: 'io.k8s.api.networking.v1.IngressClass',
  columns: [
    { ...nameColumn, value: (o) => withDefault(o, DEFAULT_INGRESS_CLASS) },
    column(
      'Controller',
      'string',
      'Who does what Ingresses of the class say.',
      (o) => o.spec?.controller ?? '',
    ),
    column('Parameters', 'string', 'Where the controller reads more.', ({ spec }) =>
      spec?.parameters
        ? `${spec.parameters.kind}${spec.parameters.apiGroup ? `.${spec.parameters.apiGroup}` : ''}/${spec.parameters.name}`
        : '<none>',
    ),
    ageColumn,
  ],
  status: false,
  generation: true,
  selectable: {},
  setDefaults(o) {
    o.spec ??= {};
    if (o.spec.parameters) o.spec.parameters.scope ??= 'Cluster';
  },
  validate({ spec }) {
    const { controller = '', parameters } = spec ?? {};
    return [
      ...(controller.length > 250 ? [tooLong('spec.controller', 250)] : []),
      ...(controller
        ? each(domainPrefixedPath(controller), 'spec.controller', controller)
        : [required('spec.controller')]),
      ...(parameters ? validateParameters(parameters) : []),
    ];
  },
  validateUpdate: (o, old) =>
    o.spec?.controller === old.spec?.controller
      ? []
      : [invalid('spec.controller', o.spec?.controller, 'field is immutable')],
};

function validatePolicyPort(p: NetworkPolicyPort, at: string): FieldError[] {
  const errors: FieldError[] = [];
  const { port, endPort, protocol } = p;
  if (protocol !== undefined && !PROTOCOLS.includes(protocol))
    errors.push(notSupported(`${at}.protocol`, protocol, PROTOCOLS));
  if (port === undefined) {
    if (endPort !== undefined)
      errors.push(invalid(`${at}.endPort`, endPort, 'may not be specified when `port` is not specified'));
  } else if (typeof port === 'string') {
    if (endPort !== undefined)
      errors.push(invalid(`${at}.endPort`, endPort, 'may not be specified when `port` is non-numeric'));
    errors.push(...each(portName(port), `${at}.port`, port));
  } else {
    if (!isPort(port)) errors.push(invalid(`${at}.port`, port, PORT_RANGE));
    if (endPort !== undefined) {
      if (endPort < port)
        errors.push(invalid(`${at}.endPort`, port, 'must be greater than or equal to `port`'));
      if (!isPort(endPort)) errors.push(invalid(`${at}.endPort`, endPort, PORT_RANGE));
    }
  }
  return errors;
}

function validatePeer(p: NetworkPolicyPeer, at: string, old: readonly string[]): FieldError[] {
  const errors: FieldError[] = [];
  const { podSelector, namespaceSelector, ipBlock } = p;
  if (podSelector) errors.push(...validateSelector(podSelector, `${at}.podSelector`));
  if (namespaceSelector) errors.push(...validateSelector(namespaceSelector, `${at}.namespaceSelector`));
  if (ipBlock && !ipBlock.cidr) errors.push(required(`${at}.ipBlock.cidr`));
  else if (ipBlock) {
    errors.push(...networkErrors(ipBlock.cidr, `${at}.ipBlock.cidr`, old));
    const whole = parseNetwork(ipBlock.cidr);
    (ipBlock.except ?? []).forEach((e, i) => {
      const f = `${at}.ipBlock.except[${i}]`;
      errors.push(...networkErrors(e, f, old));
      const part = parseNetwork(e);
      if (!whole || !part) return;
      const inside = contains(whole, { family: part.family, value: part.first });
      if (!inside || whole.bits >= part.bits) errors.push(invalid(f, e, 'must be a strict subset of `cidr`'));
    });
  }
  if (!podSelector && !namespaceSelector && !ipBlock) errors.push(required(at, 'must specify a peer'));
  else if (ipBlock && (podSelector || namespaceSelector))
    errors.push(forbidden(at, 'may not specify both ipBlock and another peer'));
  return errors;
}

const peersOf = ({ spec }: NetworkPolicy): NetworkPolicyPeer[] => [
  ...(spec?.ingress ?? []).flatMap((r) => r.from ?? []),
  ...(spec?.egress ?? []).flatMap((r) => r.to ?? []),
];

export const networkPolicies: Kind<NetworkPolicy> = {
  group: 'networking.k8s.io',
  version: 'v1',
  kind: 'NetworkPolicy',
  plural: 'networkpolicies',
  singular: 'networkpolicy',
  shortNames: ['netpol'],
  categories: [],
  namespaced: true,
  schema: 'io.k8s.api.networking.v1.NetworkPolicy',
  columns: [
    nameColumn,
    column('Pod-Selector', 'string', 'Which pods it is for.', (o) => {
      const requirements = requirementsOf(o.spec?.podSelector ?? {});
      return requirements.length ? formatSelector(requirements) : '<none>';
    }),
    ageColumn,
  ],
  status: false,
  generation: true,
  selectable: {},
  setDefaults(o) {
    o.spec ??= { podSelector: {} };
    const { spec } = o;
    spec.podSelector ??= {};
    if (!spec.policyTypes?.length)
      spec.policyTypes = spec.egress?.length ? ['Ingress', 'Egress'] : ['Ingress'];
    for (const rule of [...(spec.ingress ?? []), ...(spec.egress ?? [])])
      for (const p of rule.ports ?? []) p.protocol ??= 'TCP';
  },
  validate(o, old) {
    const spec = o.spec!;
    const before = old
      ? peersOf(old).flatMap((p) => [p.ipBlock?.cidr ?? '', ...(p.ipBlock?.except ?? [])])
      : [];
    const errors = validateSelector(spec.podSelector, 'spec.podSelector');
    const rules = (
      list: readonly { ports?: NetworkPolicyPort[] }[] | undefined,
      name: string,
      peers: (i: number) => readonly NetworkPolicyPeer[] | undefined,
      what: string,
    ) =>
      (list ?? []).forEach(({ ports }, i) => {
        const at = `spec.${name}[${i}]`;
        errors.push(
          ...(ports ?? []).flatMap((p, j) => validatePolicyPort(p, `${at}.ports[${j}]`)),
          ...(peers(i) ?? []).flatMap((p, j) => validatePeer(p, `${at}.${what}[${j}]`, before)),
        );
      });
    rules(spec.ingress, 'ingress', (i) => spec.ingress![i]!.from, 'from');
    rules(spec.egress, 'egress', (i) => spec.egress![i]!.to, 'to');
    const types = spec.policyTypes ?? [];
    if (types.length > 2)
      errors.push(invalid('spec.policyTypes', types, 'may not specify more than two policyTypes'));
    else
      types.forEach((t, i) => {
        if (t !== 'Ingress' && t !== 'Egress')
          errors.push(notSupported(`spec.policyTypes[${i}]`, t, ['Ingress', 'Egress']));
      });
    return errors;
  },
};
