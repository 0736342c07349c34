import fc from 'fast-check';
import type { Deployment } from 'kubernetes-types/apps/v1.js';
import type { Pod } from 'kubernetes-types/core/v1.js';
import { describe, expect, it } from 'vitest';
import { deployments, nodes, pods, replicaSets } from '../../api/kinds/index.js';
import { silentLog } from '../../api/log.js';
import type { Frozen } from '../client.js';
import { Informers } from '../informer.js';
import { Cluster } from '../testing/cluster.js';
import { controllerOf, hasEnded, isActive, isReady } from './pods.js';
import { fence, specReplicas } from './rollout.js';

const KEY = { namespace: 'default', name: 'web' };
const deployment = (
  replicas: number,
  maxSurge: number | string,
  maxUnavailable: number | string,
): Deployment => ({
  apiVersion: 'apps/v1',
  kind: 'Deployment',
  metadata: { namespace: 'default', name: 'web' },
  spec: {
    replicas,
    strategy: { rollingUpdate: { maxSurge, maxUnavailable } },
    selector: { matchLabels: { app: 'web' } },
    template: { metadata: { labels: { app: 'web' } }, spec: { containers: [{ name: 'c', image: 'v0' }] } },
  },
});

const image = (v: number) => ({
  spec: { template: { spec: { containers: [{ name: 'c', image: `v${v}` }] } } },
});

const arbFence = fc
  .tuple(fc.constantFrom(0, 1, 2, '25%', '100%'), fc.constantFrom(0, 1, 2, '25%', '50%'))
  .filter(([s, u]) => s !== 0 || u !== 0);
/** What a user does, and how long until the next thing. */
const arbStep = fc.record({
  what: fc.oneof(
    fc.record({ image: fc.integer({ min: 0, max: 3 }) }),
    fc.record({ replicas: fc.integer({ min: 0, max: 8 }) }),
    fc.record({ kill: fc.nat() }),
    fc.constant({ restart: true as const }),
  ),
  wait: fc.integer({ min: 0, max: 15_000 }),
});

async function act(c: Cluster, what: object): Promise<void> {
  if ('image' in what) await c.client.patch(deployments, KEY, image(what.image as number));
  else if ('replicas' in what) await c.client.patch(deployments, KEY, { spec: { replicas: what.replicas } });
  else if ('restart' in what) await c.restartLoops();
  else if ('kill' in what) {
    const all = (await c.list(pods)).filter((p) => !p.metadata!.deletionTimestamp);
    const victim = all[(what.kill as number) % Math.max(1, all.length)];
    if (victim) await c.client.delete(pods, { namespace: 'default', name: victim.metadata!.name! });
  }
}

async function converged(c: Cluster): Promise<boolean> {
  const d = await c.client.get(deployments, KEY);
  const n = specReplicas(d);
  const all = await c.list(pods);
  const want = d.spec!.template.spec!.containers[0]!.image;
  return (
    all.length === n &&
    all.every((p) => isReady(p) && p.spec!.containers[0]!.image === want && controllerOf(p)) &&
    d.status?.observedGeneration === d.metadata!.generation &&
    (d.status?.availableReplicas ?? 0) === n &&
    (d.status?.updatedReplicas ?? 0) === n &&
    (d.status?.replicas ?? 0) === n
  );
}

