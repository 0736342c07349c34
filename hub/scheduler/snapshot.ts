import type { Node, Pod, Taint } from 'kubernetes-types/core/v1.js';
import type { RuntimeClass } from 'kubernetes-types/node/v1.js';
import { keyOf } from '../../api/meta/object.js';
import type { Frozen } from '../client.js';
import { impliedTaints } from '../taints.js';
import { type Amounts, addAmounts, amountsOf, podRequests, UNSTATED } from './resources.js';

export interface HostPort {
  readonly ip: string;
  readonly protocol: string;
  readonly port: number;
}

/** A pod as the scheduler reckons with it, worked out once. */
export interface PodInfo {
  readonly key: string;
  readonly uid: string;
  readonly namespace: string;
  readonly pod: Frozen<Pod>;
  readonly requests: Amounts;
  /** Requests with something assumed for containers that state none; for comparing nodes. */
  readonly weight: Amounts;
  readonly ports: readonly HostPort[];
  /** uid of the controlling owner, or ''. */
  readonly owner: string;
  /** Why its claims keep it from a node; absent: it has none. */
  readonly volumes?: (node: NodeInfo) => string | undefined;
}

export function podInfo(pod: Frozen<Pod>, runtimeClass?: Frozen<RuntimeClass>): PodInfo {
  const overhead = (pod.spec?.overhead ?? runtimeClass?.overhead?.podFixed) as
    | Record<string, string>
    | undefined;
  return {
    key: keyOf(pod as Pod),
    uid: pod.metadata?.uid ?? '',
    namespace: pod.metadata?.namespace ?? '',
    pod,
    requests: podRequests(pod, overhead),
    weight: podRequests(pod, overhead, UNSTATED),
    ports: hostPorts(pod),
    owner: pod.metadata?.ownerReferences?.find((r) => r.controller)?.uid ?? '',
  };
}

export const priorityOf = (p: PodInfo): number => p.pod.spec?.priority ?? 0;

function hostPorts(pod: Frozen<Pod>): HostPort[] {
  const ports: HostPort[] = [];
  for (const c of [...(pod.spec?.containers ?? []), ...(pod.spec?.initContainers ?? [])])
    for (const p of c.ports ?? []) {
      const port = p.hostPort || (pod.spec?.hostNetwork ? p.containerPort : 0);
      if (port) ports.push({ ip: p.hostIP || '0.0.0.0', protocol: p.protocol ?? 'TCP', port });
    }
  return ports;
}

/** A node with everything that is bound, or about to be bound, to it. */
export class NodeInfo {
  /** Absent: there are pods bound to a node of this name, but no such node. */
  node: Frozen<Node> | undefined;
  allocatable: Amounts = {};
  /** What the spec says and what the conditions imply. */
  taints: readonly Frozen<Taint>[] = [];
  readonly requested: Record<string, number> = {};
  readonly weight: Record<string, number> = {};
  readonly pods = new Map<string, PodInfo>();
  /** Pods here by the uid of their owner. */
  readonly owners = new Map<string, number>();
  /** Pods here that want host ports. */
  readonly portUsers = new Map<string, PodInfo>();

  constructor(readonly name: string) {}

  /** For trying what if. */
  static copy(of: NodeInfo): NodeInfo {
    const made = new NodeInfo(of.name);
    made.node = of.node;
    made.allocatable = of.allocatable;
    made.taints = of.taints;
    for (const p of of.pods.values()) made.add(p);
    return made;
  }

  setNode(node: Frozen<Node> | undefined): void {
    this.node = node;
    this.allocatable = amountsOf(node?.status?.allocatable as Record<string, string> | undefined);
    this.taints = node ? [...(node.spec?.taints ?? []), ...impliedTaints(node)] : [];
  }

  get labels(): Readonly<Record<string, string>> {
    return (this.node?.metadata?.labels ?? {}) as Readonly<Record<string, string>>;
  }

  add(p: PodInfo): void {
    this.pods.set(p.uid, p);
    addAmounts(this.requested, p.requests);
    addAmounts(this.weight, p.weight);
    if (p.owner) this.owners.set(p.owner, (this.owners.get(p.owner) ?? 0) + 1);
    if (p.ports.length) this.portUsers.set(p.uid, p);
  }

  remove(uid: string): void {
    const p = this.pods.get(uid);
    if (!p) return;
    this.pods.delete(uid);
    this.portUsers.delete(uid);
    addAmounts(this.requested, p.requests, -1);
    addAmounts(this.weight, p.weight, -1);
    const left = (this.owners.get(p.owner) ?? 1) - 1;
    if (left > 0) this.owners.set(p.owner, left);
    else this.owners.delete(p.owner);
  }
}

