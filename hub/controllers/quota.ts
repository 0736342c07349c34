import type { ResourceQuota } from 'kubernetes-types/core/v1.js';
import { resourceQuotas } from '../../api/kinds/index.js';
import { deepEqual } from '../../api/meta/json.js';
import type { QuotaUsage } from '../client.js';
import { type Context, ifThere, type Keys, type Reconcile } from './loop.js';

/** Of many changes in a row one write tells all. */
const GATHER_MS = 20;

/** Keeps `status.hard` and `status.used` of quotas. */
export function quotaLoop(usage: QuotaUsage) {
  return (ctx: Context, keys: Keys): Reconcile => {
    const { client, informers } = ctx;
    const all = informers.of(resourceQuotas).onChange((key, now) => {
      if (now) keys.add(key);
    });
    usage.onUsage((namespace, names) => {
      for (const name of names) keys.addAfter(`${namespace}/${name}`, GATHER_MS);
    });
    return async (key) => {
      const quota = all.get(key);
      if (!quota) return undefined;
      const { namespace = '', name = '' } = quota.metadata!;
      const status = usage.statusOf(namespace).get(name);
      if (!status) return undefined;
      if (!deepEqual(status, quota.status ?? {}))
        await ifThere(
          client.updateStatus(resourceQuotas, { metadata: { namespace, name }, status } as ResourceQuota),
        );
      return usage.changesIn(namespace);
    };
  };
}
