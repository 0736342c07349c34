/**
 * What the examples need of WASI preview 1 (https://github.com/WebAssembly/WASI/blob/main/legacy/preview1/docs.md):
 * environment, files, clock, log. AssemblyScript has no WASI library of its own, so each import is declared by hand:
 * `@external` names the module and function that the runtime provides.
 */
// @ts-nocheck: AssemblyScript, compiled by asc and not by tsc

@external("wasi_snapshot_preview1", "environ_sizes_get")
declare function environ_sizes_get(count: usize, size: usize): u32;
@external("wasi_snapshot_preview1", "environ_get")
declare function environ_get(pointers: usize, strings: usize): u32;
@external("wasi_snapshot_preview1", "fd_prestat_get")
declare function fd_prestat_get(fd: u32, out: usize): u32;
@external("wasi_snapshot_preview1", "fd_prestat_dir_name")
declare function fd_prestat_dir_name(fd: u32, name: usize, length: usize): u32;
@external("wasi_snapshot_preview1", "path_open")
declare function path_open(
  fd: u32, lookup: u32, path: usize, length: usize, create: u32, rights: u64, inherited: u64, flags: u32, out: usize,
): u32;
@external("wasi_snapshot_preview1", "path_rename")
declare function path_rename(fd: u32, from: usize, length: usize, toFd: u32, to: usize, toLength: usize): u32;
@external("wasi_snapshot_preview1", "fd_read")
declare function fd_read(fd: u32, vectors: usize, count: usize, done: usize): u32;
@external("wasi_snapshot_preview1", "fd_write")
declare function fd_write(fd: u32, vectors: usize, count: usize, done: usize): u32;
@external("wasi_snapshot_preview1", "fd_close")
declare function fd_close(fd: u32): u32;
@external("wasi_snapshot_preview1", "clock_time_get")
declare function clock_time_get(id: u32, precision: u64, out: usize): u32;
@external("wasi_snapshot_preview1", "poll_oneoff")
declare function poll_oneoff(subscriptions: usize, events: usize, count: usize, out: usize): u32;
@external("wasi_snapshot_preview1", "proc_exit")
declare function proc_exit(code: u32): void;

const STDOUT: u32 = 1;
const STDERR: u32 = 2;
/** Rights of preview 1 (`__wasi_rights_t`). */
const RIGHT_READ: u64 = 1 << 1;
const RIGHT_WRITE: u64 = 1 << 6;
/** `oflags` and `fdflags` of path_open. */
const CREATE: u32 = 1;
const TRUNCATE: u32 = 8;
const APPEND: u32 = 1;

/** What happens when AssemblyScript's own checks fail: a trap, which ends the container with a non-zero code. */
export function trap(_message: usize, _file: usize, _line: u32, _column: u32): void {
  unreachable();
}

/** One line into the container's log. */
export function print(line: string): void {
  writeAll(STDOUT, line + "\n");
}

/** Says why on stderr and ends the container with code 1: `kubectl logs` and `kubectl describe pod` show it. */
export function fail(why: string): void {
  writeAll(STDERR, why + "\n");
  proc_exit(1);
}

/** An environment variable, or `otherwise`. */
export function env(name: string, otherwise: string): string {
  const sizes = memory.data(8);
  environ_sizes_get(sizes, sizes + 4);
  const count = load<u32>(sizes);
  const pointers = heap.alloc(4 * count + 1);
  const strings = heap.alloc(load<u32>(sizes, 4) + 1);
  environ_get(pointers, strings);
  let value = otherwise;
  for (let i: u32 = 0; i < count; i++) {
    const start = <usize>load<u32>(pointers + 4 * i);
    let end = start;
    while (load<u8>(end) != 0) end++;
    const variable = String.UTF8.decodeUnsafe(start, end - start);
    if (variable.startsWith(name + "=")) value = variable.substring(name.length + 1);
  }
  heap.free(strings);
  heap.free(pointers);
  return value;
}

/** Milliseconds since 1970. */
export function now(): u64 {
  const out = memory.data(8);
  clock_time_get(0, 1000000, out);
  return load<u64>(out) / 1000000;
}

/** Waits without using the CPU. */
export function sleep(ms: u64): void {
  const subscription = memory.data(48);
  const event = memory.data(32);
  const count = memory.data(4);
  memory.fill(subscription, 0, 48);
  // Byte 8: wake by clock; 16: the monotonic one; 24: after so many nanoseconds.
  store<u32>(subscription, 1, 16);
  store<u64>(subscription, ms * 1000000, 24);
  poll_oneoff(subscription, event, 1, count);
}

