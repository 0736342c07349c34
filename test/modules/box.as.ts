// @ts-nocheck: AssemblyScript, compiled by asc and not by tsc
/**
 * A tool box for tests: `box CMD ARG… [; CMD ARG…]…`. Each failing command prints `CMD: errno N` to stderr, and the
 * exit code is then 1. A path `@name/rest` is relative to the descriptor that `open name PATH` kept.
 */
import {
  args, environ, fd_close, fd_readdir, locate, now, path_create_directory, path_filestat_get, path_link, path_open,
  path_readlink, path_remove_directory, path_rename, path_symlink, path_unlink_file, Place, proc_exit, put, random_get,
  readSome, sleep, utf8, writeAll,
} from "./wasi.as";

const READ: u64 = 0x2 | 0x4 | 0x20 | 0x4000 | 0x200000;
const WRITE: u64 = 0x40 | 0x4;
const ALL: u64 = 0x1fffffff;
const kept = new Map<string, u32>();
let failed = false;
let command = "";

function check(errno: u32): bool {
  if (errno == 0) return true;
  failed = true;
  put(2, command + ": errno " + errno.toString() + "\n");
  return false;
}

function at(path: string): Place {
  if (!path.startsWith("@")) return locate(path);
  const slash = path.indexOf("/");
  const place = new Place();
  const name = path.substring(1, slash < 0 ? path.length : slash);
  place.fd = kept.has(name) ? kept.get(name) : 0xffffffff;
  place.path = slash < 0 ? "." : path.substring(slash + 1);
  place.bytes = utf8(place.path);
  return place;
}

/** Opens; the errno is in `errno` when the answer is 0xffffffff. */
let errno: u32 = 0;
function open(path: string, oflags: u32, rights: u64, fdflags: u32, follow: u32 = 1): u32 {
  const p = at(path);
  const out = memory.data(4);
  errno = path_open(p.fd, follow, p.at, p.length, oflags, rights, ALL, fdflags, out);
  return errno ? 0xffffffff : load<u32>(out);
}

function read(path: string, follow: u32 = 1): string | null {
  const fd = open(path, 0, READ, 0, follow);
  if (fd == 0xffffffff) return null;
  const buffer = heap.alloc(65536);
  let text = "";
  for (;;) {
    const n = readSome(fd, buffer, 65536);
    if (n < 0) {
      errno = -n;
      fd_close(fd);
      heap.free(buffer);
      return null;
    }
    if (n == 0) break;
    text += String.UTF8.decodeUnsafe(buffer, n);
    if (text.length > 1 << 20) break;
  }
  fd_close(fd);
  heap.free(buffer);
  return text;
}

function write(path: string, text: string, oflags: u32, fdflags: u32): void {
  const fd = open(path, oflags, WRITE, fdflags);
  if (fd == 0xffffffff) {
    check(errno);
    return;
  }
  const bytes = utf8(text);
  check(writeAll(fd, changetype<usize>(bytes), bytes.byteLength));
  fd_close(fd);
}

function list(path: string): void {
  const fd = open(path, 2, ALL, 0);
  if (fd == 0xffffffff) {
    check(errno);
    return;
  }
  const buffer = heap.alloc(4096);
  const used = memory.data(4);
  const names = new Array<string>();
  let cookie: u64 = 0;
  for (;;) {
    if (!check(fd_readdir(fd, buffer, 4096, cookie, used))) break;
    const n = load<u32>(used);
    let i: u32 = 0;
    while (i + 24 <= n) {
      const length = load<u32>(buffer + i, 16);
      if (i + 24 + length > n) break;
      cookie = load<u64>(buffer + i);
      const name = String.UTF8.decodeUnsafe(buffer + i + 24, length);
      if (name != "." && name != "..") names.push(name);
      i += 24 + length;
    }
    if (n < 4096) break;
  }
  fd_close(fd);
  names.sort();
  put(1, names.join(" ") + "\n");
}

function words(a: string[], from: i32): string {
  return a.slice(from).join(" ");
}

