/**
 * One run: a hub, a broker and some devices, a user who changes things, and faults, all drawn from one seed. Then the
 * faults stop, and what is there must become what is wanted. `run` never throws: it says what went wrong.
 */
import { createHash, generateKeyPairSync } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Deployment } from 'kubernetes-types/apps/v1.js';
import type { ConfigMap, Node, Pod, PodSpec, PodStatus, PodTemplateSpec } from 'kubernetes-types/core/v1.js';
import { saveIdentity } from '../../../agent/link/identity.js';
import { configMaps, deployments, nodes, pods } from '../../../api/kinds/index.js';
import type { Log } from '../../../api/log.js';
import { ApiError } from '../../../api/meta/errors.js';
import { seeded, VirtualClock } from '../../../api/testing/virtual-clock.js';
import { podReportText } from '../../../api/wire/held-reports.js';
import type { Client, Frozen } from '../../../hub/client.js';
import { createPki, nodeSubject, type Pki } from '../../../hub/pki/pki.js';
import { type FakeScript, SCRIPT_ANNOTATION } from '../../../shims/fake/fake.js';
import { SimDevice } from './device.js';
import { mountDisks, SimDisk } from './disk.js';
import { SimHub } from './hub.js';
import { Ledger, type Write } from './ledger.js';
import { CALM, SimNetwork, type Weather } from './network.js';
import { Dead, outside } from './process.js';
import { seedCrypto } from './random.js';

export interface RunResult {
  seed: number;
  problems: string[];
  /** SHA-256 of everything that happened, in order. */
  hash: string;
  /** The end of the trace. */
  tail: string[];
  steps: number;
  virtualMs: number;
  messages: number;
  writes: number;
}

export interface RunOptions {
  seed: number;
  /** Things that the user does and that go wrong; default 40. */
  steps?: number;
  /** Default: one to four, by the seed. */
  devices?: number;
  /** Told every line as it happens. */
  onTrace?: (line: string) => void;
}

/** What does not depend on the seed and takes long to make. */
export interface Keys {
  pki: Pki;
  identities: { cert: string; key: string }[];
}

const MAX_DEVICES = 4;
const TAIL = 400;
/** Of the event loop, between two timers. */
const MAX_TURNS = 3000;
const MINUTE = 60_000;
/** After so long what a pod needs is on disk. */
const SETTLED_MS = 10_000;
/** A device without a hub runs its pods again within this after a boot. */
const COME_BACK_MS = 3 * MINUTE;

