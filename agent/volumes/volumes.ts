/**
 * The volumes of the pods of one node: set up, kept up to date, measured and taken down again. Everything lives below
 * `<dir>/<pod uid>/`, but secrets and `medium: Memory`, which live in memory where the machine lets them. What belongs
 * to the host (hostPath) is only ever named in a mount, never moved into these directories, so that taking down can
 * delete all it finds; before it deletes it makes sure that nothing is mounted there.
 */
import { createHash } from 'node:crypto';
import {
  accessSync,
  chmodSync,
  chownSync,
  closeSync,
  constants,
  existsSync,
  lstatSync,
  mkdirSync,
  realpathSync,
  rmSync,
  statfsSync,
  writeFileSync,
} from 'node:fs';
import { chmod, lstat, opendir, readdir, rm, rmdir } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import type { Container, Pod, Volume } from 'kubernetes-types/core/v1.js';
import type { Clock } from '../../api/clock.js';
import type { Log } from '../../api/log.js';
import { quantity } from '../../api/meta/quantity.js';
import type { Device, Mount } from '../../shims/shim.js';
import { type Config, expand, type PodFacts } from '../pods/env.js';
import { writeAtomically } from './atomic.js';
import { checkHostPath, isDevice } from './hostpath.js';
import { type Mounter, systemMounter } from './mounts.js';
import { PAYLOAD_TYPES, payloadOf, VolumeError } from './payload.js';
import { openSubPath } from './subpath.js';

export interface VolumesOptions {
  /** The pods' directories, e.g. `<data dir>/pods`. */
  dir: string;
  clock: Clock;
  log: Log;
  mounter?: Mounter;
  /** Where files are kept in memory; default: the first tmpfs of /run and /dev/shm that can be written. */
  memoryDir?: string | undefined;
}

/** An emptyDir with a limit, and what it holds. */
export interface VolumeUsage {
  name: string;
  usedBytes: number;
  limitBytes: number;
  /** As the spec writes it. */
  limit: string;
}

const TMPFS_MAGIC = 0x01021994;
const SUPPORTED = ['emptyDir', 'hostPath', ...PAYLOAD_TYPES];

/** The kind of a volume: the one key beside its name. A volume without any is an emptyDir, as the API defaults it. */
const typeOf = (v: Volume): string => Object.keys(v).find((k) => k !== 'name') ?? 'emptyDir';

const MEMORY = ['/run', '/dev/shm'];
/** The directory in memory that belongs to the pods below `dir`: two agents of one machine must not meet there. */
const memoryDirOf = (dir: string, base: string): string =>
  join(base, `coxswain-${createHash('sha256').update(dir).digest('hex').slice(0, 16)}`);

/** Loses what is kept in memory for the pods below `dir`, as a cut of power does. Not while their agent runs. */
export function forgetMemory(dir: string): void {
  for (const base of MEMORY) rmSync(memoryDirOf(dir, base), { recursive: true, force: true });
}

export class Volumes {
  readonly #o: VolumesOptions;
  readonly #mounter: Mounter;
  readonly #memory: string | undefined;

  constructor(options: VolumesOptions) {
    this.#o = options;
    this.#mounter = options.mounter ?? systemMounter;
    const base = 'memoryDir' in options ? options.memoryDir : MEMORY.find(isWritableTmpfs);
    this.#memory = base && memoryDirOf(options.dir, base);
  }

