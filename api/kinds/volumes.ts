import type {
  PersistentVolume,
  PersistentVolumeClaim,
  PersistentVolumeClaimSpec,
  PersistentVolumeSpec,
} from 'kubernetes-types/core/v1.js';
import { forbidden, invalid, notSupported, required } from '../meta/field-errors.js';
import { deepEqual } from '../meta/json.js';
import { dns1123Label, dns1123Subdomain } from '../meta/names.js';
import { compareQuantity, quantity } from '../meta/quantity.js';
import { validateSelector } from '../meta/selector.js';
import { ageColumn, column, nameColumn } from './columns.js';
import type { FieldError, Kind } from './kind.js';
import { validateNodeSelectorTerm } from './pod-placement.js';
import { VOLUME_SOURCES } from './pod-volumes.js';

const each = (texts: string[], field: string, value: unknown): FieldError[] =>
  texts.map((t) => invalid(field, value, t));

/** Mode → as kubectl shows it. */
const ACCESS_MODES: Readonly<Record<string, string>> = {
  ReadWriteOnce: 'RWO',
  ReadOnlyMany: 'ROX',
  ReadWriteMany: 'RWX',
  ReadWriteOncePod: 'RWOP',
};
const RECLAIM_POLICIES = ['Delete', 'Recycle', 'Retain'];
const VOLUME_MODES = ['Block', 'Filesystem'];
export const PV_PROTECTION = 'kubernetes.io/pv-protection';
export const PVC_PROTECTION = 'kubernetes.io/pvc-protection';
/** Where the class stood before there was a field for it; still counts, and before the field. */
const CLASS_ANNOTATION = 'volume.beta.kubernetes.io/storage-class';

/** What a PersistentVolume is made of: exactly one of these. */
const SOURCES = [
  ...[
    'hostPath',
    'gcePersistentDisk',
    'awsElasticBlockStore',
    'glusterfs',
    'flocker',
    'nfs',
    'rbd',
    'quobyte',
  ],
  ...['cephfs', 'iscsi', 'cinder', 'fc', 'flexVolume', 'azureFile', 'vsphereVolume', 'photonPersistentDisk'],
  ...['portworxVolume', 'azureDisk', 'scaleIO', 'local', 'storageos', 'csi'],
] as const;

interface Classed {
  metadata?: { readonly annotations?: Readonly<Record<string, string>> };
  spec?: { readonly storageClassName?: string };
}

/** The name of the class, '' for none. */
export const volumeClass = (o: Classed): string =>
  o.metadata?.annotations?.[CLASS_ANNOTATION] ?? o.spec?.storageClassName ?? '';

/** Whether it says anything of a class at all; a claim that does not gets the default one. */
export const saysClass = (o: Classed): boolean =>
  o.metadata?.annotations?.[CLASS_ANNOTATION] !== undefined || o.spec?.storageClassName !== undefined;

const modesText = (modes: readonly string[] = []): string =>
  Object.keys(ACCESS_MODES)
    .filter((m) => modes.includes(m))
    .map((m) => ACCESS_MODES[m])
    .join(',');

function validateAccessModes(modes: readonly string[], at: string): FieldError[] {
  const known = Object.keys(ACCESS_MODES);
  const errors = modes.filter((m) => !known.includes(m)).map((m) => notSupported(at, m, known));
  if (modes.includes('ReadWriteOncePod') && modes.some((m) => m !== 'ReadWriteOncePod' && known.includes(m)))
    errors.push(forbidden(at, 'may not use ReadWriteOncePod with other access modes'));
  return errors;
}

const positive = (amount: string, at: string): FieldError[] =>
  compareQuantity(amount, '0') > 0 ? [] : [invalid(at, amount, 'must be greater than zero')];

const validClass = (name: string | undefined, at: string): FieldError[] =>
  name ? each(dns1123Subdomain(name), at, name) : [];

const validMode = (mode: string | undefined, at: string): FieldError[] =>
  mode === undefined || VOLUME_MODES.includes(mode) ? [] : [notSupported(at, mode, VOLUME_MODES)];

type Source = (typeof SOURCES)[number];

