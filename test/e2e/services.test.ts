/** Services and volumes with real kubectl against a real hub. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { missing } from './support/needs.js';
import { eventually, type Kubectl, remove, TestHub } from './support/system.js';

const lacks = missing('kubectl-1.32', 'kubectl-1.36');
describe.skipIf(lacks).each(['1.32', '1.36'] as const)('kubectl %s', (minor) => {
  let hub: TestHub;
  let k: Kubectl;
  beforeAll(async () => {
    hub = await new TestHub().start();
    k = hub.kubectl(minor);
  });
  afterAll(async () => {
    await hub?.stop();
    remove(hub?.dataDir ?? '');
  });

  it('makes, exposes and shows Services', async () => {
    await eventually('kubernetes', async () => (await k.try('get', 'service', 'kubernetes')).code === 0);
    await k('create', 'service', 'clusterip', 'a', '--tcp=80:8080');
    await k('create', 'service', 'nodeport', 'b', '--tcp=80:8080', '--node-port=30080');
    await k('create', 'service', 'externalname', 'c', '--external-name=x.example');
    await k('create', 'service', 'loadbalancer', 'd', '--tcp=80');
    await k('create', 'deployment', 'web', '--image=web', '--port=80');
    await k('expose', 'deployment', 'web', '--port=80');
    const shown = await k('get', 'services', '-o', 'wide');
    expect(shown).toMatch(/^a\s+ClusterIP\s+10\.96\.\d+\.\d+\s+<none>\s+80\/TCP\s+\S+\s+app=a$/m);
    expect(shown).toMatch(/^b\s+NodePort\s+10\.96\.\d+\.\d+\s+<none>\s+80:30080\/TCP\s/m);
    expect(shown).toMatch(/^c\s+ExternalName\s+<none>\s+x\.example\s+<none>\s/m);
    expect(shown).toMatch(/^d\s+LoadBalancer\s+10\.96\.\d+\.\d+\s+<pending>\s+80:3\d{4}\/TCP\s/m);
    expect(await k('describe', 'service', 'web')).toMatch(/Selector:\s+app=web/);
    expect(await k('get', 'all')).toContain('service/web');
    const taken = await k.try('create', 'service', 'nodeport', 'e', '--tcp=80', '--node-port=30080');
    expect(taken.stderr).toContain('provided port is already allocated');
    await eventually('a slice', async () => (await k('get', 'endpointslices')).includes('web-'));
    await k('delete', 'service', 'web');
    await eventually('no slice', async () => !(await k('get', 'endpointslices')).includes('web-'));
  });

  it('makes Ingresses, and binds claims', async () => {
    await k('create', 'ingress', 'i', '--rule=a.example/*=web:80');
    expect(await k('get', 'ingress')).toMatch(/^i\s+<none>\s+a\.example\s+80\s/m);
    const amount = { storage: '1Gi' };
    const accessModes = ['ReadWriteOnce'];
    await k.apply({
      apiVersion: 'v1',
      kind: 'PersistentVolume',
      metadata: { name: 'v' },
      spec: { capacity: amount, accessModes, hostPath: { path: '/data' } },
    });
    await k.apply({
      apiVersion: 'v1',
      kind: 'PersistentVolumeClaim',
      metadata: { name: 'c' },
      spec: { accessModes, resources: { requests: amount } },
    });
    await eventually('bound', async () => /^c\s+Bound\s+v\s+1Gi\s+RWO\s/m.test(await k('get', 'pvc')));
    await k('delete', 'pvc', 'c');
    await eventually('released', async () => /\sReleased\s+default\/c\s/.test(await k('get', 'pv')));
  });

  it('shows Events in either form', async () => {
    await k('run', 'p', '--image=web');
    await eventually('events', async () =>
      (await k('get', 'events.events.k8s.io')).includes('FailedScheduling'),
    );
    const [core] = (await k.json('get', 'events', '--field-selector=involvedObject.name=p')).items;
    const modern = await k.json('get', 'events.v1.events.k8s.io', core.metadata.name);
    expect([modern.apiVersion, modern.note, modern.regarding.name]).toEqual([
      'events.k8s.io/v1',
      core.message,
      'p',
    ]);
  });
});
