import type { NodeCondition } from 'kubernetes-types/core/v1.js';
import { rfc3339 } from '../../api/clock.js';
import { nodes } from '../../api/kinds/index.js';
import { type Context, ifThere, type Keys, type Reconcile } from './loop.js';

/** Kubernetes' node-startup-grace-period, milliseconds. */
const STARTUP_GRACE_MS = 60_000;
const CONDITIONS = ['MemoryPressure', 'DiskPressure', 'PIDPressure', 'Ready'];

/** Says of a node that somebody made and no agent ever told anything of that nothing is known of it. */
export function nodeStatusLoop(ctx: Context, keys: Keys): Reconcile {
  const all = ctx.informers.of(nodes).onChange((name, now) => {
    if (now && !now.status?.conditions?.length) keys.add(name);
  });
  return async (name) => {
    const node = all.get(name);
    if (!node || node.metadata?.deletionTimestamp || node.status?.conditions?.length) return;
    const now = ctx.clock.now();
    const left = Date.parse(node.metadata?.creationTimestamp ?? '') + STARTUP_GRACE_MS - now;
    if (left > 0) return keys.addAfter(name, left);
    const { uid, resourceVersion, creationTimestamp } = node.metadata!;
    const conditions = CONDITIONS.map(
      (type): NodeCondition => ({
        type,
        status: 'Unknown',
        reason: 'NodeStatusNeverUpdated',
        message: 'Kubelet never posted node status.',
        lastHeartbeatTime: creationTimestamp,
        lastTransitionTime: rfc3339(now),
      }),
    );
    await ifThere(
      ctx.client.patch(
        nodes,
        { name },
        { metadata: { uid, resourceVersion }, status: { conditions } },
        'status',
      ),
    );
  };
}
