/** Says in the API where devices join, for `cox token create`. */
import type { ConfigMap } from 'kubernetes-types/core/v1.js';
import { configMaps } from '../../api/kinds/index.js';
import { isApiError } from '../../api/meta/errors.js';
import { canonical } from '../../api/wire/set.js';
import type { Client } from '../client.js';
import { LINK_CONFIG } from './token.js';

/** Writes only what is not there yet. Rejects when it cannot. */
export async function announce(client: Client, data: { join: string; caHash: string }): Promise<void> {
  const old = await client.get<ConfigMap>(configMaps, LINK_CONFIG).catch((e: unknown) => {
    if (!isApiError(e, 'NotFound')) throw e;
    return undefined;
  });
  if (!old)
    await client.create<ConfigMap>(configMaps, {
      apiVersion: 'v1',
      kind: 'ConfigMap',
      metadata: { ...LINK_CONFIG },
      data,
    });
  else if (canonical(old.data) !== canonical(data))
    await client.patch<ConfigMap>(configMaps, LINK_CONFIG, { data });
}
