import type { PodLogOptions, StatsOptions } from '../api/wire/streams.js';

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
