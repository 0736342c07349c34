import { generateKeyPairSync } from 'node:crypto';
import type { Pod, Service, ServiceAccount } from 'kubernetes-types/core/v1.js';
import { describe, expect, it } from 'vitest';
import { nodes, pods, serviceAccounts, services } from '../../api/kinds/index.js';
import { silentLog } from '../../api/log.js';
import { VirtualClock } from '../../api/testing/virtual-clock.js';
import { encode } from '../../api/wire/codec.js';
import type { PodTokens } from '../../api/wire/desired.js';
import { jwt } from '../../api/wire/jwt.js';
import { TYPE } from '../../api/wire/messages.js';
import { applyDelta, digestOf, type Items, planDelta } from '../../api/wire/set.js';
import { PodTokenSource } from '../auth/podtokens.js';
import { Tokens } from '../auth/tokens.js';
import { Informers } from '../informer.js';
import { testApi } from '../testing/api.js';
import { aNode } from '../testing/objects.js';
import { DesiredSets } from './desired.js';

const DAY_MS = 86_400_000;
const key = generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey;

async function world() {
  const clock = new VirtualClock({ seed: 1 });
  const { registry } = await testApi({ clock });
  const client = registry.client();
  await registry.bootstrap();
  await client.create(nodes, aNode('pi1'));
  const account = { metadata: { namespace: 'default', name: 'default' } } as ServiceAccount;
  await client.create(serviceAccounts, account);
  const tokens = new Tokens({ key, registry, clock });
  const changed: string[] = [];
  const start = async () => {
    const informers = new Informers(client, clock, silentLog);
    const source = new PodTokenSource(tokens);
    const sets = new DesiredSets(informers, Buffer.alloc(32), clock, source, (n) => changed.push(n));
    await informers.start();
    return sets;
  };
  const pod = (name: string) =>
    client.create(pods, {
      metadata: { namespace: 'default', name },
      spec: { nodeName: 'pi1', containers: [{ name: 'c', image: 'i' }] },
    } as Pod);
  return { clock, client, account, tokens, changed, start, pod, sets: await start() };
}

/** What the node has after the delta that leads from one set to the other, and the bytes of its body. */
function send(from: Items, to: Items): { items: Items; bytes: number } {
  const { delta } = planDelta(from, to, 1, 1e6)!;
  const sent = JSON.parse(JSON.stringify(delta)) as typeof delta;
  const bytes = encode(TYPE.delta, delta).reduce((n, f) => n + f.length, 0);
  return { items: applyDelta(from, sent)!, bytes };
}
const tokenOf = (items: Items, name: string) => {
  const { kid, tokens } = items.get(`t/default/${name}`)!.object as unknown as PodTokens;
  const { c, s } = tokens['3607 ']!;
  return jwt(kid, c, s);
};

