/**
 * The one suite that every shim passes. A shim's own test file builds the workloads for its runtime and calls
 * `shimConformance('wasm', makeHarness)`; what a runtime cannot do by its nature it says through `capabilities`,
 * and the suite then checks what must hold instead, or names the test it leaves out.
 */
import { chmod, mkdir, mkdtemp, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type StreamHarness, streamConformance } from './conformance-streams.js';
import {
  type ContainerSpec,
  type ContainerStatus,
  type Mount,
  type SandboxSpec,
  ShimError,
  type ShimEvent,
} from './shim.js';

/** What a workload must do; each harness turns an intent into an image with command and args. */
export interface WorkloadIntents {
  /** Ends at once with this exit code, printing nothing. */
  exit: { code: number };
  /** Writes `line 0` … `line <count-1>`, each with a newline, to stdout; ends with 0. */
  'print-lines': { count: number };
  /** Writes one line of `length` letters x and a newline to stdout; ends with 0. */
  'print-long-line': { length: number };
  /** Writes these exact bytes (short ASCII), stdout first and then stderr; ends with 0. */
  print: { stdout?: string; stderr?: string };
  /**
   * Writes to stdout `arg:<x>` for every argument in `args` in order, `env:<NAME>=<value>` for every variable it has,
   * and, where it can know it, `cwd:<path>`; ends with 0.
   */
  inspect: { args: string[] };
  /**
   * Writes `ready`, then waits forever using no CPU. SIGTERM: with `ignoreTerm` nothing happens; else it writes `term`
   * and ends with 7.
   */
  'sleep-forever': { ignoreTerm: boolean };
  /** Writes `ready`, then computes forever. */
  'busy-loop': Record<string, never>;
  /** Writes `begin`, waits, writes `end`, ends with `code`. */
  'delayed-exit': { delayMs: number; code: number };
  /** Writes `text` to the file (created or truncated) and ends with 0; ends with 1, saying why on stderr, if it cannot. */
  'write-file': { path: string; text: string };
  /** Copies the file to stdout and ends with 0; ends with 1, saying why on stderr, if it cannot. */
  'read-file': { path: string };
  /** Takes and touches memory, a MiB at a time, until refused (then ends with a code but 0) or until it is killed. */
  'grow-memory': Record<string, never>;
  /** Writes `ready`, then what it reads from its input, line by line, until that ends; ends with 0. */
  'echo-input': Record<string, never>;
  /** Answers each connection to a TCP port with something that has `text` in it, and ends the connection. */
  serve: { port: number; text: string };
  /** Dies by a fault: a signal that ends it, or a trap. */
  crash: Record<string, never>;
}

export interface Workload {
  image: string;
  command?: string[];
  args?: string[];
  env?: { name: string; value: string }[];
  annotations?: Record<string, string>;
}

export interface ShimCapabilities {
  /** Workloads can catch SIGTERM. False: a stop with grace may end them at once, and must not take longer than the grace. */
  sigterm: boolean;
  /** The runtime has a working directory and environment-independent processes: `inspect` prints `cwd:`. */
  workingDir: boolean;
  /** `crash` is reported as 128 + signal. False: any code but 0, with a reason and a message to read. */
  signals: boolean;
  /** What breaking the memory limit looks like: always, sometimes (`either`) or never OOMKilled. Never 0 in any case. */
  oom: 'OOMKilled' | 'failure' | 'either';
}

export interface ShimHarness extends StreamHarness {
  readonly capabilities: ShimCapabilities;
  workload<K extends keyof WorkloadIntents>(
    intent: K,
    params: WorkloadIntents[K],
    container: string,
  ): Workload;
  /** A reference that parses but does not exist at its (reachable) registry. */
  readonly missingImage: string;
  /** A reference that resolves to something that can never run. Absent: the harness has none. */
  readonly garbageImage?: string;
  /** Stops the shim object as an agent that ends would, waits `downMs`, and starts a new object on the same state; `shim` is the new one. */
  restart(downMs: number): Promise<void>;
  /** Ends everything and frees what the harness took. */
  dispose(): Promise<void>;
}

/** One line of a CRI log. */
export interface CriLine {
  time: string;
  stream: 'stdout' | 'stderr';
  tag: 'F' | 'P';
  content: string;
}

const WAIT_MS = 60_000;
const CRI_LINE =
  /^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)) (stdout|stderr) ([FP])(?:[:\w]*) (.*)$/s;

