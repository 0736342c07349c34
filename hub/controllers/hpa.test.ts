import type { HorizontalPodAutoscaler } from 'kubernetes-types/autoscaling/v2.js';
import { describe, expect, it } from 'vitest';
import {
  deployments,
  events,
  horizontalPodAutoscalers,
  horizontalPodAutoscalersV1,
} from '../../api/kinds/index.js';
import { Cluster } from '../testing/cluster.js';

const KEY = { namespace: 'default', name: 'web' };
const hpa = (minReplicas: number, maxReplicas: number): HorizontalPodAutoscaler =>
  ({
    metadata: KEY,
    spec: {
      scaleTargetRef: { apiVersion: 'apps/v1', kind: 'Deployment', name: 'web' },
      minReplicas,
      maxReplicas,
    },
  }) as never;

async function cluster(): Promise<Cluster> {
  const c = await new Cluster().start();
  await c.client.create(deployments, {
    metadata: KEY,
    spec: {
      replicas: 4,
      selector: { matchLabels: { app: 'web' } },
      template: { metadata: { labels: { app: 'web' } }, spec: { containers: [{ name: 'c', image: 'x' }] } },
    },
  });
  return c;
}
const conditions = async (c: Cluster) =>
  (await c.client.get(horizontalPodAutoscalers, KEY)).status?.conditions?.map(
    (x) => `${x.type}=${x.status} ${x.reason}`,
  );

describe('HorizontalPodAutoscalers', () => {
  it('keep within their bounds, and say that there are no metrics', async () => {
    const c = await cluster();
    await c.client.create(horizontalPodAutoscalers, hpa(1, 3));
    const size = async () => (await c.client.get(deployments, KEY)).spec!.replicas;
    await c.until('no more than the most', async () => (await size()) === 3);
    await c.run(30_000);
    expect(await conditions(c)).toEqual([
      'AbleToScale=True SucceededGetScale',
      'ScalingActive=False FailedGetResourceMetric',
    ]);
    expect((await c.client.get(horizontalPodAutoscalers, KEY)).status).toMatchObject({ currentReplicas: 3 });
    expect((await c.list(events)).map((e) => e.message)).toContain(
      'New size: 3; reason: Current number of replicas above Spec.MaxReplicas',
    );
    await c.client.patch(horizontalPodAutoscalers, KEY, { spec: { minReplicas: 5, maxReplicas: 9 } });
    await c.until('no fewer than the least', async () => (await size()) === 5);
    await c.client.patch(deployments, KEY, { spec: { replicas: 0 } });
    await c.until('off', async () => (await conditions(c))!.includes('ScalingActive=False ScalingDisabled'));
    expect(await size()).toBe(0);
    const before = c.registry.resourceVersion;
    await c.run(20_000);
    const settled = c.registry.resourceVersion;
    await c.run(60_000);
    expect([settled, c.registry.resourceVersion].every((v) => Number(v) >= Number(before))).toBe(true);
    expect(c.registry.resourceVersion).toBe(settled);
    await c.stop();
  });

  it('a target that is not there is told', async () => {
    const c = await new Cluster().start();
    await c.client.create(horizontalPodAutoscalers, hpa(1, 3));
    await c.until('told', async () => (await conditions(c))?.[0] === 'AbleToScale=False FailedGetScale');
    await c.stop();
  });

  it('the older version shows the CPU and keeps what it cannot say', async () => {
    const c = await new Cluster().start();
    await c.client.create(horizontalPodAutoscalersV1, {
      metadata: KEY,
      spec: {
        scaleTargetRef: { kind: 'Deployment', name: 'web' },
        maxReplicas: 3,
        targetCPUUtilizationPercentage: 70,
      },
    });
    const now = await c.client.get(horizontalPodAutoscalers, KEY);
    expect(now.spec!.metrics).toEqual([
      {
        type: 'Resource',
        resource: { name: 'cpu', target: { type: 'Utilization', averageUtilization: 70 } },
      },
    ]);
    const more = {
      type: 'Pods',
      pods: { metric: { name: 'rps' }, target: { type: 'AverageValue', averageValue: '10' } },
    };
    await c.client.patch(horizontalPodAutoscalers, KEY, { spec: { metrics: [...now.spec!.metrics!, more] } });
    await c.client.patch(horizontalPodAutoscalersV1, KEY, { spec: { targetCPUUtilizationPercentage: 50 } });
    const after = await c.client.get(horizontalPodAutoscalers, KEY);
    expect(after.spec!.metrics!.length).toBe(2);
    expect(after.spec!.metrics![0]!.resource!.target.averageUtilization).toBe(50);
    await c.stop();
  });
});
