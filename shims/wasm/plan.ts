import { basename, dirname, posix } from 'node:path';
import type { Mount } from '../shim.js';
import type { Preopen } from './host/spec.js';

/** mount_setattr's attributes (linux/mount.h). */
const ATTR = { readOnly: 1, noSuid: 2, noDev: 4, noExec: 8 };

/** A file or directory of the host, and where it lies in the jail. */
export interface JailMount {
  source: string;
  target: string;
  attributes: number;
  /** root and the pod's id trade places on it. */
  idmap: boolean;
}

/** For jail.pl: one line per record, words percent-encoded and separated by tabs. */
export function writePlan(records: readonly (readonly [string, ...(string | number)[]])[]): string {
  const word = (w: string | number): string =>
    String(w).replace(/[%\t\n\r\0]/g, (c) => `%${c.charCodeAt(0).toString(16).padStart(2, '0')}`);
  return records.map((r) => `${r.map(word).join('\t')}\n`).join('');
}

/** Read-only parts of every jail: nothing of these may be written or change ids. */
export const system = (source: string, target: string, exec: boolean): JailMount => ({
  source,
  target,
  attributes: ATTR.readOnly | ATTR.noSuid | ATTR.noDev | (exec ? 0 : ATTR.noExec),
  idmap: false,
});

/** A directory of the host that the host program writes to as the pod's own user, with the rights it has there. */
export const writable = (source: string, target: string): JailMount => ({
  source,
  target,
  attributes: ATTR.noSuid | ATTR.noDev | ATTR.noExec,
  idmap: false,
});

/** A volume as the host knows it. */
export interface Volume extends Mount {
  isDirectory: boolean;
}

/**
 * Volumes → mounts of the jail and what the guest sees. Directories become preopened directories in the order given;
 * single files are gathered below preopened parents, into an existing one where a directory is mounted there.
 * `workingDir`, where it lies in a volume, is preopened once more as `.`: how a WASI guest has a working directory.
 */
export function layOut(
  volumes: readonly Volume[],
  options: { jailed: boolean; idmap: boolean; workingDir?: string },
): { mounts: JailMount[]; preopens: Preopen[] } {
  const mounts: JailMount[] = [];
  const preopens: Preopen[] = [];
  const inside = volumes.map((v, i) => {
    if (!options.jailed) return v.hostPath;
    const target = `/v/${i}`;
    const attributes = ATTR.noSuid | ATTR.noDev | ATTR.noExec | (v.readOnly ? ATTR.readOnly : 0);
    mounts.push({ source: v.hostPath, target, attributes, idmap: options.idmap });
    return target;
  });
  const guestPath = (p: string): string => posix.resolve('/', p);
  volumes.forEach((v, i) => {
    if (v.isDirectory)
      preopens.push({ guest: guestPath(v.containerPath), host: inside[i]!, readOnly: v.readOnly, files: [] });
  });
  volumes.forEach((v, i) => {
    if (v.isDirectory) return;
    const path = guestPath(v.containerPath);
    let parent = preopens.find((p) => p.guest === dirname(path));
    if (!parent) {
      parent = { guest: dirname(path), readOnly: true, files: [] };
      preopens.push(parent);
    }
    parent.files.push({ name: basename(path), host: inside[i]!, readOnly: v.readOnly });
  });
  const { workingDir } = options;
  const home = workingDir === undefined ? undefined : guestPath(workingDir);
  const [above] = preopens
    .filter((p) => home !== undefined && `${home}/`.startsWith(p.guest === '/' ? '/' : `${p.guest}/`))
    .sort((a, b) => b.guest.length - a.guest.length);
  const below = above && posix.relative(above.guest, home!);
  if (below === '') preopens.push({ ...above!, guest: '.' });
  else if (above?.host !== undefined) preopens.push({ ...above, guest: '.', below: below!, files: [] });
  return { mounts, preopens };
}
