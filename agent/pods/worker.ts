/**
 * One pod: looks, plans, begins what the plan says, reports. The loop is serial; what takes long (pulls, graceful
 * stops) runs beside it under a key, so that a change of mind is heard at once.
 */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Container, Pod, PodStatus, ResourceRequirements } from 'kubernetes-types/core/v1.js';
import type { ContainerStatus, ShimHealth } from '../../shims/shim.js';
import { type Shim, ShimError } from '../../shims/shim.js';
import { OPERATIONS } from './apply.js';
import type { FoundImage, Host, PodContext } from './context.js';
import { readTail } from './logs.js';
import type { PodObservation } from './observer.js';
import {
  type Action,
  ANNOTATIONS,
  attemptsOf,
  type Backoff,
  endedPhase,
  type Failure,
  type Goal,
  keyOf,
  LABELS,
  type Picture,
  type Plan,
  plan,
  podId,
  type Waiting,
} from './plan.js';
import { Probes } from './probes.js';
import { type PodRecord, readRecord, writeRecord } from './record.js';
import { changes, type Refusal, withResources } from './resize.js';
import { allContainers } from './resources.js';
import { podStatus } from './status.js';

const RETRY_BASE_MS = 1000;
const RETRY_MAX_MS = 60_000;
/** A resize that waits for room is asked about again after this long. */
const DEFERRED_MS = 10_000;
const REPEATED_FREE = 3;
const REPEATED_MS = 300_000;
const REPEATED_MAX = 100;
/** The kubelet's MaxContainerTerminationMessageLength and …LogLength/…LogLines. */
const MESSAGE_MAX = 4096;
const MESSAGE_LOG_MAX = 2048;
const MESSAGE_LOG_LINES = 80;

/** What downward API files may show of a running pod and can change. */
const shownInVolumes = (p: Pod): string => JSON.stringify([p.metadata?.labels, p.metadata?.annotations]);

export class PodWorker implements PodContext {
  readonly uid: string;
  readonly host: Host;
  /** The pod as last desired; what remains of it when it is desired no more. */
  pod: Pod;
  record: PodRecord | undefined;
  readonly images = new Map<string, FoundImage>();
  readonly failures = new Map<string, Failure>();
  readonly backoff: Record<string, Backoff> = {};
  readonly stopped = new Set<string>();
  /** Containers whose stop was told and whose preStop hook was run. */
  readonly killing = new Set<string>();
  volumesUp = false;
  volumesDown = false;
  /** The state that the last look found; operations read it. */
  seen: PodObservation = { sandboxes: [], containers: [] };
  shim: Shim | undefined;
  health: ShimHealth | undefined;
  runtimeHandler: string | undefined;
  status: PodStatus | undefined;
  /** Aborted when the pod is to end: pulls stop at once. A pod that is wanted again meanwhile gets a new one. */
  life = new AbortController();

  #present = false;
  /** As the API has it; `pod` is what the node grants of it. */
  #wanted: Pod;
  #refused: Refusal | undefined;
  #actual = new Map<string, ResourceRequirements>();
  #failing: Extract<Goal, { kind: 'fail' }> | undefined;
  #loaded = false;
  #markRead!: () => void;
  /** Whether there is a record of it is known. */
  readonly read = new Promise<void>((resolve) => {
    this.#markRead = resolve;
  });
  readonly #busy = new Set<string>();
  readonly #messages = new Map<string, string>();
  #waiting: Record<string, Waiting> = {};
  #reported = '';
  #running = false;
  #again = false;
  #over = false;
  #readFailures = 0;
  #cancelWake: (() => void) | undefined;
  #deadlineFrom: number | undefined;

  readonly #probes: Probes;

