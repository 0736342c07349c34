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

/** A budget that fills up again with time. What is taken may exceed it once, and is then paid off first. */
export class Allowance {
  #left: number;
  #at: number;

  constructor(
    private readonly clock: Clock,
    private readonly burst: number,
    private readonly perSecond: number,
  ) {
    this.#left = burst;
    this.#at = clock.monotonic();
  }

  get left(): number {
    const now = this.clock.monotonic();
    this.#left = Math.min(this.burst, this.#left + ((now - this.#at) / 1000) * this.perSecond);
    this.#at = now;
    return this.#left;
  }

  /** False when nothing is left. */
  take(n = 1): boolean {
    if (this.left <= 0) return false;
    this.#left -= n;
    return true;
  }
}
