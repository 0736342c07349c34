/** What the pods of a Job say about it: pure. job.ts does what comes out of it. */
import type { Job, JobCondition, PodFailurePolicy } from 'kubernetes-types/batch/v1.js';
import type { Pod } from 'kubernetes-types/core/v1.js';
import { rfc3339 } from '../../api/clock.js';
import {
  commonIndexes,
  countIndexes,
  hasIndex,
  type Indexes,
  indexesOf,
  joinIndexes,
  missingIndexes,
  parseIndexes,
} from '../../api/kinds/indexes.js';
import type { Frozen } from '../client.js';
import { isReady } from './pods.js';

export type J = Frozen<Job>;
export type P = Frozen<Pod>;

/** Keeps an ended pod until the Job has counted it. */
export const TRACKING = 'batch.kubernetes.io/job-tracking';
export const COMPLETION_INDEX = 'batch.kubernetes.io/job-completion-index';
const INDEX_FAILURES = 'batch.kubernetes.io/job-index-failure-count';
const IGNORED_FAILURES = 'batch.kubernetes.io/job-index-ignored-failure-count';

const BACKOFF_FIRST_MS = 10_000;
const BACKOFF_MAX_MS = 600_000;

export const conditionOf = (j: J, type: string): Frozen<JobCondition> | undefined =>
  j.status?.conditions?.find((c) => c.type === type && c.status === 'True');
/** The condition that says how it ended. */
export const endOf = (j: J): Frozen<JobCondition> | undefined =>
  conditionOf(j, 'Complete') ?? conditionOf(j, 'Failed');

export const isIndexed = (j: J): boolean => j.spec?.completionMode === 'Indexed';
export const isSuspended = (j: J): boolean => j.spec?.suspend === true;
export const isTracked = (p: P): boolean => p.metadata?.finalizers?.includes(TRACKING) ?? false;
const onlyReplacesFailed = (j: J): boolean => j.spec?.podReplacementPolicy === 'Failed';
const ended = (p: P): boolean => p.status?.phase === 'Succeeded' || p.status?.phase === 'Failed';
/** Deleted, and nobody runs it any more: its node let go of it, or never had it. */
const abandoned = (p: P): boolean =>
  !!p.metadata?.deletionTimestamp && p.metadata.deletionGracePeriodSeconds === 0;
export const isTerminatingPod = (p: P): boolean =>
  !!p.metadata?.deletionTimestamp && !ended(p) && !abandoned(p);

export const condition = (
  type: string,
  reason: string,
  message: string,
  now: number,
  status = 'True',
): JobCondition => {
  const at = rfc3339(now);
  return { type, status, lastProbeTime: at, lastTransitionTime: at, reason, message };
};

/** The completion index of a pod; undefined: it has none that counts. */
export function indexOf(j: J, p: P): number | undefined {
  const text = p.metadata?.annotations?.[COMPLETION_INDEX] ?? '';
  const n = /^\d{1,9}$/.test(text) ? Number(text) : Number.NaN;
  return n < (j.spec?.completions ?? 0) ? n : undefined;
}

const counter = (p: P, key: string): number => {
  const n = Number.parseInt(p.metadata?.annotations?.[key] ?? '0', 10);
  return Math.max(n || 0, 0);
};
const allFailures = (p: P): number => counter(p, INDEX_FAILURES) + counter(p, IGNORED_FAILURES);

/** Counts as a failure: it failed, or it was deleted before it could succeed. */
export function isFailed(j: J, p: P): boolean {
  if (p.status?.phase === 'Failed') return true;
  if (p.status?.phase === 'Succeeded' || !p.metadata?.deletionTimestamp) return false;
  return !onlyReplacesFailed(j) || abandoned(p);
}

interface Judgement {
  /** Counts towards the backoff limit. */
  counts: boolean;
  action?: string;
  /** The Job is to fail, and this is why. */
  message?: string;
}

