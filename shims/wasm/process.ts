import { readFileSync } from 'node:fs';

let boot: string | undefined;
/** Changes with every boot: a process id of another boot names nobody. */
export function bootId(): string {
  boot ??= readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();
  return boot;
}

/** Fields of /proc/PID/stat after the name, which may hold anything. */
function statFields(pid: number): string[] | undefined {
  try {
    const line = readFileSync(`/proc/${pid}/stat`, 'latin1');
    return line.slice(line.lastIndexOf(')') + 2).split(' ');
  } catch {
    return undefined;
  }
}

/** Whether it is still that process and no later one with its id; zombies count as gone. */
export function isAlive(p: { pid: number; startTime: string }): boolean {
  const fields = statFields(p.pid);
  return fields !== undefined && fields[19] === p.startTime && fields[0] !== 'Z' && fields[0] !== 'X';
}

/** CPU time and resident memory of one process, where there is no control group to ask. USER_HZ and the page are as everywhere. */
export function processStats(pid: number): { cpuNanos: number; memoryBytes: number } | undefined {
  const fields = statFields(pid);
  if (!fields) return undefined;
  const ticks = Number(fields[11]) + Number(fields[12]);
  return { cpuNanos: ticks * 10_000_000, memoryBytes: Number(fields[21]) * 4096 };
}
