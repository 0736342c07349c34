/**
 * Reads of objects that a webhook must bring into another version first. Reading is a plain function of what is stored;
 * where it needs a conversion that nobody has asked for yet it throws {@link Unconverted}, and whoever may wait asks and
 * reads again.
 */
import { ApiError } from '../../api/meta/errors.js';
import type { AnyObject } from '../../api/meta/object.js';

/** Reads that begin anew more often than this race with writers that are quicker than the webhook. */
const MAX_ROUNDS = 1000;

/** What is missing; {@link settled} gets it. */
export class Unconverted extends Error {
  /** `convert` makes the forms of all that it is given known, or rejects with ApiError. */
  constructor(
    readonly convert: (objects: readonly AnyObject[]) => Promise<void>,
    readonly objects: readonly AnyObject[],
  ) {
    super('an object is not converted yet');
  }
}

/** `read`, which may be run several times, once every conversion that it needs is known. A promise only if it must. */
export function settled<T>(read: () => T): T | Promise<T> {
  try {
    return read();
  } catch (e) {
    if (!(e instanceof Unconverted)) throw e;
    return again(read, e);
  }
}

async function again<T>(read: () => T, missing: Unconverted): Promise<T> {
  let next = missing;
  for (let round = 0; round < MAX_ROUNDS; round++) {
    await next.convert(next.objects);
    try {
      return read();
    } catch (e) {
      if (!(e instanceof Unconverted)) throw e;
      next = e;
    }
  }
  throw new ApiError('TooManyRequests', 'objects change faster than they are converted', {
    retryAfterSeconds: 1,
  });
}
