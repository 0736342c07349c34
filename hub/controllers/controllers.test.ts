import type { Deployment } from 'kubernetes-types/apps/v1.js';
import type { ConfigMap, Pod } from 'kubernetes-types/core/v1.js';
import { afterEach, describe, expect, it } from 'vitest';
import {
  configMaps,
  deployments,
  events,
  namespaces,
  nodes,
  pods,
  replicaSets,
  resourceQuotas,
  serviceAccounts,
} from '../../api/kinds/index.js';
import type { Frozen } from '../client.js';
import { Cluster, type ClusterOptions } from '../testing/cluster.js';
import { aPod } from '../testing/objects.js';
import { controllerOf, isActive, isReady } from './pods.js';

const running: Cluster[] = [];
async function cluster(o?: ClusterOptions): Promise<Cluster> {
  const c = new Cluster(o);
  running.push(c);
  return c.start();
}
afterEach(async () => {
  for (const c of running.splice(0)) await c.stop();
});

const web = (
  replicas: number,
  over: Partial<NonNullable<Deployment['spec']>> = {},
  image = 'web:1',
): Deployment => ({
  apiVersion: 'apps/v1',
  kind: 'Deployment',
  metadata: { namespace: 'default', name: 'web', annotations: { 'kubernetes.io/change-cause': image } },
  spec: {
    replicas,
    selector: { matchLabels: { app: 'web' } },
    template: { metadata: { labels: { app: 'web' } }, spec: { containers: [{ name: 'c', image }] } },
    ...over,
  },
});
const KEY = { namespace: 'default', name: 'web' };
const setImage = (c: Cluster, image: string) =>
  c.client.patch(deployments, KEY, {
    metadata: { annotations: { 'kubernetes.io/change-cause': image } },
    spec: { template: { spec: { containers: [{ name: 'c', image }] } } },
  });
const get = (c: Cluster) => c.client.get(deployments, KEY);
const condition = (d: Frozen<Deployment>, type: string) => d.status?.conditions?.find((x) => x.type === type);
const imageOf = (p: Frozen<Pod>) => p.spec!.containers[0]!.image!;
const mine = async (c: Cluster) => (await c.list(pods)).filter((p) => p.metadata!.labels?.['app'] === 'web');

async function rolledOut(c: Cluster): Promise<void> {
  await c.until('rolled out', async () => {
    const d = await get(c);
    return (
      d.status?.observedGeneration === d.metadata!.generation &&
      condition(d, 'Progressing')?.reason === 'NewReplicaSetAvailable' &&
      d.status?.updatedReplicas === (d.spec!.replicas ?? 1) &&
      d.status?.replicas === d.spec!.replicas &&
      d.status?.availableReplicas === d.spec!.replicas
    );
  });
}

