import type { CronJob, CronJobStatus, Job } from 'kubernetes-types/batch/v1.js';
import { rfc3339 } from '../../api/clock.js';
import { cronJobs, jobs } from '../../api/kinds/index.js';
import { parseCron, type Schedule } from '../../api/meta/cron.js';
import { isApiError } from '../../api/meta/errors.js';
import { deepCopy, deepEqual } from '../../api/meta/json.js';
import type { Frozen } from '../client.js';
import { controllerRef } from './adopt.js';
import { endOf } from './jobs.js';
import { type Context, errorText, ifThere, type Keys, type Reconcile } from './loop.js';
import { isTerminating } from './podcontrol.js';
import { controllerOf } from './pods.js';

type Cj = Frozen<CronJob>;
type J = Frozen<Job>;

/** The clock on the wall may jump, and timers do not notice: it is looked at so often at least. */
const LOOK_AGAIN_MS = 60_000;
const MANY_MISSED = 100;
/** Steps when looking for the last missed time. */
const MAX_STEPS = 10_000;

export interface Due {
  /** The last time that has come and not been dealt with, Unix ms. */
  due?: number;
  /** About how many have come since it was last dealt with. */
  missed: number;
  /** The next time to come. */
  next?: number;
}

/**
 * What a schedule asks for now. Of all times that were missed only the last counts, so that a hub that was off, or a
 * clock that was wrong, starts one Job and not a thousand. `since`: the last time dealt with.
 */
export function dueNow(schedule: Schedule, since: number, now: number, deadlineSeconds?: number): Due {
  const next = schedule.next(now);
  // Dealt with in the future: the clock was wrong then, or is now.
  let earliest = Math.min(since, now);
  if (deadlineSeconds !== undefined) earliest = Math.max(earliest, now - deadlineSeconds * 1000);
  const first = schedule.next(earliest);
  if (first === undefined || first > now) return { missed: 0, next };
  const second = schedule.next(first);
  if (second === undefined || second > now) return { due: first, missed: 1, next };
  const missed = Math.floor((now - first) / (second - first)) + 1;
  let due: number | undefined;
  let t = schedule.next(first + (missed - 2) * (second - first));
  for (let i = 0; t !== undefined && t <= now && i < MAX_STEPS; i++) {
    due = t;
    t = schedule.next(t);
  }
  return { ...(due === undefined ? {} : { due }), missed, next };
}

