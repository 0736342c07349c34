/** The seams inside the agent: link ↔ pods. `main.ts` joins them; tests replace either side. */
import type { AgentEvent, DesiredSet, NodeReport, PodReport } from '../api/wire/desired.js';
import type { NodeStats, PodLogOptions, StatsOptions } from '../api/wire/streams.js';

/** Implemented by agent/pods, called by agent/link. */
export interface PodHost {
  /** The whole desired state, on every change and once at start from disk. Synchronous, returns at once; converging is the host's own business. */
  setDesired(desired: DesiredSet): void;
  /**
   * Bytes of the log as `kubectl logs` prints them. Rejects with an Error whose `reason` is a StatusReason
   * (`BadRequest`, `NotFound`), text as the kubelet's.
   */
  logs(options: PodLogOptions, signal: AbortSignal): AsyncIterable<Uint8Array>;
  /** What node and pods use now. Takes a second when it was not asked lately. */
  stats(options: StatsOptions): Promise<NodeStats>;
}

/** Implemented by agent/link, called by agent/pods and agent/node. Calls never block and never throw: latest wins, events are a bounded ring. */
export interface Reporter {
  node(report: NodeReport): void;
  pod(report: PodReport): void;
  event(event: AgentEvent): void;
}

/** Implemented by agent/link, asked by agent/pods: whether images may travel now, on a link that costs money. */
export interface PullGate {
  /** Why no image may be pulled now; undefined when it may. */
  refused(): string | undefined;
  /** Told of each image that came, in bytes. */
  pulled(bytes: number): void;
}
