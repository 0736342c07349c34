import type { Clock } from '../../api/clock.js';
import { apiVersionOf, type Kind } from '../../api/kinds/kind.js';
import { ApiError } from '../../api/meta/errors.js';
import type { AnyObject, KubeObject } from '../../api/meta/object.js';
import type { Frozen, WatchEvent, Watcher } from '../client.js';
import { Compacted, type Entry, type StoreEvent, type StoreWatch } from '../store/store.js';
import { settled } from './unconverted.js';

/** How often a watcher that wants bookmarks gets one, in milliseconds. */
const BOOKMARK_INTERVAL = 60_000;
/** How long before its end a watch gets its last one, in milliseconds (kube-apiserver's). */
const LAST_BOOKMARK = 2_000;

type Event = WatchEvent<Frozen<AnyObject>>;

interface KindWatch {
  source: StoreWatch;
  /** What exists already, to be told as ADDED first; absent when the watcher knows it. May throw Unconverted. */
  initial: (() => AnyObject[]) | undefined;
  initialRevision: number;
  /** Mark the end of `initial` with a bookmark. */
  endOfInitial: boolean;
  bookmarks: boolean;
  /** Ms until the watch is ended; absent: nobody knows. */
  endsIn?: number;
  kind: Kind;
  clock: Clock;
  matches(o: AnyObject): boolean;
  give(e: Entry): AnyObject;
  /** Called once, when nothing more is to come. */
  ended(): void;
}

/** One copy per deletion (and form of the object) for all watchers: the last state, with the revision of the deletion. */
const deleted = new WeakMap<AnyObject, AnyObject>();

function lastState(e: StoreEvent, before: AnyObject): AnyObject {
  let o = deleted.get(before);
  if (!o) {
    const metadata = Object.freeze({ ...before.metadata, resourceVersion: String(e.revision) });
    o = Object.freeze({ ...before, metadata });
    deleted.set(before, o);
  }
  return o;
}

/** Changes of one kind as a client's selector sees them: what enters it is ADDED, what leaves it is DELETED. */
export class KindWatcher implements Watcher<Frozen<AnyObject>>, AsyncIterator<Event> {
  readonly #w: KindWatch;
  readonly #events: AsyncIterator<StoreEvent>;
  #initial: AnyObject[] = [];
  #makeInitial: (() => AnyObject[]) | undefined;
  #told = 0;
  #endPending: boolean;
  /** An event that came while nobody waited (a bookmark had answered first). */
  #ready: IteratorResult<Event> | undefined;
  #failure: unknown;
  #waiting: { resolve(r: IteratorResult<Event>): void; reject(e: unknown): void } | undefined;
  #pulling = false;
  #done = false;
  #stopTimer: (() => void) | undefined;
  readonly #lastBookmark: number;

  constructor(w: KindWatch) {
    this.#w = w;
    this.#events = w.source[Symbol.asyncIterator]();
    this.#makeInitial = w.initial;
    this.#endPending = w.endOfInitial;
    this.#lastBookmark = w.clock.monotonic() + (w.endsIn ?? Number.POSITIVE_INFINITY) - LAST_BOOKMARK;
    if (w.bookmarks) this.#tick();
  }

  [Symbol.asyncIterator](): AsyncIterator<Event> {
    return this;
  }

