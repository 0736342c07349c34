import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import type { Pod } from 'kubernetes-types/core/v1.js';
import { afterEach, describe, expect, it } from 'vitest';
import { deepEqual } from '../../api/meta/json.js';
import type { PodLogOptions } from '../../api/wire/streams.js';
import { SCRIPT_ANNOTATION } from '../../shims/fake/fake.js';
import { ShimError } from '../../shims/shim.js';
import { override, pod, TestNode } from './testing/node.js';

let node: TestNode;
afterEach(() => node.dispose());

describe('the life of a pod', () => {
  it('runs, tells the story as a kubelet does, and reports no more when nothing changes', async () => {
    node = await new TestNode({}, { pullMs: 1200 }).start();
    const p = pod('web', [{}]);
    node.apply(p);
    await node.until('Running', () => node.phase(p) === 'Running');
    expect(node.events.map((e) => `${e.type} ${e.reason} ${e.message}`)).toEqual([
      'Normal Pulling Pulling image "example.test/app:1"',
      'Normal Pulled Successfully pulled image "example.test/app:1" in 1.2s (1.2s including waiting). Image size: 1000000 bytes.',
      'Normal Created Created container: c0',
      'Normal Started Started container c0',
    ]);
    expect(node.events[2]!.involved).toMatchObject({ kind: 'Pod', fieldPath: 'spec.containers{c0}' });
    const s = node.status(p);
    expect(s).toMatchObject({
      phase: 'Running',
      hostIP: '192.0.2.1',
      podIP: '10.99.0.1',
      qosClass: 'BestEffort',
    });
    expect(Object.fromEntries(s.conditions!.map((c) => [c.type, c.status]))).toEqual({
      PodReadyToStartContainers: 'True',
      Initialized: 'True',
      Ready: 'True',
      ContainersReady: 'True',
      PodScheduled: 'True',
    });
    expect(s.containerStatuses![0]).toMatchObject({
      ready: true,
      started: true,
      restartCount: 0,
      containerID: expect.stringMatching(/^fake:\/\//),
      imageID: expect.stringMatching(/^example\.test\/app@sha256:/),
    });
    const before = node.reports.length;
    await node.advance(600_000);
    expect(node.reports.length).toBe(before);
  });

  it('that is wanted again while it ends, as after a restore of the hub, starts over', async () => {
    node = await new TestNode({}, { pullMs: 200 }).start();
    const p = pod('web', [{ image: 'example.test/app', script: { onTerm: { afterMs: 5000 } } }]);
    node.apply(p);
    await node.until('Running', () => node.phase(p) === 'Running');
    node.pods = [];
    node.manager.setDesired(node.desired());
    await node.advance(1000);
    node.apply(p);
    await node.until('started over', () => node.container(p)?.restartCount === 1);
    await node.advance(1000);
    expect(node.container(p)!.state!.running).toBeDefined();
    expect(node.gone(p)).toBe(false);
  });

  it('ends as Succeeded or Failed by its restart policy, and stays so after a restart of the agent', async () => {
    node = await new TestNode().start();
    const good = pod('good', [{ script: { runMs: 500 } }], { restartPolicy: 'Never' });
    const bad = pod('bad', [{ script: { runMs: 500, exitCode: 3 } }], { restartPolicy: 'Never' });
    node.apply(good, bad);
    await node.until('both ended', () => node.phase(good) === 'Succeeded' && node.phase(bad) === 'Failed');
    expect(node.container(bad)!.state!.terminated).toMatchObject({ exitCode: 3, reason: 'Error' });
    node.shim.powerCut();
    await node.restart();
    await node.advance(60_000);
    expect([node.phase(good), node.phase(bad)]).toEqual(['Succeeded', 'Failed']);
    expect((await node.shim.list()).containers).toHaveLength(2);
    expect(node.told('Started')).toHaveLength(2);
  });

  it('ends when the API has given it up, and never runs when it had ended elsewhere', async () => {
    node = await new TestNode().start();
    const web = pod('web', [{}]);
    node.apply(web);
    await node.until('Running', () => node.phase(web) === 'Running');
    const done = { ...pod('done', [{}]), status: { phase: 'Succeeded' } };
    node.apply({ ...web, status: { phase: 'Failed' } }, done);
    await node.until('both ended', () => node.phase(web) === 'Failed' && node.phase(done) === 'Succeeded');
    await node.advance(60_000);
    const { containers } = await node.shim.list();
    expect(containers.map((c) => c.state)).toEqual(['exited']);
    expect(node.told('Started')).toHaveLength(1);
  });

  it('restarts what crashes with delays that double to five minutes, and forgets them after a long run', async () => {
    node = await new TestNode().start();
    const p = pod('crash', [{ script: { runMs: 1000, exitCode: 1 } }]);
    node.apply(p);
    const starts: number[] = [];
    for (let i = 0; i < 8; i++) {
      await node.until(`start ${i}`, () => node.told('Started').length > i);
      starts.push(node.clock.monotonic());
    }
    const gaps = starts.slice(1).map((t, i) => Math.round((t - starts[i]! - 1000) / 1000));
    expect(gaps).toEqual([0, 10, 20, 40, 80, 160, 300]);
    await node.until('waiting', () => node.container(p)?.state?.waiting?.reason === 'CrashLoopBackOff');
    expect(node.container(p)).toMatchObject({
      restartCount: 7,
      state: {
        waiting: {
          message: `back-off 5m0s restarting failed container=c0 pod=crash_default(${p.metadata!.uid})`,
        },
      },
      lastState: { terminated: { exitCode: 1 } },
    });
    expect(node.told('BackOff').at(-1)).toBe(
      `Back-off restarting failed container c0 in pod crash_default(${p.metadata!.uid})`,
    );
    // At most the newest and the one before it are kept.
    expect((await node.shim.list()).containers.length).toBeLessThanOrEqual(2);
  });

  it('runs init containers one after another and then the containers', async () => {
    node = await new TestNode().start();
    const p = pod('init', [{}], {
      init: [{ script: { runMs: 300 } }, { script: { runMs: 300 } }],
    });
    node.apply(p);
    await node.until('first', () => node.container(p, 'init0')?.state?.running !== undefined);
    expect(node.container(p, 'init1')!.state!.waiting!.reason).toBe('PodInitializing');
    expect(node.container(p)!.state!.waiting!.reason).toBe('PodInitializing');
    await node.until('Running', () => node.phase(p) === 'Running');
    const reasons = node.reports.flatMap((r) =>
      [...(r.status.initContainerStatuses ?? []), ...(r.status.containerStatuses ?? [])].flatMap(
        (s) => s.state?.waiting?.reason ?? [],
      ),
    );
    expect(new Set(reasons)).toEqual(new Set(['PodInitializing']));
    expect(node.told('Started')).toEqual([
      'Started container init0',
      'Started container init1',
      'Started container c0',
    ]);
  });

  it('keeps sidecars beside the containers and ends them last', async () => {
    node = await new TestNode().start();
    const p = pod('side', [{ script: { runMs: 1000 } }], {
      restartPolicy: 'Never',
      init: [{ restartPolicy: 'Always' } as object],
    });
    node.apply(p);
    await node.until('ended', () => node.phase(p) === 'Succeeded');
    expect(node.told('Killing')).toEqual(['Stopping container init0']);
  });

  it('says why an image cannot be pulled and tries again', async () => {
    node = await new TestNode().start();
    const p = pod('noimage', [{ image: 'example.test/missing:1' }]);
    node.apply(p);
    await node.until('ErrImagePull', () => node.container(p)?.state?.waiting?.reason === 'ErrImagePull');
    await node.until('backoff', () => node.container(p)?.state?.waiting?.reason === 'ImagePullBackOff');
    expect(node.phase(p)).toBe('Pending');
    expect(node.told('Failed')).toContain('Error: ErrImagePull');
    expect(node.told('BackOff')).toContain('Back-off pulling image "example.test/missing:1"');
    const pulls = node.told('Pulling').length;
    await node.advance(60_000);
    expect(node.told('Pulling').length).toBeGreaterThan(pulls);
  });

  it('waits for a missing ConfigMap, by name, and goes on when it is there', async () => {
    node = await new TestNode().start();
    const p = pod('cfg', [
      { env: [{ name: 'A', valueFrom: { configMapKeyRef: { name: 'settings', key: 'a' } } }] },
    ]);
    node.apply(p);
    await node.until(
      'error',
      () => node.container(p)?.state?.waiting?.reason === 'CreateContainerConfigError',
    );
    expect(node.container(p)!.state!.waiting!.message).toBe('configmap "settings" not found');
    expect(node.told('Failed')).toContain('Error: configmap "settings" not found');
    node.configMaps.push({ metadata: { name: 'settings', namespace: 'default' }, data: { a: '1' } });
    node.apply();
    await node.until('Running', () => node.phase(p) === 'Running', 1000);
  });

  it('says that no runtime here has the handler', async () => {
    node = await new TestNode().start();
    const p = pod('wt', [{}], { runtimeClassName: 'wasmtime' });
    node.apply(p);
    await node.until('told', () => node.told('FailedCreatePodSandBox').length > 0);
    expect(node.container(p)!.state!.waiting).toMatchObject({
      reason: 'RuntimeUnavailable',
      message: expect.stringContaining('"wasmtime"'),
    });
    node.remove(p);
    await node.until('gone', () => node.gone(p));
  });

  it('replaces a container whose image was changed, and no other', async () => {
    node = await new TestNode().start();
    const p = pod('patch', [{}, {}]);
    node.apply(p);
    await node.until('Running', () => node.phase(p) === 'Running');
    const other = node.container(p, 'c1')!.containerID;
    p.spec!.containers[0]!.image = 'example.test/app:2';
    node.apply();
    await node.until('replaced', () => node.container(p)?.restartCount === 1 && node.phase(p) === 'Running');
    expect(node.told('Killing')).toEqual(['Container c0 definition changed, will be restarted']);
    expect(node.container(p, 'c1')!.containerID).toBe(other);
    expect(node.container(p, 'c1')!.restartCount).toBe(0);
  });

  it('fails at its deadline', async () => {
    node = await new TestNode().start();
    const p = pod('late', [{}], { activeDeadlineSeconds: 60, terminationGracePeriodSeconds: 1 });
    node.apply(p);
    await node.until('Running', () => node.phase(p) === 'Running');
    node.clock.jumpWall(86_400_000);
    await node.advance(50_000);
    expect(node.phase(p)).toBe('Running');
    await node.until('Failed', () => node.phase(p) === 'Failed');
    expect(node.status(p)).toMatchObject({ reason: 'DeadlineExceeded' });
  });
});

describe('the end of a pod', () => {
  it('is graceful, leaves nothing, and is reported once all is cleaned', async () => {
    node = await new TestNode().start();
    const p = pod('bye', [{ script: { onTerm: { afterMs: 5000, exitCode: 0 } } }], {
      volumes: [{ name: 'v', emptyDir: {} }],
    });
    node.apply(p);
    await node.until('Running', () => node.phase(p) === 'Running');
    node.remove(p);
    await node.advance(4000);
    expect(node.gone(p)).toBe(false);
    await node.until('gone', () => node.gone(p), 5000);
    expect(node.told('Killing')).toEqual(['Stopping container c0']);
    expect(node.reports.at(-1)).toMatchObject({
      gone: true,
      status: { phase: 'Succeeded', containerStatuses: [{ state: { terminated: { exitCode: 0 } } }] },
    });
    const { sandboxes, containers } = await node.shim.list();
    expect([...sandboxes, ...containers]).toEqual([]);
    await node.settle();
    expect(readdirSync(join(node.dir, 'data/pods'))).toEqual([]);
    expect(readdirSync(join(node.dir, 'data/logs'))).toEqual([]);
  });

  it('is told again until the hub knows it, and then forgotten', async () => {
    node = await new TestNode().start();
    const p = pod('again', [{}]);
    node.apply(p);
    await node.until('Running', () => node.phase(p) === 'Running');
    node.remove(p);
    await node.until('gone', () => node.gone(p));
    await node.settle();
    node.reports.length = 0;
    node.apply();
    await node.advance(60_000);
    expect(node.reports).toEqual([]);
    node.manager.reportAll();
    expect(node.reports).toMatchObject([{ uid: p.metadata!.uid, gone: true }]);
    node.pods = [];
    node.apply();
    node.reports.length = 0;
    node.manager.reportAll();
    await node.settle();
    expect(node.reports).toEqual([]);
    expect(node.told('Started')).toHaveLength(1);
  });

  it('comes at once when the grace is shortened meanwhile', async () => {
    node = await new TestNode().start();
    const p = pod('stubborn', [{ script: { onTerm: 'ignore' } }]);
    node.apply(p);
    await node.until('Running', () => node.phase(p) === 'Running');
    node.remove(p, 3600);
    await node.advance(10_000);
    expect(node.gone(p)).toBe(false);
    node.remove(p, 0);
    await node.until('gone', () => node.gone(p), 2000);
  });

  it('calls a pull off', async () => {
    node = await new TestNode({}, { pullMs: 600_000 }).start();
    const p = pod('pulls', [{}]);
    node.apply(p);
    await node.until('pulling', () => node.told('Pulling').length === 1);
    node.remove(p);
    await node.until('gone', () => node.gone(p), 700_000);
    expect(node.told('Started')).toEqual([]);
  });

  it('comes with its own grace for a pod that is desired no more', async () => {
    node = await new TestNode().start();
    const p = pod('absent', [{ script: { onTerm: 'ignore' } }], { terminationGracePeriodSeconds: 7 });
    node.apply(p);
    await node.until('Running', () => node.phase(p) === 'Running');
    await node.stop();
    node.pods = [];
    await node.start();
    const from = node.clock.monotonic();
    await node.until('gone', () => node.gone(p), 20_000);
    expect(node.clock.monotonic() - from).toBeGreaterThanOrEqual(6900);
    expect((await node.shim.list()).sandboxes).toEqual([]);
    await node.settle();
    expect(existsSync(join(node.dir, 'data/pods', p.metadata!.uid!))).toBe(false);
  });
});

describe('adoption', () => {
  it('a new agent touches nothing that runs as it should', async () => {
    node = await new TestNode().start();
    const p = pod('steady', [{}], { volumes: [{ name: 'v', emptyDir: {} }] });
    node.apply(p);
    await node.until('Running', () => node.phase(p) === 'Running');
    const before = node.container(p);
    const events = node.events.length;
    await node.restart();
    await node.advance(120_000);
    expect(node.container(p)).toEqual(before);
    expect(node.events.length).toBe(events);
  });

  it('ends what is not desired only when the hub has said so, not for want of a line in its memory', async () => {
    node = await new TestNode().start();
    const p = pod('late', [{}]);
    node.apply(p);
    await node.until('Running', () => node.phase(p) === 'Running');
    const running = async () =>
      (await node.shim.list()).containers.filter((c) => c.state === 'running').length;
    // Killed before the set with this pod reached the disk.
    node.pods = [];
    node.confirmed = false;
    await node.restart();
    await node.advance(120_000);
    expect(await running()).toBe(1);
    node.confirmed = true;
    node.apply();
    await node.advance(120_000);
    expect(await running()).toBe(0);
  });

  it('exit codes of the time between are not lost', async () => {
    node = await new TestNode().start();
    const p = pod('between', [{ script: { runMs: 20_000, exitCode: 42 } }], { restartPolicy: 'Never' });
    node.apply(p);
    await node.until('Running', () => node.phase(p) === 'Running');
    await node.stop();
    await node.clock.advance(60_000);
    await node.start();
    await node.until('Failed', () => node.phase(p) === 'Failed');
    expect(node.container(p)!.state!.terminated!.exitCode).toBe(42);
  });

  it('makes everything anew after a power cut, counting restarts', async () => {
    node = await new TestNode().start();
    const p = pod('reboot', [{}], { init: [{ script: { exitCode: 0 } }] });
    node.apply(p);
    await node.until('Running', () => node.phase(p) === 'Running');
    node.shim.powerCut();
    await node.restart();
    await node.until(
      'Running again',
      () => node.container(p)?.state?.running !== undefined && node.container(p)!.restartCount === 1,
    );
    expect(node.told('SandboxChanged')).toHaveLength(1);
    expect(node.container(p)!.lastState!.terminated).toMatchObject({ exitCode: 255 });
    expect(node.told('Started').filter((m) => m.includes('init0'))).toHaveLength(2);
    await node.advance(120_000);
    expect((await node.shim.list()).sandboxes.filter((s) => s.state === 'ready')).toHaveLength(1);
  });
});

describe('logs', () => {
  const read = async (p: Pod, options: Partial<PodLogOptions> = {}) => {
    const out: Uint8Array[] = [];
    const { name, uid } = p.metadata!;
    for await (const b of node.manager.logs(
      { namespace: 'default', pod: name!, uid: uid!, container: 'c0', ...options },
      new AbortController().signal,
    ))
      out.push(b);
    return Buffer.concat(out).toString();
  };

  it('are those of the container, of the one before it, or say why there are none', async () => {
    node = await new TestNode({}, { pullMs: 1000 }).start();
    const p = pod('talks', [{ script: { log: ['one', 'two'], runMs: 5000, exitCode: 1 } }]);
    node.apply(p);
    await node.settle();
    await expect(read(p)).rejects.toMatchObject({
      reason: 'BadRequest',
      message: 'container "c0" in pod "talks" is waiting to start: ContainerCreating',
    });
    await node.until('Running', () => node.phase(p) === 'Running');
    expect(await read(p)).toBe('one\ntwo\n');
    expect(await read(p, { tailLines: 1 })).toBe('two\n');
    await expect(read(p, { previous: true })).rejects.toThrow(
      'previous terminated container "c0" in pod "talks" not found',
    );
    await expect(read(p, { container: 'zz' })).rejects.toThrow('container zz is not valid for pod talks');
    await expect(read(p, { uid: 'other' })).rejects.toMatchObject({ reason: 'NotFound' });
    await node.until('restarted', () => node.container(p)?.restartCount === 1);
    expect(await read(p, { previous: true })).toBe('one\ntwo\n');
  });

  it('follow to the end of the container', async () => {
    node = await new TestNode().start();
    const p = pod(
      'follows',
      [{ script: { steps: [{ log: 'a' }, { waitMs: 3000 }, { log: 'b' }, { exit: 0 }] } }],
      {
        restartPolicy: 'Never',
      },
    );
    node.apply(p);
    await node.until('Running', () => node.phase(p) === 'Running');
    const reading = read(p, { follow: true });
    await node.until('ended', () => node.phase(p) === 'Succeeded');
    await node.advance(2000);
    expect(await reading).toBe('a\nb\n');
  });

  it('are rotated by size, and so many files are kept', async () => {
    node = await new TestNode({ logMaxBytes: 1000, logMaxFiles: 2 }).start();
    const steps = Array.from({ length: 10 }, () => [{ lines: 40 }, { waitMs: 10_000 }]).flat();
    const p = pod('chatty', [{ script: { steps } }]);
    node.apply(p);
    await node.advance(95_000);
    const dir = join(node.dir, 'data/logs', `default_chatty_${p.metadata!.uid}`, 'c0');
    const files = readdirSync(dir);
    expect(files).toHaveLength(2);
    expect(files).toContain('0.log');
    expect((await read(p)).split('\n').filter((l) => l === 'line 39').length).toBeLessThanOrEqual(5);
  });
});

describe('limits and refusals', () => {
  it('evicts a pod whose emptyDir outgrew its limit', async () => {
    node = await new TestNode().start();
    const p = pod(
      'greedy',
      [
        {
          volumeMounts: [{ name: 'v', mountPath: '/v' }],
          script: { steps: [{ write: '/v/big', text: 'x'.repeat(100_000) }, { waitMs: 1e9 }] },
        },
      ],
      { volumes: [{ name: 'v', emptyDir: { sizeLimit: '10Ki' } }] },
    );
    node.apply(p);
    await node.until('Failed', () => node.phase(p) === 'Failed', 120_000);
    expect(node.status(p)).toMatchObject({
      reason: 'Evicted',
      message: 'Usage of EmptyDir volume "v" exceeds the limit "10Ki". ',
    });
    expect(node.told('Evicted')).toHaveLength(1);
    // Nobody sees it as failed before it is known why.
    const failed = node.reports.filter((r) => r.status?.phase === 'Failed');
    expect(failed.map((r) => r.status?.reason)).toEqual(failed.map(() => 'Evicted'));
    await node.restart();
    await node.advance(60_000);
    expect(node.phase(p)).toBe('Failed');
  });

  it('shows the last words of a container, written to its file', async () => {
    node = await new TestNode().start();
    const p = pod(
      'words',
      [{ script: { steps: [{ write: '/dev/termination-log', text: 'out of cheese' }, { exit: 1 }] } }],
      { restartPolicy: 'Never' },
    );
    node.apply(p);
    await node.until('Failed', () => node.phase(p) === 'Failed');
    expect(node.container(p)!.state!.terminated).toMatchObject({ message: 'out of cheese', exitCode: 1 });
  });

  it('tells of a volume that cannot be had, and mounts it when it can', async () => {
    node = await new TestNode().start();
    const p = pod('vol', [{ volumeMounts: [{ name: 'v', mountPath: '/v' }] }], {
      volumes: [{ name: 'v', configMap: { name: 'later' } }],
    });
    node.apply(p);
    await node.until('told', () => node.told('FailedMount').length > 0);
    expect(node.told('FailedMount')[0]).toBe(
      'MountVolume.SetUp failed for volume "v" : configmap "later" not found',
    );
    node.configMaps.push({ metadata: { name: 'later', namespace: 'default' }, data: { a: '1' } });
    node.apply();
    await node.until('Running', () => node.phase(p) === 'Running', 500);
  });

  it('leaves out a pod whose names lead elsewhere, and survives one that makes no sense', async () => {
    node = await new TestNode().start();
    const evil = pod('evil', [{ name: '../../x' }]);
    const odd = pod('odd', [{ resources: { limits: { memory: 'plenty' } } }]);
    const good = pod('good', [{}]);
    node.apply(evil, odd, good);
    await node.until('Running', () => node.phase(good) === 'Running');
    await node.advance(300_000);
    expect(node.phase(evil)).toBeUndefined();
    expect(node.told('FailedSync')[0]).toContain('quantities must match');
    node.remove(odd);
    await node.until('gone', () => node.gone(odd));
  });

  it('brings the files of a running pod up to date', async () => {
    node = await new TestNode().start();
    const p = pod('fresh', [{ volumeMounts: [{ name: 'v', mountPath: '/v' }] }], {
      volumes: [
        {
          name: 'v',
          projected: {
            sources: [
              { configMap: { name: 'cm' } },
              { downwardAPI: { items: [{ path: 'labels', fieldRef: { fieldPath: 'metadata.labels' } }] } },
            ],
          },
        },
      ],
    });
    node.configMaps.push({ metadata: { name: 'cm', namespace: 'default' }, data: { a: 'old' } });
    node.apply(p);
    await node.until('Running', () => node.phase(p) === 'Running');
    const read = (f: string) =>
      readFileSync(join(node.dir, 'data/pods', p.metadata!.uid!, 'volumes/projected/v', f), 'utf8');
    expect([read('a'), read('labels')]).toEqual(['old', '']);
    node.configMaps[0]!.data = { a: 'new' };
    p.metadata!.labels = { tier: 'one' };
    node.apply();
    await node.until('new files', () => read('a') === 'new' && read('labels') === 'tier="one"', 1000);
    expect(node.container(p)!.restartCount).toBe(0);
  });

  it('pulls with the secret that fits, and with the copy it has when no registry is in reach', async () => {
    let offline = false;
    node = new TestNode({}, { images: { 'r.test/private:1': { auth: { username: 'u', password: 'p' } } } });
    node.wrap = (s) =>
      override(s, {
        pullImage: (...args) =>
          offline
            ? Promise.reject(new ShimError('RegistryUnavailable', 'no route to host'))
            : s.pullImage(...args),
      });
    await node.start();
    const auths = { 'r.test': { username: 'u', password: 'p' } };
    node.secrets.push({
      metadata: { name: 'pull', namespace: 'default' },
      data: { '.dockerconfigjson': Buffer.from(JSON.stringify({ auths })).toString('base64') },
    });
    const p = pod('private', [{ image: 'r.test/private:1', imagePullPolicy: 'Always' }], {
      imagePullSecrets: [{ name: 'pull' }],
    });
    node.apply(p);
    await node.until('Running', () => node.phase(p) === 'Running');
    const byAccount = pod('account', [{ image: 'r.test/private:1', imagePullPolicy: 'Always' }], {
      serviceAccountName: 'puller',
    });
    node.serviceAccounts.push({
      metadata: { name: 'puller', namespace: 'default' },
      imagePullSecrets: [{ name: 'pull' }],
    });
    node.apply(byAccount);
    await node.until('Running', () => node.phase(byAccount) === 'Running');
    offline = true;
    node.shim.powerCut();
    await node.restart();
    await node.until('Running again', () => node.container(p)?.restartCount === 1);
    expect(node.told('Failed').at(-1)).toContain('using the copy present on machine');
  });
});

it('tells the generation that it speaks of, once for every change of the spec', async () => {
  node = await new TestNode().start();
  const p = pod('generations', [{}]);
  const at = (generation: number, spec = {}) => ({
    ...p,
    metadata: { ...p.metadata, generation },
    spec: { ...p.spec!, ...spec },
  });
  node.apply(at(1));
  await node.until('running', () => node.container(p)?.state?.running !== undefined);
  const observed = () => (node.status(p) as { observedGeneration?: number }).observedGeneration;
  expect(observed()).toBe(1);
  node.apply(at(2, { activeDeadlineSeconds: 5000 }));
  await node.until('seen', () => observed() === 2);
});

describe('resize', () => {
  const sized = (cpu: string, memory = '64Mi') => ({ requests: { cpu, memory }, limits: { cpu, memory } });
  const condition = (p: Pod, type: string) => node.status(p).conditions!.find((c) => c.type === type);
  const resized = (p: Pod, cpu: string): Pod => ({
    ...p,
    spec: { ...p.spec!, containers: p.spec!.containers.map((c) => ({ ...c, resources: sized(cpu) })) },
  });
  const has = (p: Pod) => (node.container(p) as { resources?: object })?.resources;
  const allocatable = () => ({ cpuMilli: 1000, memoryBytes: 2 ** 30, ephemeralStorageBytes: 0 });

  it('changes what runs in place, and an agent that comes anew knows what it has', async () => {
    node = await new TestNode({ allocatable }).start();
    const p = pod('sized', [{ resources: sized('100m') }]);
    node.apply(p);
    await node.until('running', () => node.container(p)?.state?.running !== undefined);
    expect(has(p)).toEqual(sized('100m'));
    const given: object[] = [];
    node.wrap = (s) =>
      override(s, {
        updateContainer: async (id: string, r) => {
          given.push(r);
          await s.updateContainer!(id, r);
        },
      });
    await node.restart();
    node.apply(resized(p, '200m'));
    await node.until('resized', () => deepEqual(has(p), sized('200m')));
    expect(given).toEqual([expect.objectContaining({ cpuLimitMilli: 200, memoryLimitBytes: 2 ** 26 })]);
    expect(node.container(p)).toMatchObject({ restartCount: 0, allocatedResources: sized('200m').requests });
    await node.restart();
    await node.advance(20_000);
    expect(given).toHaveLength(1);
    expect(condition(p, 'PodResizeInProgress')).toBeUndefined();
  });

  it('restarts where the policy says so', async () => {
    node = await new TestNode({ allocatable }).start();
    const resizePolicy = [{ resourceName: 'cpu', restartPolicy: 'RestartContainer' }];
    const p = pod('restarted', [{ resources: sized('100m'), resizePolicy } as object], {
      restartPolicy: 'OnFailure',
    });
    node.apply(p);
    await node.until('running', () => node.container(p)?.state?.running !== undefined);
    node.apply(resized(p, '200m'));
    await node.until('restarted', () => node.container(p)?.restartCount === 1);
    expect(has(p)).toEqual(sized('200m'));
    expect(node.told('Killing')).toEqual(['Container c0 resize requires restart']);
  });

  it('waits for room, and says what can never be', async () => {
    node = await new TestNode({ allocatable }).start();
    const p = pod('waits', [{ resources: sized('100m') }]);
    const other = pod('other', [{ resources: sized('700m') }]);
    node.apply(p, other);
    await node.until('running', () => node.container(p)?.state?.running !== undefined);
    node.apply(resized(p, '400m'));
    await node.until('deferred', () => condition(p, 'PodResizePending') !== undefined);
    expect(condition(p, 'PodResizePending')).toMatchObject({
      reason: 'Deferred',
      message: "Node didn't have enough resource: cpu, requested: 400, used: 700, capacity: 1000",
    });
    expect(has(p)).toEqual(sized('100m'));
    node.apply(resized(p, '4'));
    await node.until('infeasible', () => condition(p, 'PodResizePending')?.reason === 'Infeasible');
    node.remove(other);
    node.apply(resized(p, '400m'));
    await node.until('resized', () => deepEqual(has(p), sized('400m')), 60_000);
    expect(condition(p, 'PodResizePending')).toBeUndefined();
  });
});

it('an ephemeral container is started once beside the others, and counts for nothing', async () => {
  node = await new TestNode().start();
  const p = pod('debugged', [{}]);
  p.metadata!.annotations![`${SCRIPT_ANNOTATION}debug`] = '{"runMs":5000,"exitCode":3}';
  node.apply(p);
  await node.until('running', () => node.container(p)?.state?.running !== undefined);
  const debug = { name: 'debug', image: 'example.test/debug:1', targetContainerName: 'c0' };
  node.apply({ ...p, spec: { ...p.spec!, ephemeralContainers: [debug] } } as Pod);
  const state = () => node.status(p).ephemeralContainerStatuses?.[0]?.state;
  await node.until('debugging', () => state()?.running !== undefined);
  await node.until('over', () => state()?.terminated?.exitCode === 3);
  await node.advance(60_000);
  expect(node.status(p).ephemeralContainerStatuses).toMatchObject([{ restartCount: 0, ready: false }]);
  expect(node.status(p).phase).toBe('Running');
  expect(node.status(p).conditions!.find((c) => c.type === 'Ready')!.status).toBe('True');
});

describe('probes', () => {
  it('readiness makes a pod ready and unready, liveness restarts, startup comes first', async () => {
    node = await new TestNode().start();
    const p = pod('probed', [
      {
        readinessProbe: { exec: { command: ['ready'] }, periodSeconds: 1, failureThreshold: 1 },
        livenessProbe: { exec: { command: ['live'] }, periodSeconds: 5, failureThreshold: 2 },
        startupProbe: { exec: { command: ['up'] }, periodSeconds: 1, failureThreshold: 30 },
        script: { exec: {} },
      },
    ]);
    const answers: Record<string, number> = { ready: 1, live: 0, up: 1 };
    node.wrap = (s) =>
      override(s, {
        execSync: async (_: string, command: string[]) => ({
          exitCode: answers[command[0]!]!,
          stdout: Buffer.from(`${command[0]} says no`),
          stderr: new Uint8Array(),
        }),
      });
    await node.restart();
    node.apply(p);
    await node.until('running', () => node.container(p)?.state?.running !== undefined);
    await node.advance(3000);
    expect(node.container(p)).toMatchObject({ started: false, ready: false });
    expect(node.told('Unhealthy').every((m) => m === 'Startup probe failed: up says no')).toBe(true);
    answers['up'] = 0;
    await node.until('started', () => node.container(p)?.started === true, 3000);
    expect(node.container(p)!.ready).toBe(false);
    answers['ready'] = 0;
    await node.until('ready', () => node.container(p)?.ready === true, 3000);
    expect(node.status(p).conditions!.find((c) => c.type === 'Ready')!.status).toBe('True');
    answers['ready'] = 1;
    await node.until('not ready', () => node.container(p)?.ready === false, 3000);
    answers['live'] = 1;
    await node.until('restarted', () => node.container(p)?.restartCount === 1, 30_000);
    expect(node.told('Killing')).toEqual(['Container c0 failed liveness probe, will be restarted']);
    expect(node.told('Unhealthy')).toContain('Liveness probe failed: live says no');
  });

  it('a probe may give less time to end than the pod, and a command that takes too long has failed', async () => {
    const p = pod('graced', [
      {
        livenessProbe: {
          exec: { command: ['live'] },
          periodSeconds: 1,
          failureThreshold: 2,
          terminationGracePeriodSeconds: 5,
        },
      },
    ]);
    const graces: number[] = [];
    node = new TestNode();
    node.wrap = (s) =>
      override(s, {
        execSync: async () => {
          throw new ShimError('ExecTimeout', 'command timed out: "live" timed out after 1s');
        },
        stopContainer: (id: string, grace: number) => {
          graces.push(grace);
          return s.stopContainer(id, grace);
        },
      });
    await node.start();
    node.apply(p);
    await node.until('restarted', () => node.container(p)?.restartCount === 1, 60_000);
    expect(node.told('Unhealthy')[0]).toBe(
      'Liveness probe failed: command timed out: "live" timed out after 1s',
    );
    expect(graces).toEqual([5]);
  });

  it('ask over HTTP and TCP', async () => {
    let code = 200;
    const server = createServer((_, res) => res.writeHead(code).end('x')).listen(0, '127.0.0.1');
    await new Promise((resolve) => server.once('listening', resolve));
    const { port } = server.address() as AddressInfo;
    node = await new TestNode().start();
    const probe = (handler: object) => ({
      ...handler,
      periodSeconds: 1,
      failureThreshold: 1,
      timeoutSeconds: 20,
    });
    const p = pod('http', [
      { readinessProbe: probe({ httpGet: { host: '127.0.0.1', port, path: '/healthz' } }) },
      { readinessProbe: probe({ tcpSocket: { host: '127.0.0.1', port } }) },
      { readinessProbe: probe({ tcpSocket: { host: '127.0.0.1', port: 1 } }) },
    ]);
    node.apply(p);
    const ready = () => ['c0', 'c1', 'c2'].map((c) => node.container(p, c)?.ready);
    const wait = async (wanted: boolean[]) => {
      for (let i = 0; i < 500 && ready().join() !== wanted.join(); i++) {
        await node.advance(200);
        await new Promise((resolve) => setTimeout(resolve, 5));
      }
      expect(ready()).toEqual(wanted);
    };
    await wait([true, true, false]);
    code = 500;
    await wait([false, true, false]);
    expect(node.told('Unhealthy')).toContain(
      'Readiness probe failed: HTTP probe failed with statuscode: 500',
    );
    server.close();
  });
});

it('images that nothing uses go when the disk is full, the longest unused first, and no more than needed', async () => {
  let used = 50;
  node = new TestNode({ diskUsedPercent: async () => used });
  node.wrap = (s) =>
    override(s, {
      removeImage: (ref: string) => {
        used -= 8;
        return s.removeImage(ref);
      },
    });
  await node.start();
  const p = pod('uses', [{ image: 'r.test/used:1' }]);
  node.apply(p);
  await node.until('Running', () => node.phase(p) === 'Running');
  await node.shim.pullImage('r.test/first:1');
  await node.advance(310_000);
  await node.shim.pullImage('r.test/second:1');
  await node.shim.pullImage('r.test/third:1');
  await node.advance(610_000);
  const left = async () => (await node.shim.listImages()).map((i) => i.repoDigests[0]!.split('@')[0]);
  expect(await left()).toHaveLength(4);
  used = 90;
  await node.advance(310_000);
  expect(await left()).toEqual(expect.arrayContaining(['r.test/used']));
  expect(await left()).not.toContain('r.test/first');
  expect(await left()).toHaveLength(2);
});

describe('a node that is low', () => {
  const memory = [{ signal: 'memory.available', limit: 100 * 2 ** 20, available: 50 * 2 ** 20 }];
  const disk = [{ signal: 'nodefs.available', limit: 2 ** 30, available: 2 ** 20 }];
  const uses = (mi: number, request?: number) => ({
    script: { memoryBytes: mi * 2 ** 20, steps: [{ waitMs: 1e9 }] },
    ...(request ? { resources: { requests: { memory: `${request}Mi` } } } : {}),
  });

  it('on memory evicts one pod at a look, the most guilty first, and says so', async () => {
    node = await new TestNode().start();
    const modest = pod('modest', [uses(200, 300)]);
    const small = pod('small', [uses(10)]);
    const large = pod('large', [uses(50, 20)]);
    const vital = pod('vital', [uses(500)], { priority: 2_000_000_000 });
    const all = [modest, small, large, vital];
    node.apply(...all);
    await node.until('Running', () => all.every((p) => node!.phase(p) === 'Running'));
    const failed = () => all.filter((p) => node!.phase(p) === 'Failed');

    await Promise.all([node.manager.relieve(memory), node.manager.relieve(memory)]);
    await node.until('the first is gone', () => failed().length > 0);
    expect(failed()).toEqual([large]);
    expect(node.status(large)).toMatchObject({
      reason: 'Evicted',
      message:
        'The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Mi. Container c0 was using 50Mi, request is 20Mi, has larger consumption of memory. ',
    });
    expect(node.told('Evicted')).toEqual([node.status(large).message]);

    await node.manager.relieve(memory);
    await node.until('the second is gone', () => failed().length > 1);
    expect(failed()).toEqual([small, large]);
    await node.manager.relieve(memory);
    await node.until('the third is gone', () => failed().length > 2);
    expect(failed()).toEqual([modest, small, large]);
    for (let i = 0; i < 3; i++) {
      await node.manager.relieve(memory);
      await node.advance(10_000);
    }
    expect(node.phase(vital)).toBe('Running');
  });

  it('on memory harms nobody while a runtime cannot tell who uses what', async () => {
    node = new TestNode();
    node.wrap = (s) => override(s, { stats: () => Promise.reject(new Error('no stats')) });
    await node.start();
    const p = pod('p', [uses(500)]);
    node.apply(p);
    await node.until('Running', () => node!.phase(p) === 'Running');
    await node.manager.relieve(memory);
    await node.advance(10_000);
    expect(node.phase(p)).toBe('Running');
  });

  it('on disk lets unused images go first, then the pod that holds most', async () => {
    node = await new TestNode().start();
    const writes = (name: string, length: number) =>
      pod(
        name,
        [
          {
            volumeMounts: [{ name: 'v', mountPath: '/v' }],
            script: { steps: [{ write: '/v/file', text: 'x'.repeat(length) }, { waitMs: 1e9 }] },
          },
        ],
        { volumes: [{ name: 'v', emptyDir: {} }] },
      );
    const small = writes('small', 1000);
    const large = writes('large', 300_000);
    node.apply(small, large);
    await node.until('Running', () => [small, large].every((p) => node!.phase(p) === 'Running'));
    await node.shim.pullImage('r.test/unused:1');
    await node.manager.relieve(disk);
    await node.advance(10_000);
    const images = (await node.shim.listImages()).map((i) => i.repoDigests[0]!.split('@')[0]);
    expect(images).toEqual(['example.test/app']);
    expect([small, large].map((p) => node!.phase(p))).toEqual(['Running', 'Running']);

    await node.manager.relieve(disk);
    await node.until('the large one is gone', () => node!.phase(large) === 'Failed');
    expect(node.status(large).message).toMatch(
      /^The node was low on resource: ephemeral-storage\. Threshold quantity: 1Gi, available: 1Mi\. /,
    );
    expect(node.phase(small)).toBe('Running');
    expect(existsSync(join(node.dir, 'data/pods', large.metadata!.uid!, 'volumes'))).toBe(false);
  });

  it('on process ids or inodes evicts nobody', async () => {
    node = await new TestNode().start();
    const p = pod('p', [uses(500)]);
    node.apply(p);
    await node.until('Running', () => node!.phase(p) === 'Running');
    for (const signal of ['pid.available', 'nodefs.inodesFree'])
      await node.manager.relieve([{ signal, limit: 10, available: 1 }]);
    await node.advance(10_000);
    expect(node.phase(p)).toBe('Running');
  });
});

describe('hooks', () => {
  it('postStart runs after the start, preStop before the stop, and a failed postStart costs the container its life', async () => {
    const ran: string[] = [];
    node = new TestNode();
    node.wrap = (s) =>
      override(s, {
        execSync: async (_: string, command: string[]) => {
          ran.push(command[0]!);
          return {
            exitCode: command[0] === 'bad' ? 1 : 0,
            stdout: new Uint8Array(),
            stderr: Buffer.from('no'),
          };
        },
      });
    await node.start();
    const good = pod('good', [
      {
        lifecycle: { postStart: { exec: { command: ['hello'] } }, preStop: { exec: { command: ['bye'] } } },
      },
    ]);
    const bad = pod('bad', [{ lifecycle: { postStart: { exec: { command: ['bad'] } } } }], {
      restartPolicy: 'Never',
    });
    node.apply(good, bad);
    await node.until('both', () => node.phase(good) === 'Running' && node.phase(bad) === 'Failed');
    expect(node.told('FailedPostStartHook')).toEqual([
      "PostStartHook failed: command 'bad' exited with 1: no",
    ]);
    node.remove(good);
    await node.until('gone', () => node.gone(good));
    expect(ran.sort()).toEqual(['bad', 'bye', 'hello']);
  });
});
