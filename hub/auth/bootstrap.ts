import type { ObjectMeta } from 'kubernetes-types/meta/v1.js';
import type {
  ClusterRole,
  ClusterRoleBinding,
  PolicyRule,
  Role,
  RoleBinding,
  Subject,
} from 'kubernetes-types/rbac/v1.js';
import { clusterRoleBindings, clusterRoles, roleBindings, roles } from '../../api/kinds/index.js';
import type { Kind } from '../../api/kinds/kind.js';
import { isApiError } from '../../api/meta/errors.js';
import { deepEqual } from '../../api/meta/json.js';
import { matchesSelector } from '../../api/meta/selector.js';
import type { Client, Frozen } from '../client.js';
import {
  defaultClusterRoleBindings,
  defaultClusterRoles,
  defaultRoleBindings,
  defaultRoles,
} from './defaults.js';
import { notCovered, type Rule } from './rules.js';

const AUTOUPDATE = 'rbac.authorization.kubernetes.io/autoupdate';

/** The rules of an aggregated role: those of every other role that it selects, by name, each once. */
export function aggregate(
  role: Frozen<ClusterRole>,
  all: Iterable<Frozen<ClusterRole>>,
): Frozen<PolicyRule>[] {
  const rules: Frozen<PolicyRule>[] = [];
  const selectors = role.aggregationRule?.clusterRoleSelectors ?? [];
  const chosen = [...all]
    .filter((r) => r.metadata?.name !== role.metadata?.name)
    .filter((r) => selectors.some((s) => matchesSelector(s, r.metadata?.labels)))
    .sort((a, b) => (a.metadata!.name! < b.metadata!.name! ? -1 : 1));
  for (const r of chosen)
    for (const rule of (r.rules ?? []) as Frozen<PolicyRule>[])
      if (!rules.some((known) => deepEqual(known, rule))) rules.push(rule);
  return rules;
}

/** Gives aggregated roles the rules that they will have, so that they work from the first request on. */
function fill(all: ClusterRole[]): ClusterRole[] {
  // A role may take in another that is aggregated itself; as many rounds as there can be steps.
  for (let i = 0; i < all.length; i++) {
    let changed = false;
    for (const r of all) {
      if (!r.aggregationRule) continue;
      const rules = aggregate(r, all) as PolicyRule[];
      if (deepEqual(rules, r.rules)) continue;
      r.rules = rules;
      changed = true;
    }
    if (!changed) break;
  }
  return all;
}

/** Keeps what an administrator made of it: marked so, it is left alone. */
const mayChange = (o: Frozen<{ metadata?: ObjectMeta }>): boolean =>
  o.metadata?.annotations?.[AUTOUPDATE] !== 'false';

async function existing<T>(get: Promise<Frozen<T>>): Promise<Frozen<T> | undefined> {
  try {
    return await get;
  } catch (e) {
    if (isApiError(e, 'NotFound')) return undefined;
    throw e;
  }
}

/** Makes a role, or adds the rules to it that it lacks. */
async function ensureRole<T extends Role | ClusterRole>(client: Client, kind: Kind<T>, wanted: T) {
  const { name, namespace } = wanted.metadata!;
  const there = await existing<T>(client.get(kind, { namespace, name: name! }));
  if (!there) return void (await client.create(kind, wanted));
  if (!mayChange(there) || 'aggregationRule' in there) return;
  const held = (there.rules ?? []) as Rule[];
  const lacking = notCovered(held, (wanted.rules ?? []) as Rule[]);
  if (lacking.length) await client.patch(kind, { namespace, name: name! }, { rules: [...held, ...lacking] });
}

/** Makes a binding, or adds the subjects to it that it lacks. */
async function ensureBinding<T extends RoleBinding | ClusterRoleBinding>(
  client: Client,
  kind: Kind<T>,
  wanted: T,
) {
  const { name, namespace } = wanted.metadata!;
  const there = await existing<T>(client.get(kind, { namespace, name: name! }));
  if (!there) return void (await client.create(kind, wanted));
  if (!mayChange(there)) return;
  const held = (there.subjects ?? []) as Subject[];
  const lacking = (wanted.subjects ?? []).filter((s) => !held.some((h) => deepEqual(h, s)));
  if (lacking.length)
    await client.patch(kind, { namespace, name: name! }, { subjects: [...held, ...lacking] });
}

/**
 * Makes the default cluster roles and bindings, and adds to those that are there what they lack, unless they are marked
 * `autoupdate: "false"` (Kubernetes' auto-reconciliation at start). What administrators added stays.
 */
export async function bootstrapRbac(client: Client): Promise<void> {
  await Promise.all([
    ...fill(defaultClusterRoles()).map((r) => ensureRole(client, clusterRoles, r)),
    ...defaultClusterRoleBindings().map((b) => ensureBinding(client, clusterRoleBindings, b)),
  ]);
}

/** The same in kube-system and kube-public, which must be there. */
export async function bootstrapNamespaceRbac(client: Client): Promise<void> {
  await Promise.all([
    ...defaultRoles().map((r) => ensureRole(client, roles, r)),
    ...defaultRoleBindings().map((b) => ensureBinding(client, roleBindings, b)),
  ]);
}