describe('the desired set of a node', () => {
  it('has the Services of the namespaces of its pods, and changes with what pods see of them', async () => {
    const w = await world();
    const service = (name: string, spec: object, namespace = 'default') =>
      w.client.create(services, { metadata: { namespace, name }, spec } as Service);
    const db = await service('db', { ports: [{ name: 'sql', port: 5432 }] });
    await service('headless', { clusterIP: 'None', ports: [{ port: 1 }] });
    const of = async () => {
      await w.clock.advance(10);
      const set = w.sets.of('pi1');
      return [...set].filter(([key]) => key.startsWith('v/')).map(([, item]) => item.object);
    };
    expect(await of()).toEqual([]);
    await w.pod('a');
    const { clusterIP } = db.spec!;
    expect(await of()).toEqual([
      {
        metadata: { namespace: 'default', name: 'db' },
        spec: { clusterIP, ports: [{ name: 'sql', port: 5432 }] },
      },
    ]);
    w.changed.length = 0;
    await w.client.update(services, {
      ...db,
      metadata: { ...db.metadata, labels: { a: 'b' } },
    } as Service);
    await w.clock.advance(10);
    expect(w.changed).toEqual([]);
    await w.client.delete(services, { namespace: 'default', name: 'db' });
    expect(await of()).toEqual([]);
    expect(w.changed).toEqual(['pi1']);
  });

  it('is no other for what is told of the status of a pod, until the pod ends', async () => {
    const w = await world();
    const made = await w.pod('a');
    await w.clock.advance(10);
    const before = w.sets.of('pi1');
    w.changed.length = 0;
    const tell = async (status: object) => {
      const now = await w.client.get(pods, { namespace: 'default', name: 'a' });
      await w.client.updateStatus(pods, { ...now, status } as Pod);
      await w.clock.advance(10);
    };
    await tell({ phase: 'Running', podIP: '10.0.0.1' });
    expect(w.changed).toEqual([]);
    const running = w.sets.of('pi1');
    expect(running.get('p/default/a')).toBe(before.get('p/default/a'));
    expect(digestOf(running)).toBe(digestOf(before));
    expect(digestOf((await w.start()).of('pi1'))).toBe(digestOf(before));
    w.changed.length = 0;
    await tell({ phase: 'Succeeded' });
    expect(w.changed).toContain('pi1');
    expect(w.sets.of('pi1').get('p/default/a')!.object).toMatchObject({ status: { phase: 'Succeeded' } });
    await w.client.update(pods, {
      ...made,
      metadata: { ...made.metadata, resourceVersion: '', labels: { a: 'b' } },
    } as Pod);
    await w.clock.advance(10);
    expect(w.sets.of('pi1').get('p/default/a')!.object.metadata!.labels).toEqual({ a: 'b' });
  });

  it('has the tokens of its pods, the same for a hub that starts anew', async () => {
    const w = await world();
    await w.pod('a');
    await w.clock.advance(10);
    const set = w.sets.of('pi1');
    expect([...set.keys()].filter((k) => k.startsWith('t/'))).toEqual(['t/default/a']);
    const { items } = send(new Map(), set);
    expect(w.tokens.authenticate(tokenOf(items, 'a'))?.name).toBe('system:serviceaccount:default:default');
    expect(digestOf((await w.start()).of('pi1'))).toBe(digestOf(set));
  });

  it('renews a token by a small change once a day, at no other time', async () => {
    const w = await world();
    await w.pod('a');
    await w.clock.advance(10);
    let { items: held } = send(new Map(), w.sets.of('pi1'));
    const first = tokenOf(held, 'a');
    w.changed.length = 0;
    await w.clock.advance(DAY_MS / 2 - 60_000);
    expect(w.changed).toEqual([]);
    await w.clock.advance(DAY_MS / 2 + 60_000);
    expect(w.changed).toEqual(['pi1']);
    const { items, bytes } = send(held, w.sets.of('pi1'));
    held = items;
    expect(tokenOf(held, 'a')).not.toBe(first);
    expect(w.tokens.authenticate(tokenOf(held, 'a'))).toBeDefined();
    expect(bytes).toBeLessThan(350);
    // Of a node that is not linked nobody waits for anything.
    w.sets.forget('pi1');
    w.changed.length = 0;
    await w.clock.advance(3 * DAY_MS);
    expect(w.changed).toEqual([]);
  });

  it('has none for an ended pod, nor before the account is there, and another for another account', async () => {
    const w = await world();
    const { metadata } = await w.pod('a');
    await w.client.delete(serviceAccounts, { namespace: 'default', name: 'default' });
    await w.clock.advance(10);
    expect(w.sets.of('pi1').has('t/default/a')).toBe(false);
    w.changed.length = 0;
    await w.client.create(serviceAccounts, w.account);
    await w.clock.advance(10);
    expect(w.changed).toContain('pi1');
    expect(w.sets.of('pi1').has('t/default/a')).toBe(true);
    await w.client.patch(
      pods,
      { namespace: 'default', name: metadata!.name! },
      { status: { phase: 'Failed' } },
      'status',
    );
    await w.clock.advance(10);
    expect(w.sets.of('pi1').has('t/default/a')).toBe(false);
  });

  it('costs little more for tokens', async () => {
    const w = await world();
    await w.pod('a');
    await w.clock.advance(10);
    const set = w.sets.of('pi1');
    const without = new Map([...set].filter(([k]) => !k.startsWith('t/')));
    const cost = send(new Map(), set).bytes - send(new Map(), without).bytes;
    expect(cost).toBeLessThan(450);
  });
});
