import type { ConfigMap, Node, Pod, Secret, Service, ServiceAccount } from 'kubernetes-types/core/v1.js';
import type { RuntimeClass } from 'kubernetes-types/node/v1.js';

/**
 * What a node must have: pods bound to it and every object that they refer to. The hub computes it from the store;
 * nothing else goes down the link but this, acknowledgements and streams.
 */
export interface DesiredSet {
  /** The store revision it was computed at; never goes back. */
  generation: number;
  /**
   * False while it is only what this device remembers: written a moment late, it may lack what was started last, so
   * nothing that runs is to be ended for being absent from it. Absent: true.
   */
  confirmed?: boolean;
  pods: Pod[];
  configMaps: ConfigMap[];
  secrets: Secret[];
  serviceAccounts: ServiceAccount[];
  /** Those that the pods name, so that the agent can tell a `runtimeClassName`'s handler. */
  runtimeClasses?: RuntimeClass[];
  /** Of the pods whose volumes ask for tokens of their ServiceAccount. */
  tokens?: PodTokens[];
  /** The node itself, when it has settings of its link: its name and those annotations, nothing else. */
  nodes?: Node[];
  /** Those that the pods see in their environment: name, cluster address and ports, nothing else. */
  services?: Service[];
}

/** The tokens of one pod; `metadata` is the pod's. */
export interface PodTokens {
  metadata: { namespace: string; name: string; uid: string };
  /** Names the key that signed them. */
  kid: string;
  /** By `tokenName`: claims and signature, of which api/wire/jwt.ts makes the token. */
  tokens: Record<string, { c: object; s: string }>;
}

/** One name for every pair of audience and life that a volume may ask for. */
export const tokenName = (t: { audience?: string; expirationSeconds?: number }): string =>
  `${t.expirationSeconds ?? 3600} ${t.audience ?? ''}`;

/** Type of the Node condition of nodes that have a daily limit of bytes: True while it is used up. */
export const DATA_LIMIT = 'DataLimitReached';

/** What an agent says of its node: latest state, whole. */
export interface NodeReport {
  labels: Record<string, string>;
  capacity: Record<string, string>;
  allocatable: Record<string, string>;
  addresses: { type: string; address: string }[];
  nodeInfo: NonNullable<NonNullable<Node['status']>['nodeInfo']>;
  /** Every condition but `Ready`'s link part, which the hub derives; `Ready` here says whether the agent itself is well. */
  conditions: NonNullable<NonNullable<Node['status']>['conditions']>;
  /** RuntimeClass handlers that work here. */
  runtimeHandlers: string[];
  images?: { names: string[]; sizeBytes: number }[];
}

/** What an agent says of one pod: latest state, whole. `gone`: everything of it has ended and was cleaned up. */
export interface PodReport {
  namespace: string;
  name: string;
  uid: string;
  status: NonNullable<Pod['status']>;
  /** A pod that was being deleted has ended: the hub may remove the object. */
  gone?: boolean;
}

/** An event as the agent tells it; the hub makes or aggregates the Event object. */
export interface AgentEvent {
  involved: { kind: 'Pod' | 'Node'; namespace?: string; name: string; uid?: string; fieldPath?: string };
  type: 'Normal' | 'Warning';
  reason: string;
  message: string;
  /** Unix milliseconds; on the wire by the hub's clock, as far as the agent knows it. */
  at: number;
  /** Of the first, when `count` of them were gathered while there was no hub. */
  since?: number;
  count: number;
}