describe('Deployment', () => {
  it('comes up with status, conditions, revision and events in Kubernetes’ words', async () => {
    const c = await cluster();
    await c.client.create(deployments, web(3));
    await rolledOut(c);
    const d = await get(c);
    const [rs] = await c.list(replicaSets);
    const name = rs!.metadata!.name!;
    expect(name).toMatch(/^web-[bcdfghjklmnpqrstvwxz2456789]{1,10}$/);
    expect(d.metadata!.annotations!['deployment.kubernetes.io/revision']).toBe('1');
    expect(d.status).toMatchObject({
      replicas: 3,
      updatedReplicas: 3,
      readyReplicas: 3,
      availableReplicas: 3,
    });
    expect(condition(d, 'Available')).toMatchObject({
      status: 'True',
      reason: 'MinimumReplicasAvailable',
      message: 'Deployment has minimum availability.',
    });
    expect(condition(d, 'Progressing')).toMatchObject({
      status: 'True',
      message: `ReplicaSet "${name}" has successfully progressed.`,
    });
    const hash = name.slice(4);
    expect(rs).toMatchObject({
      metadata: {
        labels: { app: 'web', 'pod-template-hash': hash },
        annotations: {
          'deployment.kubernetes.io/revision': '1',
          'deployment.kubernetes.io/desired-replicas': '3',
          'deployment.kubernetes.io/max-replicas': '4',
          'kubernetes.io/change-cause': 'web:1',
        },
        ownerReferences: [{ kind: 'Deployment', name: 'web', controller: true, blockOwnerDeletion: true }],
      },
      spec: { selector: { matchLabels: { app: 'web', 'pod-template-hash': hash } } },
      status: { replicas: 3, fullyLabeledReplicas: 3, readyReplicas: 3, availableReplicas: 3 },
    });
    const all = await mine(c);
    expect(all.map((p) => p.metadata!.name!.startsWith(`${name}-`))).toEqual([true, true, true]);
    expect(new Set(all.map((p) => p.spec!.nodeName)).size).toBe(3);
    const told = (await c.list(events)).map((e) => `${e.involvedObject.kind} ${e.reason}: ${e.message}`);
    expect(told).toContain(`Deployment ScalingReplicaSet: Scaled up replica set ${name} from 0 to 3`);
    expect(told.filter((t) => t.startsWith('ReplicaSet SuccessfulCreate: Created pod: '))).toHaveLength(3);
    const before = c.registry.resourceVersion;
    await c.run(200_000);
    expect(c.registry.resourceVersion).toBe(before);
  });

  it('rolls a new template over within its fence and keeps revisions', async () => {
    const c = await cluster();
    await c.client.create(
      deployments,
      web(4, { strategy: { rollingUpdate: { maxSurge: 1, maxUnavailable: 1 } } }),
    );
    await rolledOut(c);
    await setImage(c, 'web:2');
    await rolledOut(c);
    expect((await mine(c)).filter(isActive).map(imageOf)).toEqual(Array(4).fill('web:2'));
    const sets = await c.list(replicaSets);
    expect(
      sets
        .map((s) => [s.metadata!.annotations!['deployment.kubernetes.io/revision'], s.spec!.replicas])
        .sort(),
    ).toEqual([
      ['1', 0],
      ['2', 4],
    ]);
    expect((await get(c)).metadata!.annotations!['deployment.kubernetes.io/revision']).toBe('2');
    // What `kubectl rollout undo` does: the old template comes back, and its ReplicaSet becomes the newest revision.
    await setImage(c, 'web:1');
    await rolledOut(c);
    const back = (await c.list(replicaSets)).find((s) => s.spec!.replicas === 4)!;
    expect(back.metadata!.annotations).toMatchObject({
      'deployment.kubernetes.io/revision': '3',
      'deployment.kubernetes.io/revision-history': '1',
    });
    expect(await c.list(replicaSets)).toHaveLength(2);
  });

  it('Recreate: never two versions at the same time', async () => {
    const c = await cluster();
    await c.client.create(deployments, web(3, { strategy: { type: 'Recreate' } }));
    await rolledOut(c);
    await setImage(c, 'web:2');
    let mixed = 0;
    await c.until('all new', async () => {
      const images = new Set((await mine(c)).map(imageOf));
      if (images.size > 1) mixed++;
      return images.size === 1 && images.has('web:2');
    });
    await rolledOut(c);
    expect(mixed).toBe(0);
  });

  it('keeps only as many old ReplicaSets as the history limit says', async () => {
    const c = await cluster();
    await c.client.create(deployments, web(1, { revisionHistoryLimit: 2 }));
    for (const v of [2, 3, 4, 5, 6]) {
      await rolledOut(c);
      await setImage(c, `web:${v}`);
    }
    await rolledOut(c);
    await c.run(5000);
    const revisions = (await c.list(replicaSets)).map(
      (s) => s.metadata!.annotations!['deployment.kubernetes.io/revision'],
    );
    expect(revisions.sort()).toEqual(['4', '5', '6']);
  });

  it('paused: scales, but does not roll; resumed: rolls', async () => {
    const c = await cluster();
    await c.client.create(deployments, web(2));
    await rolledOut(c);
    await c.client.patch(deployments, KEY, { spec: { paused: true } });
    await setImage(c, 'web:2');
    await c.client.patch(deployments, KEY, { spec: { replicas: 4 } });
    await c.run(20_000);
    expect((await mine(c)).map(imageOf)).toEqual(Array(4).fill('web:1'));
    expect(condition(await get(c), 'Progressing')).toMatchObject({
      status: 'Unknown',
      reason: 'DeploymentPaused',
    });
    await c.client.patch(deployments, KEY, { spec: { paused: null } });
    await rolledOut(c);
    expect((await mine(c)).filter(isActive).map(imageOf)).toEqual(Array(4).fill('web:2'));
  });

  it('a version that never gets ready leaves the old one serving and exceeds its deadline', async () => {
    const c = await cluster({ fate: (p) => (imageOf(p) === 'bad' ? 'never' : 'ready') });
    await c.client.create(deployments, web(4, { progressDeadlineSeconds: 60 }));
    await rolledOut(c);
    await setImage(c, 'bad');
    await c.run(30_000);
    let d = await get(c);
    expect(d.status).toMatchObject({ availableReplicas: 3, updatedReplicas: 2, unavailableReplicas: 2 });
    expect(condition(d, 'Progressing')).toMatchObject({ status: 'True', reason: 'ReplicaSetUpdated' });
    await c.run(60_000);
    d = await get(c);
    expect(condition(d, 'Progressing')).toMatchObject({
      status: 'False',
      reason: 'ProgressDeadlineExceeded',
      message: expect.stringMatching(/^ReplicaSet "web-\w+" has timed out progressing\.$/),
    });
    expect((await mine(c)).filter(isReady)).toHaveLength(3);
    await setImage(c, 'web:1');
    await rolledOut(c);
  });

  it('scaling in the middle of a rollout keeps the proportions', async () => {
    const c = await cluster({ nodes: 3, fate: (p) => (imageOf(p) === 'bad' ? 'never' : 'ready') });
    await c.client.create(
      deployments,
      web(10, { strategy: { rollingUpdate: { maxSurge: 3, maxUnavailable: 2 } } }),
    );
    await rolledOut(c);
    await setImage(c, 'bad');
    await c.run(30_000);
    const sizes = async () =>
      Object.fromEntries(
        (await c.list(replicaSets)).map((s) => [
          s.spec!.template!.spec!.containers[0]!.image,
          s.spec!.replicas,
        ]),
      );
    expect(await sizes()).toEqual({ 'web:1': 8, bad: 5 });
    await c.client.patch(deployments, KEY, { spec: { replicas: 15 } });
    await c.run(30_000);
    // Kubernetes' documentation works this very example: five more, shared out 3 to 2.
    expect(await sizes()).toEqual({ 'web:1': 11, bad: 7 });
  });

  it('a foreign ReplicaSet with its name makes it take another', async () => {
    const c = await cluster();
    await c.client.create(deployments, web(1));
    await rolledOut(c);
    const [rs] = await c.list(replicaSets);
    await c.client.delete(deployments, KEY);
    await c.until('gone', async () => (await c.list(replicaSets)).length === 0);
    const squatter = {
      apiVersion: 'apps/v1' as const,
      kind: 'ReplicaSet' as const,
      metadata: { namespace: 'default', name: rs!.metadata!.name },
      spec: {
        replicas: 0,
        selector: { matchLabels: { x: 'y' } },
        template: { metadata: { labels: { x: 'y' } }, spec: { containers: [{ name: 'c', image: 'x' }] } },
      },
    };
    await c.client.create(replicaSets, squatter);
    await c.client.create(deployments, web(1));
    await rolledOut(c);
    expect((await get(c)).status!.collisionCount).toBe(1);
  });
});

