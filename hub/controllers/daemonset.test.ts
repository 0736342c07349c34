import fc from 'fast-check';
import type { DaemonSet } from 'kubernetes-types/apps/v1.js';
import { describe, expect, it } from 'vitest';
import { controllerRevisions, daemonSets, events, nodes, pods } from '../../api/kinds/index.js';
import { silentLog } from '../../api/log.js';
import type { Frozen } from '../client.js';
import { Informers } from '../informer.js';
import { Cluster, type ClusterOptions } from '../testing/cluster.js';
import { aNode } from '../testing/objects.js';
import { type Ds, daemonStatus, limits, pinnedTo, placement, planDaemons, targetOf } from './daemons.js';
import { REVISION_HASH } from './history.js';
import { isActive, isReady } from './pods.js';

const KEY = { namespace: 'default', name: 'agent' };
const daemon = (spec: Partial<DaemonSet['spec'] & object> = {}, pod: object = {}): DaemonSet => ({
  metadata: { namespace: 'default', name: 'agent' },
  spec: {
    selector: { matchLabels: { app: 'agent' } },
    template: {
      metadata: { labels: { app: 'agent' } },
      spec: { containers: [{ name: 'c', image: 'v0' }], ...pod },
    },
    ...spec,
  },
});
const rolling = (maxSurge: number | string, maxUnavailable: number | string) => ({
  updateStrategy: { type: 'RollingUpdate', rollingUpdate: { maxSurge, maxUnavailable } } as never,
});
const image = (v: number) => ({
  spec: { template: { spec: { containers: [{ name: 'c', image: `v${v}` }] } } },
});

async function cluster(options: ClusterOptions = {}, ds = daemon()): Promise<Cluster> {
  const c = await new Cluster(options).start();
  await c.client.create(daemonSets, ds);
  return c;
}

async function converged(c: Cluster): Promise<boolean> {
  const ds = await c.client.get(daemonSets, KEY);
  const want = ds.spec!.template.spec!.containers[0]!.image;
  const all = await c.list(pods);
  const wanted = (await c.list(nodes))
    .filter((n) => placement(ds, n, undefined).run)
    .map((n) => n.metadata!.name!);
  const s = ds.status!;
  return (
    s.observedGeneration === ds.metadata!.generation &&
    [s.desiredNumberScheduled, s.numberAvailable ?? 0, s.updatedNumberScheduled ?? 0].every(
      (n) => n === wanted.length,
    ) &&
    s.numberMisscheduled === 0 &&
    all.length === wanted.length &&
    all.every((p) => isReady(p) && p.spec!.containers[0]!.image === want) &&
    wanted.every((n) => all.some((p) => p.spec!.nodeName === n))
  );
}

describe('placement', () => {
  const ds = (pod: object) => daemon({}, pod) as Ds;
  const node = (labels: object, taints: object[] = []) =>
    aNode('pi1', (n) => {
      Object.assign(n.metadata!.labels!, labels);
      Object.assign(n.spec, { taints });
    });
  it.each([
    ['a plain node', {}, node({}), true, true],
    ['a label it lacks', { nodeSelector: { disk: 'ssd' } }, node({}), false, false],
    ['a label it has', { nodeSelector: { disk: 'ssd' } }, node({ disk: 'ssd' }), true, true],
    ['another node by name', { nodeName: 'pi2' }, node({}), false, false],
    ['a taint', {}, node({}, [{ key: 'k', effect: 'NoSchedule' }]), false, true],
    ['a taint that throws out', {}, node({}, [{ key: 'k', effect: 'NoExecute' }]), false, false],
    [
      'a taint it tolerates',
      { tolerations: [{ operator: 'Exists' }] },
      node({}, [{ key: 'k', effect: 'NoExecute' }]),
      true,
      true,
    ],
    [
      'a cordoned node',
      {},
      node({}, [{ key: 'node.kubernetes.io/unschedulable', effect: 'NoSchedule' }]),
      true,
      true,
    ],
    [
      'a lost node',
      {},
      node({}, [{ key: 'node.kubernetes.io/unreachable', effect: 'NoExecute' }]),
      true,
      true,
    ],
    ['a node where nothing runs', {}, node({ 'coxswain.dev/runtime.oci': 'false' }), false, true],
  ])('%s', (_, pod, n, run, stay) => {
    expect(placement(ds(pod), n as never, undefined)).toEqual({ run, stay });
  });

  it('a pinned pod is found again, whatever affinity its template has', () => {
    const affinity = pinnedTo('pi7', {
      nodeAffinity: {
        requiredDuringSchedulingIgnoredDuringExecution: { nodeSelectorTerms: [{ matchExpressions: [] }] },
        preferredDuringSchedulingIgnoredDuringExecution: [],
      },
    });
    expect(targetOf({ spec: { containers: [], affinity } } as never)).toBe('pi7');
    expect(affinity.nodeAffinity).toHaveProperty('preferredDuringSchedulingIgnoredDuringExecution');
  });
});

