/**
 * Writes a volume's files so that a reader sees all of one version or all of the next, as the kubelet's AtomicWriter
 * does: the files live in `..<time>/`, `..data` links to that directory, and each visible name links to `..data/<name>`.
 * Replacing `..data` by a rename switches all files at once.
 */
import {
  chmodSync,
  chownSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import type { Payload } from './payload.js';

const DATA = '..data';

/** Makes the directory hold exactly the payload; returns whether anything had to change. `stamp` names the version, e.g. a time. */
export function writeAtomically(dir: string, payload: Payload, stamp: string, fsGroup?: number): boolean {
  mkdirSync(dir, { recursive: true });
  const current = currentVersion(dir);
  if (current !== undefined && same(join(dir, current), payload, fsGroup)) {
    linkNames(dir, payload);
    return false;
  }
  let version = `..${stamp}`;
  for (let n = 1; exists(join(dir, version)); n++) version = `..${stamp}.${n}`;
  const target = join(dir, version);
  mkdirSync(target, { mode: 0o755 });
  chmodSync(target, 0o755);
  for (const [path, { data, mode }] of payload) {
    const file = join(target, path);
    mkdirSync(dirname(file), { recursive: true, mode: 0o755 });
    writeFileSync(file, data, { mode: 0o600 });
    if (fsGroup !== undefined) chownSync(file, -1, fsGroup);
    chmodSync(file, wantedMode(mode, fsGroup));
  }
  const temporary = join(dir, '..data_tmp');
  rmSync(temporary, { force: true });
  symlinkSync(version, temporary);
  renameSync(temporary, join(dir, DATA));
  linkNames(dir, payload);
  for (const name of readdirSync(dir))
    if (name.startsWith('..') && name !== DATA && name !== version)
      rmSync(join(dir, name), { recursive: true, force: true });
  return true;
}

/** With an fsGroup, its members may read what they get. */
const wantedMode = (mode: number, fsGroup: number | undefined) =>
  (fsGroup === undefined ? mode : mode | 0o440) & 0o777;

const names = (payload: Payload) => new Set([...payload.keys()].map((p) => p.split('/')[0]!));

function linkNames(dir: string, payload: Payload): void {
  const wanted = names(payload);
  for (const name of wanted) if (!exists(join(dir, name))) symlinkSync(join(DATA, name), join(dir, name));
  for (const name of readdirSync(dir))
    if (!name.startsWith('..') && !wanted.has(name))
      rmSync(join(dir, name), { recursive: true, force: true });
}

function currentVersion(dir: string): string | undefined {
  try {
    return readlinkSync(join(dir, DATA));
  } catch {
    return undefined;
  }
}

function same(versionDir: string, payload: Payload, fsGroup: number | undefined): boolean {
  try {
    const there = readdirSync(versionDir, { recursive: true, withFileTypes: true }).filter((e) => e.isFile());
    if (there.length !== payload.size) return false;
    for (const [path, { data, mode }] of payload) {
      const file = join(versionDir, path);
      if ((statSync(file).mode & 0o777) !== wantedMode(mode, fsGroup) || !readFileSync(file).equals(data))
        return false;
    }
    return true;
  } catch {
    return false;
  }
}

function exists(path: string): boolean {
  try {
    lstatSync(path);
    return true;
  } catch {
    return false;
  }
}
