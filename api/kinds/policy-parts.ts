/** What validating and mutating policies, and their bindings, have in common (pkg/apis/admissionregistration). */
import type { MatchResources, ParamRef } from 'kubernetes-types/admissionregistration/v1.js';
import { checkingLanguage, expressionProblem, type Names } from '../cel/admission.js';
import type { Language } from '../cel/cel.js';
import { duplicate, forbidden, invalid, required } from '../meta/field-errors.js';
import { deepEqual } from '../meta/json.js';
import { dns1035Label, dns1123Subdomain, pathSegmentName } from '../meta/names.js';
import { validateSelector } from '../meta/selector.js';
import {
  defaultRules,
  FAILURES,
  GROUP,
  MATCHES,
  type Mutable,
  oneOf,
  type Rule,
  validateConditions,
  validateRule,
} from './admission-rules.js';
import { ageColumn, column, nameColumn } from './columns.js';
import type { FieldError, Kind } from './kind.js';

/** What each policy has in its spec. */
export interface PolicySpec {
  readonly paramKind?: { readonly apiVersion?: string; readonly kind?: string };
  readonly matchConstraints?: MatchResources;
  readonly matchConditions?: readonly { readonly name: string; readonly expression: string }[];
  readonly variables?: readonly { readonly name: string; readonly expression: string }[];
  readonly failurePolicy?: string;
}

/** What each binding has in its spec. */
export interface BindingSpec {
  readonly policyName?: string;
  readonly paramRef?: ParamRef;
  readonly matchResources?: MatchResources;
}

export function defaultMatch(m: Mutable<MatchResources> | undefined): void {
  if (!m) return;
  m.matchPolicy ??= 'Equivalent';
  m.namespaceSelector ??= {};
  m.objectSelector ??= {};
  defaultRules(m.resourceRules);
  defaultRules(m.excludeResourceRules);
}

export function defaultPolicy(spec: Mutable<PolicySpec> | undefined): void {
  if (!spec) return;
  spec.failurePolicy ??= 'Fail';
  defaultMatch(spec.matchConstraints);
}

function validateMatch(m: MatchResources | undefined, field: string): FieldError[] {
  if (!m) return [];
  const rules = (list: readonly Rule[] | undefined, name: string) =>
    (list ?? []).flatMap((r, i) => {
      const at = `${field}.${name}[${i}]`;
      const names = r.resourceNames ?? [];
      return [
        ...names.flatMap((n, j) => [
          ...pathSegmentName(n).map((e) => invalid(`${at}.resourceNames[${j}]`, n, e)),
          ...(names.indexOf(n) < j ? [duplicate(`${at}.resourceNames[${j}]`, n)] : []),
        ]),
        ...validateRule(r, at),
      ];
    });
  return [
    ...oneOf(m.matchPolicy, MATCHES, `${field}.matchPolicy`),
    ...validateSelector(m.namespaceSelector, `${field}.namespaceSelector`),
    ...validateSelector(m.objectSelector, `${field}.objectSelector`),
    ...rules(m.resourceRules, 'resourceRules'),
    ...rules(m.excludeResourceRules, 'excludeResourceRules'),
  ];
}

function validateParamKind(k: NonNullable<PolicySpec['paramKind']>, field: string): FieldError[] {
  const errors: FieldError[] = [];
  const { apiVersion, kind } = k;
  if (!apiVersion) errors.push(required(`${field}.apiVersion`));
  else {
    const parts = apiVersion.split('/');
    if (parts.length > 2)
      errors.push(
        invalid(`${field}.apiVersion`, apiVersion, `unexpected GroupVersion string: ${apiVersion}`),
      );
    else {
      const [version = '', group] = parts.reverse();
      if (group) errors.push(...dns1123Subdomain(group).map((e) => invalid(`${field}.apiVersion`, group, e)));
      if (!version) errors.push(invalid(`${field}.apiVersion`, apiVersion, 'version must be specified'));
      else errors.push(...dns1035Label(version).map((e) => invalid(`${field}.apiVersion`, version, e)));
    }
  }
  if (!kind) errors.push(required(`${field}.kind`));
  else
    errors.push(
      ...dns1035Label(kind.toLowerCase()).map((e) =>
        invalid(`${field}.kind`, kind, `may have mixed case, but should otherwise match: ${e}`),
      ),
    );
  return errors;
}