describe('ReplicaSet', () => {
  const rs = (replicas: number) => ({
    apiVersion: 'apps/v1' as const,
    kind: 'ReplicaSet' as const,
    metadata: { namespace: 'default', name: 'web' },
    spec: {
      replicas,
      selector: { matchLabels: { app: 'web' } },
      template: { metadata: { labels: { app: 'web' } }, spec: { containers: [{ name: 'c', image: 'i' }] } },
    },
  });
  const labelled = (name: string): Pod => ({
    ...aPod(name),
    metadata: { namespace: 'default', name, labels: { app: 'web' } },
  });

  it('adopts orphans that match and lets go of pods that no longer do', async () => {
    const c = await cluster();
    await c.client.create(pods, labelled('stray'));
    await c.client.create(replicaSets, rs(2));
    await c.until('two', async () => (await c.client.get(replicaSets, KEY)).status?.readyReplicas === 2);
    expect(await mine(c)).toHaveLength(2);
    const stray = { namespace: 'default', name: 'stray' };
    expect(controllerOf(await c.client.get(pods, stray))?.name).toBe('web');
    await c.client.patch(pods, stray, { metadata: { labels: { app: 'debug' } } });
    await c.until('replaced', async () => (await c.client.get(replicaSets, KEY)).status?.readyReplicas === 2);
    expect(controllerOf(await c.client.get(pods, stray))).toBeUndefined();
    expect(await mine(c)).toHaveLength(2);
  });

  it('replaces pods that failed or were deleted', async () => {
    let failing = 2;
    const c = await cluster({ fate: () => (failing-- > 0 ? 'fails' : 'ready') });
    await c.client.create(replicaSets, rs(3));
    await c.until('three', async () => (await c.client.get(replicaSets, KEY)).status?.readyReplicas === 3);
    const [victim] = (await mine(c)).filter(isReady);
    await c.client.delete(pods, { namespace: 'default', name: victim!.metadata!.name! });
    await c.run(10_000);
    expect((await mine(c)).filter(isReady)).toHaveLength(3);
  });

  it('gives up the least useful pods first', async () => {
    const c = await cluster({ fate: (p) => (p.metadata!.name === 'slow' ? 'never' : 'ready') });
    await c.client.create(pods, labelled('slow'));
    await c.client.create(replicaSets, rs(3));
    await c.until(
      'two ready',
      async () => (await c.client.get(replicaSets, KEY)).status?.readyReplicas === 2,
    );
    await c.client.patch(replicaSets, KEY, { spec: { replicas: 2 } });
    await c.run(10_000);
    const left = await mine(c);
    expect(left).toHaveLength(2);
    expect(left.every(isReady)).toBe(true);
  });

  it('says what is wrong when it cannot create pods', async () => {
    const c = await cluster();
    const broken = rs(1);
    Object.assign(broken.spec.template.spec, { serviceAccountName: 'nobody' });
    await c.client.create(replicaSets, broken);
    await c.run(1000);
    expect((await c.client.get(replicaSets, KEY)).status!.conditions).toMatchObject([
      {
        type: 'ReplicaFailure',
        status: 'True',
        reason: 'FailedCreate',
        message: expect.stringContaining('"nobody" not found'),
      },
    ]);
    expect((await c.list(events)).find((e) => e.reason === 'FailedCreate')!.message).toMatch(
      /^Error creating: pods/,
    );
    await c.client.create(serviceAccounts, { metadata: { namespace: 'default', name: 'nobody' } });
    await c.until('up', async () => (await c.client.get(replicaSets, KEY)).status?.readyReplicas === 1);
    expect((await c.client.get(replicaSets, KEY)).status!.conditions ?? []).toEqual([]);
  });

  it('rests between tries: that each fails over another name makes no new status', async () => {
    const c = await cluster();
    await c.client.create(resourceQuotas, {
      metadata: { namespace: 'default', name: 'one' },
      spec: { hard: { pods: '1' } },
    });
    await c.client.create(replicaSets, rs(2));
    const failures = async () =>
      (await c.client.get(replicaSets, KEY)).status?.conditions?.filter((x) => x.type === 'ReplicaFailure');
    await c.until(
      'one ready',
      async () => (await c.client.get(replicaSets, KEY)).status?.readyReplicas === 1,
    );
    const [first] = (await failures())!;
    expect(first).toMatchObject({
      reason: 'FailedCreate',
      message: expect.stringMatching(/exceeded quota: one/),
    });
    const { resourceVersion } = (await c.client.get(replicaSets, KEY)).metadata!;
    await c.run(60_000);
    expect((await c.client.get(replicaSets, KEY)).metadata!.resourceVersion).toBe(resourceVersion);
    await c.client.patch(replicaSets, KEY, { spec: { replicas: 1 } });
    await c.run(1000);
    expect(await failures()).toBeFalsy();
  });

  it('waits minReadySeconds before it calls a pod available', async () => {
    const c = await cluster();
    const slow = rs(1);
    Object.assign(slow.spec, { minReadySeconds: 30 });
    await c.client.create(replicaSets, slow);
    await c.until('ready', async () => (await c.client.get(replicaSets, KEY)).status?.readyReplicas === 1);
    expect((await c.client.get(replicaSets, KEY)).status!.availableReplicas ?? 0).toBe(0);
    await c.run(31_000);
    expect((await c.client.get(replicaSets, KEY)).status!.availableReplicas).toBe(1);
  });
});