  /** Sets up all volumes of a pod; idempotent. Rejects with VolumeError: `MountVolume.SetUp failed for volume "x" : …`. */
  async setUp(pod: Pod, config: Config, facts: PodFacts): Promise<void> {
    mkdirSync(this.#podDir(pod), { recursive: true, mode: 0o750 });
    this.#makeMemoryDir(pod);
    for (const v of pod.spec?.volumes ?? [])
      await named(v, async () => {
        const type = typeOf(v);
        if (type === 'emptyDir') await this.#emptyDir(pod, v);
        else if (type === 'hostPath') checkHostPath(v.hostPath!.path, v.hostPath!.type);
        else if ((PAYLOAD_TYPES as readonly string[]).includes(type)) this.#payload(pod, v, config, facts);
        else
          throw new VolumeError(
            `volume type "${type}" is not supported on this node; supported are ${SUPPORTED.join(', ')}`,
          );
      });
  }

  /** Brings the files of configMap, secret, downwardAPI and projected volumes up to date; returns the volumes that changed. Rejects as setUp does. */
  async refresh(pod: Pod, config: Config, facts: PodFacts): Promise<string[]> {
    const changed: string[] = [];
    for (const v of pod.spec?.volumes ?? [])
      if ((PAYLOAD_TYPES as readonly string[]).includes(typeOf(v)))
        await named(v, async () => {
          if (this.#payload(pod, v, config, facts)) changed.push(v.name);
        });
    return changed;
  }

  /** The mounts and devices of one container; needs its environment for subPathExpr. Rejects with VolumeError. */
  async mounts(
    pod: Pod,
    c: Container,
    env: readonly { name: string; value: string }[],
  ): Promise<{ mounts: Mount[]; devices: Device[] }> {
    const mounts: Mount[] = [];
    const devices: Device[] = [];
    let index = 0;
    for (const m of c.volumeMounts ?? []) {
      const v = pod.spec?.volumes?.find((x) => x.name === m.name);
      if (!v)
        throw new VolumeError(`volume "${m.name}" of container "${c.name}" is not in the pod's volumes`);
      let hostPath = this.#pathOf(pod, v);
      let subPath = m.subPath ?? '';
      if (m.subPathExpr) {
        subPath = expand(m.subPathExpr, (n) => env.find((e) => e.name === n)?.value);
        const unknown = /\$\([^)]*\)/.exec(subPath);
        if (unknown) throw new VolumeError(`missing value for "${unknown[0].slice(2, -1)}" in subPathExpr`);
      }
      if (subPath) hostPath = await this.#subPath(pod, c, v, hostPath, subPath, index);
      index++;
      const readOnly = m.readOnly ?? PAYLOAD_TYPES.some((t) => t === typeOf(v));
      mounts.push({
        hostPath,
        containerPath: m.mountPath.startsWith('/') ? m.mountPath : `/${m.mountPath}`,
        readOnly,
        ...(m.mountPropagation
          ? { propagation: m.mountPropagation as NonNullable<Mount['propagation']> }
          : {}),
      });
      if (v.hostPath && isDevice(hostPath))
        devices.push({ hostPath, containerPath: m.mountPath, permissions: readOnly ? 'r' : 'rwm' });
    }
    return { mounts, devices };
  }

  /** What the pod's emptyDirs with a sizeLimit hold on disk or in memory. */
  async usage(pod: Pod): Promise<VolumeUsage[]> {
    const out: VolumeUsage[] = [];
    for (const v of pod.spec?.volumes ?? []) {
      const limit = v.emptyDir?.sizeLimit;
      if (!limit || quantity(limit) <= 0) continue;
      const usedBytes = await diskUsage(this.#pathOf(pod, v));
      out.push({ name: v.name, usedBytes, limitBytes: quantity(limit), limit });
    }
    return out;
  }

  /** Bytes on disk that go with the pod: its emptyDirs that are not in memory. */
  async diskBytes(pod: Pod): Promise<number> {
    let total = 0;
    for (const v of pod.spec?.volumes ?? [])
      if (typeOf(v) === 'emptyDir' && v.emptyDir?.medium !== 'Memory')
        total += await diskUsage(this.#pathOf(pod, v));
    return total;
  }

  /** Removes all that a pod had here; idempotent. Rejects, with nothing deleted, while something is still mounted. */
  async tearDown(uid: string): Promise<void> {
    if (!/^[\w.-]+$/.test(uid) || /^\.+$/.test(uid)) throw new VolumeError(`"${uid}" cannot be a pod's uid`);
    const dirs = [join(this.#o.dir, uid, 'volume-subpaths'), join(this.#o.dir, uid, 'volumes')];
    if (this.#memory) dirs.push(join(this.#memory, uid));
    // Mount points are listed by their real path; the parent may have been reached through a link.
    const real = dirs.filter((d) => existsSync(d)).map((d) => realpathSync(d));
    for (const dir of real) {
      for (const path of this.#mounter.below(dir)) await this.#mounter.unmount(path);
      const left = this.#mounter.below(dir);
      if (left.length > 0) throw new VolumeError(`still mounted: ${left.join(', ')}`);
    }
    for (const dir of real) await removeTree(dir);
    // The last pod takes the directory in memory along; any other outcome is as good.
    if (this.#memory) await rmdir(this.#memory).catch(() => {});
  }

  /**
   * Unlike the data directory, where files are kept in memory anyone may look (and in /dev/shm write): what is a pod's
   * is for the agent alone. Containers get it by a mount.
   */
  #makeMemoryDir(pod: Pod): void {
    if (!this.#memory || !pod.spec?.volumes?.some((v) => this.#pathOf(pod, v).startsWith(this.#memory!)))
      return;
    const s = lstatSync(this.#memory, { throwIfNoEntry: false });
    if (s && (!s.isDirectory() || (process.getuid && s.uid !== process.getuid())))
      throw new VolumeError(`${this.#memory} is not this agent's: another user has made it; remove it`);
    mkdirSync(join(this.#memory, pod.metadata!.uid!), { recursive: true, mode: 0o700 });
  }

  #podDir = (pod: Pod) => join(this.#o.dir, pod.metadata!.uid!);

  #pathOf(pod: Pod, v: Volume): string {
    const type = typeOf(v);
    if (type === 'hostPath') return v.hostPath!.path;
    const secret = type === 'secret' || v.projected?.sources?.some((s) => s.secret || s.serviceAccountToken);
    const inMemory = secret || (v.emptyDir?.medium === 'Memory' && !this.#mounter.usable);
    return inMemory && this.#memory
      ? join(this.#memory, pod.metadata!.uid!, type, v.name)
      : join(this.#podDir(pod), 'volumes', type, v.name);
  }

  #payload(pod: Pod, v: Volume, config: Config, facts: PodFacts): boolean {
    const payload = payloadOf(v, pod, config, facts);
    const dir = this.#pathOf(pod, v);
    if (typeOf(v) === 'secret' && !this.#memory)
      this.#o.log.warn(
        { volume: v.name },
        'no writable tmpfs at /run or /dev/shm: this secret is kept on disk',
      );
    const stamp = new Date(this.#o.clock.now())
      .toISOString()
      .replace(/[-:]/g, '_')
      .replace('T', '_')
      .slice(0, 19);
    return writeAtomically(dir, payload, stamp, pod.spec?.securityContext?.fsGroup);
  }

  async #emptyDir(pod: Pod, v: Volume): Promise<void> {
    const dir = this.#pathOf(pod, v);
    const fresh = !existsSync(dir);
    mkdirSync(dir, { recursive: true });
    const { medium = '', sizeLimit } = v.emptyDir ?? {};
    if (medium !== '' && medium !== 'Memory') throw new VolumeError(`unknown storage medium "${medium}"`);
    if (medium === 'Memory' && this.#mounter.usable && this.#mounter.below(realpathSync(dir)).length === 0)
      await this.#mounter.tmpfs(dir, sizeLimit ? quantity(sizeLimit) : undefined);
    else if (!fresh) return;
    const fsGroup = pod.spec?.securityContext?.fsGroup;
    if (fsGroup !== undefined) chownSync(dir, -1, fsGroup);
    // World-writable as the kubelet's, so that any user of any container may use it; setgid hands the group on.
    chmodSync(dir, fsGroup === undefined ? 0o777 : 0o2777);
  }

  /** The host path of a subPath, bound by descriptor to a place that no container can change. */
  async #subPath(
    pod: Pod,
    c: Container,
    v: Volume,
    root: string,
    subPath: string,
    index: number,
  ): Promise<string> {
    const { fd, isDirectory } = openSubPath(root, subPath);
    try {
      // Without mounting there is only the path; a workload of the same user could swap it in between.
      if (!this.#mounter.usable) return realpathSync(`/proc/self/fd/${fd}`);
      const target = join(this.#podDir(pod), 'volume-subpaths', v.name, c.name, String(index));
      if (existsSync(target)) {
        for (const path of this.#mounter.below(realpathSync(target))) await this.#mounter.unmount(path);
      } else if (isDirectory) mkdirSync(target, { recursive: true, mode: 0o750 });
      else {
        mkdirSync(dirname(target), { recursive: true, mode: 0o750 });
        writeFileSync(target, '');
      }
      await this.#mounter.bind(`/proc/${process.pid}/fd/${fd}`, target);
      return target;
    } finally {
      closeSync(fd);
    }
  }
}

async function named(v: Volume, body: () => Promise<void>): Promise<void> {
  try {
    await body();
  } catch (e) {
    throw new VolumeError(`MountVolume.SetUp failed for volume "${v.name}" : ${(e as Error).message}`, {
      cause: e,
    });
  }
}

function isWritableTmpfs(path: string): boolean {
  try {
    accessSync(path, constants.W_OK);
    return statfsSync(path).type === TMPFS_MAGIC;
  } catch {
    return false;
  }
}

/** Bytes that a tree takes on disk, links not followed; what vanishes meanwhile counts nothing. */
export async function diskUsage(root: string): Promise<number> {
  let total = 0;
  const todo = [root];
  for (let dir = todo.pop(); dir !== undefined; dir = todo.pop()) {
    try {
      for await (const e of await opendir(dir)) {
        const path = join(dir, e.name);
        const s = await lstat(path).catch(() => undefined);
        if (!s) continue;
        total += s.blocks * 512;
        if (s.isDirectory()) todo.push(path);
      }
    } catch (e) {
      if ((e as NodeJS.ErrnoException).code !== 'ENOENT') throw e;
    }
  }
  return total;
}

/** Removes a tree without following links. A pod may have made directories of its own read-only; root does not mind, others must. */
async function removeTree(dir: string): Promise<void> {
  try {
    await rm(dir, { recursive: true, force: true });
  } catch (e) {
    if ((e as NodeJS.ErrnoException).code !== 'EACCES') throw e;
    await makeWritable(dir);
    await rm(dir, { recursive: true, force: true });
  }
}

async function makeWritable(dir: string): Promise<void> {
  await chmod(dir, 0o700);
  for (const e of await readdir(dir, { withFileTypes: true }))
    if (e.isDirectory()) await makeWritable(join(dir, e.name));
}
