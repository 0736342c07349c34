/** Reads container logs in the CRI format for `kubectl logs`: tail, since, follow, across rotations. */
import { closeSync, fstatSync, openSync, readSync, watch } from 'node:fs';
import { type FileHandle, open, readdir, stat } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import type { Clock } from '../../api/clock.js';
import type { PodLogOptions } from '../../api/wire/streams.js';

const BLOCK = 64 * 1024;
/** A line longer than this is no CRI log line; it is passed on in pieces instead of filling memory. */
const LINE_MAX = 1024 * 1024;
/** fs.watch may be missing or miss something (network file systems, no inotify watches left). */
const POLL_MS = 1000;
const NEWLINE = 10;
const SPACE = 32;

export interface LogSource {
  /** The current log file; rotated ones lie beside it as `<name>.<time>`, which sorts by age. */
  path: string;
  /** Whether more may come. */
  running(): boolean;
}

type Options = Omit<PodLogOptions, 'namespace' | 'pod' | 'uid' | 'container'> & {
  /** Only what was written to this one. */
  stream?: 'stdout' | 'stderr';
};

/** The rotated files of a log, oldest first; empty when the directory is not there. */
export async function rotatedFiles(path: string): Promise<string[]> {
  const prefix = `${basename(path)}.`;
  const names = await readdir(dirname(path)).catch(() => [] as string[]);
  return names
    .filter((n) => n.startsWith(prefix))
    .sort()
    .map((n) => join(dirname(path), n));
}

/** What `kubectl logs` prints. Ends at the end of the log, with `follow` when the container has ended, or when `signal` aborts. */
export async function* readLog(
  source: LogSource,
  options: Options,
  clock: Clock,
  signal: AbortSignal,
): AsyncGenerator<Uint8Array> {
  const format = new Formatter(options, clock);
  const changes = options.follow ? new Changes(dirname(source.path), clock, signal) : undefined;
  let current: FileHandle | undefined;
  let offset = 0;
  try {
    // Opened before the rotated files are listed: a rotation in between shows a file twice at worst, and not even
    // that, since the one that is open is left out of the list by its inode.
    current = await openIfThere(source.path);
    const files: FileHandle[] = [];
    try {
      const ino = current && (await current.stat()).ino;
      for (const path of await rotatedFiles(source.path)) {
        const f = await openIfThere(path);
        if (f && (await f.stat()).ino === ino) await f.close();
        else if (f) files.push(f);
      }
      if (current) files.push(current);
      // What is written from now on is for those who follow: a tail of two lines has two.
      const sizes = await Promise.all(files.map(async (f) => (await f.stat()).size));
      const start =
        options.tailLines === undefined
          ? { file: 0, offset: 0 }
          : await tailStart(files, sizes, Math.max(0, options.tailLines));
      for (let i = start.file; i < files.length; i++) {
        const f = files[i]!;
        let at = i === start.file ? start.offset : 0;
        for await (const block of blocks(f, at, sizes[i]!)) {
          if (signal.aborted) return;
          at += block.length;
          const out = format.add(block);
          if (out.length > 0) yield out;
          if (format.full) return;
        }
        if (f === current) offset = at;
      }
      // A tail that needs nothing of the current file follows from its end.
      if (current && start.file >= files.length) offset = sizes.at(-1)!;
    } finally {
      for (const f of files) if (f !== current) await f.close();
    }
    while (changes && !signal.aborted) {
      // Asked before reading: what is written before the end is then still read.
      const running = source.running();
      // Looked at before reading, too: a file that was replaced gets no more lines after this read.
      const old = current !== undefined && (await replaced(current, source.path));
      if (current)
        for await (const block of blocks(current, offset)) {
          offset += block.length;
          const out = format.add(block);
          if (out.length > 0) yield out;
          if (format.full || signal.aborted) return;
        }
      if (!current || old) {
        await current?.close();
        current = await openIfThere(source.path);
        offset = 0;
        if (current) continue;
      }
      if (!running) break;
      await changes.next();
    }
    const rest = format.end();
    if (rest.length > 0) yield rest;
  } finally {
    changes?.close();
    await current?.close();
  }
}

