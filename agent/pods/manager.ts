/** All pods of a node: hands each its worker, and does what concerns them together. */
import { readdir, rename, rm, stat, statfs } from 'node:fs/promises';
import { totalmem } from 'node:os';
import { basename, dirname, join } from 'node:path';
import type { Pod } from 'kubernetes-types/core/v1.js';
import type { Clock } from '../../api/clock.js';
import { shimOfHandler } from '../../api/kinds/handlers.js';
import type { Log } from '../../api/log.js';
import { ApiError, badRequest } from '../../api/meta/errors.js';
import { type DesiredSet, tokenName } from '../../api/wire/desired.js';
import { jwt } from '../../api/wire/jwt.js';
import { type NodeStats, type PodLogOptions, type StatsOptions, statsOrder } from '../../api/wire/streams.js';
import type { ContainerStatus, ImageStatus, Shim, ShimHealth } from '../../shims/shim.js';
import { type NodeUsage, nodeUsage } from '../node/usage.js';
import type { ChannelRequest, Channels, PodConnections, PodHost, PullGate, Reporter } from '../ports.js';
import type { Mounter } from '../volumes/mounts.js';
import { diskUsage, Volumes } from '../volumes/volumes.js';
import { rejection } from './admit.js';
import { connectTo } from './connect.js';
import type { FoundShim, Host } from './context.js';
import type { Config, PodFacts } from './env.js';
import {
  type Candidate,
  DISK_SIGNALS,
  evictionMessage,
  type Shortage,
  type StarvedResource,
  starved,
  victim,
} from './eviction.js';
import { readLog, rotatedFiles } from './logs.js';
import { Observer, type PodObservation } from './observer.js';
import { attemptsOf, podId, type Tuning } from './plan.js';
import { type Refusal, refusal } from './resize.js';
import { allContainers } from './resources.js';
import { type Measured, StatsMeter } from './stats.js';
import { PodWorker } from './worker.js';

export interface PodManagerOptions {
  nodeName: string;
  /** Started by the caller, who also stops them, after the manager. */
  shims: ReadonlyMap<string, Shim>;
  /** The handler of a pod without a runtimeClassName. */
  defaultHandler: string;
  reporter: Reporter;
  clock: Clock;
  log: Log;
  /** Everything is kept below `<dataDir>/pods` and `<dataDir>/logs`. */
  dataDir: string;
  /** `host:port` at which pods reach the API, once the hub has said it. */
  api?: () => string | undefined;
  /** The node's main address; asked anew each time. */
  hostIP?: () => string;
  /** What containers without limits may see as theirs. */
  allocatable?: () => PodFacts['allocatable'];
  /** What pods may ask for together, by resource, as the node reports it; absent: as much as they like. */
  resourcesForPods?: () => Readonly<Record<string, string>>;
  nodeMemoryBytes?: number;
  /** CrashLoopBackOff; default 10 s, 5 min, forgotten after 10 min. */
  tuning?: Partial<Tuning>;
  /** A log file larger than this is rotated (bytes), and so many files are kept per container, the current one included. */
  logMaxBytes?: number;
  logMaxFiles?: number;
  /** Unused images are removed when the disk is fuller than `high` percent, until it is below `low`. */
  imageGc?: { highPercent: number; lowPercent: number };
  /** How full the disk of the images is, in percent; default: that of dataDir. */
  diskUsedPercent?: () => Promise<number>;
  maxParallelPulls?: number;
  /** Default: images may be pulled at any time. */
  pulls?: PullGate;
  /** What the whole machine uses; default: as its kernel counts. */
  nodeUsage?: () => NodeUsage;
  mounter?: Mounter;
  memoryDir?: string | undefined;
}

const HOUSEKEEPING_MS = 10_000;
/** Every so many rounds of housekeeping: look at everything anew, measure emptyDirs, collect images. */
const RELIST_EVERY = 6;
const IMAGE_GC_EVERY = 30;
const HEALTH_RETRY_MS = 10_000;
/** An image must have been unused this long before it is removed (the kubelet's imageMinimumGCAge). */
const IMAGE_MIN_AGE_MS = 120_000;

