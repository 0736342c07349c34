import { endpointSlices, endpoints, services } from '../../api/kinds/index.js';
import type { Kind } from '../../api/kinds/kind.js';
import { endpointIpErrors, familyOf } from '../../api/meta/ip.js';
import { deepEqual } from '../../api/meta/json.js';
import type { AnyObject } from '../../api/meta/object.js';
import { SERVICE_NAME, SKIP_MIRROR } from './endpoints-plan.js';
import { type Context, ifThere, type Keys, type Reconcile } from './loop.js';

/** Where the API is, from outside and by its address among Services. */
export interface ApiAddress {
  host: string;
  port: number;
  clusterIP: string;
}

const KEY = { namespace: 'default', name: 'kubernetes' };

/** Keeps the Service `kubernetes` in `default`, with the hub as its one endpoint. */
export function kubernetesServiceLoop(api: ApiAddress) {
  return (ctx: Context, keys: Keys): Reconcile => {
    const wanted: (readonly [Kind, AnyObject])[] = [
      [
        services as unknown as Kind,
        {
          metadata: { ...KEY, labels: { component: 'apiserver', provider: 'kubernetes' } },
          spec: {
            type: 'ClusterIP',
            clusterIP: api.clusterIP,
            ports: [{ name: 'https', port: 443, protocol: 'TCP', targetPort: api.port }],
          },
        },
      ],
    ];
    // An API that listens on loopback only has no address that others could use.
    if (endpointIpErrors(api.host, '').length === 0) {
      const port = { name: 'https', port: api.port, protocol: 'TCP' };
      wanted.push(
        [
          endpoints as unknown as Kind,
          {
            metadata: { ...KEY, labels: { [SKIP_MIRROR]: 'true' } },
            subsets: [{ addresses: [{ ip: api.host }], ports: [port] }],
          },
        ],
        [
          endpointSlices as unknown as Kind,
          {
            metadata: { ...KEY, labels: { [SERVICE_NAME]: KEY.name } },
            addressType: familyOf(api.host),
            endpoints: [{ addresses: [api.host], conditions: { ready: true } }],
            ports: [port],
          },
        ],
      );
    }
    for (const [kind] of wanted)
      ctx.informers.of(kind).onChange((key) => {
        if (key === `${KEY.namespace}/${KEY.name}`) keys.add('kubernetes');
      });
    keys.add('kubernetes');

    return async () => {
      for (const [kind, o] of wanted) {
        const there = await ifThere(ctx.client.get(kind, KEY));
        if (!there) {
          await ctx.client.create(kind, structuredClone(o));
          continue;
        }
        if (there.metadata?.deletionTimestamp) continue;
        const { metadata, ...rest } = o;
        const spec = { ...(there['spec'] as object), ...(rest['spec'] as object) };
        const patch = { ...rest, ...(rest['spec'] ? { spec } : {}) };
        const parts = Object.keys(patch) as (keyof typeof patch)[];
        const labels = { ...there.metadata?.labels, ...metadata?.labels };
        const same =
          parts.every((p) => deepEqual(there[p as string], patch[p])) &&
          deepEqual(there.metadata?.labels, labels);
        if (!same) await ctx.client.patch(kind, KEY, { ...patch, metadata: { labels } });
      }
    };
  };
}
