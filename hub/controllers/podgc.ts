import type { Pod } from 'kubernetes-types/core/v1.js';
import { rfc3339 } from '../../api/clock.js';
import { nodes, pods } from '../../api/kinds/index.js';
import { isApiError } from '../../api/meta/errors.js';
import { keyOf } from '../../api/meta/object.js';
import type { Client, Frozen } from '../client.js';
import { type Context, ifThere, type Keys, type Reconcile } from './loop.js';
import { hasEnded, podsOf } from './pods.js';

/** Kubernetes' quarantine before a node that is gone counts as gone. */
const QUARANTINE_MS = 40_000;

/**
 * Removes pods that nobody else will: of nodes that no longer exist, deleted before they were ever placed, and ended
 * ones beyond `keepEnded`, oldest first.
 */
export function podGcLoop(keepEnded: number) {
  return (ctx: Context, keys: Keys): Reconcile => {
    const { client, informers, clock } = ctx;
    const all = podsOf(informers).index('ended', (p) => (hasEnded(p) ? [''] : []));
    const known = informers.of(nodes).onChange((name, now) => {
      if (!now) keys.addAfter(`node/${name}`, QUARANTINE_MS);
    });
    all.onChange((key, now) => {
      if (!now) return;
      const node = now.spec?.nodeName;
      // The node's own event may be still to come; afterwards we shall know better.
      if (node && !known.get(node)) keys.addAfter(`node/${node}`, QUARANTINE_MS);
      if (!node && now.metadata?.deletionTimestamp) keys.add(`pod/${key}`);
      if (hasEnded(now) && all.count('ended', '') > keepEnded) keys.add('ended/');
    });

    const chores: Record<string, (name: string) => Promise<void>> = {
      async node(name) {
        if (known.get(name) || all.count('node', name) === 0) return;
        if (await ifThere(client.get(nodes, { name }))) return;
        for (const p of all.by('node', name)) {
          if (!hasEnded(p))
            await noteDisruption(
              client,
              p,
              'DeletionByPodGC',
              'PodGC: node no longer exists',
              rfc3339(clock.now()),
              'Failed',
            );
          await remove(p);
        }
      },
      async pod(key) {
        const p = all.get(key);
        if (p?.metadata?.deletionTimestamp && !p.spec?.nodeName) await remove(p);
      },
      async ended() {
        const born = (p: Frozen<Pod>) => Date.parse(p.metadata?.creationTimestamp ?? '') || 0;
        const surplus = all
          .by('ended', '')
          .sort((a, b) => born(a) - born(b) || (keyOf(a as Pod) < keyOf(b as Pod) ? -1 : 1));
        for (const p of surplus.slice(0, Math.max(0, surplus.length - keepEnded)))
          if (!p.metadata?.deletionTimestamp) await remove(p);
      },
    };
    const remove = (p: Frozen<Pod>) => {
      const { namespace, name, uid } = p.metadata!;
      return ifThere(client.delete(pods, { namespace, name: name! }, { uid, gracePeriodSeconds: 0 }));
    };

    return async (key) => {
      const slash = key.indexOf('/');
      await chores[key.slice(0, slash)]!(key.slice(slash + 1));
    };
  };
}

/** Says on a pod that something from outside ends it (condition DisruptionTarget), and optionally sets its phase. */
export async function noteDisruption(
  client: Client,
  p: Frozen<Pod>,
  reason: string,
  message: string,
  at: string,
  phase?: 'Failed',
): Promise<void> {
  const others = (p.status?.conditions ?? []).filter((c) => c.type !== 'DisruptionTarget');
  const condition = { type: 'DisruptionTarget', status: 'True', reason, message, lastTransitionTime: at };
  const { namespace, name, uid } = p.metadata!;
  try {
    await client.patch(
      pods,
      { namespace, name: name! },
      { metadata: { uid }, status: { conditions: [...others, condition], ...(phase ? { phase } : {}) } },
      'status',
    );
  } catch (e) {
    if (!isApiError(e, 'NotFound') && !isApiError(e, 'Conflict')) throw e;
  }
}
