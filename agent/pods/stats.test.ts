import { describe, expect, it } from 'vitest';
import { silentLog } from '../../api/log.js';
import { VirtualClock } from '../../api/testing/virtual-clock.js';
import type { NodeStats } from '../../api/wire/streams.js';
import type { Shim } from '../../shims/shim.js';
import { type Measured, StatsMeter } from './stats.js';

/** A device whose node uses half a core, and whose containers use as many cores as `cores` says. */
function device() {
  const clock = new VirtualClock();
  const cores: Record<string, number> = { a: 0.25 };
  let asked = 0;
  let broken = false;
  const shim = {
    handler: 'fake',
    stats: async () => {
      asked++;
      if (broken) throw new Error('no runtime');
      return Object.entries(cores).map(([containerId, c]) => ({
        containerId,
        cpuNanos: Math.round(clock.monotonic() * 1e6 * c),
        memoryBytes: 2_097_152,
      }));
    },
  } as unknown as Shim;
  const pods: Measured[] = [{ uid: '0a1b2c3d-4e5f', containers: ['a'] }];
  const meter = new StatsMeter({
    node: () => ({ cpuNanos: Math.round(clock.monotonic() * 1e6 * 0.5), memoryBytes: 1_048_576 }),
    shims: () => [shim],
    pods: () => pods,
    clock,
    log: silentLog,
  });
  const ask = async (p?: 1): Promise<NodeStats> => {
    let done = false;
    const answer = meter.stats(p ? { p } : {}).finally(() => {
      done = true;
    });
    for (let i = 0; i < 20 && !done; i++) await clock.advance(100);
    return answer;
  };
  return { clock, cores, pods, ask, meter, asked: () => asked, fail: () => (broken = true) };
}

describe('usage', () => {
  it('is measured over a second at first, and from then on since the question before', async () => {
    const d = device();
    expect(await d.ask(1)).toEqual({
      w: 1000,
      n: [500_000, 1024],
      p: [['0a1b2c3d', [250_000, 2048]]],
    });
    await d.clock.advance(15_000);
    const { w, n, p } = await d.ask(1);
    expect(w).toBeGreaterThanOrEqual(15_000);
    expect(n[0]).toBe(500_000);
    expect(p).toEqual([['0a1b2c3d', [250_000, 2048]]]);
    expect(d.asked()).toBe(3);
  });

  it('of long ago is no beginning for a window, nor is one without the container', async () => {
    const d = device();
    await d.ask(1);
    await d.clock.advance(3_600_000);
    expect((await d.ask(1)).w).toBe(1000);
    d.cores['b'] = 1;
    d.pods[0]!.containers = ['a', undefined, 'b', undefined];
    await d.clock.advance(15_000);
    expect(await d.ask(1)).toMatchObject({
      w: 1000,
      p: [['0a1b2c3d', [250_000, 2048], null, [1_000_000, 2048]]],
    });
  });

  it('of the node alone asks no runtime', async () => {
    const d = device();
    expect(await d.ask()).toEqual({ w: 1000, n: [500_000, 1024] });
    expect(d.asked()).toBe(0);
  });

  it('leaves out a pod with a container of which nothing is known, and all of a runtime that does not answer', async () => {
    const d = device();
    d.pods.push(
      { uid: 'ffffffff-0', containers: ['a', 'unknown'] },
      { uid: 'eeeeeeee-0', containers: [undefined] },
    );
    expect((await d.ask(1)).p).toEqual([['0a1b2c3d', [250_000, 2048]]]);
    d.fail();
    await d.clock.advance(5_000);
    expect(await d.ask(1)).toMatchObject({ n: [500_000, 1024], p: [] });
  });

  it('is measured once for those who ask at the same time', async () => {
    const d = device();
    const both = [d.meter.stats({ p: 1 }), d.meter.stats({}), d.meter.stats({ p: 1 })];
    await d.clock.advance(1_000);
    await d.clock.advance(1_000);
    const [first, ...others] = await Promise.all(both);
    for (const o of others) expect(o).toBe(first);
    expect(d.asked()).toBe(2);
  });
});
