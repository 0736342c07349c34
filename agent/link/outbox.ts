/**
 * What the hub is still to be told: the latest report of the node and of each pod, and a bounded ring of events.
 * Sent in numbered batches and kept until acknowledged, so losses, doubles and replays are harmless.
 */
import type { Clock } from '../../api/clock.js';
import type { AgentEvent, NodeReport, PodReport } from '../../api/wire/desired.js';
import { nodeReportText, podReportText } from '../../api/wire/held-reports.js';
import type { Report } from '../../api/wire/messages.js';
import { canonical } from '../../api/wire/set.js';
import { LIMITS } from '../../api/wire/topics.js';
import type { DeviceTime } from './device-time.js';

const MAX_EVENTS = 256;
/** Batches on the way at once; more only wait, and coalesce while they do. */
const WINDOW = 4;
const RETRY_MS = 15_000;
const RETRY_MAX_MS = 300_000;

interface Slot<T> {
  report: T;
  /** Compared to find out whether anything is new. */
  text: string;
  seq: number;
  acked: number;
  /** Number of the last version that is on its way. */
  sent: number;
}

type NodeSlot = Slot<NodeReport>;
type PodSlot = Slot<PodReport>;

interface EventSlot {
  event: AgentEvent;
  what: string;
  /** Monotonic times of the first and the last of them. */
  first: number;
  last: number;
  sent: boolean;
}

interface Batch {
  node?: number;
  pods: [PodSlot, number][];
  events: number[];
  cancel: () => void;
}

/** Neither on its way nor acknowledged. */
const waits = (s: Slot<unknown>): boolean => s.seq > s.sent && s.seq > s.acked;

/** Times of conditions are the hub's business, and would make every report a new one. */
const withoutTimes = (r: NodeReport): NodeReport => ({
  ...r,
  conditions: r.conditions.map(({ lastHeartbeatTime: _h, lastTransitionTime: _t, ...c }) => c),
});

export class Outbox {
  /** Milliseconds that a report waits for others to travel with; 0: those made in one go. */
  gatherMs = 0;
  #seq = 0;
  #batchNumber = 0;
  #node: NodeSlot | undefined;
  readonly #pods = new Map<string, PodSlot>();
  /** In order; an event goes when acknowledged or pushed out by newer ones. */
  readonly #events = new Map<number, EventSlot>();
  /** Of events that were never sent: a repetition is counted there. */
  readonly #fresh = new Map<string, number>();
  readonly #batches = new Map<number, Batch>();
  #connected = false;
  #all = false;
  /** Whether the hub has said in its welcome that it holds a report of this text. */
  #holds: ((text: string) => boolean) | undefined;
  /** Uids of pods, and `''` for the node, of which something was said since: what the hub held is no longer the point. */
  readonly #told = new Set<string>();
  /** The hub is to hear that its wish for all reports has been heard. */
  #answer = false;
  #cancelFlush: (() => void) | undefined;
  #retries = 0;

  constructor(
    private readonly clock: Clock,
    private readonly epoch: string,
    private readonly time: DeviceTime,
    private readonly send: (r: Report) => void,
  ) {}

  /** Nothing waits and nothing is on its way. */
  get idle(): boolean {
    return this.#batches.size === 0 && !this.#dirty();
  }

  /** What is held; each is bounded. */
  sizes(): { pods: number; events: number; batches: number } {
    return { pods: this.#pods.size, events: this.#events.size, batches: this.#batches.size };
  }

  node(report: NodeReport): void {
    const clean = withoutTimes(report);
    const text = canonical(clean);
    if (this.#node?.text === text) return;
    this.#node = {
      report: clean,
      text,
      seq: ++this.#seq,
      acked: this.#node?.acked ?? 0,
      sent: this.#node?.sent ?? 0,
    };
    this.#gather();
  }

  pod(report: PodReport): void {
    this.time.observe();
    const text = canonical(report);
    const slot = this.#pods.get(report.uid);
    if (slot?.text === text) return;
    const seq = ++this.#seq;
    // Changed in place: batches on their way refer to the slot.
    if (slot) Object.assign(slot, { report, text, seq });
    else this.#pods.set(report.uid, { report, text, seq, acked: 0, sent: 0 });
    this.#gather();
  }

  event(event: AgentEvent): void {
    const { count, at: _, ...rest } = event;
    const what = canonical(rest);
    const last = this.time.observe();
    const before = this.#fresh.get(what);
    const same = before === undefined ? undefined : this.#events.get(before);
    if (before !== undefined) this.#events.delete(before);
    const seq = ++this.#seq;
    this.#events.set(seq, {
      event: same ? { ...event, count: same.event.count + count } : event,
      what,
      first: same?.first ?? last,
      last,
      sent: false,
    });
    this.#fresh.set(what, seq);
    if (this.#events.size > MAX_EVENTS) {
      const [oldest, { what: gone }] = this.#events.entries().next().value!;
      this.#events.delete(oldest);
      if (this.#fresh.get(gone) === oldest) this.#fresh.delete(gone);
    }
    this.#gather();
  }

