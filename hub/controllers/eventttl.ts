import type { Event } from 'kubernetes-types/core/v1.js';
import { events } from '../../api/kinds/index.js';
import type { Frozen } from '../client.js';
import { type Context, ifThere, type Keys, type Reconcile } from './loop.js';

/** As long as Kubernetes keeps them. */
const TTL_MS = 3_600_000;
const SWEEP_EVERY_MS = 300_000;
/** Oldest ones go earlier when there are more: they live in memory and on a small disk. */
const MAX_EVENTS = 5_000;
const DELETE_AT_ONCE = 100;

const lastAt = (e: Frozen<Event>): number =>
  Date.parse(
    (e.series?.lastObservedTime ?? e.lastTimestamp ?? e.eventTime ?? e.metadata?.creationTimestamp) as string,
  ) || 0;

/** Removes Events an hour after they last happened. */
export function eventTtlLoop(ctx: Context, keys: Keys): Reconcile {
  keys.add('sweep');
  return async () => {
    const { items } = await ctx.client.list(events);
    const now = ctx.clock.now();
    const oldestFirst = items.map((e) => ({ e, at: lastAt(e) })).sort((a, b) => a.at - b.at);
    const surplus = oldestFirst.length - MAX_EVENTS;
    const doomed = oldestFirst.filter(({ at }, i) => i < surplus || at + TTL_MS <= now);
    for (let i = 0; i < doomed.length; i += DELETE_AT_ONCE)
      await Promise.all(
        doomed
          .slice(i, i + DELETE_AT_ONCE)
          .map(({ e }) =>
            ifThere(ctx.client.delete(events, { namespace: e.metadata!.namespace, name: e.metadata!.name! })),
          ),
      );
    return SWEEP_EVERY_MS;
  };
}
