import type { ControllerRevision, DaemonSet, DaemonSetSpec } from 'kubernetes-types/apps/v1.js';
import { invalid, notSupported, required } from '../meta/field-errors.js';
import { deepEqual, isPlainObject } from '../meta/json.js';
import { ageColumn, column, labelsText, nameColumn, templateColumns } from './columns.js';
import type { FieldError, Kind } from './kind.js';
import {
  amount,
  atLeastZero,
  defaultTemplate,
  immutable,
  notMoreThanAll,
  validateIntOrPercent,
  validateSelectedTemplate,
} from './pod-template.js';

const STRATEGIES = ['RollingUpdate', 'OnDelete'];

function validateStrategy(strategy: DaemonSetSpec['updateStrategy'], at: string): FieldError[] {
  if (strategy?.type === 'OnDelete') return [];
  if (strategy?.type !== 'RollingUpdate') return [notSupported(at, strategy ?? {}, STRATEGIES)];
  const { rollingUpdate: r } = strategy;
  const { maxUnavailable, maxSurge } = (r ?? {}) as Record<string, number | string | undefined>;
  const f = `${at}.rollingUpdate`;
  if (!r) return [required(f)];
  const errors = [
    ...validateIntOrPercent(maxUnavailable, `${f}.maxUnavailable`),
    ...validateIntOrPercent(maxSurge, `${f}.maxSurge`),
    ...notMoreThanAll(maxUnavailable, `${f}.maxUnavailable`),
    ...notMoreThanAll(maxSurge, `${f}.maxSurge`),
  ];
  if (amount(maxUnavailable) && amount(maxSurge))
    errors.push(invalid(`${f}.maxSurge`, maxSurge, 'may not be set when maxUnavailable is non-zero'));
  else if (!amount(maxUnavailable) && !amount(maxSurge))
    errors.push(required(`${f}.maxUnavailable`, 'cannot be 0 when maxSurge is 0'));
  return errors;
}

/** Counts changes of the template, for clients older than `metadata.generation`. */
const TEMPLATE_GENERATION = 'deprecated.daemonset.template.generation';

const setTemplateGeneration = (o: DaemonSet, n: number): void => {
  // In place: the registry goes on with the same metadata.
  const metadata = o.metadata as { annotations?: Record<string, string> };
  metadata.annotations = { ...metadata.annotations, [TEMPLATE_GENERATION]: `${n}` };
};

function setDefaults(o: DaemonSet): void {
  o.spec ??= {} as DaemonSetSpec;
  const { spec } = o;
  defaultTemplate(spec);
  spec.updateStrategy ??= {};
  const strategy = spec.updateStrategy;
  strategy.type ||= 'RollingUpdate';
  if (strategy.type === 'RollingUpdate') {
    strategy.rollingUpdate ??= {};
    strategy.rollingUpdate.maxUnavailable ??= 1;
    (strategy.rollingUpdate as { maxSurge?: number | string }).maxSurge ??= 0;
  }
  spec.revisionHistoryLimit ??= 10;
}

export const daemonSets: Kind<DaemonSet> = {
  group: 'apps',
  version: 'v1',
  kind: 'DaemonSet',
  plural: 'daemonsets',
  singular: 'daemonset',
  shortNames: ['ds'],
  categories: ['all'],
  namespaced: true,
  schema: 'io.k8s.api.apps.v1.DaemonSet',
  columns: [
    nameColumn,
    column(
      'Desired',
      'integer',
      'Nodes that should run the pod.',
      (o) => o.status?.desiredNumberScheduled ?? 0,
    ),
    column(
      'Current',
      'integer',
      'Nodes that should run the pod and do.',
      (o) => o.status?.currentNumberScheduled ?? 0,
    ),
    column('Ready', 'integer', 'Nodes on which it is ready.', (o) => o.status?.numberReady ?? 0),
    column(
      'Up-to-date',
      'integer',
      'Nodes on which it is of the newest template.',
      (o) => o.status?.updatedNumberScheduled ?? 0,
    ),
    column('Available', 'integer', 'Nodes on which it is available.', (o) => o.status?.numberAvailable ?? 0),
    column('Node Selector', 'string', 'Labels that nodes must have.', (o) =>
      labelsText(o.spec?.template.spec?.nodeSelector),
    ),
    ageColumn,
    ...templateColumns,
  ],
  status: true,
  generation: true,
  selectable: {},
  setDefaults,
  prepareForCreate(o) {
    (o as { status: object }).status = {
      currentNumberScheduled: 0,
      numberMisscheduled: 0,
      desiredNumberScheduled: 0,
      numberReady: 0,
    };
    setTemplateGeneration(o, Math.max(1, Number(o.metadata?.annotations?.[TEMPLATE_GENERATION]) || 1));
  },
  prepareForUpdate(o, old) {
    setDefaults(o);
    const before = Number(old.metadata?.annotations?.[TEMPLATE_GENERATION]) || 1;
    setTemplateGeneration(o, deepEqual(o.spec?.template, old.spec?.template) ? before : before + 1);
  },
  validate(o) {
    const spec = o.spec!;
    return [
      ...validateSelectedTemplate(spec, 'daemonset', 'DaemonSet'),
      ...atLeastZero(spec.minReadySeconds, 'spec.minReadySeconds'),
      ...validateStrategy(spec.updateStrategy, 'spec.updateStrategy'),
      ...atLeastZero(spec.revisionHistoryLimit, 'spec.revisionHistoryLimit'),
    ];
  },
  validateUpdate: immutable('selector'),
};

function validateData(data: unknown): FieldError[] {
  if (data === undefined || data === null) return [required('data', 'data is mandatory')];
  return isPlainObject(data) ? [] : [required('data', 'data must be a valid JSON object')];
}

export const controllerRevisions: Kind<ControllerRevision> = {
  group: 'apps',
  version: 'v1',
  kind: 'ControllerRevision',
  plural: 'controllerrevisions',
  singular: 'controllerrevision',
  shortNames: [],
  categories: [],
  namespaced: true,
  schema: 'io.k8s.api.apps.v1.ControllerRevision',
  columns: [
    nameColumn,
    column('Controller', 'string', 'Controller of the object', (o) => {
      const c = o.metadata?.ownerReferences?.find((r) => r.controller);
      if (!c) return '<none>';
      const [group] = c.apiVersion.includes('/') ? c.apiVersion.split('/') : [''];
      return `${(group ? `${c.kind}.${group}` : c.kind).toLowerCase()}/${c.name}`;
    }),
    column('Revision', 'string', 'Which version of the object this is.', (o) => o.revision ?? 0),
    ageColumn,
  ],
  status: false,
  selectable: {},
  setDefaults(o) {
    o.revision ??= 0;
  },
  validate: (o, old) => [
    ...atLeastZero(o.revision, 'revision'),
    ...(old
      ? deepEqual(o.data, old.data)
        ? []
        : [invalid('data', o.data, 'field is immutable')]
      : validateData(o.data)),
  ],
};
