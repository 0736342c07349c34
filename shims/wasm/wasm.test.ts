import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { detectCgroups } from './cgroup.js';
import { CriLog } from './host/log.js';
import { preview1 } from './host/p1.js';
import { P1_FUNCTIONS } from './host/spec.js';
import { inspectModule } from './module.js';
import { layOut, writePlan } from './plan.js';
import { isAlive } from './process.js';

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'wasm-unit-'));
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

it('the functions that modules may import are those that the host has', () => {
  const { imports } = preview1({
    args: [],
    env: [],
    preopens: [],
    log: new CriLog(join(dir, 'log'), 1000),
    exit: () => {
      throw new Error('exit');
    },
  });
  expect(Object.keys(imports).sort()).toEqual([...P1_FUNCTIONS].sort());
});

it('no file whatever makes the inspection of modules fail otherwise than with a text', async () => {
  const header = [0, 0x61, 0x73, 0x6d, 1, 0, 0, 0];
  await fc.assert(
    fc.asyncProperty(fc.boolean(), fc.uint8Array({ maxLength: 64 }), async (wasm, bytes) => {
      const file = join(dir, 'x.wasm');
      writeFileSync(file, Uint8Array.from([...(wasm ? header : []), ...bytes]));
      const { problem } = await inspectModule(file);
      // None of these few bytes can be a whole command.
      expect(problem).toMatch(/\S/);
    }),
    { numRuns: 300 },
  );
});

it('a plan survives every path', () => {
  const decode = (line: string) =>
    line
      .split('\t')
      .map((w) => w.replace(/%([0-9a-f]{2})/gi, (_, h) => String.fromCharCode(Number.parseInt(h, 16))));
  fc.assert(
    fc.property(fc.array(fc.tuple(fc.constant('arg'), fc.string())), (records) => {
      const lines = writePlan(records).split('\n').slice(0, -1);
      expect(lines.map(decode)).toEqual(records);
    }),
  );
});

describe('what the guest sees of volumes', () => {
  const volume = (containerPath: string, isDirectory: boolean, readOnly = false) => ({
    ...{ hostPath: `/host${containerPath}`, containerPath, isDirectory, readOnly },
  });

  it('directories in order, files in parents of their own or in a mounted one, the working directory again', () => {
    const { preopens, mounts } = layOut(
      [volume('/etc/one', false, true), volume('/data', true), volume('/data/two', false)],
      { jailed: true, idmap: true, workingDir: '/data/' },
    );
    const two = { name: 'two', host: '/v/2', readOnly: false };
    expect(preopens).toEqual([
      { guest: '/data', host: '/v/1', readOnly: false, files: [two] },
      { guest: '/etc', readOnly: true, files: [{ name: 'one', host: '/v/0', readOnly: true }] },
      { guest: '.', host: '/v/1', readOnly: false, files: [two] },
    ]);
    expect(mounts.map((m) => [m.source, m.target, m.attributes & 1])).toEqual([
      ['/host/etc/one', '/v/0', 1],
      ['/host/data', '/v/1', 0],
      ['/host/data/two', '/v/2', 0],
    ]);
  });

  it.each([
    ['/data/a/b', '/v/0', 'a/b'],
    ['/data/inner/x/', '/v/1', 'x'],
    ['/database', undefined, undefined],
    ['/etc/x', undefined, undefined],
    ['/', undefined, undefined],
  ])('a working directory %s is found in the innermost volume', (workingDir, host, below) => {
    const { preopens } = layOut(
      [volume('/data', true), volume('/data/inner', true), volume('/etc/one', false)],
      { jailed: true, idmap: true, workingDir },
    );
    const home = preopens.find((p) => p.guest === '.');
    expect([home?.host, home?.below]).toEqual([host, below]);
  });
});

describe.skipIf(process.getuid?.() !== 0)('control groups of version 2', () => {
  it('get limits, weight, quota and figures in their files', async () => {
    writeFileSync(join(dir, 'cgroup.controllers'), 'cpuset cpu io memory pids\n');
    const groups = await detectCgroups('coxswain/x', [{ type: 'cgroup2', path: dir, options: [] }]);
    expect(groups).toMatchObject({ version: 2, hasMemory: true });
    const { procs, oom } = await groups.create('c', { memoryBytes: 1 << 20, cpuRequestMilli: 500, pids: 9 });
    await groups.setQuota('c', 250);
    const at = join(dir, 'coxswain/x/c');
    const read = (name: string) => readFileSync(join(at, name), 'utf8');
    expect(procs).toEqual([join(at, 'cgroup.procs')]);
    expect(oom).toBe(join(at, 'memory.events'));
    expect([read('memory.max'), read('memory.swap.max'), read('pids.max')]).toEqual(['1048576', '0', '9']);
    expect([read('cpu.weight'), read('cpu.max')]).toEqual(['20', '25000 100000']);
    expect(readFileSync(join(dir, 'coxswain/x/cgroup.subtree_control'), 'utf8')).toBe('+memory +cpu +pids');
    writeFileSync(join(at, 'memory.current'), '5000\n');
    writeFileSync(join(at, 'memory.stat'), 'anon 1\ninactive_file 2000\n');
    writeFileSync(join(at, 'cpu.stat'), 'usage_usec 7\n');
    expect(await groups.stats('c')).toEqual({ cpuNanos: 7000, memoryBytes: 3000 });
  });

  it('are hastened by moving this process to where it is', async () => {
    writeFileSync(join(dir, 'cgroup.controllers'), 'memory pids\n');
    const groups = await detectCgroups('x', [{ type: 'cgroup2', path: dir, options: [] }]);
    const own = join(dir, /^0::(.*)$/m.exec(readFileSync('/proc/self/cgroup', 'utf8'))![1]!);
    const procs = join(own, 'cgroup.procs');
    await groups.hasten();
    expect(existsSync(procs)).toBe(false);
    mkdirSync(own, { recursive: true });
    writeFileSync(procs, '');
    await groups.hasten();
    expect(readFileSync(procs, 'utf8')).toBe(`${process.pid}`);
  });

  it('are not used where the kernel gives none', async () => {
    mkdirSync(join(dir, 'empty'));
    writeFileSync(join(dir, 'empty/cgroup.controllers'), '\n');
    const groups = await detectCgroups('x', [{ type: 'cgroup2', path: join(dir, 'empty'), options: [] }]);
    expect(groups).toMatchObject({ version: 0, hasMemory: false });
    expect(await groups.create('c', { pids: 1 })).toEqual({ procs: [] });
  });
});

it('a process id of another time is not the process', () => {
  const [, rest = ''] = /\) (.*)/s.exec(readFileSync('/proc/self/stat', 'latin1')) ?? [];
  const startTime = rest.split(' ')[19]!;
  expect(isAlive({ pid: process.pid, startTime })).toBe(true);
  expect(isAlive({ pid: process.pid, startTime: `${Number(startTime) - 1}` })).toBe(false);
});
