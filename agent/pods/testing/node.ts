/** A node in a test: a manager and a scripted shim under a virtual clock, and what was reported. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type {
  ConfigMap,
  Container,
  Pod,
  PodStatus,
  Secret,
  ServiceAccount,
} from 'kubernetes-types/core/v1.js';
import { silentLog } from '../../../api/log.js';
import { VirtualClock } from '../../../api/testing/virtual-clock.js';
import type { AgentEvent, DesiredSet, NodeReport, PodReport } from '../../../api/wire/desired.js';
import { type FakeOptions, type FakeScript, FakeShim, SCRIPT_ANNOTATION } from '../../../shims/fake/fake.js';
import type { Shim } from '../../../shims/shim.js';
import type { Mounter } from '../../volumes/mounts.js';
import { PodManager, type PodManagerOptions } from '../manager.js';

/** As a user without the right to mount. */
export const noMounts: Mounter = {
  usable: false,
  tmpfs: async () => {},
  bind: async () => {},
  unmount: async () => {},
  below: () => [],
};

/** The shim with some methods replaced, e.g. to fail. */
export const override = (shim: Shim, methods: Partial<Shim>): Shim =>
  new Proxy(shim, {
    get: (target, name: keyof Shim) => {
      const f = methods[name] ?? target[name];
      return typeof f === 'function' && f === target[name]
        ? (f as (...a: unknown[]) => unknown).bind(target)
        : f;
    },
  });

let serial = 0;

/** A pod of these containers; `scripts` says what each does. */
export function pod(
  name: string,
  containers: (Partial<Container> & { script?: FakeScript })[],
  spec: Partial<NonNullable<Pod['spec']>> & { init?: (Partial<Container> & { script?: FakeScript })[] } = {},
): Pod {
  const { init, ...rest } = spec;
  const annotations: Record<string, string> = {};
  const made = (list: typeof containers, prefix: string) =>
    list.map(({ script, ...c }, i) => {
      const full = { name: `${prefix}${i}`, image: 'example.test/app:1', ...c } as Container;
      if (script) annotations[SCRIPT_ANNOTATION + full.name] = JSON.stringify(script);
      return full;
    });
  const mains = made(containers, 'c');
  const inits = init && made(init, 'init');
  return {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: { name, namespace: 'default', uid: `uid-${name}-${serial++}`, annotations },
    spec: {
      containers: mains,
      ...(inits ? { initContainers: inits } : {}),
      terminationGracePeriodSeconds: 30,
      ...rest,
    },
  };
}

export class TestNode {
  readonly dir = mkdtempSync(join(tmpdir(), 'agent-pods-'));
  readonly clock = new VirtualClock();
  readonly events: AgentEvent[] = [];
  readonly reports: PodReport[] = [];
  readonly nodes: NodeReport[] = [];
  generation = 0;
  /** Desired sets say so: they come from the hub, or are only remembered. */
  confirmed = true;
  pods: Pod[] = [];
  configMaps: ConfigMap[] = [];
  secrets: Secret[] = [];
  serviceAccounts: ServiceAccount[] = [];
  shim!: FakeShim;
  manager!: PodManager;
  readonly #options: Partial<PodManagerOptions>;
  readonly #fake: Partial<FakeOptions>;
  /** Stands between manager and shim, e.g. to fail or to die at a call. */
  wrap: (s: Shim) => Shim = (s) => s;

  constructor(options: Partial<PodManagerOptions> = {}, fake: Partial<FakeOptions> = {}) {
    this.#options = options;
    this.#fake = fake;
  }

