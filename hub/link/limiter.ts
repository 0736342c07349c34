import type { Clock } from '../../api/clock.js';

const MINUTE = 60_000;

/** Allows `max` per minute and key; forgets everything every minute. */
export class Limiter {
  readonly #counts = new Map<string, number>();
  #since = Number.NEGATIVE_INFINITY;

  constructor(
    private readonly clock: Clock,
    private readonly max: number,
  ) {}

  exhausted(key: string): boolean {
    const now = this.clock.monotonic();
    if (now - this.#since >= MINUTE) {
      this.#counts.clear();
      this.#since = now;
    }
    return (this.#counts.get(key) ?? 0) >= this.max;
  }

  add(key: string): void {
    this.#counts.set(key, (this.#counts.get(key) ?? 0) + 1);
  }
}
