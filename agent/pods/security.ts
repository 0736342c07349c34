/** The security context that a container gets: its own over the pod's. Pure. */
import type { Container, Pod } from 'kubernetes-types/core/v1.js';
import type { ImageStatus, SecuritySettings } from '../../shims/shim.js';
import { ConfigError } from './env.js';
import { definedOnly } from './resources.js';

const SECCOMP = new Set(['RuntimeDefault', 'Unconfined', 'Localhost']);

/** Merges pod and container settings (pkg/securitycontext DetermineEffectiveSecurityContext). */
export function securitySettings(pod: Pod, c: Container): SecuritySettings {
  const p = pod.spec?.securityContext ?? {};
  const own = c.securityContext ?? {};
  const seccomp = own.seccompProfile ?? p.seccompProfile;
  const groups = [
    ...new Set([...(p.supplementalGroups ?? []), ...(p.fsGroup !== undefined ? [p.fsGroup] : [])]),
  ];
  return definedOnly({
    privileged: own.privileged,
    runAsUser: own.runAsUser ?? p.runAsUser,
    runAsGroup: own.runAsGroup ?? p.runAsGroup,
    supplementalGroups: groups.length > 0 ? groups : undefined,
    readOnlyRootFilesystem: own.readOnlyRootFilesystem,
    addCapabilities: own.capabilities?.add,
    dropCapabilities: own.capabilities?.drop,
    unmaskedProc: own.procMount === 'Unmasked' ? true : undefined,
    allowPrivilegeEscalation: own.allowPrivilegeEscalation,
    seccompProfile:
      seccomp && SECCOMP.has(seccomp.type) ? (seccomp as SecuritySettings['seccompProfile']) : undefined,
  });
}

/** Throws ConfigError, in the kubelet's words, when the pod asks for a user but root and cannot have it (verifyRunAsNonRoot). */
export function checkRunAsNonRoot(pod: Pod, c: Container, image: ImageStatus): void {
  const wanted = c.securityContext?.runAsNonRoot ?? pod.spec?.securityContext?.runAsNonRoot;
  if (!wanted) return;
  const { namespace, name, uid } = pod.metadata ?? {};
  const where = `(pod: "${name}_${namespace}(${uid})", container: ${c.name})`;
  const user = c.securityContext?.runAsUser ?? pod.spec?.securityContext?.runAsUser;
  if (user === 0) throw new ConfigError(`container's runAsUser breaks non-root policy ${where}`);
  if (user !== undefined) return;
  if (image.uid === 0 || (image.uid === undefined && !image.username))
    throw new ConfigError(`container has runAsNonRoot and image will run as root ${where}`);
  if (image.uid === undefined)
    throw new ConfigError(
      `container has runAsNonRoot and image has non-numeric user (${image.username}), cannot verify user is non-root ${where}`,
    );
}
