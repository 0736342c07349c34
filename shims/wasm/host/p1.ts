import {
  type BigIntStats,
  closeSync,
  fdatasyncSync,
  fstatSync,
  fsyncSync,
  ftruncateSync,
  futimesSync,
  openSync,
  readSync,
  readvSync,
  writeSync,
  writevSync,
} from 'node:fs';
import type { CriLog } from './log.js';
import {
  codeOf,
  type Dir,
  entryStats,
  HostError,
  linkAt,
  mkdirAt,
  namesIn,
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
import { fillRandom, modeOf, pause } from './system.js';

/**
 * WASI preview 1 (`wasi_snapshot_preview1`): numbers and layouts from the WebAssembly/WASI repository,
 * legacy/preview1/docs.md. All synchronous, all of it, for one guest per process.
 */

/** POSIX name → errno number. */
const ERRNO = Object.fromEntries(
  (
    'SUCCESS 2BIG ACCES ADDRINUSE ADDRNOTAVAIL AFNOSUPPORT AGAIN ALREADY BADF BADMSG BUSY CANCELED CHILD ' +
    'CONNABORTED CONNREFUSED CONNRESET DEADLK DESTADDRREQ DOM DQUOT EXIST FAULT FBIG HOSTUNREACH IDRM ILSEQ ' +
    'INPROGRESS INTR INVAL IO ISCONN ISDIR LOOP MFILE MLINK MSGSIZE MULTIHOP NAMETOOLONG NETDOWN NETRESET ' +
    'NETUNREACH NFILE NOBUFS NODEV NOENT NOEXEC NOLCK NOLINK NOMEM NOMSG NOPROTOOPT NOSPC NOSYS NOTCONN NOTDIR ' +
    'NOTEMPTY NOTRECOVERABLE NOTSOCK NOTSUP NOTTY NXIO OVERFLOW OWNERDEAD PERM PIPE PROTO PROTONOSUPPORT ' +
    'PROTOTYPE RANGE ROFS SPIPE SRCH STALE TIMEDOUT TXTBSY XDEV NOTCAPABLE'
  )
    .split(' ')
    .map((name, i) => [`E${name}`, i]),
) as Record<string, number>;
ERRNO['EOPNOTSUPP'] = ERRNO['ENOTSUP']!;

/** Bits of `rights`, in the order of the specification. */
const RIGHT = Object.fromEntries(
  (
    'datasync read seek fdstat_set_flags sync tell write advise allocate path_create_directory path_create_file ' +
    'path_link_source path_link_target path_open readdir path_readlink path_rename_source path_rename_target ' +
    'path_filestat_get path_filestat_set_size path_filestat_set_times filestat_get filestat_set_size ' +
    'filestat_set_times path_symlink path_remove_directory path_unlink_file poll_readwrite'
  )
    .split(' ')
    .map((name, i) => [name, 1n << BigInt(i)]),
) as Record<string, bigint>;
const rights = (...names: string[]): bigint => names.reduce((all, n) => all | RIGHT[n]!, 0n);
const ALL_RIGHTS = (1n << 28n) - 1n;
const FILE_ANY = rights(
  ...['datasync', 'seek', 'fdstat_set_flags', 'sync', 'tell', 'advise', 'filestat_get', 'filestat_set_times'],
  'poll_readwrite',
);
const FILE_WRITE = rights('write', 'allocate', 'filestat_set_size');
const DIR_RIGHTS =
  ALL_RIGHTS & ~rights('read', 'seek', 'tell', 'write', 'allocate', 'filestat_set_size', 'poll_readwrite');
const DIR_WRITES = rights(
  ...[
    'path_create_directory',
    'path_create_file',
    'path_link_source',
    'path_link_target',
    'path_rename_source',
  ],
  ...['path_rename_target', 'path_filestat_set_size', 'path_filestat_set_times', 'path_symlink'],
  ...['path_remove_directory', 'path_unlink_file'],
);

const FILETYPE = { block: 1, character: 2, directory: 3, regular: 4, stream: 6, symlink: 7 } as const;
const OFLAG = { create: 1, directory: 2, exclusive: 4, truncate: 8 } as const;
const FDFLAG = { append: 1, dsync: 2, nonblock: 4, rsync: 8, sync: 16 } as const;
const FSTFLAG = { atim: 1, atimNow: 2, mtim: 4, mtimNow: 8 } as const;

interface Descriptor {
  kind: 'stdin' | 'stdout' | 'stderr' | 'file' | 'dir';
  fd: number;
  filetype: number;
  rights: bigint;
  inheriting: bigint;
  flags: number;
  /** Where a regular file is read and written next; undefined for what cannot seek. */
  position: number | undefined;
  dir?: Dir;
  /** The guest's name of a preopened directory. */
  guest?: string;
  /** A snapshot of names, taken when the guest reads from cookie 0. */
  names?: string[];
}

export interface P1Options {
  args: string[];
  env: [string, string][];
  preopens: { guest: string; dir: Dir }[];
  log: CriLog;
  exit: (code: number) => never;
}

const fail = (code: string): never => {
  throw new HostError(code);
};
const filetypeOf = (s: BigIntStats): number =>
  s.isFile()
    ? FILETYPE.regular
    : s.isDirectory()
      ? FILETYPE.directory
      : s.isSymbolicLink()
        ? FILETYPE.symlink
        : s.isCharacterDevice()
          ? FILETYPE.character
          : s.isBlockDevice()
            ? FILETYPE.block
            : s.isSocket()
              ? FILETYPE.stream
              : 0;

/** The import object's `wasi_snapshot_preview1`, and `bind` for the memory once the instance is there. */
export function preview1(options: P1Options): {
  imports: Record<string, (...a: never[]) => unknown>;
  bind: (memory: WebAssembly.Memory) => void;
} {
  const { log } = options;
  let memory: WebAssembly.Memory;
  let view = new DataView(new ArrayBuffer(0));
  let bytes = new Uint8Array(0);
  /** Memory that grew has a new buffer. */
  const refresh = (): void => {
    if (view.buffer !== memory.buffer) {
      view = new DataView(memory.buffer);
      bytes = new Uint8Array(memory.buffer);
    }
  };
  const slice = (pointer: number, length: number): Uint8Array => {
    const start = pointer >>> 0;
    const end = start + (length >>> 0);
    if (end > bytes.length) fail('EFAULT');
    return bytes.subarray(start, end);
  };
  const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });
  const text = (pointer: number, length: number): string => {
    try {
      return decoder.decode(slice(pointer, length));
    } catch (e) {
      throw e instanceof TypeError ? new HostError('EILSEQ') : e;
    }
  };
  const u32 = (pointer: number, value: number): void => view.setUint32(pointer >>> 0, value, true);
  const u64 = (pointer: number, value: bigint): void => view.setBigUint64(pointer >>> 0, value, true);

  const table = new Map<number, Descriptor>();
  const stdio = (kind: 'stdin' | 'stdout' | 'stderr', r: bigint): Descriptor => ({
    kind,
    fd: -1,
    filetype: FILETYPE.character,
    rights: r | rights('filestat_get', 'poll_readwrite', 'fdstat_set_flags'),
    inheriting: 0n,
    flags: 0,
    position: undefined,
  });
  table.set(0, stdio('stdin', RIGHT['read']!));
  table.set(1, stdio('stdout', RIGHT['write']!));
  table.set(2, stdio('stderr', RIGHT['write']!));
  options.preopens.forEach(({ guest, dir }, i) => {
    table.set(3 + i, { ...dirDescriptor(dir), guest });
  });

  function dirDescriptor(dir: Dir): Descriptor {
    const base = dir.readOnly ? DIR_RIGHTS & ~DIR_WRITES : DIR_RIGHTS;
    // A file that is mounted by itself may be writable where its directory is not.
    const inheritsWrites = !dir.readOnly || [...dir.files.values()].some((f) => !f.readOnly);
    return {
      kind: 'dir',
      fd: dir.fd,
      filetype: FILETYPE.directory,
      rights: base,
      inheriting: inheritsWrites ? ALL_RIGHTS : base | FILE_ANY | RIGHT['read']!,
      flags: 0,
      position: undefined,
      dir,
    };
  }

  const freeNumber = (): number => {
    for (let fd = 0; ; fd++) if (!table.has(fd)) return fd;
  };
  const descriptor = (fd: number): Descriptor => table.get(fd >>> 0) ?? fail('EBADF');
  const file = (fd: number): Descriptor => {
    const d = descriptor(fd);
    if (d.kind === 'dir') fail('EISDIR');
    if (d.kind !== 'file') fail('ESPIPE');
    return d;
  };
  const directory = (fd: number): Dir => descriptor(fd).dir ?? fail('ENOTDIR');
  const need = (d: Descriptor, right: string): void => {
    if ((d.rights & RIGHT[right]!) === 0n) fail(d.kind === 'dir' ? 'EISDIR' : 'ENOTCAPABLE');
  };
  const seekable = (d: Descriptor): number => d.position ?? fail('ESPIPE');
  const offsetOf = (n: bigint): number =>
    n < 0n || n > BigInt(Number.MAX_SAFE_INTEGER) ? fail('EINVAL') : Number(n);

  const vectors = (pointer: number, count: number): Uint8Array[] => {
    const out: Uint8Array[] = [];
    for (let i = 0; i < count >>> 0 && out.length < 1024; i++) {
      const at = (pointer >>> 0) + i * 8;
      const one = slice(view.getUint32(at, true), view.getUint32(at + 4, true));
      if (one.length > 0) out.push(one);
    }
    return out;
  };
  const transfer = (
    d: Descriptor,
    iovs: Uint8Array[],
    position: number | undefined,
    direction: 'read' | 'write',
  ): number => {
    if (iovs.length === 0) return 0;
    if (iovs.length > 1) return (direction === 'read' ? readvSync : writevSync)(d.fd, iovs, position);
    const one = iovs[0]!;
    const where = position ?? null;
    return direction === 'read'
      ? readSync(d.fd, one, 0, one.length, where)
      : writeSync(d.fd, one, 0, one.length, where);
  };

  const putStat = (out: number, s: BigIntStats): void => {
    slice(out, 64).fill(0);
    u64(out, s.dev);
    u64(out + 8, s.ino);
    view.setUint8(out + 16, filetypeOf(s));
    u64(out + 24, s.nlink);
    u64(out + 32, s.size);
    u64(out + 40, BigInt.asUintN(64, s.atimeNs));
    u64(out + 48, BigInt.asUintN(64, s.mtimeNs));
    u64(out + 56, BigInt.asUintN(64, s.ctimeNs));
  };
  /** Seconds for utimes, from the flags; what is not to change keeps its value. */
  const times = (s: BigIntStats, atim: bigint, mtim: bigint, flags: number): [number, number] => {
    const pick = (set: number, now: number, value: bigint, old: bigint): number => {
      if (flags & set && flags & now) fail('EINVAL');
      if (flags & now) return Date.now() / 1000;
      return Number(flags & set ? BigInt.asUintN(64, value) : old) / 1e9;
    };
    return [
      pick(FSTFLAG.atim, FSTFLAG.atimNow, atim, s.atimeNs),
      pick(FSTFLAG.mtim, FSTFLAG.mtimNow, mtim, s.mtimeNs),
    ];
  };

  const encoder = new TextEncoder();
  const strings = (
    list: string[],
  ): { sizes: (a: number, b: number) => void; get: (a: number, b: number) => void } => {
    const encoded = list.map((s) => encoder.encode(`${s}\0`));
    return {
      sizes(count, size) {
        u32(count, encoded.length);
        u32(
          size,
          encoded.reduce((n, e) => n + e.length, 0),
        );
      },
      get(pointers, buffer) {
        let at = buffer >>> 0;
        encoded.forEach((e, i) => {
          u32(pointers + i * 4, at);
          slice(at, e.length).set(e);
          at += e.length;
        });
      },
    };
  };
  const args = strings(options.args);
  const environ = strings(options.env.map(([name, value]) => `${name}=${value}`));

  const clock = (id: number): bigint => {
    if (id === 0) return BigInt(Date.now()) * 1_000_000n;
    if (id === 1) return process.hrtime.bigint();
    if (id === 2 || id === 3) {
      const { user, system } = process.cpuUsage();
      return BigInt(user + system) * 1000n;
    }
    return fail('EINVAL');
  };

  const calls: Record<string, (...a: never[]) => void> = {
    args_sizes_get: args.sizes,
    args_get: args.get,
    environ_sizes_get: environ.sizes,
    environ_get: environ.get,

    clock_res_get(id: number, out: number) {
      clock(id);
      u64(out, id === 0 ? 1_000_000n : id === 1 ? 1n : 1000n);
    },
    clock_time_get(id: number, _precision: bigint, out: number) {
      u64(out, clock(id));
    },
    random_get(pointer: number, length: number) {
      fillRandom(slice(pointer, length));
    },
    sched_yield() {},
    proc_raise() {
      fail('ENOTSUP');
    },

    poll_oneoff(subscriptions: number, events: number, count: number, out: number) {
      if (count >>> 0 === 0) fail('EINVAL');
      if (count >>> 0 > 4096) fail('EINVAL');
      interface Wanted {
        userdata: bigint;
        type: number;
        error: string;
        due: number;
        bytes: bigint;
        hangup: boolean;
      }
      const start = performance.now();
      const wanted: Wanted[] = [];
      for (let i = 0; i < count >>> 0; i++) {
        const at = (subscriptions >>> 0) + i * 48;
        const one: Wanted = {
          userdata: view.getBigUint64(at, true),
          type: view.getUint8(at + 8),
          error: 'ESUCCESS',
          due: start,
          bytes: 0n,
          hangup: false,
        };
        wanted.push(one);
        if (one.type === 0) {
          const id = view.getUint32(at + 16, true);
          const timeout = view.getBigUint64(at + 24, true);
          const absolute = (view.getUint16(at + 40, true) & 1) === 1;
          if (id > 1) one.error = id > 3 ? 'EINVAL' : 'ENOTSUP';
          else one.due = start + Number(absolute ? BigInt.asIntN(64, timeout - clock(id)) : timeout) / 1e6;
        } else if (one.type === 1 || one.type === 2) {
          // Files are always ready; standard input is always at its end.
          const d = table.get(view.getUint32(at + 16, true));
          if (!d) one.error = 'EBADF';
          else if (one.type === 1 && d.kind === 'stdin') one.hangup = true;
          else if (one.type === 1 && d.kind === 'file' && d.position !== undefined)
            one.bytes = BigInt(Math.max(0, fstatSync(d.fd).size - d.position));
        } else fail('EINVAL');
      }
      const first = wanted.reduce((least, w) => Math.min(least, w.due), Number.POSITIVE_INFINITY);
      if (first > start) {
        log.flush('P');
        pause(first - start);
        refresh();
      }
      const now = performance.now();
      let done = 0;
      for (const w of wanted) {
        if (w.due > now) continue;
        const at = (events >>> 0) + done++ * 32;
        slice(at, 32).fill(0);
        u64(at, w.userdata);
        view.setUint16(at + 8, ERRNO[w.error]!, true);
        view.setUint8(at + 10, w.type);
        u64(at + 16, w.bytes);
        view.setUint16(at + 24, w.hangup ? 1 : 0, true);
      }
      u32(out, done);
    },

    fd_write(fd: number, iovs: number, count: number, out: number) {
      const d = descriptor(fd);
      need(d, 'write');
      const parts = vectors(iovs, count);
      if (d.kind === 'stdout' || d.kind === 'stderr') {
        let n = 0;
        for (const p of parts) {
          log.write(d.kind, p);
          n += p.length;
        }
        u32(out, n);
        return;
      }
      const append = (d.flags & FDFLAG.append) !== 0;
      const n = transfer(d, parts, append ? undefined : d.position, 'write');
      if (d.position !== undefined) d.position = append ? fstatSync(d.fd).size : d.position + n;
      u32(out, n);
    },
    fd_read(fd: number, iovs: number, count: number, out: number) {
      const d = descriptor(fd);
      need(d, 'read');
      const n = d.kind === 'stdin' ? 0 : transfer(d, vectors(iovs, count), d.position, 'read');
      if (d.position !== undefined) d.position += n;
      u32(out, n);
    },
    fd_pwrite(fd: number, iovs: number, count: number, offset: bigint, out: number) {
      const d = file(fd);
      need(d, 'write');
      seekable(d);
      u32(out, transfer(d, vectors(iovs, count), offsetOf(offset), 'write'));
    },
    fd_pread(fd: number, iovs: number, count: number, offset: bigint, out: number) {
      const d = file(fd);
      need(d, 'read');
      seekable(d);
      u32(out, transfer(d, vectors(iovs, count), offsetOf(offset), 'read'));
    },
    fd_seek(fd: number, offset: bigint, whence: number, out: number) {
      const d = file(fd);
      const bases = [0, seekable(d), whence === 2 ? fstatSync(d.fd).size : 0];
      const to = BigInt(bases[whence] ?? fail('EINVAL')) + offset;
      d.position = offsetOf(to);
      u64(out, to);
    },
    fd_tell(fd: number, out: number) {
      u64(out, BigInt(seekable(file(fd))));
    },
    fd_close(fd: number) {
      const d = descriptor(fd);
      table.delete(fd >>> 0);
      if (d.fd >= 0) closeSync(d.fd);
    },
    fd_renumber(from: number, to: number) {
      const d = descriptor(from);
      const old = descriptor(to);
      if (from >>> 0 === to >>> 0) return;
      table.set(to >>> 0, d);
      table.delete(from >>> 0);
      if (old.fd >= 0) closeSync(old.fd);
    },
    fd_sync(fd: number) {
      const d = descriptor(fd);
      if (d.fd >= 0) fsyncSync(d.fd);
    },
    fd_datasync(fd: number) {
      const d = descriptor(fd);
      if (d.fd >= 0) fdatasyncSync(d.fd);
    },
    fd_advise(fd: number, offset: bigint, length: bigint, advice: number) {
      file(fd);
      if (advice >>> 0 > 5 || offset < 0n || length < 0n) fail('EINVAL');
    },
    /** Node has no fallocate; setting the size would promise space that nobody reserved. */
    fd_allocate(fd: number) {
      need(file(fd), 'allocate');
      fail('ENOTSUP');
    },
    fd_fdstat_get(fd: number, out: number) {
      const d = descriptor(fd);
      slice(out, 24).fill(0);
      view.setUint8(out, d.filetype);
      view.setUint16(out + 2, d.flags, true);
      u64(out + 8, d.rights);
      u64(out + 16, d.inheriting);
    },
    fd_fdstat_set_flags(fd: number, flags: number) {
      const d = descriptor(fd);
      if (flags & ~(FDFLAG.append | FDFLAG.nonblock)) fail(flags >>> 0 > 31 ? 'EINVAL' : 'ENOTSUP');
      if (d.kind === 'file' && (flags ^ d.flags) & FDFLAG.append) {
        // Node has no fcntl: a second open of the same file, through its own descriptor, has the new flags.
        const fresh = openSync(`/proc/self/fd/${d.fd}`, reopenFlags(d, flags));
        closeSync(d.fd);
        d.fd = fresh;
      }
      d.flags = flags;
    },
    fd_fdstat_set_rights(fd: number, base: bigint, inheriting: bigint) {
      const d = descriptor(fd);
      if (base & ~d.rights || inheriting & ~d.inheriting) fail('ENOTCAPABLE');
      d.rights = base;
      d.inheriting = inheriting;
    },
    fd_filestat_get(fd: number, out: number) {
      const d = descriptor(fd);
      if (d.kind === 'file') return putStat(out, fstatSync(d.fd, { bigint: true }));
      if (d.dir) return putStat(out, statOf(d.dir));
      slice(out, 64).fill(0);
      view.setUint8(out + 16, d.filetype);
    },
    fd_filestat_set_size(fd: number, size: bigint) {
      const d = file(fd);
      need(d, 'filestat_set_size');
      ftruncateSync(d.fd, offsetOf(size));
    },
    fd_filestat_set_times(fd: number, atim: bigint, mtim: bigint, flags: number) {
      const d = descriptor(fd);
      if (d.fd < 0 || d.dir?.readOnly) fail('EROFS');
      need(d, d.kind === 'dir' ? 'path_filestat_set_times' : 'filestat_set_times');
      futimesSync(d.fd, ...times(fstatSync(d.fd, { bigint: true }), atim, mtim, flags));
    },
    fd_prestat_get(fd: number, out: number) {
      const { guest } = descriptor(fd);
      if (guest === undefined) return fail('EBADF');
      u32(out, 0);
      u32(out + 4, encoder.encode(guest).length);
    },
    fd_prestat_dir_name(fd: number, pointer: number, length: number) {
      const name = encoder.encode(descriptor(fd).guest ?? fail('EBADF'));
      if (length >>> 0 < name.length) fail('ENAMETOOLONG');
      slice(pointer, name.length).set(name);
    },
    fd_readdir(fd: number, buffer: number, length: number, cookie: bigint, out: number) {
      const d = descriptor(fd);
      const dir = directory(fd);
      if (cookie === 0n || !d.names) d.names = ['.', '..', ...namesIn(dir)];
      const target = slice(buffer, length);
      let used = 0;
      for (let i = offsetOf(BigInt.asUintN(64, cookie)); i < d.names.length && used < target.length; i++) {
        const name = d.names[i]!;
        const stats = i < 2 ? statOf(dir) : entryStats(dir, name);
        const encoded = encoder.encode(name);
        const entry = new Uint8Array(24 + encoded.length);
        const head = new DataView(entry.buffer);
        head.setBigUint64(0, BigInt(i + 1), true);
        head.setBigUint64(8, stats?.ino ?? 0n, true);
        head.setUint32(16, encoded.length, true);
        head.setUint8(20, stats ? filetypeOf(stats) : 0);
        entry.set(encoded, 24);
        const part = entry.subarray(0, target.length - used);
        target.set(part, used);
        used += part.length;
      }
      u32(out, used);
    },

    path_open(
      fd: number,
      lookup: number,
      pointer: number,
      length: number,
      oflags: number,
      base: bigint,
      inheriting: bigint,
      fdflags: number,
      out: number,
    ) {
      const parent = descriptor(fd);
      const dir = directory(fd);
      const path = text(pointer, length);
      const wanted = BigInt.asUintN(64, base) & parent.inheriting;
      // A read-only place refuses at once what the guest may not do, as open(2) does with EROFS.
      const asks = (r: bigint) => (BigInt.asUintN(64, base) & r) !== 0n;
      const opensDir = (oflags & OFLAG.directory) !== 0;
      const write = !opensDir && asks(FILE_WRITE) && !(dir.readOnly && base === ALL_RIGHTS);
      const read = asks(rights('read', 'readdir')) || !write;
      if ((parent.rights & RIGHT['path_open']!) === 0n) fail('ENOTCAPABLE');
      const o = openAt(dir, path, {
        follow: (lookup & 1) === 1,
        create: (oflags & OFLAG.create) !== 0,
        directory: opensDir,
        exclusive: (oflags & OFLAG.exclusive) !== 0,
        truncate: (oflags & OFLAG.truncate) !== 0,
        append: (fdflags & FDFLAG.append) !== 0,
        nonBlock: (fdflags & FDFLAG.nonblock) !== 0,
        sync: (fdflags & (FDFLAG.sync | FDFLAG.rsync)) !== 0,
        dataSync: (fdflags & FDFLAG.dsync) !== 0,
        read,
        write,
      });
      const next = freeNumber();
      if (o.stats.isDirectory()) {
        const d = dirDescriptor({ fd: o.fd, readOnly: o.readOnly, files: o.files });
        d.rights &= wanted | RIGHT['readdir']! | RIGHT['filestat_get']!;
        d.inheriting &= BigInt.asUintN(64, inheriting);
        table.set(next, d);
      } else {
        const can = FILE_ANY | (read ? RIGHT['read']! : 0n) | (write ? FILE_WRITE : 0n);
        table.set(next, {
          kind: 'file',
          fd: o.fd,
          filetype: filetypeOf(o.stats),
          rights: can & (wanted | FILE_ANY | (read ? RIGHT['read']! : 0n)),
          inheriting: 0n,
          flags: fdflags,
          position: o.stats.isFile() || o.stats.isBlockDevice() ? 0 : undefined,
        });
      }
      u32(out, next);
    },
    path_create_directory(fd: number, pointer: number, length: number) {
      mkdirAt(directory(fd), text(pointer, length));
    },
    path_remove_directory(fd: number, pointer: number, length: number) {
      rmdirAt(directory(fd), text(pointer, length));
    },
    path_unlink_file(fd: number, pointer: number, length: number) {
      unlinkAt(directory(fd), text(pointer, length));
    },
    path_rename(fd: number, a: number, aLength: number, fd2: number, b: number, bLength: number) {
      renameAt(directory(fd), text(a, aLength), directory(fd2), text(b, bLength));
    },
    path_link(
      fd: number,
      lookup: number,
      a: number,
      aLength: number,
      fd2: number,
      b: number,
      bLength: number,
    ) {
      // As wasmtime: a hard link to what a link leads to is not offered.
      if (lookup & 1) fail('EINVAL');
      linkAt(directory(fd), text(a, aLength), directory(fd2), text(b, bLength));
    },
    path_symlink(target: number, targetLength: number, fd: number, pointer: number, length: number) {
      symlinkAt(text(target, targetLength), directory(fd), text(pointer, length));
    },
    path_readlink(fd: number, pointer: number, length: number, buffer: number, size: number, out: number) {
      const link = encoder.encode(readlinkAt(directory(fd), text(pointer, length)));
      const part = link.subarray(0, size >>> 0);
      slice(buffer, part.length).set(part);
      u32(out, part.length);
    },
    path_filestat_get(fd: number, lookup: number, pointer: number, length: number, out: number) {
      putStat(out, statAt(directory(fd), text(pointer, length), (lookup & 1) === 1));
    },
    path_filestat_set_times(
      fd: number,
      lookup: number,
      pointer: number,
      length: number,
      atim: bigint,
      mtim: bigint,
      flags: number,
    ) {
      const dir = directory(fd);
      const path = text(pointer, length);
      const follow = (lookup & 1) === 1;
      utimesAt(dir, path, follow, ...times(statAt(dir, path, follow), atim, mtim, flags));
    },
  };
  // No socket is ever handed to a guest, so that each of these gets a wrong kind of descriptor.
  for (const name of ['sock_accept', 'sock_recv', 'sock_send', 'sock_shutdown'])
    calls[name] = (fd: number) => {
      descriptor(fd);
      fail('ENOTSUP');
    };

  const imports: Record<string, (...a: never[]) => unknown> = {
    proc_exit: ((code: number) => options.exit(code >>> 0)) as never,
  };
  for (const [name, call] of Object.entries(calls))
    imports[name] = (...a) => {
      try {
        refresh();
        call(...a);
        return 0;
      } catch (e) {
        return errnoOf(e);
      }
    };
  return {
    imports,
    bind(m) {
      memory = m;
      refresh();
    },
  };
}

function errnoOf(e: unknown): number {
  if (e instanceof RangeError) return ERRNO['EFAULT']!;
  return ERRNO[codeOf(e)] ?? ERRNO['EIO']!;
}

function reopenFlags(d: Descriptor, flags: number): number {
  return modeOf(
    (d.rights & RIGHT['read']!) !== 0n,
    (d.rights & RIGHT['write']!) !== 0n,
    (flags & FDFLAG.append) !== 0,
  );
}
