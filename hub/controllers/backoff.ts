import type { Clock } from '../../api/clock.js';

/** Delays per key that double from `firstMs` to `maxMs` and start over after twice the longest without a call. */
export class Backoff {
  readonly #entries = new Map<string, { delay: number; at: number }>();

  constructor(
    private readonly clock: Clock,
    private readonly firstMs: number,
    private readonly maxMs: number,
  ) {}

  /** Milliseconds until the key's delay is over; 0: it is, or there was none. */
  left(key: string): number {
    const e = this.#entries.get(key);
    return e ? Math.max(0, e.at + e.delay - this.clock.monotonic()) : 0;
  }

  /** It happened once more: the delay begins now and is twice the last one. */
  next(key: string): void {
    const at = this.clock.monotonic();
    for (const [k, e] of this.#entries) {
      // Re-inserted at each call, so that the oldest come first.
      if (at - e.at <= 2 * this.maxMs) break;
      this.#entries.delete(k);
    }
    const delay = Math.min(this.maxMs, 2 * (this.#entries.get(key)?.delay ?? this.firstMs / 2));
    this.#entries.delete(key);
    this.#entries.set(key, { delay, at });
  }
}
