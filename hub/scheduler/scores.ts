import type { PreferredSchedulingTerm } from 'kubernetes-types/core/v1.js';
import type { Frozen } from '../client.js';
import { isTolerated } from '../taints.js';
import { matchesTerm, type Wishes } from './filters.js';
import type { NodeInfo } from './snapshot.js';

interface Score {
  readonly weight: number;
  /** Any scale; scaled to 0 … 1 over all candidates when `relative`, else already 0 … 1. */
  readonly relative: boolean;
  of(w: Wishes, node: NodeInfo): number;
}

/** How much of cpu and memory would be left, 0 … 1, averaged (Kubernetes' LeastAllocated). */
function leastAllocated(w: Wishes, { allocatable, weight }: NodeInfo): number {
  let sum = 0;
  for (const name of ['cpu', 'memory']) {
    const all = allocatable[name] ?? 0;
    const used = (weight[name] ?? 0) + (w.pod.weight[name] ?? 0);
    sum += all > 0 ? Math.max(0, (all - used) / all) : 0;
  }
  return sum / 2;
}

/** Name → how good a node is for the pod; weights as in Kubernetes' default profile. */
export const SCORES = {
  LeastAllocated: { weight: 1, relative: false, of: leastAllocated },
  /** Replicas of one owner on different nodes: one lost device takes as few of them as can be. */
  OwnerSpread: {
    weight: 2,
    relative: true,
    of: (w, node) => -(w.pod.owner ? (node.owners.get(w.pod.owner) ?? 0) : 0),
  },
  PreferredNodeAffinity: {
    weight: 2,
    relative: true,
    of: (w, node) => {
      let sum = 0;
      const preferred = (w.pod.pod.spec?.affinity?.nodeAffinity
        ?.preferredDuringSchedulingIgnoredDuringExecution ??
        []) as readonly Frozen<PreferredSchedulingTerm>[];
      for (const p of preferred) if (matchesTerm(p.preference, node.labels, node.name)) sum += p.weight;
      return sum;
    },
  },
  PreferNoSchedule: {
    weight: 3,
    relative: true,
    of: (w, node) =>
      -node.taints.filter((t) => t.effect === 'PreferNoSchedule' && !isTolerated(t, w.tolerations)).length,
  },
} satisfies Record<string, Score>;

/**
 * The best of the candidates. Ties go by a hash of both names: the same for the same pod and node in whatever order
 * the nodes come, and different from pod to pod.
 */
export function best(w: Wishes, candidates: readonly NodeInfo[]): NodeInfo | undefined {
  const totals = new Float64Array(candidates.length);
  for (const score of Object.values<Score>(SCORES)) {
    const values = candidates.map((node) => score.of(w, node));
    let low = 0;
    let range = 1;
    if (score.relative) {
      low = Math.min(...values);
      range = Math.max(...values) - low || 1;
    }
    values.forEach((v, i) => {
      totals[i]! += (score.weight * (v - low)) / range;
    });
  }
  let found: NodeInfo | undefined;
  let top = Number.NEGATIVE_INFINITY;
  let topHash = 0;
  candidates.forEach((node, i) => {
    // Sums of the same parts may differ in the last bits.
    const total = Math.round(totals[i]! * 1e9);
    if (total < top) return;
    const h = hash(`${w.pod.key}\n${node.name}`);
    if (total === top && (h > topHash || (h === topHash && node.name > found!.name))) return;
    found = node;
    top = total;
    topHash = h;
  });
  return found;
}

/** FNV-1a, 32 bits. */
function hash(text: string): number {
  let h = 0x811c9dc5;
  for (let i = 0; i < text.length; i++) h = Math.imul(h ^ text.charCodeAt(i), 0x01000193);
  return h >>> 0;
}
