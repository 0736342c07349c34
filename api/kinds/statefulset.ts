import type { StatefulSet, StatefulSetSpec } from 'kubernetes-types/apps/v1.js';
import type { PersistentVolumeClaim, PodTemplateSpec } from 'kubernetes-types/core/v1.js';
import { forbidden, invalid, notSupported, required } from '../meta/field-errors.js';
import { deepEqual } from '../meta/json.js';
import { dns1123Label } from '../meta/names.js';
import { ageColumn, column, nameColumn, templateColumns } from './columns.js';
import type { FieldError, Kind } from './kind.js';
import {
  amount,
  atLeastZero,
  defaultTemplate,
  notMoreThanAll,
  SCALE,
  validateEndless,
  validateIntOrPercent,
  validateSelected,
  validateTemplate,
} from './pod-template.js';

/** Members newer than the published types. */
export type StatefulSpec = Omit<StatefulSetSpec, 'updateStrategy'> & {
  updateStrategy?: {
    type?: string;
    rollingUpdate?: { partition?: number; maxUnavailable?: number | string };
  };
  persistentVolumeClaimRetentionPolicy?: { whenDeleted?: string; whenScaled?: string };
  ordinals?: { start?: number };
};

const POLICIES = ['OrderedReady', 'Parallel'];
const STRATEGIES = ['RollingUpdate', 'OnDelete'];
const RETENTION = ['Delete', 'Retain'];

function defaultClaim(c: PersistentVolumeClaim): void {
  const claim = c as { apiVersion?: string; kind?: string; spec?: { volumeMode?: string }; status?: object };
  claim.apiVersion ||= 'v1';
  claim.kind ||= 'PersistentVolumeClaim';
  claim.spec ??= {};
  claim.spec.volumeMode ||= 'Filesystem';
  claim.status = { phase: 'Pending' };
}

function setDefaults(o: StatefulSet): void {
  o.spec ??= {} as StatefulSetSpec;
  const spec = o.spec as StatefulSpec;
  defaultTemplate(spec);
  spec.replicas ??= 1;
  spec.podManagementPolicy ||= 'OrderedReady';
  spec.updateStrategy ??= {};
  const strategy = spec.updateStrategy;
  if (!strategy.type) {
    strategy.type = 'RollingUpdate';
    strategy.rollingUpdate ??= {};
  }
  if (strategy.type === 'RollingUpdate' && strategy.rollingUpdate) strategy.rollingUpdate.partition ??= 0;
  spec.persistentVolumeClaimRetentionPolicy ??= {};
  spec.persistentVolumeClaimRetentionPolicy.whenDeleted ||= 'Retain';
  spec.persistentVolumeClaimRetentionPolicy.whenScaled ||= 'Retain';
  spec.revisionHistoryLimit ??= 10;
  for (const c of spec.volumeClaimTemplates ?? []) defaultClaim(c);
}

function validateStrategy(strategy: StatefulSpec['updateStrategy'], at: string): FieldError[] {
  const { type, rollingUpdate: r } = strategy ?? {};
  const f = `${at}.rollingUpdate`;
  if (!type) return [required(at)];
  if (!STRATEGIES.includes(type)) return [invalid(at, strategy, "must be 'RollingUpdate' or 'OnDelete'")];
  if (!r) return [];
  if (type === 'OnDelete') return [invalid(f, r, "only allowed for updateStrategy 'RollingUpdate'")];
  return [
    ...atLeastZero(r.partition, `${f}.partition`),
    ...(r.maxUnavailable === undefined ? [] : validateIntOrPercent(r.maxUnavailable, `${f}.maxUnavailable`)),
    ...(amount(r.maxUnavailable) === 0
      ? [invalid(`${f}.maxUnavailable`, r.maxUnavailable, 'cannot be 0')]
      : []),
    ...notMoreThanAll(r.maxUnavailable, `${f}.maxUnavailable`),
  ];
}

