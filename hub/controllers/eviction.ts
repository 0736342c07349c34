import type { Node, Pod } from 'kubernetes-types/core/v1.js';
import { rfc3339 } from '../../api/clock.js';
import { nodes, pods } from '../../api/kinds/index.js';
import type { Frozen } from '../client.js';
import { NOT_READY, tolerates, UNREACHABLE } from '../taints.js';
import { type Context, ifThere, type Keys, type Reconcile } from './loop.js';
import { noteDisruption } from './podgc.js';
import { hasEnded, podsOf } from './pods.js';

/**
 * Deletes pods from nodes with NoExecute taints, at once or after `tolerationSeconds`. Unlike Kubernetes it leaves
 * pods alone that say nothing about `not-ready` and `unreachable`: a device that lost its link goes on working.
 */
export function evictionLoop(ctx: Context, keys: Keys): Reconcile {
  const { client, informers, clock } = ctx;
  const events = ctx.recorder('taint-eviction-controller');
  const all = podsOf(informers);
  const known = informers.of(nodes).onChange((name, now) => {
    if (now && tainted(now)) keys.add(name);
  });
  all.onChange((_, now) => {
    const node = now?.spec?.nodeName;
    if (node && tainted(known.get(node))) keys.add(node);
  });

  return async (name) => {
    const node = known.get(name);
    if (!node || !tainted(node)) return undefined;
    const now = clock.now();
    let soonest = Number.POSITIVE_INFINITY;
    for (const p of all.by('node', name)) {
      if (p.metadata?.deletionTimestamp || hasEnded(p)) continue;
      const wait = evictIn(p, node, now);
      if (wait > 0) {
        soonest = Math.min(soonest, wait);
        continue;
      }
      const { namespace, name: pod, uid } = p.metadata!;
      await noteDisruption(
        client,
        p,
        'DeletionByTaintManager',
        'Taint manager: deleting due to NoExecute taint',
        rfc3339(now),
      );
      if (await ifThere(client.delete(pods, { namespace, name: pod! }, { uid }).then(() => true)))
        events.tell(
          pods,
          p as Pod,
          'Normal',
          'TaintManagerEviction',
          `Marking for deletion Pod ${namespace}/${pod}`,
        );
    }
    return Number.isFinite(soonest) ? soonest : undefined;
  };
}

const executing = (n: Frozen<Node> | undefined) =>
  (n?.spec?.taints ?? []).filter((t) => t.effect === 'NoExecute');
const tainted = (n: Frozen<Node> | undefined): boolean => executing(n).length > 0;

/** Milliseconds until the pod has to leave the node; 0: now; Infinity: never. */
export function evictIn(p: Frozen<Pod>, node: Frozen<Node>, now: number): number {
  let soonest = Number.POSITIVE_INFINITY;
  for (const taint of executing(node)) {
    const matching = (p.spec?.tolerations ?? []).filter((t) => tolerates(t, taint));
    if (matching.length === 0) {
      if (taint.key === NOT_READY || taint.key === UNREACHABLE) continue;
      return 0;
    }
    const seconds = Math.min(...matching.map((t) => t.tolerationSeconds ?? Number.POSITIVE_INFINITY));
    // nodetaints.ts dates every such taint; until it has, the time has not begun to run.
    const since = Math.min(now, Math.max(Date.parse(taint.timeAdded ?? '') || now, startOf(p)));
    soonest = Math.min(soonest, Math.max(0, since + seconds * 1000 - now));
  }
  return soonest;
}

/** A pod that came later has its time from then on. */
const startOf = (p: Frozen<Pod>): number => Date.parse(p.metadata?.creationTimestamp ?? '') || 0;
