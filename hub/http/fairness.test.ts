import fc from 'fast-check';
import type {
  FlowSchema,
  PriorityLevelConfiguration,
  QueuingConfiguration,
  Subject,
} from 'kubernetes-types/flowcontrol/v1.js';
import { describe, expect, it } from 'vitest';
import { VirtualClock } from '../../api/testing/virtual-clock.js';
import type { Attributes, User } from '../auth/attributes.js';
import { Classifier } from './classify.js';
import { Fairness, type FairnessLimits, type Release } from './fairness.js';

const never = () => new AbortController().signal;

const WHAT = { verb: 'get', path: '/version' };
const as = (name: string, ...groups: string[]) => ({ name, groups: [...groups, 'system:authenticated'] });

const everything = (
  name: string,
  level: string,
  subjects: Subject[],
  distinguisher?: string,
): FlowSchema => ({
  metadata: { name, uid: `uid-of-${name}` },
  spec: {
    matchingPrecedence: 500,
    priorityLevelConfiguration: { name: level },
    ...(distinguisher ? { distinguisherMethod: { type: distinguisher } } : {}),
    rules: [
      {
        subjects,
        resourceRules: [
          { verbs: ['*'], apiGroups: ['*'], resources: ['*'], namespaces: ['*'], clusterScope: true },
        ],
        nonResourceRules: [{ verbs: ['*'], nonResourceURLs: ['*'] }],
      },
    ],
  },
});
const everyone: Subject = { kind: 'Group', group: { name: 'system:authenticated' } };
const level = (
  name: string,
  nominalConcurrencyShares: number,
  queuing?: QueuingConfiguration,
  more: object = {},
): PriorityLevelConfiguration => ({
  metadata: { name, uid: `uid-of-${name}` },
  spec: {
    type: 'Limited',
    limited: {
      nominalConcurrencyShares,
      ...more,
      limitResponse: queuing ? { type: 'Queue', queuing } : { type: 'Reject' },
    },
  },
});
/** So many that what is kept for `catch-all` is one seat of its own. */
const ALL_SHARES = 10_000;

/** Asks as some users would, each a flow of the only level; `log` is who got in, in order. */
function crowd(limits: Partial<FairnessLimits>, queuing: QueuingConfiguration = {}) {
  const clock = new VirtualClock();
  const fairness = new Fairness(clock, limits);
  fairness.configure(
    [everything('all', 'only', [everyone], 'ByUser')],
    [level('only', ALL_SHARES, { queues: 64, queueLengthLimit: 50, ...queuing })],
  );
  const log: string[] = [];
  const inside: { user: string; release: Release }[] = [];
  const refused: string[] = [];
  const ask = (user: string, signal: () => AbortSignal = never): void => {
    const admit = (release: Release | undefined) => {
      if (!release) refused.push(user);
      else {
        log.push(user);
        inside.push({ user, release });
      }
    };
    const entered = fairness.enter(fairness.schemaOf(as(user), WHAT), as(user), WHAT, signal);
    if (entered instanceof Promise) entered.then(admit);
    else admit(entered);
  };
  const settle = () => new Promise<void>((resolve) => setImmediate(resolve));
  return { clock, fairness, log, inside, refused, ask, settle };
}

