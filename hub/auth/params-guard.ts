/**
 * Who names parameters in an admission policy or binding must be able to read them (pkg/registry/admissionregistration
 * authz.go): policies show them to whoever is refused.
 */
import {
  mutatingAdmissionPolicies,
  mutatingAdmissionPolicyBindings,
  validatingAdmissionPolicies,
  validatingAdmissionPolicyBindings,
} from '../../api/kinds/index.js';
import { apiVersionOf, type Kind } from '../../api/kinds/kind.js';
import type { BindingSpec, PolicySpec } from '../../api/kinds/policy-parts.js';
import { forbidden, invalidObject } from '../../api/meta/field-errors.js';
import { deepEqual } from '../../api/meta/json.js';
import type { AnyObject, ObjectKey } from '../../api/meta/object.js';
import type { Guard, GuardedWrite } from '../registry/api.js';
import type { Authorizer, User } from './attributes.js';
import { userOf } from './reviews.js';

/** What is served, and what is there. */
export interface Directory {
  readonly kinds: () => readonly Kind[];
  readonly world: { get(kind: Kind, key: ObjectKey): unknown };
}

const asKind = (declared: object): Kind => declared as Kind;
const POLICIES: ReadonlySet<Kind> = new Set(
  [validatingAdmissionPolicies, mutatingAdmissionPolicies].map(asKind),
);
/** By binding. */
const POLICY_OF: ReadonlyMap<Kind, Kind> = new Map([
  [asKind(validatingAdmissionPolicyBindings), asKind(validatingAdmissionPolicies)],
  [asKind(mutatingAdmissionPolicyBindings), asKind(mutatingAdmissionPolicies)],
]);

const specOf = <S>(o: unknown): S | undefined => (o as { spec?: S } | undefined)?.spec;

/** As Go prints it. */
function userText({ name, uid = '', groups, extra = {} }: User): string {
  const more = Object.entries(extra).map(([k, v]) => `${k}:[${v.join(' ')}]`);
  return `&{${name} ${uid} [${groups.join(' ')}] map[${more.sort().join(' ')}]}`;
}

/** Group and resource of a paramKind; everything where there is no such kind. */
function resourceOf(
  { kinds }: Directory,
  k: PolicySpec['paramKind'],
): { group: string; resource: string; found: boolean } {
  const kind = kinds().find((x) => apiVersionOf(x) === k?.apiVersion && x.kind === k?.kind);
  if (kind) return { group: kind.group, resource: kind.plural, found: true };
  const [, group = ''] = (k?.apiVersion ?? '').split('/').reverse();
  return { group: k ? group : '*', resource: '*', found: false };
}

export const paramsGuard =
  (authorizer: Authorizer, directory: Directory): Guard =>
  (ctx, write) => {
    if (write.verb === 'delete' || write.subresource) return;
    const binds = POLICY_OF.get(write.kind);
    if (!binds && !POLICIES.has(write.kind)) return;
    if (ctx.groups.includes('system:masters')) return;
    const user = userOf(ctx);
    const why = binds
      ? bindingProblem(authorizer, directory, user, binds, write)
      : policyProblem(authorizer, directory, user, write);
    if (!why) return;
    const field = binds ? 'spec.paramRef' : 'spec.paramKind';
    throw invalidObject(write.kind, write.next.metadata?.name ?? '', [forbidden(field, why)]);
  };

function policyProblem(
  authorizer: Authorizer,
  directory: Directory,
  user: User,
  { next, current }: GuardedWrite,
): string | undefined {
  const wanted = specOf<PolicySpec>(next)?.paramKind;
  if (!wanted || deepEqual(wanted, specOf<PolicySpec>(current)?.paramKind)) return undefined;
  const { group, resource } = resourceOf(directory, wanted);
  const what = { verb: 'get', group, resource, namespace: '*', name: '*' };
  if (authorizer.authorize(user, what).allowed) return undefined;
  return `user ${userText(user)} must have "get" permission on all objects of the referenced paramKind (kind=${wanted.kind}, apiVersion=${wanted.apiVersion})`;
}

function bindingProblem(
  authorizer: Authorizer,
  directory: Directory,
  user: User,
  policies: Kind,
  { next, current }: GuardedWrite,
): string | undefined {
  const { paramRef: ref, policyName = '' } = specOf<BindingSpec>(next) ?? {};
  const before = specOf<BindingSpec>(current);
  if (!ref || (deepEqual(ref, before?.paramRef) && policyName === before?.policyName)) return undefined;
  const policy = directory.world.get(policies, { name: policyName }) as AnyObject | undefined;
  const wanted = specOf<PolicySpec>(policy)?.paramKind;
  const { group, resource, found } = resourceOf(directory, wanted);
  const verb = ref.name ? 'get' : 'list';
  const what = {
    verb,
    group,
    resource,
    ...(ref.namespace ? { namespace: ref.namespace } : {}),
    ...(ref.name ? { name: ref.name } : {}),
  };
  if (authorizer.authorize(user, what).allowed) return undefined;
  const all = `permission for all groups, versions and resources`;
  const lacks = `user ${userText(user)} does not have "${verb}"`;
  if (!policy)
    return `unable to get policy ${policyName} to determine minimum required permissions and ${lacks} ${all}`;
  if (wanted && !found)
    return `unable to resolve paramKind &ParamKind{APIVersion:${wanted.apiVersion},Kind:${wanted.kind},} to determine minimum required permissions and ${lacks} ${all}`;
  return `${lacks} permission on the object referenced by paramRef`;
}
