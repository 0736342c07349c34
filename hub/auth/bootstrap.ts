import type { ClusterRole, ClusterRoleBinding, PolicyRule } from 'kubernetes-types/rbac/v1.js';
import { clusterRoleBindings, clusterRoles } from '../../api/kinds/index.js';
import { isApiError } from '../../api/meta/errors.js';
import { deepEqual } from '../../api/meta/json.js';
import { matchesSelector } from '../../api/meta/selector.js';
import type { Client, Frozen } from '../client.js';
import { defaultClusterRoleBindings, defaultClusterRoles } from './defaults.js';
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

/**
 * Makes the default roles and bindings, and adds to those that are there what they lack, unless they are marked
 * `autoupdate: "false"` (Kubernetes' auto-reconciliation at start). What administrators added stays.
 */
export async function bootstrapRbac(client: Client): Promise<void> {
  const existing = async <T>(get: Promise<Frozen<T>>): Promise<Frozen<T> | undefined> => {
    try {
      return await get;
    } catch (e) {
      if (isApiError(e, 'NotFound')) return undefined;
      throw e;
    }
  };
  const mayChange = (o: { metadata?: { readonly annotations?: Readonly<Record<string, string>> } }) =>
    o.metadata?.annotations?.[AUTOUPDATE] !== 'false';

  const ensureRole = async (wanted: ClusterRole) => {
    const there = await existing<ClusterRole>(client.get(clusterRoles, { name: wanted.metadata!.name! }));
    if (!there) return void (await client.create(clusterRoles, wanted));
    if (!mayChange(there) || there.aggregationRule) return;
    const held = (there.rules ?? []) as Rule[];
    const lacking = notCovered(held, (wanted.rules ?? []) as Rule[]);
    if (lacking.length)
      await client.patch(clusterRoles, { name: wanted.metadata!.name! }, { rules: [...held, ...lacking] });
  };
  const ensureBinding = async (wanted: ClusterRoleBinding) => {
    const { name } = wanted.metadata!;
    const there = await existing<ClusterRoleBinding>(client.get(clusterRoleBindings, { name: name! }));
    if (!there) return void (await client.create(clusterRoleBindings, wanted));
    if (!mayChange(there)) return;
    const held = there.subjects ?? [];
    const lacking = (wanted.subjects ?? []).filter((s) => !held.some((h) => deepEqual(h, s)));
    if (lacking.length)
      await client.patch(clusterRoleBindings, { name: name! }, { subjects: [...held, ...lacking] });
  };
  await Promise.all([
    ...fill(defaultClusterRoles()).map(ensureRole),
    ...defaultClusterRoleBindings().map(ensureBinding),
  ]);
}
