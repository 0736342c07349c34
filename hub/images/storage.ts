import { createHash, type Hash, randomUUID } from 'node:crypto';
import { type FileHandle, mkdir, open, readdir, readFile, rename, rm, stat, statfs } from 'node:fs/promises';
import path from 'node:path';
import type { Clock } from '../../api/clock.js';
import { fsyncDir, writeFileAtomic } from '../../api/files.js';
import type { Log } from '../../api/log.js';
import { type Descriptor, type ImageIndex, type ImageManifest, isDigest } from '../../api/oci.js';

export interface ImageLimits {
  /** Bytes of one blob. */
  blobBytes: number;
  /** Uploads under way at one time. */
  uploads: number;
  /** Milliseconds without a byte after which an upload is given up. */
  uploadIdle: number;
  /** Bytes of the disk that images leave to everyone else, the store above all. */
  reserveBytes: number;
  /** Milliseconds that a blob is kept though nothing refers to it: its manifest may still be on the way. */
  grace: number;
}

export const IMAGE_LIMITS: ImageLimits = {
  blobBytes: 2 ** 30,
  uploads: 64,
  uploadIdle: 10 * 60_000,
  reserveBytes: 128 << 20,
  grace: 3_600_000,
};

/** An error of the distribution spec: `code` is from its table, `status` what goes with it. */
export class RegistryError extends Error {
  constructor(
    readonly status: number,
    readonly code: string,
    message: string,
    readonly headers: Record<string, string> = {},
  ) {
    super(message);
    this.name = 'RegistryError';
  }
}

export interface Upload {
  readonly id: string;
  readonly repository: string;
  readonly file: string;
  readonly handle: FileHandle;
  readonly hash: Hash;
  size: number;
  /** A request is writing to it. */
  busy: boolean;
  cancelTimer: () => void;
}

export interface StoredManifest {
  digest: string;
  mediaType: string;
  body: Buffer;
}

const hexOf = (digest: string) => digest.slice('sha256:'.length);

/**
 * Images on disk: `blobs/sha256/<hex>` holds contents, manifests included; below `repositories/<name>` are
 * `_manifests/<hex>` (the media type) and `_tags/<tag>` (the digest). Every file appears whole: written beside, fsynced,
 * renamed. Blobs are shared by all repositories.
 */
export class ImageStorage {
  readonly #blobs: string;
  readonly #uploadsDir: string;
  readonly #repositories: string;
  readonly #uploads = new Map<string, Upload>();
  /** Blobs that a client was told about, with the monotonic time until which they are kept. */
  readonly #promised = new Map<string, number>();
  /** Writes of manifests, deletions and collections go one after another. */
  #turn: Promise<unknown> = Promise.resolve();

  constructor(
    dir: string,
    readonly limits: ImageLimits,
    private readonly clock: Clock,
    private readonly log: Log,
  ) {
    this.#blobs = path.join(dir, 'blobs', 'sha256');
    this.#uploadsDir = path.join(dir, 'uploads');
    this.#repositories = path.join(dir, 'repositories');
  }

