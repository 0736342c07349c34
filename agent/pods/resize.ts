/** Changing the CPU and memory of what runs: what it has, what it shall have, and whether the node can give it. Pure. */
import type { Container, Pod, ResourceRequirements } from 'kubernetes-types/core/v1.js';
import { podTotal } from '../../api/kinds/pod-resources.js';
import { compareQuantity, milliQuantity, quantity } from '../../api/meta/quantity.js';

type Policy = { resourceName: string; restartPolicy: string };
type Lists = Readonly<Pick<ResourceRequirements, 'limits' | 'requests'>>;

const RESIZED = ['cpu', 'memory'] as const;

/** Limits and requests, and nothing else of a container's resources. */
export const resourcesOf = ({ limits, requests }: Lists): Lists => ({
  ...(limits ? { limits } : {}),
  ...(requests ? { requests } : {}),
});

/** Which of CPU and memory differ. */
export function changes(actual: Lists, wanted: Lists | undefined): string[] {
  const differ = (a: string | undefined, b: string | undefined) => compareQuantity(a ?? '0', b ?? '0') !== 0;
  return RESIZED.filter((name) =>
    (['limits', 'requests'] as const).some((list) => differ(actual[list]?.[name], wanted?.[list]?.[name])),
  );
}

/** Whether a change of these resources costs the container a restart. */
export const needsRestart = (c: Container, changed: readonly string[]): boolean =>
  ((c as { resizePolicy?: Policy[] }).resizePolicy ?? []).some(
    (p) => changed.includes(p.resourceName) && p.restartPolicy === 'RestartContainer',
  );

/** The pod with other resources for some of its containers. */
export function withResources(pod: Pod, held: ReadonlyMap<string, Lists>): Pod {
  const { spec } = pod;
  if (held.size === 0 || !spec) return pod;
  const set = (list: Container[] | undefined) =>
    list?.map((c) => (held.has(c.name) ? { ...c, resources: { ...c.resources, ...held.get(c.name) } } : c));
  const initContainers = set(spec.initContainers);
  return {
    ...pod,
    spec: { ...spec, containers: set(spec.containers)!, ...(initContainers ? { initContainers } : {}) },
  };
}

/** Why a resize waits or cannot be: reason and message of the condition PodResizePending. */
export interface Refusal {
  reason: 'Deferred' | 'Infeasible';
  message: string;
}

const requestsOf = (pod: Pod): { cpu: number; memory: number } => {
  const { cpu = '0', memory = '0' } = podTotal(pod.spec, 'requests', true);
  return { cpu: milliQuantity(cpu), memory: quantity(memory) };
};

/** Whether the node can give a pod what it asks for beside the others that run here (the kubelet's canResizePod). */
export function refusal(
  pod: Pod,
  others: Iterable<Pod>,
  allocatable: { cpuMilli: number; memoryBytes: number },
): Refusal | undefined {
  const asked = requestsOf(pod);
  const capacity = { cpu: allocatable.cpuMilli, memory: allocatable.memoryBytes };
  const tooLarge = (['memory', 'cpu'] as const).find((r) => asked[r] > capacity[r]);
  if (tooLarge)
    return {
      reason: 'Infeasible',
      message: `Node didn't have enough capacity: ${tooLarge}, requested: ${asked[tooLarge]}, capacity: ${capacity[tooLarge]}`,
    };
  const used = { cpu: 0, memory: 0 };
  for (const other of others) {
    const r = requestsOf(other);
    used.cpu += r.cpu;
    used.memory += r.memory;
  }
  const taken = (['cpu', 'memory'] as const).find((r) => asked[r] > 0 && asked[r] + used[r] > capacity[r]);
  if (!taken) return undefined;
  return {
    reason: 'Deferred',
    message: `Node didn't have enough resource: ${taken}, requested: ${asked[taken]}, used: ${used[taken]}, capacity: ${capacity[taken]}`,
  };
}
