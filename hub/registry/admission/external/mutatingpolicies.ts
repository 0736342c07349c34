/** MutatingAdmissionPolicy (apiserver pkg/admission/plugin/policy/mutating). */
import { plainToCel } from '../../../../api/cel/admission.js';
import { COST_BUDGET, loadCel } from '../../../../api/cel/cel.js';
import { applyConfigurationOf, jsonPatchOf } from '../../../../api/cel/patches.js';
import { mutatingAdmissionPolicies, mutatingAdmissionPolicyBindings } from '../../../../api/kinds/index.js';
import type { Kind } from '../../../../api/kinds/kind.js';
import {
  type MutatingAdmissionPolicy,
  type MutatingAdmissionPolicyBinding,
  type Mutation,
  PATCH_TYPES,
} from '../../../../api/kinds/mutatingpolicies.js';
import type { Schema } from '../../../../api/kinds/schema.js';
import { ApiError, ForeignStatus, internalError } from '../../../../api/meta/errors.js';
import { deepCopy, deepEqual } from '../../../../api/meta/json.js';
import type { AnyObject } from '../../../../api/meta/object.js';
import type { Authorizer } from '../../../auth/attributes.js';
import type { Frozen } from '../../../client.js';
import { jsonPatch, TestFailed } from '../../patch.js';
import { atomicsOf, merge, problemsOf } from '../../typed.js';
import { settled, Unconverted } from '../../unconverted.js';
import { forbidden, type Plugin, type Request } from '../plugin.js';
import { Bindings, type Bound, invocationsOf, variablesOf } from './bindings.js';
import { conditionsHold, evaluate, Facts } from './conditions.js';
import { isExempt } from './match.js';
import { bodySchema, readPatched } from './patched.js';
import { Reinvocation } from './reinvocation.js';
import { objectsAs } from './request.js';
import type { ExternalParts } from './webhooks.js';

type Policy = Frozen<MutatingAdmissionPolicy>;
type Binding = Frozen<MutatingAdmissionPolicyBinding>;
type Json = Record<string, unknown>;

/** Why a policy could not do its work. */
interface Failure {
  readonly policy: Policy;
  readonly binding: Binding | undefined;
  readonly message: string;
  /** Kubernetes says Invalid of what went wrong at work, and Forbidden of what cannot begin. */
  readonly reason: 'Invalid' | 'Forbidden';
}

/** One policy with one parameter. */
interface Call {
  readonly policy: Policy;
  readonly binding: Binding;
  readonly as: Kind;
  readonly param: Frozen<AnyObject> | null;
}

/** Lays a configuration over an object, as server-side apply does. */
function applied(shown: Json, config: Json, schema: Schema): Json {
  const wrong = (why: string) => new Error(`error applying patch: ${why}`);
  const problems = problemsOf(config, schema);
  if (problems.length) {
    const text = problems.length === 1 ? problems[0] : `errors:\n  ${problems.slice(0, 100).join('\n  ')}`;
    throw wrong(`failed to convert patch object to typed object: ${text}`);
  }
  const atomics = atomicsOf(config, schema);
  if (atomics.length)
    throw wrong(
      `invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: ${atomics.join(', ')}`,
    );
  return deepCopy(merge(shown, config, schema)) as Json;
}

/** What JSON patch makes of an object; undefined when one of its tests fails. */
function jsonPatched(shown: Json, patch: readonly object[]): Json | undefined {
  try {
    return jsonPatch(deepCopy(shown), patch);
  } catch (e) {
    if (e instanceof TestFailed) return undefined;
    throw new Error(`JSON Patch: ${(e as Error).message.replace(/^the server rejected .*? request: /, '')}`);
  }
}

/** Runs one mutation on the request's object. Throws ApiError for what no failurePolicy forgives, and Unconverted. */
function mutateOnce(
  request: Request,
  { policy, as, param }: Call,
  mutation: Frozen<Mutation>,
  facts: Facts,
): void {
  const work = { left: COST_BUDGET };
  const values: Json = { ...facts.values, params: plainToCel(param) };
  values['variables'] = variablesOf(policy, values, work);
  const { field } = PATCH_TYPES[mutation.patchType!]!;
  const made = evaluate(mutation[field]!.expression!.trim(), values, work, true);
  const shown = objectsAs(request, as).object!;
  let next: Json | undefined;
  if (field === 'applyConfiguration') {
    const config = { ...applyConfigurationOf(made), apiVersion: shown.apiVersion, kind: shown.kind };
    next = applied(shown as Json, config, bodySchema(request, as, shown));
  } else next = jsonPatched(shown as Json, jsonPatchOf(made));
  if (!next) return;
  let read: ReturnType<typeof readPatched>;
  try {
    read = readPatched(request, as, shown, next as AnyObject);
  } catch (e) {
    if (e instanceof Unconverted) throw e;
    throw field === 'jsonPatch' ? internalError((e as Error).message) : new Error((e as Error).message);
  }
  if (read.unknown.length)
    throw internalError(
      `strict decoding error: ${read.unknown.map((f) => `unknown field ${JSON.stringify(f)}`).join(', ')}`,
    );
  request.object = read.object;
}

