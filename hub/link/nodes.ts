/** The Node object as it follows from an agent's report and the state of its link. Pure. */
import type { Node, NodeCondition } from 'kubernetes-types/core/v1.js';
import { rfc3339 } from '../../api/clock.js';
import { isNodesOwnLabel } from '../../api/kinds/node-labels.js';
import { isExtendedResource } from '../../api/kinds/resource-names.js';
import { DATA_LIMIT, type NodeReport } from '../../api/wire/desired.js';
import { canonical } from '../../api/wire/set.js';
import type { Frozen } from '../client.js';

/** The node's public key (SPKI, base64): what secrets are sealed to. Deleting the Node frees its name for another key. */
export const KEY_ANNOTATION = 'coxswain.dev/public-key';
/** Label keys that the agent set, so that they can go when the agent no longer has them; others are the user's. */
export const LABELS_ANNOTATION = 'coxswain.dev/agent-labels';

/** Of a node that is connected and has told nothing yet. */
const PENDING = 'NodeStatusPending';

export interface NodeFacts {
  name: string;
  /** Base64 SPKI; absent when not known. */
  publicKey?: string | undefined;
  /** The last one; absent while the agent has not told. */
  report?: NodeReport | undefined;
  link: 'up' | 'down';
  /** Why agent and hub cannot talk although there is a connection. */
  incompatible?: string | undefined;
}

/** Conditions in the order kubectl prints them, without heartbeats. */
function conditionsOf(old: Frozen<Node> | undefined, f: NodeFacts, now: string): NodeCondition[] {
  const before = new Map((old?.status?.conditions ?? []).map((c) => [c.type, c as NodeCondition]));
  const told: NodeCondition[] = f.report
    ? f.report.conditions.map((c) => ({ ...c }))
    : [...before.values()].map((c) => ({ ...c }));
  let ready = told.find((c) => c.type === 'Ready');
  if (!ready) {
    ready = {
      type: 'Ready',
      status: 'True',
      reason: 'KubeletReady',
      message: 'agent is posting ready status',
    };
    told.push(ready);
  }
  if (f.link === 'up' && !f.report && ready.status === 'Unknown')
    Object.assign(ready, {
      status: 'False',
      reason: PENDING,
      message: 'the agent is connected and has not reported yet',
    });
  if (f.link === 'down')
    for (const c of told) {
      // Why it is away, when it said so before it went.
      if (c.type === DATA_LIMIT) continue;
      c.status = 'Unknown';
      c.reason = 'NodeStatusUnknown';
      c.message = 'Kubelet stopped posting node status.';
      if (c.type !== 'Ready' || !f.incompatible) continue;
      c.reason = 'WireVersionUnsupported';
      c.message = f.incompatible;
    }
  const isReady = (c: NodeCondition) => (c.type === 'Ready' ? 1 : 0);
  return told
    .sort((a, b) => isReady(a) - isReady(b))
    .map((c) => {
      const b = before.get(c.type);
      const same = b?.status === c.status && b.reason === c.reason && b.message === c.message;
      return {
        type: c.type,
        status: c.status,
        ...(c.reason ? { reason: c.reason } : {}),
        ...(c.message ? { message: c.message } : {}),
        // Written with a change only: a heartbeat would be a disk write for nothing, and the Lease tells as much.
        lastHeartbeatTime: same ? (b.lastHeartbeatTime ?? now) : now,
        lastTransitionTime: b?.status === c.status ? (b.lastTransitionTime ?? now) : now,
      };
    });
}

type Amounts = Record<string, string>;

/** What somebody says through the API that the node has besides (say, licences): the agent knows nothing of it. */
function extras(old: Frozen<Node> | undefined, told: Amounts): Amounts {
  const has = (old?.status?.capacity ?? {}) as Amounts;
  return Object.fromEntries(
    Object.entries(has).filter(([name]) => isExtendedResource(name) && told[name] === undefined),
  );
}

