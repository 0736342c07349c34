/** What the whole machine uses: the root control group as the kubelet reads it, /proc where there is none. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';

export interface NodeUsage {
  /** Cumulative CPU time in nanoseconds, of all cores. */
  cpuNanos: number;
  /** Working set in bytes: what is used without the file cache that could go at once. */
  memoryBytes: number;
}

/** The unit of /proc/stat, the same on every machine that Node runs on (USER_HZ). */
const JIFFY_NANOS = 10_000_000;

/** Small files only, some hundred microseconds; 0 for what the machine does not tell. `root` is for tests. */
export function nodeUsage(root = '/'): NodeUsage {
  const read = (path: string): string => {
    try {
      return readFileSync(join(root, path), 'utf8');
    } catch {
      return '';
    }
  };
  const field = (text: string, name: string): number | undefined => {
    const found = new RegExp(`^${name}:?\\s+(\\d+)`, 'm').exec(text)?.[1];
    return found === undefined ? undefined : Number(found);
  };
  const number = (path: string): number | undefined => {
    const text = read(path).trim();
    return /^\d+$/.test(text) ? Number(text) : undefined;
  };
  const groups = 'sys/fs/cgroup';

  const cpuNanos = (): number => {
    const v1 = number(`${groups}/cpuacct/cpuacct.usage`) ?? number(`${groups}/cpu,cpuacct/cpuacct.usage`);
    if (v1 !== undefined) return v1;
    const v2 = field(read(`${groups}/cpu.stat`), 'usage_usec');
    if (v2 !== undefined) return v2 * 1000;
    // user nice system idle iowait irq softirq steal; a guest's time is within the user's.
    const [user = 0, nice = 0, system = 0, , , irq = 0, softirq = 0, steal = 0] = (
      /^cpu +(.*)$/m.exec(read('proc/stat'))?.[1] ?? ''
    )
      .split(' ')
      .map(Number);
    return (user + nice + system + irq + softirq + steal) * JIFFY_NANOS;
  };

  const memoryBytes = (): number => {
    const used = number(`${groups}/memory/memory.usage_in_bytes`);
    if (used !== undefined)
      return used - (field(read(`${groups}/memory/memory.stat`), 'total_inactive_file') ?? 0);
    // Version 2 counts no use in its root group, only what it is made of.
    const info = read('proc/meminfo');
    const kib = (name: string) => field(info, name) ?? 0;
    const inactive =
      field(read(`${groups}/memory.stat`), 'inactive_file') ?? kib('Inactive\\(file\\)') * 1024;
    return (kib('MemTotal') - kib('MemFree')) * 1024 - inactive;
  };

  return { cpuNanos: cpuNanos(), memoryBytes: Math.max(0, memoryBytes()) };
}
