import { spawnSync } from 'node:child_process';
import { closeSync, ftruncateSync, openSync, readFileSync, writeSync } from 'node:fs';

/** Another process has this data directory open. */
export class DataDirLocked extends Error {
  constructor(
    readonly dir: string,
    readonly pid: number,
  ) {
    super(
      `the data directory ${dir} is in use by ${pid ? `process ${pid}` : 'another process'}: ` +
        'stop that one first, or choose another --data-dir',
    );
    this.name = 'DataDirLocked';
  }
}

/**
 * Takes an exclusive lock on `file` for the life of this process or until the returned function is called. It is
 * flock(2), so the kernel gives it back however the holder ends, and no stale lock can be left. Node has no call for it:
 * util-linux's (or busybox's) `flock` locks the open file that it inherits, and the lock stays with that open file after
 * `flock` itself has ended. The file is never deleted, for a deleted lock file would be two locks.
 * `dir` is what the lock guards, for the error. Throws DataDirLocked with the holder's pid, which the file carries.
 */
export function lockFile(file: string, dir: string): () => void {
  const fd = openSync(file, 'a+', 0o600);
  try {
    const { status, error } = spawnSync('flock', ['-n', '3'], { stdio: ['ignore', 'ignore', 'ignore', fd] });
    if (error) {
      throw new Error(
        `cannot lock ${file}: the command "flock" (package util-linux) does not run: ${error.message}`,
      );
    }
    if (status !== 0) throw new DataDirLocked(dir, Number.parseInt(readFileSync(file, 'utf8'), 10) || 0);
    // Not data: a lost pid costs only a less helpful message, so a full disk must not keep the hub from starting.
    try {
      ftruncateSync(fd);
      writeSync(fd, `${process.pid}\n`);
    } catch {}
    return () => closeSync(fd);
  } catch (e) {
    closeSync(fd);
    throw e;
  }
}
