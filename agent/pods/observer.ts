/** What one shim has, read when something changed and shared by all who ask; events only say that it is time to read. */
import type { Clock } from '../../api/clock.js';
import type { ContainerStatus, SandboxStatus, Shim, ShimEvent } from '../../shims/shim.js';
import { LABELS } from './plan.js';

export interface PodObservation {
  sandboxes: SandboxStatus[];
  containers: ContainerStatus[];
}

export class Observer {
  readonly #shim: Shim;
  readonly #clock: Clock;
  readonly #changed: (uid: string | undefined) => void;
  #pods = new Map<string, PodObservation>();
  #owner = new Map<string, string>();
  #valid = false;
  #reading: Promise<void> | undefined;
  #off: (() => void) | undefined;
  /** When this agent first saw a container running and ended, by the monotonic clock. */
  readonly seen = new Map<string, { running?: number; ended?: number }>();

  /** `changed` is told which pod to look at, or undefined for any. */
  constructor(shim: Shim, clock: Clock, changed: (uid: string | undefined) => void) {
    this.#shim = shim;
    this.#clock = clock;
    this.#changed = changed;
  }

  start(): void {
    this.#off = this.#shim.onEvent((e) => this.#onEvent(e));
  }

  stop(): void {
    this.#off?.();
  }

  /** What was read may be old: the next one who asks reads again. */
  invalidate(): void {
    this.#valid = false;
  }

  #onEvent(e: ShimEvent): void {
    this.#valid = false;
    const id = e.containerId ?? e.sandboxId;
    this.#changed(
      (e.sandboxId && this.#owner.get(e.sandboxId)) || (id === undefined ? undefined : this.#owner.get(id)),
    );
  }

  /** All pods by uid. Rejects when the runtime cannot be asked: then nothing is known, which is not the same as nothing there. */
  async pods(): Promise<ReadonlyMap<string, PodObservation>> {
    // Whoever asks while it is read waits for that: what was read before is old, and at the agent's start it is nothing.
    // Twice at most: under a stream of events the last reading is good enough, the next event brings the next look.
    for (let i = 0; i < 2 && (!this.#valid || this.#reading); i++) {
      this.#reading ??= this.#read().finally(() => {
        this.#reading = undefined;
      });
      await this.#reading;
    }
    return this.#pods;
  }

  async #read(): Promise<void> {
    this.#valid = true;
    let list: Awaited<ReturnType<Shim['list']>>;
    try {
      list = await this.#shim.list();
    } catch (e) {
      this.#valid = false;
      throw e;
    }
    const pods = new Map<string, PodObservation>();
    const owner = new Map<string, string>();
    const of = (uid: string) => {
      let p = pods.get(uid);
      if (!p) {
        p = { sandboxes: [], containers: [] };
        pods.set(uid, p);
      }
      return p;
    };
    for (const s of list.sandboxes) {
      of(s.uid).sandboxes.push(s);
      owner.set(s.id, s.uid);
    }
    const now = this.#clock.monotonic();
    const ids = new Set<string>();
    for (const c of list.containers) {
      const uid = owner.get(c.sandboxId) ?? c.labels[LABELS.podUid];
      if (uid === undefined) continue;
      of(uid).containers.push(c);
      owner.set(c.id, uid);
      ids.add(c.id);
      const seen = this.seen.get(c.id) ?? {};
      if (c.state === 'running') seen.running ??= now;
      if (c.state === 'exited' || c.state === 'unknown') seen.ended ??= now;
      this.seen.set(c.id, seen);
    }
    for (const id of this.seen.keys()) if (!ids.has(id)) this.seen.delete(id);
    this.#pods = pods;
    this.#owner = owner;
  }
}
