import type { Clock } from '../../api/clock.js';

/** A watch that is so far behind is not coming: look at what there is. */
const FORGET_AFTER_MS = 5 * 60_000;

/**
 * What a loop has done and not yet seen done. Until it has, its cache is too old to count pods in: it would create or
 * delete the same ones again.
 */
export class Expectations {
  readonly #open = new Map<string, { creations: number; deletions: Set<string>; since: number }>();

  constructor(private readonly clock: Clock) {}

  expectCreations(key: string, n: number): void {
    this.#of(key).creations += n;
  }

  expectDeletions(key: string, uids: readonly string[]): void {
    const open = this.#of(key);
    for (const uid of uids) open.deletions.add(uid);
  }

  /** A creation was seen, or is not going to happen. */
  created(key: string, n = 1): void {
    const open = this.#open.get(key);
    if (!open) return;
    open.creations = Math.max(0, open.creations - n);
    this.#tidy(key);
  }

  /** A deletion was seen, or is not going to happen. */
  deleted(key: string, uid: string): void {
    if (this.#open.get(key)?.deletions.delete(uid)) this.#tidy(key);
  }

  /** Milliseconds until the key may be looked at; 0: now. */
  wait(key: string): number {
    const open = this.#open.get(key);
    if (!open) return 0;
    const left = open.since + FORGET_AFTER_MS - this.clock.monotonic();
    if (left > 0) return left;
    this.#open.delete(key);
    return 0;
  }

  forget(key: string): void {
    this.#open.delete(key);
  }

  #of(key: string) {
    let open = this.#open.get(key);
    if (!open) {
      open = { creations: 0, deletions: new Set(), since: this.clock.monotonic() };
      this.#open.set(key, open);
    }
    open.since = this.clock.monotonic();
    return open;
  }

  #tidy(key: string): void {
    const open = this.#open.get(key);
    if (open && open.creations === 0 && open.deletions.size === 0) this.#open.delete(key);
  }
}
