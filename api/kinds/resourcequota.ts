import type { ResourceQuota, ResourceQuotaSpec } from 'kubernetes-types/core/v1.js';
import { invalid, required } from '../meta/field-errors.js';
import { ageColumn, column, nameColumn } from './columns.js';
import type { FieldError, Kind } from './kind.js';
import { isStandardQuotaResource, quotaResourceName, resourceAmount } from './resource-names.js';

const PODS_ONLY = ['pods'];
const OF_PODS = [...PODS_ONLY, ...['cpu', 'memory'].flatMap((r) => [r, `requests.${r}`, `limits.${r}`])];
/** What objects a scope looks at: resources that a quota with the scope may limit. */
const SCOPES: Readonly<Record<string, readonly string[]>> = {
  Terminating: OF_PODS,
  NotTerminating: OF_PODS,
  BestEffort: PODS_ONLY,
  NotBestEffort: OF_PODS,
  PriorityClass: OF_PODS,
  CrossNamespacePodAffinity: OF_PODS,
};
const OPPOSITES = [
  ['BestEffort', 'NotBestEffort'],
  ['Terminating', 'NotTerminating'],
] as const;

function validateScopes(
  spec: ResourceQuotaSpec,
  names: readonly string[],
  value: unknown,
  at: string,
): FieldError[] {
  const errors: FieldError[] = [];
  const hard = Object.keys(spec.hard ?? {}).sort();
  for (const name of names) {
    const known = Object.hasOwn(SCOPES, name) ? SCOPES[name] : undefined;
    for (const r of hard)
      if (isStandardQuotaResource(r) && known && !known.includes(r))
        errors.push(invalid(at, value, 'unsupported scope applied to resource'));
  }
  for (const [a, b] of OPPOSITES)
    if (names.includes(a) && names.includes(b))
      errors.push(invalid(at, spec.scopes ?? null, 'conflicting scopes'));
  return errors;
}

function validateSelector(spec: ResourceQuotaSpec): FieldError[] {
  const at = 'spec.scopeSelector.matchExpressions';
  const expressions = spec.scopeSelector?.matchExpressions ?? [];
  const errors = expressions.flatMap(({ scopeName, operator, values = [] }): FieldError[] => {
    const wrong: FieldError[] = [];
    if (!Object.hasOwn(SCOPES, scopeName))
      wrong.push(invalid(`${at}.scopeName`, scopeName, 'unsupported scope'));
    else if (scopeName !== 'PriorityClass' && operator !== 'Exists')
      wrong.push(
        invalid(
          `${at}.operator`,
          operator,
          "must be 'Exist' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity",
        ),
      );
    if (operator === 'In' || operator === 'NotIn') {
      if (values.length === 0)
        wrong.push(
          required(
            `${at}.values`,
            "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector",
          ),
        );
    } else if (operator === 'Exists' || operator === 'DoesNotExist') {
      if (values.length)
        wrong.push(
          invalid(
            `${at}.values`,
            values,
            "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector",
          ),
        );
    } else wrong.push(invalid(`${at}.operator`, operator, 'not a valid selector operator'));
    return wrong;
  });
  const names = expressions.map((e) => e.scopeName);
  return [...errors, ...validateScopes(spec, names, spec.scopeSelector, at)];
}

function validateSpec(spec: ResourceQuotaSpec | undefined): FieldError[] {
  if (!spec) return [];
  const scopes = spec.scopes ?? [];
  return [
    ...Object.entries(spec.hard ?? {}).flatMap(([name, amount]) => [
      ...quotaResourceName(name, `spec.hard[${name}]`),
      ...resourceAmount(name, amount, `spec.hard[${name}]`),
    ]),
    ...scopes
      .filter((s) => !Object.hasOwn(SCOPES, s))
      .map(() => invalid('spec.scopes', scopes, 'unsupported scope')),
    ...validateScopes(spec, scopes, scopes, 'spec.scopes'),
    ...validateSelector(spec),
  ];
}

/** `pods: 1/2, requests.cpu: 0/1`, of limits or of everything else. */
const usage = (o: ResourceQuota, limits: boolean): string =>
  Object.entries(o.status?.hard ?? {})
    .filter(([name]) => name.startsWith('limits.') === limits)
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([name, hard]) => `${name}: ${o.status?.used?.[name] ?? 0}/${hard}`)
    .join(', ');

export const resourceQuotas: Kind<ResourceQuota> = {
  group: '',
  version: 'v1',
  kind: 'ResourceQuota',
  plural: 'resourcequotas',
  singular: 'resourcequota',
  shortNames: ['quota'],
  categories: [],
  namespaced: true,
  schema: 'io.k8s.api.core.v1.ResourceQuota',
  columns: [
    nameColumn,
    column('Request', 'string', 'What is used of what may be requested.', (o) => usage(o, false)),
    column('Limit', 'string', 'What is used of the sum that limits may have.', (o) => usage(o, true)),
    ageColumn,
  ],
  status: true,
  selectable: {},
  prepareForCreate(o) {
    o.status = {};
  },
  validate: (o) => validateSpec(o.spec),
  validateUpdate(o, old) {
    const set = (q: ResourceQuota) => JSON.stringify([...new Set(q.spec?.scopes ?? [])].sort());
    return set(o) === set(old) ? [] : [invalid('spec.scopes', o.spec?.scopes ?? null, 'field is immutable')];
  },
};
