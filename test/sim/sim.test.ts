/** The whole system under faults: see docs/simulator.md. `npm run sim` runs more seeds and replays one. */
import { beforeAll, describe, expect, it } from 'vitest';
import { type Keys, makeKeys, simulate } from './world/world.js';

/** So many as fit: the budget is real time, since what a seed costs depends on the machine. */
const BUDGET_MS = 120_000;
const SEEDS = 300;
const AT_LEAST = 20;

let keys: Keys;
beforeAll(async () => {
  keys = await makeKeys();
});

describe('simulation', () => {
  it('gives the same trace for the same seed, with other keys as well', async () => {
    const first = await simulate({ seed: 4711 }, keys);
    const again = await simulate({ seed: 4711 }, await makeKeys());
    const other = await simulate({ seed: 4712 }, keys);
    expect(first.problems).toEqual([]);
    expect(first.messages).toBeGreaterThan(50);
    expect(again.hash).toBe(first.hash);
    expect(other.hash).not.toBe(first.hash);
  }, 60_000);

  it('holds its promises under every seed', async () => {
    const begun = performance.now();
    let seed = 1;
    for (; seed <= SEEDS && (seed <= AT_LEAST || performance.now() - begun < BUDGET_MS); seed++) {
      const { problems, tail } = await simulate({ seed }, keys);
      if (problems.length > 0)
        expect.fail(
          `seed ${seed}:\n${problems.join('\n')}\n\n${tail.slice(-40).join('\n')}\n\n` +
            `replay: npm run sim -- --start ${seed} --seeds 1 --trace`,
        );
    }
    console.log(`${seed - 1} seeds`);
  }, 300_000);

  it('holds them for a fleet of a hundred devices', async () => {
    const { problems, tail } = await simulate({ seed: 7, devices: 100, steps: 8 }, await makeKeys(100));
    if (problems.length > 0)
      expect.fail(
        `${problems.join('\n')}\n\n${tail.slice(-40).join('\n')}\n\n` +
          'replay: npm run sim -- --start 7 --seeds 1 --steps 8 --devices 100 --trace',
      );
  }, 300_000);
});
