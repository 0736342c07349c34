/**
 * How many replicas metrics ask for, and how fast one may get there: the rules of Kubernetes' autoscaler
 * (kubernetes/kubernetes pkg/controller/podautoscaler). Pure. Amounts are in thousandths: millicores, millibytes.
 */
import type { HorizontalPodAutoscalerSpec, HPAScalingRules } from 'kubernetes-types/autoscaling/v2.js';
import type { Pod } from 'kubernetes-types/core/v1.js';
import { milliQuantity } from '../../api/meta/quantity.js';
import type { Frozen } from '../client.js';

/** So far from what is wanted is near enough. */
const TOLERANCE = 0.1;
/** A pod's CPU says little so soon after its start (--horizontal-pod-autoscaler-cpu-initialization-period). */
const CPU_INITIALIZATION_MS = 300_000;
/** A pod that was never ready since this long after its start is not believed (…-initial-readiness-delay). */
const INITIAL_READINESS_MS = 30_000;
/** --horizontal-pod-autoscaler-downscale-stabilization */
const DOWNSCALE_WINDOW_S = 300;

/** What one pod uses; times in Unix milliseconds. */
export interface PodUsage {
  value: number;
  at: number;
  windowMs: number;
}

/** Throws an Error in Kubernetes' words when there is nothing to go by. */
export type ReplicaCount = { replicas: number; average: number; utilization?: number };

interface Groups {
  ready: number;
  unready: string[];
  missing: string[];
  ignored: string[];
}

/** Whom to believe: the autoscaler's groupPods. */
export function groupPods(
  pods: readonly Frozen<Pod>[],
  usage: ReadonlyMap<string, PodUsage>,
  resource: string,
  now: number,
): Groups {
  const out: Groups = { ready: 0, unready: [], missing: [], ignored: [] };
  for (const pod of pods) {
    const name = pod.metadata!.name!;
    const used = usage.get(name);
    if (pod.metadata?.deletionTimestamp || pod.status?.phase === 'Failed') out.ignored.push(name);
    else if (pod.status?.phase === 'Pending') out.unready.push(name);
    else if (!used) out.missing.push(name);
    else if (resource === 'cpu' && isUnready(pod, used, now)) out.unready.push(name);
    else out.ready++;
  }
  return out;
}

function isUnready(pod: Frozen<Pod>, used: PodUsage, now: number): boolean {
  const ready = pod.status?.conditions?.find((c) => c.type === 'Ready');
  const started = pod.status?.startTime;
  if (!ready || !started) return true;
  const changedAt = Date.parse(ready.lastTransitionTime ?? started);
  const startedAt = Date.parse(started);
  if (startedAt + CPU_INITIALIZATION_MS > now)
    return ready.status === 'False' || used.at < changedAt + used.windowMs;
  return ready.status === 'False' && startedAt + INITIAL_READINESS_MS > changedAt;
}

/** What each pod asks for of a resource; of one container when it is named. */
export function requestsOf(
  pods: readonly Frozen<Pod>[],
  resource: string,
  container: string | undefined,
): Map<string, number> {
  const out = new Map<string, number>();
  for (const pod of pods) {
    const sidecars = (pod.spec?.initContainers ?? []).filter(
      (c) => (c as { restartPolicy?: string }).restartPolicy === 'Always',
    );
    let sum = 0;
    for (const c of [...(pod.spec?.containers ?? []), ...sidecars]) {
      if (container !== undefined && c.name !== container) continue;
      const request = c.resources?.requests?.[resource];
      if (request === undefined)
        throw new Error(
          `missing request for ${resource} in container ${c.name} of Pod ${pod.metadata!.name}`,
        );
      sum += milliQuantity(request);
    }
    out.set(pod.metadata!.name!, sum);
  }
  return out;
}

export type Target = { utilization: number; requests: ReadonlyMap<string, number> } | { average: number };

