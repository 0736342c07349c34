/**
 * Simulated processes. Everything that a process of the simulation does, however late, runs in its async context: so a
 * `kill -9` can make it harmless at any await, without the product knowing. What a dead process still has in hand ends
 * at the edges: its timers do not fire, its file operations and calls to the runtime never answer, nobody hears it.
 */
import { AsyncLocalStorage } from 'node:async_hooks';
import type { Clock } from '../../../api/clock.js';
import type { VirtualClock } from '../../../api/testing/virtual-clock.js';

const context = new AsyncLocalStorage<SimProcess | undefined>();

/** The process whose code runs now; undefined: the simulator's own. */
export const currentProcess = (): SimProcess | undefined => context.getStore();

/** What a dead process gets from a synchronous call: it only serves to unwind it. */
export class Dead extends Error {
  constructor(name: string) {
    super(`${name} is dead`);
    this.name = 'Dead';
  }
}

/** A machine's wall clock, as an offset from the true time in milliseconds. Its monotonic clock is the world's. */
export interface WallClock {
  offsetMs: number;
}

export class SimProcess implements Clock {
  alive = true;
  /** Timers set and neither fired nor cancelled. */
  timers = 0;
  #die!: () => void;
  /** Resolves when the process is killed. */
  readonly died = new Promise<void>((resolve) => {
    this.#die = resolve;
  });

  constructor(
    readonly name: string,
    private readonly clock: VirtualClock,
    private readonly wall: WallClock,
  ) {}

  now = (): number => this.clock.now() + this.wall.offsetMs;
  monotonic = (): number => this.clock.monotonic();
  random = (): number => this.clock.random();

  after = (ms: number, fn: () => void): (() => void) => {
    let open = true;
    this.timers++;
    const close = () => {
      if (open) this.timers--;
      open = false;
    };
    const cancel = this.clock.after(ms, () => {
      close();
      this.run(fn);
    });
    return () => {
      close();
      cancel();
    };
  };

  /** Runs in this process; does nothing when it is dead. */
  run<T>(fn: () => T): T | undefined {
    if (!this.alive) return undefined;
    try {
      return context.run(this, fn);
    } catch (e) {
      // It died in the midst of a synchronous call.
      if (e instanceof Dead) return undefined;
      throw e;
    }
  }

  /** What another process answers: never, when this one is dead by then. */
  async answer<T>(work: Promise<T>): Promise<T> {
    try {
      const value = await work;
      return this.alive ? value : await never();
    } catch (e) {
      if (!this.alive) return never();
      throw e;
    }
  }

  kill(): void {
    this.alive = false;
    this.#die();
  }
}

export const never = (): Promise<never> => new Promise(() => {});

/** Runs as the simulator itself. */
export const outside = <T>(fn: () => T): T => context.run(undefined, fn);
