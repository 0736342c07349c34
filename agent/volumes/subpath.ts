/**
 * subPath without escapes: a container that shares the volume may swap any directory for a link at any time, so every
 * component is opened from its parent's descriptor without following links; links inside the volume are followed by
 * hand and may never climb above it.
 */
import { closeSync, constants, fstatSync, mkdirSync, openSync, readlinkSync } from 'node:fs';
import { VolumeError } from './payload.js';

/** Linux's O_PATH (asm-generic/fcntl.h; the same on x86-64, arm64 and armv7). Node does not name it. */
const O_PATH = 0o10000000;
const MAX_LINKS = 40;

/**
 * Opens `subPath` inside the directory (or file) `root`; missing directories are made (mode 0750, as the kubelet).
 * Returns an O_PATH descriptor that the caller closes, and whether it is a directory.
 */
export function openSubPath(root: string, subPath: string): { fd: number; isDirectory: boolean } {
  const todo = subPath.split('/').filter((x) => x !== '' && x !== '.');
  if (subPath.startsWith('/') || todo.includes('..'))
    throw new VolumeError(`subPath "${subPath}" must be a relative path without ".."`);
  const stack = [openSync(root, O_PATH)];
  let links = 0;
  try {
    while (todo.length > 0) {
      const name = todo.shift()!;
      const parent = stack.at(-1)!;
      if (name === '..') {
        if (stack.length === 1) throw new VolumeError(`subPath "${subPath}" leads out of the volume`);
        closeSync(stack.pop()!);
        continue;
      }
      const at = `/proc/self/fd/${parent}/${name}`;
      const fd = openOrMake(at, subPath);
      const s = fstatSync(fd);
      if (!s.isSymbolicLink()) {
        stack.push(fd);
        continue;
      }
      closeSync(fd);
      if (++links > MAX_LINKS) throw new VolumeError(`subPath "${subPath}" has too many links`);
      const target = readlinkSync(at);
      if (target.startsWith('/')) throw new VolumeError(`subPath "${subPath}" leads out of the volume`);
      todo.unshift(...target.split('/').filter((x) => x !== '' && x !== '.'));
    }
    const fd = stack.pop()!;
    return { fd, isDirectory: fstatSync(fd).isDirectory() };
  } finally {
    for (const fd of stack) closeSync(fd);
  }
}

function openOrMake(at: string, subPath: string): number {
  const open = () => openSync(at, O_PATH | constants.O_NOFOLLOW);
  try {
    return open();
  } catch (e) {
    const { code } = e as NodeJS.ErrnoException;
    if (code === 'ENOTDIR') throw new VolumeError(`subPath "${subPath}": a component is not a directory`);
    if (code !== 'ENOENT') throw e;
  }
  try {
    mkdirSync(at, { mode: 0o750 });
  } catch (e) {
    if ((e as NodeJS.ErrnoException).code !== 'EEXIST')
      throw new VolumeError(`failed to create subPath directory "${subPath}": ${(e as Error).message}`);
  }
  return open();
}
