/** A device: a disk, a runtime with its containers, and the agent as main.ts puts it together. */
import { loadIdentity } from '../../../agent/link/identity.js';
import { AgentLink } from '../../../agent/link/link.js';
import { NodeReporter } from '../../../agent/node/node.js';
import { PodManager } from '../../../agent/pods/manager.js';
import { noMounts } from '../../../agent/pods/testing/node.js';
import type { Reporter } from '../../../agent/ports.js';
import type { Clock } from '../../../api/clock.js';
import type { Log } from '../../../api/log.js';
import type { VirtualClock } from '../../../api/testing/virtual-clock.js';
import type { PodReport } from '../../../api/wire/desired.js';
import { FakeShim } from '../../../shims/fake/fake.js';
import type { ContainerSpec, Shim } from '../../../shims/shim.js';
import type { SimDisk } from './disk.js';
import type { SimNetwork } from './network.js';
import { never, SimProcess, type WallClock } from './process.js';

export interface Watchdog {
  /** Before the runtime does what ends a running container. */
  ends(device: SimDevice, uid: string, container: string, call: string): void;
  starts(device: SimDevice, uid: string, container: string, attempt: number): void;
  desired(device: SimDevice, generation: number): void;
}

export interface SimDeviceOptions {
  clock: VirtualClock;
  disk: SimDisk;
  network: SimNetwork;
  watchdog: Watchdog;
  /** Longest time that a call to the runtime takes, in ms. */
  runtimeMs: number;
  log(process: string): Log;
  problem(what: string): void;
  trace(line: string): void;
}

export interface Running {
  uid: string;
  pod: string;
  container: string;
  id: string;
  attempt: number;
}

export class SimDevice {
  readonly wall: WallClock = { offsetMs: 0 };
  /** The machine since its last boot: the runtime and all containers. */
  machine: SimProcess | undefined;
  agent: SimProcess | undefined;
  link: AgentLink | undefined;
  manager: PodManager | undefined;
  readonly runtime: FakeShim;
  readonly #specs = new Map<string, { uid: string; pod: string; sandbox: string; spec: ContainerSpec }>();
  readonly #sandboxes = new Map<string, { uid: string; pod: string }>();
  #parts: { stop(): Promise<void> }[] = [];
  readonly #seen = new Set<string>();
  #serial = 0;

  constructor(
    readonly name: string,
    readonly o: SimDeviceOptions,
  ) {
    const machine = () => this.machine!;
    // The runtime's object outlives power cuts, as its database does; its timers belong to the machine that set them.
    const clock: Clock = {
      now: () => o.clock.now() + this.wall.offsetMs,
      monotonic: () => o.clock.monotonic(),
      random: () => o.clock.random(),
      after: (ms, fn) => machine().after(ms, fn),
    };
    this.runtime = new FakeShim({ handler: 'oci', clock, pullMs: 800, runSandboxMs: 40 });
  }

  /** What this process of the agent told last of each pod. */
  readonly told = new Map<string, PodReport>();

  get dataDir(): string {
    return `/sim/${this.name}/data`;
  }

  get on(): boolean {
    return this.machine?.alive === true;
  }

  get agentUp(): boolean {
    return this.link !== undefined && this.agent?.alive === true;
  }

