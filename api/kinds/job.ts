import type { Job, JobSpec } from 'kubernetes-types/batch/v1.js';
import type { Affinity, PodTemplateSpec } from 'kubernetes-types/core/v1.js';
import { humanDuration } from '../meta/duration.js';
import { invalid, required } from '../meta/field-errors.js';
import { deepCopy, deepEqual } from '../meta/json.js';
import { dns1123Label } from '../meta/names.js';
import { matchesSelector, validateSelector } from '../meta/selector.js';
import { ageColumn, column, nameColumn, templateColumns } from './columns.js';
import { validateJobSpec } from './job-validation.js';
import type { FieldError, Kind } from './kind.js';
import { defaultTemplate, immutable } from './pod-template.js';

/** Labels with which a Job marks its pods; the second of each pair is the older name. */
export const JOB_NAME = 'batch.kubernetes.io/job-name';
export const CONTROLLER_UID = 'batch.kubernetes.io/controller-uid';
const NAME_LABELS = [JOB_NAME, 'job-name'];
const UID_LABELS = [CONTROLLER_UID, 'controller-uid'];

const holds = (o: Job, type: string): boolean =>
  o.status?.conditions?.some((c) => c.type === type && c.status === 'True') ?? false;

const STATES = ['Complete', 'Failed', 'Terminating', 'Suspended', 'FailureTarget', 'SuccessCriteriaMet'];
const stateOf = (o: Job): string =>
  STATES.find((s) => (s === 'Terminating' ? o.metadata?.deletionTimestamp : holds(o, s))) ?? 'Running';

function completionsOf(o: Job): string {
  const { completions, parallelism = 0 } = o.spec ?? {};
  const done = o.status?.succeeded ?? 0;
  if (completions !== undefined) return `${done}/${completions}`;
  return parallelism > 1 ? `${done}/1 of ${parallelism}` : `${done}/1`;
}

function durationOf(o: Job, now: number): string {
  const start = Date.parse(o.status?.startTime ?? '');
  if (Number.isNaN(start)) return '';
  return humanDuration((Date.parse(o.status?.completionTime ?? '') || now) - start);
}

/** Defaults that a JobSpec has wherever it is: in a Job and in a CronJob's template. */
export function defaultJobTemplate(spec: JobSpec): void {
  defaultTemplate(spec);
  for (const r of spec.podFailurePolicy?.rules ?? [])
    for (const c of r.onPodConditions ?? []) (c as { status?: string }).status ||= 'True';
}

function setDefaults(o: Job): void {
  o.spec ??= {} as JobSpec;
  const { spec } = o;
  defaultJobTemplate(spec);
  if (spec.completions === undefined && spec.parallelism === undefined) spec.completions = 1;
  spec.parallelism ??= 1;
  spec.backoffLimit ??= spec.backoffLimitPerIndex === undefined ? 6 : 2 ** 31 - 1;
  spec.completionMode ??= 'NonIndexed';
  spec.suspend ??= false;
  spec.podReplacementPolicy ??= spec.podFailurePolicy ? 'Failed' : 'TerminatingOrFailed';
  spec.manualSelector ??= false;
}

/** Labels and a selector that no other Job has, unless the user sees to that (Kubernetes' generateSelector). */
function generateSelector(o: Job): void {
  const spec = o.spec!;
  const { name = '', uid = '' } = o.metadata!;
  const labels: Record<string, string> = {};
  for (const k of NAME_LABELS) labels[k] = name;
  for (const k of UID_LABELS) labels[k] = uid;
  const template = spec.template as { metadata?: object };
  template.metadata = {
    ...template.metadata,
    labels: { ...labels, ...spec.template.metadata?.labels },
  };
  spec.selector = {
    ...spec.selector,
    matchLabels: { [CONTROLLER_UID]: uid, ...spec.selector?.matchLabels },
  };
}

function validateGenerated(o: Job): FieldError[] {
  if (o.spec!.manualSelector || !o.spec!.selector) return [];
  const { name = '', uid = '' } = o.metadata!;
  const labels = o.spec!.template.metadata?.labels ?? {};
  const expected: Record<string, string> = {};
  const errors: FieldError[] = [];
  for (const [keys, value] of [
    [UID_LABELS, uid],
    [NAME_LABELS, name],
  ] as const)
    for (const k of keys) {
      expected[k] = value;
      const f = `spec.template.metadata.labels[${k}]`;
      if (!Object.hasOwn(labels, k)) errors.push(required(f, `must be '${value}'`));
      else if (labels[k] !== value) errors.push(invalid(f, labels, `must be '${value}'`));
    }
  if (!matchesSelector(o.spec!.selector, expected))
    errors.push(invalid('spec.selector', o.spec!.selector, '`selector` not auto-generated'));
  return errors;
}

