import { execFile } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { constants, PerformanceObserver } from 'node:perf_hooks';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { expect, test } from 'vitest';
import { collectWhenQuiet } from './v8.js';

test('what a burst left behind is collected once it is quiet, and then no more', async () => {
  let asked = 0;
  const observer = new PerformanceObserver((list) => {
    // V8 never collects in this way by itself.
    for (const { detail } of list.getEntries() as unknown as { detail: { kind: number; flags: number } }[])
      if (
        detail.kind === constants.NODE_PERFORMANCE_GC_MAJOR &&
        detail.flags & constants.NODE_PERFORMANCE_GC_FLAGS_FORCED
      )
        asked++;
  });
  observer.observe({ entryTypes: ['gc'] });
  const stop = collectWhenQuiet(20);
  try {
    for (let i = 0; i < 1000 && asked === 0; i++) await sleep(20);
    expect(asked).toBe(1);
    await sleep(200);
    expect(asked).toBe(1);
  } finally {
    stop();
    observer.disconnect();
  }
});

test('the young generation grows with what survives, but no further than allowed', async () => {
  // In a process of its own, since a heap that has grown before says nothing.
  const run = async (...args: string[]) => (await promisify(execFile)(process.execPath, args)).stdout;
  const root = join(import.meta.dirname, '..');
  const dir = await mkdtemp(join(tmpdir(), 'cox-v8-'));
  try {
    const tsc = join(root, 'node_modules/typescript/bin/tsc');
    const flags = [
      '--ignoreConfig',
      '--noCheck',
      '--module',
      'nodenext',
      '--target',
      'es2022',
      '--outDir',
      dir,
    ];
    await run(tsc, join(import.meta.dirname, 'v8.ts'), ...flags);
    await writeFile(join(dir, 'package.json'), '{"type":"module"}');
    const largest = async (limited: boolean) => {
      const program = `
        import { getHeapSpaceStatistics } from 'node:v8';
        import { useModestMemory } from ${JSON.stringify(join(dir, 'v8.js'))};
        if (${limited}) useModestMemory();
        let kept = [];
        let most = 0;
        for (let i = 0; i < 500; i++) {
          for (let j = 0; j < 1000; j++) kept.push({ j, of: [i] });
          if (kept.length > 100_000) kept = [];
          const young = getHeapSpaceStatistics().find((s) => s.space_name === 'new_space');
          most = Math.max(most, young.space_size / 2 ** 20);
          await new Promise(setImmediate);
        }
        console.log(most);`;
      return Number(await run('--input-type=module', '-e', program));
    };
    // Two halves of 4 MB each.
    expect(await largest(true)).toBe(8);
    expect(await largest(false)).toBeGreaterThan(8);
  } finally {
    await rm(dir, { recursive: true });
  }
});
