import type { Node, Pod } from 'kubernetes-types/core/v1.js';
import { type Clock, rfc3339, sleep } from '../../api/clock.js';
import { nodes, podDisruptionBudgets, pods, runtimeClasses } from '../../api/kinds/index.js';
import type { Log } from '../../api/log.js';
import { isApiError } from '../../api/meta/errors.js';
import { parseKey } from '../../api/meta/object.js';
import type { Client, Frozen } from '../client.js';
import { noteDisruption } from '../controllers/podgc.js';
import { EventRecorder } from '../events.js';
import type { Informer, Informers } from '../informer.js';
import { WorkQueue } from '../queue.js';
import { Claims } from './claims.js';
import { decide, type Refusal } from './decide.js';
import type { FilterName } from './filters.js';
import { preempt } from './preempt.js';
import { Ledger, type PodInfo, podInfo, priorityOf } from './snapshot.js';

export interface SchedulerOptions {
  client: Client;
  informers: Informers;
  clock: Clock;
  log: Log;
  /** Pods whose `spec.schedulerName` is another are left alone. Default `default-scheduler`. */
  schedulerName?: string;
}

/** Bindings on their way at once. */
const MAX_BINDING = 128;
/** A pod that fits nowhere is looked at again after a change, but not sooner than this (doubling) since last time. */
const RETRY_FIRST_MS = 100;
const RETRY_MAX_MS = 10_000;
const BIND_RETRY_MS = 1_000;
const PREEMPTED = 'PreemptionByScheduler';

/** What a freed place on a node can help against. */
const HELPED_BY_ROOM = new Set<FilterName>([
  'NodeResourcesFit',
  'NodePorts',
  'PodTopologySpread',
  'InterPodAffinity',
]);
/** What a change of claims and volumes can help against. */
const HELPED_BY_VOLUMES = new Set<FilterName>(['VolumeBinding']);
/** What a newly placed pod can help against. */
const HELPED_BY_COMPANY = new Set<FilterName>(['PodTopologySpread', 'InterPodAffinity']);

interface Waiting {
  readonly filters: Refusal['filters'];
  readonly tries: number;
  readonly triedAt: number;
}

/**
 * Binds pods to nodes. It looks at a pod when the pod appears and again when something changed that could help; it
 * never polls. Decisions are pure ({@link decide}); this class keeps the ledger they are made on.
 */
export class Scheduler {
  readonly #pods: Informer<Pod>;
  readonly #ledger = new Ledger();
  readonly #queue: WorkQueue;
  readonly #events: EventRecorder;
  readonly #name: string;
  readonly #claims: Claims;
  /** Pods that fit nowhere as far as we know. */
  readonly #waiting = new Map<string, Waiting>();
  readonly #binding = new Set<Promise<void>>();
  #from = 0;
  #stopped = false;

