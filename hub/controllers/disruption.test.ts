import type { Deployment } from 'kubernetes-types/apps/v1.js';
import type { PodDisruptionBudget, PodDisruptionBudgetSpec } from 'kubernetes-types/policy/v1.js';
import { describe, expect, it } from 'vitest';
import { deployments, podDisruptionBudgets, pods, replicationControllers } from '../../api/kinds/index.js';
import type { ApiError } from '../../api/meta/errors.js';
import { Cluster } from '../testing/cluster.js';
import { isReady } from './pods.js';

const KEY = { namespace: 'default', name: 'web' };
const template = (app: string) => ({
  metadata: { labels: { app } },
  spec: { containers: [{ name: 'c', image: 'x' }] },
});
const deployment: Deployment = {
  metadata: KEY,
  spec: { replicas: 3, selector: { matchLabels: { app: 'web' } }, template: template('web') },
};
const budget = (spec: object): PodDisruptionBudget => ({
  metadata: KEY,
  spec: { selector: { matchLabels: { app: 'web' } }, ...spec } as PodDisruptionBudgetSpec,
});

async function cluster(spec: object): Promise<Cluster> {
  const c = await new Cluster().start();
  await c.client.create(deployments, deployment);
  await c.client.create(podDisruptionBudgets, budget(spec));
  await c.until('ready', async () => (await c.list(pods)).filter(isReady).length === 3);
  await c.run(1000);
  return c;
}
const status = async (c: Cluster) => (await c.client.get(podDisruptionBudgets, KEY)).status!;
const evict = (c: Cluster, name: string, more = {}) =>
  c.registry.evict(
    { user: 'x', groups: [], warnings: [], ...more },
    { namespace: 'default', name },
    { apiVersion: 'policy/v1', kind: 'Eviction', metadata: { name } },
  );
const refusal = async (c: Cluster, name: string): Promise<ApiError> =>
  evict(c, name).then(
    () => {
      throw new Error('was allowed');
    },
    (e: ApiError) => e,
  );
const names = async (c: Cluster) =>
  (await c.list(pods)).filter((p) => !p.metadata!.deletionTimestamp).map((p) => p.metadata!.name!);

describe('PodDisruptionBudgets', () => {
  it.each([
    [{ minAvailable: 2 }, { desiredHealthy: 2, disruptionsAllowed: 1 }],
    [{ minAvailable: '50%' }, { desiredHealthy: 2, disruptionsAllowed: 1 }],
    [{ maxUnavailable: 1 }, { desiredHealthy: 2, disruptionsAllowed: 1 }],
    [{ maxUnavailable: '100%' }, { desiredHealthy: 0, disruptionsAllowed: 3 }],
    [{ minAvailable: 3 }, { desiredHealthy: 3, disruptionsAllowed: 0 }],
  ])('%o', async (spec, want) => {
    const c = await cluster(spec);
    expect(await status(c)).toMatchObject({
      currentHealthy: 3,
      expectedPods: 3,
      observedGeneration: 1,
      ...want,
    });
    const [condition] = (await status(c)).conditions!;
    expect(condition!.reason).toBe(want.disruptionsAllowed ? 'SufficientPods' : 'InsufficientPods');
    await c.stop();
  });

  it('an eviction spends it, the next is refused, and a new pod brings it back', async () => {
    const c = await cluster({ minAvailable: 2 });
    const [first, second] = await names(c);
    await evict(c, first!, { dryRun: true });
    expect(await status(c)).toMatchObject({ disruptionsAllowed: 1 });
    await evict(c, first!);
    const p = await c.client.get(pods, { namespace: 'default', name: first! });
    expect(p.status!.conditions!.find((x) => x.type === 'DisruptionTarget')).toMatchObject({
      reason: 'EvictionByEvictionAPI',
    });
    const e = await refusal(c, second!);
    expect([e.code, e.message]).toEqual([
      429,
      "Cannot evict pod as it would violate the pod's disruption budget.",
    ]);
    expect(e.details?.causes?.[0]).toEqual({
      reason: 'DisruptionBudget',
      message: expect.stringMatching(
        /^The disruption budget web needs 2 healthy pods and has [23] currently$/,
      ),
    });
    await c.until('made up for', async () => (await status(c)).disruptionsAllowed === 1);
    await evict(c, second!);
    await c.stop();
  });

  it('however many are evicted at once, enough stay', async () => {
    const c = await cluster({ minAvailable: 1 });
    const results = await Promise.allSettled((await names(c)).map((n) => evict(c, n)));
    expect(results.filter((r) => r.status === 'fulfilled').length).toBe(2);
    await c.stop();
  });

  it('two budgets for one pod are an error, and a pod that does not run needs none', async () => {
    const c = await cluster({ minAvailable: 3 });
    await c.client.create(podDisruptionBudgets, {
      ...budget({ minAvailable: 1 }),
      metadata: { namespace: 'default', name: 'b' },
    });
    expect((await refusal(c, (await names(c))[0]!)).code).toBe(500);
    await c.client.create(pods, {
      metadata: { namespace: 'default', name: 'waits', labels: { app: 'web' } },
      spec: { containers: [{ name: 'c', image: 'x' }], nodeSelector: { no: 'where' } },
    });
    await evict(c, 'waits');
    await c.stop();
  });
});

describe('ReplicationControllers', () => {
  it('keep their pods, take orphans and leave them behind', async () => {
    const c = await new Cluster().start();
    const orphan = { namespace: 'default', name: 'old', labels: { app: 'rc' } };
    await c.client.create(pods, { metadata: orphan, spec: template('rc').spec });
    await c.client.create(replicationControllers, {
      metadata: { namespace: 'default', name: 'rc' },
      spec: { replicas: 2, template: template('rc') },
    });
    const key = { namespace: 'default', name: 'rc' };
    await c.until(
      'ready',
      async () => (await c.client.get(replicationControllers, key)).status?.readyReplicas === 2,
    );
    const all = await c.list(pods);
    expect(all.length).toBe(2);
    expect(all.every((p) => p.metadata!.ownerReferences?.[0]?.kind === 'ReplicationController')).toBe(true);
    await c.client.delete(replicationControllers, key);
    await c.until('orphans', async () =>
      (await c.list(pods)).every((p) => !p.metadata!.ownerReferences?.length),
    );
    expect((await c.list(pods)).length).toBe(2);
    await c.stop();
  });
});