describe('whole loops, with everything slow and failing', () => {
  it('converge whatever happened before', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.integer({ min: 1, max: 2 ** 30 }),
        arbFence,
        fc.array(arbStep, { minLength: 1, maxLength: 8 }),
        async (seed, [surge, unavailable], steps) => {
          let failing = 3;
          const c = await new Cluster({
            seed,
            chaos: { delayMs: 300, refuse: 0.05, loseAnswer: 0.05, expire: 0.02 },
            fate: () => (--failing === 0 ? 'fails' : 'ready'),
          }).start();
          try {
            await c.client.create(deployments, deployment(3, surge, unavailable));
            for (const { what, wait } of steps) {
              await act(c, what);
              await c.run(wait);
            }
            // An ended pod stays for people to look at; it is nobody's replica.
            const clean = async () => {
              for (const p of await c.list(pods))
                if (hasEnded(p) && !p.metadata!.deletionTimestamp)
                  await c.client.delete(pods, { namespace: 'default', name: p.metadata!.name! });
            };
            await c.until('converged', async () => {
              await clean();
              return converged(c);
            });
            // And stays so.
            await c.run(60_000);
            expect(await converged(c)).toBe(true);
            const before = c.registry.resourceVersion;
            await c.run(60_000);
            expect(c.registry.resourceVersion).toBe(before);
          } finally {
            await c.stop();
          }
        },
      ),
      { numRuns: 50 },
    );
  }, 120_000);

  it('a rollout never asks for more than the surge allows, and never has more pods or fewer ready ones', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.integer({ min: 1, max: 2 ** 30 }),
        arbFence,
        fc.integer({ min: 1, max: 8 }),
        fc.boolean(),
        fc.array(
          fc.record({ image: fc.integer({ min: 0, max: 3 }), wait: fc.integer({ min: 0, max: 8_000 }) }),
          {
            minLength: 1,
            maxLength: 5,
          },
        ),
        async (seed, [surge, unavailable], replicas, calm, steps) => {
          const c = await new Cluster({
            seed,
            chaos: { delayMs: 300, refuse: 0.05, loseAnswer: 0, expire: 0 },
          }).start();
          const watcher = new Informers(c.client, c.clock, silentLog);
          try {
            const d = await c.client.create(deployments, deployment(replicas, surge, unavailable));
            await c.until('up', () => converged(c));
            const { maxSurge, maxUnavailable } = fence(d);
            const all = watcher.of(pods);
            const sets = watcher.of(replicaSets);
            await watcher.start();
            let most = 0;
            let least = replicas;
            let asked = 0;
            all.onChange(() => {
              const now = ([...all.values()] as Frozen<Pod>[]).filter(isActive);
              most = Math.max(most, now.length);
              least = Math.min(least, now.filter(isReady).length);
            });
            sets.onChange(() => {
              asked = Math.max(
                asked,
                [...sets.values()].reduce((n, rs) => n + specReplicas(rs), 0),
              );
            });
            for (const { image: v, wait } of steps) {
              await c.client.patch(deployments, KEY, image(v));
              if (calm) await c.until('rolled out', () => converged(c));
              else await c.run(wait);
            }
            await c.until('rolled out', () => converged(c));
            expect(asked).toBeLessThanOrEqual(replicas + maxSurge);
            expect(least).toBeGreaterThanOrEqual(replicas - maxUnavailable);
            // With a change in the middle of a change, pods asked for a moment ago may still come.
            if (calm) expect(most).toBeLessThanOrEqual(replicas + maxSurge);
          } finally {
            await watcher.stop();
            await c.stop();
          }
        },
      ),
      { numRuns: 50 },
    );
  }, 120_000);

  it('a burst of bindings never overcommits a node', async () => {
    await fc.assert(
      fc.asyncProperty(fc.integer({ min: 1, max: 2 ** 30 }), async (seed) => {
        const c = await new Cluster({
          seed,
          nodes: 2,
          chaos: { delayMs: 500, refuse: 0.1, loseAnswer: 0.1, expire: 0.05 },
        }).start();
        try {
          const d = deployment(12, 1, 0);
          d.spec!.template.spec!.containers[0]!.resources = { requests: { cpu: '900m' } };
          await c.client.create(deployments, d);
          await c.run(120_000);
          const bound = (await c.list(pods)).filter((p) => p.spec!.nodeName && !hasEnded(p));
          for (const n of await c.list(nodes))
            expect(bound.filter((p) => p.spec!.nodeName === n.metadata!.name).length).toBe(4);
        } finally {
          await c.stop();
        }
      }),
      { numRuns: 50 },
    );
  }, 120_000);
});
