import type { RuntimeClass } from 'kubernetes-types/node/v1.js';
import type { Frozen } from '../client.js';
import { objection, type Wishes, wishesOf } from './filters.js';
import { type Ledger, NodeInfo, type PodInfo, priorityOf } from './snapshot.js';

/** A node that has room for a pod once the victims have left it. */
export interface Preemption {
  readonly node: string;
  readonly victims: readonly PodInfo[];
}

/** Keeps sums of priorities in order whatever their signs (as Kubernetes does). */
const OFFSET = 2 ** 31;

const startOf = (p: PodInfo): number =>
  Date.parse(p.pod.status?.startTime ?? p.pod.metadata?.creationTimestamp ?? '') || 0;

/** The more important first: by priority, then by age. */
const byImportance = (a: PodInfo, b: PodInfo): number =>
  priorityOf(b) - priorityOf(a) || startOf(a) - startOf(b);

/**
 * Where the pod could go in the place of pods of lower priority, and which of them: as few and as unimportant as
 * possible (Kubernetes' DefaultPreemption). Pure. Only room and host ports are gained so: who stands in the way by
 * anti-affinity or spreading stays.
 */
export function preempt(
  pod: PodInfo,
  runtimeClass: Frozen<RuntimeClass> | undefined,
  ledger: Ledger,
): Preemption | undefined {
  if (!ledger.hasLower(pod)) return undefined;
  const wishes = wishesOf(pod, runtimeClass, ledger);
  const found: Preemption[] = [];
  for (const real of ledger.nodes.values()) {
    if (!real.node) continue;
    const victims = victimsOn(wishes, ledger.withNominated(real, pod));
    if (victims?.length) found.push({ node: real.name, victims });
  }
  const scored = found.map((p) => {
    const priorities = p.victims.map(priorityOf);
    const highest = Math.max(...priorities);
    const sum = priorities.reduce((s, x) => s + x + OFFSET, 0);
    const oldest = Math.min(...p.victims.filter((v) => priorityOf(v) === highest).map(startOf));
    return { p, score: [highest, sum, priorities.length, -oldest] };
  });
  scored.sort((a, b) => {
    const i = a.score.findIndex((x, at) => x !== b.score[at]);
    return i < 0 ? 0 : a.score[i]! - b.score[i]!;
  });
  return scored[0]?.p;
}

/** The fewest that have to go from a node; undefined when the pod cannot go there even without all of them. */
function victimsOn(wishes: Wishes, node: NodeInfo): PodInfo[] | undefined {
  const limit = priorityOf(wishes.pod);
  const lower = [...node.pods.values()].filter((p) => priorityOf(p) < limit);
  if (lower.length === 0) return undefined;
  const left = NodeInfo.copy(node);
  for (const p of lower) left.remove(p.uid);
  if (objection(wishes, left)) return undefined;
  return lower.sort(byImportance).filter((p) => {
    left.add(p);
    if (!objection(wishes, left)) return false;
    left.remove(p.uid);
    return true;
  });
}
