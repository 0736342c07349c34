import type { Kind } from '../../api/kinds/kind.js';
import { type Context, errorText, type Keys, type LoopFactory, type Reconcile } from './loop.js';

/** Counts what is being loaded, so that nobody takes the loops for idle meanwhile. */
export interface Loading {
  count: number;
}

/**
 * A loop whose code is loaded, and whose caches are filled, when there is a first object of one of its kinds: a hub
 * without CronJobs has nothing of theirs in memory.
 */
export const lazily =
  (kinds: readonly Kind<never>[], load: () => Promise<LoopFactory>, loading: Loading): LoopFactory =>
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
    for (const kind of kinds)
      ctx.informers.of(kind as unknown as Kind).onChange((_, now) => {
        if (!now || loop) return;
        loop = start();
        loop.catch((e: unknown) => {
          ctx.log.error({ kind: kind.kind, err: errorText(e) }, 'a control loop could not be loaded');
          loop = undefined;
        });
      });
    return async (key) => (await loop)?.(key);
  };
