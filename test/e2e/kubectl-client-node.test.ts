import { PassThrough } from 'node:stream';
// @kubernetes/client-node 1.x: its 2.x runs on Node 22 and later only.
import * as client from 'kubernetes-client';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type ApiServer, startApiServer } from './support/api-server.js';

const until = async (check: () => boolean): Promise<void> => {
  while (!check()) await new Promise((r) => setTimeout(r, 10));
};
const configMap = (name: string, data: Record<string, string> = {}): client.V1ConfigMap => ({
  metadata: { name },
  data,
});

describe('@kubernetes/client-node', () => {
  let server: ApiServer;
  let config: client.KubeConfig;
  let core: client.CoreV1Api;
  const namespace = 'default';

  beforeAll(async () => {
    server = await startApiServer({
      streams: {
        logs: async () =>
          (async function* () {
            yield Buffer.from('a line\n');
          })(),
      },
    });
    config = new client.KubeConfig();
    config.loadFromFile(server.kubeconfig);
    core = config.makeApiClient(client.CoreV1Api);
  });
  afterAll(() => server?.stop());

  it('creates, reads, lists, replaces, patches, deletes', async () => {
    const made = await core.createNamespacedConfigMap({ namespace, body: configMap('c', { a: '1' }) });
    expect(made.metadata?.creationTimestamp).toBeInstanceOf(Date);
    const read = await core.readNamespacedConfigMap({ namespace, name: 'c' });
    read.data = { a: '2' };
    expect((await core.replaceNamespacedConfigMap({ namespace, name: 'c', body: read })).data).toEqual({
      a: '2',
    });
    // The version that was read is stale now.
    await expect(core.replaceNamespacedConfigMap({ namespace, name: 'c', body: read })).rejects.toMatchObject(
      { code: 409 },
    );
    const patched = await core.patchNamespacedConfigMap(
      { namespace, name: 'c', body: { data: { b: '3' } } },
      client.setHeaderOptions('Content-Type', client.PatchStrategy.StrategicMergePatch),
    );
    expect(patched.data).toEqual({ a: '2', b: '3' });
    expect((await core.listNamespacedConfigMap({ namespace })).items.map((i) => i.metadata?.name)).toEqual([
      'c',
    ]);
    await core.deleteNamespacedConfigMap({ namespace, name: 'c' });
    await expect(core.readNamespacedConfigMap({ namespace, name: 'c' })).rejects.toMatchObject({ code: 404 });
  });

  it('runs an informer', async () => {
    await core.createNamespacedConfigMap({ namespace, body: configMap('before', { n: '0' }) });
    const informer = client.makeInformer<client.V1ConfigMap>(
      config,
      `/api/v1/namespaces/${namespace}/configmaps`,
      () => core.listNamespacedConfigMap({ namespace }),
    );
    const seen: string[] = [];
    const errors: unknown[] = [];
    for (const verb of ['add', 'update', 'delete'] as const) {
      informer.on(verb, (o) => seen.push(`${verb} ${o.metadata?.name} ${o.data?.['n']}`));
    }
    informer.on('error', (e) => errors.push(e));
    await informer.start();
    await until(() => seen.length === 1);
    await core.createNamespacedConfigMap({ namespace, body: configMap('after', { n: '1' }) });
    await until(() => seen.length === 2);
    await core.replaceNamespacedConfigMap({ namespace, name: 'after', body: configMap('after', { n: '2' }) });
    await until(() => seen.length === 3);
    await core.deleteNamespacedConfigMap({ namespace, name: 'after' });
    await until(() => seen.length === 4);
    expect(seen).toEqual(['add before 0', 'add after 1', 'update after 2', 'delete after 2']);
    expect(errors).toEqual([]);
    await informer.stop();
  });

  it('watches from a revision of before, and not from one that never was', async () => {
    const from = async (resourceVersion: string) => {
      const events: string[] = [];
      let error: unknown;
      await new Promise<void>((resolve, reject) => {
        new client.Watch(config)
          .watch(
            `/api/v1/namespaces/${namespace}/configmaps`,
            { resourceVersion, timeoutSeconds: 1 },
            (type, o) => events.push(`${type} ${o.metadata.name}`),
            (e) => {
              error = e;
              resolve();
            },
          )
          .catch(reject);
      });
      return { events, error };
    };
    const { metadata } = await core.listNamespacedConfigMap({ namespace });
    await core.createNamespacedConfigMap({ namespace, body: configMap('since') });
    await core.deleteNamespacedConfigMap({ namespace, name: 'since' });
    expect((await from(metadata!.resourceVersion!)).events).toEqual(['ADDED since', 'DELETED since']);
    expect(await from('999999999')).toMatchObject({
      events: [],
      error: { message: expect.stringMatching(/timeout/i) },
    });
  });

  it('scales a deployment and reads logs', async () => {
    const apps = config.makeApiClient(client.AppsV1Api);
    const labels = { app: 'web' };
    await apps.createNamespacedDeployment({
      namespace,
      body: {
        metadata: { name: 'web' },
        spec: {
          replicas: 1,
          selector: { matchLabels: labels },
          template: { metadata: { labels }, spec: { containers: [{ name: 'c', image: 'i' }] } },
        },
      },
    });
    const scale = await apps.readNamespacedDeploymentScale({ namespace, name: 'web' });
    scale.spec = { replicas: 4 };
    await apps.replaceNamespacedDeploymentScale({ namespace, name: 'web', body: scale });
    expect((await apps.readNamespacedDeployment({ namespace, name: 'web' })).spec?.replicas).toBe(4);

    const pod = await core.createNamespacedPod({
      namespace,
      body: { metadata: { name: 'p' }, spec: { containers: [{ name: 'c', image: 'i' }] } },
    });
    await core
      .createNamespacedPodBinding({
        namespace,
        name: 'p',
        body: {
          metadata: { name: 'p', uid: pod.metadata?.uid },
          target: { apiVersion: 'v1', kind: 'Node', name: 'pi1' },
        },
      })
      .catch((e) => {
        // The generated client wants a Binding back where every server answers Status.
        if (e.code !== undefined && e.code >= 400) throw e;
      });
    expect((await core.readNamespacedPod({ namespace, name: 'p' })).spec?.nodeName).toBe('pi1');
    const out = new PassThrough();
    let text = '';
    out.on('data', (d) => (text += d));
    await new client.Log(config).log(namespace, 'p', 'c', out, { follow: true });
    await until(() => text === 'a line\n');
  });

  it('finds kinds by discovery', async () => {
    const objects = client.KubernetesObjectApi.makeApiClient(config);
    const made = await objects.create({
      apiVersion: 'node.k8s.io/v1',
      kind: 'RuntimeClass',
      metadata: { name: 'x' },
      handler: 'wasm',
    } as client.KubernetesObject);
    expect(made.metadata?.name).toBe('x');
    await objects.delete({ apiVersion: 'node.k8s.io/v1', kind: 'RuntimeClass', metadata: { name: 'x' } });
  });
});