/** The extended resources of a node are handed out whole, as the kubelet keeps it: all of them, and none that is not there. */
export function extrasDiffer(node: Frozen<Node>): boolean {
  const { capacity = {}, allocatable = {} } = (node.status ?? {}) as Record<string, Amounts>;
  const names = [...Object.keys(capacity), ...Object.keys(allocatable)].filter(isExtendedResource);
  return names.some((name) => capacity[name] !== allocatable[name]);
}

/** The report that the Node object was made of; undefined when the object does not say (any more). */
export function reportOf(node: Frozen<Node>): NodeReport | undefined {
  const { capacity, allocatable, addresses, nodeInfo, conditions, runtimeHandlers, images } =
    node.status ?? {};
  const ready = conditions?.find((c) => c.type === 'Ready');
  const owned = node.metadata?.annotations?.[LABELS_ANNOTATION];
  if (!ready || ready.status === 'Unknown' || ready.reason === PENDING) return undefined;
  if (owned === undefined || !capacity || !allocatable || !nodeInfo) return undefined;
  const labels: Record<string, string> = {};
  for (const k of owned.split(',').filter(Boolean)) {
    const value = node.metadata?.labels?.[k];
    if (value === undefined) return undefined;
    labels[k] = value;
  }
  // An agent tells of no such resources.
  const own = (amounts: Amounts) =>
    Object.fromEntries(Object.entries(amounts).filter(([name]) => !isExtendedResource(name)));
  return structuredClone({
    labels,
    capacity: own(capacity as Amounts),
    allocatable: own(allocatable as Amounts),
    addresses: addresses ?? [],
    nodeInfo,
    conditions,
    runtimeHandlers: (runtimeHandlers ?? []).map((h) => h.name ?? ''),
    ...(images ? { images } : {}),
  }) as NodeReport;
}

export interface NodePlan {
  /** Absent when nothing of metadata and spec changes. */
  main?: Node;
  /** Absent when nothing of status changes. */
  status?: Node;
}

/** What to write so that the Node says what is known. `old` undefined: it is to be created (both parts are there). */
export function planNode(old: Frozen<Node> | undefined, f: NodeFacts, nowMs: number): NodePlan {
  const now = rfc3339(nowMs);
  const conditions = conditionsOf(old, f, now);
  const labels: Record<string, string> = { ...old?.metadata?.labels };
  const annotations: Record<string, string> = { ...old?.metadata?.annotations };
  if (f.report) {
    const owned = (annotations[LABELS_ANNOTATION] ?? '').split(',').filter(Boolean);
    const told = Object.fromEntries(Object.entries(f.report.labels).filter(([k]) => isNodesOwnLabel(k)));
    for (const k of owned) if (!(k in told)) delete labels[k];
    Object.assign(labels, told);
    annotations[LABELS_ANNOTATION] = Object.keys(told).sort().join();
  }
  if (f.publicKey) annotations[KEY_ANNOTATION] = f.publicKey;
  const main: Node = {
    ...(old as Node | undefined),
    apiVersion: 'v1',
    kind: 'Node',
    metadata: { ...old?.metadata, name: f.name, labels, annotations } as Node['metadata'],
    spec: { ...(old?.spec as Node['spec']) },
  };
  const r = f.report;
  const statusBody: Node['status'] = {
    ...(old?.status as Node['status']),
    conditions,
    ...(r
      ? {
          capacity: { ...extras(old, r.capacity), ...r.capacity },
          allocatable: { ...extras(old, r.capacity), ...r.allocatable },
          addresses: r.addresses,
          nodeInfo: r.nodeInfo,
          runtimeHandlers: r.runtimeHandlers.map((name) => ({ name })),
          ...(r.images ? { images: r.images } : {}),
        }
      : {}),
  } as Node['status'];
  const status: Node = { ...main, status: statusBody };
  const plan: NodePlan = {};
  const mainPart = (n: Frozen<Node> | Node | undefined) =>
    canonical([n?.metadata?.labels ?? {}, n?.metadata?.annotations ?? {}, n?.spec ?? {}]);
  if (!old || mainPart(old) !== mainPart(main)) plan.main = main;
  if (!old || canonical(old.status ?? {}) !== canonical(statusBody)) plan.status = status;
  return plan;
}
