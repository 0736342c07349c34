import type { Namespace } from 'kubernetes-types/core/v1.js';
import { localSubjectAccessReviews, namespaces } from '../../../api/kinds/index.js';
import type { Kind } from '../../../api/kinds/kind.js';
import { ApiError, notFound } from '../../../api/meta/errors.js';
import { forbidden, type Plugin, same } from './plugin.js';

const IMMORTAL = new Set(['default', 'kube-system', 'kube-public']);

/** Nothing is written into a namespace that is not there, or made in one that ends; three namespaces never end. */
export const namespaceLifecycle: Plugin = {
  name: 'NamespaceLifecycle',
  handles: ({ kind, operation }) =>
    (kind.namespaced && operation !== 'DELETE' && !same(kind, localSubjectAccessReviews)) ||
    (same(kind, namespaces) && operation === 'DELETE'),
  mutate(request) {
    const { kind, namespace, operation } = request;
    if (!kind.namespaced) {
      if (IMMORTAL.has(request.name)) throw forbidden(request, 'this namespace may not be deleted');
      return;
    }
    // Without a namespace, or with one that no namespace can have, validation says what is wrong.
    if (!namespace || namespace.includes('/')) return;
    const ns = request.world.get(namespaces as unknown as Kind, { name: namespace }) as Namespace | undefined;
    if (!ns) throw notFound('namespaces', namespace);
    if (operation !== 'CREATE' || !ns.metadata?.deletionTimestamp) return;
    const { message, details } = forbidden(
      request,
      `unable to create new content in namespace ${namespace} because it is being terminated`,
    );
    throw new ApiError('Forbidden', message, {
      ...details,
      causes: [
        {
          reason: 'NamespaceTerminating',
          message: `namespace ${namespace} is being terminated`,
          field: 'metadata.namespace',
        },
      ],
    });
  },
};
