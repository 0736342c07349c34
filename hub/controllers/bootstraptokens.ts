import { createHmac } from 'node:crypto';
import type { ConfigMap, Secret } from 'kubernetes-types/core/v1.js';
import { configMaps, secrets } from '../../api/kinds/index.js';
import { isApiError } from '../../api/meta/errors.js';
import { deepEqual } from '../../api/meta/json.js';
import type { Frozen } from '../client.js';
import { type Context, ifThere, type Keys, type Reconcile } from './loop.js';

const NAMESPACE = 'kube-system';
const TYPE = 'bootstrap.kubernetes.io/token';
const PREFIX = 'bootstrap-token-';
export const CLUSTER_INFO = { namespace: 'kube-public', name: 'cluster-info' } as const;
const SIGNATURE = 'jws-kubeconfig-';
/**
 * Kubernetes removes a token the moment it expires. Here it stays for an hour, good for nothing, so that a device that
 * comes late with it is told that it has expired, and not that there is no such token.
 */
const KEEP_MS = 3_600_000;
/** The key of the queue under which `cluster-info` is looked after; no Secret can be called so. */
const SIGN = '';

const text = (s: Frozen<Secret>, key: string): string =>
  Buffer.from(String(s.data?.[key] ?? ''), 'base64').toString('utf8');

/** When a bootstrap token ends, Unix ms; a time that nobody can read has passed, as in Kubernetes. */
const endOf = (s: Frozen<Secret>): number => {
  const expiration = text(s, 'expiration');
  return expiration ? Date.parse(expiration) || 0 : Number.POSITIVE_INFINITY;
};

/** A detached JWS over the kubeconfig, with a token's secret as key (pkg/controller/bootstrap/jws.go). Pure. */
export function detachedJws(content: string, id: string, secret: string): string {
  const head = Buffer.from(JSON.stringify({ alg: 'HS256', kid: id })).toString('base64url');
  const body = Buffer.from(content).toString('base64url');
  return `${head}..${createHmac('sha256', secret).update(`${head}.${body}`).digest('base64url')}`;
}

/**
 * Removes bootstrap tokens that have expired (Kubernetes' tokencleaner), and signs the ConfigMap `cluster-info` with
 * those that are good for signing (bootstrapsigner), so that whoever holds one can trust what it says of the cluster.
 */
export function bootstrapTokensLoop({ client, informers, clock }: Context, keys: Keys): Reconcile {
  const isToken = (s: Frozen<Secret> | undefined) =>
    s?.type === TYPE && s.metadata!.namespace === NAMESPACE && s.metadata!.name!.startsWith(PREFIX);
  const all = informers.of(secrets).onChange((_, now, before) => {
    if (!isToken(now ?? before)) return;
    keys.add(SIGN);
    if (now) keys.add(now.metadata!.name!);
  });
  const maps = informers.of(configMaps).onChange((_, now) => {
    if (now?.metadata?.name === CLUSTER_INFO.name && now.metadata.namespace === CLUSTER_INFO.namespace)
      keys.add(SIGN);
  });

  const clean = async (name: string): Promise<number | undefined> => {
    const secret = all.get(`${NAMESPACE}/${name}`);
    if (!secret) return undefined;
    const left = endOf(secret) + KEEP_MS - clock.now();
    if (left > 0) return Number.isFinite(left) ? Math.min(left, 24 * 3_600_000) : undefined;
    await ifThere(client.delete(secrets, { namespace: NAMESPACE, name }, { uid: secret.metadata!.uid! }));
    return undefined;
  };

  const signAll = async (): Promise<number | undefined> => {
    const map = maps.get(`${CLUSTER_INFO.namespace}/${CLUSTER_INFO.name}`);
    const content = map?.data?.['kubeconfig'];
    if (!map || content === undefined) return undefined;
    const wanted: Record<string, string | null> = {};
    let next = Number.POSITIVE_INFINITY;
    for (const s of all.values()) {
      const [id, secret] = [text(s, 'token-id'), text(s, 'token-secret')];
      if (!isToken(s) || s.metadata!.deletionTimestamp || endOf(s) <= clock.now()) continue;
      if (text(s, 'usage-bootstrap-signing') !== 'true' || !/^[a-z0-9]{6}$/.test(id) || !secret) continue;
      wanted[SIGNATURE + id] = detachedJws(content, id, secret);
      next = Math.min(next, endOf(s) - clock.now());
    }
    // A signature goes when its token expires.
    const again = Number.isFinite(next) ? Math.min(next, 24 * 3_600_000) : undefined;
    const there = Object.fromEntries(Object.entries(map.data!).filter(([k]) => k.startsWith(SIGNATURE)));
    if (deepEqual(there, wanted)) return again;
    for (const k of Object.keys(there)) wanted[k] ??= null;
    try {
      await client.patch<ConfigMap>(configMaps, CLUSTER_INFO, {
        metadata: { resourceVersion: map.metadata!.resourceVersion },
        data: wanted,
      });
    } catch (e) {
      if (!isApiError(e, 'NotFound')) throw e;
    }
    return again;
  };
  return (key) => (key === SIGN ? signAll() : clean(key));
}
