/**
 * What servers behind APIServices have to know to trust this API and its clients (kube-apiserver
 * clusterauthenticationtrust): the ConfigMap `extension-apiserver-authentication`.
 */
import type { ConfigMap } from 'kubernetes-types/core/v1.js';
import { configMaps } from '../../api/kinds/index.js';
import { isApiError } from '../../api/meta/errors.js';
import type { Client } from '../client.js';

const KEY = { namespace: 'kube-system', name: 'extension-apiserver-authentication' };

export interface Trust {
  /** PEM of all CAs that client certificates may come from. */
  clientCa: string;
  /** PEM of the CA of the front proxy's certificate, and whom that is of. */
  frontProxyCa: string;
  frontProxyNames: readonly string[];
}

/** Makes it, or brings it up to date; writes nothing where nothing has changed. */
export async function publishTrust(client: Client, trust: Trust): Promise<void> {
  const data = {
    'client-ca-file': trust.clientCa,
    'requestheader-client-ca-file': trust.frontProxyCa,
    'requestheader-allowed-names': JSON.stringify(trust.frontProxyNames),
    'requestheader-username-headers': '["X-Remote-User"]',
    'requestheader-uid-headers': '["X-Remote-Uid"]',
    'requestheader-group-headers': '["X-Remote-Group"]',
    'requestheader-extra-headers-prefix': '["X-Remote-Extra-"]',
  };
  const map: ConfigMap = { metadata: KEY, data };
  try {
    await client.create(configMaps, map);
  } catch (e) {
    if (!isApiError(e, 'AlreadyExists')) throw e;
    await client.patch(configMaps, KEY, { data });
  }
}
