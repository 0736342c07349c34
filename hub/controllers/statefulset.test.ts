import fc from 'fast-check';
import type { StatefulSet } from 'kubernetes-types/apps/v1.js';
import { describe, expect, it } from 'vitest';
import { controllerRevisions, persistentVolumeClaims, pods, statefulSets } from '../../api/kinds/index.js';
import { silentLog } from '../../api/log.js';
import { Informers } from '../informer.js';
import { Cluster, type ClusterOptions } from '../testing/cluster.js';
import { REVISION_HASH } from './history.js';
import { hasEnded, isReady } from './pods.js';
import {
  claimOwner,
  claimsOf,
  ordinalOf,
  planStateful,
  type Sts,
  statefulPod,
  statefulStatus,
} from './stateful.js';

const KEY = { namespace: 'default', name: 'db' };
const stateful = (spec: object = {}): StatefulSet =>
  ({
    metadata: { namespace: 'default', name: 'db' },
    spec: {
      replicas: 3,
      serviceName: 'db',
      selector: { matchLabels: { app: 'db' } },
      template: {
        metadata: { labels: { app: 'db' } },
        spec: { containers: [{ name: 'c', image: 'v0' }] },
      },
      ...spec,
    },
  }) as never;
const image = (v: number) => ({
  spec: { template: { spec: { containers: [{ name: 'c', image: `v${v}` }] } } },
});
const strategy = (rollingUpdate: object) => ({ updateStrategy: { type: 'RollingUpdate', rollingUpdate } });

async function cluster(options: ClusterOptions = {}, set = stateful()): Promise<Cluster> {
  const c = await new Cluster(options).start();
  await c.client.create(statefulSets, set);
  return c;
}
const names = async (c: Cluster) => (await c.list(pods)).map((p) => p.metadata!.name!).sort();
const imageOf = async (c: Cluster, name: string) =>
  (await c.client.get(pods, { namespace: 'default', name })).spec!.containers[0]!.image;

async function converged(c: Cluster): Promise<boolean> {
  const set = await c.client.get(statefulSets, KEY);
  const n = set.spec!.replicas!;
  const start = (set.spec as { ordinals?: { start?: number } }).ordinals?.start ?? 0;
  const want = set.spec!.template.spec!.containers[0]!.image;
  const all = await c.list(pods);
  const s = set.status!;
  return (
    (await names(c)).join() ===
      Array.from({ length: n }, (_, i) => `db-${start + i}`)
        .sort()
        .join() &&
    all.every((p) => isReady(p) && !hasEnded(p) && p.spec!.containers[0]!.image === want) &&
    s.observedGeneration === set.metadata!.generation &&
    [s.replicas, s.readyReplicas ?? 0, s.updatedReplicas ?? 0, s.currentReplicas ?? 0].every(
      (x) => x === n,
    ) &&
    s.currentRevision === s.updateRevision
  );
}

describe('names', () => {
  const set = stateful() as Sts;
  it.each([
    ['db-0', 0],
    ['db-12', 12],
    ['db-01', undefined],
    ['db-x', undefined],
    ['db', undefined],
    ['other-0', undefined],
    ['db-0-0', undefined],
  ])('%s', (name, ordinal) => {
    expect(ordinalOf(set, { metadata: { name } })).toBe(ordinal);
  });
});

