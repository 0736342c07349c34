/** From a runtime's error texts to the kubelet's reasons, with the remedy where one is known. */
import { ShimError, type ShimErrorReason } from '../shim.js';
import { GRPC, GrpcError } from './grpc.js';

/** Texts of containerd, CRI-O, runc, the CNI plugins and the Go standard library, most telling first. */
const PULL_FAILURES: [RegExp, ShimErrorReason, string][] = [
  [/invalid reference format|could not parse reference/i, 'InvalidImageName', 'the name is malformed'],
  [
    /no space left on device|disk quota exceeded/i,
    'ErrImagePull',
    'the disk is full: free space where the runtime keeps its images (e.g. /var/lib/containerd)',
  ],
  [/read-only file system/i, 'ErrImagePull', "the runtime's image store is read-only"],
  [
    /no match for platform|no matching manifest|no image found in (?:manifest list|image index) for architecture/i,
    'ErrImagePull',
    `the image has no variant for this machine (linux/${process.arch})`,
  ],
  [
    /unauthorized|authorization failed|no basic auth credentials|access denied|insufficient_scope|\b401\b|\b403\b|denied:/i,
    'ErrImagePull',
    'the registry wants other credentials (imagePullSecrets), or the repository does not exist',
  ],
  [
    /no such host|server misbehaving|temporary failure in name resolution/i,
    'RegistryUnavailable',
    "the registry's name does not resolve",
  ],
  [/server gave HTTP response to HTTPS client/i, 'RegistryUnavailable', 'the registry speaks plain HTTP'],
  [/x509:|tls: /i, 'RegistryUnavailable', "the registry's certificate is not trusted"],
  [
    /connection refused|connection reset|i\/o timeout|no route to host|network is unreachable|TLS handshake timeout|Client\.Timeout|unexpected EOF|\b50[0234]\b/i,
    'RegistryUnavailable',
    'the registry cannot be reached',
  ],
  [/not found|manifest unknown|name unknown/i, 'ErrImagePull', 'there is no such image or tag'],
];

const RUN_REMEDIES: [RegExp, string][] = [
  [
    /cni plugin not initialized|no network config found/i,
    'the machine has no pod network: put a CNI configuration into /etc/cni/net.d, or use hostNetwork',
  ],
  [
    /failed to find plugin "?[\w-]+"? in path/i,
    'install the CNI plugins (apt-get install containernetworking-plugins)',
  ],
  [
    /iptables.*(?:executable file not found|not found in \$PATH)/i,
    'install iptables (apt-get install iptables)',
  ],
  [
    /memory\.limit_in_bytes|memory\.max|cgroup controller "?memory|mountpoint for memory/i,
    "the kernel's memory cgroup is off: add `cgroup_enable=memory cgroup_memory=1` to the kernel command line (on a Pi: /boot/firmware/cmdline.txt) and reboot",
  ],
  [
    /can't get final child's PID from pipe/i,
    'runc could not set up the process; inside a container or VM without CAP_SYS_RESOURCE, set restrict_oom_score_adj = true for the CRI plugin of containerd',
  ],
  [/exec format error/i, `the program is for another architecture than this machine's (${process.arch})`],
  [/no space left on device/i, 'the disk is full'],
  [/address already in use/i, 'another program or pod has this host port'],
];

const text = (e: unknown): string => (e instanceof Error ? e.message : String(e));

export const isNotFound = (e: unknown): boolean =>
  e instanceof GrpcError &&
  (e.code === GRPC.NOT_FOUND ||
    // containerd 1.x wraps some of these as Unknown; CRI-O as well.
    (e.code === GRPC.UNKNOWN && /not found|does not exist|could not find/i.test(e.message)));

/** containerd lost its shim of a container in mid-call, because the container ended just then. Asking again finds it ended. */
export const isLostShim = (e: unknown): boolean =>
  e instanceof GrpcError && e.code === GRPC.UNKNOWN && /ttrpc: (server )?closed/i.test(e.message);

const isUnreachable = (e: unknown): e is GrpcError => e instanceof GrpcError && e.code === GRPC.UNAVAILABLE;

/** For everything but pulls: `doing` names what failed, e.g. `create container app`. */
export function runError(reason: ShimErrorReason, doing: string, e: unknown, endpoint: string): ShimError {
  if (e instanceof ShimError) return e;
  if (isUnreachable(e)) return new ShimError('RuntimeUnavailable', unreachable(e, endpoint), { cause: e });
  const remedy = RUN_REMEDIES.find(([pattern]) => pattern.test(text(e)))?.[1];
  return new ShimError(reason, `failed to ${doing}: ${text(e)}${remedy ? ` (${remedy})` : ''}`, {
    cause: e,
  });
}

/** `image` as the user wrote it; `shown` undoes names that the user never saw. */
export function pullError(
  image: string,
  e: unknown,
  endpoint: string,
  shown: (message: string) => string,
): ShimError {
  if (e instanceof ShimError) return e;
  if (isUnreachable(e)) return new ShimError('RuntimeUnavailable', unreachable(e, endpoint), { cause: e });
  const message = shown(text(e));
  const [, reason, why] = PULL_FAILURES.find(([pattern]) => pattern.test(message)) ?? [
    undefined,
    'ErrImagePull' as const,
    '',
  ];
  return new ShimError(reason, `Failed to pull image "${image}": ${why ? `${why}: ` : ''}${message}`, {
    cause: e,
  });
}

/** Why nothing answers at the socket, and what to do about it. */
export function unreachable(e: GrpcError, endpoint: string): string {
  if (/ENOENT/.test(e.message))
    return `no container runtime at ${endpoint}: install one (apt-get install containerd containernetworking-plugins), or name its socket with --runtime-endpoint`;
  if (/ECONNREFUSED/.test(e.message))
    return `the container runtime at ${endpoint} is not running: systemctl start containerd`;
  if (/EACCES|EPERM/.test(e.message))
    return `no permission to use the container runtime at ${endpoint}: run the agent as root`;
  return `the container runtime at ${endpoint} cannot be reached: ${e.message}`;
}
