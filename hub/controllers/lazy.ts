import type { Kind } from '../../api/kinds/kind.js';
import { type Context, errorText, type Keys, type LoopFactory, type Reconcile } from './loop.js';

/** Counts what is being loaded, so that nobody takes the loops for idle meanwhile. */
export interface Loading {
  count: number;
}

/** A kind, or those objects of a kind that somebody must look after. */
export type Cause = Kind<never> | readonly [kind: Kind<never>, concerns: (o: never) => boolean];

/**
 * A loop whose code is loaded, and whose caches are filled, when there is a first object that concerns it: a hub
 * without CronJobs has nothing of theirs in memory.
 */
export const lazily =
  (causes: readonly Cause[], load: () => Promise<LoopFactory>, loading: Loading): LoopFactory =>
  (ctx: Context, keys: Keys): Reconcile => {
    let loop: Promise<Reconcile> | undefined;
    const start = async (): Promise<Reconcile> => {
      loading.count++;
      try {
        const make = await load();
        const reconcile = make(ctx, keys);
        // Whatever it asked for beyond what was there must have been listed once.
        await ctx.informers.start();
        return reconcile;
      } finally {
        loading.count--;
      }
    };
    for (const cause of causes) {
      const [kind, concerns] = 'kind' in cause ? [cause, () => true] : cause;
      ctx.informers.of(kind as unknown as Kind).onChange((_, now) => {
        if (loop || !now || !concerns(now as never)) return;
        loop = start();
        loop.catch((e: unknown) => {
          ctx.log.error({ kind: kind.kind, err: errorText(e) }, 'a control loop could not be loaded');
          loop = undefined;
        });
      });
    }
    return async (key) => (await loop)?.(key);
  };
