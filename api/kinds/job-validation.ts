/** What may be in a JobSpec, for Jobs and for the templates of CronJobs (Kubernetes' batch validation). */
import type {
  JobSpec,
  PodFailurePolicyOnExitCodesRequirement,
  PodFailurePolicyRule,
  SuccessPolicyRule,
} from 'kubernetes-types/batch/v1.js';
import { duplicate, invalid, notSupported, required, tooLong, tooMany } from '../meta/field-errors.js';
import { qualifiedName } from '../meta/names.js';
import { countIndexes, indexesProblem, parseIndexes } from './indexes.js';
import type { FieldError } from './kind.js';
import { atLeastZero, validateTemplate } from './pod-template.js';

const MAX_INDEXED = 100_000;
const MANY = 100_000;
const WITH_MANY = 10_000;
const MAX_RULES = 20;
const MAX_EXIT_CODES = 255;
const MAX_PATTERNS = 20;
const MAX_MANAGED_BY = 63;
const MAX_SUCCEEDED_INDEXES = 64 * 1024;
const MODES = ['Indexed', 'NonIndexed'];
const ACTIONS = ['Count', 'FailIndex', 'FailJob', 'Ignore'];
const OPERATORS = ['In', 'NotIn'];
const STATUSES = ['False', 'True', 'Unknown'];

/** A Go list of strings as `%q` prints it. */
const quoted = (values: readonly string[]): string => `[${values.map((v) => JSON.stringify(v)).join(' ')}]`;
const choice = (v: string | undefined, at: string, values: readonly string[]): FieldError[] => {
  if (!v) return [required(at, `valid values: ${quoted(values)}`)];
  return values.includes(v) ? [] : [notSupported(at, v, values)];
};
/** An error without a value (Go's OmitValueType). */
const wrong = (field: string, detail: string): FieldError => ({
  type: 'Invalid',
  field,
  message: `Invalid value: ${detail}`,
});

const COUNTS = [
  'parallelism',
  'completions',
  'activeDeadlineSeconds',
  'backoffLimit',
  'ttlSecondsAfterFinished',
  'backoffLimitPerIndex',
  'maxFailedIndexes',
] as const;

function validateIndexed(spec: JobSpec, at: string): FieldError[] {
  const { completions, parallelism = 0, maxFailedIndexes: failed, backoffLimitPerIndex } = spec;
  const errors: FieldError[] = [];
  const limit = (name: 'parallelism' | 'maxFailedIndexes', max: number, when = '') =>
    (spec[name] ?? 0) > max &&
    errors.push(invalid(`${at}.${name}`, spec[name], `must be less than or equal to ${max}${when}`));
  if (completions === undefined)
    errors.push(required(`${at}.completions`, 'when completion mode is Indexed'));
  if (parallelism > MAX_INDEXED) limit('parallelism', MAX_INDEXED, ' when completion mode is Indexed');
  if (completions !== undefined && failed !== undefined && failed > completions)
    errors.push(invalid(`${at}.maxFailedIndexes`, failed, 'must be less than or equal to completions'));
  limit('maxFailedIndexes', MAX_INDEXED);
  if ((completions ?? 0) > MANY && backoffLimitPerIndex !== undefined) {
    const when = ` when completions are above ${MANY} and used with backoff limit per index`;
    if (failed === undefined)
      errors.push(required(`${at}.maxFailedIndexes`, `must be specified when completions is above ${MANY}`));
    limit('parallelism', WITH_MANY, when);
    limit('maxFailedIndexes', WITH_MANY, when);
  }
  return errors;
}

