/** What a pod's requests and limits become: QoS class, OOM score and the numbers a runtime takes. Pure. */
import type { Container, Pod } from 'kubernetes-types/core/v1.js';
import { qosClassOf } from '../../api/kinds/qos.js';
import { milliQuantity, quantity } from '../../api/meta/quantity.js';
import type { Resources } from '../../shims/shim.js';

/** Init containers first, ephemeral ones last. */
export const allContainers = (pod: Pod): Container[] => [
  ...(pod.spec?.initContainers ?? []),
  ...(pod.spec?.containers ?? []),
  ...((pod.spec?.ephemeralContainers ?? []) as Container[]),
];

const CRITICAL = new Set(['system-node-critical', 'system-cluster-critical']);

/** The kubelet's oom_score_adj (pkg/kubelet/qos/policy.go): who is killed first when the node runs out of memory. */
export function oomScoreAdj(pod: Pod, c: Container, nodeMemoryBytes: number): number {
  if (CRITICAL.has(pod.spec?.priorityClassName ?? '')) return -997;
  const qos = qosClassOf(pod);
  if (qos === 'Guaranteed') return -997;
  if (qos === 'BestEffort') return 1000;
  const request = quantity(c.resources?.requests?.['memory'] ?? c.resources?.limits?.['memory'] ?? '0');
  const score = 1000 - Math.floor((1000 * request) / nodeMemoryBytes);
  return Math.min(Math.max(score, 3), 999);
}

/** A container's resources as the shim takes them; a request that is not given equals the limit, as the API defaults it. */
export function containerResources(pod: Pod, c: Container, nodeMemoryBytes: number): Resources {
  const { limits = {}, requests = {} } = c.resources ?? {};
  const given = (x: string | undefined, read: (q: string) => number) =>
    x === undefined ? undefined : read(x);
  return definedOnly({
    cpuRequestMilli: given(requests['cpu'] ?? limits['cpu'], milliQuantity),
    cpuLimitMilli: given(limits['cpu'], milliQuantity),
    memoryRequestBytes: given(requests['memory'] ?? limits['memory'], quantity),
    memoryLimitBytes: given(limits['memory'], quantity),
    oomScoreAdj: oomScoreAdj(pod, c, nodeMemoryBytes),
  });
}

/** The pod-level sum: containers together, or the largest init container where that is more. Limits only when all have one. */
export function podResources(pod: Pod, nodeMemoryBytes: number): Resources {
  const of = (list: Container[] | undefined) =>
    (list ?? []).map((c) => containerResources(pod, c, nodeMemoryBytes));
  const main = of(pod.spec?.containers);
  const init = of(pod.spec?.initContainers);
  const sum = (key: 'cpuRequestMilli' | 'cpuLimitMilli' | 'memoryRequestBytes' | 'memoryLimitBytes') => {
    const isLimit = key === 'cpuLimitMilli' || key === 'memoryLimitBytes';
    if (isLimit && [...main, ...init].some((r) => !r[key])) return undefined;
    const total = main.reduce((n, r) => n + (r[key] ?? 0), 0);
    return Math.max(total, ...init.map((r) => r[key] ?? 0)) || undefined;
  };
  return definedOnly({
    cpuRequestMilli: sum('cpuRequestMilli'),
    cpuLimitMilli: sum('cpuLimitMilli'),
    memoryRequestBytes: sum('memoryRequestBytes'),
    memoryLimitBytes: sum('memoryLimitBytes'),
  });
}

/** A copy without the keys whose value is undefined. */
export function definedOnly<T extends object>(o: T): T {
  return Object.fromEntries(Object.entries(o).filter(([, v]) => v !== undefined)) as T;
}
