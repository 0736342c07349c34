import type { HorizontalPodAutoscaler } from 'kubernetes-types/autoscaling/v2.js';
import { describe, expect, it } from 'vitest';
import {
  deployments,
  events,
  horizontalPodAutoscalers,
  horizontalPodAutoscalersV1,
  podMetrics,
  pods,
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

describe('HorizontalPodAutoscalers with metrics', () => {
  const target = (averageUtilization: number) => [
    { type: 'Resource', resource: { name: 'cpu', target: { type: 'Utilization', averageUtilization } } },
  ];

  /** A Deployment of pods that ask for 100m, in a cluster whose pods use what `uses` says; undefined: not known. */
  async function metered(replicas: number, uses: (pod: string) => string | undefined) {
    const c = await new Cluster().start();
    const asked: string[] = [];
    c.registry.sources.set(podMetrics as never, {
      get: async () => Promise.reject(new Error('not asked')),
      list: async (_ctx, query) => {
        asked.push(query.labelSelector ?? '');
        const { items } = await c.client.list(pods, { labelSelector: query.labelSelector });
        return items.flatMap((p) => {
          const cpu = uses(p.metadata!.name!);
          const timestamp = new Date(c.clock.now()).toISOString();
          const containers = [{ name: 'c', usage: { cpu, memory: '50Mi' } }];
          return cpu ? [{ metadata: { name: p.metadata!.name }, timestamp, window: '15s', containers }] : [];
        }) as never;
      },
    });
    const container = { name: 'c', image: 'x', resources: { requests: { cpu: '100m' } } };
    await c.client.create(deployments, {
      metadata: KEY,
      spec: {
        replicas,
        selector: { matchLabels: { app: 'web' } },
        template: { metadata: { labels: { app: 'web' } }, spec: { containers: [container] } },
      },
    });
    await c.run(60_000);
    const size = async () => (await c.client.get(deployments, KEY)).spec!.replicas;
    return { c, asked, size };
  }
  const of = (metrics: object[], max = 10, behavior?: object): HorizontalPodAutoscaler => {
    const h = hpa(1, max);
    return { ...h, spec: { ...h.spec!, metrics: metrics as never, ...(behavior ? { behavior } : {}) } };
  };

  it('grow with what pods use, and shrink once five minutes say so', async () => {
    let cpu = '100m';
    const { c, asked, size } = await metered(2, () => cpu);
    await c.client.create(horizontalPodAutoscalers, of(target(50)));
    await c.until('twice as many', async () => (await size()) === 4);
    cpu = '50m';
    await c.run(60_000);
    expect(await conditions(c)).toEqual([
      'AbleToScale=True ReadyForNewScale',
      'ScalingActive=True ValidMetricFound',
      'ScalingLimited=False DesiredWithinRange',
    ]);
    expect((await c.client.get(horizontalPodAutoscalers, KEY)).status).toMatchObject({
      currentReplicas: 4,
      desiredReplicas: 4,
      currentMetrics: [
        { resource: { name: 'cpu', current: { averageUtilization: 50, averageValue: '50m' } } },
      ],
    });
    expect(asked[0]).toBe('app=web');
    cpu = '10m';
    await c.run(60_000);
    expect(await size()).toBe(4);
    expect(await conditions(c)).toContain('AbleToScale=True ScaleDownStabilized');
    await c.run(400_000);
    expect(await size()).toBe(1);
    const told = (await c.list(events)).map((e) => e.message);
    expect(told).toContain(
      'New size: 4; reason: cpu resource utilization (percentage of request) above target',
    );
    expect(told).toContain('New size: 1; reason: All metrics below target');
    await c.stop();
  });

  it('take the largest of several metrics, one container and average values among them', async () => {
    const { c, size } = await metered(2, () => '10m');
    const metrics = [
      ...target(50),
      {
        type: 'Resource',
        resource: { name: 'memory', target: { type: 'AverageValue', averageValue: '20Mi' } },
      },
      {
        type: 'ContainerResource',
        containerResource: {
          name: 'cpu',
          container: 'c',
          target: { type: 'Utilization', averageUtilization: 5 },
        },
      },
    ];
    await c.client.create(horizontalPodAutoscalers, of(metrics, 5));
    await c.until('the most', async () => (await size()) === 4);
    await c.until('the bound', async () => (await size()) === 5);
    await c.run(20_000);
    expect(await conditions(c)).toContain('ScalingLimited=True TooManyReplicas');
    const { currentMetrics } = (await c.client.get(horizontalPodAutoscalers, KEY)).status!;
    expect(currentMetrics!.map((m) => m.type)).toEqual(['Resource', 'Resource', 'ContainerResource']);
    expect(currentMetrics![1]!.resource!.current).toEqual({ averageValue: '52428800' });
    await c.stop();
  });

  it('keep what they have when metrics are missing, as of metered nodes, and only grow when some are', async () => {
    let cpu: string | undefined;
    const { c, size } = await metered(3, () => cpu);
    const custom = {
      type: 'Pods',
      pods: { metric: { name: 'rps' }, target: { type: 'AverageValue', averageValue: '1' } },
    };
    await c.client.create(horizontalPodAutoscalers, of([...target(50), custom]));
    await c.until('told', async () =>
      (await c.list(events)).some(
        (e) =>
          e.message ===
          'failed to get cpu utilization: unable to get metrics for resource cpu: no metrics returned from resource metrics API',
      ),
    );
    cpu = '10m';
    await c.run(400_000);
    expect(await size()).toBe(3);
    expect(await conditions(c)).toContain('ScalingActive=False FailedGetPodsMetric');
    cpu = '90m';
    await c.until('more', async () => (await size()) === 6);
    await c.stop();
  });

  it('keep to the policies of their behaviour', async () => {
    const { c, size } = await metered(2, () => '400m');
    const scaleUp = { policies: [{ type: 'Pods', value: 1, periodSeconds: 120 }] };
    await c.client.create(horizontalPodAutoscalers, of(target(50), 10, { scaleUp }));
    await c.until('one more', async () => (await size()) === 3);
    await c.run(90_000);
    expect(await size()).toBe(3);
    await c.until('the next', async () => (await size()) === 4);
    await c.stop();
  });
});
