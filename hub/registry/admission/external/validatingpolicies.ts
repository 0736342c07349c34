/** ValidatingAdmissionPolicy (apiserver pkg/admission/plugin/policy/validating). */
import type { ValidatingAdmissionPolicy } from 'kubernetes-types/admissionregistration/v1.js';
import { plainToCel } from '../../../../api/cel/admission.js';
import { COST_BUDGET, celIsLoaded, loadCel } from '../../../../api/cel/cel.js';
import type { Work } from '../../../../api/cel/work.js';
import {
  validatingAdmissionPolicies,
  validatingAdmissionPolicyBindings,
} from '../../../../api/kinds/index.js';
import { ApiError, type StatusReason } from '../../../../api/meta/errors.js';
import type { AnyObject } from '../../../../api/meta/object.js';
import type { Frozen } from '../../../client.js';
import { forbidden, type Plugin, type Request } from '../plugin.js';
import { type Binding as AnyBinding, Bindings, type Bound, invocationsOf, variablesOf } from './bindings.js';
import { conditionsHold, evaluate, Facts } from './conditions.js';
import { isExempt, matchedKind } from './match.js';
import { inVersions } from './request.js';
import type { ExternalParts } from './webhooks.js';

type Policy = Frozen<ValidatingAdmissionPolicy>;
type Binding = AnyBinding & { readonly spec?: { readonly validationActions?: readonly string[] } };
type Values = Record<string, unknown>;

const MAX_MESSAGE = 5 * 1024;
const MAX_ANNOTATION = 10 * 1024;

interface Denial {
  readonly message: string;
  readonly reason?: string;
  /** Which of the validations; absent when the policy could not be asked. */
  readonly index?: number;
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
  const bindings = new Bindings<Policy, Binding>(
    validatingAdmissionPolicies,
    validatingAdmissionPolicyBindings,
  );

  function validate(request: Request, all: readonly Bound<Policy, Binding>[]): void {
    const kinds = parts.kinds();
    let refusal: ApiError | undefined;
    for (const bound of all) {
      const { policy } = bound;
      const asked = invocationsOf(bound, request, kinds);
      if (!asked) continue;
      const facts = new Facts(request, asked.as, parts.authorizer());
      const published = new Map<string, Set<string>>();
      for (const invocation of asked.invocations) {
        if ('failure' in invocation) {
          if (policy.spec?.failurePolicy === 'Ignore') continue;
          refusal ??= refuse(request, policy, invocation.binding, { message: invocation.failure });
          continue;
        }
        const { binding, params } = invocation;
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
