import type { Container } from 'kubernetes-types/core/v1.js';
import { compareQuantity } from '../meta/quantity.js';

export type QosClass = 'Guaranteed' | 'Burstable' | 'BestEffort';

interface PodLike {
  readonly spec?: {
    readonly containers?: readonly Resourced[];
    readonly initContainers?: readonly Resourced[];
  };
}
type Resourced = { readonly [K in 'resources']?: Readonly<NonNullable<Container['resources']>> };

/**
 * How much a pod's resources are assured (core/v1/helper/qos): Guaranteed when every container limits CPU and memory to
 * what it requests, BestEffort when none says anything, else Burstable. Only CPU and memory count.
 */
export function qosClassOf(pod: PodLike): QosClass {
  const containers = [...(pod.spec?.containers ?? []), ...(pod.spec?.initContainers ?? [])];
  const positive = (list: Readonly<Record<string, string>> | undefined, name: string) => {
    const amount = list?.[name];
    return amount !== undefined && compareQuantity(amount, '0') > 0 ? amount : undefined;
  };
  let any = false;
  let guaranteed = containers.length > 0;
  for (const { resources } of containers) {
    for (const name of ['cpu', 'memory']) {
      const request = positive(resources?.requests, name);
      const limit = positive(resources?.limits, name);
      if (request !== undefined || limit !== undefined) any = true;
      if (limit === undefined || (request !== undefined && compareQuantity(request, limit) !== 0))
        guaranteed = false;
    }
  }
  if (!any) return 'BestEffort';
  return guaranteed ? 'Guaranteed' : 'Burstable';
}
