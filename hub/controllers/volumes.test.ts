import type { PersistentVolume, PersistentVolumeClaim, Pod } from 'kubernetes-types/core/v1.js';
import { afterEach, describe, expect, it } from 'vitest';
import { persistentVolumeClaims, persistentVolumes, pods, storageClasses } from '../../api/kinds/index.js';
import { Cluster } from '../testing/cluster.js';
import { resolveClaims, volumeFor } from '../volumes.js';

const running: Cluster[] = [];
async function cluster(): Promise<Cluster> {
  const c = new Cluster({});
  running.push(c);
  return c.start();
}
afterEach(async () => {
  for (const c of running.splice(0)) await c.stop();
});

const pv = (name: string, size: string, over: PersistentVolume['spec'] = {}): PersistentVolume => ({
  metadata: { name },
  spec: {
    capacity: { storage: size },
    accessModes: ['ReadWriteOnce'],
    hostPath: { path: `/data/${name}` },
    ...over,
  },
});
const pvc = (
  name: string,
  size: string,
  over: PersistentVolumeClaim['spec'] = {},
): PersistentVolumeClaim => ({
  metadata: { namespace: 'default', name },
  spec: { accessModes: ['ReadWriteOnce'], resources: { requests: { storage: size } }, ...over },
});
const key = (name: string) => ({ namespace: 'default', name });
const user = (claim: string): Pod => ({
  metadata: { namespace: 'default', name: 'user' },
  spec: {
    containers: [{ name: 'c', image: 'i', volumeMounts: [{ name: 'data', mountPath: '/data' }] }],
    volumes: [{ name: 'data', persistentVolumeClaim: { claimName: claim, readOnly: true } }],
  },
});

describe('which volume a claim gets', () => {
  const of = (claim: PersistentVolumeClaim, ...volumes: PersistentVolume[]) =>
    volumeFor(claim, volumes)?.metadata?.name;
  it('is the smallest that will do', () => {
    expect(of(pvc('c', '1Gi'), pv('a', '5Gi'), pv('b', '2Gi'), pv('c', '100Mi'))).toBe('b');
  });
  it('has its class, modes and labels', () => {
    expect(of(pvc('c', '1Gi'), pv('a', '1Gi', { storageClassName: 's' }))).toBeUndefined();
    expect(of(pvc('c', '1Gi', { accessModes: ['ReadWriteMany'] }), pv('a', '1Gi'))).toBeUndefined();
    expect(of(pvc('c', '1Gi', { selector: { matchLabels: { a: 'b' } } }), pv('a', '1Gi'))).toBeUndefined();
    expect(of(pvc('c', '1Gi', { volumeMode: 'Block' }), pv('a', '1Gi'))).toBeUndefined();
  });
  it('is the one that is meant for it', () => {
    const meant = pv('big', '9Gi', { claimRef: { namespace: 'default', name: 'c' } });
    const others = pv('other', '1Gi', { claimRef: { namespace: 'default', name: 'd' } });
    expect(of(pvc('c', '1Gi'), pv('a', '1Gi'), meant, others)).toBe('big');
  });
});

it('a device gets paths, not claims', () => {
  const spec = resolveClaims(user('c').spec!, 'user', () => pv('a', '1Gi'));
  expect(spec.volumes).toEqual([{ name: 'data', hostPath: { type: '', path: '/data/a' } }]);
  expect(spec.containers[0]!.volumeMounts).toEqual([{ name: 'data', mountPath: '/data', readOnly: true }]);
  expect(resolveClaims(user('c').spec!, 'user', () => undefined).volumes).toEqual(user('c').spec!.volumes);
});

