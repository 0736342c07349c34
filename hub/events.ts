import type { Event, ObjectReference } from 'kubernetes-types/core/v1.js';
import { type Clock, rfc3339 } from '../api/clock.js';
import { events } from '../api/kinds/index.js';
import { apiVersionOf, type Kind } from '../api/kinds/kind.js';
import type { Log } from '../api/log.js';
import { isApiError } from '../api/meta/errors.js';
import type { KubeObject } from '../api/meta/object.js';
import type { Client } from './client.js';

export type EventType = 'Normal' | 'Warning';

/** What happened to whom, as it is to be told. */
export interface Happening {
  involved: ObjectReference;
  type: EventType;
  reason: string;
  message: string;
  /** How often since it was last told; default 1. */
  count?: number;
  /** Unix milliseconds; default now. */
  at?: number;
  /** Of the first of `count`; default `at`. */
  since?: number;
}

/** Who tells: the `source` of the Event. */
export interface EventSource {
  component: string;
  host?: string;
}

const MAX_MESSAGE = 1024;
const MAX_WAITING = 2000;
const MAX_REMEMBERED = 4096;
/** Writes at once, so that a burst shares the store's group commits. */
const WRITERS = 16;
/** A repetition is written at most this often, in ms: it would cost a disk write each time. */
const REPEAT_EVERY = 10_000;
/** A series that was silent for so long starts anew: its Event is about to expire or already has. */
const FORGET_AFTER = 50 * 60_000;

interface Series {
  readonly key: string;
  name: string;
  namespace: string;
  /** As far as written. */
  written: number;
  count: number;
  firstAt: number;
  lastAt: number;
  writtenAt: number;
  queued: boolean;
  timer?: () => void;
  readonly what: Happening;
}

/**
 * Writes core/v1 Events, joining repetitions into one object with a count. Calls return at once and never throw; what
 * cannot be written is dropped, and so is the oldest when too many wait.
 */
export class EventRecorder {
  readonly #series = new Map<string, Series>();
  #made = 0;
  readonly #waiting: Series[] = [];
  #writers = 0;
  #stopped = false;

  constructor(
    private readonly client: Client,
    private readonly source: EventSource,
    private readonly clock: Clock,
    private readonly log: Log,
  ) {}

  /** Tells something of an object that the API serves. */
  tell(
    kind: Pick<Kind, 'group' | 'version' | 'kind'>,
    o: KubeObject,
    type: EventType,
    reason: string,
    message: string,
  ): void {
    this.record({ involved: referenceTo(kind, o), type, reason, message });
  }

  record(what: Happening): void {
    if (this.#stopped) return;
    const at = what.at ?? this.clock.now();
    const message =
      what.message.length > MAX_MESSAGE ? `${what.message.slice(0, MAX_MESSAGE - 3)}...` : what.message;
    const { involved } = what;
    const key = JSON.stringify([
      involved.kind,
      involved.namespace,
      involved.name,
      involved.uid,
      involved.fieldPath,
      what.type,
      what.reason,
      message,
    ]);
    let series = this.#series.get(key);
    if (series && at - series.lastAt > FORGET_AFTER) series = undefined;
    if (!series) {
      series = {
        key,
        name: '',
        // Events of cluster-scoped objects live in `default`, as in Kubernetes.
        namespace: involved.namespace || 'default',
        written: 0,
        count: 0,
        firstAt: what.since ?? at,
        lastAt: at,
        writtenAt: Number.NEGATIVE_INFINITY,
        queued: false,
        what: { ...what, message },
      };
    }
    // Re-inserted, so that the first one of the map is the one not told for longest.
    this.#series.delete(key);
    this.#series.set(key, series);
    series.count += what.count ?? 1;
    series.lastAt = Math.max(series.lastAt, at);
    this.#schedule(series);
    if (this.#series.size > MAX_REMEMBERED) {
      const oldest = this.#series.values().next().value!;
      oldest.timer?.();
      this.#series.delete(oldest.key);
    }
  }