describe('what a pod gets', () => {
  const set = stateful({
    volumeClaimTemplates: [
      { metadata: { name: 'data', labels: { a: 'b' } }, spec: { accessModes: ['ReadWriteOnce'] } },
    ],
    persistentVolumeClaimRetentionPolicy: { whenDeleted: 'Delete', whenScaled: 'Delete' },
  }) as Sts;
  it('its name, index, host name, volumes and revision', () => {
    const template = {
      metadata: { labels: { app: 'db' } },
      spec: {
        containers: [],
        volumes: [
          { name: 'data', emptyDir: {} },
          { name: 'tmp', emptyDir: {} },
        ],
      },
    };
    const p = statefulPod(set, template as never, { ordinal: 4, revision: 'db-abc' });
    expect(p.metadata).toMatchObject({
      name: 'db-4',
      labels: {
        app: 'db',
        'statefulset.kubernetes.io/pod-name': 'db-4',
        'apps.kubernetes.io/pod-index': '4',
        [REVISION_HASH]: 'db-abc',
      },
    });
    expect(p.spec).toMatchObject({
      hostname: 'db-4',
      subdomain: 'db',
      volumes: [{ name: 'data', persistentVolumeClaim: { claimName: 'data-db-4' } }, { name: 'tmp' }],
    });
    expect(claimsOf(set, 4)[0]!.claim.metadata).toMatchObject({
      name: 'data-db-4',
      namespace: 'default',
      labels: { a: 'b', app: 'db' },
    });
  });
  it('its claims go with whom the policy says', () => {
    expect([claimOwner(set, 2), claimOwner(set, 3), claimOwner(stateful() as Sts, 3)]).toEqual([
      'set',
      'pod',
      'nobody',
    ]);
  });
});

describe('plans, one after the other', () => {
  const revisions = { current: 'old', update: 'new' };
  const arb = fc.record({
    size: fc.integer({ min: 0, max: 6 }),
    there: fc.array(fc.record({ ordinal: fc.integer({ min: 0, max: 8 }), ready: fc.boolean() }), {
      maxLength: 6,
    }),
    start: fc.integer({ min: 0, max: 2 }),
    parallel: fc.boolean(),
    partition: fc.integer({ min: 0, max: 3 }),
    maxUnavailable: fc.constantFrom(1, 2, '50%'),
    luck: fc.infiniteStream(fc.integer({ min: 0, max: 3 })),
  });

  it('end with the right pods of the right revision, and never take a needed one without leave', () => {
    fc.assert(
      fc.property(arb, ({ size, there, start, parallel, partition, maxUnavailable, luck }) => {
        const set = stateful({
          replicas: size,
          ordinals: { start },
          podManagementPolicy: parallel ? 'Parallel' : 'OrderedReady',
          ...strategy({ partition, maxUnavailable }),
        }) as Sts;
        const pod = (ordinal: number, revision: string, ready: boolean) => ({
          metadata: {
            name: `db-${ordinal}`,
            labels: { [REVISION_HASH]: revision, 'statefulset.kubernetes.io/pod-name': `db-${ordinal}` },
          },
          status: { phase: 'Running', conditions: [{ type: 'Ready', status: ready ? 'True' : 'False' }] },
        });
        const unique = [...new Map(there.map((t) => [t.ordinal, t])).values()];
        let world = unique.map((t) => pod(t.ordinal, 'old', t.ready));
        const wanted = (p: { metadata: { name: string } }) => {
          const o = ordinalOf(set, p)!;
          return o >= start && o < start + size;
        };
        const allowed =
          typeof maxUnavailable === 'string' ? Math.max(1, Math.floor(size / 2)) : maxUnavailable;
        for (let step = 0; ; step++) {
          expect(step).toBeLessThan(500);
          const plan = planStateful(set, world as never, revisions, 0);
          const ready = (list: typeof world) => list.filter((p) => wanted(p) && isReady(p as never)).length;
          const before = ready(world);
          world = world.filter((p) => !plan.delete.includes(p as never));
          // What is taken for an update was either not ready, or there was leave.
          expect(ready(world)).toBeGreaterThanOrEqual(Math.min(before, size - allowed));
          if (!parallel)
            expect(plan.create.length + plan.delete.length).toBeLessThanOrEqual(Math.max(1, allowed));
          world.push(...plan.create.map((w) => pod(w.ordinal, w.revision, false)));
          if (plan.create.length + plan.delete.length === 0 && world.every((p) => isReady(p as never))) break;
          for (const p of world) if (luck.next().value === 0) p.status.conditions[0]!.status = 'True';
        }
        const byName = world.map((p) => [ordinalOf(set, p), p.metadata.labels[REVISION_HASH]] as const);
        byName.sort(([a], [b]) => a! - b!);
        expect(byName.map(([o]) => o)).toEqual(Array.from({ length: size }, (_, i) => start + i));
        for (const [o, revision] of byName) if (o! - start >= partition) expect(revision).toBe('new');
        for (const [o, revision] of byName) if (o! - start < partition) expect(revision).toBe('old');
        const s = statefulStatus(set, world as never, revisions, 0);
        expect([s.replicas, s.readyReplicas ?? 0]).toEqual([size, size]);
        expect(s.currentRevision).toBe(partition === 0 || size === 0 ? 'new' : 'old');
      }),
    );
  });
});

