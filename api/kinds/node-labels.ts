/**
 * Labels that a node may give itself. Others steer workloads: a device in a thief's hands would draw pods and their
 * Secrets to itself. Kubernetes' NodeRestriction and its `kubelet/pkg/apis` have the same list.
 */
const OWN: ReadonlySet<string> = new Set([
  'kubernetes.io/hostname',
  'kubernetes.io/os',
  'kubernetes.io/arch',
  'beta.kubernetes.io/os',
  'beta.kubernetes.io/arch',
  'beta.kubernetes.io/instance-type',
  'node.kubernetes.io/instance-type',
  'topology.kubernetes.io/zone',
  'topology.kubernetes.io/region',
  'failure-domain.beta.kubernetes.io/zone',
  'failure-domain.beta.kubernetes.io/region',
]);
const OWN_DOMAINS = ['kubelet.kubernetes.io', 'node.kubernetes.io'];
const RESTRICTED = ['node-restriction.kubernetes.io'];
const KUBERNETES = ['kubernetes.io', 'k8s.io'];

const within = (prefix: string, domains: readonly string[]): boolean =>
  domains.some((d) => prefix === d || prefix.endsWith(`.${d}`));

/** Whether a node may set, change or remove this label of its own Node. */
export function isNodesOwnLabel(key: string): boolean {
  const prefix = key.includes('/') ? key.slice(0, key.indexOf('/')) : '';
  if (within(prefix, RESTRICTED)) return false;
  return !within(prefix, KUBERNETES) || OWN.has(key) || within(prefix, OWN_DOMAINS);
}