  /** Nothing waits to be written at once. */
  get idle(): boolean {
    return this.#writers === 0 && this.#waiting.length === 0;
  }

  stop(): void {
    this.#stopped = true;
    for (const s of this.#series.values()) s.timer?.();
    this.#series.clear();
    this.#waiting.length = 0;
  }

  #schedule(series: Series): void {
    if (series.queued || series.timer) return;
    const wait = series.writtenAt + REPEAT_EVERY - this.clock.monotonic();
    if (wait > 0) {
      series.timer = this.clock.after(wait, () => {
        series.timer = undefined;
        this.#enqueue(series);
      });
    } else this.#enqueue(series);
  }

  #enqueue(series: Series): void {
    series.queued = true;
    this.#waiting.push(series);
    if (this.#waiting.length > MAX_WAITING) {
      const dropped = this.#waiting.shift()!;
      dropped.queued = false;
      this.log.warn(
        { reason: dropped.what.reason },
        'too many events wait to be written, dropped the oldest',
      );
    }
    if (this.#writers < WRITERS) void this.#drain();
  }

  async #drain(): Promise<void> {
    this.#writers++;
    for (;;) {
      const series = this.#waiting.shift();
      if (!series) break;
      series.queued = false;
      series.writtenAt = this.clock.monotonic();
      const count = series.count;
      try {
        await this.#write(series, count);
        series.written = count;
      } catch (e) {
        // The namespace is going away: nobody will read it.
        if (!isApiError(e, 'Forbidden') && !isApiError(e, 'NotFound'))
          this.log.warn(
            { reason: series.what.reason, err: e instanceof Error ? e.message : String(e) },
            'event not written',
          );
        this.#series.delete(series.key);
      }
      if (series.count > count && this.#series.get(series.key) === series) this.#schedule(series);
    }
    this.#writers--;
  }

  async #write(series: Series, count: number): Promise<void> {
    if (series.written > 0) {
      try {
        await this.client.patch(
          events,
          { namespace: series.namespace, name: series.name },
          { count, lastTimestamp: rfc3339(series.lastAt) },
        );
        return;
      } catch (e) {
        if (!isApiError(e, 'NotFound')) throw e;
      }
    }
    const { involved, type, reason, message } = series.what;
    series.name = this.#nameFor(involved.name ?? 'unknown', series.firstAt);
    const event: Event = {
      apiVersion: 'v1',
      kind: 'Event',
      metadata: { namespace: series.namespace, name: series.name },
      involvedObject: involved,
      reason,
      message,
      type,
      count,
      source: { component: this.source.component, ...(this.source.host ? { host: this.source.host } : {}) },
      firstTimestamp: rfc3339(series.firstAt),
      lastTimestamp: rfc3339(series.lastAt),
      reportingComponent: this.source.component,
      reportingInstance: this.source.host ?? '',
    };
    await this.client.create(events, event);
  }

  /**
   * `<object>.<hex of the nanosecond>`, as client-go names them, at most 253 characters: sorted by name, the events of
   * one object tell their story in order. Below the millisecond it is a counter and chance.
   */
  #nameFor(object: string, at: number): string {
    const below = (this.#made++ % 1000) * 1000 + Math.floor(this.clock.random() * 1000);
    const nanos = BigInt(Math.max(0, Math.floor(at))) * 1_000_000n + BigInt(below);
    return `${object.slice(0, 236)}.${nanos.toString(16).padStart(16, '0')}`;
  }
}

export function referenceTo(kind: Pick<Kind, 'group' | 'version' | 'kind'>, o: KubeObject): ObjectReference {
  const m = o.metadata ?? {};
  return {
    apiVersion: apiVersionOf(kind),
    kind: kind.kind,
    ...(m.namespace ? { namespace: m.namespace } : {}),
    name: m.name,
    uid: m.uid,
    ...(m.resourceVersion ? { resourceVersion: m.resourceVersion } : {}),
  };
}