export class PodManager implements PodHost, PodConnections {
  readonly #o: PodManagerOptions;
  readonly #log: Log;
  readonly #workers = new Map<string, PodWorker>();
  readonly #observers = new Map<Shim, Observer>();
  readonly #health = new Map<Shim, ShimHealth>();
  readonly #volumes: Volumes;
  readonly #host: Host;
  readonly #stats: StatsMeter;
  readonly #cancels = new Set<() => void>();
  #desired: DesiredSet | undefined;
  #config: ConfigObjects = { maps: new Map(), secrets: new Map(), tokens: new Map() };
  #running = false;
  #rounds = 0;
  /** Timers' work under way. */
  #tasks = 0;
  #relieving = false;
  /** The pod that was evicted last, by uid. */
  #evicted: string | undefined;
  #pulls = 0;
  readonly #pullQueue: (() => void)[] = [];
  readonly #unusedSince = new Map<string, number>();

  constructor(options: PodManagerOptions) {
    this.#o = options;
    this.#log = options.log.child({ room: 'pods' });
    this.#volumes = new Volumes({
      dir: join(options.dataDir, 'pods'),
      clock: options.clock,
      log: this.#log,
      ...(options.mounter ? { mounter: options.mounter } : {}),
      ...('memoryDir' in options ? { memoryDir: options.memoryDir } : {}),
    });
    for (const shim of options.shims.values())
      this.#observers.set(shim, new Observer(shim, options.clock, (uid) => this.#changed(uid)));
    this.#host = this.#makeHost();
    this.#stats = new StatsMeter({
      node: options.nodeUsage ?? nodeUsage,
      shims: () => [...options.shims.values()].filter((s) => this.#health.get(s)?.ready),
      pods: () => this.#measured(),
      clock: options.clock,
      log: this.#log,
    });
  }

  /** Adopts what the shims have. Until the first `setDesired` nothing is stopped. */
  async start(): Promise<void> {
    if (this.#running) return;
    for (const shim of this.#o.shims.values()) await this.#askHealth(shim);
    for (const o of this.#observers.values()) o.start();
    this.#running = true;
    if (this.#desired) this.#converge();
    this.#every(HOUSEKEEPING_MS, () => this.#housekeeping());
  }

  /** Lets go of everything; workloads go on. */
  async stop(): Promise<void> {
    this.#running = false;
    for (const cancel of this.#cancels) cancel();
    this.#cancels.clear();
    for (const o of this.#observers.values()) o.stop();
    const workers = [...this.#workers.values()];
    this.#workers.clear();
    await Promise.all(workers.map((w) => w.stop()));
  }

  setDesired(desired: DesiredSet): void {
    this.#desired = desired;
    if (this.#running) this.#converge();
  }

  /** Every pod's latest status once more, e.g. for a hub that lost them. */
  reportAll(): void {
    for (const w of this.#workers.values()) w.reportAgain();
  }

  /** Ends a pod as failed, its object stays: node-pressure eviction. False when there is no such pod. */
  evict(uid: string, message: string, graceSeconds = 0): boolean {
    const w = this.#workers.get(uid);
    w?.fail('Evicted', message, graceSeconds);
    return w !== undefined;
  }

  /**
   * Called at every look at a node that is short of something. Frees what it can without harm (unused images), else
   * evicts one pod, and none more before that has ended: the next look shows what it brought. Never rejects.
   */
  async relieve(shortages: readonly Shortage[]): Promise<void> {
    if (!this.#running || this.#relieving) return;
    this.#relieving = true;
    this.#tasks++;
    try {
      await this.#relieve(shortages);
    } catch (e) {
      this.#log.warn({ err: (e as Error).message }, 'cannot relieve the node');
    } finally {
      this.#relieving = false;
      this.#tasks--;
    }
  }

  async #relieve(shortages: readonly Shortage[]): Promise<void> {
    const last = this.#evicted === undefined ? undefined : this.#workers.get(this.#evicted);
    if (last?.seen.containers.some((c) => c.state === 'running')) return;
    this.#evicted = undefined;
    if (shortages.some((s) => DISK_SIGNALS.includes(s.signal)) && (await this.#removeUnusedImages()) > 0) {
      // What they gave back shows at the next look; for memory there is no such hope.
      shortages = shortages.filter((s) => !DISK_SIGNALS.includes(s.signal));
    }
    const found = starved(shortages);
    if (!found) return;
    const { shortage, resource } = found;
    const chosen = victim(resource, await this.#candidates(resource));
    if (!chosen) {
      this.#log.warn({ ...shortage }, 'the node is low, and no pod can be evicted');
      return;
    }
    const message = evictionMessage(resource, shortage, chosen);
    this.#log.warn({ pod: podId(chosen.pod), message }, 'evicting a pod');
    this.#evicted = chosen.pod.metadata!.uid!;
    this.evict(this.#evicted, message);
  }

  /** Pods that run, and what each uses. Rejects when a runtime cannot tell: who is innocent is then not known. */
  async #candidates(resource: StarvedResource): Promise<Candidate[]> {
    const memory = new Map<string, number>();
    if (resource === 'memory')
      for (const shim of this.#observers.keys())
        if (this.#health.get(shim)?.ready)
          for (const s of await shim.stats()) memory.set(s.containerId, s.memoryBytes);
    const out: Candidate[] = [];
    for (const w of this.#workers.values()) {
      if (!w.present || w.ending) continue;
      const containers = new Map<string, number>();
      for (const c of w.seen.containers) {
        const used =
          resource === 'memory'
            ? memory.get(c.id)
            : (containers.get(c.name) ?? (await diskUsage(dirname(w.logFile(c.name, c.attempt)))));
        if (used !== undefined) containers.set(c.name, used);
      }
      let usedBytes = [...containers.values()].reduce((n, used) => n + used, 0);
      if (resource === 'ephemeral-storage' && w.volumesUp) usedBytes += await this.#volumes.diskBytes(w.pod);
      out.push({ pod: w.pod, usedBytes, containers });
    }
    return out;
  }

  /** All of them, however long they were in use last; answers how many. */
  async #removeUnusedImages(): Promise<number> {
    let removed = 0;
    // Pulled, and its container is about to be made.
    const awaited = new Set<string>();
    for (const w of this.#workers.values())
      if (!w.ending) for (const i of w.images.values()) awaited.add(i.ref);
    for (const [shim, observer] of this.#observers)
      for (const image of await unusedImages(shim, observer))
        try {
          if (awaited.has(image.ref)) continue;
          await shim.removeImage(image.ref);
          this.#log.info(
            { image: image.ref, bytes: image.sizeBytes },
            'removed an unused image: the disk is full',
          );
          removed++;
        } catch (e) {
          this.#log.warn({ image: image.ref, err: (e as Error).message }, 'cannot remove an image');
        }
    return removed;
  }

  /** Nothing is being done and nothing waits to be done at once; for tests and orderly ends. */
  get idle(): boolean {
    return this.#tasks === 0 && [...this.#workers.values()].every((w) => !w.busy);
  }

  #changed(uid: string | undefined): void {
    if (uid !== undefined) this.#workers.get(uid)?.kick();
    else for (const w of this.#workers.values()) w.kick();
  }

  #converge(): void {
    const desired = this.#desired!;
    const old = this.#config;
    const index = (list: { metadata?: { namespace?: string; name?: string } }[]) =>
      new Map(list.map((o) => [`${o.metadata?.namespace ?? 'default'}/${o.metadata?.name}`, o as object]));
    this.#config = {
      maps: index(desired.configMaps),
      secrets: index(desired.secrets),
      tokens: index(desired.tokens ?? []),
    };
    const changed = changedNamespaces(old, this.#config);
    const token = (c: ConfigObjects, p: Pod) =>
      c.tokens.get(`${p.metadata?.namespace ?? 'default'}/${p.metadata?.name}`);
    const wanted = new Set<string>();
    for (const pod of desired.pods) {
      const uid = pod.metadata?.uid ?? '';
      const bad = unusableName(pod);
      if (bad !== undefined) {
        this.#log.error(
          { pod: pod.metadata?.name, bad },
          'a desired pod has an unusable name and is left out',
        );
        continue;
      }
      wanted.add(uid);
      const w = this.#workers.get(uid) ?? this.#adopt(uid, pod);
      if (!w.desires(pod)) w.desire(pod);
      // A token is its pod's alone.
      if (
        changed.has(pod.metadata?.namespace ?? 'default') ||
        !same(token(old, pod), token(this.#config, pod))
      )
        w.configChanged();
    }
    for (const [uid, w] of this.#workers) {
      if (wanted.has(uid)) continue;
      // Gone before, and now the hub knows it too.
      if (w.over) this.#workers.delete(uid);
      else w.desire(undefined);
    }
    this.#tasks++;
    void this.#findStrays(wanted).finally(() => {
      this.#tasks--;
    });
  }

  #adopt(uid: string, pod: Pod): PodWorker {
    const w = new PodWorker(this.#host, uid, pod);
    this.#workers.set(uid, w);
    return w;
  }

  /** What runs, or lies on disk, but is not desired. */
  async #findStrays(wanted: ReadonlySet<string>): Promise<void> {
    if (this.#desired?.confirmed === false) return;
    const uids = new Set(await readdir(join(this.#o.dataDir, 'pods')).catch(() => [] as string[]));
    for (const o of this.#observers.values())
      for (const uid of (await o.pods().catch(() => new Map<string, PodObservation>())).keys()) uids.add(uid);
    if (!this.#running) return;
    // What was desired when this began may be old by now; the present decides.
    const now = new Set(this.#desired!.pods.map((p) => p.metadata?.uid));
    for (const uid of uids)
      if (!wanted.has(uid) && !now.has(uid) && !this.#workers.has(uid) && /^[\w.-]+$/.test(uid))
        this.#adopt(uid, { metadata: { uid }, spec: { containers: [] } }).desire(undefined);
  }

  #makeHost(): Host {
    const { clock, reporter, dataDir, nodeName, tuning = {} } = this.#o;
    const allocatable = () =>
      this.#o.allocatable?.() ?? { cpuMilli: 1000, memoryBytes: totalmem(), ephemeralStorageBytes: 0 };
    const key = (namespace: string, name: string) => `${namespace}/${name}`;
    const config: Config = {
      configMap: (ns, name) => this.#config.maps.get(key(ns, name)),
      secret: (ns, name) => this.#config.secrets.get(key(ns, name)),
      token: (uid, source) => {
        const of = this.#desired?.tokens?.find((t) => t.metadata.uid === uid);
        const token = of?.tokens[tokenName(source)];
        return of && token && jwt(of.kid, token.c, token.s);
      },
      services: (ns) => this.#desired?.services?.filter((s) => s.metadata?.namespace === ns) ?? [],
      pullSecrets: (ns, name) =>
        this.#desired?.serviceAccounts
          .find((a) => a.metadata?.name === name && (a.metadata?.namespace ?? 'default') === ns)
          ?.imagePullSecrets?.map((r) => r.name ?? '') ?? [],
    };
    return {
      clock,
      log: this.#log,
      reporter,
      volumes: this.#volumes,
      config,
      tuning: { backoffBaseMs: 10_000, backoffMaxMs: 300_000, backoffResetMs: 600_000, ...tuning },
      nodeMemoryBytes: this.#o.nodeMemoryBytes ?? totalmem(),
      facts: (podIPs) => ({
        nodeName,
        hostIP: this.#o.hostIP?.() ?? '',
        podIPs,
        ...(this.#o.api?.() ? { api: this.#o.api()! } : {}),
        // Asks the file system.
        get allocatable() {
          return allocatable();
        },
      }),
      podDir: (uid) => join(dataDir, 'pods', uid),
      logDir: (pod) => this.#logDir(pod),
      shimOf: (pod) => this.#shimOf(pod),
      observe: (uid, shim) => this.#observe(uid, shim),
      invalidate: (shim) => this.#observers.get(shim)?.invalidate(),
      seen: (shim) => this.#observers.get(shim)!.seen,
      pulls: this.#o.pulls,
      refusal: (pod) => this.#refusal(pod),
      recordsRead: () => Promise.all([...this.#workers.values()].map((w) => w.read)),
      rejection: (pod) => {
        const others = [...this.#workers.values()].filter((w) => w.holds && w.uid !== pod.metadata?.uid);
        return rejection(
          pod,
          others.map((w) => w.pod),
          this.#o.resourcesForPods?.(),
        );
      },
      pulling: (body) => this.#pulling(body),
      forget: (uid) => this.#forget(uid),
    };
  }

  /** A pod that was desired again meanwhile (a hub restored from a backup) starts from nothing. */
  #forget(uid: string): void {
    const w = this.#workers.get(uid);
    void w?.stop();
    const again = this.#desired?.pods.find((p) => p.metadata?.uid === uid);
    // The hub has not heard yet that a deleted pod is gone: the worker stays, so that nothing begins anew.
    if (again?.metadata?.deletionTimestamp) return;
    this.#workers.delete(uid);
    if (again && this.#running) this.#adopt(uid, again).desire(again);
  }

  #logDir(pod: Pod): string {
    const { namespace, name, uid } = pod.metadata ?? {};
    return join(this.#o.dataDir, 'logs', `${namespace}_${name}_${uid}`);
  }

  #shimOf(pod: Pod): FoundShim | { missing: string } {
    const className = pod.spec?.runtimeClassName ?? undefined;
    const handler =
      className === undefined
        ? this.#o.defaultHandler
        : (this.#desired?.runtimeClasses?.find((r) => r.metadata?.name === className)?.handler ?? className);
    const of = shimOfHandler(handler);
    const shim = this.#o.shims.get(of);
    if (!shim) {
      const there = [...this.#o.shims.keys()].join(', ') || 'none';
      return {
        missing: `Failed to create pod sandbox: no runtime for handler "${handler}" is configured on node ${this.#o.nodeName} (configured: ${there})`,
      };
    }
    const health = this.#health.get(shim);
    if (!health?.ready)
      return {
        missing: `Failed to create pod sandbox: runtime "${of}" is not ready: ${health?.message ?? 'no answer'}`,
      };
    return { shim, health, ...(of === handler ? {} : { runtimeHandler: handler }) };
  }

  #refusal(pod: Pod): Refusal | undefined {
    const { uid } = pod.metadata ?? {};
    const others = [...this.#workers.values()].filter((w) => w.uid !== uid && w.present && !w.ending);
    return refusal(
      pod,
      others.map((w) => w.pod),
      this.#host.facts([]).allocatable,
    );
  }

  async #observe(uid: string, shim: Shim | undefined): Promise<PodObservation & { shim?: Shim }> {
    if (shim) {
      const found = (await this.#observers.get(shim)!.pods()).get(uid);
      return found ? { ...found, shim } : { sandboxes: [], containers: [], shim };
    }
    // Known to no handler that works: whoever has it, has it. One that cannot be asked may be the one.
    for (const [s, o] of this.#observers) {
      const found = (await o.pods()).get(uid);
      if (found) return { ...found, shim: s };
    }
    return { sandboxes: [], containers: [] };
  }

  async #pulling<T>(body: () => Promise<T>): Promise<T> {
    while (this.#pulls >= (this.#o.maxParallelPulls ?? 2))
      await new Promise<void>((resolve) => this.#pullQueue.push(resolve));
    this.#pulls++;
    try {
      return await body();
    } finally {
      this.#pulls--;
      this.#pullQueue.shift()?.();
    }
  }

  async #askHealth(shim: Shim): Promise<void> {
    let health: ShimHealth | undefined;
    try {
      health = await shim.health();
      this.#health.set(shim, health);
    } catch (e) {
      this.#log.warn({ handler: shim.handler, err: (e as Error).message }, 'runtime does not answer');
      this.#health.delete(shim);
    }
    if (health?.ready) return;
    this.#once(HEALTH_RETRY_MS, async () => {
      await this.#askHealth(shim);
      if (this.#health.get(shim)?.ready) this.#changed(undefined);
    });
  }

  #once(ms: number, fn: () => Promise<void>): void {
    const cancel = this.#o.clock.after(ms, () => {
      this.#cancels.delete(cancel);
      this.#tasks++;
      void fn()
        .catch((e: Error) => this.#log.warn({ err: e.message }, 'housekeeping'))
        .finally(() => {
          this.#tasks--;
        });
    });
    this.#cancels.add(cancel);
  }

  #every(ms: number, fn: () => Promise<void>): void {
    this.#once(ms, async () => {
      try {
        await fn();
      } finally {
        if (this.#running) this.#every(ms, fn);
      }
    });
  }

  async #housekeeping(): Promise<void> {
    this.#rounds++;
    await this.#rotateLogs();
    await this.#checkUsage();
    if (this.#rounds % RELIST_EVERY === 0) {
      for (const o of this.#observers.values()) o.invalidate();
      this.#changed(undefined);
      if (this.#desired)
        await this.#findStrays(new Set(this.#desired.pods.map((p) => p.metadata?.uid ?? '')));
    }
    if (this.#rounds % IMAGE_GC_EVERY === 0) await this.#collectImages();
  }

  /** An emptyDir over its limit costs the pod its life, as with the kubelet. */
  async #checkUsage(): Promise<void> {
    for (const w of this.#workers.values()) {
      if (!w.present || w.ending || !w.volumesUp) continue;
      const over = (await this.#volumes.usage(w.pod)).find((u) => u.usedBytes > u.limitBytes);
      if (over)
        w.fail('Evicted', `Usage of EmptyDir volume "${over.name}" exceeds the limit "${over.limit}". `, 0);
    }
  }

  async #rotateLogs(): Promise<void> {
    const max = this.#o.logMaxBytes ?? 10 * 2 ** 20;
    const keep = Math.max(1, this.#o.logMaxFiles ?? 2);
    for (const w of this.#workers.values())
      for (const c of w.seen.containers) {
        if (c.state !== 'running' || !w.shim) continue;
        const path = w.logFile(c.name, c.attempt);
        const size = (await stat(path).catch(() => undefined))?.size ?? 0;
        if (size <= max) continue;
        const stamp = new Date(this.#o.clock.now()).toISOString().replace(/[-:]/g, '').replace(/\..*/, '');
        const old = await rotatedFiles(path);
        for (const f of old.slice(0, Math.max(0, old.length - (keep - 2)))) await rm(f, { force: true });
        let target = `${path}.${stamp}`;
        for (let n = 1; old.some((f) => basename(f) === basename(target)); n++)
          target = `${path}.${stamp}.${n}`;
        if (keep > 1) await rename(path, target);
        else await rm(path, { force: true });
        try {
          await w.shim.reopenLog(c.id);
        } catch (e) {
          // The runtime goes on writing to the file it has; back under its name it is at least still read.
          if (keep > 1) await rename(target, path).catch(() => {});
          this.#log.warn({ container: c.id, err: (e as Error).message }, 'cannot rotate a log');
        }
      }
  }

  /** Removes images that no container uses when the disk gets full. */
  async #collectImages(): Promise<void> {
    const { highPercent, lowPercent } = this.#o.imageGc ?? { highPercent: 85, lowPercent: 80 };
    const used = this.#o.diskUsedPercent ?? (() => usedPercent(this.#o.dataDir));
    const now = this.#o.clock.monotonic();
    for (const [shim, observer] of this.#observers) {
      const images = await shim.listImages();
      const unused = await unusedImages(shim, observer, images);
      const refs = new Set(unused.map((i) => i.ref));
      for (const i of images) {
        if (!refs.has(i.ref)) this.#unusedSince.delete(i.ref);
        else if (!this.#unusedSince.has(i.ref)) this.#unusedSince.set(i.ref, now);
      }
      if ((await used()) < highPercent) continue;
      const byAge = unused
        .filter((i) => now - (this.#unusedSince.get(i.ref) ?? now) >= IMAGE_MIN_AGE_MS)
        .sort((a, b) => this.#unusedSince.get(a.ref)! - this.#unusedSince.get(b.ref)!);
      for (const i of byAge) {
        if ((await used()) <= lowPercent) break;
        this.#log.info(
          { image: i.ref, bytes: i.sizeBytes },
          'removing an unused image: the disk is getting full',
        );
        await shim
          .removeImage(i.ref)
          .catch((e: Error) => this.#log.warn({ err: e.message }, 'cannot remove an image'));
        this.#unusedSince.delete(i.ref);
      }
    }
  }

  stats(options: StatsOptions): Promise<NodeStats> {
    return this.#stats.stats(options);
  }

  #measured(): Measured[] {
    const out: Measured[] = [];
    for (const [uid, w] of this.#workers) {
      if (!w.present) continue;
      const running = new Map(
        w.seen.containers.filter((c) => c.state === 'running').map((c) => [c.name, c.id]),
      );
      if (running.size > 0) out.push({ uid, containers: statsOrder(w.pod.spec).map((n) => running.get(n)) });
    }
    return out;
  }

  async *logs(options: PodLogOptions, signal: AbortSignal): AsyncIterable<Uint8Array> {
    const { namespace, pod: name, uid, container } = options;
    const w = this.#workers.get(uid);
    if (
      !w?.present ||
      w.pod.metadata?.name !== name ||
      (w.pod.metadata?.namespace ?? 'default') !== namespace
    )
      throw new ApiError('NotFound', `pods "${name}" not found`, { name, kind: 'pods' });
    if (!allContainers(w.pod).some((c) => c.name === container))
      throw badRequest(`container ${container} is not valid for pod ${name}`);
    const all = attemptsOf(w.seen.containers, container);
    const c = this.#containerFor(w, name, container, options.previous ?? false, all);
    const source = {
      path: w.logFile(container, c.attempt),
      running: () =>
        this.#running &&
        this.#workers.get(uid) === w &&
        w.seen.containers.some((x) => x.id === c.id && (x.state === 'running' || x.state === 'created')),
    };
    yield* readLog(source, options, this.#o.clock, signal);
  }

  connect(request: ChannelRequest, channels: Channels): Promise<number> {
    return connectTo(this.#workers.get(request.options.uid), request, channels, this.#o.clock);
  }

  /** The kubelet's validateContainerLogStatus: which attempt is meant, or why there is none. */
  #containerFor(
    w: PodWorker,
    pod: string,
    name: string,
    previous: boolean,
    all: ContainerStatus[],
  ): ContainerStatus {
    const started = all.filter((c) => c.state !== 'created');
    const [newest, ...older] = started;
    const { containerStatuses, initContainerStatuses, ephemeralContainerStatuses } = w.status ?? {};
    const statuses = [containerStatuses, initContainerStatuses, ephemeralContainerStatuses].flatMap(
      (s) => s ?? [],
    );
    const waiting = statuses.find((s) => s.name === name)?.state?.waiting?.reason;
    if (previous) {
      // While a container waits for its restart, the one that ended is both the last and the previous one.
      const last = newest && newest.state !== 'running' && waiting ? newest : older[0];
      if (!last) throw badRequest(`previous terminated container "${name}" in pod "${pod}" not found`);
      return last;
    }
    if (newest) return newest;
    const why: Record<string, string> = {
      ErrImagePull: "image can't be pulled",
      ImagePullBackOff: 'trying and failing to pull image',
    };
    const reason = waiting ?? 'ContainerCreating';
    throw badRequest(`container "${name}" in pod "${pod}" is waiting to start: ${why[reason] ?? reason}`);
  }
}

/** Images of no container, running or not. */
async function unusedImages(
  shim: Shim,
  observer: Observer,
  images?: readonly ImageStatus[],
): Promise<ImageStatus[]> {
  const all = images ?? (await shim.listImages());
  const busy = new Set<string>();
  for (const p of (await observer.pods()).values())
    for (const c of p.containers) for (const x of [c.imageRef, c.image]) busy.add(x);
  return all.filter((i) => !busy.has(i.ref) && !i.repoDigests.some((d) => busy.has(d)));
}

async function usedPercent(path: string): Promise<number> {
  const s = await statfs(path);
  return 100 - (100 * s.bavail) / s.blocks;
}

/** The first name that could not be part of a path: the API allows none such, but what comes over the wire is looked at. */
function unusableName(pod: Pod): string | undefined {
  const { name = '', namespace = 'default', uid = '' } = pod.metadata ?? {};
  const names = [name, namespace, uid, ...allContainers(pod).map((c) => c.name)];
  for (const v of pod.spec?.volumes ?? []) names.push(v.name);
  return names.find((n) => !/^[A-Za-z0-9]([\w.-]*[A-Za-z0-9])?$/.test(n) || n.length > 253);
}

/** Namespaces in which some ConfigMap or Secret is not what it was. */
/** What pods refer to, by `namespace/name`. */
interface ConfigObjects {
  maps: Map<string, object>;
  secrets: Map<string, object>;
  tokens: Map<string, object>;
}

const same = (x: object | undefined, y: object | undefined) =>
  x === y || JSON.stringify(x) === JSON.stringify(y);

function changedNamespaces(a: ConfigObjects, b: ConfigObjects): Set<string> {
  const out = new Set<string>();
  for (const kind of ['maps', 'secrets'] as const)
    for (const key of new Set([...a[kind].keys(), ...b[kind].keys()]))
      if (!same(a[kind].get(key), b[kind].get(key))) out.add(key.split('/')[0]!);
  return out;
}