describe('garbage', () => {
  const cm = (name: string, owner?: Frozen<ConfigMap>, over: object = {}): ConfigMap => ({
    metadata: {
      namespace: 'default',
      name,
      ...(owner
        ? {
            ownerReferences: [
              {
                apiVersion: 'v1',
                kind: 'ConfigMap',
                name: owner.metadata!.name!,
                uid: owner.metadata!.uid!,
                ...over,
              },
            ],
          }
        : {}),
    },
  });
  const names = async (c: Cluster) =>
    (await c.list(configMaps, 'default'))
      .map((m) => m.metadata!.name)
      .filter((n) => n !== 'kube-root-ca.crt');
  const at = (name: string) => ({ namespace: 'default', name });

  it('background: dependents go after their owner, and theirs after them', async () => {
    const c = await cluster();
    await c.client.create(deployments, web(3));
    await rolledOut(c);
    await c.client.delete(deployments, KEY, { propagationPolicy: 'Background' });
    await expect(get(c)).rejects.toThrow('not found');
    await c.until(
      'all gone',
      async () => (await c.list(pods)).length + (await c.list(replicaSets)).length === 0,
    );
  });

  it('foreground: the owner goes last', async () => {
    const c = await cluster();
    await c.client.create(deployments, web(2));
    await rolledOut(c);
    await c.client.delete(deployments, KEY, { propagationPolicy: 'Foreground' });
    let ownerWithout = false;
    await c.until('gone', async () => {
      const left = (await c.list(pods)).length + (await c.list(replicaSets)).length;
      const owner = (await c.list(deployments)).length;
      if (owner === 0 && left > 0) ownerWithout = true;
      return owner + left === 0;
    });
    expect(ownerWithout).toBe(false);
  });

  it('orphan: dependents stay and forget their owner', async () => {
    const c = await cluster();
    await c.client.create(deployments, web(2));
    await rolledOut(c);
    await c.client.delete(deployments, KEY, { propagationPolicy: 'Orphan' });
    await c.run(10_000);
    expect(await c.list(deployments)).toHaveLength(0);
    const [rs] = await c.list(replicaSets);
    expect(rs!.metadata!.ownerReferences ?? []).toEqual([]);
    expect((await mine(c)).filter(isReady)).toHaveLength(2);
    // A Deployment that comes back takes them in again.
    await c.client.create(deployments, web(2));
    await rolledOut(c);
    expect(await c.list(replicaSets)).toHaveLength(1);
    expect(await mine(c)).toHaveLength(2);
  });

  it('an object whose owner never was is removed; one with another owner left only loses the reference', async () => {
    const c = await cluster();
    const real = await c.client.create(configMaps, cm('real'));
    const ghost = { ...real, metadata: { ...real.metadata, name: 'ghost', uid: 'no-such-uid' } } as ConfigMap;
    await c.client.create(configMaps, cm('haunted', ghost));
    const two = cm('two', real);
    two.metadata!.ownerReferences!.push({
      apiVersion: 'v1',
      kind: 'ConfigMap',
      name: 'ghost',
      uid: 'no-such-uid',
    });
    await c.client.create(configMaps, two);
    await c.client.create(
      configMaps,
      cm('same-name', { ...real, metadata: { ...real.metadata, uid: 'older' } } as never),
    );
    await c.run(1000);
    expect(await names(c)).toEqual(['real', 'two']);
    expect((await c.client.get(configMaps, at('two'))).metadata!.ownerReferences).toMatchObject([
      { name: 'real' },
    ]);
  });

  it('an owner of an unknown kind keeps its dependents', async () => {
    const c = await cluster();
    const strange = cm('kept', { metadata: { name: 'x', uid: 'y' } } as never, {
      apiVersion: 'example.com/v1',
      kind: 'Gadget',
    });
    await c.client.create(configMaps, strange);
    await c.run(60_000);
    expect(await names(c)).toEqual(['kept']);
  });

  it('cycles of foreground deletion end', async () => {
    const c = await cluster();
    const a = await c.client.create(configMaps, cm('a'));
    const b = await c.client.create(configMaps, cm('b', a, { blockOwnerDeletion: true }));
    await c.client.patch(configMaps, at('a'), {
      metadata: {
        ownerReferences: [
          { apiVersion: 'v1', kind: 'ConfigMap', name: 'b', uid: b.metadata!.uid, blockOwnerDeletion: true },
        ],
      },
    });
    await c.client.delete(configMaps, at('a'), { propagationPolicy: 'Foreground' });
    await c.until('gone', async () => (await names(c)).length === 0);
  });
});

