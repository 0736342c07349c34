import { expect, it } from 'vitest';
import { VirtualClock } from '../../api/testing/virtual-clock.js';
import { Allowance } from './limiter.js';

it('an allowance is used up, exceeded once, and fills again', async () => {
  const clock = new VirtualClock({ seed: 1 });
  const a = new Allowance(clock, 100, 10);
  expect(a.take(60)).toBe(true);
  expect(a.take(100)).toBe(true);
  expect(a.take(1)).toBe(false);
  await clock.advance(6_000);
  expect(a.take(1)).toBe(false);
  await clock.advance(1_000);
  expect(a.take(1)).toBe(true);
  await clock.advance(3_600_000);
  expect(a.left).toBe(100);
});
