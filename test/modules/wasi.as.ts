/** The part of wasi_snapshot_preview1 that the test modules use, declared by hand: AssemblyScript ships none. */
// @ts-nocheck: AssemblyScript, compiled by asc and not by tsc

@external("wasi_snapshot_preview1", "args_sizes_get")
declare function args_sizes_get(count: usize, size: usize): u32;
@external("wasi_snapshot_preview1", "args_get")
declare function args_get(argv: usize, buf: usize): u32;
@external("wasi_snapshot_preview1", "environ_sizes_get")
declare function environ_sizes_get(count: usize, size: usize): u32;
@external("wasi_snapshot_preview1", "environ_get")
declare function environ_get(environ: usize, buf: usize): u32;
@external("wasi_snapshot_preview1", "fd_write")
export declare function fd_write(fd: u32, iovs: usize, count: usize, written: usize): u32;
@external("wasi_snapshot_preview1", "fd_read")
export declare function fd_read(fd: u32, iovs: usize, count: usize, read: usize): u32;
@external("wasi_snapshot_preview1", "fd_close")
export declare function fd_close(fd: u32): u32;
@external("wasi_snapshot_preview1", "fd_readdir")
export declare function fd_readdir(fd: u32, buf: usize, len: usize, cookie: u64, used: usize): u32;
@external("wasi_snapshot_preview1", "fd_prestat_get")
declare function fd_prestat_get(fd: u32, out: usize): u32;
@external("wasi_snapshot_preview1", "fd_prestat_dir_name")
declare function fd_prestat_dir_name(fd: u32, path: usize, len: usize): u32;
@external("wasi_snapshot_preview1", "path_open")
export declare function path_open(
  fd: u32,
  dirflags: u32,
  path: usize,
  len: usize,
  oflags: u32,
  rights: u64,
  inheriting: u64,
  fdflags: u32,
  out: usize,
): u32;
@external("wasi_snapshot_preview1", "path_create_directory")
export declare function path_create_directory(fd: u32, path: usize, len: usize): u32;
@external("wasi_snapshot_preview1", "path_remove_directory")
export declare function path_remove_directory(fd: u32, path: usize, len: usize): u32;
@external("wasi_snapshot_preview1", "path_unlink_file")
export declare function path_unlink_file(fd: u32, path: usize, len: usize): u32;
@external("wasi_snapshot_preview1", "path_symlink")
export declare function path_symlink(target: usize, tlen: usize, fd: u32, path: usize, len: usize): u32;
@external("wasi_snapshot_preview1", "path_readlink")
export declare function path_readlink(fd: u32, path: usize, len: usize, buf: usize, blen: usize, used: usize): u32;
@external("wasi_snapshot_preview1", "path_rename")
export declare function path_rename(fd: u32, a: usize, alen: usize, fd2: u32, b: usize, blen: usize): u32;
@external("wasi_snapshot_preview1", "path_link")
export declare function path_link(fd: u32, flags: u32, a: usize, alen: usize, fd2: u32, b: usize, blen: usize): u32;
@external("wasi_snapshot_preview1", "path_filestat_get")
export declare function path_filestat_get(fd: u32, flags: u32, path: usize, len: usize, out: usize): u32;
@external("wasi_snapshot_preview1", "clock_time_get")
declare function clock_time_get(id: u32, precision: u64, out: usize): u32;
@external("wasi_snapshot_preview1", "poll_oneoff")
declare function poll_oneoff(subs: usize, events: usize, count: usize, out: usize): u32;
@external("wasi_snapshot_preview1", "random_get")
export declare function random_get(buf: usize, len: usize): u32;
@external("wasi_snapshot_preview1", "proc_exit")
export declare function proc_exit(code: u32): void;

/** asc's abort hook: says why and becomes a trap, without importing `env.abort`. */
export function abortTrap(message: string | null, file: string | null, line: u32, column: u32): void {
  put(2, "abort: " + (message ? message! : "") + " at " + (file ? file! : "") + ":" + line.toString() + ":" + column.toString() + "\n");
  unreachable();
}

/**
 * The preview 1 adapter of components takes its memory here. Without this export it grows the memory by itself, and
 * AssemblyScript's allocator believes that all of the memory is its own.
 */