describe('Fairness', () => {
  it('lets a greedy user wait for itself, not others for it', async () => {
    const c = crowd({ seats: 4, seatsPerFlow: 3 });
    for (let i = 0; i < 50; i++) c.ask('greedy');
    await c.settle();
    expect(c.inside).toHaveLength(3);
    c.ask('kubectl');
    expect(c.log.at(-1)).toBe('kubectl');
    // All seats are taken; of the next two the newcomer has one, whatever else waits.
    c.ask('another');
    for (let i = 0; i < 2; i++) c.inside.shift()!.release();
    await c.settle();
    expect(c.log.slice(-2).sort()).toEqual(['another', 'greedy']);
  });

  it('takes turns', async () => {
    const c = crowd({ seats: 1, seatsPerFlow: 1 });
    c.ask('first');
    for (const user of ['a', 'a', 'a', 'b', 'b', 'c']) c.ask(user);
    while (c.inside.length) {
      c.inside.shift()!.release();
      await c.settle();
    }
    expect(c.log).toEqual(['first', 'a', 'b', 'c', 'a', 'b', 'a']);
  });

  it('refuses what does not fit into the queues, or waits too long', async () => {
    const c = crowd({ seats: 1, seatsPerFlow: 1, waiting: 3, patience: 1000 }, { queueLengthLimit: 2 });
    c.ask('a');
    for (const user of ['a', 'a', 'a', 'b', 'b']) c.ask(user);
    await c.settle();
    expect(c.refused).toEqual(['a', 'b']);
    await c.clock.advance(1000);
    expect(c.refused).toHaveLength(5);
    c.inside.shift()!.release();
    c.ask('b');
    expect(c.log).toEqual(['a', 'b']);
  });

  it('forgets those who have gone', async () => {
    const c = crowd({ seats: 1, seatsPerFlow: 1 });
    const abort = new AbortController();
    c.ask('a');
    c.ask('b', () => abort.signal);
    c.ask('c');
    abort.abort();
    await c.settle();
    c.inside.shift()!.release();
    await c.settle();
    expect(c.log).toEqual(['a', 'c']);
  });

  it('lets administrators in, up to a limit of their own', () => {
    const f = new Fairness(new VirtualClock(), { seats: 0, exemptSeats: 1 });
    const admin = as('admin', 'system:masters');
    const enter = () => f.enter(f.schemaOf(admin, WHAT), admin, WHAT, never);
    const release = enter() as Release;
    expect(enter()).toBeUndefined();
    release();
    release();
    expect(enter()).toBeTypeOf('function');
    expect(enter()).toBeUndefined();
  });

  it('leaves half of the long requests to others', () => {
    const f = new Fairness(new VirtualClock(), { longRunning: 4 });
    const first = f.enterLongRunning('a', false)!;
    expect(f.enterLongRunning('a', false)).toBeTypeOf('function');
    expect(f.enterLongRunning('a', false)).toBeUndefined();
    expect(f.enterLongRunning('b', false)).toBeTypeOf('function');
    first();
    expect(f.enterLongRunning('a', false)).toBeTypeOf('function');
    expect(f.enterLongRunning('admin', true)).toBeTypeOf('function');
    expect(f.enterLongRunning('admin', true)).toBeUndefined();
  });

  describe('with priority levels', () => {
    const of = (name: string): Subject => ({ kind: 'User', user: { name } });
    const two = (more: object = {}) => {
      const c = crowd({ seats: 10, seatsPerFlow: 100 });
      const queuing = { queues: 4, queueLengthLimit: 50 };
      c.fairness.configure(
        [everything('for-high', 'high', [of('high')]), everything('for-low', 'low', [of('low')])],
        [level('high', ALL_SHARES, queuing, more), level('low', ALL_SHARES, queuing, more)],
      );
      return c;
    };
    const inside = (c: ReturnType<typeof crowd>, user: string) =>
      c.inside.filter((i) => i.user === user).length;

    it('keeps its share for each that lends nothing', async () => {
      const c = two();
      for (let i = 0; i < 20; i++) c.ask('low');
      await c.settle();
      expect(inside(c, 'low')).toBe(5);
      for (let i = 0; i < 6; i++) c.ask('high');
      expect(inside(c, 'high')).toBe(5);
    });

    it('lends what is not used, and gives it back first', async () => {
      const c = two({ lendablePercent: 60 });
      for (let i = 0; i < 20; i++) c.ask('low');
      await c.settle();
      // Its own 5 and the 3 that the other one lends.
      expect(inside(c, 'low')).toBe(8);
      for (let i = 0; i < 6; i++) c.ask('high');
      expect(inside(c, 'high')).toBe(2);
      for (let i = 0; i < 3; i++) {
        c.inside
          .splice(
            c.inside.findIndex((x) => x.user === 'low'),
            1,
          )[0]!
          .release();
        await c.settle();
      }
      expect([inside(c, 'low'), inside(c, 'high')]).toEqual([5, 5]);
    });

    it('borrows no more than it may', async () => {
      const c = two({ lendablePercent: 100, borrowingLimitPercent: 40 });
      for (let i = 0; i < 20; i++) c.ask('low');
      await c.settle();
      expect(inside(c, 'low')).toBe(7);
    });

    it('refuses at once where nobody is to wait', () => {
      const c = crowd({ seats: 1 });
      c.fairness.configure([everything('all', 'strict', [everyone])], [level('strict', ALL_SHARES)]);
      c.ask('a');
      c.ask('b');
      expect([c.log, c.refused]).toEqual([['a'], ['b']]);
      expect([...c.fairness.levels].find((l) => l.name === 'strict')).toMatchObject({
        seats: 1,
        rejected: 1,
      });
    });

    it('lets those in who wait when there are more seats, and works off a level that is gone', async () => {
      const c = two();
      for (let i = 0; i < 8; i++) c.ask('low');
      await c.settle();
      expect(inside(c, 'low')).toBe(5);
      c.fairness.configure([everything('for-high', 'high', [of('high')])], [level('high', 1)]);
      for (let i = 0; i < 8; i++) {
        c.inside.shift()!.release();
        await c.settle();
      }
      expect(c.log).toHaveLength(8);
      c.fairness.configure([], []);
      expect([...c.fairness.levels].map((l) => l.name).sort()).toEqual(['catch-all', 'exempt']);
    });

    it('tells flows apart by user, by namespace or not at all', () => {
      const user = as('someone');
      const get = { verb: 'get', group: '', resource: 'pods', namespace: 'a' };
      const key = (distinguisher?: string) => {
        const f = new Fairness(new VirtualClock());
        f.configure([everything('s', 'exempt', [everyone], distinguisher)], []);
        return Classifier.flowOf(f.schemaOf(user, get), user, get);
      };
      expect([key('ByUser'), key('ByNamespace'), key()]).toEqual(['s/someone', 's/a', 's']);
    });
  });

  describe('with the objects that every cluster has', () => {
    const f = new Fairness(new VirtualClock());
    const at = (resource: string, verb = 'get', namespace?: string, group = '') => ({
      verb,
      group,
      resource,
      namespace,
    });
    const of = (user: User, what: Attributes) => f.schemaOf(user, what).name;
    const account = (namespace: string) =>
      as(`system:serviceaccount:${namespace}:x`, 'system:serviceaccounts');

    it('knows who is who', () => {
      const node = as('system:node:pi', 'system:nodes');
      const leases = (verb: string) => at('leases', verb, 'kube-system', 'coordination.k8s.io');
      expect(of(as('admin', 'system:masters'), at('pods'))).toBe('exempt');
      expect(of(as('someone'), { verb: 'get', path: '/readyz/store' })).toBe('probes');
      expect(of(as('someone'), { verb: 'post', path: '/readyz' })).toBe('global-default');
      expect(of(node, at('nodes', 'update'))).toBe('system-node-high');
      expect(of(node, { ...at('nodes', 'update'), subresource: 'status' })).toBe('system-node-high');
      expect(of(node, leases('patch'))).toBe('system-node-high');
      expect(of(node, at('pods'))).toBe('system-nodes');
      expect(of(account('kube-system'), leases('update'))).toBe('system-leader-election');
      expect(of(account('kube-system'), leases('patch'))).toBe('kube-system-service-accounts');
      expect(of(account('default'), leases('update'))).toBe('service-accounts');
      expect(of(as('someone'), at('pods'))).toBe('global-default');
      expect(of({ name: 'nobody', groups: [] }, at('pods'))).toBe('catch-all');
    });

    it('shares 128 seats as kube-apiserver would', () => {
      const seats = Object.fromEntries([...f.levels].map((l) => [l.name, [l.nominal, l.lower]]));
      expect(seats).toEqual({
        'catch-all': [3, 3],
        exempt: [0, 0],
        system: [16, 11],
        'node-high': [21, 16],
        'leader-election': [6, 6],
        'workload-high': [21, 10],
        'workload-low': [53, 5],
        'global-default': [11, 5],
      });
    });
  });

  it('never has more inside than seats, answers everyone, and ends empty', async () => {
    const step = fc.oneof(
      { weight: 3, arbitrary: fc.record({ ask: fc.constantFrom('a', 'b', 'c', 'd') }) },
      { weight: 2, arbitrary: fc.record({ leave: fc.nat(9) }) },
      { weight: 1, arbitrary: fc.record({ pass: fc.nat(700) }) },
    );
    await fc.assert(
      fc.asyncProperty(fc.array(step, { maxLength: 80 }), async (steps) => {
        const c = crowd(
          { seats: 3, seatsPerFlow: 2, waiting: 6, patience: 1000 },
          { queues: 3, queueLengthLimit: 3 },
        );
        let asked = 0;
        for (const s of steps) {
          if ('ask' in s) {
            asked++;
            c.ask(s.ask);
          } else if ('leave' in s) c.inside.splice(s.leave % (c.inside.length || 1), 1)[0]?.release();
          else await c.clock.advance(s.pass);
          await c.settle();
          expect(c.inside.length).toBeLessThanOrEqual(3);
          for (const user of ['a', 'b', 'c', 'd'])
            expect(c.inside.filter((i) => i.user === user).length).toBeLessThanOrEqual(2);
        }
        while (c.inside.length) {
          c.inside.shift()!.release();
          await c.settle();
        }
        expect(c.log.length + c.refused.length).toBe(asked);
        // Nothing is left over: all seats are free again.
        for (const user of ['a', 'b', 'c']) c.ask(user);
        expect(c.inside).toHaveLength(3);
      }),
      { numRuns: 100 },
    );
  });
});
