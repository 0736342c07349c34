import fc from 'fast-check';
import type { Deployment, ReplicaSet } from 'kubernetes-types/apps/v1.js';
import { describe, expect, it } from 'vitest';
import {
  fence,
  MAX_REPLICAS,
  newSize,
  oldSizes,
  proportionalSizes,
  type Rs,
  specReplicas,
  statusOf,
  wanted,
} from './rollout.js';

const dep = (replicas: number, maxSurge: number | string, maxUnavailable: number | string): Deployment => ({
  metadata: { name: 'd', namespace: 'n', generation: 1 },
  spec: {
    replicas,
    strategy: { type: 'RollingUpdate', rollingUpdate: { maxSurge, maxUnavailable } },
    selector: {},
    template: {},
  },
});
let made = 0;
const set = (replicas: number, available = replicas, max?: number): ReplicaSet => ({
  metadata: {
    name: `rs${made++}`,
    creationTimestamp: new Date(Date.UTC(2026, 0, 1) + made * 1000).toISOString(),
    annotations: max === undefined ? {} : { [MAX_REPLICAS]: `${max}` },
  },
  spec: { replicas, selector: {} },
  status: { replicas, availableReplicas: available, readyReplicas: available },
});

describe('fence', () => {
  it.each([
    [10, '25%', '25%', 3, 2],
    [3, '25%', '25%', 1, 0],
    [1, '25%', '25%', 1, 0],
    [4, 0, 0, 0, 1],
    [4, 0, '10%', 0, 1],
    [2, '100%', 5, 2, 2],
    [0, '25%', '25%', 0, 0],
  ])('%i replicas, surge %s, unavailable %s', (n, s, u, maxSurge, maxUnavailable) => {
    expect(fence(dep(n, s, u))).toEqual({ maxSurge, maxUnavailable });
  });
  it('Recreate has none', () => {
    expect(
      fence({ ...dep(4, 1, 1), spec: { ...dep(4, 1, 1).spec!, strategy: { type: 'Recreate' } } }),
    ).toEqual({
      maxSurge: 0,
      maxUnavailable: 0,
    });
  });
});

describe('a rolling update, one pure step after the other', () => {
  const arb = fc.record({
    replicas: fc.integer({ min: 0, max: 20 }),
    surge: fc.oneof(fc.integer({ min: 0, max: 5 }), fc.constantFrom('0%', '25%', '100%')),
    unavailable: fc.oneof(fc.integer({ min: 0, max: 5 }), fc.constantFrom('0%', '25%', '100%')),
    old: fc.array(fc.record({ n: fc.integer({ min: 0, max: 8 }), down: fc.integer({ min: 0, max: 8 }) }), {
      maxLength: 4,
    }),
    luck: fc.infiniteStream(fc.boolean()),
  });

  it('stays within its fence and ends, in whatever order pods get ready', () => {
    fc.assert(
      fc.property(arb, ({ replicas, surge, unavailable, old: olds, luck }) => {
        const d = dep(replicas, surge, unavailable);
        const { maxSurge, maxUnavailable } = fence(d);
        let fresh = set(0);
        let old = olds.map(({ n, down }) => set(n, Math.max(0, n - down)));
        const start = wanted(old as Rs[]);
        const startAvailable = old.reduce((a, rs) => a + rs.status!.availableReplicas!, 0);
        const resize = (rs: ReplicaSet, n: number): ReplicaSet => ({
          ...rs,
          spec: { ...rs.spec!, replicas: n },
          // Pods that are not ready go first.
          status: { replicas: n, availableReplicas: Math.min(n, rs.status!.availableReplicas!) },
        });
        for (let step = 0; step < 500; step++) {
          const grown = newSize(d, [...old, fresh] as Rs[], specReplicas(fresh as Rs));
          if (grown !== fresh.spec!.replicas) fresh = resize(fresh, grown);
          else {
            const sizes = oldSizes(d, fresh as Rs, old as Rs[]);
            old = old.map((rs) => (sizes.has(rs as Rs) ? resize(rs, sizes.get(rs as Rs)!) : rs));
          }
          const all = [...old, fresh];
          expect(old.every((rs) => rs.spec!.replicas! >= 0)).toBe(true);
          expect(wanted(all as Rs[])).toBeLessThanOrEqual(Math.max(start, replicas + maxSurge));
          const available = all.reduce((a, rs) => a + rs.status!.availableReplicas!, 0);
          expect(available).toBeGreaterThanOrEqual(Math.min(startAvailable, replicas - maxUnavailable));
          if (wanted(old as Rs[]) === 0 && fresh.status!.availableReplicas === replicas) return;
          const ready = fresh.status!.availableReplicas! < fresh.spec!.replicas! && luck.next().value;
          if (ready)
            fresh = {
              ...fresh,
              status: { ...fresh.status!, availableReplicas: fresh.status!.availableReplicas! + 1 },
            };
        }
        throw new Error('does not end');
      }),
      { numRuns: 500 },
    );
  });

  it('does not count on replicas that an old status still shows', () => {
    const d = dep(10, 0, 2);
    // Scaled from 10 to 8, which its status does not know yet; both of the new one are available.
    const old = { ...set(10), spec: { replicas: 8, selector: {} } };
    expect([...oldSizes(d, set(2) as Rs, [old] as Rs[]).values()]).toEqual([6]);
  });
});

describe('proportional scaling', () => {
  it('adds up to what is wanted and never goes below zero', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 0, max: 30 }),
        fc.integer({ min: 0, max: 5 }),
        fc.array(fc.integer({ min: 1, max: 15 }), { minLength: 2, maxLength: 5 }),
        (target, surge, sizes) => {
          const d = dep(target, surge, 0);
          const before = sizes.reduce((a, b) => a + b, 0);
          const out = proportionalSizes(d, sizes.map((n) => set(n, n, before)) as Rs[]);
          const after = [...out.values()];
          expect(after.every((n) => n >= 0)).toBe(true);
          expect(after.reduce((a, b) => a + b, 0)).toBe(target > 0 ? target + fence(d).maxSurge : 0);
        },
      ),
    );
  });
});

describe('status', () => {
  it('is a fixed point: computing it again from itself changes nothing', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 0, max: 6 }),
        fc.integer({ min: 0, max: 6 }),
        fc.integer({ min: 0, max: 6 }),
        fc.integer({ min: 0, max: 6 }),
        (target, now, ready, oldNow) => {
          const d = dep(target, 1, 1);
          const fresh = set(now, Math.min(now, ready)) as Rs;
          const all = [fresh, set(oldNow) as Rs];
          const first = statusOf(d, fresh, all, 1_000_000, true);
          const again = statusOf({ ...d, status: first }, fresh, all, 2_000_000, true);
          // One more time: progress is told of the change only, so that the second is the last.
          expect(statusOf({ ...d, status: again }, fresh, all, 3_000_000, true)).toEqual(again);
        },
      ),
    );
  });
});
