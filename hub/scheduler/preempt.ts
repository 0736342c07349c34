import type { LabelSelector } from 'kubernetes-types/meta/v1.js';
import type { RuntimeClass } from 'kubernetes-types/node/v1.js';
import type { PodDisruptionBudget } from 'kubernetes-types/policy/v1.js';
import { matchesSelector } from '../../api/meta/selector.js';
import type { Frozen } from '../client.js';
import { objection, wishesOf } from './filters.js';
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

/** Found nodes among which to choose are enough, however many there are. */
const ENOUGH = 100;

/**
 * Where the pod could go in the place of pods of lower priority, and which of them: as few and as unimportant as
 * possible, and none that its budget guards unless nothing else helps (Kubernetes' DefaultPreemption). Pure.
 */
export function preempt(
  pod: PodInfo,
  runtimeClass: Frozen<RuntimeClass> | undefined,
  ledger: Ledger,
  budgets: readonly Frozen<PodDisruptionBudget>[] = [],
): Preemption | undefined {
  if (!ledger.hasLower(pod)) return undefined;
  const wishes = wishesOf(pod, runtimeClass, ledger);
  const fits = (left: NodeInfo): boolean => {
    // Who leaves no longer counts where pods are to be spread, together or apart.
    const w = wishes.topology.none ? wishes : wishesOf(pod, runtimeClass, ledger.seenWith(left));
    return objection(w, left) === undefined;
  };
  const found: (Preemption & { violations: number })[] = [];
  for (const real of ledger.nodes.values()) {
    if (!real.node) continue;
    const choice = victimsOn(pod, ledger.withNominated(real, pod), fits, budgets);
    if (choice?.victims.length) found.push({ node: real.name, ...choice });
    if (found.length >= ENOUGH) break;
  }
  const scored = found.map((p) => {
    const priorities = p.victims.map(priorityOf);
    const highest = Math.max(...priorities);
    const sum = priorities.reduce((s, x) => s + x + OFFSET, 0);
    const oldest = Math.min(...p.victims.filter((v) => priorityOf(v) === highest).map(startOf));
    return { p, score: [p.violations, highest, sum, priorities.length, -oldest] };
  });
  scored.sort((a, b) => {
    const i = a.score.findIndex((x, at) => x !== b.score[at]);
    return i < 0 ? 0 : a.score[i]! - b.score[i]!;
  });
  return scored[0]?.p;
}

/** The fewest that have to go from a node; undefined when the pod cannot go there even without all of them. */
function victimsOn(
  pod: PodInfo,
  node: NodeInfo,
  fits: (left: NodeInfo) => boolean,
  budgets: readonly Frozen<PodDisruptionBudget>[],
): { victims: PodInfo[]; violations: number } | undefined {
  const limit = priorityOf(pod);
  const lower = [...node.pods.values()].filter((p) => priorityOf(p) < limit);
  if (lower.length === 0) return undefined;
  const left = NodeInfo.copy(node);
  for (const p of lower) left.remove(p.uid);
  if (!fits(left)) return undefined;
  const goes = (p: PodInfo): boolean => {
    left.add(p);
    if (fits(left)) return false;
    left.remove(p.uid);
    return true;
  };
  const { guarded, free } = byBudget(lower.sort(byImportance), budgets);
  const violating = guarded.filter(goes);
  const victims = [...violating, ...free.filter(goes)].sort(byImportance);
  return { victims, violations: violating.length };
}

/** Which of the pods could not go without more being disrupted than their budgets allow. */
function byBudget(
  pods: readonly PodInfo[],
  budgets: readonly Frozen<PodDisruptionBudget>[],
): { guarded: PodInfo[]; free: PodInfo[] } {
  const left = new Map(budgets.map((b) => [b, b.status?.disruptionsAllowed ?? 0]));
  const guarded: PodInfo[] = [];
  const free: PodInfo[] = [];
  for (const p of pods) {
    let violates = false;
    const { name, labels } = p.pod.metadata!;
    for (const [b, allowed] of left) {
      const { selector } = b.spec ?? {};
      if (b.metadata?.namespace !== p.namespace || !selector || isEmptySelector(selector)) continue;
      if (!matchesSelector(selector as never, labels as never)) continue;
      // Its eviction was paid for already.
      if (b.status?.disruptedPods && Object.hasOwn(b.status.disruptedPods, name!)) continue;
      left.set(b, allowed - 1);
      if (allowed < 1) violates = true;
    }
    (violates ? guarded : free).push(p);
  }
  return { guarded, free };
}

const isEmptySelector = (s: Frozen<LabelSelector>): boolean =>
  Object.keys(s.matchLabels ?? {}).length + (s.matchExpressions?.length ?? 0) === 0;
