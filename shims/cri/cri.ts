/**
 * OCI containers through the CRI: containerd 1.6 and later, CRI-O. The runtime keeps everything (sandboxes, containers,
 * images, exit codes, logs), so this shim has no files of its own; what it must find again after a restart it writes
 * into labels and annotations.
 */
import { existsSync, readFileSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import type { Duplex } from 'node:stream';
import { type Clock, sleep } from '../../api/clock.js';
import type { Log } from '../../api/log.js';
import { HUB_REGISTRY } from '../../api/oci.js';
import type { HubAccess } from '../images/hub-agent.js';
import { formatReference, parseReference, resolveHub } from '../images/reference.js';
import type {
  ContainerSpec,
  ContainerStats,
  ContainerStatus,
  ImageAuth,
  ImageStatus,
  ProcessStreams,
  Resources,
  SandboxSpec,
  SandboxStatus,
  Shim,
  ShimErrorReason,
  ShimEvent,
  ShimHealth,
} from '../shim.js';
import { ShimError } from '../shim.js';
import { ensureCniConfig } from './cni.js';
import { isLostShim, isNotFound, pullError, runError, unreachable } from './errors.js';
import { settle, watchRuntime } from './events.js';
import { GRPC, GrpcClient, GrpcError } from './grpc.js';
import { HubProxy } from './hub-proxy.js';
import { importPauseImage, pauseImage } from './pause.js';
import { Schema } from './protobuf.js';
import {
  CONTAINER_ANNOTATION,
  containerConfig,
  type KeptSandbox,
  linuxResources,
  OWNER_LABEL,
  SANDBOX_ANNOTATION,
  sandboxConfig,
} from './spec.js';
import { forwardPort, runProcess } from './streaming.js';

export interface CriShimOptions {
  /** e.g. `unix:///run/containerd/containerd.sock`. */
  endpoint: string;
  log: Log;
  clock: Clock;
  /** Tells this agent's pods from another's on the same runtime; must be the same after a restart. Absent: `agent`. */
  owner?: string;
  /** For images of the hub's own registry; asked at every pull, undefined until the node has joined. */
  hub?: () => HubAccess | undefined;
  /** IPv4 CIDR for the bridge network to be written where the machine has no CNI configuration; absent: none is written. */
  podSubnet?: string;
  /** cgroupfs path below which the pods' cgroups go; absent: the runtime's own default. */
  cgroupParent?: string;
}

interface CriSandbox {
  id: string;
  metadata?: { name: string; uid: string; namespace: string; attempt: number };
  state: string;
  createdAt: number;
  labels: Record<string, string>;
  annotations: Record<string, string>;
}
interface CriContainer {
  id: string;
  podSandboxId: string;
  metadata?: { name: string; attempt: number };
  image?: { image: string };
  imageRef: string;
  state: string;
  createdAt: number;
  labels: Record<string, string>;
  annotations: Record<string, string>;
}
interface CriContainerStatus {
  state: string;
  createdAt: number;
  startedAt: number;
  finishedAt: number;
  exitCode: number;
  reason: string;
  message: string;
}
interface CriImage {
  id: string;
  repoTags: string[];
  repoDigests: string[];
  size: number;
  uid?: { value: number };
  username: string;
  pinned: boolean;
}

const RUNTIME = '/runtime.v1.RuntimeService';
const IMAGES = '/runtime.v1.ImageService';

/** Deadlines in milliseconds: a runtime that hangs must not hang its pods' workers for ever. */
const TIMEOUT = {
  health: 15_000,
  /** The kubelet's --runtime-request-timeout: an SD card under a pull is slow. */
  call: 120_000,
  sandbox: 240_000,
  pull: 3_600_000,
  stopExtra: 60_000,
};

const STATES: Record<string, ContainerStatus['state']> = {
  CONTAINER_CREATED: 'created',
  CONTAINER_RUNNING: 'running',
  CONTAINER_EXITED: 'exited',
};

const millis = (nanos: number): number => Math.floor(nanos / 1e6);

const LOST_SHIM_TRIES = 5;
const LOST_SHIM_PAUSE_MS = 200;

export class CriShim implements Shim {
  readonly handler = 'oci';
  readonly #o: CriShimOptions;
  readonly #owner: string;
  readonly #cgroup2 = existsSync('/sys/fs/cgroup/cgroup.controllers');
  readonly #listeners = new Set<(e: ShimEvent) => void>();
  readonly #proxy: HubProxy;
  #cri!: GrpcClient;
  #containerd!: GrpcClient;
  #stopping: AbortController | undefined;
  #watch: Promise<void> | undefined;

  #runtimeName = '';
  #sandboxImage = '';
  #cniConfDir = '/etc/cni/net.d';
  /** Sandboxes and containers of ours: events of others are not passed on. */
  readonly #known = new Map<string, 'sandbox' | 'container'>();
  /** What CreateContainer wants repeated; from our own annotation where another life of the agent made the sandbox. */
  readonly #sandboxes = new Map<string, KeptSandbox>();
  /** The pod IPs of a ready sandbox never change. */
  readonly #ips = new Map<string, string[]>();
  /** Details that only ContainerStatus gives, good for as long as the state in the list is the same. */
  readonly #details = new Map<string, CriContainerStatus>();

  constructor(options: CriShimOptions) {
    this.#o = options;
    this.#owner = options.owner ?? 'agent';
    this.#proxy = new HubProxy(() => options.hub?.(), this.#owner);
  }

  async start(): Promise<void> {
    const path = this.#o.endpoint.replace(/^unix:\/\//, '');
    if (!path.startsWith('/'))
      throw new Error(
        `container runtime endpoint ${JSON.stringify(this.#o.endpoint)}: expected unix:///path/to.sock`,
      );
    const schema = (file: string) => new Schema(readFileSync(new URL(file, import.meta.url), 'utf8'));
    this.#cri = new GrpcClient(path, schema('./cri.proto'), this.#o.clock);
    this.#containerd = new GrpcClient(path, schema('./containerd.proto'), this.#o.clock);
    this.#stopping = new AbortController();
    this.#watch = watchRuntime(
      {
        cri: this.#cri,
        containerd: this.#containerd,
        clock: this.#o.clock,
        log: this.#o.log,
        connected: () => this.#connected(),
        task: (id, ended) => this.#onTask(id, ended),
        changed: (id) =>
          this.#emit(this.#known.get(id) === 'sandbox' ? { sandboxId: id } : { containerId: id }),
        gap: () => this.#emit({}),
        fingerprint: async () => {
          const [s, c] = await Promise.all([this.#listSandboxes(), this.#listContainers()]);
          return [...s, ...c]
            .map((x) => `${x.id} ${x.state}`)
            .sort()
            .join('\n');
        },
      },
      this.#stopping.signal,
    );
  }

  async stop(): Promise<void> {
    this.#stopping?.abort();
    this.#cri?.close();
    this.#containerd?.close();
    await this.#watch;
    await this.#proxy.close();
    this.#listeners.clear();
  }

  onEvent(listener: (e: ShimEvent) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  #emit(e: ShimEvent): void {
    for (const listener of this.#listeners) {
      try {
        listener(e);
      } catch (err) {
        this.#o.log.error({ err: (err as Error).message }, 'a listener of the container runtime failed');
      }
    }
  }

  /** containerd tells of a task before its CRI part has taken note: what is told on must be what list() shows. */
  #onTask(id: string, ended: boolean): void {
    const kind = this.#known.get(id);
    if (!kind) return;
    const event: ShimEvent = kind === 'sandbox' ? { sandboxId: id } : { containerId: id };
    if (!ended) {
      this.#details.delete(id);
      this.#emit(event);
      return;
    }
    settle(this.#o.clock, async () =>
      kind === 'sandbox'
        ? (await this.#sandboxState(id)) !== 'SANDBOX_READY'
        : (await this.#status(id))?.state !== 'CONTAINER_RUNNING',
    )
      .catch(() => {})
      .then(() => {
        this.#details.delete(id);
        this.#emit(event);
      });
  }

  /** Learns who answers, and writes a network configuration where it was asked for and none is there. */
  async #connected(): Promise<{ runtimeName: string }> {
    const { runtimeName } = await this.#version();
    const { status, info } = await this.#call<{
      status?: { conditions: { type: string; status: boolean }[] };
      info: Record<string, string>;
    }>('Status', { verbose: true });
    this.#runtimeName = runtimeName;
    try {
      const config = JSON.parse(info['config'] ?? '{}') as {
        sandboxImage?: string;
        cni?: { confDir?: string };
      };
      this.#sandboxImage = config.sandboxImage ?? '';
      if (config.cni?.confDir) this.#cniConfDir = config.cni.confDir;
    } catch {
      // Debug output of the runtime: without it the defaults hold.
    }
    const networked = status?.conditions.some((c) => c.type === 'NetworkReady' && c.status) ?? false;
    if (!networked && this.#o.podSubnet) {
      try {
        const path = await ensureCniConfig(this.#cniConfDir, this.#o.podSubnet);
        if (path) this.#o.log.info({ path, subnet: this.#o.podSubnet }, 'pod network configured');
      } catch (e) {
        this.#o.log.warn({ err: (e as Error).message }, 'no pod network, and none could be configured');
      }
    }
    return { runtimeName };
  }

  #version = () =>
    this.#call<{ runtimeName: string; runtimeVersion: string }>(
      'Version',
      { version: '0.1.0' },
      TIMEOUT.health,
    );

  #call<T extends object>(method: string, request: object, timeoutMs = TIMEOUT.call): Promise<T> {
    return this.#cri.unary<T>(`${RUNTIME}/${method}`, request, { timeoutMs });
  }

  /** A call that ends or removes something: what is absent is well, and a container that ends meanwhile is asked about again. */
  async #ending(method: string, request: object, timeoutMs: number): Promise<unknown> {
    for (let tries = 1; ; tries++)
      try {
        return await this.#call(method, request, timeoutMs).catch(unlessAbsent);
      } catch (e) {
        if (!isLostShim(e) || tries >= LOST_SHIM_TRIES) throw e;
        await sleep(this.#o.clock, LOST_SHIM_PAUSE_MS);
      }
  }

  /** Runs a call; failures become ShimErrors. */
  async #doing<T>(reason: ShimErrorReason, doing: string, call: () => Promise<T>): Promise<T> {
    try {
      return await call();
    } catch (e) {
      throw runError(reason, doing, e, this.#o.endpoint);
    }
  }

  async health(): Promise<ShimHealth> {
    const nothing = { runtimeVersion: '', conditions: [], labels: {}, podNetwork: false };
    try {
      const { runtimeName, runtimeVersion } = await this.#version();
      const { status } = await this.#call<{
        status?: { conditions: { type: string; status: boolean; reason: string; message: string }[] };
      }>('Status', {}, TIMEOUT.health);
      const is = (type: string) => status?.conditions.find((c) => c.type === type);
      const runtime = is('RuntimeReady');
      const network = is('NetworkReady');
      const conditions: ShimHealth['conditions'] = [];
      if (!network?.status)
        conditions.push({
          type: 'PodNetwork',
          status: 'False',
          reason: network?.reason || 'NetworkPluginNotReady',
          message: `pods without hostNetwork cannot run: ${network?.message || 'no network'}. Put a CNI configuration into ${this.#cniConfDir} (plugins: apt-get install containernetworking-plugins)`,
        });
      const memory = memoryCgroup();
      if (memory) conditions.push(memory);
      return {
        ready: runtime?.status ?? false,
        message: runtime?.status
          ? `${runtimeName} ${runtimeVersion} at ${this.#o.endpoint}`
          : `${runtimeName} at ${this.#o.endpoint} is not ready: ${runtime?.message || 'it does not say why'}`,
        runtimeVersion: `${runtimeName}://${runtimeVersion}`,
        conditions,
        labels: {},
        podNetwork: network?.status ?? false,
      };
    } catch (e) {
      return { ...nothing, ready: false, message: this.#whyNot(e) };
    }
  }

  #whyNot(e: unknown): string {
    const { endpoint } = this.#o;
    if (!(e instanceof GrpcError)) return (e as Error).message;
    if (e.code === GRPC.UNIMPLEMENTED)
      return `what answers at ${endpoint} has no CRI (${e.message}): for containerd, take "cri" out of disabled_plugins in /etc/containerd/config.toml and restart it (systemctl restart containerd)`;
    if (e.code === GRPC.UNAVAILABLE) return unreachable(e, endpoint);
    return `the container runtime at ${endpoint} fails: ${e.message}`;
  }

  // --- images

  /** What the runtime is asked for. An ID or digest of its own stays as it is. */
  #reference(image: string): string {
    if (/^(?:sha256:)?[0-9a-f]{64}$/.test(image)) return image;
    return resolveHub(image, this.#proxy.address);
  }

  /** The hub's images under the name that users know. */
  #shown = (text: string): string => text.replaceAll(`${this.#proxy.address}/`, `${HUB_REGISTRY}/`);

  #image = (i: CriImage): ImageStatus => ({
    ref: i.id,
    repoDigests: i.repoDigests.map(this.#shown),
    repoTags: i.repoTags.map(this.#shown),
    sizeBytes: i.size,
    ...(i.uid ? { uid: i.uid.value } : {}),
    ...(i.username ? { username: i.username } : {}),
  });

  async imageStatus(image: string): Promise<ImageStatus | undefined> {
    const spec = { image: this.#reference(image) };
    const found = await this.#doing('ImageInspectError', `inspect image ${image}`, () =>
      this.#cri.unary<{ image?: CriImage }>(
        `${IMAGES}/ImageStatus`,
        { image: spec },
        { timeoutMs: TIMEOUT.call },
      ),
    );
    if (!found.image?.id) return undefined;
    const status = this.#image(found.image);
    // The same image may have been pulled from several places; the one that was asked for goes first.
    const name = this.#shown(spec.image).replace(/(?::[^:/]*)?(?:@.*)?$/, '');
    const asked = (digest: string) => Number(digest.startsWith(`${name}@`));
    return { ...status, repoDigests: status.repoDigests.sort((a, b) => asked(b) - asked(a)) };
  }

  async pullImage(image: string, auth?: ImageAuth, signal?: AbortSignal): Promise<ImageStatus> {
    const pull = async (credentials?: ImageAuth): Promise<string> => {
      try {
        const { imageRef } = await this.#cri.unary<{ imageRef: string }>(
          `${IMAGES}/PullImage`,
          {
            image: { image: this.#reference(image) },
            ...(credentials
              ? { auth: { username: credentials.username, password: credentials.password } }
              : {}),
          },
          { timeoutMs: TIMEOUT.pull, ...(signal ? { signal } : {}) },
        );
        return imageRef;
      } catch (e) {
        throw pullError(image, e, this.#o.endpoint, this.#shown);
      }
    };
    const parsed = parseReference(image);
    let ref: string;
    if (parsed.registry === HUB_REGISTRY) {
      if (!this.#o.hub?.())
        throw new ShimError(
          'RegistryUnavailable',
          `Failed to pull image "${image}": ${HUB_REGISTRY} is the hub's registry, and this node has not joined a hub`,
        );
      try {
        ref = await this.#proxy.during(pull);
      } catch (e) {
        throw pullError(image, e, this.#o.endpoint, this.#shown);
      }
    } else ref = await pull(auth);
    // By name, so that the answer is what imageStatus(image) says from now on; some runtimes know only the ref.
    const status = (await this.imageStatus(formatReference(parsed))) ?? (await this.imageStatus(ref));
    if (!status)
      throw new ShimError(
        'ErrImagePull',
        `Failed to pull image "${image}": it was removed while it was pulled`,
      );
    return status;
  }

  /** Without the sandbox image and without what others' containers run on: nobody here may remove those. */
  async listImages(): Promise<ImageStatus[]> {
    return this.#doing('ImageInspectError', 'list images', async () => {
      const [{ images }, { containers }] = await Promise.all([
        this.#cri.unary<{ images: CriImage[] }>(`${IMAGES}/ListImages`, {}, { timeoutMs: TIMEOUT.call }),
        this.#call<{ containers: CriContainer[] }>('ListContainers', {}),
      ]);
      const others = new Set(
        containers
          .filter((c) => c.labels[OWNER_LABEL] !== this.#owner)
          .flatMap((c) => [c.imageRef, c.image?.image ?? '']),
      );
      const free = (i: CriImage) =>
        !i.pinned &&
        ![i.id, ...i.repoTags, ...i.repoDigests].some((n) => n === this.#sandboxImage || others.has(n));
      return images.filter(free).map(this.#image);
    });
  }

  async removeImage(ref: string): Promise<void> {
    await this.#doing('ImageInspectError', `remove image ${ref}`, () =>
      this.#cri
        .unary(
          `${IMAGES}/RemoveImage`,
          { image: { image: this.#reference(ref) } },
          { timeoutMs: TIMEOUT.call },
        )
        .catch(unlessAbsent),
    );
  }

  // --- sandboxes

  async runSandbox(spec: SandboxSpec): Promise<string> {
    const name = `pod sandbox ${spec.namespace}/${spec.name}`;
    return this.#doing('CreatePodSandboxError', `create ${name}`, async () => {
      await mkdir(spec.logDirectory, { recursive: true });
      if (this.#sandboxImage) await this.#ensureSandboxImage(this.#sandboxImage);
      const run = async () =>
        (
          await this.#call<{ podSandboxId: string }>(
            'RunPodSandbox',
            { config: this.#sandboxConfig(spec), runtimeHandler: spec.runtimeHandler ?? '' },
            TIMEOUT.sandbox,
          )
        ).podSandboxId;
      const id = await run().catch(async (e: unknown) => {
        const message = (e as Error).message;
        // containerd 2 no longer tells the name beforehand.
        const image = /failed to (?:get|start|pull|ensure) sandbox image "([^"]+)"/.exec(message)?.[1];
        if (image && (await this.#ensureSandboxImage(image))) return run();
        const left = /reserved for "?([0-9a-f]{64})/.exec(message)?.[1];
        if (!left) throw e;
        // An earlier try went on after we gave up on it.
        if ((await this.#sandboxState(left)) === 'SANDBOX_READY') return left;
        await this.stopSandbox(left);
        await this.removeSandbox(left);
        return run();
      });
      const { labels: _l, annotations: _a, ...kept } = spec;
      this.#sandboxes.set(id, kept);
      this.#known.set(id, 'sandbox');
      return id;
    });
  }

  #sandboxConfig(spec: KeptSandbox & Partial<Pick<SandboxSpec, 'labels' | 'annotations'>>) {
    const { cgroupParent } = this.#o;
    return sandboxConfig(spec, {
      owner: this.#owner,
      cgroup2: this.#cgroup2,
      ...(cgroupParent ? { cgroupParent } : {}),
    });
  }

  /** True when the image is there now; false when it cannot be made here. The pods that ask at once share one import. */
  async #ensureSandboxImage(name: string): Promise<boolean> {
    if (await this.imageStatus(name)) return true;
    this.#importing ??= this.#importSandboxImage(name).finally(() => {
      this.#importing = undefined;
    });
    return this.#importing;
  }
  #importing: Promise<boolean> | undefined;

  async #importSandboxImage(name: string): Promise<boolean> {
    const image = pauseImage(process.arch);
    if (!image || this.#runtimeName !== 'containerd') return false;
    await importPauseImage(this.#containerd, name, image);
    // The CRI part learns of it by an event.
    const seen = await settle(this.#o.clock, async () => (await this.imageStatus(name)) !== undefined);
    this.#o.log.info({ image: name, seen }, 'sandbox image made and imported');
    return seen;
  }

  async stopSandbox(id: string): Promise<void> {
    await this.#doing('RunContainerError', `stop sandbox ${id}`, () =>
      this.#ending('StopPodSandbox', { podSandboxId: id }, TIMEOUT.call),
    );
  }

  async removeSandbox(id: string): Promise<void> {
    await this.#doing('RunContainerError', `remove sandbox ${id}`, () =>
      this.#ending('RemovePodSandbox', { podSandboxId: id }, TIMEOUT.call),
    );
    this.#sandboxes.delete(id);
    this.#ips.delete(id);
    this.#known.delete(id);
  }

  async #sandboxState(id: string): Promise<string | undefined> {
    const { status } = await this.#call<{ status?: CriSandbox }>('PodSandboxStatus', {
      podSandboxId: id,
    }).catch((e: unknown) => {
      if (isNotFound(e)) return { status: undefined };
      throw e;
    });
    return status?.state;
  }

  async #kept(sandboxId: string): Promise<KeptSandbox> {
    const known = this.#sandboxes.get(sandboxId);
    if (known) return known;
    const { items } = await this.#call<{ items: CriSandbox[] }>('ListPodSandbox', {
      filter: { id: sandboxId },
    });
    const text = items[0]?.annotations[SANDBOX_ANNOTATION];
    if (!text) throw new Error(`there is no sandbox ${sandboxId} of this agent`);
    const kept = JSON.parse(text) as KeptSandbox;
    this.#sandboxes.set(sandboxId, kept);
    return kept;
  }

  // --- containers

  async createContainer(sandboxId: string, spec: ContainerSpec): Promise<string> {
    return this.#doing('CreateContainerError', `create container ${spec.name}`, async () => {
      const kept = await this.#kept(sandboxId);
      await mkdir(dirname(join(kept.logDirectory, spec.logPath)), { recursive: true });
      // A group alone is refused by runtimes: it goes with the image's user.
      const imageUser =
        spec.security?.runAsGroup !== undefined && spec.security.runAsUser === undefined
          ? await this.#imageUser(spec.imageRef)
          : {};
      const request = {
        podSandboxId: sandboxId,
        config: containerConfig(spec, kept, { owner: this.#owner, cgroup2: this.#cgroup2, imageUser }),
        sandboxConfig: this.#sandboxConfig(kept),
      };
      const create = async () =>
        (await this.#call<{ containerId: string }>('CreateContainer', request, TIMEOUT.call)).containerId;
      const id = await create().catch(async (e: unknown) => {
        const left = /reserved for "?([0-9a-f]{64})/.exec((e as Error).message)?.[1];
        if (!left) throw e;
        await this.removeContainer(left);
        return create();
      });
      this.#known.set(id, 'container');
      return id;
    });
  }

  async #imageUser(ref: string): Promise<{ uid?: number; username?: string }> {
    const { uid, username } = (await this.imageStatus(ref)) ?? {};
    if (username) return { username };
    return { uid: uid ?? 0 };
  }

  async startContainer(id: string): Promise<void> {
    // Without the id: the message becomes an event, and events of one wording are counted instead of piled up.
    await this.#doing('RunContainerError', 'start container', async () => {
      try {
        await this.#call('StartContainer', { containerId: id }, TIMEOUT.call);
      } catch (e) {
        // Starting what was started succeeds.
        const status = await this.#status(id).catch(() => undefined);
        if (!status || status.state === 'CONTAINER_CREATED' || status.startedAt === 0) throw e;
        if (status.reason === 'StartError' || status.reason === 'ContainerCannotRun') throw e;
      }
    });
  }

  async stopContainer(id: string, graceSeconds: number): Promise<void> {
    const timeout = Math.ceil(graceSeconds);
    await this.#doing('RunContainerError', `stop container ${id.slice(0, 13)}`, () =>
      this.#ending('StopContainer', { containerId: id, timeout }, timeout * 1000 + TIMEOUT.stopExtra),
    );
  }

  async removeContainer(id: string): Promise<void> {
    await this.#doing('RunContainerError', `remove container ${id.slice(0, 13)}`, () =>
      this.#ending('RemoveContainer', { containerId: id }, TIMEOUT.call),
    );
    this.#details.delete(id);
    this.#known.delete(id);
  }

  async updateContainer(id: string, resources: Resources): Promise<void> {
    await this.#doing('RunContainerError', `resize container ${id.slice(0, 13)}`, () =>
      this.#call('UpdateContainerResources', {
        containerId: id,
        linux: linuxResources(resources, this.#cgroup2),
      }),
    );
  }

  async #status(id: string): Promise<CriContainerStatus | undefined> {
    try {
      return (await this.#call<{ status?: CriContainerStatus }>('ContainerStatus', { containerId: id }))
        .status;
    } catch (e) {
      if (isNotFound(e)) return undefined;
      throw e;
    }
  }

  // --- the whole

  #labels = () => ({ [OWNER_LABEL]: this.#owner });
  #listSandboxes = async () =>
    (
      await this.#call<{ items: CriSandbox[] }>('ListPodSandbox', {
        filter: { labelSelector: this.#labels() },
      })
    ).items;
  #listContainers = async () =>
    (
      await this.#call<{ containers: CriContainer[] }>('ListContainers', {
        filter: { labelSelector: this.#labels() },
      })
    ).containers;

  /** Two calls while nothing changes: details and addresses are asked for once per state. */
  async list(): Promise<{ sandboxes: SandboxStatus[]; containers: ContainerStatus[] }> {
    return this.#doing('RuntimeUnavailable', 'list pods', async () => {
      const before = [...this.#known.keys()];
      const [criSandboxes, criContainers] = await Promise.all([
        this.#listSandboxes(),
        this.#listContainers(),
      ]);
      const [sandboxes, containers] = await Promise.all([
        Promise.all(criSandboxes.map((s) => this.#sandboxOf(s))),
        Promise.all(criContainers.map((c) => this.#containerOf(c))),
      ]);
      const present = new Set([...criSandboxes, ...criContainers].map((x) => x.id));
      for (const map of [this.#details, this.#ips, this.#sandboxes])
        for (const id of map.keys()) if (!present.has(id)) map.delete(id);
      // What was made while the runtime listed is not forgotten.
      for (const id of before) if (!present.has(id)) this.#known.delete(id);
      for (const s of criSandboxes) this.#known.set(s.id, 'sandbox');
      for (const c of criContainers) this.#known.set(c.id, 'container');
      return {
        sandboxes,
        containers: containers.filter((c) => c !== undefined),
      };
    });
  }

  async #sandboxOf(s: CriSandbox): Promise<SandboxStatus> {
    const ready = s.state === 'SANDBOX_READY';
    return {
      id: s.id,
      namespace: s.metadata?.namespace ?? '',
      name: s.metadata?.name ?? '',
      uid: s.metadata?.uid ?? '',
      attempt: s.metadata?.attempt ?? 0,
      state: ready ? 'ready' : 'notReady',
      createdAt: millis(s.createdAt),
      ips: ready ? await this.#ipsOf(s.id) : [],
      labels: without(s.labels, OWNER_LABEL),
      annotations: without(s.annotations, SANDBOX_ANNOTATION),
    };
  }

  async #ipsOf(id: string): Promise<string[]> {
    const known = this.#ips.get(id);
    if (known) return known;
    try {
      const { status } = await this.#call<{
        status?: { network?: { ip: string; additionalIps: { ip: string }[] } };
      }>('PodSandboxStatus', { podSandboxId: id });
      const net = status?.network;
      const ips = [net?.ip ?? '', ...(net?.additionalIps.map((a) => a.ip) ?? [])].filter((ip) => ip !== '');
      this.#ips.set(id, ips);
      return ips;
    } catch (e) {
      if (isNotFound(e)) return [];
      throw e;
    }
  }

  /** Undefined when it was removed meanwhile. */
  async #containerOf(c: CriContainer): Promise<ContainerStatus | undefined> {
    let d = this.#details.get(c.id);
    if (d?.state !== c.state) {
      d = await this.#status(c.id);
      if (!d) return undefined;
      this.#details.set(c.id, d);
    }
    const spec = parseSpec(c.annotations[CONTAINER_ANNOTATION]);
    return {
      id: c.id,
      sandboxId: c.podSandboxId,
      name: c.metadata?.name ?? '',
      attempt: c.metadata?.attempt ?? 0,
      state: STATES[d.state] ?? 'unknown',
      createdAt: millis(d.createdAt),
      startedAt: millis(d.startedAt),
      finishedAt: millis(d.finishedAt),
      exitCode: d.exitCode,
      reason: d.reason,
      message: d.message,
      image: spec.image ?? this.#shown(c.image?.image ?? ''),
      imageRef: spec.imageRef ?? c.imageRef,
      labels: without(c.labels, OWNER_LABEL),
      annotations: without(c.annotations, CONTAINER_ANNOTATION),
    };
  }

  async stats(): Promise<ContainerStats[]> {
    return this.#doing('RuntimeUnavailable', 'read container stats', async () => {
      const { stats } = await this.#call<{
        stats: {
          attributes?: { id: string };
          cpu?: { usageCoreNanoSeconds?: { value: number } };
          memory?: { workingSetBytes?: { value: number } };
        }[];
      }>('ListContainerStats', { filter: { labelSelector: this.#labels() } });
      return stats.map((s) => ({
        containerId: s.attributes?.id ?? '',
        cpuNanos: s.cpu?.usageCoreNanoSeconds?.value ?? 0,
        memoryBytes: s.memory?.workingSetBytes?.value ?? 0,
      }));
    });
  }

  async reopenLog(id: string): Promise<void> {
    await this.#doing('RunContainerError', `reopen the log of container ${id.slice(0, 13)}`, async () => {
      try {
        await this.#call('ReopenContainerLog', { containerId: id });
      } catch (e) {
        // What has ended writes no more.
        if ((await this.#status(id).catch(() => undefined))?.state === 'CONTAINER_RUNNING') throw e;
      }
    });
  }

  async exec(id: string, command: string[], streams: ProcessStreams): Promise<number> {
    const url = await this.#streamingUrl('Exec', { containerId: id, cmd: command, ...asked(streams) });
    return runProcess(url, streams);
  }

  async attach(id: string, streams: ProcessStreams): Promise<void> {
    await runProcess(await this.#streamingUrl('Attach', { containerId: id, ...asked(streams) }), streams);
  }

  async portForward(sandboxId: string, port: number, signal: AbortSignal): Promise<Duplex> {
    const url = await this.#streamingUrl('PortForward', { podSandboxId: sandboxId, port: [port] });
    return forwardPort(url, port, signal);
  }

  async #streamingUrl(method: 'Exec' | 'Attach' | 'PortForward', request: object): Promise<string> {
    const { url } = await this.#doing('RunContainerError', `ask the container runtime for ${method}`, () =>
      this.#call<{ url: string }>(method, request),
    );
    return url;
  }

  /** `timeoutMs` is rounded up to seconds. Rejects with RunContainerError when the command could not be run, ExecTimeout when it took too long. */
  async execSync(
    id: string,
    command: string[],
    timeoutMs: number,
  ): Promise<{ exitCode: number; stdout: Uint8Array; stderr: Uint8Array }> {
    const timeout = Math.max(1, Math.ceil(timeoutMs / 1000));
    return this.#doing(
      'RunContainerError',
      `run ${JSON.stringify(command)} in container ${id.slice(0, 13)}`,
      async () => {
        try {
          return await this.#call(
            'ExecSync',
            { containerId: id, cmd: command, timeout },
            timeout * 1000 + TIMEOUT.call,
          );
        } catch (e) {
          if (!(e instanceof GrpcError) || e.code !== GRPC.DEADLINE_EXCEEDED) throw e;
          const text = `command timed out: ${JSON.stringify(command.join(' '))} timed out after ${timeout}s`;
          throw new ShimError('ExecTimeout', text, { cause: e });
        }
      },
    );
  }
}

