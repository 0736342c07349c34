import fc from 'fast-check';
import type { PodDisruptionBudget } from 'kubernetes-types/policy/v1.js';
import { describe, expect, it } from 'vitest';
import { aNode, aPod } from '../testing/objects.js';
import { objection, wishesOf } from './filters.js';
import { preempt } from './preempt.js';
import { Ledger, NodeInfo, type PodInfo, podInfo, priorityOf } from './snapshot.js';

const pod = (name: string, priority: number, gi: number, started = '2024-01-01T00:00:00Z'): PodInfo => {
  const p = aPod(name, { priority }, { memory: `${gi}Gi` });
  return podInfo({ ...p, metadata: { ...p.metadata, uid: name }, status: { startTime: started } });
};
/** Nodes of 4 GiB with these pods. */
function cluster(nodes: Record<string, PodInfo[]>): Ledger {
  const ledger = new Ledger();
  for (const [name, there] of Object.entries(nodes)) {
    ledger.setNode(name, aNode(name));
    for (const p of there) ledger.place(p, name);
  }
  return ledger;
}
const outcome = (p: PodInfo, ledger: Ledger) => {
  const way = preempt(p, undefined, ledger);
  return way ? `${way.node}: ${way.victims.map((v) => v.key.split('/')[1]).join(' ')}` : 'nowhere';
};