/** The autoscaler's GetResourceReplicas and GetRawResourceReplicas. */
export function replicasFor(
  current: number,
  pods: readonly Frozen<Pod>[],
  all: ReadonlyMap<string, PodUsage>,
  target: Target,
  resource: string,
  now: number,
): ReplicaCount {
  if (pods.length === 0) throw new Error('no pods returned by selector while calculating replica count');
  const groups = groupPods(pods, all, resource, now);
  const selected = new Set(pods.map((p) => p.metadata!.name!));
  const used = new Map<string, number>();
  for (const [name, { value }] of all) if (selected.has(name)) used.set(name, value);
  for (const name of [...groups.ignored, ...groups.unready]) used.delete(name);
  if (used.size === 0) throw new Error('did not receive metrics for targeted pods (pods might be unready)');

  const measure = () => {
    let sum = 0;
    let asked = 0;
    for (const [name, value] of used) {
      sum += value;
      if ('requests' in target) asked += target.requests.get(name) ?? 0;
    }
    const average = sum / used.size;
    if (!('requests' in target)) return { average, ratio: average / target.average };
    if (asked === 0) throw new Error('no metrics returned matched known pods');
    const utilization = Math.trunc((sum * 100) / asked);
    return { average, utilization, ratio: utilization / target.utilization };
  };
  const { ratio, average, utilization } = measure();
  const answer = (replicas: number): ReplicaCount => ({
    replicas,
    average: Math.trunc(average),
    ...(utilization === undefined ? {} : { utilization }),
  });
  const near = (r: number) => Math.abs(r - 1) <= TOLERANCE;

  const unreadyMatter = groups.unready.length > 0 && ratio > 1;
  if (!unreadyMatter && groups.missing.length === 0)
    return answer(near(ratio) ? current : Math.ceil(ratio * groups.ready));
  // Those of whom nothing is known never make a change larger: on the way down they use all, on the way up nothing.
  const full = (name: string): number =>
    'requests' in target
      ? ((target.requests.get(name) ?? 0) * Math.max(100, target.utilization)) / 100
      : target.average;
  if (ratio !== 1) for (const name of groups.missing) used.set(name, ratio < 1 ? full(name) : 0);
  if (unreadyMatter) for (const name of groups.unready) used.set(name, 0);
  const { ratio: careful } = measure();
  if (near(careful) || (ratio < 1 && careful > 1) || (ratio > 1 && careful < 1)) return answer(current);
  const replicas = Math.ceil(careful * used.size);
  if ((careful < 1 && replicas > current) || (careful > 1 && replicas < current)) return answer(current);
  return answer(replicas);
}

/** Something that was wanted or done lately. */
export interface Noted {
  /** `clock.monotonic()` */
  at: number;
  count: number;
}

/** What is remembered of one autoscaler, in memory only, as Kubernetes does. */
export interface Past {
  wanted: Noted[];
  up: Noted[];
  down: Noted[];
}

/** A condition that the way to the wanted number gives. */
export interface Remark {
  type: 'AbleToScale' | 'ScalingLimited';
  status: 'True' | 'False';
  reason: string;
  message: string;
}

const within = (list: readonly Noted[], seconds: number, now: number): Noted[] =>
  list.filter((n) => n.at > now - seconds * 1000);
const changed = (list: readonly Noted[], seconds: number, now: number): number =>
  within(list, seconds, now).reduce((sum, n) => sum + n.count, 0);

