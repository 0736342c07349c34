import {
  type BigIntStats,
  closeSync,
  fdatasyncSync,
  fstatSync,
  fsyncSync,
  ftruncateSync,
  futimesSync,
  readSync,
  writeSync,
} from 'node:fs';
import { httpImports } from './http.js';
import {
  clamp,
  connectPolls,
  InputStream,
  IoError,
  never,
  OutputStream,
  Payload,
  Pollable,
  poll,
  throws,
} from './io.js';
import type { CriLog, Stream } from './log.js';
import { Network } from './net.js';
import {
  codeOf,
  type Dir,
  entryStats,
  linkAt,
  mkdirAt,
  namesIn,
  type Opened,
  openAt,
  readlinkAt,
  renameAt,
  rmdirAt,
  statAt,
  statOf,
  symlinkAt,
  unlinkAt,
  utimesAt,
} from './paths.js';
import { socketsImports } from './sockets.js';
import { fillRandom } from './system.js';

/**
 * WASI preview 2 (0.2) for command components, in the shape that jco's transpiled code calls it: cli, clocks,
 * filesystem, io and random, all synchronous; sockets and outgoing http, which refuse without a network. Names as in the
 * WIT packages.
 */

/** POSIX name → `error-code` of wasi:filesystem. */
const ERROR_CODE: Record<string, string> = {
  EACCES: 'access',
  EAGAIN: 'would-block',
  EALREADY: 'already',
  EBADF: 'bad-descriptor',
  EBUSY: 'busy',
  EDEADLK: 'deadlock',
  EDQUOT: 'quota',
  EEXIST: 'exist',
  EFBIG: 'file-too-large',
  EILSEQ: 'illegal-byte-sequence',
  EINPROGRESS: 'in-progress',
  EINTR: 'interrupted',
  EINVAL: 'invalid',
  EIO: 'io',
  EISDIR: 'is-directory',
  ELOOP: 'loop',
  EMLINK: 'too-many-links',
  EMSGSIZE: 'message-size',
  ENAMETOOLONG: 'name-too-long',
  ENODEV: 'no-device',
  ENOENT: 'no-entry',
  ENOLCK: 'no-lock',
  ENOMEM: 'insufficient-memory',
  ENOSPC: 'insufficient-space',
  ENOTDIR: 'not-directory',
  ENOTEMPTY: 'not-empty',
  ENOTRECOVERABLE: 'not-recoverable',
  ENOTSUP: 'unsupported',
  EOPNOTSUPP: 'unsupported',
  ENOTTY: 'no-tty',
  ENXIO: 'no-such-device',
  EOVERFLOW: 'overflow',
  EPERM: 'not-permitted',
  EPIPE: 'pipe',
  EROFS: 'read-only',
  ESPIPE: 'invalid-seek',
  ETXTBSY: 'text-file-busy',
  EXDEV: 'cross-device',
};
const errorCode = (e: unknown): string => ERROR_CODE[codeOf(e)] ?? 'io';

/** Runs a file operation; what fails in the system becomes an `error-code`. */
function files<T>(operation: () => T): T {
  try {
    return operation();
  } catch (e) {
    return e instanceof Payload ? throws(e.payload) : throws(errorCode(e));
  }
}

const typeOf = (s: BigIntStats): string =>
  s.isFile()
    ? 'regular-file'
    : s.isDirectory()
      ? 'directory'
      : s.isSymbolicLink()
        ? 'symbolic-link'
        : s.isCharacterDevice()
          ? 'character-device'
          : s.isBlockDevice()
            ? 'block-device'
            : s.isFIFO()
              ? 'fifo'
              : s.isSocket()
                ? 'socket'
                : 'unknown';
interface Datetime {
  seconds: bigint;
  nanoseconds: number;
}
const datetime = (ns: bigint): Datetime =>
  ns < 0n
    ? { seconds: 0n, nanoseconds: 0 }
    : { seconds: ns / 1_000_000_000n, nanoseconds: Number(ns % 1_000_000_000n) };
