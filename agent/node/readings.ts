/** The machine's own readings: small files of /proc and statfs, cheap enough for every few seconds. */
import { readFileSync, statfsSync } from 'node:fs';
import type { Readings } from './pressure.js';

function read(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return undefined;
  }
}

function disk(path: string | undefined) {
  if (path === undefined) return undefined;
  try {
    const s = statfsSync(path);
    return {
      bytes: { available: s.bavail * s.bsize, total: s.blocks * s.bsize },
      inodes: { available: s.ffree, total: s.files },
    };
  } catch {
    return undefined;
  }
}

/** Values of /proc/meminfo in bytes. */
export function memInfo(): Record<string, number> {
  const out: Record<string, number> = {};
  for (const m of (read('/proc/meminfo') ?? '').matchAll(/^(\w+):\s+(\d+) kB$/gm))
    out[m[1]!] = Number(m[2]) * 1024;
  return out;
}

export function systemReadings(dataDir: string, imageDir?: string): Readings {
  const mem = memInfo();
  const node = disk(dataDir);
  const image = disk(imageDir);
  // The fourth field is `running/all` tasks: threads count, as for the kubelet's pid.available.
  const tasks = Number(/\S+ \S+ \S+ \d+\/(\d+)/.exec(read('/proc/loadavg') ?? '')?.[1]);
  const pidMax = Number(read('/proc/sys/kernel/pid_max'));
  const stall = /^full .*avg60=([\d.]+)/m.exec(read('/proc/pressure/memory') ?? '')?.[1];
  return {
    ...(mem['MemAvailable'] !== undefined
      ? { memory: { available: mem['MemAvailable'], total: mem['MemTotal']! } }
      : {}),
    ...(node ? { nodefs: node.bytes, nodefsInodes: node.inodes } : {}),
    ...(image ? { imagefs: image.bytes, imagefsInodes: image.inodes } : {}),
    ...(tasks && pidMax ? { pid: { available: pidMax - tasks, total: pidMax } } : {}),
    ...(stall !== undefined ? { memoryStall: { available: Number(stall), total: 100 } } : {}),
  };
}
