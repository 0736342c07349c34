import type {
  Deployment,
  DeploymentCondition,
  DeploymentStatus,
  ReplicaSet,
} from 'kubernetes-types/apps/v1.js';
import { rfc3339 } from '../../api/clock.js';
import type { Frozen } from '../client.js';

/** Pure arithmetic and wording of rollouts; deployment.ts does what comes out of it. */

export type Dep = Frozen<Deployment>;
export type Rs = Frozen<ReplicaSet>;

export const REVISION = 'deployment.kubernetes.io/revision';
export const REVISION_HISTORY = 'deployment.kubernetes.io/revision-history';
export const DESIRED_REPLICAS = 'deployment.kubernetes.io/desired-replicas';
export const MAX_REPLICAS = 'deployment.kubernetes.io/max-replicas';
export const POD_TEMPLATE_HASH = 'pod-template-hash';

/** Annotations of the Deployment that are about itself and not about its ReplicaSets. */
export const NOT_COPIED: ReadonlySet<string> = new Set([
  'kubectl.kubernetes.io/last-applied-configuration',
  REVISION,
  REVISION_HISTORY,
  DESIRED_REPLICAS,
  MAX_REPLICAS,
  'deprecated.daemonset.template.generation',
]);

export const specReplicas = (o: Dep | Rs | undefined): number => (o ? (o.spec?.replicas ?? 1) : 0);
const sum = (of: readonly Rs[], value: (rs: Rs) => number): number => of.reduce((n, rs) => n + value(rs), 0);
export const wanted = (of: readonly Rs[]): number => sum(of, specReplicas);
/** Its number among the versions of the template: any int64. */
export function revisionOf(o: Dep | Rs | undefined): bigint {
  const text = o?.metadata?.annotations?.[REVISION] ?? '';
  return /^-?\d{1,19}$/.test(text) ? BigInt(text) : 0n;
}
export const isRolling = (d: Dep): boolean => (d.spec?.strategy?.type ?? 'RollingUpdate') === 'RollingUpdate';

/** An absolute number or a percentage of `total`. */
export function resolveAmount(
  value: number | string | undefined,
  total: number,
  round: (n: number) => number,
): number {
  if (typeof value === 'string') {
    const percent = /^(\d+)%$/.exec(value);
    return percent ? round((Number(percent[1]) * total) / 100) : Number.parseInt(value, 10) || 0;
  }
  return value ?? 0;
}

/** How many more, and how many fewer, pods than wanted there may be during an update. */
export function fence(d: Dep): { maxSurge: number; maxUnavailable: number } {
  if (!isRolling(d)) return { maxSurge: 0, maxUnavailable: 0 };
  const total = specReplicas(d);
  const u = d.spec?.strategy?.rollingUpdate;
  const maxSurge = resolveAmount((u?.maxSurge ?? '25%') as number | string, total, Math.ceil);
  const maxUnavailable = resolveAmount((u?.maxUnavailable ?? '25%') as number | string, total, Math.floor);
  // Both 0 would never get anywhere.
  return {
    maxSurge,
    maxUnavailable: Math.min(total, maxSurge === 0 && maxUnavailable === 0 ? 1 : maxUnavailable),
  };
}

/** What the new ReplicaSet may grow to now. */
export function newSize(d: Dep, all: readonly Rs[], size: number): number {
  const target = specReplicas(d);
  if (!isRolling(d)) return target;
  if (size > target) return target;
  // A ReplicaSet that was told to shrink still has its pods until its status says otherwise.
  const there = sum(all, (rs) => Math.max(specReplicas(rs), rs.status?.replicas ?? 0));
  const room = target + fence(d).maxSurge - there;
  return room <= 0 ? size : size + Math.min(room, target - size);
}

/** Available replicas that the ReplicaSet will still have: its status may be older than its last scaling. */
const certainlyAvailable = (rs: Rs): number => Math.min(specReplicas(rs), rs.status?.availableReplicas ?? 0);

/**
 * What the old ReplicaSets may shrink to now, oldest first: first what is not available anyway, then as much as
 * keeps the promised number available. Only those that change.
 */
