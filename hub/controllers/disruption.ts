import type { Pod } from 'kubernetes-types/core/v1.js';
import type { PodDisruptionBudget, PodDisruptionBudgetStatus } from 'kubernetes-types/policy/v1.js';
import { podDisruptionBudgets } from '../../api/kinds/index.js';
import { apiVersionOf, type Kind } from '../../api/kinds/kind.js';
import { deepEqual } from '../../api/meta/json.js';
import { type AnyObject, keyOf } from '../../api/meta/object.js';
import { formatSelector, matchesSelector, requirementsOf } from '../../api/meta/selector.js';
import type { Frozen } from '../client.js';
import { withDisruptionCondition } from '../registry/eviction.js';
import { type Context, errorText, ifThere, type Keys, type Reconcile } from './loop.js';
import { controllerOf, isReady, podsOf } from './pods.js';
import { resolveAmount } from './rollout.js';

type Budget = Frozen<PodDisruptionBudget>;
type P = Frozen<Pod>;

/** An evicted pod that is still not being deleted after so long will not be. */
const DELETION_TIMEOUT_MS = 2 * 60_000;

/** Keeps count of how many of a budget's pods may be evicted. */
export function disruptionLoop(ctx: Context, keys: Keys): Reconcile {
  const { client, informers, clock } = ctx;
  const events = ctx.recorder('controllermanager');
  const all = informers
    .of(podDisruptionBudgets)
    .index('namespace', (b) => [b.metadata!.namespace!])
    .onChange((key) => keys.add(key));
  const allPods = podsOf(informers)
    .index('namespace', (p) => [p.metadata!.namespace!])
    .onChange((_, now, before) => {
      for (const b of all.by('namespace', (now ?? before)!.metadata!.namespace!))
        if (
          [now, before].some(
            (p) => p && matchesSelector(b.spec?.selector as never, p.metadata?.labels as never),
          )
        )
          keys.add(keyOf(b as PodDisruptionBudget));
    });

  /** Replicas that the controller of a pod is to have: those of a Deployment for the pods of its ReplicaSets. */
  async function scaleOf(p: P): Promise<{ uid: string; replicas: number } | undefined> {
    let ref = controllerOf(p);
    for (let depth = 0; ref; depth++) {
      const wanted = ref;
      const kind = ctx.kinds.kinds.find(
        (k) => apiVersionOf(k) === wanted.apiVersion && k.kind === wanted.kind,
      );
      if (!kind) throw new Error(`found no controllers for pod ${JSON.stringify(p.metadata!.name)}`);
      if (!kind.scale)
        throw new Error(`${kind.plural}.${kind.group} does not implement the scale subresource`);
      const owner = (await ifThere(
        client.get(kind as Kind<AnyObject>, { namespace: p.metadata!.namespace, name: wanted.name }),
      )) as AnyObject | undefined;
      if (owner?.metadata?.uid !== wanted.uid)
        throw new Error(`found no controllers for pod ${JSON.stringify(p.metadata!.name)}`);
      const above = depth < 4 ? controllerOf(owner as never) : undefined;
      const hasScale =
        above &&
        ctx.kinds.kinds.some((k) => apiVersionOf(k) === above.apiVersion && k.kind === above.kind && k.scale);
      if (above && hasScale) {
        ref = above;
        continue;
      }
      const path = kind.scale.specReplicas.split('.').slice(1);
      const replicas = path.reduce<unknown>((o, k) => (o as Record<string, unknown> | undefined)?.[k], owner);
      return { uid: wanted.uid, replicas: Number(replicas ?? 0) };
    }
    return undefined;
  }

  /** How many pods there should be, and how many of them healthy. */
  async function expected(b: Budget, mine: readonly P[]): Promise<{ count: number; healthy: number }> {
    const { minAvailable, maxUnavailable } = b.spec as {
      minAvailable?: number | string;
      maxUnavailable?: number | string;
    };
    if (maxUnavailable === undefined && typeof minAvailable !== 'string')
      return { count: minAvailable === undefined ? 0 : mine.length, healthy: minAvailable ?? 0 };
    const scales = new Map<string, number>();
    let unmanaged = false;
    for (const p of mine) {
      const c = controllerOf(p);
      if (c && scales.has(c.uid)) continue;
      const scale = await scaleOf(p);
      if (scale) scales.set(scale.uid, scale.replicas);
      else unmanaged = true;
    }
    if (unmanaged)
      events.tell(
        podDisruptionBudgets,
        b as PodDisruptionBudget,
        'Warning',
        'UnmanagedPods',
        `Pods selected by this PodDisruptionBudget (selector: ${formatSelector(requirementsOf((b.spec?.selector ?? {}) as never))}) were found to be unmanaged. As a result, the status of the PDB cannot be calculated correctly, which may result in undefined behavior. To account for these pods please set ".spec.minAvailable" field of the PDB to an integer value.`,
      );
    const count = [...scales.values()].reduce((n, x) => n + x, 0);
    const healthy =
      maxUnavailable === undefined
        ? resolveAmount(minAvailable, count, Math.ceil)
        : Math.max(0, count - resolveAmount(maxUnavailable, count, Math.ceil));
    return { count, healthy };
  }

  return async (key) => {
    const b = all.get(key);
    if (!b || b.metadata?.deletionTimestamp) return undefined;
    const now = clock.now();
    const mine = allPods
      .by('namespace', b.metadata!.namespace!)
      .filter((p) => matchesSelector(b.spec?.selector as never, p.metadata?.labels as never));
    const generation = b.metadata!.generation;
    const write = async (status: PodDisruptionBudgetStatus) => {
      // Whole and with its revision: an eviction may have spent some of it meanwhile.
      if (!deepEqual(status, b.status))
        await ifThere(client.updateStatus(podDisruptionBudgets, { ...(b as PodDisruptionBudget), status }));
    };
    if (mine.length === 0)
      events.tell(
        podDisruptionBudgets,
        b as PodDisruptionBudget,
        'Normal',
        'NoPods',
        'No matching pods found',
      );
    let want: { count: number; healthy: number };
    try {
      want = await expected(b, mine);
    } catch (e) {
      const why = errorText(e);
      events.tell(
        podDisruptionBudgets,
        b as PodDisruptionBudget,
        'Warning',
        'CalculateExpectedPodCountFailed',
        `Failed to calculate the number of expected pods: ${why}`,
      );
      await write(
        withDisruptionCondition(
          { ...b.status!, disruptionsAllowed: 0 } as never,
          b.status?.observedGeneration,
          now,
          why,
        ),
      );
      throw e;
    }
    const evicted: Record<string, string> = {};
    let again = Number.POSITIVE_INFINITY;
    for (const p of mine) {
      const at = (b.status?.disruptedPods as Readonly<Record<string, string>> | undefined)?.[
        p.metadata!.name!
      ];
      if (!at || p.metadata?.deletionTimestamp) continue;
      const left = Date.parse(at) + DELETION_TIMEOUT_MS - now;
      if (left <= 0) continue;
      evicted[p.metadata!.name!] = at;
      again = Math.min(again, left);
    }
    const healthy = mine.filter(
      (p) => !p.metadata?.deletionTimestamp && !Object.hasOwn(evicted, p.metadata!.name!) && isReady(p),
    ).length;
    const allowed = want.count > 0 ? Math.max(0, healthy - want.healthy) : 0;
    await write(
      withDisruptionCondition(
        {
          ...(generation === undefined ? {} : { observedGeneration: generation }),
          ...(Object.keys(evicted).length ? { disruptedPods: evicted } : {}),
          disruptionsAllowed: allowed,
          currentHealthy: healthy,
          desiredHealthy: want.healthy,
          expectedPods: want.count,
          conditions: b.status?.conditions ?? [],
        } as never,
        generation,
        now,
      ),
    );
    return Number.isFinite(again) ? again : undefined;
  };
}
