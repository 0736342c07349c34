/** ValidatingAdmissionPolicy (apiserver pkg/admission/plugin/policy/validating). */
import type {
  ParamRef,
  ValidatingAdmissionPolicy,
  ValidatingAdmissionPolicyBinding,
} from 'kubernetes-types/admissionregistration/v1.js';
import type { LabelSelector } from 'kubernetes-types/meta/v1.js';
import { plainToCel } from '../../../../api/cel/admission.js';
import { COST_BUDGET, celIsLoaded, loadCel } from '../../../../api/cel/cel.js';
import type { Work } from '../../../../api/cel/work.js';
import type { Rule } from '../../../../api/kinds/admission-rules.js';
import {
  validatingAdmissionPolicies,
  validatingAdmissionPolicyBindings,
} from '../../../../api/kinds/index.js';
import { apiVersionOf, type Kind } from '../../../../api/kinds/kind.js';
import { ApiError, type StatusReason } from '../../../../api/meta/errors.js';
import type { AnyObject } from '../../../../api/meta/object.js';
import { matchesSelector } from '../../../../api/meta/selector.js';
import type { Frozen } from '../../../client.js';
import { forbidden, type Plugin, type Request, type Target, type World } from '../plugin.js';
import { conditionsHold, evaluate, Facts } from './conditions.js';
import { type Criteria, isExempt, matchedKind, selected } from './match.js';
import { inVersions } from './request.js';
import type { ExternalParts } from './webhooks.js';

type Policy = Frozen<ValidatingAdmissionPolicy>;
type Binding = Frozen<ValidatingAdmissionPolicyBinding>;
type Values = Record<string, unknown>;

const MAX_MESSAGE = 5 * 1024;
const MAX_ANNOTATION = 10 * 1024;

interface Bound {
  readonly policy: Policy;
  readonly criteria: Criteria;
  readonly bindings: readonly Binding[];
}

const criteriaOf = (m: NonNullable<Policy['spec']>['matchConstraints']): Criteria => ({
  rules: (m?.resourceRules ?? []) as readonly Frozen<Rule>[],
  excludeRules: (m?.excludeResourceRules ?? []) as readonly Frozen<Rule>[],
  ...(m?.matchPolicy ? { matchPolicy: m.matchPolicy } : {}),
  ...(m?.namespaceSelector ? { namespaceSelector: m.namespaceSelector } : {}),
  ...(m?.objectSelector ? { objectSelector: m.objectSelector } : {}),
});

/** A binding that says nothing about resources is about all that its policy is about. */
const EVERYTHING: readonly Frozen<Rule>[] = [
  { operations: ['*'], apiGroups: ['*'], apiVersions: ['*'], resources: ['*/*'] },
];
function bindingMatches(b: Binding, request: Request, kinds: readonly Kind[]): boolean {
  const m = b.spec?.matchResources;
  if (!m) return true;
  const c = criteriaOf(m);
  const criteria = c.rules?.length ? c : { ...c, rules: EVERYTHING };
  return matchedKind(criteria, request, kinds, request) !== undefined && selected(criteria, request);
}

/** Policies with bindings by target, kept while neither kind changes. */
class Bindings {
  #policies: readonly object[] | undefined;
  #bindings: readonly object[] | undefined;
  #kinds: readonly Kind[] | undefined;
  #bound: readonly Bound[] = [];
  readonly #byTarget = new Map<string, readonly Bound[]>();

  of(target: Target, world: World, kinds: readonly Kind[]): readonly Bound[] {
    const bindings = world.list(validatingAdmissionPolicyBindings as unknown as Kind);
    if (bindings.length === 0) return [];
    const policies = world.list(validatingAdmissionPolicies as unknown as Kind);
    if (policies !== this.#policies || bindings !== this.#bindings || kinds !== this.#kinds) {
      this.#policies = policies;
      this.#bindings = bindings;
      this.#kinds = kinds;
      this.#byTarget.clear();
      this.#bound = join(policies as readonly Policy[], bindings as readonly Binding[]);
    }
    const { operation, kind, subresource = '' } = target;
    const key = `${operation} ${kind.group}/${kind.version}/${kind.plural}/${subresource}`;
    let bound = this.#byTarget.get(key);
    if (!bound) {
      bound = this.#bound.filter((b) => matchedKind(b.criteria, target, kinds));
      this.#byTarget.set(key, bound);
    }
    return bound;
  }
}

