import type { Pod, Toleration } from 'kubernetes-types/core/v1.js';
import { namespaces, pods } from '../../../api/kinds/index.js';
import type { Kind } from '../../../api/kinds/kind.js';
import { NOT_READY, UNREACHABLE } from '../../taints.js';
import { type Plugin, same } from './plugin.js';

/** On a Namespace: seconds after which its pods leave a node that is silent. */
export const TOLERATION_SECONDS = 'coxswain.dev/default-toleration-seconds';

/**
 * Gives pods the time after which they leave a node that is not ready or out of reach; only where the namespace asks for
 * it, since a device that lost its link goes on working (docs/decisions/0010).
 */
export const defaultTolerationSeconds: Plugin = {
  name: 'DefaultTolerationSeconds',
  handles: ({ kind, operation, subresource }) => same(kind, pods) && operation === 'CREATE' && !subresource,
  mutate(request) {
    const { spec } = request.object as Pod;
    const ns = request.world.get(namespaces as unknown as Kind, { name: request.namespace ?? '' });
    const text = ns?.metadata?.annotations?.[TOLERATION_SECONDS];
    if (!spec || text === undefined) return;
    if (!/^\d{1,9}$/.test(text)) {
      request.warn(
        `annotation ${TOLERATION_SECONDS} of namespace ${JSON.stringify(request.namespace)} is no number of seconds: ${JSON.stringify(text)}`,
      );
      return;
    }
    const tolerated = (key: string) =>
      spec.tolerations?.some((t) => (!t.key || t.key === key) && (!t.effect || t.effect === 'NoExecute'));
    const more = [NOT_READY, UNREACHABLE]
      .filter((key) => !tolerated(key))
      .map(
        (key): Toleration => ({
          key,
          operator: 'Exists',
          effect: 'NoExecute',
          tolerationSeconds: Number(text),
        }),
      );
    if (more.length) spec.tolerations = [...(spec.tolerations ?? []), ...more];
  },
};
