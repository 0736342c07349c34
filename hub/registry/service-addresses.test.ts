import fc from 'fast-check';
import type { Service, ServiceSpec } from 'kubernetes-types/core/v1.js';
import { beforeEach, describe, expect, it } from 'vitest';
import { systemClock } from '../../api/clock.js';
import { services } from '../../api/kinds/index.js';
import { silentLog } from '../../api/log.js';
import { ApiError } from '../../api/meta/errors.js';
import type { Client } from '../client.js';
import { MemoryStore } from '../store/memory.js';
import { Registry, stampResourceVersion } from './registry.js';

let store: MemoryStore;
let client: Client;
const open = (network: string) => {
  client = new Registry({ store, clock: systemClock, log: silentLog, serviceNetwork: network }).client();
};
beforeEach(async () => {
  store = new MemoryStore({ stamp: stampResourceVersion });
  await store.open();
  const registry = new Registry({ store, clock: systemClock, log: silentLog, serviceNetwork: '10.0.0.0/24' });
  await registry.bootstrap();
  client = registry.client();
});

const service = (name: string, spec: ServiceSpec = {}): Service => ({
  metadata: { namespace: 'default', name },
  spec: { ports: [{ port: 80 }], ...spec },
});
const make = (name: string, spec?: ServiceSpec) => client.create(services, service(name, spec));
const key = (name: string) => ({ namespace: 'default', name });
const failure = async (work: Promise<unknown>): Promise<string> => {
  try {
    await work;
  } catch (e) {
    expect(e).toBeInstanceOf(ApiError);
    return (e as ApiError).message;
  }
  throw new Error('should have failed');
};

describe('addresses of Services', () => {
  it('are given, stay, and are free after a delete', async () => {
    const { spec } = await make('a');
    expect(spec).toMatchObject({ ipFamilies: ['IPv4'], ipFamilyPolicy: 'SingleStack' });
    expect(spec!.clusterIP).toMatch(/^10\.0\.0\.\d+$/);
    expect(spec!.clusterIPs).toEqual([spec!.clusterIP]);
    const taken = `Service "b" is invalid: spec.clusterIPs: Invalid value: ["${spec!.clusterIP}"]: failed to allocate IP ${spec!.clusterIP}: provided IP is already allocated`;
    expect(await failure(make('b', { clusterIP: spec!.clusterIP! }))).toBe(taken);
    await client.patch(services, key('a'), { spec: { ports: [{ port: 81 }] } });
    open('10.0.0.0/24');
    expect(await failure(make('b', { clusterIP: spec!.clusterIP! }))).toBe(taken);
    await client.delete(services, key('a'));
    expect((await make('b', { clusterIP: spec!.clusterIP! })).spec!.clusterIP).toBe(spec!.clusterIP);
  });

  it('are those of the network', async () => {
    expect(await failure(make('a', { clusterIP: '10.1.0.1' }))).toBe(
      'Service "a" is invalid: spec.clusterIPs: Invalid value: ["10.1.0.1"]: failed to allocate IP 10.1.0.1: the provided IP (10.1.0.1) is not in the valid range. The range of valid IPs is 10.0.0.0/24',
    );
    expect(await failure(make('a', { ipFamilyPolicy: 'RequireDualStack' }))).toContain(
      'spec.ipFamilyPolicy: Invalid value: "RequireDualStack": this cluster is not configured for dual-stack services',
    );
    expect(await failure(make('a', { ipFamilies: ['IPv6'] }))).toContain(
      'spec.ipFamilies[0]: Invalid value: "IPv6": not configured on this cluster',
    );
    expect((await make('p', { ipFamilyPolicy: 'PreferDualStack' })).spec!.ipFamilies).toEqual(['IPv4']);
    expect((await make('h', { clusterIP: 'None' })).spec).toMatchObject({
      clusterIPs: ['None'],
      ipFamilies: ['IPv4', 'IPv6'],
      ipFamilyPolicy: 'RequireDualStack',
    });
    expect((await make('s', { clusterIP: 'None', selector: { a: 'b' } })).spec).toMatchObject({
      ipFamilies: ['IPv4'],
      ipFamilyPolicy: 'SingleStack',
    });
  });

  it('are never given twice, however many ask at once, and run out', async () => {
    const made = await Promise.allSettled(Array.from({ length: 300 }, (_, i) => make(`s${i}`)));
    const ips = made.flatMap((r) => (r.status === 'fulfilled' ? r.value.spec!.clusterIP! : []));
    expect(ips).toHaveLength(254);
    expect(new Set(ips).size).toBe(254);
    expect(await failure(make('more'))).toBe(
      'Internal error occurred: failed to allocate a serviceIP for Service "more": range is full',
    );
    await client.delete(services, key('s0'));
    expect((await make('more')).spec!.clusterIP).toBe(ips[0]);
  });

  it('are free again when the write fails', async () => {
    open('10.0.0.0/29');
    for (let i = 0; i < 20; i++) await failure(make('bad', { ports: [{ port: 0 }] }));
    for (let i = 0; i < 6; i++) await make(`s${i}`);
    await failure(make('s0'));
    await failure(make('s6'));
  });

  it('go and come with the type', async () => {
    await make('a');
    const name = await client.patch(services, key('a'), {
      spec: { type: 'ExternalName', externalName: 'x.y' },
    });
    expect(name.spec).not.toHaveProperty('clusterIP');
    expect(name.spec).not.toHaveProperty('ipFamilies');
    const back = await client.patch(services, key('a'), { spec: { type: 'NodePort' } });
    expect(back.spec!.clusterIP).toMatch(/^10\./);
    expect(back.spec!.ports![0]!.nodePort).toBeGreaterThanOrEqual(30000);
    const plain = await client.patch(services, key('a'), { spec: { type: 'ClusterIP' } });
    expect(plain.spec!.ports![0]).not.toHaveProperty('nodePort');
    expect(
      (await make('b', { type: 'NodePort', ports: [{ port: 1, nodePort: back.spec!.ports![0]!.nodePort }] }))
        .spec!.ports![0]!.nodePort,
    ).toBe(back.spec!.ports![0]!.nodePort);
  });

  it('are unique in whatever order Services come, change and go', async () => {
    const name = fc.integer({ min: 0, max: 9 }).map((i) => `s${i}`);
    const type = fc.constantFrom('ClusterIP', 'NodePort', 'LoadBalancer', 'ExternalName');
    const step = fc.record({ op: fc.constantFrom('make', 'change', 'drop', 'restart'), name, type });
    await fc.assert(
      fc.asyncProperty(fc.array(step, { maxLength: 40 }), async (steps) => {
        store = new MemoryStore({ stamp: stampResourceVersion });
        await store.open();
        open('10.0.0.0/28');
        await new Registry({ store, clock: systemClock, log: silentLog }).bootstrap();
        for (const s of steps) {
          const spec = { type: s.type, externalName: 'x.y' };
          const work = {
            make: () => make(s.name, spec),
            change: () => client.patch(services, key(s.name), { spec }),
            drop: () => client.delete(services, key(s.name)),
            restart: async () => open('10.0.0.0/28'),
          }[s.op]!;
          await work().catch((e: ApiError) => expect(e.code).toBeLessThan(500));
          const { items } = await client.list(services);
          const ips = items.flatMap((o) => o.spec!.clusterIPs ?? []);
          const ports = items.flatMap((o) => o.spec!.ports!.flatMap((p) => p.nodePort ?? []));
          expect(new Set(ips).size).toBe(ips.length);
          expect(new Set(ports).size).toBe(ports.length);
        }
        // What nobody has is to be had.
        const { items } = await client.list(services);
        const used = items.flatMap((o) => o.spec!.clusterIPs ?? []).length;
        for (let i = used; i < 14; i++) await make(`rest${i}`);
        await failure(make('full'));
      }),
      { numRuns: 30 },
    );
  });
});

