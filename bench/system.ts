import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import type { ClientRequest, IncomingMessage } from 'node:http';
import { request } from 'node:https';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { forgetMemory } from '../agent/volumes/volumes.js';
import { ApiClient, readAccess } from '../cli/client.js';

/** The checkout: compiled benchmarks live elsewhere in it than their sources. */
export const REPO = process.env['COX_REPO'] ?? process.cwd();

export const sleep = (ms: number): Promise<void> => new Promise((r) => setTimeout(r, ms));

/** Polls until `probe` gives something; throws after `seconds`. */
export async function until<T>(
  what: string,
  probe: () => T | undefined | Promise<T | undefined>,
  seconds = 60,
  everyMs = 50,
): Promise<T> {
  const deadline = performance.now() + seconds * 1000;
  for (;;) {
    const value = await probe();
    if (value !== undefined) return value;
    if (performance.now() > deadline) throw new Error(`gave up waiting for ${what}`);
    await sleep(everyMs);
  }
}

/** One process of `cox` as a user runs it, logging at its usual level into memory. */
class Cox {
  readonly child: ChildProcess;
  log = '';
  out = '';
  readonly ended: Promise<number | null>;

  constructor(args: string[]) {
    this.child = spawn(process.execPath, [join(REPO, 'cli', 'cox.js'), ...args], {
      cwd: REPO,
      env: { ...process.env, COX_LOG: '' },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    this.child.stdout!.on('data', (c: Buffer) => {
      this.out += c.toString('utf8');
    });
    this.child.stderr!.on('data', (c: Buffer) => {
      this.log = (this.log + c.toString('utf8')).slice(-100_000);
    });
    this.ended = new Promise((resolve) => this.child.on('exit', (code) => resolve(code)));
  }

  get pid(): number {
    return this.child.pid!;
  }

  async line(message: string): Promise<Record<string, unknown>> {
    return until(`"${message}" from cox ${this.child.spawnargs[2]}`, () => {
      const line = this.log.split('\n').find((l) => l.includes(`"msg":"${message}"`));
      if (line) return JSON.parse(line) as Record<string, unknown>;
      if (this.child.exitCode !== null) throw new Error(this.log.slice(-2000));
      return undefined;
    });
  }

  async stop(): Promise<void> {
    if (this.child.exitCode === null && this.child.signalCode === null) this.child.kill('SIGTERM');
    await this.ended;
  }
}

interface NodeJson {
  metadata: { name: string };
  status?: { conditions?: { type: string; status: string }[] };
}

/** A hub and any number of agents as processes of their own, on loopback. `stop` removes everything. */
export class System {
  readonly dir = mkdtempSync(join(tmpdir(), 'cox-bench-'));
  readonly agents: Cox[] = [];
  hub!: Cox;
  mqttPort = 0;
  api!: ApiClient;

  get hubDir(): string {
    return join(this.dir, 'hub');
  }

  async start(): Promise<this> {
    const ports = ['--api-port', '0', '--mqtt-port', '0'];
    await this.#startHub('--host', '127.0.0.1', ...ports);
    return this;
  }

  /** Kills the hub without warning and starts it again where it was. */
  async restartHub(): Promise<void> {
    this.hub.child.kill('SIGKILL');
    await this.hub.ended;
    await this.#startHub();
  }

  async #startHub(...args: string[]): Promise<void> {
    this.hub = new Cox(['hub', '--data-dir', this.hubDir, ...args]);
    const ready = await this.hub.line('ready');
    this.mqttPort = Number(ready['mqttPort']);
    this.api?.close();
    this.api = new ApiClient(readAccess(this.hubDir));
  }

  /** A join token for so many nodes. */
  async token(uses = 1): Promise<string> {
    const token = new Cox(['token', 'create', '--data-dir', this.hubDir, '--uses', String(uses)]);
    if ((await token.ended) !== 0) throw new Error(token.log);
    return token.out.trim().split('\n').at(-1)!;
  }

  /** Joins a node and waits until it is Ready. */
  async addAgent(name: string, ...args: string[]): Promise<Cox> {
    const agent = new Cox([
      ...['agent', '--data-dir', join(this.dir, name), '--node-name', name],
      ...['--join', await this.token(), ...args],
    ]);
    this.agents.push(agent);
    await until(`node ${name} Ready; its log:\n${agent.log.slice(-2000)}`, async () => {
      if (agent.child.exitCode !== null) throw new Error(agent.log.slice(-2000));
      const { items } = await this.api.call<{ items: NodeJson[] }>('GET', '/api/v1/nodes');
      const node = items.find((n) => n.metadata.name === name);
      return node?.status?.conditions?.some((c) => c.type === 'Ready' && c.status === 'True') || undefined;
    });
    return agent;
  }

  /** `cox push`. */
  async push(file: string, name: string): Promise<void> {
    const push = new Cox(['push', join(REPO, file), name, '--data-dir', this.hubDir]);
    if ((await push.ended) !== 0) throw new Error(push.log);
  }

  /** A watch as the API streams it; `close` ends it. Resolves when the hub has answered. */
  async watch(path: string, onEvent: (e: { type: string; object: unknown }) => void): Promise<() => void> {
    const { ca, cert, key, server } = this.api.access;
    const [req, res] = await new Promise<[ClientRequest, IncomingMessage]>((resolve, reject) => {
      const r = request(
        { host: server.hostname, port: server.port, path, ca, cert, key, agent: false },
        (answer) => resolve([r, answer]),
      );
      r.on('error', reject);
      r.end();
    });
    let rest = '';
    res.setEncoding('utf8');
    res.on('data', (text: string) => {
      const lines = (rest + text).split('\n');
      rest = lines.pop()!;
      for (const line of lines) if (line) onEvent(JSON.parse(line));
    });
    res.on('error', () => {});
    return () => req.destroy();
  }

  async stop(): Promise<void> {
    this.api?.close();
    await Promise.all(this.agents.map((a) => a.stop()));
    await this.hub?.stop();
    for (const name of readdirSync(this.dir)) forgetMemory(join(this.dir, name, 'pods'));
    rmSync(this.dir, { recursive: true, force: true });
  }
}

/** kB of a field of /proc/PID/status or smaps_rollup, e.g. `VmRSS`, as MB. */
export function memoryMb(pid: number, field: 'VmRSS' | 'VmHWM' | 'Pss'): number {
  const file = field === 'Pss' ? 'smaps_rollup' : 'status';
  const text = readFileSync(`/proc/${pid}/${file}`, 'utf8');
  return Number(new RegExp(`^${field}:\\s+(\\d+)`, 'm').exec(text)?.[1] ?? Number.NaN) / 1024;
}

/** Bytes that the process has caused to be written to block devices so far. */
export const writtenBytes = (pid: number): number =>
  Number(/^write_bytes: (\d+)/m.exec(readFileSync(`/proc/${pid}/io`, 'utf8'))?.[1] ?? Number.NaN);

/** CPU seconds used so far. */
export function cpuSeconds(pid: number): number {
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]!.split(' ');
  return (Number(fields[11]) + Number(fields[12])) / 100;
}
