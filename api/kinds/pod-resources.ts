import type { Container, PodSpec } from 'kubernetes-types/core/v1.js';
import { addQuantities, compareQuantity } from '../meta/quantity.js';

type List = Record<string, string>;
type Spec = {
  readonly containers?: readonly Resourced[];
  readonly initContainers?: readonly Resourced[];
  readonly overhead?: Readonly<List>;
};
type Resourced = {
  readonly restartPolicy?: string;
  readonly resources?: {
    readonly requests?: Readonly<List>;
    readonly limits?: Readonly<List>;
  };
};

function add(to: List, more: Readonly<List> | undefined): void {
  for (const [name, amount] of Object.entries(more ?? {}))
    to[name] = to[name] === undefined ? amount : addQuantities(to[name], amount);
}

/**
 * What a pod's containers request or are limited to together: the sum of containers and restartable init containers, or
 * what an init container needs beside the restartable ones before it, whichever is more (component-helpers
 * resource.PodRequests and PodLimits); what the pod says as a whole takes the place of that. `overhead`: with the
 * runtime's, which raises only limits that are there.
 */
export function podTotal(
  pod: Spec | PodSpec | undefined,
  list: 'requests' | 'limits',
  overhead: boolean,
): List {
  const spec = (pod ?? {}) as Spec & { resources?: Resourced['resources'] };
  const total: List = {};
  for (const c of spec.containers ?? []) add(total, c.resources?.[list]);
  const beside: List = {};
  const peak: List = {};
  for (const c of (spec.initContainers ?? []) as (Resourced & Pick<Container, 'name'>)[]) {
    const own = c.resources?.[list];
    const needs = { ...beside };
    if (c.restartPolicy === 'Always') {
      add(total, own);
      add(beside, own);
      continue;
    }
    add(needs, own);
    for (const [name, amount] of Object.entries(needs))
      if (peak[name] === undefined || compareQuantity(amount, peak[name]) > 0) peak[name] = amount;
  }
  for (const [name, amount] of Object.entries(peak))
    if (total[name] === undefined || compareQuantity(amount, total[name]) > 0) total[name] = amount;
  Object.assign(total, spec.resources?.[list]);
  if (overhead)
    for (const [name, amount] of Object.entries(spec.overhead ?? {}))
      if (list === 'requests' || total[name] !== undefined) add(total, { [name]: amount });
  return total;
}
