/** The seams inside the agent: link ↔ pods. `main.ts` joins them; tests replace either side. */
import type { Readable, Writable } from 'node:stream';
import type { AgentEvent, DesiredSet, NodeReport, PodReport } from '../api/wire/desired.js';
import type {
  AttachOptions,
  ExecOptions,
  ForwardOptions,
  NodeStats,
  PodLogOptions,
  StatsOptions,
} from '../api/wire/streams.js';

/** What travels between whoever asked and a process of a pod, or a port. All of it ends with `signal`. */
export interface Channels {
  readonly stdin: Readable;
  readonly stdout: Writable;
  readonly stderr: Writable;
  /** JSON of the terminal's sizes (`{"Width":80,"Height":24}`), one after the other. */
  readonly resize: Readable;
  /** Aborted when whoever asked has gone. */
  readonly signal: AbortSignal;
  /** To be called once the request is found right; data flows from then on. */
  accepted(): void;
}

/** Requests of streams that carry data both ways. */
export type ChannelRequest =
  | { kind: 'exec'; options: ExecOptions }
  | { kind: 'attach'; options: AttachOptions }
  | { kind: 'forward'; options: ForwardOptions };

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

/** Implemented by agent/pods, called by agent/link. */
export interface PodConnections {
  /**
   * Runs a command in a container, attaches to one, or connects to a port of a pod, until that ends; resolves with the
   * command's exit code (0 for the others). Rejects as
   * `PodHost.logs` does.
   */
  connect(request: ChannelRequest, channels: Channels): Promise<number>;
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
