/** Whom a node low on memory or disk does without: the kubelet's choice and words (pkg/kubelet/eviction). Pure. */
import type { Pod } from 'kubernetes-types/core/v1.js';
import { formatQuantity, quantity } from '../../api/meta/quantity.js';
import { allContainers, podResources } from './resources.js';

/** A hard threshold that is broken; `limit` and `available` in the signal's unit. */
export interface Shortage {
  signal: string;
  limit: number;
  available: number;
}

export type StarvedResource = 'memory' | 'ephemeral-storage';

/** What evicting pods can give back, by signal; memory goes first. Inodes and process ids are not counted per pod. */
const RESOURCES: Record<string, StarvedResource> = {
  'memory.available': 'memory',
  'memory.stalled': 'memory',
  'nodefs.available': 'ephemeral-storage',
  'imagefs.available': 'ephemeral-storage',
};
/** Signals that unused images may help with. */
export const DISK_SIGNALS = [
  'nodefs.available',
  'nodefs.inodesFree',
  'imagefs.available',
  'imagefs.inodesFree',
];

/** The scheduling API's SystemCriticalPriority: from here on a pod is never evicted. */
const CRITICAL = 2_000_000_000;

export interface Candidate {
  pod: Pod;
  /** Bytes of the starved resource: containers' and, for storage, the pod's own volumes. */
  usedBytes: number;
  /** Bytes by container name, as far as they are known. */
  containers: ReadonlyMap<string, number>;
}

/** The shortage to act on, and what of. */
export function starved(
  shortages: readonly Shortage[],
): { shortage: Shortage; resource: StarvedResource } | undefined {
  const known = shortages.filter((s) => s.signal in RESOURCES);
  const shortage = known.find((s) => RESOURCES[s.signal] === 'memory') ?? known[0];
  return shortage && { shortage, resource: RESOURCES[shortage.signal]! };
}

/** What the pod asked for, in bytes. */
export function requestOf(pod: Pod, resource: StarvedResource): number {
  if (resource === 'memory') return podResources(pod, 1).memoryRequestBytes ?? 0;
  const of = (c: ReturnType<typeof allContainers>[number]): number => requestOfContainer(c, resource);
  const sum = (pod.spec?.containers ?? []).reduce((n, c) => n + of(c), 0);
  return Math.max(sum, ...(pod.spec?.initContainers ?? []).map(of));
}

const requestOfContainer = (c: ReturnType<typeof allContainers>[number], resource: StarvedResource): number =>
  quantity(c.resources?.requests?.[resource] ?? c.resources?.limits?.[resource] ?? '0');

/**
 * Whom to evict: those who use more than they asked for before those who do not (so that BestEffort and Burstable pods
 * go before Guaranteed ones), then by the least priority, then by how much is used beyond the request. Undefined when
 * nobody's end would give anything back, or all are critical.
 */
export function victim<T extends Candidate>(
  resource: StarvedResource,
  candidates: readonly T[],
): T | undefined {
  const beyond = (c: Candidate): number => c.usedBytes - requestOf(c.pod, resource);
  const priority = (c: Candidate): number => c.pod.spec?.priority ?? 0;
  const byKubelet = (a: T, b: T): number =>
    Number(beyond(b) > 0) - Number(beyond(a) > 0) || priority(a) - priority(b) || beyond(b) - beyond(a);
  return candidates.filter((c) => c.usedBytes > 0 && priority(c) < CRITICAL).sort(byKubelet)[0];
}

const bytes = (n: number): string =>
  formatQuantity({ nanos: BigInt(Math.round(n)) * 1_000_000_000n, format: 'BinarySI' });

/** The status message of the evicted pod. */
export function evictionMessage(resource: StarvedResource, shortage: Shortage, c: Candidate): string {
  const percent = shortage.signal === 'memory.stalled';
  const amount = (n: number): string => (percent ? `${n}%` : bytes(n));
  const containers = allContainers(c.pod).flatMap((container) => {
    const used = c.containers.get(container.name);
    const request = requestOfContainer(container, resource);
    return used === undefined || used <= request
      ? []
      : [
          `Container ${container.name} was using ${bytes(used)}, request is ${bytes(request)}, has larger consumption of ${resource}. `,
        ];
  });
  return `The node was low on resource: ${resource}. Threshold quantity: ${amount(shortage.limit)}, ${percent ? 'stalled' : 'available'}: ${amount(shortage.available)}. ${containers.join('')}`;
}