describe('the binder', () => {
  const phases = async (c: Cluster) => {
    const claims = await c.list(persistentVolumeClaims);
    const volumes = await c.list(persistentVolumes);
    return [...claims, ...volumes].map((o) => `${o.metadata!.name}=${o.status?.phase}`).join(' ');
  };

  it('binds, and releases what is given back', async () => {
    const c = await cluster();
    await c.client.create(persistentVolumeClaims, pvc('c', '1Gi'));
    await c.client.create(persistentVolumes, pv('v', '2Gi'));
    await c.until('bound', async () => (await phases(c)) === 'c=Bound v=Bound');
    expect(await c.client.get(persistentVolumeClaims, key('c'))).toMatchObject({
      spec: { volumeName: 'v' },
      status: { capacity: { storage: '2Gi' }, accessModes: ['ReadWriteOnce'] },
    });
    await c.client.create(persistentVolumeClaims, pvc('d', '1Gi'));
    await c.until('one of them waits', async () => (await phases(c)) === 'c=Bound d=Pending v=Bound');
    await c.client.delete(persistentVolumeClaims, key('c'));
    await c.until('released', async () => (await phases(c)) === 'd=Pending v=Released');
    await c.client.delete(persistentVolumes, { name: 'v' });
    await c.until('gone', async () => (await phases(c)) === 'd=Pending');
  });

  it('keeps a claim as long as a pod uses it, and a volume as long as a claim does', async () => {
    const c = await cluster();
    await c.client.create(persistentVolumes, pv('v', '2Gi'));
    await c.client.create(persistentVolumeClaims, pvc('c', '1Gi'));
    await c.until('bound', async () => (await phases(c)) === 'c=Bound v=Bound');
    await c.client.create(pods, user('c'));
    await c.client.delete(persistentVolumes, { name: 'v' });
    await c.client.delete(persistentVolumeClaims, key('c'));
    await c.settle();
    expect(await phases(c)).toBe('c=Bound v=Bound');
    await c.client.delete(pods, key('user'), { gracePeriodSeconds: 0 });
    await c.until('gone', async () => (await phases(c)) === '');
  });

  it('waits for a consumer where the class says so', async () => {
    const c = await cluster();
    await c.client.create(storageClasses, {
      metadata: { name: 'local' },
      provisioner: 'kubernetes.io/no-provisioner',
      volumeBindingMode: 'WaitForFirstConsumer',
    });
    await c.client.create(persistentVolumes, pv('v', '2Gi', { storageClassName: 'local' }));
    await c.client.create(persistentVolumeClaims, pvc('c', '1Gi', { storageClassName: 'local' }));
    await c.settle();
    expect(await phases(c)).toBe('c=Pending v=Available');
    await c.client.patch(persistentVolumeClaims, key('c'), {
      metadata: { annotations: { 'volume.kubernetes.io/selected-node': 'n' } },
    });
    await c.until('bound', async () => (await phases(c)) === 'c=Bound v=Bound');
  });
});

describe('a pod with a claim', () => {
  it('waits for it, and goes where its volume is', async () => {
    const c = await cluster();
    await c.addNode('n1');
    await c.addNode('n2');
    await c.client.create(pods, user('c'));
    const waiting = (text: string) =>
      c.until(text, async () => {
        const p = await c.client.get(pods, key('user'));
        return p.status?.conditions?.some((x) => x.message?.includes(text)) ?? false;
      });
    await waiting('persistentvolumeclaim "c" not found');
    await c.client.create(persistentVolumeClaims, pvc('c', '1Gi'));
    await waiting('nodes are available: pod has unbound immediate PersistentVolumeClaims.');
    const required = {
      nodeSelectorTerms: [{ matchFields: [{ key: 'metadata.name', operator: 'In', values: ['n2'] }] }],
    };
    await c.client.create(persistentVolumes, pv('v', '1Gi', { nodeAffinity: { required } }));
    await c.until('scheduled', async () => (await c.client.get(pods, key('user'))).spec?.nodeName === 'n2');
  });

  it('is bound together with it where the class says so', async () => {
    const c = await cluster();
    await c.addNode('n1');
    await c.addNode('n2');
    await c.client.create(storageClasses, {
      metadata: { name: 'local' },
      provisioner: 'kubernetes.io/no-provisioner',
      volumeBindingMode: 'WaitForFirstConsumer',
    });
    await c.client.create(persistentVolumeClaims, pvc('c', '1Gi', { storageClassName: 'local' }));
    await c.client.create(pods, user('c'));
    await c.until('no volume', async () => {
      const p = await c.client.get(pods, key('user'));
      return (
        p.status?.conditions?.[0]?.message?.includes(
          "node(s) didn't find available persistent volumes to bind",
        ) ?? false
      );
    });
    const required = {
      nodeSelectorTerms: [{ matchFields: [{ key: 'metadata.name', operator: 'In', values: ['n1'] }] }],
    };
    await c.client.create(
      persistentVolumes,
      pv('v', '1Gi', { storageClassName: 'local', nodeAffinity: { required } }),
    );
    await c.until('scheduled', async () => (await c.client.get(pods, key('user'))).spec?.nodeName === 'n1');
    expect(await c.client.get(persistentVolumeClaims, key('c'))).toMatchObject({
      status: { phase: 'Bound' },
    });
  });
});
