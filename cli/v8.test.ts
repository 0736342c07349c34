import { setTimeout as sleep } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { collectWhenQuiet } from './v8.js';

test('what a burst left behind is collected once it is quiet', async () => {
  const burst = () => {
    const left = Array.from({ length: 100_000 }, (_, i) => ({ i }));
    return new WeakRef(left);
  };
  const stop = collectWhenQuiet(20);
  try {
    const left = burst();
    for (let i = 0; i < 1000 && left.deref(); i++) await sleep(20);
    expect(left.deref()).toBeUndefined();
  } finally {
    stop();
  }
});
