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

interface Timer {
  id: number;
  at: number;
  /** Absent: cancelled, or fired. */
  fn: (() => void) | undefined;
}

/** Timers by deadline, those of one moment in the order in which they were set. */
class TimerHeap {
  readonly #heap: Timer[] = [];

  push(t: Timer): void {
    const h = this.#heap;
    let i = h.push(t) - 1;
    for (let up = (i - 1) >> 1; i > 0 && before(t, h[up]!); i = up, up = (i - 1) >> 1) h[i] = h[up]!;
    h[i] = t;
  }

  /** The first that is due by `end`, taken out; cancelled ones go on the way. */
  takeUntil(end: number): Timer | undefined {
    for (let first = this.#heap[0]; first; first = this.#heap[0]) {
      if (first.fn && first.at > end) return undefined;
      this.#pop();
      if (first.fn) return first;
    }
    return undefined;
  }

  #pop(): void {
    const h = this.#heap;
    const last = h.pop()!;
    if (h.length === 0) return;
    let i = 0;
    for (;;) {
      let child = 2 * i + 1;
      if (child >= h.length) break;
      if (child + 1 < h.length && before(h[child + 1]!, h[child]!)) child++;
      if (!before(h[child]!, last)) break;
      h[i] = h[child]!;
      i = child;
    }
    h[i] = last;
  }
}

const before = (a: Timer, b: Timer) => a.at < b.at || (a.at === b.at && a.id < b.id);

/** For tests: time stands still until `advance` moves it. Timers fire in order of their deadline. */
export class VirtualClock implements Clock {
  #now = 0;
  #wall: number;
  #id = 0;
  readonly #timers = new TimerHeap();
  #live = 0;
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
    const timer: Timer = { id: ++this.#id, at: this.#now + Math.max(0, ms), fn };
    this.#timers.push(timer);
    this.#live++;
    return () => {
      if (!timer.fn) return;
      timer.fn = undefined;
      this.#live--;
    };
  }

  /** Timers ever set. */
  get set(): number {
    return this.#id;
  }

  /** Timers not yet fired. */
  get pending(): number {
    return this.#live;
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
      const next = this.#timers.takeUntil(end);
      if (!next) break;
      this.#now = Math.max(this.#now, next.at);
      const { fn } = next;
      next.fn = undefined;
      this.#live--;
      fn!();
    }
    this.#now = end;
    await settle();
  }
}

/** Lets every promise and immediate that is ready run. */
export async function turn(): Promise<void> {
  for (let i = 0; i < 3; i++) await new Promise<void>((resolve) => setImmediate(resolve));
}