/** At most `max` bytes from the start of a file or device; null when it cannot be opened or read. */
export function readBytes(path: string, max: i32): Uint8Array | null {
  const fd = open(path, 0, RIGHT_READ, 0);
  if (fd < 0) return null;
  const bytes = new Uint8Array(max);
  const vector = memory.data(12);
  let length = 0;
  while (length < max) {
    store<u32>(vector, <u32>(bytes.dataStart + length));
    store<u32>(vector, max - length, 4);
    const failed = fd_read(fd, vector, 1, vector + 8);
    const n = load<i32>(vector, 8);
    if (failed != 0 || n == 0) break;
    length += n;
  }
  fd_close(fd);
  return bytes.slice(0, length);
}

/** A text file of at most 1 MiB, or null. */
export function readText(path: string): string | null {
  const bytes = readBytes(path, 1 << 20);
  return bytes ? String.UTF8.decodeUnsafe(bytes.dataStart, bytes.length) : null;
}

/** Adds to the end of a file, which is created when it is not there. False when that is not allowed. */
export function append(path: string, text: string): bool {
  const fd = open(path, CREATE, RIGHT_WRITE, APPEND);
  if (fd < 0) return false;
  const done = writeAll(fd, text);
  fd_close(fd);
  return done;
}

/** Replaces a file in one step: readers see the old one or the new one, never half of it. */
export function replace(path: string, text: string): bool {
  const part = path + ".part";
  const fd = open(part, CREATE | TRUNCATE, RIGHT_WRITE, 0);
  if (fd < 0) return false;
  const written = writeAll(fd, text);
  fd_close(fd);
  const from = locate(part);
  const to = locate(path);
  return written && path_rename(from.fd, from.start, from.length, to.fd, to.start, to.length) == 0;
}

function writeAll(fd: u32, text: string): bool {
  const bytes = Uint8Array.wrap(String.UTF8.encode(text));
  const vector = memory.data(12);
  let done = 0;
  while (done < bytes.length) {
    store<u32>(vector, <u32>(bytes.dataStart + done));
    store<u32>(vector, bytes.length - done, 4);
    if (fd_write(fd, vector, 1, vector + 8) != 0) return false;
    done += load<i32>(vector, 8);
  }
  return true;
}

/** A descriptor, or -1. */
function open(path: string, create: u32, rights: u64, flags: u32): i32 {
  const place = locate(path);
  const out = memory.data(4);
  const failed = path_open(place.fd, 1, place.start, place.length, create, rights, rights, flags, out);
  return failed == 0 ? load<i32>(out) : -1;
}

/** A preopened directory (that is how a pod's volume mounts appear) and the rest of the path below it. */
class Place {
  constructor(
    public fd: u32,
    public bytes: ArrayBuffer,
  ) {}
  get start(): usize {
    return changetype<usize>(this.bytes);
  }
  get length(): usize {
    return this.bytes.byteLength;
  }
}

function locate(path: string): Place {
  const stat = memory.data(8);
  let best: u32 = 0xffffffff;
  let rest = "";
  let longest = -1;
  // Descriptors 0, 1 and 2 are stdin, stdout and stderr; preopened directories follow.
  for (let fd: u32 = 3; fd_prestat_get(fd, stat) == 0; fd++) {
    const length = load<u32>(stat, 4);
    const name = heap.alloc(length);
    fd_prestat_dir_name(fd, name, length);
    const dir = String.UTF8.decodeUnsafe(name, length);
    heap.free(name);
    if (path.startsWith(dir + "/") && <i32>length > longest) {
      longest = <i32>length;
      best = fd;
      rest = path.substring(dir.length + 1);
    }
  }
  return new Place(best, String.UTF8.encode(rest));
}

/**
 * For components (`jco new`): the preview 1 adapter takes its memory here. Without this export it grows the memory by
 * itself, and AssemblyScript's allocator believes that all of the memory is its own.
 */
export function cabi_realloc(old: usize, oldSize: usize, align: usize, size: usize): usize {
  const at = (heap.alloc(size + align) + align - 1) & ~(align - 1);
  if (old) memory.copy(at, old, oldSize);
  return at;
}
