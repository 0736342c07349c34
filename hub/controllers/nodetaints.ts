import { rfc3339 } from '../../api/clock.js';
import { nodes } from '../../api/kinds/index.js';
import { deepEqual } from '../../api/meta/json.js';
import { conditionTaints, MANAGED_TAINTS } from '../taints.js';
import { type Context, ifThere, type Keys, type Reconcile } from './loop.js';

/**
 * Keeps the taints that follow from a node's conditions (not ready, unreachable, pressure, cordoned) in its spec, and
 * dates every NoExecute taint: from then on tolerationSeconds are counted.
 */
export function nodeTaintsLoop(ctx: Context, keys: Keys): Reconcile {
  const all = ctx.informers.of(nodes).onChange((name, now) => {
    if (now) keys.add(name);
  });
  return async (name) => {
    const node = all.get(name);
    if (!node || node.metadata?.deletionTimestamp) return;
    const has = node.spec?.taints ?? [];
    const at = rfc3339(ctx.clock.now());
    const managed = conditionTaints(node).map(
      (t) => has.find((x) => x.key === t.key && x.effect === t.effect) ?? t,
    );
    const taints = [...has.filter((t) => !MANAGED_TAINTS.has(t.key!)), ...managed].map((t) =>
      t.effect === 'NoExecute' && !t.timeAdded ? { ...t, timeAdded: at } : t,
    );
    const view = (list: readonly unknown[]) => list.map((t) => JSON.stringify(t)).sort();
    if (deepEqual(view(taints), view(has))) return;
    await ifThere(
      ctx.client.patch(
        nodes,
        { name },
        {
          metadata: { uid: node.metadata!.uid, resourceVersion: node.metadata!.resourceVersion },
          spec: { taints: taints.length ? taints : null },
        },
      ),
    );
  };
}