const RESERVED = new Set(
  'true false null in as break const continue else for function if import let loop package namespace return var void while'.split(
    ' ',
  ),
);

/** All but what a policy does. `old` is what it was, for updates: conditions that were right once are not asked again. */
export function validatePolicySpec(spec: PolicySpec, old: PolicySpec | undefined): FieldError[] {
  const errors: FieldError[] = [...oneOf(spec.failurePolicy, FAILURES, 'spec.failurePolicy')];
  if (spec.paramKind) errors.push(...validateParamKind(spec.paramKind, 'spec.paramKind'));
  if (!spec.matchConstraints) errors.push(required('spec.matchConstraints'));
  else {
    errors.push(...validateMatch(spec.matchConstraints, 'spec.matchConstraints'));
    if (!spec.matchConstraints.resourceRules?.length)
      errors.push(required('spec.matchConstraints.resourceRules'));
  }
  const settled =
    old && deepEqual(spec.paramKind, old.paramKind) && deepEqual(spec.matchConditions, old.matchConditions);
  if (!settled)
    errors.push(
      ...validateConditions(spec.matchConditions, 'spec.matchConditions', spec.paramKind !== undefined),
    );
  (spec.variables ?? []).forEach((v, i) => {
    const at = `spec.variables[${i}]`;
    if (!v.name?.trim()) errors.push(required(`${at}.name`, 'name is not specified'));
    else if (!/^[_a-zA-Z][_a-zA-Z0-9]*$/.test(v.name) || RESERVED.has(v.name))
      errors.push(invalid(`${at}.name`, v.name, 'must be a valid CEL identifier'));
    if (!v.expression?.trim()) errors.push(required(`${at}.expression`, 'expression is not specified'));
  });
  return errors;
}

/** Each expression of a policy: where it stands, what it is and what it may be of. */
export interface PolicyExpression {
  field: string;
  expression: string;
  /** None: whatever it likes. */
  types: readonly string[];
  /** Its language, given the variables before it. */
  language: Language;
  /** It makes a patch. */
  patches?: boolean;
}

/** Makes the language of an expression that sees all variables. */
export type LanguageOf = (what: { authorizer: boolean; patches?: boolean }) => Language;

/**
 * The expressions of variables, in order, each known to those after it. Returns what the other expressions of the policy
 * are written in. `names` says what is known about objects.
 */
export function* variableExpressions(
  spec: PolicySpec | undefined,
  names: Names,
): Generator<PolicyExpression, LanguageOf> {
  const params = spec?.paramKind !== undefined;
  const variables: Record<string, string> = {};
  let languages: Record<string, Language> = {};
  const language: LanguageOf = (what) => {
    const key = `${what.authorizer} ${what.patches}`;
    languages[key] ??= checkingLanguage({
      ...names,
      ...what,
      params,
      ...(spec?.variables?.length ? { variables: { ...variables } } : {}),
    });
    return languages[key]!;
  };
  for (const [i, v] of (spec?.variables ?? []).entries()) {
    if (!v.expression?.trim()) continue;
    const l = language({ authorizer: true });
    yield { field: `spec.variables[${i}].expression`, expression: v.expression, types: [], language: l };
    const c = l.compile(v.expression);
    variables[v.name] = 'wrong' in c || c.type.includes('kubernetes.variables') ? 'dyn' : c.type;
    languages = {};
  }
  return language;
}

export function expressionErrors(all: Iterable<PolicyExpression>): FieldError[] {
  const errors: FieldError[] = [];
  for (const { field, expression, types, language, patches } of all) {
    const wrong = expressionProblem(language, expression, types, patches);
    if (wrong) errors.push(invalid(field, expression, wrong));
  }
  return errors;
}