  next(): Promise<IteratorResult<Event>> {
    if (this.#done) return Promise.resolve({ done: true, value: undefined });
    if (this.#makeInitial) {
      let initial: AnyObject[] | Promise<AnyObject[]>;
      try {
        initial = settled(this.#makeInitial);
      } catch (e) {
        return this.#failWith(e);
      }
      if (initial instanceof Promise)
        return initial.then(
          (all) => this.#begin(all),
          (e: unknown) => this.#failWith(e),
        );
      this.#takeInitial(initial);
    }
    if (this.#told < this.#initial.length) {
      const object = this.#initial[this.#told++]! as Frozen<AnyObject>;
      if (this.#told === this.#initial.length) {
        this.#initial = [];
        this.#told = 0;
      }
      return Promise.resolve({ done: false, value: { type: 'ADDED', object } });
    }
    if (this.#endPending) {
      this.#endPending = false;
      const end = this.#bookmark(this.#w.initialRevision, { 'k8s.io/initial-events-end': 'true' });
      return Promise.resolve({ done: false, value: end });
    }
    if (this.#ready) {
      const r = this.#ready;
      this.#ready = undefined;
      return Promise.resolve(r);
    }
    if (this.#failure !== undefined) {
      this.close();
      return Promise.reject(this.#failure);
    }
    return new Promise((resolve, reject) => {
      this.#waiting = { resolve, reject };
      this.#pull();
    });
  }

  return(): Promise<IteratorResult<Event>> {
    this.close();
    return Promise.resolve({ done: true, value: undefined });
  }

  close(): void {
    if (this.#done) return;
    this.#done = true;
    this.#stopTimer?.();
    this.#w.ended();
    this.#w.source.close();
    this.#initial = [];
    this.#waiting?.resolve({ done: true, value: undefined });
    this.#waiting = undefined;
  }

  #takeInitial(initial: AnyObject[]): void {
    this.#makeInitial = undefined;
    this.#initial = initial;
  }

  #begin(initial: AnyObject[]): Promise<IteratorResult<Event>> {
    this.#takeInitial(initial);
    return this.next();
  }

  #failWith(e: unknown): Promise<never> {
    this.close();
    return Promise.reject(e);
  }

  #pull(): void {
    if (this.#pulling) return;
    this.#pulling = true;
    const fail = (e: unknown) => {
      this.#pulling = false;
      this.#failure =
        e instanceof Compacted
          ? new ApiError('Expired', `too old resource version: ${e.asked} (${e.oldest})`)
          : e;
      const waiting = this.#waiting;
      if (!waiting) return;
      this.#waiting = undefined;
      this.close();
      waiting.reject(this.#failure);
    };
    const deliver = (event: Event | undefined) => {
      this.#pulling = false;
      if (this.#done) return;
      if (event) this.#settle({ done: false, value: event });
      else if (this.#waiting) this.#pull();
    };
    this.#events.next().then((r) => {
      if (r.done) {
        this.#pulling = false;
        this.close();
        return;
      }
      try {
        const event = settled(() => this.#translate(r.value));
        if (event instanceof Promise) event.then(deliver, fail);
        else deliver(event);
      } catch (e) {
        fail(e);
      }
    }, fail);
  }

  #settle(r: IteratorResult<Event>): void {
    const waiting = this.#waiting;
    this.#waiting = undefined;
    if (waiting) waiting.resolve(r);
    else this.#ready = r;
  }

  #translate(e: StoreEvent): Event | undefined {
    const { matches, give } = this.#w;
    const now = e.entry && give(e.entry);
    const before = e.previous && give(e.previous);
    const is = now !== undefined && matches(now);
    const was = before !== undefined && matches(before);
    if (is) return { type: was ? 'MODIFIED' : 'ADDED', object: now as Frozen<AnyObject> };
    if (was) return { type: 'DELETED', object: lastState(e, before) as Frozen<AnyObject> };
    return undefined;
  }

  #bookmark(revision: number, annotations?: Record<string, string>): Event {
    const { kind } = this.#w;
    const object: KubeObject = {
      kind: kind.kind,
      apiVersion: apiVersionOf(kind),
      metadata: {
        resourceVersion: String(revision),
        ...(annotations ? { annotations } : {}),
      },
    };
    return { type: 'BOOKMARK', object };
  }

  #tick(): void {
    const last = this.#lastBookmark - this.#w.clock.monotonic();
    this.#stopTimer = this.#w.clock.after(
      last > 0 ? Math.min(last, BOOKMARK_INTERVAL) : BOOKMARK_INTERVAL,
      () => {
        if (this.#done) return;
        // Only to someone who has taken everything else: a bookmark says that nothing older is to come.
        if (this.#waiting) this.#settle({ done: false, value: this.#bookmark(this.#w.source.revision) });
        this.#tick();
      },
    );
  }
}
