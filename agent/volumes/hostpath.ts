/** hostPath: each `type` checked, with the kubelet's error texts (pkg/volume/hostpath). */
import { lstatSync, mkdirSync, type Stats, statSync, writeFileSync } from 'node:fs';
import { VolumeError } from './payload.js';

interface HostPathType {
  /** Makes it when nothing is there. */
  make?: (path: string) => void;
  is: (s: Stats) => boolean;
  called: string;
}

const directory = { is: (s: Stats) => s.isDirectory(), called: 'a directory' };
const file = { is: (s: Stats) => s.isFile(), called: 'a file' };
const TYPES: Record<string, HostPathType> = {
  // The runtime would make it a directory, as Docker did; made here so that every runtime behaves the same.
  '': { make: (p) => mkdirSync(p, { recursive: true, mode: 0o755 }), is: () => true, called: '' },
  DirectoryOrCreate: { ...directory, make: (p) => mkdirSync(p, { recursive: true, mode: 0o755 }) },
  Directory: directory,
  FileOrCreate: { ...file, make: (p) => writeFileSync(p, '', { mode: 0o644, flag: 'wx' }) },
  File: file,
  Socket: { is: (s) => s.isSocket(), called: 'a socket file' },
  CharDevice: { is: (s) => s.isCharacterDevice(), called: 'a character device' },
  BlockDevice: { is: (s) => s.isBlockDevice(), called: 'a block device' },
};

/** Throws VolumeError when the path is not what `type` says; makes it where the type allows. */
export function checkHostPath(path: string, type = ''): void {
  const t = TYPES[type];
  if (!t) throw new VolumeError(`${type} is an invalid volume type`);
  if (path.split('/').includes('..')) throw new VolumeError(`hostPath ${path} must not contain '..'`);
  let s = look(path);
  if (!s && t.make)
    try {
      t.make(path);
      s = look(path);
    } catch (e) {
      throw new VolumeError((e as Error).message);
    }
  if (!s || !t.is(s)) throw new VolumeError(`hostPath type check failed: ${path} is not ${t.called}`);
}

function look(path: string): Stats | undefined {
  try {
    return statSync(path);
  } catch (e) {
    const { code } = e as NodeJS.ErrnoException;
    if (code !== 'ENOENT' && code !== 'ENOTDIR') throw new VolumeError((e as Error).message);
    // A link that leads nowhere is there, and must not be replaced.
    if (lstatSync(path, { throwIfNoEntry: false })) throw new VolumeError(`${path} is a link to nothing`);
    return undefined;
  }
}

/** A character or block device: the container needs the device rule as well as the mount. */
export function isDevice(path: string): boolean {
  const s = statSync(path, { throwIfNoEntry: false });
  return s !== undefined && (s.isCharacterDevice() || s.isBlockDevice());
}
