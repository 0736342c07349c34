/** Work that strangers' schemas and expressions may make: counted and bounded, so that none of them holds the hub. */

export class TooMuchWork extends Error {
  override readonly name = 'TooMuchWork';
}

/** Thrown over and over by expressions that swallow errors: made once, since a stack costs more than a step. */
const SPENT = new TooMuchWork('operation cancelled: actual cost limit exceeded');

export interface Work {
  left: number;
}

/** Throws {@link TooMuchWork} when there is no work left. */
export const spend = (work: Work, amount = 1): void => {
  work.left -= amount;
  if (work.left < 0) throw SPENT;
};

let running: Work | undefined;

/** Runs `f`; what it charges is taken from `work`. */
export function metered<T>(work: Work, f: () => T): T {
  const before = running;
  running = work;
  try {
    return f();
  } finally {
    running = before;
  }
}

/** Takes from what is running now; throws {@link TooMuchWork}. */
export const charge = (amount: number): void => {
  if (running) spend(running, amount);
};
