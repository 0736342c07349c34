import type { EndpointAddress, EndpointPort, EndpointSubset, Endpoints } from 'kubernetes-types/core/v1.js';
import type { Endpoint, EndpointSlice, EndpointPort as SlicePort } from 'kubernetes-types/discovery/v1.js';
import { duplicate, invalid, notSupported, required, tooMany } from '../meta/field-errors.js';
import { canonicalIpErrors, endpointIpErrors, familyOf, ipErrors, ipWarnings } from '../meta/ip.js';
import { deepEqual } from '../meta/json.js';
import {
  dns1123Label,
  dns1123Subdomain,
  fullyQualifiedName,
  qualifiedName,
  validLabelValue,
} from '../meta/names.js';
import { validateLabels } from '../meta/object-meta.js';
import { ageColumn, column, nameColumn } from './columns.js';
import type { FieldError, Kind } from './kind.js';
import { isPort, PORT_RANGE, PROTOCOLS } from './service-validation.js';

const SHOWN = 3;
const MAX_ENDPOINTS = 1000;
const MAX_ADDRESSES = 100;
const MAX_PORTS = 20_000;
const MAX_HINTS = 8;
const MAX_TOPOLOGY = 16;
const ADDRESS_TYPES = ['FQDN', 'IPv4', 'IPv6'];
const ZONE = 'topology.kubernetes.io/zone';

const each = (texts: string[], field: string, value: unknown): FieldError[] =>
  texts.map((t) => invalid(field, value, t));

/** The first three, and how many more there are. */
const some = (all: readonly string[], none: string): string =>
  all.length === 0
    ? none
    : all.slice(0, SHOWN).join(',') + (all.length > SHOWN ? ` + ${all.length - SHOWN} more...` : '');

const hostPort = (ip: string, port: number) => `${ip.includes(':') ? `[${ip}]` : ip}:${port}`;

function addressesText({ subsets }: Endpoints): string {
  const all = (subsets ?? []).flatMap(({ addresses = [], ports }) =>
    ports?.length
      ? ports.flatMap((p) => addresses.map((a) => hostPort(a.ip, p.port)))
      : addresses.map((a) => a.ip),
  );
  return some(all, subsets?.length ? '' : '<none>');
}

function validateAddress(a: EndpointAddress, at: string): FieldError[] {
  return [
    ...ipErrors(a.ip ?? '', `${at}.ip`),
    ...(a.hostname ? each(dns1123Label(a.hostname), `${at}.hostname`, a.hostname) : []),
    ...(a.nodeName === undefined ? [] : each(dns1123Subdomain(a.nodeName), `${at}.nodeName`, a.nodeName)),
    ...endpointIpErrors(a.ip ?? '', `${at}.ip`),
  ];
}

function validatePort(p: EndpointPort, at: string, needsName: boolean): FieldError[] {
  const errors: FieldError[] = [];
  if (p.name) errors.push(...each(dns1123Label(p.name), `${at}.name`, p.name));
  else if (needsName) errors.push(required(`${at}.name`));
  if (!isPort(p.port)) errors.push(invalid(`${at}.port`, p.port ?? 0, PORT_RANGE));
  if (!PROTOCOLS.includes(p.protocol ?? ''))
    errors.push(notSupported(`${at}.protocol`, p.protocol, PROTOCOLS));
  if (p.appProtocol !== undefined)
    errors.push(...each(qualifiedName(p.appProtocol), `${at}.appProtocol`, p.appProtocol));
  return errors;
}

const validateSubset = (s: EndpointSubset, at: string): FieldError[] => [
  ...(s.addresses?.length || s.notReadyAddresses?.length
    ? []
    : [required(at, 'must specify `addresses` or `notReadyAddresses`')]),
  ...(s.addresses ?? []).flatMap((a, i) => validateAddress(a, `${at}.addresses[${i}]`)),
  ...(s.notReadyAddresses ?? []).flatMap((a, i) => validateAddress(a, `${at}.notReadyAddresses[${i}]`)),
  ...(s.ports ?? []).flatMap((p, i) => validatePort(p, `${at}.ports[${i}]`, s.ports!.length > 1)),
];

