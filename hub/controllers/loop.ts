import type { Clock } from '../../api/clock.js';
import type { Log } from '../../api/log.js';
import { isApiError } from '../../api/meta/errors.js';
import type { Client } from '../client.js';
import type { EventRecorder } from '../events.js';
import type { Informers } from '../informer.js';
import type { Again } from '../queue.js';

/** What every control loop works with. */
export interface Context {
  readonly client: Client;
  readonly informers: Informers;
  readonly clock: Clock;
  readonly log: Log;
  /** Tells events in the name of a component, e.g. `deployment-controller`. */
  recorder(component: string): EventRecorder;
}

/** Where a loop puts the keys it wants to look at. */
export interface Keys {
  add(key: string): void;
  addAfter(key: string, ms: number): void;
}

/**
 * One control loop: makes the world match one kind of wish, one key at a time. It re-reads everything, so that it may
 * be called at any time and any number of times.
 */
export interface Loop {
  readonly name: string;
  /** Keys worked on at once; default 1. */
  readonly concurrency?: number;
  reconcile(key: string): Promise<Again>;
}

/** Subscribes to what concerns the loop, before the informers start. */
export type LoopFactory = (ctx: Context, keys: Keys) => Loop;

/** Swallows NotFound: what was to be deleted or noted on something is gone already. */
export async function ifThere<T>(work: Promise<T>): Promise<T | undefined> {
  try {
    return await work;
  } catch (e) {
    if (isApiError(e, 'NotFound')) return undefined;
    throw e;
  }
}

export const errorText = (e: unknown): string => (e instanceof Error ? e.message : String(e));
