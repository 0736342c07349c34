import type { Clock } from '../../api/clock.js';
import type { Kind } from '../../api/kinds/kind.js';
import type { Log } from '../../api/log.js';
import { isApiError } from '../../api/meta/errors.js';
import type { Client, KindTable } from '../client.js';
import type { EventRecorder } from '../events.js';
import type { Informers } from '../informer.js';
import type { Again } from '../queue.js';

/** What every control loop works with. */
export interface Context {
  readonly client: Client;
  readonly informers: Informers;
  readonly clock: Clock;
  readonly log: Log;
  /** The kinds that the API serves now. */
  readonly kinds: KindTable;
  /** Tells events in the name of a component, e.g. `deployment-controller`. */
  recorder(component: string): EventRecorder;
}

/** Where a loop puts the keys it wants to look at. */
export interface Keys {
  add(key: string): void;
  addAfter(key: string, ms: number): void;
}

/** Makes the world match one wish. Re-reads everything, so that it may be called at any time and any number of times. */
export type Reconcile = (key: string) => Promise<Again>;

/**
 * One control loop. Called once, before the informers start, to subscribe to what concerns it: it puts keys into its
 * queue and returns what is to be done about each.
 */
export type LoopFactory = (ctx: Context, keys: Keys) => Reconcile;

/**
 * One kind for every resource that is stored, whatever its versions: they all show the same objects, and their metadata
 * without asking anybody.
 */
export function onePerResource(kinds: readonly Kind[]): Kind[] {
  const seen = new Map<string, Kind>();
  for (const k of kinds) {
    const name = `${k.group}/${k.plural}`;
    if (k.verbs || k.view) continue;
    if (!seen.has(name)) seen.set(name, k.custom?.conversion?.asStored ?? k);
  }
  return [...seen.values()];
}

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
