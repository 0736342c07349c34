/** Where a DaemonSet's pods belong and what is to be done about it: pure. daemonset.ts does what comes out of it. */
import type { DaemonSet, DaemonSetStatus } from 'kubernetes-types/apps/v1.js';
import type { Affinity, Node, Pod, PodSpec, Toleration } from 'kubernetes-types/core/v1.js';
import type { Frozen } from '../client.js';
import { matchesTerm, RUNTIME_LABEL } from '../scheduler/filters.js';
import { isTolerated, MEMORY_PRESSURE, NOT_READY, UNREACHABLE, UNSCHEDULABLE } from '../taints.js';
import { REVISION_HASH } from './history.js';
import { availableIn, hasEnded, isReady } from './pods.js';
import { resolveAmount } from './rollout.js';

export type Ds = Frozen<DaemonSet>;
type P = Frozen<Pod>;

/** What every pod of a DaemonSet puts up with (Kubernetes' AddOrUpdateDaemonPodTolerations). */
export function daemonTolerations(spec: Frozen<PodSpec> | undefined): Toleration[] {
  const own: readonly (readonly [string, string])[] = [
    [NOT_READY, 'NoExecute'],
    [UNREACHABLE, 'NoExecute'],
    ['node.kubernetes.io/disk-pressure', 'NoSchedule'],
    [MEMORY_PRESSURE, 'NoSchedule'],
    ['node.kubernetes.io/pid-pressure', 'NoSchedule'],
    [UNSCHEDULABLE, 'NoSchedule'],
    ...(spec?.hostNetwork ? [['node.kubernetes.io/network-unavailable', 'NoSchedule'] as const] : []),
  ];
  const has = (spec?.tolerations ?? []) as readonly Toleration[];
  const added = own
    .filter(
      ([key, effect]) =>
        !has.some(
          (t) =>
            t.key === key &&
            t.effect === effect &&
            t.operator === 'Exists' &&
            t.tolerationSeconds === undefined,
        ),
    )
    .map(([key, effect]) => ({ key, operator: 'Exists', effect }));
  return [...has, ...added];
}

const REQUIRED = 'requiredDuringSchedulingIgnoredDuringExecution';

/** The template's affinity with its demands on nodes replaced by one: this node. */
export const pinnedTo = (node: string, affinity: Affinity | undefined): Affinity => ({
  ...affinity,
  nodeAffinity: {
    ...affinity?.nodeAffinity,
    [REQUIRED]: {
      nodeSelectorTerms: [{ matchFields: [{ key: 'metadata.name', operator: 'In', values: [node] }] }],
    },
  },
});

/** The node that the pod is on or is meant for. */
export function targetOf(p: P): string | undefined {
  if (p.spec?.nodeName) return p.spec.nodeName;
  for (const term of p.spec?.affinity?.nodeAffinity?.[REQUIRED]?.nodeSelectorTerms ?? [])
    for (const f of term.matchFields ?? [])
      if (f.key === 'metadata.name' && f.operator === 'In' && f.values?.length === 1) return f.values[0];
  return undefined;
}

export interface Placement {
  /** A pod belongs there. */
  run: boolean;
  /** One that is there may stay. */
  stay: boolean;
}

/**
 * Whether the node is one of the DaemonSet's (Kubernetes' NodeShouldRunDaemonPod). `handler` is that of the pod's
 * RuntimeClass: a node where it does not work is none of them, which Kubernetes would find out from the pod only.
 */
export function placement(ds: Ds, node: Frozen<Node>, handler: string | undefined): Placement {
  const spec = ds.spec?.template.spec;
  const labels = (node.metadata?.labels ?? {}) as Record<string, string>;
  const name = node.metadata!.name!;
  const none = { run: false, stay: false };
  if (spec?.nodeName && spec.nodeName !== name) return none;
  for (const [k, v] of Object.entries(spec?.nodeSelector ?? {})) if (labels[k] !== v) return none;
  const required = spec?.affinity?.nodeAffinity?.[REQUIRED];
  if (required && !required.nodeSelectorTerms.some((t) => matchesTerm(t as never, labels, name))) return none;
  const works = handler
    ? labels[RUNTIME_LABEL + handler] === 'true'
    : Object.entries(labels).some(([k, v]) => k.startsWith(RUNTIME_LABEL) && v === 'true');
  const tolerations = daemonTolerations(spec) as readonly Frozen<Toleration>[];
  const against = (node.spec?.taints ?? []).filter((t) => !isTolerated(t, tolerations));
  const run = works && !against.some((t) => t.effect === 'NoSchedule' || t.effect === 'NoExecute');
  // A runtime that is away for a moment ends no pod.
  return { run, stay: run || !against.some((t) => t.effect === 'NoExecute') };
}

