/** Whether a node takes on a pod that was bound to it (the kubelet's admission, pkg/kubelet/lifecycle/predicate.go). Pure. */
import type { Pod } from 'kubernetes-types/core/v1.js';
import { podTotal } from '../../api/kinds/pod-resources.js';
import { milliQuantity, quantity } from '../../api/meta/quantity.js';
import { allContainers } from './resources.js';

export interface Rejection {
  /** As the pod's status says it: `OutOfcpu`, `NodePorts` … */
  reason: string;
  message: string;
}

interface HostPort {
  ip: string;
  protocol: string;
  port: number;
}

function hostPorts(pod: Pod): HostPort[] {
  const own = pod.spec?.hostNetwork === true;
  return allContainers(pod).flatMap((c) =>
    (c.ports ?? []).flatMap((p) => {
      const port = p.hostPort || (own ? p.containerPort : 0);
      return port ? [{ ip: p.hostIP || ANY[0]!, protocol: p.protocol ?? 'TCP', port }] : [];
    }),
  );
}

const ANY = ['0.0.0.0', '::'];

const collide = (a: HostPort, b: HostPort): boolean =>
  a.port === b.port &&
  a.protocol === b.protocol &&
  (a.ip === b.ip || ANY.includes(a.ip) || ANY.includes(b.ip));

/** What a pod may set, as it concerns nobody but the pod: name → the namespace in which it does not reach beyond it. */
const SYSCTLS: Readonly<Record<string, 'ipc' | 'net'>> = {
  'kernel.shm_rmid_forced': 'ipc',
  'net.ipv4.ip_local_port_range': 'net',
  'net.ipv4.tcp_syncookies': 'net',
  'net.ipv4.ping_group_range': 'net',
  'net.ipv4.ip_unprivileged_port_start': 'net',
  'net.ipv4.ip_local_reserved_ports': 'net',
  'net.ipv4.tcp_keepalive_time': 'net',
  'net.ipv4.tcp_fin_timeout': 'net',
  'net.ipv4.tcp_keepalive_intvl': 'net',
  'net.ipv4.tcp_keepalive_probes': 'net',
  'net.ipv4.tcp_rmem': 'net',
  'net.ipv4.tcp_wmem': 'net',
};

/** Why a pod's sysctls are not for it to set (pkg/kubelet/sysctl); undefined when they are. */
function forbiddenSysctl({ spec }: Pod): string | undefined {
  for (const { name } of spec?.securityContext?.sysctls ?? []) {
    const normal = name.replaceAll('/', '.');
    const namespace = Object.hasOwn(SYSCTLS, normal) ? SYSCTLS[normal] : undefined;
    if (!namespace) return `"${normal}" not allowlisted`;
    if (namespace === 'ipc' ? spec?.hostIPC : spec?.hostNetwork)
      return `"${normal}" not allowed with host ${namespace} enabled`;
  }
  return undefined;
}

/** CPU in millicores, everything else in its own unit. */
const amount = (name: string, text: string | undefined): number =>
  text === undefined ? 0 : name === 'cpu' ? milliQuantity(text) : quantity(text);

/**
 * The scheduler sees to all this for the pods that it places; a pod may be bound by somebody else, or from an old view
 * of the node. `forPods`: what they may ask for together; resources that it does not name are not the node's to
 * give. What labels and taints the node has is known to the hub only, which judges those.
 */
export function rejection(
  pod: Pod,
  others: readonly Pod[],
  forPods: Readonly<Record<string, string>> | undefined,
): Rejection | undefined {
  const insufficient = (name: string, requested: number, used: number, has: number): Rejection => ({
    reason: `OutOf${name}`,
    message: `Node didn't have enough resource: ${name}, requested: ${requested}, used: ${used}, capacity: ${has}`,
  });
  const sysctl = forbiddenSysctl(pod);
  if (sysctl) return { reason: 'SysctlForbidden', message: `forbidden sysctl: ${sysctl}` };
  const most = Number(forPods?.['pods'] ?? Number.POSITIVE_INFINITY);
  if (others.length + 1 > most) return insufficient('pods', 1, others.length, most);
  const asks = podTotal(pod.spec, 'requests', true);
  const theirs = others.map((o) => podTotal(o.spec, 'requests', true));
  for (const [name, text] of Object.entries(forPods ?? {})) {
    const wanted = amount(name, asks[name]);
    if (wanted === 0) continue;
    const used = theirs.reduce((n, asked) => n + amount(name, asked[name]), 0);
    const has = amount(name, text);
    if (wanted > has - used) return insufficient(name, wanted, used, has);
  }
  const ports = hostPorts(pod);
  if (ports.length && others.some((o) => hostPorts(o).some((a) => ports.some((b) => collide(a, b)))))
    return {
      reason: 'NodePorts',
      message: "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports",
    };
  return undefined;
}