const STABLE_DOWN: Remark = {
  type: 'AbleToScale',
  status: 'True',
  reason: 'ScaleDownStabilized',
  message: 'recent recommendations were higher than current one, applying the highest recent recommendation',
};
const STABLE_UP: Remark = {
  type: 'AbleToScale',
  status: 'True',
  reason: 'ScaleUpStabilized',
  message: 'recent recommendations were lower than current one, applying the lowest recent recommendation',
};
const READY: Remark = {
  type: 'AbleToScale',
  status: 'True',
  reason: 'ReadyForNewScale',
  message: 'recommended size matches current size',
};
const limited = (reason: string, message: string): Remark => ({
  type: 'ScalingLimited',
  status: 'True',
  reason,
  message: `the desired replica count is ${message}`,
});
const IN_RANGE: Remark = {
  type: 'ScalingLimited',
  status: 'False',
  reason: 'DesiredWithinRange',
  message: 'the desired count is within the acceptable range',
};
const TOO_FAST_UP = limited('ScaleUpLimit', 'increasing faster than the maximum scale rate');
const TOO_FAST_DOWN = limited('ScaleDownLimit', 'decreasing faster than the maximum scale rate');
const TOO_MANY = limited('TooManyReplicas', 'more than the maximum replica count');
const TOO_FEW = limited('TooFewReplicas', 'less than the minimum replica count');

type Spec = Frozen<HorizontalPodAutoscalerSpec>;
type Rules = Frozen<HPAScalingRules> | undefined;

/** How far a direction's policies let it go from `current`. */
function rateLimit(up: boolean, current: number, past: Past, rules: Rules, now: number): number {
  if (rules?.selectPolicy === 'Disabled') return current;
  const limits = (rules?.policies ?? []).map(({ type, value, periodSeconds }) => {
    const added = changed(past.up, periodSeconds, now);
    const removed = changed(past.down, periodSeconds, now);
    const start = current - added + removed;
    const sign = up ? 1 : -1;
    if (type === 'Pods') return start + sign * value;
    const share = start * (1 + (sign * value) / 100);
    return up ? Math.ceil(share) : Math.trunc(share);
  });
  if (limits.length === 0) return current;
  const farthest = rules?.selectPolicy !== 'Min';
  return up === farthest ? Math.max(...limits) : Math.min(...limits);
}

/** Notes what is wanted in `past`, and gives what to do about it now. */
export function paced(
  wanted: number,
  current: number,
  spec: Spec,
  past: Past,
  now: number,
): { replicas: number; remarks: Remark[] } {
  const { minReplicas: min = 1, maxReplicas: max, behavior } = spec;
  if (past.wanted.length === 0) past.wanted.push({ at: now, count: current });
  const upWindow = behavior?.scaleUp?.stabilizationWindowSeconds ?? 0;
  const downWindow = behavior?.scaleDown?.stabilizationWindowSeconds ?? DOWNSCALE_WINDOW_S;
  const low = Math.min(wanted, ...within(past.wanted, upWindow, now).map((n) => n.count));
  const high = Math.max(wanted, ...within(past.wanted, downWindow, now).map((n) => n.count));
  past.wanted = within(past.wanted, Math.max(upWindow, downWindow), now);
  past.wanted.push({ at: now, count: wanted });
  for (const list of ['up', 'down'] as const) {
    const periods = [...(behavior?.scaleUp?.policies ?? []), ...(behavior?.scaleDown?.policies ?? [])];
    past[list] = within(past[list], Math.max(0, ...periods.map((p) => p.periodSeconds)), now);
  }
  const stable = behavior ? Math.min(Math.max(current, low), high) : high;
  const remarks: Remark[] = [
    stable === wanted ? READY : behavior && wanted >= current ? STABLE_UP : STABLE_DOWN,
  ];

  let most = max;
  let least = min;
  let tooMany = TOO_MANY;
  let tooFew = TOO_FEW;
  if (!behavior || stable > current) {
    const rate = behavior
      ? Math.max(current, rateLimit(true, current, past, behavior.scaleUp, now))
      : Math.max(2 * current, 4);
    if (rate < max) [most, tooMany] = [rate, TOO_FAST_UP];
  } else if (stable < current) {
    const rate = Math.min(current, rateLimit(false, current, past, behavior.scaleDown, now));
    if (rate > min) [least, tooFew] = [rate, TOO_FAST_DOWN];
  }
  if (stable < least) return { replicas: least, remarks: [...remarks, tooFew] };
  if (stable > most) return { replicas: most, remarks: [...remarks, tooMany] };
  return { replicas: stable, remarks: [...remarks, IN_RANGE] };
}
