/**
 * Disks in memory under `/sim/<name>/`, reached through `node:fs` itself, so that hub and agent run as they are.
 *
 * What a power cut leaves is modelled on POSIX rather than on a kind file system. A file has the bytes of its last fsync;
 * of what was written since, any 512-byte sectors may have landed, and its length may be the old, the new or between.
 * Names (create, rename, unlink, mkdir) go through one ordered journal: fsync of a directory makes everything up to the
 * last change of that directory durable, of the rest any beginning may survive. fsync of a file says nothing of its name.
 * A killed process loses nothing that it had written.
 */
import fs, { type Dirent, type Stats } from 'node:fs';
import fsp, { type FileHandle } from 'node:fs/promises';
import { syncBuiltinESMExports } from 'node:module';
import { join, normalize } from 'node:path';
import { currentProcess, Dead, never } from './process.js';

export const ROOT = '/sim/';
const SECTOR = 512;
const FIRST_FD = 1_000_000;
const TMPFS_MAGIC = 0x01021994;
const EXT4_MAGIC = 0xef53;

interface Inode {
  kind: 'file' | 'dir' | 'link';
  mode: number;
  /** A file's bytes, and what of them a power cut leaves for sure. */
  data: Buffer;
  synced: Buffer;
  target: string;
  children: Map<string, Inode>;
  durable: Map<string, Inode>;
  links: number;
  ino: number;
}

/** Names changed together. */
type Change = { dir: Inode; name: string; inode: Inode | undefined }[];

const fail = (code: string, call: string, path: string): never => {
  const text: Record<string, string> = {
    ENOENT: 'no such file or directory',
    EEXIST: 'file already exists',
    ENOTDIR: 'not a directory',
    EISDIR: 'illegal operation on a directory',
    ENOTEMPTY: 'directory not empty',
    EINVAL: 'invalid argument',
    ENOSPC: 'no space left on device',
    ELOOP: 'too many symbolic links encountered',
  };
  throw Object.assign(new Error(`${code}: ${text[code] ?? code}, ${call} '${path}'`), {
    code,
    syscall: call,
    path,
    errno: -1,
  });
};

export interface DiskOptions {
  random: () => number;
  /** Delays a sync, as a disk does; absent: at once. */
  pause?: () => Promise<void>;
}

export class SimDisk {
  #serial = 1;
  readonly root: Inode = this.#inode('dir', 0o755);
  #journal: Change[] = [];
  /** Counted down by every operation that changes something; at 0 `onCrash` is called, once, before it is done. */
  crashAfter = Number.POSITIVE_INFINITY;
  onCrash: () => void = () => {};
  /** Writes fail as on a full disk. */
  full = false;
  syncs = 0;
  /** Writes refused. */
  failures = 0;
  /** Changes ever made. */
  operations = 0;

  constructor(
    readonly name: string,
    readonly o: DiskOptions,
  ) {}

