/** Types of messages and their bodies: the table of docs/wire.md. Short field names, since every byte is paid for. */

import type { StatusReason } from '../meta/errors.js';
import type { KubeObject } from '../meta/object.js';
import type { AgentEvent, NodeReport, PodReport } from './desired.js';
import type { AttachOptions, ExecOptions, ForwardOptions, PodLogOptions, StatsOptions } from './streams.js';
import type { Versions } from './versions.js';

/** Third byte of a frame. */
export const TYPE = {
  // channel u: node to hub
  hello: 1,
  bye: 2,
  inventory: 3,
  applied: 4,
  report: 5,
  renew: 6,
  // channel d: hub to node
  query: 16,
  welcome: 17,
  delta: 18,
  ack: 19,
  refused: 20,
  certificate: 21,
  challenge: 22,
  // channels s/d and s/u
  open: 32,
  opened: 33,
  data: 34,
  credit: 35,
  end: 36,
  error: 37,
  cancel: 38,
  // joining
  joinHello: 48,
  joinChallenge: 49,
  joinProof: 50,
  joinGrant: 51,
  joinRefused: 52,
  renewHello: 53,
  renewChallenge: 54,
  renewProof: 55,
} as const;

/** First of a connection, and the answer to `query`. */
export interface Hello {
  /** The session's random number, another with every hello; the hub's signatures on all that follows cover it. */
  s: string;
  /** Generation and digest of the desired set held. */
  g: number;
  d: string;
  /** Name of the node's public key (`keyId`). */
  k: string;
  /** Names the connection, as the last will does, which was sent before the session was known. */
  w: string;
  /** Epoch of this agent process: reports are numbered within it. */
  e: string;
  /** The node's certificate, DER in base64, when the hub asked for it. */
  c?: string;
  /** The versions spoken (versions.ts); absent: 2 alone. */
  v?: Versions;
  /** Nonce of the challenge that this answers, and how often it was answered: the hub takes each number once. */
  h?: string;
  n?: number;
  /** The agent's ephemeral key (session.ts), until a welcome shows that the hub has it. */
  x?: string;
  /** MAC over all of the above. Without it the hub answers with a challenge and believes nothing. */
  p?: string;
}

/** Answer to a hello that proves nothing yet (signed): say it again, with proof. */
export interface Challenge {
  /** Nonce. */
  h: string;
  /** The hub's ephemeral key (session.ts). */
  k: string;
  /** With the certificate as well: this hub does not know the node's key. */
  c?: 1;
}

/** Leaving on purpose, or the last will. */
export interface Bye {
  w: string;
}

/** What the agent holds, when it could not apply a delta: item key to hash. */
export interface Inventory {
  s: string;
  g: number;
  i: [key: string, hash: string][];
}

export interface Applied {
  s: string;
  g: number;
  d: string;
}

/** Latest states and events. Answered by an `ack` with the same `q` once the store has them. */
export interface Report {
  e: string;
  q: number;
  /** The node's own. `n[0]` numbers it, as below. */
  n?: [seq: number, report: NodeReport];
  p?: [seq: number, report: PodReport][];
  v?: [seq: number, event: AgentEvent][];
  /** The agent has seen that every report is wanted (`r` of the welcome). Until then the hub goes on asking. */
  f?: 1;
}

/** Unsigned by session: only makes the agent say hello, which it does at a bounded rate. */
export type Query = undefined;

/** Answer to hello. Neither `i` nor a delta following: the agent's desired set is the right one. */
export interface Welcome {
  /**
   * The hub's store revision. Deltas of this connection are never older; it may itself be older than what the agent
   * holds when the store was restored from a backup, and then the hub is right.
   */
  g: number;
  /** Unix milliseconds, for agents without a clock of their own. */
  t: number;
  /** Send the inventory. */
  i?: 1;
  /** Send every report again: this hub has not seen this epoch. */
  r?: 1;
  /** With `r`: all but those with these hashes (held-reports.ts), which the store has as they are. */
  o?: string;
  /** The set that hello named is the one wanted: nothing else will follow. */
  m?: 1;
  /** The version of the session's frames from here on; absent: 2. */
  v?: number;
  /** `host:port` of the hub's OCI registry (HTTPS, the hub's CA). */
  a?: string;
}

/** A JSON merge patch (RFC 7386) of the item held, or the whole item. */
export type DeltaItem =
  | [key: string, hash: string, item: KubeObject]
  | [key: string, hash: string, patch: object, 1];

export interface Delta {
  /** Generation that the result has. */
  g: number;
  /** Digest of the set that this starts from, and of the result. */
  b: string;
  d: string;
  u?: DeltaItem[];
  x?: string[];
}

export interface Ack {
  q: number;
}

/** The node's certificate nears its end: one for the same key, please. Once per session. */
export interface Renew {
  s: string;
}

export interface Certificate {
  /** PEM. */
  c: string;
}

/** The hub will not serve this agent (signed). The message says why and names the remedy. */
export interface Refused {
  m: string;
  /** This node's key was revoked; `2`: and everything that the hub ever gave it is to be destroyed. */
  r?: 1 | 2;
}

// --- streams: `i` is the stream's number, chosen by the hub -------------------------------------------------------

/** What a stream may be. The first two only bring answers, the others carry data both ways. */
export interface StreamRequests {
  logs: PodLogOptions;
  stats: StatsOptions;
  exec: ExecOptions;
  attach: AttachOptions;
  forward: ForwardOptions;
}

export interface Open {
  i: number;
  /** First credit, bytes. */
  w: number;
  r: { kind: keyof StreamRequests; options: StreamRequests[keyof StreamRequests] };
}

export interface Opened {
  i: number;
  /** First credit of the hub, bytes; absent: the node takes no data. */
  w?: number;
}

export interface Credit {
  i: number;
  /** More bytes. */
  w: number;
}

export interface End {
  i: number;
  /** Data frames sent, so that a lost last one is noticed. */
  n: number;
  /** Exit code of an `exec`; absent: 0. */
  c?: number;
}

export interface StreamError {
  i: number;
  r: StatusReason;
  m: string;
}

export interface Cancel {
  i: number;
}

/** Raw body of a `data` message: stream u32, frame number u32 from 0 in each direction, sub-channel u8, bytes. */
export const DATA_HEADER = 9;

export function packData(stream: number, index: number, sub: number, bytes: Uint8Array): Buffer {
  const out = Buffer.allocUnsafe(DATA_HEADER + bytes.length);
  out.writeUInt32BE(stream, 0);
  out.writeUInt32BE(index >>> 0, 4);
  out[8] = sub;
  out.set(bytes, DATA_HEADER);
  return out;
}

export function unpackData(
  raw: Buffer,
): { stream: number; index: number; sub: number; bytes: Buffer } | undefined {
  if (raw.length < DATA_HEADER) return undefined;
  return {
    stream: raw.readUInt32BE(0),
    index: raw.readUInt32BE(4),
    sub: raw[8]!,
    bytes: raw.subarray(DATA_HEADER),
  };
}