/** Starts Jobs by the clock. */
export function cronJobLoop(ctx: Context, keys: Keys): Reconcile {
  const { client, informers, clock } = ctx;
  const events = ctx.recorder('cronjob-controller');
  const byUid = new Map<string, string>();
  const all = informers.of(cronJobs).onChange((key, now, before) => {
    if (before && before.metadata!.uid !== now?.metadata?.uid) byUid.delete(before.metadata!.uid!);
    if (now) byUid.set(now.metadata!.uid!, key);
    keys.add(key);
  });
  const allJobs = informers
    .of(jobs)
    .index('controller', (j) => {
      const c = controllerOf(j);
      return c ? [c.uid] : [];
    })
    .onChange((_, now, before) => {
      const owner = byUid.get(controllerOf((now ?? before)!)?.uid ?? '');
      if (owner) keys.add(owner);
    });
  const tell = (c: Cj, type: 'Normal' | 'Warning', reason: string, message: string) =>
    events.tell(cronJobs, c as CronJob, type, reason, message);

  async function remove(c: Cj, j: J, status: CronJobStatus): Promise<void> {
    const { namespace, name, uid } = j.metadata!;
    try {
      await ifThere(
        client.delete(jobs, { namespace, name: name! }, { uid, propagationPolicy: 'Background' }),
      );
    } catch (e) {
      tell(c, 'Warning', 'FailedDelete', `Deleted job: ${errorText(e)}`);
      throw e;
    }
    status.active = status.active?.filter((r) => r.uid !== uid);
    tell(c, 'Normal', 'SuccessfulDelete', `Deleted job ${name}`);
  }

  /** Takes out of the list of active Jobs what has ended or gone. */
  async function look(c: Cj, mine: readonly J[], status: CronJobStatus): Promise<void> {
    for (const j of mine) {
      const end = endOf(j);
      const { uid, name } = j.metadata!;
      const listed = status.active?.some((r) => r.uid === uid);
      if (!end) {
        if (!listed)
          tell(
            c,
            'Warning',
            'UnexpectedJob',
            `Saw a job that the controller did not create or forgot: ${name}`,
          );
        continue;
      }
      if (listed) {
        status.active = status.active?.filter((r) => r.uid !== uid);
        tell(c, 'Normal', 'SawCompletedJob', `Saw completed job: ${name}, condition: ${end.type}`);
      }
      const done = j.status?.completionTime;
      if (
        end.type === 'Complete' &&
        done &&
        !(Date.parse(status.lastSuccessfulTime ?? '') >= Date.parse(done))
      )
        status.lastSuccessfulTime = done;
    }
    const known = new Set(mine.map((j) => j.metadata!.uid));
    for (const r of [...(status.active ?? [])]) {
      if (known.has(r.uid)) continue;
      // Our view of Jobs may be older than our own note of them.
      const there = await ifThere(client.get(jobs, { namespace: r.namespace, name: r.name! }));
      if (there?.metadata?.uid === r.uid) continue;
      status.active = status.active?.filter((x) => x.uid !== r.uid);
      tell(c, 'Normal', 'MissingJob', `Active job went missing: ${r.name}`);
    }
  }

  async function tidy(c: Cj, mine: readonly J[], status: CronJobStatus): Promise<void> {
    const limits = { Complete: c.spec?.successfulJobsHistoryLimit, Failed: c.spec?.failedJobsHistoryLimit };
    const started = (j: J) => Date.parse(j.status?.startTime ?? '') || Number.POSITIVE_INFINITY;
    for (const [type, limit] of Object.entries(limits)) {
      if (limit === undefined) continue;
      const ended = mine.filter((j) => endOf(j)?.type === type && !j.metadata?.deletionTimestamp);
      ended.sort((a, b) => started(a) - started(b) || (a.metadata!.name! < b.metadata!.name! ? -1 : 1));
      for (const j of ended.slice(0, Math.max(0, ended.length - limit))) await remove(c, j, status);
    }
  }

  async function startJob(c: Cj, due: number, status: CronJobStatus): Promise<void> {
    const template = c.spec!.jobTemplate;
    const name = `${c.metadata!.name}-${Math.floor(due / 60_000)}`;
    const namespace = c.metadata!.namespace!;
    let made: J;
    try {
      made = await client.create(jobs, {
        metadata: {
          namespace,
          // The same for the same time: whoever is late finds it made.
          name,
          labels: { ...template.metadata?.labels },
          annotations: {
            ...template.metadata?.annotations,
            'batch.kubernetes.io/cronjob-scheduled-timestamp': rfc3339(due),
          },
          ownerReferences: [controllerRef(cronJobs as never, c)],
        },
        spec: deepCopy(template.spec) as Job['spec'],
      });
      tell(c, 'Normal', 'SuccessfulCreate', `Created job ${name}`);
    } catch (e) {
      if (isTerminating(e)) return;
      if (!isApiError(e, 'AlreadyExists')) {
        tell(c, 'Warning', 'FailedCreate', `Error creating job: ${errorText(e)}`);
        throw e;
      }
      made = await client.get(jobs, { namespace, name });
      if (controllerOf(made)?.uid !== c.metadata!.uid) return;
    }
    status.lastScheduleTime = rfc3339(due);
    const { uid, resourceVersion } = made.metadata!;
    if (endOf(made) || status.active?.some((r) => r.uid === uid)) return;
    status.active = [
      ...(status.active ?? []),
      { apiVersion: 'batch/v1', kind: 'Job', namespace, name, uid, resourceVersion },
    ];
  }

  /** Starts what is due. Returns how long until there is more to do. */
  async function schedule(c: Cj, mine: readonly J[], status: CronJobStatus): Promise<number | undefined> {
    const spec = c.spec!;
    if (spec.suspend || c.metadata?.deletionTimestamp) return undefined;
    let times: Schedule;
    try {
      const [, zone, rest] = /^(?:CRON_)?TZ=(\S+)\s+(.*)$/.exec(spec.schedule) ?? [];
      times = parseCron(rest ?? spec.schedule, zone ?? spec.timeZone);
    } catch (e) {
      const zone = e instanceof RangeError;
      tell(
        c,
        'Warning',
        zone ? 'UnknownTimeZone' : 'UnparseableSchedule',
        zone
          ? `invalid timeZone: ${JSON.stringify(spec.timeZone)}: ${errorText(e)}`
          : `unparseable schedule: ${JSON.stringify(spec.schedule)} : ${errorText(e)}`,
      );
      return undefined;
    }
    const now = clock.now();
    const last =
      Date.parse(status.lastScheduleTime ?? '') || Date.parse(c.metadata?.creationTimestamp ?? '') || now;
    const { due, missed, next } = dueNow(times, last, now, spec.startingDeadlineSeconds);
    if (due === undefined && next === undefined) {
      // A date that no year has, such as the 31st of February; Kubernetes finds out by the distance between two times.
      const why = 'time difference between two schedules is less than 1 second';
      tell(c, 'Warning', 'InvalidSchedule', `invalid schedule: ${spec.schedule} : ${why}`);
      return undefined;
    }
    const wait = next === undefined ? LOOK_AGAIN_MS : Math.min(LOOK_AGAIN_MS, Math.max(1, next - now));
    if (due === undefined) return wait;
    if (missed > MANY_MISSED)
      tell(
        c,
        'Warning',
        'TooManyMissedTimes',
        'too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew',
      );
    if (spec.concurrencyPolicy === 'Forbid' && status.active?.length) {
      tell(
        c,
        'Normal',
        'JobAlreadyActive',
        'Not starting job because prior execution is running and concurrency policy is Forbid',
      );
      return wait;
    }
    if (spec.concurrencyPolicy === 'Replace')
      for (const j of mine) if (!endOf(j) && !j.metadata?.deletionTimestamp) await remove(c, j, status);
    await startJob(c, due, status);
    return wait;
  }

  return async (key) => {
    const c = all.get(key);
    if (!c) return undefined;
    const mine = allJobs.by('controller', c.metadata!.uid!);
    const status = deepCopy(c.status ?? {}) as CronJobStatus;
    await look(c, mine, status);
    let again: number | undefined;
    let failure: unknown;
    try {
      again = await schedule(c, mine, status);
      await tidy(c, mine, status);
    } catch (e) {
      failure = e;
    }
    if (!status.active?.length) delete status.active;
    // A newer CronJob is not overwritten: we are called for it anyway, and what was started is found by its name.
    if (!deepEqual(status, c.status))
      await ifThere(client.updateStatus(cronJobs, { ...(c as CronJob), status }));
    if (failure) throw failure;
    return again;
  };
}
