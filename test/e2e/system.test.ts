/**
 * The whole system as its users run it: real processes of `cox`, real kubectl, Wasm pods in their jails; once with the
 * embedded broker and once with Debian's mosquitto.
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { buildModule } from '../modules/build.js';
import { BOX, kill, processesOf } from './support/device.js';
import { startMosquitto } from './support/mosquitto.js';
import { missing } from './support/needs.js';
import {
  CoxProcess,
  eventually,
  type Kubectl,
  nodeReady,
  remove,
  scratch,
  TestAgent,
  TestHub,
} from './support/system.js';

/** A pod of one Wasm container that runs the tool box with `args`. */
const boxPod = (name: string, args: string[], spec: object = {}, container: object = {}) => ({
  apiVersion: 'v1',
  kind: 'Pod',
  metadata: { name, labels: { suite: 'system' } },
  spec: {
    runtimeClassName: 'wasm',
    restartPolicy: 'Never',
    terminationGracePeriodSeconds: 1,
    ...spec,
    containers: [{ name: 'main', image: BOX, args, ...container }],
  },
});

const BROKERS = [
  { broker: 'embedded', skip: () => missing('root', 'kubectl-1.36') },
  { broker: 'mosquitto', skip: () => missing('root', 'kubectl-1.36', 'mosquitto') },
] as const;