  constructor(host: Host, uid: string, pod: Pod) {
    this.host = host;
    this.uid = uid;
    this.pod = pod;
    this.#wanted = pod;
    this.#probes = new Probes({
      clock: host.clock,
      shim: () => this.shim,
      podIP: () => this.status?.podIP,
      event: (type, reason, message, container) => this.event(type, reason, message, container),
      changed: () => this.kick(),
    });
  }

  /** Whether this very object is what was desired last. */
  desires(pod: Pod): boolean {
    return this.#present && this.#wanted === pod;
  }

  /** The pod as it shall be; undefined: it shall be no more. */
  desire(pod: Pod | undefined): void {
    this.#present = pod !== undefined;
    const before = this.pod;
    if (pod) this.#wanted = pod;
    this.#grant();
    if (this.volumesUp && shownInVolumes(before) !== shownInVolumes(this.pod)) this.#refreshVolumes();
    if (this.goal().kind !== 'run') this.life.abort(new Error('the pod is being stopped'));
    else if (this.life.signal.aborted && !this.#over) this.life = new AbortController();
    this.kick();
  }

  /** Something the pod refers to changed: what failed for want of it is tried again at once. */
  configChanged(): void {
    for (const [key, f] of this.failures)
      if (f.reason === 'CreateContainerConfigError' || key === 'volumes' || f.reason === 'ErrImagePull')
        f.retryAt = 0;
    if (this.volumesUp) this.#refreshVolumes();
    this.kick();
  }

  /** Ends the pod as failed, e.g. evicted. */
  fail(reason: string, message: string, graceSeconds: number): void {
    if (this.record?.end || this.#failing) return;
    this.#failing = { kind: 'fail', reason, message, graceSeconds };
    this.life.abort(new Error(message));
    this.kick();
  }

  get busy(): boolean {
    return this.#running || this.#busy.size > 0;
  }

  /** It does nothing more: the pod is gone, or the agent ends. */
  get over(): boolean {
    return this.#over;
  }

  get present(): boolean {
    return this.#present;
  }

  get ending(): boolean {
    return this.goal().kind !== 'run';
  }

  /** The agent ends; what runs goes on. Resolves when nothing is being written any more. */
  stop(): Promise<void> {
    this.#over = true;
    this.#cancelWake?.();
    this.#probes.stop();
    this.life.abort(new Error('the agent is stopping'));
    return this.#saving;
  }

  /** Resolves when no write of the record is under way; after `reportGone` none begins. */
  settledWrites(): Promise<void> {
    return this.#saving;
  }

  kick(): void {
    this.#again = true;
    if (this.#running || this.#over) return;
    this.#running = true;
    void this.#loop();
  }

  async #loop(): Promise<void> {
    try {
      while (this.#again && !this.#over) {
        this.#again = false;
        await this.#turn();
      }
    } catch (e) {
      // Never an unhandled rejection: whatever this was, the next look may fare better.
      this.host.log.error({ pod: podId(this.pod), err: (e as Error).stack }, 'a turn failed');
      this.#wakeIn(RETRY_MAX_MS);
    } finally {
      this.#running = false;
    }
  }

  async #turn(): Promise<void> {
    try {
      await this.#load();
      await this.#look();
      await this.#takeOn();
      this.#readFailures = 0;
    } catch (e) {
      this.host.log.warn({ pod: podId(this.pod), err: (e as Error).message }, 'cannot see the pod');
      this.#tellNoRuntime();
      this.#wakeIn(Math.min(RETRY_BASE_MS * 2 ** this.#readFailures++, RETRY_MAX_MS));
      return;
    }
    if (this.#over) return;
    this.#act();
  }

  #act(): void {
    this.#grant();
    this.#probe();
    const picture = this.#picture();
    const next = plan(picture);
    this.#tellWaiting(next.waiting);
    try {
      this.#report(next);
    } catch (e) {
      // A spec that the API should have refused (say, a quantity that is none) must not take the agent down.
      this.event('Warning', 'FailedSync', `cannot tell the status of the pod: ${(e as Error).message}`);
    }
    for (const action of next.actions) this.#begin(action);
    const deadline = this.#deadline();
    const again = this.#refused?.reason === 'Deferred' ? picture.now + DEFERRED_MS : undefined;
    const at = Math.min(...[next.wakeAt, deadline, again].map((t) => t ?? Number.POSITIVE_INFINITY));
    this.#cancelWake?.();
    if (at !== Number.POSITIVE_INFINITY) this.#wakeIn(at - picture.now);
  }

  /** Takes over the resources that are wanted now, when the node can give them; otherwise what runs keeps what it has. */
  #grant(): void {
    this.#actual = new Map();
    const held = new Map<string, ResourceRequirements>();
    const pod = this.#wanted;
    this.pod = pod;
    for (const spec of allContainers(pod)) {
      const c = attemptsOf(this.seen.containers, spec.name)[0];
      const actual = c && this.#resourcesOf(c);
      if (!actual) continue;
      this.#actual.set(c.id, actual);
      if (changes(actual, spec.resources).length > 0) held.set(spec.name, actual);
    }
    const before = this.#refused;
    this.#refused = held.size > 0 && this.goal().kind === 'run' ? this.#refusal(pod) : undefined;
    if (this.#refused) this.pod = withResources(pod, held);
    if (this.#refused && this.#refused.reason !== before?.reason)
      this.event('Warning', `Resize${this.#refused.reason}`, this.#refused.message);
  }

  #refusal(pod: Pod): Refusal | undefined {
    if (this.shim && !this.shim.updateContainer)
      return {
        reason: 'Infeasible',
        message: `the ${this.shim.handler} runtime cannot change what a container has`,
      };
    return this.host.refusal(pod);
  }

  /** What a container was started with or given since. */
  #resourcesOf(c: ContainerStatus): ResourceRequirements | undefined {
    const given = this.record?.resized?.[c.name];
    if (given?.id === c.id) return given.resources;
    const text = c.annotations[ANNOTATIONS.resources];
    return text === undefined ? undefined : (JSON.parse(text) as ResourceRequirements);
  }

  /** Whatever runs in a pod that shall run is probed; one that ends is left in peace. */
  #probe(): void {
    const specs = this.goal().kind === 'run' ? allContainers(this.pod) : [];
    this.#probes.sync(
      specs.flatMap((spec) => {
        const status = this.seen.containers.find((c) => c.name === spec.name && c.state === 'running');
        return status ? [{ status, spec }] : [];
      }),
    );
  }

  #wakeIn(ms: number): void {
    this.#cancelWake?.();
    this.#cancelWake = this.host.clock.after(Math.max(0, ms), () => this.kick());
  }

  async #load(): Promise<void> {
    if (this.#loaded) return;
    try {
      this.record = await readRecord(this.host.podDir(this.uid), (path, why) =>
        this.host.log.error({ path, why }, 'a pod record could not be read and was set aside'),
      );
      this.#loaded = true;
    } finally {
      this.#markRead();
    }
  }

  /** A pod that is new gets a record, or is turned away. */
  async #takeOn(): Promise<void> {
    if (this.record || !this.#present) return;
    await this.host.recordsRead();
    const since = Date.parse(this.pod.status?.startTime ?? '');
    this.record = {
      namespace: this.pod.metadata?.namespace ?? 'default',
      name: this.pod.metadata?.name ?? '',
      startTime: Number.isNaN(since) ? Math.floor(this.host.clock.now() / 1000) * 1000 : since,
      attempts: {},
    };
    // Of what was begun before only the record was lost.
    const begun = this.seen.sandboxes.length + this.seen.containers.length > 0;
    const no = begun || this.pod.metadata?.deletionTimestamp ? undefined : this.host.rejection(this.pod);
    if (no) {
      const { reason } = no;
      this.event('Warning', reason, no.message);
      const message = `Pod was rejected: ${no.message}`;
      this.record.end = { phase: 'Failed', reason, message, rejected: true };
    }
    this.saveRecord();
  }

  /** It has what it asks for of the node. */
  get holds(): boolean {
    return this.record !== undefined && !this.#over && !this.settled;
  }

  /** Writes the record; it is a help, not a truth, so a full disk does not stop the pod. */
  saveRecord(): Promise<void> {
    const { record } = this;
    if (!record) return Promise.resolve();
    this.#saving = this.#saving.then(async () => {
      if (this.#over || this.#forgotten) return;
      await writeRecord(this.host.podDir(this.uid), record).catch((e: Error) =>
        this.host.log.error({ pod: podId(this.pod), err: e.message }, 'cannot write the pod record'),
      );
    });
    return this.#saving;
  }
  #saving: Promise<void> = Promise.resolve();
  #forgotten = false;

  async #look(): Promise<void> {
    const found = this.host.shimOf(this.pod);
    if ('shim' in found) {
      this.shim = found.shim;
      this.health = found.health;
      this.runtimeHandler = found.runtimeHandler;
    }
    const { shim, ...seen } = await this.host.observe(this.uid, this.shim);
    this.shim ??= shim;
    this.seen = seen;
    if (!this.#present && (this.pod.spec?.containers ?? []).length === 0) this.#identify();
    this.#readMessages();
  }

  /** A pod that is known only from what runs: its name from the labels. */
  #identify(): void {
    const s = this.seen.sandboxes[0];
    const labels = this.seen.containers[0]?.labels;
    const metadata = {
      uid: this.uid,
      namespace: s?.namespace ?? labels?.[LABELS.podNamespace] ?? this.record?.namespace ?? 'default',
      name: s?.name ?? labels?.[LABELS.podName] ?? this.record?.name ?? this.uid,
    };
    this.#wanted = { ...this.pod, metadata: { ...this.pod.metadata, ...metadata } };
    this.pod = this.#wanted;
  }

  /** Why no runtime here can run the pod; told once. */
  #tellNoRuntime(): string | undefined {
    const found = this.host.shimOf(this.pod);
    if (!('missing' in found)) return undefined;
    if (this.goal().kind === 'run')
      this.#once('sandbox-missing', () => this.event('Warning', 'FailedCreatePodSandBox', found.missing));
    return found.missing;
  }

  goal(): Goal {
    const { metadata, spec } = this.pod;
    const own = spec?.terminationGracePeriodSeconds;
    if (metadata?.deletionTimestamp && this.#present)
      return { kind: 'remove', graceSeconds: metadata.deletionGracePeriodSeconds ?? own ?? 30 };
    if (!this.#present) {
      const noted = Number(this.seen.containers[0]?.annotations[ANNOTATIONS.grace]);
      return { kind: 'remove', graceSeconds: own ?? (Number.isFinite(noted) ? noted : 30) };
    }
    // Ended here, or in the API: a pod that was given up while this node was away may still run here.
    if (this.record?.end || endedPhase(this.pod)) return { kind: 'rest' };
    return this.#failing ?? { kind: 'run' };
  }

  #deadline(): number | undefined {
    const seconds = this.pod.spec?.activeDeadlineSeconds;
    if (seconds === undefined || !this.record || this.goal().kind !== 'run') return undefined;
    const { clock } = this.host;
    // By the monotonic clock once it is known how long the pod is active: the wall clock may jump.
    this.#deadlineFrom ??= clock.monotonic() - Math.max(0, clock.now() - this.record.startTime);
    return this.#deadlineFrom + seconds * 1000;
  }

  #picture(): Picture {
    const deadline = this.#deadline();
    const { clock } = this.host;
    if (deadline !== undefined && deadline <= clock.monotonic()) {
      const message = 'Pod was active on the node longer than the specified deadline';
      this.event('Normal', 'DeadlineExceeded', message);
      this.fail('DeadlineExceeded', message, this.pod.spec?.terminationGracePeriodSeconds ?? 30);
    }
    const goal = this.goal();
    const noRuntime = this.#tellNoRuntime();
    return {
      pod: this.pod,
      goal,
      now: clock.monotonic(),
      ...(noRuntime !== undefined ? { noRuntime } : {}),
      ...this.seen,
      seen: this.shim ? this.host.seen(this.shim) : new Map(),
      volumes: goal.kind === 'run' ? (this.volumesUp ? 'up' : 'down') : this.volumesDown ? 'down' : 'up',
      images: this.images,
      failures: this.failures,
      attempts: this.record?.attempts ?? {},
      backoff: this.backoff,
      busy: this.#busy,
      stopped: this.stopped,
      settled: this.settled !== undefined,
      unhealthy: this.#probes.unhealthy,
      actual: this.#actual,
      notStarted: this.#probes.notStarted,
      tuning: this.host.tuning,
    };
  }

  /** The end as settled in this life or an earlier one. */
  get settled() {
    return this.record?.end ?? this.ended;
  }
  /** The end of a pod that is being removed: never written, as it leaves no trace. */
  ended: PodRecord['end'];

  #begin(action: Action): void {
    const key = keyOf(action);
    if (this.#busy.has(key)) return;
    this.#busy.add(key);
    const { log } = this.host;
    log.debug({ pod: podId(this.pod), ...action }, 'begin');
    const operation = OPERATIONS[action.do] as (w: PodContext, a: Action) => Promise<void>;
    void operation(this, action)
      .catch((e: unknown) => {
        // Operations turn what they expect into failures; this is what nobody expected. Tried again like the rest.
        log.warn({ pod: podId(this.pod), operation: key, err: (e as Error).message }, 'operation failed');
        return this.#pause(key);
      })
      .finally(() => {
        this.#busy.delete(key);
        if (this.shim) this.host.invalidate(this.shim);
        this.kick();
      });
  }

  /** Keeps a key busy for a while, so that what fails is not tried in a tight loop. */
  #pause(key: string): Promise<void> {
    const n = (this.#pauses.get(key) ?? 0) + 1;
    this.#pauses.set(key, n);
    return new Promise((resolve) => {
      this.host.clock.after(Math.min(RETRY_BASE_MS * 2 ** (n - 1), RETRY_MAX_MS), resolve);
    });
  }
  readonly #pauses = new Map<string, number>();

  /** Notes a failure under a key; it is tried again after a delay that doubles. */
  failed(key: string, e: unknown, reason: string, base = RETRY_BASE_MS, max = RETRY_MAX_MS): Failure {
    const now = this.host.clock.monotonic();
    const count = (this.failures.get(key)?.count ?? 0) + 1;
    const f: Failure = {
      reason: e instanceof ShimError ? e.reason : reason,
      message: e instanceof Error ? e.message : String(e),
      count,
      at: now,
      retryAt: now + Math.min(base * 2 ** (count - 1), max),
    };
    this.failures.set(key, f);
    return f;
  }

  #refreshVolumes(): void {
    const ips = this.status?.podIPs?.map((x) => x.ip!) ?? [];
    void this.host.volumes.refresh(this.pod, this.host.config, this.host.facts(ips)).catch((e: Error) => {
      this.event('Warning', 'FailedMount', e.message);
    });
  }

  container(name: string): Container {
    const c = allContainers(this.pod).find((x) => x.name === name);
    if (!c) throw new Error(`container ${name} is not in the spec of ${podId(this.pod)}`);
    return c;
  }

  /** Tells an event; with a container's name it points into the spec as the kubelet's do. */
  event(type: 'Normal' | 'Warning', reason: string, message: string, container?: string): void {
    const count = type === 'Warning' ? this.#worthTelling(reason, message, container) : 1;
    if (count === 0) return;
    const list = (['initContainers', 'ephemeralContainers'] as const).find((k) =>
      this.pod.spec?.[k]?.some((c) => c.name === container),
    );
    const { name, namespace } = this.pod.metadata ?? {};
    this.host.reporter.event({
      involved: {
        kind: 'Pod',
        namespace: namespace ?? 'default',
        name: name ?? '',
        uid: this.uid,
        ...(container ? { fieldPath: `spec.${list ?? 'containers'}{${container}}` } : {}),
      },
      type,
      reason,
      message,
      at: this.host.clock.now(),
      count,
    });
  }

  readonly #repeated = new Map<string, { times: number; toldAt: number; held: number }>();

  /** A warning that comes again and again costs the link little: after the third, one in five minutes, with its count. 0: not now. */
  #worthTelling(reason: string, message: string, container: string | undefined): number {
    // Messages of probes hold ids and times, so that no two are the same.
    const what = reason === 'Unhealthy' || reason === 'ProbeError' ? message.split(' ')[0] : message;
    const key = `${reason}\n${container}\n${what}`;
    const now = this.host.clock.monotonic();
    const r = this.#repeated.get(key) ?? { times: 0, toldAt: 0, held: 0 };
    if (this.#repeated.size > REPEATED_MAX) this.#repeated.clear();
    this.#repeated.set(key, r);
    r.times++;
    r.held++;
    if (r.times > REPEATED_FREE && now - r.toldAt < REPEATED_MS) return 0;
    const count = r.held;
    r.held = 0;
    r.toldAt = now;
    return count;
  }

  readonly #told = new Set<string>();
  #once(what: string, tell: () => void): void {
    if (this.#told.has(what)) return;
    this.#told.add(what);
    tell();
  }

  /** A new reason to wait is told once, in the kubelet's words. */
  #tellWaiting(waiting: Record<string, Waiting>): void {
    for (const [name, w] of Object.entries(waiting)) {
      if (this.#waiting[name]?.reason === w.reason) continue;
      if (w.reason === 'CrashLoopBackOff')
        this.event(
          'Warning',
          'BackOff',
          `Back-off restarting failed container ${name} in pod ${podId(this.pod)}`,
          name,
        );
      if (w.reason === 'ImagePullBackOff') {
        this.event('Normal', 'BackOff', `Back-off pulling image "${this.container(name).image}"`, name);
        this.event('Warning', 'Failed', 'Error: ImagePullBackOff', name);
      }
    }
    this.#waiting = waiting;
  }

  /** Where a container may leave a message for its last words. */
  messageFile(name: string, attempt: number): string {
    return join(this.host.podDir(this.uid), 'containers', name, String(attempt));
  }

  #readMessages(): void {
    const ids = new Set(this.seen.containers.map((c) => c.id));
    for (const id of this.#messages.keys()) if (!ids.has(id)) this.#messages.delete(id);
    for (const c of this.seen.containers)
      if (c.state === 'exited' && !this.#messages.has(c.id)) this.#messages.set(c.id, this.#messageOf(c));
  }

  #messageOf(c: ContainerStatus): string {
    let text = '';
    try {
      const file = this.messageFile(c.name, c.attempt);
      if (existsSync(file)) text = readFileSync(file, 'utf8').slice(0, MESSAGE_MAX);
    } catch (e) {
      text = `Error on reading termination log: ${(e as Error).message}`;
    }
    if (
      text ||
      c.annotations[ANNOTATIONS.terminationMessagePolicy] !== 'FallbackToLogsOnError' ||
      c.exitCode === 0
    )
      return text;
    return readTail(this.logFile(c.name, c.attempt), MESSAGE_LOG_LINES, MESSAGE_LOG_MAX);
  }

  logFile(name: string, attempt: number): string {
    return join(this.host.logDir(this.pod), name, `${attempt}.log`);
  }

  #scheme(): string {
    const handler = this.shim?.handler ?? 'unknown';
    if (handler !== 'oci') return handler;
    return /^[a-z0-9-]+/i.exec(this.health?.runtimeVersion ?? '')?.[0] ?? 'containerd';
  }

  #makeStatus(waiting: Record<string, Waiting>): PodStatus {
    return podStatus({
      pod: this.pod,
      ...this.seen,
      plan: { waiting },
      previous: this.status ?? this.pod.status,
      hostIP: this.host.facts([]).hostIP,
      now: this.host.clock.now(),
      startTime: this.record?.startTime ?? this.host.clock.now(),
      scheme: this.#scheme(),
      messages: this.#messages,
      notReady: this.#probes.notReady,
      notStarted: this.#probes.notStarted,
      actual: this.#actual,
      refused: this.#refused,
      failures: this.failures,
      failing: this.#failing !== undefined,
      end: this.settled,
    });
  }

  #report(next: Plan): void {
    // What was removed from the runtime is told as it was before.
    if (!this.#present || (this.ended && this.seen.containers.length === 0)) return;
    this.status = this.#makeStatus(next.waiting);
    const text = JSON.stringify(this.status);
    if (text === this.#reported) return;
    this.#reported = text;
    this.host.reporter.pod(this.#pod(this.status));
  }

  #pod = (status: PodStatus) => ({
    namespace: this.pod.metadata?.namespace ?? 'default',
    name: this.pod.metadata?.name ?? '',
    uid: this.uid,
    status,
  });

  /** The last word: nothing of the pod is left. */
  reportGone(): void {
    this.#forgotten = true;
    let { status } = this;
    try {
      status ??= this.#makeStatus({});
    } catch {
      status = { phase: 'Failed' };
    }
    this.host.reporter.pod({ ...this.#pod(status), gone: true });
  }

  /** The link lost what it was told: say it again. */
  reportAgain(): void {
    this.#reported = '';
    if (this.#forgotten) this.reportGone();
    else this.kick();
  }
}
