/**
 * The one interface behind which workloads run. It follows the CRI's split (sandbox, container, image) because that is
 * what every runtime of this field understands; `conformance.ts` is the suite that each implementation passes.
 *
 * Rules that every shim keeps:
 * - Workloads outlive the agent. `stop()` detaches; it never ends a workload. After a restart `list()` tells all,
 *   exit codes of the time between included.
 * - Every call is idempotent: starting what runs, stopping what stopped and removing what is absent succeed.
 * - Ids are the shim's own, stable across restarts. `labels` and `annotations` come back from `list()` as they were given.
 * - Logs are files in the CRI log format (`<RFC3339Nano> stdout|stderr F|P <content>`) at `SandboxSpec.logDirectory` +
 *   `ContainerSpec.logPath`, written without the agent's help.
 * - A failure names the thing and the remedy, as a ShimError whose `reason` is the word a kubelet would put into
 *   `state.waiting.reason`.
 */

import type { Duplex, Readable, Writable } from 'node:stream';

export interface SandboxSpec {
  namespace: string;
  name: string;
  uid: string;
  /** How often this pod's sandbox was made anew, from 0. */
  attempt: number;
  /** Which of the shim's runtimes; absent: its default. */
  runtimeHandler?: string;
  hostname: string;
  hostNetwork: boolean;
  hostPID?: boolean;
  hostIPC?: boolean;
  /** Kubernetes' shareProcessNamespace: one PID namespace for all containers of the pod. */
  sharePID?: boolean;
  /** Some container of the pod is privileged: runtimes refuse it in a sandbox that was not announced so. */
  privileged?: boolean;
  dns?: { servers: string[]; searches: string[]; options: string[] };
  portMappings: {
    protocol: 'TCP' | 'UDP' | 'SCTP';
    containerPort: number;
    hostPort: number;
    hostIP: string;
  }[];
  sysctls?: Record<string, string>;
  /** Sum of the pod's resources, for runtimes that make a pod-level cgroup. */
  resources?: Resources;
  logDirectory: string;
  labels: Record<string, string>;
  annotations: Record<string, string>;
  /** Wasm: let the guest open outbound connections. */
  allowNetwork?: boolean;
}

export interface Resources {
  /** CPU request in millicores (cgroup weight). */
  cpuRequestMilli?: number;
  /** CPU limit in millicores (quota). */
  cpuLimitMilli?: number;
  /** Memory limit in bytes. */
  memoryLimitBytes?: number;
  memoryRequestBytes?: number;
  pidsLimit?: number;
  oomScoreAdj?: number;
}

export interface Mount {
  hostPath: string;
  containerPath: string;
  readOnly: boolean;
  propagation?: 'None' | 'HostToContainer' | 'Bidirectional';
}

export interface Device {
  hostPath: string;
  containerPath: string;
  permissions: string;
}

/** What Kubernetes' SecurityContext says, already merged from pod and container. */
export interface SecuritySettings {
  privileged?: boolean;
  runAsUser?: number;
  runAsGroup?: number;
  supplementalGroups?: number[];
  readOnlyRootFilesystem?: boolean;
  addCapabilities?: string[];
  dropCapabilities?: string[];
  allowPrivilegeEscalation?: boolean;
  /** Kubernetes' `procMount: Unmasked`: nothing of /proc is hidden or read-only. */
  unmaskedProc?: boolean;
  seccompProfile?: { type: 'RuntimeDefault' | 'Unconfined' | 'Localhost'; localhostProfile?: string };
}