/** What the policy says about a failed pod: the first rule that fits. */
export function judge(policy: Frozen<PodFailurePolicy> | undefined, p: P): Judgement {
  for (const [i, rule] of (policy?.rules ?? []).entries()) {
    let what: string | undefined;
    const codes = rule.onExitCodes;
    if (codes) {
      const fits = [...(p.status?.containerStatuses ?? []), ...(p.status?.initContainerStatuses ?? [])].find(
        (s) => {
          const code = s.state?.terminated?.exitCode;
          if (!code || (codes.containerName !== undefined && codes.containerName !== s.name)) return false;
          return codes.values.includes(code) === (codes.operator === 'In');
        },
      );
      if (fits)
        what = `Container ${fits.name} for pod ${p.metadata?.namespace}/${p.metadata?.name} failed with exit code ${fits.state!.terminated!.exitCode}`;
    } else {
      const fits = (p.status?.conditions ?? []).find((c) =>
        rule.onPodConditions?.some((x) => x.type === c.type && x.status === c.status),
      );
      if (fits) what = `Pod ${p.metadata?.namespace}/${p.metadata?.name} has condition ${fits.type}`;
    }
    if (what === undefined) continue;
    const { action } = rule;
    return {
      counts: action !== 'Ignore',
      action,
      ...(action === 'FailJob' ? { message: `${what} matching ${action} rule at index ${i}` } : {}),
    };
  }
  return { counts: true };
}

/** When the pod ended, in ms: as its node says, within what the hub's clock can vouch for. */
export function finishedAt(p: P, now: number): number {
  const times = (p.status?.containerStatuses ?? []).map((s) =>
    Date.parse(s.state?.terminated?.finishedAt ?? ''),
  );
  const unready = p.status?.conditions?.find((c) => c.type === 'Ready' && c.status === 'False');
  const deleted =
    Date.parse(p.metadata?.deletionTimestamp ?? '') - (p.metadata?.deletionGracePeriodSeconds ?? 0) * 1000;
  const created = Date.parse(p.metadata?.creationTimestamp ?? '') || 0;
  const told = times.length && !times.some(Number.isNaN) ? Math.max(...times) : Number.NaN;
  const at = [told, Date.parse(unready?.lastTransitionTime ?? ''), deleted].find((t) => !Number.isNaN(t));
  return Math.min(now, Math.max(created, at ?? created));
}

/** Failures in a row, and when the last one was. */
export interface Failures {
  readonly count: number;
  readonly last: number;
}

export const NO_FAILURES: Failures = { count: 0, last: 0 };

/** What newly ended pods make of the failures in a row: a success ends the row. */
export function failuresAfter(
  before: Failures,
  succeeded: readonly P[],
  failed: readonly P[],
  now: number,
): Failures {
  const times = failed.map((p) => finishedAt(p, now));
  if (succeeded.length === 0) {
    if (times.length === 0) return before;
    return { count: before.count + times.length, last: Math.max(...times) };
  }
  const success = Math.max(...succeeded.map((p) => finishedAt(p, now)));
  const later = times.filter((t) => t > success);
  return later.length ? { count: later.length, last: Math.max(...later) } : NO_FAILURES;
}

/** Milliseconds until a pod may take the place of a failed one. */
export function backoffLeft({ count, last }: Failures, now: number): number {
  if (count === 0) return 0;
  const delay = Math.min(BACKOFF_MAX_MS, BACKOFF_FIRST_MS * 2 ** Math.min(count - 1, 20));
  return Math.max(0, last + delay - now);
}

export interface View {
  readonly active: readonly P[];
  readonly ready: number;
  readonly terminating: number;
  /** Counted and yet to be counted. */
  readonly succeeded: number;
  readonly failed: number;
  readonly newSucceeded: readonly P[];
  readonly newFailed: readonly P[];
  /** Of an indexed Job: those counted before, and all. */
  readonly counted: Indexes;
  readonly succeededIndexes: Indexes;
  readonly failedIndexes?: Indexes;
  /** Index → the failed pod that stays until its successor knows how often it failed. */
  readonly replaced: ReadonlyMap<number, P>;
}

