import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { forgetMemory } from '../../../agent/volumes/volumes.js';
import { kubectlPath } from './needs.js';

const REPO = process.env['COX_REPO'] ?? resolve(import.meta.dirname, '../../..');
/** The real program, as a user starts it from a checkout: `npm run build` has made it. */
export const COX = join(REPO, 'cli/cox.js');

/** A fresh directory with a short path (unix socket paths are limited to 107 bytes). */
export const scratch = (name: string): string => mkdtempSync(join(tmpdir(), `cox-${name}-`));

/** Polls until `probe` returns something truthy and throws nothing; fails with the last reason and `context()`. */
export async function eventually<T>(
  what: string,
  probe: () => T | Promise<T>,
  options: { timeoutMs?: number; everyMs?: number; context?: () => string } = {},
): Promise<NonNullable<T>> {
  const deadline = performance.now() + (options.timeoutMs ?? 60_000);
  let last: unknown;
  for (;;) {
    try {
      const value = await probe();
      if (value) return value;
      last = value;
    } catch (e) {
      last = e;
    }
    if (performance.now() > deadline) {
      const why = last instanceof Error ? last.message : JSON.stringify(last);
      throw new Error(`gave up waiting for ${what}; last: ${why}\n${options.context?.() ?? ''}`);
    }
    await new Promise((r) => setTimeout(r, options.everyMs ?? 100));
  }
}

/** One `cox` process with its log. */
export class CoxProcess {
  #log = '';
  #exit: { code: number | null; signal: NodeJS.Signals | null } | undefined;
  readonly child: ChildProcess;
  readonly exited: Promise<{ code: number | null; signal: NodeJS.Signals | null }>;