/** The last lines of a log without their CRI prefix, at most so many bytes: for termination messages. Empty when there is none. */
export function readTail(path: string, maxLines: number, maxBytes: number): string {
  let fd: number;
  try {
    fd = openSync(path, 'r');
  } catch {
    return '';
  }
  try {
    // Prefixes take room too.
    const room = maxBytes * 2 + maxLines * 64;
    const { size } = fstatSync(fd);
    const buffer = Buffer.alloc(Math.min(size, room));
    readSync(fd, buffer, 0, buffer.length, size - buffer.length);
    const lines = buffer.toString('utf8').split('\n');
    if (size > buffer.length) lines.shift();
    const text = lines
      .map((l) => /^\S+ (?:stdout|stderr) ([FP])\S* (.*)$/s.exec(l))
      .filter((m) => m !== null)
      .map((m) => m[2]! + (m[1] === 'F' ? '\n' : ''))
      .join('');
    return text
      .split('\n')
      .slice(-maxLines - 1)
      .join('\n')
      .slice(-maxBytes);
  } finally {
    closeSync(fd);
  }
}

async function openIfThere(path: string): Promise<FileHandle | undefined> {
  try {
    return await open(path, 'r');
  } catch (e) {
    if ((e as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw e;
  }
}

/** A new file has the log's name. While there is none, the runtime may still write to the one that was renamed. */
async function replaced(f: FileHandle, path: string): Promise<boolean> {
  const [there, own] = await Promise.all([stat(path).catch(() => undefined), f.stat()]);
  return there !== undefined && there.ino !== own.ino;
}

async function* blocks(f: FileHandle, from: number, to = Number.POSITIVE_INFINITY): AsyncGenerator<Buffer> {
  for (let at = from; at < to; ) {
    const length = Math.min(BLOCK, to - at);
    const { bytesRead, buffer } = await f.read(Buffer.allocUnsafe(length), 0, length, at);
    if (bytesRead === 0) return;
    at += bytesRead;
    yield buffer.subarray(0, bytesRead);
  }
}

/** Where the last n lines begin, read backwards from the end. */
async function tailStart(
  files: readonly FileHandle[],
  sizes: readonly number[],
  n: number,
): Promise<{ file: number; offset: number }> {
  if (n === 0) return { file: files.length, offset: 0 };
  let wanted = n;
  for (let i = files.length - 1; i >= 0; i--) {
    const f = files[i]!;
    const size = sizes[i]!;
    for (let end = size; end > 0; ) {
      const from = Math.max(0, end - BLOCK);
      const { buffer, bytesRead } = await f.read(Buffer.allocUnsafe(end - from), 0, end - from, from);
      for (let k = bytesRead - 1; k >= 0; k--) {
        // The newline that ends the file ends its last line, and begins none.
        if (buffer[k] !== NEWLINE || from + k === size - 1) continue;
        if (--wanted === 0) return { file: i, offset: from + k + 1 };
      }
      end = from;
    }
    if (size > 0 && --wanted === 0) return { file: i, offset: 0 };
  }
  return { file: 0, offset: 0 };
}

/** Turns CRI lines into what is printed. */
class Formatter {
  /** The byte limit is reached. */
  full = false;
  readonly #timestamps: boolean;
  readonly #stream: string | undefined;
  readonly #since: number;
  #left: number;
  #carry: Buffer[] = [];
  #carried = 0;
  /** By stream: the last piece was partial, so the next one continues its line. */
  readonly #open: Record<string, boolean> = {};

  constructor(options: Options, clock: Clock) {
    this.#timestamps = options.timestamps ?? false;
    this.#stream = options.stream;
    this.#left = options.limitBytes ?? Number.POSITIVE_INFINITY;
    const at = options.sinceTime
      ? Date.parse(options.sinceTime)
      : options.sinceSeconds !== undefined
        ? clock.now() - options.sinceSeconds * 1000
        : Number.NEGATIVE_INFINITY;
    this.#since = Number.isNaN(at) ? Number.NEGATIVE_INFINITY : at;
  }

  add(block: Buffer): Buffer {
    const out: Buffer[] = [];
    let from = 0;
    for (let end = block.indexOf(NEWLINE); end >= 0; end = block.indexOf(NEWLINE, from)) {
      this.#line(Buffer.concat([...this.#carry, block.subarray(from, end)]), out);
      this.#carry = [];
      this.#carried = 0;
      from = end + 1;
      if (this.full) return Buffer.concat(out);
    }
    if (from < block.length) {
      this.#carry.push(Buffer.from(block.subarray(from)));
      this.#carried += block.length - from;
    }
    if (this.#carried > LINE_MAX) {
      this.#put(Buffer.concat(this.#carry), out);
      this.#carry = [];
      this.#carried = 0;
    }
    return Buffer.concat(out);
  }

  /** A last line without its newline is one that is still being written, or was torn: shown if it makes sense. */
  end(): Buffer {
    const out: Buffer[] = [];
    if (this.#carried > 0) this.#line(Buffer.concat(this.#carry), out);
    this.#carry = [];
    this.#carried = 0;
    return Buffer.concat(out);
  }

  #line(line: Buffer, out: Buffer[]): void {
    const a = line.indexOf(SPACE);
    const b = line.indexOf(SPACE, a + 1);
    const c = line.indexOf(SPACE, b + 1);
    // Torn by a power cut: not a line of the format.
    if (a < 0 || b < 0) return;
    const time = line.toString('latin1', 0, a);
    const stream = line.toString('latin1', a + 1, b);
    const tag = line[b + 1] === 80 /* P */ ? 'P' : 'F';
    const at = Date.parse(time);
    if (Number.isNaN(at) || (stream !== 'stdout' && stream !== 'stderr')) return;
    const continues = this.#open[stream] ?? false;
    this.#open[stream] = tag === 'P';
    if (at < this.#since || (this.#stream !== undefined && stream !== this.#stream)) return;
    if (this.#timestamps && !continues) this.#put(Buffer.from(`${time} `), out);
    if (c >= 0) this.#put(line.subarray(c + 1), out);
    if (tag === 'F') this.#put(Buffer.from('\n'), out);
  }

  #put(bytes: Buffer, out: Buffer[]): void {
    const part = bytes.length > this.#left ? bytes.subarray(0, this.#left) : bytes;
    this.#left -= part.length;
    if (this.#left <= 0) this.full = true;
    if (part.length > 0) out.push(part);
  }
}

/** Waits for something to change in a directory: fs.watch where it works, and a look every second in any case. */
class Changes {
  readonly #clock: Clock;
  readonly #signal: AbortSignal;
  #wake: () => void = () => {};
  #pending = false;
  #watcher: { close(): void } | undefined;

  constructor(dir: string, clock: Clock, signal: AbortSignal) {
    this.#clock = clock;
    this.#signal = signal;
    try {
      const w = watch(dir, { persistent: false }, () => this.#changed());
      w.on('error', () => w.close());
      this.#watcher = w;
    } catch {
      // Polling alone, then.
    }
    signal.addEventListener('abort', this.#changed);
  }

  readonly #changed = () => {
    this.#pending = true;
    this.#wake();
  };

  async next(): Promise<void> {
    if (!this.#pending && !this.#signal.aborted)
      await new Promise<void>((resolve) => {
        const cancel = this.#clock.after(POLL_MS, resolve);
        this.#wake = () => {
          cancel();
          resolve();
        };
      });
    this.#pending = false;
    this.#wake = () => {};
  }

  close(): void {
    this.#watcher?.close();
    this.#signal.removeEventListener('abort', this.#changed);
  }
}
