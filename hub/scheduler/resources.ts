import type { Container, Pod } from 'kubernetes-types/core/v1.js';
import { milliQuantity, quantity } from '../../api/meta/quantity.js';
import type { Frozen } from '../client.js';

/** Resource name → amount: cpu in millicores, everything else in its own unit (bytes, pieces). */
export type Amounts = Readonly<Record<string, number>>;

/** What the scheduler assumes of a container that asks for nothing, when it compares nodes (not when it fits pods). */
export const UNSTATED: Amounts = { cpu: 100, memory: 200 * 2 ** 20 };

type Quantities = Readonly<Record<string, string>> | undefined;

/** Unreadable quantities count as nothing: validation refuses them, so they can only come from a damaged store. */
export function amountsOf(quantities: Quantities): Record<string, number> {
  const amounts: Record<string, number> = {};
  for (const [name, text] of Object.entries(quantities ?? {})) {
    try {
      amounts[name] = name === 'cpu' ? milliQuantity(text) : quantity(text);
    } catch {
      amounts[name] = 0;
    }
  }
  return amounts;
}

export function addAmounts(to: Record<string, number>, more: Amounts, sign: 1 | -1 = 1): void {
  for (const name in more) to[name] = (to[name] ?? 0) + sign * more[name]!;
}

/**
 * What a pod takes of a node (kubectl's and kubelet's rule, k8s.io/component-helpers resource.PodRequests): the sum of
 * its containers and restartable init containers, or what an init container needs beside the restartable ones started
 * before it, whichever is more, or what the pod says as a whole; and the runtime's overhead on top.
 */
export function podRequests(pod: Frozen<Pod>, overhead: Quantities, unstated: Amounts = {}): Amounts {
  const of = (c: Frozen<Container>) => {
    const amounts = amountsOf(c.resources?.requests as Quantities);
    for (const name in unstated) amounts[name] ??= unstated[name]!;
    return amounts;
  };
  const total: Record<string, number> = {};
  for (const c of pod.spec?.containers ?? []) addAmounts(total, of(c));
  const sidecars: Record<string, number> = {};
  const peak: Record<string, number> = {};
  for (const c of pod.spec?.initContainers ?? []) {
    const amounts = of(c);
    if ((c as { restartPolicy?: string }).restartPolicy === 'Always') {
      addAmounts(total, amounts);
      addAmounts(sidecars, amounts);
      continue;
    }
    addAmounts(amounts, sidecars);
    for (const name in amounts) peak[name] = Math.max(peak[name] ?? 0, amounts[name]!);
  }
  for (const name in peak) total[name] = Math.max(total[name] ?? 0, peak[name]!);
  // What the pod asks for as a whole takes the place of its containers' sum.
  Object.assign(
    total,
    amountsOf((pod.spec as { resources?: { requests?: Quantities } })?.resources?.requests),
  );
  addAmounts(total, amountsOf(overhead));
  return total;
}

/** A pod none of whose containers asks for or limits cpu or memory (Kubernetes' BestEffort class). */
export function isBestEffort(pod: Frozen<Pod>): boolean {
  return [...(pod.spec?.containers ?? []), ...(pod.spec?.initContainers ?? [])].every((c) =>
    [c.resources?.requests, c.resources?.limits].every((list) => {
      const amounts = amountsOf(list as Quantities);
      return !amounts['cpu'] && !amounts['memory'];
    }),
  );
}