describe.each(BROKERS.map((b) => ({ broker: b.broker, skip: b.skip() })))(
  'hub and agent over the $broker broker',
  ({ broker, skip }) => {
    if (skip) return void it.skip('parts are missing', () => {});
    let hub: TestHub;
    let agent: TestAgent;
    let k: Kubectl;
    let stopBroker = async () => {};
    const context = () => `${hub.process.tail()}\n${agent?.process?.tail() ?? ''}`;
    const pod = (name: string) => k.json('get', 'pod', name);
    const phase = (name: string, wanted: string) =>
      eventually(`pod ${name} ${wanted}`, async () => (await pod(name)).status.phase === wanted, { context });
    const logs = (...args: string[]) => k('logs', ...args);

    beforeAll(async () => {
      const dataDir = scratch('hub');
      const args: string[] = [];
      if (broker === 'mosquitto') {
        const mosquitto = await startMosquitto(dataDir);
        stopBroker = mosquitto.stop;
        args.push('--broker', mosquitto.url);
      }
      hub = await new TestHub(dataDir, args).start();
      k = hub.kubectl();
      const push = new CoxProcess(['push', await buildModule('box'), 'box:1', '--data-dir', hub.dataDir]);
      expect((await push.exited).code, push.tail()).toBe(0);
      agent = await new TestAgent('pi1').start('--join', await hub.token());
      await nodeReady(k, 'pi1', context);
    });

    afterAll(async () => {
      await k?.try('delete', 'pods', '--all', '--wait=true', '--timeout=60s');
      await agent?.stop();
      await hub?.stop();
      await stopBroker();
      if (agent) kill(processesOf(agent.dataDir));
      remove(agent?.dataDir ?? '', hub?.dataDir ?? '');
    });

    it('shows the node as kubectl users know nodes', async () => {
      const node = await k.json('get', 'node', 'pi1');
      expect(node.metadata.labels).toMatchObject({
        'kubernetes.io/hostname': 'pi1',
        'kubernetes.io/os': 'linux',
        'kubernetes.io/arch': process.arch === 'x64' ? 'amd64' : process.arch,
        'coxswain.dev/runtime.wasm': 'true',
      });
      const types = node.status.conditions.map((c: { type: string }) => c.type);
      expect(types).toEqual(
        expect.arrayContaining(['MemoryPressure', 'DiskPressure', 'PIDPressure', 'Ready']),
      );
      expect(Number(node.status.capacity.cpu)).toBeGreaterThan(0);
      expect(await k('get', 'nodes', '-o', 'wide')).toMatch(/pi1\s+Ready/);
      expect(await k('describe', 'node', 'pi1')).toContain('Allocatable:');
    });

    it('runs a pod to completion, keeps its log, and tells its story in events', async () => {
      await k.apply(boxPod('hello', ['echo', 'hello', 'from', 'wasm']));
      await phase('hello', 'Succeeded');
      expect(await logs('hello')).toBe('hello from wasm\n');
      const described = await eventually(
        'the events of pod hello',
        async () => {
          const text = await k('describe', 'pod', 'hello');
          return ['Scheduled', 'Pulled', 'Created', 'Started'].every((r) => text.includes(r)) && text;
        },
        { context },
      );
      expect(described).toContain('Successfully assigned default/hello to pi1');
      expect(await k('get', 'pod', 'hello')).toMatch(/hello\s+0\/1\s+Completed\s+0/);
    });

    it('reports exit codes and backs off from a crash loop', async () => {
      await k.apply(boxPod('crash', ['exit', '7'], { restartPolicy: 'Always' }));
      const status = await eventually(
        'a second crash',
        async () => {
          const s = (await pod('crash')).status.containerStatuses?.[0];
          return s?.state?.waiting?.reason === 'CrashLoopBackOff' && s;
        },
        { context },
      );
      expect(status.lastState.terminated).toMatchObject({ exitCode: 7, reason: 'Error' });
      expect(status.restartCount).toBeGreaterThan(0);
      await k('delete', 'pod', 'crash', '--wait=true', '--timeout=60s');
    });

    it('follows logs, with tail, since, timestamps and previous', async () => {
      await k.apply(boxPod('counter', ['count', '0', '50']));
      await phase('counter', 'Running');
      await eventually('ten lines', async () => (await logs('counter')).split('\n').length > 10, { context });
      expect((await logs('counter', '--tail=2')).trim().split('\n')).toHaveLength(2);
      expect(await logs('counter', '--timestamps', '--tail=1')).toMatch(/^\d{4}-\d\d-\d\dT\S+Z \d+\n$/);
      expect((await logs('counter', '--since=1h', '--limit-bytes=3')).length).toBeLessThanOrEqual(3);
      const followed = k.follow('logs', '-f', 'counter');
      await eventually('what kubectl follows', () => followed.stdout().split('\n').length > 10, { context });
      await k('delete', 'pod', 'counter', '--wait=true', '--timeout=60s');
      // The log ends with its pod, and kubectl with the log.
      expect(await followed.done).toBe(0);
      const lines = followed.stdout().trim().split('\n').map(Number);
      expect(lines).toEqual(lines.map((_, i) => i + 1));
      const none = await k.try('logs', 'hello', '--previous');
      expect(none.stderr).toContain('previous terminated container "main" in pod "hello" not found');
    });

    it('gives configuration through ConfigMap and Secret, and waits for what is missing', async () => {
      await k.apply(
        boxPod(
          'configured',
          ['env', ';', 'cat', '/config/mode', ';', 'cat', '/secret/key'],
          {
            volumes: [
              { name: 'config', configMap: { name: 'settings' } },
              { name: 'secret', secret: { secretName: 'keys' } },
            ],
          },
          {
            env: [
              { name: 'MODE', valueFrom: { configMapKeyRef: { name: 'settings', key: 'mode' } } },
              { name: 'NODE', valueFrom: { fieldRef: { fieldPath: 'spec.nodeName' } } },
            ],
            volumeMounts: [
              { name: 'config', mountPath: '/config', readOnly: true },
              { name: 'secret', mountPath: '/secret', readOnly: true },
            ],
          },
        ),
      );
      await eventually(
        'the missing ConfigMap named in an event',
        async () =>
          (await k('get', 'events', '--field-selector', 'involvedObject.name=configured')).includes(
            '"settings" not found',
          ),
        { context },
      );
      await k('create', 'configmap', 'settings', '--from-literal=mode=calm');
      await k('create', 'secret', 'generic', 'keys', '--from-literal=key=hush');
      await phase('configured', 'Succeeded');
      const text = await logs('configured');
      expect(text).toContain('MODE=calm');
      expect(text).toContain('NODE=pi1');
      expect(text).toContain('calmhush');
    });

    it('says why an image cannot be had', async () => {
      await k.apply(boxPod('no-image', ['echo'], {}, { image: 'coxswain.internal/no-such:1' }));
      const s = await eventually(
        'ErrImagePull',
        async () => {
          const w = (await pod('no-image')).status.containerStatuses?.[0]?.state?.waiting;
          return (w?.reason === 'ErrImagePull' || w?.reason === 'ImagePullBackOff') && w;
        },
        { context },
      );
      expect(s.message).toContain('no-such');
      await k('delete', 'pod', 'no-image', '--wait=true', '--timeout=60s');
    });

    it('leaves a pod Pending whose runtime no node has, and says so', async () => {
      await k.apply(boxPod('later', ['echo'], { runtimeClassName: 'wasmtime' }));
      const text = await eventually(
        'FailedScheduling',
        async () => {
          const t = await k('get', 'events', '--field-selector', 'involvedObject.name=later');
          return t.includes('FailedScheduling') && t;
        },
        { context },
      );
      expect(text).toContain('wasmtime');
      expect((await pod('later')).status.phase).toBe('Pending');
      await k('delete', 'pod', 'later', '--wait=true', '--timeout=60s');
    });

    it('runs a Deployment, scales it and rolls it over', async () => {
      const deployment = (word: string) => ({
        apiVersion: 'apps/v1',
        kind: 'Deployment',
        metadata: { name: 'words' },
        spec: {
          replicas: 2,
          selector: { matchLabels: { app: 'words' } },
          template: {
            metadata: { labels: { app: 'words' } },
            spec: {
              runtimeClassName: 'wasm',
              terminationGracePeriodSeconds: 1,
              containers: [{ name: 'main', image: BOX, args: ['echo', word, ';', 'sleep', '10000000'] }],
            },
          },
        },
      });
      await k.apply(deployment('first'));
      await k('rollout', 'status', 'deployment/words', '--timeout=90s');
      await k('scale', 'deployment/words', '--replicas=3');
      await k('rollout', 'status', 'deployment/words', '--timeout=90s');
      await k.apply(deployment('second'));
      await k('rollout', 'status', 'deployment/words', '--timeout=90s');
      await eventually(
        'only new pods',
        async () => {
          const pods = (await k.json('get', 'pods', '-l', 'app=words')).items;
          return pods.length === 2 && pods.every((p: any) => p.spec.containers[0].args[1] === 'second');
        },
        { context },
      );
      await k('delete', 'deployment', 'words', '--wait=true', '--timeout=60s');
      await eventually(
        'its pods gone',
        async () => (await k.json('get', 'pods', '-l', 'app=words')).items.length === 0,
        {
          context,
        },
      );
    });

    it('keeps workloads running while the agent is dead, and loses neither log lines nor exit codes', async () => {
      await k.apply(boxPod('steady', ['count', '0', '50']));
      await k.apply(
        boxPod('short', ['echo', 'begin', ';', 'sleep', '3000', ';', 'echo', 'end', ';', 'exit', '5']),
      );
      await phase('steady', 'Running');
      await phase('short', 'Running');
      const before = await pod('steady');
      await agent.stop('SIGKILL');
      const pids = processesOf(agent.dataDir);
      expect(pids.length).toBeGreaterThan(0);
      // Long enough for `short` to end with nobody watching.
      await new Promise((r) => setTimeout(r, 4000));
      await agent.start();
      await phase('short', 'Failed');
      const ended = await pod('short');
      expect(
        ended.status.containerStatuses?.[0]?.state?.terminated?.exitCode,
        JSON.stringify(ended.status),
      ).toBe(5);
      expect(await logs('short')).toBe('begin\nend\n');
      const after = await pod('steady');
      expect(after.status.containerStatuses[0].containerID).toBe(
        before.status.containerStatuses[0].containerID,
      );
      expect(after.status.containerStatuses[0].restartCount).toBe(0);
      const lines = (await logs('steady')).trim().split('\n').map(Number);
      expect(lines).toEqual(lines.map((_, i) => i + 1));
      expect(lines.length).toBeGreaterThan(60);
    });

    it('outlives kill -9 of the hub: nothing acknowledged is lost, no pod is restarted', async () => {
      const before = await pod('steady');
      await k('create', 'configmap', 'acknowledged', '--from-literal=a=b');
      await hub.stop('SIGKILL');
      await hub.start();
      expect((await k.json('get', 'configmap', 'acknowledged')).data).toEqual({ a: 'b' });
      await nodeReady(k, 'pi1', context);
      await k.apply(boxPod('afterwards', ['echo', 'still', 'here']));
      await phase('afterwards', 'Succeeded');
      const after = await pod('steady');
      expect(after.metadata.uid).toBe(before.metadata.uid);
      expect(after.status.containerStatuses[0]).toEqual(before.status.containerStatuses[0]);
    });

    it('comes back after a power cut with no hub in reach', async () => {
      await k.apply(boxPod('resident', ['count', '0', '100'], { restartPolicy: 'Always' }));
      await phase('resident', 'Running');
      const before = await pod('resident');
      await hub.stop();
      await agent.stop('SIGKILL');
      kill(processesOf(agent.dataDir));
      await eventually('the device is dark', () => processesOf(agent.dataDir).length === 0);
      await agent.start();
      await eventually(
        'its workloads run again',
        () => processesOf(agent.dataDir).some((pid) => pid !== agent.process.pid),
        { context },
      );
      await hub.start();
      await nodeReady(k, 'pi1', context);
      const after = await eventually(
        'the restart reported',
        async () => {
          const p = await pod('resident');
          return p.status.containerStatuses[0].restartCount > 0 && p.status.phase === 'Running' && p;
        },
        { context },
      );
      expect(after.metadata.uid).toBe(before.metadata.uid);
      await k('delete', 'pod', 'resident', '--wait=true', '--timeout=60s');
    });

    it('deletes with grace, and at once when forced', async () => {
      await k.apply(boxPod('goner', ['sleep', '10000000']));
      await phase('goner', 'Running');
      await k('delete', 'pod', 'goner', '--wait=true', '--timeout=60s');
      expect((await k.try('get', 'pod', 'goner')).stderr).toContain('pods "goner" not found');
      await k.apply(boxPod('forced', ['sleep', '10000000']));
      await phase('forced', 'Running');
      await k('delete', 'pod', 'forced', '--grace-period=0', '--force');
      await eventually(
        'no process of it is left',
        () => processesOf(agent.dataDir).filter((pid) => pid !== agent.process.pid).length === 0,
        { context },
      );
    });

    it('refuses bad tokens, each by its name', async () => {
      const used = await hub.token();
      const second = await new TestAgent('pi2').start('--join', used);
      await nodeReady(k, 'pi2', () => `${context()}\n${second.process.tail()}`);
      const refused = async (token: string) => {
        const a = await new TestAgent('pi3').start('--join', token);
        const { code } = await a.process.exited;
        remove(a.dataDir);
        expect(code).not.toBe(0);
        return a.process.log;
      };
      expect(await refused(used)).toMatch(/used/);
      const short = await hub.token('--ttl', '1s');
      await new Promise((r) => setTimeout(r, 1500));
      expect(await refused(short)).toMatch(/expired/);
      expect(await refused(`${short.slice(0, -4)}AAAA`)).toMatch(/token/);
      await second.stop();
      remove(second.dataDir);
      await eventually(
        'pi2 not ready once its agent is gone',
        async () => /pi2\s+NotReady/.test(await k('get', 'nodes')),
        { context },
      );
    });
  },
);
