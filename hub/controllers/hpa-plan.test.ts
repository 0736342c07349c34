import fc from 'fast-check';
import type { HorizontalPodAutoscalerSpec } from 'kubernetes-types/autoscaling/v2.js';
import type { Pod } from 'kubernetes-types/core/v1.js';
import { describe, expect, it } from 'vitest';
import { type Past, type PodUsage, paced, replicasFor, requestsOf } from './hpa-plan.js';

const NOW = Date.parse('2026-01-01T12:00:00Z');
const ago = (seconds: number) => new Date(NOW - seconds * 1000).toISOString();

/** Ready for ten minutes, and asking for 100m, unless it is said otherwise. */
const pod = (name: string, status: Partial<Pod['status']> = {}, metadata: object = {}): Pod =>
  ({
    metadata: { name, ...metadata },
    spec: { containers: [{ name: 'app', image: 'x', resources: { requests: { cpu: '100m' } } }] },
    status: {
      phase: 'Running',
      startTime: ago(600),
      conditions: [{ type: 'Ready', status: 'True', lastTransitionTime: ago(590) }],
      ...status,
    },
  }) as Pod;

const usage = (values: Record<string, number>): Map<string, PodUsage> =>
  new Map(Object.entries(values).map(([name, value]) => [name, { value, at: NOW, windowMs: 15_000 }]));

const byUtilization = (percent: number, pods: Pod[]) => ({
  utilization: percent,
  requests: requestsOf(pods, 'cpu', undefined),
});
const count = (pods: Pod[], values: Record<string, number>, percent = 50) =>
  replicasFor(pods.length, pods, usage(values), byUtilization(percent, pods), 'cpu', NOW);

describe('replicas by what pods use', () => {
  const three = [pod('a'), pod('b'), pod('c')];

  it('follow the ratio of use to target, but not the last tenth', () => {
    expect(count(three, { a: 100, b: 100, c: 100 })).toEqual({ replicas: 6, average: 100, utilization: 100 });
    expect(count(three, { a: 54, b: 54, c: 54 }).replicas).toBe(3);
    expect(count(three, { a: 56, b: 56, c: 56 }).replicas).toBe(4);
    expect(count(three, { a: 10, b: 10, c: 10 })).toEqual({ replicas: 1, average: 10, utilization: 10 });
  });

  it('follow an average value as well', () => {
    const to = { average: 50_000 };
    const values = usage({ a: 100_000, b: 100_000, c: 70_000 });
    expect(replicasFor(3, three, values, to, 'memory', NOW)).toEqual({ replicas: 6, average: 90_000 });
  });

  it('count a pod of which nothing is known as idle on the way up and as busy on the way down', () => {
    // 100 + 100 + 0 of 300 is 66 %: up by less than without it.
    expect(count(three, { a: 100, b: 100 }).replicas).toBe(4);
    // 10 + 10 + 100 of 300 is 40 %: stays.
    expect(count(three, { a: 10, b: 10 }).replicas).toBe(3);
    expect(count([...three, pod('d')], { a: 5, b: 5, c: 5 }).replicas).toBe(3);
  });

  it('do not believe the CPU of a pod that has just started', () => {
    const young = pod('c', {
      startTime: ago(20),
      conditions: [{ type: 'Ready', status: 'True', lastTransitionTime: ago(5) }],
    });
    expect(count([pod('a'), pod('b'), young], { a: 40, b: 40, c: 1000 }).replicas).toBe(2);
    expect(count([pod('a'), pod('b'), young], { a: 100, b: 100, c: 1000 }).replicas).toBe(4);
    const pending = pod('c', { phase: 'Pending' });
    expect(count([pod('a'), pod('b'), pending], { a: 100, b: 100 }).replicas).toBe(4);
    const never = pod('c', {
      conditions: [{ type: 'Ready', status: 'False', lastTransitionTime: ago(600) }],
    });
    expect(count([pod('a'), pod('b'), never], { a: 40, b: 40, c: 1000 }).replicas).toBe(2);
    const later = pod('c', { conditions: [{ type: 'Ready', status: 'False', lastTransitionTime: ago(60) }] });
    expect(count([pod('a'), pod('b'), later], { a: 50, b: 50, c: 50 }).replicas).toBe(3);
  });

  it('leave out pods that end', () => {
    const ending = pod('c', {}, { deletionTimestamp: ago(1) });
    expect(count([pod('a'), pod('b'), ending], { a: 50, b: 50, c: 1000 }).replicas).toBe(3);
    expect(count([pod('a'), pod('b', { phase: 'Failed' })], { a: 100 }).replicas).toBe(2);
  });

  it('cannot be had without pods, requests or usage', () => {
    expect(() => count([], {})).toThrow('no pods returned by selector while calculating replica count');
    expect(() => count(three, {})).toThrow(
      'did not receive metrics for targeted pods (pods might be unready)',
    );
    const bare = pod('a');
    bare.spec!.containers[0]!.resources = {};
    expect(() => count([bare], { a: 1 })).toThrow('missing request for cpu in container app of Pod a');
  });

  it('never go the wrong way, whatever is missing', () => {
    fc.assert(
      fc.property(
        fc.array(fc.record({ value: fc.option(fc.integer({ min: 0, max: 400 })), young: fc.boolean() }), {
          minLength: 1,
          maxLength: 12,
        }),
        fc.integer({ min: 10, max: 150 }),
        (all, target) => {
          const pods = all.map(({ young }, i) => (young ? pod(`p${i}`, { phase: 'Pending' }) : pod(`p${i}`)));
          const values: Record<string, number> = {};
          all.forEach(({ value }, i) => {
            if (value !== null) values[`p${i}`] = value;
          });
          const known = all.flatMap(({ value, young }) => (value !== null && !young ? [value] : []));
          fc.pre(known.length > 0);
          const utilization = Math.trunc(known.reduce((a, b) => a + b, 0) / known.length);
          const { replicas } = count(pods, values, target);
          const complete = known.length === pods.length;
          if (utilization > target && !complete) expect(replicas).toBeGreaterThanOrEqual(pods.length);
          if (utilization < target) expect(replicas).toBeLessThanOrEqual(pods.length);
          expect(replicas).toBeGreaterThanOrEqual(0);
        },
      ),
    );
  });
});