const asked = ({ stdin, stdout, stderr, tty }: ProcessStreams) => ({
  stdin: stdin !== undefined,
  stdout: stdout !== undefined,
  stderr: stderr !== undefined,
  tty,
});

function unlessAbsent(e: unknown): void {
  if (!isNotFound(e)) throw e;
}

function without(map: Record<string, string>, key: string): Record<string, string> {
  const { [key]: _, ...rest } = map;
  return rest;
}

function parseSpec(text: string | undefined): { image?: string; imageRef?: string } {
  try {
    return text ? (JSON.parse(text) as { image: string; imageRef: string }) : {};
  } catch {
    return {};
  }
}

/** On a Pi the kernel leaves the memory cgroup off unless told otherwise. https://docs.kernel.org/admin-guide/cgroup-v1/ */
function memoryCgroup(): ShimHealth['conditions'][number] | undefined {
  try {
    const controllers = existsSync('/sys/fs/cgroup/cgroup.controllers')
      ? readFileSync('/sys/fs/cgroup/cgroup.controllers', 'utf8').split(/\s+/).includes('memory')
      : /^memory\s+\d+\s+\d+\s+1$/m.test(readFileSync('/proc/cgroups', 'utf8'));
    if (controllers) return undefined;
  } catch {
    return undefined;
  }
  return {
    type: 'ContainerMemoryLimits',
    status: 'False',
    reason: 'MemoryCgroupDisabled',
    message:
      'containers with a memory limit cannot run: add `cgroup_enable=memory cgroup_memory=1` to the kernel command line (on a Pi: /boot/firmware/cmdline.txt) and reboot',
  };
}
