/** One stored object as a driver keeps it. */
export interface StoredRecord {
  readonly key: string;
  /** The value as JSON text, made once by the store. */
  readonly json: string;
  readonly revision: number;
  readonly createRevision: number;
}

/** One change of a batch. Revisions within a batch and across batches go up by one each. */
export type Change =
  | ({ readonly type: 'put' } & StoredRecord)
  | { readonly type: 'delete'; readonly key: string; readonly revision: number };

/** What {@link Driver.open} found. */
export interface Loaded {
  /** Every live record, in any order. Parsed records need not be kept by the driver. */
  readonly records: Iterable<StoredRecord>;
  /** The highest revision ever committed, that of a delete included. 0 for a new store. */
  readonly revision: number;
}

/**
 * Where committed changes are kept. Revisions, compare-and-swap, lists and watches are the business of `DriverStore`,
 * which is the driver's only caller and never has two calls under way at once.
 *
 * The drivers here have one writer at a time (an exclusive lock), so the comparison made in memory is the truth. A driver
 * for etcd, which several hubs share, extends this in two places and leaves the rest alone:
 * - `commit` becomes one etcd transaction per change, comparing the key's `mod_revision` with the revision that the
 *   change replaces, and resolves with what etcd said: the header's revision (taken instead of the proposed one), or the
 *   record that is there now (the store then rejects with RevisionConflict, as it does for its own comparison).
 * - `open` takes a callback for changes made by others, fed from an etcd watch that starts at the revision of the first
 *   range read; own changes come back the same way and are recognised by their revision. `DriverStore` applies them
 *   through the same path as its own batches, so its index and its watchers need nothing new.
 */
export interface Driver {
  /** Takes the exclusive lock, recovers from a crash and reads everything. Rejects with StoreUnreadable, DataDirLocked or StoreWriteFailed. */
  open(): Promise<Loaded>;
  /**
   * Makes the whole batch durable, or none of it: after a crash either all of its changes are there or none. When it
   * rejects (StoreWriteFailed) none of it is kept and the next commit, with the same revisions, tries afresh.
   */
  commit(batch: readonly Change[]): Promise<void>;
  /** Gives lock and files back. Idempotent. */
  close(): Promise<void>;
}

/** The data cannot be read. `movedTo` is where it was set aside; empty when it could not even be moved. */
export class StoreUnreadable extends Error {
  constructor(
    readonly file: string,
    readonly why: string,
    readonly movedTo: string,
    readonly remedy: string,
  ) {
    super(
      `the store ${file} cannot be read: ${why}.${movedTo ? ` It was set aside as ${movedTo}.` : ''} ${remedy}`,
    );
    this.name = 'StoreUnreadable';
  }
}

const WRITE_REMEDY: Record<string, string> = {
  ENOSPC: 'the disk is full: free some space',
  EDQUOT: 'the disk quota is used up: free some space',
  EROFS: 'the file system is read-only: remount it read-write and check the disk (dmesg)',
  EACCES: 'permission denied: give the data directory to the user that runs the hub',
  EPERM: 'permission denied: give the data directory to the user that runs the hub',
  EIO: 'the disk reports an error: check it (dmesg, smartctl) and keep a backup',
};

/**
 * Nothing of this write was kept. Everything acknowledged before is safe; writes succeed again once the cause is gone,
 * without a restart.
 */
export class StoreWriteFailed extends Error {
  /** e.g. `ENOSPC` */
  readonly code: string;
  constructor(
    readonly file: string,
    cause: unknown,
  ) {
    const { code = '', message } = cause as NodeJS.ErrnoException;
    super(`cannot write ${file}: ${WRITE_REMEDY[code] ?? message}${code ? ` (${code})` : ''}`, { cause });
    this.name = 'StoreWriteFailed';
    this.code = code;
  }
}