export interface ContainerSpec {
  name: string;
  /** Restart count; part of the log path and of the container's identity. */
  attempt: number;
  /** As resolved by `pullImage`/`imageStatus`: what to run. */
  imageRef: string;
  /** As the pod's spec names it. */
  image: string;
  /** Replaces the image's entrypoint when set (Kubernetes' `command`). */
  command?: string[];
  /** Replaces the image's cmd when set (Kubernetes' `args`). */
  args?: string[];
  workingDir?: string;
  env: { name: string; value: string }[];
  mounts: Mount[];
  devices?: Device[];
  resources: Resources;
  security?: SecuritySettings;
  stdin?: boolean;
  stdinOnce?: boolean;
  tty?: boolean;
  /** A container of the same sandbox whose PID namespace it shares (`targetContainerName`), by id. */
  targetId?: string;
  /** Relative to the sandbox's `logDirectory`, e.g. `app/0.log`. */
  logPath: string;
  /** A file on the host, mounted at the container's terminationMessagePath by the agent through `mounts`. */
  labels: Record<string, string>;
  annotations: Record<string, string>;
}

export interface SandboxStatus {
  id: string;
  namespace: string;
  name: string;
  uid: string;
  attempt: number;
  state: 'ready' | 'notReady';
  /** Unix milliseconds. */
  createdAt: number;
  /** Pod IPs; empty when the sandbox has none of its own. */
  ips: string[];
  labels: Record<string, string>;
  annotations: Record<string, string>;
}

export interface ContainerStatus {
  id: string;
  sandboxId: string;
  name: string;
  attempt: number;
  state: 'created' | 'running' | 'exited' | 'unknown';
  createdAt: number;
  /** Unix milliseconds; 0 when not yet. */
  startedAt: number;
  finishedAt: number;
  /** 128 + signal for a killed one, as runtimes report it. */
  exitCode: number;
  /** `Completed`, `Error`, `OOMKilled`, `ContainerCannotRun` … */
  reason: string;
  message: string;
  image: string;
  imageRef: string;
  labels: Record<string, string>;
  annotations: Record<string, string>;
}

export interface ImageAuth {
  username: string;
  password: string;
}

export interface ImageStatus {
  /** What `ContainerSpec.imageRef` takes. */
  ref: string;
  /** Repo digests, e.g. `docker.io/library/busybox@sha256:…`: shown as the container's imageID. */
  repoDigests: string[];
  /** Names with tags, in full form, e.g. `docker.io/library/busybox:1.36`. */
  repoTags?: string[];
  sizeBytes: number;
  /** The image's numeric user, or undefined with a name or nothing (runAsNonRoot checks). */
  uid?: number;
  username?: string;
}

/** Whether the shim can run pods here, and how well it contains them. */
export interface ShimHealth {
  ready: boolean;
  /** Why not, or how; with the remedy. */
  message: string;
  /** e.g. `containerd 1.6.20`, `v8 11.3`: for `nodeInfo.containerRuntimeVersion`, as `name://version`. */
  runtimeVersion: string;
  /** Node conditions of its own, e.g. `{ type: 'WasmSandboxed', status: 'False', reason, message }`. */
  conditions: { type: string; status: 'True' | 'False'; reason: string; message: string }[];
  /** Node labels of its own. `coxswain.dev/runtime.<handler>` is the agent's business. */
  labels: Record<string, string>;
  /** Has pod network of its own (a pod without hostNetwork gets an IP). */
  podNetwork: boolean;
}

export type ShimErrorReason =
  | 'ErrImagePull'
  | 'ErrImageNeverPull'
  | 'InvalidImageName'
  | 'ImageInspectError'
  | 'RegistryUnavailable'
  | 'CreateContainerConfigError'
  | 'CreateContainerError'
  | 'RunContainerError'
  | 'CreatePodSandboxError'
  | 'RuntimeUnavailable'
  /** A command that did not end in its time (`execSync`). */
  | 'ExecTimeout'
  | 'Unsupported';

export class ShimError extends Error {
  constructor(
    readonly reason: ShimErrorReason,
    message: string,
    options?: { cause?: unknown },
  ) {
    super(message, options);
    this.name = 'ShimError';
  }
}

/** Something changed; the listener re-reads with `list()`. Carries a key, never the state. */
export type ShimEvent = { sandboxId?: string; containerId?: string };

export interface ContainerStats {
  containerId: string;
  /** Cumulative CPU time in nanoseconds. */
  cpuNanos: number;
  /** Working set in bytes. */
  memoryBytes: number;
}

