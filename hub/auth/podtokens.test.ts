import { generateKeyPairSync, randomUUID } from 'node:crypto';
import fc from 'fast-check';
import type { Pod, ServiceAccount } from 'kubernetes-types/core/v1.js';
import { describe, expect, it } from 'vitest';
import { rfc3339 } from '../../api/clock.js';
import { nodes, pods, serviceAccounts } from '../../api/kinds/index.js';
import { VirtualClock } from '../../api/testing/virtual-clock.js';
import { jwt } from '../../api/wire/jwt.js';
import { testApi } from '../testing/api.js';
import { aNode } from '../testing/objects.js';
import { PodTokenSource, spanOf } from './podtokens.js';
import { Tokens } from './tokens.js';

const DAY = 86_400;

describe('the span of a token', () => {
  it('holds now, is never longer than 80 % of a life or a day, and leads to the next', () => {
    fc.assert(
      fc.property(
        fc.uuid(),
        fc.integer({ min: 0, max: 2e9 }),
        fc.integer({ min: 600, max: 2 ** 32 }),
        fc.integer({ min: 0, max: 1e8 }),
        (uid, created, life, age) => {
          const now = created + age;
          const { from, until } = spanOf(uid, 'n', created, life, now);
          expect(from).toBeLessThanOrEqual(now);
          expect(until).toBeGreaterThan(now);
          expect(until - from).toBeLessThanOrEqual(Math.min(0.8 * life, DAY));
          // A fifth of a token's life is always left.
          expect(from + life - now).toBeGreaterThanOrEqual(Math.floor(0.2 * life));
          expect(spanOf(uid, 'n', created, life, until - 1)).toEqual({ from, until });
          expect(spanOf(uid, 'n', created, life, until).from).toBe(until);
        },
      ),
    );
  });

  it('of pods that were made together ends at different times', () => {
    const ends = new Set(Array.from({ length: 50 }, () => spanOf(randomUUID(), 'n', 0, 3600, 0).until));
    expect(ends.size).toBeGreaterThan(40);
  });
});

describe('tokens of pods', () => {
  const clock = new VirtualClock({ seed: 1 });
  const key = generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey;
  let serial = 0;
  const projection = (serviceAccountToken: object) => ({
    name: `v${++serial}`,
    projected: { sources: [{ serviceAccountToken }] },
  });

  async function world(volumes: object[] = []) {
    const { registry } = await testApi({ clock });
    const client = registry.client();
    await registry.bootstrap();
    const account = await client.create(serviceAccounts, {
      metadata: { namespace: 'default', name: 'bot' },
    } as ServiceAccount);
    const node = await client.create(nodes, aNode('pi1'));
    const pod = await client.create(pods, {
      metadata: { namespace: 'default', name: 'p' },
      spec: {
        serviceAccountName: 'bot',
        nodeName: 'pi1',
        containers: [{ name: 'c', image: 'i' }],
        volumes,
      },
    } as Pod);
    const tokens = new Tokens({ key, registry, clock });
    const source = new PodTokenSource(tokens);
    const holder = {
      account: { namespace: 'default', name: 'bot', uid: account.metadata!.uid! },
      node: { name: 'pi1', uid: node.metadata!.uid! },
    };
    const now = () => source.of(pod, holder, clock.now())!;
    const sign = () => source.sign(pod, holder, clock.now());
    const all = () => {
      const { kid, tokens: signed } = sign();
      return Object.fromEntries(Object.entries(signed).map(([k, { c, s }]) => [k, jwt(kid, c, s)]));
    };
    return { registry, client, holder, pod, tokens, now, sign, all };
  }

  it('are those that the API takes, bound to pod, account and node', async () => {
    const w = await world();
    const { '3607 ': token } = w.all();
    expect(w.tokens.authenticate(token!)).toMatchObject({
      name: 'system:serviceaccount:default:bot',
      groups: ['system:serviceaccounts', 'system:serviceaccounts:default', 'system:authenticated'],
      extra: {
        'authentication.kubernetes.io/pod-name': ['p'],
        'authentication.kubernetes.io/pod-uid': [w.pod.metadata!.uid],
        'authentication.kubernetes.io/node-name': ['pi1'],
      },
    });
    await w.client.delete(pods, { namespace: 'default', name: 'p' }, { gracePeriodSeconds: 0 });
    expect(w.tokens.authenticate(token!)).toBeUndefined();
  });

  it('are void as long as the device that holds them is locked out', async () => {
    const w = await world();
    const { '3607 ': token } = w.all();
    w.tokens.lockedOut = (node) => node === 'pi1';
    expect(w.tokens.authenticate(token!)).toBeUndefined();
    w.tokens.lockedOut = (node) => node === 'pi2';
    expect(w.tokens.authenticate(token!)).toBeDefined();
  });

  it('are the same for a hub that starts anew, but for the signature, until they are due', async () => {
    const w = await world();
    const first = w.now();
    const again = new PodTokenSource(new Tokens({ key, registry: w.registry, clock }));
    expect(again.of(w.pod, w.holder, clock.now())!.claims).toEqual(first.claims);
    const signature = () => w.sign().tokens['3607 ']!.s;
    await clock.advance(first.until - clock.now() - 1000);
    expect(w.now().claims).toEqual(first.claims);
    expect(signature()).not.toBe(signature());
    await clock.advance(2000);
    expect(w.now().claims).not.toEqual(first.claims);
    expect(w.now().until - first.until).toBe(DAY * 1000);
  });

  it('that are mounted by themselves outlive a year without a hub, others what they ask for', async () => {
    const w = await world([
      projection({ path: 'a', expirationSeconds: 600 }),
      projection({ path: 'b', expirationSeconds: 3607, audience: 'vault' }),
    ]);
    const at = clock.now();
    const { '3607 ': mounted, '600 ': short, '3607 vault': vault } = w.all() as Record<string, string>;
    const good = (t: string) => w.tokens.authenticate(t) !== undefined;
    const review = async (token: string, audience: string) =>
      (await w.tokens.review(
        { user: 'u', groups: [], warnings: [] },
        { spec: { token, audiences: [audience] } },
        undefined,
      )) as { status: { authenticated?: boolean } };
    expect([mounted, short, vault].map((t) => good(t!))).toEqual([true, true, false]);
    expect((await review(vault!, 'vault')).status.authenticated).toBe(true);
    expect((await review(short!, 'vault')).status.authenticated).toBeUndefined();
    await clock.advance(3700_000);
    expect([mounted, short].map((t) => good(t!))).toEqual([true, false]);
    expect((await review(vault!, 'vault')).status.authenticated).toBeUndefined();
    await clock.advance(at + 364 * DAY * 1000 - clock.now());
    expect(good(mounted!)).toBe(true);
    await clock.advance(2 * DAY * 1000);
    expect(good(mounted!)).toBe(false);
    expect(rfc3339(clock.now())).toMatch(/^\d{4}/);
  });
});
