import fc from 'fast-check';
import type { Pod } from 'kubernetes-types/core/v1.js';
import { describe, expect, it } from 'vitest';
import { qosClassOf } from '../../api/kinds/qos.js';
import { type Candidate, evictionMessage, requestOf, starved, victim } from './eviction.js';

const MIB = 2 ** 20;

interface Shape {
  usedMi: number;
  requestMi: number;
  limitMi: number;
  priority: number;
}
const shape = fc.record({
  usedMi: fc.nat(64),
  requestMi: fc.nat(64),
  limitMi: fc.nat(64),
  priority: fc.oneof(fc.integer({ min: -3, max: 3 }), fc.constant(2_000_001_000)),
});
const candidate = (s: Shape, i = 0): Candidate => {
  const limit = s.limitMi > 0 ? Math.max(s.limitMi, s.requestMi) : 0;
  const amounts = (mi: number): Record<string, string> => (mi > 0 ? { memory: `${mi}Mi`, cpu: '100m' } : {});
  const pod: Pod = {
    metadata: { name: `p${i}` },
    spec: {
      priority: s.priority,
      containers: [{ name: 'c', resources: { requests: amounts(s.requestMi), limits: amounts(limit) } }],
    },
  };
  return { pod, usedBytes: s.usedMi * MIB, containers: new Map([['c', s.usedMi * MIB]]) };
};
const beyond = (c: Candidate) => c.usedBytes - requestOf(c.pod, 'memory');

describe('whom a node low on memory evicts', () => {
  const all = (property: (chosen: Candidate | undefined, all: Candidate[]) => void) =>
    fc.assert(
      fc.property(fc.array(shape, { maxLength: 12 }), (shapes) => {
        const candidates = shapes.map(candidate);
        property(victim('memory', candidates), candidates);
      }),
    );
  const evictable = (c: Candidate) => c.usedBytes > 0 && c.pod.spec!.priority! < 2_000_000_000;

  it('somebody, unless nobody can be', () => {
    all((chosen, list) => expect(chosen === undefined).toBe(!list.some(evictable)));
  });
  it('never who is critical or uses nothing', () => {
    all((chosen) => chosen && expect(evictable(chosen)).toBe(true));
  });
  it('nobody within the request while another is beyond his', () => {
    all((chosen, list) => {
      if (chosen && beyond(chosen) <= 0)
        expect(list.filter(evictable).every((c) => beyond(c) <= 0)).toBe(true);
    });
  });
  it('nobody of a higher priority while one of a lower is as guilty', () => {
    all((chosen, list) => {
      if (!chosen) return;
      const guilty = list.filter((c) => evictable(c) && beyond(c) > 0 === beyond(chosen) > 0);
      const least = Math.min(...guilty.map((c) => c.pod.spec!.priority!));
      expect(chosen.pod.spec!.priority).toBe(least);
      const most = Math.max(...guilty.filter((c) => c.pod.spec!.priority === least).map(beyond));
      expect(beyond(chosen)).toBe(most);
    });
  });
  it('no Guaranteed pod within its limit before a BestEffort or Burstable one beyond its request', () => {
    all((chosen, list) => {
      if (!chosen || qosClassOf(chosen.pod) !== 'Guaranteed' || beyond(chosen) > 0) return;
      for (const c of list.filter(evictable))
        if (qosClassOf(c.pod) !== 'Guaranteed') expect(beyond(c)).toBeLessThanOrEqual(0);
    });
  });
  it('the same, whatever the order they come in', () => {
    fc.assert(
      fc.property(
        fc.uniqueArray(shape, { maxLength: 10, selector: (s) => `${s.priority} ${s.usedMi - s.requestMi}` }),
        (shapes) => {
          const candidates = shapes.filter((s) => s.limitMi === 0).map(candidate);
          expect(victim('memory', [...candidates].reverse())).toBe(victim('memory', candidates));
        },
      ),
    );
  });
});

it('memory goes before storage; what pods cannot give back is no reason', () => {
  const s = (signal: string) => ({ signal, limit: 1, available: 0 });
  expect(starved([s('nodefs.available'), s('memory.available')])?.resource).toBe('memory');
  expect(starved([s('pid.available'), s('imagefs.available')])?.resource).toBe('ephemeral-storage');
  expect(starved([s('pid.available'), s('nodefs.inodesFree')])).toBeUndefined();
});

it("says it in the kubelet's words", () => {
  const shortage = { signal: 'memory.available', limit: 100 * MIB, available: 52_084 * 1024 };
  const c = candidate({ usedMi: 30, requestMi: 10, limitMi: 0, priority: 0 });
  expect(evictionMessage('memory', shortage, c)).toBe(
    'The node was low on resource: memory. Threshold quantity: 100Mi, available: 52084Ki. Container c was using 30Mi, request is 10Mi, has larger consumption of memory. ',
  );
});
