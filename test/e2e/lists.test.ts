import { once } from 'node:events';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type ApiServer, startApiServer } from './support/api-server.js';
import { type Kubectl, kubectlOf } from './support/kubectl.js';
import { missing } from './support/needs.js';

const WIDGETS = {
  apiVersion: 'apiextensions.k8s.io/v1',
  kind: 'CustomResourceDefinition',
  metadata: { name: 'widgets.lists.example' },
  spec: {
    group: 'lists.example',
    scope: 'Namespaced',
    names: { plural: 'widgets', singular: 'widget', kind: 'Widget' },
    versions: [
      {
        name: 'v1',
        served: true,
        storage: true,
        schema: { openAPIV3Schema: { type: 'object', 'x-kubernetes-preserve-unknown-fields': true } },
      },
    ],
  },
};

describe.skipIf(missing('kubectl-1.36'))('lists and watches, with kubectl', () => {
  let server: ApiServer;
  let k: Kubectl;
  const raw = async (query: string) =>
    JSON.parse(await k.ok(['get', '--raw', `/api/v1/namespaces/default/configmaps?${query}`])) as {
      metadata: { resourceVersion: string; continue?: string; remainingItemCount?: number };
      items: { metadata: { name: string } }[];
    };
  const names = (list: Awaited<ReturnType<typeof raw>>) => list.items.map((o) => o.metadata.name);
  const make = (name: string) => k.ok(['create', 'configmap', name]);

  beforeAll(async () => {
    server = await startApiServer();
    k = kubectlOf('1.36', server.kubeconfig, server.dir);
    for (const name of ['a', 'b', 'c', 'd', 'e']) await make(name);
  });
  afterAll(() => server?.stop());

  it('pages through one snapshot while others write', async () => {
    const first = await raw('limit=2');
    expect(first.metadata.remainingItemCount).toBe(3);
    await k.ok(['delete', 'configmap', 'd']);
    await make('c2');
    const rest = await raw(`limit=500&continue=${first.metadata.continue}`);
    expect([...names(first), ...names(rest)]).toEqual(['a', 'b', 'c', 'd', 'e']);
    expect(rest.metadata.resourceVersion).toBe(first.metadata.resourceVersion);
    const exact = `resourceVersion=${first.metadata.resourceVersion}&resourceVersionMatch=Exact`;
    expect(names(await raw(exact))).toEqual(['a', 'b', 'c', 'd', 'e']);
    expect(await k.ok(['get', 'configmaps', '--chunk-size=2', '-o', 'name'])).toBe(
      ['a', 'b', 'c', 'c2', 'e'].map((n) => `configmap/${n}\n`).join(''),
    );
  });

  it('says what is wrong with the options of a list', async () => {
    const wrong = '/api/v1/configmaps?resourceVersion=1&resourceVersionMatch=Newest';
    expect((await k.run(['get', '--raw', wrong])).stderr).toMatch(
      /resourceVersionMatch: Unsupported value: "Newest": supported values: "Exact", "NotOlderThan", ""/,
    );
  });

  it('ends the watch of a kind whose definition goes', async () => {
    await k.ok(['create', '-f', '-'], WIDGETS);
    await k.ok(['wait', '--for=condition=Established', 'crd/widgets.lists.example']);
    const widget = { apiVersion: 'lists.example/v1', kind: 'Widget', metadata: { name: 'w' } };
    await k.ok(['create', '-f', '-'], widget);
    const watch = k.start(['get', 'widgets', '-w', '-o', 'name']);
    const ended = once(watch, 'close');
    await once(watch.stdout, 'data');
    await k.ok(['delete', 'crd', 'widgets.lists.example', '--wait=false']);
    await ended;
  });
});
