/** What requests webhooks and policies are about, and under which conditions: the parts that both have. */
import type { MatchCondition, RuleWithOperations } from 'kubernetes-types/admissionregistration/v1.js';
import { conditionLanguage, expressionProblem } from '../cel/admission.js';
import { duplicate, invalid, notSupported, required, tooMany } from '../meta/field-errors.js';
import { qualifiedName } from '../meta/names.js';
import type { FieldError } from './kind.js';

/** Group and version of all kinds here. */
export const GROUP = { group: 'admissionregistration.k8s.io', version: 'v1' } as const;

/** What requests a webhook or policy is about; the package's type lacks half of it. */
export interface Rule extends RuleWithOperations {
  resources?: string[];
  scope?: string;
  /** Of policies alone. */
  resourceNames?: string[];
}

/** For defaults, which are written in place. */
export type Mutable<T> = { -readonly [K in keyof T]: T[K] };

const OPERATIONS = ['*', 'CREATE', 'UPDATE', 'DELETE', 'CONNECT'];
const SCOPES = ['Cluster', 'Namespaced', '*'];
const MAX_CONDITIONS = 64;
export const FAILURES = ['Fail', 'Ignore'];
export const MATCHES = ['Equivalent', 'Exact'];

/** Of pkg/apis/admissionregistration/v1/defaults.go. */
export function defaultRules(rules: readonly Rule[] | undefined): void {
  for (const r of rules ?? []) r.scope ??= '*';
}

/** An error when a value is there and not among those supported. */
export const oneOf = (
  value: string | undefined,
  supported: readonly string[],
  field: string,
): FieldError[] =>
  value === undefined || supported.includes(value) ? [] : [notSupported(field, value, supported)];

/** A `*` stands alone. */
const alone = (list: readonly string[], field: string, others: string): FieldError[] =>
  list.length > 1 && list.includes('*')
    ? [invalid(field, list, `if '*' is present, must not specify other ${others}`)]
    : [];

function validateResources(resources: readonly string[], field: string): FieldError[] {
  const errors: FieldError[] = [];
  if (resources.length === 0) errors.push(required(field));
  const allOf = new Set<string>();
  const ofAll = new Set<string>();
  resources.forEach((text, i) => {
    if (text === '') {
      errors.push(required(`${field}[${i}]`));
      return;
    }
    const slash = text.indexOf('/');
    if (slash < 0) return;
    const [resource, sub] = [text.slice(0, slash), text.slice(slash + 1)];
    if (allOf.has(resource))
      errors.push(invalid(`${field}[${i}]`, text, `if '${resource}/*' is present, must not specify ${text}`));
    if (ofAll.has(sub))
      errors.push(invalid(`${field}[${i}]`, text, `if '*/${sub}' is present, must not specify ${text}`));
    if (sub === '*') allOf.add(resource);
    if (resource === '*') ofAll.add(sub);
  });
  if (resources.length > 1 && resources.includes('*/*'))
    errors.push(invalid(field, resources, "if '*/*' is present, must not specify other resources"));
  if (resources.includes('*') && resources.some((r) => r !== '*' && !r.includes('/')))
    errors.push(
      invalid(field, resources, "if '*' is present, must not specify other resources without subresources"),
    );
  return errors;
}

export function validateRule(r: Rule, field: string): FieldError[] {
  const operations = (r.operations ?? []) as readonly string[];
  const groups = r.apiGroups ?? [];
  const versions = r.apiVersions ?? [];
  return [
    ...(operations.length ? [] : [required(`${field}.operations`)]),
    ...alone(operations, `${field}.operations`, 'operations'),
    ...operations.flatMap((o, i) => oneOf(o, OPERATIONS, `${field}.operations[${i}]`)),
    ...(groups.length ? [] : [required(`${field}.apiGroups`)]),
    ...alone(groups, `${field}.apiGroups`, 'API groups'),
    ...(versions.length ? [] : [required(`${field}.apiVersions`)]),
    ...alone(versions, `${field}.apiVersions`, 'API versions'),
    ...versions.flatMap((v, i) => (v ? [] : [required(`${field}.apiVersions[${i}]`)])),
    ...validateResources(r.resources ?? [], `${field}.resources`),
    ...oneOf(r.scope, SCOPES, `${field}.scope`),
  ];
}

/** `params`: whether the conditions may use parameters. Costs a compilation each: CEL must be loaded. */
export function validateConditions(
  conditions: readonly MatchCondition[] | undefined,
  field: string,
  params: boolean,
): FieldError[] {
  if (!conditions?.length) return [];
  const errors: FieldError[] = [];
  if (conditions.length > MAX_CONDITIONS) return [tooMany(field, conditions.length, MAX_CONDITIONS)];
  const names = new Set<string>();
  conditions.forEach((c, i) => {
    const at = `${field}[${i}]`;
    const expression = c.expression?.trim();
    if (!expression) errors.push(required(`${at}.expression`));
    else {
      const wrong = expressionProblem(conditionLanguage(params, true), expression, ['bool']);
      if (wrong) errors.push(invalid(`${at}.expression`, expression, wrong));
    }
    if (!c.name) errors.push(required(`${at}.name`));
    else {
      errors.push(...qualifiedName(c.name).map((e) => invalid(`${at}.name`, c.name, e)));
      if (names.has(c.name)) errors.push(duplicate(`${at}.name`, c.name));
      names.add(c.name);
    }
  });
  return errors;
}
