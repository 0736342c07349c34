import type { ClusterRole } from 'kubernetes-types/rbac/v1.js';
import { clusterRoles } from '../../api/kinds/index.js';
import { deepEqual } from '../../api/meta/json.js';
import { aggregate } from '../auth/bootstrap.js';
import { type Context, ifThere, type Keys, type Reconcile } from './loop.js';

/** Gives each ClusterRole with an aggregation rule the rules of those that it selects. */
export function aggregationLoop(ctx: Context, keys: Keys): Reconcile {
  const all = ctx.informers.of(clusterRoles);
  // Called at once for what is there already.
  all.onChange(() => {
    // Any role may be a part of any other by its labels; there are few that aggregate.
    for (const r of all.values()) if (r.aggregationRule) keys.add(r.metadata!.name!);
  });
  return async (name) => {
    const role = all.get(name);
    if (!role?.aggregationRule || role.metadata?.deletionTimestamp) return;
    const rules = aggregate(role, all.values());
    if (deepEqual(rules, role.rules ?? [])) return;
    const patch: Pick<ClusterRole, 'rules'> = { rules: structuredClone(rules) as ClusterRole['rules'] };
    await ifThere(ctx.client.patch(clusterRoles, { name }, patch));
  };
}