describe('node ports of Services', () => {
  it('are shared by the protocols of a port', async () => {
    const { spec } = await make('a', {
      type: 'NodePort',
      ports: [
        { name: 'u', port: 53, protocol: 'UDP' },
        { name: 't', port: 53, protocol: 'TCP' },
      ],
    });
    expect(spec!.ports![0]!.nodePort).toBe(spec!.ports![1]!.nodePort);
  });

  it('are refused when taken or out of range', async () => {
    const on = (nodePort: number): ServiceSpec => ({ type: 'NodePort', ports: [{ port: 80, nodePort }] });
    await make('a', on(30080));
    expect(await failure(make('b', on(30080)))).toBe(
      'Service "b" is invalid: spec.ports[0].nodePort: Invalid value: 30080: provided port is already allocated',
    );
    expect(await failure(make('b', on(80)))).toBe(
      'Service "b" is invalid: spec.ports[0].nodePort: Invalid value: 80: provided port is not in the valid range. The range of valid ports is 30000-32767',
    );
    await client.delete(services, key('a'));
    await make('b', on(30080));
  });

  it('serve the health checks of a load balancer', async () => {
    const lb: ServiceSpec = { type: 'LoadBalancer', externalTrafficPolicy: 'Local' };
    const { spec } = await make('a', lb);
    expect(spec!.healthCheckNodePort).toBeGreaterThanOrEqual(30000);
    const none = await make('b', { type: 'LoadBalancer', allocateLoadBalancerNodePorts: false });
    expect(none.spec!.ports![0]).not.toHaveProperty('nodePort');
    const cluster = await client.patch(services, key('a'), { spec: { externalTrafficPolicy: 'Cluster' } });
    expect(cluster.spec).not.toHaveProperty('healthCheckNodePort');
  });
});
