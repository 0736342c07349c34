import type { Pod } from 'kubernetes-types/core/v1.js';
import { pods } from '../../../api/kinds/index.js';
import { forbidden, type Plugin, same } from './plugin.js';

/** PriorityClasses that every Kubernetes has; others are not served. */
const PRIORITIES: Readonly<Record<string, number>> = {
  'system-cluster-critical': 2_000_000_000,
  'system-node-critical': 2_000_001_000,
};

/** A pod's number comes from its class. */
export const priority: Plugin = {
  name: 'Priority',
  handles: ({ kind, operation, subresource }) => same(kind, pods) && operation === 'CREATE' && !subresource,
  mutate(request) {
    const { spec } = request.object as Pod;
    if (!spec) return;
    const className = spec.priorityClassName;
    if (className && !Object.hasOwn(PRIORITIES, className))
      throw forbidden(request, `no PriorityClass with name ${className} was found`);
    const value = className ? PRIORITIES[className]! : 0;
    if (spec.priority !== undefined && spec.priority !== value)
      throw forbidden(
        request,
        `the integer value of priority (${spec.priority}) must not be provided in pod spec; priority admission controller computed ${value} from the given PriorityClass name`,
      );
    spec.priority = value;
    spec.preemptionPolicy ??= 'PreemptLowerPriority';
  },
};
