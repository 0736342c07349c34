import type { Pod, Service } from 'kubernetes-types/core/v1.js';
import { afterEach, describe, expect, it } from 'vitest';
import { endpointSlices, endpoints, pods, services } from '../../api/kinds/index.js';
import { Cluster } from '../testing/cluster.js';
import { planEndpoints, planSlices } from './endpoints-plan.js';

const running: Cluster[] = [];
async function cluster(): Promise<Cluster> {
  const c = new Cluster({});
  running.push(c);
  return c.start();
}
afterEach(async () => {
  for (const c of running.splice(0)) await c.stop();
});

const pod = (name: string, ip: string, over: { ready?: boolean; going?: boolean; port?: number } = {}): Pod =>
  ({
    metadata: {
      namespace: 'default',
      name,
      uid: `uid-${name}`,
      labels: { app: 'web' },
      ...(over.going ? { deletionTimestamp: '2026-01-01T00:00:00Z' } : {}),
    },
    spec: {
      nodeName: 'pi',
      containers: [{ name: 'c', image: 'i', ports: [{ name: 'http', containerPort: over.port ?? 8080 }] }],
    },
    status: {
      phase: 'Running',
      podIP: ip,
      conditions: [{ type: 'Ready', status: over.ready === false ? 'False' : 'True' }],
    },
  }) as Pod;
const service = (over: Service['spec'] = {}): Service => ({
  metadata: { namespace: 'default', name: 'web', uid: 'u' },
  spec: {
    selector: { app: 'web' },
    clusterIP: '10.96.0.9',
    ports: [{ port: 80, targetPort: 'http', protocol: 'TCP' }],
    ...over,
  },
});

describe('the plan', () => {
  it('tells ready pods from others', () => {
    const all = [
      pod('a', '10.0.0.2'),
      pod('b', '10.0.0.1', { ready: false }),
      pod('c', '10.0.0.3', { going: true }),
      { ...pod('d', '10.0.0.4'), status: { phase: 'Succeeded', podIP: '10.0.0.4' } } as Pod,
    ];
    expect(planEndpoints(service(), all).subsets).toMatchObject([
      {
        addresses: [{ ip: '10.0.0.2', nodeName: 'pi', targetRef: { kind: 'Pod', name: 'a' } }],
        notReadyAddresses: [{ ip: '10.0.0.1' }],
        ports: [{ port: 8080, protocol: 'TCP' }],
      },
    ]);
    const [slice] = planSlices(service(), all, () => 'attic');
    expect(slice!.endpoints.map((e) => [e.addresses[0], e.conditions, e.zone])).toEqual([
      ['10.0.0.1', { ready: false, serving: false, terminating: false }, 'attic'],
      ['10.0.0.2', { ready: true, serving: true, terminating: false }, 'attic'],
      ['10.0.0.3', { ready: false, serving: true, terminating: true }, 'attic'],
    ]);
    const published = planEndpoints(service({ publishNotReadyAddresses: true }), all).subsets!;
    expect(published[0]!.addresses!.map((a) => a.ip)).toEqual(['10.0.0.1', '10.0.0.2', '10.0.0.3']);
  });

  it('keeps pods with other ports apart, and slices small', () => {
    const two = [pod('a', '10.0.0.1'), pod('b', '10.0.0.2', { port: 9090 })];
    expect(planEndpoints(service(), two).subsets!.map((s) => s.ports![0]!.port)).toEqual([8080, 9090]);
    expect(planSlices(service(), two, () => undefined)).toHaveLength(2);
    const many = Array.from({ length: 250 }, (_, i) => pod(`p${i}`, `10.0.${i >> 8}.${i & 255 || 1}`));
    expect(planSlices(service(), many, () => undefined).map((s) => s.endpoints.length)).toEqual([
      100, 100, 50,
    ]);
  });

  it('needs no ports of a headless Service, and says what it is', () => {
    const headless = service({ clusterIP: 'None', ports: [] });
    const plan = planEndpoints(headless, [pod('a', '10.0.0.1')]);
    expect(plan.subsets).toMatchObject([{ addresses: [{ ip: '10.0.0.1' }] }]);
    expect(plan.labels).toHaveProperty('service.kubernetes.io/headless', '');
  });
});

describe('the loop', () => {
  const key = { namespace: 'default', name: 'web' };
  const simple: Service = {
    metadata: key,
    spec: { selector: { app: 'web' }, ports: [{ port: 80, targetPort: 'http' }] },
  };
  const slicesOf = async (c: Cluster) =>
    (await c.list(endpointSlices)).filter(
      (s) => s.metadata!.labels?.['kubernetes.io/service-name'] === 'web',
    );

  it('follows pods', async () => {
    const c = await cluster();
    await c.client.create(services, simple);
    await c.until('an empty slice', async () => (await slicesOf(c)).length === 1);
    const { metadata, spec, status } = pod('a', '10.0.0.1');
    const { uid: _, ...meta } = metadata!;
    await c.client.create(pods, { metadata: meta, spec });
    await c.client.patch(pods, { namespace: 'default', name: 'a' }, { status }, 'status');
    await c.until('an address', async () => {
      const [slice] = await slicesOf(c);
      const ep = await c.client.get(endpoints, key).catch(() => undefined);
      return (
        slice?.endpoints?.[0]?.conditions?.ready === true &&
        ep?.subsets?.[0]?.addresses?.[0]?.ip === '10.0.0.1'
      );
    });
    const [slice] = await slicesOf(c);
    expect(slice!.metadata).toMatchObject({
      labels: { 'endpointslice.kubernetes.io/managed-by': 'endpointslice-controller.k8s.io' },
      ownerReferences: [{ kind: 'Service', name: 'web', controller: true }],
    });
    await c.client.patch(
      pods,
      { namespace: 'default', name: 'a' },
      { metadata: { labels: { app: 'other' } } },
    );
    await c.until('none again', async () => (await slicesOf(c))[0]?.endpoints?.length === 0);
    await c.client.delete(services, key);
    await c.until('all gone', async () => {
      const left = await c.list(endpoints);
      return (await slicesOf(c)).length === 0 && left.every((e) => e.metadata!.name !== 'web');
    });
  });

  it('mirrors what others say', async () => {
    const c = await cluster();
    await c.client.create(services, { metadata: key, spec: { ports: [{ port: 80 }] } });
    await c.client.create(endpoints, {
      metadata: key,
      subsets: [{ addresses: [{ ip: '192.0.2.1' }], ports: [{ port: 80 }] }],
    });
    await c.until(
      'mirrored',
      async () => (await slicesOf(c))[0]?.endpoints?.[0]?.addresses[0] === '192.0.2.1',
    );
    await c.client.delete(endpoints, key);
    await c.until('gone', async () => (await slicesOf(c)).length === 0);
  });
});
