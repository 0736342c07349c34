import { createHmac } from 'node:crypto';
import type { ConfigMap, Secret, ServiceAccount } from 'kubernetes-types/core/v1.js';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { rfc3339 } from '../../api/clock.js';
import { configMaps, secrets, serviceAccounts } from '../../api/kinds/index.js';
import { silentLog } from '../../api/log.js';
import { VirtualClock } from '../../api/testing/virtual-clock.js';
import { publishClusterInfo } from '../auth/clusterinfo.js';
import type { Client } from '../client.js';
import { ANONYMOUS } from '../http/auth.js';
import { type TestApi, testApi } from '../testing/api.js';
import { Controllers } from './controllers.js';

const clock = new VirtualClock({ seed: 1 });
const KEY = { namespace: 'default', name: 'bot-token' };
let api: TestApi;
let client: Client;
let controllers: Controllers;

beforeAll(async () => {
  api = await testApi({ clock });
  client = api.registry.client();
  await api.registry.bootstrap();
  controllers = new Controllers({
    client,
    informers: api.informers,
    kinds: api.registry,
    clock,
    log: silentLog,
    caPem: 'CA',
    tokenForSecret: (account, secret) => api.tokens.forSecret(account, secret),
  });
  await controllers.start();
});
afterAll(async () => {
  await controllers.stop();
  await api.store.close();
});

const text = (s: { data?: unknown }, k: string) =>
  Buffer.from(String((s.data as Record<string, string> | undefined)?.[k] ?? ''), 'base64').toString();
const gone = async (key: typeof KEY) =>
  (await client.get(secrets, key).then(
    () => false,
    () => true,
  )) === true;

describe('Secrets of ServiceAccounts', () => {
  const make = () =>
    client.create<Secret>(secrets, {
      metadata: { ...KEY, annotations: { 'kubernetes.io/service-account.name': 'bot' } },
      type: 'kubernetes.io/service-account-token',
    });

  it('are filled with a token that works until they or their account go', async () => {
    const account = await client.create<ServiceAccount>(serviceAccounts, {
      metadata: { namespace: 'default', name: 'bot' },
    });
    await make();
    await clock.advance(100);
    const secret = await client.get(secrets, KEY);
    expect(secret.metadata!.annotations!['kubernetes.io/service-account.uid']).toBe(account.metadata!.uid);
    expect([text(secret, 'ca.crt'), text(secret, 'namespace')]).toEqual(['CA', 'default']);
    const token = text(secret, 'token');
    expect(api.tokens.authenticate(token)).toEqual({
      name: 'system:serviceaccount:default:bot',
      uid: account.metadata!.uid,
      groups: ['system:serviceaccounts', 'system:serviceaccounts:default', 'system:authenticated'],
    });
    // What was filled in stays, and what is taken out comes back.
    await client.patch(secrets, KEY, { data: { namespace: null } });
    await clock.advance(100);
    expect(text(await client.get(secrets, KEY), 'namespace')).toBe('default');
    expect(text(await client.get(secrets, KEY), 'token')).toBe(token);
    await client.patch(secrets, KEY, { data: { token: null } });
    expect(api.tokens.authenticate(token)).toBeUndefined();
    await clock.advance(100);
    const next = text(await client.get(secrets, KEY), 'token');
    expect(api.tokens.authenticate(next)).toBeDefined();
    expect(api.tokens.authenticate(token)).toBeUndefined();
    await client.delete(serviceAccounts, { namespace: 'default', name: 'bot' });
    expect(api.tokens.authenticate(next)).toBeUndefined();
    await clock.advance(100);
    expect(await gone(KEY)).toBe(true);
  });

  it('without an account go at once', async () => {
    await make();
    await clock.advance(5000);
    expect(await gone(KEY)).toBe(true);
  });
});

describe('bootstrap tokens', () => {
  const bootstrap = (id: string, data: Record<string, string>) =>
    client.create<Secret>(secrets, {
      metadata: { namespace: 'kube-system', name: `bootstrap-token-${id}` },
      type: 'bootstrap.kubernetes.io/token',
      stringData: { 'token-id': id, 'token-secret': '0123456789abcdef', ...data },
    });
  const info = async () =>
    (await client.get<ConfigMap>(configMaps, { namespace: 'kube-public', name: 'cluster-info' })).data!;

  it('sign what anybody may read of the cluster, until they expire, and go an hour later', async () => {
    await publishClusterInfo(client, 'https://192.0.2.1:6443', 'CA');
    const expiration = rfc3339(clock.now() + 60_000);
    await bootstrap('abcdef', { 'usage-bootstrap-signing': 'true', expiration });
    await bootstrap('silent', { 'usage-bootstrap-signing': 'false' });
    await clock.advance(1000);
    const { kubeconfig, 'jws-kubeconfig-abcdef': jws, ...rest } = await info();
    expect(rest).toEqual({});
    const [head, none, signature] = jws!.split('.');
    expect(JSON.parse(Buffer.from(head!, 'base64url').toString())).toEqual({ alg: 'HS256', kid: 'abcdef' });
    expect(none).toBe('');
    const signed = `${head}.${Buffer.from(kubeconfig!).toString('base64url')}`;
    expect(signature).toBe(createHmac('sha256', '0123456789abcdef').update(signed).digest('base64url'));

    const anyone = await api.call('/api/v1/namespaces/kube-public/configmaps/cluster-info', {
      user: ANONYMOUS,
    });
    expect(anyone.status).toBe(200);
    expect(anyone.json().data.kubeconfig).toContain('server: https://192.0.2.1:6443');
    const more = await api.call('/api/v1/namespaces/kube-public/configmaps', { user: ANONYMOUS });
    expect(more.status).toBe(403);

    await publishClusterInfo(client, 'https://192.0.2.2:6443', 'CA');
    await clock.advance(1000);
    expect((await info())['jws-kubeconfig-abcdef']).not.toBe(jws);
    await clock.advance(60_000);
    expect(Object.keys(await info())).toEqual(['kubeconfig']);
    const key = { namespace: 'kube-system', name: 'bootstrap-token-abcdef' };
    expect(await gone(key)).toBe(false);
    await clock.advance(3_600_000);
    expect(await gone(key)).toBe(true);
    expect(await gone({ namespace: 'kube-system', name: 'bootstrap-token-silent' })).toBe(false);
  });
});
