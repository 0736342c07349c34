/** What a StatefulSet's pods should be and what is to be done about it: pure. statefulset.ts does what comes out of it. */
import type { StatefulSet, StatefulSetStatus } from 'kubernetes-types/apps/v1.js';
import type { PersistentVolumeClaim, Pod, PodTemplateSpec } from 'kubernetes-types/core/v1.js';
import { statefulSets } from '../../api/kinds/index.js';
import type { StatefulSpec } from '../../api/kinds/statefulset.js';
import { deepCopy } from '../../api/meta/json.js';
import type { Frozen } from '../client.js';
import { REVISION_HASH } from './history.js';
import { podFrom } from './podcontrol.js';
import { availableIn, hasEnded, isReady } from './pods.js';
import { resolveAmount } from './rollout.js';

export type Sts = Frozen<StatefulSet>;
type P = Frozen<Pod>;

export const POD_NAME = 'statefulset.kubernetes.io/pod-name';
const POD_INDEX = 'apps.kubernetes.io/pod-index';

export const specOf = (set: Sts): Frozen<StatefulSpec> => set.spec as unknown as Frozen<StatefulSpec>;

/** The ordinal of a pod of the set, or undefined: its name is not one of the set's. */
export function ordinalOf(set: Sts, p: P): number | undefined {
  const prefix = `${set.metadata!.name}-`;
  const name = p.metadata?.name ?? '';
  const digits = name.slice(prefix.length);
  return name.startsWith(prefix) && /^(?:0|[1-9]\d{0,9})$/.test(digits) ? Number(digits) : undefined;
}

const startOf = (set: Sts): number => specOf(set).ordinals?.start ?? 0;
const sizeOf = (set: Sts): number => set.spec?.replicas ?? 1;
const isWanted = (set: Sts, ordinal: number): boolean =>
  ordinal >= startOf(set) && ordinal < startOf(set) + sizeOf(set);
const isRolling = (set: Sts): boolean => specOf(set).updateStrategy?.type !== 'OnDelete';
const revisionOf = (p: P): string => p.metadata?.labels?.[REVISION_HASH] ?? '';
const isTerminating = (p: P): boolean => !!p.metadata?.deletionTimestamp;

/** The current revision is the one that the set had before an update began; both are the same when none is under way. */
export interface Revisions {
  readonly current: string;
  readonly update: string;
}

export interface StatefulPlan {
  /** Ordinals that get a pod, and of which revision it is. */
  readonly create: { ordinal: number; revision: string }[];
  readonly delete: P[];
  /** Pods that still wait for their claims. */
  readonly claims: P[];
  /** Pods without the label that tells their name. */
  readonly label: P[];
}

/**
 * One step towards what is wanted (Kubernetes' updateStatefulSet). In order, one pod at a time, each only when those
 * before it are available; or all at once when the set manages its pods in parallel.
 */
export function planStateful(set: Sts, pods: readonly P[], revisions: Revisions, now: number): StatefulPlan {
  const plan: StatefulPlan = { create: [], delete: [], claims: [], label: [] };
  const ordered = set.spec?.podManagementPolicy !== 'Parallel';
  const minReady = set.spec?.minReadySeconds ?? 0;
  const available = (p: P | undefined): boolean => !!p && availableIn(p, minReady, now) === 0 && isReady(p);
  const sound = (p: P | undefined): boolean => available(p) && !isTerminating(p!);
  const replicas: (P | undefined)[] = Array.from({ length: sizeOf(set) });
  const condemned: { p: P; ordinal: number }[] = [];
  for (const p of pods) {
    const ordinal = ordinalOf(set, p);
    if (ordinal === undefined) continue;
    if (isWanted(set, ordinal)) replicas[ordinal - startOf(set)] = p;
    else condemned.push({ p, ordinal });
  }
  condemned.sort((a, b) => b.ordinal - a.ordinal);

  for (const [i, p] of replicas.entries()) {
    if (!p) {
      plan.create.push({ ordinal: startOf(set) + i, revision: revisionFor(set, i, revisions) });
      if (ordered) return plan;
      continue;
    }
    if (hasEnded(p)) {
      if (!isTerminating(p)) plan.delete.push(p);
      if (ordered) return plan;
      continue;
    }
    if (p.status?.phase === 'Pending') plan.claims.push(p);
    if (ordered && !sound(p)) return plan;
    if (p.metadata?.labels?.[POD_NAME] !== p.metadata?.name) plan.label.push(p);
  }

  const weakest = replicas.find((p) => !sound(p)) ?? condemned.findLast(({ p }) => !sound(p))?.p;
  for (const { p } of condemned) {
    if (isTerminating(p)) {
      if (ordered) return plan;
      continue;
    }
    if (ordered && !available(p) && p !== weakest) return plan;
    plan.delete.push(p);
    if (ordered) return plan;
  }
  if (!isRolling(set)) return plan;

  const { partition = 0, maxUnavailable = 1 } = specOf(set).updateStrategy?.rollingUpdate ?? {};
  const allowed = Math.max(1, resolveAmount(maxUnavailable, sizeOf(set), Math.floor));
  let room = allowed - replicas.filter((p) => !sound(p)).length;
  for (let i = replicas.length - 1; i >= partition && plan.delete.length < allowed; i--) {
    const p = replicas[i];
    if (!p || revisionOf(p) === revisions.update || isTerminating(p) || plan.delete.includes(p)) continue;
    // With one that is of no use nothing is lost: it may be why there is an update.
    if (sound(p) && room-- <= 0) continue;
    plan.delete.push(p);
  }
  return plan;
}