/** The template as its pods will have it: with a volume for each claim, and hostname and subdomain from the set. */
function completed(spec: StatefulSpec): PodTemplateSpec {
  const { hostname: _h, subdomain: _s, ...pod } = spec.template.spec!;
  const names = (spec.volumeClaimTemplates ?? []).map((c) => c.metadata?.name ?? '');
  const claims = names.map((name) => ({ name, persistentVolumeClaim: { claimName: name } }));
  const volumes = [...claims, ...(pod.volumes ?? []).filter((v) => !names.includes(v.name))];
  return { ...spec.template, spec: volumes.length ? { ...pod, volumes } : pod };
}

function validateClaims(claims: readonly PersistentVolumeClaim[] | undefined, at: string): FieldError[] {
  return (claims ?? []).flatMap((c, i) => {
    const f = `${at}[${i}].spec`;
    const errors: FieldError[] = [];
    if (!c.spec?.accessModes?.length)
      errors.push(required(`${f}.accessModes`, 'at least 1 access mode is required'));
    if (c.spec?.resources?.requests?.['storage'] === undefined)
      errors.push(required(`${f}.resources[storage]`));
    return errors;
  });
}

const retention = (v: string | undefined, at: string): FieldError[] =>
  RETENTION.includes(v ?? '') ? [] : [notSupported(at, v ?? '', RETENTION)];

function validate(o: StatefulSet, old?: StatefulSet): FieldError[] {
  const spec = o.spec as StatefulSpec;
  const policy = spec.podManagementPolicy!;
  const kept = spec.persistentVolumeClaimRetentionPolicy;
  return [
    ...(POLICIES.includes(policy)
      ? []
      : [invalid('spec.podManagementPolicy', policy, "must be 'OrderedReady' or 'Parallel'")]),
    ...validateStrategy(spec.updateStrategy, 'spec.updateStrategy'),
    ...retention(kept?.whenDeleted, 'spec.persistentVolumeClaimRetentionPolicy.whenDeleted'),
    ...retention(kept?.whenScaled, 'spec.persistentVolumeClaimRetentionPolicy.whenScaled'),
    // Neither can change any more: what is stored is put up with.
    ...(old ? [] : validateClaims(spec.volumeClaimTemplates, 'spec.volumeClaimTemplates')),
    ...atLeastZero(spec.replicas, 'spec.replicas'),
    ...atLeastZero(spec.minReadySeconds, 'spec.minReadySeconds'),
    ...atLeastZero(spec.ordinals?.start, 'spec.ordinals.start'),
    ...(old || !spec.serviceName
      ? []
      : dns1123Label(spec.serviceName).map((e) => invalid('spec.serviceName', spec.serviceName, e))),
    ...validateSelected(spec.selector, spec.template, 'statefulset'),
    ...validateTemplate(completed(spec), 'spec.template'),
    ...validateEndless(spec.template, 'StatefulSet'),
  ];
}

const CHANGEABLE = [
  'replicas',
  'ordinals',
  'template',
  'updateStrategy',
  'revisionHistoryLimit',
  'persistentVolumeClaimRetentionPolicy',
  'minReadySeconds',
];

function validateUpdate(o: StatefulSet, old: StatefulSet): FieldError[] {
  const fixed = (spec: object | undefined) =>
    Object.fromEntries(Object.entries(spec ?? {}).filter(([k]) => !CHANGEABLE.includes(k)));
  return deepEqual(fixed(o.spec), fixed(old.spec))
    ? []
    : [
        forbidden(
          'spec',
          "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden",
        ),
      ];
}

export const statefulSets: Kind<StatefulSet> = {
  group: 'apps',
  version: 'v1',
  kind: 'StatefulSet',
  plural: 'statefulsets',
  singular: 'statefulset',
  shortNames: ['sts'],
  categories: ['all'],
  namespaced: true,
  schema: 'io.k8s.api.apps.v1.StatefulSet',
  columns: [
    nameColumn,
    column(
      'Ready',
      'string',
      'Number of the pod with ready state',
      (o) => `${o.status?.readyReplicas ?? 0}/${o.spec?.replicas ?? 0}`,
    ),
    ageColumn,
    ...templateColumns.slice(0, 2),
  ],
  status: true,
  generation: true,
  scale: SCALE,
  selectable: {},
  validName: dns1123Label,
  setDefaults,
  prepareForCreate(o) {
    (o as { status: object }).status = { replicas: 0, availableReplicas: 0 };
  },
  validate,
  validateUpdate,
};
