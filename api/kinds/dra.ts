/**
 * Devices that pods share out among themselves (resource.k8s.io): the objects and their rules. Nothing here hands devices
 * out: a claim stays without an allocation unless somebody writes one.
 */
import type { Condition } from 'kubernetes-types/meta/v1.js';
import {
  duplicate,
  forbidden,
  invalid,
  notSupported,
  required,
  tooLong,
  tooMany,
} from '../meta/field-errors.js';
import { deepEqual } from '../meta/json.js';
import { dns1123Label, dns1123Subdomain, qualifiedName } from '../meta/names.js';
import type { KubeObject } from '../meta/object.js';
import { ageColumn, column, nameColumn } from './columns.js';
import type { FieldError, Kind } from './kind.js';

interface Selector {
  cel?: { expression?: string };
}
interface Config {
  opaque?: { driver?: string; parameters?: unknown };
  requests?: string[];
}
interface Request {
  name?: string;
  deviceClassName?: string;
  selectors?: Selector[];
  allocationMode?: string;
  count?: number;
}
interface ClaimSpec {
  devices?: {
    requests?: { name?: string; exactly?: Request; firstAvailable?: Request[] }[];
    constraints?: { requests?: string[]; matchAttribute?: string; distinctAttribute?: string }[];
    config?: Config[];
  };
}
interface Allocated {
  driver?: string;
  pool?: string;
  device?: string;
}
export interface ResourceClaim extends KubeObject {
  spec?: ClaimSpec;
  status?: {
    allocation?: { devices?: { results?: (Allocated & { request?: string })[] } };
    reservedFor?: { resource?: string; name?: string; uid?: string }[];
    devices?: (Allocated & { conditions?: Condition[] })[];
  };
}
export interface ResourceClaimTemplate extends KubeObject {
  spec?: { spec?: ClaimSpec };
}
export interface DeviceClass extends KubeObject {
  spec?: { selectors?: Selector[]; config?: Config[]; extendedResourceName?: string };
}
export interface ResourceSlice extends KubeObject {
  spec?: {
    driver?: string;
    pool?: { name?: string; generation?: number; resourceSliceCount?: number };
    nodeName?: string;
    nodeSelector?: object;
    allNodes?: boolean;
    perDeviceNodeSelection?: boolean;
    devices?: { name?: string }[];
  };
}

type Errors = FieldError[];

const GROUP = { group: 'resource.k8s.io', version: 'v1', categories: [], shortNames: [] } as const;
/** resource/v1's limits. */
const MAX = {
  requests: 32,
  subrequests: 8,
  selectors: 32,
  constraints: 32,
  config: 32,
  reserved: 256,
  devices: 128,
  driver: 63,
  pool: 253,
  expression: 10 * 1024,
  parameters: 10 * 1024,
};
const MODES = ['All', 'ExactCount'];
const IMMUTABLE = 'field is immutable';

const named = (value: string | undefined, at: string, check: (v: string) => string[]): Errors =>
  value ? check(value).map((e) => invalid(at, value, e)) : [required(at)];

function driver(name: string | undefined, at: string): Errors {
  if (!name) return [required(at)];
  const long = name.length > MAX.driver ? [tooLong(at, MAX.driver)] : [];
  return [...long, ...dns1123Subdomain(name.toLowerCase()).map((e) => invalid(at, name, e))];
}

/** A list of at most so many items, each with a key of its own where `keyOf` is given. */
function items<T>(
  list: readonly T[] | undefined,
  at: string,
  max: number,
  check: (item: T, at: string) => Errors,
  keyOf?: (item: T) => string | undefined,
): Errors {
  const errors: Errors = [];
  if ((list?.length ?? 0) > max) errors.push(tooMany(at, list!.length, max));
  const seen = new Set<string>();
  list?.forEach((item, i) => {
    const key = keyOf?.(item);
    if (key !== undefined && seen.has(key)) errors.push(duplicate(`${at}[${i}]`, key));
    if (key !== undefined) seen.add(key);
    errors.push(...check(item, `${at}[${i}]`));
  });
  return errors;
}

