import type { PodDisruptionBudget, PodDisruptionBudgetSpec } from 'kubernetes-types/policy/v1.js';
import { invalid, notSupported } from '../meta/field-errors.js';
import { validateSelector } from '../meta/selector.js';
import { ageColumn, column, nameColumn } from './columns.js';
import type { FieldError, Kind } from './kind.js';
import { notMoreThanAll, validateIntOrPercent } from './pod-template.js';

const POLICIES = ['AlwaysAllow', 'IfHealthyBudget'];

function validate(o: PodDisruptionBudget): FieldError[] {
  const spec = o.spec!;
  const errors: FieldError[] = [];
  if (spec.minAvailable !== undefined && spec.maxUnavailable !== undefined)
    errors.push(invalid('spec', spec, 'minAvailable and maxUnavailable cannot be both set'));
  for (const k of ['minAvailable', 'maxUnavailable'] as const) {
    const v = spec[k] as number | string | undefined;
    if (v !== undefined)
      errors.push(...validateIntOrPercent(v, `spec.${k}`), ...notMoreThanAll(v, `spec.${k}`));
  }
  if (spec.selector) errors.push(...validateSelector(spec.selector, 'spec.selector'));
  const policy = spec.unhealthyPodEvictionPolicy;
  if (policy !== undefined && !POLICIES.includes(policy))
    errors.push(notSupported('spec.unhealthyPodEvictionPolicy', policy, POLICIES));
  return errors;
}

export const podDisruptionBudgets: Kind<PodDisruptionBudget> = {
  group: 'policy',
  version: 'v1',
  kind: 'PodDisruptionBudget',
  plural: 'poddisruptionbudgets',
  singular: 'poddisruptionbudget',
  shortNames: ['pdb'],
  categories: [],
  namespaced: true,
  updateNeedsVersion: true,
  schema: 'io.k8s.api.policy.v1.PodDisruptionBudget',
  columns: [
    nameColumn,
    column('Min Available', 'string', 'The minimum number of pods that must be available.', (o) =>
      String(o.spec?.minAvailable ?? 'N/A'),
    ),
    column('Max Unavailable', 'string', 'The maximum number of pods that may be unavailable.', (o) =>
      String(o.spec?.maxUnavailable ?? 'N/A'),
    ),
    column(
      'Allowed Disruptions',
      'integer',
      'Calculated number of pods that may be disrupted at this time.',
      (o) => o.status?.disruptionsAllowed ?? 0,
    ),
    ageColumn,
  ],
  status: true,
  generation: true,
  selectable: {},
  setDefaults(o) {
    o.spec ??= {} as PodDisruptionBudgetSpec;
  },
  prepareForCreate(o) {
    (o as { status: object }).status = {
      disruptionsAllowed: 0,
      currentHealthy: 0,
      desiredHealthy: 0,
      expectedPods: 0,
    };
  },
  validate,
};