/** Who is asked, with what; found out before anyone changes anything. */
function callsOf(
  all: readonly Bound<Policy, Binding>[],
  request: Request,
  kinds: readonly Kind[],
  failures: Failure[],
): Call[] {
  return all.flatMap((bound) => {
    const { policy } = bound;
    const asked = invocationsOf(bound, request, kinds);
    return (asked?.invocations ?? []).flatMap((i) => {
      if ('params' in i)
        return i.params.map((param) => ({ policy, binding: i.binding, as: asked!.as, param }));
      failures.push({ policy, binding: i.binding, message: i.failure, reason: 'Forbidden' });
      return [];
    });
  });
}

const keyOf = ({ policy, binding, param }: Call): string =>
  JSON.stringify([
    policy.metadata?.name,
    binding.metadata?.name,
    param?.metadata?.namespace,
    param?.metadata?.name,
  ]);

async function mutateAll(
  request: Request,
  calls: readonly Call[],
  rounds: Reinvocation<string>,
  authorizer: Authorizer | undefined,
  failures: Failure[],
): Promise<void> {
  rounds.begin();
  let seen: { as: Kind; object: unknown; facts: Facts } | undefined;
  const factsAs = (as: Kind): Facts => {
    if (seen?.as !== as || seen.object !== request.object)
      seen = { as, object: request.object, facts: new Facts(request, as, authorizer) };
    return seen.facts;
  };
  for (const call of calls) {
    const { policy, binding, as, param } = call;
    const fail = (e: unknown) => {
      if (e instanceof ApiError) throw e;
      failures.push({ policy, binding, message: (e as Error).message, reason: 'Invalid' });
    };
    try {
      const values = () => ({ ...factsAs(as).values, params: plainToCel(param) });
      if (!(await settled(() => conditionsHold(policy.spec?.matchConditions, values)))) continue;
    } catch (e) {
      fail(e);
      continue;
    }
    const key = keyOf(call);
    if (rounds.skips(key)) continue;
    const before = request.object;
    for (const mutation of policy.spec?.mutations ?? [])
      if (request.object)
        try {
          await settled(() => mutateOnce(request, call, mutation, factsAs(as)));
        } catch (e) {
          fail(e);
        }
    if (!deepEqual(before, request.object)) rounds.changed();
    if (policy.spec?.reinvocationPolicy === 'IfNeeded') rounds.asked(key);
  }
  rounds.end();
}

/** The first failure is what the client is told; the code is that of Forbidden whatever the reason, as in Kubernetes. */
function refusal(request: Request, failures: readonly Failure[]): ApiError {
  const texts = failures.map(({ policy, binding, message }) => {
    const name = policy.metadata?.name;
    const who = binding ? `'${name}' with binding '${binding.metadata?.name}'` : JSON.stringify(name);
    return `policy ${who} denied request: ${message}`;
  });
  const status = forbidden(request, '').toStatus();
  return new ForeignStatus({
    ...status,
    code: status.code!,
    message: texts[0]!,
    reason: failures[0]!.reason,
    details: { ...status.details, causes: texts.map((message) => ({ message })) },
  });
}

export function mutatingPolicies(parts: ExternalParts): Plugin {
  const bindings = new Bindings<Policy, Binding>(mutatingAdmissionPolicies, mutatingAdmissionPolicyBindings);
  const progress = new WeakMap<Request, Reinvocation<string>>();

  async function mutate(request: Request, all: readonly Bound<Policy, Binding>[]): Promise<void> {
    // After a restart the first write that is asked about brings the language.
    await loadCel();
    const failures: Failure[] = [];
    const calls = callsOf(all, request, parts.kinds(), failures);
    if (calls.length) {
      const rounds = progress.get(request) ?? new Reinvocation<string>(request);
      progress.set(request, rounds);
      await mutateAll(request, calls, rounds, parts.authorizer(), failures);
    }
    const closed = failures.filter((f) => f.policy.spec?.failurePolicy !== 'Ignore');
    if (closed.length) throw refusal(request, closed);
  }

  return {
    name: 'MutatingAdmissionPolicy',
    // What is deleted has nothing to be changed.
    handles: ({ kind, operation }) => operation !== 'DELETE' && !isExempt(kind),
    mutate(request) {
      const all = bindings.of(request, request.world, parts.kinds());
      return all.length ? mutate(request, all) : undefined;
    },
  };
}