describe('Namespace', () => {
  it('has a ServiceAccount and the CA, also after somebody took or changed them', async () => {
    const c = await cluster();
    await c.client.create(namespaces, { metadata: { name: 'shop' } });
    await c.settle();
    const sa = { namespace: 'shop', name: 'default' };
    const ca = { namespace: 'shop', name: 'kube-root-ca.crt' };
    expect((await c.client.get(configMaps, ca)).data).toEqual({ 'ca.crt': 'PEM' });
    await c.client.delete(serviceAccounts, sa);
    await c.client.patch(configMaps, ca, { data: { 'ca.crt': 'forged' } });
    await c.settle();
    await c.client.get(serviceAccounts, sa);
    expect((await c.client.get(configMaps, ca)).data).toEqual({ 'ca.crt': 'PEM' });
  });

  it('is emptied of everything before it goes', async () => {
    const c = await cluster();
    await c.client.create(namespaces, { metadata: { name: 'shop' } });
    await c.settle();
    const d = web(3);
    await c.client.create(deployments, { ...d, metadata: { ...d.metadata, namespace: 'shop' } });
    await c.until('up', async () => (await c.list(pods, 'shop')).filter(isReady).length === 3);
    await c.client.delete(namespaces, { name: 'shop' });
    expect((await c.client.get(namespaces, { name: 'shop' })).status!.phase).toBe('Terminating');
    await c.settle();
    expect((await c.client.get(namespaces, { name: 'shop' })).status!.conditions).toContainEqual(
      expect.objectContaining({
        type: 'NamespaceContentRemaining',
        status: 'True',
        message: expect.stringContaining('pods has 3 resource instances'),
      }),
    );
    await c.until('gone', async () => !(await c.list(namespaces)).some((n) => n.metadata!.name === 'shop'));
    for (const kind of [pods, deployments, replicaSets, configMaps, serviceAccounts, events] as never[])
      expect(await c.list(kind, 'shop')).toEqual([]);
  });
});

