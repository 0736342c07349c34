import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { constants, existsSync } from 'node:fs';
import { chmod, mkdir, open, readdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { dirname, join } from 'node:path';
import type { Duplex } from 'node:stream';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import type { Clock } from '../../api/clock.js';
import type { Log } from '../../api/log.js';
import type { HubAccess } from '../images/hub-agent.js';
import type { WasmImage, WasmImages } from '../images/image.js';
import type {
  ContainerSpec,
  ContainerStats,
  ContainerStatus,
  ImageAuth,
  ImageStatus,
  SandboxSpec,
  SandboxStatus,
  Shim,
  ShimEvent,
  ShimHealth,
} from '../shim.js';
import { ShimError } from '../shim.js';
import { type Cgroups, detectCgroups } from './cgroup.js';
import { EXIT, type HostSpec } from './host/spec.js';
import { inspectModule } from './module.js';
import { type JailMount, layOut, system, type Volume, writable, writePlan } from './plan.js';
import { bootId, isAlive, processStats } from './process.js';
import { hubRequest, TranspiledCache } from './transpiled.js';

export interface WasmShimOptions {
  /** The shim's own directory; only this process writes there. */
  dataDir: string;
  images: WasmImages;
  log: Log;
  clock: Clock;
  /** Run pods even where they cannot be jailed (`--wasm-allow-unjailed`). */
  allowUnjailed?: boolean;
  /** The hub that prepares components, undefined until the node has joined. */
  hub?: () => HubAccess | undefined;
  /** Where components become what the host runs; by default the hub. With neither, components are refused. */
  transpiled?: TranspiledComponents;
  /** `off` does without the jail although it would work (needs allowUnjailed). */
  jail?: 'auto' | 'off';
  /** First of the 65,536 user ids given to pods; by default a range of its own for each dataDir. */
  uidBase?: number;
  /** Changes with every boot of the machine; by default the kernel's. */
  bootId?: () => string;
  /** Where the host program and jail.pl lie; by default beside this file. */
  programs?: string;
}

/** Gives the runnable form of components; made once per digest, never on the device. */
export interface TranspiledComponents {
  /** Path of the runnable form on disk. Rejects with ShimError. */
  get(image: WasmImage): Promise<string>;
}

/** What a container's memory limit does not count: V8 and the host program. */
const HOST_MEMORY = 64 << 20;
const PAGE = 65_536;
const LOG_MAX_BYTES = 16 << 20;
const MAX_PIDS = 64;
const UIDS = 65_536;
/** How long a start may be silent before it has failed. */
const START_TIMEOUT_MS = 30_000;
/** When a CPU quota begins, after the start that needs more for a moment. */
const QUOTA_AFTER_MS = 500;
/** Mounted where the network was granted. */
const NETWORK_FILES = [
  '/etc/hosts',
  '/etc/resolv.conf',
  '/etc/nsswitch.conf',
  '/etc/ssl/certs/ca-certificates.crt',
];
const RLIMIT = { data: 2, core: 4, nproc: 6, nofile: 7 };
/** With `--max-semi-space-size=1` (MiB) and friends a pod takes a third less; see docs/decisions on the wasm shim. */
const NODE_FLAGS = [
  // Node 20: a collection inside a V8 fast API call kills the process.
  '--no-turbo-fast-api-calls',
  '--max-semi-space-size=1',
  '--v8-pool-size=1',
  '--no-warnings',
];

interface Sandbox {
  id: string;
  spec: SandboxSpec;
  createdAt: number;
  uid: number;
  stopped: boolean;
}

/** Kept in `container.json`; what changes later is told by the files `pid` and `exit` beside it. */
interface ContainerRecord {
  id: string;
  sandboxId: string;
  createdAt: number;
  spec: ContainerSpec;
  argv: string[];
  imageEnv: string[];
  modulePath: string;
  kind: 'module' | 'component';
}

interface Container {
  record: ContainerRecord;
  dir: string;
  state: 'created' | 'running' | 'exited';
  startedAt: number;
  finishedAt: number;
  exitCode: number;
  reason: string;
  message: string;
  /** While it runs. */
  supervisor?: Process;
  guest?: Process;
  starting?: Promise<void>;
  /** Resolves when it has ended. */
  ended: Promise<void>;
  markEnded: () => void;
}

interface Process {
  pid: number;
  startTime: string;
}

const run = promisify(execFile);
const here = dirname(fileURLToPath(import.meta.url));
const hash = (...parts: unknown[]): string =>
  createHash('sha256').update(parts.join('\0')).digest('hex').slice(0, 32);
const text = (e: unknown): string => (e instanceof Error ? e.message : String(e));

/**
 * WebAssembly on V8: each container is a Node process of its own that runs one host program, in a kernel jail that
 * holds nothing but node, that program, the module and the container's volumes (jail.pl builds it and stays as the
 * container's supervisor). A guest has no signals, so that stopping one means to kill it, whatever the grace.
 */
export class WasmShim implements Shim {
  readonly handler = 'wasm';
  readonly #o: WasmShimOptions;
  readonly #transpiled: TranspiledComponents | undefined;
  readonly #log: Log;
  readonly #sandboxes = new Map<string, Sandbox>();
  readonly #containers = new Map<string, Container>();
  readonly #listeners = new Set<(e: ShimEvent) => void>();
  readonly #bootId: () => string;
  #cgroups: Cgroups | undefined;
  #programs = '';
  #libraries: JailMount[] = [];
  #jailed = false;
  /** Why pods cannot be jailed, or cannot run at all. */
  #unjailedBecause = '';
  #broken = '';
  #cancelPoll: () => void = () => {};
  #started = false;

  constructor(options: WasmShimOptions) {
    this.#o = options;
    const { hub, dataDir, clock } = options;
    this.#transpiled =
      options.transpiled ?? (hub && new TranspiledCache(join(dataDir, 'transpiled'), hubRequest(hub, clock)));
    this.#log = options.log.child({ shim: 'wasm' });
    this.#bootId = options.bootId ?? bootId;
  }

  async start(): Promise<void> {
    if (this.#started) return;
    this.#started = true;
    const { dataDir } = this.#o;
    for (const d of ['sandboxes', 'containers', 'root'])
      await mkdir(join(dataDir, d), { recursive: true, mode: 0o700 });
    await this.#o.images.start();
    try {
      this.#programs = this.#o.programs ?? findPrograms();
      this.#libraries = await libraries();
      this.#cgroups = await detectCgroups(`coxswain/${hash(dataDir).slice(0, 8)}`);
      await this.#probe();
    } catch (e) {
      this.#broken = text(e);
    }
    await this.#recover();
    this.#poll();
  }

  async stop(): Promise<void> {
    this.#started = false;
    this.#cancelPoll();
    this.#listeners.clear();
    await this.#cgroups?.close();
  }

  onEvent(listener: (e: ShimEvent) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  #tell(e: ShimEvent): void {
    for (const listener of this.#listeners) {
      try {
        listener(e);
      } catch (error) {
        this.#log.error({ err: text(error) }, 'a listener failed');
      }
    }
  }

  // -- health ---------------------------------------------------------------------------------------------------

  /** Runs an empty program in the jail: what the kernel lets us do is known only by doing it. */
  async #probe(): Promise<void> {
    if (this.#o.jail === 'off') {
      this.#unjailedBecause = 'the jail is switched off';
      return;
    }
    if (process.getuid?.() !== 0) {
      this.#unjailedBecause = 'the agent does not run as root; run it as root to jail pods';
      return;
    }
    const dir = join(this.#o.dataDir, 'probe');
    await rm(dir, { recursive: true, force: true });
    await mkdir(dir, { recursive: true, mode: 0o700 });
    try {
      await writeFile(join(dir, 'spec.json'), '{}');
      const plan = this.#plan(dir, this.#uidBase(), [], {
        command: ['/bin/node', '-e', ''],
        mounts: this.#libraries,
        hostname: 'probe',
        jailed: true,
      });
      await writeFile(join(dir, 'plan'), writePlan(plan));
      const child = this.#spawn(dir);
      const ended = new Promise<void>((resolve) => child.once('exit', () => resolve()));
      await this.#whenStarted(child);
      child.ref();
      await ended;
      const [code] = (await readFile(join(dir, 'exit'), 'utf8')).split(' ');
      if (code !== '0') {
        const why = (await readFile(join(dir, 'message'), 'utf8').catch(() => '')).slice(0, 500);
        throw new Error(`node does not run in the jail: exit code ${code} ${why}`);
      }
      this.#jailed = true;
    } catch (e) {
      this.#unjailedBecause = `this machine cannot jail pods (${text(e)}); it needs root, namespaces, seccomp and Linux 5.12 or newer`;
    } finally {
      await rm(dir, { recursive: true, force: true });
    }
  }

  async health(): Promise<ShimHealth> {
    const v8 = `v8://${process.versions.v8}`;
    const sandboxed = this.#jailed;
    const ready = this.#broken === '' && (sandboxed || this.#o.allowUnjailed === true);
    const remedy =
      'start the agent with --wasm-allow-unjailed to run them all the same, if you trust every module';
    const message = this.#broken
      ? this.#broken
      : sandboxed
        ? `each pod in a jail of its own${this.#cgroups?.hasMemory ? '' : '; no memory cgroup, so that memory limits are held by rlimits (on a Raspberry Pi add cgroup_enable=memory to the kernel command line)'}`
        : `${this.#unjailedBecause}${this.#o.allowUnjailed ? '' : `; ${remedy}`}`;
    return {
      ready,
      message,
      runtimeVersion: v8,
      conditions: [
        {
          type: 'WasmSandboxed',
          status: sandboxed ? 'True' : 'False',
          reason: sandboxed ? 'Jailed' : 'CannotJail',
          message,
        },
      ],
      labels: { 'coxswain.dev/wasm-sandboxed': String(sandboxed) },
      podNetwork: false,
    };
  }

  // -- images ---------------------------------------------------------------------------------------------------

  async imageStatus(image: string): Promise<ImageStatus | undefined> {
    const found = await this.#o.images.get(image);
    return found && this.#imageStatus(found);
  }

  async pullImage(image: string, auth?: ImageAuth, signal?: AbortSignal): Promise<ImageStatus> {
    return this.#imageStatus(
      await this.#o.images.pull(image, { ...(auth ? { auth } : {}), ...(signal ? { signal } : {}) }),
    );
  }

  async listImages(): Promise<ImageStatus[]> {
    return (await this.#o.images.list()).map((i) => this.#imageStatus(i));
  }

  async removeImage(ref: string): Promise<void> {
    await this.#o.images.remove(ref);
  }

  /** Pods never run as root unless they ask for it: without a user of its own the image counts as one of ours. */
  #imageStatus(i: WasmImage): ImageStatus {
    const user = i.user?.split(':')[0] ?? '';
    return {
      ref: i.ref,
      repoDigests: i.repoDigests,
      sizeBytes: i.sizeBytes,
      ...(user === '' || /^\d+$/.test(user)
        ? { uid: user === '' ? this.#uidBase() : Number(user) }
        : { username: user }),
    };
  }

  // -- sandboxes ------------------------------------------------------------------------------------------------

  #uidBase(): number {
    if (this.#o.uidBase !== undefined) return this.#o.uidBase;
    // Two agents on one machine must not share ids: one of 1,000 ranges above those that distributions give out.
    const range = Number.parseInt(hash(this.#o.dataDir).slice(0, 8), 16) % 1000;
    return 600_000_000 + range * UIDS;
  }

  #freeUid(): number {
    const used = new Set([...this.#sandboxes.values()].map((s) => s.uid));
    // The first is the probe's.
    for (let uid = this.#uidBase() + 1; uid < this.#uidBase() + UIDS; uid++) if (!used.has(uid)) return uid;
    throw new ShimError('CreatePodSandboxError', 'no free user id: too many wasm pods on this node');
  }

  async runSandbox(spec: SandboxSpec): Promise<string> {
    const id = hash('sandbox', spec.uid, spec.attempt);
    const old = this.#sandboxes.get(id);
    if (old && !old.stopped) return id;
    if (this.#broken) throw new ShimError('RuntimeUnavailable', this.#broken);
    if (!this.#jailed && !this.#o.allowUnjailed)
      throw new ShimError('RuntimeUnavailable', (await this.health()).message);
    void this.#cgroups?.hasten();
    const s: Sandbox = { id, spec, createdAt: this.#o.clock.now(), uid: this.#freeUid(), stopped: false };
    this.#sandboxes.set(id, s);
    try {
      await this.#saveSandbox(s);
    } catch (e) {
      this.#sandboxes.delete(id);
      throw new ShimError('CreatePodSandboxError', `cannot keep the sandbox's state: ${text(e)}`, {
        cause: e,
      });
    }
    this.#tell({ sandboxId: id });
    return id;
  }

  async #saveSandbox(s: Sandbox): Promise<void> {
    await writeAtomically(join(this.#o.dataDir, 'sandboxes', `${s.id}.json`), JSON.stringify(s));
  }

  async stopSandbox(sandboxId: string): Promise<void> {
    const s = this.#sandboxes.get(sandboxId);
    if (!s) return;
    await Promise.all(this.#of(sandboxId).map((c) => this.stopContainer(c.record.id, 0)));
    if (s.stopped) return;
    s.stopped = true;
    await this.#saveSandbox(s);
    this.#tell({ sandboxId });
  }

  async removeSandbox(sandboxId: string): Promise<void> {
    await this.stopSandbox(sandboxId);
    await Promise.all(this.#of(sandboxId).map((c) => this.removeContainer(c.record.id)));
    if (!this.#sandboxes.delete(sandboxId)) return;
    await rm(join(this.#o.dataDir, 'sandboxes', `${sandboxId}.json`), { force: true });
    this.#tell({ sandboxId });
  }

  #of(sandboxId: string): Container[] {
    return [...this.#containers.values()].filter((c) => c.record.sandboxId === sandboxId);
  }

  // -- containers -----------------------------------------------------------------------------------------------

  async createContainer(sandboxId: string, spec: ContainerSpec): Promise<string> {
    const sandbox = this.#sandboxes.get(sandboxId);
    const refuse = (why: string, cause?: unknown): never => {
      throw new ShimError('CreateContainerError', why, { cause });
    };
    if (!sandbox || sandbox.stopped)
      return refuse(`sandbox ${sandboxId} of container "${spec.name}" is not there`);
    const id = hash('container', sandboxId, spec.name, spec.attempt);
    if (this.#containers.has(id)) return id;
    const image = await this.#o.images.get(spec.imageRef);
    if (!image) return refuse(`image "${spec.image}" (${spec.imageRef}) is not present`);
    const facts = await inspectModule(image.modulePath).catch((e) =>
      refuse(`image "${spec.image}": ${text(e)}`, e),
    );
    if (facts.problem) return refuse(`image "${spec.image}" ${facts.problem}`);
    let modulePath = image.modulePath;
    if (facts.kind === 'component') {
      if (!this.#transpiled)
        return refuse(
          `image "${spec.image}" is a component, and this agent has no hub to prepare components`,
        );
      modulePath = await this.#transpiled.get(image);
    }
    for (const m of spec.mounts)
      if (!existsSync(m.hostPath))
        refuse(`volume of container "${spec.name}": mount source "${m.hostPath}" does not exist`);
    const command = spec.command?.length
      ? spec.command
      : image.entrypoint?.length
        ? image.entrypoint
        : undefined;
    const name = `${image.ref.replace(/@.*$/, '').split('/').pop()!.split(':')[0]}.wasm`;
    const args = spec.args ?? (spec.command?.length ? [] : (image.cmd ?? []));
    const workingDir = spec.workingDir || image.workingDir;
    const record: ContainerRecord = {
      id,
      sandboxId,
      createdAt: this.#o.clock.now(),
      spec: { ...spec, ...(workingDir ? { workingDir } : {}) },
      argv: [...(command ?? [name]), ...args],
      imageEnv: image.env ?? [],
      modulePath,
      kind: facts.kind,
    };
    const dir = join(this.#o.dataDir, 'containers', id);
    try {
      await mkdir(dir, { recursive: true, mode: 0o700 });
      await writeAtomically(join(dir, 'container.json'), JSON.stringify(record));
    } catch (e) {
      return refuse(`cannot keep the state of container "${spec.name}": ${text(e)}`, e);
    }
    this.#containers.set(id, newContainer(record, dir));
    this.#tell({ sandboxId, containerId: id });
    return id;
  }

  async startContainer(containerId: string): Promise<void> {
    const c = this.#containers.get(containerId);
    if (!c) throw new ShimError('RunContainerError', `container ${containerId} is not there`);
    if (c.state !== 'created') return;
    c.starting ??= this.#start(c);
    await c.starting;
  }

  async #start(c: Container): Promise<void> {
    const { record, dir } = c;
    const sandbox = this.#sandboxes.get(record.sandboxId);
    void this.#cgroups?.hasten();
    try {
      if (!sandbox) throw new Error(`sandbox ${record.sandboxId} is not there`);
      await this.#prepare(c, sandbox);
      const child = this.#spawn(dir);
      child.once('exit', () => {
        void this.#refresh(c);
      });
      await this.#whenStarted(child);
      const { supervisor, guest, startedAt } = await readPid(dir);
      Object.assign(c, { supervisor, guest, startedAt: Math.max(startedAt, record.createdAt) });
      // A short run may have ended, and been seen to end, already.
      if (c.state === 'created') c.state = 'running';
    } catch (e) {
      const message = `container "${record.spec.name}" cannot be started: ${text(e)}`;
      await this.#setEnd(c, 128, 0, 0, message).catch(() => {});
      throw new ShimError('RunContainerError', message, { cause: e });
    }
    this.#tell({ sandboxId: record.sandboxId, containerId: record.id });
    const quota = record.spec.resources.cpuLimitMilli;
    if (quota) this.#o.clock.after(QUOTA_AFTER_MS, () => void this.#quota(c, quota));
    await this.#refresh(c);
  }

  async #quota(c: Container, milli: number): Promise<void> {
    if (c.state !== 'running') return;
    await this.#cgroups
      ?.setQuota(c.record.id, milli)
      .catch((e) =>
        this.#log.warn({ container: c.record.id, err: text(e) }, 'the CPU limit could not be set'),
      );
  }

  /** Everything on disk that jail.pl and the host program need. */
  async #prepare(c: Container, sandbox: Sandbox): Promise<void> {
    const { record, dir } = c;
    const { spec } = record;
    const jailed = this.#jailed;
    const uid = spec.security?.runAsUser ?? sandbox.uid;
    const gid = spec.security?.runAsGroup ?? (spec.security?.runAsUser !== undefined ? 0 : sandbox.uid);
    const ownIds = spec.security?.runAsUser === undefined && spec.security?.runAsGroup === undefined;

    const logFile = join(sandbox.spec.logDirectory, spec.logPath);
    await mkdir(dirname(logFile), { recursive: true, mode: 0o755 });
    await this.#makeLog(logFile, uid, gid);
    if (jailed) {
      // The host program must be able to pass through, and nothing more.
      const { mode } = await stat(dirname(logFile));
      if ((mode & 0o001) === 0) await chmod(dirname(logFile), (mode & 0o7777) | 0o001);
    }
    const volumes: Volume[] = await Promise.all(
      spec.mounts.map(async (m) => ({ ...m, isDirectory: (await stat(m.hostPath)).isDirectory() })),
    );
    const { mounts, preopens } = layOut(volumes, {
      jailed,
      idmap: ownIds,
      ...(spec.workingDir ? { workingDir: spec.workingDir } : {}),
    });
    const isPublic = ((await stat(record.modulePath)).mode & 0o004) !== 0;
    const program = join(this.#programs, record.kind === 'component' ? 'p2.cjs' : 'p1.cjs');
    const env = new Map<string, string>([['HOSTNAME', sandbox.spec.hostname]]);
    for (const e of record.imageEnv) env.set(e.split('=', 1)[0]!, e.slice(e.indexOf('=') + 1));
    for (const e of spec.env) env.set(e.name, e.value);
    const network = sandbox.spec.allowNetwork === true;
    const host: HostSpec = {
      name: spec.image,
      ...(network ? { network } : {}),
      module: jailed ? '/module' : record.modulePath,
      args: record.argv,
      env: [...env],
      preopens,
      log: {
        path: jailed ? join('/log', logFile.slice(dirname(logFile).length)) : logFile,
        maxBytes: LOG_MAX_BYTES,
      },
      ...(spec.workingDir ? { cwd: spec.workingDir } : {}),
    };
    await writeFile(join(dir, 'spec.json'), JSON.stringify(host), { mode: 0o600 });
    const limit = spec.resources.memoryLimitBytes;
    const command = [
      jailed ? '/bin/node' : process.execPath,
      ...NODE_FLAGS,
      ...(limit ? [`--wasm-max-mem-pages=${Math.max(1, Math.min(65_536, Math.floor(limit / PAGE)))}`] : []),
      jailed ? '/host.cjs' : program,
    ];
    const groups = await this.#cgroups!.create(record.id, {
      ...(limit ? { memoryBytes: limit + HOST_MEMORY } : {}),
      ...(spec.resources.cpuRequestMilli ? { cpuRequestMilli: spec.resources.cpuRequestMilli } : {}),
      pids: Math.max(spec.resources.pidsLimit ?? MAX_PIDS, 32),
    });
    const plan = this.#plan(dir, uid, spec.security?.supplementalGroups ?? [], {
      command,
      jailed,
      gid,
      hostname: sandbox.spec.hostname,
      network,
      mounts: [
        ...this.#libraries,
        system(program, '/host.cjs', false),
        // Private to root in the image cache: the pod's user then reads it as its owner.
        { ...system(record.modulePath, '/module', false), idmap: !isPublic },
        writable(dirname(logFile), '/log'),
        ...(network && jailed ? await this.#networkFiles(c, sandbox) : []),
        ...mounts,
      ],
      procs: groups.procs,
      oomScore: spec.resources.oomScoreAdj ?? 0,
      ...(groups.oom ? { oom: groups.oom } : {}),
      ...(limit && !this.#cgroups!.hasMemory ? { dataBytes: limit + 4 * HOST_MEMORY } : {}),
    });
    await writeFile(join(dir, 'plan'), writePlan(plan), { mode: 0o600 });
  }

  /** What resolving names and checking certificates needs of the machine's /etc, or the pod's own instead. */
  async #networkFiles(c: Container, sandbox: Sandbox): Promise<JailMount[]> {
    const { dns } = sandbox.spec;
    const own = new Map<string, string>();
    const hosts = c.record.spec.mounts.find((m) => m.containerPath === '/etc/hosts');
    if (hosts) own.set('/etc/hosts', hosts.hostPath);
    if (dns) {
      const path = join(c.dir, 'resolv.conf');
      await writeFile(path, resolvConf(dns), { mode: 0o644 });
      own.set('/etc/resolv.conf', path);
    }
    return NETWORK_FILES.map((f) => ({ file: f, source: own.get(f) ?? f }))
      .filter(({ source }) => existsSync(source))
      .map(({ file, source }) => system(source, file, false));
  }

  #plan(
    dir: string,
    uid: number,
    supplementalGroups: number[],
    o: {
      command: string[];
      mounts: JailMount[];
      hostname: string;
      jailed: boolean;
      gid?: number;
      network?: boolean;
      procs?: string[];
      oom?: string;
      oomScore?: number;
      dataBytes?: number;
    },
  ): [string, ...(string | number)[]][] {
    const on = (b: boolean) => (b ? 1 : 0);
    return [
      ['arch', process.arch],
      ['boot', this.#bootId()],
      ['state', dir],
      ['spec', join(dir, 'spec.json')],
      ['message', join(dir, 'message')],
      ['jail', on(o.jailed)],
      ['network', on(o.network === true)],
      ['root', join(this.#o.dataDir, 'root')],
      ['hostname', o.hostname.slice(0, 63)],
      ['uid', uid],
      ['gid', o.gid ?? uid],
      ['oom-score', Math.max(0, o.oomScore ?? 0)],
      ...supplementalGroups.map((g): [string, number] => ['group', g]),
      ...(o.procs ?? []).map((p): [string, string] => ['cgroup', p]),
      ...(o.oom ? [['oom', o.oom] as [string, string]] : []),
      ['rlimit', RLIMIT.core, 0],
      ['rlimit', RLIMIT.nofile, 1024],
      ...(o.jailed ? [['rlimit', RLIMIT.nproc, 4 * MAX_PIDS] as [string, number, number]] : []),
      ...(o.dataBytes ? [['rlimit', RLIMIT.data, o.dataBytes] as [string, number, number]] : []),
      ...o.mounts.map((m): [string, ...(string | number)[]] => [
        'mount',
        m.source,
        m.target,
        m.attributes,
        on(m.idmap),
      ]),
      ...o.command.map((a): [string, string] => ['arg', a]),
    ];
  }

  #spawn(dir: string): ChildProcess {
    return spawn('/usr/bin/perl', [join(this.#programs, 'jail.pl'), join(dir, 'plan')], {
      detached: true,
      stdio: ['ignore', 'pipe', 'ignore'],
      cwd: '/',
      env: { PATH: '/usr/sbin:/usr/bin:/sbin:/bin' },
    });
  }

  /** Resolves when the host program runs; rejects with the supervisor's words. */
  #whenStarted(child: ChildProcess): Promise<void> {
    return new Promise((resolve, reject) => {
      let said = '';
      const done = (e?: Error): void => {
        cancel();
        child.stdout?.destroy();
        child.unref();
        if (e) reject(e);
        else resolve();
      };
      const cancel = this.#o.clock.after(START_TIMEOUT_MS, () => {
        child.kill('SIGKILL');
        done(new Error(`nothing heard of the supervisor for ${START_TIMEOUT_MS / 1000} s`));
      });
      child.once('error', (e) =>
        done(
          new Error(
            (e as NodeJS.ErrnoException).code === 'ENOENT'
              ? '/usr/bin/perl is missing: install perl-base'
              : e.message,
          ),
        ),
      );
      child.stdout?.setEncoding('utf8');
      child.stdout?.on('data', (d: string) => {
        said += d;
        const newline = said.indexOf('\n');
        if (newline < 0 && said.length < 4096) return;
        const line = said.slice(0, newline);
        done(line.startsWith('started') ? undefined : new Error(line.replace(/^failed /, '')));
      });
      child.once('close', () => done(new Error(`the supervisor ended without a word ${said}`)));
    });
  }

  async #makeLog(path: string, uid: number, gid: number): Promise<void> {
    const file = await open(
      path,
      constants.O_WRONLY | constants.O_CREAT | constants.O_APPEND | constants.O_NOFOLLOW,
      0o640,
    );
    try {
      if (this.#jailed) await file.chown(uid, gid);
    } finally {
      await file.close();
    }
  }

  /** A guest has no signals to end by itself at: it is killed at once, grace or none. */
  async stopContainer(containerId: string, _graceSeconds: number): Promise<void> {
    const c = this.#containers.get(containerId);
    if (!c) return;
    await c.starting?.catch(() => {});
    if (c.state !== 'running') return;
    this.#kill(c);
    await this.#refresh(c);
    // The supervisor tells; if it is gone too, the next look finds out.
    const look = async (): Promise<void> => {
      while (c.state === 'running') {
        await new Promise((resolve) => setTimeout(resolve, 20));
        await this.#refresh(c);
      }
    };
    await Promise.race([c.ended, look()]);
  }

  #kill(c: Container): void {
    const { guest } = c;
    if (!guest || !isAlive(guest)) return;
    try {
      process.kill(guest.pid, 'SIGKILL');
    } catch (e) {
      this.#log.warn({ container: c.record.id, err: text(e) }, 'cannot kill the guest');
    }
  }

  async removeContainer(containerId: string): Promise<void> {
    const c = this.#containers.get(containerId);
    if (!c) return;
    await this.stopContainer(containerId, 0);
    this.#containers.delete(containerId);
    await this.#cgroups?.remove(containerId);
    await rm(c.dir, { recursive: true, force: true });
    this.#tell({ sandboxId: c.record.sandboxId, containerId });
  }

  /** The host program notices a new file under the log's name by itself; it must only be there, and be the pod's. */
  async reopenLog(containerId: string): Promise<void> {
    const c = this.#containers.get(containerId);
    const sandbox = c && this.#sandboxes.get(c.record.sandboxId);
    if (!c || !sandbox || c.state !== 'running') return;
    const { security, logPath } = c.record.spec;
    const uid = security?.runAsUser ?? sandbox.uid;
    await this.#makeLog(join(sandbox.spec.logDirectory, logPath), uid, security?.runAsGroup ?? uid);
  }

  /** A pod has the node's network, where it was granted one, and none otherwise. */
  async portForward(sandboxId: string, port: number, signal: AbortSignal): Promise<Duplex> {
    const sandbox = this.#sandboxes.get(sandboxId);
    if (!sandbox?.spec.allowNetwork)
      throw new ShimError(
        'Unsupported',
        'this WebAssembly pod has no network: grant it one with the annotation coxswain.dev/allow-network: "true"',
      );
    return new Promise((resolve, reject) => {
      const socket = connect({ host: 'localhost', port, allowHalfOpen: true });
      signal.addEventListener('abort', () => socket.destroy(), { once: true });
      socket.once('error', (e) =>
        reject(new ShimError('RunContainerError', `failed to connect to localhost:${port}: ${e.message}`)),
      );
      socket.once('connect', () => resolve(socket));
    });
  }

  // -- bookkeeping ----------------------------------------------------------------------------------------------

  async list(): Promise<{ sandboxes: SandboxStatus[]; containers: ContainerStatus[] }> {
    await Promise.all([...this.#containers.values()].map((c) => this.#refresh(c)));
    const sandboxes = [...this.#sandboxes.values()].map((s): SandboxStatus => {
      const { namespace, name, uid, attempt, labels, annotations } = s.spec;
      const state = s.stopped ? 'notReady' : 'ready';
      return {
        id: s.id,
        namespace,
        name,
        uid,
        attempt,
        state,
        createdAt: s.createdAt,
        ips: [],
        labels,
        annotations,
      };
    });
    const containers = [...this.#containers.values()].map((c): ContainerStatus => {
      const { id, sandboxId, createdAt, spec } = c.record;
      const { name, attempt, image, imageRef, labels, annotations } = spec;
      const { state, startedAt, finishedAt, exitCode, reason, message } = c;
      return {
        ...{
          id,
          sandboxId,
          name,
          attempt,
          state,
          createdAt,
          startedAt,
          finishedAt,
          exitCode,
          reason,
          message,
        },
        ...{ image, imageRef, labels, annotations },
      };
    });
    return { sandboxes, containers };
  }

  async stats(): Promise<ContainerStats[]> {
    const running = [...this.#containers.values()].filter((c) => c.state === 'running' && c.guest);
    const all = await Promise.all(
      running.map(async (c): Promise<ContainerStats | undefined> => {
        const s = (await this.#cgroups?.stats(c.record.id)) ?? processStats(c.guest!.pid);
        return s && { containerId: c.record.id, ...s };
      }),
    );
    return all.filter((s) => s !== undefined);
  }

  /** Looks whether a running container has ended. */
  async #refresh(c: Container): Promise<void> {
    if (c.state === 'exited' || (c.state === 'created' && !c.supervisor)) return;
    try {
      if (await this.#readEnd(c)) return;
      if (c.supervisor && isAlive(c.supervisor)) return;
      // It may have written the file just before it ended.
      if (await this.#readEnd(c)) return;
      if (!existsSync(c.dir)) return;
      this.#kill(c);
      await this.#setEnd(c, 137, 0, 0, 'its supervisor was killed');
    } catch (e) {
      this.#log.error({ container: c.record.id, err: text(e) }, 'cannot read how a container ended');
    }
  }

  async #readEnd(c: Container): Promise<boolean> {
    const path = join(c.dir, 'exit');
    const line = await readFile(path, 'utf8').catch(() => undefined);
    if (line === undefined) return false;
    if (c.state === 'exited') return true;
    const [status = 0, signal = 0, oomKills = 0, ...lost] = line.trim().split(' ');
    const message = (await readFile(join(c.dir, 'message'), 'utf8').catch(() => '')).slice(0, 4096).trim();
    const { mtimeMs } = await stat(path);
    if ((c.state as string) === 'exited') return true;
    const code = Number(signal) > 0 ? 128 + Number(signal) : Number(status);
    Object.assign(c, {
      state: 'exited',
      exitCode: code,
      finishedAt: Math.max(Math.floor(mtimeMs), c.startedAt),
      message,
      reason:
        Number(oomKills) > 0 && code === 137
          ? 'OOMKilled'
          : lost[0] === 'lost'
            ? 'Unknown'
            : code === 0
              ? 'Completed'
              : message && (code === EXIT.cannotRun || code === 128)
                ? 'ContainerCannotRun'
                : 'Error',
    });
    c.supervisor = undefined;
    c.guest = undefined;
    c.markEnded();
    this.#tell({ sandboxId: c.record.sandboxId, containerId: c.record.id });
    return true;
  }

  /** Ends what has no supervisor to write it down. */
  async #setEnd(
    c: Container,
    status: number,
    signal: number,
    oom: number,
    message: string,
    lost = '',
  ): Promise<void> {
    await writeFile(join(c.dir, 'message'), message);
    await writeAtomically(join(c.dir, 'exit'), `${status} ${signal} ${oom} ${lost}\n`);
    await this.#readEnd(c);
  }

  /** Supervisors that are not our children tell nobody: look now and then. */
  #poll(): void {
    if (!this.#started) return;
    this.#cancelPoll = this.#o.clock.after(1000, () => {
      const running = [...this.#containers.values()].filter((c) => c.state === 'running');
      void Promise.all(running.map((c) => this.#refresh(c))).finally(() => this.#poll());
    });
  }

  async #recover(): Promise<void> {
    const { dataDir } = this.#o;
    for (const name of await readdir(join(dataDir, 'sandboxes'))) {
      if (name.endsWith('.bad')) continue;
      const s = await this.#load<Sandbox>(join(dataDir, 'sandboxes', name));
      if (s) this.#sandboxes.set(s.id, s);
    }
    for (const id of await readdir(join(dataDir, 'containers'))) {
      const dir = join(dataDir, 'containers', id);
      const record = await this.#load<ContainerRecord>(join(dir, 'container.json'));
      if (!record) {
        // Half made: nothing of it can run.
        await rm(dir, { recursive: true, force: true });
        continue;
      }
      const c = newContainer(record, dir);
      this.#containers.set(id, c);
      try {
        const { boot, supervisor, guest, startedAt } = await readPid(dir);
        Object.assign(c, {
          state: 'running',
          supervisor,
          guest,
          startedAt: Math.max(startedAt, record.createdAt),
        });
        if (boot !== this.#bootId() && !(await this.#readEnd(c))) {
          c.supervisor = undefined;
          c.guest = undefined;
          await this.#setEnd(c, 137, 0, 0, 'the node was restarted while it ran', 'lost');
        }
        const quota = record.spec.resources.cpuLimitMilli;
        if (quota) await this.#quota(c, quota);
        await this.#refresh(c);
      } catch (e) {
        if ((e as NodeJS.ErrnoException).code !== 'ENOENT')
          this.#log.warn({ container: id, err: text(e) }, 'unreadable state');
        await this.#readEnd(c);
      }
    }
  }

  async #load<T>(path: string): Promise<T | undefined> {
    if (path.endsWith('.new')) {
      await rm(path, { force: true });
      return undefined;
    }
    try {
      return JSON.parse(await readFile(path, 'utf8')) as T;
    } catch (e) {
      this.#log.warn({ path, err: text(e) }, 'unreadable state set aside');
      await rename(path, `${path}.bad`).catch(() => {});
      return undefined;
    }
  }
}

function newContainer(record: ContainerRecord, dir: string): Container {
  let markEnded = () => {};
  const ended = new Promise<void>((resolve) => {
    markEnded = resolve;
  });
  return {
    ...{ record, dir, state: 'created', startedAt: 0, finishedAt: 0, exitCode: 0, reason: '', message: '' },
    ...{ ended, markEnded },
  };
}

async function readPid(
  dir: string,
): Promise<{ boot: string; supervisor: Process; guest: Process; startedAt: number }> {
  const path = join(dir, 'pid');
  const [boot = '', pid, startTime = '', child, childStart = ''] = (await readFile(path, 'utf8'))
    .trim()
    .split(' ');
  return {
    boot,
    supervisor: { pid: Number(pid), startTime },
    guest: { pid: Number(child), startTime: childStart },
    startedAt: Math.floor((await stat(path)).mtimeMs),
  };
}

const resolvConf = ({ servers, searches, options }: NonNullable<SandboxSpec['dns']>): string =>
  [
    ...servers.map((s) => `nameserver ${s}`),
    ...(searches.length > 0 ? [`search ${searches.join(' ')}`] : []),
    ...(options.length > 0 ? [`options ${options.join(' ')}`] : []),
    '',
  ].join('\n');

/** Never seen half written by another process. Not synced: after a cut of power nothing of it runs any more. */
async function writeAtomically(path: string, content: string): Promise<void> {
  const part = `${path}.new`;
  await writeFile(part, content, { mode: 0o600 });
  await rename(part, path);
}

/** Compiled, the programs lie beside this file; from source, in what `npm run build` made of it. */
function findPrograms(): string {
  const places = [join(here, 'host'), join(here, '../../dist/shims/wasm/host')];
  const found = places.find((p) => existsSync(join(p, 'p1.cjs')));
  if (!found) throw new Error(`the wasm host program is missing (${places.join(', ')}): run npm run build`);
  return found;
}

/** node and what it is linked with, at their own places. */
async function libraries(): Promise<JailMount[]> {
  const { stdout } = await run('ldd', [process.execPath]).catch((e) => {
    throw new Error(`cannot find out which libraries ${process.execPath} needs: ${text(e)}`);
  });
  const files = [...stdout.matchAll(/^\s*(?:\S+ => )?(\/\S+) \(0x/gm)].map((m) => m[1]!);
  return [system(process.execPath, '/bin/node', true), ...files.map((f) => system(f, f, true))];
}
