/**
 * The store's face to the registry: revisions, compare-and-swap, list and watch. Keys are
 * `/<group or core>/<plural>/<namespace>/<name>` (no namespace part for cluster-scoped kinds). Values are frozen plain
 * objects, held in memory once and shared with every reader. One revision counter for the whole store, which never
 * goes back, across crashes either.
 */
export interface Entry {
  readonly key: string;
  /** Deeply frozen. `metadata.resourceVersion` is in it when the store was given a {@link Stamp}. */
  readonly value: unknown;
  /** Revision of the last change. */
  readonly revision: number;
  /** Revision of the creation. */
  readonly createRevision: number;
}

/**
 * Writes a revision into a value: the store calls it when the revision is known and before it freezes the value, both
 * at commit and after reading from disk. So one copy per object serves every reader. Every store's constructor takes
 * `{ stamp?: Stamp }` among its options; the registry's is `stampResourceVersion`.
 */
export type Stamp = (value: object, revision: number) => void;

export interface StoreEvent {
  readonly type: 'put' | 'delete';
  readonly revision: number;
  readonly key: string;
  /** For a put: the new entry; for a delete: undefined. */
  readonly entry?: Entry;
  /** What was there before; undefined for a creation. */
  readonly previous?: Entry;
}

/** Compare-and-swap failed: `current` is what is there now (undefined: nothing). */
export class RevisionConflict extends Error {
  constructor(
    readonly key: string,
    readonly current: Entry | undefined,
  ) {
    super(`revision conflict on ${key}`);
    this.name = 'RevisionConflict';
  }
}

/** The revision asked for is older than what the store still remembers (or from a future it never had). */
export class Compacted extends Error {
  constructor(
    readonly asked: number,
    readonly oldest: number,
  ) {
    super(`revision ${asked} is too old, the oldest kept is ${oldest}`);
    this.name = 'Compacted';
  }
}

export interface StoreWatch extends AsyncIterable<StoreEvent> {
  /** Every change up to this revision that concerns the watch has been taken by its consumer: what a bookmark may say. */
  readonly revision: number;
  /** Ends the iteration; what is still buffered is dropped. Idempotent. */
  close(): void;
}

export interface Store {
  /** Reads what is on disk. Rejects with StoreUnreadable (what, where set aside, remedy). */
  open(): Promise<void>;
  /** Waits for pending writes. */
  close(): Promise<void>;
  /** The revision of the last committed change. */
  readonly revision: number;
  get(key: string): Entry | undefined;
  /** Entries under the prefix in key order, with the revision they were read at. Synchronous: a consistent snapshot. */
  list(prefix: string): { entries: Entry[]; revision: number };
  /** The same as it was at an earlier revision. Throws Compacted when the store does not remember that (or has not come to it yet). */
  listAt(prefix: string, revision: number): Entry[];
  /**
   * Resolve once durable (fsync'ed). Visible to readers and watchers only then. Reject with RevisionConflict.
   * `value` belongs to the store from the call on: it is stamped and frozen in place, not copied. Parts of it may be
   * frozen already (shared with an earlier version).
   */
  create(key: string, value: object): Promise<Entry>;
  update(key: string, value: object, expectedRevision: number): Promise<Entry>;
  delete(key: string, expectedRevision: number): Promise<Entry>;
  /**
   * Changes after `fromRevision`, in order, none lost. The iteration throws Compacted when `fromRevision` is too old or
   * when this watcher fell behind by more than the buffer (it is dropped, never buffered without bound).
   */
  watch(prefix: string, fromRevision: number): StoreWatch;
}
