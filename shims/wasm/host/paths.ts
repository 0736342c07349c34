import {
  type BigIntStats,
  closeSync,
  constants,
  fstatSync,
  linkSync,
  lstatSync,
  lutimesSync,
  mkdirSync,
  openSync,
  readdirSync,
  readlinkSync,
  renameSync,
  rmdirSync,
  symlinkSync,
  unlinkSync,
} from 'node:fs';
import { CannotRun, type Preopen } from './spec.js';

/**
 * Paths of the guest, resolved so that nothing leads out of a preopened directory: every component is opened by itself
 * with O_NOFOLLOW below the descriptor of the one before (`/proc/self/fd/N/name`), symbolic links are read and walked
 * by us, and `..` goes back along the descriptors already held. A rename or a link made meanwhile, by the guest or by
 * anyone, changes what is found inside, never whether it is inside.
 */
export interface Dir {
  /** -1 for a directory that only exists to hold `files`. */
  fd: number;
  readOnly: boolean;
  files: ReadonlyMap<string, FileMount>;
}

/** A single file mounted into a directory. `path` is the host's and trusted. */
export interface FileMount {
  path: string;
  readOnly: boolean;
}

/** Carries a POSIX name, as Node's own errors do in `code`. */
export class HostError extends Error {
  constructor(readonly code: string) {
    super(code);
  }
}

const O_PATH = 0o10000000;
const WALK = O_PATH | constants.O_DIRECTORY | constants.O_NOFOLLOW;
const MAX_LINKS = 40;
const MAX_PATH = 4096;
const NO_FILES: ReadonlyMap<string, FileMount> = new Map();

const fail = (code: string): never => {
  throw new HostError(code);
};
const at = (fd: number, name: string): string => `/proc/self/fd/${fd}/${name}`;
export const codeOf = (e: unknown): string => (e as { code?: string }).code ?? 'EIO';

/** The end of a walk: `name` below `dir`, unresolved; `.` is `dir` itself. */
interface Place {
  dir: Dir;
  name: string;
  mount?: FileMount;
  /** The path ended in a slash. */
  mustBeDir: boolean;
}

/** Walks `path` below `start` and calls `then` at its end; every descriptor opened on the way is closed after it. */
function walk<T>(start: Dir, path: string, follow: boolean, then: (place: Place) => T): T {
  if (path === '') fail('ENOENT');
  if (path.startsWith('/')) fail('EPERM');
  if (path.includes('\0')) fail('EINVAL');
  if (path.length > MAX_PATH) fail('ENAMETOOLONG');
  const stack: Dir[] = [start];
  const todo = path.split('/').reverse();
  let links = 0;
  /** The rest is nothing but slashes and dots. */
  const isLast = () => todo.every((c) => c === '' || c === '.');
  const expand = (target: string): void => {
    if (++links > MAX_LINKS) fail('ELOOP');
    if (target.startsWith('/')) fail('EPERM');
    todo.push(...target.split('/').reverse());
  };
  try {
    while (todo.length > 0) {
      const dir = stack[stack.length - 1]!;
      const name = todo.pop()!;
      if (name === '' || name === '.') continue;
      if (name === '..') {
        if (stack.length === 1) fail('EPERM');
        closeSync(stack.pop()!.fd);
        continue;
      }
      const last = isLast();
      const mustBeDir = last && todo.length > 0;
      const mount = dir.files.get(name);
      if (mount) {
        if (!last || mustBeDir) fail('ENOTDIR');
        return then({ dir, name, mount, mustBeDir });
      }
      if (dir.fd < 0) return last ? then({ dir, name, mustBeDir }) : fail('ENOENT');
      if (last) {
        if (follow || mustBeDir) {
          const found = lstatSync(at(dir.fd, name), { throwIfNoEntry: false });
          if (found?.isSymbolicLink()) {
            expand(readlinkSync(at(dir.fd, name)));
            continue;
          }
        }
        return then({ dir, name, mustBeDir });
      }
      let fd: number;
      try {
        fd = openSync(at(dir.fd, name), WALK);
      } catch (e) {
        if (codeOf(e) !== 'ENOTDIR' && codeOf(e) !== 'ELOOP') throw e;
        expand(readLink(dir.fd, name, 'ENOTDIR'));
        continue;
      }
      stack.push({ fd, readOnly: dir.readOnly, files: NO_FILES });
    }
    return then({ dir: stack[stack.length - 1]!, name: '.', mustBeDir: true });
  } finally {
    for (let i = 1; i < stack.length; i++) closeSync(stack[i]!.fd);
  }
}

