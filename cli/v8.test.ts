import { constants, PerformanceObserver } from 'node:perf_hooks';
import { setTimeout as sleep } from 'node:timers/promises';
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
