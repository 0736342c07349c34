/** From the shim's specs to the CRI's messages. Pure. */
import type { ContainerSpec, Resources, SandboxSpec, SecuritySettings } from '../shim.js';

/** Marks what is ours on a runtime that others use as well; the value is the agent's name there. */
export const OWNER_LABEL = 'coxswain.dev/agent';
/** Holds on the sandbox what its later containers need, so that an adopting agent has it too. */
export const SANDBOX_ANNOTATION = 'coxswain.dev/cri-sandbox';
/** Holds on the container the image as the pod names it, and what it resolved to. */
export const CONTAINER_ANNOTATION = 'coxswain.dev/cri-container';

/** What the pod-level settings mean for one container, and what CreateContainer wants repeated. */
export type KeptSandbox = Omit<SandboxSpec, 'labels' | 'annotations'>;

/** Paths that an unprivileged container must not see or not change: Kubernetes' `procMount: Default`. */
const MASKED_PATHS = [
  '/proc/asound',
  '/proc/acpi',
  '/proc/kcore',
  '/proc/keys',
  '/proc/latency_stats',
  '/proc/timer_list',
  '/proc/timer_stats',
  '/proc/sched_debug',
  '/proc/scsi',
  '/sys/firmware',
  '/sys/devices/virtual/powercap',
];
const READONLY_PATHS = ['/proc/bus', '/proc/fs', '/proc/irq', '/proc/sys', '/proc/sysrq-trigger'];

const PROPAGATION = {
  None: 'PROPAGATION_PRIVATE',
  HostToContainer: 'PROPAGATION_HOST_TO_CONTAINER',
  Bidirectional: 'PROPAGATION_BIDIRECTIONAL',
} as const;

/** CFS period in microseconds: the kernel's and Kubernetes' default. */
const CPU_PERIOD = 100_000;
/** The kernel's smallest quota. */
const MIN_QUOTA = 1_000;

function namespaces(s: KeptSandbox) {
  return {
    network: s.hostNetwork ? 'NODE' : 'POD',
    pid: s.hostPID ? 'NODE' : s.sharePID ? 'POD' : 'CONTAINER',
    ipc: s.hostIPC ? 'NODE' : 'POD',
  };
}

function seccomp(p: SecuritySettings['seccompProfile']) {
  // Kubernetes' default for a pod that says nothing is Unconfined.
  return { profileType: p?.type ?? 'Unconfined', localhostRef: p?.localhostProfile ?? '' };
}

/** Kubernetes' conversion of millicores: shares of 1024 per core, quota per 100 ms; `unified` is for cgroup v2 only. */
export function linuxResources(r: Resources, cgroup2: boolean) {
  const request = r.cpuRequestMilli || r.cpuLimitMilli || 0;
  return {
    cpuShares: Math.min(Math.max(Math.floor((request * 1024) / 1000), 2), 262_144),
    ...(r.cpuLimitMilli
      ? {
          cpuPeriod: CPU_PERIOD,
          cpuQuota: Math.max(Math.floor((r.cpuLimitMilli * CPU_PERIOD) / 1000), MIN_QUOTA),
        }
      : {}),
    memoryLimitInBytes: r.memoryLimitBytes ?? 0,
    oomScoreAdj: r.oomScoreAdj ?? 0,
    ...(cgroup2 && r.pidsLimit ? { unified: { 'pids.max': String(r.pidsLimit) } } : {}),
  };
}

