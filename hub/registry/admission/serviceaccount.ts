import type { Pod } from 'kubernetes-types/core/v1.js';
import { pods, serviceAccounts } from '../../../api/kinds/index.js';
import type { Kind } from '../../../api/kinds/kind.js';
import { forbidden, type Plugin, same } from './plugin.js';

/** A pod runs as a ServiceAccount that is there. */
export const serviceAccount: Plugin = {
  name: 'ServiceAccount',
  handles: ({ kind, operation, subresource }) => same(kind, pods) && operation === 'CREATE' && !subresource,
  mutate(request) {
    const { spec } = request.object as Pod;
    if (!spec) return;
    const { namespace = '' } = request;
    spec.serviceAccountName ||= 'default';
    // The default account is made by a controller right after its namespace; a pod need not wait for it.
    const account = spec.serviceAccountName;
    spec.serviceAccount = account;
    if (
      account !== 'default' &&
      !account.includes('/') &&
      !request.world.get(serviceAccounts as unknown as Kind, { namespace, name: account })
    )
      throw forbidden(
        request,
        `error looking up service account ${namespace}/${account}: serviceaccount ${JSON.stringify(account)} not found`,
      );
  },
};