describe('plans, one after the other', () => {
  const arb = fc.record({
    nodes: fc.integer({ min: 0, max: 8 }),
    strategy: fc.oneof(
      fc.constantFrom(1, 2, '25%', '100%').map((u) => rolling(0, u)),
      fc.constantFrom(1, 3, '50%', '100%').map((s) => rolling(s, 0)),
    ),
    luck: fc.infiniteStream(fc.integer({ min: 0, max: 5 })),
  });

  it('end with one new pod on each node, never with fewer available than allowed, and stay there', () => {
    fc.assert(
      fc.property(arb, ({ nodes: n, strategy, luck }) => {
        const ds = daemon(strategy) as Ds;
        const all = Array.from({ length: n }, (_, i) => aNode(`pi${i}`));
        const { maxSurge, maxUnavailable } = limits(ds, n);
        let made = 0;
        const pod = (on: string, hash: string, ready: boolean) => ({
          metadata: {
            name: `p${made++}`,
            creationTimestamp: new Date(made * 1000).toISOString(),
            labels: { [REVISION_HASH]: hash },
          },
          spec: { containers: [], nodeName: on },
          status: { phase: 'Running', conditions: [{ type: 'Ready', status: ready ? 'True' : 'False' }] },
        });
        let world = all.map((x) => pod(x.metadata!.name!, 'old', true));
        const view = () => ({
          nodes: all as never,
          pods: world as never,
          hash: 'new',
          now: 0,
          handler: undefined,
          backsOff: () => false,
        });
        for (let step = 0; step < 300; step++) {
          const plan = planDaemons(ds, view());
          world = world.filter((p) => !plan.delete.includes(p as never));
          world.push(...plan.create.map((on) => pod(on, 'new', false)));
          const ready = world.filter((p) => isReady(p as never));
          const served = new Set(ready.map((p) => p.spec.nodeName));
          expect(served.size).toBeGreaterThanOrEqual(n - maxUnavailable);
          expect(world.length).toBeLessThanOrEqual(n + maxSurge);
          if (plan.create.length + plan.delete.length === 0 && ready.length === world.length) break;
          for (const p of world) if (luck.next().value === 0) p.status.conditions[0]!.status = 'True';
        }
        expect(world.map((p) => p.spec.nodeName).sort()).toEqual(all.map((x) => x.metadata!.name!));
        const s = daemonStatus(ds, view(), true);
        expect([s.desiredNumberScheduled, s.numberReady, s.updatedNumberScheduled ?? 0]).toEqual([n, n, n]);
      }),
    );
  });
});