export const endpoints: Kind<Endpoints> = {
  group: '',
  version: 'v1',
  kind: 'Endpoints',
  plural: 'endpoints',
  singular: 'endpoints',
  shortNames: ['ep'],
  categories: [],
  namespaced: true,
  schema: 'io.k8s.api.core.v1.Endpoints',
  createOnUpdate: true,
  columns: [nameColumn, column('Endpoints', 'string', 'Addresses that are ready.', addressesText), ageColumn],
  status: false,
  selectable: {},
  setDefaults(o) {
    for (const s of o.subsets ?? []) for (const p of s.ports ?? []) p.protocol ||= 'TCP';
  },
  validate(o, old) {
    const errors = (o.subsets ?? []).flatMap((s, i) => validateSubset(s, `subsets[${i}]`));
    return errors.length && old && deepEqual(o.subsets, old.subsets) ? [] : errors;
  },
  deprecation: 'v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice',
  warnings: (o) =>
    (o.subsets ?? []).flatMap((s, i) =>
      (['addresses', 'notReadyAddresses'] as const).flatMap((list) =>
        (s[list] ?? []).flatMap((a, j) => ipWarnings(a.ip, `subsets[${i}].${list}[${j}].ip`)),
      ),
    ),
};

const VALID_ADDRESS: Readonly<Record<string, (a: string, at: string, i: number) => FieldError[]>> = {
  IPv4: (a, at, i) => ofFamily('IPv4', ipErrors(a, `${at}[${i}]`), a, at, i),
  IPv6: (a, at, i) => ofFamily('IPv6', canonicalIpErrors(a, `${at}[${i}]`), a, at, i),
  FQDN: (a, at, i) => each(fullyQualifiedName(a), `${at}[${i}]`, a),
};

function ofFamily(family: string, wrong: FieldError[], a: string, at: string, i: number): FieldError[] {
  if (wrong.length) return wrong;
  return [
    ...(familyOf(a) === family ? [] : [invalid(at, a, `must be an ${family} address`)]),
    ...endpointIpErrors(a, `${at}[${i}]`),
  ];
}

function validateHints(h: NonNullable<Endpoint['hints']>, at: string): FieldError[] {
  const names = (
    list: readonly { name: string }[],
    field: string,
    wrong: (name: string) => string[],
    twice: boolean,
  ): FieldError[] => {
    if (list.length > MAX_HINTS) return [tooMany(field, list.length, MAX_HINTS)];
    return list.flatMap(({ name }, i) => [
      ...(twice && list.findIndex((z) => z.name === name) < i
        ? [duplicate(`${field}[${i}].name`, name)]
        : []),
      ...each(wrong(name), `${field}[${i}].name`, name),
    ]);
  };
  return [
    ...names(h.forZones ?? [], `${at}.forZones`, validLabelValue, true),
    ...names(
      (h as { forNodes?: { name: string }[] }).forNodes ?? [],
      `${at}.forNodes`,
      dns1123Subdomain,
      true,
    ),
  ];
}

function validateEndpoint(e: Endpoint, at: string, type: string): FieldError[] {
  const addresses = e.addresses ?? [];
  const errors: FieldError[] = [];
  if (addresses.length === 0) errors.push(required(`${at}.addresses`, 'must contain at least 1 address'));
  else if (addresses.length > MAX_ADDRESSES)
    errors.push(tooMany(`${at}.addresses`, addresses.length, MAX_ADDRESSES));
  const rule = Object.hasOwn(VALID_ADDRESS, type) ? VALID_ADDRESS[type] : undefined;
  if (rule) errors.push(...addresses.flatMap((a, i) => rule(a, `${at}.addresses`, i)));
  if (e.nodeName !== undefined)
    errors.push(...each(dns1123Subdomain(e.nodeName), `${at}.nodeName`, e.nodeName));
  const topology = Object.keys(e.deprecatedTopology ?? {}).length;
  if (topology > MAX_TOPOLOGY) errors.push(tooMany(`${at}.deprecatedTopology`, topology, MAX_TOPOLOGY));
  errors.push(...validateLabels(e.deprecatedTopology, `${at}.deprecatedTopology`));
  if (e.hostname !== undefined) errors.push(...each(dns1123Label(e.hostname), `${at}.hostname`, e.hostname));
  if (e.hints) errors.push(...validateHints(e.hints, `${at}.hints`));
  return errors;
}