  /** Pods that are neither wanted nor waiting to be told of can be forgotten. */
  prune(uids: ReadonlySet<string>): void {
    for (const [uid, s] of this.#pods) if (!uids.has(uid) && s.acked === s.seq) this.#pods.delete(uid);
  }

  /** The hub listens. `all`: it knows nothing of this agent's process and wants every report but those that it holds. */
  connected(all: boolean, holds?: (text: string) => boolean): void {
    this.disconnected();
    this.#holds = all ? holds : undefined;
    this.#told.clear();
    this.#answer = all && holds !== undefined;
    this.#connected = true;
    this.#retries = 0;
    this.#all = all;
    if (all) {
      if (this.#node) this.#node.acked = this.#node.sent = 0;
      for (const s of this.#pods.values()) s.acked = s.sent = 0;
    }
    this.#gather(0);
  }

  /** What waits goes now. */
  flush(): void {
    this.#cancelFlush?.();
    this.#cancelFlush = undefined;
    this.#flush();
  }

  /** What was on its way may be lost: it is all to be sent again. */
  disconnected(): void {
    this.#connected = false;
    this.#holds = undefined;
    this.#cancelFlush?.();
    this.#cancelFlush = undefined;
    for (const b of this.#batches.values()) b.cancel();
    this.#batches.clear();
    if (this.#node) this.#node.sent = this.#node.acked;
    for (const s of this.#pods.values()) s.sent = s.acked;
    for (const e of this.#events.values()) e.sent = false;
  }

  ack(q: number): void {
    const b = this.#batches.get(q);
    if (!b) return;
    b.cancel();
    this.#batches.delete(q);
    this.#retries = 0;
    if (b.node !== undefined && this.#node) this.#node.acked = Math.max(this.#node.acked, b.node);
    for (const [slot, seq] of b.pods) {
      slot.acked = Math.max(slot.acked, seq);
      if (slot.report.gone && slot.acked === slot.seq) this.#pods.delete(slot.report.uid);
    }
    for (const seq of b.events) this.#events.delete(seq);
    // What came meanwhile waits for its time.
    if (!this.#cancelFlush) this.#flush();
  }

  #dirty(): boolean {
    if (this.#node && waits(this.#node)) return true;
    for (const s of this.#pods.values()) if (waits(s)) return true;
    for (const e of this.#events.values()) if (!e.sent) return true;
    return false;
  }

  #gather(ms = this.gatherMs): void {
    if (!this.#connected || this.#cancelFlush) return;
    this.#cancelFlush = this.clock.after(ms, () => {
      this.#cancelFlush = undefined;
      this.#flush();
    });
  }

  #flush(): void {
    if (this.#connected) this.#leaveOutHeld();
    while (this.#connected && this.#batches.size < WINDOW && (this.#answer || this.#dirty()))
      this.#sendBatch();
  }

  /** What the hub holds already, and of which nothing else was said since it told so. */
  #leaveOutHeld(): void {
    const holds = this.#holds;
    if (!holds) return;
    const n = this.#node;
    if (n && waits(n) && !this.#told.has('') && holds(nodeReportText(n.report))) n.acked = n.seq;
    for (const [uid, s] of this.#pods) {
      if (!waits(s) || s.report.gone || this.#told.has(uid)) continue;
      if (holds(podReportText(uid, this.time.correctAll(s.report.status)))) s.acked = s.seq;
    }
  }

  #sendBatch(): void {
    const q = ++this.#batchNumber;
    const r: Report = { e: this.epoch, q, ...(this.#all ? { f: 1 } : {}) };
    const b: Batch = { pods: [], events: [], cancel: () => {} };
    this.#answer = false;
    let bytes = 0;
    const room = (n: number) => {
      if (bytes > 0 && bytes + n > LIMITS.batch) return false;
      bytes += n;
      return true;
    };
    const n = this.#node;
    if (n && waits(n) && room(n.text.length)) {
      r.n = [n.seq, n.report];
      if (this.#holds) this.#told.add('');
      n.sent = n.seq;
      b.node = n.seq;
    }
    for (const s of this.#pods.values()) {
      if (!waits(s)) continue;
      if (!room(s.text.length)) break;
      r.p ??= [];
      r.p.push([s.seq, this.time.correctAll(s.report)]);
      s.sent = s.seq;
      if (this.#holds) this.#told.add(s.report.uid);
      b.pods.push([s, s.seq]);
    }
    for (const [seq, e] of this.#events) {
      if (e.sent) continue;
      if (!room(e.event.message.length + 200)) break;
      r.v ??= [];
      const [at, since] = [this.time.at(e.last), this.time.at(e.first)];
      r.v.push([seq, { ...e.event, at, ...(e.first < e.last ? { since } : {}) }]);
      if (this.#fresh.get(e.what) === seq) this.#fresh.delete(e.what);
      e.sent = true;
      b.events.push(seq);
    }
    const wait = Math.min(RETRY_MAX_MS, RETRY_MS * 2 ** this.#retries) * (1 + this.clock.random() / 4);
    b.cancel = this.clock.after(wait, () => {
      this.#batches.delete(q);
      this.#retries++;
      if (b.node !== undefined && this.#node?.sent === b.node) this.#node.sent = this.#node.acked;
      for (const [slot, seq] of b.pods) if (slot.sent === seq) slot.sent = slot.acked;
      for (const seq of b.events) {
        const e = this.#events.get(seq);
        if (e) e.sent = false;
      }
      this.#flush();
    });
    this.#batches.set(q, b);
    this.send(r);
  }
}