/** What the kinds of volumes that devices can use, or that are common elsewhere, must say. */
const SOURCE_RULES: Partial<Record<Source, (spec: PersistentVolumeSpec, at: string) => FieldError[]>> = {
  hostPath: (s, at) => VOLUME_SOURCES.hostPath!(s.hostPath!, at),
  local: (s, at) => {
    const path = s.local?.path ?? '';
    if (!path) return [required(`${at}.path`)];
    return path.split('/').includes('..') ? [invalid(`${at}.path`, path, "must not contain '..'")] : [];
  },
  nfs: (s, at) => [
    ...(s.nfs?.server ? [] : [required(`${at}.server`)]),
    ...(s.nfs?.path ? [] : [required(`${at}.path`)]),
    ...(s.nfs?.path && !s.nfs.path.startsWith('/')
      ? [invalid(`${at}.path`, s.nfs.path, 'must be an absolute path')]
      : []),
  ],
  csi: (s, at) => [
    ...(s.csi?.driver
      ? each(dns1123Subdomain(s.csi.driver), `${at}.driver`, s.csi.driver)
      : [required(`${at}.driver`)]),
    ...(s.csi?.volumeHandle ? [] : [required(`${at}.volumeHandle`)]),
  ],
};

/** Kubernetes' ValidatePersistentVolumeSpec. `inline`: of a VolumeAttachment. */
export function validateVolumeSpec(spec: PersistentVolumeSpec, at: string, inline = false): FieldError[] {
  const errors: FieldError[] = [];
  const modes = spec.accessModes ?? [];
  const capacity = (spec.capacity ?? {}) as Readonly<Record<string, string>>;
  if (modes.length === 0) errors.push(required(`${at}.accessModes`));
  errors.push(...validateAccessModes(modes, `${at}.accessModes`));
  if (!inline) {
    const resources = Object.keys(capacity);
    if (resources.length === 0) errors.push(required(`${at}.capacity`));
    if (resources.length !== 1 || resources[0] !== 'storage')
      errors.push(notSupported(`${at}.capacity`, capacity, ['storage']));
    for (const r of resources) errors.push(...positive(capacity[r]!, `${at}.capacity[${r}]`));
  }
  const policy = spec.persistentVolumeReclaimPolicy;
  if (policy && !RECLAIM_POLICIES.includes(policy))
    errors.push(notSupported(`${at}.persistentVolumeReclaimPolicy`, policy, RECLAIM_POLICIES));
  const affinity = spec.nodeAffinity;
  if (affinity && !affinity.required)
    errors.push(required(`${at}.nodeAffinity.required`, 'must specify required node constraints'));
  const terms = affinity?.required?.nodeSelectorTerms ?? [];
  if (affinity?.required && terms.length === 0)
    errors.push(
      required(`${at}.nodeAffinity.required.nodeSelectorTerms`, 'must have at least one node selector term'),
    );
  terms.forEach((t, i) => {
    errors.push(...validateNodeSelectorTerm(t, `${at}.nodeAffinity.required.nodeSelectorTerms[${i}]`));
  });
  const sources = SOURCES.filter((s) => spec[s] !== undefined);
  if (sources.length === 0) errors.push(required(at, 'must specify a volume type'));
  sources.forEach((s, i) => {
    if (i > 0) errors.push(forbidden(`${at}.${s}`, 'may not specify more than 1 volume type'));
    else errors.push(...(SOURCE_RULES[s]?.(spec, `${at}.${s}`) ?? []));
  });
  if (spec.local && !affinity)
    errors.push(required(`${at}.nodeAffinity`, 'Local volume requires node affinity'));
  if (spec.hostPath && /^\/+$/.test(spec.hostPath.path) && policy === 'Recycle')
    errors.push(
      forbidden(`${at}.persistentVolumeReclaimPolicy`, "may not be 'recycle' for a hostPath mount of '/'"),
    );
  errors.push(...validClass(spec.storageClassName, `${at}.storageClassName`));
  errors.push(...validMode(spec.volumeMode, `${at}.volumeMode`));
  const attributes = spec.volumeAttributesClassName;
  if (attributes !== undefined) {
    if (attributes === '')
      errors.push(required(`${at}.volumeAttributesClassName`, 'an empty string is disallowed'));
    errors.push(...validClass(attributes, `${at}.volumeAttributesClassName`));
    if (!spec.csi)
      errors.push(required(`${at}.csi`, 'has to be specified when using volumeAttributesClassName'));
  }
  return errors;
}

const sourceOf = (spec: PersistentVolumeSpec | undefined): object =>
  Object.fromEntries(SOURCES.map((s) => [s, spec?.[s]]));

/** Adds a finalizer that keeps a deleted object until nobody uses it (StorageObjectInUseProtection). */
function protect(o: PersistentVolume | PersistentVolumeClaim, finalizer: string): void {
  o.metadata ??= {};
  const { finalizers = [] } = o.metadata;
  if (!finalizers.includes(finalizer)) o.metadata.finalizers = [...finalizers, finalizer];
}

const phaseOf = (o: PersistentVolume | PersistentVolumeClaim): string =>
  o.metadata?.deletionTimestamp ? 'Terminating' : (o.status?.phase ?? '');

const storage = (amounts: unknown): string =>
  (amounts as Record<string, string> | undefined)?.['storage'] ?? '0';

