import type {
  Deployment,
  DeploymentSpec,
  ReplicaSet,
  ReplicaSetSpec,
  RollingUpdateDeployment,
} from 'kubernetes-types/apps/v1.js';
import { forbidden, invalid, notSupported } from '../meta/field-errors.js';
import { ageColumn, column, nameColumn, replicaColumns, templateColumns } from './columns.js';
import type { FieldError, Kind } from './kind.js';
import {
  amount,
  atLeastZero,
  defaultTemplate,
  immutable,
  notMoreThanAll,
  SCALE,
  validateIntOrPercent,
  validateSelectedTemplate,
} from './pod-template.js';

const immutableSelector = immutable('selector');

function defaultTemplateOwner(spec: DeploymentSpec | ReplicaSetSpec): void {
  spec.replicas ??= 1;
  defaultTemplate(spec);
}

const validateTemplateOwner = (spec: DeploymentSpec | ReplicaSetSpec): FieldError[] => [
  ...atLeastZero(spec.replicas, 'spec.replicas'),
  ...atLeastZero(spec.minReadySeconds, 'spec.minReadySeconds'),
  ...validateSelectedTemplate(spec, 'deployment', 'ReplicaSet'),
];

function validateRollingUpdate(r: RollingUpdateDeployment | undefined, at: string): FieldError[] {
  const { maxUnavailable, maxSurge } = r ?? {};
  const errors = [
    ...validateIntOrPercent(maxUnavailable, `${at}.maxUnavailable`),
    ...validateIntOrPercent(maxSurge, `${at}.maxSurge`),
  ];
  if (errors.length) return errors;
  if (amount(maxUnavailable) === 0 && amount(maxSurge) === 0)
    errors.push(invalid(`${at}.maxUnavailable`, maxUnavailable, 'may not be 0 when `maxSurge` is 0'));
  return [...errors, ...notMoreThanAll(maxUnavailable, `${at}.maxUnavailable`)];
}

const STRATEGIES = ['Recreate', 'RollingUpdate'];

function validateDeployment(o: Deployment): FieldError[] {
  const spec = o.spec!;
  const errors = validateTemplateOwner(spec);
  const { strategy } = spec;
  const at = 'spec.strategy';
  if (!STRATEGIES.includes(strategy?.type ?? ''))
    errors.push(notSupported(`${at}.type`, strategy?.type ?? '', STRATEGIES));
  else if (strategy?.type === 'RollingUpdate')
    errors.push(...validateRollingUpdate(strategy.rollingUpdate, `${at}.rollingUpdate`));
  else if (strategy?.rollingUpdate)
    errors.push(forbidden(`${at}.rollingUpdate`, "may not be specified when strategy `type` is 'Recreate'"));
  errors.push(...atLeastZero(spec.revisionHistoryLimit, 'spec.revisionHistoryLimit'));
  const deadline = spec.progressDeadlineSeconds;
  errors.push(...atLeastZero(deadline, 'spec.progressDeadlineSeconds'));
  if (deadline !== undefined && deadline <= (spec.minReadySeconds ?? 0))
    errors.push(invalid('spec.progressDeadlineSeconds', deadline, 'must be greater than minReadySeconds'));
  return errors;
}

export const deployments: Kind<Deployment> = {
  group: 'apps',
  version: 'v1',
  kind: 'Deployment',
  plural: 'deployments',
  keptByStatus: 'labels',
  singular: 'deployment',
  shortNames: ['deploy'],
  categories: ['all'],
  namespaced: true,
  schema: 'io.k8s.api.apps.v1.Deployment',
  columns: [
    nameColumn,
    column(
      'Ready',
      'string',
      'Ready pods of those wanted.',
      (o) => `${o.status?.readyReplicas ?? 0}/${o.spec?.replicas ?? 0}`,
    ),
    column('Up-to-date', 'string', 'Pods of the newest template.', (o) => o.status?.updatedReplicas ?? 0),
    column('Available', 'string', 'Pods that are available.', (o) => o.status?.availableReplicas ?? 0),
    ageColumn,
    ...templateColumns,
  ],
  status: true,
  generation: true,
  scale: SCALE,
  selectable: {},
  setDefaults(o) {
    o.spec ??= {} as DeploymentSpec;
    const { spec } = o;
    defaultTemplateOwner(spec);
    spec.strategy ??= {};
    spec.strategy.type ||= 'RollingUpdate';
    if (spec.strategy.type === 'RollingUpdate') {
      spec.strategy.rollingUpdate ??= {};
      spec.strategy.rollingUpdate.maxUnavailable ??= '25%';
      spec.strategy.rollingUpdate.maxSurge ??= '25%';
    }
    spec.revisionHistoryLimit ??= 10;
    spec.progressDeadlineSeconds ??= 600;
  },
  prepareForCreate(o) {
    o.status = {};
  },
  validate: validateDeployment,
  validateUpdate: immutableSelector,
};

export const replicaSets: Kind<ReplicaSet> = {
  group: 'apps',
  version: 'v1',
  kind: 'ReplicaSet',
  plural: 'replicasets',
  singular: 'replicaset',
  shortNames: ['rs'],
  categories: ['all'],
  namespaced: true,
  schema: 'io.k8s.api.apps.v1.ReplicaSet',
  columns: [nameColumn, ...replicaColumns, ageColumn, ...templateColumns],
  status: true,
  generation: true,
  scale: SCALE,
  selectable: { 'status.replicas': (o) => String(o.status?.replicas ?? 0) },
  setDefaults(o) {
    o.spec ??= {} as ReplicaSetSpec;
    defaultTemplateOwner(o.spec);
  },
  prepareForCreate(o) {
    (o as { status: ReplicaSet['status'] }).status = { replicas: 0 };
  },
  validate: (o) => validateTemplateOwner(o.spec!),
  validateUpdate: immutableSelector,
};