/** Parses a whole CRI log; throws on a line that is not in the format. */
export function parseCriLog(text: string): CriLine[] {
  const lines = text.split('\n');
  if (lines.at(-1) === '') lines.pop();
  return lines.map((line) => {
    const m = CRI_LINE.exec(line);
    if (!m) throw new Error(`not a CRI log line: ${JSON.stringify(line.slice(0, 200))}`);
    return { time: m[1]!, stream: m[2] as CriLine['stream'], tag: m[3] as CriLine['tag'], content: m[4]! };
  });
}

/** What the workload wrote to one stream, with partial lines joined again. */
export function logContent(lines: CriLine[], stream: CriLine['stream']): string[] {
  const out: string[] = [];
  let open = '';
  for (const l of lines) {
    if (l.stream !== stream) continue;
    open += l.content;
    if (l.tag === 'P') continue;
    out.push(open);
    open = '';
  }
  if (open) out.push(open);
  return out;
}

/** Polls until `probe` gives something but undefined or false. For conditions, never for timing. */
async function eventually<T>(what: string, probe: () => Promise<T | undefined | false>): Promise<T> {
  const end = performance.now() + WAIT_MS;
  for (;;) {
    const got = await probe();
    if (got !== undefined && got !== false) return got;
    if (performance.now() > end) throw new Error(`waited ${WAIT_MS / 1000} s in vain: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

/** Describes the suite for one shim; call it at the top level of a test file. */
export function shimConformance(name: string, makeHarness: () => Promise<ShimHarness>): void {
  describe(`shim conformance: ${name}`, { timeout: 2 * WAIT_MS }, () => {
    let harness: ShimHarness;
    let root: string;
    let serial = 0;

    /** One pod of a test: makes its sandbox at first use. */
    class TestPod {
      readonly spec: SandboxSpec;
      sandboxId = '';
      constructor(options: Partial<SandboxSpec> = {}) {
        const n = serial++;
        this.spec = {
          namespace: 'conformance',
          name: `pod-${n}`,
          uid: `00000000-0000-4000-8000-${n.toString(16).padStart(12, '0')}`,
          attempt: 0,
          hostname: `pod-${n}`,
          hostNetwork: true,
          portMappings: [],
          logDirectory: join(root, `logs-${n}`),
          labels: { 'test/pod': `pod-${n}` },
          annotations: { 'test/note': 'kept as given: "ä", =,' },
          ...options,
        };
      }

      async create<K extends keyof WorkloadIntents>(
        container: string,
        intent: K,
        params: WorkloadIntents[K],
        options: Partial<ContainerSpec> = {},
      ): Promise<string> {
        const w = harness.workload(intent, params, container);
        const image = (await harness.shim.imageStatus(w.image)) ?? (await harness.shim.pullImage(w.image));
        await mkdir(join(this.spec.logDirectory, container), { recursive: true });
        if (!this.sandboxId) this.sandboxId = await harness.shim.runSandbox(this.spec);
        return harness.shim.createContainer(this.sandboxId, {
          name: container,
          attempt: 0,
          image: w.image,
          imageRef: image.ref,
          ...(w.command ? { command: w.command } : {}),
          ...(w.args ? { args: w.args } : {}),
          mounts: [],
          resources: {},
          logPath: `${container}/0.log`,
          labels: { 'test/container': container },
          ...options,
          env: [...(w.env ?? []), ...(options.env ?? [])],
          annotations: { ...w.annotations, ...options.annotations },
        });
      }

      async run<K extends keyof WorkloadIntents>(
        container: string,
        intent: K,
        params: WorkloadIntents[K],
        options: Partial<ContainerSpec> = {},
      ): Promise<string> {
        const id = await this.create(container, intent, params, options);
        await harness.shim.startContainer(id);
        return id;
      }

      async log(container: string, file = `${container}/0.log`): Promise<CriLine[]> {
        const text = await readFile(join(this.spec.logDirectory, file), 'utf8').catch((e) => {
          if (e.code === 'ENOENT') return '';
          throw e;
        });
        // A line still being written is not looked at.
        return parseCriLog(text.slice(0, text.lastIndexOf('\n') + 1));
      }

      stdout = async (container: string) => logContent(await this.log(container), 'stdout');

      waitForLine = (container: string, line: string) =>
        eventually(`"${line}" in the log of ${this.spec.name}/${container}`, async () =>
          (await this.stdout(container)).includes(line),
        );

      async remove(): Promise<void> {
        if (!this.sandboxId) return;
        await harness.shim.stopSandbox(this.sandboxId);
        for (const c of await containersOf(this.sandboxId)) await harness.shim.removeContainer(c.id);
        await harness.shim.removeSandbox(this.sandboxId);
      }
    }

    const containersOf = async (sandboxId: string) =>
      (await harness.shim.list()).containers.filter((c) => c.sandboxId === sandboxId);
    const find = async (id: string) => (await harness.shim.list()).containers.find((c) => c.id === id);
    const status = async (id: string): Promise<ContainerStatus> => {
      const c = await find(id);
      if (!c) throw new Error(`container ${id} is not listed`);
      return c;
    };
    const ended = (id: string) =>
      eventually(`container ${id} ends`, async () => {
        const c = await status(id);
        return c.state === 'exited' && c;
      });
    const volume = async () => {
      const dir = join(root, `volume-${serial++}`);
      await mkdir(dir);
      await chmod(dir, 0o777);
      return dir;
    };
    const mount = (hostPath: string, readOnly = false): Mount => ({
      hostPath,
      containerPath: '/data',
      readOnly,
    });

    /** Runs the body with a pod and clears the pod away, whatever happens. */
    const withPod = (body: (pod: TestPod) => Promise<void>, options?: Partial<SandboxSpec>) => async () => {
      const pod = new TestPod(options);
      try {
        await body(pod);
      } finally {
        await pod.remove();
      }
    };

    beforeAll(async () => {
      root = await mkdtemp(join(tmpdir(), `conformance-${name}-`));
      await chmod(root, 0o755);
      harness = await makeHarness();
    }, 3 * WAIT_MS);
    afterAll(async () => {
      await harness?.dispose();
      await rm(root, { recursive: true, force: true });
    }, WAIT_MS);

    it('says that it is well', async () => {
      const health = await harness.shim.health();
      expect(health).toMatchObject({ ready: true });
      expect(health.runtimeVersion).toMatch(/^\S+( |:\/\/)\S+/);
      expect(Array.isArray(health.conditions)).toBe(true);
    });

    describe('life of a container', () => {
      it(
        'goes created, running, exited, with an event for each and times in order',
        withPod(async (pod) => {
          const seen: ShimEvent[] = [];
          const off = harness.shim.onEvent((e) => seen.push(e));
          try {
            const id = await pod.create('main', 'delayed-exit', { delayMs: 300, code: 0 });
            const created = await status(id);
            expect(created).toMatchObject({
              state: 'created',
              startedAt: 0,
              finishedAt: 0,
              name: 'main',
              attempt: 0,
            });
            expect(created.createdAt).toBeGreaterThan(0);
            await harness.shim.startContainer(id);
            const running = await status(id);
            expect(['running', 'exited']).toContain(running.state);
            expect(running.startedAt).toBeGreaterThanOrEqual(created.createdAt);
            const c = await ended(id);
            expect(c).toMatchObject({ exitCode: 0, reason: 'Completed', sandboxId: pod.sandboxId });
            expect(c.finishedAt).toBeGreaterThanOrEqual(c.startedAt);
            await eventually('an event names the container', async () =>
              seen.some((e) => e.containerId === id),
            );
            expect((await harness.shim.list()).sandboxes.find((s) => s.id === pod.sandboxId)?.state).toBe(
              'ready',
            );
          } finally {
            off();
          }
        }),
      );

      it(
        'tells by itself that a container ended',
        withPod(async (pod) => {
          const id = await pod.create('main', 'delayed-exit', { delayMs: 500, code: 0 });
          let told = false;
          const looks: Promise<void>[] = [];
          const off = harness.shim.onEvent((e) => {
            if (e.containerId === undefined || e.containerId === id)
              looks.push(
                find(id).then((c) => {
                  if (c?.state === 'exited') told = true;
                }),
              );
          });
          try {
            await harness.shim.startContainer(id);
            await eventually('an event after which list() shows the end', async () => told);
          } finally {
            off();
            await Promise.all(looks);
          }
        }),
      );

      for (const code of [0, 3, 255])
        it(
          `keeps exit code ${code}`,
          withPod(async (pod) => {
            const c = await ended(await pod.run('main', 'exit', { code }));
            expect(c).toMatchObject({ exitCode: code, reason: code === 0 ? 'Completed' : 'Error' });
          }),
        );

      it(
        'tells a crash from an exit',
        withPod(async (pod) => {
          const c = await ended(await pod.run('main', 'crash', {}));
          if (harness.capabilities.signals) expect(c.exitCode).toBeGreaterThan(128);
          else {
            expect(c.exitCode).not.toBe(0);
            expect(c.message).not.toBe('');
          }
          expect(c.reason).not.toBe('Completed');
        }),
      );

      it(
        'starts the next attempt of a container beside the last one',
        withPod(async (pod) => {
          const first = await pod.run('main', 'exit', { code: 3 });
          await ended(first);
          const second = await pod.run('main', 'exit', { code: 0 }, { attempt: 1, logPath: 'main/1.log' });
          expect(second).not.toBe(first);
          expect(await ended(second)).toMatchObject({ attempt: 1, exitCode: 0 });
          expect(await status(first)).toMatchObject({ attempt: 0, exitCode: 3 });
          await harness.shim.removeContainer(first);
          expect((await containersOf(pod.sandboxId)).map((c) => c.id)).toEqual([second]);
        }),
      );

      it(
        'a crash does not disturb the neighbour',
        withPod(async (pod) => {
          const steady = await pod.run('steady', 'sleep-forever', { ignoreTerm: true });
          await pod.waitForLine('steady', 'ready');
          const other = new TestPod();
          try {
            await ended(await pod.run('crashes', 'crash', {}));
            await ended(await other.run('crashes', 'crash', {}));
            expect((await status(steady)).state).toBe('running');
          } finally {
            await other.remove();
          }
          expect((await status(steady)).state).toBe('running');
        }),
      );

      it('runs many at once', async () => {
        const pods = Array.from({ length: 8 }, () => new TestPod());
        try {
          const ids = await Promise.all(pods.map((p, i) => p.run('main', 'exit', { code: i })));
          const all = await Promise.all(ids.map(ended));
          expect(all.map((c) => c.exitCode)).toEqual([0, 1, 2, 3, 4, 5, 6, 7]);
        } finally {
          await Promise.all(pods.map((p) => p.remove()));
        }
      });
    });

    describe('what the workload is given', () => {
      it(
        'args and env, exactly',
        withPod(async (pod) => {
          const args = ['plain', 'two words', '', '$HOME', '"quoted"', 'ünï'];
          const env = [
            { name: 'GREETING', value: 'hello = world' },
            { name: 'EMPTY', value: '' },
          ];
          await ended(await pod.run('main', 'inspect', { args }, { env }));
          const out = await pod.stdout('main');
          expect(out.filter((l) => l.startsWith('arg:'))).toEqual(args.map((a) => `arg:${a}`));
          expect(out).toContain('env:GREETING=hello = world');
          expect(out).toContain('env:EMPTY=');
        }),
      );

      it("nothing of the agent's environment", async () => {
        process.env['CONFORMANCE_LEAK'] = 'yes';
        try {
          await withPod(async (pod) => {
            await ended(await pod.run('main', 'inspect', { args: [] }));
            expect((await pod.stdout('main')).filter((l) => l.includes('CONFORMANCE_LEAK'))).toEqual([]);
          })();
        } finally {
          delete process.env['CONFORMANCE_LEAK'];
        }
      });

      it('the working directory', async (t) => {
        if (!harness.capabilities.workingDir) t.skip('this runtime has no working directory');
        await withPod(async (pod) => {
          const dir = await volume();
          await ended(
            await pod.run('main', 'inspect', { args: [] }, { workingDir: '/data', mounts: [mount(dir)] }),
          );
          expect(await pod.stdout('main')).toContain('cwd:/data');
        })();
      });
    });

    describe('logs', () => {
      it(
        'tells stdout from stderr',
        withPod(async (pod) => {
          await ended(await pod.run('main', 'print', { stdout: 'to out\n', stderr: 'to err\n' }));
          const lines = await eventually('both lines', async () => {
            const l = await pod.log('main');
            return l.length >= 2 && l;
          });
          expect(logContent(lines, 'stdout')).toEqual(['to out']);
          expect(logContent(lines, 'stderr')).toEqual(['to err']);
          for (const l of lines) expect(Number.isNaN(Date.parse(l.time))).toBe(false);
        }),
      );

      it(
        'keeps 10,000 lines in order',
        withPod(async (pod) => {
          await ended(await pod.run('main', 'print-lines', { count: 10_000 }));
          const out = await eventually('the last line', async () => {
            const o = await pod.stdout('main');
            return o.length >= 10_000 && o;
          });
          expect(out).toEqual(Array.from({ length: 10_000 }, (_, i) => `line ${i}`));
        }),
      );

      it(
        'splits a long line into P pieces and one F',
        withPod(async (pod) => {
          await ended(await pod.run('main', 'print-long-line', { length: 100_000 }));
          const lines = await eventually('the end of the line', async () => {
            const l = await pod.log('main');
            return l.at(-1)?.tag === 'F' && l;
          });
          expect(lines.length).toBeGreaterThan(1);
          expect(lines.slice(0, -1).every((l) => l.tag === 'P')).toBe(true);
          for (const l of lines) expect(l.content.length).toBeLessThanOrEqual(65_536);
          expect(logContent(lines, 'stdout')).toEqual(['x'.repeat(100_000)]);
        }),
      );

      it(
        'keeps a last line that has no newline, and an empty line',
        withPod(async (pod) => {
          await ended(await pod.run('main', 'print', { stdout: 'first\n\nlast without newline' }));
          await eventually('the last line', async () =>
            (await pod.stdout('main')).includes('last without newline'),
          );
          expect(await pod.stdout('main')).toEqual(['first', '', 'last without newline']);
        }),
      );

      it(
        'goes on in a new file after rotation',
        withPod(async (pod) => {
          const id = await pod.run('main', 'delayed-exit', { delayMs: 2500, code: 0 });
          await pod.waitForLine('main', 'begin');
          const file = join(pod.spec.logDirectory, 'main/0.log');
          await rename(file, `${file}.1`);
          await harness.shim.reopenLog(id);
          await ended(id);
          await pod.waitForLine('main', 'end');
          expect(logContent(await pod.log('main', 'main/0.log.1'), 'stdout')).toEqual(['begin']);
        }),
      );
    });

    describe('stopping', () => {
      it('lets a workload that heeds SIGTERM end by itself', async (t) => {
        if (!harness.capabilities.sigterm) t.skip('workloads of this runtime cannot catch SIGTERM');
        await withPod(async (pod) => {
          const id = await pod.run('main', 'sleep-forever', { ignoreTerm: false });
          await pod.waitForLine('main', 'ready');
          await harness.shim.stopContainer(id, 60);
          expect(await status(id)).toMatchObject({ state: 'exited', exitCode: 7 });
          await pod.waitForLine('main', 'term');
        })();
      });

      for (const intent of ['sleep-forever', 'busy-loop'] as const)
        it(
          `kills a ${intent} workload that heeds nothing, when the grace is over`,
          withPod(async (pod) => {
            const id =
              intent === 'busy-loop'
                ? await pod.run('main', intent, {})
                : await pod.run('main', intent, { ignoreTerm: true });
            await pod.waitForLine('main', 'ready');
            await harness.shim.stopContainer(id, 1);
            const c = await status(id);
            expect(c.state).toBe('exited');
            // A runtime without signals for the guest may end it at SIGTERM already.
            expect(harness.capabilities.sigterm ? [137] : [137, 143]).toContain(c.exitCode);
          }),
        );

      for (const intent of ['sleep-forever', 'busy-loop'] as const)
        it(
          `kills a ${intent} workload at once with grace 0`,
          withPod(async (pod) => {
            const id =
              intent === 'busy-loop'
                ? await pod.run('main', intent, {})
                : await pod.run('main', intent, { ignoreTerm: false });
            await pod.waitForLine('main', 'ready');
            await harness.shim.stopContainer(id, 0);
            expect(await status(id)).toMatchObject({ state: 'exited', exitCode: 137 });
          }),
        );

      it(
        'is idempotent, and so is removing',
        withPod(async (pod) => {
          const id = await pod.run('main', 'sleep-forever', { ignoreTerm: true });
          await pod.waitForLine('main', 'ready');
          await harness.shim.startContainer(id);
          await Promise.all([harness.shim.stopContainer(id, 0), harness.shim.stopContainer(id, 0)]);
          await harness.shim.stopContainer(id, 0);
          const first = await status(id);
          await harness.shim.stopSandbox(pod.sandboxId);
          await harness.shim.stopSandbox(pod.sandboxId);
          expect((await status(id)).finishedAt).toBe(first.finishedAt);
          await harness.shim.removeContainer(id);
          await harness.shim.removeContainer(id);
          await harness.shim.stopContainer(id, 0);
          await harness.shim.removeSandbox(pod.sandboxId);
          await harness.shim.removeSandbox(pod.sandboxId);
          await harness.shim.stopSandbox(pod.sandboxId);
          const all = await harness.shim.list();
          expect(all.sandboxes.some((s) => s.id === pod.sandboxId)).toBe(false);
          expect(all.containers.some((c) => c.sandboxId === pod.sandboxId)).toBe(false);
        }),
      );

      it(
        'a sandbox that is stopped ends its containers; removing it takes them along',
        withPod(async (pod) => {
          const id = await pod.run('main', 'sleep-forever', { ignoreTerm: true });
          await pod.waitForLine('main', 'ready');
          await harness.shim.stopSandbox(pod.sandboxId);
          expect((await harness.shim.list()).sandboxes.find((s) => s.id === pod.sandboxId)?.state).toBe(
            'notReady',
          );
          await ended(id);
          await harness.shim.removeSandbox(pod.sandboxId);
          expect(await find(id)).toBeUndefined();
        }),
      );

      it(
        'removes a container that runs',
        withPod(async (pod) => {
          const id = await pod.run('main', 'busy-loop', {});
          await pod.waitForLine('main', 'ready');
          await harness.shim.removeContainer(id);
          expect(await find(id)).toBeUndefined();
        }),
      );
    });

    describe('the list', () => {
      it(
        'gives back identity, labels and annotations as they were given',
        withPod(
          async (pod) => {
            const id = await pod.create(
              'main',
              'exit',
              { code: 0 },
              {
                attempt: 4,
                logPath: 'main/4.log',
                labels: { 'io.kubernetes.container.name': 'main', empty: '' },
                annotations: { json: '{"a":[1,"ä"]}' },
              },
            );
            const { sandboxes } = await harness.shim.list();
            const s = sandboxes.find((x) => x.id === pod.sandboxId);
            expect(s).toMatchObject({
              namespace: 'conformance',
              name: pod.spec.name,
              uid: pod.spec.uid,
              attempt: 2,
              labels: pod.spec.labels,
              annotations: pod.spec.annotations,
            });
            expect(Math.abs(Date.now() - s!.createdAt)).toBeLessThan(10 * WAIT_MS);
            const c = await status(id);
            expect(c).toMatchObject({ name: 'main', attempt: 4, sandboxId: pod.sandboxId });
            expect(c.labels).toMatchObject({ 'io.kubernetes.container.name': 'main', empty: '' });
            expect(c.annotations).toMatchObject({ json: '{"a":[1,"ä"]}' });
          },
          { attempt: 2 },
        ),
      );

      it(
        'has figures for what runs',
        withPod(async (pod) => {
          const id = await pod.run('main', 'busy-loop', {});
          await pod.waitForLine('main', 'ready');
          const s = await eventually('stats of a running container', async () =>
            (await harness.shim.stats()).find((x) => x.containerId === id && x.memoryBytes > 0),
          );
          expect(s.cpuNanos).toBeGreaterThanOrEqual(0);
        }),
      );
    });

    describe('a new shim object (the agent was ended and started again)', () => {
      it(
        'adopts what runs, and can stop it',
        withPod(async (pod) => {
          const id = await pod.run('main', 'sleep-forever', { ignoreTerm: false });
          await pod.waitForLine('main', 'ready');
          const before = await status(id);
          await harness.restart(0);
          const after = await status(id);
          expect(after).toEqual({ ...before, state: 'running' });
          expect((await harness.shim.list()).sandboxes.find((s) => s.id === pod.sandboxId)?.state).toBe(
            'ready',
          );
          await harness.shim.stopContainer(id, 0);
          expect(await status(id)).toMatchObject({ state: 'exited', exitCode: 137 });
        }),
      );

      it(
        'knows exit code and log of the time between',
        withPod(async (pod) => {
          const id = await pod.run('main', 'delayed-exit', { delayMs: 1500, code: 42 });
          await pod.waitForLine('main', 'begin');
          await harness.restart(3000);
          const c = await ended(id);
          expect(c).toMatchObject({ exitCode: 42, reason: 'Error' });
          expect(c.finishedAt).toBeGreaterThanOrEqual(c.startedAt);
          await pod.waitForLine('main', 'end');
          expect(await pod.stdout('main')).toEqual(['begin', 'end']);
        }),
      );

      it(
        'hears of an end after the start',
        withPod(async (pod) => {
          const id = await pod.run('main', 'delayed-exit', { delayMs: 3000, code: 5 });
          await pod.waitForLine('main', 'begin');
          await harness.restart(0);
          const told = new Promise<void>((resolve) => {
            const off = harness.shim.onEvent(async () => {
              const c = await find(id);
              if (!c || c.state === 'exited') {
                off();
                resolve();
              }
            });
          });
          if ((await status(id)).state !== 'exited') await told;
          expect(await status(id)).toMatchObject({ state: 'exited', exitCode: 5 });
        }),
      );

      it(
        'still lists what ended before',
        withPod(async (pod) => {
          const id = await pod.run('main', 'exit', { code: 3 });
          const before = await ended(id);
          await harness.restart(0);
          expect(await status(id)).toEqual(before);
        }),
      );
    });

    describe('volumes', () => {
      it(
        'reads and writes',
        withPod(async (pod) => {
          const dir = await volume();
          await writeFile(join(dir, 'in.txt'), 'from the host\n', { mode: 0o644 });
          const mounts = [mount(dir)];
          expect(
            await ended(await pod.run('reads', 'read-file', { path: '/data/in.txt' }, { mounts })),
          ).toMatchObject({
            exitCode: 0,
          });
          expect(await pod.stdout('reads')).toEqual(['from the host']);
          const writes = await pod.run(
            'writes',
            'write-file',
            { path: '/data/out.txt', text: 'from inside' },
            { mounts },
          );
          expect(await ended(writes)).toMatchObject({ exitCode: 0 });
          expect(await readFile(join(dir, 'out.txt'), 'utf8')).toBe('from inside');
        }),
      );

      it(
        'lets nothing be written to a read-only one',
        withPod(async (pod) => {
          const dir = await volume();
          await writeFile(join(dir, 'in.txt'), 'kept\n', { mode: 0o666 });
          const mounts = [mount(dir, true)];
          for (const path of ['/data/new.txt', '/data/in.txt']) {
            const c = path.includes('new') ? 'new' : 'over';
            const end = await ended(await pod.run(c, 'write-file', { path, text: 'changed' }, { mounts }));
            expect(end.exitCode).not.toBe(0);
          }
          expect(await readFile(join(dir, 'in.txt'), 'utf8')).toBe('kept\n');
          await expect(stat(join(dir, 'new.txt'))).rejects.toMatchObject({ code: 'ENOENT' });
          await ended(await pod.run('reads', 'read-file', { path: '/data/in.txt' }, { mounts }));
          expect(await pod.stdout('reads')).toEqual(['kept']);
        }),
      );

      it(
        'are shared by the containers of a pod',
        withPod(async (pod) => {
          const dir = await volume();
          await ended(
            await pod.run('a', 'write-file', { path: '/data/x', text: 'shared\n' }, { mounts: [mount(dir)] }),
          );
          await ended(await pod.run('b', 'read-file', { path: '/data/x' }, { mounts: [mount(dir, true)] }));
          expect(await pod.stdout('b')).toEqual(['shared']);
        }),
      );

      it(
        'mounts a single file',
        withPod(async (pod) => {
          const file = join(await volume(), 'one.txt');
          await writeFile(file, 'one file\n', { mode: 0o644 });
          const mounts: Mount[] = [{ hostPath: file, containerPath: '/etc/one.txt', readOnly: true }];
          await ended(await pod.run('main', 'read-file', { path: '/etc/one.txt' }, { mounts }));
          expect(await pod.stdout('main')).toEqual(['one file']);
        }),
      );

      it(
        'outlive the container that wrote them, and the pod',
        withPod(async (pod) => {
          const dir = await volume();
          await ended(
            await pod.run('a', 'write-file', { path: '/data/x', text: 'kept' }, { mounts: [mount(dir)] }),
          );
          await pod.remove();
          expect(await readFile(join(dir, 'x'), 'utf8')).toBe('kept');
        }),
      );
    });

    describe('limits', () => {
      it(
        'holds the memory limit, and only the offender pays',
        withPod(async (pod) => {
          const steady = await pod.run('steady', 'sleep-forever', { ignoreTerm: true });
          await pod.waitForLine('steady', 'ready');
          const id = await pod.run(
            'grows',
            'grow-memory',
            {},
            { resources: { memoryLimitBytes: 64 * 2 ** 20 } },
          );
          const c = await ended(id);
          expect(c.exitCode).not.toBe(0);
          if (harness.capabilities.oom === 'OOMKilled') expect(c.reason).toBe('OOMKilled');
          else if (harness.capabilities.oom === 'failure') expect(c.reason).toBe('Error');
          else expect(['OOMKilled', 'Error']).toContain(c.reason);
          expect((await status(steady)).state).toBe('running');
        }),
      );
    });

    describe('images', () => {
      it('a missing one is refused by name', async () => {
        const error = await harness.shim.pullImage(harness.missingImage).then(
          () => undefined,
          (e: unknown) => e,
        );
        expect(error).toBeInstanceOf(ShimError);
        expect((error as ShimError).reason).toBe('ErrImagePull');
        expect((error as ShimError).message).toContain(harness.missingImage.replace(/:[^/]*$/, ''));
        expect(await harness.shim.imageStatus(harness.missingImage)).toBeUndefined();
      });

      it('a malformed name is InvalidImageName', async () => {
        const refused = await harness.shim.pullImage('UPPER/..//not a name').catch((e: unknown) => e);
        expect(refused).toBeInstanceOf(ShimError);
        expect((refused as ShimError).reason).toBe('InvalidImageName');
      });

      it('garbage fails with a reason, and the shim goes on', async (t) => {
        const image = harness.garbageImage;
        if (image === undefined) return t.skip('the harness has no garbage image');
        await withPod(async (pod) => {
          const failed = await (async () => {
            const pulled = await harness.shim.pullImage(image);
            pod.sandboxId = await harness.shim.runSandbox(pod.spec);
            await mkdir(join(pod.spec.logDirectory, 'main'), { recursive: true });
            const id = await harness.shim.createContainer(pod.sandboxId, {
              name: 'main',
              attempt: 0,
              image,
              imageRef: pulled.ref,
              env: [],
              mounts: [],
              resources: {},
              logPath: 'main/0.log',
              labels: {},
              annotations: {},
            });
            await harness.shim.startContainer(id);
            const c = await ended(id);
            return c.exitCode !== 0 && c.message ? new ShimError('RunContainerError', c.message) : c;
          })().catch((e: unknown) => e);
          expect(failed).toBeInstanceOf(ShimError);
          expect((failed as ShimError).message).not.toBe('');
          expect((await harness.shim.health()).ready).toBe(true);
        })();
      });

      it('lists, finds and removes; removing twice succeeds', async () => {
        const { image } = harness.workload('exit', { code: 0 }, 'main');
        const pulled = await harness.shim.pullImage(image);
        expect(pulled.ref).not.toBe('');
        expect(pulled.sizeBytes).toBeGreaterThan(0);
        expect(await harness.shim.imageStatus(image)).toEqual(pulled);
        expect((await harness.shim.listImages()).map((i) => i.ref)).toContain(pulled.ref);
        await harness.shim.removeImage(pulled.ref);
        await harness.shim.removeImage(pulled.ref);
        expect(await harness.shim.imageStatus(image)).toBeUndefined();
        await withPod(async (pod) => {
          expect(await ended(await pod.run('main', 'exit', { code: 0 }))).toMatchObject({ exitCode: 0 });
        })();
      });

      it('a pull that is called off rejects', async () => {
        const off = new AbortController();
        off.abort();
        await expect(harness.shim.pullImage(harness.missingImage, undefined, off.signal)).rejects.toThrow();
      });
    });

    describe('errors', () => {
      // containerd makes a missing source, as Docker did; others refuse. Silence with nothing mounted is the fault.
      it('a mount source that does not exist is named, or made', async () => {
        await withPod(async (pod) => {
          const hostPath = join(root, 'no', 'such', 'place');
          const failed = await pod
            .run(
              'main',
              'exit',
              { code: 0 },
              { mounts: [{ hostPath, containerPath: '/data', readOnly: false }] },
            )
            .then(
              () => undefined,
              (e: unknown) => e,
            );
          if (failed === undefined) expect((await stat(hostPath)).isDirectory()).toBe(true);
          else {
            expect(failed).toBeInstanceOf(ShimError);
            expect((failed as ShimError).message).toContain(hostPath);
          }
        })();
      });

      it('a container in a sandbox that is not there is refused', async () => {
        const { image } = harness.workload('exit', { code: 0 }, 'main');
        const { ref } = await harness.shim.pullImage(image);
        const spec: ContainerSpec = {
          name: 'main',
          attempt: 0,
          image,
          imageRef: ref,
          env: [],
          mounts: [],
          resources: {},
          logPath: 'main/0.log',
          labels: {},
          annotations: {},
        };
        await expect(harness.shim.createContainer('no-such-sandbox', spec)).rejects.toBeInstanceOf(ShimError);
      });
    });

    streamConformance({ harness: () => harness, withPod, eventually });
  });
}
