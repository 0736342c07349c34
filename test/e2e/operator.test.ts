// @kubernetes/client-node 1.x: its 2.x runs on Node 22 and later only.
import * as client from 'kubernetes-client';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { systemClock } from '../../api/clock.js';
import { silentLog } from '../../api/log.js';
import { Controllers } from '../../hub/controllers/controllers.js';
import { Informers } from '../../hub/informer.js';
import { type ApiServer, startApiServer } from './support/api-server.js';

const GROUP = { group: 'apps.example.com', version: 'v1', plural: 'websites' };
const namespace = 'default';

interface Website extends client.KubernetesObject {
  spec: { image: string; replicas?: number };
  status?: { observedGeneration?: number; replicas?: number };
}

const definition: client.V1CustomResourceDefinition = {
  apiVersion: 'apiextensions.k8s.io/v1',
  kind: 'CustomResourceDefinition',
  metadata: { name: 'websites.apps.example.com' },
  spec: {
    group: GROUP.group,
    scope: 'Namespaced',
    names: { plural: 'websites', singular: 'website', kind: 'Website' },
    versions: [
      {
        name: 'v1',
        served: true,
        storage: true,
        subresources: { status: {} },
        schema: {
          openAPIV3Schema: {
            type: 'object',
            required: ['spec'],
            properties: {
              spec: {
                type: 'object',
                required: ['image'],
                properties: {
                  image: { type: 'string', minLength: 1 },
                  replicas: { type: 'integer', minimum: 0, _default: 2 },
                },
              },
              status: {
                type: 'object',
                properties: { observedGeneration: { type: 'integer' }, replicas: { type: 'integer' } },
              },
            },
          },
        },
      },
    ],
  },
};

/** Makes a Deployment of every Website and says so in its status: what any operator does. */
class Operator {
  readonly errors: unknown[] = [];
  readonly #apps: client.AppsV1Api;
  readonly #custom: client.CustomObjectsApi;
  readonly #websites: client.Informer<Website>;
  #work: Promise<void> = Promise.resolve();

  constructor(config: client.KubeConfig) {
    this.#apps = config.makeApiClient(client.AppsV1Api);
    this.#custom = config.makeApiClient(client.CustomObjectsApi);
    this.#websites = client.makeInformer<Website>(
      config,
      `/apis/${GROUP.group}/${GROUP.version}/namespaces/${namespace}/${GROUP.plural}`,
      () =>
        this.#custom.listNamespacedCustomObject({ ...GROUP, namespace }) as Promise<
          client.KubernetesListObject<Website>
        >,
    );
    const queue = (o: Website) => {
      this.#work = this.#work.then(() => this.#reconcile(o)).catch((e) => void this.errors.push(e));
    };
    this.#websites.on('add', queue);
    this.#websites.on('update', queue);
    this.#websites.on('error', (e) => this.errors.push(e));
  }

  start = () => this.#websites.start();
  async stop(): Promise<void> {
    await this.#websites.stop();
    await this.#work;
  }

  async #reconcile(site: Website): Promise<void> {
    const { name = '', uid = '', generation } = site.metadata ?? {};
    if (site.metadata?.deletionTimestamp || site.status?.observedGeneration === generation) return;
    const labels = { website: name };
    const body: client.V1Deployment = {
      metadata: {
        name,
        ownerReferences: [
          { apiVersion: 'apps.example.com/v1', kind: 'Website', name, uid, controller: true },
        ],
      },
      spec: {
        replicas: site.spec.replicas,
        selector: { matchLabels: labels },
        template: { metadata: { labels }, spec: { containers: [{ name: 'web', image: site.spec.image }] } },
      },
    };
    try {
      await this.#apps.createNamespacedDeployment({ namespace, body });
    } catch (e) {
      if ((e as { code?: number }).code !== 409) throw e;
      await this.#apps.replaceNamespacedDeployment({ namespace, name, body });
    }
    await this.#custom.patchNamespacedCustomObjectStatus(
      {
        ...GROUP,
        namespace,
        name,
        body: { status: { observedGeneration: generation, replicas: site.spec.replicas } },
      },
      client.setHeaderOptions('Content-Type', client.PatchStrategy.MergePatch),
    );
  }
}

