import type {
  Deployment,
  DeploymentSpec,
  ReplicaSet,
  ReplicaSetSpec,
  RollingUpdateDeployment,
} from 'kubernetes-types/apps/v1.js';
import type { PodTemplateSpec } from 'kubernetes-types/core/v1.js';
import type { LabelSelector } from 'kubernetes-types/meta/v1.js';
import { forbidden, invalid, notSupported, required } from '../meta/field-errors.js';
import { deepEqual } from '../meta/json.js';
import { validateAnnotations, validateLabels } from '../meta/object-meta.js';
import { matchesSelector, validateSelector } from '../meta/selector.js';
import { ageColumn, column, nameColumn, templateColumns } from './columns.js';
import type { FieldError, Kind } from './kind.js';
import { defaultPodSpec, validatePodSpec } from './pod-spec.js';

const SCALE = {
  specReplicas: '.spec.replicas',
  statusReplicas: '.status.replicas',
  labelSelector: '.spec.selector',
};

interface TemplateOwner {
  replicas?: number;
  minReadySeconds?: number;
  selector?: LabelSelector;
  template?: PodTemplateSpec;
}

function defaultTemplateOwner(spec: TemplateOwner): void {
  spec.replicas ??= 1;
  spec.template ??= {};
  spec.template.spec ??= { containers: [] };
  defaultPodSpec(spec.template.spec);
}

const atLeastZero = (v: number | undefined, field: string): FieldError[] =>
  v === undefined || v >= 0 ? [] : [invalid(field, v, 'must be greater than or equal to 0')];

function validateTemplateOwner(spec: TemplateOwner): FieldError[] {
  const errors = [
    ...atLeastZero(spec.replicas, 'spec.replicas'),
    ...atLeastZero(spec.minReadySeconds, 'spec.minReadySeconds'),
  ];
  const { selector, template } = spec;
  if (!selector) errors.push(required('spec.selector'));
  else {
    const wrong = validateSelector(selector, 'spec.selector');
    errors.push(...wrong);
    const empty = !Object.keys(selector.matchLabels ?? {}).length && !selector.matchExpressions?.length;
    if (empty) errors.push(invalid('spec.selector', selector, 'empty selector is invalid for deployment'));
    else if (wrong.length === 0 && !matchesSelector(selector, template?.metadata?.labels))
      errors.push(
        invalid(
          'spec.template.metadata.labels',
          template?.metadata?.labels ?? {},
          '`selector` does not match template `labels`',
        ),
      );
  }
  const at = 'spec.template';
  errors.push(...validateLabels(template?.metadata?.labels, `${at}.labels`));
  errors.push(...validateAnnotations(template?.metadata?.annotations, `${at}.annotations`));
  errors.push(...validatePodSpec(template?.spec, `${at}.spec`));
  const { restartPolicy, activeDeadlineSeconds } = template?.spec ?? {};
  if (restartPolicy && restartPolicy !== 'Always' && ['OnFailure', 'Never'].includes(restartPolicy))
    errors.push(notSupported(`${at}.spec.restartPolicy`, restartPolicy, ['Always']));
  if (activeDeadlineSeconds !== undefined)
    errors.push(
      forbidden(`${at}.spec.activeDeadlineSeconds`, 'activeDeadlineSeconds in ReplicaSet is not Supported'),
    );
  return errors;
}

interface HasSelector {
  spec?: { selector?: unknown };
}

const immutableSelector = (o: HasSelector, old: HasSelector): FieldError[] =>
  deepEqual(o.spec?.selector, old.spec?.selector)
    ? []
    : [invalid('spec.selector', o.spec?.selector, 'field is immutable')];

/** A count, or a percentage rounded up; undefined: neither. */
const amount = (v: number | string | undefined): number | undefined => {
  if (typeof v === 'number') return v;
  const m = /^(\d{1,9})%$/.exec(v ?? '');
  return m ? Number(m[1]) : undefined;
};

function validateIntOrPercent(v: number | string | undefined, field: string): FieldError[] {
  if (amount(v) === undefined)
    return [
      invalid(
        field,
        v,
        "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')",
      ),
    ];
  return typeof v === 'number' ? atLeastZero(v, field) : [];
}

function validateRollingUpdate(r: RollingUpdateDeployment | undefined, at: string): FieldError[] {
  const { maxUnavailable, maxSurge } = r ?? {};
  const errors = [
    ...validateIntOrPercent(maxUnavailable, `${at}.maxUnavailable`),
    ...validateIntOrPercent(maxSurge, `${at}.maxSurge`),
  ];
  if (errors.length) return errors;
  if (amount(maxUnavailable) === 0 && amount(maxSurge) === 0)
    errors.push(invalid(`${at}.maxUnavailable`, maxUnavailable, 'may not be 0 when `maxSurge` is 0'));
  if (typeof maxUnavailable === 'string' && amount(maxUnavailable)! > 100)
    errors.push(invalid(`${at}.maxUnavailable`, maxUnavailable, 'must not be greater than 100%'));
  return errors;
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
  columns: [
    nameColumn,
    column('Desired', 'integer', 'Pods wanted.', (o) => o.spec?.replicas ?? 0),
    column('Current', 'integer', 'Pods there.', (o) => o.status?.replicas ?? 0),
    column('Ready', 'integer', 'Pods that are ready.', (o) => o.status?.readyReplicas ?? 0),
    ageColumn,
    ...templateColumns,
  ],
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
