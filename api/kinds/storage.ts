import type {
  CSIDriver,
  CSINode,
  CSIStorageCapacity,
  StorageClass,
  VolumeAttachment,
} from 'kubernetes-types/storage/v1.js';
import { duplicate, forbidden, invalid, notSupported, required, tooLong } from '../meta/field-errors.js';
import { deepEqual } from '../meta/json.js';
import { dns1123Subdomain, qualifiedName } from '../meta/names.js';
import type { KubeObject } from '../meta/object.js';
import { compareQuantity } from '../meta/quantity.js';
import { validateSelector } from '../meta/selector.js';
import { ageColumn, column, nameColumn } from './columns.js';
import type { FieldError, Kind } from './kind.js';
import { validateVolumeSpec } from './volumes.js';

/** Newer than the package that has the other types. */
export interface VolumeAttributesClass extends KubeObject {
  driverName: string;
  parameters?: Readonly<Record<string, string>>;
}

const GROUP = { group: 'storage.k8s.io', version: 'v1', categories: [], shortNames: [] } as const;
export const DEFAULT_STORAGE_CLASS = 'storageclass.kubernetes.io/is-default-class';
const OLD_DEFAULT = 'storageclass.beta.kubernetes.io/is-default-class';
const RECLAIM_POLICIES = ['Delete', 'Retain'];
const BINDING_MODES = ['Immediate', 'WaitForFirstConsumer'];
const FS_GROUP_POLICIES = ['File', 'None', 'ReadWriteOnceWithFSType'];
const LIFECYCLES = ['Ephemeral', 'Persistent'];
const MAX_PARAMETERS = 512;
const MAX_TEXT = 256 * 1024;
const MAX_MESSAGE = 1024;
const MAX_DRIVER_NAME = 63;
const MAX_NODE_ID = 256;

const each = (texts: string[], field: string, value: unknown): FieldError[] =>
  texts.map((t) => invalid(field, value, t));

const fixed = <T extends object>(o: T, old: T, fields: readonly (keyof T & string)[]): FieldError[] =>
  fields.filter((f) => !deepEqual(o[f], old[f])).map((f) => invalid(f, o[f], 'field is immutable'));

const provisioner = (name: string | undefined, at: string): FieldError[] =>
  name ? each(qualifiedName(name.toLowerCase()), at, name.toLowerCase()) : [required(at)];

function parameters(p: Readonly<Record<string, string>> = {}): FieldError[] {
  const all = Object.entries(p);
  if (all.length > MAX_PARAMETERS) return [tooLong('parameters', MAX_PARAMETERS)];
  const size = all.reduce((n, [k, v]) => n + k.length + v.length, 0);
  return [
    ...('' in p ? [invalid('parameters', '', 'field can not be empty.')] : []),
    ...(size > MAX_TEXT ? [tooLong('parameters', MAX_TEXT)] : []),
  ];
}

function driverName(name: string | undefined, at: string): FieldError[] {
  if (!name) return [required(at)];
  return [
    ...(name.length > MAX_DRIVER_NAME ? [tooLong(at, MAX_DRIVER_NAME)] : []),
    ...each(dns1123Subdomain(name.toLowerCase()), at, name),
  ];
}

export const isDefaultStorageClass = (o: {
  readonly metadata?: { readonly annotations?: Readonly<Record<string, string>> };
}): boolean => [DEFAULT_STORAGE_CLASS, OLD_DEFAULT].some((a) => o.metadata?.annotations?.[a] === 'true');