describe('an operator written with @kubernetes/client-node', () => {
  let server: ApiServer;
  let informers: Informers;
  let controllers: Controllers;
  let config: client.KubeConfig;
  let apps: client.AppsV1Api;
  let custom: client.CustomObjectsApi;
  let operator: Operator;

  const until = async (check: () => Promise<boolean>): Promise<void> => {
    while (!(await check())) await new Promise((r) => setTimeout(r, 20));
  };
  const deployment = (name: string) =>
    apps.readNamespacedDeployment({ namespace, name }).catch((e: { code?: number }) => {
      if (e.code === 404) return undefined;
      throw e;
    });

  beforeAll(async () => {
    server = await startApiServer();
    const inside = server.registry.client();
    informers = new Informers(inside, systemClock, silentLog);
    controllers = new Controllers({
      client: inside,
      informers,
      kinds: server.registry,
      clock: systemClock,
      log: silentLog,
      caPem: 'PEM',
    });
    await controllers.start();
    config = new client.KubeConfig();
    config.loadFromFile(server.kubeconfig);
    apps = config.makeApiClient(client.AppsV1Api);
    custom = config.makeApiClient(client.CustomObjectsApi);

    const extensions = config.makeApiClient(client.ApiextensionsV1Api);
    await extensions.createCustomResourceDefinition({ body: definition });
    await until(async () => {
      const { status } = await extensions.readCustomResourceDefinition({ name: 'websites.apps.example.com' });
      return status?.conditions?.some((c) => c.type === 'Established' && c.status === 'True') ?? false;
    });
    operator = new Operator(config);
    await operator.start();
  });
  afterAll(async () => {
    await operator?.stop();
    await controllers?.stop();
    await informers?.stop();
    await server?.stop();
  });

  const website = (name: string, spec: object) => ({
    ...GROUP,
    namespace,
    body: { apiVersion: 'apps.example.com/v1', kind: 'Website', metadata: { name }, spec },
  });

  it('makes a Deployment of a Website, follows its changes, and tells its status', async () => {
    await custom.createNamespacedCustomObject(website('shop', { image: 'shop:1' }));
    await until(async () => (await deployment('shop'))?.spec?.replicas === 2);
    await custom.patchNamespacedCustomObject(
      { ...GROUP, namespace, name: 'shop', body: { spec: { image: 'shop:2', replicas: 3 } } },
      client.setHeaderOptions('Content-Type', client.PatchStrategy.MergePatch),
    );
    await until(async () => {
      const d = await deployment('shop');
      return d?.spec?.replicas === 3 && d.spec.template.spec?.containers[0]?.image === 'shop:2';
    });
    await until(async () => {
      const site = (await custom.getNamespacedCustomObject({ ...GROUP, namespace, name: 'shop' })) as Website;
      return site.metadata?.generation === 2 && site.status?.observedGeneration === 2;
    });
    expect(operator.errors).toEqual([]);
  });

  it('is told what is wrong with a Website', async () => {
    await expect(custom.createNamespacedCustomObject(website('bad', { replicas: 1 }))).rejects.toMatchObject({
      code: 422,
      body: expect.stringContaining('spec.image: Required value'),
    });
    await expect(
      custom.patchNamespacedCustomObject(
        { ...GROUP, namespace, name: 'shop', body: { spec: { replicas: 1 } } },
        client.setHeaderOptions('Content-Type', client.PatchStrategy.StrategicMergePatch),
      ),
    ).rejects.toMatchObject({ code: 415 });
  });

  it('leaves nothing behind: the Deployment goes with its Website', async () => {
    await custom.deleteNamespacedCustomObject({ ...GROUP, namespace, name: 'shop' });
    await until(async () => (await deployment('shop')) === undefined);
    expect(operator.errors).toEqual([]);
  });

  it('empties a namespace of Websites, and a definition of its objects', async () => {
    const core = config.makeApiClient(client.CoreV1Api);
    await core.createNamespace({ body: { metadata: { name: 'site' } } });
    const inSite = { ...website('one', { image: 'a' }), namespace: 'site' };
    await custom.createNamespacedCustomObject(inSite);
    await core.deleteNamespace({ name: 'site' });
    await until(() =>
      core.readNamespace({ name: 'site' }).then(
        () => false,
        (e) => e.code === 404,
      ),
    );
    await custom.createNamespacedCustomObject(website('last', { image: 'a' }));
    await until(async () => (await deployment('last')) !== undefined);
    const extensions = config.makeApiClient(client.ApiextensionsV1Api);
    await operator.stop();
    await extensions.deleteCustomResourceDefinition({ name: 'websites.apps.example.com' });
    await until(() =>
      extensions.readCustomResourceDefinition({ name: 'websites.apps.example.com' }).then(
        () => false,
        (e) => e.code === 404,
      ),
    );
    await expect(custom.listNamespacedCustomObject({ ...GROUP, namespace })).rejects.toMatchObject({
      code: 404,
    });
    // The Deployment outlives a definition no more than its Website.
    await until(async () => (await deployment('last')) === undefined);
  });
});