const surges = (ds: Ds): boolean => isRolling(ds) && limits(ds, 1).maxSurge > 0;
const isRolling = (ds: Ds): boolean => ds.spec?.updateStrategy?.type !== 'OnDelete';

/** How many pods may be unavailable, or doubled, during an update of so many nodes. */
export function limits(ds: Ds, nodes: number): { maxUnavailable: number; maxSurge: number } {
  const r = ds.spec?.updateStrategy?.rollingUpdate as
    | { maxUnavailable?: number | string; maxSurge?: number | string }
    | undefined;
  const maxUnavailable = resolveAmount(r?.maxUnavailable ?? 1, nodes, Math.ceil);
  const maxSurge = resolveAmount(r?.maxSurge ?? 0, nodes, Math.ceil);
  return { maxUnavailable: maxUnavailable || maxSurge ? maxUnavailable : 1, maxSurge };
}

const born = (p: P): number => Date.parse(p.metadata?.creationTimestamp ?? '') || 0;
const olderFirst = (a: P, b: P): number =>
  Number(!a.spec?.nodeName) - Number(!b.spec?.nodeName) ||
  born(a) - born(b) ||
  (a.metadata!.name! < b.metadata!.name! ? -1 : 1);

export interface World {
  readonly nodes: readonly Frozen<Node>[];
  /** All pods of the DaemonSet. */
  readonly pods: readonly P[];
  /** The `controller-revision-hash` of the present template. */
  readonly hash: string;
  readonly now: number;
  readonly handler: string | undefined;
  /** A failed pod on this node is not to be replaced yet. */
  backsOff(node: string): boolean;
}

export interface Plan {
  /** Nodes that get a pod. */
  readonly create: string[];
  readonly delete: P[];
  /** Of `delete`: those that have ended, with their nodes. */
  readonly ended: { pod: P; node: string }[];
}

/** Pods per node; those that have ended and are being deleted are nobody's business any more. */
function perNode(pods: readonly P[]): Map<string, P[]> {
  const map = new Map<string, P[]>();
  for (const p of pods) {
    if (hasEnded(p) && p.metadata?.deletionTimestamp) continue;
    const node = targetOf(p);
    if (node === undefined) continue;
    const list = map.get(node);
    if (list) list.push(p);
    else map.set(node, [p]);
  }
  return map;
}

/** What keeps one pod on each node, and replaces old ones as the update strategy allows. */
export function planDaemons(ds: Ds, w: World): Plan {
  const on = perNode(w.pods);
  const plan: Plan = { create: [], delete: [], ended: [] };
  for (const node of w.nodes) keepOne(ds, w, node, on.get(node.metadata!.name!) ?? [], plan);
  const names = new Set(w.nodes.map((n) => n.metadata!.name!));
  // Meant for a node that is gone: the scheduler will never place it, and no node will end it.
  for (const p of w.pods)
    if (!p.spec?.nodeName && !p.metadata?.deletionTimestamp && !names.has(targetOf(p) ?? ''))
      plan.delete.push(p);
  if (plan.create.length || plan.delete.length || !isRolling(ds)) return plan;
  return rollOver(ds, w, on);
}

function keepOne(ds: Ds, w: World, node: Frozen<Node>, pods: readonly P[], plan: Plan): void {
  const name = node.metadata!.name!;
  const { run, stay } = placement(ds, node, w.handler);
  if (run && pods.length === 0) {
    plan.create.push(name);
    return;
  }
  const alive = pods.filter((p) => !p.metadata?.deletionTimestamp);
  if (!stay) {
    plan.delete.push(...alive);
    return;
  }
  const running: P[] = [];
  for (const p of alive)
    if (!hasEnded(p)) running.push(p);
    else if (p.status?.phase === 'Succeeded' || !w.backsOff(name)) {
      plan.ended.push({ pod: p, node: name });
      plan.delete.push(p);
    }
  running.sort(olderFirst);
  if (!surges(ds)) {
    plan.delete.push(...running.slice(1));
    return;
  }
  if (running.length === 0 && alive.length === 0 && run) plan.create.push(name);
  if (running.length <= 1) return;
  const fresh = running.filter((p) => isUpdated(p, w.hash));
  const old = running.filter((p) => !isUpdated(p, w.hash));
  plan.delete.push(...fresh.slice(1), ...old.slice(1));
  const [newest, oldest] = [fresh[0], old[0]];
  if (newest && oldest && (!isReady(oldest) || isAvailable(ds, newest, w.now))) plan.delete.push(oldest);
}

