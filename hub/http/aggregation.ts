import type { Remote, RemoteTable } from '../aggregator/remote.js';
import type { Reply, Request } from './message.js';

/** The way to what other servers serve in the name of this API. */
export interface Aggregation {
  readonly table: RemoteTable;
  /** Never rejects. */
  forward(remote: Remote, req: Request): Promise<Reply>;
  /** The OpenAPI v2 document of a remote; undefined when it cannot be had. */
  openApiV2(remote: Remote): Promise<object | undefined>;
}