/** What somebody who runs a command, or attaches to a container, has of its streams. All of it ends with `signal`. */
export interface ProcessStreams {
  /** Absent: it is given no input. */
  stdin?: Readable;
  stdout?: Writable;
  /** Absent as well where there is a terminal. */
  stderr?: Writable;
  /** The process has a terminal (of an attach: as the container was made). */
  tty: boolean;
  /** Calls back at each size of the terminal, in characters; at once if one is known. */
  onResize(listener: (size: { width: number; height: number }) => void): void;
  /** Whoever asked has gone: a command is ended, a container goes on. */
  signal: AbortSignal;
}

export interface Shim {
  /** The RuntimeClass handler, e.g. `oci`, `wasm`, `fake`. */
  readonly handler: string;
  /** Connects and recovers bookkeeping. Rejects only when it can never work here; otherwise `health()` tells. */
  start(): Promise<void>;
  /** Detaches. Workloads go on. */
  stop(): Promise<void>;
  health(): Promise<ShimHealth>;
  /** Subscribes; returns the unsubscriber. A lost event is harmless: the agent also lists now and then. */
  onEvent(listener: (e: ShimEvent) => void): () => void;

  imageStatus(image: string): Promise<ImageStatus | undefined>;
  /** Rejects with ShimError ErrImagePull, InvalidImageName or RegistryUnavailable. */
  pullImage(image: string, auth?: ImageAuth, signal?: AbortSignal): Promise<ImageStatus>;
  listImages(): Promise<ImageStatus[]>;
  removeImage(ref: string): Promise<void>;

  runSandbox(spec: SandboxSpec): Promise<string>;
  createContainer(sandboxId: string, spec: ContainerSpec): Promise<string>;
  startContainer(containerId: string): Promise<void>;
  /** SIGTERM (or its like), then SIGKILL after `graceSeconds`; resolves when it has ended. 0 kills at once. */
  stopContainer(containerId: string, graceSeconds: number): Promise<void>;
  removeContainer(containerId: string): Promise<void>;
  /** Ends all of it at once and gives its network back. */
  stopSandbox(sandboxId: string): Promise<void>;
  removeSandbox(sandboxId: string): Promise<void>;

  /** All that this agent's pods have here, ended ones included until removed. Others' workloads are not listed. */
  list(): Promise<{ sandboxes: SandboxStatus[]; containers: ContainerStatus[] }>;
  stats(): Promise<ContainerStats[]>;
  /** Changes the resources of a running container in place; absent where the runtime cannot. */
  updateContainer?(containerId: string, resources: Resources): Promise<void>;
  /** After the agent renamed a log file away (rotation): open it anew. */
  reopenLog(containerId: string): Promise<void>;
  /**
   * Runs a command to its end inside the container (probes, hooks); absent where the runtime cannot. Rejects with
   * ExecTimeout when it took too long.
   */
  execSync?(
    containerId: string,
    command: string[],
    timeoutMs: number,
  ): Promise<{ exitCode: number; stdout: Uint8Array; stderr: Uint8Array }>;
  /**
   * Runs a command inside a running container; resolves with its exit code when it has ended and all that it wrote was
   * passed on. Absent where the runtime cannot. Rejects with ShimError when it cannot be run.
   */
  exec?(containerId: string, command: string[], streams: ProcessStreams): Promise<number>;
  /**
   * What a running container writes from now on, and its input. Resolves when it has ended. Absent where what it writes
   * is found in its log and nowhere else.
   */
  attach?(containerId: string, streams: ProcessStreams): Promise<void>;
  /** The input of a running container that was made with `stdin`; ending it is an end of input with `stdinOnce`. For shims without `attach`. */
  input?(containerId: string): Writable;
  /** A connection to a port of the sandbox, as its own processes reach it at localhost. Rejects with why there is none. */
  portForward?(sandboxId: string, port: number, signal: AbortSignal): Promise<Duplex>;
}
