/**
 * Usage of node and pods, measured when it is asked for. CPU is a rate: the sample of the question before is where the
 * window begins, when it is young enough; otherwise there are two samples, a second apart.
 */
import { type Clock, sleep } from '../../api/clock.js';
import type { Log } from '../../api/log.js';
import type { NodeStats, StatsOptions, Usage } from '../../api/wire/streams.js';
import { STATS_UID } from '../../api/wire/streams.js';
import type { Shim } from '../../shims/shim.js';
import type { NodeUsage } from '../node/usage.js';

const MIN_WINDOW_MS = 1_000;
/** Longer ago says too little of now. */
const MAX_WINDOW_MS = 120_000;

/** A pod, and by place of {@link statsOrder} the id of each container that runs. */
export interface Measured {
  uid: string;
  containers: (string | undefined)[];
}

interface Sample {
  /** `clock.monotonic()` */
  at: number;
  node: NodeUsage;
  /** By container id; absent when pods were not asked for. */
  containers?: Map<string, NodeUsage>;
}

export interface StatsSources {
  node: () => NodeUsage;
  /** The shims that can be asked now. */
  shims: () => Iterable<Shim>;
  pods: () => Measured[];
  clock: Clock;
  log: Log;
}

export class StatsMeter {
  #last: Sample | undefined;
  readonly #running = new Map<'node' | 'pods', Promise<NodeStats>>();

  constructor(private readonly o: StatsSources) {}

  /** Those who ask at the same time get the same answer. */
  stats({ p }: StatsOptions): Promise<NodeStats> {
    const what = p ? 'pods' : 'node';
    const running = this.#running.get('pods') ?? this.#running.get(what);
    if (running) return running;
    const stats = this.#measure(what === 'pods').finally(() => this.#running.delete(what));
    this.#running.set(what, stats);
    return stats;
  }

  async #measure(pods: boolean): Promise<NodeStats> {
    let from = this.#last;
    let to = await this.#sample(pods);
    if (!from || !this.#spans(from, to)) {
      from = to;
      await sleep(this.o.clock, MIN_WINDOW_MS);
      to = await this.#sample(pods);
    }
    this.#last = to;
    const ms = Math.max(1, to.at - from.at);
    const usage = (before: NodeUsage, now: NodeUsage): Usage => [
      Math.max(0, Math.round((now.cpuNanos - before.cpuNanos) / ms)),
      Math.round(now.memoryBytes / 1024),
    ];
    const out: NodeStats = { w: Math.round(ms), n: usage(from.node, to.node) };
    if (pods) out.p = this.#pods(from, to, usage);
    return out;
  }

  /** A pod with a container of which too little is known is left out: part of what it uses would pass for all of it. */
  #pods(from: Sample, to: Sample, usage: (before: NodeUsage, now: NodeUsage) => Usage): NodeStats['p'] {
    const out: NonNullable<NodeStats['p']> = [];
    for (const { uid, containers } of this.o.pods()) {
      const ids = containers.filter((id) => id !== undefined);
      if (ids.length === 0 || !ids.every((id) => from.containers?.has(id) && to.containers?.has(id)))
        continue;
      const used = containers.map((id) =>
        id === undefined ? null : usage(from.containers!.get(id)!, to.containers!.get(id)!),
      );
      while (used.at(-1) === null) used.pop();
      out.push([uid.slice(0, STATS_UID), ...used]);
    }
    return out;
  }

  /** Whether what is between two samples is a window for all that is in the second. */
  #spans(from: Sample, to: Sample): boolean {
    const ms = to.at - from.at;
    if (ms < MIN_WINDOW_MS || ms > MAX_WINDOW_MS) return false;
    return !to.containers || [...to.containers.keys()].every((id) => from.containers?.has(id));
  }

  async #sample(pods: boolean): Promise<Sample> {
    if (!pods) return { at: this.o.clock.monotonic(), node: this.o.node() };
    const containers = new Map<string, NodeUsage>();
    const ask = async (shim: Shim) => {
      try {
        for (const { containerId, ...usage } of await shim.stats()) containers.set(containerId, usage);
      } catch (e) {
        this.o.log.warn({ handler: shim.handler, err: (e as Error).message }, 'no usage of containers');
      }
    };
    await Promise.all([...this.o.shims()].map(ask));
    return { at: this.o.clock.monotonic(), node: this.o.node(), containers };
  }
}
