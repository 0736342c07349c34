import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { mkdir, open, readdir, readFile, rename, rm, stat, utimes } from 'node:fs/promises';
import path from 'node:path';
import { createGunzip } from 'node:zlib';
import { type Clock, sleep, systemClock } from '../../api/clock.js';
import { fsyncDir, writeFileAtomic } from '../../api/files.js';
import { type Log, silentLog } from '../../api/log.js';
import { type Descriptor, isDigest, MEDIA } from '../../api/oci.js';
import { ShimError } from '../shim.js';
import {
  type ClientOptions,
  type FetchedManifest,
  pullError,
  RegistryClient,
  RegistryDown,
  sha256,
} from './client.js';
import type { PullOptions, WasmImage, WasmImages } from './image.js';
import { formatReference, parseReference, type Reference, repoDigest } from './reference.js';
import { chooseManifest, imageKind, moduleOfLayer, type WasmConfig } from './wasm-image.js';

export interface CacheOptions extends ClientOptions {
  log?: Log;
  clock?: Clock;
  /** Bytes on disk above which images that were not used for longest are dropped. */
  budgetBytes?: number;
  /** Bytes of one module, and of one layer. */
  moduleBytes?: number;
  /** Digests of modules that pods use: they are not evicted. */
  inUse?: () => ReadonlySet<string>;
}

const BUDGET_BYTES = 512 << 20;
const MODULE_BYTES = 256 << 20;
const CONFIG_BYTES = 4 << 20;
/** A use is noted on disk at most this often: eviction needs no more, and flash wears. */
const TOUCH_MS = 6 * 3_600_000;
/** Tries of one download that get no further. */
const BLOB_TRIES = 5;

/** One image as it is on disk, `images/<hash of the reference>.json`. */
type Record_ = Omit<WasmImage, 'modulePath'>;

interface Known {
  image: Record_;
  file: string;
  /** Wall time in milliseconds. */
  usedAt: number;
  touchedAt: number;
}

/**
 * Wasm images on this node: modules by digest in `blobs/sha256`, one small record per reference. Every file is verified
 * while it arrives, made durable and renamed into place; a download that breaks off goes on where it stopped, in the
 * next life of the agent as well.
 */
export class ImageCache implements WasmImages {
  readonly #dir: string;
  readonly #blobs: string;
  readonly #records: string;
  readonly #partial: string;
  readonly #log: Log;
  readonly #clock: Clock;
  readonly #budget: number;
  readonly #moduleBytes: number;
  readonly #inUse: () => ReadonlySet<string>;
  readonly #client: RegistryClient;
  readonly #known = new Map<string, Known>();
  /** Files whose content was found right, by digest, with what `stat` said then. */
  readonly #verified = new Map<string, string>();
  /** One download per digest at a time; and deletions while none is under way. */
  readonly #turns = new Map<string, Promise<unknown>>();
  /** Digests that pulls under way count on. */
  readonly #pinned = new Map<string, number>();

  constructor(dir: string, options: CacheOptions = {}) {
    this.#dir = dir;
    this.#blobs = path.join(dir, 'blobs', 'sha256');
    this.#records = path.join(dir, 'images');
    this.#partial = path.join(dir, 'partial');
    this.#log = options.log ?? silentLog;
    this.#clock = options.clock ?? systemClock;
    this.#budget = options.budgetBytes ?? BUDGET_BYTES;
    this.#moduleBytes = options.moduleBytes ?? MODULE_BYTES;
    this.#inUse = options.inUse ?? (() => new Set());
    this.#client = new RegistryClient({ ...options, clock: this.#clock });
  }

