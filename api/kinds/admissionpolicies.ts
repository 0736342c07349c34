/** Admission policies and their bindings: what is asked about writes in CEL (pkg/apis/admissionregistration). */
import type {
  MatchResources,
  ParamRef,
  ValidatingAdmissionPolicy,
  ValidatingAdmissionPolicyBinding,
} from 'kubernetes-types/admissionregistration/v1.js';
import { checkingLanguage, expressionProblem, type Names } from '../cel/admission.js';
import { type Language, loadCel } from '../cel/cel.js';
import { duplicate, forbidden, invalid, required } from '../meta/field-errors.js';
import { deepEqual } from '../meta/json.js';
import { dns1035Label, dns1123Subdomain, pathSegmentName, qualifiedName } from '../meta/names.js';
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

const REASONS = ['Forbidden', 'Invalid', 'RequestEntityTooLarge'];
const MAX_ANNOTATIONS = 20;
const MAX_ANNOTATION_EXPRESSION = 5 * 1024;

function defaultMatch(m: Mutable<MatchResources> | undefined): void {
  if (!m) return;
  m.matchPolicy ??= 'Equivalent';
  m.namespaceSelector ??= {};
  m.objectSelector ??= {};
  defaultRules(m.resourceRules);
  defaultRules(m.excludeResourceRules);
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

function validateParamKind(k: { apiVersion?: string; kind?: string }, field: string): FieldError[] {
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
const newlines = /[\r\n]/;

/** Each expression of a policy: where it stands, what it is and what it may be of. */
export interface PolicyExpression {
  field: string;
  expression: string;
  types: readonly string[];
  /** Its language, given the variables before it. */
  language: Language;
}

/**
 * All expressions of a policy but its match conditions, in order; each variable is known to those after it. `names`
 * says what is known about objects.
 */
export function* policyExpressions(
  o: ValidatingAdmissionPolicy,
  names: Names = {},
): Generator<PolicyExpression> {
  const { spec } = o;
  const params = spec?.paramKind !== undefined;
  const variables: Record<string, string> = {};
  let languages: Record<string, Language> = {};
  const language = (authorizer: boolean): Language => {
    languages[String(authorizer)] ??= checkingLanguage({
      ...names,
      params,
      authorizer,
      ...(spec?.variables?.length ? { variables: { ...variables } } : {}),
    });
    return languages[String(authorizer)]!;
  };
  for (const [i, v] of (spec?.variables ?? []).entries()) {
    if (!v.expression?.trim()) continue;
    const l = language(true);
    yield { field: `spec.variables[${i}].expression`, expression: v.expression, types: [], language: l };
    const c = l.compile(v.expression);
    variables[v.name] = 'wrong' in c || c.type.includes('kubernetes.variables') ? 'dyn' : c.type;
    languages = {};
  }
  for (const [i, v] of (spec?.validations ?? []).entries()) {
    const at = `spec.validations[${i}]`;
    if (v.expression?.trim())
      yield {
        field: `${at}.expression`,
        expression: v.expression,
        types: ['bool'],
        language: language(true),
      };
    if (v.messageExpression?.trim())
      yield {
        field: `${at}.messageExpression`,
        expression: v.messageExpression,
        types: ['string'],
        language: language(false),
      };
  }
  for (const [i, a] of (spec?.auditAnnotations ?? []).entries())
    if (a.valueExpression?.trim())
      yield {
        field: `spec.auditAnnotations[${i}].valueExpression`,
        expression: a.valueExpression,
        types: ['string', 'null'],
        language: language(true),
      };
}

function validatePolicy(o: ValidatingAdmissionPolicy, old?: ValidatingAdmissionPolicy): FieldError[] {
  const errors: FieldError[] = [];
  const { spec } = o;
  if (!spec) return [required('spec')];
  errors.push(...oneOf(spec.failurePolicy, FAILURES, 'spec.failurePolicy'));
  if (spec.paramKind) errors.push(...validateParamKind(spec.paramKind, 'spec.paramKind'));
  if (!spec.matchConstraints) errors.push(required('spec.matchConstraints'));
  else {
    errors.push(...validateMatch(spec.matchConstraints, 'spec.matchConstraints'));
    if (!spec.matchConstraints.resourceRules?.length)
      errors.push(required('spec.matchConstraints.resourceRules'));
  }
  const settled =
    old &&
    deepEqual(spec.paramKind, old.spec?.paramKind) &&
    deepEqual(spec.matchConditions, old.spec?.matchConditions);
  if (!settled)
    errors.push(
      ...validateConditions(spec.matchConditions, 'spec.matchConditions', spec.paramKind !== undefined),
    );
  (spec.variables ?? []).forEach((v, i) => {
    const at = `spec.variables[${i}]`;
    if (!v.name?.trim()) errors.push(required(`${at}.name`, 'name is not specified'));
    else if (!/^[_a-zA-Z][_a-zA-Z0-9]*$/.test(v.name) || RESERVED.has(v.name))
      errors.push(invalid(`${at}.name`, v.name, 'name is not a valid CEL identifier'));
    if (!v.expression?.trim()) errors.push(required(`${at}.expression`, 'expression is not specified'));
  });
  const either = 'validations or auditAnnotations must contain at least one item';
  if (!spec.validations?.length && !spec.auditAnnotations?.length)
    errors.push(required('spec.validations', either), required('spec.auditAnnotations', either));
  (spec.validations ?? []).forEach((v, i) => {
    const at = `spec.validations[${i}]`;
    if (!v.expression?.trim()) errors.push(required(`${at}.expression`, 'expression is not specified'));
    if (v.messageExpression && !v.messageExpression.trim())
      errors.push(invalid(`${at}.messageExpression`, v.messageExpression, 'must be non-empty if specified'));
    if (v.message && !v.message.trim())
      errors.push(invalid(`${at}.message`, v.message, 'message must be non-empty if specified'));
    else if (v.message && newlines.test(v.message.trim()))
      errors.push(invalid(`${at}.message`, v.message, 'message must not contain line breaks'));
    errors.push(...oneOf(v.reason, REASONS, `${at}.reason`));
  });
  const annotations = spec.auditAnnotations ?? [];
  if (annotations.length > MAX_ANNOTATIONS)
    errors.push(
      invalid(
        'spec.auditAnnotations',
        annotations,
        `must not have more than ${MAX_ANNOTATIONS} auditAnnotations`,
      ),
    );
  annotations.forEach((a, i) => {
    const at = `spec.auditAnnotations[${i}]`;
    const name = o.metadata?.name;
    if (!name) errors.push(invalid(`${at}.key`, a.key, 'requires metadata.name be non-empty'));
    else
      errors.push(
        ...qualifiedName(`${name}/${a.key}`).map((e) => invalid(`${at}.key`, `${name}/${a.key}`, e)),
      );
    if (!a.valueExpression?.trim())
      errors.push(required(`${at}.valueExpression`, 'valueExpression is not specified'));
    else if (a.valueExpression.trim().length > MAX_ANNOTATION_EXPRESSION)
      errors.push(
        required(`${at}.valueExpression`, `must not exceed ${MAX_ANNOTATION_EXPRESSION} bytes in length`),
      );
    if (annotations.findIndex((b) => b.key === a.key) < i) errors.push(duplicate(`${at}.key`, a.key));
  });
  // Names that are wrong cannot be declared; and what was right once is not asked again.
  if (errors.length === 0 && !deepEqual(spec, old?.spec))
    for (const { field, expression, types, language } of policyExpressions(o)) {
      const anyType = types.length === 0;
      const wrong = anyType
        ? variableProblem(language, expression)
        : expressionProblem(language, expression, types);
      if (wrong) errors.push(invalid(field, expression, wrong));
    }
  return errors;
}

function variableProblem(language: Language, expression: string): string | undefined {
  const c = language.compile(expression);
  return 'wrong' in c ? `compilation failed: ${c.wrong}` : undefined;
}

export const validatingAdmissionPolicies: Kind<ValidatingAdmissionPolicy> = {
  ...GROUP,
  kind: 'ValidatingAdmissionPolicy',
  plural: 'validatingadmissionpolicies',
  singular: 'validatingadmissionpolicy',
  shortNames: [],
  categories: ['api-extensions'],
  namespaced: false,
  updateNeedsVersion: true,
  schema: 'io.k8s.api.admissionregistration.v1.ValidatingAdmissionPolicy',
  columns: [
    nameColumn as Kind<ValidatingAdmissionPolicy>['columns'][number],
    column(
      'Validations',
      'integer',
      'Validations indicates the number of validation rules defined in this configuration',
      (o) => o.spec?.validations?.length ?? 0,
    ),
    column(
      'ParamKind',
      'string',
      'ParamKind specifies the kind of resources used to parameterize this policy',
      (o) => (o.spec?.paramKind ? `${o.spec.paramKind.apiVersion}/${o.spec.paramKind.kind}` : '<unset>'),
    ),
    ageColumn as Kind<ValidatingAdmissionPolicy>['columns'][number],
  ],
  status: true,
  generation: true,
  selectable: {},
  setDefaults(o) {
    const spec = o.spec as Mutable<NonNullable<typeof o.spec>> | undefined;
    if (!spec) return;
    spec.failurePolicy ??= 'Fail';
    defaultMatch(spec.matchConstraints);
  },
  prepareForCreate: (o) => {
    delete (o as { status?: unknown }).status;
  },
  load: loadCel,
  validate: validatePolicy,
};

const ACTIONS = ['Audit', 'Deny', 'Warn'];

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

function validateBinding(o: ValidatingAdmissionPolicyBinding): FieldError[] {
  const { spec } = o;
  if (!spec) return [required('spec')];
  const errors: FieldError[] = [];
  if (!spec.policyName) errors.push(required('spec.policyName'));
  else
    errors.push(
      ...dns1123Subdomain(spec.policyName).map((e) => invalid('spec.policyName', spec.policyName, e)),
    );
  errors.push(...validateParamRef(spec.paramRef, 'spec.paramRef'));
  // Spelt as Kubernetes does.
  errors.push(...validateMatch(spec.matchResources, 'spec.matchResouces'));
  const actions = (spec.validationActions ?? []) as readonly string[];
  const at = 'spec.validationActions';
  actions.forEach((a, i) => {
    errors.push(...oneOf(a, ACTIONS, `${at}[${i}]`));
    if (actions.indexOf(a) < i) errors.push(duplicate(`${at}[${i}]`, a));
  });
  if (actions.includes('Deny') && actions.includes('Warn'))
    errors.push(
      invalid(
        at,
        actions,
        'must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)',
      ),
    );
  if (actions.length === 0) errors.push(required(at, 'at least one validation action is required'));
  return errors;
}

export const validatingAdmissionPolicyBindings: Kind<ValidatingAdmissionPolicyBinding> = {
  ...GROUP,
  kind: 'ValidatingAdmissionPolicyBinding',
  plural: 'validatingadmissionpolicybindings',
  singular: 'validatingadmissionpolicybinding',
  shortNames: [],
  categories: ['api-extensions'],
  namespaced: false,
  updateNeedsVersion: true,
  schema: 'io.k8s.api.admissionregistration.v1.ValidatingAdmissionPolicyBinding',
  columns: [
    nameColumn as Kind<ValidatingAdmissionPolicyBinding>['columns'][number],
    column(
      'PolicyName',
      'string',
      'PolicyName indicates the policy definition which the policy binding binded to',
      (o) => o.spec?.policyName ?? '',
    ),
    column(
      'ParamRef',
      'string',
      'ParamRef indicates the param resource which sets the configration param',
      (o) => {
        const p = o.spec?.paramRef;
        if (!p) return '<unset>';
        return p.namespace ? `${p.namespace}/${p.name ?? '*'}` : (p.name ?? '*');
      },
    ),
    ageColumn as Kind<ValidatingAdmissionPolicyBinding>['columns'][number],
  ],
  status: false,
  generation: true,
  selectable: {},
  setDefaults: (o) => defaultMatch(o.spec?.matchResources),
  validate: validateBinding,
};
