/** What the parts of a pod's worker share: the manager as a worker sees it, and a pod as its operations see it. */
import type { Container, Pod, PodStatus } from 'kubernetes-types/core/v1.js';
import type { Clock } from '../../api/clock.js';
import type { Log } from '../../api/log.js';
import type { ImageStatus, Shim, ShimHealth } from '../../shims/shim.js';
import type { PullGate, Reporter } from '../ports.js';
import type { Volumes } from '../volumes/volumes.js';
import type { Rejection } from './admit.js';
import type { Config, PodFacts } from './env.js';
import type { PodObservation } from './observer.js';
import type { Backoff, Failure, Goal, Picture, Tuning } from './plan.js';
import type { PodEnd, PodRecord } from './record.js';
import type { Refusal } from './resize.js';

/** What runs a pod; `runtimeHandler` says to the shim by which of its runtimes, where the RuntimeClass says so. */
export interface FoundShim {
  shim: Shim;
  health: ShimHealth;
  runtimeHandler?: string;
}

/** What a worker needs of the manager. */
export interface Host {
  readonly clock: Clock;
  readonly log: Log;
  readonly reporter: Reporter;
  readonly volumes: Volumes;
  readonly config: Config;
  readonly tuning: Tuning;
  readonly nodeMemoryBytes: number;
  facts(podIPs: string[]): PodFacts;
  podDir(uid: string): string;
  logDir(pod: Pod): string;
  /** The shim that runs a pod, or the reason why there is none. */
  shimOf(pod: Pod): FoundShim | { missing: string };
  /** Reads what the runtimes have of one pod; rejects when one that matters cannot be asked. */
  observe(uid: string, shim: Shim | undefined): Promise<PodObservation & { shim?: Shim }>;
  invalidate(shim: Shim): void;
  seen(shim: Shim): Picture['seen'];
  readonly pulls: PullGate | undefined;
  /** Resolves when it is known of every pod whether the node has it. */
  recordsRead(): Promise<unknown>;
  /** Why the node cannot take on this pod beside those that it has. */
  rejection(pod: Pod): Rejection | undefined;
  /** Why the node cannot give a pod what it asks for now. */
  refusal(pod: Pod): Refusal | undefined;
  /** Bounds how many pulls run at a time. */
  pulling<T>(body: () => Promise<T>): Promise<T>;
  /** The pod is no more. */
  forget(uid: string): void;
}

/** An image that was found or pulled for one attempt of a container. */
export interface FoundImage {
  attempt: number;
  image: string;
  /** What the shim takes. */
  ref: string;
  /** What is shown as imageID. */
  id: string;
  status: ImageStatus;
}

/** One pod, as the operations of apply.ts see and change it. */
export interface PodContext {
  readonly uid: string;
  readonly host: Host;
  readonly pod: Pod;
  readonly record: PodRecord | undefined;
  readonly shim: Shim | undefined;
  readonly health: ShimHealth | undefined;
  /** The runtime of the shim that the RuntimeClass names. */
  readonly runtimeHandler: string | undefined;
  readonly status: PodStatus | undefined;
  /** What the last look found. */
  readonly seen: PodObservation;
  /** Aborted when the pod is to end: pulls stop at once. */
  readonly life: AbortController;
  readonly images: Map<string, FoundImage>;
  readonly failures: Map<string, Failure>;
  readonly backoff: Record<string, Backoff>;
  readonly stopped: Set<string>;
  /** Containers whose stop was told and whose preStop hook was run. */
  readonly killing: Set<string>;
  volumesUp: boolean;
  volumesDown: boolean;
  /** The end of a pod that is being removed: never written, as it leaves no trace. */
  ended: PodEnd | undefined;
  goal(): Goal;
  container(name: string): Container;
  event(type: 'Normal' | 'Warning', reason: string, message: string, container?: string): void;
  /** Notes a failure under a key; it is tried again after a delay that doubles from `base` to `max` (milliseconds). */
  failed(key: string, e: unknown, reason: string, base?: number, max?: number): Failure;
  saveRecord(): Promise<void>;
  /** Resolves when no write of the record is under way; after `reportGone` none begins. */
  settledWrites(): Promise<void>;
  logFile(container: string, attempt: number): string;
  messageFile(container: string, attempt: number): string;
  reportGone(): void;
}