function readLink(fd: number, name: string, otherwise: string): string {
  try {
    return readlinkSync(at(fd, name));
  } catch (e) {
    throw codeOf(e) === 'EINVAL' ? new HostError(otherwise) : e;
  }
}

export interface OpenFlags {
  follow?: boolean;
  create?: boolean;
  directory?: boolean;
  exclusive?: boolean;
  truncate?: boolean;
  read: boolean;
  write: boolean;
  append?: boolean;
  nonBlock?: boolean;
  sync?: boolean;
  dataSync?: boolean;
}

export interface Opened extends Dir {
  stats: BigIntStats;
}

/** Opens below `dir`; the caller closes `fd`. */
export function openAt(dir: Dir, path: string, flags: OpenFlags): Opened {
  let bits = constants.O_NOFOLLOW | constants.O_NOCTTY;
  bits |= flags.write ? (flags.read ? constants.O_RDWR : constants.O_WRONLY) : constants.O_RDONLY;
  if (flags.exclusive) bits |= constants.O_EXCL;
  if (flags.truncate) bits |= constants.O_TRUNC;
  if (flags.append) bits |= constants.O_APPEND;
  if (flags.nonBlock) bits |= constants.O_NONBLOCK;
  if (flags.sync) bits |= constants.O_SYNC;
  if (flags.dataSync) bits |= constants.O_DSYNC;
  const changes = flags.write || flags.truncate === true || flags.append === true;
  // A component may turn into a link between the look and the open: look again, a bounded number of times.
  for (let tries = 0; ; tries++) {
    try {
      return walk(dir, path, flags.follow === true && flags.exclusive !== true, (place) => {
        const wantsDir = flags.directory === true || place.mustBeDir;
        if (wantsDir && flags.create === true) fail(flags.directory ? 'EINVAL' : 'EISDIR');
        const readOnly = place.mount?.readOnly ?? place.dir.readOnly;
        if (readOnly && changes) fail(place.name === '.' ? 'EISDIR' : 'EROFS');
        if (place.mount) return opened(openMount(place.mount, bits, flags), readOnly, NO_FILES);
        if (place.dir.fd < 0) {
          if (place.name !== '.') fail(flags.create ? 'EROFS' : 'ENOENT');
          return { fd: -1, readOnly: true, files: place.dir.files, stats: fstatNothing() };
        }
        const create = flags.create === true && !readOnly ? constants.O_CREAT : 0;
        const how = bits | create | (wantsDir ? constants.O_DIRECTORY : 0);
        const fd = openSync(at(place.dir.fd, place.name), how, 0o666);
        return opened(fd, readOnly, place.name === '.' ? place.dir.files : NO_FILES);
      });
    } catch (e) {
      if (codeOf(e) !== 'ELOOP' || flags.follow !== true || e instanceof HostError || tries > 16) throw e;
    }
  }
}

function openMount(mount: FileMount, bits: number, flags: OpenFlags): number {
  if (flags.directory) fail('ENOTDIR');
  if (flags.create && flags.exclusive) fail('EEXIST');
  return openSync(mount.path, bits & ~constants.O_NOFOLLOW);
}

function opened(fd: number, readOnly: boolean, files: ReadonlyMap<string, FileMount>): Opened {
  return { fd, readOnly, files, stats: fstatSync(fd, { bigint: true }) };
}

/** For a directory that exists only for the files mounted in it: the root of /proc/self is as good as any. */
function fstatNothing(): BigIntStats {
  return lstatSync('/', { bigint: true });
}

export function statOf(dir: Dir): BigIntStats {
  return dir.fd < 0 ? fstatNothing() : fstatSync(dir.fd, { bigint: true });
}

export function statAt(dir: Dir, path: string, follow: boolean): BigIntStats {
  return walk(dir, path, follow, (place) => {
    if (place.mount) {
      const fd = openSync(place.mount.path, O_PATH);
      try {
        return fstatSync(fd, { bigint: true });
      } finally {
        closeSync(fd);
      }
    }
    if (place.dir.fd < 0) return place.name === '.' ? fstatNothing() : fail('ENOENT');
    const stats = lstatSync(at(place.dir.fd, place.name), { bigint: true });
    if (place.mustBeDir && !stats.isDirectory()) fail('ENOTDIR');
    return stats;
  });
}

/** Walks to where something is to change: never a mounted file, never read-only, never `.`. */
function change<T>(dir: Dir, path: string, then: (path: string, place: Place) => T): T {
  return walkParent(dir, path, (place) => {
    if (place.name === '.') fail('EINVAL');
    return then(at(place.dir.fd, place.name), place);
  });
}