function join(policies: readonly Policy[], bindings: readonly Binding[]): Bound[] {
  const byName = (a: { metadata?: { name?: string } }, b: { metadata?: { name?: string } }) =>
    (a.metadata?.name ?? '') < (b.metadata?.name ?? '') ? -1 : 1;
  return [...policies].sort(byName).flatMap((policy) => {
    const mine = bindings.filter((b) => b.spec?.policyName === policy.metadata?.name).sort(byName);
    return mine.length
      ? [{ policy, criteria: criteriaOf(policy.spec?.matchConstraints), bindings: mine }]
      : [];
  });
}

/** Objects that a policy is given, one evaluation for each; `null` where it has none. Throws what is wrong with it. */
function paramsOf(
  policy: Policy,
  ref: Frozen<ParamRef> | undefined,
  request: Request,
  kinds: readonly Kind[],
): (Frozen<AnyObject> | null)[] {
  const wanted = policy.spec?.paramKind;
  if (!wanted || !ref) return [null];
  const kind = kinds.find((k) => apiVersionOf(k) === wanted.apiVersion && k.kind === wanted.kind);
  if (!kind)
    throw new ConfigurationError(
      `failed to find resource referenced by paramKind: '${wanted.apiVersion}, Kind=${wanted.kind}'`,
    );
  let namespace: string | undefined;
  if (kind.namespaced) {
    namespace = ref.namespace || (request.kind.namespaced ? request.namespace : undefined);
    if (!namespace)
      throw new Error(
        'cannot use namespaced paramRef in policy binding that matches cluster-scoped resources',
      );
  } else if (ref.namespace)
    throw new Error('paramRef.namespace must not be provided for a cluster-scoped `paramKind`');
  let found: Frozen<AnyObject>[];
  if (ref.name) {
    const o = request.world.get(kind, { ...(namespace ? { namespace } : {}), name: ref.name });
    found = o ? [o] : [];
  } else
    found = request.world
      .scan(kind, namespace)
      .filter((o) => matchesSelector(ref.selector as LabelSelector, o.metadata?.labels));
  if (found.length === 0 && ref.parameterNotFoundAction !== 'Allow')
    throw new Error('no params found for policy binding with `Deny` parameterNotFoundAction');
  return found;
}

/** Something is wrong with the policy, whatever its binding says. */
class ConfigurationError extends Error {}

interface Denial {
  readonly message: string;
  readonly reason?: string;
  /** Which of the validations; absent when the policy could not be asked. */
  readonly index?: number;
}

/** `variables.name`, each found out when it is first read. */
function variablesOf(policy: Policy, values: Values, work: Work): object {
  const variables = {};
  for (const { name, expression } of policy.spec?.variables ?? []) {
    let state: { value: unknown } | { error: Error } | undefined;
    Object.defineProperty(variables, name, {
      enumerable: true,
      get(): unknown {
        if (!state) {
          state = { error: new Error(`variable ${name} is read while it is found out`) };
          try {
            state = { value: evaluate(expression, values, work) };
          } catch (e) {
            state = {
              error: new Error(`composited variable "${name}" fails to evaluate: ${(e as Error).message}`),
            };
          }
        }
        if ('error' in state) throw state.error;
        return state.value;
      },
    });
  }
  return variables;
}

type Validation = Frozen<NonNullable<NonNullable<ValidatingAdmissionPolicy['spec']>['validations']>[number]>;

function messageOf(v: Validation, values: Values, work: Work): string {
  if (v.messageExpression)
    try {
      const text = evaluate(v.messageExpression, values, work);
      if (
        typeof text === 'string' &&
        text.trim() &&
        text.length <= MAX_MESSAGE &&
        !/[\r\n]/.test(text.trim())
      )
        return text.trim();
    } catch {
      // As in Kubernetes, a message that cannot be made is not told.
    }
  return v.message?.trim() || `failed expression: ${v.expression.trim()}`;
}