/** Certificates for as many devices as a world may have. */
export async function makeKeys(devices = MAX_DEVICES): Promise<Keys> {
  const dir = mkdtempSync(join(tmpdir(), 'sim-pki-'));
  try {
    const pki = await createPki(dir, { localHosts: () => [] });
    const identities = [];
    for (let i = 1; i <= devices; i++) {
      const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
      const cert = await pki.issueClientCert({ ...nodeSubject(`pi${i}`), publicKey });
      identities.push({ cert, key: privateKey.export({ type: 'pkcs8', format: 'pem' }) as string });
    }
    // Hashes of items must be the same in every run, or replays would differ.
    return { pki: { ...pki, sign: (d) => pki.sign(d), deriveKey: () => Buffer.alloc(32, 7) }, identities };
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}

type Kind = 'steady' | 'slow' | 'crash' | 'once';

/** What a pod's one container does. */
const SCRIPTS: Record<Kind, FakeScript> = {
  steady: { log: ['up'] },
  slow: { startupMs: 3000, onTerm: { afterMs: 4000, exitCode: 0 } },
  crash: { runMs: 45_000, exitCode: 1 },
  once: { runMs: 20_000, exitCode: 0 },
};

/** The agent's part of a status. Times are translated on the way. */
const timeless = (uid: string, status: PodStatus): string =>
  podReportText(uid, status).replace(/"\d{4}-\d\d-\d\dT[\d:.]+Z"/g, '""');

/** Failed with its deleted node: a hub that dies before it removes the object may find the node back afterwards. */
const givenUp = (p: Frozen<Pod>): boolean =>
  p.status?.phase === 'Failed' && !!p.status.conditions?.some((c) => c.reason === 'DeletionByPodGC');

class World {
  readonly clock: VirtualClock;
  readonly #random: () => number;
  readonly disks = new Map<string, SimDisk>();
  readonly network: SimNetwork;
  readonly ledger: Ledger;
  readonly hub: SimHub;
  readonly devices: SimDevice[] = [];
  readonly problems: string[] = [];
  readonly #hash = createHash('sha256');
  readonly #tail: string[] = [];
  #lines = 0;
  steps = 0;
  #calm = false;
  /** Pods that somebody meant to end, or that have ended: what they run may be stopped. */
  readonly #doomed = new Set<string>();
  /** Pods whose objects may go while they still run: deleted by force, or with their node. */
  readonly #forced = new Set<string>();
  /** Pods that ended for good, as the hub knows. */
  readonly #finished = new Set<string>();
  readonly #nodeOf = new Map<string, string>();
  /** ConfigMaps that pods need. */
  readonly #configsOf = new Map<string, string[]>();
  /** Pods one of whose ConfigMaps was deleted while they ran: as in Kubernetes they cannot start again without. */
  readonly #bereft = new Set<string>();
  /** When, and by which agent, each pod's container was last started. */
  readonly #started = new Map<string, { at: number; agent: string }>();
  /** The last one that each device's agent was told. */
  readonly #generation = new Map<string, { agent: string; generation: number }>();
  readonly #embedded: boolean;
  readonly #roughness: number;
  #userBusy = 0;

  constructor(
    private readonly o: RunOptions,
    private readonly keys: Keys,
  ) {
    this.#random = seeded(o.seed * 2 + 1);
    this.clock = new VirtualClock({ seed: o.seed * 2 + 2 });
    const trace = (line: string) => this.trace(line);
    const problem = (what: string) => this.problem(what);
    this.network = new SimNetwork(this.clock, trace);
    this.ledger = new Ledger(problem, (w, acknowledged) => this.#written(w, acknowledged));
    this.#embedded = this.#chance(0.5);
    this.#roughness = this.#chance(0.25) ? 0 : this.#random();
    const diskMs = this.#chance(0.5) ? 0 : this.#pick([1, 10, 40]);
    this.hub = new SimHub({
      clock: this.clock,
      disk: this.#disk('hub', diskMs),
      network: this.network,
      ledger: this.ledger,
      pki: keys.pki,
      embedded: this.#embedded,
      compactBytes: this.#pick([20_000, 200_000, 8 << 20]),
      log: (process) => this.#log(process),
      problem,
      trace,
    });
    const runtimeMs = this.#pick([0, 20, 300]);
    const few = 1 + Math.floor(this.#random() * MAX_DEVICES);
    const count = o.devices ?? few;
    for (let i = 1; i <= count; i++)
      this.devices.push(
        new SimDevice(`pi${i}`, {
          clock: this.clock,
          disk: this.#disk(`pi${i}`, diskMs),
          network: this.network,
          runtimeMs,
          watchdog: {
            starts: (d, uid, container, attempt) => this.#starts(d, uid, container, attempt),
            ends: (d, uid, container, call) => this.#ends(d, uid, container, call),
            desired: (d, g) => this.#desired(d, g),
          },
          log: (process) => this.#log(process),
          problem,
          trace,
        }),
      );
    for (const d of this.disks.values()) d.onCrash = () => this.#crash(d.name);
  }

  #disk(name: string, ms: number): SimDisk {
    const disk = new SimDisk(name, {
      random: () => this.clock.random(),
      ...(ms > 0
        ? { pause: () => new Promise<void>((r) => void this.clock.after(this.clock.random() * ms, r)) }
        : {}),
    });
    this.disks.set(name, disk);
    return disk;
  }

  // --- telling ------------------------------------------------------------------------------------------------------

  trace(line: string): void {
    const text = `${(this.clock.monotonic() / 1000).toFixed(3)} ${line}`;
    this.#lines++;
    this.#hash.update(text).update('\n');
    this.#tail.push(text);
    if (this.#tail.length > 2 * TAIL) this.#tail.splice(0, TAIL);
    this.o.onTrace?.(text);
  }

  problem(what: string): void {
    this.trace(`PROBLEM ${what}`);
    if (this.problems.length < 20) this.problems.push(what);
  }

  #log(process: string): Log {
    const say = (level: string) => (fields: object, message: string) => {
      const { err, pod, node, key } = fields as Record<string, unknown>;
      const detail = [err instanceof Error ? err.message : err, pod, node, key].filter(Boolean).join(' ');
      this.trace(`log ${process} ${level} ${message} ${detail.slice(0, 200)}`);
      // What a program cannot have meant.
      const error = err instanceof Error ? err : undefined;
      if (
        error &&
        (error instanceof TypeError || error instanceof RangeError || error instanceof ReferenceError)
      )
        this.problem(`${process}: ${message}: ${error.stack}`);
    };
    const log: Log = {
      debug: () => {},
      info: () => {},
      warn: say('warn'),
      error: say('error'),
      child: () => log,
    };
    return log;
  }

  // --- chance -------------------------------------------------------------------------------------------------------

  #chance = (p: number): boolean => this.#random() < p;
  #below = (n: number): number => Math.floor(this.#random() * n);
  #pick<T>(list: readonly T[]): T {
    return list[this.#below(list.length)]!;
  }

  // --- invariants of every moment -----------------------------------------------------------------------------------

  #written(w: Write, acknowledged: boolean): void {
    if (w.key.includes('/configmaps/') && !w.value)
      for (const [uid, names] of this.#configsOf)
        if (names.some((name) => w.key.endsWith(`/${name}`))) this.#bereft.add(uid);
    if (!w.key.includes('/pods/')) return;
    const now = w.value as Pod | undefined;
    const before = w.before as Frozen<Pod> | undefined;
    const uid = now?.metadata?.uid ?? before?.metadata?.uid ?? '';
    const configs = (now?.spec?.volumes ?? []).flatMap((v) => v.configMap?.name ?? []);
    if (configs.length > 0) this.#configsOf.set(uid, configs);
    const phase = now?.status?.phase;
    if (!now || now.metadata?.deletionTimestamp || phase === 'Failed' || phase === 'Succeeded')
      this.#doomed.add(uid);
    const node = (now ?? before)?.spec?.nodeName;
    if (!acknowledged) return;
    this.trace(`store ${w.key} ${now ? (phase ?? '') : 'deleted'} ${now?.metadata?.resourceVersion ?? ''}`);
    if (phase === 'Succeeded') this.#finished.add(uid);
    if (node) {
      const was = this.#nodeOf.get(uid);
      if (was && was !== node) this.problem(`pod ${w.key} went from node ${was} to ${node}`);
      this.#nodeOf.set(uid, node);
    }
    if (now && before && (now.metadata?.generation ?? 0) < (before.metadata?.generation ?? 0))
      this.problem(`generation of ${w.key} went back`);
    if (now || !node || this.#forced.has(uid)) return;
    const device = this.devices.find((d) => d.name === node);
    const left = device?.running().filter((r) => r.uid === uid) ?? [];
    if (left.length > 0) this.problem(`pod ${w.key} was taken from the API while it still runs on ${node}`);
  }

  #starts(device: SimDevice, uid: string, container: string, attempt: number): void {
    this.trace(`starts ${device.name} ${uid.slice(0, 8)} ${container} ${attempt}`);
    for (const d of this.devices)
      for (const r of d.running())
        if (r.uid === uid && d !== device)
          this.problem(`pod ${r.pod} runs on ${d.name} and starts on ${device.name}`);
        else if (r.uid === uid && r.container === container && r.attempt !== attempt)
          this.problem(`container ${container} of pod ${r.pod} would run twice on ${d.name}`);
    this.#started.set(uid, { at: this.clock.monotonic(), agent: device.agent!.name });
    if (this.#finished.has(uid)) this.problem(`pod ${uid} on ${device.name} had succeeded and starts again`);
  }

  #ends(device: SimDevice, uid: string, container: string, call: string): void {
    this.trace(`ends ${device.name} ${uid.slice(0, 8)} ${container} ${call}`);
    if (!this.#doomed.has(uid))
      this.problem(
        `${call} of healthy container ${container} of pod ${uid} on ${device.name}, which nobody asked for`,
      );
  }

  #desired(device: SimDevice, generation: number): void {
    const agent = device.agent!.name;
    const last = this.#generation.get(device.name);
    if (last?.agent === agent && generation < last.generation)
      this.problem(`desired state of ${device.name} went back from ${last.generation} to ${generation}`);
    this.#generation.set(device.name, { agent, generation });
  }

  #bounds(): void {
    if (this.network.underway > 5000 + 20 * this.devices.length)
      this.problem(`${this.network.underway} messages on their way`);
    for (const d of this.devices) {
      const pods = d.running().length;
      const timers = d.agent?.timers ?? 0;
      if (timers > 200 + 40 * pods) this.problem(`the agent of ${d.name} holds ${timers} timers`);
      const sizes = d.link?.sizes();
      if (sizes && (sizes.events > 256 || sizes.batches > 4 || sizes.pods > 400))
        this.problem(`outbox of ${d.name}: ${JSON.stringify(sizes)}`);
    }
    const timers = this.hub.process?.timers ?? 0;
    if (timers > 2000 + 20 * this.devices.length) this.problem(`the hub holds ${timers} timers`);
  }

  // --- time ---------------------------------------------------------------------------------------------------------

  /** Lets everything happen that needs no time. */
  #settle = async (): Promise<void> => {
    let quiet = 0;
    const most = MAX_TURNS + 200 * this.devices.length;
    for (let i = 0; i < most && quiet < 2; i++) {
      const before = this.#activity();
      await new Promise<void>((resolve) => setImmediate(resolve));
      quiet = this.#activity() === before ? quiet + 1 : 0;
    }
    if (quiet < 2) throw new Error('something goes on and on without any time passing');
  };

  #activity(): number {
    let n = this.clock.set + this.network.carried + this.#lines;
    for (const d of this.disks.values()) n += d.operations;
    return n;
  }

  run(ms: number): Promise<void> {
    return this.clock.advance(ms, this.#settle);
  }

  // --- faults -------------------------------------------------------------------------------------------------------

  /** At a file operation, in the midst of whatever the process was doing. */
  #crash(name: string): void {
    const powerCut = this.clock.random() < 0.5;
    this.trace(`crash ${name} at a file operation${powerCut ? ', power cut' : ''}`);
    if (name === 'hub') this.#hubDown(powerCut ? 'powerCut' : 'kill');
    else {
      const d = this.devices.find((x) => x.name === name)!;
      if (powerCut) this.#cutPower(d);
      else this.#killAgent(d);
    }
  }

  #later(ms: number, what: () => void): void {
    this.clock.after(ms, () => outside(what));
  }

  #downtime = () =>
    this.clock.random() < 0.6 ? this.clock.random() * 5000 : this.clock.random() * 5 * MINUTE;

  #hubDown(how: 'kill' | 'powerCut'): void {
    if (!this.hub.process?.alive) return;
    this.trace(`hub ${how}`);
    this.hub[how]();
    this.#later(this.#downtime(), () => {
      if (!this.hub.process?.alive) this.hub.start();
    });
  }

  #killAgent(d: SimDevice): void {
    d.killAgent();
    this.#later(this.#downtime(), () => d.startAgent());
  }

  #cutPower(d: SimDevice): void {
    const own = d.agent?.alive ? this.#settledPods(d) : [];
    d.powerCut();
    // No battery behind its clock: it boots in 1970, or where it was shut down, until somebody tells it the time.
    const lost = this.clock.random() < 0.5;
    this.#later(this.#downtime(), () => {
      if (d.on) return;
      if (lost && !this.#calm) {
        d.wall.offsetMs = 10_000 - this.clock.now();
        this.#later(this.clock.random() * 10 * MINUTE, () => {
          d.wall.offsetMs = 0;
          this.trace(`clock of ${d.name} set right`);
        });
      }
      d.boot();
      this.#comesBack(d, own);
    });
  }

  /** Pods whose desired state the agent that runs now has had the time to put on disk. */
  #settledPods(d: SimDevice): string[] {
    return d
      .running()
      .filter((r) => {
        const s = this.#started.get(r.uid);
        return s && s.agent === d.agent?.name && this.clock.monotonic() - s.at > SETTLED_MS;
      })
      .map((r) => r.uid);
  }

  /** The device has all that it needs to run them again, with or without a hub. */
  #comesBack(d: SimDevice, uids: string[]): void {
    const { agent } = d;
    const disk = this.disks.get(d.name)!;
    const failures = disk.failures;
    this.#later(COME_BACK_MS, () => {
      if (d.agent !== agent || !agent?.alive || disk.failures !== failures) return;
      for (const uid of uids)
        if (!this.#doomed.has(uid) && !this.#bereft.has(uid) && !d.seen(uid))
          this.problem(`pod ${uid} did not come back on ${d.name} after a power cut`);
    });
  }

  readonly #faults: readonly [weight: number, name: string, fault: () => void][] = [
    [2, 'cut', () => this.network.cut(this.#pick(this.devices).name)],
    [2, 'hush', () => this.network.hush(this.#pick(this.devices).name)],
    [
      2,
      'partition',
      () => {
        const name = this.#chance(0.15) && !this.#embedded ? 'hub' : this.#pick(this.devices).name;
        this.network.partition(name);
        this.#later(this.#random() * 10 * MINUTE, () => this.network.heal(name));
      },
    ],
    [
      1,
      'broker restart',
      () => {
        if (this.#embedded || !this.network.up) return;
        this.network.stop();
        this.#later(this.#random() * MINUTE, () => this.network.start());
      },
    ],
    [3, 'hub kill', () => this.#hubDown('kill')],
    [2, 'hub power cut', () => this.#hubDown('powerCut')],
    [
      1,
      'hub restart',
      () =>
        void this.hub.stop().then(() =>
          this.#later(this.#downtime(), () => {
            if (!this.hub.process?.alive) this.hub.start();
          }),
        ),
    ],
    [3, 'agent kill', () => this.#killAgent(this.#pick(this.devices))],
    [
      1,
      'agent restart',
      () => {
        const d = this.#pick(this.devices);
        void d.stopAgent().then(() => this.#later(this.#downtime(), () => d.startAgent()));
      },
    ],
    [3, 'power cut', () => this.#cutPower(this.#pick(this.devices))],
    [
      3,
      'crash point',
      () => {
        const disk = this.#pick([...this.disks.values()]);
        disk.crashAfter = 1 + this.#below(this.#chance(0.5) ? 12 : 80);
      },
    ],
    [
      1,
      'clock jump',
      () => {
        const wall = this.#chance(0.3) ? this.hub.wall : this.#pick(this.devices).wall;
        wall.offsetMs =
          this.#pick([-1, 1]) * this.#random() * this.#pick([2 * MINUTE, 3_600_000, 30 * 86_400_000]);
        this.#later(this.#random() * 20 * MINUTE, () => {
          wall.offsetMs = 0;
        });
      },
    ],
    [
      1,
      'disk full',
      () => {
        const disk = this.#pick([...this.disks.values()]);
        disk.full = true;
        this.#later(this.#random() * 3 * MINUTE, () => {
          disk.full = false;
        });
      },
    ],
    [
      2,
      'weather',
      () => {
        const r = this.#roughness;
        const weather: Weather = {
          loss: this.#random() * 0.3 * r,
          double: this.#random() * 0.3 * r,
          overtake: this.#random() * 0.3 * r,
          delay: 5 + this.#random() * 800 * r,
        };
        this.network.weather = weather;
      },
    ],
  ];

  // --- the user -----------------------------------------------------------------------------------------------------

  #template(kind: Kind, config: string | undefined): PodTemplateSpec {
    const spec: PodSpec = {
      containers: [
        {
          name: 'app',
          image: 'example.test/app:1',
          ...(config ? { volumeMounts: [{ name: 'conf', mountPath: '/conf' }] } : {}),
        },
      ],
      terminationGracePeriodSeconds: this.#pick([2, 10, 30]),
      ...(config ? { volumes: [{ name: 'conf', configMap: { name: config } }] } : {}),
    };
    return {
      metadata: {
        labels: { kind },
        annotations: { [`${SCRIPT_ANNOTATION}app`]: JSON.stringify(SCRIPTS[kind]) },
      },
      spec,
    };
  }

  #config = () => (this.#chance(0.4) ? `c${this.#below(3)}` : undefined);
  #deployment = () => ({ namespace: 'default', name: `d${this.#below(4)}` });
  #pod = () => ({ namespace: 'default', name: `p${this.#below(6)}` });

  readonly #actions: readonly [weight: number, name: string, action: (c: Client) => Promise<unknown>][] = [
    [
      4,
      'create deployment',
      (c) => {
        const key = this.#deployment();
        const template = this.#template(
          this.#pick(['steady', 'steady', 'steady', 'slow', 'crash']),
          this.#config(),
        );
        template.metadata!.labels!['app'] = key.name;
        return c.create<Deployment>(deployments, {
          apiVersion: 'apps/v1',
          kind: 'Deployment',
          metadata: key,
          spec: { replicas: this.#below(5), selector: { matchLabels: { app: key.name } }, template },
        });
      },
    ],
    [
      4,
      'scale',
      (c) => c.patch<Deployment>(deployments, this.#deployment(), { spec: { replicas: this.#below(6) } }),
    ],
    [
      2,
      'roll out',
      (c) =>
        c.patch<Deployment>(deployments, this.#deployment(), {
          spec: { template: { metadata: { annotations: { change: String(this.steps) } } } },
        }),
    ],
    [
      2,
      'delete deployment',
      (c) =>
        c.delete(deployments, this.#deployment(), {
          propagationPolicy: this.#pick(['Background', 'Background', 'Foreground']),
        }),
    ],
    [
      4,
      'create pod',
      (c) => {
        const kind = this.#pick<Kind>(['steady', 'slow', 'crash', 'once']);
        const { metadata, spec } = this.#template(kind, this.#config());
        const restartPolicy = kind === 'once' ? this.#pick(['Never', 'OnFailure']) : 'Always';
        return c.create<Pod>(pods, {
          apiVersion: 'v1',
          kind: 'Pod',
          metadata: { ...this.#pod(), ...metadata },
          spec: { ...spec!, restartPolicy },
        });
      },
    ],
    [
      3,
      'delete pod',
      async (c) => {
        const all = (await c.list<Pod>(pods)).items;
        if (all.length === 0) return;
        const p = this.#pick(all);
        const { namespace, name, uid } = p.metadata!;
        const gracePeriodSeconds = this.#pick([undefined, undefined, 1, 20, 0]);
        if (gracePeriodSeconds === 0) this.#forced.add(uid!);
        await c.delete(pods, { namespace, name: name! }, { uid, gracePeriodSeconds });
      },
    ],
    [
      4,
      'config',
      (c) => {
        const key = { namespace: 'default', name: `c${this.#below(3)}` };
        const data = { value: `v${this.steps}` };
        return c
          .create<ConfigMap>(configMaps, { apiVersion: 'v1', kind: 'ConfigMap', metadata: key, data })
          .catch((e: unknown) => {
            if (!(e instanceof ApiError && e.reason === 'AlreadyExists')) throw e;
            return c.patch<ConfigMap>(configMaps, key, { data });
          });
      },
    ],
    [1, 'delete config', (c) => c.delete(configMaps, { namespace: 'default', name: `c${this.#below(3)}` })],
    [
      1,
      'cordon',
      (c) =>
        c.patch<Node>(
          nodes,
          { name: this.#pick(this.devices).name },
          { spec: { unschedulable: this.#chance(0.5) } },
        ),
    ],
    [
      1,
      'delete node',
      async (c) => {
        const { name } = this.#pick(this.devices);
        for (const p of (await c.list<Pod>(pods)).items)
          if (p.spec?.nodeName === name) this.#forced.add(p.metadata!.uid!);
        await c.delete(nodes, { name });
      },
    ],
  ];

  /** As a client at the hub's door; the answer of a hub that dies is lost. */
  #act(name: string, action: (c: Client) => Promise<unknown>): void {
    const { client, process } = this.hub;
    if (!client || !process?.alive) return;
    this.trace(`user ${name}`);
    this.#userBusy++;
    const work = process.run(() => action(client)) ?? Promise.resolve();
    void Promise.race([work, process.died])
      .then(
        () => this.trace(`user ${name}: done`),
        (e: unknown) => {
          if (e instanceof Dead) return;
          const message = (e as Error).message.replace(/\s+/g, ' ').slice(0, 160);
          this.trace(`user ${name}: ${message}`);
          if (!(e instanceof ApiError)) this.problem(`user ${name}: ${(e as Error).stack}`);
        },
      )
      .finally(() => this.#userBusy--);
  }

  #draw<T>(table: readonly [weight: number, name: string, it: T][]): { name: string; it: T } {
    let at = this.#random() * table.reduce((n, [w]) => n + w, 0);
    for (const [w, name, it] of table) {
      at -= w;
      if (at <= 0) return { name, it };
    }
    const [, name, it] = table[0]!;
    return { name, it };
  }

  // --- the run ------------------------------------------------------------------------------------------------------

  async start(): Promise<void> {
    for (const [i, d] of this.devices.entries()) {
      const disk = this.disks.get(d.name)!;
      disk.mkdir('/data', true);
      disk.mkdir('/run', true);
      const { cert, key } = this.keys.identities[i]!;
      const f = disk.make('/data/node.key', 'file', 0o600);
      f.data = Buffer.from(key);
      saveIdentity(d.dataDir, {
        cert,
        ca: this.keys.pki.caPem,
        signingKey: this.keys.pki.signingPublicKey.toString('base64'),
        addresses: ['hub:8883'],
      });
      disk.settle();
    }
    this.disks.get('hub')!.mkdir('/', true);
    this.hub.start();
    for (const d of this.devices) d.boot();
    await this.run(10_000);
  }

  async disturb(): Promise<void> {
    const { steps = 40 } = this.o;
    for (this.steps = 1; this.steps <= steps && this.problems.length === 0; this.steps++) {
      if (this.#chance(0.6)) {
        const { name, it } = this.#draw(this.#actions);
        this.#act(name, it);
      } else {
        const { name, it } = this.#draw(this.#faults);
        this.trace(`fault ${name}`);
        it();
      }
      const luck = this.#random();
      await this.run(
        luck < 0.3
          ? this.#random() * 100
          : luck < 0.85
            ? this.#random() * 15_000
            : this.#random() * 6 * MINUTE,
      );
      this.#bounds();
    }
  }

  /** Faults stop; everything is switched on. */
  async calmDown(): Promise<void> {
    this.trace('calm');
    this.#calm = true;
    this.network.weather = CALM;
    for (const d of this.disks.values()) {
      d.full = false;
      d.crashAfter = Number.POSITIVE_INFINITY;
    }
    // What faults began ends by itself, within this time.
    await this.run(20 * MINUTE);
    this.network.heal();
    if (!this.network.up && !this.#embedded) this.network.start();
    if (!this.hub.process?.alive) this.hub.start();
    this.hub.wall.offsetMs = 0;
    for (const d of this.devices) {
      d.wall.offsetMs = 0;
      if (!d.on) d.boot();
      else d.startAgent();
    }
    await this.run(MINUTE);
    const { client, process } = this.hub;
    if (!client || !process) {
      this.problem('the hub is not ready a minute after its start');
      return;
    }
    const work = process.run(async () => {
      for (let i = 0; i < 3; i++)
        await client
          .create<ConfigMap>(configMaps, {
            apiVersion: 'v1',
            kind: 'ConfigMap',
            metadata: { namespace: 'default', name: `c${i}` },
            data: { value: 'last' },
          })
          .catch(() => {});
      for (const n of (await client.list<Node>(nodes)).items)
        if (n.spec?.unschedulable)
          await client.patch<Node>(nodes, { name: n.metadata!.name! }, { spec: { unschedulable: false } });
      // A node that was deleted comes back with its next connection, not before.
      const known = new Set((await client.list<Node>(nodes)).items.map((n) => n.metadata!.name));
      for (const d of this.devices) if (!known.has(d.name)) this.network.cut(d.name);
    });
    work?.catch((e: Error) => this.problem(`the last changes were refused: ${e.stack}`));
    await this.run(10_000);
  }

  async converge(): Promise<void> {
    let left = ['not looked yet'];
    // First what backoffs need; then the hourly comparison of digests, which is the last resort.
    for (const chunk of [...Array<number>(30).fill(30_000), ...Array<number>(10).fill(15 * MINUTE)]) {
      await this.run(chunk);
      this.#bounds();
      left = await this.#unlike();
      if (left.length === 0 || this.problems.length > 0) break;
    }
    for (const l of left) this.problem(`never converged: ${l}`);
  }

  /** In what the world is not as it should be. */
  async #unlike(): Promise<string[]> {
    const { client, link } = this.hub;
    if (!client || !link) return ['the hub is down'];
    const out: string[] = [];
    const all = (await client.list<Pod>(pods)).items;
    const maps = new Map((await client.list<ConfigMap>(configMaps)).items.map((m) => [m.metadata!.name, m]));
    const known = (await client.list<Node>(nodes)).items;
    for (const d of this.devices) {
      const n = known.find((x) => x.metadata?.name === d.name);
      const ready = n?.status?.conditions?.find((c) => c.type === 'Ready')?.status;
      if (ready !== 'True') out.push(`node ${d.name} is ${ready ?? 'not there'}`);
      if (!link.isLinked(d.name)) out.push(`node ${d.name} is not linked`);
      if (!d.link?.idle) out.push(`the agent of ${d.name} still has something to say`);
      const here = all.filter((p) => p.spec?.nodeName === d.name);
      const running = d.running();
      for (const r of running)
        if (!here.some((p) => p.metadata?.uid === r.uid))
          out.push(`${d.name} runs ${r.pod}, which is not in the API`);
      for (const p of here) {
        out.push(...this.#podUnlike(d, p, maps));
        const told = d.told.get(p.metadata!.uid!);
        if (told && timeless(told.uid, told.status) !== timeless(told.uid, p.status as PodStatus))
          out.push(`pod ${p.metadata!.name} on ${d.name} is not what its agent told last`);
      }
      let debris = 0;
      const uids = new Set(here.map((p) => p.metadata!.uid!));
      for (const { path } of this.disks.get(d.name)!.walk('/data')) {
        const uid =
          /^\/data\/pods\/([^/]+)$/.exec(path)?.[1] ?? /^\/data\/logs\/[^/]*_([^_/]+)$/.exec(path)?.[1];
        if (uid && !uids.has(uid)) out.push(`${d.name} keeps ${path}, of a pod that is gone`);
        if (path.endsWith('.tmp')) debris++;
      }
      // At most one for each file that is ever replaced: the next write takes it along.
      if (debris > 3 + here.length) out.push(`${d.name} keeps ${debris} unfinished files`);
    }
    for (const p of all) {
      const { name, deletionTimestamp } = p.metadata!;
      if (deletionTimestamp) out.push(`pod ${name} is still terminating`);
      if (!p.spec?.nodeName) out.push(`pod ${name} is not scheduled`);
    }
    for (const d of (await client.list<Deployment>(deployments)).items) {
      const { name, generation, deletionTimestamp } = d.metadata!;
      const want = d.spec?.replicas ?? 1;
      const s = d.status ?? {};
      const crashing = d.spec?.template.metadata?.labels?.['kind'] === 'crash';
      if (deletionTimestamp) out.push(`deployment ${name} is still being deleted`);
      if (s.observedGeneration !== generation)
        out.push(`deployment ${name} is observed at ${s.observedGeneration} of ${generation}`);
      if (crashing) continue;
      if ((s.replicas ?? 0) !== want || (s.updatedReplicas ?? 0) !== want || (s.readyReplicas ?? 0) !== want)
        out.push(
          `deployment ${name} has ${s.readyReplicas ?? 0} ready, ${s.updatedReplicas ?? 0} new of ${s.replicas ?? 0}, wanted ${want}`,
        );
      const owned = all.filter((p) => p.metadata?.labels?.['app'] === name && !givenUp(p)).length;
      if (owned !== want) out.push(`deployment ${name} has ${owned} pods, wanted ${want}`);
    }
    return out;
  }

  #podUnlike(d: SimDevice, p: Frozen<Pod>, maps: Map<string | undefined, Frozen<ConfigMap>>): string[] {
    const out: string[] = [];
    const { name, uid } = p.metadata!;
    const kind = p.metadata?.labels?.['kind'] as Kind;
    const running = d.running().filter((r) => r.uid === uid);
    const [status] = p.status?.containerStatuses ?? [];
    const phase = p.status?.phase;
    if (kind === 'once') {
      if (phase !== 'Succeeded' && phase !== 'Failed')
        out.push(`pod ${name} on ${d.name} is ${phase}, should have ended`);
      if (running.length > 0) out.push(`pod ${name} on ${d.name} has ended and runs`);
      return out;
    }
    if (givenUp(p)) {
      if (running.length > 0) out.push(`pod ${name} on ${d.name} was given up and runs`);
      return out;
    }
    if (phase !== 'Running') out.push(`pod ${name} on ${d.name} is ${phase}`);
    if (kind === 'crash') return out;
    if (running.length !== 1) out.push(`pod ${name} runs ${running.length} containers on ${d.name}`);
    if (!status?.ready) out.push(`pod ${name} on ${d.name} is not ready`);
    const [r] = running;
    if (r && !status?.containerID?.endsWith(r.id))
      out.push(`pod ${name} shows container ${status?.containerID}, it is ${r.id}`);
    if (r && status?.restartCount !== r.attempt)
      out.push(`pod ${name} shows ${status?.restartCount} restarts, it had ${r.attempt}`);
    for (const v of p.spec?.volumes ?? []) {
      const want = maps.get(v.configMap?.name)?.data?.['value'];
      const have = this.disks.get(d.name)!.text(`/data/pods/${uid}/volumes/configMap/${v.name}/value`);
      if (v.configMap && want !== have)
        out.push(`pod ${name} on ${d.name} reads ${have} in ${v.configMap.name}, it is ${want}`);
    }
    return out;
  }

  result(): RunResult {
    return {
      seed: this.o.seed,
      problems: this.problems,
      hash: this.#hash.digest('hex'),
      tail: this.#tail.slice(-TAIL),
      steps: this.steps - 1,
      virtualMs: this.clock.monotonic(),
      messages: this.network.carried,
      writes: this.ledger.writes,
    };
  }

  end(): void {
    this.hub.kill();
    for (const d of this.devices) {
      d.killAgent();
      d.machine?.kill();
    }
  }
}

/** One at a time in a process: it takes over `node:fs` below /sim and the random numbers of `node:crypto`. */
export async function simulate(options: RunOptions, keys: Keys): Promise<RunResult> {
  const world = new World(options, keys);
  const unmount = mountDisks(world.disks);
  const unseed = seedCrypto(seeded(options.seed * 2 + 3));
  const rejected = (e: unknown) => {
    if (!(e instanceof Dead)) world.problem(`unhandled rejection: ${(e as Error)?.stack ?? String(e)}`);
  };
  process.on('unhandledRejection', rejected);
  try {
    await world.start();
    await world.disturb();
    if (world.problems.length === 0) await world.calmDown();
    if (world.problems.length === 0) await world.converge();
  } catch (e) {
    world.problem(`the simulation broke: ${(e as Error).stack}`);
  } finally {
    world.end();
    await new Promise<void>((resolve) => setImmediate(resolve));
    process.off('unhandledRejection', rejected);
    unseed();
    unmount();
  }
  return world.result();
}