describe('StatefulSets', () => {
  it('come up in order, go down in reverse order, and start where they are told to', async () => {
    const c = await cluster();
    const watcher = new Informers(c.client, c.clock, silentLog);
    const seen: string[] = [];
    const all = watcher.of(pods);
    all.onChange((_, now, before) => {
      if (now && !before) {
        // Whoever was there before is ready.
        expect([...all.values()].every((p) => p === now || isReady(p))).toBe(true);
        seen.push(`+${now.metadata!.name}`);
      }
      if (!now) seen.push(`-${before!.metadata!.name}`);
    });
    await watcher.start();
    await c.until('up', () => converged(c));
    await c.client.patch(statefulSets, KEY, { spec: { replicas: 1 } });
    await c.until('down', () => converged(c));
    expect(seen).toEqual(['+db-0', '+db-1', '+db-2', '-db-2', '-db-1']);
    await c.client.patch(statefulSets, KEY, { spec: { replicas: 2, ordinals: { start: 5 } } });
    await c.until('moved', () => converged(c));
    expect(await names(c)).toEqual(['db-5', 'db-6']);
    await watcher.stop();
    await c.stop();
  });

  it('a partition holds back, also what comes back; undo goes back to the old revision', async () => {
    const c = await cluster({}, stateful(strategy({ partition: 2 })));
    await c.until('up', () => converged(c));
    await c.client.patch(statefulSets, KEY, image(1));
    await c.until(
      'the last is new',
      async () => (await names(c)).includes('db-2') && (await imageOf(c, 'db-2')) === 'v1',
    );
    await c.client.delete(pods, { namespace: 'default', name: 'db-0' });
    await c.run(20_000);
    expect([await imageOf(c, 'db-0'), await imageOf(c, 'db-1'), await imageOf(c, 'db-2')]).toEqual([
      'v0',
      'v0',
      'v1',
    ]);
    const s = (await c.client.get(statefulSets, KEY)).status!;
    expect([s.currentReplicas, s.updatedReplicas]).toEqual([2, 1]);
    await c.client.patch(statefulSets, KEY, { spec: strategy({ partition: 0 }) });
    await c.until('rolled out', () => converged(c));
    await c.client.patch(statefulSets, KEY, image(0));
    await c.until('rolled back', () => converged(c));
    const history = (await c.list(controllerRevisions)).map((r) => r.revision).sort();
    expect(history).toEqual([2, 3]);
    await c.stop();
  });

  it('OnDelete waits for somebody to delete', async () => {
    const c = await cluster({}, stateful({ updateStrategy: { type: 'OnDelete' } }));
    await c.until('up', () => converged(c));
    await c.client.patch(statefulSets, KEY, image(1));
    await c.run(20_000);
    expect(await imageOf(c, 'db-1')).toBe('v0');
    await c.client.delete(pods, { namespace: 'default', name: 'db-1' });
    await c.until(
      'new',
      async () => (await names(c)).includes('db-1') && (await imageOf(c, 'db-1')) === 'v1',
    );
    expect(await imageOf(c, 'db-2')).toBe('v0');
    await c.stop();
  });

  it('a pod that never gets ready stops the ordered, not the parallel', async () => {
    const fate: ClusterOptions['fate'] = (p) => (p.metadata!.name === 'db-0' ? 'never' : 'ready');
    const c = await cluster({ fate });
    await c.run(30_000);
    expect(await names(c)).toEqual(['db-0']);
    await c.stop();
    const d = await cluster({ fate }, stateful({ podManagementPolicy: 'Parallel' }));
    await d.until('all there', async () => (await names(d)).length === 3);
    await d.stop();
  });

  it('claims outlive pods, and go when their policy says so', async () => {
    const spec = {
      volumeClaimTemplates: [
        {
          metadata: { name: 'data' },
          spec: { accessModes: ['ReadWriteOnce'], resources: { requests: { storage: '1Gi' } } },
        },
      ],
      persistentVolumeClaimRetentionPolicy: { whenScaled: 'Delete', whenDeleted: 'Retain' },
    };
    const c = await new Cluster({ nodes: 0 }).start();
    await c.client.create(statefulSets, stateful({ ...spec, podManagementPolicy: 'Parallel' }));
    const claims = async () =>
      (await c.list(persistentVolumeClaims))
        .filter((x) => !x.metadata!.deletionTimestamp)
        .map((x) => x.metadata!.name)
        .sort();
    await c.until('claims', async () => (await claims()).join() === 'data-db-0,data-db-1,data-db-2');
    await c.client.patch(statefulSets, KEY, { spec: { replicas: 1 } });
    await c.until('one left', async () => (await claims()).join() === 'data-db-0');
    await c.client.delete(statefulSets, KEY, { propagationPolicy: 'Background' });
    await c.until('no pods', async () => (await c.list(pods)).length === 0);
    expect(await claims()).toEqual(['data-db-0']);
    await c.stop();
  });

  it('a broken version of a parallel set can be left', async () => {
    const c = await cluster(
      { fate: (p) => (p.spec!.containers[0]!.image === 'v1' ? 'never' : 'ready') },
      stateful({ podManagementPolicy: 'Parallel' }),
    );
    await c.until('up', () => converged(c));
    await c.client.patch(statefulSets, KEY, image(1));
    await c.run(20_000);
    expect((await c.list(pods)).filter(isReady).length).toBe(2);
    await c.client.patch(statefulSets, KEY, image(2));
    await c.until('fixed', () => converged(c));
    await c.stop();
  });

  const arbStep = fc.record({
    what: fc.oneof(
      fc.record({ image: fc.integer({ min: 0, max: 3 }) }),
      fc.record({ replicas: fc.integer({ min: 0, max: 5 }) }),
      fc.record({ kill: fc.nat() }),
      fc.constant({ restart: true as const }),
    ),
    wait: fc.integer({ min: 0, max: 15_000 }),
  });

  it('converge whatever happened before, with everything slow and failing', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.integer({ min: 1, max: 2 ** 30 }),
        fc.constantFrom('OrderedReady', 'Parallel'),
        fc.array(arbStep, { minLength: 1, maxLength: 6 }),
        async (seed, podManagementPolicy, steps) => {
          let failing = 3;
          const c = await cluster(
            {
              seed,
              chaos: { delayMs: 300, refuse: 0.05, loseAnswer: 0.05, expire: 0.02 },
              fate: () => (--failing === 0 ? 'fails' : 'ready'),
            },
            stateful({ podManagementPolicy }),
          );
          try {
            for (const { what, wait } of steps) {
              if ('image' in what) await c.client.patch(statefulSets, KEY, image(what.image));
              else if ('replicas' in what)
                await c.client.patch(statefulSets, KEY, { spec: { replicas: what.replicas } });
              else if ('restart' in what) await c.restartLoops();
              else {
                const all = (await c.list(pods)).filter((p) => !p.metadata!.deletionTimestamp);
                const p = all[what.kill % Math.max(1, all.length)];
                if (p) await c.client.delete(pods, { namespace: 'default', name: p.metadata!.name! });
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