function validateExitCodes(
  r: PodFailurePolicyOnExitCodesRequirement,
  at: string,
  names: readonly string[],
): FieldError[] {
  const errors = choice(r.operator, `${at}.operator`, OPERATORS);
  if (r.containerName !== undefined && !names.includes(r.containerName))
    errors.push(
      invalid(
        `${at}.containerName`,
        r.containerName,
        'must be one of the container or initContainer names in the pod template',
      ),
    );
  const values = r.values ?? [];
  const f = `${at}.values`;
  if (values.length === 0) errors.push(invalid(f, r.values, 'at least one value is required'));
  else if (values.length > MAX_EXIT_CODES) errors.push(tooMany(f, values.length, MAX_EXIT_CODES));
  for (const [i, v] of values.entries()) {
    if (r.operator === 'In' && v === 0)
      errors.push(invalid(`${f}[${i}]`, v, 'must not be 0 for the In operator'));
    if (values.indexOf(v) < i) errors.push(duplicate(`${f}[${i}]`, v));
  }
  if (values.some((v, i) => i > 0 && values[i - 1]! > v)) errors.push(invalid(f, values, 'must be ordered'));
  return errors;
}

function validateRule(
  spec: JobSpec,
  r: PodFailurePolicyRule,
  at: string,
  names: readonly string[],
): FieldError[] {
  const conditions = r.onPodConditions ?? [];
  const errors =
    r.action === 'FailIndex' && spec.backoffLimitPerIndex === undefined
      ? [invalid(`${at}.action`, r.action, 'requires the backoffLimitPerIndex to be set')]
      : choice(r.action, `${at}.action`, ACTIONS);
  if (r.onExitCodes) errors.push(...validateExitCodes(r.onExitCodes, `${at}.onExitCodes`, names));
  if (conditions.length > MAX_PATTERNS)
    errors.push(tooMany(`${at}.onPodConditions`, conditions.length, MAX_PATTERNS));
  for (const [i, c] of conditions.entries()) {
    const f = `${at}.onPodConditions[${i}]`;
    errors.push(...qualifiedName(c.type ?? '').map((e) => invalid(`${f}.type`, c.type ?? '', e)));
    errors.push(...choice(c.status, `${f}.status`, STATUSES));
  }
  if (r.onExitCodes && conditions.length)
    errors.push(wrong(at, 'specifying both OnExitCodes and OnPodConditions is not supported'));
  if (!r.onExitCodes && !conditions.length)
    errors.push(wrong(at, 'specifying one of OnExitCodes and OnPodConditions is required'));
  return errors;
}

function validateFailurePolicy(spec: JobSpec, at: string): FieldError[] {
  const rules = spec.podFailurePolicy?.rules ?? [];
  const { containers = [], initContainers = [] } = spec.template.spec ?? {};
  const names = [...containers, ...initContainers].map((c) => c.name);
  return [
    ...(rules.length > MAX_RULES ? [tooMany(`${at}.rules`, rules.length, MAX_RULES)] : []),
    ...rules.flatMap((r, i) => validateRule(spec, r, `${at}.rules[${i}]`, names)),
  ];
}

function validateSuccessRule(spec: JobSpec, r: SuccessPolicyRule, at: string): FieldError[] {
  const { succeededCount: count, succeededIndexes: indexes } = r;
  const completions = spec.completions ?? 0;
  if (count === undefined && indexes === undefined)
    return [required(at, 'at least one of succeededCount or succeededIndexes must be specified')];
  const errors: FieldError[] = [];
  const problem = indexes === undefined ? undefined : indexesProblem(indexes, completions);
  if (indexes !== undefined && indexes.length > MAX_SUCCEEDED_INDEXES)
    errors.push(tooLong(`${at}.succeededIndexes`, MAX_SUCCEEDED_INDEXES));
  if (problem)
    errors.push(invalid(`${at}.succeededIndexes`, indexes, `error parsing succeededIndexes: ${problem}`));
  if (count === undefined) return errors;
  const total = problem ? 0 : countIndexes(parseIndexes(indexes, completions));
  const most = (n: number, what: string) =>
    invalid(`${at}.succeededCount`, count, `must be less than or equal to ${n} (the number of ${what})`);
  errors.push(...atLeastZero(count, `${at}.succeededCount`));
  if (count > completions) errors.push(most(completions, 'specified completions'));
  if (indexes !== undefined && count > total)
    errors.push(most(total, 'indexes in the specified succeededIndexes field'));
  return errors;
}