  constructor(
    readonly args: string[],
    env: Record<string, string> = {},
  ) {
    this.child = spawn(process.execPath, [COX, ...args], {
      cwd: REPO,
      env: { ...process.env, COX_LOG: 'debug', ...env },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    const collect = (c: Buffer) => {
      this.#log = (this.#log + c.toString('utf8')).slice(-400_000);
    };
    this.child.stdout?.on('data', collect);
    this.child.stderr?.on('data', collect);
    this.exited = new Promise((done) =>
      this.child.on('exit', (code, signal) => {
        const exit = { code, signal };
        this.#exit = exit;
        // What it wrote last may still be in the pipe; a child of its own may hold the pipe open for ever.
        const late = setTimeout(() => done(exit), 1000);
        this.child.on('close', () => {
          clearTimeout(late);
          done(exit);
        });
      }),
    );
  }

  get pid(): number {
    return this.child.pid!;
  }
  get log(): string {
    return this.#log;
  }
  tail(lines = 60): string {
    return `--- cox ${this.args[0]} ---\n${this.#log.split('\n').slice(-lines).join('\n')}`;
  }

  /** The fields of the first JSON log line whose message is `message`. */
  async line(message: string, timeoutMs = 60_000): Promise<Record<string, unknown>> {
    return eventually(
      `"${message}" in the log of cox ${this.args[0]}`,
      () => {
        for (const line of this.#log.split('\n')) {
          if (!line.includes(`"msg":"${message}"`)) continue;
          return JSON.parse(line) as Record<string, unknown>;
        }
        if (this.#exit) throw new Error(`exited with ${this.#exit.code ?? this.#exit.signal}`);
        return undefined;
      },
      { timeoutMs, everyMs: 25, context: () => this.tail() },
    );
  }

  async stop(signal: NodeJS.Signals = 'SIGTERM'): Promise<number | null> {
    if (!this.#exit) this.child.kill(signal);
    return (await this.exited).code;
  }
}

export interface Kubectl {
  /** Rejects with stderr when kubectl fails. */
  (...args: string[]): Promise<string>;
  /** Runs on; `stdout()` is what came so far. */
  follow(...args: string[]): { stdout(): string; done: Promise<number | null>; stop(): void };
  /** Never rejects. */
  try(...args: string[]): Promise<{ code: number; stdout: string; stderr: string }>;
  apply(manifest: string | object, ...args: string[]): Promise<string>;
  json<T = any>(...args: string[]): Promise<T>;
}

export function kubectl(kubeconfig: string, minor: '1.32' | '1.36' = '1.36'): Kubectl {
  // Its cache goes with the hub: another one may have the same port, and other kinds.
  const home = join(dirname(kubeconfig), 'kubectl');
  const run = (args: string[], input?: string) =>
    new Promise<{ code: number; stdout: string; stderr: string }>((done) => {
      const child = execFile(
        kubectlPath(minor),
        args,
        {
          env: { ...process.env, KUBECONFIG: kubeconfig, HOME: home },
          maxBuffer: 64 << 20,
          timeout: 120_000,
        },
        (error, stdout, stderr) =>
          done({ code: error ? (typeof error.code === 'number' ? error.code : 1) : 0, stdout, stderr }),
      );
      child.stdin?.on('error', () => {});
      child.stdin?.end(input);
    });
  const must = async (args: string[], input?: string) => {
    const r = await run(args, input);
    if (r.code !== 0) throw new Error(`kubectl ${args.join(' ')}: ${r.stderr || r.stdout}`);
    return r.stdout;
  };
  const k = ((...args: string[]) => must(args)) as Kubectl;
  k.try = (...args) => run(args);
  k.follow = (...args) => {
    const child = spawn(kubectlPath(minor), args, {
      env: { ...process.env, KUBECONFIG: kubeconfig, HOME: home },
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    let text = '';
    child.stdout.on('data', (c) => {
      text += c;
    });
    const done = new Promise<number | null>((ended) => child.once('close', ended));
    return { stdout: () => text, done, stop: () => void child.kill() };
  };
  k.apply = (manifest, ...args) =>
    must(['apply', '-f', '-', ...args], typeof manifest === 'string' ? manifest : JSON.stringify(manifest));
  k.json = async (...args) => JSON.parse(await must([...args, '-o', 'json']));
  return k;
}

/** A hub as a process, on free ports, over a data directory that survives restarts. */
export class TestHub {
  process!: CoxProcess;
  apiPort = 0;
  mqttPort = 0;
  constructor(
    readonly dataDir: string = scratch('hub'),
    readonly args: string[] = [],
  ) {}

  async start(): Promise<this> {
    this.process = new CoxProcess([
      'hub',
      '--data-dir',
      this.dataDir,
      '--host',
      '127.0.0.1',
      // A restart comes back on the same ports: agents know no others.
      '--api-port',
      String(this.apiPort),
      '--mqtt-port',
      String(this.mqttPort),
      ...this.args,
    ]);
    const ready = await this.process.line('ready');
    this.apiPort = Number(ready['apiPort']);
    this.mqttPort = Number(ready['mqttPort'] ?? 0);
    return this;
  }

  get kubeconfig(): string {
    return join(this.dataDir, 'admin.kubeconfig');
  }
  kubectl(minor?: '1.32' | '1.36'): Kubectl {
    return kubectl(this.kubeconfig, minor);
  }

  /** `cox token create`, as a user runs it. */
  async token(...args: string[]): Promise<string> {
    const p = new CoxProcess(['token', 'create', '--data-dir', this.dataDir, ...args], { COX_LOG: 'error' });
    const { code } = await p.exited;
    if (code !== 0) throw new Error(p.tail());
    return p.log.trim().split('\n').at(-1)!;
  }

  async stop(signal?: NodeJS.Signals): Promise<number | null> {
    return this.process.stop(signal);
  }
}

/** An agent as a process. */
export class TestAgent {
  process!: CoxProcess;
  constructor(
    readonly nodeName: string,
    readonly args: string[] = [],
    readonly dataDir: string = scratch('agent'),
  ) {}

  async start(...extra: string[]): Promise<this> {
    this.process = new CoxProcess([
      'agent',
      '--data-dir',
      this.dataDir,
      '--node-name',
      this.nodeName,
      ...this.args,
      ...extra,
    ]);
    return this;
  }

  async stop(signal?: NodeJS.Signals): Promise<number | null> {
    return this.process.stop(signal);
  }
}

/** Waits until the node says Ready. */
export const nodeReady = (k: Kubectl, name: string, context?: () => string): Promise<unknown> =>
  eventually(
    `node ${name} Ready`,
    async () => {
      const node = await k.json('get', 'node', name);
      return (
        node.status.conditions.find((c: { type: string; status: string }) => c.type === 'Ready')?.status ===
        'True'
      );
    },
    { context },
  );

/** Removes data directories, those of agents with what they keep in memory for pods that were not deleted. */
export const remove = (...dirs: string[]): void => {
  for (const d of dirs.filter(existsSync)) {
    forgetMemory(join(d, 'pods'));
    rmSync(d, { recursive: true, force: true });
  }
};

/** A file of the repo, e.g. an example's manifest. */
export const repoFile = (path: string): string => readFileSync(join(REPO, path), 'utf8');