function run(a: string[]): void {
  const c = a[0];
  command = words(a, 0);
  if (c == "echo") put(1, words(a, 1) + "\n");
  else if (c == "printf") put(1, words(a, 1));
  else if (c == "eprintf") put(2, words(a, 1));
  else if (c == "lines") {
    const count = <i32>parseInt(a[1]);
    for (let i = 0; i < count; i++) put(1, "line " + i.toString() + "\n");
  } else if (c == "inspect") {
    for (let i = 1; i < a.length; i++) put(1, "arg:" + a[i] + "\n");
    const env = environ();
    for (let i = 0; i < env.length; i++) put(1, "env:" + env[i] + "\n");
  } else if (c == "err") put(2, words(a, 1) + "\n");
  else if (c == "args") put(1, args().join("|") + "\n");
  else if (c == "env") put(1, environ().join("\n") + "\n");
  else if (c == "exit") proc_exit(<u32>parseInt(a[1]));
  else if (c == "trap") unreachable();
  else if (c == "spin") while (true) {}
  else if (c == "sleep") sleep(<u64>parseInt(a[1]));
  else if (c == "now") put(1, now().toString() + "\n");
  else if (c == "random") {
    const buffer = heap.alloc(16);
    check(random_get(buffer, 16));
    put(1, load<u64>(buffer).toString() + "\n");
  } else if (c == "grow") {
    // Grows by MiB one after the other, touching each page, until that many or the end.
    const want = <i32>parseInt(a[1]);
    let got = 0;
    while (got < want) {
      const old = memory.grow(16);
      if (old < 0) break;
      for (let page = 0; page < 16; page++) {
        const start = (<usize>(old + page)) << 16;
        for (let x: usize = 0; x < 65536; x += 4096) store<u8>(start + x, 1);
      }
      got++;
    }
    put(1, "grew " + got.toString() + " MiB\n");
    if (got < want) failed = true;
  } else if (c == "flood") {
    const line = "x".repeat(<i32>parseInt(a[2])) + "\n";
    const count = <i32>parseInt(a[1]);
    for (let i = 0; i != count; i++) put(1, line);
  } else if (c == "count") {
    // `count N MS`: prints 1..N with a pause after each; N 0 goes on for ever.
    const count = <i32>parseInt(a[1]);
    for (let i = 1; count == 0 || i <= count; i++) {
      put(1, i.toString() + "\n");
      sleep(<u64>parseInt(a[2]));
    }
  } else if (c == "cat") {
    const text = read(a[1]);
    if (text === null) check(errno);
    else put(1, text);
  } else if (c == "cat-nofollow") {
    const text = read(a[1], 0);
    if (text === null) check(errno);
    else put(1, text);
  } else if (c == "head") {
    // `head PATH N`: reads N bytes (a device file has no end) and prints how many came.
    const fd = open(a[1], 0, READ, 0);
    if (fd == 0xffffffff) check(errno);
    else {
      const n = <usize>parseInt(a[2]);
      const got = readSome(fd, heap.alloc(n), n);
      if (got < 0) check(-got);
      else put(1, "read " + got.toString() + " bytes\n");
      fd_close(fd);
    }
  } else if (c == "put") write(a[1], a[2], 1 | 8, 0);
  else if (c == "write") write(a[1], words(a, 2) + "\n", 1 | 8, 0);
  else if (c == "append") write(a[1], words(a, 2) + "\n", 1, 1);
  else if (c == "ls") list(a[1]);
  else if (c == "mkdir") {
    const p = at(a[1]);
    check(path_create_directory(p.fd, p.at, p.length));
  } else if (c == "rmdir") {
    const p = at(a[1]);
    check(path_remove_directory(p.fd, p.at, p.length));
  } else if (c == "rm") {
    const p = at(a[1]);
    check(path_unlink_file(p.fd, p.at, p.length));
  } else if (c == "mv") check(rename(a[1], a[2]));
  else if (c == "ln") {
    const p = at(a[1]);
    const q = at(a[2]);
    check(path_link(p.fd, 0, p.at, p.length, q.fd, q.at, q.length));
  } else if (c == "symlink") check(symlink(a[1], a[2]));
  else if (c == "readlink") {
    const p = at(a[1]);
    const buffer = heap.alloc(4096);
    const used = memory.data(4);
    if (check(path_readlink(p.fd, p.at, p.length, buffer, 4096, used)))
      put(1, String.UTF8.decodeUnsafe(buffer, load<u32>(used)) + "\n");
  } else if (c == "stat") {
    const p = at(a[1]);
    const out = heap.alloc(64);
    if (check(path_filestat_get(p.fd, 1, p.at, p.length, out)))
      put(1, "type " + load<u8>(out, 16).toString() + " size " + load<u64>(out, 32).toString() + "\n");
  } else if (c == "open") {
    const fd = open(a[2], 2, ALL, 0);
    if (fd == 0xffffffff) check(errno);
    else kept.set(a[1], fd);
  } else if (c == "wait") {
    // Until the file exists.
    const p = at(a[1]);
    const out = heap.alloc(64);
    while (path_filestat_get(p.fd, 1, p.at, p.length, out) != 0) sleep(5);
  } else if (c == "swap") {
    // `swap A B N`: A and B trade places N times (races).
    const count = <i32>parseInt(a[3]);
    for (let i = 0; i < count; i++) {
      rename(a[1], a[1] + ".swap");
      rename(a[2], a[1]);
      rename(a[1] + ".swap", a[2]);
    }
  } else if (c == "tryread") {
    // `tryread PATH N SECRET`: reads N times; counts what came, and how often it held SECRET.
    const count = <i32>parseInt(a[2]);
    let good = 0;
    let bad = 0;
    for (let i = 0; i < count; i++) {
      const text = read(a[1]);
      if (text === null) continue;
      if (text.includes(a[3])) bad++;
      else good++;
    }
    put(1, "good " + good.toString() + " bad " + bad.toString() + "\n");
  } else {
    put(2, "box: unknown command " + c + "\n");
    failed = true;
  }
}

function rename(a: string, b: string): u32 {
  const p = at(a);
  const q = at(b);
  return path_rename(p.fd, p.at, p.length, q.fd, q.at, q.length);
}

function symlink(target: string, path: string): u32 {
  const t = utf8(target);
  const p = at(path);
  return path_symlink(changetype<usize>(t), t.byteLength, p.fd, p.at, p.length);
}

const all = args();
let one = new Array<string>();
for (let i = 1; i < all.length; i++) {
  if (all[i] == ";") {
    if (one.length) run(one);
    one = new Array<string>();
  } else one.push(all[i]);
}
if (one.length) run(one);
proc_exit(failed ? 1 : 0);