const selectors = (list: Selector[] | undefined, at: string): Errors =>
  items(list, at, MAX.selectors, ({ cel }, f) => {
    if (!cel) return [required(`${f}.cel`)];
    if (!cel.expression) return [required(`${f}.cel.expression`)];
    return cel.expression.length > MAX.expression ? [tooLong(`${f}.cel.expression`, MAX.expression)] : [];
  });

function opaque({ opaque: o }: Config, at: string): Errors {
  if (!o) return [required(`${at}.opaque`)];
  const errors = driver(o.driver, `${at}.opaque.driver`);
  const f = `${at}.opaque.parameters`;
  if (o.parameters === undefined) errors.push(required(f));
  else if (typeof o.parameters !== 'object' || o.parameters === null || Array.isArray(o.parameters))
    errors.push(invalid(f, '<value omitted>', 'must be a valid JSON object'));
  else if (JSON.stringify(o.parameters).length > MAX.parameters) errors.push(tooLong(f, MAX.parameters));
  return errors;
}

function request(r: Request, at: string): Errors {
  const errors = named(r.deviceClassName, `${at}.deviceClassName`, dns1123Subdomain);
  errors.push(...selectors(r.selectors, `${at}.selectors`));
  const { allocationMode: mode = '', count = 0 } = r;
  if (!MODES.includes(mode)) errors.push(notSupported(`${at}.allocationMode`, mode, MODES));
  else if (mode === 'All' && count !== 0)
    errors.push(invalid(`${at}.count`, count, `must not be specified when allocationMode is '${mode}'`));
  else if (mode === 'ExactCount' && count <= 0)
    errors.push(invalid(`${at}.count`, count, 'must be greater than zero'));
  return errors;
}

const NO_REQUEST =
  "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'";

function validateClaimSpec(spec: ClaimSpec | undefined, at: string): Errors {
  const { requests = [], constraints, config } = spec?.devices ?? {};
  const f = `${at}.devices`;
  const names = new Set<string>();
  for (const r of requests) {
    names.add(r.name ?? '');
    for (const sub of r.firstAvailable ?? []) names.add(`${r.name}/${sub.name}`);
  }
  const refs = (list: string[] | undefined, g: string) =>
    items(
      list,
      `${g}.requests`,
      MAX.requests,
      (name, h) => (names.has(name) ? [] : [invalid(h, name, NO_REQUEST)]),
      (name) => name,
    );
  return [
    ...items(
      requests,
      `${f}.requests`,
      MAX.requests,
      ({ name, exactly, firstAvailable }, g) => {
        const errors = named(name, `${g}.name`, dns1123Label);
        if (!exactly && !firstAvailable?.length)
          errors.push(required(g, 'exactly one of `exactly` or `firstAvailable` is required'));
        else if (exactly && firstAvailable?.length)
          errors.push(
            invalid(
              g,
              null,
              'exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set',
            ),
          );
        else if (exactly) errors.push(...request(exactly, `${g}.exactly`));
        else
          errors.push(
            ...items(
              firstAvailable,
              `${g}.firstAvailable`,
              MAX.subrequests,
              (r, h) => [...named(r.name, `${h}.name`, dns1123Label), ...request(r, h)],
              (r) => r.name,
            ),
          );
        return errors;
      },
      (r) => r.name,
    ),
    ...items(constraints, `${f}.constraints`, MAX.constraints, (c, g) => {
      const errors = refs(c.requests, g);
      const key = (['matchAttribute', 'distinctAttribute'] as const).find((k) => c[k] !== undefined);
      if (!key)
        errors.push(
          required(
            g,
            'exactly one of "matchAttribute" or "distinctAttribute" is required, but multiple fields are set',
          ),
        );
      else if (!c[key]!.includes('/')) errors.push(invalid(`${g}.${key}`, c[key], 'must include a domain'));
      else errors.push(...qualifiedName(c[key]!).map((e) => invalid(`${g}.${key}`, c[key], e)));
      return errors;
    }),
    ...items(config, `${f}.config`, MAX.config, (c, g) => [...refs(c.requests, g), ...opaque(c, g)]),
  ];
}

