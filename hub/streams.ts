import { ApiError } from '../api/meta/errors.js';
import type { StreamEnd } from '../api/wire/stream-end.js';
import type {
  AttachOptions,
  ExecOptions,
  ForwardOptions,
  PodLogOptions,
  StatsOptions,
} from '../api/wire/streams.js';

/** The node has looked at a request and will not do it. */
export class NodeRefusal extends ApiError {}

/** A stream that carries data both ways. */
export interface NodeStream {
  readonly end: StreamEnd;
  /** When the node has ended it: the exit code of a command, 0 of anything else. Rejects with ApiError. */
  readonly done: Promise<number>;
  /** Ends it from this side; more than once does no harm. */
  cancel(): void;
}

export interface ConnectOptions {
  exec: ExecOptions;
  attach: AttachOptions;
  forward: ForwardOptions;
}

/** What the HTTP side needs of the link to reach into a node; the link implements it. */
export interface NodeStreams {
  /**
   * The log of one container, as bytes of UTF-8 lines. Ends when the log ends (or never, with `follow`); `signal`
   * stops it. Rejects with ApiError: BadRequest where the kubelet would answer 400 (container waiting to start, no
   * previous container), ServiceUnavailable when the node has no link.
   */
  logs(node: string, options: PodLogOptions, signal: AbortSignal): Promise<AsyncIterable<Uint8Array>>;
}

/** What resource metrics need of the link; the link implements it. */
export interface UsageStreams {
  /** The node's agent is connected and has said hello. */
  isLinked(node: string): boolean;
  /** JSON of a `NodeStats`, in chunks. Rejects with ApiError: ServiceUnavailable when the node has no link. */
  stats(node: string, options: StatsOptions, signal: AbortSignal): Promise<AsyncIterable<Uint8Array>>;
}

/** What exec, attach and port-forward need of the link; the link implements it. */
export interface PodConnections {
  /** Throws Forbidden or ServiceUnavailable when this cannot be asked of the node at all. */
  mayConnect(node: string): void;
  /**
   * Runs a command, attaches to a container or connects to a port of a pod. Resolves once the node has found it right;
   * rejects with NodeRefusal, or ServiceUnavailable when the node has no link or loses it.
   */
  connect<K extends keyof ConnectOptions>(
    node: string,
    kind: K,
    options: ConnectOptions[K],
    signal: AbortSignal,
  ): Promise<NodeStream>;
}
