import type { Job, JobCondition, JobStatus } from 'kubernetes-types/batch/v1.js';
import type { Pod } from 'kubernetes-types/core/v1.js';
import { rfc3339 } from '../../api/clock.js';
import { jobs, pods } from '../../api/kinds/index.js';
import { formatIndexes, hasIndex, indexesOf, joinIndexes } from '../../api/kinds/indexes.js';
import { isApiError } from '../../api/meta/errors.js';
import { deepCopy, deepEqual } from '../../api/meta/json.js';
import { keyOf, parseKey } from '../../api/meta/object.js';
import { matchesSelector } from '../../api/meta/selector.js';
import { claim } from './adopt.js';
import {
  COMPLETION_INDEX,
  type Creation,
  condition,
  conditionOf,
  creations,
  deadlineIn,
  endOf,
  type Failures,
  failuresAfter,
  indexOf,
  isComplete,
  isFailed,
  isIndexed,
  isSuspended,
  isTracked,
  type J,
  judge,
  NO_FAILURES,
  type P,
  surplus,
  TRACKING,
  type View,
  verdict,
  viewOf,
} from './jobs.js';
import { type Context, ifThere, type Keys, type Reconcile } from './loop.js';
import { isTerminating, PodControl, podFrom } from './podcontrol.js';
import { controllerOf, isReady, leastValuableFirst, podsOf } from './pods.js';

/** Pods created or deleted in one go, and counted in one go: their uids must fit into the status. */
const BURST = 500;
const CATCH_UP_MS = 1_000;
/** Key of a pod whose Job is gone or over: `pod|<key>`. */
const ORPHAN = 'pod|';