const statRecord = (s: BigIntStats) => ({
  type: typeOf(s),
  linkCount: s.nlink,
  size: s.size,
  dataAccessTimestamp: datetime(s.atimeNs),
  dataModificationTimestamp: datetime(s.mtimeNs),
  statusChangeTimestamp: datetime(s.ctimeNs),
});
const hashRecord = (s: BigIntStats) => ({
  lower: BigInt.asUintN(64, s.ino ^ (s.mtimeNs << 7n)),
  upper: BigInt.asUintN(64, (s.dev << 32n) ^ s.size ^ s.ctimeNs),
});

type NewTimestamp = { tag: 'no-change' } | { tag: 'now' } | { tag: 'timestamp'; val: Datetime };
const seconds = (t: NewTimestamp, old: bigint): number =>
  t.tag === 'now'
    ? Date.now() / 1000
    : t.tag === 'timestamp'
      ? Number(t.val.seconds) + t.val.nanoseconds / 1e9
      : Number(old) / 1e9;

interface PathFlags {
  symlinkFollow?: boolean;
}
interface DescriptorFlags {
  read?: boolean;
  write?: boolean;
  fileIntegritySync?: boolean;
  dataIntegritySync?: boolean;
  requestedWriteSync?: boolean;
  mutateDirectory?: boolean;
}
interface OpenFlags {
  create?: boolean;
  directory?: boolean;
  exclusive?: boolean;
  truncate?: boolean;
}