function walkParent<T>(dir: Dir, path: string, then: (place: Place) => T): T {
  // A trailing slash must not make the walk follow a final link here.
  const slash = /\/+$/.test(path) && /[^/]/.test(path);
  return walk(dir, slash ? path.replace(/\/+$/, '') : path, false, (place) => {
    if (place.mount) fail('EBUSY');
    if (place.dir.readOnly || place.dir.fd < 0) fail('EROFS');
    return then({ ...place, mustBeDir: place.mustBeDir || slash });
  });
}

export function mkdirAt(dir: Dir, path: string): void {
  change(dir, path, (p) => mkdirSync(p));
}

export function rmdirAt(dir: Dir, path: string): void {
  change(dir, path, (p) => rmdirSync(p));
}

export function unlinkAt(dir: Dir, path: string): void {
  change(dir, path, (p, place) => {
    const isDir = lstatSync(p).isDirectory();
    if (isDir) fail('EISDIR');
    if (place.mustBeDir) fail('ENOTDIR');
    unlinkSync(p);
  });
}

export function renameAt(from: Dir, path: string, to: Dir, newPath: string): void {
  change(from, path, (a, place) =>
    change(to, newPath, (b, other) => {
      if ((place.mustBeDir || other.mustBeDir) && !lstatSync(a).isDirectory()) fail('ENOTDIR');
      renameSync(a, b);
    }),
  );
}

export function linkAt(from: Dir, path: string, to: Dir, newPath: string): void {
  change(from, path, (a) =>
    change(to, newPath, (b, place) => {
      if (place.mustBeDir) fail('ENOENT');
      linkSync(a, b);
    }),
  );
}

/** An absolute target could only ever lead out: EPERM. */
export function symlinkAt(target: string, dir: Dir, path: string): void {
  if (target === '') fail('ENOENT');
  if (target.startsWith('/')) fail('EPERM');
  if (target.includes('\0')) fail('EINVAL');
  change(dir, path, (p, place) => {
    if (place.mustBeDir) fail('ENOENT');
    symlinkSync(target, p);
  });
}

export function readlinkAt(dir: Dir, path: string): string {
  return walk(dir, path, false, (place) =>
    place.mount || place.dir.fd < 0 || place.name === '.'
      ? fail('EINVAL')
      : readLink(place.dir.fd, place.name, 'EINVAL'),
  );
}

/** Times in seconds since the epoch. */
export function utimesAt(dir: Dir, path: string, follow: boolean, atime: number, mtime: number): void {
  walk(dir, path, follow, (place) => {
    if (place.mount || place.dir.readOnly || place.dir.fd < 0) fail('EROFS');
    lutimesSync(at(place.dir.fd, place.name), atime, mtime);
  });
}

export interface Entry {
  name: string;
  /** undefined when it went away meanwhile. */
  stats: BigIntStats | undefined;
}

/** Names in the directory without `.` and `..`; look at each with {@link entryStats}. */
export function namesIn(dir: Dir): string[] {
  const own = dir.fd < 0 ? [] : readdirSync(`/proc/self/fd/${dir.fd}`);
  const mounted = [...dir.files.keys()];
  return mounted.length === 0 ? own : [...own.filter((n) => !dir.files.has(n)), ...mounted];
}

export function entryStats(dir: Dir, name: string): BigIntStats | undefined {
  try {
    return statAt(dir, name, false);
  } catch {
    return undefined;
  }
}

/** Opens the preopened directories; fails with the path in the message. */
export function openPreopens(preopens: readonly Preopen[]): { guest: string; dir: Dir }[] {
  return preopens.map(({ guest, host, below, readOnly, files }) => {
    const dir = {
      fd: host === undefined ? -1 : openSync(host, constants.O_RDONLY | constants.O_DIRECTORY),
      readOnly,
      files: new Map(files.map((f) => [f.name, { path: f.host, readOnly: f.readOnly }])),
    };
    return { guest, dir: below === undefined ? dir : openBelow(dir, below) };
  });
}

function openBelow(dir: Dir, path: string): Dir {
  const parts = path.split('/');
  try {
    for (let n = 1; n <= parts.length && !dir.readOnly; n++)
      try {
        mkdirAt(dir, parts.slice(0, n).join('/'));
      } catch (e) {
        if (codeOf(e) !== 'EEXIST') throw e;
      }
    return openAt(dir, path, { directory: true, follow: true, read: true, write: false });
  } catch (e) {
    throw new CannotRun(`the working directory cannot be opened: ${path} in its volume: ${codeOf(e)}`);
  } finally {
    if (dir.fd >= 0) closeSync(dir.fd);
  }
}
