import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { VirtualClock } from '../../api/testing/virtual-clock.js';
import { Fairness, type FairnessLimits, type Release } from './fairness.js';

const never = () => new AbortController().signal;

/** Asks as some users would; `log` is who got in, in order. */
function crowd(limits: Partial<FairnessLimits>) {
  const clock = new VirtualClock();
  const fairness = new Fairness(clock, limits);
  const log: string[] = [];
  const inside: { user: string; release: Release }[] = [];
  const refused: string[] = [];
  const ask = (user: string, signal: () => AbortSignal = never): void => {
    const admit = (release: Release | undefined) => {
      if (!release) refused.push(user);
      else {
        log.push(user);
        inside.push({ user, release });
      }
    };
    const entered = fairness.enter(user, false, signal);
    if (entered instanceof Promise) entered.then(admit);
    else admit(entered);
  };
  const settle = () => new Promise<void>((resolve) => setImmediate(resolve));
  return { clock, fairness, log, inside, refused, ask, settle };
}

describe('Fairness', () => {
  it('lets a greedy user wait for itself, not others for it', async () => {
    const c = crowd({ seats: 4, seatsPerUser: 3, queue: 100 });
    for (let i = 0; i < 50; i++) c.ask('greedy');
    await c.settle();
    expect(c.inside).toHaveLength(3);
    c.ask('kubectl');
    expect(c.log.at(-1)).toBe('kubectl');
    // All seats are taken; of the next two the newcomer has one, whatever else waits.
    c.ask('another');
    for (let i = 0; i < 2; i++) c.inside.shift()!.release();
    await c.settle();
    expect(c.log.slice(-2).sort()).toEqual(['another', 'greedy']);
  });

  it('takes turns', async () => {
    const c = crowd({ seats: 1, seatsPerUser: 1 });
    c.ask('first');
    for (const user of ['a', 'a', 'a', 'b', 'b', 'c']) c.ask(user);
    while (c.inside.length) {
      c.inside.shift()!.release();
      await c.settle();
    }
    expect(c.log).toEqual(['first', 'a', 'b', 'c', 'a', 'b', 'a']);
  });

  it('refuses what does not fit into the queues, or waits too long', async () => {
    const c = crowd({ seats: 1, seatsPerUser: 1, queue: 2, waiting: 3, patience: 1000 });
    c.ask('a');
    for (const user of ['a', 'a', 'a', 'b', 'b']) c.ask(user);
    await c.settle();
    expect(c.refused).toEqual(['a', 'b']);
    await c.clock.advance(1000);
    expect(c.refused).toHaveLength(5);
    c.inside.shift()!.release();
    c.ask('b');
    expect(c.log).toEqual(['a', 'b']);
  });

  it('forgets those who have gone', async () => {
    const c = crowd({ seats: 1, seatsPerUser: 1 });
    const abort = new AbortController();
    c.ask('a');
    c.ask('b', () => abort.signal);
    c.ask('c');
    abort.abort();
    await c.settle();
    c.inside.shift()!.release();
    await c.settle();
    expect(c.log).toEqual(['a', 'c']);
  });

  it('lets administrators in, up to a limit of their own', () => {
    const f = new Fairness(new VirtualClock(), { seats: 0, exemptSeats: 1 });
    const release = f.enter('admin', true, never) as Release;
    expect(f.enter('admin', true, never)).toBeUndefined();
    release();
    release();
    expect(f.enter('admin', true, never)).toBeTypeOf('function');
    expect(f.enter('admin', true, never)).toBeUndefined();
  });

  it('leaves half of the long requests to others', () => {
    const f = new Fairness(new VirtualClock(), { longRunning: 4 });
    const first = f.enterLongRunning('a', false)!;
    expect(f.enterLongRunning('a', false)).toBeTypeOf('function');
    expect(f.enterLongRunning('a', false)).toBeUndefined();
    expect(f.enterLongRunning('b', false)).toBeTypeOf('function');
    first();
    expect(f.enterLongRunning('a', false)).toBeTypeOf('function');
    expect(f.enterLongRunning('admin', true)).toBeTypeOf('function');
    expect(f.enterLongRunning('admin', true)).toBeUndefined();
  });

  it('never has more inside than seats, answers everyone, and ends empty', async () => {
    const step = fc.oneof(
      { weight: 3, arbitrary: fc.record({ ask: fc.constantFrom('a', 'b', 'c', 'd') }) },
      { weight: 2, arbitrary: fc.record({ leave: fc.nat(9) }) },
      { weight: 1, arbitrary: fc.record({ pass: fc.nat(700) }) },
    );
    await fc.assert(
      fc.asyncProperty(fc.array(step, { maxLength: 80 }), async (steps) => {
        const c = crowd({ seats: 3, seatsPerUser: 2, queue: 3, waiting: 6, patience: 1000 });
        let asked = 0;
        for (const s of steps) {
          if ('ask' in s) {
            asked++;
            c.ask(s.ask);
          } else if ('leave' in s) c.inside.splice(s.leave % (c.inside.length || 1), 1)[0]?.release();
          else await c.clock.advance(s.pass);
          await c.settle();
          expect(c.inside.length).toBeLessThanOrEqual(3);
          for (const user of ['a', 'b', 'c', 'd'])
            expect(c.inside.filter((i) => i.user === user).length).toBeLessThanOrEqual(2);
        }
        while (c.inside.length) {
          c.inside.shift()!.release();
          await c.settle();
        }
        expect(c.log.length + c.refused.length).toBe(asked);
        // Nothing is left over: all seats are free again.
        for (const user of ['a', 'b', 'c']) c.ask(user);
        expect(c.inside).toHaveLength(3);
      }),
      { numRuns: 100 },
    );
  });
});
