/** What a pod is called, and what its /etc/hosts says (the kubelet's GeneratePodHostNameAndDomain and managedHostsFileContent). Pure. */
import type { Pod } from 'kubernetes-types/core/v1.js';
import { ConfigError } from './env.js';

/** The kernel's limits for a host name with its domain, and a label of DNS. */
const FQDN_MAX = 64;
const LABEL_MAX = 63;
const CLUSTER_DOMAIN = 'cluster.local';

/** The pod's own name, and with its domain where `subdomain` gives it one. Throws ConfigError when that is too long to be a host's name and has to be. */
export function hostnameOf(pod: Pod): { hostname: string; fqdn: string | undefined } {
  const { metadata = {}, spec } = pod;
  const { hostnameOverride } = (spec ?? {}) as { hostnameOverride?: string };
  if (hostnameOverride) return { hostname: hostnameOverride, fqdn: undefined };
  const short = spec?.hostname || (metadata.name ?? '').slice(0, LABEL_MAX).replace(/[-.]+$/, '');
  const fqdn = spec?.subdomain
    ? `${short}.${spec.subdomain}.${metadata.namespace ?? 'default'}.svc.${CLUSTER_DOMAIN}`
    : undefined;
  if (!fqdn || !spec?.setHostnameAsFQDN) return { hostname: short, fqdn };
  if (fqdn.length > FQDN_MAX)
    throw new ConfigError(
      `failed to construct FQDN from pod hostname and cluster domain, FQDN ${fqdn} is too long (${FQDN_MAX} characters is the max, ${fqdn.length} characters requested)`,
    );
  return { hostname: fqdn, fqdn };
}

/** `hostFile`: the host's own, for a pod in its network. */
export function hostsFile(pod: Pod, podIPs: readonly string[], hostFile: string | undefined): string {
  const { hostname, fqdn } = hostnameOf(pod);
  const names = fqdn && fqdn !== hostname ? `${fqdn}\t${hostname}` : hostname;
  const lines =
    hostFile === undefined
      ? [
          '# Kubernetes-managed hosts file.',
          '127.0.0.1\tlocalhost',
          '::1\tlocalhost ip6-localhost ip6-loopback',
          'fe00::0\tip6-localnet',
          'fe00::0\tip6-mcastprefix',
          'fe00::1\tip6-allnodes',
          'fe00::2\tip6-allrouters',
          ...podIPs.map((ip) => `${ip}\t${names}`),
        ]
      : ['# Kubernetes-managed hosts file (host network).', hostFile.trimEnd()];
  const aliases = pod.spec?.hostAliases ?? [];
  if (aliases.length > 0) lines.push('', '# Entries added by HostAliases.');
  for (const a of aliases) lines.push(`${a.ip}\t${(a.hostnames ?? []).join('\t')}`);
  return `${lines.join('\n')}\n`;
}
