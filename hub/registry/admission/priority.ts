import type { Pod } from 'kubernetes-types/core/v1.js';
import type { PriorityClass } from 'kubernetes-types/scheduling/v1.js';
import { pods, priorityClasses } from '../../../api/kinds/index.js';
import type { Kind } from '../../../api/kinds/kind.js';
import { SYSTEM_PRIORITIES } from '../../../api/kinds/priorityclass.js';
import type { Frozen } from '../../client.js';
import { forbidden, type Plugin, type Request, same, type World } from './plugin.js';

const KIND = priorityClasses as unknown as Kind;

/** The class of pods that name none; of several (which a race can make) the lowest. */
const globalDefault = (world: World): Frozen<PriorityClass> | undefined =>
  (world.list(KIND) as readonly Frozen<PriorityClass>[])
    .filter((c) => c.globalDefault)
    .sort((a, b) => a.value - b.value)[0];

/** A pod's number comes from its class, and one class at most is the default. */
export const priority: Plugin = {
  name: 'Priority',
  handles: ({ kind, operation, subresource }) =>
    !subresource &&
    ((same(kind, pods) && (operation === 'CREATE' || operation === 'UPDATE')) ||
      (same(kind, priorityClasses) && (operation === 'CREATE' || operation === 'UPDATE'))),
  mutate(request) {
    if (same(request.kind, pods)) setPriority(request);
  },
  validate(request) {
    if (!same(request.kind, priorityClasses) || !(request.object as unknown as PriorityClass).globalDefault)
      return;
    const there = globalDefault(request.world)?.metadata?.name;
    if (there !== undefined && (request.operation === 'CREATE' || there !== request.name))
      throw forbidden(
        request,
        `PriorityClass ${there} is already marked as default. Only one default can exist`,
      );
  },
};

function setPriority(request: Request): void {
  const { spec } = request.object as Pod;
  if (!spec) return;
  if (request.operation === 'UPDATE') {
    // What a client leaves out stays: it could not know it when it wrote its manifest.
    const old = (request.oldObject as Frozen<Pod>).spec;
    spec.priority ??= old?.priority;
    spec.preemptionPolicy ??= old?.preemptionPolicy;
    if (spec.priority === undefined) delete spec.priority;
    if (spec.preemptionPolicy === undefined) delete spec.preemptionPolicy;
    return;
  }
  if (!spec.priorityClassName) {
    const byDefault = globalDefault(request.world)?.metadata?.name;
    if (byDefault) spec.priorityClassName = byDefault;
  }
  const name = spec.priorityClassName;
  const found =
    name && !name.includes('/') ? (request.world.get(KIND, { name }) as Frozen<PriorityClass>) : undefined;
  // The system's own classes hold even before they are stored.
  const value = name ? (found?.value ?? SYSTEM_PRIORITIES.find((p) => p.name === name)?.value) : 0;
  if (value === undefined) throw forbidden(request, `no PriorityClass with name ${name} was found`);
  if (spec.priority !== undefined && spec.priority !== value)
    throw forbidden(
      request,
      `the integer value of priority (${spec.priority}) must not be provided in pod spec; priority admission controller computed ${value} from the given PriorityClass name`,
    );
  const policy = found?.preemptionPolicy ?? 'PreemptLowerPriority';
  if (spec.preemptionPolicy !== undefined && spec.preemptionPolicy !== policy)
    throw forbidden(
      request,
      `the string value of PreemptionPolicy (${spec.preemptionPolicy}) must not be provided in pod spec; priority admission controller computed ${policy} from the given PriorityClass name`,
    );
  spec.priority = value;
  spec.preemptionPolicy = policy;
}
