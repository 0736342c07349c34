import {
  closeSync,
  constants,
  fstatSync,
  ftruncateSync,
  openSync,
  readSync,
  statSync,
  writeSync,
} from 'node:fs';

const NEWLINE = 10;
/** The CRI's usual bound of one entry; longer lines are split into `P` entries. */
const MAX_ENTRY = 16 * 1024;
/** How often, in bytes and milliseconds, the file's name is checked for having been rotated away. */
const CHECK_BYTES = 64 * 1024;
const CHECK_MS = 50;

/**
 * Writes stdout and stderr to one file in the CRI log format, synchronously, so that a killed guest loses no line.
 * The agent rotates by renaming and making a new file under the old name; if nobody does, the file is cut to its last
 * quarter at `maxBytes`, so that a flood cannot fill the disk. Failures to write (full disk) are the log's loss, never the guest's.
 */
export class CriLog {
  #fd = -1;
  #size = 0;
  #unchecked = 0;
  #checkedAt = 0;
  #held: Record<Stream, Uint8Array[]> = { stdout: [], stderr: [] };
  #heldBytes: Record<Stream, number> = { stdout: 0, stderr: 0 };

  constructor(
    private readonly path: string,
    private readonly maxBytes: number,
  ) {}

  write(stream: Stream, bytes: Uint8Array): void {
    let from = 0;
    while (from < bytes.length) {
      const newline = bytes.indexOf(NEWLINE, from);
      const room = MAX_ENTRY - this.#heldBytes[stream];
      const end = newline < 0 ? bytes.length : newline;
      if (end - from > room) {
        this.#hold(stream, bytes.subarray(from, from + room));
        this.#emit(stream, 'P');
        from += room;
        continue;
      }
      this.#hold(stream, bytes.subarray(from, end));
      if (newline >= 0) this.#emit(stream, 'F');
      from = end + 1;
    }
  }

  /** Shows what has no newline yet: as a part when the guest is about to sleep, as a line when it ended. */
  flush(tag: 'P' | 'F'): void {
    for (const stream of ['stdout', 'stderr'] as const)
      if (this.#heldBytes[stream] > 0) this.#emit(stream, tag);
  }

  #hold(stream: Stream, bytes: Uint8Array): void {
    if (bytes.length === 0) return;
    // A copy: the guest's memory changes under us.
    this.#held[stream].push(bytes.slice());
    this.#heldBytes[stream] += bytes.length;
  }

  #emit(stream: Stream, tag: 'P' | 'F'): void {
    const head = Buffer.from(`${new Date().toISOString().slice(0, -1)}000000Z ${stream} ${tag} `);
    const entry = Buffer.concat([head, ...this.#held[stream], NEWLINE_BYTES]);
    this.#held[stream] = [];
    this.#heldBytes[stream] = 0;
    try {
      this.#open(entry.length);
      for (let at = 0; at < entry.length; ) at += writeSync(this.#fd, entry, at);
      this.#size += entry.length;
    } catch {
      // Nowhere to tell.
    }
  }

  #open(next: number): void {
    const now = performance.now();
    this.#unchecked += next;
    if (this.#fd >= 0 && (this.#unchecked > CHECK_BYTES || now - this.#checkedAt > CHECK_MS)) {
      this.#unchecked = 0;
      this.#checkedAt = now;
      const there = statSync(this.path, { throwIfNoEntry: false });
      const own = fstatSync(this.#fd);
      // Absent means: renamed, and the new one is not made yet. Go on with the old one until it is.
      if (there !== undefined && there.ino !== own.ino) {
        closeSync(this.#fd);
        this.#fd = -1;
      } else this.#size = own.size;
    }
    if (this.#fd < 0) {
      this.#fd = openSync(this.path, constants.O_RDWR | constants.O_APPEND | constants.O_NOFOLLOW);
      this.#size = fstatSync(this.#fd).size;
    }
    if (this.#size + next > this.maxBytes) this.#cut();
  }

  /** Keeps the last quarter, from a line's start on. */
  #cut(): void {
    const keep = Buffer.allocUnsafe(Math.floor(this.maxBytes / 4));
    const got = readSync(this.#fd, keep, 0, keep.length, Math.max(0, this.#size - keep.length));
    ftruncateSync(this.#fd, 0);
    const line = keep.subarray(0, got).indexOf(NEWLINE) + 1;
    for (let at = line; at < got; ) at += writeSync(this.#fd, keep, at, got - at);
    this.#size = got - line;
  }
}

export type Stream = 'stdout' | 'stderr';
const NEWLINE_BYTES = new Uint8Array([NEWLINE]);
