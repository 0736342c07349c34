import { mkdtempSync, rmSync } from 'node:fs';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { systemClock } from '../../api/clock.js';
import { silentLog } from '../../api/log.js';
import type { ContainerSpec, SandboxSpec, ShimError, ShimEvent } from '../shim.js';
import { CriShim, type CriShimOptions } from './cri.js';
import { OWNER_LABEL, SANDBOX_ANNOTATION } from './spec.js';
import { FakeCri, GrpcFailure } from './testing/fake-cri.js';

const sandboxSpec = (logDirectory: string): SandboxSpec => ({
  ...{ namespace: 'ns', name: 'p', uid: 'u', attempt: 0, hostname: 'h', hostNetwork: true, portMappings: [] },
  ...{ logDirectory, labels: { a: 'b' }, annotations: { c: 'd' } },
});
const containerSpec: ContainerSpec = {
  ...{ name: 'c', attempt: 0, imageRef: 'sha256:1', image: 'app:1', env: [], mounts: [], resources: {} },
  ...{ logPath: 'c/0.log', labels: {}, annotations: {} },
};
const ready = [
  { type: 'RuntimeReady', status: true, reason: '', message: '' },
  { type: 'NetworkReady', status: true, reason: '', message: '' },
];

describe('CRI shim', () => {
  let server: FakeCri;
  let shim: CriShim;
  let dir: string;
  let runtimeName: string;
  /** What ListContainers shows, and ContainerStatus with it. */
  let containers: { id: string; state: string; exitCode?: number }[];

  const start = async (options: Partial<CriShimOptions> = {}) => {
    shim = new CriShim({
      endpoint: server.endpoint,
      log: silentLog,
      clock: systemClock,
      owner: 'me',
      ...options,
    });
    await shim.start();
  };
  beforeEach(async () => {
    dir = mkdtempSync('/tmp/cri-unit-');
    runtimeName = 'fake';
    containers = [];
    server = new FakeCri();
    server.unary['Version'] = () => ({ runtimeName, runtimeVersion: '9.9' });
    server.unary['Status'] = () => ({ status: { conditions: ready }, info: {} });
    server.unary['ListPodSandbox'] = () => ({ items: [] });
    server.unary['ListContainers'] = () => ({
      containers: containers.map((c) => ({
        id: c.id,
        state: c.state,
        podSandboxId: 's',
        metadata: { name: c.id },
      })),
    });
    server.unary['ContainerStatus'] = (r) => {
      const c = containers.find((x) => x.id === r.containerId);
      if (!c) throw new GrpcFailure(5, `could not find container "${r.containerId}"`);
      return {
        status: { id: c.id, state: c.state, exitCode: c.exitCode ?? 0, startedAt: 1e15, createdAt: 1e15 },
      };
    };
    await server.start();
  });
  afterEach(async () => {
    await shim?.stop();
    server.dispose();
    rmSync(dir, { recursive: true, force: true });
  });
  const failure = (p: Promise<unknown>): Promise<ShimError> =>
    p.then(
      () => Promise.reject(new Error('it succeeded')),
      (e) => e,
    );
  const until = (probe: () => void | Promise<void>) => vi.waitFor(probe, { timeout: 20_000, interval: 10 });

  describe('health', () => {
    it('tells runtime and version', async () => {
      await start();
      expect(await shim.health()).toMatchObject({
        ready: true,
        podNetwork: true,
        runtimeVersion: 'fake://9.9',
        message: `fake 9.9 at ${server.endpoint}`,
      });
    });
    it('names what a runtime says about itself', async () => {
      server.unary['Status'] = () => ({
        status: {
          conditions: [
            { type: 'RuntimeReady', status: false, reason: 'X', message: 'shim is broken' },
            { type: 'NetworkReady', status: false, reason: 'NetworkPluginNotReady', message: 'no cni' },
          ],
        },
      });
      await start();
      const h = await shim.health();
      expect(h).toMatchObject({ ready: false, podNetwork: false });
      expect(h.message).toContain('shim is broken');
      expect(h.conditions).toContainEqual(
        expect.objectContaining({ type: 'PodNetwork', status: 'False', reason: 'NetworkPluginNotReady' }),
      );
    });
    it('of no CRI at all names the remedy', async () => {
      server.unary['Version'] = () => {
        throw new GrpcFailure(12, 'unknown service runtime.v1.RuntimeService');
      };
      await start();
      expect(await shim.health()).toMatchObject({
        ready: false,
        message: expect.stringContaining('disabled_plugins'),
      });
    });
    it('of no socket names the remedy, and gets well when a runtime comes', async () => {
      server.stop();
      await start();
      expect(await shim.health()).toMatchObject({
        ready: false,
        message: expect.stringContaining('apt-get install containerd'),
      });
      await server.start();
      expect(await shim.health()).toMatchObject({ ready: true });
    });
    it('an endpoint that is no socket path is refused at once', async () => {
      const bad = new CriShim({ endpoint: 'tcp://1.2.3.4:5', log: silentLog, clock: systemClock });
      await expect(bad.start()).rejects.toThrow('unix:///path');
      await bad.stop();
    });
  });

  describe('the list', () => {
    it('asks for details once per state', async () => {
      containers = [{ id: 'a', state: 'CONTAINER_RUNNING' }];
      await start();
      await shim.list();
      await shim.list();
      expect(server.count('ContainerStatus')).toBe(1);
      containers = [{ id: 'a', state: 'CONTAINER_EXITED', exitCode: 4 }];
      expect((await shim.list()).containers).toMatchObject([{ id: 'a', state: 'exited', exitCode: 4 }]);
      await shim.list();
      expect(server.count('ContainerStatus')).toBe(2);
    });
    it('asks for ours only', async () => {
      await start();
      await shim.list();
      const asked = server.calls.filter((c) => c.method === 'ListContainers').at(-1)!;
      expect(asked.request.filter.labelSelector).toEqual({ [OWNER_LABEL]: 'me' });
    });
    it('leaves out what is removed while it looks', async () => {
      containers = [{ id: 'a', state: 'CONTAINER_RUNNING' }];
      server.unary['ContainerStatus'] = () => {
        throw new GrpcFailure(5, 'not found');
      };
      await start();
      expect((await shim.list()).containers).toEqual([]);
    });
    it('fails as RuntimeUnavailable, and works again after a restart of the runtime', async () => {
      await start();
      server.stop();
      expect(await failure(shim.list())).toMatchObject({ reason: 'RuntimeUnavailable' });
      await server.start();
      expect(await shim.list()).toEqual({ sandboxes: [], containers: [] });
    });
  });

  describe('events', () => {
    const seen: ShimEvent[] = [];
    beforeEach(() => {
      seen.length = 0;
    });

    it('come from GetContainerEvents where the runtime has it', async () => {
      let write: ((m: object) => void) | undefined;
      server.streams['GetContainerEvents'] = (_r, w) => {
        write = w;
        return new Promise(() => {});
      };
      await start();
      shim.onEvent((e) => seen.push(e));
      await until(() => expect(write).toBeDefined());
      write!({ containerId: 'a' });
      await until(() => expect(seen).toContainEqual({ containerId: 'a' }));
    });

    it('come from looking where the runtime has none', async () => {
      await start();
      shim.onEvent((e) => seen.push(e));
      await until(() => expect(server.count('ListContainers')).toBeGreaterThan(2));
      const before = seen.length;
      containers = [{ id: 'a', state: 'CONTAINER_RUNNING' }];
      await until(() => expect(seen.length).toBeGreaterThan(before));
    });

    it("come from containerd's own service once the CRI shows the end, not of others and not of execs", async () => {
      runtimeName = 'containerd';
      containers = [{ id: 'mine', state: 'CONTAINER_RUNNING' }];
      let write: ((m: object) => void) | undefined;
      server.streams['Subscribe'] = (_r, w) => {
        write = w;
        return new Promise(() => {});
      };
      await start();
      await shim.list();
      shim.onEvent((e) => seen.push(e));
      await until(() => expect(write).toBeDefined());
      const exit = (containerId: string, id: string) => {
        const field = (n: number, s: string) =>
          Buffer.concat([Buffer.of(n * 8 + 2, s.length), Buffer.from(s)]);
        write!({
          namespace: 'k8s.io',
          topic: '/tasks/exit',
          event: {
            typeUrl: 'containerd.events.TaskExit',
            value: Buffer.concat([field(1, containerId), field(2, id)]),
          },
        });
      };
      exit('theirs', 'theirs');
      exit('mine', 'an-exec');
      exit('mine', 'mine');
      const looks = server.count('ContainerStatus');
      await until(() => expect(server.count('ContainerStatus')).toBeGreaterThan(looks + 2));
      expect(seen.filter((e) => e.containerId)).toEqual([]);
      containers = [{ id: 'mine', state: 'CONTAINER_EXITED' }];
      await until(() => expect(seen.filter((e) => e.containerId)).toEqual([{ containerId: 'mine' }]));
    });

    it('a listener that throws does not stop the others', async () => {
      await start();
      shim.onEvent(() => {
        throw new Error('no');
      });
      shim.onEvent((e) => seen.push(e));
      containers = [{ id: 'a', state: 'CONTAINER_RUNNING' }];
      await until(() => expect(seen.length).toBeGreaterThan(0));
    });

    it('say that something was missed when the runtime came back', async () => {
      server.streams['GetContainerEvents'] = () => new Promise(() => {});
      await start();
      shim.onEvent((e) => seen.push(e));
      await until(() => expect(seen).toContainEqual({}));
      seen.length = 0;
      server.stop();
      await server.start();
      await until(() => expect(seen).toContainEqual({}));
    });
  });

  describe('sandboxes', () => {
    it('makes the sandbox image when containerd 2 says what it lacks', async () => {
      runtimeName = 'containerd';
      server.streams['Subscribe'] = () => new Promise(() => {});
      const image = 'registry.k8s.io/pause:3.10';
      const written = new Map<string, string>();
      let made: { name: string; target: { digest: string } } | undefined;
      server.unary['ImageStatus'] = (r) =>
        made?.name === r.image.image ? { image: { id: 'sha256:1' } } : {};
      server.unary['Create'] = (r) => {
        if (r.image) made = r.image;
        return {};
      };
      server.unary['Delete'] = () => ({});
      server.streams['Write'] = async (r, write) => {
        written.set(r.expected, r.action);
        write({ digest: r.expected });
      };
      server.unary['RunPodSandbox'] = () => {
        if (!made)
          throw new GrpcFailure(
            2,
            `failed to start sandbox "x": failed to get sandbox image "${image}": failed to pull image "${image}": dial tcp: no such host`,
          );
        return { podSandboxId: 's1' };
      };
      await start();
      await until(() => expect(server.count('Subscribe')).toBe(1));
      expect(await shim.runSandbox(sandboxSpec(dir))).toBe('s1');
      expect(made!.name).toBe(image);
      expect(written.get(made!.target.digest)).toBe('COMMIT');
      expect(written.size).toBe(3);
    });

    it('is made by the runtime that the RuntimeClass names', async () => {
      server.unary['RunPodSandbox'] = (r) => {
        if (r.runtimeHandler) throw new GrpcFailure(2, `no runtime for "${r.runtimeHandler}" is configured`);
        return { podSandboxId: 's1' };
      };
      await start();
      expect(await shim.runSandbox(sandboxSpec(dir))).toBe('s1');
      expect(await failure(shim.runSandbox({ ...sandboxSpec(dir), runtimeHandler: 'kata' }))).toMatchObject({
        reason: 'CreatePodSandboxError',
        message: expect.stringContaining('no runtime for "kata" is configured'),
      });
    });
    it('a command that takes too long is told from one that cannot be run', async () => {
      server.unary['ExecSync'] = (r) => {
        throw new GrpcFailure(r.cmd[0] === 'slow' ? 4 : 2, 'failed');
      };
      await start();
      expect(await failure(shim.execSync('c', ['slow', 'x'], 900))).toMatchObject({
        reason: 'ExecTimeout',
        message: 'command timed out: "slow x" timed out after 1s',
      });
      expect(await failure(shim.execSync('c', ['bad'], 900))).toMatchObject({ reason: 'RunContainerError' });
    });
    it('takes the one that an earlier try left, or makes it anew when it is dead', async () => {
      const id = 'f'.repeat(64);
      let state = 'SANDBOX_READY';
      let removed = false;
      server.unary['RunPodSandbox'] = () => {
        if (removed) return { podSandboxId: 'new' };
        throw new GrpcFailure(
          2,
          `failed to reserve sandbox name "p_ns_u_0": name "p_ns_u_0" is reserved for "${id}"`,
        );
      };
      server.unary['PodSandboxStatus'] = () => ({ status: { id, state } });
      server.unary['StopPodSandbox'] = () => ({});
      server.unary['RemovePodSandbox'] = () => {
        removed = true;
        return {};
      };
      await start();
      expect(await shim.runSandbox(sandboxSpec(dir))).toBe(id);
      state = 'SANDBOX_NOTREADY';
      expect(await shim.runSandbox(sandboxSpec(dir))).toBe('new');
    });

    it('a container in a sandbox of an earlier life gets the settings from our annotation', async () => {
      const { labels: _l, annotations: _a, ...kept } = sandboxSpec(dir);
      server.unary['ListPodSandbox'] = (r) => ({
        items:
          r.filter.id === 's1'
            ? [{ id: 's1', annotations: { [SANDBOX_ANNOTATION]: JSON.stringify(kept) } }]
            : [],
      });
      server.unary['CreateContainer'] = () => ({ containerId: 'c1' });
      await start();
      expect(await shim.createContainer('s1', containerSpec)).toBe('c1');
      const asked = server.calls.find((c) => c.method === 'CreateContainer')!.request;
      expect(asked.sandboxConfig.logDirectory).toBe(dir);
      expect(asked.config.linux.securityContext.namespaceOptions.network).toBe('NODE');
      expect(await failure(shim.createContainer('other', containerSpec))).toMatchObject({
        reason: 'CreateContainerError',
        message: expect.stringContaining('no sandbox other'),
      });
    });

    it('a container that ends while it is being ended is asked about again', async () => {
      let lost = 2;
      server.unary['StopPodSandbox'] = () => {
        if (lost-- > 0) throw new GrpcFailure(2, 'failed to kill container "c": ttrpc: closed: unknown');
        return {};
      };
      await start();
      await shim.stopSandbox('s1');
      expect(server.count('StopPodSandbox')).toBe(3);
    });

    it('removing and stopping what is absent succeeds; other failures do not', async () => {
      const calls = ['StopPodSandbox', 'RemovePodSandbox', 'StopContainer', 'RemoveContainer', 'RemoveImage'];
      for (const m of calls)
        server.unary[m] = () => {
          throw new GrpcFailure(5, 'not found');
        };
      await start();
      const all = () => [
        shim.stopSandbox('x'),
        shim.removeSandbox('x'),
        shim.stopContainer('x', 0),
        shim.removeContainer('x'),
        shim.removeImage('sha256:'.padEnd(71, '0')),
      ];
      await Promise.all(all());
      for (const m of calls)
        server.unary[m] = () => {
          throw new GrpcFailure(2, 'the disk is on fire');
        };
      for (const p of all()) expect((await failure(p)).message).toContain('the disk is on fire');
    });
  });

  describe('images', () => {
    it('a malformed name never reaches the runtime', async () => {
      await start();
      expect(await failure(shim.pullImage('UPPER/..//x'))).toMatchObject({ reason: 'InvalidImageName' });
      expect(server.count('PullImage')).toBe(0);
    });
    it('asks by full name, with the credentials given', async () => {
      server.unary['PullImage'] = () => ({ imageRef: 'sha256:1' });
      server.unary['ImageStatus'] = () => ({
        image: {
          id: 'sha256:1',
          size: 5,
          uid: { value: 7 },
          repoDigests: ['other.example/x@sha256:2', 'docker.io/library/app@sha256:2'],
          repoTags: ['docker.io/library/app:latest'],
        },
      });
      await start();
      expect(await shim.pullImage('app', { username: 'u', password: 'p' })).toEqual({
        ref: 'sha256:1',
        sizeBytes: 5,
        uid: 7,
        // What was asked for first.
        repoDigests: ['docker.io/library/app@sha256:2', 'other.example/x@sha256:2'],
        repoTags: ['docker.io/library/app:latest'],
      });
      const asked = server.calls.find((c) => c.method === 'PullImage')!.request;
      expect(asked).toMatchObject({
        image: { image: 'docker.io/library/app:latest' },
        auth: { username: 'u', password: 'p' },
      });
    });
    it('the list leaves out the sandbox image, pinned ones and those that others run on', async () => {
      const image = (id: string, repoTags: string[], pinned = false) => ({ id, repoTags, pinned, size: 1 });
      server.unary['Status'] = () => ({
        status: { conditions: ready },
        info: { config: JSON.stringify({ sandboxImage: 'registry.k8s.io/pause:3.6' }) },
      });
      server.unary['ListImages'] = () => ({
        images: [
          image('sha256:1', ['docker.io/library/app:1']),
          image('sha256:2', ['registry.k8s.io/pause:3.6']),
          image('sha256:3', ['other/pause:1'], true),
          image('sha256:4', ['docker.io/library/theirs:1']),
          image('sha256:5', ['docker.io/library/ours:1']),
        ],
      });
      server.unary['ListContainers'] = () => ({
        containers: [
          { id: 'a', image: { image: 'sha256:4' } },
          { id: 'b', image: { image: 'sha256:5' }, labels: { [OWNER_LABEL]: 'me' } },
        ],
      });
      await start();
      await until(async () =>
        expect((await shim.listImages()).map((i) => i.ref)).toEqual(['sha256:1', 'sha256:5']),
      );
    });
    it('a pull that is called off ends at once', async () => {
      server.unary['PullImage'] = () => new Promise(() => {});
      await start();
      const off = new AbortController();
      const pull = failure(shim.pullImage('app', undefined, off.signal));
      await until(() => expect(server.count('PullImage')).toBe(1));
      off.abort();
      expect((await pull).message).toContain('cancelled');
    });
    it("the hub's images wait for a hub", async () => {
      await start();
      expect(await failure(shim.pullImage('coxswain.internal/app:1'))).toMatchObject({
        reason: 'RegistryUnavailable',
        message: expect.stringContaining('not joined'),
      });
    });
  });

  it('starting what runs succeeds, starting what cannot start says why', async () => {
    server.unary['StartContainer'] = () => {
      throw new GrpcFailure(2, 'container is already in CONTAINER_RUNNING state');
    };
    containers = [
      { id: 'runs', state: 'CONTAINER_RUNNING' },
      { id: 'new', state: 'CONTAINER_CREATED' },
    ];
    await start();
    await shim.startContainer('runs');
    expect(await failure(shim.startContainer('new'))).toMatchObject({ reason: 'RunContainerError' });
  });
});
