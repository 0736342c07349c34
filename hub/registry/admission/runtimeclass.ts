import type { Pod } from 'kubernetes-types/core/v1.js';
import type { RuntimeClass } from 'kubernetes-types/node/v1.js';
import { pods, runtimeClasses } from '../../../api/kinds/index.js';
import type { Kind } from '../../../api/kinds/kind.js';
import { deepCopy, deepEqual } from '../../../api/meta/json.js';
import type { Frozen } from '../../client.js';
import { forbidden, type Plugin, type Request, same } from './plugin.js';

const classOf = ({ object, world }: Request): { pod: Pod; rc?: Frozen<RuntimeClass> } => {
  const pod = object as Pod;
  const name = pod.spec?.runtimeClassName;
  const rc = name && !name.includes('/') ? world.get(runtimeClasses as unknown as Kind, { name }) : undefined;
  return { pod, rc: rc as Frozen<RuntimeClass> | undefined };
};

/** What a runtime costs on top of the containers, and the nodes that have it, come from its class. */
export const runtimeClass: Plugin = {
  name: 'RuntimeClass',
  handles: ({ kind, operation, subresource }) => same(kind, pods) && operation === 'CREATE' && !subresource,
  mutate(request) {
    const { pod, rc } = classOf(request);
    const { spec } = pod;
    if (!spec?.runtimeClassName) return;
    if (!rc) {
      if (spec.runtimeClassName.includes('/')) return;
      throw forbidden(
        request,
        `pod rejected: RuntimeClass ${JSON.stringify(spec.runtimeClassName)} not found`,
      );
    }
    const overhead = rc.overhead?.podFixed;
    if (overhead) {
      if (spec.overhead && !deepEqual(spec.overhead, overhead))
        throw forbidden(
          request,
          "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead",
        );
      spec.overhead = deepCopy(overhead) as NonNullable<typeof spec.overhead>;
    }
    for (const [k, v] of Object.entries(rc.scheduling?.nodeSelector ?? {})) {
      const there = spec.nodeSelector?.[k];
      if (there !== undefined && there !== v)
        throw forbidden(
          request,
          `conflict: runtimeClass.scheduling.nodeSelector[${k}] = ${v}; pod.spec.nodeSelector[${k}] = ${there}`,
        );
      spec.nodeSelector = { ...spec.nodeSelector, [k]: v };
    }
    for (const t of rc.scheduling?.tolerations ?? [])
      if (!spec.tolerations?.some((x) => deepEqual(x, t)))
        spec.tolerations = [...(spec.tolerations ?? []), deepCopy(t)];
  },
  validate(request) {
    const { pod, rc } = classOf(request);
    const overhead = pod.spec?.overhead;
    if (!rc) {
      if (overhead)
        throw forbidden(
          request,
          'pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead',
        );
    } else if (!deepEqual(overhead ?? {}, rc.overhead?.podFixed ?? {}))
      throw forbidden(request, "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead");
  },
};
