/** `kubectl top` over the link: a Wasm pod that burns a core and one that does nothing, on a real device. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { buildModule } from '../modules/build.js';
import { missing } from './support/needs.js';
import {
  CoxProcess,
  eventually,
  type Kubectl,
  nodeReady,
  remove,
  TestAgent,
  TestHub,
} from './support/system.js';

describe.skipIf(missing('root', 'kubectl-1.32', 'kubectl-1.36'))('resource metrics', () => {
  let hub: TestHub;
  let agent: TestAgent;
  let k: Kubectl;
  const context = () => `${hub.process.tail()}\n${agent?.process?.tail() ?? ''}`;
  const container = (name: string, ...args: string[]) => ({ name, image: 'coxswain.internal/box:1', args });
  const pod = (name: string, labels: object, ...containers: object[]) => ({
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: { name, labels },
    spec: { runtimeClassName: 'wasm', terminationGracePeriodSeconds: 0, containers },
  });
  const rows = (table: string) =>
    table
      .trim()
      .split('\n')
      .map((l) => l.trim().split(/\s+/));

  beforeAll(async () => {
    hub = await new TestHub().start();
    k = hub.kubectl();
    // Before there is any agent.
    expect((await k.try('top', 'nodes')).stderr).toMatch(/No resources found|metrics not available yet/);
    expect((await k.try('top', 'pods')).stderr).toMatch(/No resources found/);
    const push = new CoxProcess(['push', await buildModule('box'), 'box:1', '--data-dir', hub.dataDir]);
    expect((await push.exited).code, push.tail()).toBe(0);
    agent = await new TestAgent('pi1').start('--join', await hub.token());
    await nodeReady(k, 'pi1', context);
    await k.apply(
      pod('busy', { app: 'busy' }, container('main', 'spin'), container('side', 'sleep', '600000')),
    );
    await k.apply(pod('calm', { app: 'calm' }, container('main', 'sleep', '600000')));
    await k('wait', '--for=condition=Ready', 'pod', '--all', '--timeout=60s');
    await k('annotate', 'node', 'pi1', 'link.coxswain.dev/metrics-interval=0');
  });
  afterAll(async () => {
    await k?.try('delete', 'pods', '--all', '--wait=true', '--timeout=60s');
    await agent?.stop();
    await hub?.stop();
    remove(agent?.dataDir ?? '', hub?.dataDir ?? '');
  });

  it('shows what pods and their containers use, with old and new clients', async () => {
    for (const minor of ['1.32', '1.36'] as const) {
      const kubectl = hub.kubectl(minor);
      const table = await eventually(
        'both pods in kubectl top',
        async () => {
          const t = rows(await kubectl('top', 'pods', '--sort-by=cpu'));
          return t.length === 3 ? t : undefined;
        },
        { context },
      );
      expect(table[0]).toEqual(['NAME', 'CPU(cores)', 'MEMORY(bytes)']);
      expect(table.slice(1).map((r) => r[0])).toEqual(['busy', 'calm']);
      expect(Number.parseInt(table[1]![1]!, 10)).toBeGreaterThan(50);
      expect(table[1]![2]).toMatch(/^\d+Mi$/);
    }
    const containers = rows(await k('top', 'pods', '--containers', '-A', '--sort-by=cpu'));
    expect(containers[0]).toEqual(['NAMESPACE', 'POD', 'NAME', 'CPU(cores)', 'MEMORY(bytes)']);
    expect(
      containers
        .slice(1)
        .map((r) => `${r[1]}/${r[2]}`)
        .sort(),
    ).toEqual(['busy/main', 'busy/side', 'calm/main']);
    expect(rows(await k('top', 'pods', '-l', 'app=calm', '--no-headers')).map((r) => r[0])).toEqual(['calm']);
    expect(rows(await k('top', 'pod', 'busy', '--no-headers'))[0]![0]).toBe('busy');
    expect((await k.try('top', 'pod', 'nothing')).stderr).toContain('pods "nothing" not found');
  });

  it('shows what nodes use', async () => {
    const [head, row] = rows(await k('top', 'nodes'));
    expect(head![0]).toBe('NAME');
    expect(row![0]).toBe('pi1');
    expect(row!.slice(1).every((cell) => /^\d+(m|%|Mi)$/.test(cell))).toBe(true);
    const [columns] = rows(await k('get', 'pods.metrics.k8s.io'));
    expect(columns).toEqual(['NAME', 'CPU', 'MEMORY', 'WINDOW']);
    expect(await k('explain', 'podmetrics.containers')).toContain('What one container uses');
  });

  it('asks no node that is metered, and says so', async () => {
    await k('annotate', 'node', 'pi1', 'link.coxswain.dev/metered=true');
    const { code, stderr } = await k.try('top', 'node', 'pi1');
    expect(code).toBe(1);
    expect(stderr).toContain('node pi1 is metered');
    expect(stderr).toContain('nodemetrics.metrics.k8s.io "pi1" not found');
    await k('annotate', 'node', 'pi1', 'link.coxswain.dev/metered-');
    await k('top', 'node', 'pi1');
  });

  it('is read-only, and read by those who may view', async () => {
    expect((await k.try('delete', 'pods.metrics.k8s.io', 'busy')).stderr).toContain('MethodNotAllowed');
    await k('create', 'serviceaccount', 'viewer');
    const as = ['--as', 'system:serviceaccount:default:viewer'];
    expect((await k.try('top', 'pods', ...as)).stderr).toContain('pods.metrics.k8s.io is forbidden');
    await k('create', 'rolebinding', 'viewer', '--clusterrole=view', '--serviceaccount=default:viewer');
    await eventually('the viewer sees metrics', () => k('top', 'pods', ...as), {
      timeoutMs: 15_000,
      context,
    });
    expect((await k.try('top', 'nodes', ...as)).stderr).toContain('nodes.metrics.k8s.io is forbidden');
  });
});