  async start(): Promise<void> {
    for (const d of [this.#blobs, this.#records, this.#partial]) {
      await mkdir(d, { recursive: true, mode: 0o755 });
    }
    for (const name of await readdir(this.#records)) {
      const file = path.join(this.#records, name);
      try {
        if (!name.endsWith('.json')) throw new Error('left by an interrupted write');
        const image = JSON.parse(await readFile(file, 'utf8')) as Record_;
        if (!isDigest(image.moduleDigest) || !Array.isArray(image.repoDigests))
          throw new Error('not an image record');
        const usedAt = (await stat(file)).mtimeMs;
        this.#known.set(image.ref, { image, file, usedAt, touchedAt: usedAt });
      } catch (err) {
        this.#log.warn({ file, err }, 'dropped a damaged image record; the image will be pulled again');
        await rm(file, { force: true });
      }
    }
    await this.#sweep();
    // What a pull in an earlier life left may be gone on with, unless it is too much.
    let left = this.#budget / 4;
    for (const name of await readdir(this.#partial)) {
      const file = path.join(this.#partial, name);
      left -= (await stat(file)).size;
      if (left < 0 || !isDigest(`sha256:${name}`)) await rm(file, { force: true });
    }
  }

  /** Closes idle connections. */
  stop(): void {
    this.#client.close();
  }

  async get(image: string): Promise<WasmImage | undefined> {
    const known = this.#find(image);
    if (!known) return undefined;
    const { moduleDigest } = known.image;
    if (!(await this.#sound(moduleDigest))) return undefined;
    await this.#touch(known);
    return this.#asImage(known.image);
  }

  async list(): Promise<WasmImage[]> {
    return [...this.#known.values()].map((k) => this.#asImage(k.image));
  }

  async remove(image: string): Promise<void> {
    for (let k = this.#find(image); k; k = this.#find(image)) await this.#forget(k);
    await this.#sweep();
  }

  async pull(image: string, options: PullOptions = {}): Promise<WasmImage> {
    const ref = parseReference(image);
    const name = formatReference(ref);
    const pins: string[] = [];
    try {
      const top = await this.#client.manifest(ref, options);
      const digests = [repoDigest(ref, top.digest)];
      let chosen: FetchedManifest = top;
      // An index may hold an index (image-spec allows it); nobody nests deeper.
      for (let depth = 0; isIndex(chosen); depth++) {
        const next = chooseManifest(name, chosen.doc.manifests ?? []);
        if (depth > 1) throw pullError(name, 'its indexes are nested too deeply');
        chosen = await this.#client.manifest(ref, options, next.digest);
        digests.push(repoDigest(ref, chosen.digest));
      }
      const { kind, config: configDescriptor, layer } = imageKind(name, chosen);
      let config: WasmConfig = {};
      if (kind === 'container') {
        config = await this.#config(ref, configDescriptor, options);
      }
      if (layer.size > this.#moduleBytes) {
        throw pullError(
          name,
          `its layer has ${layer.size} bytes, more than the ${this.#moduleBytes} allowed here`,
        );
      }
      const pin = (digest: string) => {
        pins.push(digest);
        this.#pinned.set(digest, (this.#pinned.get(digest) ?? 0) + 1);
      };
      let moduleDigest = layer.digest;
      pin(moduleDigest);
      if (kind === 'artifact') {
        await this.#blob(ref, layer, options, (file) => checkMagic(name, file));
      } else {
        const before = this.#known.get(name)?.image;
        const same =
          before?.repoDigests.at(-1) === digests.at(-1) && (await this.#sound(before!.moduleDigest));
        moduleDigest = same ? before!.moduleDigest : await this.#extract(ref, layer, config, options, pin);
      }
      const sizeBytes = chosen.doc.layers!.reduce(
        (n, l) => n + l.size,
        configDescriptor.size + chosen.body.length,
      );
      const record: Record_ = {
        ref: name,
        repoDigests: digests,
        sizeBytes,
        moduleDigest,
        layers: chosen.doc.layers!.map(({ mediaType, digest, size, annotations }) => ({
          mediaType,
          digest,
          size,
          ...(annotations ? { annotations } : {}),
        })),
        ...(config.Entrypoint ? { entrypoint: config.Entrypoint } : {}),
        ...(config.Cmd ? { cmd: config.Cmd } : {}),
        ...(config.Env ? { env: config.Env } : {}),
        ...(config.WorkingDir ? { workingDir: config.WorkingDir } : {}),
        ...(config.User ? { user: config.User } : {}),
      };
      await this.#remember(record);
      await this.#evict(name);
      return this.#asImage(record);
    } catch (e) {
      if (e instanceof ShimError || options.signal?.aborted) throw e;
      const { code } = e as NodeJS.ErrnoException;
      const full = code === 'ENOSPC' || code === 'EDQUOT';
      throw new ShimError(
        'ErrImagePull',
        `failed to pull image "${name}": ${full ? `no space left on the disk of ${this.#dir}: free some` : (e as Error).message}`,
        { cause: e },
      );
    } finally {
      for (const d of pins) {
        const n = this.#pinned.get(d)! - 1;
        if (n > 0) this.#pinned.set(d, n);
        else this.#pinned.delete(d);
      }
    }
  }

  #asImage(r: Record_): WasmImage {
    return { ...r, modulePath: this.#path(r.moduleDigest) };
  }

  #path(digest: string): string {
    return path.join(this.#blobs, digest.slice('sha256:'.length));
  }

  /** By reference in any form, or by repo digest. */
  #find(image: string): Known | undefined {
    const ref = parseReference(image);
    const known = this.#known.get(formatReference(ref));
    if (known || !ref.digest) return known;
    const wanted = repoDigest(ref, ref.digest);
    for (const k of this.#known.values()) if (k.image.repoDigests.includes(wanted)) return k;
    return undefined;
  }

  /** Is the blob there and what its name says? Read once, and again only when the file has changed. */
  async #sound(digest: string): Promise<boolean> {
    const file = this.#path(digest);
    const s = await stat(file).catch(() => undefined);
    if (!s) return false;
    const seen = `${s.ino}/${s.size}/${s.mtimeMs}`;
    if (this.#verified.get(digest) === seen) return true;
    const hash = createHash('sha256');
    for await (const chunk of createReadStream(file)) hash.update(chunk as Buffer);
    if (`sha256:${hash.digest('hex')}` === digest) {
      this.#verified.set(digest, seen);
      return true;
    }
    this.#log.warn({ digest }, 'an image in the cache is damaged; it is dropped and will be pulled again');
    await rm(file, { force: true });
    return false;
  }

  async #config(ref: Reference, d: Descriptor, options: PullOptions): Promise<WasmConfig> {
    const name = formatReference(ref);
    if (d.size > CONFIG_BYTES)
      throw pullError(name, `its config has ${d.size} bytes, more than ${CONFIG_BYTES}`);
    const { body } = await this.#client.blob(ref, d, 0, options);
    const parts: Buffer[] = [];
    let size = 0;
    for await (const part of body as AsyncIterable<Buffer>) {
      size += part.length;
      if (size > d.size) break;
      parts.push(part);
    }
    const bytes = Buffer.concat(parts);
    if (sha256(bytes) !== d.digest) throw pullError(name, `its config does not have the digest ${d.digest}`);
    try {
      return (JSON.parse(bytes.toString()) as { config?: WasmConfig }).config ?? {};
    } catch (e) {
      throw pullError(name, `its config is not JSON: ${(e as Error).message}`);
    }
  }

  /** Makes sure that the blob is here. `check` looks at the verified file before it gets its name. */
  async #blob(
    ref: Reference,
    d: Descriptor,
    options: PullOptions,
    check: (file: string) => Promise<void> = async () => {},
  ): Promise<void> {
    await this.#inTurn(
      d.digest,
      async () => {
        if (await this.#sound(d.digest)) return;
        const file = await this.#download(ref, d, options);
        await check(file).catch(async (e: unknown) => {
          await rm(file, { force: true });
          throw e;
        });
        await rename(file, this.#path(d.digest));
        fsyncDir(this.#blobs);
      },
      options.signal,
    );
  }

  /** Downloads into `partial/`, going on where an earlier try stopped; verified and synced when it returns. */
  async #download(ref: Reference, d: Descriptor, options: PullOptions): Promise<string> {
    const name = formatReference(ref);
    const file = path.join(this.#partial, d.digest.slice('sha256:'.length));
    const handle = await open(file, 'a+', 0o644);
    try {
      let have = (await handle.stat()).size;
      const restart = async () => {
        await handle.truncate(0);
        have = 0;
        return createHash('sha256');
      };
      let hash = createHash('sha256');
      if (have > d.size) hash = await restart();
      else if (have > 0) for await (const c of createReadStream(file)) hash.update(c as Buffer);
      for (let tries = 0; have < d.size; ) {
        const before = have;
        try {
          const { from, body } = await this.#client.blob(ref, d, have, options);
          if (from !== have) hash = await restart();
          for await (const chunk of body as AsyncIterable<Buffer>) {
            if (have + chunk.length > d.size) {
              body.destroy();
              throw pullError(
                name,
                `blob ${d.digest} is longer than the ${d.size} bytes that its manifest states`,
              );
            }
            for (let done = 0; done < chunk.length; ) {
              done += (await handle.write(chunk, done, chunk.length - done)).bytesWritten;
            }
            hash.update(chunk);
            have += chunk.length;
          }
        } catch (e) {
          options.signal?.throwIfAborted();
          const broken = e instanceof RegistryDown || (!(e instanceof ShimError) && isNetwork(e));
          if (!broken) throw e;
          tries = have > before ? 0 : tries + 1;
          if (tries >= BLOB_TRIES) {
            const why = `blob ${d.digest}: ${(e as Error).message}`;
            throw e instanceof RegistryDown
              ? e
              : new RegistryDown(`failed to pull image "${name}": ${why}`, e);
          }
          this.#log.info(
            { image: name, have, of: d.size, err: e },
            'download broke off; going on where it stopped',
          );
          await sleep(this.#clock, 200 * 2 ** tries * (0.5 + this.#clock.random()));
          continue;
        }
        if (have < d.size && ++tries >= BLOB_TRIES) {
          throw pullError(name, `blob ${d.digest} ends after ${have} of ${d.size} bytes`);
        }
      }
      const found = `sha256:${hash.digest('hex')}`;
      if (found !== d.digest) {
        await handle.truncate(0);
        throw pullError(name, `blob ${d.digest} arrived with the digest ${found}: it was changed on the way`);
      }
      await handle.sync();
      return file;
    } catch (e) {
      // What could not be a part of the blob must not be gone on with.
      if (e instanceof ShimError && !(e instanceof RegistryDown)) await rm(file, { force: true });
      throw e;
    } finally {
      await handle.close();
    }
  }

  /** Takes the module out of a container image's layer; returns its digest. */
  async #extract(
    ref: Reference,
    layer: Descriptor,
    config: WasmConfig,
    options: PullOptions,
    pin: (digest: string) => void,
  ): Promise<string> {
    const name = formatReference(ref);
    return this.#inTurn(
      layer.digest,
      async () => {
        const archive = await this.#download(ref, layer, options);
        const temp = `${archive}.module`;
        const source = createReadStream(archive);
        try {
          const tar = /[+.]gzip$/.test(layer.mediaType) ? source.pipe(createGunzip()) : source;
          source.on('error', (e) => tar.destroy(e));
          const digest = await moduleOfLayer(name, tar, config, this.#moduleBytes, async (content) => {
            const hash = createHash('sha256');
            const out = await open(temp, 'w', 0o644);
            try {
              for await (const chunk of content) {
                hash.update(chunk);
                await out.writeFile(chunk);
              }
              await out.sync();
            } finally {
              await out.close();
            }
            return `sha256:${hash.digest('hex')}`;
          });
          await checkMagic(name, temp);
          pin(digest);
          await rename(temp, this.#path(digest));
          fsyncDir(this.#blobs);
          return digest;
        } finally {
          source.destroy();
          await rm(temp, { force: true });
          await rm(archive, { force: true });
        }
      },
      options.signal,
    );
  }

  async #remember(image: Record_): Promise<void> {
    const old = this.#known.get(image.ref);
    const file = path.join(this.#records, `${createHash('sha256').update(image.ref).digest('hex')}.json`);
    const now = this.#clock.now();
    // Pulled again and nothing new: no write.
    if (!old || JSON.stringify(old.image) !== JSON.stringify(image)) {
      writeFileAtomic(file, JSON.stringify(image), 0o644);
    }
    this.#known.set(image.ref, { image, file, usedAt: now, touchedAt: old?.touchedAt ?? now });
    if (old && old.image.moduleDigest !== image.moduleDigest) await this.#sweep();
  }

  async #touch(k: Known): Promise<void> {
    k.usedAt = this.#clock.now();
    if (Math.abs(k.usedAt - k.touchedAt) < TOUCH_MS) return;
    k.touchedAt = k.usedAt;
    const at = new Date(k.usedAt);
    await utimes(k.file, at, at).catch((err: unknown) =>
      this.#log.debug({ err }, 'cannot note the use of an image'),
    );
  }

  async #forget(k: Known): Promise<void> {
    this.#known.delete(k.image.ref);
    await rm(k.file, { force: true });
  }

  /** Drops images not used for longest until the rest fits, never `keep` nor what is in use. */
  async #evict(keep: string): Promise<void> {
    const inUse = this.#inUse();
    const size = async () => {
      const sizes = new Map<string, number>();
      for (const { image } of this.#known.values()) {
        if (sizes.has(image.moduleDigest)) continue;
        sizes.set(
          image.moduleDigest,
          (await stat(this.#path(image.moduleDigest)).catch(() => undefined))?.size ?? 0,
        );
      }
      return [...sizes.values()].reduce((n, s) => n + s, 0);
    };
    const candidates = [...this.#known.values()]
      .filter((k) => k.image.ref !== keep && !inUse.has(k.image.moduleDigest))
      .sort((a, b) => a.usedAt - b.usedAt);
    let dropped = 0;
    for (const k of candidates) {
      if ((await size()) <= this.#budget) break;
      this.#log.info({ image: k.image.ref }, 'dropped an image that was not used for long');
      await this.#forget(k);
      dropped++;
    }
    if (dropped > 0) await this.#sweep();
  }

  /** Deletes blobs that no image and no pull under way needs. */
  async #sweep(): Promise<void> {
    const needed = new Set([...this.#known.values()].map((k) => k.image.moduleDigest));
    for (const name of await readdir(this.#blobs)) {
      const digest = `sha256:${name}`;
      if (needed.has(digest) || this.#pinned.has(digest)) continue;
      this.#verified.delete(digest);
      await rm(path.join(this.#blobs, name), { force: true });
    }
  }

  /** Runs works of one digest one after another. Who gives up waits no longer, whoever else's turn it is. */
  #inTurn<T>(digest: string, work: () => Promise<T>, signal?: AbortSignal): Promise<T> {
    const before = this.#turns.get(digest) ?? Promise.resolve();
    const mine = before.then(() => {
      signal?.throwIfAborted();
      return work();
    });
    const settled: Promise<void> = mine
      .then(
        () => {},
        () => {},
      )
      .then(() => {
        if (this.#turns.get(digest) === settled) this.#turns.delete(digest);
      });
    this.#turns.set(digest, settled);
    if (!signal) return mine;
    return new Promise((resolve, reject) => {
      const stop = () => reject(signal.reason);
      if (signal.aborted) stop();
      signal.addEventListener('abort', stop, { once: true });
      mine.then(resolve, reject).finally(() => signal.removeEventListener('abort', stop));
    });
  }
}

const isIndex = (m: FetchedManifest): boolean =>
  m.mediaType === MEDIA.ociIndex || m.mediaType === MEDIA.dockerIndex;

const isNetwork = (e: unknown): boolean =>
  ['ECONNRESET', 'ETIMEDOUT', 'EPIPE', 'ECONNREFUSED', 'ERR_STREAM_PREMATURE_CLOSE'].includes(
    (e as NodeJS.ErrnoException).code ?? '',
  ) || (e as Error).message === 'aborted';

/** `\0asm` is what modules and components begin with. */
async function checkMagic(image: string, file: string): Promise<void> {
  const handle = await open(file, 'r');
  try {
    const head = Buffer.alloc(4);
    await handle.read(head, 0, 4, 0);
    if (!head.equals(Buffer.from('\0asm', 'latin1'))) {
      throw pullError(image, 'what it holds is not WebAssembly: the file does not begin with "\\0asm"');
    }
  } finally {
    await handle.close();
  }
}
