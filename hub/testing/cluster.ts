import type { Pod, PodStatus } from 'kubernetes-types/core/v1.js';
import { rfc3339 } from '../../api/clock.js';
import { nodes, pods } from '../../api/kinds/index.js';
import type { Kind } from '../../api/kinds/kind.js';
import { silentLog } from '../../api/log.js';
import { ApiError, isApiError } from '../../api/meta/errors.js';
import type { KubeObject } from '../../api/meta/object.js';
import { seeded, turn, VirtualClock } from '../../api/testing/virtual-clock.js';
import type { Client, Frozen, WatchEvent, Watcher } from '../client.js';
import { Controllers } from '../controllers/controllers.js';
import { Informers } from '../informer.js';
import { Registry, stampResourceVersion } from '../registry/registry.js';
import { Scheduler } from '../scheduler/scheduler.js';
import { MemoryStore } from '../store/memory.js';
import { aNode } from './objects.js';

export interface ClusterOptions {
  seed?: number;
  nodes?: number;
  /** How much goes wrong between the loops and the registry. */
  chaos?: Chaos;
  /** What becomes of a pod's containers; default: they get ready. */
  fate?: (pod: Frozen<Pod>) => 'ready' | 'never' | 'fails' | 'succeeds';
  keepEndedPods?: number;
  flowControl?: boolean;
}

export interface Chaos {
  /** Longest delay of a write, and of an event on its way, in ms. */
  delayMs: number;
  /** Share of writes that fail without having been done. */
  refuse: number;
  /** Share of writes that are done though they are said to have failed. */
  loseAnswer: number;
  /** Share of events after which the watch has fallen behind. */
  expire: number;
}

/** A hub's inside without a wire, under a virtual clock, with a scripted kubelet for all nodes. For tests. */
export class Cluster {
  readonly clock: VirtualClock;
  /** The undisturbed door. */
  client!: Client;
  registry!: Registry;
  scheduler!: Scheduler;
  controllers!: Controllers;
  #kubelet!: Kubelet;
  #informers!: Informers;
  readonly #random: () => number;

  constructor(private readonly o: ClusterOptions = {}) {
    this.clock = new VirtualClock({ seed: o.seed ?? 1 });
    this.#random = seeded((o.seed ?? 1) + 1000);
  }

  async start(): Promise<this> {
    const { clock } = this;
    const store = new MemoryStore({ stamp: stampResourceVersion });
    await store.open();
    this.registry = new Registry({ store, clock, log: silentLog });
    await this.registry.bootstrap();
    this.client = this.registry.client();
    for (let i = 1; i <= (this.o.nodes ?? 3); i++) await this.addNode(`pi${i}`);
    this.#makeLoops();
    this.#kubelet = new Kubelet(this.client, clock, this.#random, this.o.fate ?? (() => 'ready'));
    await this.#kubelet.start();
    await this.#patiently(Promise.all([this.scheduler.start(), this.controllers.start()]));
    await this.settle();
    return this;
  }

