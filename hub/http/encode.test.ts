import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { FormCache } from './encode.js';

describe('FormCache', () => {
  it('makes once what is asked for often', () => {
    let made = 0;
    const cache = new FormCache(100, (o) => `${++made}:${JSON.stringify(o)}`);
    const o = { a: 1 };
    expect([cache.get(o), cache.get(o)]).toEqual(['1:{"a":1}', '1:{"a":1}']);
  });

  it('forgets what was not asked for while two budgets went by, and always answers right', () => {
    const budget = 20;
    fc.assert(
      fc.property(fc.array(fc.nat(9), { maxLength: 60 }), (asked) => {
        const objects = Array.from({ length: 10 }, (_, n) => ({ n }));
        const cache = new FormCache<string>(budget, (o) => JSON.stringify(o));
        for (const n of asked) expect(cache.get(objects[n]!)).toBe(`{"n":${n}}`);
      }),
    );
    let made = 0;
    const cache = new FormCache(budget, (o) => {
      made++;
      return JSON.stringify(o); // 7 characters
    });
    const first = { n: 0 };
    cache.get(first);
    for (let n = 1; n < 10; n++) cache.get({ n });
    expect(made).toBe(10);
    cache.get(first);
    expect(made).toBe(11);
  });
});
