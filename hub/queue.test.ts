import { describe, expect, it } from 'vitest';
import { silentLog } from '../api/log.js';
import { ApiError } from '../api/meta/errors.js';
import { turn, VirtualClock } from '../api/testing/virtual-clock.js';
import { WorkQueue } from './queue.js';

describe('WorkQueue', () => {
  it('works on a key once however often it was added', async () => {
    const seen: string[] = [];
    const q = new WorkQueue('t', async (k) => void seen.push(k), new VirtualClock(), silentLog);
    for (const k of ['a', 'b', 'a', 'a']) q.add(k);
    q.start();
    await turn();
    expect(seen).toEqual(['a', 'b']);
    expect(q.idle).toBe(true);
  });

  it('takes the highest priority first, and the oldest of equals', async () => {
    const seen: string[] = [];
    const q = new WorkQueue('t', async (k) => void seen.push(k), new VirtualClock(), silentLog, {
      priority: (k) => Number(k.slice(1)),
    });
    for (const k of ['a0', 'b5', 'c-1', 'd0', 'e5', 'b5']) q.add(k);
    expect(q.length).toBe(5);
    q.start();
    await turn();
    expect(seen).toEqual(['b5', 'e5', 'a0', 'd0', 'c-1']);
    expect(q.idle).toBe(true);
  });

  it('never works on one key twice at the same time, and again when it was added meanwhile', async () => {
    let inside = 0;
    let most = 0;
    let runs = 0;
    const releases: (() => void)[] = [];
    const q = new WorkQueue(
      't',
      async () => {
        runs++;
        most = Math.max(most, ++inside);
        await new Promise<void>((r) => releases.push(r));
        inside--;
      },
      new VirtualClock(),
      silentLog,
      { concurrency: 4 },
    );
    q.start();
    q.add('a');
    await turn();
    q.add('a');
    q.add('a');
    await turn();
    expect(runs).toBe(1);
    releases.shift()!();
    await turn();
    expect(runs).toBe(2);
    releases.shift()!();
    await turn();
    expect([runs, most, q.idle]).toEqual([2, 1, true]);
  });

  it('backs off exponentially per key up to the bound and forgets after success', async () => {
    const clock = new VirtualClock();
    const at: number[] = [];
    let fail = true;
    const q = new WorkQueue(
      't',
      async () => {
        at.push(clock.monotonic());
        if (fail) throw new Error('no');
      },
      clock,
      silentLog,
      { baseDelayMs: 10, maxDelayMs: 50 },
    );
    q.start();
    q.add('a');
    await clock.advance(200);
    expect(at).toEqual([0, 10, 30, 70, 120, 170]);
    fail = false;
    await clock.advance(50);
    expect(at.at(-1)).toBe(220);
    fail = true;
    q.add('a');
    await clock.advance(10);
    expect(at.slice(-2)).toEqual([250, 260]);
  });

  it('takes the earliest of several delayed wishes; an add overrides them', async () => {
    const clock = new VirtualClock();
    const at: number[] = [];
    const q = new WorkQueue('t', async () => void at.push(clock.monotonic()), clock, silentLog);
    q.start();
    q.addAfter('a', 100);
    q.addAfter('a', 40);
    q.addAfter('a', 70);
    await clock.advance(300);
    expect(at).toEqual([40]);
    q.addAfter('a', 100);
    q.add('a');
    await clock.advance(300);
    expect(at).toEqual([40, 300]);
  });

  it('comes back when the reconciler asks for it', async () => {
    const clock = new VirtualClock();
    const at: number[] = [];
    const q = new WorkQueue(
      't',
      async () => {
        at.push(clock.monotonic());
        return at.length < 3 ? 1000 : undefined;
      },
      clock,
      silentLog,
    );
    q.start();
    q.add('a');
    await clock.advance(10_000);
    expect(at).toEqual([0, 1000, 2000]);
    expect(clock.pending).toBe(0);
  });

  it('stop waits for what is being worked on and does nothing afterwards', async () => {
    const clock = new VirtualClock();
    let release = () => {};
    let ended = 0;
    const q = new WorkQueue(
      't',
      async () => {
        await new Promise<void>((r) => {
          release = r;
        });
        ended++;
        throw new ApiError('Conflict', 'x');
      },
      clock,
      silentLog,
    );
    q.start();
    q.add('a');
    q.add('b');
    let stopped = false;
    const done = q.stop().then(() => {
      stopped = true;
    });
    await turn();
    expect(stopped).toBe(false);
    release();
    await done;
    await clock.advance(100_000);
    expect([ended, clock.pending]).toEqual([1, 0]);
  });

  it('lets other work of the process run between many keys', async () => {
    let done = 0;
    const q = new WorkQueue('t', async () => void done++, new VirtualClock(), silentLog);
    for (let i = 0; i < 1000; i++) q.add(`${i}`);
    q.start();
    let between = -1;
    await new Promise<void>((r) =>
      setImmediate(() => {
        between = done;
        r();
      }),
    );
    expect(between).toBeLessThan(1000);
    while (!q.idle) await turn();
    expect(done).toBe(1000);
  });
});
