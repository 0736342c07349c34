import { resolve } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { clientPath, missing } from './support/needs.js';
import { type Program, startProgram } from './support/program.js';
import { eventually, type Kubectl, remove, scratch, TestHub } from './support/system.js';

const CHART = resolve(import.meta.dirname, '../clients/chart');

describe.skipIf(missing('helm', 'kubectl-1.36'))('Helm', () => {
  const home = scratch('helm');
  let hub: TestHub;
  let k: Kubectl;

  const start = (...args: string[]): Program =>
    startProgram(clientPath('helm'), ['--namespace', 'web', ...args], hub.kubeconfig, home);
  const helm = async (...args: string[]): Promise<string> => {
    const { code, stdout, stderr } = await start(...args).ended;
    if (code !== 0) throw new Error(`helm ${args.join(' ')} ended with ${code}\n${stdout}\n${stderr}`);
    return stdout;
  };
  const greeting = () => k('get', 'configmap', 'one', '-n', 'web', '-o', 'jsonpath={.data.greeting}');

  /** Does what a node would: says of the pods with a label that they are as wanted, until `work` is over. */
  const whilePods = async (selector: string, status: object, work: Program) => {
    let over = false;
    const ended = work.ended.finally(() => {
      over = true;
    });
    while (!over) {
      const { items } = await k.json('get', 'pods', '-n', 'web', ...selector.split(' '));
      for (const { metadata } of items)
        await k.try(
          'patch',
          'pod',
          metadata.name,
          '-n',
          'web',
          '--subresource=status',
          '-p',
          JSON.stringify({ status }),
        );
      await new Promise((r) => setTimeout(r, 100));
    }
    return ended;
  };
  const RUNNING = { phase: 'Running', conditions: [{ type: 'Ready', status: 'True' }] };

  beforeAll(async () => {
    hub = await new TestHub().start();
    k = hub.kubectl();
    await k('create', 'namespace', 'web');
  });
  afterAll(async () => {
    await hub?.stop();
    remove(home, hub?.dataDir);
  });

  it('installs a chart with a CRD, hooks and what the cluster can do', async () => {
    expect(await helm('install', 'one', CHART, '--set', 'greeting=hi')).toContain('STATUS: deployed');
    const { data } = await k.json('get', 'configmap', 'one', '-n', 'web');
    expect(data).toMatchObject({ greeting: 'hi', apps: 'true', before: 'none' });
    expect(data.version).toMatch(/^v1\.\d+\.\d+/);
    expect((await k.json('get', 'page', 'one', '-n', 'web')).spec).toEqual({ visits: 1 });
    expect(await k('get', 'configmap', 'one-hook', '-n', 'web', '-o', 'jsonpath={.data.revision}')).toBe('1');
    expect(JSON.parse(await helm('list', '-o', 'json'))).toMatchObject([
      { name: 'one', namespace: 'web', revision: '1', status: 'deployed', chart: 'site-0.1.0' },
    ]);
    expect(await helm('status', 'one', '--show-resources')).toMatch(/==> v1\/Deployment\nNAME +READY/);
  });

  it('does not install what is there, and says what is wrong with what is not right', async () => {
    const twice = await start('install', 'one', CHART).ended;
    expect(twice.code).toBe(1);
    expect(twice.stderr).toContain('cannot re-use a name that is still in use');
    const bad = await start('upgrade', 'one', CHART, '--set', 'replicas=many').ended;
    expect(bad.code).toBe(1);
    expect(bad.stderr).toMatch(/Deployment|replicas/);
    const taken = await start('install', 'two', CHART, '--set', 'greeting=x', '--dry-run=server').ended;
    expect(taken).toMatchObject({ code: 0 });
  });

  it('upgrades and waits until what it made is ready; sees what is there', async () => {
    const work = start('upgrade', 'one', CHART, '--set', 'greeting=bye', '--wait', '--timeout', '100s');
    expect(await whilePods('-l app=one', RUNNING, work)).toMatchObject({ code: 0 });
    expect(await greeting()).toBe('bye');
    const { data } = await k.json('get', 'configmap', 'one', '-n', 'web');
    // The upgrade that failed got as far as this.
    expect(data.before).toBe('hello');
    const deployment = await k.json('get', 'deployment', 'one', '-n', 'web');
    expect(deployment.status).toMatchObject({ readyReplicas: 1, updatedReplicas: 1 });
  });

  it('gives up waiting when its time is over', async () => {
    const late = await start('install', 'late', CHART, '--wait', '--timeout', '2s').ended;
    expect(late.code).toBe(1);
    expect(late.stderr).toMatch(/deadline exceeded|not ready/);
    expect(await helm('uninstall', 'late', '--wait')).toContain('uninstalled');
    await eventually('what was made is gone', async () => {
      const { items } = await k.json('get', 'deployments,pods,services,pages', '-n', 'web');
      return !items.some((o: { metadata: { name: string } }) => o.metadata.name.startsWith('late'));
    });
  });

  it('rolls back', async () => {
    expect(await helm('rollback', 'one', '1')).toContain('Rollback was a success');
    expect(await greeting()).toBe('hi');
    const history = JSON.parse(await helm('history', 'one', '-o', 'json'));
    expect(history.at(-1)).toMatchObject({ status: 'deployed', description: 'Rollback to 1' });
  });

  it("runs the chart's tests", async () => {
    const work = start('test', 'one', '--timeout', '100s');
    const done = { phase: 'Succeeded' };
    const result = await whilePods('--field-selector=metadata.name=one-test', done, work);
    expect(result).toMatchObject({ code: 0, stdout: expect.stringMatching(/Phase: +Succeeded/) });
  });

  it('uninstalls and leaves CRDs', async () => {
    expect(await helm('uninstall', 'one')).toContain('release "one" uninstalled');
    expect(JSON.parse(await helm('list', '-a', '-o', 'json'))).not.toContainEqual(
      expect.objectContaining({ name: 'one' }),
    );
    await eventually('its objects are gone', async () => {
      const { items } = await k.json('get', 'all,pages', '-n', 'web', '-l', 'app!=none');
      return !items.some((o: { metadata: { name: string } }) => /^one(-\w{6,}.*)?$/.test(o.metadata.name));
    });
    await k('get', 'crd', 'pages.site.example.com');
  });
});
