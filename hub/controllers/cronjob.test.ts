import fc from 'fast-check';
import type { CronJob } from 'kubernetes-types/batch/v1.js';
import { describe, expect, it } from 'vitest';
import { cronJobs, events, jobs } from '../../api/kinds/index.js';
import { parseCron } from '../../api/meta/cron.js';
import { Cluster, type ClusterOptions } from '../testing/cluster.js';
import { dueNow } from './cronjob.js';

const at = (text: string) => Date.parse(text);
const iso = (ms: number | undefined) => ms && new Date(ms).toISOString();

describe('schedules', () => {
  it.each([
    ['*/15 * * * *', '2026-01-01T00:01:30Z', 'UTC', '2026-01-01T00:15:00.000Z'],
    ['0 0 29 2 *', '2026-01-01T00:00:00Z', 'UTC', '2028-02-29T00:00:00.000Z'],
    ['30 6-16/4 * * mon-fri', '2026-01-02T15:00:00Z', 'UTC', '2026-01-05T06:30:00.000Z'],
    // The 13th or a Friday, whichever comes first.
    ['0 12 13 * FRI', '2026-01-03T00:00:00Z', 'UTC', '2026-01-09T12:00:00.000Z'],
    ['@daily', '2026-01-01T00:00:00Z', 'Europe/Berlin', '2026-01-01T23:00:00.000Z'],
    ['@every 1h30m', '2026-01-01T00:00:00Z', 'UTC', '2026-01-01T01:30:00.000Z'],
    // 02:30 does not exist that night in Berlin.
    ['30 2 * * *', '2026-03-28T12:00:00Z', 'Europe/Berlin', '2026-03-30T00:30:00.000Z'],
    ['15 9 * * *', '2026-06-01T00:00:00Z', 'Asia/Kolkata', '2026-06-01T03:45:00.000Z'],
  ])('%s after %s in %s', (schedule, after, zone, next) => {
    expect(iso(parseCron(schedule, zone).next(at(after)))).toBe(next);
  });

  it('February 31st never comes', () => {
    expect(parseCron('59 23 31 2 *').next(at('2026-01-01T00:00:00Z'))).toBeUndefined();
  });

  it.each([
    ['* * * *', 'expected exactly 5 fields, found 4: [* * * *]'],
    ['60 * * * *', 'end of range (60) above maximum (59): 60'],
    ['* * 0 * *', 'beginning of range (0) below minimum (1): 0'],
    ['*/0 * * * *', 'step of range should be a positive number: */0'],
    ['5-1 * * * *', 'beginning of range (5) beyond end of range (1): 5-1'],
    ['@often', 'unrecognized descriptor: @often'],
    ['x * * * *', /failed to parse int from x/],
  ])('%s is wrong', (schedule, why) => expect(() => parseCron(schedule)).toThrow(why));

  it('the next time is after the last, fits, and none between fits', () => {
    const arb = fc.record({
      minute: fc.constantFrom('*', '*/7', '3,40', '0'),
      hour: fc.constantFrom('*', '9-17', '*/5', '3'),
      day: fc.constantFrom('*', '1', '10-12'),
      week: fc.constantFrom('*', '1-5', 'sun'),
      from: fc.integer({ min: 0, max: 400 * 24 * 60 }),
    });
    fc.assert(
      fc.property(arb, ({ minute, hour, day, week, from }) => {
        const schedule = parseCron(`${minute} ${hour} ${day} * ${week}`);
        const start = at('2026-01-01T00:00:00Z') + from * 60_000;
        const next = schedule.next(start)!;
        expect(next).toBeGreaterThan(start);
        expect(next % 60_000).toBe(0);
        expect(schedule.next(next - 1)).toBe(next);
        const middle = start + Math.floor((next - start) / 2);
        expect(schedule.next(middle)).toBe(next);
      }),
    );
  });
});

describe('what is due', () => {
  const hourly = parseCron('@hourly');
  const now = at('2026-01-10T05:30:00Z');
  it('is the last time that was missed, however many were', () => {
    expect(dueNow(hourly, at('2026-01-10T04:00:00Z'), now)).toMatchObject({
      due: at('2026-01-10T05:00:00Z'),
      missed: 1,
    });
    expect(dueNow(hourly, 0, now)).toMatchObject({ due: at('2026-01-10T05:00:00Z') });
    expect(dueNow(hourly, at('2026-01-10T05:00:00Z'), now).due).toBeUndefined();
    expect(dueNow(hourly, 0, now, 600).due).toBeUndefined();
  });
  it('a time dealt with in the future does not silence it for ever', () => {
    expect(dueNow(hourly, at('2036-01-01T00:00:00Z'), now)).toMatchObject({
      next: at('2026-01-10T06:00:00Z'),
    });
    expect(dueNow(hourly, at('2036-01-01T00:00:00Z'), now).due).toBeUndefined();
  });
});