  #makeLoops(): void {
    const { clock } = this;
    const { chaos } = this.o;
    const client = chaos ? unreliable(this.client, clock, this.#random, chaos) : this.client;
    this.#informers = new Informers(client, clock, silentLog);
    this.scheduler = new Scheduler({ client, informers: this.#informers, clock, log: silentLog });
    this.controllers = new Controllers({
      client,
      informers: this.#informers,
      kinds: this.registry,
      quota: this.registry.quota,
      clock,
      log: silentLog,
      caPem: 'PEM',
      keepEndedPods: this.o.keepEndedPods,
      flowControl: this.o.flowControl,
    });
  }

  /** The scheduler and the controllers die and come back; what they had in memory is gone. */
  async restartLoops(): Promise<void> {
    await this.#patiently(
      Promise.all([this.scheduler.stop(), this.controllers.stop(), this.#informers.stop()]),
    );
    this.#makeLoops();
    await this.#patiently(Promise.all([this.scheduler.start(), this.controllers.start()]));
    await this.settle();
  }

  async stop(): Promise<void> {
    await this.#patiently(Promise.all([this.scheduler.stop(), this.controllers.stop()]));
    await this.#patiently(this.#informers.stop());
    await this.#kubelet.stop();
  }

  async addNode(name: string): Promise<void> {
    const { status, ...node } = aNode(name);
    await this.client.create(nodes, node);
    await this.client.updateStatus(nodes, { ...node, status });
  }

  /** Everything that can happen without time passing has happened. */
  async settle(): Promise<void> {
    let quiet = 0;
    let revision = '';
    for (let i = 0; i < 200 && quiet < 2; i++) {
      await turn();
      if (this.controllers.loading) i = 0;
      const now = this.registry.resourceVersion;
      quiet = now === revision && this.scheduler.idle && this.controllers.idle ? quiet + 1 : 0;
      revision = now;
      // Somebody waits for the clock.
      if (i > 5 && this.o.chaos && quiet === 0) break;
    }
  }

  async run(ms: number): Promise<void> {
    await this.clock.advance(ms, () => this.settle());
  }

  /** Lets time pass, as much as needed and a bounded amount of it, until the condition holds. */
  async until(what: string, holds: () => boolean | Promise<boolean>, limitMs = 600_000): Promise<void> {
    for (let waited = 0; waited <= limitMs; waited += 500) {
      await this.settle();
      if (await holds()) return;
      await this.run(500);
    }
    throw new Error(`never happened: ${what}`);
  }

  /** Waits for a condition; a minute later it holds still, and in the minute after that nobody has written anything. */
  async rests(holds: () => boolean | Promise<boolean>, limitMs?: number): Promise<void> {
    await this.until('converged', holds, limitMs);
    await this.run(60_000);
    if (!(await holds())) throw new Error('it was as wanted, and did not stay so');
    const before = this.registry.resourceVersion;
    await this.run(60_000);
    const after = this.registry.resourceVersion;
    if (after !== before) throw new Error(`somebody goes on writing: revision ${before} became ${after}`);
  }

  async list<T extends KubeObject>(kind: Kind<T>, namespace?: string): Promise<Frozen<T>[]> {
    return (await this.client.list(kind, namespace ? { namespace } : {})).items;
  }

  /** Waits for a promise that may need the clock to go on. */
  async #patiently<T>(promise: Promise<T>): Promise<T> {
    let done = false;
    const end = () => {
      done = true;
    };
    promise.then(end, end);
    for (let i = 0; i < 10_000; i++) {
      await turn();
      if (done) break;
      await this.clock.advance(10);
    }
    return promise;
  }
}

/** Starts and ends pods on every node, each after a moment. */
class Kubelet {
  readonly #informers: Informers;
  readonly #seen = new Set<string>();

  constructor(
    private readonly client: Client,
    private readonly clock: VirtualClock,
    private readonly random: () => number,
    private readonly fate: NonNullable<ClusterOptions['fate']>,
  ) {
    this.#informers = new Informers(client, clock, silentLog);
  }

  start(): Promise<void> {
    const all = this.#informers.of(pods);
    const look = (p: Frozen<Pod>) => {
      if (!p.spec?.nodeName || !known.get(p.spec.nodeName)) return;
      const { uid } = p.metadata!;
      const stage = p.metadata!.deletionTimestamp ? `end ${uid}` : `start ${uid}`;
      if (this.#seen.has(stage)) return;
      this.#seen.add(stage);
      const act = p.metadata!.deletionTimestamp ? () => this.#end(p) : () => this.#begin(p);
      this.clock.after(this.random() * 2000, () => void act().catch(ignoreGone));
    };
    all.onChange((_, now) => now && look(now));
    // A node that was away is told all that is its when it comes back.
    const known = this.#informers.of(nodes).onChange((name, now, before) => {
      if (now && !before) for (const p of all.values()) if (p.spec?.nodeName === name) look(p);
    });
    return this.#informers.start();
  }

  stop(): Promise<void> {
    return this.#informers.stop();
  }

  async #begin(p: Frozen<Pod>): Promise<void> {
    const fate = this.fate(p);
    const at = rfc3339(this.clock.now());
    const ready = fate === 'ready' ? 'True' : 'False';
    const status: PodStatus = {
      phase: { fails: 'Failed', succeeds: 'Succeeded', ready: 'Running', never: 'Running' }[fate],
      startTime: at,
      conditions: [
        { type: 'PodScheduled', status: 'True', lastTransitionTime: at },
        { type: 'Ready', status: ready, lastTransitionTime: at },
      ],
    };
    await this.client.patch(pods, ref(p), { metadata: { uid: p.metadata!.uid }, status }, 'status');
  }

  async #end(p: Frozen<Pod>): Promise<void> {
    await this.client.delete(pods, ref(p), { uid: p.metadata!.uid, gracePeriodSeconds: 0 });
  }
}

const ref = (p: Frozen<Pod>) => ({ namespace: p.metadata!.namespace, name: p.metadata!.name! });

function ignoreGone(e: unknown): void {
  if (!isApiError(e, 'NotFound') && !isApiError(e, 'Conflict')) throw e;
}

/** A client whose writes are slow and fail, and whose watches lag and expire; reads and order stay right. */
function unreliable(client: Client, clock: VirtualClock, random: () => number, chaos: Chaos): Client {
  const pause = () => new Promise<void>((resolve) => void clock.after(random() * chaos.delayMs, resolve));
  const write =
    (verb: 'create' | 'update' | 'updateStatus' | 'patch' | 'bind' | 'delete') =>
    async (...args: unknown[]) => {
      await pause();
      if (random() < chaos.refuse) throw new ApiError('InternalError', 'the disk says no');
      const answer = await (client[verb] as (...a: unknown[]) => Promise<unknown>)(...args);
      await pause();
      if (random() < chaos.loseAnswer) throw new ApiError('InternalError', 'the answer was lost');
      return answer;
    };
  return {
    get: client.get,
    list: client.list,
    create: write('create'),
    update: write('update'),
    updateStatus: write('updateStatus'),
    patch: write('patch'),
    bind: write('bind'),
    delete: write('delete'),
    watch(kind: Kind<KubeObject>, options: object) {
      const inner = client.watch(kind, options);
      async function* lagging(): AsyncGenerator<WatchEvent<Frozen<KubeObject>>> {
        for await (const event of inner) {
          await pause();
          if (random() < chaos.expire) throw new ApiError('Expired', 'fell behind');
          yield event;
        }
      }
      const events = lagging();
      return { close: () => inner.close(), [Symbol.asyncIterator]: () => events } as Watcher<
        Frozen<KubeObject>
      >;
    },
  } as Client;
}
