/**
 * A shim that runs nothing: workloads follow a script given in the pod's annotations, on any clock. It serves the
 * simulator (thousands of pods in one process) and the agent's tests. With a directory its state outlives the object,
 * so that adoption is real: what a script was due to do while no object was there is caught up with, times included.
 */
import { createHash } from 'node:crypto';
import {
  appendFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { Duplex, PassThrough, Readable, Writable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { type Clock, sleep } from '../../api/clock.js';
import type {
  ContainerSpec,
  ContainerStats,
  ContainerStatus,
  ImageAuth,
  ImageStatus,
  ProcessStreams,
  Resources,
  SandboxSpec,
  SandboxStatus,
  Shim,
  ShimErrorReason,
  ShimEvent,
  ShimHealth,
} from '../shim.js';
import { ShimError } from '../shim.js';

/** Prefix of the annotation (on the pod, or on the container) that holds a container's script as JSON. */
export const SCRIPT_ANNOTATION = 'fake.coxswain.dev/';

export type FakeStep =
  | { waitMs: number }
  /** One line to stdout (or stderr); `raw` leaves out the newline's end of line. */
  | { log: string; stderr?: boolean; partial?: boolean }
  /** `line 0` … `line n-1`. */
  | { lines: number }
  | { inspect: string[] }
  | { write: string; text: string }
  | { read: string }
  /** Takes this much memory: OOMKilled when the limit is lower. */
  | { memoryBytes: number }
  | { exit: number; reason?: string; message?: string };

/** What a container does, e.g. `{"startupMs":50,"log":["hi"],"runMs":2000,"exitCode":1}`. Without a script it runs until stopped. */
export interface FakeScript {
  /** How long `startContainer` takes. */
  startupMs?: number;
  /** Lines written at the start. */
  log?: string[];
  /** Ends by itself after this long; absent: never, unless `exitCode` is given (then at once). */
  runMs?: number;
  exitCode?: number;
  /** Instead of `log`, `runMs` and `exitCode`: everything in order. */
  steps?: FakeStep[];
  /** SIGTERM: `ignore`, or what to write and how to end (default: 143 at once). */
  onTerm?: 'ignore' | { afterMs?: number; log?: string; exitCode?: number };
  /** Makes createContainer / startContainer fail with this text. */
  failCreate?: string;
  failStart?: string;
  /** Memory shown by `stats()`. */
  memoryBytes?: number;
  /** Answers of execSync and exec by command line (arguments joined with spaces). Others: see {@link COMMANDS}, or end with 0. */
  exec?: Record<string, { exitCode: number; stdout?: string }>;
  /** What answers at a port: `echo` says again what it hears, any other text is said once. */
  listen?: Record<string, string>;
}

export interface FakeImage {
  pullMs?: number;
  sizeBytes?: number;
  fails?: { reason: ShimErrorReason; message: string };
  /** Only these credentials may pull. */
  auth?: ImageAuth;
  uid?: number;
  username?: string;
}

export interface FakeOptions {
  handler?: string;
  clock: Clock;
  /** Where state is kept; absent: in memory only. */
  dir?: string;
  /** Images that are special; any other name can be pulled, but for those whose last path segment is `missing`. */
  images?: Record<string, FakeImage>;
  /** How long a pull takes unless the image says otherwise, in milliseconds. */
  pullMs?: number;
  runSandboxMs?: number;
}

interface Sandbox extends SandboxStatus {
  logDirectory: string;
}

interface Container extends ContainerStatus {
  spec: ContainerSpec;
  script: FakeScript;
  /** Next step to do, and the time at which it is due in milliseconds since the start. */
  next: number;
  dueMs: number;
  /** SIGTERM came: ends then, so. */
  term?: { atMs: number; code: number };
}

interface Live {
  /** `clock.monotonic()` at the start of the container. */
  origin: number;
  cancel(): void;
}

const REFERENCE =
  /^(?:[A-Za-z0-9.-]+(?::\d+)?\/)?[a-z0-9]+(?:[._/-]+[a-z0-9]+)*(?::[\w][\w.-]{0,127})?(?:@sha256:[0-9a-f]{64})?$/;
const LINE_MAX = 16_384;
const id = (...parts: unknown[]) => createHash('sha256').update(parts.join('\0')).digest('hex').slice(0, 32);

/** What every fake container can run. */
const COMMANDS: Readonly<Record<string, (args: string[], s: ProcessStreams) => Promise<number> | number>> = {
  exit: ([code]) => Number(code),
  echo: (args, { stdout }) => {
    stdout?.write(`${args.join(' ')}\n`);
    return 0;
  },
  complain: (args, { stderr }) => {
    stderr?.write(`${args.join(' ')}\n`);
    return 0;
  },
  cat: async (_args, { stdin, stdout }) => {
    if (stdin && stdout) await pipeline(stdin, stdout);
    return 0;
  },
  /** So many bytes of x. */
  flood: async ([bytes], { stdout }) => {
    const block = Buffer.alloc(16_384, 'x');
    const all = function* () {
      for (let left = Number(bytes); left > 0; left -= block.length) yield block.subarray(0, left);
    };
    if (stdout) await pipeline(Readable.from(all()), stdout);
    return 0;
  },
  /** The terminal's sizes, as they change, until the input ends. */
  sizes: async (_args, { stdin, stdout, onResize }) => {
    onResize(({ width, height }) => stdout?.write(`${width}x${height}\n`));
    for await (const _ of stdin ?? []);
    return 0;
  },
  /** Until whoever asked has gone. */
  wait: (_args, { stdout, signal }) => {
    stdout?.write('waiting\n');
    return new Promise((resolve) => signal.addEventListener('abort', () => resolve(130), { once: true }));
  },
};

function stepsOf(s: FakeScript): FakeStep[] {
  if (s.steps) return s.steps;
  const steps: FakeStep[] = (s.log ?? []).map((log) => ({ log }));
  if (s.runMs !== undefined) steps.push({ waitMs: s.runMs });
  if (s.runMs !== undefined || s.exitCode !== undefined) steps.push({ exit: s.exitCode ?? 0 });
  return steps;
}

export class FakeShim implements Shim {
  readonly handler: string;
  readonly #o: FakeOptions;
  readonly #clock: Clock;
  #sandboxes = new Map<string, Sandbox>();
  #containers = new Map<string, Container>();
  #images = new Set<string>();
  #live = new Map<string, Live>();
  #listeners = new Set<(e: ShimEvent) => void>();
  #started = false;
  #nextIp = 1;
  /** Calls that wait for the clock: a test that sees one must move time on. */
  sleeping = 0;

  constructor(options: FakeOptions) {
    this.#o = options;
    this.#clock = options.clock;
    this.handler = options.handler ?? 'fake';
  }

  async start(): Promise<void> {
    if (this.#started) return;
    this.#started = true;
    const { dir } = this.#o;
    if (!dir) return;
    for (const kind of ['sandboxes', 'containers', 'images']) mkdirSync(join(dir, kind), { recursive: true });
    for (const s of this.#load<Sandbox>('sandboxes')) this.#sandboxes.set(s.id, s);
    for (const i of this.#load<string>('images')) this.#images.add(i);
    for (const c of this.#load<Container>('containers')) {
      this.#containers.set(c.id, c);
      if (c.state === 'running') this.#go(c);
    }
    this.#nextIp = this.#sandboxes.size + 1;
  }

  async stop(): Promise<void> {
    this.#started = false;
    for (const l of this.#live.values()) l.cancel();
    this.#live.clear();
    this.#listeners.clear();
  }

  /** What a power cut leaves, for tests: nothing runs any more, what is on disk is still listed (as containerd does). */
  powerCut(): void {
    for (const l of this.#live.values()) l.cancel();
    this.#live.clear();
    for (const c of this.#containers.values())
      if (c.state === 'running') {
        Object.assign(c, {
          state: 'exited',
          exitCode: 255,
          reason: 'Unknown',
          finishedAt: this.#clock.now(),
        });
        this.#save('containers', c.id, c);
      }
    for (const s of this.#sandboxes.values()) {
      s.state = 'notReady';
      this.#save('sandboxes', s.id, s);
    }
  }

  async health(): Promise<ShimHealth> {
    return {
      ready: true,
      message: 'scripted workloads; nothing runs',
      runtimeVersion: 'fake://1.0.0',
      conditions: [],
      labels: {},
      podNetwork: true,
    };
  }

  onEvent(listener: (e: ShimEvent) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  #image(image: string): ImageStatus {
    const known = this.#o.images?.[image];
    const digest = `sha256:${createHash('sha256').update(image).digest('hex')}`;
    return {
      ref: digest,
      repoDigests: [`${image.replace(/@.*$/, '').replace(/:[^/:]*$/, '')}@${digest}`],
      sizeBytes: known?.sizeBytes ?? 1_000_000,
      ...(known?.uid !== undefined ? { uid: known.uid } : {}),
      ...(known?.username !== undefined ? { username: known.username } : {}),
    };
  }

  #presentName(image: string): string | undefined {
    if (this.#images.has(image)) return image;
    for (const name of this.#images) if (this.#image(name).ref === image) return name;
    return undefined;
  }

  async imageStatus(image: string): Promise<ImageStatus | undefined> {
    const name = this.#presentName(image);
    return name === undefined ? undefined : this.#image(name);
  }

  async pullImage(image: string, auth?: ImageAuth, signal?: AbortSignal): Promise<ImageStatus> {
    signal?.throwIfAborted();
    if (!REFERENCE.test(image))
      throw new ShimError(
        'InvalidImageName',
        `couldn't parse image name "${image}": invalid reference format`,
      );
    const known = this.#o.images?.[image];
    const takes = known?.pullMs ?? this.#o.pullMs ?? 0;
    if (takes > 0) await this.#sleep(takes);
    signal?.throwIfAborted();
    if (known?.fails) throw new ShimError(known.fails.reason, known.fails.message);
    if (known?.auth && (auth?.username !== known.auth.username || auth.password !== known.auth.password))
      throw new ShimError('ErrImagePull', `failed to pull "${image}": 401 Unauthorized`);
    if (!known && /(^|\/)missing(:|@|$)/.test(image))
      throw new ShimError('ErrImagePull', `failed to resolve reference "${image}": ${image}: not found`);
    this.#images.add(image);
    this.#save('images', id(image), image);
    return this.#image(image);
  }

  async listImages(): Promise<ImageStatus[]> {
    return [...this.#images].map((i) => this.#image(i));
  }

  async removeImage(ref: string): Promise<void> {
    const name = this.#presentName(ref);
    if (name === undefined) return;
    this.#images.delete(name);
    this.#forget('images', id(name));
  }

  async runSandbox(spec: SandboxSpec): Promise<string> {
    if (this.#o.runSandboxMs) await this.#sleep(this.#o.runSandboxMs);
    const sandboxId = id('sandbox', spec.uid, spec.attempt);
    const old = this.#sandboxes.get(sandboxId);
    if (old?.state === 'ready') return sandboxId;
    const n = this.#nextIp++;
    const s: Sandbox = {
      id: sandboxId,
      namespace: spec.namespace,
      name: spec.name,
      uid: spec.uid,
      attempt: spec.attempt,
      state: 'ready',
      createdAt: this.#clock.now(),
      ips: spec.hostNetwork ? [] : [`10.99.${(n >> 8) & 255}.${n & 255}`],
      labels: spec.labels,
      annotations: spec.annotations,
      logDirectory: spec.logDirectory,
    };
    this.#sandboxes.set(sandboxId, s);
    this.#save('sandboxes', sandboxId, s);
    this.#tell({ sandboxId });
    return sandboxId;
  }

  async createContainer(sandboxId: string, spec: ContainerSpec): Promise<string> {
    const sandbox = this.#sandboxes.get(sandboxId);
    if (sandbox?.state !== 'ready')
      throw new ShimError(
        'CreateContainerError',
        `sandbox ${sandboxId} of container "${spec.name}" is not there`,
      );
    if (!this.#presentName(spec.imageRef))
      throw new ShimError('CreateContainerError', `image "${spec.image}" (${spec.imageRef}) is not present`);
    for (const m of spec.mounts)
      if (!existsSync(m.hostPath))
        throw new ShimError('CreateContainerError', `mount source "${m.hostPath}" does not exist`);
    const key = SCRIPT_ANNOTATION + spec.name;
    const text = spec.annotations[key] ?? sandbox.annotations[key];
    let script: FakeScript = {};
    try {
      if (text) script = JSON.parse(text) as FakeScript;
    } catch (e) {
      throw new ShimError('CreateContainerError', `annotation ${key} is not JSON: ${(e as Error).message}`);
    }
    if (script.failCreate) throw new ShimError('CreateContainerError', script.failCreate);
    const containerId = id('container', sandboxId, spec.name, spec.attempt);
    if (this.#containers.has(containerId)) return containerId;
    const c: Container = {
      id: containerId,
      sandboxId,
      name: spec.name,
      attempt: spec.attempt,
      state: 'created',
      createdAt: this.#clock.now(),
      startedAt: 0,
      finishedAt: 0,
      exitCode: 0,
      reason: '',
      message: '',
      image: spec.image,
      imageRef: spec.imageRef,
      labels: spec.labels,
      annotations: spec.annotations,
      spec,
      script,
      next: 0,
      dueMs: 0,
    };
    this.#containers.set(containerId, c);
    this.#save('containers', containerId, c);
    this.#tell({ sandboxId, containerId });
    return containerId;
  }

  async startContainer(containerId: string): Promise<void> {
    const c = this.#containers.get(containerId);
    if (!c) throw new ShimError('RunContainerError', `container ${containerId} is not there`);
    if (c.state !== 'created') return;
    if (c.script.startupMs) await this.#sleep(c.script.startupMs);
    if ((c.state as string) !== 'created') return;
    if (c.script.failStart) {
      this.#end(c, 128, 'ContainerCannotRun', c.script.failStart, this.#clock.now());
      throw new ShimError('RunContainerError', c.script.failStart);
    }
    c.state = 'running';
    c.startedAt = this.#clock.now();
    this.#save('containers', c.id, c);
    this.#tell({ sandboxId: c.sandboxId, containerId });
    this.#go(c);
  }

  async stopContainer(containerId: string, graceSeconds: number): Promise<void> {
    const c = this.#containers.get(containerId);
    if (!c || c.state === 'exited') return;
    const live = this.#live.get(containerId);
    if (!live || graceSeconds <= 0) return this.#end(c, 137, 'Error', '', this.#clock.now());
    const onTerm = c.script.onTerm ?? {};
    if (onTerm !== 'ignore' && !c.term) {
      if (onTerm.log !== undefined) this.#write(c, 'stdout', onTerm.log, false);
      c.term = {
        atMs: this.#clock.monotonic() - live.origin + (onTerm.afterMs ?? 0),
        code: onTerm.exitCode ?? 143,
      };
      this.#advance(c);
    }
    if ((c.state as string) === 'exited') return;
    this.sleeping++;
    await new Promise<void>((resolve) => {
      const off = this.onEvent((e) => {
        if (e.containerId !== containerId || this.#containers.get(containerId)?.state === 'running') return;
        cancel();
        off();
        resolve();
      });
      const cancel = this.#clock.after(graceSeconds * 1000, () => {
        this.#end(c, 137, 'Error', '', this.#clock.now());
      });
    });
    this.sleeping--;
  }

  async updateContainer(containerId: string, resources: Resources): Promise<void> {
    const c = this.#containers.get(containerId);
    if (!c) throw new ShimError('RunContainerError', `container ${containerId} is not there`);
    c.spec = { ...c.spec, resources };
    this.#save('containers', c.id, c);
  }

  async #sleep(ms: number): Promise<void> {
    this.sleeping++;
    await sleep(this.#clock, ms);
    this.sleeping--;
  }

  async removeContainer(containerId: string): Promise<void> {
    const c = this.#containers.get(containerId);
    if (!c) return;
    if (c.state === 'running') this.#end(c, 137, 'Error', '', this.#clock.now());
    this.#live.get(containerId)?.cancel();
    this.#live.delete(containerId);
    this.#containers.delete(containerId);
    this.#forget('containers', containerId);
    this.#tell({ sandboxId: c.sandboxId, containerId });
  }

  async stopSandbox(sandboxId: string): Promise<void> {
    const s = this.#sandboxes.get(sandboxId);
    if (!s) return;
    for (const c of this.#containers.values())
      if (c.sandboxId === sandboxId && c.state === 'running')
        this.#end(c, 137, 'Error', '', this.#clock.now());
    if (s.state === 'notReady') return;
    s.state = 'notReady';
    s.ips = [];
    this.#save('sandboxes', sandboxId, s);
    this.#tell({ sandboxId });
  }

  async removeSandbox(sandboxId: string): Promise<void> {
    await this.stopSandbox(sandboxId);
    for (const c of [...this.#containers.values()])
      if (c.sandboxId === sandboxId) await this.removeContainer(c.id);
    this.#sandboxes.delete(sandboxId);
    this.#forget('sandboxes', sandboxId);
    this.#tell({ sandboxId });
  }

  async list(): Promise<{ sandboxes: SandboxStatus[]; containers: ContainerStatus[] }> {
    return {
      sandboxes: [...this.#sandboxes.values()].map(({ logDirectory: _, ...s }) => ({ ...s })),
      containers: [...this.#containers.values()].map(
        ({ spec: _s, script: _c, next: _n, dueMs: _d, term: _t, ...c }) => ({ ...c }),
      ),
    };
  }

  /** At this moment; for simulators that watch every step. */
  isRunning(containerId: string): boolean {
    return this.#containers.get(containerId)?.state === 'running';
  }

  async stats(): Promise<ContainerStats[]> {
    const out: ContainerStats[] = [];
    for (const [containerId, live] of this.#live)
      out.push({
        containerId,
        cpuNanos: Math.round((this.#clock.monotonic() - live.origin) * 1e6),
        memoryBytes: this.#containers.get(containerId)?.script.memoryBytes ?? 1_000_000,
      });
    return out;
  }

  /** Every line opens the file anew, so it is only made, as runtimes make it. */
  async reopenLog(containerId: string): Promise<void> {
    const c = this.#containers.get(containerId);
    const sandbox = c && this.#sandboxes.get(c.sandboxId);
    if (sandbox) appendFileSync(join(sandbox.logDirectory, c.spec.logPath), '');
  }

  async execSync(containerId: string, command: string[], _timeoutMs: number) {
    const c = this.#containers.get(containerId);
    if (c?.state !== 'running')
      throw new ShimError('RunContainerError', `container ${containerId} is not running`);
    const answer = c.script.exec?.[command.join(' ')];
    return {
      exitCode: answer?.exitCode ?? 0,
      stdout: Buffer.from(answer?.stdout ?? ''),
      stderr: new Uint8Array(),
    };
  }

  async exec(containerId: string, command: string[], streams: ProcessStreams): Promise<number> {
    const c = this.#containers.get(containerId);
    if (c?.state !== 'running')
      throw new ShimError('RunContainerError', `container ${containerId} is not running`);
    const answer = c.script.exec?.[command.join(' ')];
    if (answer) {
      streams.stdout?.write(answer.stdout ?? '');
      return answer.exitCode;
    }
    const [name = '', ...args] = command;
    if (name === 'missing')
      throw new ShimError(
        'RunContainerError',
        `error executing command in container: exec: "${name}": executable file not found in $PATH`,
      );
    return (await COMMANDS[name]?.(args, streams)) ?? 0;
  }

  /** What is typed is written to stdout. */
  input(containerId: string): Writable {
    const c = this.#containers.get(containerId);
    return new Writable({
      write: (chunk: Buffer, _encoding, done) => {
        const text = chunk.toString();
        if (c?.spec.stdin) this.#write(c, 'stdout', text.replace(/\n$/, ''), !text.endsWith('\n'));
        done();
      },
    });
  }

  async portForward(sandboxId: string, port: number): Promise<Duplex> {
    const listening = [...this.#containers.values()]
      .filter((c) => c.sandboxId === sandboxId && c.state === 'running')
      .map((c) => c.script.listen?.[port])
      .find((x) => x !== undefined);
    if (listening === undefined)
      throw new ShimError(
        'RunContainerError',
        `failed to connect to localhost:${port} inside sandbox ${sandboxId}: connection refused`,
      );
    if (listening === 'echo') return new PassThrough();
    const said = Readable.from([Buffer.from(listening)]);
    return Duplex.from({ readable: said, writable: new Writable({ write: (_c, _e, done) => done() }) });
  }

  /** Sets a running container's script to work, from where it stands. */
  #go(c: Container): void {
    const since = Math.max(0, this.#clock.now() - c.startedAt);
    this.#live.set(c.id, { origin: this.#clock.monotonic() - since, cancel() {} });
    this.#advance(c);
  }

  #advance(c: Container): void {
    const live = this.#live.get(c.id);
    if (!live || c.state !== 'running') return;
    live.cancel();
    const steps = stepsOf(c.script);
    const elapsed = this.#clock.monotonic() - live.origin;
    const before = c.next;
    while (c.state === 'running') {
      const step = steps[c.next];
      const due = Math.min(
        step ? c.dueMs : Number.POSITIVE_INFINITY,
        c.term?.atMs ?? Number.POSITIVE_INFINITY,
      );
      if (due === Number.POSITIVE_INFINITY) break;
      // Rounding of timers must not make a step wait for one more turn.
      if (due > elapsed + 0.5) {
        live.cancel = this.#clock.after(due - elapsed, () => this.#advance(c));
        break;
      }
      if (c.term && due === c.term.atMs) {
        this.#end(c, c.term.code, c.term.code === 0 ? 'Completed' : 'Error', '', c.startedAt + due);
        return;
      }
      c.next++;
      this.#step(c, step!, c.startedAt + due);
    }
    if (c.next !== before || c.term) this.#save('containers', c.id, c);
  }

  #step(c: Container, s: FakeStep, at: number): void {
    if ('waitMs' in s) c.dueMs += s.waitMs;
    else if ('log' in s) this.#write(c, s.stderr ? 'stderr' : 'stdout', s.log, s.partial ?? false, at);
    else if ('lines' in s)
      this.#write(c, 'stdout', Array.from({ length: s.lines }, (_, i) => `line ${i}`).join('\n'), false, at);
    else if ('inspect' in s) {
      const lines = [
        ...s.inspect.map((a) => `arg:${a}`),
        ...c.spec.env.map((e) => `env:${e.name}=${e.value}`),
        `cwd:${c.spec.workingDir ?? '/'}`,
      ];
      this.#write(c, 'stdout', lines.join('\n'), false, at);
    } else if ('exit' in s)
      this.#end(c, s.exit, s.reason ?? (s.exit === 0 ? 'Completed' : 'Error'), s.message ?? '', at);
    else if ('memoryBytes' in s) {
      const limit = c.spec.resources.memoryLimitBytes;
      c.script.memoryBytes = s.memoryBytes;
      if (limit && s.memoryBytes > limit) this.#end(c, 137, 'OOMKilled', '', at);
    } else
      try {
        if ('write' in s) writeFileSync(this.#path(c, s.write, true), s.text);
        else {
          const text = readFileSync(this.#path(c, s.read, false), 'utf8');
          this.#write(c, 'stdout', text.replace(/\n$/, ''), !text.endsWith('\n'), at);
        }
      } catch (e) {
        this.#write(c, 'stderr', (e as Error).message, false, at);
        this.#end(c, 1, 'Error', '', at);
      }
  }

  /** The host's path of a path inside. */
  #path(c: Container, path: string, forWriting: boolean): string {
    const m = c.spec.mounts
      .filter((x) => path === x.containerPath || path.startsWith(`${x.containerPath.replace(/\/$/, '')}/`))
      .sort((a, b) => b.containerPath.length - a.containerPath.length)[0];
    if (!m) throw new Error(`${path}: no such file or directory`);
    if (forWriting && m.readOnly) throw new Error(`${path}: read-only file system`);
    return join(m.hostPath, path.slice(m.containerPath.length));
  }

  #write(
    c: Container,
    stream: 'stdout' | 'stderr',
    text: string,
    partial: boolean,
    at = this.#clock.now(),
  ): void {
    const sandbox = this.#sandboxes.get(c.sandboxId);
    if (!sandbox) return;
    const time = new Date(at).toISOString().replace('Z', '000000Z');
    const out: string[] = [];
    const lines = text.split('\n');
    lines.forEach((line, n) => {
      const lastIsPartial = partial && n === lines.length - 1;
      for (let i = 0; i + LINE_MAX < line.length; i += LINE_MAX)
        out.push(`${time} ${stream} P ${line.slice(i, i + LINE_MAX)}\n`);
      const rest = line.slice(Math.max(0, Math.ceil(line.length / LINE_MAX) - 1) * LINE_MAX);
      out.push(`${time} ${stream} ${lastIsPartial ? 'P' : 'F'} ${rest}\n`);
    });
    const file = join(sandbox.logDirectory, c.spec.logPath);
    mkdirSync(dirname(file), { recursive: true });
    appendFileSync(file, out.join(''));
  }

  #end(c: Container, exitCode: number, reason: string, message: string, at: number): void {
    if (c.state === 'exited') return;
    this.#live.get(c.id)?.cancel();
    this.#live.delete(c.id);
    Object.assign(c, { state: 'exited', exitCode, reason, message, finishedAt: at });
    this.#save('containers', c.id, c);
    this.#tell({ sandboxId: c.sandboxId, containerId: c.id });
  }

  #tell(e: ShimEvent): void {
    for (const l of [...this.#listeners]) l(e);
  }

  #load<T>(kind: string): T[] {
    const dir = join(this.#o.dir!, kind);
    return readdirSync(dir)
      .filter((f) => f.endsWith('.json'))
      .map((f) => JSON.parse(readFileSync(join(dir, f), 'utf8')) as T);
  }

  /** A stopped object writes nothing more: another may own the directory by now. */
  #save(kind: string, name: string, value: unknown): void {
    if (!this.#o.dir || !this.#started) return;
    const file = join(this.#o.dir, kind, `${name}.json`);
    writeFileSync(`${file}.tmp`, JSON.stringify(value));
    renameSync(`${file}.tmp`, file);
  }

  #forget(kind: string, name: string): void {
    if (this.#o.dir && this.#started) rmSync(join(this.#o.dir, kind, `${name}.json`), { force: true });
  }
}