describe('nodes', () => {
  const ready = (status: string) => ({
    status: { conditions: [{ type: 'Ready', status, reason: 'x', message: 'x' }] },
  });
  const taintsOf = async (c: Cluster) =>
    ((await c.client.get(nodes, { name: 'pi1' })).spec?.taints ?? []).map((t) => `${t.key}:${t.effect}`);

  it('conditions become taints and go away with them; those of users stay', async () => {
    const c = await cluster({ nodes: 1 });
    expect(await taintsOf(c)).toEqual([]);
    await c.client.patch(
      nodes,
      { name: 'pi1' },
      { spec: { taints: [{ key: 'mine', effect: 'NoSchedule' }], unschedulable: true } },
    );
    await c.client.patch(nodes, { name: 'pi1' }, ready('Unknown'), 'status');
    await c.settle();
    expect((await taintsOf(c)).sort()).toEqual([
      'mine:NoSchedule',
      'node.kubernetes.io/unreachable:NoExecute',
      'node.kubernetes.io/unreachable:NoSchedule',
      'node.kubernetes.io/unschedulable:NoSchedule',
    ]);
    await c.client.patch(nodes, { name: 'pi1' }, ready('True'), 'status');
    await c.client.patch(nodes, { name: 'pi1' }, { spec: { unschedulable: null } });
    await c.settle();
    expect(await taintsOf(c)).toEqual(['mine:NoSchedule']);
  });

  it('that nobody ever reports for are unknown after a minute', async () => {
    const c = await cluster({ nodes: 0 });
    await c.client.create(nodes, { metadata: { name: 'pi1' } });
    const conditions = async () => (await c.client.get(nodes, { name: 'pi1' })).status?.conditions ?? [];
    await c.run(59_000);
    expect(await conditions()).toEqual([]);
    await c.run(2_000);
    expect((await conditions()).map((x) => `${x.type}=${x.status} ${x.reason}`)).toEqual(
      ['MemoryPressure', 'DiskPressure', 'PIDPressure', 'Ready'].map(
        (type) => `${type}=Unknown NodeStatusNeverUpdated`,
      ),
    );
    expect(await taintsOf(c)).toContain('node.kubernetes.io/unreachable:NoExecute');
  });

  it('a lost link evicts only pods that ask for it, after their time', async () => {
    const c = await cluster({ nodes: 1 });
    const patient = aPod('patient');
    const asks = aPod('asks', {
      tolerations: [
        {
          key: 'node.kubernetes.io/unreachable',
          operator: 'Exists',
          effect: 'NoExecute',
          tolerationSeconds: 60,
        },
      ],
    });
    for (const p of [patient, asks]) await c.client.create(pods, p);
    await c.run(5000);
    await c.client.patch(nodes, { name: 'pi1' }, ready('Unknown'), 'status');
    await c.run(50_000);
    const deleting = async () => (await c.list(pods)).filter((p) => p.metadata!.deletionTimestamp).length;
    expect([await deleting(), (await c.list(pods)).length]).toEqual([0, 2]);
    await c.run(15_000);
    expect((await c.list(pods)).map((p) => p.metadata!.name)).toEqual(['patient']);
    expect((await c.list(events)).find((e) => e.reason === 'TaintManagerEviction')!.message).toBe(
      'Marking for deletion Pod default/asks',
    );
  });

  it('a link that comes back in time saves them', async () => {
    const c = await cluster({ nodes: 1 });
    const t = {
      key: 'node.kubernetes.io/unreachable',
      operator: 'Exists',
      effect: 'NoExecute',
      tolerationSeconds: 60,
    };
    await c.client.create(pods, aPod('asks', { tolerations: [t] }));
    await c.run(5000);
    await c.client.patch(nodes, { name: 'pi1' }, ready('Unknown'), 'status');
    await c.run(50_000);
    await c.client.patch(nodes, { name: 'pi1' }, ready('True'), 'status');
    await c.run(600_000);
    expect(await c.list(pods)).toHaveLength(1);
  });

  it('a NoExecute taint of a user evicts at once, or after tolerationSeconds', async () => {
    const c = await cluster({ nodes: 1 });
    const t = (seconds?: number) => ({
      key: 'drain',
      operator: 'Exists',
      ...(seconds ? { effect: 'NoExecute', tolerationSeconds: seconds } : {}),
    });
    await c.client.create(pods, aPod('plain'));
    await c.client.create(pods, aPod('later', { tolerations: [t(100)] }));
    await c.client.create(pods, aPod('always', { tolerations: [t()] }));
    await c.run(200_000);
    await c.client.patch(
      nodes,
      { name: 'pi1' },
      { spec: { taints: [{ key: 'drain', effect: 'NoExecute' }] } },
    );
    await c.run(10_000);
    expect((await c.list(pods)).map((p) => p.metadata!.name)).toEqual(['always', 'later']);
    await c.run(100_000);
    expect((await c.list(pods)).map((p) => p.metadata!.name)).toEqual(['always']);
  });

  it('pods of a node that is gone for good are removed, stuck terminating ones too', async () => {
    const c = await cluster({ nodes: 1 });
    await c.client.create(pods, aPod('a'));
    await c.client.create(pods, aPod('stuck'));
    await c.run(5000);
    await c.client.delete(nodes, { name: 'pi1' });
    await c.settle();
    await c.client.delete(pods, { namespace: 'default', name: 'stuck' });
    await c.run(30_000);
    expect(await c.list(pods)).toHaveLength(2);
    await c.run(15_000);
    expect(await c.list(pods)).toEqual([]);
  });

  it('a node that registers again within the quarantine keeps its pods', async () => {
    const c = await cluster({ nodes: 1 });
    await c.client.create(pods, aPod('a'));
    await c.run(5000);
    await c.client.delete(nodes, { name: 'pi1' });
    await c.run(20_000);
    await c.addNode('pi1');
    await c.run(100_000);
    expect(await c.list(pods)).toHaveLength(1);
  });
});

describe('limits', () => {
  it('keeps only so many ended pods, the newest', async () => {
    const c = await cluster({ keepEndedPods: 3, fate: () => 'fails' });
    for (let i = 0; i < 6; i++) {
      await c.client.create(pods, aPod(`p${i}`));
      await c.run(3000);
    }
    expect((await c.list(pods)).map((p) => p.metadata!.name)).toEqual(['p3', 'p4', 'p5']);
  });

  it('forgets Events an hour after they last happened', async () => {
    const c = await cluster();
    await c.client.create(pods, aPod('a'));
    await c.run(10_000);
    expect((await c.list(events)).length).toBeGreaterThan(0);
    await c.run(3_500_000);
    expect((await c.list(events)).length).toBeGreaterThan(0);
    await c.run(600_000);
    expect(await c.list(events)).toEqual([]);
  });
});
