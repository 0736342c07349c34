import { execFileSync } from 'node:child_process';
import { createHash, randomUUID } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll } from 'vitest';
import { systemClock } from '../../../api/clock.js';
import { silentLog } from '../../../api/log.js';
import { logContent, parseCriLog } from '../../../shims/conformance.js';
import type { WasmImage, WasmImages } from '../../../shims/images/image.js';
import { formatReference, parseReference } from '../../../shims/images/reference.js';
import {
  type ContainerSpec,
  type ContainerStatus,
  type SandboxSpec,
  type Shim,
  ShimError,
} from '../../../shims/shim.js';
import { WasmShim, type WasmShimOptions } from '../../../shims/wasm/shim.js';

const root = join(dirname(fileURLToPath(import.meta.url)), '../../..');

let programs: string | undefined;
afterAll(() => {
  if (programs) rmSync(programs, { recursive: true, force: true });
  programs = undefined;
});

/** Bundles the host programs from source, once per test file, into a directory that goes at its end. */
export function hostPrograms(): string {
  if (programs) return programs;
  programs = mkdtempSync(join(tmpdir(), 'wasm-host-'));
  execFileSync(process.execPath, [join(root, 'scripts/wasm-host.mjs'), programs], {
    cwd: root,
    stdio: 'inherit',
  });
  return programs;
}

/** Images that are files on disk, by full reference: the seam where `ImageCache` is in an agent. */
export class LocalImages implements WasmImages {
  readonly #pulled = new Map<string, WasmImage>();
  constructor(private readonly files: Record<string, string>) {}

  async start(): Promise<void> {}

  async get(image: string): Promise<WasmImage | undefined> {
    return this.#pulled.get(formatReference(parseReference(image)));
  }

  async pull(image: string, options: { signal?: AbortSignal } = {}): Promise<WasmImage> {
    options.signal?.throwIfAborted();
    const ref = formatReference(parseReference(image));
    const modulePath = this.files[ref];
    if (modulePath === undefined)
      throw new ShimError('ErrImagePull', `failed to pull "${image}": ${ref}: not found`);
    const moduleDigest = `sha256:${createHash('sha256').update(readFileSync(modulePath)).digest('hex')}`;
    const found: WasmImage = {
      ref,
      repoDigests: [`${ref.replace(/:[^/:]*$/, '')}@${moduleDigest}`],
      sizeBytes: statSync(modulePath).size,
      modulePath,
      moduleDigest,
      layers: [],
    };
    this.#pulled.set(ref, found);
    return found;
  }

  async list(): Promise<WasmImage[]> {
    return [...this.#pulled.values()];
  }

  async remove(image: string): Promise<void> {
    this.#pulled.delete(formatReference(parseReference(image)));
  }
}

/** What a container did, once it has ended. */
export interface Outcome {
  status: ContainerStatus;
  out: string;
  err: string;
}

/** Waits without bound for a condition: the test's own timeout ends it. */
export async function until<T>(probe: () => T | Promise<T>): Promise<Exclude<NonNullable<T>, false>> {
  for (;;) {
    const got = await probe();
    if (got) return got as Exclude<NonNullable<T>, false>;
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

/** A pod for tests: containers named `c0`, `c1` … of one sandbox, with a log directory that goes with it. */
export class TestPod {
  #count = 0;
  private constructor(
    readonly shim: Shim,
    readonly sandboxId: string,
    readonly logs: string,
  ) {}

  static async make(shim: Shim, spec: Partial<SandboxSpec> = {}): Promise<TestPod> {
    const logs = await mkdtemp(join(tmpdir(), 'wasm-logs-'));
    const sandboxId = await shim.runSandbox({
      namespace: 'test',
      name: 'pod',
      uid: randomUUID(),
      attempt: 0,
      hostname: 'pod',
      hostNetwork: false,
      portMappings: [],
      logDirectory: logs,
      labels: {},
      annotations: {},
      ...spec,
    });
    return new TestPod(shim, sandboxId, logs);
  }

  async create(image: string, args: string[], spec: Partial<ContainerSpec> = {}): Promise<string> {
    const name = `c${this.#count++}`;
    return await this.shim.createContainer(this.sandboxId, {
      name,
      attempt: 0,
      image,
      imageRef: image,
      args,
      env: [],
      mounts: [],
      resources: {},
      logPath: `${name}/0.log`,
      labels: {},
      annotations: {},
      ...spec,
    });
  }

  async start(image: string, args: string[], spec: Partial<ContainerSpec> = {}): Promise<string> {
    const id = await this.create(image, args, spec);
    await this.shim.startContainer(id);
    return id;
  }

  async status(id: string): Promise<ContainerStatus> {
    const found = (await this.shim.list()).containers.find((c) => c.id === id);
    if (!found) throw new Error(`no container ${id}`);
    return found;
  }

  log(status: ContainerStatus, stream: 'stdout' | 'stderr'): string {
    const text = readFileSync(join(this.logs, status.name, '0.log'), 'utf8');
    return logContent(parseCriLog(text.slice(0, text.lastIndexOf('\n') + 1)), stream).join('\n');
  }

  /** Waits for a line on stdout. */
  async line(id: string, line: string): Promise<void> {
    const status = await this.status(id);
    await until(() => this.log(status, 'stdout').split('\n').includes(line));
  }

  async ended(id: string): Promise<Outcome> {
    const status = await until(async () => {
      const s = await this.status(id);
      return s.state === 'exited' && s;
    });
    return { status, out: this.log(status, 'stdout'), err: this.log(status, 'stderr') };
  }

  async run(image: string, args: string[], spec: Partial<ContainerSpec> = {}): Promise<Outcome> {
    return await this.ended(await this.start(image, args, spec));
  }

  async remove(): Promise<void> {
    await this.shim.removeSandbox(this.sandboxId);
    await rm(this.logs, { recursive: true, force: true });
  }
}

/** A shim on a directory of its own. `again()` makes a second object on the same state, as a
 * restarted agent does. */
export async function wasmShim(files: Record<string, string>, options: Partial<WasmShimOptions> = {}) {
  const dataDir = await mkdtemp(join(tmpdir(), 'wasm-shim-'));
  const make = async (more: Partial<WasmShimOptions> = {}): Promise<WasmShim> => {
    const images = new LocalImages(files);
    for (const name of Object.keys(files)) await images.pull(name);
    const shim = new WasmShim({
      dataDir,
      images,
      log: silentLog,
      clock: systemClock,
      programs: hostPrograms(),
      ...options,
      ...more,
    });
    await shim.start();
    return shim;
  };
  return {
    dataDir,
    shim: await make(),
    again: make,
    remove: () => rm(dataDir, { recursive: true, force: true }),
  };
}
