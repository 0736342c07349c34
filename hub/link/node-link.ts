/** What the hub knows of one node's link. Kept in memory only: all of it can be asked for again. */
import type { KeyObject } from 'node:crypto';
import type { Clock } from '../../api/clock.js';
import type { Decoder, SealKey } from '../../api/wire/codec.js';
import type { NodeReport } from '../../api/wire/desired.js';
import type { Held } from '../../api/wire/set.js';
import type { WireFormat } from '../../api/wire/versions.js';
import type { EventRecorder } from '../events.js';
import { Allowance } from './limiter.js';
import { NodeStreamTable } from './streams.js';

/** Of control messages, as JSON: a node with 110 pods says 400 KB when it says everything. */
const UNPACKED_BURST = 16 * 1024 * 1024;
const UNPACKED_PER_SECOND = 256 * 1024;
/** Twice an agent's ring. */
const EVENTS_BURST = 512;
const EVENTS_PER_SECOND = 2;

export interface Session {
  id: string;
  format: WireFormat;
  connection: string;
  epoch: string;
  sealers: Record<'d' | 's/d', SealKey>;
  decoders: Record<'u' | 's/u', Decoder>;
  key: KeyObject;
  /** When it last said anything, by the monotonic clock. */
  heardAt: number;
  renewed: boolean;
}

/** Written by desired-sync.ts alone. */
export interface SyncState {
  /** Undefined while the agent's set is not known. */
  held: Held | undefined;
  /** Uids of pods that the agent did not hold when it came, and that ended before it heard of them. */
  neverThere: ReadonlySet<string>;
  /** The agent has not heard since it came that what it holds is what it is to have. */
  unconfirmed: boolean;
  generation: number;
  inflight: { result: Held; digest: string; cancel: () => void } | undefined;
  retries: number;
  dirty: boolean;
  cancelFlush: (() => void) | undefined;
}

/** Written by intake.ts alone. Reports taken in, by key (`''` the node's own, else a pod's uid): numbers within `epoch`. */
export interface IntakeState {
  epoch: string | undefined;
  /** The agent knows that this hub wants all of them. */
  asked: boolean;
  /** Revision of the last status written. */
  revision: number;
  stored: Map<string, number>;
  latest: Map<string, number>;
  batches: Set<number>;
}

export interface NodeLink {
  readonly name: string;
  session: Session | undefined;
  link: 'up' | 'down';
  cancelDown: (() => void) | undefined;
  publicKey: KeyObject | undefined;
  /** Why its agent and this hub cannot talk, with the remedy. */
  incompatible: string | undefined;
  report: NodeReport | undefined;
  /** A hello may make the Node object; a report alone may not, so that a deleted Node stays deleted until then. */
  mayRegister: boolean;
  leaseAt: number | undefined;
  /** Bytes that it may have unpacked: a small frame can be a thousand times as large inside. */
  readonly unpacking: Allowance;
  /** Events that it may tell: each is a write. */
  readonly telling: Allowance;
  readonly intake: IntakeState;
  readonly sync: SyncState;
  readonly streams: NodeStreamTable;
  readonly events: EventRecorder;
}

export const newNodeLink = (name: string, clock: Clock, events: EventRecorder): NodeLink => ({
  name,
  session: undefined,
  link: 'up',
  cancelDown: undefined,
  publicKey: undefined,
  incompatible: undefined,
  report: undefined,
  mayRegister: false,
  leaseAt: undefined,
  unpacking: new Allowance(clock, UNPACKED_BURST, UNPACKED_PER_SECOND),
  telling: new Allowance(clock, EVENTS_BURST, EVENTS_PER_SECOND),
  intake: {
    epoch: undefined,
    asked: false,
    revision: 0,
    stored: new Map(),
    latest: new Map(),
    batches: new Set(),
  },
  sync: {
    held: undefined,
    neverThere: new Set(),
    unconfirmed: true,
    generation: 0,
    inflight: undefined,
    retries: 0,
    dirty: false,
    cancelFlush: undefined,
  },
  streams: new NodeStreamTable(name, clock),
  events,
});