function validateSuccessPolicy(spec: JobSpec, at: string): FieldError[] {
  if (spec.completionMode !== 'Indexed')
    return [invalid(at, spec.successPolicy, 'requires indexed completion mode')];
  const rules = spec.successPolicy?.rules ?? [];
  const errors: FieldError[] = [];
  if (rules.length === 0)
    errors.push(
      required(`${at}.rules`, 'at least one rules must be specified when the successPolicy is specified'),
    );
  if (rules.length > MAX_RULES) errors.push(tooMany(`${at}.rules`, rules.length, MAX_RULES));
  return [...errors, ...rules.flatMap((r, i) => validateSuccessRule(spec, r, `${at}.rules[${i}]`))];
}

function validateRestartPolicy(spec: JobSpec, at: string): FieldError[] {
  const policy = spec.template.spec?.restartPolicy;
  if (!policy || policy === 'Always') return [required(at, 'valid values: "OnFailure", "Never"')];
  if (!['OnFailure', 'Never'].includes(policy)) return [notSupported(at, policy, ['OnFailure', 'Never'])];
  if (spec.podFailurePolicy && policy !== 'Never')
    return [invalid(at, policy, 'only "Never" is supported when podFailurePolicy is specified')];
  return [];
}

function validateReplacement(spec: JobSpec, at: string): FieldError[] {
  const policy = spec.podReplacementPolicy;
  const allowed = spec.podFailurePolicy ? ['Failed'] : ['Failed', 'TerminatingOrFailed'];
  return policy === undefined || allowed.includes(policy) ? [] : [notSupported(at, policy, allowed)];
}

function validateManagedBy(v: string | undefined, at: string): FieldError[] {
  if (v === undefined) return [];
  const errors: FieldError[] = [];
  if (!v) errors.push(required(at));
  else if (!/^[^/]+\/.+$/.test(v))
    errors.push(invalid(at, v, 'must be a domain-prefixed path (such as "acme.io/foo")'));
  if (v.length > MAX_MANAGED_BY) errors.push(tooLong(at, MAX_MANAGED_BY));
  return errors;
}

/** All of a JobSpec but its selector. */
export function validateJobSpec(spec: JobSpec, at: string): FieldError[] {
  const errors: FieldError[] = COUNTS.flatMap((k) => atLeastZero(spec[k], `${at}.${k}`));
  if (spec.maxFailedIndexes !== undefined && spec.backoffLimitPerIndex === undefined)
    errors.push(required(`${at}.backoffLimitPerIndex`, 'when maxFailedIndexes is specified'));
  errors.push(...validateManagedBy(spec.managedBy, `${at}.managedBy`));
  const mode = spec.completionMode;
  if (mode !== undefined && !MODES.includes(mode))
    errors.push(notSupported(`${at}.completionMode`, mode, MODES));
  if (mode === 'Indexed') errors.push(...validateIndexed(spec, at));
  else if (mode === undefined || mode === 'NonIndexed')
    for (const k of ['backoffLimitPerIndex', 'maxFailedIndexes'] as const)
      if (spec[k] !== undefined)
        errors.push(invalid(`${at}.${k}`, spec[k], 'requires indexed completion mode'));
  if (spec.podFailurePolicy) errors.push(...validateFailurePolicy(spec, `${at}.podFailurePolicy`));
  if (spec.successPolicy) errors.push(...validateSuccessPolicy(spec, `${at}.successPolicy`));
  return [
    ...errors,
    ...validateReplacement(spec, `${at}.podReplacementPolicy`),
    ...validateTemplate(spec.template, `${at}.template`),
    ...validateRestartPolicy(spec, `${at}.template.spec.restartPolicy`),
  ];
}
