import type { Node, Taint, Toleration } from 'kubernetes-types/core/v1.js';
import type { Frozen } from './client.js';

/** Kubernetes' taints for node conditions (well-known labels, annotations and taints). */
export const NOT_READY = 'node.kubernetes.io/not-ready';
export const UNREACHABLE = 'node.kubernetes.io/unreachable';
export const UNSCHEDULABLE = 'node.kubernetes.io/unschedulable';
export const MEMORY_PRESSURE = 'node.kubernetes.io/memory-pressure';

const CONDITION_TAINTS: readonly { type: string; status: string; key: string; execute?: boolean }[] = [
  { type: 'Ready', status: 'False', key: NOT_READY, execute: true },
  { type: 'Ready', status: 'Unknown', key: UNREACHABLE, execute: true },
  { type: 'MemoryPressure', status: 'True', key: MEMORY_PRESSURE },
  { type: 'DiskPressure', status: 'True', key: 'node.kubernetes.io/disk-pressure' },
  { type: 'PIDPressure', status: 'True', key: 'node.kubernetes.io/pid-pressure' },
  { type: 'NetworkUnavailable', status: 'True', key: 'node.kubernetes.io/network-unavailable' },
];

/** Every key that {@link conditionTaints} may give: the hub alone sets and takes these away. */
export const MANAGED_TAINTS: ReadonlySet<string> = new Set([
  ...CONDITION_TAINTS.map((c) => c.key),
  UNSCHEDULABLE,
]);

function holds(node: Frozen<Node>, c: { type: string; status: string }): boolean {
  const condition = node.status?.conditions?.find((x) => x.type === c.type);
  // A node that never said that it is ready is not.
  if (!condition) return c.type === 'Ready' && c.status === 'False';
  return condition.status === c.status;
}

/** Taints that follow from a node's conditions and `spec.unschedulable`, as the node controller writes them. */
export function conditionTaints(node: Frozen<Node>): Taint[] {
  const taints: Taint[] = [];
  for (const c of CONDITION_TAINTS) {
    if (!holds(node, c)) continue;
    taints.push({ key: c.key, effect: 'NoSchedule' });
    if (c.execute) taints.push({ key: c.key, effect: 'NoExecute' });
  }
  if (node.spec?.unschedulable) taints.push({ key: UNSCHEDULABLE, effect: 'NoSchedule' });
  return taints;
}

/** Those of {@link conditionTaints} that keep new pods away and are not written into the spec yet. */
export function impliedTaints(node: Frozen<Node>): Taint[] {
  return conditionTaints(node).filter(
    (t) =>
      t.effect === 'NoSchedule' &&
      t.key !== UNSCHEDULABLE &&
      !node.spec?.taints?.some((x) => x.key === t.key && x.effect === t.effect),
  );
}

/** core/v1 `Toleration.ToleratesTaint`. */
export function tolerates(t: Frozen<Toleration>, taint: Frozen<Taint>): boolean {
  if (t.effect && t.effect !== taint.effect) return false;
  if (t.key && t.key !== taint.key) return false;
  const operator = t.operator || 'Equal';
  if (operator === 'Exists') return true;
  // An empty key with Equal matches nothing: only Exists may leave the key out.
  return operator === 'Equal' && !!t.key && (t.value ?? '') === (taint.value ?? '');
}

export const isTolerated = (
  taint: Frozen<Taint>,
  tolerations: readonly Frozen<Toleration>[] | undefined,
): boolean => (tolerations ?? []).some((t) => tolerates(t, taint));