  /** Running containers, as the runtime knows them. */
  running(): Running[] {
    const out: Running[] = [];
    for (const [id, { uid, pod, spec }] of this.#specs)
      if (this.runtime.isRunning(id)) out.push({ uid, pod, container: spec.name, id, attempt: spec.attempt });
    return out;
  }

  /** The pod has been started since the last boot. */
  seen(uid: string): boolean {
    return this.#seen.has(uid);
  }

  boot(): void {
    this.#seen.clear();
    this.machine = new SimProcess(`${this.name}!${++this.#serial}`, this.o.clock, this.wall);
    this.o.trace(`boot ${this.machine.name}`);
    this.machine.run(() => void this.runtime.start());
    this.startAgent();
  }

  startAgent(): void {
    if (!this.on || this.agent?.alive) return;
    const agent = new SimProcess(`${this.name}#${++this.#serial}`, this.o.clock, this.wall);
    this.agent = agent;
    void this.machine!.died.then(() => agent.kill());
    this.o.trace(`start ${agent.name}`);
    agent.run(
      () =>
        void this.#start(agent).catch((e: Error) => {
          if (agent.alive) this.o.problem(`the agent of ${this.name} does not start: ${e.stack}`);
        }),
    );
  }

  async #start(agent: SimProcess): Promise<void> {
    const { dataDir, name } = this;
    const log = this.o.log(agent.name);
    const identity = loadIdentity(dataDir);
    if (!identity) throw new Error('it has lost its identity');
    const shims = new Map<string, Shim>([['oci', this.#door(agent)]]);
    let link: AgentLink | undefined;
    this.told.clear();
    const reporter: Reporter = {
      node: (r) => link?.node(r),
      pod: (r) => {
        this.told.set(r.uid, r);
        link?.pod(r);
      },
      event: (e) => link?.event(e),
    };
    const node = new NodeReporter({
      nodeName: name,
      shims,
      defaultHandler: 'oci',
      version: 'v1.36.0+sim',
      reporter,
      clock: agent,
      log,
      dataDir,
      address: () => '192.0.2.7',
      readings: () => ({
        memory: { available: 4e9, total: 8e9 },
        nodefs: { available: 6e9, total: 8e9 },
      }),
      facts: async () => ({
        architecture: 'arm64',
        operatingSystem: 'linux',
        osImage: 'Simulated',
        kernelVersion: '6',
        machineID: name,
        systemUUID: name,
        bootID: `${this.machine!.name}`,
        model: '',
        cpus: 4,
        memoryBytes: 8e9,
      }),
    });
    const manager = new PodManager({
      nodeName: name,
      shims,
      defaultHandler: 'oci',
      reporter,
      clock: agent,
      log,
      dataDir,
      hostIP: () => node.hostIP(),
      allocatable: () => node.allocatable(),
      resourcesForPods: () => node.resourcesForPods(),
      nodeMemoryBytes: 8e9,
      nodeUsage: () => ({ cpuNanos: agent.monotonic() * 1e6, memoryBytes: 1e9 }),
      mounter: noMounts,
      memoryDir: `/sim/${name}/run`,
    });
    link = new AgentLink({
      dataDir,
      identity,
      host: {
        setDesired: (d) => {
          this.o.watchdog.desired(this, d.generation);
          manager.setDesired(d);
        },
        logs: manager.logs.bind(manager),
        stats: manager.stats.bind(manager),
      },
      clock: agent,
      log,
      transport: this.o.network.transport(name, agent),
    });
    await node.start();
    await manager.start();
    link.start();
    this.link = link;
    this.manager = manager;
    this.#parts = [link as unknown as { stop(): Promise<void> }, manager, node];
    this.o.trace(`ready ${agent.name}`);
  }

  /** SIGTERM to the agent; containers go on. */
  async stopAgent(): Promise<void> {
    const { agent } = this;
    if (!agent?.alive) return;
    await agent.answer(
      agent.run(async () => {
        for (const p of this.#parts.splice(0)) await p.stop();
      }) ?? Promise.resolve(),
    );
    this.killAgent();
  }

  killAgent(): void {
    this.link = undefined;
    this.manager = undefined;
    this.#parts = [];
    this.agent?.kill();
  }

  powerCut(): void {
    this.o.network.hush(this.name);
    this.killAgent();
    this.machine?.kill();
    this.runtime.powerCut();
    this.o.disk.powerCut('/run');
  }

  /** The runtime as one agent process reaches it: over a socket, so each call takes time and may outlive its caller. */
  #door(agent: SimProcess): Shim {
    const machine = this.machine!;
    const { runtime, o } = this;
    const watch: Record<string, (...args: any[]) => void> = {
      startContainer: (id: string) => {
        const s = this.#specs.get(id);
        if (s) this.#seen.add(s.uid);
        if (s) o.watchdog.starts(this, s.uid, s.spec.name, s.spec.attempt);
      },
      stopContainer: (id: string) => this.#ends(id, 'stopContainer'),
      removeContainer: (id: string) => this.#ends(id, 'removeContainer'),
      stopSandbox: (id: string) => this.#endsSandbox(id, 'stopSandbox'),
      removeSandbox: (id: string) => this.#endsSandbox(id, 'removeSandbox'),
    };
    const note: Record<string, (answer: any, ...args: any[]) => void> = {
      runSandbox: (id: string, spec: { uid: string; name: string }) =>
        this.#sandboxes.set(id, { uid: spec.uid, pod: spec.name }),
      createContainer: (id: string, sandbox: string, spec: ContainerSpec) => {
        const s = this.#sandboxes.get(sandbox);
        if (!s) return;
        this.#specs.set(id, { ...s, sandbox, spec });
      },
    };
    const lag = () =>
      new Promise<void>((resolve) => void machine.after(machine.random() * o.runtimeMs, resolve));
    return new Proxy(runtime, {
      get: (target, name: string) => {
        if (name === 'handler') return target.handler;
        if (name === 'start' || name === 'stop') return async () => {};
        if (name === 'onEvent')
          return (listener: (e: object) => void) =>
            target.onEvent((e) => void machine.after(0, () => agent.run(() => listener(e))));
        const f = (target as unknown as Record<string, unknown>)[name];
        if (typeof f !== 'function') return f;
        return (...args: unknown[]) => {
          if (!agent.alive) return never();
          const work = machine.run(async () => {
            if (o.runtimeMs > 0 && watch[name]) await lag();
            watch[name]?.(...args);
            if (
              name !== 'list' &&
              name !== 'health' &&
              name !== 'stats' &&
              name !== 'listImages' &&
              name !== 'imageStatus'
            )
              o.trace(
                `runtime ${this.name} ${name} ${typeof args[0] === 'string' ? args[0].slice(0, 8) : ''}`,
              );
            const answer = await (f as (...a: unknown[]) => Promise<unknown>).apply(target, args);
            note[name]?.(answer, ...args);
            if (o.runtimeMs > 0 && watch[name]) await lag();
            return answer;
          });
          return agent.answer(work ?? never());
        };
      },
    }) as unknown as Shim;
  }

  #ends(id: string, call: string): void {
    const s = this.#specs.get(id);
    if (s && this.runtime.isRunning(id)) this.o.watchdog.ends(this, s.uid, s.spec.name, call);
  }

  #endsSandbox(id: string, call: string): void {
    for (const [cid, s] of this.#specs)
      if (s.sandbox === id && this.runtime.isRunning(cid))
        this.o.watchdog.ends(this, s.uid, s.spec.name, call);
  }
}
