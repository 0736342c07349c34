import type { FileHandle } from 'node:fs/promises';
import { crc32 } from 'node:zlib';
// NeDB's own (de)serialiser, so that the file is what NeDB writes and reads.
import model from '@seald-io/nedb/lib/model.js';
import type { Change, StoredRecord } from './driver.js';

/**
 * The data file: NeDB's format, one JSON document per line, the last line of an `_id` wins, `$$deleted` ends it. A plain
 * NeDB `Datastore` opens it. Values are JSON text inside a string, because NeDB allows neither dots nor dollars in field
 * names and Kubernetes' labels are full of them. On top of NeDB's format:
 * - The first line names the format's version.
 * - Every batch ends with a line `#commit`: the revision reached (so that it survives deletes), the number of lines and
 *   bytes of the batch, and their CRC-32. A batch without a right `#commit` line was never acknowledged.
 */
export const FORMAT = 1;
const HEADER_ID = '#coxswain';
const COMMIT_ID = '#commit';
const COMMIT_START = Buffer.from(`{"_id":"${COMMIT_ID}"`);
const NEWLINE = 0x0a;
const CHUNK = 1 << 20;
/** Far above any object that the API takes (3 MiB, escaped twice). */
const LINE_MAX = 64 << 20;

export const HEADER = Buffer.from(`${model.serialize({ _id: HEADER_ID, format: FORMAT })}\n`);

interface CommitLine {
  /** Revision. */
  r: number;
  lines: number;
  bytes: number;
  crc: string;
}

/** Covers the commit line's own numbers too. */
const checksum = (crcOfLines: number, r: number, lines: number, bytes: number): string =>
  crc32(`${r}/${lines}/${bytes}`, crcOfLines).toString(16).padStart(8, '0');

export function commitLine(revision: number, lines: number, batch: Buffer): Buffer {
  const crc = checksum(crc32(batch), revision, lines, batch.length);
  const doc = { _id: COMMIT_ID, r: revision, lines, bytes: batch.length, crc };
  return Buffer.from(`${model.serialize(doc)}\n`);
}

/** What NeDB's serialiser makes of such a document, without its look at every field. */
const changeText = (c: Change): string =>
  JSON.stringify(
    c.type === 'put'
      ? { _id: c.key, r: c.revision, c: c.createRevision, v: c.json }
      : { $$deleted: true, _id: c.key },
  );

/** The lines of a batch, its commit line last; and the length in bytes of each line of a change. */
export function batchLines(batch: readonly Change[]): { bytes: Buffer; lengths: number[] } {
  const texts = batch.map(changeText);
  const lengths = texts.map((t) => Buffer.byteLength(t) + 1);
  const body = Buffer.allocUnsafe(lengths.reduce((sum, n) => sum + n, 0));
  let at = 0;
  for (const [i, text] of texts.entries()) {
    body.write(text, at);
    at += lengths[i]!;
    body[at - 1] = NEWLINE;
  }
  return {
    bytes: Buffer.concat([body, commitLine(batch.at(-1)!.revision, lengths.length, body)]),
    lengths,
  };
}

/** Where a live record's line is in the file, in bytes. */
export interface Place {
  readonly at: number;
  readonly bytes: number;
}

export interface Scan {
  records: Map<string, StoredRecord>;
  live: Map<string, Place>;
  revision: number;
  /** Up to here the file is whole batches; what follows (`size - good`) was never acknowledged. */
  good: number;
  size: number;
}

/** The file is not what it should be. `newer`: its format is of a later version. */
export class BadFile extends Error {
  constructor(
    readonly why: string,
    readonly newer = false,
  ) {
    super(why);
  }
}

function parseCommit(line: Buffer): CommitLine | undefined {
  try {
    const doc = JSON.parse(line.toString()) as CommitLine;
    return [doc.r, doc.lines, doc.bytes].every((n) => Number.isSafeInteger(n) && n >= 0) ? doc : undefined;
  } catch {
    return undefined;
  }
}

function readHeader(line: Buffer): void {
  let doc: { _id?: unknown; format?: unknown };
  try {
    doc = JSON.parse(line.toString()) as typeof doc;
  } catch {
    throw new BadFile('it does not start as a Coxswain store');
  }
  if (doc?._id !== HEADER_ID || typeof doc.format !== 'number' || doc.format < FORMAT) {
    throw new BadFile('it does not start as a Coxswain store');
  }
  if (doc.format > FORMAT) {
    throw new BadFile(`its format ${doc.format} is newer than this version's ${FORMAT}`, true);
  }
}