/** `uncounted`: uids in status that are not in the numbers yet. `gone`: pods whose finalizer we took away. */
export function viewOf(j: J, pods: readonly P[], gone: ReadonlySet<string>): View {
  const { uncountedTerminatedPods: uncounted } = j.status ?? {};
  const listed = { ok: new Set(uncounted?.succeeded ?? []), bad: new Set(uncounted?.failed ?? []) };
  const completions = j.spec?.completions ?? 0;
  const active = pods.filter((p) => !ended(p) && !p.metadata?.deletionTimestamp);
  const valid = pods.filter(
    (p) => isTracked(p) && !gone.has(p.metadata!.uid!) && (!isIndexed(j) || indexOf(j, p) !== undefined),
  );
  const isNew = (p: P, list: Set<string>) => !list.has(p.metadata!.uid!);
  const newSucceeded = valid.filter((p) => p.status?.phase === 'Succeeded' && isNew(p, listed.ok));
  const newFailed = valid.filter((p) => isFailed(j, p) && isNew(p, listed.bad));
  const counting = newFailed.filter((p) => judge(j.spec?.podFailurePolicy, p).counts);
  const counted = parseIndexes(j.status?.completedIndexes, completions);
  const fresh = pods.filter((p) => p.status?.phase === 'Succeeded' && isTracked(p)).map((p) => indexOf(j, p));
  const succeededIndexes = isIndexed(j)
    ? joinIndexes(counted, indexesOf(fresh.filter((i) => i !== undefined)))
    : [];
  let failedIndexes: Indexes | undefined;
  const limit = j.spec?.backoffLimitPerIndex;
  if (isIndexed(j) && limit !== undefined) {
    const lost = valid.filter((p) => {
      if (!isFailed(j, p)) return false;
      const { counts, action } = judge(j.spec?.podFailurePolicy, p);
      return action === 'FailIndex' || (counts && counter(p, INDEX_FAILURES) >= limit);
    });
    failedIndexes = joinIndexes(
      parseIndexes((j.status as { failedIndexes?: string })?.failedIndexes, completions),
      indexesOf(lost.map((p) => indexOf(j, p)!)),
    );
  }
  const replaced = new Map<number, P>();
  if (failedIndexes) {
    const running = new Set(active.map((p) => indexOf(j, p)));
    for (const p of valid) {
      const i = indexOf(j, p)!;
      if (!isFailed(j, p) || running.has(i)) continue;
      if (hasIndex(succeededIndexes, i) || hasIndex(failedIndexes, i)) continue;
      const other = replaced.get(i);
      if (!other || allFailures(other) <= allFailures(p)) replaced.set(i, p);
    }
  }
  return {
    active,
    ready: active.filter(isReady).length,
    terminating: pods.filter(isTerminatingPod).length,
    succeeded: isIndexed(j)
      ? countIndexes(succeededIndexes)
      : (j.status?.succeeded ?? 0) + newSucceeded.length + listed.ok.size,
    failed: (j.status?.failed ?? 0) + counting.length + listed.bad.size,
    newSucceeded,
    newFailed,
    counted,
    succeededIndexes,
    ...(failedIndexes ? { failedIndexes } : {}),
    replaced,
  };
}

const restartsOf = (pods: readonly P[]): number =>
  pods
    .filter((p) => p.status?.phase === 'Running' || p.status?.phase === 'Pending')
    .flatMap((p) => [...(p.status?.initContainerStatuses ?? []), ...(p.status?.containerStatuses ?? [])])
    .reduce((n, s) => n + (s.restartCount ?? 0), 0);

/** Milliseconds until the Job has run too long; Infinity: it may run for ever. */
export function deadlineIn(j: J, now: number): number {
  const seconds = j.spec?.activeDeadlineSeconds;
  const start = Date.parse(j.status?.startTime ?? '');
  if (seconds === undefined || isSuspended(j) || Number.isNaN(start)) return Number.POSITIVE_INFINITY;
  return Math.max(0, start + seconds * 1000 - now);
}

function successPolicyMet(j: J, v: View): string | undefined {
  if (!v.succeededIndexes.length) return undefined;
  for (const [i, r] of (j.spec?.successPolicy?.rules ?? []).entries()) {
    const count = r.succeededCount ?? Number.POSITIVE_INFINITY;
    let met = countIndexes(v.succeededIndexes) >= count;
    if (r.succeededIndexes !== undefined) {
      const required = parseIndexes(r.succeededIndexes, j.spec?.completions ?? 0);
      const common = commonIndexes(required, v.succeededIndexes);
      met = required.length > 0 && (common === countIndexes(required) || common >= count);
    }
    if (met) return `Matched rules at index ${i}`;
  }
  return undefined;
}

/**
 * Why the Job is over though pods may still have to go: `SuccessCriteriaMet`, `FailureTarget`, or undefined. What was
 * decided before stands.
 */
