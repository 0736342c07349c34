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