export function cabi_realloc(old: usize, oldSize: usize, align: usize, size: usize): usize {
  const at = (heap.alloc(size + align) + align - 1) & ~(align - 1);
  if (old) memory.copy(at, old, oldSize);
  return at;
}

/** Bytes of a string, UTF-8. */
export function utf8(s: string): ArrayBuffer {
  return String.UTF8.encode(s);
}

/** Writes all of `s` to a descriptor. */
export function put(fd: u32, s: string): void {
  const bytes = utf8(s);
  writeAll(fd, changetype<usize>(bytes), bytes.byteLength);
}

/** Writes all bytes; answers the errno. */
export function writeAll(fd: u32, at: usize, length: usize): u32 {
  const iov = memory.data(16);
  while (length > 0) {
    store<u32>(iov, <u32>at);
    store<u32>(iov, <u32>length, 4);
    const e = fd_write(fd, iov, 1, iov + 8);
    if (e) return e;
    const n = load<u32>(iov, 8);
    at += n;
    length -= n;
  }
  return 0;
}

/** Reads up to `max` bytes; -errno on failure, else the number read. */
export function readSome(fd: u32, at: usize, max: usize): i32 {
  const iov = memory.data(16);
  store<u32>(iov, <u32>at);
  store<u32>(iov, <u32>max, 4);
  const e = fd_read(fd, iov, 1, iov + 8);
  return e ? -(<i32>e) : load<u32>(iov, 8);
}

function strings(count: u32, table: usize): string[] {
  const out = new Array<string>();
  for (let i: u32 = 0; i < count; i++) {
    const at = <usize>load<u32>(table + i * 4);
    let end = at;
    while (load<u8>(end)) end++;
    out.push(String.UTF8.decodeUnsafe(at, end - at));
  }
  return out;
}

/** The command line, program name first. */
export function args(): string[] {
  const sizes = memory.data(8);
  args_sizes_get(sizes, sizes + 4);
  const count = load<u32>(sizes);
  const table = heap.alloc(count * 4 + 4);
  args_get(table, heap.alloc(load<u32>(sizes, 4) + 1));
  return strings(count, table);
}

/** The environment as NAME=value lines. */
export function environ(): string[] {
  const sizes = memory.data(8);
  environ_sizes_get(sizes, sizes + 4);
  const count = load<u32>(sizes);
  const table = heap.alloc(count * 4 + 4);
  environ_get(table, heap.alloc(load<u32>(sizes, 4) + 1));
  return strings(count, table);
}

/** Wall clock, nanoseconds since the epoch. */
export function now(): u64 {
  const out = memory.data(8);
  clock_time_get(0, 1, out);
  return load<u64>(out);
}

/** Sleeps through poll_oneoff on the monotonic clock. */
export function sleep(ms: u64): void {
  const sub = memory.data(48);
  const event = memory.data(32);
  const n = memory.data(4);
  memory.fill(sub, 0, 48);
  store<u32>(sub, 1, 16);
  store<u64>(sub, ms * 1000000, 24);
  poll_oneoff(sub, event, 1, n);
}

/** A place: a preopened (or open) directory and the path below it. */
export class Place {
  fd: u32 = 0;
  path: string = "";
  bytes: ArrayBuffer = new ArrayBuffer(0);
  get at(): usize {
    return changetype<usize>(this.bytes);
  }
  get length(): usize {
    return this.bytes.byteLength;
  }
}

/** As wasi-libc does it: the preopen with the longest matching prefix. fd 0xffffffff when none matches. */
export function locate(path: string): Place {
  const out = memory.data(8);
  const place = new Place();
  place.fd = 0xffffffff;
  let best = -1;
  for (let fd: u32 = 3; fd_prestat_get(fd, out) == 0; fd++) {
    const length = load<u32>(out, 4);
    const name = heap.alloc(length);
    fd_prestat_dir_name(fd, name, length);
    const prefix = String.UTF8.decodeUnsafe(name, length);
    heap.free(name);
    const all = prefix == "/" || prefix == ".";
    const fits = all || path == prefix || path.startsWith(prefix + "/");
    if (!fits || (prefix != "." && !path.startsWith("/")) || <i32>length <= best) continue;
    best = length;
    place.fd = fd;
    place.path = path.substring(prefix == "." ? 0 : all ? 1 : prefix.length + 1);
  }
  if (place.path.length == 0) place.path = ".";
  place.bytes = utf8(place.path);
  return place;
}
