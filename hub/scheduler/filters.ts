import type { NodeSelectorTerm, Taint, Toleration } from 'kubernetes-types/core/v1.js';
import type { RuntimeClass } from 'kubernetes-types/node/v1.js';
import { shimOfHandler } from '../../api/kinds/handlers.js';
import { type Labels, matchesRequirement } from '../../api/meta/selector.js';
import type { Frozen } from '../client.js';
import { isTolerated, MEMORY_PRESSURE, UNSCHEDULABLE } from '../taints.js';
import { isBestEffort } from './resources.js';
import type { HostPort, NodeInfo, Places, PodInfo } from './snapshot.js';
import { type TopologyRules, topologyRules } from './topology.js';

/** A node has this label, with the value `true`, for each RuntimeClass handler that works on it. */
export const RUNTIME_LABEL = 'coxswain.dev/runtime.';

/** One pod's wishes, worked out once and then held against every node. */
export interface Wishes {
  readonly pod: PodInfo;
  readonly nodeSelector: readonly (readonly [string, string])[];
  readonly requiredTerms: readonly Frozen<NodeSelectorTerm>[] | undefined;
  readonly tolerations: readonly Frozen<Toleration>[];
  /** The shim that the RuntimeClass needs, or undefined: any will do. */
  readonly handler: string | undefined;
  readonly topology: TopologyRules;
}

/** Merges what the pod and its RuntimeClass ask for (node.k8s.io/v1 Scheduling). */
export function wishesOf(
  pod: PodInfo,
  runtimeClass: Frozen<RuntimeClass> | undefined,
  ledger: Places,
): Wishes {
  const spec = pod.pod.spec;
  const tolerations = [...(spec?.tolerations ?? []), ...(runtimeClass?.scheduling?.tolerations ?? [])];
  // Memory pressure keeps away only pods that promise nothing about their use.
  if (!isBestEffort(pod.pod)) tolerations.push({ key: MEMORY_PRESSURE, operator: 'Exists' });
  const wishes = {
    pod,
    nodeSelector: Object.entries({ ...spec?.nodeSelector, ...runtimeClass?.scheduling?.nodeSelector }),
    requiredTerms: spec?.affinity?.nodeAffinity?.requiredDuringSchedulingIgnoredDuringExecution
      ?.nodeSelectorTerms as readonly Frozen<NodeSelectorTerm>[] | undefined,
    tolerations: tolerations as readonly Frozen<Toleration>[],
    handler: runtimeClass && shimOfHandler(runtimeClass.handler),
  };
  return {
    ...wishes,
    topology: topologyRules(pod, ledger, (node) => matchesNodeAffinity(wishes, node)),
  };
}

/** Why the node will not do: one or more reasons in Kubernetes' wording; undefined when it will. */
export type Filter = (w: Wishes, node: NodeInfo) => string | readonly string[] | undefined;

export function matchesTerm(term: Frozen<NodeSelectorTerm>, labels: Labels, name: string): boolean {
  const { matchExpressions = [], matchFields = [] } = term;
  // An empty term selects nothing (core/v1 NodeSelectorTerm).
  if (matchExpressions.length + matchFields.length === 0) return false;
  return (
    matchExpressions.every((r) => matchesRequirement(r, labels)) &&
    matchFields.every((r) => matchesRequirement(r, { 'metadata.name': name }))
  );
}

function matchesNodeAffinity(w: Pick<Wishes, 'nodeSelector' | 'requiredTerms'>, node: NodeInfo): boolean {
  const { labels } = node;
  for (const [k, v] of w.nodeSelector) if (labels[k] !== v) return false;
  return !w.requiredTerms || w.requiredTerms.some((t) => matchesTerm(t, labels, node.name));
}

const keepsAway = (t: Frozen<Taint>) => t.effect === 'NoSchedule' || t.effect === 'NoExecute';

const collides = (a: HostPort, b: HostPort) =>
  a.port === b.port &&
  a.protocol === b.protocol &&
  (a.ip === b.ip || a.ip === '0.0.0.0' || b.ip === '0.0.0.0' || a.ip === '::' || b.ip === '::');

/** Name → test, in the order in which they are asked; the first that objects speaks for the node. */
export const FILTERS = {
  NodeUnschedulable: (w, { node }) =>
    node?.spec?.unschedulable && !isTolerated({ key: UNSCHEDULABLE, effect: 'NoSchedule' }, w.tolerations)
      ? 'node(s) were unschedulable'
      : undefined,

  TaintToleration: (w, { taints }) => {
    const taint = taints.find(
      (t) => keepsAway(t) && t.key !== UNSCHEDULABLE && !isTolerated(t, w.tolerations),
    );
    return taint && `node(s) had untolerated taint {${taint.key}: ${taint.value ?? ''}}`;
  },

  NodeAffinity: (w, node) =>
    matchesNodeAffinity(w, node) ? undefined : "node(s) didn't match Pod's node affinity/selector",

  RuntimeHandler: (w, { labels }) => {
    if (w.handler !== undefined)
      return labels[RUNTIME_LABEL + w.handler] === 'true'
        ? undefined
        : `node(s) didn't have runtime handler "${w.handler}"`;
    for (const label in labels)
      if (label.startsWith(RUNTIME_LABEL) && labels[label] === 'true') return undefined;
    return "node(s) didn't have any runtime handler";
  },

  /** Nothing here hands devices out. */
  DynamicResources: (w) =>
    w.pod.pod.spec?.resourceClaims?.length ? 'cannot allocate all claims' : undefined,

  NodePorts: (w, { portUsers }) => {
    if (w.pod.ports.length === 0) return undefined;
    for (const other of portUsers.values())
      if (other.ports.some((a) => w.pod.ports.some((b) => collides(a, b))))
        return "node(s) didn't have free ports for the requested pod ports";
    return undefined;
  },

  NodeResourcesFit: (w, { allocatable, requested, pods }) => {
    const reasons: string[] = [];
    if (pods.size + 1 > (allocatable['pods'] ?? 0)) reasons.push('Too many pods');
    const { requests } = w.pod;
    for (const name in requests) {
      const amount = requests[name]!;
      if (amount > 0 && amount > (allocatable[name] ?? 0) - (requested[name] ?? 0))
        reasons.push(`Insufficient ${name}`);
    }
    return reasons.length ? reasons : undefined;
  },

  VolumeBinding: (w, node) => w.pod.volumes?.(node),

  PodTopologySpread: (w, node) => w.topology.spread(node),
  InterPodAffinity: (w, node) => w.topology.affinity(node),
} satisfies Record<string, Filter>;

export type FilterName = keyof typeof FILTERS;

const TABLE = Object.entries(FILTERS) as [FilterName, Filter][];

/** The first objection to putting the pod on the node. */
export function objection(
  w: Wishes,
  node: NodeInfo,
): { filter: FilterName; reasons: readonly string[] } | undefined {
  for (const [filter, test] of TABLE) {
    const reasons = test(w, node);
    if (reasons !== undefined) return { filter, reasons: typeof reasons === 'string' ? [reasons] : reasons };
  }
  return undefined;
}