function validateParamRef(p: ParamRef | undefined, field: string): FieldError[] {
  if (!p) return [];
  const both = 'name and selector are mutually exclusive';
  const errors: FieldError[] = [];
  if (p.name) {
    errors.push(...pathSegmentName(p.name).map((e) => invalid(`${field}.name`, p.name, e)));
    if (p.selector) errors.push(forbidden(`${field}.name`, both));
  }
  if (p.selector) {
    errors.push(...validateSelector(p.selector, `${field}.selector`));
    if (p.name) errors.push(forbidden(`${field}.selector`, both));
  } else if (!p.name) errors.push(required(field, 'one of name or selector must be specified'));
  const at = `${field}.parameterNotFoundAction`;
  if (!p.parameterNotFoundAction) errors.push(required(at));
  else errors.push(...oneOf(p.parameterNotFoundAction, ['Deny', 'Allow'], at));
  return errors;
}

/** All but what a binding does. */
export function validateBindingSpec(spec: BindingSpec): FieldError[] {
  const errors: FieldError[] = [];
  if (!spec.policyName) errors.push(required('spec.policyName'));
  else
    errors.push(
      ...dns1123Subdomain(spec.policyName).map((e) => invalid('spec.policyName', spec.policyName, e)),
    );
  errors.push(...validateParamRef(spec.paramRef, 'spec.paramRef'));
  errors.push(...validateMatch(spec.matchResources, 'spec.matchResources'));
  return errors;
}

interface HasSpec<S> {
  readonly metadata?: object;
  readonly spec?: S;
}

/** What the declarations of all these kinds share. */
export const shared = (kind: string, plural: string) =>
  ({
    ...GROUP,
    kind,
    plural,
    singular: kind.toLowerCase(),
    shortNames: [],
    categories: ['api-extensions'],
    namespaced: false,
    updateNeedsVersion: true,
    generation: true,
    selectable: {},
  }) as const;

/** Columns of policies; `count` is how many of its rules there are. */
export function policyColumns<O extends HasSpec<PolicySpec>>(
  name: string,
  description: string,
  count: (o: O) => number,
): Kind<O>['columns'] {
  return [
    nameColumn as Kind<O>['columns'][number],
    column(name, 'integer', description, count),
    column(
      'ParamKind',
      'string',
      'ParamKind specifies the kind of resources used to parameterize this policy',
      (o) => (o.spec?.paramKind ? `${o.spec.paramKind.apiVersion}/${o.spec.paramKind.kind}` : '<unset>'),
    ),
    ageColumn as Kind<O>['columns'][number],
  ] as Kind<O>['columns'];
}

export function bindingColumns<O extends HasSpec<BindingSpec>>(): Kind<O>['columns'] {
  return [
    nameColumn as Kind<O>['columns'][number],
    column(
      'PolicyName',
      'string',
      'PolicyName indicates the policy definition which the policy binding binded to',
      (o: O) => o.spec?.policyName ?? '',
    ),
    column(
      'ParamRef',
      'string',
      'ParamRef indicates the param resource which sets the configuration param',
      (o: O) => paramText(o.spec?.paramRef),
    ),
    ageColumn as Kind<O>['columns'][number],
  ] as Kind<O>['columns'];
}

/** A selector is shown as Go shows it. */
function paramText(p: ParamRef | undefined): string {
  if (!p) return '<unset>';
  if (p.name) return `${p.namespace || '*'}/${p.name}`;
  if (!p.selector) return '<unset>';
  const labels = Object.entries(p.selector.matchLabels ?? {}).sort(([a], [b]) => (a < b ? -1 : 1));
  const requirements = (p.selector.matchExpressions ?? []).map(
    (e) =>
      `LabelSelectorRequirement{Key:${e.key},Operator:${e.operator},Values:[${(e.values ?? []).join(' ')}],},`,
  );
  return `&LabelSelector{MatchLabels:map[string]string{${labels.map(([k, v]) => `${k}: ${v},`).join('')}},MatchExpressions:[]LabelSelectorRequirement{${requirements.join('')}},}`;
}