describe('the way to the wanted number', () => {
  const spec = (behavior?: object): HorizontalPodAutoscalerSpec =>
    ({ minReplicas: 1, maxReplicas: 50, scaleTargetRef: {}, behavior }) as never;
  const nothing = (): Past => ({ wanted: [], up: [], down: [] });
  const reasons = (r: { remarks: { reason: string }[] }) => r.remarks.map((x) => x.reason);

  it('is up at once, twice as many at most, and down only when five minutes agree', () => {
    const past = nothing();
    const s = spec();
    const up = paced(30, 3, s, past, 0);
    expect(up.replicas).toBe(6);
    expect(reasons(up)).toEqual(['ReadyForNewScale', 'ScaleUpLimit']);
    expect(paced(30, 6, s, past, 15_000).replicas).toBe(12);
    const down = paced(2, 12, s, past, 30_000);
    expect(reasons(down)[0]).toBe('ScaleDownStabilized');
    expect(down.replicas).toBe(24);
    expect(paced(2, 24, s, past, 400_000).replicas).toBe(2);
    expect(past.wanted.length).toBeLessThanOrEqual(2);
  });

  it('stays within the bounds, and says which', () => {
    const bound = { ...spec(), minReplicas: 2, maxReplicas: 5 } as HorizontalPodAutoscalerSpec;
    const more = paced(9, 4, bound, nothing(), 0);
    expect([more.replicas, reasons(more)[1]]).toEqual([5, 'TooManyReplicas']);
    const past: Past = { ...nothing(), wanted: [{ at: -1_000_000, count: 1 }] };
    const less = paced(1, 4, bound, past, 0);
    expect([less.replicas, reasons(less)[1]]).toEqual([2, 'TooFewReplicas']);
    expect(reasons(paced(4, 4, bound, nothing(), 0))[1]).toBe('DesiredWithinRange');
  });

  it('keeps to the policies of its behaviour', () => {
    const rules = {
      scaleUp: {
        stabilizationWindowSeconds: 0,
        selectPolicy: 'Max',
        policies: [
          { type: 'Pods', value: 4, periodSeconds: 60 },
          { type: 'Percent', value: 50, periodSeconds: 60 },
        ],
      },
      scaleDown: {
        stabilizationWindowSeconds: 0,
        selectPolicy: 'Min',
        policies: [
          { type: 'Pods', value: 2, periodSeconds: 60 },
          { type: 'Percent', value: 10, periodSeconds: 60 },
        ],
      },
    };
    const past = nothing();
    const s = spec(rules);
    expect(paced(50, 10, s, past, 0).replicas).toBe(15);
    past.up.push({ at: 0, count: 5 });
    // What was added within the minute counts.
    expect(paced(50, 15, s, past, 15_000).replicas).toBe(15);
    expect(paced(50, 15, s, past, 61_000).replicas).toBe(23);
    expect(past.up).toEqual([]);
    const down = paced(1, 10, s, nothing(), 0);
    expect([down.replicas, reasons(down)[1]]).toEqual([9, 'ScaleDownLimit']);
    const off = spec({ ...rules, scaleDown: { ...rules.scaleDown, selectPolicy: 'Disabled' } });
    expect(paced(1, 10, off, nothing(), 0).replicas).toBe(10);
  });

  it('waits before it goes up, where a window says so', () => {
    const s = spec({
      scaleUp: {
        stabilizationWindowSeconds: 60,
        selectPolicy: 'Max',
        policies: [{ type: 'Pods', value: 100, periodSeconds: 15 }],
      },
    });
    const past = nothing();
    const first = paced(9, 3, s, past, 0);
    expect([first.replicas, reasons(first)[0]]).toEqual([3, 'ScaleUpStabilized']);
    expect(paced(9, 3, s, past, 30_000).replicas).toBe(3);
    expect(paced(9, 3, s, past, 61_000).replicas).toBe(9);
  });
});