  /** Makes the directories, drops unfinished uploads and collects garbage. */
  async start(): Promise<void> {
    await rm(this.#uploadsDir, { recursive: true, force: true });
    for (const d of [this.#blobs, this.#uploadsDir, this.#repositories]) {
      await mkdir(d, { recursive: true, mode: 0o700 });
    }
    await this.collectGarbage();
  }

  async stop(): Promise<void> {
    await this.#turn;
    for (const u of [...this.#uploads.values()]) await this.drop(u);
  }

  blobPath(digest: string): string {
    return path.join(this.#blobs, hexOf(digest));
  }

  /** Size in bytes, or undefined when there is no such blob. */
  async blobSize(digest: string): Promise<number | undefined> {
    return (await absent(stat(this.blobPath(digest))))?.size;
  }

  /** As {@link blobSize}, for a client that will rely on it: the blob is kept for the grace period. */
  async promiseBlob(digest: string): Promise<number | undefined> {
    const size = await this.blobSize(digest);
    if (size === undefined) return undefined;
    const now = this.clock.monotonic();
    for (const [d, until] of this.#promised) {
      if (until > now) break;
      this.#promised.delete(d);
    }
    // Re-inserted, so that the oldest stays first.
    this.#promised.delete(digest);
    this.#promised.set(digest, now + this.limits.grace);
    return size;
  }

  async beginUpload(repository: string): Promise<Upload> {
    if (this.#uploads.size >= this.limits.uploads) {
      throw new RegistryError(429, 'TOOMANYREQUESTS', `${this.#uploads.size} uploads are under way already`, {
        'retry-after': '10',
      });
    }
    if (!(await this.#hasRoom(0))) await this.#makeRoom();
    await this.#room(0);
    const id = randomUUID();
    const file = path.join(this.#uploadsDir, id);
    const handle = await open(file, 'wx', 0o600);
    const upload: Upload = {
      id,
      repository,
      file,
      handle,
      hash: createHash('sha256'),
      size: 0,
      busy: false,
      cancelTimer: () => {},
    };
    this.#uploads.set(id, upload);
    this.#expire(upload);
    return upload;
  }

  upload(repository: string, id: string): Upload {
    const u = this.#uploads.get(id);
    if (u?.repository !== repository) {
      throw new RegistryError(404, 'BLOB_UPLOAD_UNKNOWN', `there is no upload ${id}: start a new one`);
    }
    return u;
  }

  /** Appends a stream. When it breaks off, what arrived stays and the client may go on from there. */
  async append(u: Upload, body: AsyncIterable<Uint8Array>, announced: number): Promise<void> {
    if (u.busy)
      throw new RegistryError(409, 'BLOB_UPLOAD_INVALID', 'another request is writing to this upload');
    const { blobBytes } = this.limits;
    if (u.size + announced > blobBytes) throw tooLarge(blobBytes);
    await this.#room(announced);
    u.busy = true;
    u.cancelTimer();
    try {
      for await (const chunk of body) {
        if (u.size + chunk.length > blobBytes) throw tooLarge(blobBytes);
        for (let done = 0; done < chunk.length; ) {
          done += (await u.handle.write(chunk, done, chunk.length - done, u.size + done)).bytesWritten;
        }
        u.hash.update(chunk);
        u.size += chunk.length;
        // What a client does not announce must not fill the disk either.
        if (u.size % ROOM_CHECK < chunk.length) await this.#room(0);
        // A client that sends nothing for long is given up by the same rule as one that has gone.
        u.cancelTimer();
        this.#expire(u);
      }
    } catch (e) {
      const { code } = e as NodeJS.ErrnoException;
      if (code === 'ENOSPC' || code === 'EDQUOT') throw full();
      throw e;
    } finally {
      u.busy = false;
      u.cancelTimer();
      if (this.#uploads.has(u.id)) this.#expire(u);
    }
  }

  /** Verifies the digest and makes the upload a blob. The upload is gone afterwards, whatever comes of it. */
  async finish(u: Upload, digest: string): Promise<void> {
    try {
      const found = `sha256:${u.hash.digest('hex')}`;
      if (found !== digest) {
        throw new RegistryError(400, 'DIGEST_INVALID', `the content's digest is ${found}, not ${digest}`);
      }
      await u.handle.sync();
      await rename(u.file, this.blobPath(digest));
      fsyncDir(this.#blobs);
      await this.promiseBlob(digest);
    } finally {
      await this.drop(u);
    }
  }

  async drop(u: Upload): Promise<void> {
    if (!this.#uploads.delete(u.id)) return;
    u.cancelTimer();
    await u.handle.close().catch(() => {});
    await rm(u.file, { force: true });
  }

  /** By digest, or by tag. */
  async manifest(repository: string, reference: string): Promise<StoredManifest | undefined> {
    const repo = this.#repo(repository);
    const digest = isDigest(reference) ? reference : await text(path.join(repo, '_tags', reference));
    if (!digest || !isDigest(digest)) return undefined;
    const mediaType = await text(path.join(repo, '_manifests', hexOf(digest)));
    if (mediaType === undefined) return undefined;
    const body = await this.#manifestBody(digest);
    return body && { digest, mediaType, body };
  }

  /** Verified: a manifest that the disk has spoiled counts as absent, and pushing it again repairs it. */
  async #manifestBody(digest: string): Promise<Buffer | undefined> {
    const body = await absent(readFile(this.blobPath(digest)));
    if (body && `sha256:${createHash('sha256').update(body).digest('hex')}` === digest) return body;
    this.log.error({ digest }, 'an image manifest is missing or damaged on disk: push the image again');
    return undefined;
  }

  /** Stores a manifest whose parts are all there, and points the tag (if any) to it. */
  async putManifest(repository: string, m: StoredManifest, parts: Descriptor[], tag?: string): Promise<void> {
    await this.#inTurn(async () => {
      for (const p of parts) {
        if ((await this.blobSize(p.digest)) !== p.size) {
          throw new RegistryError(
            400,
            'MANIFEST_BLOB_UNKNOWN',
            `blob ${p.digest} of ${p.size} bytes is not here`,
          );
        }
      }
      await this.#room(m.body.length);
      const repo = this.#repo(repository);
      await mkdir(path.join(repo, '_manifests'), { recursive: true, mode: 0o700 });
      await mkdir(path.join(repo, '_tags'), { recursive: true, mode: 0o700 });
      // Also over what is there, which the disk may have spoiled.
      writeFileAtomic(this.blobPath(m.digest), m.body, 0o600);
      writeFileAtomic(path.join(repo, '_manifests', hexOf(m.digest)), m.mediaType, 0o600);
      if (tag) writeFileAtomic(path.join(repo, '_tags', tag), m.digest, 0o600);
    });
  }

  /** A tag alone, or a manifest with every tag that points to it. False when there is none. */
  async deleteManifest(repository: string, reference: string): Promise<boolean> {
    return this.#inTurn(async () => {
      const repo = this.#repo(repository);
      if (!isDigest(reference)) return removed(path.join(repo, '_tags', reference));
      if (!(await removed(path.join(repo, '_manifests', hexOf(reference))))) return false;
      for (const tag of await names(path.join(repo, '_tags'))) {
        const file = path.join(repo, '_tags', tag);
        if ((await text(file)) === reference) await rm(file, { force: true });
      }
      return true;
    });
  }

  /** Refuses while a manifest needs it. False when there is none. */
  async deleteBlob(digest: string): Promise<boolean> {
    return this.#inTurn(async () => {
      if ((await this.#marked())?.has(digest) ?? true) {
        throw new RegistryError(405, 'UNSUPPORTED', `a manifest refers to ${digest}: delete that first`);
      }
      return removed(this.blobPath(digest));
    });
  }

  /** Undefined when there is no such repository. Sorted. */
  async tags(repository: string): Promise<string[] | undefined> {
    const repo = this.#repo(repository);
    const found = (await names(path.join(repo, '_tags'))).filter((t) => !t.startsWith('.')).sort();
    return found.length > 0 || (await manifestNames(path.join(repo, '_manifests'))).length > 0
      ? found
      : undefined;
  }

  /** Manifests of the repository whose `subject` is the digest. */
  async referrers(repository: string, subject: string): Promise<Descriptor[]> {
    const found: Descriptor[] = [];
    for (const hex of await manifestNames(path.join(this.#repo(repository), '_manifests'))) {
      const m = await this.manifest(repository, `sha256:${hex}`);
      if (!m) continue;
      const doc = JSON.parse(m.body.toString()) as Partial<ImageManifest>;
      if (doc.subject?.digest !== subject) continue;
      const artifactType = doc.artifactType ?? doc.config?.mediaType;
      found.push({
        mediaType: m.mediaType,
        digest: m.digest,
        size: m.body.length,
        ...(artifactType ? { artifactType } : {}),
        ...(doc.annotations ? { annotations: doc.annotations } : {}),
      });
    }
    return found;
  }

  /** Deletes blobs that no manifest of any repository needs and that are older than the grace period. */
  async collectGarbage(): Promise<{ blobs: number; bytes: number }> {
    return this.#inTurn(async () => {
      const marked = await this.#marked();
      // What a damaged manifest needed cannot be known, so nothing may go.
      if (!marked) return { blobs: 0, bytes: 0 };
      const oldest = this.clock.now() - this.limits.grace;
      const now = this.clock.monotonic();
      let blobs = 0;
      let bytes = 0;
      for (const name of await names(this.#blobs)) {
        const digest = `sha256:${name}`;
        const file = path.join(this.#blobs, name);
        const s = await absent(stat(file));
        const debris = !isDigest(digest);
        const needed = marked.has(digest) || (this.#promised.get(digest) ?? 0) > now;
        if (!s || needed || (!debris && s.mtimeMs > oldest)) continue;
        await rm(file, { force: true });
        blobs++;
        bytes += s.size;
      }
      if (blobs > 0) this.log.info({ blobs, bytes }, 'deleted image blobs that nothing refers to');
      return { blobs, bytes };
    });
  }

  /** Undefined when a manifest cannot be read. */
  async #marked(): Promise<Set<string> | undefined> {
    const marked = new Set<string>();
    for (const repo of await this.#repositoriesOnDisk()) {
      for (const hex of await manifestNames(path.join(repo, '_manifests'))) {
        const body = await this.#manifestBody(`sha256:${hex}`);
        if (!body) return undefined;
        marked.add(`sha256:${hex}`);
        for (const d of partsOf(JSON.parse(body.toString()))) marked.add(d.digest);
      }
    }
    return marked;
  }

  #repo(name: string): string {
    return path.join(this.#repositories, name);
  }

  #expire(u: Upload): void {
    u.cancelTimer = this.clock.after(this.limits.uploadIdle, () => {
      this.log.info({ repository: u.repository, bytes: u.size }, 'gave up an image upload that stopped');
      this.drop(u).catch((err: unknown) => this.log.warn({ err }, 'cannot delete an upload that stopped'));
    });
  }

  async #room(bytes: number): Promise<void> {
    if (!(await this.#hasRoom(bytes))) throw full();
  }

  async #hasRoom(bytes: number): Promise<boolean> {
    const { bavail, bsize } = await statfs(this.#uploadsDir);
    return bavail * bsize - bytes >= this.limits.reserveBytes;
  }

  /** The disk is short: images that no tag, index or subject names any more (overwritten tags, mostly) go as well. */
  async #makeRoom(): Promise<void> {
    await this.#inTurn(async () => {
      const oldest = this.clock.now() - this.limits.grace;
      for (const repo of await this.#repositoriesOnDisk()) {
        const named = new Set<string>();
        for (const tag of await names(path.join(repo, '_tags')))
          named.add((await text(path.join(repo, '_tags', tag))) ?? '');
        const untagged: string[] = [];
        for (const hex of await manifestNames(path.join(repo, '_manifests'))) {
          const digest = `sha256:${hex}`;
          const body = await this.#manifestBody(digest);
          // What a damaged one names cannot be known.
          if (!body) return;
          const doc = JSON.parse(body.toString()) as Partial<ImageManifest> & Partial<ImageIndex>;
          for (const m of doc.manifests ?? []) named.add(m.digest);
          if (!doc.subject) untagged.push(digest);
        }
        for (const digest of untagged) {
          const file = path.join(repo, '_manifests', hexOf(digest));
          if (named.has(digest) || ((await absent(stat(file)))?.mtimeMs ?? oldest) >= oldest) continue;
          this.log.info(
            { repository: path.relative(this.#repositories, repo), digest },
            'deleted an untagged image: the disk is short',
          );
          await rm(file, { force: true });
        }
      }
    });
    await this.collectGarbage();
  }

  /** Directories of the repositories. */
  async #repositoriesOnDisk(): Promise<string[]> {
    const found: string[] = [];
    const walk = async (dir: string): Promise<void> => {
      for (const e of await readdir(dir, { withFileTypes: true })) {
        if (!e.isDirectory() || e.name === '_tags') continue;
        if (e.name === '_manifests') found.push(dir);
        else await walk(path.join(dir, e.name));
      }
    };
    await walk(this.#repositories);
    return found;
  }

  #inTurn<T>(work: () => Promise<T>): Promise<T> {
    const mine = this.#turn.then(work);
    this.#turn = mine.catch(() => {});
    return mine;
  }
}

const ROOM_CHECK = 16 << 20;

/** What a manifest or index refers to within the registry. */
export function partsOf(doc: Partial<ImageManifest> & Partial<ImageIndex>): Descriptor[] {
  return [...(doc.config ? [doc.config] : []), ...(doc.layers ?? []), ...(doc.manifests ?? [])];
}

const tooLarge = (limit: number) =>
  new RegistryError(413, 'SIZE_INVALID', `a blob may have at most ${limit} bytes here`);
const full = () =>
  new RegistryError(
    507,
    'DENIED',
    "the hub's disk has too little room left for images: delete some, or free space",
  );

/** Undefined for what is not there. */
const absent = <T>(p: Promise<T>): Promise<T | undefined> =>
  p.catch((e: NodeJS.ErrnoException) => {
    if (e.code === 'ENOENT' || e.code === 'ENOTDIR' || e.code === 'ENAMETOOLONG') return undefined;
    throw e;
  });
const text = async (file: string): Promise<string | undefined> =>
  (await absent(readFile(file, 'utf8')))?.trim();
const names = async (dir: string): Promise<string[]> => (await absent(readdir(dir))) ?? [];
const removed = async (file: string): Promise<boolean> => (await absent(rm(file).then(() => true))) ?? false;
/** Without what an interrupted write left. */
const manifestNames = async (dir: string): Promise<string[]> =>
  (await names(dir)).filter((hex) => isDigest(`sha256:${hex}`));