class DirectoryEntryStream {
  #next = 0;
  constructor(
    private readonly dir: Dir,
    private readonly names: string[],
  ) {}
  readDirectoryEntry(): { type: string; name: string } | undefined {
    const name = this.names[this.#next++];
    if (name === undefined) return undefined;
    const stats = entryStats(this.dir, name);
    return { type: stats ? typeOf(stats) : 'unknown', name };
  }
}

class Descriptor {
  /** Streams keep the file open when the guest drops the descriptor first: closed when the last of them goes. */
  #holders = 1;
  constructor(
    readonly dir: Dir,
    private readonly stats: BigIntStats,
    private readonly flags: DescriptorFlags,
  ) {}
  /** Given out anew at every call of `get-directories`: dropping one must not close it for the next. */
  static preopen(dir: Dir): Descriptor {
    const d = new Descriptor(dir, statOf(dir), { read: true, mutateDirectory: !dir.readOnly });
    d.#holders++;
    return d;
  }
  [Symbol.dispose](): void {
    this.#release();
  }
  #release(): void {
    if (--this.#holders === 0 && this.dir.fd >= 0) closeSync(this.dir.fd);
  }
  /** Keeps the descriptor's number for a stream: dropping the stream is noticed by its own disposer. */
  #hold<T extends object>(stream: T): T {
    this.#holders++;
    let held = true;
    Object.defineProperty(stream, Symbol.dispose, {
      value: () => {
        if (held) this.#release();
        held = false;
      },
    });
    return stream;
  }
  #file(right: 'read' | 'write'): number {
    if (this.stats.isDirectory()) throws('is-directory');
    if (!this.flags[right]) throws('bad-descriptor');
    return this.dir.fd;
  }
  #directory(): Dir {
    return this.stats.isDirectory() ? this.dir : throws('not-directory');
  }
  #readAt(length: number, position: number): Uint8Array {
    const bytes = new Uint8Array(length);
    const seeks = this.stats.isFile() || this.stats.isBlockDevice();
    return bytes.subarray(0, readSync(this.dir.fd, bytes, 0, length, seeks ? position : null));
  }
  #writeAll(bytes: Uint8Array, position: number | null): void {
    const seeks = this.stats.isFile() || this.stats.isBlockDevice();
    for (let at = 0; at < bytes.length; ) {
      const where = seeks && position !== null ? position + at : null;
      at += writeSync(this.dir.fd, bytes, at, bytes.length - at, where);
    }
  }

  readViaStream(offset: bigint): InputStream {
    this.#file('read');
    let position = Number(offset);
    return this.#hold(
      new InputStream({
        read: (length) => {
          const got = this.#readAt(length, position);
          position += got.length;
          return got;
        },
      }),
    );
  }
  writeViaStream(offset: bigint): OutputStream {
    this.#file('write');
    let position = Number(offset);
    return this.#hold(
      new OutputStream({
        write: (bytes) => {
          this.#writeAll(bytes, position);
          position += bytes.length;
        },
      }),
    );
  }
  appendViaStream(): OutputStream {
    this.#file('write');
    return this.#hold(
      new OutputStream({ write: (bytes) => this.#writeAll(bytes, fstatSync(this.dir.fd).size) }),
    );
  }
  advise(): void {
    if (this.stats.isDirectory()) throws('bad-descriptor');
  }
  syncData(): void {
    if (this.dir.fd >= 0) files(() => fdatasyncSync(this.dir.fd));
  }
  sync(): void {
    if (this.dir.fd >= 0) files(() => fsyncSync(this.dir.fd));
  }
  getFlags(): DescriptorFlags {
    return this.flags;
  }
  getType(): string {
    return typeOf(this.stats);
  }
  setSize(size: bigint): void {
    const fd = this.#file('write');
    files(() => ftruncateSync(fd, Number(size)));
  }
  setTimes(atime: NewTimestamp, mtime: NewTimestamp): void {
    if (this.dir.fd < 0 || this.dir.readOnly) throws('read-only');
    const now = this.#stat();
    files(() => futimesSync(this.dir.fd, seconds(atime, now.atimeNs), seconds(mtime, now.mtimeNs)));
  }
  read(length: bigint, offset: bigint): [Uint8Array, boolean] {
    this.#file('read');
    const got = files(() => this.#readAt(clamp(length), Number(offset)));
    return [got, got.length === 0 && length > 0n];
  }
  write(bytes: Uint8Array, offset: bigint): bigint {
    this.#file('write');
    files(() => this.#writeAll(bytes, Number(offset)));
    return BigInt(bytes.length);
  }
  readDirectory(): DirectoryEntryStream {
    const dir = this.#directory();
    return this.#hold(
      new DirectoryEntryStream(
        dir,
        files(() => namesIn(dir)),
      ),
    );
  }
  createDirectoryAt(path: string): void {
    files(() => mkdirAt(this.#directory(), path));
  }
  #stat(): BigIntStats {
    return files(() => statOf(this.dir));
  }
  stat() {
    return statRecord(this.#stat());
  }
  statAt(flags: PathFlags, path: string) {
    return statRecord(files(() => statAt(this.#directory(), path, flags.symlinkFollow === true)));
  }
  setTimesAt(flags: PathFlags, path: string, atime: NewTimestamp, mtime: NewTimestamp): void {
    const follow = flags.symlinkFollow === true;
    files(() => {
      const now = statAt(this.#directory(), path, follow);
      utimesAt(this.dir, path, follow, seconds(atime, now.atimeNs), seconds(mtime, now.mtimeNs));
    });
  }
  linkAt(flags: PathFlags, path: string, other: Descriptor, newPath: string): void {
    if (flags.symlinkFollow) throws('invalid');
    files(() => linkAt(this.#directory(), path, other.#directory(), newPath));
  }
  openAt(flags: PathFlags, path: string, open: OpenFlags, wanted: DescriptorFlags): Descriptor {
    const o: Opened = files(() =>
      openAt(this.#directory(), path, {
        follow: flags.symlinkFollow === true,
        ...open,
        read: wanted.read === true || wanted.write !== true,
        write: wanted.write === true && open.directory !== true,
        sync: wanted.fileIntegritySync === true || wanted.requestedWriteSync === true,
        dataSync: wanted.dataIntegritySync === true,
      }),
    );
    const { fd, readOnly, files: mounted, stats } = o;
    if (stats.isDirectory() && wanted.mutateDirectory && readOnly) {
      if (fd >= 0) closeSync(fd);
      throws('read-only');
    }
    return new Descriptor({ fd, readOnly, files: mounted }, stats, wanted);
  }
  readlinkAt(path: string): string {
    return files(() => readlinkAt(this.#directory(), path));
  }
  removeDirectoryAt(path: string): void {
    files(() => rmdirAt(this.#directory(), path));
  }
  renameAt(path: string, other: Descriptor, newPath: string): void {
    files(() => renameAt(this.#directory(), path, other.#directory(), newPath));
  }
  symlinkAt(target: string, path: string): void {
    files(() => symlinkAt(target, this.#directory(), path));
  }
  unlinkFileAt(path: string): void {
    files(() => unlinkAt(this.#directory(), path));
  }
  isSameObject(other: Descriptor): boolean {
    return this.stats.dev === other.stats.dev && this.stats.ino === other.stats.ino;
  }
  metadataHash() {
    return hashRecord(this.#stat());
  }
  metadataHashAt(flags: PathFlags, path: string) {
    return hashRecord(files(() => statAt(this.#directory(), path, flags.symlinkFollow === true)));
  }
}

export interface P2Options {
  args: string[];
  env: [string, string][];
  cwd?: string;
  preopens: { guest: string; dir: Dir }[];
  /** Whether the pod was granted the network. */
  network: boolean;
  log: CriLog;
  exit: (code: number) => never;
}

/** The import object of a transpiled component, by interface without version, and what to do before the guest's end. */
export function preview2(o: P2Options): {
  imports: Record<string, Record<string, unknown>>;
  drain: () => void;
} {
  const network = o.network ? new Network() : undefined;
  connectPolls({ beforeSleep: () => o.log.flush('P'), ...(network ? { outside: network } : {}) });
  const exit = (code: number): never => {
    network?.drain();
    return o.exit(code);
  };
  const output = (stream: Stream) => new OutputStream({ write: (bytes) => o.log.write(stream, bytes) });
  const nothing = (): undefined => undefined;
  const bytes = (length: bigint): Uint8Array => {
    const out = new Uint8Array(Number(length));
    fillRandom(out);
    return out;
  };
  const u64 = (): bigint => new DataView(bytes(8n).buffer).getBigUint64(0);
  const now = (): bigint => process.hrtime.bigint();
  const later = (ns: bigint): Pollable => new Pollable(performance.now() + Number(ns) / 1e6);
  const imports = {
    'wasi:cli/environment': {
      getArguments: () => o.args,
      getEnvironment: () => o.env,
      initialCwd: () => o.cwd,
    },
    'wasi:cli/exit': {
      exit: (status: { tag: 'ok' | 'err' }) => exit(status.tag === 'ok' ? 0 : 1),
      exitWithCode: (code: number) => exit(code),
    },
    'wasi:cli/stdin': { getStdin: () => new InputStream({ read: () => new Uint8Array(0) }) },
    'wasi:cli/stdout': { getStdout: () => output('stdout') },
    'wasi:cli/stderr': { getStderr: () => output('stderr') },
    'wasi:cli/terminal-input': never('TerminalInput'),
    'wasi:cli/terminal-output': never('TerminalOutput'),
    'wasi:cli/terminal-stdin': { getTerminalStdin: nothing },
    'wasi:cli/terminal-stdout': { getTerminalStdout: nothing },
    'wasi:cli/terminal-stderr': { getTerminalStderr: nothing },
    'wasi:clocks/monotonic-clock': {
      now,
      resolution: () => 1n,
      subscribeInstant: (at: bigint) => later(at - now()),
      subscribeDuration: later,
    },
    'wasi:clocks/wall-clock': {
      now: () => datetime(BigInt(Date.now()) * 1_000_000n),
      resolution: () => datetime(1_000_000n),
    },
    'wasi:clocks/timezone': {
      display: () => ({ utcOffset: 0, name: 'UTC', inDaylightSavingTime: false }),
      utcOffset: () => 0,
    },
    'wasi:filesystem/preopens': {
      getDirectories: () => o.preopens.map(({ guest, dir }) => [Descriptor.preopen(dir), guest]),
    },
    'wasi:filesystem/types': {
      Descriptor,
      DirectoryEntryStream,
      filesystemErrorCode: (e: unknown) => (e instanceof IoError ? ERROR_CODE[e.code] : undefined),
    },
    'wasi:io/error': { Error: IoError },
    'wasi:io/poll': { Pollable, poll },
    'wasi:io/streams': { InputStream, OutputStream },
    'wasi:random/random': { getRandomBytes: bytes, getRandomU64: u64 },
    'wasi:random/insecure': { getInsecureRandomBytes: bytes, getInsecureRandomU64: u64 },
    'wasi:random/insecure-seed': {
      insecureSeed: () => [u64(), u64()],
      getInsecureSeed: () => [u64(), u64()],
    },
    ...socketsImports(network),
    ...httpImports(network),
  };
  return { imports, drain: () => network?.drain() };
}