const isUpdated = (p: P, hash: string): boolean => p.metadata?.labels?.[REVISION_HASH] === hash;
const isAvailable = (ds: Ds, p: P, now: number): boolean =>
  availableIn(p, ds.spec?.minReadySeconds ?? 0, now) === 0;

/** One old and one new pod at most; undefined when there are more, for {@link keepOne} to see to first. */
function pairOf(pods: readonly P[], hash: string): { fresh?: P; old?: P } | undefined {
  const alive = pods.filter((p) => !p.metadata?.deletionTimestamp);
  const fresh = alive.filter((p) => isUpdated(p, hash));
  const old = alive.filter((p) => !isUpdated(p, hash));
  return fresh.length > 1 || old.length > 1 ? undefined : { fresh: fresh[0], old: old[0] };
}

function rollOver(ds: Ds, w: World, on: ReadonlyMap<string, readonly P[]>): Plan {
  const places = new Map(w.nodes.map((n) => [n.metadata!.name!, placement(ds, n, w.handler)]));
  const wanted = [...places].filter(([, p]) => p.run).map(([name]) => name);
  const { maxSurge, maxUnavailable } = limits(ds, wanted.length);
  const names = new Set([...on.keys(), ...wanted]);
  const plan = { create: [] as string[], delete: [] as P[], ended: [] };
  if (maxSurge === 0) {
    let unavailable = 0;
    const candidates: P[] = [];
    for (const name of names) {
      const pair = pairOf(on.get(name) ?? [], w.hash);
      if (!pair || Boolean(pair.fresh) === Boolean(pair.old)) unavailable++;
      else if (pair.fresh) unavailable += isAvailable(ds, pair.fresh, w.now) ? 0 : 1;
      else if (isAvailable(ds, pair.old!, w.now)) candidates.push(pair.old!);
      else {
        // Nothing is lost with it.
        plan.delete.push(pair.old!);
        unavailable++;
      }
    }
    plan.delete.push(...candidates.slice(0, Math.max(0, maxUnavailable - unavailable)));
    return plan;
  }
  let surging = 0;
  let available = 0;
  const candidates: string[] = [];
  const leaving: P[] = [];
  for (const name of names) {
    const pair = pairOf(on.get(name) ?? [], w.hash);
    if (!pair) {
      surging++;
      continue;
    }
    const { fresh, old } = pair;
    const first = old ?? fresh;
    const firstAvailable = !!first && isAvailable(ds, first, w.now);
    if (firstAvailable) available++;
    if (!old) continue;
    if (fresh) {
      if (isAvailable(ds, fresh, w.now)) plan.delete.push(old);
      else surging++;
    } else if (!places.get(name)?.run) (firstAvailable ? leaving : plan.delete).push(old);
    else (firstAvailable ? candidates : plan.create).push(name);
  }
  plan.delete.push(...leaving.slice(0, Math.max(0, available - wanted.length)));
  plan.create.push(...candidates.slice(0, Math.max(0, maxSurge - surging)));
  return plan;
}

/** `observed`: the present spec has been acted on. */
export function daemonStatus(ds: Ds, w: World, observed: boolean): DaemonSetStatus {
  const on = perNode(w.pods);
  const s = { desired: 0, current: 0, misscheduled: 0, ready: 0, updated: 0, available: 0 };
  for (const node of w.nodes) {
    const [pod] = [...(on.get(node.metadata!.name!) ?? [])].sort(olderFirst);
    if (!placement(ds, node, w.handler).run) {
      if (pod) s.misscheduled++;
      continue;
    }
    s.desired++;
    if (!pod) continue;
    s.current++;
    if (isReady(pod)) s.ready++;
    if (isAvailable(ds, pod, w.now)) s.available++;
    if (isUpdated(pod, w.hash)) s.updated++;
  }
  const { observedGeneration, collisionCount } = ds.status ?? {};
  const generation = observed ? ds.metadata?.generation : observedGeneration;
  return {
    currentNumberScheduled: s.current,
    numberMisscheduled: s.misscheduled,
    desiredNumberScheduled: s.desired,
    numberReady: s.ready,
    ...(generation ? { observedGeneration: generation } : {}),
    ...(s.updated ? { updatedNumberScheduled: s.updated } : {}),
    ...(s.available ? { numberAvailable: s.available } : {}),
    ...(s.desired - s.available ? { numberUnavailable: s.desired - s.available } : {}),
    ...(collisionCount === undefined ? {} : { collisionCount }),
  };
}
