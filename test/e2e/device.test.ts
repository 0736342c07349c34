/** A device under pressure, cut off, and with damaged files: what its node says, and that its pods do not suffer. */
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { buildModule } from '../modules/build.js';
import { BOX, kill, processesOf } from './support/device.js';
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

/** Any machine is under pressure with these, and none is with those. */
const UNDER_PRESSURE = 'memory.available<1000Ti,nodefs.available<100%,pid.available<100%';
const AT_EASE = 'memory.available<1Mi,nodefs.available<1Mi,pid.available<1';
const PRESSURES = [
  ['MemoryPressure', 'memory-pressure', 'KubeletHasInsufficientMemory', 'KubeletHasSufficientMemory'],
  ['DiskPressure', 'disk-pressure', 'KubeletHasDiskPressure', 'KubeletHasNoDiskPressure'],
  ['PIDPressure', 'pid-pressure', 'KubeletHasInsufficientPID', 'KubeletHasSufficientPID'],
] as const;

describe.skipIf(missing('root', 'kubectl-1.36'))('a device', () => {
  let hub: TestHub;
  let agent: TestAgent;
  let k: Kubectl;
  const dirs: string[] = [];
  const fresh = () => {
    const dir = scratch('device');
    dirs.push(dir);
    return dir;
  };
  const context = () => `${hub.process.tail(20)}\n${agent?.process?.tail() ?? ''}`;
  const until = <T>(what: string, probe: () => T | Promise<T>) => eventually(what, probe, { context });
  const node = async () => k.json('get', 'node', 'pi1');
  const pod = (name: string, args: string[], spec: object = {}) => ({
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: { name },
    spec: {
      terminationGracePeriodSeconds: 1,
      ...spec,
      containers: [{ name: 'main', image: BOX, args }],
    },
  });
  const mainOf = async (name: string) => (await k.json('get', 'pod', name)).status.containerStatuses?.[0];
  const running = (name: string) =>
    until(`pod ${name} Running`, async () => {
      const p = await k.json('get', 'pod', name);
      if (p.status.phase === 'Running' && p.status.containerStatuses[0].state.running) return p;
      throw new Error(JSON.stringify(p.status));
    });
  /** Runs an agent that is expected to give up; answers what it said. */
  const failing = async (dataDir: string, ...args: string[]) => {
    const p = new CoxProcess(['agent', '--data-dir', dataDir, ...args], { COX_LOG: 'info' });
    const timer = setTimeout(() => p.child.kill('SIGKILL'), 60_000);
    const { code, signal } = await p.exited;
    clearTimeout(timer);
    expect(signal, p.tail()).toBeNull();
    expect(code, p.tail()).not.toBe(0);
    return p.log;
  };
  const workloads = () => processesOf(agent.dataDir).filter((pid) => pid !== agent.process.pid);

  beforeAll(async () => {
    hub = await new TestHub().start();
    k = hub.kubectl();
    const push = new CoxProcess(['push', await buildModule('box'), 'box:1', '--data-dir', hub.dataDir]);
    expect((await push.exited).code, push.tail()).toBe(0);
    agent = new TestAgent('pi1', ['--pressure-transition-period', '0']);
    await agent.start('--join', await hub.token());
    await nodeReady(k, 'pi1', context);
  });
  afterAll(async () => {
    await k?.try('delete', 'pods', '--all', '--grace-period=1', '--timeout=60s');
    await agent?.stop();
    await hub?.stop();
    if (agent) kill(processesOf(agent.dataDir));
    remove(...dirs, agent?.dataDir ?? '', hub?.dataDir ?? '');
  });

  it('tells of memory, disk and process pressure, is tainted, evicts, and recovers', async () => {
    await k.apply(pod('before', ['count', '0', '200']));
    await running('before');
    await agent.stop();
    await agent.start('--eviction-hard', UNDER_PRESSURE);
    const conditions = async (): Promise<Record<string, any>> => {
      const n = await node();
      return Object.fromEntries(n.status.conditions.map((c: any) => [c.type, c]));
    };
    const pressed = await until('every pressure', async () => {
      const c = await conditions();
      return PRESSURES.every(([type]) => c[type]?.status === 'True') ? c : undefined;
    });
    for (const [type, , reason] of PRESSURES) expect(pressed[type]!.reason).toBe(reason);
    const taints = async (): Promise<string[]> =>
      ((await node()).spec.taints ?? []).map((t: any) => `${t.key}:${t.effect}`);
    const wanted = PRESSURES.map(([, taint]) => `node.kubernetes.io/${taint}:NoSchedule`);
    await until('the taints', async () => {
      const has = await taints();
      return wanted.every((t) => has.includes(t));
    });
    await k.apply(pod('meanwhile', ['echo', 'at', 'last'], { restartPolicy: 'Never' }));
    const why = await until('why the pod waits', async () => {
      const text = await k('describe', 'pod', 'meanwhile');
      return /0\/1 nodes are available: .*untolerated taint.*/.exec(text)?.[0];
    });
    expect(why).toMatch(/node\.kubernetes\.io\/(memory|disk|pid)-pressure/);
    expect(await k('describe', 'node', 'pi1')).toMatch(/MemoryPressure\s+True/);
    const evicted = await until('the eviction', async () => {
      const { status } = await k.json('get', 'pod', 'before');
      return status.phase === 'Failed' && status;
    });
    expect(evicted.reason).toBe('Evicted');
    expect(evicted.message).toMatch(
      /^The node was low on resource: memory\. Threshold quantity: 1000Ti, available: \d+\w*\. Container main was using \d+\w*, request is 0, has larger consumption of memory\. $/,
    );
    expect(await k('describe', 'pod', 'before')).toMatch(/Warning\s+Evicted\s.*The node was low on resource/);
    await agent.stop();
    await agent.start('--eviction-hard', AT_EASE);
    await until('no pressure', async () => {
      const c = await conditions();
      return PRESSURES.every(([type, , , off]) => c[type]?.status === 'False' && c[type].reason === off);
    });
    await until('no taints', async () => (await taints()).length === 0);
    await until(
      'the pod that waited',
      async () => (await k.json('get', 'pod', 'meanwhile')).status.phase === 'Succeeded',
    );
    await k('delete', 'pod', 'before', 'meanwhile', '--timeout=60s');
  });

  it('is Unknown while its agent is dead; its pods are neither evicted nor restarted', async () => {
    await k.apply(pod('patient', ['count', '0', '200']));
    const before = await running('patient');
    const pids = workloads();
    await agent.stop('SIGKILL');
    const ready = await until('the node Unknown', async () => {
      const c = (await node()).status.conditions.find((x: any) => x.type === 'Ready');
      return c.status === 'Unknown' && c;
    });
    expect(ready).toMatchObject({
      reason: 'NodeStatusUnknown',
      message: 'Kubelet stopped posting node status.',
    });
    expect(await k('get', 'nodes')).toMatch(/pi1\s+NotReady/);
    expect((await k.json('get', 'pod', 'patient')).metadata.deletionTimestamp).toBeUndefined();
    await agent.start();
    await nodeReady(k, 'pi1', context);
    await k('wait', '--for=condition=Ready', 'pod/patient', '--timeout=60s');
    const after = await k.json('get', 'pod', 'patient');
    expect(after.metadata.uid).toBe(before.metadata.uid);
    expect(after.status.containerStatuses).toEqual(before.status.containerStatuses);
    expect(workloads()).toEqual(pids);
  });

  it('survives a torn desired set with no hub: what runs runs on, and the hub sends it again', async () => {
    const before = await mainOf('patient');
    await hub.stop();
    await agent.stop('SIGKILL');
    const file = join(agent.dataDir, 'desired.bin');
    truncateSync(file, 100);
    const pids = workloads();
    expect(pids.length).toBeGreaterThan(0);
    await agent.start();
    await agent.process.line('ready');
    expect(agent.process.log).toContain('desired set on disk is torn; set aside');
    expect(existsSync(`${file}.torn`)).toBe(true);
    // With nobody to tell it what is wanted it ends nothing.
    expect(workloads()).toEqual(pids);
    await hub.start();
    await nodeReady(k, 'pi1', context);
    await k('wait', '--for=condition=Ready', 'pod/patient', '--timeout=60s');
    expect(await mainOf('patient')).toEqual(before);
    expect(workloads()).toEqual(pids);
    await until('a good desired set on disk', () => existsSync(file));
  });

  it('sets a torn record of a pod aside', async () => {
    const before = await mainOf('patient');
    await agent.stop();
    const uid = (await k.json('get', 'pod', 'patient')).metadata.uid;
    const record = join(agent.dataDir, 'pods', uid, 'pod.json');
    truncateSync(record, 5);
    await agent.start();
    await until('the torn record set aside', () => existsSync(`${record}.corrupt`));
    await until('a new record', () => existsSync(record));
    await nodeReady(k, 'pi1', context);
    expect(await mainOf('patient')).toEqual(before);
    await k('delete', 'pod', 'patient', '--timeout=60s');
    await until('its directory to go', () => !existsSync(join(agent.dataDir, 'pods', uid)));
  });

  it('refuses a second agent on its data, by pid', async () => {
    const said = await failing(agent.dataDir);
    expect(said).toContain(`is in use by process ${agent.process.pid}`);
    expect(said).toContain(agent.dataDir);
  });

  it('names torn identity files and the remedy', async () => {
    const copy = join(fresh(), 'copy');
    mkdirSync(copy);
    for (const f of ['node.key', 'identity.json'])
      writeFileSync(join(copy, f), readFileSync(join(agent.dataDir, f)), { mode: 0o600 });
    truncateSync(join(copy, 'identity.json'), 300);
    const torn = await failing(copy);
    expect(torn).toContain(join(copy, 'identity.json'));
    expect(torn).toMatch(/torn or corrupt[\s\S]*cox agent --join TOKEN/);
    truncateSync(join(copy, 'node.key'), 20);
    writeFileSync(join(copy, 'identity.json'), readFileSync(join(agent.dataDir, 'identity.json')));
    const key = await failing(copy);
    expect(key).toContain(join(copy, 'node.key'));
    expect(key).toMatch(/torn or corrupt/);
  });

  it('names a data directory that is read-only, full, or a file', async () => {
    const at = (name: string) => join(fresh(), name);
    const mounted = async (options: string, then: (dir: string) => Promise<void>) => {
      const dir = at('small');
      mkdirSync(dir);
      execFileSync('mount', ['-t', 'tmpfs', '-o', options, 'tmpfs', dir]);
      try {
        await then(dir);
      } finally {
        execFileSync('umount', ['-l', dir]);
      }
    };
    const token = await hub.token();
    await mounted('ro,size=64k', async (dir) => {
      const said = await failing(dir, '--join', token);
      expect(said).toContain(dir);
      expect(said).toMatch(/read-only/i);
    });
    await mounted('size=8k', async (dir) => {
      // tmpfs counts whole pages: this takes them all.
      writeFileSync(join(dir, 'ballast'), Buffer.alloc(8192));
      const said = await failing(dir, '--join', token);
      expect(said).toContain(dir);
      expect(said).toMatch(/no space|full/i);
    });
    const file = at('file');
    writeFileSync(file, '');
    expect(await failing(file, '--join', token)).toContain(file);
    // None of them has used the token up.
    const second = await new TestAgent('pi2', [], fresh()).start('--join', token);
    await nodeReady(k, 'pi2', () => second.process.tail());
    expect(await second.stop()).toBe(0);
    await k('delete', 'node', 'pi2');
  });

  it('goes on with a disk that fills up, and is well when there is room again', async () => {
    const dir = join(fresh(), 'small');
    mkdirSync(dir);
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=6m', 'tmpfs', dir]);
    const small = new TestAgent('small', ['--eviction-hard', AT_EASE], dir);
    try {
      await small.start('--join', await hub.token());
      await nodeReady(k, 'small', () => small.process.tail());
      const here = { nodeName: 'small' };
      await k.apply(pod('first', ['count', '0', '200'], here));
      await running('first');
      const ballast = join(dir, 'ballast');
      try {
        writeFileSync(ballast, Buffer.alloc(6 << 20));
      } catch {
        // As much as fits.
      }
      await k.apply(pod('second', ['count', '0', '200'], here));
      const why = await eventually(
        'why the second pod waits',
        async () => {
          const text = await k('describe', 'pod', 'second');
          return /(ENOSPC|[Nn]o space left).*/.exec(text)?.[0];
        },
        { context: () => small.process.tail() },
      );
      expect(why).toBeTruthy();
      expect((await mainOf('first')).restartCount).toBe(0);
      expect((await mainOf('first')).state.running).toBeTruthy();
      execFileSync('rm', [ballast]);
      await running('second');
      expect((await mainOf('first')).restartCount).toBe(0);
      await k('delete', 'pod', 'first', 'second', '--timeout=60s');
    } finally {
      await small.stop();
      kill(processesOf(dir));
      execFileSync('umount', ['-l', dir]);
      await k.try('delete', 'node', 'small');
    }
  });

  it('with a runtime endpoint where nothing answers says so, and runs what it can', async () => {
    const dir = fresh();
    const wrong = await new TestAgent('wrong', ['--runtime-endpoint', `unix://${dir}/none.sock`], dir).start(
      ...['--join', await hub.token()],
    );
    try {
      await nodeReady(k, 'wrong', () => wrong.process.tail());
      expect(await k('describe', 'node', 'wrong')).toContain(
        `kubelet is posting ready status; not ready: oci: no container runtime at unix://${dir}/none.sock: install one`,
      );
      const labels = (await k.json('get', 'node', 'wrong')).metadata.labels;
      expect(labels['coxswain.dev/runtime.oci']).toBeUndefined();
      expect(labels['coxswain.dev/runtime.wasm']).toBe('true');
      await k.apply(pod('contained', [], { nodeName: 'wrong', runtimeClassName: 'oci' }));
      const text = await until('the reason', async () => {
        const t = await k('describe', 'pod', 'contained');
        return t.includes('none.sock') && t;
      });
      expect(text).toContain(`no container runtime at unix://${dir}/none.sock: install one`);
      // Whether it runs there nobody can tell; as in Kubernetes only force takes it away.
      await k('delete', 'pod', 'contained', '--grace-period=0', '--force');
    } finally {
      await wrong.stop();
      await k.try('delete', 'node', 'wrong');
    }
    expect(await failing(fresh(), '--runtime-endpoint', 'http://localhost')).toMatch(
      /--runtime-endpoint must be unix:\/\/\/.* not "http:\/\/localhost"/,
    );
    expect(await failing(fresh(), '--eviction-hard', 'memory<1')).toContain(
      '--eviction-hard: invalid eviction threshold "memory<1"',
    );
  });
});
