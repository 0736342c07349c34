import type { Row } from './row.js';
import { memoryMb, System, sleep, until } from './system.js';

const NODES = 10;
const PODS = 1000;

/** 1,000 pods on ten agents with the runtime `fake`: how long until all are Ready, and what the hub weighs then. */
export async function run(): Promise<Row[]> {
  const system = await new System().start();
  try {
    await system.api.call('POST', '/apis/node.k8s.io/v1/runtimeclasses', {
      apiVersion: 'node.k8s.io/v1',
      kind: 'RuntimeClass',
      metadata: { name: 'fake' },
      handler: 'fake',
    });
    for (let i = 0; i < NODES; i++)
      await system.addAgent(`node-${i}`, '--fake', '--max-pods', '120', '--system-reserved', 'memory=1Mi');
    const begin = performance.now();
    await system.api.call('POST', '/apis/apps/v1/namespaces/default/deployments', {
      apiVersion: 'apps/v1',
      kind: 'Deployment',
      metadata: { name: 'many' },
      spec: {
        replicas: PODS,
        selector: { matchLabels: { app: 'many' } },
        template: {
          metadata: { labels: { app: 'many' } },
          spec: { runtimeClassName: 'fake', containers: [{ name: 'main', image: 'fake/one:1' }] },
        },
      },
    });
    interface Status {
      status?: { readyReplicas?: number };
    }
    const ready = async () =>
      (await system.api.call<Status>('GET', '/apis/apps/v1/namespaces/default/deployments/many')).status
        ?.readyReplicas ?? 0;
    await until('all pods Ready', async () => ((await ready()) === PODS ? true : undefined), 300, 100);
    const seconds = (performance.now() - begin) / 1000;
    await sleep(20_000);
    return [
      {
        name: '1,000 pods on 10 simulated nodes, all Ready',
        value: seconds,
        unit: 's',
        budget: '<= 10',
        note: 'hub and ten agents share the machine',
      },
      {
        name: 'hub: RSS with 10 nodes and 1,000 pods',
        value: memoryMb(system.hub.pid, 'VmRSS'),
        unit: 'MB',
        budget: '<= 150',
      },
    ];
  } finally {
    await system.stop();
  }
}
