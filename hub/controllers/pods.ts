import type { Pod } from 'kubernetes-types/core/v1.js';
import type { OwnerReference } from 'kubernetes-types/meta/v1.js';
import { pods } from '../../api/kinds/index.js';
import type { KubeObject } from '../../api/meta/object.js';
import type { Frozen } from '../client.js';
import type { Informer, Informers } from '../informer.js';

/** The informer of pods with the indexes that control loops share. */
export const podsOf = (informers: Informers): Informer<Pod> =>
  informers
    .of(pods)
    .index('controller', (p) => {
      const c = controllerOf(p);
      return c ? [c.uid] : [];
    })
    .index('orphans', (p) => (controllerOf(p) ? [] : [p.metadata?.namespace ?? '']))
    .index('node', (p) => (p.spec?.nodeName ? [p.spec.nodeName] : []));

export const controllerOf = (o: Frozen<KubeObject>): Frozen<OwnerReference> | undefined =>
  o.metadata?.ownerReferences?.find((r) => r.controller);

export const hasEnded = (p: Frozen<Pod>): boolean =>
  p.status?.phase === 'Succeeded' || p.status?.phase === 'Failed';

/** Counts as a replica: it has not ended and is not being deleted. */
export const isActive = (p: Frozen<Pod>): boolean => !hasEnded(p) && !p.metadata?.deletionTimestamp;

const readyCondition = (p: Frozen<Pod>) => p.status?.conditions?.find((c) => c.type === 'Ready');

export const isReady = (p: Frozen<Pod>): boolean => readyCondition(p)?.status === 'True';

/** Unix milliseconds since when the pod has been ready (or unready); 0 when it never said. */
export const readySince = (p: Frozen<Pod>): number =>
  Date.parse(readyCondition(p)?.lastTransitionTime ?? '') || 0;

/** A node's clock may be ahead of ours by so much before we stop believing its timestamps. */
const CLOCK_SKEW_MS = 10_000;

/** Milliseconds until the pod counts as available; 0: it does; Infinity: it is not ready. */
export function availableIn(p: Frozen<Pod>, minReadySeconds: number, now: number): number {
  if (!isReady(p)) return Number.POSITIVE_INFINITY;
  if (minReadySeconds <= 0) return 0;
  const since = readySince(p);
  // Of a node that lives in the future we cannot tell how long the pod has been ready; waiting could take years.
  if (since > now + CLOCK_SKEW_MS) return 0;
  return Math.max(0, since + minReadySeconds * 1000 - now);
}

const restarts = (p: Frozen<Pod>): number =>
  Math.max(0, ...(p.status?.containerStatuses ?? []).map((c) => c.restartCount ?? 0));

const deletionCost = (p: Frozen<Pod>): number =>
  Number.parseInt(p.metadata?.annotations?.['controller.kubernetes.io/pod-deletion-cost'] ?? '0', 10) || 0;

const PHASES: Readonly<Record<string, number>> = { Pending: 0, Unknown: 1, Running: 2 };

/** Of similar ages, so that among old pods chance decides and not seconds. */
const ageClass = (since: number, now: number): number =>
  Math.floor(Math.log2(Math.max(1, (now - since) / 1000)));

/**
 * In which order a ReplicaSet gives up pods (Kubernetes' ActivePodsWithRanks): those that do least good first.
 * `together`: how many replicas there are on a node, by its name.
 */
export function leastValuableFirst(
  all: readonly Frozen<Pod>[],
  together: (node: string) => number,
  now: number,
): Frozen<Pod>[] {
  const created = (p: Frozen<Pod>) => Date.parse(p.metadata?.creationTimestamp ?? '') || 0;
  // Smaller goes first.
  const ranks: ((p: Frozen<Pod>) => number | string)[] = [
    (p) => (p.spec?.nodeName ? 1 : 0),
    (p) => PHASES[p.status?.phase ?? 'Pending'] ?? 0,
    (p) => (isReady(p) ? 1 : 0),
    deletionCost,
    (p) => (p.spec?.nodeName ? -together(p.spec.nodeName) : 0),
    (p) => (isReady(p) ? ageClass(readySince(p), now) : 0),
    (p) => -restarts(p),
    (p) => ageClass(created(p), now),
    (p) => p.metadata?.uid ?? '',
  ];
  return all
    .map((p) => ({ p, rank: ranks.map((r) => r(p)) }))
    .sort((a, b) => {
      for (let i = 0; i < ranks.length; i++) {
        if (a.rank[i]! < b.rank[i]!) return -1;
        if (a.rank[i]! > b.rank[i]!) return 1;
      }
      return 0;
    })
    .map((x) => x.p);
}