function validateSlicePorts(ports: readonly SlicePort[]): FieldError[] {
  if (ports.length > MAX_PORTS) return [tooMany('ports', ports.length, MAX_PORTS)];
  const seen = new Set<string>();
  return ports.flatMap((p, i) => {
    const at = `ports[${i}]`;
    const name = p.name ?? '';
    const errors = name ? each(dns1123Label(name), `${at}.name`, name) : [];
    if (seen.has(name)) errors.push(duplicate(`${at}.name`, name));
    seen.add(name);
    if (!PROTOCOLS.includes(p.protocol ?? ''))
      errors.push(notSupported(`${at}.protocol`, p.protocol, PROTOCOLS));
    if (p.appProtocol !== undefined)
      errors.push(...each(qualifiedName(p.appProtocol), `${at}.appProtocol`, p.appProtocol));
    return errors;
  });
}

function validateEndpoints(o: EndpointSlice, old?: EndpointSlice): FieldError[] {
  const list = o.endpoints ?? [];
  if (list.length > MAX_ENDPOINTS) return [tooMany('endpoints', list.length, MAX_ENDPOINTS)];
  const errors = list.flatMap((e, i) => validateEndpoint(e, `endpoints[${i}]`, o.addressType));
  return errors.length && old && deepEqual(o.endpoints, old.endpoints) ? [] : errors;
}

/** v1 says zone in a field of its own, and keeps topology only for those who had it before. */
function dropTopology(o: EndpointSlice, old?: EndpointSlice): void {
  const before = new Set((old?.endpoints ?? []).map((e) => JSON.stringify(e.deprecatedTopology)));
  for (const e of o.endpoints ?? []) {
    if (e.deprecatedTopology && !before.has(JSON.stringify(e.deprecatedTopology)))
      delete e.deprecatedTopology;
    else if (e.deprecatedTopology) delete e.deprecatedTopology[ZONE];
  }
}

export const endpointSlices: Kind<EndpointSlice> = {
  group: 'discovery.k8s.io',
  version: 'v1',
  kind: 'EndpointSlice',
  plural: 'endpointslices',
  singular: 'endpointslice',
  shortNames: [],
  categories: [],
  namespaced: true,
  schema: 'io.k8s.api.discovery.v1.EndpointSlice',
  columns: [
    nameColumn,
    column('AddressType', 'string', 'Of what form the addresses are.', (o) => o.addressType ?? ''),
    column('Ports', 'string', 'Ports of every endpoint.', (o) =>
      some(
        (o.ports ?? []).map((p) => String(p.port ?? p.name ?? '*')),
        '<unset>',
      ),
    ),
    column('Endpoints', 'string', 'Addresses.', (o) =>
      some(
        (o.endpoints ?? []).flatMap((e) => e.addresses ?? []),
        '<unset>',
      ),
    ),
    ageColumn,
  ],
  status: false,
  selectable: {},
  generation: (o) => [o.addressType, o.endpoints, o.ports, o.metadata?.labels],
  setDefaults(o) {
    for (const p of o.ports ?? []) {
      p.name ??= '';
      p.protocol ??= 'TCP';
    }
  },
  prepareForCreate: (o) => dropTopology(o),
  prepareForUpdate: dropTopology,
  validate(o, old) {
    const errors: FieldError[] = [];
    if (!o.addressType) errors.push(required('addressType'));
    else if (!ADDRESS_TYPES.includes(o.addressType))
      errors.push(notSupported('addressType', o.addressType, ADDRESS_TYPES));
    return [...errors, ...validateSlicePorts(o.ports ?? []), ...validateEndpoints(o, old)];
  },
  validateUpdate: (o, old) =>
    o.addressType === old.addressType ? [] : [invalid('addressType', o.addressType, 'field is immutable')],
  warnings: (o) => [
    ...(o.addressType === 'FQDN'
      ? ['spec.addressType: FQDN endpoints are deprecated']
      : (o.endpoints ?? []).flatMap((e, i) =>
          (e.addresses ?? []).flatMap((a, j) => ipWarnings(a, `endpoints[${i}].addresses[${j}]`)),
        )),
  ],
};
