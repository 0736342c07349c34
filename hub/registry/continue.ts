import type { Clock } from '../../api/clock.js';
import { ApiError, badRequest } from '../../api/meta/errors.js';
import { Compacted, type Entry, type Store } from '../store/store.js';

/** Snapshots kept for lists under way, at most, and how long a list may go on (milliseconds), as Kubernetes compacts. */
const MAX_SNAPSHOTS = 16;
const SNAPSHOT_AGE = 5 * 60_000;
/** Belongs to no kind. */
const COMPACTED = '/compacted';

interface Token {
  prefix: string;
  /** Revision of the snapshot; 0 goes on with what is there now. */
  rv: number;
  /** The last key that was given out. */
  after: string;
  /** When the list began, in wall-clock milliseconds. */
  at: number;
}

/** From where a list is given out: `entries` at `revision`, from `start` on. */
export interface Page {
  entries: Entry[];
  revision: number;
  start: number;
  /** When the list began, in wall-clock milliseconds. */
  at: number;
}

interface Snapshot {
  entries: Entry[];
  at: number;
}

const encode = (t: Token): string => Buffer.from(JSON.stringify(t)).toString('base64url');

function decode(text: string, prefix: string): Token {
  try {
    const t = JSON.parse(Buffer.from(text, 'base64url').toString()) as Token;
    if (
      t.prefix === prefix &&
      Number.isSafeInteger(t.rv) &&
      t.rv >= 0 &&
      typeof t.after === 'string' &&
      typeof t.at === 'number'
    )
      return t;
  } catch {
    // Said below.
  }
  throw badRequest(
    'invalid continue token: continue key is not valid: it belongs to another list or was changed',
  );
}

/** The first entry after a key. */
function position(entries: readonly Entry[], after: string): number {
  let lo = 0;
  let hi = entries.length;
  while (lo < hi) {
    const mid = (lo + hi) >>> 1;
    if (entries[mid]!.key <= after) lo = mid + 1;
    else hi = mid;
  }
  return lo;
}

/**
 * Lists in chunks, all from one snapshot: entries never change, so a snapshot is an array of references. Few are kept, and
 * the store remembers the recent past; a token whose snapshot is gone from both gets 410 and another token that goes on
 * with what is there now, as in Kubernetes.
 */
export class Continuations {
  readonly #snapshots = new Map<string, Snapshot>();

  #compacting = false;
  /** When the youngest list that goes on began, and at which revision. */
  #last = { at: 0, revision: 0 };

  constructor(
    private readonly clock: Clock,
    private readonly store: Store,
  ) {}

  /** The token that goes on at `entries[next]`. */
  token(prefix: string, { entries, revision: rv, at }: Page, next: number): string {
    const now = this.clock.monotonic();
    for (const [key, s] of this.#snapshots) if (now - s.at > SNAPSHOT_AGE) this.#snapshots.delete(key);
    const id = `${rv} ${prefix}`;
    this.#snapshots.delete(id);
    this.#snapshots.set(id, { entries, at: now });
    for (const key of this.#snapshots.keys()) {
      if (this.#snapshots.size <= MAX_SNAPSHOTS) break;
      this.#snapshots.delete(key);
    }
    if (at >= this.#last.at) this.#last = { at, revision: rv };
    this.#compactLater();
    return encode({ prefix, rv, after: entries[next - 1]?.key ?? prefix, at });
  }

  /** Where a list goes on. Throws BadRequest, or Expired with a new token. */
  resume(text: string, prefix: string): Page {
    const t = decode(text, prefix);
    const now = this.clock.now();
    const at = t.rv === 0 ? now : t.at;
    const kept = now - at < SNAPSHOT_AGE ? this.#kept(t.rv, prefix) : undefined;
    if (kept) return { ...kept, start: position(kept.entries, t.after), at };
    throw new ApiError(
      'Expired',
      'The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.',
      undefined,
      encode({ ...t, rv: 0 }),
    );
  }

  /**
   * Whoever begins anew after a list has expired sees a newer revision, as in Kubernetes, whose compaction writes too. In a
   * hub where nothing happens that takes a write: one, when the last list that was under way has expired.
   */
  #compactLater(): void {
    if (this.#compacting) return;
    this.#compacting = true;
    this.clock.after(this.#last.at + SNAPSHOT_AGE - this.clock.now(), () => {
      this.#compacting = false;
      if (this.clock.now() - this.#last.at < SNAPSHOT_AGE) this.#compactLater();
      else if (this.store.revision === this.#last.revision) this.#compact();
    });
  }

  #compact(): void {
    const there = this.store.get(COMPACTED);
    const value = { revision: this.#last.revision };
    const done = there
      ? this.store.update(COMPACTED, value, there.revision)
      : this.store.create(COMPACTED, value);
    // Nothing hangs on it when the store cannot write.
    done.catch(() => undefined);
  }

  #kept(revision: number, prefix: string): { entries: Entry[]; revision: number } | undefined {
    const { store } = this;
    if (revision === 0 || revision === store.revision) return store.list(prefix);
    const s = this.#snapshots.get(`${revision} ${prefix}`);
    if (s) return { entries: s.entries, revision };
    try {
      return { entries: store.listAt(prefix, revision), revision };
    } catch (e) {
      if (e instanceof Compacted) return undefined;
      throw e;
    }
  }
}
