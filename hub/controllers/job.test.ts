import fc from 'fast-check';
import type { Job } from 'kubernetes-types/batch/v1.js';
import { describe, expect, it } from 'vitest';
import { events, jobs, pods } from '../../api/kinds/index.js';
import {
  commonIndexes,
  countIndexes,
  formatIndexes,
  hasIndex,
  indexesOf,
  indexesProblem,
  joinIndexes,
  missingIndexes,
  parseIndexes,
} from '../../api/kinds/indexes.js';
import { seeded } from '../../api/testing/virtual-clock.js';
import { Cluster, type ClusterOptions } from '../testing/cluster.js';
import { backoffLeft, COMPLETION_INDEX, failuresAfter, judge, NO_FAILURES, TRACKING } from './jobs.js';

const KEY = { namespace: 'default', name: 'sum' };
const job = (spec: object = {}, pod: object = {}): Job =>
  ({
    metadata: { namespace: 'default', name: 'sum' },
    spec: {
      template: { spec: { restartPolicy: 'Never', containers: [{ name: 'c', image: 'x' }], ...pod } },
      ...spec,
    },
  }) as never;

async function cluster(options: ClusterOptions = {}, j = job()): Promise<Cluster> {
  const c = await new Cluster(options).start();
  await c.client.create(jobs, j);
  return c;
}
const get = (c: Cluster) => c.client.get(jobs, KEY);
const conditions = async (c: Cluster) =>
  ((await get(c)).status?.conditions ?? [])
    .filter((x) => x.status === 'True')
    .map((x) => `${x.type}:${x.reason}`);
const over = async (c: Cluster) => (await conditions(c)).some((x) => /^(Complete|Failed):/.test(x));
const indexOf = (p: { metadata?: { annotations?: Readonly<Record<string, string>> } }) =>
  Number(p.metadata?.annotations?.[COMPLETION_INDEX]);

describe('sets of indexes', () => {
  const arb = fc.uniqueArray(fc.integer({ min: 0, max: 60 }));
  it('are what sets are', () => {
    fc.assert(
      fc.property(arb, arb, (a, b) => {
        const [x, y] = [indexesOf(a), indexesOf(b)];
        const both = joinIndexes(x, y);
        expect(countIndexes(both)).toBe(new Set([...a, ...b]).size);
        expect(commonIndexes(x, y)).toBe(a.filter((n) => b.includes(n)).length);
        expect(parseIndexes(formatIndexes(both), 100)).toEqual(both);
        expect(indexesProblem(formatIndexes(both), 100)).toBeUndefined();
        const missing = missingIndexes(x, 5, 40);
        expect(missing.every((n) => n < 40 && !hasIndex(x, n))).toBe(true);
        expect(missing.length).toBe(Math.min(5, 40 - a.filter((n) => n < 40).length));
      }),
    );
  });
  it.each([
    ['1-2-3', /at most two parts/],
    ['a', /cannot convert/],
    ['10', /too large/],
    ['3,2', /non-increasing order, previous: 3, current: 2/],
    ['4-4', /non-increasing/],
  ])('%s is wrong', (text, what) => expect(indexesProblem(text, 10)).toMatch(what));
});

describe('failures in a row', () => {
  const pod = (s: number) => ({
    status: {
      containerStatuses: [{ state: { terminated: { finishedAt: new Date(s * 1000).toISOString() } } }],
    },
  });
  it('end with a success and make the next pod wait longer and longer', () => {
    const two = failuresAfter(NO_FAILURES, [], [pod(10), pod(20)] as never, 100_000);
    expect(two).toEqual({ count: 2, last: 20_000 });
    expect(backoffLeft(two, 25_000)).toBe(15_000);
    expect(backoffLeft({ count: 30, last: 0 }, 0)).toBe(600_000);
    expect(failuresAfter(two, [pod(25)] as never, [pod(30)] as never, 100_000)).toEqual({
      count: 1,
      last: 30_000,
    });
    expect(failuresAfter(two, [pod(35)] as never, [pod(30)] as never, 100_000)).toEqual(NO_FAILURES);
  });
});

describe('the policy about failed pods', () => {
  const failed = (exitCode: number, name = 'c') => ({
    metadata: { namespace: 'n', name: 'p' },
    status: {
      phase: 'Failed',
      containerStatuses: [{ name, state: { terminated: { exitCode } } }],
      conditions: [{ type: 'DisruptionTarget', status: 'True' }],
    },
  });
  const policy = {
    rules: [
      { action: 'FailJob', onExitCodes: { operator: 'In', values: [3, 4], containerName: 'c' } },
      { action: 'Ignore', onExitCodes: { operator: 'In', values: [5] } },
      { action: 'Count', onExitCodes: { operator: 'NotIn', values: [7] } },
      { action: 'Ignore', onPodConditions: [{ type: 'DisruptionTarget', status: 'True' }] },
    ],
  };
  it('is the first rule that fits', () => {
    const say = (code: number, name?: string) => judge(policy as never, failed(code, name) as never);
    expect(say(3).message).toBe(
      'Container c for pod n/p failed with exit code 3 matching FailJob rule at index 0',
    );
    expect(say(3, 'other')).toEqual({ counts: true, action: 'Count' });
    expect(say(5)).toEqual({ counts: false, action: 'Ignore' });
    expect(say(7)).toEqual({ counts: false, action: 'Ignore' });
  });
});

