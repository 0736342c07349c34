import type { Secret, ServiceAccount } from 'kubernetes-types/core/v1.js';
import { secrets, serviceAccounts } from '../../api/kinds/index.js';
import type { Frozen } from '../client.js';
import { type Context, ifThere, type Keys, type Reconcile } from './loop.js';

const TYPE = 'kubernetes.io/service-account-token';
const NAME = 'kubernetes.io/service-account.name';
const UID = 'kubernetes.io/service-account.uid';

/** Makes the token for a Secret: hub/auth. */
export type TokenForSecret = (account: Frozen<ServiceAccount>, secret: string) => string;

const base64 = (text: string): string => Buffer.from(text).toString('base64');

/**
 * Fills Secrets of type `kubernetes.io/service-account-token` with a token, the CA and the namespace, and removes them
 * with their account (Kubernetes' tokens controller).
 */
export function accountTokensLoop(caPem: string, tokenFor: TokenForSecret) {
  return ({ client, informers }: Context, keys: Keys): Reconcile => {
    const all = informers.of(secrets).onChange((key, now) => {
      if (now?.type === TYPE) keys.add(key);
    });
    const accounts = informers.of(serviceAccounts).onChange((_, now, before) => {
      const { namespace = '', name } = (now ?? before)!.metadata!;
      // Only a coming or going concerns its Secrets.
      if (now && before && now.metadata!.uid === before.metadata!.uid) return;
      for (const s of all.values())
        if (
          s.type === TYPE &&
          s.metadata!.namespace === namespace &&
          s.metadata!.annotations?.[NAME] === name
        )
          keys.add(`${namespace}/${s.metadata!.name}`);
    });

    return async (key) => {
      const secret = all.get(key);
      if (secret?.type !== TYPE || secret.metadata!.deletionTimestamp) return;
      const { namespace = '', name = '', uid, annotations = {} } = secret.metadata!;
      const account = accounts.get(`${namespace}/${annotations[NAME]}`);
      if (!account || (annotations[UID] && annotations[UID] !== account.metadata!.uid)) {
        // The informer may not have seen an account that was made just now.
        const there = await ifThere(
          client.get(serviceAccounts, { namespace, name: annotations[NAME] ?? '' }),
        );
        if (there && (!annotations[UID] || annotations[UID] === there.metadata!.uid)) return 1000;
        await ifThere(client.delete(secrets, { namespace, name }, { uid: uid! }));
        return;
      }
      const data = (secret.data ?? {}) as unknown as Record<string, string>;
      const wanted: Record<string, string> = {
        'ca.crt': base64(caPem),
        namespace: base64(namespace),
        token: data['token'] || base64(tokenFor(account, name)),
      };
      const complete = Object.entries(wanted).every(([k, v]) => data[k] === v);
      if (complete && annotations[UID] === account.metadata!.uid) return;
      await ifThere(
        client.patch<Secret>(
          secrets,
          { namespace, name },
          {
            metadata: {
              resourceVersion: secret.metadata!.resourceVersion,
              annotations: { [UID]: account.metadata!.uid },
            },
            data: wanted,
          },
        ),
      );
    };
  };
}
