/** Brings what a node holds to what it is to have, one acknowledged step at a time. */
import type { Clock } from '../../api/clock.js';
import type { Log } from '../../api/log.js';
import { type Applied, type Delta, type Inventory, TYPE, type Welcome } from '../../api/wire/messages.js';
import { digestOf, EMPTY_DIGEST, type Items, planDelta } from '../../api/wire/set.js';
import { LIMITS } from '../../api/wire/topics.js';
import type { DesiredSets } from './desired.js';
import type { NodeLink } from './node-link.js';
import type { Sender } from './sender.js';

/** Changes to a node's set travel together: those of one moment, and then all that come while a delta is on its way. */
const COALESCE_MS = 0;
/** An unanswered delta is planned and sent anew. */
const DELTA_RETRY_MS = 10_000;
const DELTA_RETRY_MAX_MS = 120_000;

export class DesiredSync {
  constructor(
    private readonly desired: DesiredSets,
    private readonly sender: Sender,
    private readonly clock: Clock,
    private readonly log: Log,
  ) {}

  /** A session begins whose agent holds the set of that digest: what the welcome says of it. `linked` is to follow. */
  welcome(n: NodeLink, digest: string): Pick<Welcome, 'g' | 'm' | 'i'> {
    const s = n.sync;
    const welcome: Pick<Welcome, 'g' | 'm' | 'i'> = { g: this.desired.revision };
    const want = this.desired.of(n.name);
    if (digest === digestOf(want)) {
      s.held = want;
      welcome.m = 1;
    } else if (digest === EMPTY_DIGEST) s.held = new Map();
    else if (!s.held || digestOf(s.held) !== digest) {
      s.held = undefined;
      welcome.i = 1;
    }
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
    s.inflight = undefined;
    s.retries = 0;
    this.#flush(n);
  }

  inventory(n: NodeLink, inv: Inventory): void {
    if (!n.session || inv.s !== n.session.id || !Array.isArray(inv.i)) return;
    this.ended(n);
    n.sync.held = new Map(inv.i.map(([key, hash]) => [String(key), { hash: String(hash) }]));
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

  #wait(n: NodeLink): number {
    return Math.min(DELTA_RETRY_MAX_MS, DELTA_RETRY_MS * 2 ** n.sync.retries);
  }

  /** Sends the next step towards the wanted set. */
  #flush(n: NodeLink): void {
    const s = n.sync;
    if (!n.session || s.inflight || !s.held || !s.dirty) return;
    const want: Items = this.desired.of(n.name);
    const plan = planDelta(s.held, want, Math.max(s.generation, this.desired.revision), LIMITS.batch);
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
