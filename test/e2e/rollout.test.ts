/** Deployments as people drive them with kubectl: rollout, scale, drain, delete; on a node with the runtime `fake`. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { missing } from './support/needs.js';
import { eventually, type Kubectl, nodeReady, remove, TestAgent, TestHub } from './support/system.js';

const VERSIONS = ['1.32', '1.36'] as const;
const lacking = VERSIONS.map((v) => missing(`kubectl-${v}`)).some(Boolean);

describe.skipIf(lacking)('kubectl rollout', () => {
  let hub: TestHub;
  let agent: TestAgent;
  let k: Kubectl;
  const context = () => `${hub.process.tail(20)}\n${agent?.process?.tail(40) ?? ''}`;

  beforeAll(async () => {
    hub = await new TestHub().start();
    k = hub.kubectl();
    await k.apply({
      apiVersion: 'node.k8s.io/v1',
      kind: 'RuntimeClass',
      metadata: { name: 'fake' },
      handler: 'fake',
    });
    agent = await new TestAgent('pi1').start('--join', await hub.token(), '--fake');
    await nodeReady(k, 'pi1', context);
  });
  afterAll(async () => {
    await agent?.stop();
    await hub?.stop();
    remove(...(hub ? [hub.dataDir] : []), ...(agent ? [agent.dataDir] : []));
  });

  const deployment = (name: string, image: string) => ({
    apiVersion: 'apps/v1',
    kind: 'Deployment',
    metadata: { name, annotations: { 'kubernetes.io/change-cause': `use ${image}` } },
    spec: {
      replicas: 3,
      selector: { matchLabels: { app: name } },
      template: {
        metadata: { labels: { app: name } },
        spec: {
          runtimeClassName: 'fake',
          terminationGracePeriodSeconds: 1,
          containers: [{ name: 'main', image }],
        },
      },
    },
  });

  it.each(VERSIONS)(
    'kubectl %s: status, history, undo, pause, resume, restart, scale, delete',
    async (version) => {
      const kv = hub.kubectl(version);
      const name = `web-${version.replace('.', '-')}`;
      const target = `deployment/${name}`;
      const status = () => kv('rollout', 'status', target, '--timeout=60s');
      const images = async () =>
        [
          ...new Set(
            (
              await kv(
                'get',
                'pods',
                '-l',
                `app=${name}`,
                '-o',
                'jsonpath={.items[*].spec.containers[0].image}',
              )
            ).split(' '),
          ),
        ].sort();
      const only = (image: string) =>
        eventually(`only ${image}`, async () => (await images()).join() === image, { context });

      await kv.apply(deployment(name, 'fake/web:1'));
      expect(await status()).toContain(`deployment "${name}" successfully rolled out`);
      await kv.apply(deployment(name, 'fake/web:2'));
      expect(await status()).toContain('successfully rolled out');
      await only('fake/web:2');

      const history = await kv('rollout', 'history', target);
      expect(history).toMatch(/^1\s+use fake\/web:1$/m);
      expect(history).toMatch(/^2\s+use fake\/web:2$/m);
      expect(await kv('rollout', 'history', target, '--revision=1')).toContain('fake/web:1');

      expect(await kv('rollout', 'undo', target)).toContain('rolled back');
      await status();
      await only('fake/web:1');
      expect(await kv('rollout', 'history', target)).toMatch(/^3\s+use fake\/web:1$/m);
      expect(await kv('rollout', 'undo', target, '--to-revision=2')).toContain('rolled back');
      await status();
      await only('fake/web:2');

      await kv('rollout', 'pause', target);
      await kv('set', 'image', target, 'main=fake/web:4');
      await eventually('the pause to be noted', async () =>
        (await kv('describe', target)).includes('DeploymentPaused'),
      );
      expect(await images()).toEqual(['fake/web:2']);
      await kv('rollout', 'resume', target);
      await status();
      await only('fake/web:4');

      const before = await kv('get', 'pods', '-l', `app=${name}`, '-o', 'name');
      await kv('rollout', 'restart', target);
      await status();
      await eventually('all pods to be new', async () => {
        const now = (await kv('get', 'pods', '-l', `app=${name}`, '-o', 'name')).trim().split('\n');
        return now.length === 3 && now.every((p) => !before.includes(p));
      });

      await kv('scale', target, '--replicas=5');
      await status();
      await kv('wait', target, '--for=condition=Available', '--timeout=30s');
      const described = await kv('describe', target);
      expect(described).toMatch(
        /Replicas:\s+5 desired \| 5 updated \| 5 total \| 5 available \| 0 unavailable/,
      );
      expect(described).toMatch(/NewReplicaSet:\s+web-\S+ \(5\/5 replicas created\)/);
      expect(described).toMatch(/ScalingReplicaSet.*Scaled up replica set web-\S+ from 3 to 5/);

      await kv('delete', target, '--cascade=foreground', '--timeout=60s');
      expect(await kv('get', 'rs,pods', '-l', `app=${name}`, '-o', 'name')).toBe('');
    },
  );

  it('a namespace goes with all that is in it', async () => {
    await k('create', 'namespace', 'shop');
    await k.apply(deployment('web', 'fake/web:1'), '-n', 'shop');
    await k('rollout', 'status', 'deployment/web', '-n', 'shop', '--timeout=60s');
    expect(await k('get', 'serviceaccount,configmap', '-n', 'shop', '-o', 'name')).toBe(
      'serviceaccount/default\nconfigmap/kube-root-ca.crt\n',
    );
    await k('delete', 'namespace', 'shop', '--timeout=60s');
    expect((await k.try('get', 'namespace', 'shop')).stderr).toContain('NotFound');
  });

  it('kubectl drain and uncordon: pods leave, and nothing new comes until the node is open again', async () => {
    await k.apply(deployment('guest', 'fake/web:1'));
    await k('rollout', 'status', 'deployment/guest', '--timeout=60s');
    await k('drain', 'pi1', '--timeout=60s', '--force');
    const waiting = await eventually('pods to wait', async () => {
      const { items } = await k.json('get', 'pods', '-l', 'app=guest');
      const texts = items.map(
        (p: { status: { conditions?: { reason?: string; message?: string }[] } }) =>
          p.status.conditions?.find((c) => c.reason === 'Unschedulable')?.message,
      );
      return texts.length === 3 && texts.every(Boolean) && texts[0];
    });
    expect(waiting).toBe('0/1 nodes are available: 1 node(s) were unschedulable.');
    await k('uncordon', 'pi1');
    await k('rollout', 'status', 'deployment/guest', '--timeout=60s');
    await k('delete', 'deployment', 'guest');
  });
});
