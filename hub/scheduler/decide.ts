import type { RuntimeClass } from 'kubernetes-types/node/v1.js';
import type { Frozen } from '../client.js';
import { type FilterName, objection, wishesOf } from './filters.js';
import { best } from './scores.js';
import type { Ledger, NodeInfo, PodInfo } from './snapshot.js';

/** Why a pod stays where it is: what stood in the way, on as many nodes as there are. */
export interface Refusal {
  readonly message: string;
  /** A change that concerns none of these cannot help. */
  readonly filters: ReadonlySet<FilterName | 'RuntimeClass'>;
  /** Reason → on how many nodes. */
  readonly counts: ReadonlyMap<string, number>;
}

export type Decision = { readonly node: string } | { readonly refusal: Refusal };

/** With more nodes than this, it is enough to have found so many that will do. */
const ENOUGH = 100;

/**
 * Where the pod goes, or why nowhere. Pure. `from`: where among the nodes to begin looking, which matters only on
 * clusters with more than {@link ENOUGH} suitable nodes.
 */
export function decide(
  pod: PodInfo,
  runtimeClass: Frozen<RuntimeClass> | undefined,
  ledger: Ledger,
  from = 0,
): Decision {
  const all: NodeInfo[] = [];
  for (const info of ledger.nodes.values()) if (info.node) all.push(info);
  if (all.length === 0)
    return refuse('no nodes available to schedule pods', new Set(['NodeAffinity']), new Map());
  const className = pod.pod.spec?.runtimeClassName;
  if (className && !runtimeClass)
    return refuse(
      `0/${all.length} nodes are available: RuntimeClass.node.k8s.io "${className}" not found.`,
      new Set(['RuntimeClass']),
      new Map(),
    );

  const wishes = wishesOf(pod, runtimeClass, ledger);
  const candidates: NodeInfo[] = [];
  const counts = new Map<string, number>();
  const filters = new Set<FilterName | 'RuntimeClass'>();
  for (let i = 0; i < all.length && candidates.length < ENOUGH; i++) {
    const node = all[(from + i) % all.length]!;
    const no = objection(wishes, ledger.withNominated(node, pod));
    if (!no) {
      candidates.push(node);
      continue;
    }
    filters.add(no.filter);
    for (const reason of no.reasons) counts.set(reason, (counts.get(reason) ?? 0) + 1);
  }
  const chosen = best(wishes, candidates);
  if (chosen) return { node: chosen.name };
  // Sorted as text, count first, as Kubernetes' FitError does.
  const reasons = [...counts].map(([reason, n]) => `${n} ${reason}`).sort();
  return refuse(`0/${all.length} nodes are available: ${reasons.join(', ')}.`, filters, counts);
}

const refuse = (
  message: string,
  filters: Refusal['filters'],
  counts: Refusal['counts'],
): { refusal: Refusal } => ({ refusal: { message, filters, counts } });