/** Runs pods until enough of them succeeded; counts each exactly once, with a finalizer on every pod. */
export function jobLoop(ctx: Context, keys: Keys): Reconcile {
  const { client, informers, clock } = ctx;
  const events = ctx.recorder('job-controller');
  const control = new PodControl(ctx, jobs, events);
  const all = informers.of(jobs).index('namespace', (j) => [j.metadata!.namespace!]);
  const allPods = podsOf(informers);
  const failures = new Map<string, Failures>();
  /** Pods whose finalizer we took away, which their informer has not told yet. */
  const gone = new Set<string>();
  /** Job → the revision of our last write to it. */
  const written = new Map<string, number>();
  control.follow(all, allPods, keys, (orphan) =>
    all
      .by('namespace', orphan.metadata!.namespace!)
      .filter((j) => matchesSelector(j.spec?.selector as never, orphan.metadata?.labels as never)),
  );
  all.onChange((_, now, before) => {
    if (now && !endOf(now)) return;
    for (const p of allPods.by('controller', (now ?? before)!.metadata!.uid!))
      if (isTracked(p)) keys.add(ORPHAN + keyOf(p as Pod));
  });
  allPods.onChange((key, now, before) => {
    if (!now || !isTracked(now)) gone.delete((now ?? before)!.metadata!.uid!);
    if (!now || !isTracked(now)) return;
    const job = all.get(control.ownerKey(now) ?? '');
    if (!job || endOf(job)) keys.add(ORPHAN + key);
  });

  const tell = (j: J, type: 'Normal' | 'Warning', reason: string, message: string) =>
    events.tell(jobs, j as Job, type, reason, message);

  async function untrack(p: P): Promise<void> {
    const { namespace, name, uid, finalizers = [] } = p.metadata!;
    if (!isTracked(p)) return;
    gone.add(uid!);
    try {
      await ifThere(
        client.patch(
          pods,
          { namespace, name: name! },
          { metadata: { uid, finalizers: finalizers.filter((f) => f !== TRACKING) } },
        ),
      );
    } catch (e) {
      gone.delete(uid!);
      // Another pod of the name.
      if (!isApiError(e, 'Conflict')) throw e;
    }
  }

  /** A pod that no Job will count any more is not kept for it. */
  async function releaseOrphan(key: string): Promise<void> {
    const p = allPods.get(key);
    if (!p || !isTracked(p)) return;
    const c = controllerOf(p);
    if (c && (c.kind !== 'Job' || !c.apiVersion.startsWith('batch/'))) return;
    const owner =
      c && (await ifThere(client.get(jobs, { namespace: parseKey(key).namespace, name: c.name })));
    if (owner?.metadata?.uid === c?.uid && owner && (!endOf(owner) || owner.spec?.managedBy)) return;
    await untrack(p);
  }

  function podOf(j: J, { index, annotations }: Creation): Pod {
    const pod = podFrom(jobs as never, j, j.spec!.template);
    const { finalizers = [] } = pod.metadata!;
    pod.metadata = { ...pod.metadata, finalizers: [...finalizers.filter((f) => f !== TRACKING), TRACKING] };
    if (index === undefined) return pod;
    const at = `-${index}-`;
    pod.metadata = {
      ...pod.metadata,
      generateName: `${j.metadata!.name!.slice(0, 58 - at.length)}${at}`,
      labels: { ...pod.metadata?.labels, [COMPLETION_INDEX]: `${index}` },
      annotations: { ...pod.metadata?.annotations, ...annotations },
    };
    const spec = deepCopy(pod.spec!);
    spec.hostname = `${j.metadata!.name}-${index}`;
    for (const c of [...(spec.initContainers ?? []), ...spec.containers])
      if (!c.env?.some((e) => e.name === 'JOB_COMPLETION_INDEX'))
        c.env = [
          ...(c.env ?? []),
          {
            name: 'JOB_COMPLETION_INDEX',
            valueFrom: { fieldRef: { fieldPath: `metadata.labels['${COMPLETION_INDEX}']` } },
          },
        ];
    pod.spec = spec;
    return pod;
  }

  /** Writes the status if it differs; rejects with Conflict when the Job is newer than what it was made from. */
  async function write(j: J, status: JobStatus): Promise<J> {
    if (deepEqual(status, j.status)) return j;
    const next = await client.updateStatus(jobs, { ...(j as Job), status });
    written.set(keyOf(next as Job), Number(next.metadata!.resourceVersion));
    return next;
  }

  /** Pods that may be let go of, each with what it counts as. */
  function countable(
    j: J,
    mine: readonly P[],
    letGo: ReadonlySet<string>,
    v: View,
    over: JobCondition | undefined,
  ) {
    const { uncountedTerminatedPods: known } = j.status ?? {};
    const done: P[] = [];
    const ok = [...(known?.succeeded ?? [])];
    const bad = [...(known?.failed ?? [])];
    const indexes: number[] = [];
    const failing = over !== undefined && over.type !== 'SuccessCriteriaMet';
    for (const p of mine) {
      const uid = p.metadata!.uid!;
      if (!isTracked(p) || letGo.has(uid)) continue;
      const failed = isFailed(j, p);
      const succeeded = p.status?.phase === 'Succeeded';
      const index = indexOf(j, p);
      const awaited = index !== undefined && v.replaced.get(index) === p;
      const may = j.metadata?.deletionTimestamp || over || succeeded || (failed && !awaited);
      if (!may) continue;
      done.push(p);
      if (succeeded && !bad.includes(uid)) {
        if (!isIndexed(j)) {
          if (!ok.includes(uid)) ok.push(uid);
        } else if (index !== undefined && !hasIndex(v.counted, index)) indexes.push(index);
      } else if ((failed || failing) && !bad.includes(uid) && (!isIndexed(j) || index !== undefined))
        if (judge(j.spec?.podFailurePolicy, p).counts) bad.push(uid);
      if (ok.length + bad.length + indexes.length >= BURST) break;
    }
    return {
      done,
      ok,
      bad,
      indexes,
      all: done.length === mine.filter((p) => isTracked(p) && !letGo.has(p.metadata!.uid!)).length,
    };
  }

  /** Moves what is no longer held by a finalizer from the lists into the numbers. */
  function counted(status: JobStatus, held: ReadonlySet<string>, j: J): JobStatus {
    const { succeeded = [], failed = [] } = status.uncountedTerminatedPods ?? {};
    const left = {
      succeeded: succeeded.filter((u) => held.has(u)),
      failed: failed.filter((u) => held.has(u)),
    };
    const add = (n: number | undefined, more: number) => (n || more ? { n: (n ?? 0) + more } : {});
    const ok = isIndexed(j) ? {} : add(status.succeeded, succeeded.length - left.succeeded.length);
    const bad = add(status.failed, failed.length - left.failed.length);
    return {
      ...status,
      ...('n' in ok ? { succeeded: ok.n } : {}),
      ...('n' in bad ? { failed: bad.n } : {}),
      uncountedTerminatedPods: {
        ...(left.succeeded.length ? { succeeded: left.succeeded } : {}),
        ...(left.failed.length ? { failed: left.failed } : {}),
      },
    };
  }

  return async (key) => {
    if (key.startsWith(ORPHAN)) {
      await releaseOrphan(key.slice(ORPHAN.length));
      return undefined;
    }
    const j = all.get(key);
    if (!j || endOf(j)) {
      failures.delete(key);
      written.delete(key);
      return undefined;
    }
    if (j.spec?.managedBy && j.spec.managedBy !== 'kubernetes.io/job-controller') return undefined;
    if ((written.get(key) ?? 0) > Number(all.revision)) return CATCH_UP_MS;
    const now = clock.now();
    const wait = control.expectations.wait(key);
    // As of the pods that we look at. While we wait for writes their informer goes on and empties `gone`; to take `mine`
    // for held again then would count them twice.
    const letGo = new Set(gone);
    const release = async (p: P) => {
      await untrack(p);
      letGo.add(p.metadata!.uid!);
    };
    const mine = await claim(
      client,
      jobs,
      j,
      pods,
      allPods.by('controller', j.metadata!.uid!),
      allPods.by('orphans', j.metadata!.namespace!),
      { finalizer: TRACKING },
    );
    const v = viewOf(j, mine, letGo);
    const row = failuresAfter(failures.get(key) ?? NO_FAILURES, v.newSucceeded, v.newFailed, now);
    let status: JobStatus = deepCopy(j.status ?? {}) as JobStatus;
    if (!status.startTime && !isSuspended(j)) status.startTime = rfc3339(now);
    const started = { ...j, status } as J;
    let over = verdict(started, mine, v, now) as JobCondition | undefined;
    let {
      active: running,
      ready,
      terminating,
    } = { active: v.active.length, ready: v.ready, terminating: v.terminating };
    let failure: unknown;
    let again = 0;
    const conditions = [...(status.conditions ?? [])];
    const remove = async (doomed: readonly P[], uncounted = false) => {
      for (const p of uncounted ? doomed : []) await release(p);
      await control.delete(j, doomed);
      running -= doomed.length;
      terminating += doomed.length;
      ready -= doomed.filter(isReady).length;
    };
    const attempt = async (work: () => Promise<void>) => {
      try {
        await work();
      } catch (e) {
        failure = e;
      }
    };
    if (over) {
      await attempt(() => remove(v.active));
      // There may be pods that we have not seen yet: not before all have gone.
      if (failure || wait > 0) over = undefined;
    } else {
      const managed = wait === 0 && !j.metadata?.deletionTimestamp;
      if (managed)
        await attempt(async () => {
          const doomed = surplus(j, v, (list) => leastValuableFirst(list, () => 0, now)).slice(0, BURST);
          if (doomed.length) return remove(doomed, true);
          const plan = creations(j, v, mine, row, now);
          again = plan.wait;
          const wanted = plan.create.slice(0, BURST);
          await control.create(
            j,
            wanted.map((c) => podOf(j, c)),
          );
          running += wanted.length;
        });
      if (!failure && isComplete(j, v, running))
        over = condition(
          'SuccessCriteriaMet',
          'CompletionsReached',
          'Reached expected number of succeeded pods',
          now,
        );
      else if (managed) suspend(j, conditions, status, now);
    }

    // First what ended is written down, then it is let go of, then it is counted: each once, whatever happens between.
    const held = () =>
      new Set(mine.filter((p) => isTracked(p) && !letGo.has(p.metadata!.uid!)).map((p) => p.metadata!.uid!));
    status = counted(status, held(), j);
    const count = countable({ ...j, status } as J, mine, letGo, v, over);
    const lists = { succeeded: count.ok, failed: count.bad };
    status.uncountedTerminatedPods = {
      ...(lists.succeeded.length ? { succeeded: lists.succeeded } : {}),
      ...(lists.failed.length ? { failed: lists.failed } : {}),
    };
    if (isIndexed(j)) {
      const indexes = joinIndexes(v.counted, indexesOf(count.indexes));
      const text = formatIndexes(indexes);
      const n = indexes.reduce((sum, [first, last]) => sum + last - first + 1, 0);
      if (text) status.completedIndexes = text;
      if (n || status.succeeded) status.succeeded = n;
      if (v.failedIndexes) status.failedIndexes = formatIndexes(v.failedIndexes);
    }
    if (running || status.active) status.active = running;
    if (!status.active) delete status.active;
    status.ready = Math.max(0, ready);
    status.terminating = terminating;
    if (over && !conditions.some((c) => c.type === over!.type)) conditions.push(over);
    if (conditions.length) status.conditions = conditions;
    let current = await write(j, status);
    failures.set(key, row);
    const freed = await Promise.allSettled(count.done.map(release));
    status = counted(deepCopy(current.status) as JobStatus, held(), j);
    const { succeeded = [], failed = [] } = status.uncountedTerminatedPods ?? {};
    const finished = over && count.all && !succeeded.length && !failed.length && !terminating;
    if (finished) finish(j, status, over!, now);
    current = await write(current, status);
    if (finished) tellEnd(current, over!);
    const failedFree = freed.find((r) => r.status === 'rejected') as PromiseRejectedResult | undefined;
    if (failedFree) throw failedFree.reason;
    if (failure && !isTerminating(failure)) throw failure;
    const soon = [wait, again, deadlineIn(current, now)].filter((ms) => ms > 0 && Number.isFinite(ms));
    return soon.length ? Math.min(...soon) : undefined;
  };

  function suspend(j: J, conditions: JobCondition[], status: JobStatus, now: number): void {
    const there = conditions.findIndex((c) => c.type === 'Suspended');
    const is = conditions[there]?.status === 'True';
    if (isSuspended(j) === is || (there < 0 && !isSuspended(j))) return;
    const next = isSuspended(j)
      ? condition('Suspended', 'JobSuspended', 'Job suspended', now)
      : condition('Suspended', 'JobResumed', 'Job resumed', now, 'False');
    if (there < 0) conditions.push(next);
    else conditions[there] = next;
    tell(j, 'Normal', isSuspended(j) ? 'Suspended' : 'Resumed', next.message!);
    // The time that it was suspended does not count towards its deadline.
    if (isSuspended(j)) delete status.startTime;
    else status.startTime = rfc3339(now);
  }

  function finish(j: J, status: JobStatus, over: JobCondition, now: number): void {
    const type = over.type === 'SuccessCriteriaMet' ? 'Complete' : 'Failed';
    status.conditions = [
      ...(status.conditions ?? []),
      condition(type, over.reason ?? '', over.message ?? '', now),
    ];
    if (type === 'Complete') status.completionTime = rfc3339(now);
    if (!status.startTime && !isSuspended(j)) status.startTime = rfc3339(now);
  }

  function tellEnd(j: J, over: JobCondition): void {
    if (conditionOf(j, 'Complete')) tell(j, 'Normal', 'Completed', 'Job completed');
    else tell(j, 'Warning', over.reason ?? '', over.message ?? '');
  }
}

/** Deletes Jobs, with their pods, so long after their end as they say. */
export function jobTtlLoop(ctx: Context, keys: Keys): Reconcile {
  const { client, informers, clock } = ctx;
  const all = informers.of(jobs).onChange((key, now) => {
    if (now?.spec?.ttlSecondsAfterFinished !== undefined && endOf(now)) keys.add(key);
  });
  return async (key) => {
    const j = all.get(key);
    const end = j && endOf(j);
    const seconds = j?.spec?.ttlSecondsAfterFinished;
    if (!end || seconds === undefined || j.metadata?.deletionTimestamp) return undefined;
    const since = Math.min(clock.now(), Date.parse(end.lastTransitionTime ?? '') || clock.now());
    const left = since + seconds * 1000 - clock.now();
    if (left > 0) return left;
    const { namespace, name, uid, resourceVersion } = j.metadata!;
    await ifThere(
      client.delete(
        jobs,
        { namespace, name: name! },
        { uid, resourceVersion, propagationPolicy: 'Foreground' },
      ),
    );
    return undefined;
  };
}
