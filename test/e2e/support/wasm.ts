import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { systemClock } from '../../../api/clock.js';
import { silentLog } from '../../../api/log.js';
import type { WasmImage, WasmImages } from '../../../shims/images/image.js';
import { formatReference, parseReference } from '../../../shims/images/reference.js';
import { ShimError } from '../../../shims/shim.js';
import { WasmShim, type WasmShimOptions } from '../../../shims/wasm/shim.js';

const root = join(dirname(fileURLToPath(import.meta.url)), '../../..');

/** Bundles the host programs from source, once per process, into a directory that goes at its end. */
export const hostPrograms = (() => {
  let dir: string | undefined;
  return (): string => {
    if (dir) return dir;
    const made = mkdtempSync(join(tmpdir(), 'wasm-host-'));
    execFileSync(process.execPath, [join(root, 'scripts/wasm-host.mjs'), made], {
      cwd: root,
      stdio: 'inherit',
    });
    process.once('exit', () => rmSync(made, { recursive: true, force: true }));
    dir = made;
    return made;
  };
})();

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

/** A shim on a directory of its own. `again()` makes a second object on the same state, as a restarted agent does. */
export async function wasmShim(files: Record<string, string>, options: Partial<WasmShimOptions> = {}) {
  const dataDir = await mkdtemp(join(tmpdir(), 'wasm-shim-'));
  const make = async (): Promise<WasmShim> => {
    const images = new LocalImages(files);
    for (const name of Object.keys(files)) await images.pull(name);
    const shim = new WasmShim({
      dataDir,
      images,
      log: silentLog,
      clock: systemClock,
      programs: hostPrograms(),
      ...options,
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