export const storageClasses: Kind<StorageClass> = {
  ...GROUP,
  kind: 'StorageClass',
  plural: 'storageclasses',
  singular: 'storageclass',
  shortNames: ['sc'],
  namespaced: false,
  schema: 'io.k8s.api.storage.v1.StorageClass',
  columns: [
    {
      ...nameColumn,
      value: (o) => `${o.metadata?.name ?? ''}${isDefaultStorageClass(o) ? ' (default)' : ''}`,
    },
    column('Provisioner', 'string', 'Who makes its volumes.', (o) => o.provisioner ?? ''),
    column(
      'ReclaimPolicy',
      'string',
      'What becomes of volumes without their claim.',
      (o) => o.reclaimPolicy ?? 'Delete',
    ),
    column(
      'VolumeBindingMode',
      'string',
      'When claims are bound.',
      (o) => o.volumeBindingMode ?? 'Immediate',
    ),
    column(
      'AllowVolumeExpansion',
      'string',
      'Whether volumes can grow.',
      (o) => o.allowVolumeExpansion ?? false,
    ),
    ageColumn,
  ],
  status: false,
  selectable: {},
  setDefaults(o) {
    o.reclaimPolicy ??= 'Delete';
    o.volumeBindingMode ??= 'Immediate';
  },
  validate: (o) => [
    ...provisioner(o.provisioner, 'provisioner'),
    ...parameters(o.parameters),
    ...(o.reclaimPolicy && !RECLAIM_POLICIES.includes(o.reclaimPolicy)
      ? [notSupported('reclaimPolicy', o.reclaimPolicy, RECLAIM_POLICIES)]
      : []),
    ...(BINDING_MODES.includes(o.volumeBindingMode ?? '')
      ? []
      : [notSupported('volumeBindingMode', o.volumeBindingMode, BINDING_MODES)]),
    ...(o.allowedTopologies ?? []).flatMap((t, i) =>
      (t.matchLabelExpressions ?? []).flatMap(({ key, values }, j) => {
        const at = `allowedTopologies[${i}].matchLabelExpressions[${j}]`;
        return [
          ...each(qualifiedName(key), `${at}.key`, key),
          ...(values?.length ? [] : [required(`${at}.values`)]),
        ];
      }),
    ),
  ],
  validateUpdate: (o, old) =>
    fixed(o, old, ['parameters', 'provisioner', 'reclaimPolicy', 'volumeBindingMode']),
};

export const volumeAttributesClasses: Kind<VolumeAttributesClass> = {
  ...GROUP,
  kind: 'VolumeAttributesClass',
  plural: 'volumeattributesclasses',
  singular: 'volumeattributesclass',
  shortNames: ['vac'],
  namespaced: false,
  schema: 'io.k8s.api.storage.v1.VolumeAttributesClass',
  columns: [
    nameColumn,
    column('DriverName', 'string', 'Whose volumes.', (o) => o.driverName ?? ''),
    ageColumn,
  ],
  status: false,
  selectable: {},
  validate: (o) => [
    ...provisioner(o.driverName, 'driverName'),
    ...parameters(o.parameters),
    ...(Object.keys(o.parameters ?? {}).length
      ? []
      : [required('parameters', 'must contain at least one key/value pair')]),
  ],
  validateUpdate: (o, old) =>
    (['driverName', 'parameters'] as const)
      .filter((f) => !deepEqual(o[f], old[f]))
      .map((f) => forbidden(f, `updates to ${f} are forbidden.`)),
};

export const volumeAttachments: Kind<VolumeAttachment> = {
  ...GROUP,
  kind: 'VolumeAttachment',
  plural: 'volumeattachments',
  keptByStatus: 'metadata',
  singular: 'volumeattachment',
  namespaced: false,
  updateNeedsVersion: true,
  schema: 'io.k8s.api.storage.v1.VolumeAttachment',
  columns: [
    nameColumn,
    column('Attacher', 'string', 'The CSI driver.', (o) => o.spec?.attacher ?? ''),
    column('PV', 'string', 'The volume.', (o) => o.spec?.source?.persistentVolumeName ?? ''),
    column('Node', 'string', 'Where to attach it.', (o) => o.spec?.nodeName ?? ''),
    column('Attached', 'boolean', 'Whether it is attached.', (o) => o.status?.attached ?? false),
    ageColumn,
  ],
  status: true,
  selectable: {
    'spec.attacher': (o) => o.spec?.attacher ?? '',
    'spec.nodeName': (o) => o.spec?.nodeName ?? '',
  },
  prepareForCreate(o) {
    (o as { status: VolumeAttachment['status'] }).status = { attached: false };
  },
  validate({ spec }) {
    const errors = driverName(spec?.attacher, 'spec.attacher');
    const { persistentVolumeName: name, inlineVolumeSpec: inline } = spec?.source ?? {};
    const one = 'must specify exactly one of inlineVolumeSpec and persistentVolumeName';
    if (name === undefined && !inline) errors.push(required('spec.source', one));
    else if (name !== undefined && inline) errors.push(forbidden('spec.source', one));
    else if (inline) errors.push(...validateVolumeSpec(inline, 'spec.source.inlineVolumeSpec', true));
    else if (!name)
      errors.push(
        required('spec.source.persistentVolumeName', 'must specify non empty persistentVolumeName'),
      );
    else errors.push(...each(dns1123Subdomain(name), 'spec.source.persistentVolumeName', name));
    errors.push(...each(dns1123Subdomain(spec?.nodeName ?? ''), 'spec.nodeName', spec?.nodeName ?? ''));
    return errors;
  },
  validateUpdate: (o, old) => fixed(o, old, ['spec']),
  validateStatus: ({ status }) =>
    (['attachError', 'detachError'] as const)
      .filter((e) => (status?.[e]?.message?.length ?? 0) > MAX_MESSAGE)
      .map((e) => tooLong(`status.${e}.message`, MAX_MESSAGE)),
};