/** Is there, ending at `at`, exactly the batch that the commit line speaks of? */
async function batchBefore(file: FileHandle, at: number, c: CommitLine): Promise<boolean> {
  if (c.bytes > at) return false;
  let crc = 0;
  const chunk = Buffer.alloc(Math.min(CHUNK, c.bytes));
  for (let done = 0; done < c.bytes; ) {
    const want = Math.min(chunk.length, c.bytes - done);
    const { bytesRead } = await file.read(chunk, 0, want, at - c.bytes + done);
    if (bytesRead === 0) return false;
    crc = crc32(chunk.subarray(0, bytesRead), crc);
    done += bytesRead;
  }
  return checksum(crc, c.r, c.lines, c.bytes) === c.crc;
}

/**
 * Reads the whole file. The writer appends one batch, syncs, acknowledges, and only then appends the next; so after a
 * crash or a power cut what is not in order is at most one batch at the end, and is left out (`good < size`). Anything
 * else that is not in order had been acknowledged and went bad later: throws {@link BadFile} rather than pass over it.
 */
export async function scan(file: FileHandle): Promise<Scan> {
  const { size } = await file.stat();
  const result: Scan = { records: new Map(), live: new Map(), revision: 0, good: 0, size };
  let pending: { line: Buffer; at: number }[] = [];
  let crc = 0;
  /** Set once something is not in order: where that batch starts. */
  let broken: number | undefined;
  let commitsSinceBroken = 0;

  const onCommit = async (line: Buffer, at: number): Promise<void> => {
    const c = parseCommit(line);
    const bytes = at - result.good;
    if (
      broken === undefined &&
      c &&
      c.lines === pending.length &&
      c.bytes === bytes &&
      c.crc === checksum(crc, c.r, c.lines, c.bytes)
    ) {
      if (c.r < result.revision) throw new BadFile(`at byte ${at} its revision goes back to ${c.r}`);
      for (const p of pending) apply(result, p.line, p.at);
      result.revision = c.r;
      result.good = at + line.length + 1;
      pending = [];
      crc = 0;
      return;
    }
    broken ??= result.good;
    pending = [];
    if (!c) return;
    commitsSinceBroken++;
    if (commitsSinceBroken > 1 || (await batchBefore(file, at, c))) {
      throw new BadFile(`it is damaged after byte ${broken}, with more data behind the damage`);
    }
  };

  const onLine = async (line: Buffer, at: number): Promise<void> => {
    if (at === 0) {
      readHeader(line);
      result.good = line.length + 1;
    } else if (line.subarray(0, COMMIT_START.length).equals(COMMIT_START)) {
      await onCommit(line, at);
    } else if (broken === undefined) {
      // A copy: the chunk that it is a part of is used again.
      const copy = Buffer.from(line);
      pending.push({ line: copy, at });
      crc = crc32('\n', crc32(copy, crc));
    }
  };

  const chunk = Buffer.allocUnsafe(CHUNK);
  let carry: Buffer[] = [];
  let carried = 0;
  for (let at = 0; at < size; ) {
    const { bytesRead } = await file.read(chunk, 0, CHUNK, at);
    if (bytesRead === 0) break;
    let from = 0;
    for (let to = chunk.indexOf(NEWLINE); to >= 0 && to < bytesRead; to = chunk.indexOf(NEWLINE, from)) {
      const piece = chunk.subarray(from, to);
      const line = carried > 0 ? Buffer.concat([...carry, piece]) : piece;
      await onLine(line, at + to - line.length);
      carry = [];
      carried = 0;
      from = to + 1;
    }
    if (from < bytesRead) {
      carry.push(Buffer.from(chunk.subarray(from, bytesRead)));
      carried += bytesRead - from;
    }
    if (carried > LINE_MAX) throw new BadFile(`a line near byte ${at} is longer than ${LINE_MAX} bytes`);
    at += bytesRead;
  }
  if (result.good === 0)
    throw new BadFile(size === 0 ? 'it is empty' : 'it does not start as a Coxswain store');
  return result;
}

function apply(into: Scan, line: Buffer, at: number): void {
  let doc: { _id: string; $$deleted?: boolean; r: number; c: number; v: string };
  try {
    doc = model.deserialize(line.toString()) as typeof doc;
  } catch (e) {
    throw new BadFile(`the line at byte ${at} is not JSON: ${(e as Error).message}`);
  }
  const { _id: key } = doc;
  if (doc.$$deleted) {
    into.records.delete(key);
    into.live.delete(key);
  } else {
    into.records.set(key, { key, json: doc.v, revision: doc.r, createRevision: doc.c });
    into.live.set(key, { at, bytes: line.length + 1 });
  }
}