export function oldSizes(d: Dep, fresh: Rs | undefined, old: readonly Rs[]): Map<Rs, number> {
  const sizes = new Map<Rs, number>();
  const minAvailable = specReplicas(d) - fence(d).maxUnavailable;
  const all = fresh ? [...old, fresh] : old;
  const freshUnavailable = fresh ? specReplicas(fresh) - certainlyAvailable(fresh) : 0;
  let budget = wanted(all) - minAvailable - freshUnavailable;
  if (budget <= 0 || wanted(old) === 0) return sizes;
  const shrink = (rs: Rs, by: number) => {
    if (by <= 0) return 0;
    sizes.set(rs, (sizes.get(rs) ?? specReplicas(rs)) - by);
    budget -= by;
    return by;
  };
  for (const rs of old) shrink(rs, Math.min(budget, specReplicas(rs) - certainlyAvailable(rs)));
  let spare = sum(all, certainlyAvailable) - minAvailable;
  for (const rs of old) spare -= shrink(rs, Math.min(budget, spare, sizes.get(rs) ?? specReplicas(rs)));
  return sizes;
}

/** How a change of `spec.replicas` in the middle of an update is shared out among ReplicaSets with pods. */
export function proportionalSizes(d: Dep, active: readonly Rs[]): Map<Rs, number> {
  const { maxSurge } = fence(d);
  const target = specReplicas(d);
  const allowed = target > 0 ? target + maxSurge : 0;
  const toAdd = allowed - wanted(active);
  const created = (rs: Rs) => Date.parse(rs.metadata?.creationTimestamp ?? '') || 0;
  // Biggest first; among equals the newest when there is more to give, the oldest when there is less.
  const order = [...active].sort(
    (a, b) =>
      specReplicas(b) - specReplicas(a) ||
      (toAdd > 0 ? created(b) - created(a) : created(a) - created(b)) ||
      (a.metadata!.name! < b.metadata!.name! ? -1 : 1),
  );
  const sizes = new Map<Rs, number>();
  let added = 0;
  for (const rs of order) {
    const before =
      Number(rs.metadata?.annotations?.[MAX_REPLICAS]) || d.status?.replicas || wanted(active) || 1;
    const share =
      target === 0
        ? -specReplicas(rs)
        : Math.round((specReplicas(rs) * (target + maxSurge)) / before) - specReplicas(rs);
    const left = toAdd - added;
    const part =
      toAdd === 0 ? 0 : toAdd > 0 ? Math.max(0, Math.min(share, left)) : Math.min(0, Math.max(share, left));
    added += part;
    sizes.set(rs, specReplicas(rs) + part);
  }
  const [first] = order;
  if (first) sizes.set(first, Math.max(0, sizes.get(first)! + toAdd - added));
  return sizes;
}

/** The numbers of a Deployment's status, without conditions. */
export function counts(d: Dep, fresh: Rs | undefined, all: readonly Rs[]): DeploymentStatus {
  const available = sum(all, (rs) => rs.status?.availableReplicas ?? 0);
  return {
    observedGeneration: d.metadata?.generation,
    replicas: sum(all, (rs) => rs.status?.replicas ?? 0),
    updatedReplicas: fresh?.status?.replicas ?? 0,
    readyReplicas: sum(all, (rs) => rs.status?.readyReplicas ?? 0),
    availableReplicas: available,
    unavailableReplicas: Math.max(0, wanted(all) - available),
    ...(d.status?.collisionCount === undefined ? {} : { collisionCount: d.status.collisionCount }),
  };
}

export function isComplete(d: Dep, s: DeploymentStatus): boolean {
  const target = specReplicas(d);
  return (
    s.updatedReplicas === target &&
    s.replicas === target &&
    s.availableReplicas === target &&
    (s.observedGeneration ?? 0) >= (d.metadata?.generation ?? 0)
  );
}

function isProgressing(d: Dep, s: DeploymentStatus): boolean {
  const was = d.status ?? {};
  const old = (x: Dep['status'] | DeploymentStatus) => (x?.replicas ?? 0) - (x?.updatedReplicas ?? 0);
  return (
    s.updatedReplicas! > (was.updatedReplicas ?? 0) ||
    old(s) < old(was) ||
    s.readyReplicas! > (was.readyReplicas ?? 0) ||
    s.availableReplicas! > (was.availableReplicas ?? 0)
  );
}

