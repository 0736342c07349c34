import type { FileHandle } from 'node:fs/promises';
import fsp from 'node:fs/promises';
import path from 'node:path';
import { type Clock, systemClock } from '../../api/clock.js';
import { lockFile } from '../../api/lock.js';
import { type Log, silentLog } from '../../api/log.js';
import { type Change, type Driver, type Loaded, StoreUnreadable, StoreWriteFailed } from './driver.js';
import { DriverStore, type StoreOptions } from './driver-store.js';
import { BadFile, batchLines, commitLine, HEADER, type Place, type Scan, scan } from './nedb-file.js';

/** The file operations a driver makes; tests put faults between. */
export type Files = Pick<typeof fsp, 'open' | 'rename' | 'rm' | 'mkdir' | 'readdir'>;

export interface NedbOptions {
  log?: Log;
  files?: Files;
  lock?: typeof lockFile;
  /** For the name of a file that is set aside. */
  clock?: Clock;
  /** Bytes of garbage below which the file is never compacted. */
  compactBytes?: number;
}

const DATA = 'store.db';
const LOCK = 'store.lock';
const COMPACT_BYTES = 8 << 20;
/** Lines are copied in batches of about this size when compacting. */
const COPY_BYTES = 1 << 20;

/**
 * One machine's driver: an append-only data file in NeDB's format, each batch made durable with one fdatasync before it
 * is acknowledged.
 *
 * NeDB's serialiser makes and reads the lines; its `Datastore` is left out on purpose. It keeps a second copy of
 * everything (57 MB for 10,000 pods), rewrites the whole file at every start, appends without fsync, glues the next line
 * to a torn one, keeps in memory what it failed to write, and passes over corrupt lines up to a percentage.
 *
 * Flash wear: a commit writes its lines and nothing else, an idle store nothing at all. The file is rewritten only after
 * more garbage than live data (and at least `compactBytes`) was appended, so compaction at most doubles what is written.
 */
export class NedbDriver implements Driver {
  readonly #dir: string;
  readonly #file: string;
  readonly #log: Log;
  readonly #files: Files;
  readonly #lock: typeof lockFile;
  readonly #clock: Clock;
  readonly #compactBytes: number;
  #unlock: (() => void) | undefined;
  #handle: FileHandle | undefined;
  #live = new Map<string, Place>();
  #liveBytes = 0;
  /** The file is good up to here. */
  #size = 0;
  #revision = 0;
  /** A failed write may have left something behind `#size`. */
  #dirtyTail = false;
  /** The directory entry made by the last rename may not be on disk yet. */
  #dirtyDir = false;
  /** No compaction below this file size, after one that failed. */
  #compactAbove = 0;
  #compacting: Promise<void> = Promise.resolve();

  /** `dir`: the data directory, made when absent. */
  constructor(dir: string, options: NedbOptions = {}) {
    this.#dir = dir;
    this.#file = path.join(dir, DATA);
    this.#log = options.log ?? silentLog;
    this.#files = options.files ?? fsp;
    this.#lock = options.lock ?? lockFile;
    this.#clock = options.clock ?? systemClock;
    this.#compactBytes = options.compactBytes ?? COMPACT_BYTES;
  }