  constructor(private readonly o: SchedulerOptions) {
    this.#name = o.schedulerName ?? 'default-scheduler';
    this.#events = new EventRecorder(o.client, { component: this.#name }, o.clock, o.log);
    this.#queue = new WorkQueue('scheduler', (key) => this.#schedule(key), o.clock, o.log, {
      priority: (key) => this.#pods?.get(key)?.spec?.priority ?? 0,
    });
    this.#pods = o.informers.of(pods).onChange((key, now, before) => this.#podChanged(key, now, before));
    o.informers.of(nodes).onChange((name, now, before) => {
      if (now && before && !matters(now, before)) return;
      this.#ledger.setNode(name, now);
      this.#wake(() => true);
    });
    this.#claims = new Claims(o.client, o.informers, () =>
      this.#wake((filters) => overlap(filters, HELPED_BY_VOLUMES)),
    );
    o.informers.of(runtimeClasses).onChange(() => this.#wake(() => true));
  }

  async start(): Promise<void> {
    await this.o.informers.start();
    this.#queue.start();
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    await this.#queue.stop();
    await Promise.all(this.#binding);
    this.#events.stop();
  }

  /** Nothing to decide, to bind or to tell right now. */
  get idle(): boolean {
    return this.#queue.idle && this.#binding.size === 0 && this.#events.idle;
  }

  #podChanged(key: string, now: Frozen<Pod> | undefined, before: Frozen<Pod> | undefined): void {
    const uid = (now ?? before)!.metadata!.uid!;
    if (!now || now.spec?.nodeName || hasEnded(now) || now.metadata?.deletionTimestamp) {
      if (this.#ledger.unnominate(uid)) this.#wake((filters) => overlap(filters, HELPED_BY_ROOM));
    } else if (now.status?.nominatedNodeName && this.#isOurs(now))
      this.#ledger.nominate(this.#info(now), now.status.nominatedNodeName);
    if (now?.spec?.nodeName && !hasEnded(now)) {
      this.#waiting.delete(key);
      if (before?.spec?.nodeName && sameRoom(now, before)) return;
      this.#ledger.place(this.#info(now), now.spec.nodeName);
      this.#wake((filters) => overlap(filters, HELPED_BY_COMPANY));
      return;
    }
    if (!now || hasEnded(now)) {
      this.#waiting.delete(key);
      if (this.#ledger.remove(uid)) this.#wake((filters) => overlap(filters, HELPED_BY_ROOM));
      return;
    }
    // Our own note on why it waits is no reason to look again.
    if (before && specOf(before) === specOf(now) && this.#waiting.has(key)) return;
    if (this.#isOurs(now)) this.#queue.add(key);
  }

  #isOurs(pod: Frozen<Pod>): boolean {
    return (pod.spec?.schedulerName || 'default-scheduler') === this.#name;
  }

  #info(pod: Frozen<Pod>): PodInfo {
    return podInfo(pod, this.#runtimeClass(pod));
  }

  #runtimeClass(pod: Frozen<Pod>) {
    const name = pod.spec?.runtimeClassName;
    return name ? this.o.informers.of(runtimeClasses).get(name) : undefined;
  }

  #wake(helps: (filters: Refusal['filters']) => boolean): void {
    const now = this.o.clock.monotonic();
    for (const [key, w] of this.#waiting) {
      if (!helps(w.filters)) continue;
      const pause = Math.min(RETRY_MAX_MS, RETRY_FIRST_MS * 2 ** Math.min(w.tries - 1, 20));
      this.#queue.addAfter(key, w.triedAt + pause - now);
    }
  }

  async #schedule(key: string): Promise<void> {
    const pod = this.#pods.get(key);
    if (
      !pod ||
      pod.spec?.nodeName ||
      hasEnded(pod) ||
      pod.metadata?.deletionTimestamp ||
      !this.#isOurs(pod)
    ) {
      this.#waiting.delete(key);
      return;
    }
    if (this.#ledger.isAssumed(pod.metadata!.uid!)) return;
    const gates = (pod.spec as { schedulingGates?: readonly unknown[] }).schedulingGates;
    if (gates?.length) {
      await this.#note(pod, 'SchedulingGated', 'Scheduling is blocked due to non-empty scheduling gates');
      return;
    }
    const claims = this.#claims.of(pod);
    if (claims && 'refusal' in claims) {
      const there = [...this.#ledger.nodes.values()].filter((n) => n.node).length;
      this.#wait(key, HELPED_BY_VOLUMES);
      await this.#note(pod, 'Unschedulable', `0/${there} nodes are available: ${claims.refusal}.`);
      return;
    }
    const info = { ...this.#info(pod), ...(claims ? { volumes: claims.objection } : {}) };
    const decision = decide(info, this.#runtimeClass(pod), this.#ledger, this.#from++);
    if ('node' in decision && claims?.delayed.length) {
      // Looked at again when they are bound.
      this.#wait(key, HELPED_BY_VOLUMES);
      await this.#claims.select(claims.delayed, decision.node);
      return;
    }
    if ('node' in decision) {
      this.#waiting.delete(key);
      this.#ledger.assume(info, decision.node);
      const bound = this.#bind(info, decision.node).finally(() => this.#binding.delete(bound));
      this.#binding.add(bound);
      if (this.#binding.size >= MAX_BINDING) await Promise.race(this.#binding);
      return;
    }
    const { message, filters } = decision.refusal;
    this.#wait(key, filters);
    const nominated = await this.#preempt(info);
    await this.#note(pod, 'Unschedulable', message, nominated);
  }

  #wait(key: string, filters: Refusal['filters']): void {
    this.#waiting.set(key, {
      filters,
      tries: (this.#waiting.get(key)?.tries ?? 0) + 1,
      triedAt: this.o.clock.monotonic(),
    });
  }

  /** Makes room for a pod that fits nowhere, if those in its way matter less. Returns the node that it is to have then, null for none. */
  async #preempt(info: PodInfo): Promise<string | null> {
    if (info.pod.spec?.preemptionPolicy === 'Never') return null;
    const before = this.#ledger.nominatedTo(info.uid);
    const leaving = [...((before && this.#ledger.nodes.get(before)?.pods.values()) || [])];
    const onItsWay = (p: PodInfo) => makesRoom(p.pod) && priorityOf(p) < priorityOf(info);
    if (before && leaving.some(onItsWay)) return before;
    const { items: budgets } = await this.o.client.list(podDisruptionBudgets);
    const way = preempt(info, this.#runtimeClass(info.pod), this.#ledger, budgets);
    if (!way) {
      this.#ledger.unnominate(info.uid);
      return null;
    }
    this.#ledger.nominate(info, way.node);
    for (const victim of way.victims) {
      const { namespace, name } = parseKey(victim.key);
      const why = `${this.#name}: preempting to accommodate a higher priority pod`;
      const at = rfc3339(this.o.clock.now());
      await noteDisruption(this.o.client, victim.pod, PREEMPTED, why, at);
      try {
        await this.o.client.delete(pods, { namespace, name }, { uid: victim.uid });
      } catch (e) {
        if (!isApiError(e, 'NotFound') && !isApiError(e, 'Conflict')) throw e;
        continue;
      }
      const told = `Preempted by pod ${info.uid} on node ${way.node}`;
      this.#events.tell(pods, victim.pod as Pod, 'Normal', 'Preempted', told);
    }
    return way.node;
  }

  /** Never rejects. */
  async #bind(info: PodInfo, node: string): Promise<void> {
    const { namespace, name } = parseKey(info.key);
    try {
      await this.o.client.bind({ namespace, name, uid: info.uid }, node);
      this.#events.tell(
        pods,
        info.pod as Pod,
        'Normal',
        'Scheduled',
        `Successfully assigned ${namespace}/${name} to ${node}`,
      );
    } catch (e) {
      await this.#afterFailedBinding(info, node, e);
    }
  }

  /** It may have been done all the same: its place is given away only when the pod is seen to be unbound. */
  async #afterFailedBinding(info: PodInfo, node: string, error: unknown): Promise<void> {
    const key = parseKey(info.key);
    for (; this.#ledger.isAssumed(info.uid) && !this.#stopped; await sleep(this.o.clock, BIND_RETRY_MS)) {
      let now: Frozen<Pod> | undefined;
      try {
        now = await this.o.client.get(pods, key);
      } catch (e) {
        if (!isApiError(e, 'NotFound')) continue;
      }
      const ours = now?.metadata?.uid === info.uid ? now : undefined;
      if (ours?.spec?.nodeName) {
        if (this.#ledger.isAssumed(info.uid)) this.#ledger.assume(info, ours.spec.nodeName);
        return;
      }
      if (this.#ledger.forget(info.uid)) this.#wake((filters) => overlap(filters, HELPED_BY_ROOM));
      if (!ours || ours.metadata?.deletionTimestamp) return;
      this.o.log.warn(
        { pod: info.key, node, err: error instanceof Error ? error.message : String(error) },
        'binding failed',
      );
      this.#queue.addAfter(info.key, BIND_RETRY_MS);
      return;
    }
  }

  /** Says on the pod, and in an Event, why it waits; once per reason. */
  async #note(
    pod: Frozen<Pod>,
    reason: 'Unschedulable' | 'SchedulingGated',
    message: string,
    nominatedNodeName: string | null = pod.status?.nominatedNodeName ?? null,
  ): Promise<void> {
    const conditions = pod.status?.conditions ?? [];
    const old = conditions.find((c) => c.type === 'PodScheduled');
    const same = old?.status === 'False' && old.reason === reason && old.message === message;
    const nominates = nominatedNodeName !== (pod.status?.nominatedNodeName ?? null);
    if (same && !nominates) return;
    if (!same && reason === 'Unschedulable')
      this.#events.tell(pods, pod as Pod, 'Warning', 'FailedScheduling', message);
    const condition = {
      type: 'PodScheduled',
      status: 'False',
      reason,
      message,
      lastProbeTime: null,
      lastTransitionTime: old?.status === 'False' ? old.lastTransitionTime : rfc3339(this.o.clock.now()),
    };
    const { namespace, name } = pod.metadata!;
    try {
      await this.o.client.patch(
        pods,
        { namespace, name: name! },
        {
          metadata: { uid: pod.metadata!.uid },
          status: {
            conditions: [...conditions.filter((c) => c !== old), condition],
            ...(nominates ? { nominatedNodeName } : {}),
          },
        },
        'status',
      );
    } catch (e) {
      if (!isApiError(e, 'NotFound') && !isApiError(e, 'Conflict')) throw e;
    }
  }
}

const hasEnded = (p: Frozen<Pod>) => p.status?.phase === 'Succeeded' || p.status?.phase === 'Failed';

/** Ends because it was pushed aside; one that somebody else deleted need not have been in the way. */
const makesRoom = (p: Frozen<Pod>) =>
  p.metadata?.deletionTimestamp !== undefined &&
  (p.status?.conditions ?? []).some((c) => c.type === 'DisruptionTarget' && c.reason === PREEMPTED);

const specOf = (p: Frozen<Pod>) => JSON.stringify([p.spec, p.metadata?.labels]);

/** Nothing changed of what the ledger knows about a bound pod. */
const sameRoom = (a: Frozen<Pod>, b: Frozen<Pod>) =>
  !hasEnded(b) &&
  a.metadata?.uid === b.metadata?.uid &&
  a.metadata?.deletionTimestamp === b.metadata?.deletionTimestamp &&
  (a.spec === b.spec || JSON.stringify(a.spec) === JSON.stringify(b.spec)) &&
  JSON.stringify(a.metadata?.labels) === JSON.stringify(b.metadata?.labels);

/** Whether a change of a node means anything for where pods can go; heartbeats do not. */
function matters(now: Frozen<Node>, before: Frozen<Node>): boolean {
  const view = (n: Frozen<Node>) =>
    JSON.stringify([
      n.metadata?.uid,
      n.metadata?.labels,
      n.spec,
      n.status?.allocatable,
      n.status?.conditions?.map((c) => [c.type, c.status]),
    ]);
  return view(now) !== view(before);
}

function overlap(a: ReadonlySet<string>, b: ReadonlySet<string>): boolean {
  for (const x of a) if (b.has(x)) return true;
  return false;
}