export const conditionOf = (
  s: Dep['status'] | DeploymentStatus,
  type: string,
): DeploymentCondition | undefined =>
  s?.conditions?.find((c) => c.type === type) as DeploymentCondition | undefined;

/**
 * Puts a condition in, unless its status and reason are there already; keeps the time of the last transition when the
 * status stays. `again`: the update time moves in any case.
 */
export function setCondition(
  list: DeploymentCondition[],
  type: string,
  status: string,
  reason: string,
  message: string,
  now: number,
  again = false,
): void {
  const i = list.findIndex((c) => c.type === type);
  const old = list[i];
  if (old && !again && old.status === status && old.reason === reason) return;
  const at = rfc3339(now);
  const condition = {
    type,
    status,
    reason,
    message,
    lastUpdateTime: at,
    lastTransitionTime: old?.status === status ? old.lastTransitionTime : at,
  };
  if (i >= 0) list[i] = condition;
  else list.push(condition);
}

/** Milliseconds until the rollout is late; Infinity when it cannot be. */
export function deadlineIn(d: Dep, now: number): number {
  const condition = conditionOf(d.status, 'Progressing');
  const seconds = d.spec?.progressDeadlineSeconds ?? 600;
  // kubectl and Kubernetes write the largest int32 for "no deadline".
  if (!condition || seconds >= 2 ** 31 - 1 || condition.reason === 'NewReplicaSetAvailable')
    return Number.POSITIVE_INFINITY;
  return (Date.parse(condition.lastUpdateTime ?? '') || now) + seconds * 1000 - now;
}

/** The whole status: numbers, and the conditions Available, Progressing and ReplicaFailure in Kubernetes' words. */
export function statusOf(
  d: Dep,
  fresh: Rs | undefined,
  all: readonly Rs[],
  now: number,
  rolling: boolean,
): DeploymentStatus {
  const s = counts(d, fresh, all);
  const conditions = [...(d.status?.conditions ?? [])] as DeploymentCondition[];
  if (s.availableReplicas! >= specReplicas(d) - fence(d).maxUnavailable)
    setCondition(
      conditions,
      'Available',
      'True',
      'MinimumReplicasAvailable',
      'Deployment has minimum availability.',
      now,
    );
  else
    setCondition(
      conditions,
      'Available',
      'False',
      'MinimumReplicasUnavailable',
      'Deployment does not have minimum availability.',
      now,
    );

  const who = fresh ? `ReplicaSet "${fresh.metadata!.name}"` : `Deployment "${d.metadata!.name}"`;
  const progressing = conditionOf(d.status, 'Progressing');
  const settled = s.replicas === s.updatedReplicas && progressing?.reason === 'NewReplicaSetAvailable';
  if (rolling && !settled) {
    if (isComplete(d, s))
      setCondition(
        conditions,
        'Progressing',
        'True',
        'NewReplicaSetAvailable',
        `${who} has successfully progressed.`,
        now,
      );
    else if (isProgressing(d, s))
      setCondition(
        conditions,
        'Progressing',
        'True',
        'ReplicaSetUpdated',
        `${who} is progressing.`,
        now,
        true,
      );
    else if (progressing?.reason !== 'ProgressDeadlineExceeded' && deadlineIn(d, now) <= 0)
      setCondition(
        conditions,
        'Progressing',
        'False',
        'ProgressDeadlineExceeded',
        `${who} has timed out progressing.`,
        now,
      );
  }

  const failures = [fresh, ...all]
    .flatMap((rs) => rs?.status?.conditions ?? [])
    .find((c) => c.type === 'ReplicaFailure');
  const kept = conditions.filter((c) => c.type !== 'ReplicaFailure');
  if (failures) {
    const old = conditionOf(d.status, 'ReplicaFailure');
    kept.push(
      old && old.reason === failures.reason && old.message === failures.message
        ? old
        : {
            type: 'ReplicaFailure',
            status: failures.status!,
            reason: failures.reason,
            message: failures.message,
            lastUpdateTime: rfc3339(now),
            lastTransitionTime: failures.lastTransitionTime ?? rfc3339(now),
          },
    );
  }
  return { ...s, conditions: kept };
}
