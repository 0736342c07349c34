/** Join tokens as the hub keeps them: Kubernetes' bootstrap tokens, as kubeadm makes them, with a number of uses. */
import type { Secret } from 'kubernetes-types/core/v1.js';

export const TOKEN_NAMESPACE = 'kube-system';
export const TOKEN_TYPE = 'bootstrap.kubernetes.io/token';
export const tokenSecretName = (id: string): string => `bootstrap-token-${id}`;

/** The ConfigMap in which a running hub says where devices join (`join`), and the hash of its CA (`caHash`). */
export const LINK_CONFIG = { namespace: TOKEN_NAMESPACE, name: 'coxswain-link' } as const;

export function bootstrapTokenSecret(t: {
  id: string;
  secret: string;
  /** RFC 3339 */
  expiration: string;
  uses: number;
  /** Only a node of this name may join with it, and it may take the place of the one that has the name. */
  nodeName?: string;
}): Secret {
  const data = {
    'token-id': t.id,
    'token-secret': t.secret,
    expiration: t.expiration,
    'usage-bootstrap-authentication': 'true',
    'auth-extra-groups': 'system:bootstrappers:coxswain:node',
    description: 'Made by cox token create.',
    uses: String(t.uses),
    ...(t.nodeName ? { 'node-name': t.nodeName } : {}),
  };
  const b64 = Object.entries(data).map(([k, v]) => [k, Buffer.from(v).toString('base64')]);
  return {
    apiVersion: 'v1',
    kind: 'Secret',
    metadata: { namespace: TOKEN_NAMESPACE, name: tokenSecretName(t.id) },
    type: TOKEN_TYPE,
    data: Object.fromEntries(b64),
  };
}
