import { existsSync, readFileSync } from 'node:fs';
import { mkdir, readFile, rmdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';

/** Limits of one container's control group. */
export interface CgroupLimits {
  memoryBytes?: number;
  cpuRequestMilli?: number;
  pids: number;
}

/** The kernel's control groups as this machine has them: version 2, version 1, or none. All below one directory of ours. */
export interface Cgroups {
  readonly version: 0 | 1 | 2;
  readonly hasMemory: boolean;
  /** Makes the group; answers the `cgroup.procs` files to join, and where the kernel counts OOM kills. */
  create(id: string, limits: CgroupLimits): Promise<{ procs: string[]; oom?: string }>;
  /** CPU quota in millicores: set after the start, which needs more for a moment. */
  setQuota(id: string, milli: number): Promise<void>;
  stats(id: string): Promise<{ cpuNanos: number; memoryBytes: number } | undefined>;
  remove(id: string): Promise<void>;
  /**
   * To be called some 10 ms before a start. Moving a process into a group waits for a grace period of the kernel's RCU
   * (5 to 15 ms) unless another move was just before: this is one, of this process to where it is. Never rejects.
   */
  hasten(): Promise<void>;
  /** Gives back our own directory, where no container is left in it. */
  close(): Promise<void>;
}

const QUOTA_PERIOD_US = 100_000;
/** cpu.shares of a request, as the kubelet computes them; at least 2. */
const shares = (milli: number): number => Math.max(2, Math.floor((milli * 1024) / 1000));
/** cpu.weight from cpu.shares, as runc maps 2..262144 to 1..10000. */
const weight = (milli: number): number => 1 + Math.floor(((shares(milli) - 2) * 9999) / 262_142);
const quotaUs = (milli: number): number => Math.max(1000, Math.floor((milli * QUOTA_PERIOD_US) / 1000));
const ignore = () => {};

/** Looks at the mount table; `parent` is the path of our own directory in every hierarchy, e.g. `coxswain/1a2b`. */
export async function detectCgroups(parent: string, mounts = readMounts()): Promise<Cgroups> {
  const v2 = mounts.find((m) => m.type === 'cgroup2');
  if (v2 && process.getuid?.() === 0) {
    const has = (await readFile(join(v2.path, 'cgroup.controllers'), 'utf8').catch(() => ''))
      .trim()
      .split(' ');
    if (has.includes('memory') || has.includes('pids')) {
      try {
        return await unified(v2.path, parent, has);
      } catch {
        // No right to make groups here (inside a container, say): as if there were none.
      }
    }
  }
  const v1 = new Map<string, string>();
  for (const m of mounts.filter((x) => x.type === 'cgroup'))
    for (const option of m.options)
      if (['memory', 'cpu', 'cpuacct', 'pids', 'name=systemd'].includes(option)) v1.set(option, m.path);
  if (v1.size > 0 && process.getuid?.() === 0) {
    try {
      return await legacy(v1, parent);
    } catch {
      // As above.
    }
  }
  return {
    version: 0,
    hasMemory: false,
    create: async () => ({ procs: [] }),
    setQuota: async () => {},
    stats: async () => undefined,
    remove: async () => {},
    hasten: async () => {},
    close: async () => {},
  };
}

function readMounts(): { type: string; path: string; options: string[] }[] {
  if (!existsSync('/proc/mounts')) return [];
  return readFileSync('/proc/mounts', 'utf8')
    .trim()
    .split('\n')
    .map((line) => {
      const [, path = '', type = '', options = ''] = line.split(' ');
      return { type, path, options: options.split(',') };
    });
}

const number = async (path: string): Promise<number> => Number((await readFile(path, 'utf8')).trim());
const field = async (path: string, name: string): Promise<number> =>
  Number(new RegExp(`^${name} (\\d+)`, 'm').exec(await readFile(path, 'utf8'))?.[1] ?? 0);

async function removeDirectory(path: string): Promise<void> {
  // The last process leaves its group a moment after it was waited for.
  for (let tries = 0; ; tries++) {
    try {
      return await rmdir(path);
    } catch (e) {
      const { code } = e as NodeJS.ErrnoException;
      if (code === 'ENOENT' || code !== 'EBUSY' || tries >= 50) return;
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  }
}

/** Puts this process into the group of a hierarchy that it is in; `controller` is empty for version 2. */
async function moveNowhere(root: string, controller: string): Promise<void> {
  try {
    for (const line of (await readFile('/proc/self/cgroup', 'utf8')).split('\n')) {
      const [, names = '', ...path] = line.split(':');
      if (!names.split(',').includes(controller)) continue;
      // Not created where it is not there.
      await writeFile(join(root, path.join(':'), 'cgroup.procs'), `${process.pid}`, { flag: 'r+' });
    }
  } catch {
    // Then the start takes as long as it takes.
  }
}

/** A group with groups or processes in it stays. */
async function removeIfEmpty(path: string): Promise<void> {
  await rmdir(path).catch(ignore);
}

async function unified(root: string, parent: string, controllers: string[]): Promise<Cgroups> {
  const wanted = ['memory', 'cpu', 'pids'].filter((c) => controllers.includes(c));
  let at = root;
  for (const part of ['', ...parent.split('/')]) {
    at = join(at, part);
    await mkdir(at, { recursive: true });
    await writeFile(join(at, 'cgroup.subtree_control'), wanted.map((c) => `+${c}`).join(' '));
  }
  const dir = (id: string) => join(at, id);
  return {
    version: 2,
    hasMemory: wanted.includes('memory'),
    async create(id, limits) {
      await mkdir(dir(id), { recursive: true });
      if (wanted.includes('memory') && limits.memoryBytes !== undefined) {
        await writeFile(join(dir(id), 'memory.max'), `${limits.memoryBytes}`);
        await writeFile(join(dir(id), 'memory.swap.max'), '0').catch(ignore);
      }
      if (wanted.includes('pids')) await writeFile(join(dir(id), 'pids.max'), `${limits.pids}`);
      if (wanted.includes('cpu') && limits.cpuRequestMilli !== undefined)
        await writeFile(join(dir(id), 'cpu.weight'), `${weight(limits.cpuRequestMilli)}`);
      return { procs: [join(dir(id), 'cgroup.procs')], oom: join(dir(id), 'memory.events') };
    },
    async setQuota(id, milli) {
      if (wanted.includes('cpu'))
        await writeFile(join(dir(id), 'cpu.max'), `${quotaUs(milli)} ${QUOTA_PERIOD_US}`);
    },
    async stats(id) {
      try {
        const used = await number(join(dir(id), 'memory.current'));
        return {
          cpuNanos: (await field(join(dir(id), 'cpu.stat'), 'usage_usec')) * 1000,
          memoryBytes: Math.max(0, used - (await field(join(dir(id), 'memory.stat'), 'inactive_file'))),
        };
      } catch {
        return undefined;
      }
    },
    remove: (id) => removeDirectory(dir(id)),
    hasten: () => moveNowhere(root, ''),
    close: () => removeIfEmpty(at),
  };
}

async function legacy(hierarchies: Map<string, string>, parent: string): Promise<Cgroups> {
  const roots = [...new Set(hierarchies.values())].map((r) => join(r, parent));
  const [controller, root] = [...hierarchies][0]!;
  for (const r of roots) await mkdir(r, { recursive: true });
  const dir = (controller: string, id: string) => {
    const root = hierarchies.get(controller);
    return root === undefined ? undefined : join(root, parent, id);
  };
  return {
    version: 1,
    hasMemory: hierarchies.has('memory'),
    async create(id, limits) {
      await Promise.all(roots.map((r) => mkdir(join(r, id), { recursive: true })));
      const memory = dir('memory', id);
      if (memory && limits.memoryBytes !== undefined) {
        await writeFile(join(memory, 'memory.limit_in_bytes'), `${limits.memoryBytes}`);
        // Only where swap is counted; the limit without it holds all the same.
        await writeFile(join(memory, 'memory.memsw.limit_in_bytes'), `${limits.memoryBytes}`).catch(ignore);
      }
      const pids = dir('pids', id);
      if (pids) await writeFile(join(pids, 'pids.max'), `${limits.pids}`);
      const cpu = dir('cpu', id);
      if (cpu && limits.cpuRequestMilli !== undefined)
        await writeFile(join(cpu, 'cpu.shares'), `${shares(limits.cpuRequestMilli)}`);
      return {
        procs: roots.map((r) => join(r, id, 'cgroup.procs')),
        ...(memory ? { oom: join(memory, 'memory.oom_control') } : {}),
      };
    },
    async setQuota(id, milli) {
      const cpu = dir('cpu', id);
      if (!cpu) return;
      await writeFile(join(cpu, 'cpu.cfs_period_us'), `${QUOTA_PERIOD_US}`);
      await writeFile(join(cpu, 'cpu.cfs_quota_us'), `${quotaUs(milli)}`);
    },
    async stats(id) {
      const memory = dir('memory', id);
      const cpu = dir('cpuacct', id);
      if (!memory || !cpu) return undefined;
      try {
        const used = await number(join(memory, 'memory.usage_in_bytes'));
        return {
          cpuNanos: await number(join(cpu, 'cpuacct.usage')),
          memoryBytes: Math.max(0, used - (await field(join(memory, 'memory.stat'), 'total_inactive_file'))),
        };
      } catch {
        return undefined;
      }
    },
    async remove(id) {
      for (const r of roots) await removeDirectory(join(r, id));
    },
    hasten: () => moveNowhere(root, controller),
    async close() {
      for (const r of roots) await removeIfEmpty(r);
    },
  };
}