describe('preemption', () => {
  const cases: [what: string, gi: number, nodes: Record<string, PodInfo[]>, text: string][] = [
    ['nobody matters less', 3, { a: [pod('x', 10, 3)] }, 'nowhere'],
    ['it would not fit all the same', 3, { a: [pod('x', 20, 2), pod('y', 0, 1)] }, 'nowhere'],
    ['the fewest', 3, { a: [pod('x', 0, 1), pod('y', 0, 3)] }, 'a: y'],
    ['the least important of a node', 2, { a: [pod('x', 1, 2), pod('y', 2, 2)] }, 'a: x'],
    ['the lowest highest victim', 3, { a: [pod('x', 5, 4)], b: [pod('y', 1, 4)] }, 'b: y'],
    [
      'the smallest sum',
      4,
      { a: [pod('x', 5, 2), pod('z', 5, 2)], b: [pod('y', 5, 2), pod('w', 4, 2)] },
      'b: y w',
    ],
    ['fewer victims', 4, { a: [pod('x', 5, 2), pod('z', 5, 2)], b: [pod('y', 5, 4)] }, 'b: y'],
    [
      'the younger',
      3,
      { a: [pod('x', 5, 4, '2024-01-01T00:00:00Z')], b: [pod('y', 5, 4, '2024-02-01T00:00:00Z')] },
      'b: y',
    ],
  ];
  it.each(cases)('%s', (_, gi, nodes, text) => {
    expect(outcome(pod('p', 10, gi), cluster(nodes))).toBe(text);
  });

  it('leaves a place alone that somebody as important waits for', () => {
    const ledger = cluster({ a: [pod('x', 0, 1)] });
    ledger.nominate(pod('first', 10, 3), 'a');
    expect(outcome(pod('p', 10, 2), ledger)).toBe('nowhere');
    expect(outcome(pod('q', 11, 4), ledger)).toBe('a: x');
  });

  it('disrupts no more than budgets allow, unless nothing else helps', () => {
    const budget = (
      disruptionsAllowed: number,
      disruptedPods?: Record<string, string>,
    ): PodDisruptionBudget => ({
      metadata: { name: 'b', namespace: 'default' },
      spec: { selector: { matchLabels: { app: 'guarded' } } },
      status: {
        disruptionsAllowed,
        currentHealthy: 1,
        desiredHealthy: 1,
        expectedPods: 1,
        ...(disruptedPods ? { disruptedPods } : {}),
      },
    });
    const guarded = (name: string, priority: number, gi: number): PodInfo => {
      const p = pod(name, priority, gi);
      return { ...p, pod: { ...p.pod, metadata: { ...p.pod.metadata, labels: { app: 'guarded' } } } };
    };
    const victims = (ledger: Ledger, gi: number, ...budgets: PodDisruptionBudget[]) =>
      preempt(pod('p', 10, gi), undefined, ledger, budgets)!
        .victims.map((v) => v.uid)
        .join(' ');
    const two = cluster({ a: [guarded('x', 0, 2), pod('y', 5, 2)] });
    expect(victims(two, 2)).toBe('x');
    expect(victims(two, 2, budget(0))).toBe('y');
    expect(victims(two, 2, budget(1))).toBe('x');
    expect(victims(two, 2, budget(0, { x: '2024-01-01T00:00:00Z' }))).toBe('x');
    expect(victims(two, 4, budget(0))).toBe('y x');
    const nodes = cluster({ a: [guarded('x', 0, 4)], b: [pod('y', 5, 4)] });
    expect(victims(nodes, 4, budget(0))).toBe('y');
  });

  it('makes room by whom the pod must be apart from, or evenly spread with', () => {
    const labelled = (name: string, priority: number, gi: number, spec: object = {}): PodInfo => {
      const p = pod(name, priority, gi);
      const labels = { app: 'web' };
      return {
        ...p,
        pod: { ...p.pod, metadata: { ...p.pod.metadata, labels }, spec: { ...p.pod.spec!, ...spec } },
      };
    };
    const term = { topologyKey: 'kubernetes.io/hostname', labelSelector: { matchLabels: { app: 'web' } } };
    const REQUIRED = 'requiredDuringSchedulingIgnoredDuringExecution';
    const apart = { affinity: { podAntiAffinity: { [REQUIRED]: [term] } } };
    expect(outcome(labelled('p', 10, 1, apart), cluster({ a: [labelled('x', 0, 1), pod('y', 0, 1)] }))).toBe(
      'a: x',
    );
    expect(outcome(labelled('p', 10, 1), cluster({ a: [labelled('x', 0, 1, apart)] }))).toBe('a: x');
    const spread = {
      topologySpreadConstraints: [{ ...term, maxSkew: 1, whenUnsatisfiable: 'DoNotSchedule' }],
    };
    const uneven = cluster({
      a: [labelled('x', 20, 4)],
      b: [labelled('u', 1, 1), labelled('v', 2, 1), labelled('w', 3, 1)],
    });
    // One more Gi would be enough for it, but then b had two more than a.
    expect(outcome(labelled('p', 10, 2, spread), uneven)).toBe('b: v u');
  });

  it('takes only who matters less, makes the pod fit, and nobody in vain', () => {
    const aPlaced = fc.record({
      priority: fc.integer({ min: 0, max: 4 }),
      gi: fc.integer({ min: 1, max: 3 }),
    });
    fc.assert(
      fc.property(
        fc.array(fc.array(aPlaced, { maxLength: 4 }), { minLength: 1, maxLength: 4 }),
        fc.integer({ min: 0, max: 4 }),
        fc.integer({ min: 1, max: 4 }),
        (nodes, priority, gi) => {
          const ledger = cluster({});
          nodes.forEach((there, n) => {
            ledger.setNode(`n${n}`, aNode(`n${n}`));
            let free = 4;
            there.forEach((x, i) => {
              if (x.gi > free) return;
              free -= x.gi;
              ledger.place(pod(`p${n}${i}`, x.priority, x.gi), `n${n}`);
            });
          });
          const p = pod('p', priority, gi);
          const wishes = wishesOf(p, undefined, ledger);
          const fits = (node: string, without: readonly PodInfo[]) => {
            const left = NodeInfo.copy(ledger.nodes.get(node)!);
            for (const v of without) left.remove(v.uid);
            return objection(wishes, left) === undefined;
          };
          // The scheduler asks only when the pod fits nowhere.
          fc.pre([...ledger.nodes.keys()].every((n) => !fits(n, [])));
          const way = preempt(p, undefined, ledger);
          if (!way) {
            for (const [name, n] of ledger.nodes)
              expect(
                fits(
                  name,
                  [...n.pods.values()].filter((v) => priorityOf(v) < priority),
                ),
              ).toBe(false);
            return;
          }
          expect(way.victims.every((v) => priorityOf(v) < priority)).toBe(true);
          expect(fits(way.node, way.victims)).toBe(true);
          for (const kept of way.victims)
            expect(
              fits(
                way.node,
                way.victims.filter((v) => v !== kept),
              ),
            ).toBe(false);
        },
      ),
    );
  });
});