/** Below the partition, pods stay (and come back) as they were before the update. */
function revisionFor(set: Sts, index: number, { current, update }: Revisions): string {
  if (!isRolling(set)) return update;
  const r = specOf(set).updateStrategy?.rollingUpdate;
  return index < (r ? (r.partition ?? 0) : (set.status?.currentReplicas ?? 0)) ? current : update;
}

/** The pod of the ordinal, from a template of the revision. */
export function statefulPod(
  set: Sts,
  template: Frozen<PodTemplateSpec>,
  { ordinal, revision }: { ordinal: number; revision: string },
): Pod {
  const pod = podFrom(statefulSets as never, set, template);
  const name = `${set.metadata!.name}-${ordinal}`;
  const { generateName: _, ...metadata } = pod.metadata!;
  const claims = claimsOf(set, ordinal);
  const own = claims.map((c) => c.volume);
  const volumes = [
    ...claims.map((c) => ({
      name: c.volume,
      // The claim lives longer than the pod; the name is all that the pod says of it.
      persistentVolumeClaim: { claimName: c.claim.metadata!.name! },
    })),
    ...(pod.spec?.volumes ?? []).filter((v) => !own.includes(v.name)),
  ];
  return {
    ...pod,
    metadata: {
      ...metadata,
      name,
      labels: {
        ...metadata.labels,
        [POD_NAME]: name,
        [POD_INDEX]: `${ordinal}`,
        [REVISION_HASH]: revision,
      },
    },
    spec: {
      ...pod.spec!,
      hostname: name,
      ...(set.spec?.serviceName ? { subdomain: set.spec.serviceName } : {}),
      ...(volumes.length ? { volumes } : {}),
    },
  };
}

/** The claims of an ordinal's pod, and the volumes that they are. */
export function claimsOf(set: Sts, ordinal: number): { volume: string; claim: PersistentVolumeClaim }[] {
  return (set.spec?.volumeClaimTemplates ?? []).map((t) => {
    const { status: _, ...claim } = deepCopy(t) as PersistentVolumeClaim;
    const volume = claim.metadata?.name ?? '';
    const metadata = {
      ...claim.metadata,
      namespace: set.metadata!.namespace,
      name: `${volume}-${set.metadata!.name}-${ordinal}`,
      labels: { ...claim.metadata?.labels, ...set.spec?.selector.matchLabels },
    };
    return { volume, claim: { ...claim, metadata } };
  });
}

/** Who is to own a pod's claims, so that they go with it: the set, the pod, or nobody. */
export function claimOwner(set: Sts, ordinal: number): 'set' | 'pod' | 'nobody' {
  const policy = specOf(set).persistentVolumeClaimRetentionPolicy;
  if (policy?.whenScaled === 'Delete' && !isWanted(set, ordinal)) return 'pod';
  return policy?.whenDeleted === 'Delete' ? 'set' : 'nobody';
}

export function statefulStatus(
  set: Sts,
  pods: readonly P[],
  revisions: Revisions,
  now: number,
): StatefulSetStatus {
  const minReady = set.spec?.minReadySeconds ?? 0;
  const mine = pods.filter((p) => ordinalOf(set, p) !== undefined);
  const running = mine.filter((p) => p.status?.phase === 'Running' && isReady(p));
  const staying = mine.filter((p) => !isTerminating(p));
  const of = (revision: string) => staying.filter((p) => revisionOf(p) === revision).length;
  const n = {
    replicas: mine.length,
    ready: running.length,
    available: running.filter((p) => availableIn(p, minReady, now) === 0).length,
    current: of(revisions.current),
    updated: of(revisions.update),
  };
  const size = sizeOf(set);
  // The update is over: from now on this is the revision that the set has.
  const done = isRolling(set) && [n.updated, n.ready, n.replicas].every((x) => x === size);
  const current = done ? n.updated : n.current;
  return {
    observedGeneration: set.metadata?.generation,
    replicas: n.replicas,
    ...(n.ready ? { readyReplicas: n.ready } : {}),
    availableReplicas: n.available,
    ...(current ? { currentReplicas: current } : {}),
    ...(n.updated ? { updatedReplicas: n.updated } : {}),
    currentRevision: done ? revisions.update : revisions.current,
    updateRevision: revisions.update,
    collisionCount: set.status?.collisionCount ?? 0,
  } as StatefulSetStatus;
}
