/** Every kind that makes pods, as people drive it with kubectl; on a node with the runtime `fake`. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { missing } from './support/needs.js';
import { eventually, type Kubectl, nodeReady, remove, TestAgent, TestHub } from './support/system.js';

describe.skipIf(missing('kubectl-1.36'))('workloads', () => {
  let hub: TestHub;
  let agent: TestAgent;
  let k: Kubectl;
  const context = () => `${hub.process.tail(20)}\n${agent?.process?.tail(40) ?? ''}`;

  beforeAll(async () => {
    hub = await new TestHub().start();
    k = hub.kubectl('1.36');
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

  const template = (app: string, image: string, more: object = {}, annotations: object = {}) => ({
    metadata: { labels: { app }, annotations },
    spec: {
      runtimeClassName: 'fake',
      terminationGracePeriodSeconds: 1,
      containers: [{ name: 'main', image }],
      ...more,
    },
  });
  const owner = (kind: string, name: string, image: string, spec: object = {}) => ({
    apiVersion: 'apps/v1',
    kind,
    metadata: { name, annotations: { 'kubernetes.io/change-cause': `use ${image}` } },
    spec: { selector: { matchLabels: { app: name } }, template: template(name, image), ...spec },
  });
  const images = async (app: string) =>
    (
      await k('get', 'pods', '-l', `app=${app}`, '-o', 'jsonpath={.items[*].spec.containers[0].image}')
    ).trim();

  it.each([
    ['DaemonSet', 'ds/agent', 'agent', 1],
    ['StatefulSet', 'sts/db', 'db', 2],
  ] as const)('%s: rollout status, history, undo, restart', async (kind, target, name, n) => {
    const spec = kind === 'StatefulSet' ? { replicas: n, serviceName: name } : {};
    const all = (image: string) => Array(n).fill(image).join(' ');
    const status = () => k('rollout', 'status', target, '--timeout=60s');
    await k.apply(owner(kind, name, 'fake/web:1', spec));
    await status();
    await k.apply(owner(kind, name, 'fake/web:2', spec));
    await status();
    await eventually('the new image', async () => (await images(name)) === all('fake/web:2'), { context });
    const history = await k('rollout', 'history', target);
    expect(history).toMatch(/^1\s+use fake\/web:1$/m);
    expect(history).toMatch(/^2\s+use fake\/web:2$/m);
    expect(await k('rollout', 'history', target, '--revision=1')).toContain('fake/web:1');
    expect(await k('rollout', 'undo', target)).toContain('rolled back');
    await status();
    await eventually('the old image', async () => (await images(name)) === all('fake/web:1'), { context });
    const before = await k('get', 'pods', '-l', `app=${name}`, '-o', 'jsonpath={.items[*].metadata.uid}');
    await k('rollout', 'restart', target);
    await status();
    const after = await k('get', 'pods', '-l', `app=${name}`, '-o', 'jsonpath={.items[*].metadata.uid}');
    expect(after.split(' ').some((uid) => before.includes(uid))).toBe(false);
    expect(await k('describe', target)).toContain('SuccessfulCreate');
    await k('delete', target, '--timeout=60s');
  });

  it('Job and CronJob: create, wait, create --from, delete', async () => {
    const ends = { 'fake.coxswain.dev/main': '{"runMs":200,"exitCode":0}' };
    const spec = { template: template('sum', 'fake/sum:1', { restartPolicy: 'Never' }, ends) };
    await k.apply({
      apiVersion: 'batch/v1',
      kind: 'Job',
      metadata: { name: 'sum' },
      spec: { ...spec, completions: 2 },
    });
    await k('wait', 'job/sum', '--for=condition=Complete', '--timeout=60s');
    expect(await k('get', 'job', 'sum')).toMatch(/sum\s+Complete\s+2\/2/);
    await k.apply({
      apiVersion: 'batch/v1',
      kind: 'CronJob',
      metadata: { name: 'tick' },
      spec: { schedule: '0 0 1 1 *', timeZone: 'Europe/Berlin', jobTemplate: { spec } },
    });
    expect(await k('get', 'cronjob', 'tick')).toMatch(
      /tick\s+0 0 1 1 \*\s+Europe\/Berlin\s+False\s+0\s+<none>/,
    );
    await k('create', 'job', 'now', '--from=cronjob/tick');
    await k('wait', 'job/now', '--for=condition=Complete', '--timeout=60s');
    expect((await k.try('create', 'cronjob', 'bad', '--image=x', '--schedule=never')).stderr).toContain(
      'expected exactly 5 fields',
    );
    await k('create', 'job', 'plain', '--image=fake/x:1', '--dry-run=server');
    await k('delete', 'job,cronjob', '--all', '--timeout=60s');
    expect(await k('get', 'pods', '-l', 'app=sum', '-o', 'name')).toBe('');
  });

  it('ReplicationController and PodDisruptionBudget: scale, evict', async () => {
    await k.apply({
      apiVersion: 'v1',
      kind: 'ReplicationController',
      metadata: { name: 'old' },
      spec: { replicas: 1, template: template('old', 'fake/web:1') },
    });
    await k('scale', 'rc/old', '--replicas=2');
    await eventually('two pods', async () => /old\s+2\s+2\s+2/.test(await k('get', 'rc', 'old')), {
      context,
    });
    await k('autoscale', 'rc/old', '--min=1', '--max=3');
    await eventually(
      'the autoscaler',
      async () =>
        /ReplicationController\/old\s+cpu: <unknown>\/80%\s+1\s+3\s+2/.test(await k('get', 'hpa', 'old')),
      { context },
    );
    expect(
      await k('get', 'horizontalpodautoscalers.v1.autoscaling', 'old', '-o', 'jsonpath={.spec}'),
    ).toContain('"targetCPUUtilizationPercentage":80');
    await k('create', 'pdb', 'old', '--selector=app=old', '--min-available=2');
    await eventually('the budget', async () => /old\s+2\s+N\/A\s+0/.test(await k('get', 'pdb', 'old')), {
      context,
    });
    const drain = await k.try('drain', 'pi1', '--timeout=3s', '--force', '--pod-selector=app=old');
    expect(drain.stderr).toContain("Cannot evict pod as it would violate the pod's disruption budget.");
    await k('delete', 'pdb', 'old');
    await k('drain', 'pi1', '--timeout=60s', '--force', '--pod-selector=app=old');
    await k('uncordon', 'pi1');
    await k('delete', 'rc', 'old', '--timeout=60s');
  });
});
