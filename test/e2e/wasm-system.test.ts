/** A preview 2 component from `cox push` to its log: the hub prepares it, the agent fetches that and jails it. */
import { type AddressInfo, createServer } from 'node:net';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { buildComponent, buildModule } from '../modules/build.js';
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

describe.skipIf(missing('root', 'kubectl-1.36'))('components in the whole system', () => {
  let hub: TestHub;
  let agent: TestAgent;
  let k: Kubectl;
  const context = () => `${hub.process.tail()}\n${agent?.process?.tail() ?? ''}`;
  const pod = (name: string, image: string, args: string[]) => ({
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: { name },
    spec: {
      runtimeClassName: 'wasm',
      restartPolicy: 'Never',
      containers: [{ name: 'main', image: `coxswain.internal/${image}`, args }],
    },
  });

  beforeAll(async () => {
    hub = await new TestHub().start();
    k = hub.kubectl();
    const files = {
      component: await buildComponent('box'),
      net: await buildComponent('net'),
      'missing-import': await buildModule('missing-import'),
    };
    for (const [name, file] of Object.entries(files)) {
      const push = new CoxProcess(['push', file, `${name}:1`, '--data-dir', hub.dataDir]);
      expect((await push.exited).code, push.tail()).toBe(0);
    }
    agent = await new TestAgent('pi1').start('--join', await hub.token());
    await nodeReady(k, 'pi1', context);
  });
  afterAll(async () => {
    await k?.try('delete', 'pods', '--all', '--wait=true', '--timeout=60s');
    await agent?.stop();
    await hub?.stop();
    remove(agent?.dataDir ?? '', hub?.dataDir ?? '');
  });

  it('runs a component that was pushed as it is', async () => {
    await k.apply(pod('component', 'component:1', ['echo', 'hello', 'from', 'a', 'component']));
    const phase = async () => (await k.json('get', 'pod', 'component')).status.phase === 'Succeeded';
    await eventually('pod component Succeeded', phase, { context });
    expect(await k('logs', 'component')).toBe('hello from a component\n');
  });

  it('gives the network to pods that are granted it, and to no others', async () => {
    const server = createServer((s) => s.on('error', () => {}).end('welcome'));
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    try {
      const args = ['tcp', '127.0.0.1', `${(server.address() as AddressInfo).port}`, 'hello'];
      const bare = pod('ungranted', 'net:1', args);
      const host = pod('on-the-host', 'net:1', args);
      Object.assign(host.spec, { hostNetwork: true });
      const annotated = pod('annotated', 'net:1', args);
      Object.assign(annotated.metadata, { annotations: { 'coxswain.dev/allow-network': 'true' } });
      for (const p of [bare, host, annotated]) await k.apply(p);
      for (const [name, log] of [
        // access-denied
        ['ungranted', 'tcp: error create 1\n'],
        ['on-the-host', 'got welcome\n'],
        ['annotated', 'got welcome\n'],
      ] as const) {
        const done = async () => (await k.json('get', 'pod', name)).status.phase === 'Succeeded';
        await eventually(`pod ${name} Succeeded`, done, { context });
        expect(await k('logs', name)).toBe(log);
      }
    } finally {
      server.close();
    }
  });

  it('says on the pod why a module cannot run', async () => {
    await k.apply(pod('broken', 'missing-import:1', []));
    const waiting = async () =>
      (await k.json('get', 'pod', 'broken')).status.containerStatuses?.[0]?.state?.waiting?.message;
    const message = await eventually('a reason', waiting, { context });
    expect(message).toMatch(/unknown import env\.foo/);
  });
});
