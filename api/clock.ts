/**
 * Time and randomness as parameters, so that a hub and many agents run in one process under a virtual clock.
 * Nothing outside `main.ts` files and tests calls `Date.now`, `setTimeout` or `Math.random` directly.
 */
export interface Clock {
  /** Wall time in milliseconds since the Unix epoch; may jump. For timestamps shown to people only. */
  now(): number;
  /** Milliseconds from an arbitrary start; never goes back. For every duration and deadline. */
  monotonic(): number;
  /** Calls `fn` once after `ms`; the returned function cancels it. Never keeps the process alive by itself. */
  after(ms: number, fn: () => void): () => void;
  /** Uniform in [0, 1). */
  random(): number;
}

/** The machine's own clock. */
export const systemClock: Clock = {
  now: () => Date.now(),
  monotonic: () => performance.now(),
  after(ms, fn) {
    const t = setTimeout(fn, Math.min(Math.max(ms, 0), 0x7fffffff));
    t.unref();
    return () => clearTimeout(t);
  },
  random: () => Math.random(),
};

/** Resolves after `ms` of `clock`'s time. */
export const sleep = (clock: Clock, ms: number): Promise<void> =>
  new Promise((resolve) => {
    clock.after(ms, resolve);
  });

/** A busy hub asks for the same second again and again. */
let last = { second: Number.NaN, text: '' };

/** RFC 3339 with seconds, as Kubernetes' `Time` marshals. */
export function rfc3339(ms: number): string {
  const second = Math.floor(ms / 1000);
  if (second !== last.second) last = { second, text: `${new Date(ms).toISOString().slice(0, -5)}Z` };
  return last.text;
}

/** RFC 3339 with microseconds, as Kubernetes' `MicroTime` marshals. */
export const rfc3339Micro = (ms: number): string =>
  new Date(ms).toISOString().replace(/(\.\d{3})Z$/, '$1000Z');
