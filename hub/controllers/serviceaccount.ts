import { configMaps, namespaces, serviceAccounts } from '../../api/kinds/index.js';
import { isApiError } from '../../api/meta/errors.js';
import type { Context, Keys, Reconcile } from './loop.js';

const ACCOUNT = 'default';
const ROOT_CA = 'kube-root-ca.crt';

/** Gives every namespace the ServiceAccount `default` and a ConfigMap `kube-root-ca.crt` with the API's CA. */
export function serviceAccountLoop(caPem: string) {
  return (ctx: Context, keys: Keys): Reconcile => {
    const { client, informers } = ctx;
    const all = informers.of(namespaces).onChange((name, now) => {
      if (now) keys.add(name);
    });
    const accounts = informers.of(serviceAccounts).onChange((_, now, before) => {
      if (!now && before?.metadata?.name === ACCOUNT) keys.add(before.metadata.namespace!);
    });
    const maps = informers.of(configMaps).onChange((_, now, before) => {
      const m = (now ?? before)!.metadata!;
      if (m.name === ROOT_CA && before) keys.add(m.namespace!);
    });

    return async (namespace) => {
      const ns = all.get(namespace);
      if (!ns || ns.metadata?.deletionTimestamp) return;
      try {
        if (!accounts.get(`${namespace}/${ACCOUNT}`))
          await client.create(serviceAccounts, {
            apiVersion: 'v1',
            kind: 'ServiceAccount',
            metadata: { namespace, name: ACCOUNT },
          });
      } catch (e) {
        if (!passes(e)) throw e;
      }
      const map = maps.get(`${namespace}/${ROOT_CA}`);
      const data = { 'ca.crt': caPem };
      try {
        if (!map)
          await client.create(configMaps, {
            apiVersion: 'v1',
            kind: 'ConfigMap',
            metadata: {
              namespace,
              name: ROOT_CA,
              annotations: {
                'kubernetes.io/description':
                  "The certificate authority of this cluster's API, for clients inside pods.",
              },
            },
            data,
          });
        else if (map.data?.['ca.crt'] !== caPem)
          await client.patch(configMaps, { namespace, name: ROOT_CA }, { data });
      } catch (e) {
        if (!passes(e)) throw e;
      }
    };
  };
}

/** Somebody else was quicker, or the namespace is going away. */
const passes = (e: unknown): boolean =>
  isApiError(e, 'AlreadyExists') || isApiError(e, 'Forbidden') || isApiError(e, 'NotFound');