/** `cgroupParent`: cgroupfs path below which runtimes put the pod; empty: their own default. */
export function sandboxConfig(
  s: KeptSandbox & Partial<Pick<SandboxSpec, 'labels' | 'annotations'>>,
  options: { owner: string; cgroupParent?: string; cgroup2: boolean },
) {
  const { labels, annotations, ...kept } = s;
  return {
    metadata: { name: s.name, uid: s.uid, namespace: s.namespace, attempt: s.attempt },
    // The node's UTS namespace is not the pod's to rename.
    hostname: s.hostNetwork ? '' : s.hostname,
    logDirectory: s.logDirectory,
    ...(s.dns ? { dnsConfig: s.dns } : {}),
    portMappings: s.hostNetwork
      ? []
      : s.portMappings
          .filter((p) => p.hostPort > 0)
          .map((p) => ({
            protocol: p.protocol,
            containerPort: p.containerPort,
            hostPort: p.hostPort,
            hostIp: p.hostIP,
          })),
    labels: { ...labels, [OWNER_LABEL]: options.owner },
    annotations: { ...annotations, [SANDBOX_ANNOTATION]: JSON.stringify(kept) },
    linux: {
      cgroupParent: options.cgroupParent ?? '',
      securityContext: {
        namespaceOptions: namespaces(s),
        privileged: s.privileged ?? false,
        seccomp: seccomp({ type: 'RuntimeDefault' }),
      },
      sysctls: s.sysctls ?? {},
      ...(s.resources ? { resources: linuxResources(s.resources, options.cgroup2) } : {}),
    },
  };
}

const capability = (name: string) => name.toUpperCase().replace(/^CAP_/, '');

/** `imageUser`: the image's own user, needed where only a group is given. */
export function containerConfig(
  c: ContainerSpec,
  sandbox: KeptSandbox,
  options: { owner: string; cgroup2: boolean; imageUser?: { uid?: number; username?: string } },
) {
  const s = c.security ?? {};
  const privileged = s.privileged ?? false;
  const uid = s.runAsUser ?? options.imageUser?.uid;
  return {
    metadata: { name: c.name, attempt: c.attempt },
    image: { image: c.imageRef, userSpecifiedImage: c.image },
    command: c.command ?? [],
    args: c.args ?? [],
    workingDir: c.workingDir ?? '',
    envs: c.env.map((e) => ({ key: e.name, value: e.value })),
    mounts: c.mounts.map((m) => ({
      containerPath: m.containerPath,
      hostPath: m.hostPath,
      readonly: m.readOnly,
      propagation: PROPAGATION[m.propagation ?? 'None'],
    })),
    devices: (c.devices ?? []).map((d) => ({ ...d })),
    labels: { ...c.labels, [OWNER_LABEL]: options.owner },
    annotations: {
      ...c.annotations,
      [CONTAINER_ANNOTATION]: JSON.stringify({ image: c.image, imageRef: c.imageRef }),
    },
    logPath: c.logPath,
    stdin: c.stdin ?? false,
    stdinOnce: c.stdinOnce ?? false,
    tty: c.tty ?? false,
    linux: {
      resources: linuxResources(c.resources, options.cgroup2),
      securityContext: {
        capabilities: {
          addCapabilities: (s.addCapabilities ?? []).map(capability),
          dropCapabilities: (s.dropCapabilities ?? []).map(capability),
        },
        privileged,
        namespaceOptions: {
          ...namespaces(sandbox),
          ...(c.targetId === undefined ? {} : { pid: 'TARGET', targetId: c.targetId }),
        },
        ...(uid !== undefined ? { runAsUser: { value: uid } } : {}),
        ...(uid === undefined && options.imageUser?.username
          ? { runAsUsername: options.imageUser.username }
          : {}),
        ...(s.runAsGroup !== undefined ? { runAsGroup: { value: s.runAsGroup } } : {}),
        supplementalGroups: s.supplementalGroups ?? [],
        readonlyRootfs: s.readOnlyRootFilesystem ?? false,
        noNewPrivs: s.allowPrivilegeEscalation === false && !privileged,
        ...(privileged || s.unmaskedProc ? {} : { maskedPaths: MASKED_PATHS, readonlyPaths: READONLY_PATHS }),
        seccomp: seccomp(privileged ? { type: 'Unconfined' } : s.seccompProfile),
      },
    },
  };
}
