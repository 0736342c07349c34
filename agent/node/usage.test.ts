import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterEach, expect, it } from 'vitest';
import { nodeUsage } from './usage.js';

const made: string[] = [];
function machine(files: Record<string, string>): string {
  const root = mkdtempSync(join(tmpdir(), 'usage-'));
  made.push(root);
  for (const [path, text] of Object.entries(files)) {
    mkdirSync(dirname(join(root, path)), { recursive: true });
    writeFileSync(join(root, path), text);
  }
  return root;
}
afterEach(() => {
  for (const root of made.splice(0)) rmSync(root, { recursive: true });
});

const PROC = {
  'proc/stat': 'cpu  100 20 30 9999 50 1 2 3 90 0\ncpu0 100 20 30 9999 50 1 2 3 90 0\n',
  'proc/meminfo': 'MemTotal:  1000 kB\nMemFree:    300 kB\nActive(file): 7 kB\nInactive(file):  200 kB\n',
};

it('reads version 1 of control groups', () => {
  const root = machine({
    ...PROC,
    'sys/fs/cgroup/cpuacct/cpuacct.usage': '12345678\n',
    'sys/fs/cgroup/memory/memory.usage_in_bytes': '5000000\n',
    'sys/fs/cgroup/memory/memory.stat': 'inactive_file 1\ntotal_inactive_file 1000000\n',
  });
  expect(nodeUsage(root)).toEqual({ cpuNanos: 12_345_678, memoryBytes: 4_000_000 });
});

it('reads version 2, whose root group does not count memory', () => {
  const root = machine({
    ...PROC,
    'sys/fs/cgroup/cpu.stat': 'usage_usec 7000\nuser_usec 6000\n',
    'sys/fs/cgroup/memory.stat': 'anon 5\nfile 6\nactive_file 7\ninactive_file 102400\n',
  });
  expect(nodeUsage(root)).toEqual({ cpuNanos: 7_000_000, memoryBytes: (700 - 100) * 1024 });
});

it('reads /proc where there are no control groups, and nothing where there is nothing', () => {
  expect(nodeUsage(machine(PROC))).toEqual({ cpuNanos: 156 * 10_000_000, memoryBytes: 500 * 1024 });
  expect(nodeUsage(machine({}))).toEqual({ cpuNanos: 0, memoryBytes: 0 });
});

it('reads this machine', () => {
  const { cpuNanos, memoryBytes } = nodeUsage();
  expect(cpuNanos).toBeGreaterThan(0);
  expect(memoryBytes).toBeGreaterThan(0);
});
