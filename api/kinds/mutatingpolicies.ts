/** Mutating admission policies and their bindings: what changes writes in CEL (pkg/apis/admissionregistration). */
import type { MatchResources } from 'kubernetes-types/admissionregistration/v1.js';
import type { ObjectMeta } from 'kubernetes-types/meta/v1.js';
import { loadCel } from '../cel/cel.js';
import { APPLY_TYPE, JSON_PATCH_TYPE } from '../cel/patches.js';
import { invalid, notSupported, required } from '../meta/field-errors.js';
import { deepEqual } from '../meta/json.js';
import { oneOf } from './admission-rules.js';
import type { FieldError, Kind } from './kind.js';
import {
  type BindingSpec,
  bindingColumns,
  defaultMatch,
  defaultPolicy,
  expressionErrors,
  type PolicyExpression,
  type PolicySpec,
  policyColumns,
  shared,
  validateBindingSpec,
  validatePolicySpec,
  variableExpressions,
} from './policy-parts.js';

interface Expression {
  readonly expression?: string;
}

export interface Mutation {
  readonly patchType?: string;
  readonly applyConfiguration?: Expression;
  readonly jsonPatch?: Expression;
}

export interface MutatingAdmissionPolicySpec extends PolicySpec {
  readonly mutations?: readonly Mutation[];
  readonly reinvocationPolicy?: string;
}

interface Typed {
  readonly apiVersion?: string;
  readonly kind?: string;
  readonly metadata?: ObjectMeta;
}

export interface MutatingAdmissionPolicy extends Typed {
  readonly spec?: MutatingAdmissionPolicySpec;
}

export interface MutatingAdmissionPolicyBinding extends Typed {
  readonly spec?: BindingSpec;
}

/** Where the expression of each type of patch stands, and what it must come to. */
export const PATCH_TYPES: Readonly<
  Record<string, { field: 'applyConfiguration' | 'jsonPatch'; type: string }>
> = {
  ApplyConfiguration: { field: 'applyConfiguration', type: APPLY_TYPE },
  JSONPatch: { field: 'jsonPatch', type: JSON_PATCH_TYPE },
};
const OPERATIONS = ['*', 'CREATE', 'UPDATE', 'CONNECT'];
const REINVOCATIONS = ['IfNeeded', 'Never'];

function* policyExpressions(o: MutatingAdmissionPolicy): Generator<PolicyExpression> {
  const { spec } = o;
  const language = yield* variableExpressions(spec, {});
  for (const [i, m] of (spec?.mutations ?? []).entries()) {
    const { field, type } = PATCH_TYPES[m.patchType!]!;
    yield {
      field: `spec.mutations[${i}].${field}.expression`,
      expression: m[field]!.expression!.trim(),
      types: [type],
      language: language({ authorizer: true, patches: true }),
      patches: true,
    };
  }
}

/** A request that is deleted has nothing to be changed. */
function validateOperations(m: MatchResources | undefined, field: string): FieldError[] {
  const rules = (m?.resourceRules ?? []) as readonly { operations?: readonly string[] }[];
  return rules.flatMap((r) =>
    (r.operations ?? []).flatMap((op) => oneOf(op, OPERATIONS, `${field}.resourceRules.operations`)),
  );
}

function validateMutation(m: Mutation, at: string): FieldError[] {
  if (!m.patchType) return [required(`${at}.patchType`)];
  const type = Object.hasOwn(PATCH_TYPES, m.patchType) ? PATCH_TYPES[m.patchType] : undefined;
  if (!type) return [notSupported(`${at}.patchType`, m.patchType, Object.keys(PATCH_TYPES))];
  const { field } = type;
  const errors: FieldError[] = [];
  if (!m[field])
    errors.push(required(`${at}.${field}`, `must be specified when patchType is ${m.patchType}`));
  else if (!m[field].expression?.trim()) errors.push(required(`${at}.${field}.expression`));
  for (const other of Object.values(PATCH_TYPES))
    if (other !== type && m[other.field])
      errors.push(
        invalid(
          `${at}.${other.field}`,
          `{${other.field}}`,
          `must not be specified when patchType is ${m.patchType}`,
        ),
      );
  return errors;
}

function validatePolicy(o: MutatingAdmissionPolicy, old?: MutatingAdmissionPolicy): FieldError[] {
  const { spec } = o;
  if (!spec) return [required('spec')];
  const errors = [
    ...validatePolicySpec(spec, old?.spec),
    ...validateOperations(spec.matchConstraints, 'spec.matchConstraints'),
  ];
  if (!spec.mutations?.length)
    errors.push(required('spec.mutations', 'mutations must contain at least one item'));
  for (const [i, m] of (spec.mutations ?? []).entries())
    errors.push(...validateMutation(m, `spec.mutations[${i}]`));
  const again = 'spec.reinvocationPolicy';
  if (!spec.reinvocationPolicy) errors.push(required(again));
  else errors.push(...oneOf(spec.reinvocationPolicy, REINVOCATIONS, again));
  // Names that are wrong cannot be declared; and what was right once is not asked again.
  if (errors.length === 0 && !deepEqual(spec, old?.spec))
    errors.push(...expressionErrors(policyExpressions(o)));
  return errors;
}

export const mutatingAdmissionPolicies: Kind<MutatingAdmissionPolicy> = {
  ...shared('MutatingAdmissionPolicy', 'mutatingadmissionpolicies'),
  schema: 'io.k8s.api.admissionregistration.v1.MutatingAdmissionPolicy',
  columns: policyColumns<MutatingAdmissionPolicy>(
    'Mutations',
    'Mutation indicates the number of mutations rules defined in this configuration',
    (o) => o.spec?.mutations?.length ?? 0,
  ),
  status: false,
  setDefaults: (o) => defaultPolicy(o.spec),
  load: loadCel,
  validate: validatePolicy,
};

export const mutatingAdmissionPolicyBindings: Kind<MutatingAdmissionPolicyBinding> = {
  ...shared('MutatingAdmissionPolicyBinding', 'mutatingadmissionpolicybindings'),
  schema: 'io.k8s.api.admissionregistration.v1.MutatingAdmissionPolicyBinding',
  columns: bindingColumns<MutatingAdmissionPolicyBinding>(),
  status: false,
  setDefaults: (o) => defaultMatch(o.spec?.matchResources),
  validate: ({ spec }) =>
    spec
      ? [...validateBindingSpec(spec), ...validateOperations(spec.matchResources, 'spec.matchResources')]
      : [required('spec')],
};