function defaultClaim(spec: ClaimSpec | undefined): void {
  for (const r of spec?.devices?.requests ?? [])
    for (const one of [...(r.exactly ? [r.exactly] : []), ...(r.firstAvailable ?? [])]) {
      one.allocationMode ||= 'ExactCount';
      if (one.allocationMode === 'ExactCount') one.count ||= 1;
    }
}

const fixed = (now: unknown, before: unknown, at: string): Errors =>
  deepEqual(now, before) ? [] : [invalid(at, now, IMMUTABLE)];

/** `allocated,reserved`, as Kubernetes' printer has it. */
function stateOf({ metadata, status }: ResourceClaim): string {
  const states: string[] = [];
  if (metadata?.deletionTimestamp) states.push('deleted');
  if (!status?.allocation) return [...states, 'pending'].join(',');
  states.push('allocated');
  if (status.reservedFor?.length) states.push('reserved');
  return states.join(',');
}

const deviceOf = (d: Allocated): string => `${d.driver}/${d.pool}/${d.device}`;

function validateClaimStatus(o: ResourceClaim, old: ResourceClaim): Errors {
  const { allocation, reservedFor, devices } = o.status ?? {};
  const errors = items(
    reservedFor,
    'status.reservedFor',
    MAX.reserved,
    (r, at) => (['resource', 'name', 'uid'] as const).flatMap((k) => (r[k] ? [] : [required(`${at}.${k}`)])),
    (r) => r.uid,
  );
  const allocated = new Set((allocation?.devices?.results ?? []).map(deviceOf));
  errors.push(
    ...items(
      devices,
      'status.devices',
      Number.POSITIVE_INFINITY,
      (d, at) =>
        allocated.has(deviceOf(d))
          ? []
          : [invalid(at, deviceOf(d), 'must be an allocated device in the claim')],
      deviceOf,
    ),
  );
  if (reservedFor?.length && !allocation)
    errors.push(forbidden('status.reservedFor', 'may not be specified when `allocated` is not set'));
  const had = new Set((old.status?.reservedFor ?? []).map((r) => r.uid));
  if (allocation && o.metadata?.deletionTimestamp && reservedFor?.some((r) => !had.has(r.uid)))
    errors.push(
      forbidden(
        'status.reservedFor',
        'new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set',
      ),
    );
  if (allocation && old.status?.allocation)
    errors.push(...fixed(allocation, old.status.allocation, 'status.allocation'));
  return errors;
}

export const resourceClaims: Kind<ResourceClaim> = {
  ...GROUP,
  kind: 'ResourceClaim',
  plural: 'resourceclaims',
  keptByStatus: 'metadata',
  singular: 'resourceclaim',
  namespaced: true,
  schema: 'io.k8s.api.resource.v1.ResourceClaim',
  columns: [
    nameColumn,
    column('State', 'string', 'Whether it has its devices, and is in use.', stateOf),
    ageColumn,
  ],
  status: true,
  selectable: {},
  setDefaults(o) {
    o.spec ??= {};
    o.spec.devices ??= {};
    defaultClaim(o.spec);
  },
  prepareForCreate(o) {
    // There from the start, so that a JSON patch can add to it.
    o.status = {};
  },
  validate: (o, old) => (old ? [] : validateClaimSpec(o.spec, 'spec')),
  validateUpdate: (o, old) => fixed(o.spec, old.spec, 'spec'),
  validateStatus: validateClaimStatus,
};