/** Who is where. */
export interface Places {
  readonly nodes: ReadonlyMap<string, NodeInfo>;
  /** Pods with required anti-affinity, which later pods must respect. */
  readonly antiAffine: ReadonlyMap<string, { node: string; pod: PodInfo }>;
}

/**
 * Who is where, with pods counted from the moment their binding is decided: a burst of bindings is never decided on
 * room that the one before has taken.
 */
export class Ledger implements Places {
  readonly nodes = new Map<string, NodeInfo>();
  readonly antiAffine = new Map<string, { node: string; pod: PodInfo }>();
  /** Pods that wait for a place that others are leaving for them. */
  readonly #nominated = new Map<string, { node: string; pod: PodInfo }>();
  /** How many placed pods have each priority. */
  readonly #priorities = new Map<number, number>();
  readonly #where = new Map<string, string>();
  readonly #assumed = new Set<string>();

  setNode(name: string, node: Frozen<Node> | undefined): void {
    const info = this.#at(name);
    info.setNode(node);
    this.#tidy(info);
  }

  /** The pod holds room on the node, as the API says. Replaces what was assumed of it. */
  place(p: PodInfo, node: string): void {
    this.#assumed.delete(p.uid);
    this.#put(p, node);
  }

  /** The pod will be bound to the node. */
  assume(p: PodInfo, node: string): void {
    this.#assumed.add(p.uid);
    this.#put(p, node);
  }

  /** The pod is to have the room that others are leaving. */
  nominate(p: PodInfo, node: string): void {
    this.#nominated.set(p.uid, { node, pod: p });
  }

  /** Whether there was a nomination. */
  unnominate(uid: string): boolean {
    return this.#nominated.delete(uid);
  }

  nominatedTo(uid: string): string | undefined {
    return this.#nominated.get(uid)?.node;
  }

  /** The node as the pod has to see it: with those there that wait for a place on it and are no less important. */
  withNominated(node: NodeInfo, pod: PodInfo): NodeInfo {
    let crowded: NodeInfo | undefined;
    for (const n of this.#nominated.values()) {
      if (n.node !== node.name || n.pod.uid === pod.uid || priorityOf(n.pod) < priorityOf(pod)) continue;
      crowded ??= NodeInfo.copy(node);
      crowded.add(n.pod);
    }
    return crowded ?? node;
  }

  /** As things would be with the node so. */
  seenWith(node: NodeInfo): Places {
    const gone = ({ node: at, pod }: { node: string; pod: PodInfo }) =>
      at === node.name && !node.pods.has(pod.uid);
    return {
      nodes: new Map(this.nodes).set(node.name, node),
      antiAffine: new Map([...this.antiAffine].filter(([, p]) => !gone(p))),
    };
  }

  isAssumed(uid: string): boolean {
    return this.#assumed.has(uid);
  }

  /** The binding of an assumed pod failed. Says whether that gave room back. */
  forget(uid: string): boolean {
    return this.#assumed.has(uid) && this.remove(uid);
  }

  /** The pod has ended or is gone. Says whether it held anything. */
  remove(uid: string): boolean {
    const name = this.#where.get(uid);
    if (name === undefined) return false;
    this.#where.delete(uid);
    this.#assumed.delete(uid);
    this.antiAffine.delete(uid);
    const info = this.nodes.get(name)!;
    this.#count(info.pods.get(uid), -1);
    info.remove(uid);
    this.#tidy(info);
    return true;
  }

  #put(p: PodInfo, node: string): void {
    const at = this.#where.get(p.uid);
    if (at !== undefined) {
      const old = this.nodes.get(at)!;
      this.#count(old.pods.get(p.uid), -1);
      old.remove(p.uid);
    }
    this.#where.set(p.uid, node);
    this.#at(node).add(p);
    this.#count(p, 1);
    if (at !== undefined && at !== node) this.#tidy(this.nodes.get(at)!);
    if (p.pod.spec?.affinity?.podAntiAffinity?.requiredDuringSchedulingIgnoredDuringExecution?.length)
      this.antiAffine.set(p.uid, { node, pod: p });
  }

  #count(p: PodInfo | undefined, by: 1 | -1): void {
    if (!p) return;
    const n = (this.#priorities.get(priorityOf(p)) ?? 0) + by;
    if (n > 0) this.#priorities.set(priorityOf(p), n);
    else this.#priorities.delete(priorityOf(p));
  }

  /** Whether any placed pod matters less than this one. */
  hasLower(pod: PodInfo): boolean {
    for (const p of this.#priorities.keys()) if (p < priorityOf(pod)) return true;
    return false;
  }

  #at(name: string): NodeInfo {
    let info = this.nodes.get(name);
    if (!info) {
      info = new NodeInfo(name);
      this.nodes.set(name, info);
    }
    return info;
  }

  #tidy(info: NodeInfo): void {
    if (!info.node && info.pods.size === 0) this.nodes.delete(info.name);
  }
}