function validate(o: Job): FieldError[] {
  const spec = o.spec!;
  const errors = [...validateGenerated(o), ...validateJobSpec(spec, 'spec')];
  if (!spec.selector) errors.push(required('spec.selector'));
  else {
    errors.push(...validateSelector(spec.selector, 'spec.selector'));
    const labels = spec.template.metadata?.labels;
    if (!matchesSelector(spec.selector, labels))
      errors.push(
        invalid('spec.template.metadata.labels', labels ?? {}, '`selector` does not match template `labels`'),
      );
  }
  if (spec.completionMode === 'Indexed' && spec.completions) {
    const { name = '' } = o.metadata!;
    const host = `${name}-${spec.completions - 1}`;
    if (dns1123Label(host).length)
      errors.push(
        invalid('metadata.name', name, `will not able to create pod with invalid DNS label: ${host}`),
      );
  }
  return errors;
}

/** Of a suspended Job without pods, where its pods may go and what they ask for can still change. */
function comparable(t: PodTemplateSpec, from: PodTemplateSpec): PodTemplateSpec {
  const copy = deepCopy(t);
  const spec = copy.spec!;
  const other = from.spec!;
  const { nodeAffinity: _, ...affinity } = (spec.affinity ?? {}) as Affinity;
  const kept = {
    ...affinity,
    ...(other.affinity?.nodeAffinity ? { nodeAffinity: other.affinity.nodeAffinity } : {}),
  };
  if (Object.keys(kept).length) spec.affinity = kept;
  else delete spec.affinity;
  for (const k of ['nodeSelector', 'tolerations', 'schedulingGates'] as const) {
    delete spec[k];
    if (other[k] !== undefined) Object.assign(spec, { [k]: other[k] });
  }
  for (const list of ['containers', 'initContainers'] as const)
    for (const [i, c] of (spec[list] ?? []).entries())
      if (other[list]?.[i]?.name === c.name) Object.assign(c, { resources: other[list]?.[i]?.resources });
  const { labels, annotations } = from.metadata ?? {};
  return { ...copy, metadata: { ...copy.metadata, labels, annotations } };
}

function validateTemplateUpdate(o: Job, old: Job): FieldError[] {
  const free = old.spec!.suspend && holds(old, 'Suspended') && !old.status?.active;
  const now = free ? comparable(o.spec!.template, old.spec!.template) : o.spec!.template;
  return deepEqual(now, old.spec!.template)
    ? []
    : [invalid('spec.template', o.spec!.template, 'field is immutable')];
}

function validateCompletionsUpdate(o: Job, old: Job): FieldError[] {
  const { completions, parallelism, completionMode } = o.spec!;
  if (completions === old.spec!.completions) return [];
  if (completionMode !== 'Indexed') return [invalid('spec.completions', completions, 'field is immutable')];
  return completions === undefined || completions === parallelism
    ? []
    : [invalid('spec.completions', completions, 'can only be modified in tandem with spec.parallelism')];
}

const fixed = immutable(
  'selector',
  'completionMode',
  'podFailurePolicy',
  'backoffLimitPerIndex',
  'managedBy',
  'successPolicy',
);

export const jobs: Kind<Job> = {
  group: 'batch',
  version: 'v1',
  kind: 'Job',
  plural: 'jobs',
  singular: 'job',
  shortNames: [],
  categories: ['all'],
  namespaced: true,
  schema: 'io.k8s.api.batch.v1.Job',
  columns: [
    nameColumn,
    column('Status', 'string', 'Status of the job.', stateOf),
    column('Completions', 'string', 'Pods that succeeded, of those wanted.', completionsOf),
    column('Duration', 'string', 'Time required to complete the job.', durationOf),
    ageColumn,
    ...templateColumns,
  ],
  status: true,
  generation: true,
  orphansByDefault: true,
  selectable: { 'status.successful': (o) => String(o.status?.succeeded ?? 0) },
  setDefaults,
  prepareForCreate(o) {
    if (!o.spec!.manualSelector) generateSelector(o);
    const metadata = o.metadata as { labels?: Record<string, string> };
    const { labels } = o.spec!.template.metadata ?? {};
    if (labels && !Object.keys(metadata.labels ?? {}).length) metadata.labels = { ...labels };
    (o as { status: object }).status = {};
  },
  validate,
  validateUpdate: (o, old) => [
    ...validateCompletionsUpdate(o, old),
    ...fixed(o, old),
    ...validateTemplateUpdate(o, old),
  ],
  warnings: (o) =>
    dns1123Label(o.metadata?.name ?? '').length
      ? [
          `metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label is recommended: [${dns1123Label(o.metadata?.name ?? '').join(' ')}]`,
        ]
      : [],
};