type Either = PersistentVolume | PersistentVolumeClaim;
const attributesClassColumn = column<Either>(
  'VolumeAttributesClass',
  'string',
  'Its VolumeAttributesClass.',
  (o) => o.spec?.volumeAttributesClassName ?? '<unset>',
);
const modeColumn = column<Either>(
  'VolumeMode',
  'string',
  'Files or a block device.',
  (o) => o.spec?.volumeMode ?? '<unset>',
  1,
);

export const persistentVolumes: Kind<PersistentVolume> = {
  group: '',
  version: 'v1',
  kind: 'PersistentVolume',
  plural: 'persistentvolumes',
  singular: 'persistentvolume',
  shortNames: ['pv'],
  categories: [],
  namespaced: false,
  schema: 'io.k8s.api.core.v1.PersistentVolume',
  columns: [
    nameColumn,
    column('Capacity', 'string', 'How much it holds.', (o) => storage(o.spec?.capacity)),
    column('Access Modes', 'string', 'How it may be used.', (o) => modesText(o.spec?.accessModes)),
    column(
      'Reclaim Policy',
      'string',
      'What becomes of it without its claim.',
      (o) => o.spec?.persistentVolumeReclaimPolicy ?? '',
    ),
    column('Status', 'string', 'Whether it is available or bound.', phaseOf),
    column('Claim', 'string', 'The claim that it is bound to.', (o) =>
      o.spec?.claimRef ? `${o.spec.claimRef.namespace}/${o.spec.claimRef.name}` : '',
    ),
    column('StorageClass', 'string', 'Its StorageClass.', volumeClass),
    attributesClassColumn,
    column('Reason', 'string', 'One word for why.', (o) => o.status?.reason ?? ''),
    ageColumn,
    modeColumn,
  ],
  status: true,
  selectable: {},
  setDefaults(o) {
    o.spec ??= {};
    o.spec.persistentVolumeReclaimPolicy ||= 'Retain';
    o.spec.volumeMode ??= 'Filesystem';
    if (o.spec.hostPath) o.spec.hostPath.type ??= '';
  },
  prepareForCreate(o) {
    (o as { status: PersistentVolume['status'] }).status = { phase: 'Pending' };
    protect(o, PV_PROTECTION);
  },
  validate: (o) => validateVolumeSpec(o.spec!, 'spec'),
  validateUpdate: (o, old) => [
    ...(deepEqual(sourceOf(o.spec), sourceOf(old.spec))
      ? []
      : [
          forbidden('spec.persistentvolumesource', 'spec.persistentvolumesource is immutable after creation'),
        ]),
    ...(o.spec?.volumeMode === old.spec?.volumeMode
      ? []
      : [invalid('volumeMode', o.spec?.volumeMode, 'field is immutable')]),
    ...(!old.spec?.nodeAffinity || deepEqual(o.spec?.nodeAffinity, old.spec.nodeAffinity)
      ? []
      : [invalid('nodeAffinity', o.spec?.nodeAffinity, 'field is immutable')]),
  ],
};

interface Reference {
  apiGroup?: string;
  kind: string;
  name: string;
  namespace?: string;
}

function validateSource(r: Reference, at: string): FieldError[] {
  return [
    ...(r.name ? [] : [required(`${at}.name`)]),
    ...(r.kind ? [] : [required(`${at}.kind`)]),
    ...(!r.apiGroup && r.kind !== 'PersistentVolumeClaim'
      ? [invalid(at, r.kind, "must be 'PersistentVolumeClaim' when referencing the default apiGroup")]
      : []),
    ...(r.apiGroup ? each(dns1123Subdomain(r.apiGroup), `${at}.apiGroup`, r.apiGroup) : []),
    ...(r.namespace ? each(dns1123Label(r.namespace), `${at}.namespace`, r.namespace) : []),
  ];
}

