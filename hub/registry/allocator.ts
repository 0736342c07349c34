import type { KubeObject } from '../../api/meta/object.js';
import type { Frozen } from '../client.js';

/** What was taken for a write that is under way. Only the first call of either counts. */
export interface Claim {
  /** The write has been done. */
  keep(): void;
  /** It has not: what was taken is free again. */
  drop(): void;
}

/** Hands out what no two objects of a kind may have. */
export interface Allocator<T extends KubeObject = KubeObject> {
  /**
   * Puts into `next`, which has its defaults and is not validated yet, what it needs and does not have. Throws ApiError
   * when what it asks for is taken. `current` is what it takes the place of.
   */
  begin(next: T, current: Frozen<T> | undefined, dryRun: boolean): Claim;
  /** An object is gone. */
  released(o: Frozen<T>): void;
}
