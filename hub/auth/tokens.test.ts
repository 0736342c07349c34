import fc from 'fast-check';
import { beforeEach, describe, expect, it } from 'vitest';
import { namespaces, pods, secrets, serviceAccounts } from '../../api/kinds/index.js';
import type { Kind } from '../../api/kinds/kind.js';
import type { AnyObject } from '../../api/meta/object.js';
import { VirtualClock } from '../../api/testing/virtual-clock.js';
import { type TestApi, testApi } from '../testing/api.js';

const K = (k: unknown) => k as Kind;
const ns = '/api/v1/namespaces/default';
let clock: VirtualClock;
let t: TestApi;
const token = async (spec: object, account = 'bot') =>
  t.call(`${ns}/serviceaccounts/${account}/token`, { method: 'POST', body: { spec } });
const text = async (spec: object = {}) => (await token(spec)).json().status.token as string;

beforeEach(async () => {
  clock = new VirtualClock();
  t = await testApi({ clock });
  const c = t.registry.client();
  for (const name of ['default', 'kube-system'])
    await c.create(K(namespaces), { metadata: { name } } as AnyObject);
  for (const name of ['bot', 'other'])
    await c.create(K(serviceAccounts), { metadata: { name, namespace: 'default' } } as AnyObject);
});

describe('tokens of service accounts', () => {
  it('stand for the account, until they expire', async () => {
    const reply = await token({ expirationSeconds: 600 });
    expect(reply.status).toBe(201);
    const made = reply.json();
    const user = t.tokens.authenticate(made.status.token);
    expect(user).toMatchObject({
      name: 'system:serviceaccount:default:bot',
      groups: ['system:serviceaccounts', 'system:serviceaccounts:default', 'system:authenticated'],
    });
    expect(Date.parse(made.status.expirationTimestamp) - clock.now()).toBeLessThanOrEqual(600_000);
    await clock.advance(601_000);
    expect(t.tokens.authenticate(made.status.token)).toBeUndefined();
  });

  it('go with the account, and with the pod that they are bound to', async () => {
    const c = t.registry.client();
    const pod = {
      metadata: { name: 'p', namespace: 'default' },
      spec: { serviceAccountName: 'bot', containers: [{ name: 'c', image: 'i' }] },
    } as AnyObject;
    await c.create(K(pods), pod);
    const boundObjectRef = { kind: 'Pod', apiVersion: 'v1', name: 'p' };
    const bound = await text({ boundObjectRef });
    expect(t.tokens.authenticate(bound)?.extra?.['authentication.kubernetes.io/pod-name']).toEqual(['p']);
    expect((await token({ boundObjectRef }, 'other')).json().message).toBe(
      'cannot bind token for serviceaccount "other" to pod running with different serviceaccount name.',
    );
    expect((await token({ boundObjectRef: { ...boundObjectRef, uid: 'x' } })).status).toBe(409);
    expect((await token({ boundObjectRef: { ...boundObjectRef, name: 'q' } })).status).toBe(404);
    expect((await token({ boundObjectRef: { kind: 'ConfigMap', apiVersion: 'v1', name: 'q' } })).status).toBe(
      400,
    );
    const free = await text();
    await c.delete(K(pods), { namespace: 'default', name: 'p' }, { gracePeriodSeconds: 0 });
    await c.create(K(pods), pod);
    expect(t.tokens.authenticate(bound)).toBeUndefined();
    expect(t.tokens.authenticate(free)).toBeDefined();
    await c.delete(K(serviceAccounts), { namespace: 'default', name: 'bot' });
    expect(t.tokens.authenticate(free)).toBeUndefined();
    expect((await token({})).status).toBe(404);
  });

  it('count for their audience only', async () => {
    const other = await text({ audiences: ['vault'] });
    expect(t.tokens.authenticate(other)).toBeUndefined();
    const review = async (spec: object) =>
      (await t.call('/apis/authentication.k8s.io/v1/tokenreviews', { method: 'POST', body: { spec } })).json()
        .status;
    expect(await review({ token: other, audiences: ['vault', 'x'] })).toMatchObject({
      authenticated: true,
      audiences: ['vault'],
      user: { username: 'system:serviceaccount:default:bot' },
    });
    expect(await review({ token: other })).toEqual({ user: {}, error: 'invalid bearer token' });
  });

  it('ask for a time that Kubernetes allows', async () => {
    const reply = await token({ expirationSeconds: 10 });
    expect(reply.status).toBe(422);
    expect(reply.json().message).toContain(
      'spec.expirationSeconds: Invalid value: 10: may not specify a duration less than 10 minutes',
    );
  });

  it('cannot be forged, and nothing that is no token upsets', async () => {
    const good = await text();
    const [head = '', body = '', signature = ''] = good.split('.');
    const none = Buffer.from('{"alg":"none"}').toString('base64url');
    for (const bad of ['', '.', '..', `${head}.${body}`, `${head}.${body}.`, `${none}.${body}.`, `${good}.x`])
      expect(t.tokens.authenticate(bad)).toBeUndefined();
    fc.assert(
      fc.property(fc.nat(good.length - 1), fc.constantFrom(...'Az09-_.'), (at, c) => {
        // The last character's low bits say nothing.
        fc.pre(good[at] !== c && at < good.length - 1);
        expect(t.tokens.authenticate(good.slice(0, at) + c + good.slice(at + 1))).toBeUndefined();
      }),
    );
    fc.assert(
      fc.property(fc.string({ unit: 'binary' }), (s) => {
        expect(t.tokens.authenticate(s)).toBeUndefined();
        expect(t.tokens.authenticate(`${head}.${body}.${s}`)).toBeUndefined();
        expect(t.tokens.authenticate(`${s}.${body}.${signature}`)).toBeUndefined();
      }),
    );
  });
});

it('bootstrap tokens stand for who joins, as long as they are good', async () => {
  const c = t.registry.client();
  const make = (id: string, over: object = {}) =>
    c.create(K(secrets), {
      metadata: { name: `bootstrap-token-${id}`, namespace: 'kube-system' },
      type: 'bootstrap.kubernetes.io/token',
      stringData: {
        'token-id': id,
        'token-secret': '0123456789abcdef',
        'usage-bootstrap-authentication': 'true',
        'auth-extra-groups': 'system:bootstrappers:pi',
        ...over,
      },
    } as unknown as AnyObject);
  await make('abcdef');
  await make('unused', { 'usage-bootstrap-authentication': 'false' });
  await make('oldone', { expiration: '2000-01-01T00:00:00Z' });
  await make('rooted', { 'auth-extra-groups': 'system:masters' });
  expect(t.tokens.authenticate('abcdef.0123456789abcdef')).toEqual({
    name: 'system:bootstrap:abcdef',
    groups: ['system:bootstrappers', 'system:bootstrappers:pi', 'system:authenticated'],
  });
  for (const bad of [
    'abcdef.0123456789abcdee',
    'absent.0123456789abcdef',
    'unused.0123456789abcdef',
    'oldone.0123456789abcdef',
    'rooted.0123456789abcdef',
  ])
    expect(t.tokens.authenticate(bad)).toBeUndefined();
});