const KEY = { namespace: 'default', name: 'tick' };
const cron = (spec: object = {}): CronJob =>
  ({
    metadata: { namespace: 'default', name: 'tick' },
    spec: {
      schedule: '*/5 * * * *',
      jobTemplate: {
        metadata: { labels: { from: 'tick' } },
        spec: { template: { spec: { restartPolicy: 'Never', containers: [{ name: 'c', image: 'x' }] } } },
      },
      ...spec,
    },
  }) as never;
async function cluster(options: ClusterOptions, c = cron()): Promise<Cluster> {
  const cluster = await new Cluster(options).start();
  await cluster.client.create(cronJobs, c);
  return cluster;
}
const MINUTE = 60_000;
const get = (c: Cluster) => c.client.get(cronJobs, KEY);
const reasons = async (c: Cluster) => (await c.list(events)).map((e) => e.reason);

describe('CronJobs', () => {
  it('start a Job each time and keep the last few', async () => {
    const c = await cluster({ fate: () => 'succeeds' });
    await c.run(26 * MINUTE);
    const all = await c.list(jobs);
    expect(all.map((j) => j.metadata!.name).sort()).toEqual(
      [15, 20, 25].map((m) => `tick-${(at('2026-01-01T00:00:00Z') + m * MINUTE) / MINUTE}`),
    );
    expect(all[0]!.metadata!.labels).toMatchObject({ from: 'tick' });
    const { status } = await get(c);
    expect(status).toMatchObject({ lastScheduleTime: '2026-01-01T00:25:00Z' });
    expect(status!.lastSuccessfulTime).toBeDefined();
    expect(status!.active).toBeUndefined();
    await c.stop();
  });

  it('what still runs is left, waited for or replaced, as the policy says', async () => {
    const running = async (concurrencyPolicy: string) => {
      const c = await cluster({ fate: () => 'ready' }, cron({ concurrencyPolicy }));
      await c.run(17 * MINUTE);
      const active = (await get(c)).status?.active?.length;
      const result = { active, jobs: (await c.list(jobs)).length, reasons: await reasons(c) };
      await c.stop();
      return result;
    };
    expect(await running('Allow')).toMatchObject({ active: 3, jobs: 3 });
    const forbid = await running('Forbid');
    expect(forbid).toMatchObject({ active: 1, jobs: 1 });
    expect(forbid.reasons).toContain('JobAlreadyActive');
    expect(await running('Replace')).toMatchObject({ active: 1, jobs: 1 });
  });

  it('a date that no year has is told of', async () => {
    const c = await cluster({}, cron({ schedule: '59 23 31 2 *' }));
    await c.run(MINUTE);
    expect(await reasons(c)).toContain('InvalidSchedule');
    expect(await c.list(jobs)).toEqual([]);
    await c.stop();
  });

  it('a hub that was off, and a suspension, are made up for once', async () => {
    const c = await cluster(
      { fate: () => 'succeeds' },
      cron({ suspend: true, successfulJobsHistoryLimit: 100 }),
    );
    await c.run(600 * MINUTE);
    expect(await c.list(jobs)).toEqual([]);
    await c.client.patch(cronJobs, KEY, { spec: { suspend: false } });
    await c.run(MINUTE);
    expect((await c.list(jobs)).length).toBe(1);
    expect(await reasons(c)).toContain('TooManyMissedTimes');
    await c.restartLoops();
    await c.run(5 * MINUTE);
    expect((await c.list(jobs)).length).toBe(2);
    await c.stop();
  });

  it('each time has one Job at most, with everything slow and failing', async () => {
    await fc.assert(
      fc.asyncProperty(fc.integer({ min: 1, max: 2 ** 30 }), async (seed) => {
        const c = await cluster(
          {
            seed,
            fate: () => 'succeeds',
            chaos: { delayMs: 300, refuse: 0.1, loseAnswer: 0.1, expire: 0.05 },
          },
          cron({ successfulJobsHistoryLimit: 100 }),
        );
        try {
          await c.run(12 * MINUTE);
          await c.restartLoops();
          await c.run(14 * MINUTE);
          expect((await c.list(jobs)).length).toBe(5);
          await c.until('none is active', async () => !(await get(c)).status?.active);
        } finally {
          await c.stop();
        }
      }),
      { numRuns: 8 },
    );
  }, 120_000);
});
