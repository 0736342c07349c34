/** The pod manager over real runtimes: what a pod's spec says reaches real processes, and survives the agent. */
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { ConfigMap, Container, Pod, Secret } from 'kubernetes-types/core/v1.js';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { PodManager } from '../../agent/pods/manager.js';
import { systemMounter } from '../../agent/volumes/mounts.js';
import { systemClock } from '../../api/clock.js';
import { silentLog } from '../../api/log.js';
import type { AgentEvent, PodReport } from '../../api/wire/desired.js';
import type { Shim } from '../../shims/shim.js';
import { buildModule } from '../modules/build.js';
import { busyboxImage, Containerd, Registry } from './support/containerd.js';
import { missing } from './support/needs.js';
import { eventually } from './support/system.js';
import { wasmShim } from './support/wasm.js';

/** An agent without a link: what it was told, and what it says. */
class Agent {
  readonly dir = mkdtempSync(join(tmpdir(), 'pods-e2e-'));
  readonly events: AgentEvent[] = [];
  readonly last = new Map<string, PodReport>();
  pods: Pod[] = [];
  configMaps: ConfigMap[] = [];
  secrets: Secret[] = [];
  manager!: PodManager;
  #generation = 0;

  constructor(readonly shim: () => Shim) {}

  async start(): Promise<void> {
    const shim = this.shim();
    this.manager = new PodManager({
      nodeName: 'n1',
      shims: new Map([[shim.handler, shim]]),
      defaultHandler: shim.handler,
      reporter: {
        node() {},
        pod: (r) => this.last.set(r.uid, r),
        event: (e) => this.events.push(e),
      },
      clock: systemClock,
      log: silentLog,
      dataDir: this.dir,
      hostIP: () => '192.0.2.1',
      tuning: { backoffBaseMs: 200 },
    });
    this.set();
    await this.manager.start();
  }

  set(...pods: Pod[]): void {
    this.pods.push(...pods);
    const { configMaps, secrets } = this;
    this.manager.setDesired(
      structuredClone({
        generation: ++this.#generation,
        pods: this.pods,
        configMaps,
        secrets,
        serviceAccounts: [],
      }),
    );
  }

  status = (p: Pod) => this.last.get(p.metadata!.uid!)?.status;
  container = (p: Pod, name: string) =>
    [...(this.status(p)?.initContainerStatuses ?? []), ...(this.status(p)?.containerStatuses ?? [])].find(
      (c) => c.name === name,
    );
  phase = (p: Pod, phase: string) =>
    eventually(
      `${p.metadata!.name} is ${phase}: ${JSON.stringify(this.events.slice(-5))}`,
      async () => this.status(p)?.phase === phase,
    );

  async logs(p: Pod, container: string): Promise<string> {
    const { name, namespace, uid } = p.metadata!;
    const out: Uint8Array[] = [];
    const options = { namespace: namespace!, pod: name!, uid: uid!, container };
    for await (const b of this.manager.logs(options, new AbortController().signal)) out.push(b);
    return Buffer.concat(out).toString();
  }

  async remove(p: Pod): Promise<void> {
    Object.assign(p.metadata!, {
      deletionTimestamp: new Date().toISOString(),
      deletionGracePeriodSeconds: 1,
    });
    this.set();
    await eventually(
      `${p.metadata!.name} is gone`,
      async () => this.last.get(p.metadata!.uid!)?.gone === true,
    );
    this.pods = this.pods.filter((x) => x !== p);
    this.set();
  }

  async dispose(): Promise<void> {
    for (const p of [...this.pods]) await this.remove(p);
    await this.manager.stop();
    expect(systemMounter.below(this.dir)).toEqual([]);
    rmSync(this.dir, { recursive: true, force: true });
  }
}

let serial = 0;
const pod = (name: string, containers: Container[], spec: Partial<NonNullable<Pod['spec']>> = {}): Pod => ({
  metadata: {
    name,
    namespace: 'default',
    uid: `0000000${++serial}-0000-4000-8000-000000000000`,
    labels: { app: name },
  },
  spec: { containers, restartPolicy: 'Never', terminationGracePeriodSeconds: 1, ...spec },
});

const lackingContainers = missing(
  'root',
  'containerd',
  'runc',
  'cni',
  'iptables',
  'iproute2',
  'busybox',
  'docker-registry',
  'skopeo',
  'umoci',
);