describe('Jobs', () => {
  it('run so many at once until so many have succeeded, and say so', async () => {
    const c = await cluster({ fate: () => 'succeeds' }, job({ completions: 5, parallelism: 2 }));
    let most = 0;
    await c.until('done', async () => {
      most = Math.max(most, (await get(c)).status?.active ?? 0);
      return over(c);
    });
    const j = await get(c);
    expect(j.status).toMatchObject({ succeeded: 5, ready: 0, terminating: 0 });
    expect(j.status!.completionTime).toBeDefined();
    expect(await conditions(c)).toEqual([
      'SuccessCriteriaMet:CompletionsReached',
      'Complete:CompletionsReached',
    ]);
    expect(most).toBeLessThanOrEqual(2);
    const all = await c.list(pods);
    expect(all.length).toBe(5);
    expect(all.some((p) => p.metadata!.finalizers?.includes(TRACKING))).toBe(false);
    expect(j.metadata!.labels).toMatchObject({ 'batch.kubernetes.io/job-name': 'sum', 'job-name': 'sum' });
    await c.stop();
  });

  it('give up after so many failures', async () => {
    const c = await cluster({ fate: () => 'fails' }, job({ backoffLimit: 2 }));
    await c.until('over', () => over(c));
    expect((await get(c)).status).toMatchObject({ failed: 3 });
    expect(await conditions(c)).toEqual([
      'FailureTarget:BackoffLimitExceeded',
      'Failed:BackoffLimitExceeded',
    ]);
    expect((await c.list(events)).map((e) => e.reason)).toContain('BackoffLimitExceeded');
    await c.stop();
  });

  it('end at their deadline, with their pods', async () => {
    const c = await cluster(
      { fate: () => 'ready' },
      job({ activeDeadlineSeconds: 30, parallelism: 3, completions: 3 }),
    );
    await c.run(25_000);
    expect((await get(c)).status).toMatchObject({ active: 3, ready: 3 });
    await c.until('over', () => over(c));
    expect((await conditions(c)).at(-1)).toBe('Failed:DeadlineExceeded');
    await c.until('no pods', async () => (await c.list(pods)).length === 0);
    await c.stop();
  });

  it('are suspended and resumed', async () => {
    const c = await cluster({ fate: () => 'ready' }, job({ suspend: true, activeDeadlineSeconds: 60 }));
    await c.run(90_000);
    expect(await c.list(pods)).toEqual([]);
    expect(await conditions(c)).toEqual(['Suspended:JobSuspended']);
    await c.client.patch(jobs, KEY, { spec: { suspend: false } });
    await c.until('running', async () => (await get(c)).status?.active === 1);
    await c.client.patch(jobs, KEY, { spec: { suspend: true } });
    await c.until('stopped', async () => (await c.list(pods)).length === 0);
    expect((await get(c)).status).not.toHaveProperty('startTime');
    expect((await get(c)).status).not.toHaveProperty('failed');
    await c.stop();
  });

  it('give each index one success; those that fail too often are named', async () => {
    const spec = { completionMode: 'Indexed', completions: 4, parallelism: 4, backoffLimitPerIndex: 1 };
    const c = await cluster({ fate: (p) => (indexOf(p) === 2 ? 'fails' : 'succeeds') }, job(spec));
    await c.until('over', () => over(c));
    expect((await get(c)).status).toMatchObject({
      succeeded: 3,
      failed: 2,
      completedIndexes: '0,1,3',
      failedIndexes: '2',
    });
    expect((await conditions(c)).at(-1)).toBe('Failed:FailedIndexes');
    const p = (await c.list(pods)).find((x) => indexOf(x) === 0)!;
    expect(p.spec!.hostname).toBe('sum-0');
    expect(p.spec!.containers[0]!.env![0]!.name).toBe('JOB_COMPLETION_INDEX');
    expect(p.metadata!.name).toMatch(/^sum-0-/);
    await c.stop();
  });

  it('are done when their success policy says so, and end what still runs', async () => {
    const spec = {
      completionMode: 'Indexed',
      completions: 3,
      parallelism: 3,
      successPolicy: { rules: [{ succeededIndexes: '1' }] },
    };
    const c = await cluster({ fate: (p) => (indexOf(p) === 1 ? 'succeeds' : 'ready') }, job(spec));
    await c.until('over', () => over(c));
    expect(await conditions(c)).toEqual(['SuccessCriteriaMet:SuccessPolicy', 'Complete:SuccessPolicy']);
    expect((await get(c)).status).toMatchObject({ succeeded: 1, completedIndexes: '1' });
    await c.until('the others went', async () => (await c.list(pods)).length === 1);
    await c.stop();
  });

  it('go some time after their end', async () => {
    const c = await cluster({ fate: () => 'succeeds' }, job({ ttlSecondsAfterFinished: 100 }));
    await c.until('over', () => over(c));
    await c.run(90_000);
    expect(await over(c)).toBe(true);
    await c.run(15_000);
    expect([(await c.list(jobs)).length, (await c.list(pods)).length]).toEqual([0, 0]);
    await c.stop();
  });

  it('a deleted Job lets go of its pods, whether they are to stay or not', async () => {
    const c = await cluster({ fate: () => 'ready' });
    await c.until('running', async () => (await c.list(pods)).length === 1);
    await c.client.delete(jobs, KEY, {});
    await c.until('orphaned', async () => {
      const [p] = await c.list(pods);
      return !p!.metadata!.ownerReferences?.length && !p!.metadata!.finalizers?.length;
    });
    await c.client.delete(pods, { namespace: 'default', name: (await c.list(pods))[0]!.metadata!.name! });
    await c.client.create(jobs, job());
    await c.until('running again', async () => (await get(c)).status?.ready === 1);
    await c.client.delete(jobs, KEY, { propagationPolicy: 'Background' });
    await c.until('all gone', async () => (await c.list(pods)).length === 0);
    await c.stop();
  });

  it('a pod that outlived its Job and the hub is let go of', async () => {
    const c = await new Cluster().start();
    await c.client.create(pods, {
      metadata: { namespace: 'default', name: 'left', finalizers: [TRACKING] },
      spec: { containers: [{ name: 'c', image: 'x' }] },
    });
    await c.until('free', async () => !(await c.list(pods))[0]!.metadata!.finalizers?.length);
    await c.stop();
  });

  const arbStep = fc.record({
    what: fc.oneof(
      fc.record({ kill: fc.nat() }),
      fc.record({ parallelism: fc.integer({ min: 1, max: 4 }) }),
      fc.constant({ restart: true as const }),
      fc.record({ suspend: fc.boolean() }),
    ),
    wait: fc.integer({ min: 0, max: 10_000 }),
  });

  it('count every pod exactly once, whatever happens', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.integer({ min: 1, max: 2 ** 30 }),
        fc.boolean(),
        fc.integer({ min: 1, max: 6 }),
        fc.array(arbStep, { maxLength: 5 }),
        async (seed, indexed, completions, steps) => {
          const random = seeded(seed);
          let succeeding = 0;
          const c = await cluster(
            {
              seed,
              chaos: { delayMs: 300, refuse: 0.05, loseAnswer: 0.05, expire: 0.02 },
              fate: () => {
                if (random() < 0.25) return 'fails';
                succeeding++;
                return 'succeeds';
              },
            },
            job({
              completions,
              parallelism: 3,
              backoffLimit: 100,
              ...(indexed ? { completionMode: 'Indexed' } : {}),
            }),
          );
          try {
            for (const { what, wait } of steps) {
              if ('restart' in what) await c.restartLoops();
              else if ('kill' in what) {
                const all = (await c.list(pods)).filter(
                  (p) => !p.metadata!.deletionTimestamp && p.metadata!.finalizers?.length,
                );
                const p = all[what.kill % Math.max(1, all.length)];
                if (p) await c.client.delete(pods, { namespace: 'default', name: p.metadata!.name! });
              } else await c.client.patch(jobs, KEY, { spec: what });
              await c.run(wait);
            }
            await c.client.patch(jobs, KEY, { spec: { suspend: false } });
            await c.until('over', () => over(c), 3_600_000);
            const j = await get(c);
            expect((await conditions(c)).at(-1)).toBe('Complete:CompletionsReached');
            // A pod whose creation was told to have failed is one too many, and may succeed before it is found.
            const { succeeded } = j.status!;
            expect(succeeded).toBeGreaterThanOrEqual(completions);
            expect(succeeded).toBeLessThanOrEqual(indexed ? completions : succeeding);
            if (indexed)
              expect(countIndexes(parseIndexes(j.status!.completedIndexes, completions))).toBe(completions);
            expect(j.status!.uncountedTerminatedPods ?? {}).toEqual({});
            const done = (await c.list(pods)).filter((p) => p.status?.phase === 'Succeeded');
            if (!steps.some((s) => 'kill' in s.what)) expect(done.length).toBeGreaterThanOrEqual(completions);
            await c.rests(
              async () => !(await c.list(pods)).some((p) => p.metadata!.finalizers?.includes(TRACKING)),
            );
          } finally {
            await c.stop();
          }
        },
      ),
      { numRuns: 30 },
    );
  }, 120_000);
});