describe('DaemonSets', () => {
  it('one pod on each node that is there, that comes, and none where its labels forbid it', async () => {
    const c = await cluster();
    await c.until('up', () => converged(c));
    expect((await c.list(pods)).length).toBe(3);
    await c.addNode('pi9');
    await c.until('on the new node', async () => (await c.list(pods)).length === 4 && converged(c));
    const p = (await c.list(pods)).find((x) => x.spec!.nodeName === 'pi9')!;
    expect(p.metadata!.ownerReferences).toMatchObject([
      { kind: 'DaemonSet', name: 'agent', controller: true },
    ]);
    expect(p.spec!.tolerations!.map((t) => t.key)).toContain('node.kubernetes.io/unreachable');
    await c.client.patch(daemonSets, KEY, {
      spec: { template: { spec: { nodeSelector: { disk: 'ssd' } } } },
    });
    await c.until('nowhere', async () => (await c.list(pods)).length === 0);
    await c.client.patch(nodes, { name: 'pi2' }, { metadata: { labels: { disk: 'ssd' } } });
    await c.until('on one', async () => (await c.list(pods)).length === 1 && converged(c));
    await c.stop();
  });

  it('failed pods are replaced more and more slowly', async () => {
    const c = await cluster({
      nodes: 1,
      fate: (p) => (p.metadata!.name!.startsWith('agent') ? 'fails' : 'ready'),
    });
    await c.run(20_000);
    // 1, 2, 4, 8 s: not more often.
    const failures = (await c.list(events)).filter((e) => e.reason === 'FailedDaemonPod').length;
    expect(failures).toBeGreaterThan(1);
    expect(failures).toBeLessThan(7);
    await c.stop();
  });

  it('OnDelete waits for somebody to delete', async () => {
    const c = await cluster({}, daemon({ updateStrategy: { type: 'OnDelete' } }));
    await c.until('up', () => converged(c));
    await c.client.patch(daemonSets, KEY, image(1));
    await c.run(30_000);
    const old = (await c.list(pods)).filter((p) => p.spec!.containers[0]!.image === 'v0');
    expect(old.length).toBe(3);
    await c.client.delete(pods, { namespace: 'default', name: old[0]!.metadata!.name! });
    await c.until('one new', async () => {
      const images = (await c.list(pods)).filter(isReady).map((p) => p.spec!.containers[0]!.image);
      return images.sort().join() === 'v0,v0,v1';
    });
    await c.stop();
  });

  it('keeps as many revisions as asked for, and one that comes back is numbered anew', async () => {
    const c = await cluster({}, daemon({ revisionHistoryLimit: 2 }));
    for (const v of [1, 2, 3, 4, 2]) {
      await c.until('rolled out', () => converged(c));
      await c.client.patch(daemonSets, KEY, image(v));
    }
    await c.until('rolled out', () => converged(c));
    await c.until('history is short', async () => (await c.list(controllerRevisions)).length === 3);
    const numbers = (await c.list(controllerRevisions)).map((r) => r.revision).sort();
    expect(numbers).toEqual([4, 5, 6]);
    await c.stop();
  });

  it('an update never has more nodes without a ready pod than allowed', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.integer({ min: 1, max: 2 ** 30 }),
        fc.constantFrom(rolling(0, 1), rolling(0, 2), rolling(1, 0), rolling('100%', 0)),
        async (seed, strategy) => {
          const ds = daemon(strategy);
          const c = await cluster(
            { seed, nodes: 4, chaos: { delayMs: 300, refuse: 0.05, loseAnswer: 0, expire: 0 } },
            ds,
          );
          const watcher = new Informers(c.client, c.clock, silentLog);
          try {
            await c.until('up', () => converged(c));
            const all = watcher.of(pods);
            await watcher.start();
            let least = 4;
            all.onChange(() => {
              const ready = [...all.values()].filter((p) => isActive(p as never) && isReady(p as never));
              least = Math.min(least, new Set(ready.map((p) => (p as Frozen<typeof p>).spec!.nodeName)).size);
            });
            await c.client.patch(daemonSets, KEY, image(1));
            await c.until('rolled out', () => converged(c));
            expect(least).toBeGreaterThanOrEqual(4 - limits(ds as Ds, 4).maxUnavailable);
          } finally {
            await watcher.stop();
            await c.stop();
          }
        },
      ),
      { numRuns: 20 },
    );
  }, 120_000);

  const arbStep = fc.record({
    what: fc.oneof(
      fc.record({ image: fc.integer({ min: 0, max: 3 }) }),
      fc.record({ kill: fc.nat() }),
      fc.record({ node: fc.integer({ min: 1, max: 5 }) }),
      fc.constant({ restart: true as const }),
    ),
    wait: fc.integer({ min: 0, max: 15_000 }),
  });

  it('converge whatever happened before, with everything slow and failing', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.integer({ min: 1, max: 2 ** 30 }),
        fc.constantFrom(rolling(0, 1), rolling(2, 0)),
        fc.array(arbStep, { minLength: 1, maxLength: 6 }),
        async (seed, strategy, steps) => {
          let failing = 3;
          const c = await cluster(
            {
              seed,
              chaos: { delayMs: 300, refuse: 0.05, loseAnswer: 0.05, expire: 0.02 },
              fate: () => (--failing === 0 ? 'fails' : 'ready'),
            },
            daemon(strategy),
          );
          try {
            for (const { what, wait } of steps) {
              if ('image' in what) await c.client.patch(daemonSets, KEY, image(what.image));
              else if ('restart' in what) await c.restartLoops();
              else if ('kill' in what) {
                const all = (await c.list(pods)).filter((p) => !p.metadata!.deletionTimestamp);
                const p = all[what.kill % Math.max(1, all.length)];
                if (p) await c.client.delete(pods, { namespace: 'default', name: p.metadata!.name! });
              } else {
                const name = `pi${what.node}`;
                const there = (await c.list(nodes)).some((n) => n.metadata!.name === name);
                if (there) await c.client.delete(nodes, { name });
                else await c.addNode(name);
              }
              await c.run(wait);
            }
            await c.rests(() => converged(c), 1_200_000);
          } finally {
            await c.stop();
          }
        },
      ),
      { numRuns: 25 },
    );
  }, 120_000);
});
