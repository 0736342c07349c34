import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { clientPath, missing } from './support/needs.js';
import { type Program, startProgram } from './support/program.js';
import { eventually, type Kubectl, remove, scratch, TestHub } from './support/system.js';

const SITES = {
  apiVersion: 'apiextensions.k8s.io/v1',
  kind: 'CustomResourceDefinition',
  metadata: { name: 'sites.sites.example.com' },
  spec: {
    group: 'sites.example.com',
    scope: 'Namespaced',
    names: { plural: 'sites', singular: 'site', kind: 'Site' },
    versions: [
      {
        name: 'v1',
        served: true,
        storage: true,
        subresources: { status: {} },
        schema: {
          openAPIV3Schema: {
            type: 'object',
            properties: {
              spec: {
                type: 'object',
                properties: { image: { type: 'string' }, replicas: { type: 'integer' } },
              },
              status: { type: 'object', properties: { replicas: { type: 'integer' } } },
            },
          },
        },
      },
    ],
  },
};
const site = (replicas: number) => ({
  apiVersion: 'sites.example.com/v1',
  kind: 'Site',
  metadata: { name: 'shop' },
  spec: { image: 'registry.example/shop:1', replicas },
});

describe.skipIf(missing('the operator in Go', 'kubectl-1.36'))('an operator with controller-runtime', () => {
  const home = scratch('operator');
  const running: Program[] = [];
  let hub: TestHub;
  let k: Kubectl;
  const operator = () => {
    const o = startProgram(clientPath('operator'), [], hub.kubeconfig, home);
    running.push(o);
    return o;
  };
  const leader = async () => (await k.json('get', 'lease', 'site-operator.example.com')).spec.holderIdentity;
  const output = () => running.map((o) => o.output()).join('\n---\n');

  beforeAll(async () => {
    hub = await new TestHub().start();
    k = hub.kubectl();
    await k.apply(SITES);
    await k('wait', '--for=condition=Established', 'crd/sites.sites.example.com', '--timeout=60s');
  });
  afterAll(async () => {
    for (const o of running) o.stop('SIGKILL');
    await hub?.stop();
    remove(home, hub?.dataDir);
  });

  it('leads, and keeps what it owns as it applied it', async () => {
    operator();
    await k.apply(site(2));
    await eventually('the status', async () => (await k.json('get', 'site', 'shop')).status?.replicas === 2, {
      context: output,
    });
    expect((await k.json('get', 'site', 'shop')).metadata.finalizers).toEqual(['example.com/site']);
    const made = await k.json('get', 'deployment', 'shop', '--show-managed-fields');
    expect(made.metadata.ownerReferences).toMatchObject([{ kind: 'Site', name: 'shop', controller: true }]);
    expect(made.metadata.managedFields).toContainEqual(
      expect.objectContaining({ manager: 'site-operator', operation: 'Apply' }),
    );
    await k('scale', 'deployment', 'shop', '--replicas=5');
    await eventually(
      'the replicas are taken back',
      async () => (await k.json('get', 'deployment', 'shop')).spec.replicas === 2,
      { context: output },
    );
    await k.apply(site(3));
    await eventually(
      'the new status',
      async () => (await k.json('get', 'site', 'shop')).status.replicas === 3,
      {
        context: output,
      },
    );
  });

  it('hands over to another one when it stops', async () => {
    const first = await leader();
    operator();
    running[0]!.stop();
    expect((await running[0]!.ended).code).toBe(0);
    await eventually('another leader', async () => {
      const now = await leader();
      return now && now !== first;
    });
    await k.apply(site(1));
    await eventually('the status', async () => (await k.json('get', 'site', 'shop')).status.replicas === 1, {
      context: output,
    });
  });

  it('cleans up by finalizer, and the garbage collector after it', async () => {
    await k('delete', 'site', 'shop', '--timeout=60s');
    await eventually('nothing is left', async () => {
      const { items } = await k.json('get', 'deployments,replicasets,pods');
      return items.length === 0;
    });
    const told = await k('events', '--for=site/shop');
    expect(told).toMatch(/Normal +Closed +Site\/shop +closed/);
  });
});
