import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { isQuantity, milliQuantity, quantity } from './quantity.js';

describe('quantities', () => {
  it.each([
    ['1', 1, 1000],
    ['100m', 1, 100],
    ['1.1', 2, 1100],
    ['0.1', 1, 100],
    ['2e3', 2000, 2_000_000],
    ['1E', 1e18, 1e21],
    ['100E', Number(2n ** 63n - 1n), Number((2n ** 63n - 1n) * 1000n)],
    ['1E3', 1000, 1_000_000],
    ['128Mi', 134_217_728, 134_217_728_000],
    ['1.5Gi', 1_610_612_736, 1_610_612_736_000],
    ['1k', 1000, 1_000_000],
    ['999n', 1, 1],
    ['.5', 1, 500],
    ['5.', 5, 5000],
    ['-100m', -1, -100],
    ['0', 0, 0],
  ])('%s', (text, whole, milli) => {
    expect([quantity(text), milliQuantity(text)]).toEqual([whole, milli]);
  });

  it.each(['', 'x', '1 Gi', '1Kib', '1ki', 'm', '--1', '1e', 'NaN', '0x10'])('refuses %j', (text) => {
    expect(isQuantity(text)).toBe(false);
    expect(() => quantity(text)).toThrow(/^quantities must match|^unable to parse/);
  });

  it('reads back what it is given in millis', () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 2 ** 40 }), (n) => {
        expect(milliQuantity(`${n}m`)).toBe(n);
        expect(milliQuantity((n / 1000).toFixed(3))).toBe(n);
        expect(quantity(`${n}`)).toBe(n);
      }),
    );
  });
});