export const resourceClaimTemplates: Kind<ResourceClaimTemplate> = {
  ...GROUP,
  kind: 'ResourceClaimTemplate',
  plural: 'resourceclaimtemplates',
  singular: 'resourceclaimtemplate',
  namespaced: true,
  schema: 'io.k8s.api.resource.v1.ResourceClaimTemplate',
  columns: [nameColumn, ageColumn],
  status: false,
  selectable: {},
  setDefaults(o) {
    o.spec ??= {};
    o.spec.spec ??= {};
    o.spec.spec.devices ??= {};
    defaultClaim(o.spec.spec);
  },
  validate: (o, old) => (old ? [] : validateClaimSpec(o.spec?.spec, 'spec.spec')),
  validateUpdate: (o, old) => fixed(o.spec, old.spec, 'spec'),
};

export const deviceClasses: Kind<DeviceClass> = {
  ...GROUP,
  kind: 'DeviceClass',
  plural: 'deviceclasses',
  singular: 'deviceclass',
  namespaced: false,
  generation: true,
  schema: 'io.k8s.api.resource.v1.DeviceClass',
  columns: [nameColumn, ageColumn],
  status: false,
  selectable: {},
  setDefaults(o) {
    o.spec ??= {};
  },
  validate: ({ spec }) => [
    ...selectors(spec?.selectors, 'spec.selectors'),
    ...items(spec?.config, 'spec.config', MAX.config, opaque),
  ],
};

export const resourceSlices: Kind<ResourceSlice> = {
  ...GROUP,
  kind: 'ResourceSlice',
  plural: 'resourceslices',
  singular: 'resourceslice',
  namespaced: false,
  generation: true,
  schema: 'io.k8s.api.resource.v1.ResourceSlice',
  columns: [
    nameColumn,
    column('Node', 'string', 'Where the devices are.', (o) => o.spec?.nodeName || '<unset>'),
    column('Driver', 'string', 'Who has them.', (o) => o.spec?.driver ?? ''),
    column('Pool', 'string', 'Of which this is a part.', (o) => o.spec?.pool?.name ?? ''),
    ageColumn,
  ],
  status: false,
  selectable: {
    'spec.nodeName': (o) => o.spec?.nodeName ?? '',
    'spec.driver': (o) => o.spec?.driver ?? '',
  },
  validate({ spec = {} }) {
    const errors = driver(spec.driver, 'spec.driver');
    const { name = '', generation = 0, resourceSliceCount = 0 } = spec.pool ?? {};
    if (!name) errors.push(required('spec.pool.name'));
    else if (name.length > MAX.pool) errors.push(tooLong('spec.pool.name', MAX.pool));
    if (name)
      for (const part of name.split('/'))
        errors.push(...dns1123Subdomain(part).map((e) => invalid('spec.pool.name', part, e)));
    if (generation < 0)
      errors.push(invalid('spec.pool.generation', generation, 'must be greater than or equal to zero'));
    if (resourceSliceCount <= 0)
      errors.push(invalid('spec.pool.resourceSliceCount', resourceSliceCount, 'must be greater than zero'));
    const where = (['nodeName', 'nodeSelector', 'allNodes', 'perDeviceNodeSelection'] as const).filter(
      (k) => spec[k],
    );
    const one = 'exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required';
    if (where.length === 0) errors.push(required('spec', one));
    else if (where.length > 1)
      errors.push(invalid('spec', `{${where.map((k) => `\`${k}\``).join(', ')}}`, one));
    errors.push(
      ...items(
        spec.devices,
        'spec.devices',
        MAX.devices,
        (d, at) => named(d.name, `${at}.name`, dns1123Label),
        (d) => d.name,
      ),
    );
    return errors;
  },
  validateUpdate: ({ spec = {} }, { spec: old = {} }) => [
    ...fixed(spec.driver, old.driver, 'spec.driver'),
    ...fixed(spec.pool?.name, old.pool?.name, 'spec.pool.name'),
    ...(spec.nodeName === old.nodeName ? [] : [invalid('spec.nodeName', spec.nodeName, IMMUTABLE)]),
  ],
};