/** Of a claim, or of the template of one. */
export function validateClaimSpec(spec: PersistentVolumeClaimSpec, at: string): FieldError[] {
  const errors: FieldError[] = [];
  const modes = spec.accessModes ?? [];
  if (modes.length === 0) errors.push(required(`${at}.accessModes`, 'at least 1 access mode is required'));
  if (spec.selector) errors.push(...validateSelector(spec.selector, `${at}.selector`));
  errors.push(...validateAccessModes(modes, `${at}.accessModes`));
  const amount = (spec.resources?.requests as Record<string, string> | undefined)?.['storage'];
  if (amount === undefined) errors.push(required(`${at}.resources[storage]`));
  else errors.push(...positive(amount, `${at}.resources[storage]`));
  errors.push(...validClass(spec.storageClassName, `${at}.storageClassName`));
  errors.push(...validMode(spec.volumeMode, `${at}.volumeMode`));
  const { dataSource, dataSourceRef } = spec;
  if (dataSource) errors.push(...validateSource(dataSource, `${at}.dataSource`));
  if (dataSourceRef) errors.push(...validateSource(dataSourceRef, `${at}.dataSourceRef`));
  if (dataSource && dataSourceRef?.namespace)
    errors.push(
      invalid(at, `${at}.dataSource`, 'may not be specified when dataSourceRef.namespace is specified'),
    );
  else if (dataSource && dataSourceRef && !deepEqual({ ...dataSource }, { ...dataSourceRef }))
    errors.push(invalid(at, `${at}.dataSource`, 'must match dataSourceRef'));
  errors.push(...validClass(spec.volumeAttributesClassName, `${at}.volumeAttributesClassName`));
  return errors;
}

/** What may change of a claim: its volume and class once, when it has none; how much it asks for, when it is bound. */
function validateClaimChange(o: PersistentVolumeClaim, old: PersistentVolumeClaim): FieldError[] {
  const errors: FieldError[] = [];
  const now = { ...o.spec! };
  const before = { ...old.spec! };
  if (!before.volumeName) delete now.volumeName;
  if (!before.volumeName) delete before.volumeName;
  if (before.storageClassName === undefined) delete now.storageClassName;
  if (old.status?.phase === 'Bound') {
    delete now.volumeAttributesClassName;
    delete before.volumeAttributesClassName;
    now.resources = { ...now.resources, requests: before.resources?.requests };
    before.resources = { ...before.resources, requests: before.resources?.requests };
  }
  if (!deepEqual(now, before)) {
    const changed = [...new Set([...Object.keys(now), ...Object.keys(before)])].filter(
      (k) => !deepEqual(now[k as keyof typeof now], before[k as keyof typeof before]),
    );
    const line = (sign: string, spec: object, k: string) =>
      `${sign} \t${k}: ${JSON.stringify((spec as Record<string, unknown>)[k]) ?? 'nil'},`;
    const diff = changed.flatMap((k) => [line('-', before, k), line('+', now, k)]).join('\n');
    errors.push(
      forbidden(
        'spec',
        `spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims\n${diff}\n`,
      ),
    );
  }
  const size = (spec: PersistentVolumeClaimSpec | undefined) => quantity(storage(spec?.resources?.requests));
  if (size(o.spec) < size(old.spec) && size(o.spec) <= quantity(storage(old.status?.capacity)))
    errors.push(forbidden('spec.resources.requests.storage', 'field can not be less than status.capacity'));
  if (o.spec?.volumeMode !== old.spec?.volumeMode)
    errors.push(invalid('volumeMode', o.spec?.volumeMode, 'field is immutable'));
  return errors;
}

export const persistentVolumeClaims: Kind<PersistentVolumeClaim> = {
  group: '',
  version: 'v1',
  kind: 'PersistentVolumeClaim',
  plural: 'persistentvolumeclaims',
  singular: 'persistentvolumeclaim',
  shortNames: ['pvc'],
  categories: [],
  namespaced: true,
  schema: 'io.k8s.api.core.v1.PersistentVolumeClaim',
  columns: [
    nameColumn,
    column('Status', 'string', 'Whether it is bound.', phaseOf),
    column('Volume', 'string', 'The volume that it is bound to.', (o) => o.spec?.volumeName ?? ''),
    column('Capacity', 'string', 'How much it has.', (o) =>
      o.spec?.volumeName ? storage(o.status?.capacity) : '',
    ),
    column('Access Modes', 'string', 'How it may be used.', (o) =>
      o.spec?.volumeName ? modesText(o.status?.accessModes) : '',
    ),
    column('StorageClass', 'string', 'Its StorageClass.', volumeClass),
    attributesClassColumn,
    ageColumn,
    modeColumn,
  ],
  status: true,
  selectable: {},
  setDefaults(o) {
    o.spec ??= {};
    o.spec.volumeMode ??= 'Filesystem';
    const { dataSource, dataSourceRef } = o.spec;
    if (dataSource && !dataSourceRef) o.spec.dataSourceRef = { ...dataSource };
    else if (dataSourceRef && !dataSource && !dataSourceRef.namespace) {
      const { namespace: _, ...local } = dataSourceRef;
      o.spec.dataSource = local;
    }
  },
  prepareForCreate(o) {
    (o as { status: PersistentVolumeClaim['status'] }).status = { phase: 'Pending' };
    protect(o, PVC_PROTECTION);
  },
  validate: (o) => validateClaimSpec(o.spec!, 'spec'),
  validateUpdate: validateClaimChange,
};