  #inode(kind: Inode['kind'], mode: number): Inode {
    const none = Buffer.alloc(0);
    return {
      kind,
      mode,
      data: none,
      synced: none,
      target: '',
      children: new Map(),
      durable: new Map(),
      links: 1,
      ino: this.#serial++,
    };
  }

  /** Before anything changes. */
  touch(call: string, path: string, grows = false): void {
    this.operations++;
    if (currentProcess() && --this.crashAfter <= 0) {
      this.crashAfter = Number.POSITIVE_INFINITY;
      this.onCrash();
      throw new Dead('the machine');
    }
    if (grows && this.full) {
      this.failures++;
      fail('ENOSPC', call, path);
    }
  }

  /** `path` without `/sim/<name>`. Follows links, the last one when asked. */
  find(
    path: string,
    follow: boolean,
    depth = 0,
  ): { dir: Inode; name: string; inode: Inode | undefined; real: string } {
    if (depth > 16) fail('ELOOP', 'open', path);
    const parts = normalize(path).split('/').filter(Boolean);
    let dir = this.root;
    let at = '/';
    for (const [i, name] of parts.entries()) {
      const last = i === parts.length - 1;
      const inode = dir.children.get(name);
      if (inode?.kind === 'link' && (!last || follow)) {
        const to = inode.target.startsWith('/')
          ? inode.target.slice((ROOT + this.name).length)
          : join(at, inode.target);
        return this.find(join(to, ...parts.slice(i + 1)), follow, depth + 1);
      }
      if (last) return { dir, name, inode, real: join(at, name) };
      if (!inode) fail('ENOENT', 'open', path);
      if (inode!.kind !== 'dir') fail('ENOTDIR', 'open', path);
      dir = inode!;
      at = join(at, name);
    }
    return { dir: this.root, name: '', inode: this.root, real: '/' };
  }

  must(path: string, call: string, follow = true): Inode {
    return this.find(path, follow).inode ?? fail('ENOENT', call, path);
  }

  #bind(change: Change): void {
    for (const { dir, name, inode } of change) {
      const old = dir.children.get(name);
      if (old && old !== inode && !inode) old.links--;
      else if (old && old !== inode) old.links = 0;
      if (inode) {
        dir.children.set(name, inode);
        inode.links = 1;
      } else dir.children.delete(name);
    }
    this.#journal.push(change);
  }

  make(path: string, kind: Inode['kind'], mode: number): Inode {
    const { dir, name } = this.find(path, kind !== 'link');
    this.touch(kind === 'dir' ? 'mkdir' : 'open', path, true);
    const inode = this.#inode(kind, mode);
    this.#bind([{ dir, name, inode }]);
    return inode;
  }

  mkdir(path: string, recursive: boolean, mode = 0o777): void {
    const parts = normalize(path).split('/').filter(Boolean);
    for (let i = recursive ? 1 : parts.length; i <= parts.length; i++) {
      const here = `/${parts.slice(0, i).join('/')}`;
      const there = this.find(here, true).inode;
      if (!there) this.make(here, 'dir', mode);
      else if (there.kind !== 'dir' || (!recursive && i === parts.length)) fail('EEXIST', 'mkdir', path);
    }
  }

  rename(from: string, to: string): void {
    const a = this.find(from, false);
    if (!a.inode) fail('ENOENT', 'rename', from);
    const b = this.find(to, false);
    this.touch('rename', from);
    if (b.inode?.kind === 'dir' && b.inode.children.size > 0) fail('ENOTEMPTY', 'rename', to);
    this.#bind([
      { dir: a.dir, name: a.name, inode: undefined },
      { dir: b.dir, name: b.name, inode: a.inode },
    ]);
  }

  rm(path: string, { recursive = false, force = false } = {}): void {
    const { dir, name, inode } = (() => {
      try {
        return this.find(path, false);
      } catch (e) {
        if (force && (e as NodeJS.ErrnoException).code === 'ENOENT')
          return { dir: this.root, name: '', inode: undefined };
        throw e;
      }
    })();
    if (!inode) {
      if (force) return;
      fail('ENOENT', 'rm', path);
    }
    if (inode!.kind === 'dir') {
      if (!recursive) fail('EISDIR', 'rm', path);
      for (const child of [...inode!.children.keys()]) this.rm(join(path, child), { recursive, force });
    }
    this.touch('rm', path);
    this.#bind([{ dir, name, inode: undefined }]);
  }

  rmdir(path: string): void {
    const { dir, name, inode } = this.find(path, false);
    if (!inode) fail('ENOENT', 'rmdir', path);
    if (inode!.kind !== 'dir') fail('ENOTDIR', 'rmdir', path);
    if (inode!.children.size > 0) fail('ENOTEMPTY', 'rmdir', path);
    this.touch('rmdir', path);
    this.#bind([{ dir, name, inode: undefined }]);
  }

  write(inode: Inode, bytes: Buffer, at: number, path: string): void {
    this.touch('write', path, true);
    const data = Buffer.alloc(Math.max(inode.data.length, at + bytes.length));
    inode.data.copy(data);
    bytes.copy(data, at);
    inode.data = data;
  }

  truncate(inode: Inode, length: number, path: string): void {
    this.touch('ftruncate', path);
    const data = Buffer.alloc(length);
    inode.data.copy(data);
    inode.data = data;
  }

  sync(inode: Inode, path: string): void {
    this.touch('fsync', path);
    this.syncs++;
    if (inode.kind !== 'dir') {
      inode.synced = inode.data;
      return;
    }
    const last = this.#journal.findLastIndex((c) => c.some((b) => b.dir === inode));
    for (const c of this.#journal.splice(0, last + 1)) this.#commit(c);
  }

  #commit(c: Change): void {
    for (const { dir, name, inode } of c)
      if (inode) dir.durable.set(name, inode);
      else dir.durable.delete(name);
  }

  /** Everything is on the platter: an orderly shutdown. */
  settle(): void {
    for (const c of this.#journal.splice(0)) this.#commit(c);
    const walk = (i: Inode) => {
      i.synced = i.data;
      for (const c of i.children.values()) walk(c);
    };
    walk(this.root);
  }

  /** The machine loses its power. What lies below `volatile` is a tmpfs. */
  powerCut(volatile?: string): void {
    const { random } = this.o;
    const survive = Math.floor(random() * (this.#journal.length + 1));
    for (const c of this.#journal.splice(0).slice(0, survive)) this.#commit(c);
    const seen = new Set<Inode>();
    const walk = (i: Inode) => {
      if (seen.has(i)) return;
      seen.add(i);
      if (i.kind === 'file') {
        i.data = this.#torn(i.synced, i.data);
        i.synced = i.data;
      }
      i.children = new Map(i.durable);
      for (const c of i.children.values()) {
        c.links = 1;
        walk(c);
      }
    };
    walk(this.root);
    if (volatile) {
      const { inode } = this.find(volatile, true);
      inode?.children.clear();
      inode?.durable.clear();
    }
  }

  #torn(old: Buffer, now: Buffer): Buffer {
    if (old === now || old.equals(now)) return now;
    const { random } = this.o;
    const luck = random();
    if (luck < 0.25) return old;
    if (luck < 0.5) return now;
    const between = Math.floor(random() * (Math.abs(now.length - old.length) + 1));
    const length = random() < 0.5 ? now.length : Math.min(old.length, now.length) + between;
    const out = Buffer.alloc(length);
    old.copy(out);
    for (let at = 0; at < length; at += SECTOR)
      if (random() < 0.6) now.copy(out, at, at, Math.min(at + SECTOR, now.length, length));
    return out;
  }

  /** Every path and, of files, its size; for checks. */
  *walk(path = '/'): Generator<{ path: string; bytes: number }> {
    const { inode } = this.find(path, true);
    for (const [name, child] of [...(inode?.children ?? [])].sort(([a], [b]) => (a < b ? -1 : 1))) {
      const here = join(path, name);
      yield { path: here, bytes: child.data.length };
      if (child.kind === 'dir') yield* this.walk(here);
    }
  }

  /** Text of a file, links followed; undefined when it is not there. For checks. */
  text(path: string): string | undefined {
    try {
      const { inode } = this.find(path, true);
      return inode?.kind === 'file' ? inode.data.toString() : undefined;
    } catch {
      return undefined;
    }
  }
}

// ---- node:fs

const stats = (i: Inode): Stats => {
  const size = i.data.length;
  return {
    isFile: () => i.kind === 'file',
    isDirectory: () => i.kind === 'dir',
    isSymbolicLink: () => i.kind === 'link',
    isBlockDevice: () => false,
    isCharacterDevice: () => false,
    isFIFO: () => false,
    isSocket: () => false,
    size,
    mode: i.mode,
    nlink: i.links,
    ino: i.ino,
    blocks: Math.ceil(size / SECTOR),
    mtimeMs: 0,
    uid: 0,
    gid: 0,
  } as Stats;
};

const dirent = (name: string, parent: string, i: Inode): Dirent =>
  ({ name, parentPath: parent, path: parent, ...kindOf(i) }) as unknown as Dirent;
const kindOf = (i: Inode) => ({
  isFile: () => i.kind === 'file',
  isDirectory: () => i.kind === 'dir',
  isSymbolicLink: () => i.kind === 'link',
});

interface Open {
  disk: SimDisk;
  inode: Inode;
  path: string;
  at: number;
  append: boolean;
}

type Any = (...args: any[]) => any;

/** Puts the disks under `/sim/` until the returned function is called. */
export function mountDisks(disks: ReadonlyMap<string, SimDisk>): () => void {
  const files = new Map<number, Open>();
  let nextFd = FIRST_FD;

  const where = (path: unknown): { disk: SimDisk; path: string } | undefined => {
    if (typeof path !== 'string' || !path.startsWith(ROOT)) return undefined;
    const [, , name = '', ...rest] = path.split('/');
    const disk = disks.get(name) ?? fail('ENOENT', 'open', path);
    return { disk, path: `/${rest.join('/')}` };
  };
  const alive = () => {
    const p = currentProcess();
    if (p && !p.alive) throw new Dead(p.name);
  };
  const optionsOf = (o: unknown): { encoding?: string; mode?: number; flag?: string } =>
    typeof o === 'string' ? { encoding: o } : ((o as object) ?? {});
  const toBuffer = (data: unknown): Buffer =>
    typeof data === 'string' ? Buffer.from(data) : Buffer.from(data as Uint8Array);

  const open = (disk: SimDisk, path: string, flags = 'r', mode = 0o666): Open => {
    const { inode } = disk.find(path, true);
    const makes = /[wa]/.test(flags);
    if (inode && flags.includes('x')) fail('EEXIST', 'open', path);
    if (!inode && !makes) fail('ENOENT', 'open', path);
    if (inode?.kind === 'dir' && flags !== 'r') fail('EISDIR', 'open', path);
    const file = inode ?? disk.make(path, 'file', mode);
    if (inode && flags.startsWith('w')) disk.truncate(inode, 0, path);
    return { disk, inode: file, path, at: 0, append: flags.startsWith('a') };
  };
  const read = (
    o: Open,
    into: Uint8Array,
    offset: number,
    length: number,
    at: number | null | undefined,
  ): number => {
    const from = typeof at === 'number' && at >= 0 ? at : o.at;
    const n = o.inode.data.copy(into, offset, from, Math.min(from + length, o.inode.data.length));
    if (typeof at !== 'number') o.at += n;
    return n;
  };
  const write = (o: Open, bytes: Buffer, at: number | null | undefined): number => {
    const to = o.append ? o.inode.data.length : typeof at === 'number' ? at : o.at;
    o.disk.write(o.inode, bytes, to, o.path);
    if (typeof at !== 'number') o.at = to + bytes.length;
    return bytes.length;
  };
  const readFile = (disk: SimDisk, path: string, o: unknown) => {
    const inode = disk.must(path, 'open');
    if (inode.kind === 'dir') fail('EISDIR', 'read', path);
    const { encoding } = optionsOf(o);
    return encoding ? inode.data.toString(encoding as BufferEncoding) : Buffer.from(inode.data);
  };
  const writeFile = (disk: SimDisk, path: string, data: unknown, o: unknown) => {
    const { mode, flag = 'w' } = optionsOf(o);
    write(open(disk, path, flag, mode), toBuffer(data), undefined);
  };
  const readdir = (disk: SimDisk, path: string, o: unknown): unknown[] => {
    const { withFileTypes = false, recursive = false } = (o ?? {}) as {
      withFileTypes?: boolean;
      recursive?: boolean;
    };
    const inode = disk.must(path, 'scandir');
    if (inode.kind !== 'dir') fail('ENOTDIR', 'scandir', path);
    const out: unknown[] = [];
    const full = (p: string) => join(ROOT, disk.name, p);
    const list = (dir: Inode, at: string, prefix: string) => {
      for (const [name, i] of [...dir.children].sort(([a], [b]) => (a < b ? -1 : 1))) {
        out.push(withFileTypes ? dirent(name, full(at), i) : prefix + name);
        if (recursive && i.kind === 'dir') list(i, join(at, name), `${prefix}${name}/`);
      }
    };
    list(inode, path, '');
    return out;
  };
  const statfs = (disk: SimDisk, path: string) => ({
    type: path.startsWith('/run') ? TMPFS_MAGIC : EXT4_MAGIC,
    bsize: 4096,
    blocks: 8_000_000,
    bfree: disk.full ? 0 : 6_000_000,
    bavail: disk.full ? 0 : 6_000_000,
    files: 1_000_000,
    ffree: 900_000,
  });

  /** Operations by name; the path is the first argument, resolved. */
  const byPath: Record<string, (disk: SimDisk, path: string, ...args: any[]) => unknown> = {
    readFile,
    writeFile,
    readdir,
    statfs,
    appendFile: (d, p, data) => writeFile(d, p, data, { flag: 'a' }),
    mkdir: (d, p, o) =>
      d.mkdir(p, (o as { recursive?: boolean })?.recursive ?? false, (o as { mode?: number })?.mode),
    rename: (d, p, to: string) => d.rename(p, where(to)!.path),
    rm: (d, p, o) => d.rm(p, o as object),
    rmdir: (d, p) => d.rmdir(p),
    unlink: (d, p) => d.rm(p),
    stat: (d, p) => stats(d.must(p, 'stat')),
    lstat: (d, p, o?: { throwIfNoEntry?: boolean }) => {
      if (o?.throwIfNoEntry === false && !d.find(p, false).inode) return undefined;
      return stats(d.must(p, 'lstat', false));
    },
    readlink: (d, p) => {
      const i = d.must(p, 'readlink', false);
      return i.kind === 'link' ? i.target : fail('EINVAL', 'readlink', p);
    },
    realpath: (d, p) => {
      d.must(p, 'realpath');
      return join(ROOT, d.name, d.find(p, true).real);
    },
    access: (d, p) => void d.must(p, 'access'),
    chmod: (d, p, mode: number) => {
      d.must(p, 'chmod').mode = mode;
    },
    chown: (d, p) => void d.must(p, 'chown'),
  };

  /** A dead process's call never answers. */
  const gate = async (): Promise<void> => {
    const p = currentProcess();
    if (p && !p.alive) await never();
  };
  const guarded = async <T>(fn: () => T): Promise<T> => {
    await gate();
    try {
      return fn();
    } catch (e) {
      if (e instanceof Dead) return never();
      throw e;
    }
  };

  const handle = (o: Open): FileHandle => {
    const sync = async () => {
      await gate();
      // The answer comes when the disk says so; until then a power cut takes it.
      await o.disk.o.pause?.();
      await guarded(() => o.disk.sync(o.inode, o.path));
    };
    return {
      writeFile: (data: unknown) => guarded(() => void write(o, toBuffer(data), undefined)),
      write: (data: Uint8Array, offset = 0, length = data.length - offset, at?: number | null) =>
        guarded(() => ({
          bytesWritten: write(o, Buffer.from(data.subarray(offset, offset + length)), at),
          buffer: data,
        })),
      read: (into: Uint8Array, offset = 0, length = into.length - offset, at?: number | null) =>
        guarded(() => ({ bytesRead: read(o, into, offset, length, at), buffer: into })),
      readFile: (options?: unknown) =>
        guarded(() => {
          const { encoding } = optionsOf(options);
          return encoding ? o.inode.data.toString(encoding as BufferEncoding) : Buffer.from(o.inode.data);
        }),
      truncate: (n = 0) => guarded(() => o.disk.truncate(o.inode, n, o.path)),
      sync,
      datasync: sync,
      stat: () => guarded(() => stats(o.inode)),
      close: async () => {},
    } as unknown as FileHandle;
  };

  const sync: Record<string, Any> = {};
  const promises: Record<string, Any> = {};
  const real = fs as unknown as Record<string, Any>;
  const realp = fsp as unknown as Record<string, Any>;
  for (const [name, fn] of Object.entries(byPath)) {
    const plain = real[`${name}Sync`]!;
    sync[`${name}Sync`] = (path: unknown, ...args: unknown[]) => {
      const at = where(path);
      if (!at) return plain(path, ...args);
      alive();
      return fn(at.disk, at.path, ...args);
    };
    const later = realp[name]!;
    promises[name] = (path: unknown, ...args: unknown[]) => {
      const at = where(path);
      return at ? guarded(() => fn(at.disk, at.path, ...args)) : later(path, ...args);
    };
  }
  Object.assign(sync['realpathSync']!, { native: sync['realpathSync'] });
  sync['existsSync'] = (path: unknown) => {
    const at = where(path);
    if (!at) return plain.existsSync(path);
    alive();
    try {
      return at.disk.find(at.path, true).inode !== undefined;
    } catch {
      return false;
    }
  };
  sync['symlinkSync'] = (target: string, path: unknown) => {
    const at = where(path);
    if (!at) return plain.symlinkSync(target, path);
    alive();
    if (at.disk.find(at.path, false).inode) fail('EEXIST', 'symlink', at.path);
    at.disk.make(at.path, 'link', 0o777).target = target;
  };
  sync['openSync'] = (path: unknown, flags?: string, mode?: number) => {
    const at = where(path);
    if (!at) return plain.openSync(path, flags, mode);
    alive();
    files.set(nextFd, open(at.disk, at.path, flags, mode));
    return nextFd++;
  };
  const byFd: Record<string, (o: Open, ...args: any[]) => unknown> = {
    fsyncSync: (o) => o.disk.sync(o.inode, o.path),
    fdatasyncSync: (o) => o.disk.sync(o.inode, o.path),
    fstatSync: (o) => stats(o.inode),
    fchmodSync: (o, mode: number) => {
      o.inode.mode = mode;
    },
    ftruncateSync: (o, n = 0) => o.disk.truncate(o.inode, n, o.path),
    readSync: (o, into: Uint8Array, offset = 0, length = into.length - offset, at = null) =>
      read(o, into, offset, length, at),
    writeSync: (o, data: Uint8Array | string, offset = 0, length?: number, at = null) => {
      const b = toBuffer(data);
      return write(
        o,
        typeof data === 'string' ? b : b.subarray(offset, length === undefined ? undefined : offset + length),
        at,
      );
    },
  };
  const plain = Object.fromEntries(
    ['existsSync', 'symlinkSync', 'openSync', 'closeSync', ...Object.keys(byFd)].map((n) => [n, real[n]!]),
  ) as Record<string, Any> & { existsSync: Any; symlinkSync: Any; openSync: Any; closeSync: Any };
  for (const [name, fn] of Object.entries(byFd))
    sync[name] = (fd: number, ...args: unknown[]) => {
      const o = files.get(fd);
      if (!o) return plain[name]!(fd, ...args);
      alive();
      return fn(o, ...args);
    };
  sync['closeSync'] = (fd: number) => {
    if (!files.delete(fd) && fd < FIRST_FD) plain.closeSync(fd);
  };

  const laterOpen = realp['open']!;
  promises['open'] = (path: unknown, flags?: string, mode?: number) => {
    const at = where(path);
    return at ? guarded(() => handle(open(at.disk, at.path, flags, mode))) : laterOpen(path, flags, mode);
  };
  const laterOpendir = realp['opendir']!;
  promises['opendir'] = (path: unknown, ...args: unknown[]) => {
    const at = where(path);
    if (!at) return laterOpendir(path, ...args);
    return guarded(() => {
      const list = readdir(at.disk, at.path, { withFileTypes: true });
      return {
        async *[Symbol.asyncIterator]() {
          yield* list;
        },
        close: async () => {},
      };
    });
  };

  const saved = {
    sync: Object.fromEntries(Object.keys(sync).map((n) => [n, real[n]!])),
    promises: Object.fromEntries(Object.keys(promises).map((n) => [n, realp[n]!])),
  };
  Object.assign(real, sync);
  Object.assign(realp, promises);
  syncBuiltinESMExports();
  return () => {
    Object.assign(real, saved.sync);
    Object.assign(realp, saved.promises);
    syncBuiltinESMExports();
  };
}
