/** Writing files so that a cut of power leaves the old content or the new, never a torn one. */
import { closeSync, fchmodSync, fsyncSync, openSync, renameSync, rmSync, writeSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';

/** Makes renames and new names in `dir` durable. */
export function fsyncDir(dir: string): void {
  const fd = openSync(dir, 'r');
  try {
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}

/**
 * Writes beside, fsyncs, renames over, fsyncs the directory. Throws the file system's error and leaves no debris; what a
 * process leaves that is killed on the way has a name of its own (`.<name>.tmp`), so that the next write takes it along.
 */
export function writeFileAtomic(path: string, data: string | Uint8Array, mode: number): void {
  const bytes = typeof data === 'string' ? Buffer.from(data) : data;
  const tmp = join(dirname(path), `.${basename(path)}.tmp`);
  rmSync(tmp, { force: true });
  const fd = openSync(tmp, 'wx', mode);
  try {
    try {
      fchmodSync(fd, mode);
      for (let at = 0; at < bytes.length; ) at += writeSync(fd, bytes, at);
      fsyncSync(fd);
    } finally {
      closeSync(fd);
    }
    renameSync(tmp, path);
  } catch (e) {
    rmSync(tmp, { force: true });
    // Calls on a descriptor do not say which file they failed at: a full disk would have no name.
    const error = e as NodeJS.ErrnoException;
    if (error.path === undefined) {
      error.path = path;
      error.message += ` '${path}'`;
    }
    throw e;
  }
  fsyncDir(dirname(path));
}
