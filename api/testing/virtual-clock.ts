import type { Clock } from '../clock.js';

/** Deterministic numbers in [0, 1) from a seed (mulberry32). */
export function seeded(seed: number): () => number {
  let a = seed >>> 0;
  return () => {
    a = (a + 0x6d2b79f5) >>> 0;
    let t = a;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

/** For tests: time stands still until `advance` moves it. Timers fire in order of their deadline. */
export class VirtualClock implements Clock {
  #now = 0;
  #wall: number;
  #id = 0;
  readonly #timers = new Map<number, { at: number; fn: () => void }>();
  readonly random: () => number;

  constructor(options: { wall?: number; seed?: number } = {}) {
    this.#wall = options.wall ?? Date.UTC(2026, 0, 1);
    this.random = seeded(options.seed ?? 1);
  }

  now(): number {
    return this.#wall + this.#now;
  }

  monotonic(): number {
    return this.#now;
  }

  after(ms: number, fn: () => void): () => void {
    const id = ++this.#id;
    this.#timers.set(id, { at: this.#now + Math.max(0, ms), fn });
    return () => this.#timers.delete(id);
  }

  /** Timers not yet fired. */
  get pending(): number {
    return this.#timers.size;
  }

  /** The wall clock jumps; monotonic time does not. */
  jumpWall(ms: number): void {
    this.#wall += ms;
  }

  /**
   * Moves time on, firing what is due; before each step promises that are ready get their turn. `settle` waits for
   * whatever else must come to rest between two timers.
   */
  async advance(ms: number, settle: () => Promise<void> = turn): Promise<void> {
    const end = this.#now + ms;
    for (;;) {
      await settle();
      let next: { id: number; at: number; fn: () => void } | undefined;
      for (const [id, t] of this.#timers)
        if (t.at <= end && (next === undefined || t.at < next.at)) next = { id, ...t };
      if (!next) break;
      this.#timers.delete(next.id);
      this.#now = Math.max(this.#now, next.at);
      next.fn();
    }
    this.#now = end;
    await settle();
  }
}

/** Lets every promise and immediate that is ready run. */
export async function turn(): Promise<void> {
  for (let i = 0; i < 3; i++) await new Promise<void>((resolve) => setImmediate(resolve));
}