/** Runs a policy with one parameter: what it denies, and what it wants audited. */
function judge(
  policy: Policy,
  facts: Facts,
  param: Frozen<AnyObject> | null,
): { denials: Denial[]; annotations: [string, string][] } {
  const { spec } = policy;
  const fails = spec?.failurePolicy !== 'Ignore';
  const denials: Denial[] = [];
  const annotations: [string, string][] = [];
  const work: Work = { left: COST_BUDGET };
  const values: Values = { ...facts.values, params: plainToCel(param) };
  try {
    if (!conditionsHold(spec?.matchConditions, () => values)) return { denials, annotations };
  } catch (e) {
    if (fails) denials.push({ message: (e as Error).message });
    return { denials, annotations };
  }
  values['variables'] = variablesOf(policy, values, work);
  for (const [index, v] of (spec?.validations ?? []).entries())
    try {
      if (evaluate(v.expression, values, work) === true) continue;
      const message = messageOf(v, values, work);
      denials.push({ message, index, ...(v.reason ? { reason: v.reason } : {}) });
    } catch (e) {
      if (fails) denials.push({ message: (e as Error).message, index });
    }
  for (const { key, valueExpression } of spec?.auditAnnotations ?? [])
    try {
      const text = evaluate(valueExpression.trim(), values, work);
      if (typeof text === 'string' && text.trim()) annotations.push([key, text.trim()]);
      else if (text !== null && typeof text !== 'string')
        throw new Error(
          `valueExpression '${valueExpression}' resulted in unsupported return type: ${typeof text}`,
        );
    } catch (e) {
      if (fails) denials.push({ message: (e as Error).message });
    }
  return { denials, annotations };
}

/** The first denial is what the client is told. */
function refuse(request: Request, policy: Policy, binding: Binding | undefined, d: Denial): ApiError {
  const by = binding ? ` with binding '${binding.metadata?.name}'` : '';
  const message = `ValidatingAdmissionPolicy '${policy.metadata?.name}'${by} denied request: ${d.message}`;
  const e = forbidden(request, message);
  return new ApiError((d.reason ?? 'Invalid') as StatusReason, e.message, {
    ...e.details,
    causes: [{ message }],
  });
}

export function validatingPolicies(parts: ExternalParts): Plugin {
  const bindings = new Bindings();

  function validate(request: Request, all: readonly Bound[]): void {
    const kinds = parts.kinds();
    let refusal: ApiError | undefined;
    for (const { policy, criteria, bindings } of all) {
      const as = matchedKind(criteria, request, kinds, request);
      if (!as || !selected(criteria, request)) continue;
      const facts = new Facts(request, as, parts.authorizer());
      const published = new Map<string, Set<string>>();
      for (const binding of bindings) {
        if (!bindingMatches(binding, request, kinds)) continue;
        let params: (Frozen<AnyObject> | null)[];
        try {
          params = paramsOf(policy, binding.spec?.paramRef, request, kinds);
        } catch (e) {
          if (policy.spec?.failurePolicy === 'Ignore') continue;
          const ofPolicy = e instanceof ConfigurationError;
          const message = `failed to configure ${ofPolicy ? 'policy' : 'binding'}: ${(e as Error).message}`;
          refusal ??= refuse(request, policy, ofPolicy ? undefined : binding, { message });
          continue;
        }
        for (const param of params) {
          const { denials, annotations } = judge(policy, facts, param);
          for (const d of denials) refusal = act(request, policy, binding, d) ?? refusal;
          for (const [key, text] of annotations)
            published.set(key, (published.get(key) ?? new Set()).add(text.slice(0, MAX_ANNOTATION)));
        }
      }
      for (const [key, texts] of published)
        request.annotate(`${policy.metadata?.name}/${key}`, [...texts].join(', '));
    }
    if (refusal) throw refusal;

    /** What a binding does about a denial; the error when it refuses and is the first to. */
    function act(r: Request, policy: Policy, binding: Binding, d: Denial): ApiError | undefined {
      const actions = (binding.spec?.validationActions ?? []) as readonly string[];
      const { name } = binding.metadata ?? {};
      if (actions.includes('Warn'))
        r.warn(
          `Validation failed for ValidatingAdmissionPolicy '${policy.metadata?.name}' with binding '${name}': ${d.message}`,
        );
      if (actions.includes('Audit'))
        r.annotate(
          'validation.policy.admission.k8s.io/validation_failure',
          JSON.stringify([
            {
              message: d.message,
              policy: policy.metadata?.name,
              binding: name,
              expressionIndex: d.index ?? 0,
              validationActions: actions,
            },
          ]),
        );
      return actions.includes('Deny') && !refusal ? refuse(r, policy, binding, d) : undefined;
    }
  }

  return {
    name: 'ValidatingAdmissionPolicy',
    handles: ({ kind }) => !isExempt(kind),
    validate(request) {
      const all = bindings.of(request, request.world, parts.kinds());
      if (all.length === 0) return undefined;
      const kinds = parts.kinds();
      const ready = inVersions(request, () =>
        all.map((b) => matchedKind(b.criteria, request, kinds, request)),
      );
      if (!ready && celIsLoaded()) {
        validate(request, all);
        return undefined;
      }
      // After a restart the first write that is asked about brings the language.
      return Promise.all([ready, loadCel()]).then(() => validate(request, all));
    },
  };
}
