/** Policies, their bindings and parameters: what validating and mutating ones share (apiserver policy/generic). */
import type { LabelSelector } from 'kubernetes-types/meta/v1.js';
import type { Work } from '../../../../api/cel/work.js';
import type { Rule } from '../../../../api/kinds/admission-rules.js';
import { apiVersionOf, type Kind } from '../../../../api/kinds/kind.js';
import type { BindingSpec, PolicySpec } from '../../../../api/kinds/policy-parts.js';
import type { AnyObject } from '../../../../api/meta/object.js';
import { matchesSelector } from '../../../../api/meta/selector.js';
import type { Frozen } from '../../../client.js';
import type { Request, Target, World } from '../plugin.js';
import { evaluate } from './conditions.js';
import { type Criteria, matchedKind, selected } from './match.js';

interface Named {
  readonly metadata?: { readonly name?: string };
}
export type Policy = Named & { readonly spec?: Frozen<PolicySpec> };
export type Binding = Named & { readonly spec?: Frozen<BindingSpec> };
type Values = Record<string, unknown>;

export interface Bound<P extends Policy, B extends Binding> {
  readonly policy: P;
  readonly criteria: Criteria;
  readonly bindings: readonly B[];
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
export class Bindings<P extends Policy, B extends Binding> {
  #policies: readonly object[] | undefined;
  #bindings: readonly object[] | undefined;
  #kinds: readonly Kind[] | undefined;
  #bound: readonly Bound<P, B>[] = [];
  readonly #byTarget = new Map<string, readonly Bound<P, B>[]>();

  constructor(
    private readonly policyKind: object,
    private readonly bindingKind: object,
  ) {}

  of(target: Target, world: World, kinds: readonly Kind[]): readonly Bound<P, B>[] {
    const bindings = world.list(this.bindingKind as Kind);
    if (bindings.length === 0) return [];
    const policies = world.list(this.policyKind as Kind);
    if (policies !== this.#policies || bindings !== this.#bindings || kinds !== this.#kinds) {
      this.#policies = policies;
      this.#bindings = bindings;
      this.#kinds = kinds;
      this.#byTarget.clear();
      this.#bound = join(policies as readonly P[], bindings as unknown as readonly B[]);
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

function join<P extends Policy, B extends Binding>(
  policies: readonly P[],
  bindings: readonly B[],
): Bound<P, B>[] {
  const byName = (a: Named, b: Named) => ((a.metadata?.name ?? '') < (b.metadata?.name ?? '') ? -1 : 1);
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
  { spec }: Binding,
  request: Request,
  kinds: readonly Kind[],
): (Frozen<AnyObject> | null)[] {
  const ref = spec?.paramRef;
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

/** A binding that is about a request, with what it parameterizes its policy with, or why that cannot be told. */
export type Invocation<B extends Binding> =
  | { readonly binding: B; readonly params: readonly (Frozen<AnyObject> | null)[] }
  | { readonly binding: B | undefined; readonly failure: string };

/** The version in which a policy is asked about a request, and with which bindings; undefined when it is not asked. */
export function invocationsOf<P extends Policy, B extends Binding>(
  { policy, criteria, bindings }: Bound<P, B>,
  request: Request,
  kinds: readonly Kind[],
): { as: Kind; invocations: Invocation<B>[] } | undefined {
  const as = matchedKind(criteria, request, kinds, request);
  if (!as || !selected(criteria, request)) return undefined;
  const matching = bindings.filter((b) => bindingMatches(b, request, kinds));
  const invocations = matching.map((binding): Invocation<B> => {
    try {
      return { binding, params: paramsOf(policy, binding, request, kinds) };
    } catch (e) {
      const ofPolicy = e instanceof ConfigurationError;
      const failure = `failed to configure ${ofPolicy ? 'policy' : 'binding'}: ${(e as Error).message}`;
      return { binding: ofPolicy ? undefined : binding, failure };
    }
  });
  return { as, invocations };
}

/** `variables.name`, each found out when it is first read. */
export function variablesOf(policy: Policy, values: Values, work: Work): object {
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
