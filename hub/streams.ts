import type { PodLogOptions } from '../api/wire/streams.js';

/** What the HTTP side needs of the link to reach into a node; the link implements it. */
export interface NodeStreams {
  /**
   * The log of one container, as bytes of UTF-8 lines. Ends when the log ends (or never, with `follow`); `signal`
   * stops it. Rejects with ApiError: BadRequest where the kubelet would answer 400 (container waiting to start, no
   * previous container), ServiceUnavailable when the node has no link.
   */
  logs(node: string, options: PodLogOptions, signal: AbortSignal): Promise<AsyncIterable<Uint8Array>>;
}
