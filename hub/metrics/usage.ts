/**
 * What nodes use, asked of their agents when somebody wants to know: nobody asks, nothing travels. An answer is kept
 * for the node's `metrics-interval`, whoever asks meanwhile gets it, and those who ask at once share one question.
 */
import type { Node } from 'kubernetes-types/core/v1.js';
import type { Clock } from '../../api/clock.js';
import { linkSettings, METRICS_INTERVAL } from '../../api/kinds/link-settings.js';
import type { Log } from '../../api/log.js';
import type { NodeStats, Usage } from '../../api/wire/streams.js';
import type { Frozen } from '../client.js';
import type { UsageStreams } from '../streams.js';

/** Questions on their way at once; further nodes wait for their turn. */
const MAX_ASKED = 256;
/** Whoever wants to know gets what there is by then. */
const WAIT_MS = 10_000;
/** A node that has said nothing by then is let go. */
const NODE_MS = 15_000;
/** Of one answer: some thousand containers. */
const MAX_ANSWER = 256 * 1024;

/** What one node said. */
export interface NodeAnswer extends NodeStats {
  /** When, by the hub's clock: the device's own may be years off. Unix milliseconds. */
  at: number;
}

/** Why a node is not among the answers. */
export type Absence = 'is metered' | 'has no link' | 'did not answer';

export interface Answers {
  /** By node. */
  usage: Map<string, NodeAnswer>;
  absent: Map<string, Absence>;
}

interface Known {
  /** Absent: it could not tell, and is not asked again before its time. */
  answer?: NodeAnswer;
  pods: boolean;
  cancel: () => void;
}

export interface UsageOptions {
  link: UsageStreams;
  clock: Clock;
  log: Log;
}

export class NodeUsage {
  readonly #known = new Map<string, Known>();
  readonly #asked = new Map<string, { pods: boolean; answer: Promise<NodeAnswer | undefined> }>();
  readonly #turns: (() => void)[] = [];
  #busy = 0;

  constructor(private readonly o: UsageOptions) {}

  /** How many answers are kept. */
  get size(): number {
    return this.#known.size;
  }

  stop(): void {
    for (const k of this.#known.values()) k.cancel();
    this.#known.clear();
  }

  /** What these nodes use; with `pods`, what each of their pods does as well. Never rejects. */
  async of(nodes: readonly Frozen<Node>[], pods: boolean): Promise<Answers> {
    const usage: Answers['usage'] = new Map();
    const absent: Answers['absent'] = new Map();
    const waiting: Promise<void>[] = [];
    for (const node of nodes) {
      const name = node.metadata!.name!;
      const settings = linkSettings(node.metadata?.annotations);
      const take = (answer: NodeAnswer | undefined) => {
        if (answer && absent.delete(name)) usage.set(name, answer);
      };
      if (settings.metered) absent.set(name, 'is metered');
      else if (!this.o.link.isLinked(name)) absent.set(name, 'has no link');
      else {
        absent.set(name, 'did not answer');
        const known = this.#known.get(name);
        if (known && (known.pods || !pods)) take(known.answer);
        else waiting.push(this.#ask(name, pods, settings.metricsInterval ?? METRICS_INTERVAL).then(take));
      }
    }
    if (waiting.length > 0) {
      let late = () => {};
      const enough = new Promise<void>((resolve) => {
        late = this.o.clock.after(WAIT_MS, resolve);
      });
      await Promise.race([Promise.all(waiting), enough]);
      late();
    }
    // What comes after this is for the next who asks.
    return { usage: new Map(usage), absent: new Map(absent) };
  }

  #ask(name: string, pods: boolean, intervalSeconds: number): Promise<NodeAnswer | undefined> {
    const asked = this.#asked.get(name);
    if (asked && (asked.pods || !pods)) return asked.answer;
    const answer = this.#turn(() => this.#question(name, pods)).then((a) => {
      if (this.#asked.get(name)?.answer === answer) this.#asked.delete(name);
      this.#keep(name, a, pods, intervalSeconds * 1000);
      return a;
    });
    this.#asked.set(name, { pods, answer });
    return answer;
  }

  #keep(name: string, answer: NodeAnswer | undefined, pods: boolean, ms: number): void {
    if (ms === 0) return;
    const before = this.#known.get(name);
    if (before?.pods && before.answer && !pods) return;
    before?.cancel();
    const cancel = this.o.clock.after(ms, () => this.#known.delete(name));
    this.#known.set(name, { ...(answer ? { answer } : {}), pods, cancel });
  }

  async #turn<T>(work: () => Promise<T>): Promise<T> {
    if (this.#busy >= MAX_ASKED) await new Promise<void>((resolve) => this.#turns.push(resolve));
    else this.#busy++;
    try {
      return await work();
    } finally {
      // The place goes to the next in line, or is free.
      const next = this.#turns.shift();
      if (next) next();
      else this.#busy--;
    }
  }

  async #question(name: string, pods: boolean): Promise<NodeAnswer | undefined> {
    const stop = new AbortController();
    const late = this.o.clock.after(NODE_MS, () => stop.abort(new Error('took too long')));
    try {
      const chunks: Uint8Array[] = [];
      let length = 0;
      for await (const chunk of await this.o.link.stats(name, pods ? { p: 1 } : {}, stop.signal)) {
        length += chunk.length;
        if (length > MAX_ANSWER) throw new Error('the answer is too long');
        chunks.push(chunk);
      }
      return { ...checked(JSON.parse(Buffer.concat(chunks).toString())), at: this.o.clock.now() };
    } catch (e) {
      this.o.log.info({ node: name, err: (e as Error).message }, 'node did not tell what it uses');
      return undefined;
    } finally {
      late();
      stop.abort();
    }
  }
}

const isUsage = (u: unknown): u is Usage =>
  Array.isArray(u) && u.length === 2 && u.every((n) => Number.isSafeInteger(n) && n >= 0);

/** What a device says is checked before others rely on it. */
function checked(said: unknown): NodeStats {
  const { w, n, p } = said as Partial<NodeStats>;
  const good =
    Number.isSafeInteger(w) &&
    w! > 0 &&
    isUsage(n) &&
    (p === undefined ||
      (Array.isArray(p) &&
        p.every(
          ([uid, ...all]) =>
            typeof uid === 'string' && uid !== '' && all.every((u) => u === null || isUsage(u)),
        )));
  if (!good) throw new Error('the answer is malformed');
  return { w: w!, n: n!, ...(p ? { p } : {}) };
}
