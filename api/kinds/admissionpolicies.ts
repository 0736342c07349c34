/** Validating admission policies and their bindings: what is asked about writes in CEL (pkg/apis/admissionregistration). */
import type {
  ValidatingAdmissionPolicy,
  ValidatingAdmissionPolicyBinding,
} from 'kubernetes-types/admissionregistration/v1.js';
import type { Names } from '../cel/admission.js';
import { loadCel } from '../cel/cel.js';
import { duplicate, invalid, required } from '../meta/field-errors.js';
import { deepEqual } from '../meta/json.js';
import { qualifiedName } from '../meta/names.js';
import { oneOf } from './admission-rules.js';
import type { FieldError, Kind } from './kind.js';
import {
  bindingColumns,
  defaultMatch,
  defaultPolicy,
  expressionErrors,
  type PolicyExpression,
  policyColumns,
  shared,
  validateBindingSpec,
  validatePolicySpec,
  variableExpressions,
} from './policy-parts.js';

const REASONS = ['Forbidden', 'Invalid', 'RequestEntityTooLarge'];
const MAX_ANNOTATIONS = 20;
const MAX_ANNOTATION_EXPRESSION = 5 * 1024;
const newlines = /[\r\n]/;

/**
 * All expressions of a policy but its match conditions, in order; each variable is known to those after it. `names`
 * says what is known about objects.
 */
export function* policyExpressions(
  o: ValidatingAdmissionPolicy,
  names: Names = {},
): Generator<PolicyExpression> {
  const { spec } = o;
  const language = yield* variableExpressions(spec, names);
  for (const [i, v] of (spec?.validations ?? []).entries()) {
    const at = `spec.validations[${i}]`;
    if (v.expression?.trim())
      yield {
        field: `${at}.expression`,
        expression: v.expression,
        types: ['bool'],
        language: language({ authorizer: true }),
      };
    if (v.messageExpression?.trim())
      yield {
        field: `${at}.messageExpression`,
        expression: v.messageExpression,
        types: ['string'],
        language: language({ authorizer: false }),
      };
  }
  for (const [i, a] of (spec?.auditAnnotations ?? []).entries())
    if (a.valueExpression?.trim())
      yield {
        field: `spec.auditAnnotations[${i}].valueExpression`,
        expression: a.valueExpression,
        types: ['string', 'null'],
        language: language({ authorizer: true }),
      };
}

function validatePolicy(o: ValidatingAdmissionPolicy, old?: ValidatingAdmissionPolicy): FieldError[] {
  const errors: FieldError[] = [];
  const { spec } = o;
  if (!spec) return [required('spec')];
  errors.push(...validatePolicySpec(spec, old?.spec));
  const either = 'validations or auditAnnotations must contain at least one item';
  if (!spec.validations?.length && !spec.auditAnnotations?.length)
    errors.push(required('spec.validations', either), required('spec.auditAnnotations', either));
  (spec.validations ?? []).forEach((v, i) => {
    const at = `spec.validations[${i}]`;
    if (!v.expression?.trim()) errors.push(required(`${at}.expression`, 'expression is not specified'));
    if (v.messageExpression && !v.messageExpression.trim())
      errors.push(invalid(`${at}.messageExpression`, v.messageExpression, 'must be non-empty if specified'));
    if (v.message && !v.message.trim())
      errors.push(invalid(`${at}.message`, v.message, 'must be non-empty if specified'));
    else if (v.message && newlines.test(v.message.trim()))
      errors.push(invalid(`${at}.message`, v.message, 'must not contain line breaks'));
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
    errors.push(...expressionErrors(policyExpressions(o)));
  return errors;
}

export const validatingAdmissionPolicies: Kind<ValidatingAdmissionPolicy> = {
  ...shared('ValidatingAdmissionPolicy', 'validatingadmissionpolicies'),
  keptByStatus: 'metadata',
  schema: 'io.k8s.api.admissionregistration.v1.ValidatingAdmissionPolicy',
  columns: policyColumns<ValidatingAdmissionPolicy>(
    'Validations',
    'Validations indicates the number of validation rules defined in this configuration',
    (o) => o.spec?.validations?.length ?? 0,
  ),
  status: true,
  setDefaults: (o) => defaultPolicy(o.spec),
  prepareForCreate: (o) => {
    delete (o as { status?: unknown }).status;
  },
  load: loadCel,
  validate: validatePolicy,
};

const ACTIONS = ['Audit', 'Deny', 'Warn'];

function validateBinding(o: ValidatingAdmissionPolicyBinding): FieldError[] {
  const { spec } = o;
  if (!spec) return [required('spec')];
  const errors = validateBindingSpec(spec);
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
  ...shared('ValidatingAdmissionPolicyBinding', 'validatingadmissionpolicybindings'),
  schema: 'io.k8s.api.admissionregistration.v1.ValidatingAdmissionPolicyBinding',
  columns: bindingColumns<ValidatingAdmissionPolicyBinding>(),
  status: false,
  setDefaults: (o) => defaultMatch(o.spec?.matchResources),
  validate: validateBinding,
};