export function verdict(j: J, pods: readonly P[], v: View, now: number): Frozen<JobCondition> | undefined {
  const before = conditionOf(j, 'SuccessCriteriaMet') ?? conditionOf(j, 'FailureTarget');
  if (before) return before;
  const fail = (reason: string, message: string) => condition('FailureTarget', reason, message, now);
  const spec = j.spec!;
  for (const p of spec.podFailurePolicy ? pods : [])
    if (isFailed(j, p)) {
      const { message } = judge(spec.podFailurePolicy, p);
      if (message !== undefined) return fail('PodFailurePolicy', message);
    }
  const limit = spec.backoffLimit ?? 6;
  const restarts = spec.template.spec?.restartPolicy === 'OnFailure' ? restartsOf(pods) : 0;
  if (v.failed > limit || (restarts > 0 && restarts >= limit))
    return fail('BackoffLimitExceeded', 'Job has reached the specified backoff limit');
  if (deadlineIn(j, now) <= 0)
    return fail('DeadlineExceeded', 'Job was active longer than specified deadline');
  const lost = v.failedIndexes && countIndexes(v.failedIndexes);
  if (lost && lost > (spec.maxFailedIndexes ?? Number.POSITIVE_INFINITY))
    return fail(
      'MaxFailedIndexesExceeded',
      'Job has exceeded the specified maximal number of failed indexes',
    );
  if (lost && lost + countIndexes(v.succeededIndexes) >= (spec.completions ?? 0))
    return fail('FailedIndexes', 'Job has failed indexes');
  const met = successPolicyMet(j, v);
  return met === undefined ? undefined : condition('SuccessCriteriaMet', 'SuccessPolicy', met, now);
}

/** All pods that were wanted have succeeded and none is left. */
export function isComplete(j: J, v: View, active: number): boolean {
  const { completions } = j.spec!;
  return active === 0 && (completions === undefined ? v.succeeded > 0 : v.succeeded >= completions);
}

/** How many pods are to run now. */
export function wantedActive(j: J, v: View): number {
  const { completions, parallelism = 1 } = j.spec!;
  if (isSuspended(j)) return 0;
  if (completions === undefined) return v.succeeded > 0 ? v.active.length : parallelism;
  return Math.max(0, Math.min(parallelism, completions - v.succeeded));
}

export interface Creation {
  /** Absent: the Job is not indexed. */
  readonly index?: number;
  readonly annotations: Record<string, string>;
}

/** Pods to be made now, and how long until there may be more. */
export function creations(
  j: J,
  v: View,
  pods: readonly P[],
  failures: Failures,
  now: number,
): { create: Creation[]; wait: number } {
  const waiting = onlyReplacesFailed(j) ? v.terminating : 0;
  const room = wantedActive(j, v) - waiting - v.active.length;
  if (room <= 0) return { create: [], wait: 0 };
  if (!v.failedIndexes) {
    const wait = backoffLeft(failures, now);
    if (wait > 0) return { create: [], wait };
    if (!isIndexed(j)) return { create: Array.from({ length: room }, () => ({ annotations: {} })), wait: 0 };
  }
  const taken = pods
    .filter((p) => v.active.includes(p) || (onlyReplacesFailed(j) && isTerminatingPod(p)))
    .map((p) => indexOf(j, p))
    .filter((i) => i !== undefined);
  const free = missingIndexes(
    joinIndexes(v.succeededIndexes, v.failedIndexes ?? [], indexesOf(taken)),
    room,
    j.spec?.completions ?? 0,
  );
  const create: Creation[] = [];
  let soonest = Number.POSITIVE_INFINITY;
  for (const index of free) {
    const annotations: Record<string, string> = { [COMPLETION_INDEX]: `${index}` };
    const last = v.replaced.get(index);
    const left = last ? backoffLeft({ count: allFailures(last) + 1, last: finishedAt(last, now) }, now) : 0;
    if (left > 0) {
      soonest = Math.min(soonest, left);
      continue;
    }
    if (v.failedIndexes) {
      const counts = last && judge(j.spec?.podFailurePolicy, last).counts;
      annotations[INDEX_FAILURES] = `${last ? counter(last, INDEX_FAILURES) + (counts ? 1 : 0) : 0}`;
      const ignored = last ? counter(last, IGNORED_FAILURES) + (counts ? 0 : 1) : 0;
      if (ignored) annotations[IGNORED_FAILURES] = `${ignored}`;
    }
    create.push({ index, annotations });
  }
  return { create, wait: Number.isFinite(soonest) ? soonest : 0 };
}

/** Active pods that have to go: doubles, those whose index is not wanted, and as many more as are too many. */
export function surplus(j: J, v: View, sort: (pods: readonly P[]) => readonly P[]): readonly P[] {
  const excess = Math.max(0, v.active.length - wantedActive(j, v));
  const sorted = sort(v.active);
  const doomed = new Set<P>();
  if (isIndexed(j)) {
    const kept = new Set<number>();
    // The most valuable of each index stays.
    for (const p of [...sorted].reverse()) {
      const i = indexOf(j, p);
      if (i === undefined || kept.has(i)) doomed.add(p);
      else kept.add(i);
    }
  }
  for (const p of sorted) {
    if (doomed.size >= excess) break;
    doomed.add(p);
  }
  return [...doomed];
}