  async open(): Promise<Loaded> {
    try {
      const mode = 0o700;
      // Node's recursive mkdir says ENOENT on a read-only file system; the plain one says why.
      await this.#files
        .mkdir(this.#dir, { recursive: true, mode })
        .catch(() => this.#files.mkdir(this.#dir, { mode }));
      this.#unlock = this.#lock(path.join(this.#dir, LOCK), this.#dir);
      await this.#files.rm(`${this.#file}~`, { force: true });
      this.#handle = await this.#openOrMake();
      const found = await this.#scan(this.#handle);
      this.#live = found.live;
      this.#liveBytes = 0;
      for (const p of found.live.values()) this.#liveBytes += p.bytes;
      this.#size = found.good;
      this.#revision = found.revision;
      if (found.good < found.size) {
        this.#log.warn(
          { file: this.#file, bytes: found.size - found.good, revision: found.revision },
          'cut off an unfinished write at the end of the store; it had not been acknowledged',
        );
        await this.#truncate();
      } else {
        // What a killed process wrote and did not sync is read here like all else, and must not go with the power later.
        await this.#handle.datasync();
      }
      // Nor the name that a compaction gave the file.
      await this.#syncDir();
      return { records: drain(found.records), revision: found.revision };
    } catch (e) {
      await this.close();
      if (isErrno(e)) throw new StoreWriteFailed(this.#file, e);
      throw e;
    }
  }

  async commit(batch: readonly Change[]): Promise<void> {
    await this.#compacting;
    const file = this.#handle;
    if (!file) throw new Error('the store is closed');
    const { bytes, lengths } = batchLines(batch);
    try {
      if (this.#dirtyTail) await this.#truncate();
      if (this.#dirtyDir) await this.#syncDir();
      this.#dirtyTail = true;
      await writeAll(file, bytes, this.#size);
      const [{ nlink }] = await Promise.all([file.stat(), file.datasync()]);
      if (nlink === 0) throw new Error('it was deleted while the hub was running: restart the hub');
      this.#dirtyTail = false;
    } catch (e) {
      if (this.#dirtyTail) {
        await this.#truncate().catch((again: unknown) => {
          this.#log.error({ file: this.#file, err: again }, 'cannot cut off a failed write yet');
        });
      }
      throw new StoreWriteFailed(this.#file, e);
    }
    let at = this.#size;
    for (const [i, c] of batch.entries()) {
      const length = lengths[i]!;
      this.#liveBytes -= this.#live.get(c.key)?.bytes ?? 0;
      if (c.type === 'put') {
        this.#live.set(c.key, { at, bytes: length });
        this.#liveBytes += length;
      } else {
        this.#live.delete(c.key);
      }
      at += length;
    }
    this.#size += bytes.length;
    this.#revision = batch.at(-1)!.revision;
    const garbage = this.#size - this.#liveBytes;
    if (garbage > Math.max(this.#liveBytes, this.#compactBytes) && this.#size > this.#compactAbove) {
      this.#compacting = this.#compact();
    }
  }

  async close(): Promise<void> {
    await this.#compacting;
    await this.#handle?.close();
    this.#handle = undefined;
    this.#unlock?.();
    this.#unlock = undefined;
    this.#live.clear();
  }

  async #openOrMake(): Promise<FileHandle> {
    try {
      return await this.#files.open(this.#file, 'r+');
    } catch (e) {
      if ((e as NodeJS.ErrnoException).code !== 'ENOENT') throw e;
    }
    // After a bad file was set aside, the next start must not take its absence for a new cluster.
    const aside = (await this.#files.readdir(this.#dir))
      .filter((f) => f.startsWith(`${DATA}.unreadable-`))
      .sort();
    if (aside.length > 0) {
      const last = path.join(this.#dir, aside.at(-1)!);
      throw new StoreUnreadable(
        this.#file,
        'it was damaged and set aside at an earlier start',
        last,
        remedy(this.#file),
      );
    }
    const handle = await this.#files.open(`${this.#file}~`, 'wx+', 0o600);
    try {
      const start = Buffer.concat([HEADER, commitLine(0, 0, Buffer.alloc(0))]);
      await writeAll(handle, start, 0);
      await handle.datasync();
      await this.#files.rename(`${this.#file}~`, this.#file);
      await this.#syncDir();
      return handle;
    } catch (e) {
      await handle.close();
      throw e;
    }
  }

  async #scan(handle: FileHandle): Promise<Scan> {
    try {
      return await scan(handle);
    } catch (e) {
      if (!(e instanceof BadFile)) throw e;
      if (e.newer) {
        throw new StoreUnreadable(
          this.#file,
          e.why,
          '',
          'Start the newer version of Coxswain that wrote it.',
        );
      }
      const aside = `${this.#file}.unreadable-${new Date(this.#clock.now()).toISOString().replace(/[:.]/g, '')}`;
      await this.#files.rename(this.#file, aside);
      await this.#syncDir();
      throw new StoreUnreadable(this.#file, e.why, aside, remedy(this.#file));
    }
  }

  async #truncate(): Promise<void> {
    await this.#handle!.truncate(this.#size);
    await this.#handle!.datasync();
    this.#dirtyTail = false;
  }

  async #syncDir(): Promise<void> {
    this.#dirtyDir = true;
    const dir = await this.#files.open(this.#dir, 'r');
    try {
      await dir.sync();
    } finally {
      await dir.close();
    }
    this.#dirtyDir = false;
  }

  /** Copies the live lines into a new file and puts it in the old one's place. Commits wait meanwhile. Never rejects. */
  async #compact(): Promise<void> {
    const temp = `${this.#file}~`;
    let handle: FileHandle | undefined;
    try {
      handle = await this.#files.open(temp, 'w+', 0o600);
      await writeAll(handle, HEADER, 0);
      let size = HEADER.length;
      const live = new Map<string, Place>();
      let lines: Buffer[] = [];
      let bytes = 0;
      const flush = async () => {
        const body = Buffer.concat(lines);
        const out = Buffer.concat([body, commitLine(this.#revision, lines.length, body)]);
        await writeAll(handle!, out, size);
        size += out.length;
        lines = [];
        bytes = 0;
      };
      const read = reader(this.#handle!, this.#size);
      for (const [key, place] of [...this.#live].sort(([, a], [, b]) => a.at - b.at)) {
        const line = await read(place);
        live.set(key, { at: size + bytes, bytes: place.bytes });
        lines.push(line);
        bytes += line.length;
        if (bytes >= COPY_BYTES) await flush();
      }
      // Also with no lines left: the revision must be in the new file.
      await flush();
      await handle.datasync();
      await this.#files.rename(temp, this.#file);
      const old = this.#handle!;
      this.#log.info({ file: this.#file, before: this.#size, after: size }, 'compacted the store');
      this.#handle = handle;
      handle = undefined;
      this.#live = live;
      this.#size = size;
      this.#compactAbove = 0;
      await this.#syncDir().catch((err: unknown) => {
        this.#log.warn({ err }, 'cannot sync the data directory yet; the next write tries again');
      });
      await old.close();
    } catch (err) {
      // The old file is whole. Wait until it has doubled, so that a full disk is not written to in vain again and again.
      this.#compactAbove = this.#size * 2;
      this.#log.warn({ file: this.#file, err }, 'cannot compact the store now');
      await handle?.close().catch(() => {});
      await this.#files.rm(temp, { force: true }).catch(() => {});
    }
  }
}

/** The hub's store on one machine, in `dir`. */
export class NedbStore extends DriverStore {
  constructor(dir: string, options: StoreOptions & NedbOptions = {}) {
    super(new NedbDriver(dir, options), options);
  }
}

const remedy = (file: string): string =>
  `Restore a backup as ${file}. To give the cluster's state up and start with an empty store instead, move every ` +
  `${path.basename(file)}.unreadable-* file out of the data directory.`;

/** Hands records out and forgets each, so that text and parsed values are not all in memory at once. */
function* drain<K, V>(map: Map<K, V>): Generator<V> {
  for (const [k, v] of map) {
    map.delete(k);
    yield v;
  }
}

const isErrno = (e: unknown): boolean =>
  e instanceof Error && typeof (e as NodeJS.ErrnoException).syscall === 'string';

async function writeAll(file: FileHandle, bytes: Buffer, at: number): Promise<void> {
  for (let done = 0; done < bytes.length; ) {
    const { bytesWritten } = await file.write(bytes, done, bytes.length - done, at + done);
    done += bytesWritten;
  }
}

/** Reads places in ascending order, a large block at a time. */
function reader(file: FileHandle, size: number): (p: Place) => Promise<Buffer> {
  let block = Buffer.alloc(0);
  let blockAt = 0;
  return async ({ at, bytes }) => {
    if (at < blockAt || at + bytes > blockAt + block.length) {
      block = Buffer.alloc(Math.min(Math.max(bytes, COPY_BYTES), size - at));
      blockAt = at;
      for (let done = 0; done < block.length; ) {
        const { bytesRead } = await file.read(block, done, block.length - done, at + done);
        if (bytesRead === 0) throw new Error(`unexpected end of file at byte ${at + done}`);
        done += bytesRead;
      }
    }
    return block.subarray(at - blockAt, at - blockAt + bytes);
  };
}
