import type { PodAffinityTerm, TopologySpreadConstraint } from 'kubernetes-types/core/v1.js';
import { type Labels, matchesSelector } from '../../api/meta/selector.js';
import type { Frozen } from '../client.js';
import type { NodeInfo, Places, PodInfo } from './snapshot.js';

/** Rules about where a pod may be in relation to other pods, counted once per pod and then held against each node. */
export interface TopologyRules {
  /** There are none. */
  readonly none?: true;
  spread(node: NodeInfo): string | undefined;
  affinity(node: NodeInfo): string | undefined;
}

const NO_RULES: TopologyRules = { none: true, spread: () => undefined, affinity: () => undefined };

const labelsOf = (p: PodInfo): Labels => (p.pod.metadata?.labels ?? {}) as Labels;

function termMatches(term: Frozen<PodAffinityTerm>, from: PodInfo, p: PodInfo): boolean {
  // Namespaces are not kept here, so a namespaceSelector can only be the empty one, which means all.
  const all = term.namespaceSelector && Object.keys(term.namespaceSelector).length === 0;
  const here = term.namespaces?.length
    ? term.namespaces.includes(p.namespace)
    : p.namespace === from.namespace;
  return (all || here) && matchesSelector(term.labelSelector as never, labelsOf(p));
}

/** Values of the term's topology key on nodes with a pod that the term matches. */
function valuesWith(ledger: Places, term: Frozen<PodAffinityTerm>, from: PodInfo): Set<string> {
  const values = new Set<string>();
  for (const node of ledger.nodes.values()) {
    const value = node.labels[term.topologyKey];
    if (value === undefined || values.has(value)) continue;
    for (const p of node.pods.values())
      if (termMatches(term, from, p)) {
        values.add(value);
        break;
      }
  }
  return values;
}

/**
 * `requiredDuringSchedulingIgnoredDuringExecution` pod (anti-)affinity, that of pods already placed included, and
 * topologySpreadConstraints with `DoNotSchedule`. `eligible`: the node passes the pod's own node affinity.
 */
export function topologyRules(
  pod: PodInfo,
  ledger: Places,
  eligible: (n: NodeInfo) => boolean,
): TopologyRules {
  const spec = pod.pod.spec;
  const together = spec?.affinity?.podAffinity?.requiredDuringSchedulingIgnoredDuringExecution ?? [];
  const apart = spec?.affinity?.podAntiAffinity?.requiredDuringSchedulingIgnoredDuringExecution ?? [];
  const constraints = (spec?.topologySpreadConstraints ?? []).filter(
    (c) => c.whenUnsatisfiable === 'DoNotSchedule',
  );
  if (together.length + apart.length + constraints.length + ledger.antiAffine.size === 0) return NO_RULES;

  const near = together.map((term) => ({ term, values: valuesWith(ledger, term, pod) }));
  // The first of a group that wants to be together may go anywhere, or none could ever start.
  const first =
    near.every((n) => n.values.size === 0) && together.every((term) => termMatches(term, pod, pod));
  const far = apart.map((term) => ({ term, values: valuesWith(ledger, term, pod) }));
  const shunned: { key: string; value: string }[] = [];
  for (const other of ledger.antiAffine.values())
    for (const term of other.pod.pod.spec?.affinity?.podAntiAffinity
      ?.requiredDuringSchedulingIgnoredDuringExecution ?? []) {
      const value = ledger.nodes.get(other.node)?.labels[term.topologyKey];
      if (value !== undefined && termMatches(term, other.pod, pod))
        shunned.push({ key: term.topologyKey, value });
    }
  const spreads = constraints.map((c) => ({ c, ...countDomains(c, pod, ledger, eligible) }));

  return {
    spread(node) {
      for (const { c, counts, least, self } of spreads) {
        const value = node.labels[c.topologyKey];
        if (value === undefined)
          return "node(s) didn't match pod topology spread constraints (missing required label)";
        if ((counts.get(value) ?? 0) + self - least > (c.maxSkew ?? 1))
          return "node(s) didn't match pod topology spread constraints";
      }
      return undefined;
    },
    affinity(node) {
      const { labels } = node;
      for (const { term, values } of near) {
        const value = labels[term.topologyKey];
        if (value === undefined || (!first && !values.has(value)))
          return "node(s) didn't match pod affinity rules";
      }
      for (const { term, values } of far)
        if (values.has(labels[term.topologyKey] ?? '')) return "node(s) didn't match pod anti-affinity rules";
      if (shunned.some((s) => labels[s.key] === s.value))
        return "node(s) didn't satisfy existing pods anti-affinity rules";
      return undefined;
    },
  };
}

function countDomains(
  c: Frozen<TopologySpreadConstraint>,
  pod: PodInfo,
  ledger: Places,
  eligible: (n: NodeInfo) => boolean,
): { counts: Map<string, number>; least: number; self: number } {
  const counts = new Map<string, number>();
  for (const node of ledger.nodes.values()) {
    const value = node.labels[c.topologyKey];
    if (!node.node || value === undefined || !eligible(node)) continue;
    let n = counts.get(value) ?? 0;
    for (const p of node.pods.values())
      if (
        p.namespace === pod.namespace &&
        !p.pod.metadata?.deletionTimestamp &&
        matchesSelector(c.labelSelector as never, labelsOf(p))
      )
        n++;
    counts.set(value, n);
  }
  const enough = counts.size >= ((c as { minDomains?: number }).minDomains ?? 1);
  return {
    counts,
    least: enough ? Math.min(...counts.values()) : 0,
    self: matchesSelector(c.labelSelector as never, labelsOf(pod)) ? 1 : 0,
  };
}