describe.skipIf(lackingContainers)('pods of containers', () => {
  let containerd: Containerd;
  let registry: Registry;
  let image: string;
  let shim: Shim;
  let agent: Agent;
  const imageDir = lackingContainers ? '' : mkdtempSync('/tmp/cox-img-');
  const sh = (name: string, script: string, more: Partial<Container> = {}): Container => ({
    name,
    image,
    command: ['/bin/sh', '-c', script],
    ...more,
  });

  beforeAll(async () => {
    containerd = await Containerd.start();
    registry = await Registry.start();
    image = await registry.push(await busyboxImage(imageDir), 'pods:1');
    shim = containerd.shim();
    await shim.start();
    agent = new Agent(() => shim);
    await agent.start();
  });
  afterAll(async () => {
    await agent?.dispose();
    await shim?.stop();
    await registry?.stop();
    await containerd?.stop();
    if (imageDir) rmSync(imageDir, { recursive: true, force: true });
  });

  it('hands on configuration, volumes of every kind, devices, users and last words', async () => {
    agent.configMaps.push({
      metadata: { name: 'cm', namespace: 'default' },
      data: { greeting: 'hello', file: 'cm' },
    });
    agent.secrets.push({
      metadata: { name: 's', namespace: 'default' },
      data: { password: Buffer.from('geheim').toString('base64') },
    });
    const hostFile = join(agent.dir, 'host.txt');
    writeFileSync(hostFile, 'from the host\n');
    const p = pod(
      'all',
      [
        sh(
          'main',
          [
            'echo "$GREETING $NAME $NODE"',
            'cat /cm/file; echo; cat /secret/password; echo; cat /host.txt; cat /shared/from-init',
            'cat /down/labels; echo; cat /sub/x',
            'id -u; stat -c %g /shared',
            'head -c 3 /dev/zeros | wc -c',
            'touch /cm/new 2>/dev/null || echo read-only',
            'df -h /mem | tail -1 | grep -c tmpfs',
            'grep -c Kubernetes-managed /etc/hosts',
            'cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max',
            'echo -n last words > /dev/termination-log',
            'exit 3',
          ].join('\n'),
          {
            env: [
              { name: 'GREETING', valueFrom: { configMapKeyRef: { name: 'cm', key: 'greeting' } } },
              { name: 'NAME', valueFrom: { fieldRef: { fieldPath: 'metadata.name' } } },
              { name: 'NODE', valueFrom: { fieldRef: { fieldPath: 'spec.nodeName' } } },
            ],
            resources: { limits: { memory: '64Mi', cpu: '500m' } },
            volumeMounts: [
              { name: 'cm', mountPath: '/cm' },
              { name: 's', mountPath: '/secret' },
              { name: 'host', mountPath: '/host.txt', readOnly: true },
              { name: 'shared', mountPath: '/shared' },
              { name: 'shared', mountPath: '/sub', subPath: 'dir' },
              { name: 'down', mountPath: '/down' },
              { name: 'dev', mountPath: '/dev/zeros' },
              { name: 'mem', mountPath: '/mem' },
            ],
          },
        ),
      ],
      {
        securityContext: { runAsUser: 1234, fsGroup: 4321 },
        initContainers: [
          sh('init', 'echo made by init > /shared/from-init; mkdir /shared/dir; echo sub > /shared/dir/x', {
            volumeMounts: [{ name: 'shared', mountPath: '/shared' }],
          }),
        ],
        volumes: [
          { name: 'cm', configMap: { name: 'cm' } },
          { name: 's', secret: { secretName: 's' } },
          { name: 'host', hostPath: { path: hostFile, type: 'File' } },
          { name: 'shared', emptyDir: {} },
          { name: 'mem', emptyDir: { medium: 'Memory', sizeLimit: '1Mi' } },
          {
            name: 'down',
            downwardAPI: { items: [{ path: 'labels', fieldRef: { fieldPath: 'metadata.labels' } }] },
          },
          { name: 'dev', hostPath: { path: '/dev/zero', type: 'CharDevice' } },
        ],
      },
    );
    agent.set(p);
    await agent.phase(p, 'Failed');
    expect((await agent.logs(p, 'main')).split('\n')).toEqual([
      'hello all n1',
      'cm',
      'geheim',
      'from the host',
      'made by init',
      'app="all"',
      'sub',
      '1234',
      '4321',
      '3',
      'read-only',
      '1',
      '1',
      String(64 * 2 ** 20),
      '',
    ]);
    expect(agent.container(p, 'main')!.state!.terminated).toMatchObject({
      exitCode: 3,
      message: 'last words',
    });
    expect(agent.container(p, 'main')).toMatchObject({
      containerID: expect.stringMatching(/^containerd:\/\//),
      imageID: expect.stringMatching(/@sha256:/),
    });
    const reasons = agent.events.filter((e) => e.involved.name === 'all').map((e) => e.reason);
    expect(reasons).toEqual(['Pulling', 'Pulled', 'Created', 'Started', 'Pulled', 'Created', 'Started']);
    await agent.remove(p);
    expect(readdirSync(join(agent.dir, 'pods'))).toEqual([]);
    expect(existsSync(hostFile)).toBe(true);
  });

  it('go on without the agent, are adopted, and nothing of the time between is lost', async () => {
    const steady = pod('steady', [sh('main', 'echo up; sleep 100000')], { restartPolicy: 'Always' });
    const ends = pod('ends', [sh('main', 'echo begin; sleep 3; echo end; exit 42')]);
    agent.set(steady, ends);
    await agent.phase(steady, 'Running');
    await agent.phase(ends, 'Running');
    const before = agent.container(steady, 'main');
    expect(agent.status(steady)!.podIP).toMatch(/^\d+\./);
    await agent.manager.stop();
    await shim.stop();
    await new Promise((resolve) => setTimeout(resolve, 5000));
    shim = containerd.shim();
    await shim.start();
    agent.last.clear();
    await agent.start();
    await agent.phase(ends, 'Failed');
    expect(agent.container(ends, 'main')!.state!.terminated).toMatchObject({ exitCode: 42, reason: 'Error' });
    expect(await agent.logs(ends, 'main')).toBe('begin\nend\n');
    await agent.phase(steady, 'Running');
    expect(agent.container(steady, 'main')).toEqual(before);
  });

  it('are probed and restarted', async () => {
    const p = pod(
      'sick',
      [
        sh('main', 'touch /well; sleep 2; rm /well; sleep 100000', {
          livenessProbe: {
            exec: { command: ['/bin/sh', '-c', '[ -e /well ]'] },
            periodSeconds: 1,
            failureThreshold: 1,
          },
        }),
      ],
      { restartPolicy: 'Always' },
    );
    agent.set(p);
    await eventually('a restart', async () => (agent.container(p, 'main')?.restartCount ?? 0) > 0);
    expect(agent.events.map((e) => e.message)).toContain(
      'Container main failed liveness probe, will be restarted',
    );
  });
});

describe.skipIf(missing('root'))('pods of WebAssembly', () => {
  it('read their configuration and share a volume', async () => {
    const made = await wasmShim({ 'example.test/box:1': await buildModule('box') });
    const agent = new Agent(() => made.shim);
    try {
      agent.configMaps.push({
        metadata: { name: 'cm', namespace: 'default' },
        data: { file: 'from the map' },
      });
      await agent.start();
      const box = (name: string, args: string[], mounts: Container['volumeMounts']): Container => ({
        name,
        image: 'example.test/box:1',
        args,
        volumeMounts: mounts!,
      });
      const p = pod(
        'wasm',
        [
          box('reads', ['cat', '/cm/file'], [{ name: 'cm', mountPath: '/cm' }]),
          box('writes', ['put', '/shared/x', 'shared\n'], [{ name: 'shared', mountPath: '/shared' }]),
        ],
        {
          volumes: [
            { name: 'cm', configMap: { name: 'cm' } },
            { name: 'shared', emptyDir: {} },
          ],
        },
      );
      const q = pod('fails', [box('main', ['put', '/cm/file', 'x'], [{ name: 'cm', mountPath: '/cm' }])], {
        volumes: [{ name: 'cm', configMap: { name: 'cm' } }],
      });
      agent.set(p, q);
      await agent.phase(p, 'Succeeded');
      await agent.phase(q, 'Failed');
      expect((await agent.logs(p, 'reads')).trimEnd()).toBe('from the map');
      expect(agent.container(p, 'reads')!.containerID).toMatch(/^wasm:\/\//);
    } finally {
      await agent.dispose();
      await made.shim.stop();
      await made.remove();
    }
  });

  it('come back after a reboot of the machine, with what ended them told', async () => {
    const made = await wasmShim(
      { 'example.test/box:1': await buildModule('box') },
      { bootId: () => 'the-first-boot' },
    );
    let { shim } = made;
    const agent = new Agent(() => shim);
    try {
      await agent.start();
      const box = (name: string): Container => ({
        name,
        image: 'example.test/box:1',
        args: ['echo', 'up', ';', 'sleep', '1000000'],
      });
      const always = pod('always', [box('main')], { restartPolicy: 'Always' });
      const never = pod('never', [box('main')]);
      agent.set(always, never);
      for (const p of [always, never]) await agent.phase(p, 'Running');
      const before = agent.container(always, 'main')!.containerID;

      // The power is cut: agent, supervisors and guests end, and nobody writes down how. (The old shim, which in truth
      // would be gone as well, must not see them end before the new one has looked.)
      await agent.manager.stop();
      await shim.stop();
      shim = await made.again({ bootId: () => 'the-second-boot' });
      const containers = join(made.dataDir, 'containers');
      for (const id of readdirSync(containers)) {
        const [, supervisor] = readFileSync(join(containers, id, 'pid'), 'utf8').split(' ');
        process.kill(Number(supervisor), 'SIGKILL');
      }
      const { containers: found } = await shim.list();
      expect(
        found.map(({ state, exitCode, reason, message }) => ({ state, exitCode, reason, message })),
      ).toEqual(
        Array(2).fill({
          ...{ state: 'exited', exitCode: 137, reason: 'Unknown' },
          message: 'the node was restarted while it ran',
        }),
      );

      agent.last.clear();
      await agent.start();
      await agent.phase(never, 'Failed');
      await eventually('a restart', async () => {
        const c = agent.container(always, 'main');
        return c?.restartCount === 1 && c.state?.running !== undefined;
      });
      const after = agent.container(always, 'main')!;
      expect(after.containerID).not.toBe(before);
      expect(after.lastState?.terminated).toMatchObject({ exitCode: 137, reason: 'Unknown' });
    } finally {
      await agent.dispose();
      await shim.stop();
      await made.remove();
    }
  });
});