export const csiDrivers: Kind<CSIDriver> = {
  ...GROUP,
  kind: 'CSIDriver',
  plural: 'csidrivers',
  singular: 'csidriver',
  namespaced: false,
  updateNeedsVersion: true,
  schema: 'io.k8s.api.storage.v1.CSIDriver',
  columns: [
    nameColumn,
    column('AttachRequired', 'boolean', 'Volumes are attached first.', (o) => o.spec?.attachRequired ?? true),
    column('PodInfoOnMount', 'boolean', 'It is told of the pod.', (o) => o.spec?.podInfoOnMount ?? false),
    column(
      'StorageCapacity',
      'boolean',
      'It tells how much is left.',
      (o) => o.spec?.storageCapacity ?? false,
    ),
    column('TokenRequests', 'string', 'Audiences of tokens that it gets.', (o) =>
      o.spec?.tokenRequests ? o.spec.tokenRequests.map((t) => t.audience).join(',') : '<unset>',
    ),
    column(
      'RequiresRepublish',
      'boolean',
      'It is asked again and again.',
      (o) => o.spec?.requiresRepublish ?? false,
    ),
    column(
      'Modes',
      'string',
      'For which volumes it is.',
      (o) => o.spec?.volumeLifecycleModes?.join(',') || '<none>',
    ),
    ageColumn,
  ],
  status: false,
  generation: true,
  selectable: {},
  setDefaults(o) {
    o.spec ??= {};
    const { spec } = o;
    spec.attachRequired ??= true;
    spec.podInfoOnMount ??= false;
    spec.storageCapacity ??= false;
    spec.fsGroupPolicy ??= 'ReadWriteOnceWithFSType';
    if (!spec.volumeLifecycleModes?.length) spec.volumeLifecycleModes = ['Persistent'];
    spec.requiresRepublish ??= false;
    spec.seLinuxMount ??= false;
  },
  validName: (name) => driverName(name, '').map((e) => e.message.replace(/^Invalid value: "[^"]*": /, '')),
  validate({ spec = {} }) {
    const errors: FieldError[] = [];
    if (!FS_GROUP_POLICIES.includes(spec.fsGroupPolicy ?? ''))
      errors.push(notSupported('spec.fsGroupPolicy', spec.fsGroupPolicy, FS_GROUP_POLICIES));
    const audiences = new Set<string>();
    (spec.tokenRequests ?? []).forEach(({ audience, expirationSeconds: seconds }, i) => {
      const at = `spec.tokenRequests[${i}]`;
      if (audiences.has(audience)) errors.push(duplicate(`${at}.audience`, audience));
      audiences.add(audience);
      if (seconds !== undefined && seconds < 600)
        errors.push(
          invalid(`${at}.expirationSeconds`, seconds, 'may not specify a duration less than 10 minutes'),
        );
      if (seconds !== undefined && seconds > 2 ** 32)
        errors.push(
          invalid(`${at}.expirationSeconds`, seconds, 'may not specify a duration larger than 2^32 seconds'),
        );
    });
    for (const m of spec.volumeLifecycleModes ?? [])
      if (!LIFECYCLES.includes(m)) errors.push(notSupported('spec.volumeLifecycleModes', m, LIFECYCLES));
    return errors;
  },
  validateUpdate: (o, old) => [
    ...(o.spec.attachRequired === old.spec.attachRequired
      ? []
      : [invalid('spec.attachedRequired', o.spec.attachRequired, 'field is immutable')]),
    ...(deepEqual(o.spec.volumeLifecycleModes, old.spec.volumeLifecycleModes)
      ? []
      : [invalid('spec.volumeLifecycleModes', o.spec.volumeLifecycleModes, 'field is immutable')]),
  ],
};

export const csiNodes: Kind<CSINode> = {
  ...GROUP,
  kind: 'CSINode',
  plural: 'csinodes',
  singular: 'csinode',
  namespaced: false,
  updateNeedsVersion: true,
  schema: 'io.k8s.api.storage.v1.CSINode',
  columns: [
    nameColumn,
    column('Drivers', 'integer', 'CSI drivers on the node.', (o) => o.spec?.drivers?.length ?? 0),
    ageColumn,
  ],
  status: false,
  selectable: {},
  setDefaults(o) {
    o.spec ??= { drivers: [] };
    o.spec.drivers ??= [];
  },
  validate({ spec }) {
    const names = new Set<string>();
    return spec.drivers.flatMap((d, i) => {
      const at = `spec.drivers[${i}]`;
      const errors = driverName(d.name, `${at}.name`);
      if (!d.nodeID) errors.push(required(`${at}.nodeID`));
      else if (d.nodeID.length > MAX_NODE_ID)
        errors.push(invalid(`${at}.nodeID`, d.nodeID, `must be ${MAX_NODE_ID} characters or less`));
      const count = d.allocatable?.count;
      if (count !== undefined && count < 0)
        errors.push(invalid(`${at}.allocatable.count`, count, 'must be greater than or equal to 0'));
      if (names.has(d.name)) errors.push(duplicate(`${at}.name`, d.name));
      names.add(d.name);
      const keys = new Set<string>();
      for (const key of d.topologyKeys ?? []) {
        if (!key) errors.push(required(`${at}.topologyKeys`));
        if (keys.has(key)) errors.push(duplicate(`${at}.topologyKeys`, key));
        keys.add(key);
        errors.push(...each(qualifiedName(key), `${at}.topologyKeys`, key));
      }
      return errors;
    });
  },
  validateUpdate: (o, old) =>
    o.spec.drivers.flatMap((d) => {
      const before = old.spec.drivers.find((b) => b.name === d.name);
      const same = !before || deepEqual({ ...d, allocatable: 0 }, { ...before, allocatable: 0 });
      return same ? [] : [invalid('spec.drivers', d, 'field is immutable')];
    }),
};

export const csiStorageCapacities: Kind<CSIStorageCapacity> = {
  ...GROUP,
  kind: 'CSIStorageCapacity',
  plural: 'csistoragecapacities',
  singular: 'csistoragecapacity',
  namespaced: true,
  updateNeedsVersion: true,
  schema: 'io.k8s.api.storage.v1.CSIStorageCapacity',
  columns: [
    nameColumn,
    column('StorageClassName', 'string', 'For volumes of this class.', (o) => o.storageClassName ?? ''),
    column('Capacity', 'string', 'How much is left.', (o) => o.capacity ?? '<unset>'),
  ],
  status: false,
  selectable: {},
  validate: (o) => [
    ...(o.nodeTopology ? validateSelector(o.nodeTopology, 'nodeTopology') : []),
    ...each(dns1123Subdomain(o.storageClassName ?? ''), 'storageClassName', o.storageClassName ?? ''),
    ...(['capacity', 'maximumVolumeSize'] as const).flatMap((f) => {
      const amount = o[f] as string | undefined;
      return amount !== undefined && compareQuantity(amount, '0') < 0
        ? [invalid(f, amount, 'must be greater than or equal to 0')]
        : [];
    }),
  ],
  validateUpdate: (o, old) => fixed(o, old, ['nodeTopology', 'storageClassName']),
};
