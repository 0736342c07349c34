/** Brings what a node holds to what it is to have, one acknowledged step at a time. */
import type { Pod } from 'kubernetes-types/core/v1.js';
import type { Clock } from '../../api/clock.js';
import type { Log } from '../../api/log.js';
import type { KubeObject } from '../../api/meta/object.js';
import { type Applied, type Delta, type Inventory, TYPE, type Welcome } from '../../api/wire/messages.js';
import { digestOf, EMPTY_DIGEST, type Held, type Items, itemKey, planDelta } from '../../api/wire/set.js';
import { LIMITS } from '../../api/wire/topics.js';
import type { Frozen } from '../client.js';
import type { DesiredSets } from './desired.js';
import type { NodeLink } from './node-link.js';
import type { Sender } from './sender.js';

/** Changes to a node's set travel together: those of one moment, and then all that come while a delta is on its way. */
const COALESCE_MS = 0;
/** An unanswered delta is planned and sent anew. */
const DELTA_RETRY_MS = 10_000;
const DELTA_RETRY_MAX_MS = 120_000;

/** A delta that only says: this is it. */
const nothing = (held: Held, generation: number) => {
  const digest = digestOf(held);
  return { delta: { g: generation, b: digest, d: digest } satisfies Delta, result: held };
};

export class DesiredSync {
  constructor(
    private readonly desired: DesiredSets,
    private readonly sender: Sender,
    /** Removes the object of a pod that has ended. */
    private readonly remove: (pod: Frozen<Pod>) => Promise<void>,
    private readonly clock: Clock,
    private readonly log: Log,
  ) {}

  /** A session begins whose agent holds the set of that digest: what the welcome says of it. `linked` is to follow. */
  welcome(n: NodeLink, digest: string): Pick<Welcome, 'g' | 'm' | 'i'> {
    const s = n.sync;
    const welcome: Pick<Welcome, 'g' | 'm' | 'i'> = { g: this.desired.revision };
    s.neverThere = new Set();
    const want = this.desired.of(n.name);
    if (digest === digestOf(want)) s.held = want;
    else if (digest === EMPTY_DIGEST) s.held = new Map();
    else if (!s.held || digestOf(s.held) !== digest) {
      s.held = undefined;
      welcome.i = 1;
    }
    this.#endNeverThere(n);
    if (s.held && digestOf(this.desired.of(n.name, s.neverThere)) === digest) welcome.m = 1;
    s.unconfirmed = !welcome.m;
    s.generation = welcome.g;
    s.retries = 0;
    s.dirty = true;
    return welcome;
  }

  /** The welcome is out. */
  linked(n: NodeLink): void {
    if (n.sync.held) this.#flush(n);
    else this.#queryUntilHeld(n);
  }

  /** The session is over; what is held may be known still. */
  ended(n: NodeLink): void {
    const s = n.sync;
    s.inflight?.cancel();
    s.inflight = undefined;
    s.cancelFlush?.();
    s.cancelFlush = undefined;
  }

  /** The store says that something of the node's set is another. */
  changed(n: NodeLink): void {
    if (!n.session) return;
    const s = n.sync;
    s.dirty = true;
    if (s.cancelFlush || !s.held) return;
    s.cancelFlush = this.clock.after(COALESCE_MS, () => {
      s.cancelFlush = undefined;
      this.#flush(n);
    });
  }

  applied(n: NodeLink, a: Applied): void {
    const s = n.sync;
    if (!n.session || a.s !== n.session.id) return;
    if (a.d !== s.inflight?.digest) {
      // The hourly comparison: what the agent holds must be what this side thinks that it holds.
      if (!s.inflight && (!s.held || a.d !== digestOf(s.held))) this.sender.query(n.name);
      return;
    }
    s.inflight.cancel();
    s.held = s.inflight.result;
    s.unconfirmed = false;
    s.inflight = undefined;
    s.retries = 0;
    this.#flush(n);
  }

  inventory(n: NodeLink, inv: Inventory): void {
    if (!n.session || inv.s !== n.session.id || !Array.isArray(inv.i)) return;
    this.ended(n);
    n.sync.held = new Map(inv.i.map(([key, hash]) => [String(key), { hash: String(hash) }]));
    this.#endNeverThere(n);
    n.sync.dirty = true;
    this.#flush(n);
  }

  /** The inventory, or the query for another hello, may be lost: asked again until one of them came through. */
  #queryUntilHeld(n: NodeLink): void {
    const s = n.sync;
    s.cancelFlush = this.clock.after(this.#wait(n), () => {
      s.cancelFlush = undefined;
      if (s.held) return;
      s.retries++;
      this.sender.query(n.name);
      this.#queryUntilHeld(n);
    });
  }

  /**
   * What the agent holds is known exactly. A pod that is being deleted, of which nobody has ever told anything and
   * which the agent does not hold, came and went while it was away: it is over without the agent.
   */
  #endNeverThere(n: NodeLink): void {
    const { held } = n.sync;
    // An empty set may be a lost one, on a device whose containers run.
    if (!held?.size) return;
    const over = this.desired.untold(n.name).filter((p) => !held.has(itemKey('p', p as KubeObject)));
    const uids = new Set(over.map((p) => p.metadata?.uid ?? ''));
    n.sync.neverThere = uids;
    for (const pod of over)
      this.remove(pod).catch((e: Error) => {
        this.log.warn({ node: n.name, pod: pod.metadata?.name, err: e.message }, 'cannot end a pod');
        uids.delete(pod.metadata?.uid ?? '');
        this.changed(n);
      });
  }

  #wait(n: NodeLink): number {
    return Math.min(DELTA_RETRY_MAX_MS, DELTA_RETRY_MS * 2 ** n.sync.retries);
  }

  /** Sends the next step towards the wanted set. */
  #flush(n: NodeLink): void {
    const s = n.sync;
    if (!n.session || s.inflight || !s.held || !s.dirty) return;
    const want: Items = this.desired.of(n.name, s.neverThere);
    const generation = Math.max(s.generation, this.desired.revision);
    const plan =
      planDelta(s.held, want, generation, LIMITS.batch) ??
      (s.unconfirmed ? nothing(s.held, generation) : undefined);
    if (!plan) {
      s.dirty = false;
      return;
    }
    s.generation = plan.delta.g;
    s.inflight = {
      result: plan.result,
      digest: plan.delta.d,
      cancel: this.clock.after(this.#wait(n), () => {
        s.inflight = undefined;
        s.retries++;
        this.#flush(n);
      }),
    };
    try {
      this.sender.sealed(n, 'd', TYPE.delta, plan.delta satisfies Delta);
    } catch (e) {
      this.log.error({ node: n.name, err: (e as Error).message }, 'desired set cannot be sent');
    }
  }
}