  /** A new agent process on the same disk and runtime. */
  async start(): Promise<this> {
    this.shim = new FakeShim({ clock: this.clock, dir: join(this.dir, 'shim'), ...this.#fake });
    await this.shim.start();
    const manager: PodManager = new PodManager({
      nodeName: 'n1',
      shims: new Map([['fake', this.wrap(this.shim)]]),
      defaultHandler: 'fake',
      reporter: {
        node: (r) => this.nodes.push(r),
        pod: (r) => {
          // What a dead agent still had in hand is heard by no one.
          if (this.manager === manager) this.reports.push(structuredClone(r));
        },
        event: (e) => this.events.push(e),
      },
      clock: this.clock,
      log: silentLog,
      dataDir: join(this.dir, 'data'),
      hostIP: () => '192.0.2.1',
      mounter: noMounts,
      memoryDir: undefined,
      ...this.#options,
    });
    this.manager = manager;
    this.apply();
    await this.manager.start();
    await this.settle();
    return this;
  }

  /** The agent dies; the workloads do not. */
  async stop(): Promise<void> {
    await this.manager.stop();
    await this.shim.stop();
  }

  async restart(): Promise<void> {
    await this.stop();
    await this.start();
  }

  async dispose(): Promise<void> {
    await this.stop();
    rmSync(this.dir, { recursive: true, force: true });
  }

  desired(): DesiredSet {
    return structuredClone({
      generation: ++this.generation,
      confirmed: this.confirmed,
      pods: this.pods,
      configMaps: this.configMaps,
      secrets: this.secrets,
      serviceAccounts: this.serviceAccounts,
    });
  }

  /** Adds pods, or takes them in the place of what has their uid. */
  apply(...pods: Pod[]): void {
    const uids = new Set(pods.map((p) => p.metadata?.uid));
    this.pods = [...this.pods.filter((p) => !uids.has(p.metadata?.uid)), ...pods];
    this.manager.setDesired(this.desired());
  }

  /** As the API does it: marked, and taken from the set when the agent says that it is gone. */
  remove(p: Pod, graceSeconds = 30): void {
    Object.assign(p.metadata!, {
      deletionTimestamp: new Date(this.clock.now()).toISOString(),
      deletionGracePeriodSeconds: graceSeconds,
    });
    this.manager.setDesired(this.desired());
  }

  /** Lets real I/O come to rest; operations that wait for the virtual clock are not waited for. */
  settle = async (): Promise<void> => {
    const begun = performance.now();
    let quiet = 0;
    while (quiet < 4 && performance.now() < begun + (this.shim.sleeping > 0 ? 10 : 200)) {
      await new Promise((resolve) => setImmediate(resolve));
      quiet = this.manager.idle ? quiet + 1 : 0;
    }
  };

  advance = (ms: number) => this.clock.advance(ms, this.settle);

  /** Moves time on in small steps until the condition holds. */
  async until(what: string, holds: () => boolean, maxMs = 900_000): Promise<void> {
    const end = this.clock.monotonic() + maxMs;
    const realEnd = performance.now() + 20_000;
    for (;;) {
      await this.settle();
      if (holds()) return;
      if (this.clock.monotonic() >= end || performance.now() > realEnd)
        throw new Error(
          `in vain: ${what}; last status: ${JSON.stringify(this.reports.at(-1)?.status, null, 1)}`,
        );
      await this.advance(100);
    }
  }

  status(p: Pod): PodStatus {
    const r = this.reports.filter((x) => x.uid === p.metadata!.uid).at(-1);
    if (!r) throw new Error(`nothing was reported of ${p.metadata!.name}`);
    return r.status;
  }

  phase = (p: Pod): string | undefined =>
    this.reports.filter((x) => x.uid === p.metadata!.uid).at(-1)?.status.phase;

  container(p: Pod, name = 'c0') {
    const s = this.reports.filter((x) => x.uid === p.metadata!.uid).at(-1)?.status;
    return [...(s?.containerStatuses ?? []), ...(s?.initContainerStatuses ?? [])].find(
      (c) => c.name === name,
    );
  }

  gone = (p: Pod): boolean => this.reports.some((r) => r.uid === p.metadata!.uid && r.gone);

  told = (reason: string): string[] => this.events.filter((e) => e.reason === reason).map((e) => e.message);
}
